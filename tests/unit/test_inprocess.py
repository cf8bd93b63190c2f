"""Every plan that a test makes is held against its schema, however the test asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests import inprocess
from tests.workspace import Outcome, Workspace

NO_PLAN = '{"format": "smeta.plan/1"}'  # says that it is one


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize("out", [("--out", "p.json"), ("--out=p.json",)], ids="".join)
def test_the_file_of_a_plan_is_held(tmp_path: Path, out: tuple[str, ...], code: int) -> None:
    (tmp_path / "p.json").write_text(NO_PLAN)

    with pytest.raises(ValidationError):
        inprocess.held(Outcome(code, "", ""), tmp_path, ("plan", *out))


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_plan_on_stdout_is_held(tmp_path: Path, code: int) -> None:
    with pytest.raises(ValidationError):
        inprocess.held(Outcome(code, NO_PLAN, ""), tmp_path, ("plan",))


def test_a_file_that_no_plan_was_written_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(NO_PLAN)
    refused = Outcome(3, "", "")

    assert inprocess.held(refused, tmp_path, ("plan", "--out", "p.json")) == refused


def test_both_ways_to_run_a_command_hold_its_plans(
    offline: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = Draft202012Validator(False)  # noqa: FBT003 # the schema that nothing keeps to
    monkeypatch.setattr(inprocess, "_schemas", lambda: {"smeta.config/1": validator})

    for run in (offline.smeta, offline.process):
        with pytest.raises(ValidationError):
            run("config", "--env", "test", "--format", "json")
