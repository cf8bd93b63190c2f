"""`smeta render --out`, `--check`: files that teams commit, and whether they are what rendering gives."""

from __future__ import annotations

import re

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
    assert [path.name for path in written] == ["1_a.sql", "2_b.sql", "README.md"]
    assert "select 7;" in written[0].read_text()
    checked = render(project, "--out", "plans/test", "--check")
    assert (checked.code, checked.out) == (0, "")


@pytest.mark.parametrize("damage", ["edited", "missing", "extra", "variable", "index"])
def test_a_stale_directory_is_told_and_not_touched(project: Workspace, damage: str) -> None:
    render(project, "--out", "plans")
    plans = project.root / "plans"
    match damage:
        case "edited":
            path = plans / "1_a.sql"
            path.write_text(path.read_text().replace("select 7", "select 8"))
        case "missing":
            (plans / "1_a.sql").unlink()
        case "index":
            path = plans / "README.md"
            path.write_text(path.read_text().replace("way back", "way out"))
        case "extra":
            (plans / "1_a.sql").rename(plans / "0_a.sql")
        case _:
            project.environment = "vars: {n: 8}"
            project.write_manifest()
    before = {path.name: path.read_bytes() for path in plans.iterdir()}

    stale = render(project, "--out", "plans", "--check")

    assert stale.code == 1
    assert "error[render-stale]" in stale.err
    assert ("README.md" if damage == "index" else "1_a.sql") in stale.err
    assert {path.name: path.read_bytes() for path in plans.iterdir()} == before
    assert render(project, "--out", "plans").code == 0
    assert render(project, "--out", "plans", "--check").code == 0
    assert sorted(path.name for path in plans.iterdir()) == ["1_a.sql", "2_b.sql", "README.md"]


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


INDEX = """\
<!-- Rendered by smeta for environment test: do not edit -->
# trial: migrations of test

In their order. What is pending runs in one transaction, as far as PostgreSQL can do that.

## 1_a

    meaning         MEANING
    statements      3
    transaction     step 1 of 3, 1 in it
    on its own      step 2 of 3, create index concurrently i on t: REASON
    transaction     step 3 of 3, 1 in it
    strongest lock  ACCESS EXCLUSIVE
    validations     1
    destroys        column b of t
    way back        yes, 1 statement

## 2_b

    description     Two `b` & <c>
    meaning         MEANING
    statements      1
    in batches      step 1 of 2, update t: 500 rows by id
    transaction     step 2 of 2, 0 in it
    strongest lock  ROW EXCLUSIVE
    way back        no
"""


def test_the_index_says_what_each_migration_does(offline: Workspace) -> None:
    offline.migration(
        "1_a",
        "create table t (id int);\ncreate index concurrently i on t (id);\nalter table t drop column b;",
        "drop table t;",
        "select 1;",
    )
    offline.migration(
        "2_b",
        "-- Description: Two `b` & <c>\n\n-- smeta: batch key=id size=500\nupdate t set c = 1 where c is null;",
    )

    assert render(offline, "--out", "plans").code == 0

    index = (offline.root / "plans" / "README.md").read_text()
    assert re.sub("[0-9a-f]{64}", "MEANING", re.sub("i on t: .*", "i on t: REASON", index)) == INDEX


def test_one_more_migration_is_one_more_block_and_a_comment_changes_nothing(project: Workspace) -> None:
    render(project, "--out", "plans")
    index = project.root / "plans" / "README.md"
    before = index.read_text()
    path = project.file("1_a")
    path.write_text(path.read_text() + "-- a word more\n")
    project.migration("3_c", "select 3;")

    render(project, "--out", "plans")

    after = index.read_text()
    assert after.startswith(before)
    assert after.removeprefix(before).startswith("\n## 3_c\n")


def test_no_address_is_needed(project: Workspace) -> None:
    project.manifest.write_text(project.manifest.read_text().replace("${TRIAL_URL}", "${UNSET_URL:?set it}"))

    done = render(project, "--out", "plans")

    assert done.code == 0, done.err


def test_an_index_of_somebody_else_is_left_alone(project: Workspace) -> None:
    (project.root / "plans").mkdir()
    mine = project.root / "plans" / "README.md"
    mine.write_text("# Mine\n")

    refused = render(project, "--out", "plans")

    assert refused.code == 3
    assert "error[render-foreign]" in refused.err
    assert mine.read_text() == "# Mine\n"


@pytest.mark.parametrize("name", ["README.md", "notes.sql", "1_a.sql"])
def test_what_is_no_text_is_somebody_elses_and_left_alone(project: Workspace, name: str) -> None:
    (project.root / "plans").mkdir()
    mine = project.root / "plans" / name
    mine.write_bytes("# Größe\n".encode("latin-1"))

    for options in ((), ("--check",)):
        refused = render(project, "--out", "plans", *options)

        assert (refused.code, f"plans holds what was not rendered: {name}" in refused.err) == (3, True), (
            refused.err
        )
    assert [path.name for path in mine.parent.iterdir()] == [name]
    assert mine.read_bytes() == "# Größe\n".encode("latin-1")


def test_a_directory_of_that_name_is_left_alone(project: Workspace) -> None:
    (project.root / "plans" / "1_a.sql").mkdir(parents=True)

    refused = render(project, "--out", "plans")

    assert (refused.code, "error[render-foreign]" in refused.err) == (3, True), refused.err


def test_what_tenancy_declares_is_a_file_and_an_edit_of_a_policy_is_a_diff(project: Workspace) -> None:
    declared = """
tenancy:
  strategy: row
  registry: {table: tenants}
  roles: {owner: owner, application: [app]}
  tables: {tenants: registry, projects: tenant}
"""
    project.migration(
        "3_c", "create table tenants (id uuid primary key);\ncreate table projects (id int primary key);"
    )
    project.more = declared
    project.write_manifest()
    assert render(project, "--out", "plans").code == 0
    before = (project.root / "plans" / "tenancy.sql").read_text().splitlines()
    assert any(line.startswith("create policy smeta_tenant") for line in before)
    assert "alter table public.projects force row level security;" in before

    project.more = declared.replace("projects: tenant", "projects: {class: tenant, policy_form: inline}")
    project.write_manifest()
    stale = render(project, "--out", "plans", "--check")
    assert (stale.code, "tenancy.sql" in stale.err) == (1, True)
    assert render(project, "--out", "plans").code == 0

    after = (project.root / "plans" / "tenancy.sql").read_text().splitlines()
    changed = [line for line in after if line not in before]
    assert changed
    assert all("polic" in line or "tenant_id" in line for line in changed), changed
