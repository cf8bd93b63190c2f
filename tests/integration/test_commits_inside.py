"""Procedures that commit: what is repeated, what counts as done, and who else may work meanwhile."""

from __future__ import annotations

import contextlib
import signal

import psycopg
import pytest

from tests.servers import TestDatabase
from tests.waiting import until, until_running
from tests.workspace import Workspace

COMMITTING = (
    "create table ran (at timestamptz default clock_timestamp());"
    "create procedure work() language plpgsql as $$begin "
    "insert into ran default values; commit; perform pg_sleep(%s); insert into ran default values; end$$"
)
QUICK = COMMITTING.split(";", 1)[1].replace("create procedure", "create or replace procedure") % "0"


def test_a_procedure_that_commits_needs_a_word_on_how_to_resume(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query(COMMITTING % "0")
    path = workspace.migration("1_a", "call work();")

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 1
    assert "-- smeta: commits-inside resume=again" in refused.err
    assert database.query("select count(*) from ran") == [(0,)]
    path.write_text(path.read_text().replace("call", "-- smeta: commits-inside resume=again\ncall"))
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert database.query("select count(*) from ran") == [(2,)]


@pytest.mark.parametrize(("resume", "rows"), [("again", 3), ("done", 1)])
def test_a_procedure_that_was_cut_off_is_resumed_as_its_file_says(
    workspace: Workspace, database: TestDatabase, resume: str, rows: int
) -> None:
    database.query(COMMITTING % "60")
    workspace.migration("1_a", f"-- smeta: commits-inside resume={resume}\ncall work();")
    run = workspace.start("apply", "--env", "test")
    until_running(database, "call work()%")
    until(lambda: database.query("select count(*) from ran") == [(1,)])
    run.kill()
    run.communicate()
    calls = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'call work()%%'"
    until(lambda: not database.query(calls), what="its process is gone")
    database.query(QUICK)

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert ("not run  1_a/1: it was begun" in done.err) == (resume == "done")
    assert database.query("select count(*) from ran") == [(rows,)]
    assert workspace.applied() == ["1_a"]


def test_a_call_that_failed_is_never_taken_for_done(workspace: Workspace, database: TestDatabase) -> None:
    database.query(
        COMMITTING.replace("insert into ran default values; end", "perform 1 / %s; end") % ("0", "0")
    )
    path = workspace.migration(
        "1_a", "-- smeta: commits-inside resume=done\ncall work();\ncreate table a (id int);"
    )

    for times in (1, 2):
        failed = workspace.smeta("apply", "--env", "test")
        assert failed.code == 5
        assert "error[statement-failed]: 1_a: division by zero" in failed.err
        assert database.query("select count(*) from ran") == [(times,)]
    path.write_text(path.read_text().replace("call work()", "select 1"))
    path.write_text(path.read_text().replace("-- smeta: commits-inside resume=done\n", ""))

    assert (
        workspace.smeta("apply", "--env", "test").code == 0
    )  # nothing of it was done: it may be cut otherwise
    assert workspace.tables() == {"a", "ran"}


def test_a_call_that_a_signal_cancelled_runs_again(workspace: Workspace, database: TestDatabase) -> None:
    database.query(COMMITTING % "60")
    workspace.migration("1_a", "-- smeta: commits-inside resume=done\ncall work();")
    run = workspace.start("apply", "--env", "test")
    until(lambda: database.query("select count(*) from ran") == [(1,)])
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 5, err
    database.query(QUICK)

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert database.query("select count(*) from ran") == [(3,)]


def test_a_call_without_a_lock_is_repeated_only_where_it_may_be(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query(
        "create table ran (id int); create table held (id int);"
        "create procedure work() language plpgsql as $$begin insert into ran values (1); commit; lock table held; end$$"
    )
    path = workspace.migration("1_a", "-- smeta: commits-inside resume=done\ncall work();")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as connection:
        connection.execute("lock table held")
        refused = workspace.smeta("apply", "--env", "test")
        assert refused.code == 5, refused.err
        assert "error[lock-timeout]" in refused.err
        assert database.query("select count(*) from ran") == [(1,)]

        path.write_text(path.read_text().replace("resume=done", "resume=again"))
        assert workspace.smeta("apply", "--env", "test").code == 5
        assert database.query("select count(*) from ran") == [(3,)]  # two tries


def test_a_call_that_lets_go_of_the_lock_still_keeps_others_out(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query(
        "create table ran (id int); create procedure work() language plpgsql as $$begin insert into ran values (1);"
        " commit; execute 'select pg_advisory_' || 'unlock_all()'; perform pg_sleep(60); end$$"
    )
    workspace.migration(
        "1_a", "-- smeta: commits-inside resume=again\ncall work();\ncreate table a (id int);"
    )
    run = workspace.start("apply", "--env", "test")
    until(lambda: database.query("select count(*) from ran") == [(1,)])
    until(lambda: not database.query("select 1 from pg_locks where locktype = 'advisory' and granted"))

    (open_run,) = workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"]
    for command in (("apply",), ("apply", "--abandon", open_run["run"])):
        second = workspace.smeta(*command, "--env", "test")
        assert second.code == 4, second.err
        assert "error[runner-busy]: a run is open and still at work" in second.err

    assert database.query("select count(*) from ran") == [(1,)]
    database.query("select pg_cancel_backend(pid) from pg_stat_activity where query = 'call work()'")
    _, err = run.communicate(timeout=20)
    assert run.returncode == 5, err
    assert "error[statement-cancelled]: 1_a" in err
    assert "pg_cancel_backend" in err


def test_a_call_that_lets_go_of_the_lock_ends_the_run(workspace: Workspace, database: TestDatabase) -> None:
    database.query(
        "create procedure work() language plpgsql as $$begin commit; "
        "execute 'select pg_advisory_' || 'unlock_all()'; end$$"
    )
    workspace.migration(
        "1_a", "-- smeta: commits-inside resume=again\ncall work();\ncreate table a (id int);"
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 5, failed.err
    assert "error[transaction-ended]: the runner's lock is gone" in failed.err
    assert "committed by this run: 1_a/1" in failed.err
    assert workspace.tables() == set()
