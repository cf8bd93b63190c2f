"""A primary that dies under a run and a standby that takes its place; a standby that lags, or is applied to."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.replication import Pair, replicated
from tests.servers import TestDatabase, fresh_database
from tests.waiting import until, until_running
from tests.workspace import Workspace

BOTH = pytest.mark.parametrize(
    "pair", ["pg18", pytest.param("pg15", marks=pytest.mark.needs("pg15"))], indirect=True
)
PG18 = pytest.mark.parametrize("pair", ["pg18"], indirect=True)
SLEEPING = "create table c (id int);\nselect pg_sleep(60);"


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with replicated(request.param) as both:
        yield both


@pytest.fixture
def database(pair: Pair) -> Iterator[TestDatabase]:
    """A database of the pair; it goes with its servers."""
    with contextlib.suppress(psycopg.OperationalError), fresh_database(pair.server) as fresh:
        pair.until_replayed()
        yield fresh


@pytest.fixture
def either(tmp_path: Path, pair: Pair, database: TestDatabase) -> Workspace:
    """A project whose address leads to whichever of the two is the primary, a transaction for each migration."""
    workspace = Workspace.at(tmp_path / "trial", database)
    workspace.environ["TRIAL_URL"] = pair.either(database.name)
    workspace.environment = "transaction: each"
    workspace.write_manifest()
    return workspace


def until_committed(database: TestDatabase, version: str) -> None:
    """Until the history has it; it is made in the run itself."""
    until(lambda: bool(database.query("select to_regclass('public.schema_migrations') is not null")[0][0]))
    asked = "select 1 from public.schema_migrations where version = %s"
    until(lambda: bool(database.query(asked, version)), what=f"{version} is committed")


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said."""
    _, said = run.communicate(timeout=60)
    return run.returncode, said


def steps(pair: Pair, database: TestDatabase) -> list[tuple[object, ...]]:
    return pair.on_standby(
        "select version, position, round from smeta.step where state = 'done' order by version", database.name
    )


@BOTH
@pytest.mark.parametrize("replicated_all", [True, False], ids=["with-all", "behind"])
def test_the_same_command_finishes_on_the_new_primary(
    either: Workspace, pair: Pair, database: TestDatabase, *, replicated_all: bool
) -> None:
    """What the old primary had committed and not passed on is lost with its row: it is applied again there."""
    either.migration("1_a", "create table a (id int);")
    either.migration("2_b", "create table b (id int);")
    if not replicated_all:
        assert either.smeta("apply", "--env", "test", "--to", "1_a").code == 0
        pair.until_replayed()
        pair.standby.stop()
    path = either.migration("3_c", SLEEPING)
    with either.start("apply", "--env", "test") as run:
        until_running(database, "%pg_sleep(60)%")
        assert database.query("select count(*) from schema_migrations") == [(2,)]
        if replicated_all:
            pair.until_replayed()
        pair.kill_primary()
        code, said = ended(run)

    assert code == 5, said
    assert "error[connection-lost]" in said
    assert "committed by this run: " in said
    assert "2_b/1" in said
    assert "the step that failed was rolled back" in said
    if not replicated_all:
        pair.standby.start()
    pair.promote()
    there = pair.on_standby("select version from schema_migrations order by id", database.name)
    assert there == ([("1_a",), ("2_b",)] if replicated_all else [("1_a",)])
    path.write_text(path.read_text().replace("select pg_sleep(60);", ""))
    again = either.smeta("apply", "--env", "test")
    assert again.code == 0, again.err
    assert again.out.startswith(f"applied {1 if replicated_all else 2} migration")
    assert pair.on_standby(
        "select array_agg(version order by id) = '{1_a,2_b,3_c}' from schema_migrations", database.name
    ) == [(True,)]
    assert steps(pair, database) == [("1_a", 0, 0), ("2_b", 0, 0), ("3_c", 0, 0)]
    open_runs = "select count(*) from smeta.run where finished_at is null"
    assert pair.on_standby(open_runs, database.name) == [(0,)]


@BOTH
def test_a_backfill_goes_on_where_the_new_primary_has_it(
    either: Workspace, pair: Pair, database: TestDatabase
) -> None:
    """Progress and rows travel together: what was lost is done again, and nothing twice."""
    database.query("create table items (id int primary key, n int default 0)")
    database.query("insert into items select i from generate_series(1, 5000) as i")
    either.migration("1_a", "-- smeta: batch key=id size=50 pause=20ms\nupdate items set n = n + 1;")
    changed = "select count(*) from items where n = 1"
    with either.start("apply", "--env", "test") as run:
        until(lambda: database.query(changed)[0][0] >= 500, what="ten batches")
        until(lambda: pair.on_standby(changed, database.name) > [(0,)], what="batches on the standby")
        pair.on_standby("select true from pg_wal_replay_pause()")
        pair.kill_primary()
        code, said = ended(run)

    assert code == 5, said
    assert "1_a/1 up to row" in said
    pair.promote()
    ((there,),) = pair.on_standby(changed, database.name)
    assert isinstance(there, int)
    assert (0 < there < 5000, there % 50) == (True, 0)
    again = either.smeta("apply", "--env", "test")
    assert again.code == 0, again.err
    assert pair.on_standby("select n, count(*)::int from items group by n", database.name) == [(1, 5000)]
    assert steps(pair, database) == [("1_a", 0, 0), ("1_a", 1, 0)]


@BOTH
def test_an_index_that_was_being_built_is_built_on_the_new_primary(
    either: Workspace, pair: Pair, database: TestDatabase
) -> None:
    """There it is INVALID, as after a crash, and the journal that came along says whose it is."""
    database.query("create table items (id int)")
    either.migration("1_a", "create index concurrently items_id on items (id);")
    index = "select indisvalid from pg_index where indexrelid = to_regclass('items_id')"
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select * from items")
        with either.start("apply", "--env", "test") as run:
            until(lambda: database.query(index) == [(False,)], what="an index that is being built")
            pair.until_replayed()
            pair.kill_primary()
            code, said = ended(run)

    assert code == 5, said
    pair.promote()
    assert pair.on_standby(index, database.name) == [(False,)]
    again = either.smeta("apply", "--env", "test")
    assert again.code == 0, again.err
    assert "invalid index items_id dropped" in again.err
    assert pair.on_standby(index, database.name) == [(True,)]


@BOTH
@pytest.mark.parametrize("run_known", [True, False], ids=["run-known", "run-unknown"])
def test_a_commit_that_waited_for_its_standby_is_asked_of_the_new_primary(
    either: Workspace, pair: Pair, database: TestDatabase, *, run_known: bool
) -> None:
    """The row never arrived there: it can never be committed any more, and that is said, not guessed."""
    database.query("create table gate (open bool)")
    either.migration("1_a", "create table a (id int);")
    assert either.smeta("apply", "--env", "test").code == 0
    pair.until_replayed()
    if not run_known:
        pair.standby.stop()
    either.migration(
        "2_b",
        "create table b (id int);\n"
        "do $$ begin while not exists (select from gate) loop perform pg_sleep(0.02); end loop; end $$;",
    )
    with either.start("apply", "--env", "test", "--runner-wait", "30s") as run:
        until_running(database, "do $$ begin while not exists%")
        if run_known:
            pair.until_replayed()
            pair.standby.stop()
        database.query_as_admin("alter system set synchronous_standby_names = '*'")
        database.query_as_admin("select pg_reload_conf()")
        until(lambda: database.query("show synchronous_standby_names") == [("*",)])
        database.query("set synchronous_commit = off; insert into gate values (true)")
        waits = "select 1 from pg_stat_activity where query = 'commit' and wait_event = 'SyncRep'"
        until(lambda: bool(database.query_as_admin(waits)), what="a COMMIT that waits for the standby")
        pair.kill_primary()
        pair.standby.start()
        pair.promote()
        code, said = ended(run)

    assert code == 4, said
    assert (
        "error[connection-lost]: the connection broke while step 2_b/1 was being committed, and it was not"
        in said
    )
    assert pair.on_standby("select to_regclass('b') is null", database.name) == [(True,)]
    with contextlib.closing(psycopg.connect(pair.either(database.name), autocommit=True)) as connection:
        connection.execute("insert into gate values (true)")
    again = either.smeta("apply", "--env", "test")
    assert again.code == 0, again.err
    assert steps(pair, database) == [("1_a", 0, 0), ("2_b", 0, 0)]
    assert pair.on_standby("select count(*)::int from b", database.name) == [(0,)]


@PG18
def test_nothing_is_applied_to_a_standby(either: Workspace, pair: Pair, database: TestDatabase) -> None:
    either.migration("1_a", "create table a (id int);")
    either.environ["TRIAL_URL"] = pair.standby.conninfo(database.name).dsn

    refused = either.smeta("apply", "--env", "test")
    status = either.smeta("status", "--env", "test")

    assert refused.code == 3
    assert "the server is a standby: it can be read only" in refused.err
    assert "target_session_attrs=read-write chooses it" in refused.err
    assert "nothing was run" in refused.err
    assert (status.code, "pending" in status.out) == (0, True)
    assert database.query("select to_regclass('schema_migrations'), to_regnamespace('smeta')") == [
        (None, None)
    ]
    pair.kill_primary()
    pair.promote()
    assert either.smeta("apply", "--env", "test").code == 0


@PG18
def test_where_no_server_can_be_written_to_it_is_tried_later(
    either: Workspace, pair: Pair, database: TestDatabase
) -> None:
    """Between the end of the one and the beginning of the other."""
    either.migration("1_a", "create table a (id int);")
    pair.kill_primary()

    refused = either.smeta("apply", "--env", "test")

    assert refused.code == 4
    assert "error[connection]" in refused.err
    assert "nothing was run" in refused.err
    pair.promote()
    assert either.smeta("apply", "--env", "test").code == 0


@BOTH
def test_batches_pause_while_the_standby_lags(either: Workspace, pair: Pair, database: TestDatabase) -> None:
    database.query_as_admin("grant pg_read_all_stats to smeta_owner")
    database.query("create table items (id int primary key, n int default 0)")
    database.query("insert into items select i from generate_series(1, 3000) as i")
    pair.until_replayed()
    either.migration(
        "1_a", "-- smeta: batch key=id size=100 pause=50ms max_lag=1s\nupdate items set n = n + 1;"
    )
    pair.on_standby("select true from pg_wal_replay_pause()")
    with either.start("apply", "--env", "test") as run:
        assert run.stderr is not None
        said = _until_said(run, "a standby is ")
        (done,) = database.query("select count(*) from items where n = 1")
        assert done[0] < 3000
        pair.on_standby("select true from pg_wal_replay_resume()")
        rest = run.stderr.read()
        assert run.wait(timeout=60) == 0, rest

    assert "ms behind" in said
    assert database.query("select n, count(*) from items group by n") == [(1, 3000)]
    assert either.applied() == ["1_a"]


def _until_said(run: subprocess.Popen[str], words: str) -> str:
    """Lines of stderr until one has these words."""
    assert run.stderr is not None
    for line in run.stderr:
        if words in line:
            return line
    raise AssertionError(f"ended without: {words}")


@PG18
def test_a_database_that_becomes_read_only_within_a_step(
    either: Workspace, pair: Pair, database: TestDatabase
) -> None:
    either.migration("1_a", "create table a (id int);")
    either.migration(
        "2_b", "select set_config('transaction_read_only', 'on', true);\ncreate table b (id int);"
    )

    failed = either.smeta("apply", "--env", "test")

    assert failed.code == 5
    assert "sqlstate: 25006" in failed.err
    assert "connect to the primary" in failed.err
    assert either.applied() == ["1_a"]


@PG18
def test_a_role_that_sees_no_standby_is_told_that_nothing_waits_for_it(
    either: Workspace, pair: Pair, database: TestDatabase
) -> None:
    database.query("create table items (id int primary key, n int default 0)")
    database.query("insert into items select i from generate_series(1, 300) as i")
    either.migration("1_a", "-- smeta: batch key=id size=100 max_lag=1s\nupdate items set n = n + 1;")

    done = either.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert done.err.count("max_lag has no effect") == 1
    assert "pg_read_all_stats" in done.err
