"""`smeta new`: a file and a line, or neither."""

from __future__ import annotations

import re

import pytest

from tests.workspace import Workspace

MANIFEST = """\
# the trial
manifest: 1
project:   trial   # odd blanks stay
environments: {test: {database: embedded}}
migrations:
  apply:
    # the first
    - 1_a          # ours
    - version: 2_b
      requires: [1_a]

# the end
checks: []
"""


@pytest.fixture
def listed(offline: Workspace) -> Workspace:
    for version in ("1_a", "2_b"):
        offline.migration(version, "select 1;")
    offline.manifest.write_text(MANIFEST)
    return offline


@pytest.mark.parametrize("verb", ["new", "generate"])
def test_the_file_is_written_and_listed_and_nothing_else_changes(listed: Workspace, verb: str) -> None:
    listed.manifest.chmod(0o640)

    done = listed.smeta(verb, "add_users", "Пользователи")

    assert done.code == 0, done.err
    found = re.fullmatch(r"migrations/(\d{14}_add_users)\.sql\n", done.out)
    assert found
    version = found[1]
    before, after = MANIFEST.splitlines(), listed.manifest.read_text().splitlines()
    added = [line for line in after if line not in before]
    assert added == [f"    - {version}"]
    assert [line for line in after if line not in added] == before
    assert listed.manifest.stat().st_mode & 0o777 == 0o640
    text = listed.file(version).read_text()
    assert text.startswith(f"-- Migration: add_users\n-- Version: {version}\n-- Description: Пользователи\n")


@pytest.mark.parametrize("name", ["", "Add", "add users", "../x", "x/y", "a'b", "имя", "_x", "x" * 101])
def test_a_bad_name_is_refused_and_nothing_is_written(listed: Workspace, name: str) -> None:
    refused = listed.smeta("new", name)

    assert refused.code == 64
    assert "is no name for a migration" in refused.err
    assert listed.manifest.read_text() == MANIFEST
    assert len(list((listed.root / "migrations").iterdir())) == 2


def test_a_description_is_one_line(listed: Workspace) -> None:
    assert listed.smeta("new", "x", "one\ndrop table a;").code == 64
    assert listed.manifest.read_text() == MANIFEST


@pytest.mark.parametrize("apply", ["apply: &list [1_a, 2_b]", "apply: []", "apply: [1_a, 2_b]"])
def test_a_list_on_one_line_is_edited_or_left(listed: Workspace, apply: str) -> None:
    text = re.sub(r"apply:\n(    .*\n)+", apply + "\n", MANIFEST)
    listed.manifest.write_text(text)

    done = listed.smeta("new", "add_users")

    files = {path.stem for path in (listed.root / "migrations").iterdir()} - {"1_a", "2_b"}
    if done.code == 0:
        (version,) = files
        assert version in listed.manifest.read_text()
    else:
        assert files == set()
        assert listed.manifest.read_text() == text
        assert done.code == 78
