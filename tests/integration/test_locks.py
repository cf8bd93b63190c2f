"""Locks: queued for shortly, held shortly, and whoever is in the way is named."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.servers import TestDatabase
from tests.waiting import until
from tests.workspace import Workspace


@pytest.fixture
def busy(workspace: Workspace, database: TestDatabase) -> Workspace:
    """A table that was there before, and a migration that alters it."""
    database.query("create table busy (id int); insert into busy select generate_series(1, 1000)")
    workspace.migration("1_a", "create table a (id int);\nalter table busy add column b int;")
    return workspace


@contextlib.contextmanager
def reader(
    database: TestDatabase, name: str = "reports", *, snapshot: bool = False
) -> Iterator[psycopg.Connection]:
    """A transaction that reads the table and stays open, with or without its snapshot."""
    with contextlib.closing(psycopg.connect(database.conninfo.dsn, application_name=name)) as connection:
        if snapshot:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select count(*) from busy")
        yield connection


def test_the_blocker_is_named_while_waiting_and_in_the_error(busy: Workspace, database: TestDatabase) -> None:
    with reader(database) as connection:
        # A look takes some milliseconds, and many times as long on a machine that is busy with other things.
        failed = busy.smeta("apply", "--env", "test", "--lock-timeout", "1s")

        assert failed.code == 4
        who = f"pid {connection.info.backend_pid}, user {connection.info.user}, reports, idle in transaction"
        assert f"blocked  1_a/1 waits for {who}" in failed.err
        assert f"blocked by {who}" in failed.err.split("error[lock-timeout]")[1]
        kept = database.query("select facts ->> 'step' from smeta.event where event = 'blocked'")
    assert kept == [("1_a/1",)]
    assert busy.smeta("apply", "--env", "test").code == 0


def test_readers_wait_for_the_lock_timeout_at_most(busy: Workspace, database: TestDatabase) -> None:
    worst = 0.0
    over = threading.Event()

    def read() -> None:
        nonlocal worst
        with psycopg.connect(database.conninfo.dsn, autocommit=True) as connection:
            while not over.is_set():
                begun = time.monotonic()
                connection.execute("select count(*) from busy")
                worst = max(worst, time.monotonic() - begun)

    application = threading.Thread(target=read)
    with reader(database):
        application.start()
        failed = busy.smeta("apply", "--env", "test")
    over.set()
    application.join()

    assert failed.code == 4
    # The reader queued behind us for 200 ms; without a time-out it would have been for as long as the other stays.
    assert 0.15 < worst < 2


def test_a_lock_is_not_held_for_longer_than_allowed(busy: Workspace, database: TestDatabase) -> None:
    busy.environment = "locks: {hold: 300ms}"
    busy.migration("2_b", "alter table busy add column c int;\nselect pg_sleep(30);")
    begun = time.monotonic()

    failed = busy.smeta("apply", "--env", "test")

    assert failed.code == 4, failed.err
    assert "error[lock-held]" in failed.err
    assert "AccessExclusiveLock on public.busy" in failed.err
    assert "migrations/2_b.sql:5" in failed.err
    assert time.monotonic() - begun < 15
    assert database.query(
        "select count(*) from pg_attribute where attrelid = 'busy'::regclass and attname in ('b', 'c')"
    ) == [(0,)]


def test_a_table_that_the_step_made_may_be_locked_for_as_long_as_it_takes(workspace: Workspace) -> None:
    workspace.environment = "locks: {hold: 100ms}"
    workspace.migration(
        "1_a", "create table a (id int);\nselect pg_sleep(1);\nalter table a add column b int;"
    )

    assert workspace.smeta("apply", "--env", "test").code == 0


def test_a_step_waits_until_old_transactions_have_let_go_of_its_tables(
    busy: Workspace, database: TestDatabase
) -> None:
    busy.environment = "locks: {require_quiet: 200ms}"
    busy.write_manifest()
    with reader(database):
        until(
            lambda: (
                database.query(
                    "select clock_timestamp() - xact_start > '300 ms' from pg_stat_activity "
                    "where application_name = 'reports'"
                )
                == [(True,)]
            )
        )

        failed = busy.smeta("apply", "--env", "test")

        assert failed.code == 4
        assert "locks.require_quiet" in failed.err
        assert "held by pid" in failed.err
        assert "reports" in failed.err
    assert busy.smeta("apply", "--env", "test").code == 0


def test_nobody_is_ended_but_those_whom_the_manifest_names(busy: Workspace, database: TestDatabase) -> None:
    busy.environment = "locks: {terminate_blockers: [reports]}"
    busy.write_manifest()
    with reader(database, "payments") as innocent, reader(database, "reports") as named:
        failed = busy.smeta("apply", "--env", "test")

        assert failed.code == 4  # the other one is still in the way
        assert "locks.terminate_blockers" in failed.err
        with pytest.raises(psycopg.OperationalError):
            named.execute("select 1")
        innocent.execute("select 1")
    assert database.query("select count(*) from smeta.event where event = 'blocker-terminated'") == [(1,)]


def test_an_index_built_concurrently_waits_for_a_long_transaction_without_a_lock_timeout(
    busy: Workspace, database: TestDatabase
) -> None:
    busy.migration("1_a", "create index concurrently busy_id on busy (id);")
    with reader(database, snapshot=True):
        run = busy.start("apply", "--env", "test")
        until(
            lambda: (
                database.query("select 1 from pg_stat_progress_create_index where phase like 'waiting for %'")
                == [(1,)]
            )
        )
        until(lambda: any(event["event"] == "blocked" for event in busy.log()), what="the blocker is named")
    _, err = run.communicate(timeout=30)

    assert run.returncode == 0, err
    assert "reports" in err
    assert database.query("select indisvalid from pg_index where indexrelid = 'busy_id'::regclass") == [
        (True,)
    ]


@pytest.fixture
def autovacuum(database: TestDatabase) -> Iterator[None]:
    """Autovacuum, which throw-away servers have switched off."""
    database.query_as_admin("alter system set autovacuum = on")
    database.query_as_admin("alter system set autovacuum_naptime = 1")
    database.query_as_admin("select pg_reload_conf()")
    yield
    database.query_as_admin("alter system reset autovacuum")
    database.query_as_admin("alter system reset autovacuum_naptime")
    database.query_as_admin("select pg_reload_conf()")


@pytest.mark.usefixtures("autovacuum")
def test_an_autovacuum_gets_the_time_to_give_way(busy: Workspace, database: TestDatabase) -> None:
    """It gives way to whoever waits longer than deadlock_timeout: one second, and five times locks.timeout."""
    busy.environment = "locks: {retries: {attempts: 3}}"
    busy.write_manifest()
    database.query(
        "alter table busy set (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, "
        "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);"
        "insert into busy select generate_series(1, 200000); delete from busy where id % 2 = 0"
    )
    worker = "select 1 from pg_stat_activity where backend_type = 'autovacuum worker' and query like '%busy%'"
    until(lambda: bool(database.query_as_admin(worker)), seconds=60, what="autovacuum of the table")

    done = busy.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert "autovacuum" in done.err
    assert done.err.count("retry ") == 1


def test_vacuum_that_gets_no_lock_is_tried_again(busy: Workspace, database: TestDatabase) -> None:
    busy.migration("1_a", "vacuum busy;")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as holder:
        holder.execute("lock table busy in share update exclusive mode")

        failed = busy.smeta("apply", "--env", "test")

        assert failed.code in (4, 5)
        assert "error[lock-timeout]" in failed.err
        assert "retry" in failed.err
    assert busy.smeta("apply", "--env", "test").code == 0
    assert busy.applied() == ["1_a"]
