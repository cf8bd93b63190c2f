"""The journal itself: locked, damaged, of another format; and what a migration may not leave to the next one."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from smeta_declare.postgres.history import FORMAT
from tests.servers import TestDatabase
from tests.workspace import Workspace


@pytest.mark.parametrize("command", [("status",), ("plan",), ("apply",)], ids=" ".join)
@pytest.mark.parametrize("table", ["smeta.step", "schema_migrations"])
def test_who_holds_the_journal_is_named(
    workspace: Workspace, database: TestDatabase, table: str, command: tuple[str, ...]
) -> None:
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    workspace.migration("2_b", "create table b (id int);")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn, application_name="cleaner")) as connection:
        connection.execute(f"lock table {table}".encode())
        refused = workspace.smeta(*command, "--env", "test")
        pid = connection.info.backend_pid

    assert refused.code == 4, refused.err
    assert "error[server-busy]: canceling statement due to lock timeout" in refused.err
    assert f"held by pid {pid}, user {database.conninfo.parameters()['user']}, cleaner" in refused.err
    assert workspace.applied() == ["1_a"]


@pytest.mark.parametrize(
    "forward",
    ["create table b (id int);", "create table b (id int);\ncreate index concurrently b_id on b (id);"],
    ids=["transaction", "alone"],
)
def test_locked_events_are_waited_for_and_their_holder_is_named(
    workspace: Workspace, database: TestDatabase, forward: str
) -> None:
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    workspace.migration("2_b", forward)
    with contextlib.closing(psycopg.connect(database.conninfo.dsn, application_name="cleaner")) as connection:
        connection.execute("lock table smeta.event")
        refused = workspace.smeta("apply", "--env", "test")
        pid = connection.info.backend_pid

    assert refused.code == 4, refused.err
    assert "error[lock-timeout]: no lock after 2 tries: 2_b" in refused.err
    assert f"blocked by pid {pid}, user {database.conninfo.parameters()['user']}, cleaner" in refused.err
    assert "everything was rolled back: the database is as it was before" in refused.err
    assert workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"] == []
    assert workspace.tables() == {"a"}
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert database.query("select id, version from schema_migrations order by id") == [(1, "1_a"), (2, "2_b")]


@pytest.mark.parametrize("command", [("status",), ("apply",)], ids=" ".join)
def test_a_locked_catalogue_is_not_waited_for_in_silence(
    workspace: Workspace, database: TestDatabase, command: tuple[str, ...]
) -> None:
    workspace.migration("1_a", "create table a (id int);")
    with contextlib.closing(psycopg.connect(database.admin)) as connection:
        connection.execute("lock table pg_catalog.pg_namespace in access exclusive mode")
        refused = workspace.smeta(*command, "--env", "test")

    assert refused.code == 4, refused.err


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("drop table smeta.step", "table step is missing"),
        ("drop table smeta.backfill, smeta.step, smeta.event, smeta.run", "table run is missing"),
        ("drop table smeta.history, schema_migrations cascade", "table run is there alone"),
        ("truncate smeta.step", "schema_migrations has 1_a as applied, and no step of it is known"),
        ("delete from smeta.step where position = 0", "1_a as applied, and step 1 of 3 is not known"),
        ("delete from smeta.step where position <> 1", "1_a as applied, and steps 1, 3 of 3 are not known"),
        ("delete from smeta.history", "its row in `history` is gone"),
        ("alter table schema_migrations drop column description", 'column "description" does not exist'),
        ("alter table smeta.run drop column request", 'column "request" does not exist'),
        ("update smeta.history set format = 0", "format 0, which no smeta writes"),
    ],
)
@pytest.mark.parametrize("command", ["status", "plan", "apply"])
def test_a_damaged_journal_is_refused(
    workspace: Workspace, database: TestDatabase, command: str, damage: str, told: str
) -> None:
    forward = "create table a (id int);"
    if "position" in damage:
        forward += "\ncreate index concurrently a_id on a (id);"  # of three steps
    workspace.migration("1_a", forward, "drop table a;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    if damage == "delete from smeta.history":
        for table in ("step", "backfill"):
            database.query(f"alter table smeta.{table} drop constraint {table}_history_fkey")
    database.query(damage)

    refused = workspace.smeta(command, "--env", "test")

    assert refused.code == 3, refused.err
    assert "error[history-foreign]" in refused.err
    assert told in refused.err
    assert "a" in workspace.tables()


@pytest.mark.parametrize("table", ["event", "backfill"])
def test_nothing_runs_without_all_of_the_journal(
    workspace: Workspace, database: TestDatabase, table: str
) -> None:
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query(f"drop table smeta.{table}")
    workspace.migration("2_b", "create table b (id int);")

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 3, refused.err
    assert f"table {table} is missing" in refused.err
    assert "b" not in workspace.tables()


def test_a_format_that_is_behind_its_tables_is_brought_forward(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query("update smeta.history set format = 1")
    workspace.migration("2_b", "create table b (id int);")

    assert workspace.smeta("apply", "--env", "test").code == 0

    assert database.query("select format from smeta.history") == [(FORMAT,)]


def test_locks_and_channels_do_not_reach_the_next_migration(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.environment = "transaction: each"
    taken = "select pg_advisory_lock(1, -2), pg_advisory_lock(-5), pg_advisory_lock_shared(7), pg_advisory_lock(7);"
    workspace.migration("1_a", f"{taken}\n{taken}\nlisten news;\ncreate table a (id int);")
    workspace.migration(
        "2_b",
        "create table seen as select classid::int8, (select count(*) from pg_listening_channels()) as heard "
        "from pg_locks where locktype = 'advisory' and pid = pg_backend_pid();",
    )

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    ((classid, heard),) = database.query("select * from seen")
    assert classid == 0x736D6574  # the runner's lock alone
    assert heard == 0


def test_every_event_of_a_run_is_kept(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0

    assert database.query("select event, facts->>'outcome' from smeta.event order by at, event desc") == [
        ("run-started", None),
        ("run-finished", "done"),
    ]
