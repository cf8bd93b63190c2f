"""`smeta render --out`, `--check`: files that teams commit, and whether they are what rendering gives."""

from __future__ import annotations

import pytest

from tests.workspace import Outcome, Workspace


@pytest.fixture
def project(offline: Workspace) -> Workspace:
    offline.environment = "vars: {n: 7}"
    offline.migration("1_a", "select {{ n }};", "select 1;")
    offline.migration("2_b", "select 'Смета';")
    return offline


def render(project: Workspace, *arguments: str) -> Outcome:
    return project.smeta("render", "--env", "test", *arguments)


def test_without_a_directory_the_sql_is_the_answer(project: Workspace) -> None:
    done = render(project)

    assert done.code == 0, done.err
    assert "select 7;" in done.out
    assert "-- ROLLBACK_START" in done.out
    assert done.out.index("select 7;") < done.out.index("select 'Смета';")


def test_files_are_written_and_found_fresh(project: Workspace) -> None:
    assert render(project, "--out", "plans/test").code == 0

    written = sorted((project.root / "plans" / "test").iterdir())
    assert [path.name for path in written] == ["1_a.sql", "2_b.sql"]
    assert "select 7;" in written[0].read_text()
    checked = render(project, "--out", "plans/test", "--check")
    assert (checked.code, checked.out) == (0, "")


@pytest.mark.parametrize("damage", ["edited", "missing", "extra", "variable"])
def test_a_stale_directory_is_told_and_not_touched(project: Workspace, damage: str) -> None:
    render(project, "--out", "plans")
    plans = project.root / "plans"
    match damage:
        case "edited":
            path = plans / "1_a.sql"
            path.write_text(path.read_text().replace("select 7", "select 8"))
        case "missing":
            (plans / "1_a.sql").unlink()
        case "extra":
            (plans / "1_a.sql").rename(plans / "0_a.sql")
        case _:
            project.environment = "vars: {n: 8}"
            project.write_manifest()
    before = {path.name: path.read_bytes() for path in plans.iterdir()}

    stale = render(project, "--out", "plans", "--check")

    assert stale.code == 1
    assert "error[render-stale]" in stale.err
    assert "1_a.sql" in stale.err
    assert {path.name: path.read_bytes() for path in plans.iterdir()} == before
    assert render(project, "--out", "plans").code == 0
    assert render(project, "--out", "plans", "--check").code == 0
    assert sorted(path.name for path in plans.iterdir()) == ["1_a.sql", "2_b.sql"]


def test_wrong_usage(project: Workspace) -> None:
    before = project.file("1_a").read_bytes()

    assert render(project, "--check").code == 64
    for directory in ("migrations", "./plans/../migrations"):
        refused = render(project, "--out", directory)
        assert refused.code == 3
        assert "error[render-foreign]" in refused.err
    assert project.file("1_a").read_bytes() == before


def test_a_mistake_in_one_file_writes_none(project: Workspace) -> None:
    project.migration("3_c", "selct 1;")

    assert render(project, "--out", "plans").code == 78
    assert not (project.root / "plans").exists()
