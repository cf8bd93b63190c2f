"""Statements outside transactions that were cut off: what they left is recognised, and the next run ends well."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from smeta_declare.postgres.history import FORMAT
from tests.servers import TestDatabase
from tests.waiting import until, until_running
from tests.workspace import Workspace


@contextlib.contextmanager
def snapshot(database: TestDatabase, statement: str, *, admin: bool = False) -> Iterator[None]:
    """A transaction that holds a snapshot: what is done concurrently waits for it."""
    with contextlib.closing(
        psycopg.connect(database.admin if admin else database.conninfo.dsn)
    ) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(statement.encode())
        yield


def cut_off(
    workspace: Workspace, database: TestDatabase, running: str, statement: str, *, admin: bool = False
) -> None:
    """Kill a run while its statement waits for a snapshot, and end the server process that it leaves."""
    with snapshot(database, statement, admin=admin):
        run = workspace.start("apply", "--env", "test")
        until_running(database, running, admin=admin)
        waits = "select 1 from pg_stat_activity where query ilike %s and wait_event_type = 'Lock'"
        until(lambda: bool(database.query_as_admin(waits, running)), what="it waits")
        run.kill()
        run.communicate()
        database.query_as_admin(
            "select pg_terminate_backend(pid) from pg_stat_activity where query ilike %s and pid <> pg_backend_pid()",
            running,
        )
        until(lambda: not database.query_as_admin(waits, running), what="its process is gone")


def invalid(database: TestDatabase) -> list[str]:
    """The indexes that are not valid."""
    return [
        row[0]
        for row in database.query("select indexrelid::regclass::text from pg_index where not indisvalid")
    ]


def test_a_build_that_was_cut_off_is_done_again(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table t (id int)")
    workspace.migration("1_a", "create index concurrently if not exists t_id on t (id);")
    cut_off(workspace, database, "create index concurrently%", "select * from t")
    assert invalid(database) == ["t_id"]

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert "cleaned  1_a/1: invalid index t_id dropped" in done.err
    assert invalid(database) == []
    assert database.query("select count(*) from pg_index where indrelid = 't'::regclass") == [(1,)]


def test_what_a_reindex_left_is_dropped_and_nothing_else(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table t (id int); create index t_id on t (id); insert into t values (1), (1)")
    with pytest.raises(psycopg.Error):  # somebody else's leftover, with a name like ours
        database.query("create unique index concurrently t_ccnew on t (id)")
    workspace.migration("1_a", "reindex index concurrently t_id;")
    cut_off(workspace, database, "reindex index concurrently%", "select * from t")
    assert sorted(invalid(database)) == ["t_ccnew", "t_id_ccnew"]

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert "cleaned  1_a/1: invalid index public.t_id_ccnew dropped" in done.err
    assert invalid(database) == ["t_ccnew"]
    assert workspace.applied() == ["1_a"]


REBUILT = (
    "create table p (id int primary key, t text) partition by range (id);"
    "create table p1 partition of p for values from (0) to (9);"
    'create schema "S"; create table "S"."X" (id int primary key, t text);'
)


@pytest.mark.parametrize(
    ("statement", "held", "names"),
    [
        ("reindex table concurrently p", "select * from p1", ["p1_pkey_ccnew", "toast"]),
        ("reindex index concurrently p_pkey", "select * from p1", ["p1_pkey_ccnew"]),
        ('reindex table concurrently "S"."X"', 'select * from "S"."X"', ['"S"."X_pkey_ccnew"', "toast"]),
        ('reindex schema concurrently "S"', 'select * from "S"."X"', ['"S"."X_pkey_ccnew"', "toast"]),
    ],
)
@pytest.mark.parametrize("granted", [False, True], ids=["owner", "granted"])
def test_what_a_reindex_left_of_partitions_and_toast_tables(
    workspace: Workspace,
    database: TestDatabase,
    statement: str,
    held: str,
    names: list[str],
    *,
    granted: bool,
) -> None:
    """An owner may not use schema pg_toast: that index stays, is named, and keeps nothing from being finished."""
    user = f"reindexer_{database.name}"
    database.query_as_admin(f"create role {user} login password 'x'")
    try:
        database.query_as_admin(
            f"grant create on schema public to {user}; grant create on database {database.name} to {user};"
            + (f"grant usage on schema pg_toast to {user};" if granted else "")
            + f"set role {user};{REBUILT}"
        )
        workspace.environment = f"role: {user}"
        workspace.environ["TRIAL_URL"] = database.admin
        workspace.migration("1_a", f"{statement};")
        cut_off(workspace, database, f"{statement}%", held, admin=True)
        left = [re.sub(r"pg_toast\.pg_toast_\d+_index_ccnew", "toast", name) for name in invalid(database)]
        assert sorted(left) == sorted(names)
        toast = [name for name in invalid(database) if "toast" in name]

        done = workspace.smeta("apply", "--env", "test")

        assert done.code == 0, done.err
        for name in names:
            if name != "toast":
                assert f"invalid index {name if '.' in name else f'public.{name}'} dropped" in done.err
        assert invalid(database) == ([] if granted else toast)
        for name in toast:
            stays = f"as a superuser: drop index concurrently {name}" in done.err
            assert (stays, f"invalid index {name} dropped" in done.err) == (not granted, granted)
    finally:
        database.query_as_admin(f"drop owned by {user} cascade; drop role {user}")


def test_a_partition_that_is_half_detached_is_finalised(workspace: Workspace, database: TestDatabase) -> None:
    database.query(
        "create table p (id int) partition by range (id); create table p1 partition of p for values from (0) to (9)"
    )
    workspace.migration("1_a", "alter table p detach partition p1 concurrently;")
    cut_off(workspace, database, "alter table p detach%", "select * from p")
    assert database.query("select inhdetachpending from pg_inherits") == [(True,)]

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert "detaching of p1 finished" in done.err
    assert database.query("select count(*) from pg_inherits") == [(0,)]
    assert workspace.applied() == ["1_a"]


def test_a_detach_that_somebody_else_began_is_not_ours_to_end(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query(
        "create table t (id int) partition by range (id); create table t_1 partition of t for values from (1) to (9)"
    )
    workspace.migration("1_a", "alter table t detach partition t_1 concurrently;")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn, autocommit=True)) as theirs:
        theirs.execute("set statement_timeout = '500ms'")
        with snapshot(database, "select * from t"), pytest.raises(psycopg.errors.QueryCanceled):
            theirs.execute("alter table t detach partition t_1 concurrently")
    pending = "select inhdetachpending from pg_inherits where inhrelid = 't_1'::regclass"
    assert database.query(pending) == [(True,)]

    for _ in range(2):
        refused = workspace.smeta("apply", "--env", "test")
        assert refused.code in (1, 5), refused.err
        assert "partition t_1 is half detached, and no run of smeta began it" in refused.err
        assert database.query(pending) == [(True,)]


def test_a_statement_that_failed_may_be_edited_into_another_number_of_steps(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table t (id int); insert into t values (1), (1)")
    path = workspace.migration(
        "1_a", "create unique index concurrently t_id on t (id);\ncreate table a (id int);\nvacuum t;"
    )
    assert workspace.smeta("apply", "--env", "test").code == 5
    text = path.read_text()
    path.write_text(text.replace("unique ", "").replace("vacuum t;", ""))

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert "cleaned  1_a/1: invalid index t_id dropped" in done.err
    assert invalid(database) == []
    assert workspace.applied() == ["1_a"]
    assert workspace.smeta("apply", "--env", "test").out.strip().endswith("nothing to apply")


def test_what_a_statement_left_is_taken_away_where_it_does_not_stand_alone_any_more(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table t (id int); insert into t values (1), (1)")
    path = workspace.migration(
        "1_a", "create table a (id int);\ncreate unique index concurrently t_id on t (id);"
    )
    assert workspace.smeta("apply", "--env", "test").code == 5
    assert invalid(database) == ["t_id"]
    path.write_text(path.read_text().replace("unique index concurrently", "index"))
    assert workspace.smeta("apply", "--env", "test").code == 3  # a third step begins where there were three

    path.write_text(path.read_text().replace("create index", "vacuum t;\ncreate index"))
    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert "cleaned  1_a/2: invalid index t_id dropped" in done.err
    assert invalid(database) == []


@pytest.mark.parametrize(
    "statement", ["vacuum nope", "drop index concurrently nope", "alter type nope add value 'a'"]
)
def test_a_statement_that_the_server_refuses_leaves_nothing_half_done(
    workspace: Workspace, database: TestDatabase, statement: str
) -> None:
    workspace.migration("1_a", f"{statement};")

    for _ in range(2):
        failed = workspace.smeta("apply", "--env", "test")
        assert failed.code == 1, failed.err
        assert "everything was rolled back" in failed.err
    assert database.query("select distinct outcome from smeta.run") == [("failed",)]
    assert database.query("select count(*) from smeta.step") == [(0,)]


@pytest.mark.parametrize("edited", ["vacuum t;", "create table a (id int);"])
def test_what_was_done_before_the_edit_is_not_forgotten(
    workspace: Workspace, database: TestDatabase, edited: str
) -> None:
    """The client was killed, its server process went on and finished."""
    database.query(
        "create table t (id int) partition by range (id); create table t_1 partition of t for values from (1) to (9)"
    )
    text = "alter table t detach partition t_1 concurrently;"
    path = workspace.migration("1_a", text)
    with snapshot(database, "select * from t"):
        run = workspace.start("apply", "--env", "test")
        until_running(database, "alter table t detach%")
        run.kill()
        run.communicate()
        database.query(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'alter table t detach%' "
            "and pid <> pg_backend_pid()"
        )
    pending = "select inhdetachpending from pg_inherits where inhrelid = 't_1'::regclass"
    if database.query(pending) == [(False,)]:
        database.query("alter table t detach partition t_1")
    else:
        database.query("alter table t detach partition t_1 finalize")
    path.write_text(path.read_text().replace(text, edited))

    refused = workspace.smeta("apply", "--env", "test", "--runner-wait", "10s")

    assert refused.code in (1, 5), refused.err
    assert "partition t_1 was detached by this step before it was edited" in refused.err
    path.write_text(path.read_text().replace(edited, text))
    assert workspace.smeta("apply", "--env", "test").code == 0


def test_an_edit_takes_away_what_the_earlier_text_left(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table t (id int)")
    path = workspace.migration("1_a", "create index concurrently t_one on t (id);")
    cut_off(workspace, database, "create index concurrently%", "select * from t")
    path.write_text(path.read_text().replace("t_one", "t_two"))

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert database.query(
        "select indexrelid::regclass::text from pg_index where indrelid = 't'::regclass"
    ) == [("t_two",)]


def test_if_not_exists_is_not_content_with_half_an_index(
    workspace: Workspace, database: TestDatabase
) -> None:
    """Also where it becomes invalid behind our back, between two looks."""
    database.query("create table t (id int); insert into t values (1), (1)")
    workspace.migration("1_a", "create unique index concurrently if not exists t_id on t (id);")

    assert workspace.smeta("apply", "--env", "test").code == 5
    assert workspace.smeta("apply", "--env", "test").code == 5
    database.query("delete from t")
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert invalid(database) == []


def test_a_database_that_was_made_is_not_made_again(workspace: Workspace, database: TestDatabase) -> None:
    name = f"{database.name}_made"
    workspace.migration("1_a", f"create database {name};", f"drop database {name};")
    rows = database.query("select rolcreatedb from pg_roles where rolname = current_user")
    database.query_as_admin(f"alter role {database.conninfo.parameters()['user']} createdb")
    try:
        assert workspace.smeta("apply", "--env", "test").code == 0
        # As if the answer had been lost: the statement is done, its row says started.
        database.query("delete from smeta.step where state = 'done'; delete from schema_migrations")

        done = workspace.smeta("apply", "--env", "test")

        assert done.code == 0, done.err
        assert workspace.smeta("rollback", "--env", "test", "--allow-destructive").code == 0
        assert database.query("select count(*) from pg_database where datname = %s", name) == [(0,)]
    finally:
        database.query_as_admin(f'drop database if exists "{name}"')
        if rows == [(False,)]:
            database.query_as_admin(f"alter role {database.conninfo.parameters()['user']} nocreatedb")


def test_a_new_enum_value_is_committed_before_it_is_used(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create type mood as enum ('glad'); create table t (m mood)")
    workspace.migration("1_a", "alter type mood add value 'sad';\ninsert into t values ('sad');")
    workspace.migration("2_b", "alter type mood add value 'calm';")
    workspace.migration("3_c", "insert into t values ('calm');")

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert database.query("select m from t order by m") == [("sad",), ("calm",)]


def test_a_new_enum_value_is_committed_before_a_validation_or_check_asks_for_it(
    workspace: Workspace, database: TestDatabase
) -> None:
    """PostgreSQL refuses it in the transaction that added it even in a comparison (55P04)."""
    database.query("create type mood as enum ('glad'); create table t (m mood default 'glad')")
    workspace.migration(
        "1_a",
        "alter type mood add value 'sad';",
        validation="-- expect: empty\nselect 1 from t where m = 'sad';",
    )
    workspace.migration("2_b", "alter type mood add value 'calm';")
    workspace.migration(
        "3_c", "insert into t default values;", validation="select m is distinct from 'calm' from t;"
    )
    workspace.migration("4_d", "alter type mood add value 'angry';")
    workspace.more = (
        "checks: [{name: nobody is angry, sql: \"select 1 from t where m = 'angry'\", expect: empty}]"
    )
    workspace.write_manifest()

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert workspace.applied() == ["1_a", "2_b", "3_c", "4_d"]
    assert database.query("select enum_range(null::mood)::text") == [("{glad,sad,calm,angry}",)]


def test_an_abandoned_run_leaves_nothing_half_built(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table t (id int)")
    workspace.migration(
        "1_a", "create table a (id int);\ncreate index concurrently t_id on t (id);", "drop table a;"
    )
    cut_off(workspace, database, "create index concurrently%", "select * from t")
    status = workspace.smeta("status", "--env", "test", "--format", "json").json
    (run,) = status["open_runs"]
    assert run["request"] == "apply"

    assert workspace.smeta("apply", "--env", "test", "--abandon", "nobody").code == 64
    abandoned = workspace.smeta("apply", "--env", "test", "--abandon", run["run"])

    assert abandoned.code == 0, abandoned.err
    assert "1_a (forward): step 1 of 3" in abandoned.out
    assert invalid(database) == []
    assert database.query("select outcome from smeta.run") == [("abandoned",)]
    assert workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"] == []
    assert workspace.smeta("rollback", "--env", "test").code == 0
    assert workspace.tables() == {"t"}


def test_an_abandoned_migration_of_which_nothing_is_there_is_pending_again(
    workspace: Workspace, database: TestDatabase
) -> None:
    """Else the way back would step over it, and undo the one before."""
    workspace.migration("1_a", "create table t (i int);\ninsert into t values (1), (1);", "drop table t;")
    workspace.migration("2_b", "create unique index concurrently t_i on t (i);", "drop index if exists t_i;")
    assert workspace.smeta("apply", "--env", "test").code == 5
    refused = workspace.smeta("rollback", "--env", "test")
    assert refused.code == 5
    assert "2_b is half done on its way forward: begun, and nothing of it is committed" in refused.err
    assert "which leaves nothing of it" in refused.err
    (run,) = workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"]

    assert workspace.smeta("apply", "--env", "test", "--abandon", run["run"]).code == 0

    assert invalid(database) == []
    status = workspace.smeta("status", "--env", "test", "--format", "json").json
    assert [m["state"] for m in status["migrations"]] == ["applied", "pending"]


def test_whom_the_clean_up_of_an_abandoned_run_waits_for_is_named(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table t (i int)")
    workspace.migration("1_a", "create index concurrently t_i on t (i);")
    cut_off(workspace, database, "create index concurrently%", "select * from t")
    ((run,),) = database.query("select id::text from smeta.run")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn, application_name="slow")) as connection:
        connection.execute("insert into t values (1)")
        pid = connection.info.backend_pid
        process = workspace.start("apply", "--env", "test", "--abandon", run)
        until_running(database, "drop index concurrently%")
        assert process.stderr is not None
        told = process.stderr.readline()
        while "blocked" not in told:
            told = process.stderr.readline()
        connection.commit()
    _, err = process.communicate(timeout=20)

    assert process.returncode == 0, err
    assert f"pid {pid}, user {database.conninfo.parameters()['user']}, slow" in told
    assert invalid(database) == []


def test_what_an_interrupted_clean_up_leaves_is_told(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table t (i int)")
    workspace.migration("1_a", "create index concurrently t_i on t (i);")
    cut_off(workspace, database, "create index concurrently%", "select * from t")
    ((run,),) = database.query("select id::text from smeta.run")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as connection:
        connection.execute("insert into t values (1)")
        process = workspace.start("apply", "--env", "test", "--abandon", run)
        until_running(database, "drop index concurrently%")
        process.terminate()
        _, err = process.communicate(timeout=20)

    assert process.returncode == 4, err
    left = "nothing was taken away; the run is open until the same command has ended it"
    assert f"  = database: what is committed stays; {left}\n" in err
    assert workspace.smeta("apply", "--env", "test", "--abandon", run).code == 0
    assert invalid(database) == []


def test_a_way_back_that_fails_half_way_can_be_corrected_in_its_file(
    workspace: Workspace, database: TestDatabase
) -> None:
    path = workspace.migration(
        "1_a",
        "create table t (i int);\ncreate index concurrently t_i on t (i);",
        "drop index concurrently if exists t_i;\nselect 1 / 0;\ndrop table t;",
    )
    assert workspace.smeta("apply", "--env", "test").code == 0
    failed = workspace.smeta("rollback", "--env", "test")
    assert failed.code == 5, failed.err
    assert "run it with --from-file" in failed.err
    text = path.read_text()
    path.write_text(text.replace("drop index concurrently if exists t_i", "drop index concurrently t_i"))
    assert workspace.smeta("rollback", "--env", "test", "--from-file").code == 3  # that has run already
    path.write_text(text.replace("select 1 / 0;\n", ""))

    done = workspace.smeta("rollback", "--env", "test", "--from-file")

    assert done.code == 0, done.err
    assert workspace.tables() == set()
    assert workspace.applied() == []


def test_the_journal_of_an_older_smeta_is_upgraded(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query(  # all in which format 1 differs
        "drop table smeta.event, smeta.backfill; update smeta.history set format = 1;"
        "alter table smeta.run drop column saved;"
        "alter table schema_migrations alter id add generated always as identity (start with 2)"
    )
    assert workspace.smeta("status", "--env", "test").code == 0  # reads it, and changes nothing
    assert database.query("select format from smeta.history") == [(1,)]
    workspace.migration("2_b", "create table b (id int);", "drop table b;")

    assert workspace.smeta("apply", "--env", "test").code == 0

    assert database.query("select format, to_regclass('smeta.event') is not null from smeta.history") == [
        (FORMAT, True)
    ]
    assert workspace.smeta("rollback", "2", "--env", "test").code == 0


def test_a_signal_cancels_on_the_server_and_the_same_command_goes_on(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table t (id int)")
    workspace.migration("1_a", "create table a (id int);\ncreate index concurrently t_id on t (id);")
    with snapshot(database, "select * from t"):
        run = workspace.start("apply", "--env", "test")
        until_running(database, "create index concurrently%")
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=20)

        assert run.returncode == 5, err
        assert "error[interrupted]: stopped by SIGINT" in err
        assert "committed by this run: 1_a/1" in err
        running = "select 1 from pg_stat_activity where query like 'create index conc%' and state = 'active'"
        assert database.query(running) == []
    assert database.query("select outcome from smeta.run") == [("stopped",)]

    assert workspace.smeta("apply", "--env", "test").code == 0
    assert invalid(database) == []


def test_a_signal_during_the_back_off_ends_it(workspace: Workspace, database: TestDatabase) -> None:
    workspace.environment = (
        "locks: {timeout: 50ms, retries: {attempts: 50, backoff: 499h, max_backoff: 499h}}"
    )
    database.query("create table t (id int)")
    workspace.migration("1_a", "alter table t add column b int;")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as connection:
        connection.execute("select * from t")
        run = workspace.start("apply", "--env", "test")
        until(lambda: any(event["event"] == "step-retried" for event in workspace.log()))
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=20)

    assert run.returncode == 4, err
    assert "stopped by SIGTERM" in err
    assert "everything was rolled back" in err


def test_a_second_signal_leaves_at_once(workspace: Workspace, database: TestDatabase) -> None:
    """The server process is stopped, so that it does not answer the cancel of the first signal."""
    workspace.migration("1_a", "create table a (id int);\nselect pg_sleep(60);")
    run = workspace.start("apply", "--env", "test")
    until_running(database, "select pg_sleep(60)%")
    ((pid,),) = database.query("select pid from pg_stat_activity where query = 'select pg_sleep(60)'")
    os.kill(pid, signal.SIGSTOP)
    try:
        run.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            run.communicate(timeout=1)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=5)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert run.returncode == 5
    assert "left at once" in err
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test", "--runner-wait", "30s").code == 0
    assert workspace.applied() == ["1_a"]


def test_a_signal_while_the_backup_is_taken_leaves_nothing(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.environment = "backup: whole"
    workspace.more = "backups: {directory: backups, policies: {whole: {scope: full, format: plain}}}"
    database.query("create table t (id int)")
    workspace.migration("1_a", "create table a (id int);")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as connection:
        connection.execute("lock table t in access exclusive mode")  # pg_dump waits for it
        run = workspace.start("apply", "--env", "test")
        until_running(database, "LOCK TABLE%")
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=20)

    assert run.returncode == 4, err
    assert "stopped by SIGTERM" in err
    assert workspace.applied() == []
    left = [p.name for p in Path(workspace.root / "backups").iterdir()]
    assert [name for name in left if not name.startswith(".")] == []


def test_what_belongs_to_another_role_is_told(workspace: Workspace, database: TestDatabase) -> None:
    owner, other = f"owner_{database.name}", f"other_{database.name}"
    user = database.conninfo.parameters()["user"]
    database.query_as_admin(f"create role {owner}; create role {other}; grant {owner}, {other} to {user}")
    database.query_as_admin(f"grant create on schema public to {owner}, {other}")
    database.query_as_admin(f"grant create on database {database.name} to {owner}; grant {other} to {owner}")
    workspace.environment = f"role: {owner}"
    workspace.migration("1_a", f"create table a (id int);\nset role {other};\ncreate table b (id int);")
    try:
        done = workspace.smeta("apply", "--env", "test")

        assert done.code == 0, done.err
        assert f"b belongs to {other}, not to role {owner}" in done.err
        assert "a belongs" not in done.err
    finally:
        database.query_as_admin(f"drop owned by {owner}, {other}; drop role {owner}; drop role {other}")
