"""Connections that are refused, or ended by the server, in the middle of things."""

from __future__ import annotations

import contextlib
import signal

import psycopg
import pytest

from tests.servers import TestDatabase
from tests.waiting import until, until_running
from tests.workspace import Workspace


def limit(database: TestDatabase, connections: int) -> None:
    """As many as ordinary users may have to this database at once; nobody is connected to it when this returns.

    A session counts until its process is gone, some time after its client.
    """
    statement = f'alter database "{database.name}" connection limit {connections}'
    there = "select count(*) from pg_stat_activity where datname = %s"
    with contextlib.closing(psycopg.connect(database.server.admin, autocommit=True)) as admin:
        admin.execute(statement.encode())
        until(
            lambda: admin.execute(there, [database.name]).fetchone() == (0,), what="the end of all sessions"
        )


def test_without_a_free_connection_nothing_runs(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);")
    limit(database, 1)
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)):
        outcomes = [workspace.smeta(verb, "--env", "test") for verb in ("status", "plan", "apply")]

    assert [o.code for o in outcomes] == [4, 4, 4]
    for outcome in outcomes:
        assert "error[connection]" in outcome.err
        assert "too many connections for database" in outcome.err
        assert "nothing was run" in outcome.err
    limit(database, -1)
    assert workspace.tables() == set()
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.applied() == ["1_a"]


def test_without_a_second_connection_the_run_goes_on_unwatched(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_a", "create table a (id int);\nselect pg_sleep(0.8);")
    limit(database, 1)

    done = workspace.smeta("apply", "--env", "test")

    limit(database, -1)
    assert done.code == 0, done.err
    assert done.err.count("no second connection to watch the first") == 1
    assert "too many connections for database" in done.err
    assert "locks.hold is not enforced" in done.err
    assert workspace.applied() == ["1_a"]


def test_a_session_that_is_ended_and_not_let_in_again(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);\nselect pg_sleep(60);")
    with workspace.start("apply", "--env", "test") as run:
        until_running(database, "%pg_sleep(60)%")
        with contextlib.closing(psycopg.connect(database.server.admin, autocommit=True)) as admin:
            admin.execute(f'alter database "{database.name}" allow_connections false'.encode())
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [database.name]
            )
            _, said = run.communicate(timeout=60)
            refused = workspace.smeta("apply", "--env", "test")
            admin.execute(f'alter database "{database.name}" allow_connections true'.encode())

    assert run.returncode == 4, said
    assert "error[connection-lost]" in said
    assert "everything was rolled back" in said
    assert (refused.code, "is not currently accepting connections" in refused.err) == (4, True)
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.applied() == ["1_a"]


def test_a_client_that_hangs_in_a_transaction_is_rolled_back_by_the_server(
    workspace: Workspace, database: TestDatabase
) -> None:
    """`timeouts.idle_in_transaction` bounds how long a stopped process holds its locks."""
    database.query("create table a (id int)")
    workspace.environment = "timeouts: {idle_in_transaction: 300ms}\n    transaction: each"
    workspace.migration("1_a", "create table b (id int);")
    path = workspace.migration("2_b", "alter table a add column n int;\nselect pg_sleep(0.7);")
    with workspace.start("apply", "--env", "test") as run:
        until_running(database, "%pg_sleep(0.7)%")
        run.send_signal(signal.SIGSTOP)
        gone = "select 1 from pg_stat_activity where datname = current_database() and query like '%%pg_sleep(0.7)%%'"
        until(
            lambda: not database.query(gone + " and pid <> pg_backend_pid()"), what="the end of its session"
        )
        assert database.query("lock table a in access exclusive mode; select 1") == [(1,)]
        run.send_signal(signal.SIGCONT)
        _, said = run.communicate(timeout=60)

    assert run.returncode == 5, said
    assert "error[connection-lost]" in said
    assert "idle-in-transaction timeout" in said
    assert "committed by this run: 1_a/1; the step that failed was rolled back" in said
    assert workspace.applied() == ["1_a"]
    path.write_text(path.read_text().replace("pg_sleep(0.7)", "1"))
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.applied() == ["1_a", "2_b"]


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_a_time_out_of_the_whole_transaction_that_a_migration_sets(
    workspace: Workspace, database: TestDatabase
) -> None:
    """`transaction_timeout` ends the session, not the statement: it is a lost connection, and nothing stays."""
    workspace.migration(
        "1_a", "create table a (id int);\nset transaction_timeout = '300ms';\nselect pg_sleep(5);"
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 4
    assert "error[connection-lost]" in failed.err
    assert "transaction timeout" in failed.err
    assert "everything was rolled back" in failed.err
    assert (workspace.tables(), workspace.applied()) == (set(), [])
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0


def test_a_statement_that_takes_too_long_is_rolled_back(workspace: Workspace, database: TestDatabase) -> None:
    workspace.environment = "timeouts: {statement: 200ms}\n    transaction: each"
    workspace.migration("1_a", "create table a (id int);")
    path = workspace.migration("2_b", "create table b (id int);\n\nselect pg_sleep(5);")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 5
    assert "error[statement-timeout]: 2_b: canceling statement due to statement timeout" in failed.err
    assert "2_b.sql:6" in failed.err
    assert "give it longer with `timeouts:` of this migration" in failed.err
    assert (workspace.tables(), workspace.applied()) == ({"a"}, ["1_a"])
    path.write_text(path.read_text().replace("pg_sleep(5)", "1"))
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.applied() == ["1_a", "2_b"]
