"""What a command imports: light commands start without the driver, the template engine and the parser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.cli.app import random_uuid
from tests.servers import TestDatabase
from tests.workspace import Workspace

HEAVY = {"psycopg", "jinja2", "pglast"}
_ASK = """\
import json, sys
from smeta_declare.cli.main import run
code = run(sys.argv[1:])
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def imported(workspace: Workspace, *arguments: str) -> tuple[int, set[str]]:
    """Exit code of a command in a fresh interpreter, and the modules that it had imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *arguments],
        cwd=workspace.root,
        env={**workspace.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stdout.rsplit("\n", 2)[1])
    return code, set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("version",),
        ("schema",),
        ("new", "add_users"),
        ("apply", "--help"),
        ("status", "--help"),
        ("doctor", "--help"),
    ],
)
def test_light_commands_import_nothing_heavy(offline: Workspace, arguments: tuple[str, ...]) -> None:
    code, modules = imported(offline, *arguments)

    assert code == 0
    assert modules & HEAVY == set()


@pytest.mark.parametrize("arguments", [("--help",), ("version",)])
def test_help_and_version_do_not_read_yaml(offline: Workspace, arguments: tuple[str, ...]) -> None:
    _, modules = imported(offline, *arguments)

    assert modules & {"yaml", "jsonschema", "rich"} == set()


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_status_of_unchanged_migrations_renders_and_parses_nothing(
    workspace: Workspace, database: TestDatabase
) -> None:
    for number in range(3):
        workspace.migration(
            f"{number}_m", f"create table t{number} (id int);", f"drop table t{number};", "select 1;"
        )
    assert workspace.smeta("apply", "--env", "test").code == 0

    code, modules = imported(workspace, "status", "--env", "test", "--detailed-exitcode")

    assert code == 0
    assert "psycopg" in modules
    assert modules & {"jinja2", "pglast"} == set()
    workspace.file("1_m").write_text(workspace.file("1_m").read_text() + "\n-- a word\n")
    assert "pglast" in imported(workspace, "status", "--env", "test")[1]  # so the test can fail


@given(st.binary(min_size=16, max_size=16))
def test_a_runs_id_is_a_uuid_of_version_4(random: bytes) -> None:
    made = UUID(random_uuid(random))

    assert (str(made), made.version, made.variant) == (random_uuid(random), 4, RFC_4122)
