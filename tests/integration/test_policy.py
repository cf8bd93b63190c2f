"""What an environment demands before it is changed: a saved plan, its name, consent to destroy rows, requirements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers import TestDatabase
from tests.workspace import Outcome, Workspace


def planned(workspace: Workspace, *options: str) -> Path:
    file = workspace.root / "plan.json"
    done = workspace.smeta("plan", "--env", "test", "--out", str(file), *options)
    assert done.code == 0, done.err
    return file


def refused(workspace: Workspace, code: str, *arguments: str) -> Outcome:
    """Refused with this code, and nothing has run."""
    before = workspace.tables(), workspace.applied()
    done = workspace.smeta(*arguments)
    assert (done.code, f"error[{code}]: " in done.err) == (3, True), done.err
    assert (workspace.tables(), workspace.applied()) == before
    return done


def test_a_protected_environment_is_changed_by_a_saved_plan_and_its_name(workspace: Workspace) -> None:
    workspace.environment = "protected: true"
    workspace.migration("1_a", "create table a (id int);", "drop table a;")

    unsaved = refused(workspace, "plan-required", "apply", "--env", "test", "--confirm", "test")
    assert "`smeta plan --env test --out FILE`" in unsaved.err
    assert workspace.smeta("apply", "--env", "test", "--dry-run").code == 0
    file = str(planned(workspace))
    for arguments in ((), ("--auto-approve",), ("--allow-destructive",), ("--confirm", "other")):
        refused(workspace, "consent-missing", "apply", file, *arguments)
    assert workspace.smeta("apply", file, "--confirm", "test").code == 0

    back = refused(workspace, "plan-required", "rollback", "--env", "test", "--confirm", "test")
    assert "`smeta plan --rollback --env test --out FILE`" in back.err
    way_back = str(planned(workspace, "--rollback"))
    assert workspace.smeta("apply", way_back, "--confirm", "test").code == 0
    assert workspace.applied() == []


def test_a_protected_environment_is_finished_by_its_plan_and_nothing_else(
    workspace: Workspace, database: TestDatabase
) -> None:
    """Every command that is told can be run as it stands, once FILE is put in."""
    workspace.environment = "protected: true"
    database.query("create table items (id int); insert into items values (1), (1)")
    workspace.migration("1_a", "create table a (id int);\ncreate unique index concurrently u on items (id);")
    file = str(planned(workspace))
    half = workspace.smeta("apply", file, "--confirm", "test")
    assert half.code == 5, half.err

    status = workspace.smeta("status", "--env", "test")
    assert "`smeta apply FILE --confirm test` with the file of plan " in status.out
    other = workspace.root / "other.json"
    assert workspace.smeta("plan", "--env", "test", "--out", str(other)).code == 0
    run_open = workspace.smeta("apply", str(other), "--confirm", "test")
    assert (run_open.code, "error[run-open]" in run_open.err) == (5, True)
    ((run,),) = database.query("select id::text from smeta.run")
    assert f"`smeta apply --env test --abandon {run} --confirm test`" in run_open.err

    database.query("delete from items")
    assert workspace.smeta("apply", file, "--confirm", "test").code == 0
    assert workspace.applied() == ["1_a"]


DESTRUCTIVE = [
    ("drop table items;", "table items: 3 rows"),
    ("truncate items;", "all rows of items: 3 rows"),
    ("delete from items where id = 1;", "rows of items: 3 rows"),
    ("alter table items drop column note;", "column note of items: 1 row"),
    ("drop schema s cascade;", "schema s: 2 rows"),
    ('drop table "Odd ""name", items;', "table items: 3 rows"),
    ("alter table items rename to gone; drop table gone;", "table gone: 3 rows"),
    (
        "alter table items rename note to n; alter table items drop column n;",
        "column n of items: rows not counted",
    ),
    ("alter table items set schema s; drop schema s cascade;", "schema s: 2 rows"),
    ("alter schema s rename to t; drop schema t cascade;", "schema t: rows not counted"),
    ("set search_path = s; drop table a;", "table a: rows not counted"),
    ("drop schema apart cascade;", "schema apart: 1 row"),
    ("delete from seen_items;", "all rows of seen_items: rows not counted"),
    (
        "create table kept (like items);\n"
        "with old as (delete from items returning *) insert into kept select * from old;",
        "all rows of items: 3 rows",
    ),
    (
        "create table parent (like items) partition by list (id);\n"
        "alter table parent attach partition items default;\ndrop table parent;",
        "table parent: rows not counted",
    ),
]
HARMLESS = [
    "drop table empty;",
    "alter table items drop column nothing;",
    "create table fresh (id int); insert into fresh values (1); drop table fresh;",
    "drop materialized view derived;",
    "drop table if exists absent;",
    "create table made (id int); insert into made values (1); alter table made rename to m; drop table m;",
    "alter table empty rename to e; drop table e;",
    "alter table items add column more int; alter table items drop column more;",
]


@pytest.fixture
def populated(workspace: Workspace, database: TestDatabase) -> Workspace:
    database.query(
        "create table items (id int, note text, nothing int); "
        "insert into items values (1, 'x', null), (2, null, null), (3, null, null);"
        "create table empty (id int); create materialized view derived as select 1 as one;"
        'create table "Odd ""name" (id int); create schema s;'
        "create table s.a (id int); insert into s.a values (1);"
        "create table s.p (id int) partition by list (id);"
        "create table s.p1 partition of s.p for values in (1); insert into s.p values (1);"
        "create view seen_items as select id from items;"
        "create schema apart; create table far (id int) partition by list (id);"
        "create table apart.f1 partition of far for values in (1); insert into far values (1)"
    )
    return workspace


@pytest.mark.parametrize(("sql", "said"), DESTRUCTIVE)
def test_rows_are_destroyed_with_consent_only(
    populated: Workspace, database: TestDatabase, sql: str, said: str
) -> None:
    populated.migration("1_a", sql)

    told = refused(populated, "consent-missing", "--no-input", "apply", "--env", "test")

    assert said in told.err
    assert "--confirm test or --allow-destructive" in told.err
    assert f"! destroys {said} (1_a)" in populated.smeta("plan", "--env", "test").out
    assert database.query("select count(*)::int from items") == [(3,)]
    assert f"destroys {said}" in told.err
    done = populated.smeta("apply", "--env", "test", "--allow-destructive")
    assert f"destroys {said}" in done.err
    assert done.code == 0 or "cannot drop" in done.err or "depend" in done.err, done.err


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_holds_no_rows_needs_no_consent(populated: Workspace, sql: str) -> None:
    populated.migration("1_a", sql)

    done = populated.smeta("apply", "--env", "test")

    assert done.code == 0, done.err


def test_what_cannot_be_counted_needs_consent(workspace: Workspace, database: TestDatabase) -> None:
    """Row security hides rows from its owner, too, where it is forced: the count is not believed."""
    database.query(
        "create table hidden (id int); insert into hidden values (1);"
        "alter table hidden enable row level security; alter table hidden force row level security"
    )
    workspace.migration("1_a", "drop table hidden;")

    told = refused(workspace, "consent-missing", "apply", "--env", "test")

    assert "table hidden: rows not counted" in told.err
    assert workspace.smeta("apply", "--env", "test", "--confirm", "test").code == 0


def test_a_way_back_that_destroys_rows_needs_consent(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query("insert into a select generate_series(1, 100001)")

    told = refused(workspace, "consent-missing", "rollback", "--env", "test")

    assert "table a: more than 100,000 rows" in told.err
    assert workspace.smeta("rollback", "--env", "test", "--allow-destructive").code == 0
    assert workspace.tables() == set()


def test_losses_are_asked_again_and_make_no_plan_stale(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table items (id int)")
    workspace.migration("1_a", "drop table items;")
    file = planned(workspace)
    assert json.loads(file.read_text())["facts"]["losses"] == [
        {"version": "1_a", "what": "table items", "rows": 0}
    ]
    database.query("insert into items values (1)")

    told = refused(workspace, "consent-missing", "apply", str(file))

    assert "table items: 1 row" in told.err
    assert workspace.smeta("apply", str(file), "--allow-destructive").code == 0


def test_a_way_back_is_required_where_the_environment_says_so(workspace: Workspace) -> None:
    workspace.environment = "require: [rollback]"
    workspace.migration("1_a", "create table a (id int);")

    shown = workspace.smeta("plan", "--env", "test")
    assert (shown.code, "require-unmet" in shown.err) == (0, True)
    told = refused(workspace, "require-unmet", "apply", "--env", "test")
    assert "requires a way back of every migration, and 1_a has none" in told.err
    refused(workspace, "require-unmet", "apply", str(planned(workspace)))

    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    assert workspace.smeta("apply", "--env", "test").code == 0


def test_a_schema_that_changed_elsewhere_is_told_or_refused(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table apart (id int)")
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    file = planned(workspace)
    database.query("alter table apart add column n int")
    told = workspace.smeta("apply", str(file), "--dry-run")
    assert (told.code, "catalog-changed" in told.err) == (0, True)

    workspace.environment = "require: [unchanged_catalog]"
    workspace.write_manifest()
    file = planned(workspace)
    assert workspace.smeta("apply", str(file), "--dry-run").code == 0
    database.query("alter table apart add column m int")

    refused(workspace, "plan-stale", "apply", str(file))
    assert workspace.smeta("apply", "--env", "test").code == 0
    back = planned(workspace, "--rollback")
    database.query("alter table apart add column o int")
    assert workspace.smeta("apply", str(back)).code == 0  # `require:` is about the way forward


def test_a_policy_that_became_looser_is_told_in_words(workspace: Workspace) -> None:
    strict = "protected: true\n    order: strict\n    require: [rollback]\n    locks: {hold: 1s}"
    workspace.environment = strict
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    assert workspace.smeta("apply", str(planned(workspace)), "--confirm", "test").code == 0
    workspace.migration("2_b", "create table b (id int);", "drop table b;")
    assert "policy-loosened" not in workspace.smeta("plan", "--env", "test").err

    workspace.environment = "protected: true\n    locks: {hold: 1min}"
    workspace.write_manifest()
    shown = workspace.smeta("plan", "--env", "test", "--format", "markdown")

    for words in (
        "policy of test: migrations may run out of order, order was strict",
        "policy of test: requirement rollback is dropped",
        "policy of test: locks.hold is 1min, it was 1s",
    ):
        assert words in shown.err
        assert words in shown.out
    assert workspace.smeta("apply", str(planned(workspace)), "--confirm", "test").code == 0
    assert "policy-loosened" not in workspace.smeta("plan", "--env", "test").err
