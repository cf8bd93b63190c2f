"""A plan as a file: applied as it was reviewed, once, on the database it was made for, or refused with nothing run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from smeta_declare.plan import canonical_digest
from tests.servers import TestDatabase
from tests.waiting import until, until_running
from tests.workspace import Outcome, Workspace


@pytest.fixture
def planned(workspace: Workspace, database: TestDatabase) -> Workspace:
    """One migration applied, one planned: an index and a column on a table that was there, and a new table."""
    database.query(
        "create table orders (id int primary key, note text); create table apart (id int);"
        "create view open_orders as select id from orders"
    )
    workspace.migration("1_a", "create table a (id int primary key);", "drop table a;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    workspace.environment = "vars: {size: 9}"
    workspace.migration(
        "2_b",
        "alter table orders add column b varchar({{ size }});\ncreate index orders_note on orders (note);\n"
        "create table b (id int references a (id));",
        "drop table b;\nalter table orders drop column b;\ndrop index orders_note;",
        "select 1 where to_regclass('b') is not null;",
    )
    return workspace


def plan(workspace: Workspace, *options: str) -> Path:
    """A saved plan."""
    file = workspace.root / "plan.json"
    done = workspace.smeta("plan", "--env", "test", "--out", str(file), *options)
    assert done.code == 0, done.err
    return file


def refused(workspace: Workspace, file: Path, code: str, said: str = "") -> Outcome:
    """The plan is refused, and nothing has run."""
    before = workspace.tables(), workspace.applied()
    done = workspace.smeta("apply", str(file))
    assert done.code == 3, (done.code, done.err)
    assert f"error[{code}]: " in done.err
    assert said in done.err
    assert "nothing was run" in done.err
    assert (workspace.tables(), workspace.applied()) == before
    return done


def test_a_plan_is_applied_as_it_was_saved_and_once(planned: Workspace, database: TestDatabase) -> None:
    file = plan(planned)
    shown = planned.smeta("show", str(file))
    assert "alter table orders add column b varchar(9)" in shown.out

    done = planned.smeta("apply", str(file))

    assert done.code == 0, done.err
    assert planned.applied() == ["1_a", "2_b"]
    assert database.query("select plan, saved from smeta.run where saved") == [
        (json.loads(file.read_text())["id"], True)
    ]
    again = refused(planned, file, "plan-used", "the plan was applied at ")
    assert database.conninfo.parameters()["user"] in again.err


def test_a_rollback_is_saved_and_applied_too(planned: Workspace) -> None:
    assert planned.smeta("apply", "--env", "test").code == 0
    file = plan(planned, "--rollback", "2")

    done = planned.smeta("apply", str(file))

    assert done.code == 0, done.err
    assert planned.applied() == []
    refused(planned, file, "plan-used")


def test_the_same_plan_has_the_same_bytes_wherever_it_is_made(planned: Workspace) -> None:
    first = plan(planned).read_bytes()
    other, below = planned.root.parent / "checked out elsewhere", planned.root / "migrations"
    shutil.copytree(planned.root, other)
    for environ, directory in (
        ({"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}, planned.root),
        ({"PYTHONHASHSEED": "77", "LC_ALL": "C.UTF-8", "LANG": "tr_TR.UTF-8"}, below),
        ({"PYTHONHASHSEED": "random", "TZ": "America/New_York"}, other),
    ):
        file = planned.root / "again.json"
        done = planned.process(
            "plan", "--env", "test", "--out", str(file), environ=environ, directory=directory
        )
        assert done.code == 0, done.err
        assert file.read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        "insert into orders values (1, 'x'), (2, 'y'); analyze orders; vacuum orders",
        "create table elsewhere (id int)",
        "create index apart_id on apart (id)",
        "comment on table orders is 'old'",
    ],
)
def test_what_changes_no_schema_of_what_it_touches_keeps_it_fresh(
    planned: Workspace, database: TestDatabase, change: str
) -> None:
    file = plan(planned)
    for statement in change.split("; "):
        database.query(statement)

    assert planned.smeta("apply", str(file)).code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("alter table orders add column c int", "relation public.orders has other columns"),
        ("alter table orders alter note set not null", "has other columns"),
        ("create index on orders (id)", "relation public.orders has other indexes"),
        ("alter table orders add check (id > 0)", "has other constraints"),
        ("alter table orders enable row level security", "has other table"),
        ("create policy p on orders using (true)", "has other policies"),
        ("grant select on orders to public", "has other grants"),
        ("create or replace view open_orders as select id, note from orders", "relation public.open_orders"),
        ("create table orders_2 (id int references orders)", "relation public.orders_2 is there now"),
        ("alter table a add column b int", "relation public.a has other columns"),
        ("create table b (id int)", "is there now"),
        ("drop view open_orders; drop table orders", "public.orders is gone"),
    ],
)
def test_a_change_of_what_it_touches_makes_it_stale(
    planned: Workspace, database: TestDatabase, change: str, said: str
) -> None:
    file = plan(planned)
    database.query(change)

    refused(planned, file, "plan-stale", said)


def edited(text: str, workspace: Workspace) -> None:
    path = workspace.root / "migrations" / "2_b.sql"
    before, after = text.split(" → ")
    path.write_text(path.read_text().replace(before, after))


CHANGES: list[tuple[str, Callable[[Workspace], None], str]] = [
    ("statement", lambda w: edited("int references → bigint references", w), "has another text now"),
    ("rollback", lambda w: edited("drop table b → drop table if exists b", w), "its rollback is another one"),
    ("validation", lambda w: edited("select 1 → select 2", w), "has another text now"),
    ("variable", lambda w: setting(w, "vars: {size: 10}"), "variables.size was 9"),
    (
        "timeout",
        lambda w: setting(w, "vars: {size: 9}\n    timeouts: {statement: 31s}"),
        "timeouts.statement_ms",
    ),
    ("transaction", lambda w: setting(w, "vars: {size: 9}\n    transaction: each"), "transaction was"),
    ("another migration", lambda w: ignored(w.migration("3_c", "select 1;")), "3_c would be run, too"),
]


def ignored(_: object) -> None: ...


def setting(workspace: Workspace, text: str) -> None:
    workspace.environment = text
    workspace.write_manifest()


@pytest.mark.parametrize(("change", "said"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_of_what_would_run_makes_it_stale(
    planned: Workspace, change: Callable[[Workspace], None], said: str
) -> None:
    file = plan(planned)
    change(planned)

    refused(planned, file, "plan-stale", said)


def test_comments_and_cosmetics_keep_it_fresh(planned: Workspace, database: TestDatabase) -> None:
    file = plan(planned)
    edited("alter table orders add → -- a word more\nalter table orders add", planned)
    edited("drop table b; → -- and back\ndrop table b;", planned)
    planned.manifest.write_text(
        "# a comment\n" + planned.manifest.read_text().replace("size: 9", "size:   9")
    )
    planned.environ["TRIAL_URL"] += "&application_name=other"

    done = planned.smeta("apply", str(file))

    assert done.code == 0, done.err


def test_a_history_that_went_on_makes_it_stale(planned: Workspace) -> None:
    file = plan(planned)
    assert planned.smeta("rollback", "--env", "test").code == 0
    refused(planned, file, "plan-stale", "now nothing applied")
    assert planned.smeta("apply", "--env", "test", "--to", "1_a").code == 0

    refused(planned, file, "plan-stale", "rolled back and applied again")


def test_another_database_is_refused(planned: Workspace, database: TestDatabase) -> None:
    file = plan(planned)
    database.query_as_admin(f"create database {database.name}_2 template {database.name}")
    planned.environ["TRIAL_URL"] = planned.environ["TRIAL_URL"].replace(database.name, database.name + "_2")
    try:
        done = planned.smeta("apply", str(file))
    finally:
        database.query_as_admin(f"drop database {database.name}_2")

    assert done.code == 3
    assert "error[plan-foreign]: the plan was made for another database" in done.err


@pytest.mark.parametrize(
    ("change", "code", "exit_code"),
    [
        (lambda d: d["decision"]["steps"][0]["works"][0]["statements"].pop(), "plan-tampered", 3),
        (lambda d: d["facts"].update(address="elsewhere"), "plan-tampered", 3),
        (lambda d: d.update(id="0" * 64), "plan-tampered", 3),
        (lambda d: d.update(format="smeta.plan/9"), "plan-unreadable", 78),
        (lambda d: d["decision"].pop("steps"), "plan-unreadable", 78),
        (lambda d: d.update(extra=1), "plan-unreadable", 78),
    ],
)
def test_an_edited_file_is_refused(
    planned: Workspace, change: Callable[[Any], object], code: str, exit_code: int
) -> None:
    file = plan(planned)
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))

    done = planned.smeta("apply", str(file))

    assert done.code == exit_code, done.err
    assert f"error[{code}]" in done.err
    assert planned.applied() == ["1_a"]


def test_a_forged_plan_runs_nothing_that_the_checkout_does_not_say(planned: Workspace) -> None:
    """Whoever edits the decision can make a new id for it: what is run comes from the checkout all the same."""
    file = plan(planned)
    document = json.loads(file.read_text())
    document["decision"]["steps"][0]["works"][0]["statements"][0]["text"] = "drop table a"
    document["id"] = canonical_digest(document["decision"])
    file.write_text(json.dumps(document))

    refused(planned, file, "plan-stale", "a statement of 2_b has another text now")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1, "format": 2}', "\ud800"])
def test_what_is_no_plan_is_refused(planned: Workspace, text: str) -> None:
    file = planned.root / "plan.json"
    file.write_bytes(text.encode(errors="surrogatepass"))

    done = planned.smeta("apply", str(file))

    assert done.code == 78, done.err
    assert "error[plan-unreadable]" in done.err


@pytest.fixture
def stopped(planned: Workspace, database: TestDatabase) -> Path:
    """A saved plan whose run was killed while it built an index."""
    planned.migration(
        "3_c", "create table c (id int);\ncreate index concurrently orders_c on orders (id);\nselect 3;"
    )
    file = plan(planned)
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as connection:
        connection.execute("set transaction isolation level repeatable read; select 1 from apart")
        run = planned.start("apply", str(file))
        until_running(database, "create index concurrently%")
        run.kill()
        run.communicate()
        building = (
            "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'create index conc%%'"
        )
        until(lambda: not database.query(building), what="its process is gone")
    return file


def test_an_open_run_is_finished_by_its_plan_and_by_nothing_else(
    planned: Workspace, stopped: Path, database: TestDatabase
) -> None:
    other = planned.root / "other.json"
    assert planned.smeta("plan", "--env", "test", "--out", str(other)).code == 0
    for command in (("apply", "--env", "test"), ("apply", str(other))):
        refused = planned.smeta(*command)
        assert refused.code == 5, refused.err
        assert "error[run-open]" in refused.err
        assert "`smeta apply FILE`" in refused.err
    id = json.loads(stopped.read_text())["id"]
    way = f"`smeta apply FILE` with the file of plan {id[:12]}"
    assert f"step 1 of 3 is done; {way} goes on from there\n" in planned.smeta("status", "--env", "test").out
    assert f"next: finish it first: {way}, or end" in planned.smeta("rollback", "--env", "test").err

    resumed = planned.smeta("apply", str(stopped))

    assert resumed.code == 0, resumed.err
    assert planned.applied() == ["1_a", "2_b", "3_c"]
    assert database.query("select count(*) from pg_index where not indisvalid") == [(0,)]
    assert planned.smeta("apply", str(stopped)).code == 3  # used


def test_what_is_left_must_be_the_end_of_the_plan(planned: Workspace, stopped: Path) -> None:
    path = planned.root / "migrations" / "3_c.sql"
    text = path.read_text()
    path.write_text(text.replace("select 3", "select 4"))

    refused(planned, stopped, "plan-stale", "a statement of 3_c has another text now")

    path.write_text(text)
    assert planned.smeta("apply", str(stopped)).code == 0


def test_an_abandoned_run_ends_its_plan(planned: Workspace, stopped: Path, database: TestDatabase) -> None:
    ((run,),) = database.query("select id::text from smeta.run where saved")
    assert planned.smeta("apply", "--env", "test", "--abandon", run).code == 0

    refused(planned, stopped, "plan-stale", "the history is not the one")
    new = plan(planned)

    assert planned.smeta("apply", str(new)).code == 0
    assert planned.applied() == ["1_a", "2_b", "3_c"]


def test_a_secret_is_in_no_plan_view_log_or_table(workspace: Workspace, database: TestDatabase) -> None:
    canary = "canary-7f3a9c1e"
    workspace.environment = "vars: {password: {secret: TRIAL_SECRET}}"
    workspace.environ["TRIAL_SECRET"] = canary
    workspace.migration(
        "1_a",
        "create table kept (what text);\n"
        "insert into kept values (encode(sha256({{ password | literal }}::bytea), 'hex'));",
        "delete from kept where what = {{ password | literal }};\ndrop table kept;",
    )
    file = plan(workspace)
    told = []
    for form in ("human", "json", "markdown", "sql"):
        shown = workspace.smeta("show", str(file), "--format", form)
        told += [shown.out, shown.err]
    applied = workspace.smeta("-v", "apply", str(file))
    assert applied.code == 0, applied.err
    back = workspace.smeta("plan", "--env", "test", "--rollback", "--out", str(workspace.root / "back.json"))
    told += [applied.out, applied.err, back.out, back.err]
    told += [path.read_text() for path in workspace.root.rglob("*") if path.is_file()]
    tables = ("schema_migrations", "smeta.run", "smeta.step", "smeta.event")
    told += [str(database.query(f"select t::text from {table} t")) for table in tables]  # noqa: S608

    assert [text for text in told if canary in text] == []
    assert "TRIAL_SECRET" in file.read_text()
    assert database.query("select what = encode(sha256(%s::bytea), 'hex') from kept", canary) == [(True,)]


def test_every_plan_keeps_to_its_schema_and_shows_in_every_form(planned: Workspace) -> None:
    file = plan(planned)
    for form in ("human", "json", "markdown", "sql"):
        done = planned.smeta("show", str(file), "--format", form)
        assert done.code == 0, done.err
        assert "create index orders_note" in done.out
        live = planned.smeta("plan", "--env", "test", "--format", form)
        assert live.out == done.out


def test_what_changed_meanwhile_under_the_rest_of_a_half_done_plan_is_refused(
    workspace: Workspace, database: TestDatabase
) -> None:
    """The steps that are done changed what they touched: that is no difference, what the rest works on is."""
    database.query(
        "create table ct (i int); insert into ct values (1), (1); create table vict (id int, note text)"
    )
    workspace.migration(
        "1_a",
        "create table s0 (i int);\ncreate unique index concurrently ct_i on ct (i);\n"
        "alter table vict drop column note;",
    )
    file = plan(workspace)
    assert workspace.smeta("apply", str(file)).code == 5
    database.query("alter table vict alter column note type varchar(9)")

    refused = workspace.smeta("apply", str(file))

    assert (refused.code, "error[plan-stale]" in refused.err) == (3, True), refused.err
    assert "relation public.vict has other columns" in refused.err
    assert "--abandon RUN_ID" in refused.err
    database.query("alter table vict alter column note type text")
    database.query("delete from ct")
    done = workspace.smeta("apply", str(file))
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "change",
    [
        "alter role smeta_owner in database {database} set search_path = elsewhere, public",
        "alter default privileges for role smeta_owner grant select on tables to public",
        "alter table orders disable trigger all",
        "create or replace function called() returns int language sql return 2",
    ],
)
def test_what_new_objects_depend_on_makes_it_stale(
    planned: Workspace, database: TestDatabase, change: str
) -> None:
    database.query("create function called() returns int language sql return 1")
    database.query_as_admin("create schema elsewhere")
    database.query("create table parts (of int references orders)")
    planned.migration("3_c", "create table made (id int);\nselect called();", "drop table made;")
    file = plan(planned)
    database.query_as_admin(change.format(database=database.name))
    try:
        refused(planned, file, "plan-stale")
    finally:
        database.query_as_admin(f"alter role smeta_owner in database {database.name} reset search_path")


def test_a_plan_is_written_to_files_only_and_through_links(planned: Workspace) -> None:
    real, link = planned.root / "real.json", planned.root / "link.json"
    link.symlink_to(real)
    pipe = planned.root / "pipe"
    os.mkfifo(pipe)

    assert planned.smeta("plan", "--env", "test", "--out", str(link)).code == 0
    assert (link.is_symlink(), real.is_file()) == (True, True)
    for other in (pipe, planned.root / "migrations"):
        refused = planned.smeta("plan", "--env", "test", "--out", str(other))
        assert (refused.code, "error[plan-unwritten]" in refused.err) == (1, True), refused.err


def test_a_forged_plan_that_cannot_be_shown_is_refused(planned: Workspace) -> None:
    genuine = plan(planned).read_text()
    without_places = json.loads(genuine)
    without_places["facts"]["places"] = []
    no_sql = json.loads(genuine)
    no_sql["decision"]["steps"][0]["works"][0]["statements"][0]["text"] = "x y"

    for document in (without_places, no_sql):
        document |= {
            "id": canonical_digest(document["decision"]), "facts_id": canonical_digest(document["facts"])
        }  # fmt: skip
        forged = planned.root / "forged.json"
        forged.write_text(json.dumps(document))
        shown = planned.smeta("show", str(forged))
        assert (shown.code, "error[plan-unreadable]" in shown.err) == (78, True), shown.err


def test_what_a_terminal_would_obey_is_shown_as_an_escape(workspace: Workspace) -> None:
    workspace.migration("1_a", "select E'\x1b]0;owned\x07', '\u202e';")

    for output in ("human", "markdown"):
        shown = workspace.smeta("plan", "--env", "test", "--format", output).out
        assert "\\x1b]0;owned\\x07" in shown
        assert "\\u202e" in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
