"""Statements in batches on real servers: every row once, whatever comes in between."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.servers import TestDatabase
from tests.waiting import until
from tests.workspace import Outcome, Workspace

# Counts how often each row is touched, as a trigger sees it: a row that is done twice shows.
COUNTED = """
create table touched (id text);
create function touch() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then insert into touched values (old.id::text); return old; end if;
    insert into touched values (new.id::text);
    return new;
end $$;
create trigger touch before update or delete on items for each row execute function touch();
"""


def items(database: TestDatabase, rows: int, *, key: str = "int primary key", value: str = "i") -> None:
    """A table of rows, not touched yet."""
    database.query(f"create table items (id {key}, n int not null default 0, done boolean, tenant text)")
    database.query(f"insert into items (id) select {value} from generate_series(1, {rows}) as i")  # noqa: S608
    database.query(f"analyze items; {COUNTED}")


def touched(database: TestDatabase) -> list[tuple[int, int]]:
    """How many rows were touched, and how often at most."""
    return database.query(
        "select count(*)::int, coalesce(max(times), 0)::int from (select count(*) as times from touched group by id) t"
    )


def apply(workspace: Workspace) -> Outcome:
    return workspace.smeta("apply", "--env", "test")


@contextlib.contextmanager
def locked(database: TestDatabase, statement: str) -> Iterator[psycopg.Connection]:
    """Somebody else's open transaction."""
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as connection:
        connection.execute(statement.encode())
        yield connection
        connection.rollback()


def test_every_row_is_changed_once_each_batch_in_its_own_transaction(
    workspace: Workspace, database: TestDatabase
) -> None:
    items(database, 95)
    workspace.migration(
        "1_a", "-- smeta: batch key=id size=10\nupdate items set tenant = 'x' where tenant is null;"
    )

    done = apply(workspace)

    assert done.code == 0, done.err
    assert "batched  1_a/1: 95 rows, 10 batches, " in done.err
    assert database.query("select count(*) from items where tenant = 'x'") == [(95,)]
    assert touched(database) == [(95, 1)]
    sizes = database.query("select count(*), min(id) from items group by xmin::text order by 2")
    assert sizes == [(10, 1 + 10 * i) for i in range(9)] + [(5, 91)]
    assert database.query("select rows, pass, state, lower from smeta.backfill") == [(95, 1, "done", "95")]
    assert workspace.applied() == ["1_a"]


def test_what_is_not_idempotent_is_done_once_up_to_the_key_at_the_start(
    workspace: Workspace, database: TestDatabase
) -> None:
    items(database, 30)
    workspace.migration("1_a", "-- smeta: batch key=id size=7\nupdate items set n = n + 1;")

    assert apply(workspace).code == 0

    assert database.query("select n, count(*) from items group by n") == [(1, 30)]
    assert database.query("select upper, rows from smeta.backfill") == [("30", 30)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("uuid primary key", "gen_random_uuid()"),
        ("text primary key", "'it''s ' || i || '\\'"),
        ('varchar(20) collate "C" primary key', "'Ж' || i"),
        ("timestamptz primary key", "timestamptz '2024-02-29 12:00:00.123456+03' + i * interval '1.5 h'"),
        ("numeric not null unique", "i * 0.1"),
        ("date not null unique", "date '2024-01-01' + i"),
        ("time not null unique", "time '12:00' + i * interval '0.000001 s'"),
        ("timetz not null unique", "(time '12:00' || '+' || i % 14)::timetz + i / 14 * interval '1 h'"),
        (
            "float8 primary key",
            "case i when 1 then 'NaN' when 2 then '-Infinity' else 1 + i / 1e15 end::float8",
        ),
        ("real primary key", "case i when 1 then 'NaN' when 2 then 'Infinity' else i / 3.0 end::real"),
    ],
)
def test_key_of_type(workspace: Workspace, database: TestDatabase, key: str, value: str) -> None:
    items(database, 40, key=key, value=value)
    workspace.migration("1_a", "-- smeta: batch key=id size=7\nupdate items set n = n + 1;")

    done = apply(workspace)

    assert done.code == 0, done.err
    assert touched(database) == [(40, 1)]
    assert database.query("select count(*) from items where n = 1") == [(40,)]


def test_a_database_that_shortens_floats_does_not_shorten_keys(
    workspace: Workspace, database: TestDatabase
) -> None:
    """With fewer digits the bound of a batch is another number than its last key, and rows lie in between."""
    items(database, 40, key="float8 primary key", value="1 + i / 1e15")
    database.query(f'alter database "{database.name}" set extra_float_digits = -3')
    database.query("alter table items add as_text text")
    workspace.migration("1_a", "-- smeta: batch key=id size=3\nupdate items set n = n + 1, as_text = id;")

    done = apply(workspace)

    assert done.code == 0, done.err
    assert database.query("select n, count(*) from items group by n") == [(1, 40)]
    assert database.query("select distinct as_text from items") == [
        ("1",)
    ]  # the statement's own digits are few


def test_delete_and_insert_select(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 50)
    database.query("create table kept (id int primary key, label text)")
    workspace.migration(
        "1_a",
        "-- smeta: batch key=id size=8\n"
        "insert into kept (id, label) select i.id, 'item ' || i.id from items as i where i.id % 2 = 0\n"
        "on conflict do nothing;\n"
        "-- smeta: batch key=id size=8\ndelete from items where id % 2 = 0;",
    )

    done = workspace.smeta("apply", "--env", "test", "--allow-destructive")

    assert done.code == 0, done.err
    assert database.query("select count(*), min(label) from kept") == [(25, "item 10")]
    assert database.query("select count(*), count(*) filter (where id % 2 = 0) from items") == [(25, 0)]
    assert database.query("select position, rows from smeta.backfill order by position") == [(0, 25), (1, 25)]


def test_an_insert_into_the_table_it_reads_ends(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table s (id int generated always as identity primary key, a int)")
    database.query("insert into s (a) select i from generate_series(1, 20) i")
    workspace.migration("1_a", "-- smeta: batch key=id size=3\ninsert into s (a) select a from s;")

    assert apply(workspace).code == 0

    assert database.query("select count(*) from s") == [(40,)]


def test_an_empty_table_is_done_at_once(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 0)
    workspace.migration(
        "1_a",
        "-- smeta: batch key=id\nupdate items set n = n + 1;\n"
        "-- smeta: batch key=id\nupdate items set tenant = 'x' where tenant is null;",
    )

    assert apply(workspace).code == 0
    assert workspace.applied() == ["1_a"]


def test_it_goes_on_after_kill_9(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 400)
    workspace.migration(
        "1_a",
        "-- smeta: batch key=id size=10 pause=20ms\nupdate items set n = n + 1;\nalter table items drop column done;",
        "alter table items add column if not exists done boolean;\n"
        "-- smeta: batch key=id size=100\nupdate items set n = n - 1;",
    )
    for _ in range(3):
        process = workspace.start("apply", "--env", "test")
        before = _rows(database)
        until(lambda before=before: _rows(database) > before + 20)  # type: ignore[misc] # bound now
        process.kill()
        process.communicate()
        assert 0 < _rows(database) < 400

    status = workspace.smeta("status", "--env", "test", "--format", "json").json
    assert status["migrations"][0]["state"] == "partial"
    done = workspace.smeta("apply", "--env", "test", "--runner-wait", "20s")

    assert done.code == 0, done.err
    assert "goes on after" in done.err
    assert database.query("select n, count(*) from items group by n") == [(1, 400)]
    assert touched(database) == [(400, 1)]
    assert database.query("select rows from smeta.backfill") == [(400,)]
    back = workspace.smeta("rollback", "--env", "test")
    assert back.code == 0, back.err
    assert database.query("select n, count(*) from items group by n") == [(0, 400)]


def _rows(database: TestDatabase) -> int:
    if database.query("select to_regclass('smeta.backfill') is null") == [(True,)]:
        return 0
    return sum(row[0] for row in database.query("select rows from smeta.backfill"))


def test_a_signal_ends_it_between_two_batches(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 400)
    workspace.migration("1_a", "-- smeta: batch key=id size=10 pause=50ms\nupdate items set n = n + 1;")
    process = workspace.start("apply", "--env", "test")
    until(lambda: _rows(database) > 0)

    process.terminate()
    _, err = process.communicate(timeout=20)

    assert process.returncode == 5, err
    rows = _rows(database)
    assert 0 < rows < 400
    assert f"committed by this run: 1_a/1 up to row {rows}" in err
    assert apply(workspace).code == 0
    assert touched(database) == [(400, 1)]


def test_beside_a_writer_nothing_is_left(workspace: Workspace, database: TestDatabase) -> None:
    """An old version of the application inserts rows on both sides of the batches; half-way it is replaced."""
    items(database, 300, key="uuid primary key", value="gen_random_uuid()")
    workspace.migration(
        "1_a",
        "-- smeta: batch key=id size=10 pause=30ms\nupdate items set tenant = 'default' where tenant is null;\n"
        "alter table items alter tenant set not null;",
    )
    written = 0

    def write() -> None:
        nonlocal written
        with contextlib.closing(psycopg.connect(database.conninfo.dsn, autocommit=True)) as connection:
            while _rows(database) < 100:
                connection.execute("insert into items (id) values (gen_random_uuid())")
                written += 1

    writer = threading.Thread(target=write)
    writer.start()
    done = apply(workspace)
    writer.join()

    assert done.code == 0, done.err
    assert written > 10
    assert database.query("select count(*), count(tenant) from items") == [(300 + written, 300 + written)]
    assert touched(database) == [(300 + written, 1)]


def test_passes_go_on_until_nothing_is_left(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 20)
    database.query(
        """
        create function write() returns trigger language plpgsql as $$
        begin
            -- What somebody else inserts behind the batch: three times, one row each.
            if new.id in (20, -1, -2) then
                insert into items (id) values (case when new.id = 20 then -1 else new.id - 1 end);
            end if;
            return null;
        end $$;
        create trigger write after update on items for each row execute function write();
        """
    )
    workspace.migration(
        "1_a", "-- smeta: batch key=id size=10\nupdate items set tenant = 'x' where tenant is null;"
    )

    done = apply(workspace)

    assert done.code == 0, done.err
    assert database.query("select count(*), count(tenant), min(id) from items") == [(23, 23, -3)]
    assert touched(database) == [(23, 1)]
    assert database.query("select pass, rows from smeta.backfill") == [(4, 23)]


def test_rows_that_the_statement_does_not_change_are_told(
    workspace: Workspace, database: TestDatabase
) -> None:
    items(database, 25)
    path = workspace.migration(
        "1_a",
        "-- smeta: batch key=id size=10 until \"tenant is null\"\nupdate items set tenant = 'x' where id <> 13;",
    )

    stopped = apply(workspace)

    assert stopped.code == 5
    assert "error[backfill-unfinished]: 1_a: after 2 passes the row with id = 13 is still left" in stopped.err
    assert "committed by this run: 1_a/1 up to row 24" in stopped.err
    assert workspace.applied() == []
    # Who is left is asked of the rows: another text may go on.
    path.write_text(path.read_text().replace(" where id <> 13", ""))
    done = apply(workspace)
    assert done.code == 0, done.err
    assert touched(database) == [(25, 1)]


def test_an_edited_statement_without_until_is_refused_once_it_has_begun(
    workspace: Workspace, database: TestDatabase
) -> None:
    items(database, 25)
    database.query("alter table items add check (id < 18 or n = 0)")
    path = workspace.migration("1_a", "-- smeta: batch key=id size=5\nupdate items set n = n + 1;")
    failed = apply(workspace)
    assert failed.code == 5
    assert "error[statement-failed]: 1_a: new row for relation" in failed.err
    assert "migrations/1_a.sql:5:1" in failed.err
    text = path.read_text()

    assert "committed by this run: 1_a/1 up to row 15" in failed.err
    assert "nothing new is committed" in apply(workspace).err

    path.write_text(text.replace("n + 1", "n + 2"))
    refused = apply(workspace)
    path.write_text(text.replace("size=5", "size=3"))
    database.query("alter table items drop constraint items_check")
    done = apply(workspace)

    assert refused.code == 5
    assert "error[backfill-changed]: 1_a: the statement was edited after 15 rows" in refused.err
    assert done.code == 0, done.err
    assert database.query("select n, count(*) from items group by n") == [(1, 25)]


def test_an_edit_that_adds_until_reaches_the_rows_that_came_since(
    workspace: Workspace, database: TestDatabase
) -> None:
    """The key that was the highest at the start bounds nothing any more."""
    items(database, 25)
    path = workspace.migration("1_a", "-- smeta: batch key=id size=5\nupdate items set tenant = 'x';")
    with locked(database, "select * from items where id = 18 for update"):
        assert apply(workspace).code == 5
    database.query("insert into items values (26)")
    path.write_text(path.read_text().replace("size=5", 'size=5 until "tenant is null"'))

    done = apply(workspace)

    assert done.code == 0, done.err
    assert touched(database) == [(26, 1)]


def test_a_first_batch_that_fails_may_be_corrected(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 25)
    path = workspace.migration("1_a", "-- smeta: batch key=id size=5\nupdate items set n = n + 1 / 0;")
    failed = apply(workspace)
    assert failed.code == 1
    assert "everything was rolled back" in failed.err
    assert apply(workspace).code == 1
    assert workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"] == []
    path.write_text(path.read_text().replace("1 / 0", "1"))

    done = apply(workspace)

    assert done.code == 0, done.err
    assert database.query("select n, count(*) from items group by n") == [(1, 25)]


@pytest.mark.parametrize(
    ("table", "statement", "reason"),
    [
        ("t (id int)", "update t set a = 1", "column id of t is not unique by itself"),
        ("t (id int unique)", "update t set a = 1", "column id of t may be null"),
        (
            "t (id int, b int, primary key (id, b))",
            "update t set a = 1",
            "column id of t is not unique by itself",
        ),
        ("t (b int primary key)", "update t set a = 1", "there is no column id of t"),
        ("t (id int[] primary key)", "update t set a = 1", "column id of t has type integer[]"),
        ("t (id jsonb primary key)", "update t set a = 1", "column id of t has type jsonb"),
        ("u (id int primary key)", "update t set a = 1", "there is no table t"),
        (
            "t (id int not null, b int)",
            "create unique index on t (id) where b > 0",
            "is not unique by itself",
        ),
        ("t (id int primary key)", "create table c () inherits (t)", "other tables inherit from t"),
        ("b (id int primary key, a int)", "create view t as select * from b", "t is no table"),
        (
            "t (id int primary key, a int)",
            "create aggregate many(int) (sfunc = int4pl, stype = int)",
            "many() looks at many rows",
        ),
    ],
)
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_a_key_that_does_not_do_is_refused_before_the_first_batch(
    workspace: Workspace, database: TestDatabase, table: str, statement: str, reason: str
) -> None:
    database.query(f"create table {table}; create table d (a int)")
    if not statement.startswith("update"):
        database.query(statement)
    batched = "insert into d select many(a) from t" if "aggregate" in statement else "update t set a = 1"
    workspace.migration("1_a", f"-- smeta: batch key=id\n{batched};")

    refused = apply(workspace)

    assert refused.code == 1
    assert "error[batch-key]" in refused.err
    assert reason in refused.err
    assert "everything was rolled back" in refused.err
    assert database.query("select count(*) from smeta.backfill") == [(0,)]
    assert database.query("select count(*) from smeta.step") == [(0,)]


def _waits_for(database: TestDatabase, pid: int) -> bool:
    question = "select exists (select from pg_stat_activity where %s = any (pg_blocking_pids(pid)))"
    return bool(database.query(question, pid)[0][0])


def test_a_lock_that_is_not_to_be_had_makes_batches_smaller_and_is_tried_again(
    workspace: Workspace, database: TestDatabase
) -> None:
    items(database, 40)
    workspace.migration("1_a", "-- smeta: batch key=id size=10\nupdate items set n = n + 1;")
    process = None
    with locked(database, "select from items where id = 25 for update") as other:
        process = workspace.start("apply", "--env", "test")
        until(lambda: _rows(database) >= 20)
        pid = other.info.backend_pid
        until(lambda: _waits_for(database, pid))
        until(lambda: not _waits_for(database, pid))  # this batch has given up; the next try comes
    _, err = process.communicate(timeout=30)

    assert process.returncode == 0, err
    assert "retry    1_a/1: 1_a: canceling statement due to lock timeout" in err
    assert database.query("select n, count(*) from items group by n") == [(1, 40)]
    assert touched(database) == [(40, 1)]
    assert database.query("select count(distinct xmin::text) > 4 from items") == [(True,)]


def test_without_the_lock_it_stops_and_goes_on_later(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 40)
    workspace.migration("1_a", "-- smeta: batch key=id size=10\nupdate items set n = n + 1;")

    with locked(database, "select from items where id = 25 for update"):
        stopped = apply(workspace)

    assert stopped.code == 5
    assert "error[lock-timeout]" in stopped.err
    # With smaller batches it came up to the very row.
    ((changed,),) = database.query("select sum(n) from items")
    assert 20 <= changed <= 24
    assert apply(workspace).code == 0
    assert database.query("select n, count(*) from items group by n") == [(1, 40)]


def test_forced_row_security_is_an_error_and_hides_no_row(
    workspace: Workspace, database: TestDatabase
) -> None:
    items(database, 10)
    database.query(
        "alter table items enable row level security; alter table items force row level security;"
        "create policy mine on items using (id < 5)"
    )
    workspace.migration("1_a", "-- smeta: batch key=id\nupdate items set tenant = 'x' where tenant is null;")

    refused = apply(workspace)

    assert refused.code != 0
    assert "row-level security" in refused.err
    assert "no force row level security" in refused.err
    assert workspace.applied() == []


def test_the_names_are_those_of_the_migration_and_its_settings_end_with_the_batch(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query(
        'create schema other; create table other."Odd ""one""" ("Key" int primary key, "set" int);'
        'insert into other."Odd ""one""" select i from generate_series(1, 9) i'
    )
    workspace.migration(
        "1_a",
        '-- smeta: batch key="Key" size=2 until "x.""set"" is null"\n'
        'update other."Odd ""one""" as x set "set" = 1 -- all\n;',
    )

    done = apply(workspace)

    assert done.code == 0, done.err
    assert database.query('select sum("set") from other."Odd ""one"""') == [(9,)]


def test_partitions_and_a_table_made_by_the_same_migration(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        "create table p (id int primary key, a int) partition by range (id);\n"
        "create table p1 partition of p for values from (0) to (10);\n"
        "create table p2 partition of p for values from (10) to (100);\n"
        "insert into p select i from generate_series(1, 50) i;\n"
        "-- smeta: batch key=id size=7\nupdate p set a = 1 where a is null;\n"
        "alter table p alter a set not null;",
        "drop table p;",
        "-- expect: value = 50\nselect count(a) from p;",
    )

    done = apply(workspace)

    assert done.code == 0, done.err
    assert workspace.smeta("rollback", "--env", "test", "--allow-destructive").code == 0
    assert workspace.tables() == set()
    assert apply(workspace).code == 0
    assert database.query("select round, rows from smeta.backfill order by round") == [(0, 50), (1, 50)]


def test_the_plan_says_what_a_batch_is(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 5)
    workspace.migration(
        "1_a",
        '-- smeta: batch key=id size=5000 pause=50ms max_lag=5s until "tenant is null"\n'
        "update items set tenant = 'x';",
    )

    plan = workspace.smeta("plan", "--env", "test")

    assert plan.code == 0, plan.err
    assert "── in batches of 5,000 rows of items, by id: each is a transaction of its own" in plan.out
    assert "only rows, and again until there is none, where tenant is null (given)" in plan.out
    assert "pause of 50ms between two" in plan.out
    assert "waits while a standby is more than 5s behind" in plan.out
    assert "1 statement in batches" in plan.out


def test_a_statement_time_out_stops_it_and_says_where(workspace: Workspace, database: TestDatabase) -> None:
    items(database, 20)
    database.query("create function slow(int) returns int language sql as 'select $1 + 1 from pg_sleep(0.2)'")
    workspace.migration("1_a", "-- smeta: batch key=id size=10\nupdate items set n = slow(n);")
    workspace.manifest.write_text(workspace.manifest.read_text().replace("statement: 30s", "statement: 1s"))

    failed = apply(workspace)

    assert failed.code == 4
    assert "error[statement-timeout]" in failed.err
    assert database.query("select sum(n) from items") == [(0,)]


def test_the_journal_of_format_1_learns_of_backfills(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table items (id int primary key, a int);")
    assert apply(workspace).code == 0
    database.query("drop table smeta.event; drop table smeta.backfill; update smeta.history set format = 1")
    workspace.migration("2_b", "-- smeta: batch key=id\nupdate items set a = 1;")

    done = apply(workspace)

    assert done.code == 0, done.err
    assert database.query("select version, state from smeta.backfill") == [("2_b", "done")]


def test_a_backfill_that_was_abandoned_can_be_undone(workspace: Workspace, database: TestDatabase) -> None:
    """It is the first step of its migration: no step of it is done, and rows are changed all the same."""
    items(database, 40)
    workspace.migration("1_before", "create table before (id int);", "drop table before;")
    assert apply(workspace).code == 0
    workspace.migration(
        "2_fill",
        "-- smeta: batch key=id size=10\nupdate items set tenant = 'x' where tenant is null;",
        "update items set tenant = null;",
    )
    with locked(database, "select * from items where id = 25 for update"):
        assert apply(workspace).code == 5
    ((run,),) = database.query("select id::text from smeta.run where finished_at is null")
    assert workspace.smeta("rollback", "--env", "test").code == 5  # while the run is open
    abandoned = workspace.smeta("apply", "--env", "test", "--abandon", run)
    ways = "`smeta apply --env test` goes on from there, `smeta rollback --env test` undoes it"
    assert f"2_fill (forward): 20 rows of step 1 of 2 are done; that stays; {ways}\n" in abandoned.out

    undone = workspace.smeta("rollback", "--env", "test")

    assert undone.code == 0, undone.err
    assert "2_fill" in undone.out
    assert database.query("select count(*) from items where tenant is not null") == [(0,)]
    assert workspace.applied() == ["1_before"]
    assert apply(workspace).code == 0
    assert database.query("select count(*) from items where tenant = 'x'") == [(40,)]


@pytest.fixture
def half_counted(workspace: Workspace, database: TestDatabase) -> Workspace:
    """Of 40 rows 20 are counted up, by a statement without `until` in the second of three steps; its run is open."""
    items(database, 40)
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.migration(
        "2_b",
        "create table b (id int);\n-- smeta: batch key=id size=10\nupdate items set n = n + 1;",
        "drop table if exists b;\n-- smeta: batch key=id size=10\nupdate items set n = n - 1;",
    )
    with locked(database, "select * from items where id = 25 for update"):
        assert apply(workspace).code == 5
    return workspace


def _open_run(workspace: Workspace) -> str:
    (run,) = workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"]
    return str(run["run"])


def test_a_half_done_backfill_without_until_is_finished_before_it_is_undone(
    half_counted: Workspace, database: TestDatabase
) -> None:
    """Its rollback would count down the rows that it has not reached, too."""
    run, far = _open_run(half_counted), "step 1 of 3 is done, and 20 rows of step 2"
    while_open = half_counted.smeta("rollback", "--env", "test")
    abandoned = half_counted.smeta("apply", "--env", "test", "--abandon", run)
    refused = [
        half_counted.smeta(*command, "--env", "test")
        for command in (("rollback",), ("plan", "--rollback"), ("rollback", "--from-file"))
    ]

    assert while_open.code == 5
    assert far in while_open.err
    assert while_open.err.endswith("next: finish it first: `smeta apply --env test`\n")
    assert f"2_b (forward): {far}; that stays; `smeta apply --env test` goes on from there\n" in abandoned.out
    for each in refused:
        assert each.code == 3, each.err
        assert f"error[backfill-halfway]: 2_b is half done: {far}; " in each.err
        assert "next: finish it (`smeta apply --env test`), then roll back; or " in each.err
    assert database.query("select n, count(*) from items group by n order by n") == [(0, 20), (1, 20)]

    assert apply(half_counted).code == 0
    assert database.query("select n, count(*) from items group by n") == [(1, 40)]
    assert half_counted.smeta("rollback", "--env", "test").code == 0
    assert database.query("select n, count(*) from items group by n") == [(0, 40)]


def test_how_far_a_backfill_is_has_one_wording(half_counted: Workspace) -> None:
    far = "step 1 of 3 is done, and 20 rows of step 2"
    said = {
        "status": f"           ! {far}; `smeta apply --env test` goes on from there\n",
        "doctor": f"2_b is half done on its way forward: {far}\n",
        "plan": f"  + 2_b  [resumes: {far}]\n",
        "verify": f"  FAILED 2_b complete: half done: {far}; `smeta apply --env test` goes on from there\n",
    }

    for command, line in said.items():
        told = half_counted.smeta(command, "--env", "test")
        assert line in told.out, told.out + told.err


def test_a_rollback_section_written_for_the_half_done_backfill_is_used(
    half_counted: Workspace, database: TestDatabase
) -> None:
    assert half_counted.smeta("apply", "--env", "test", "--abandon", _open_run(half_counted)).code == 0
    assert "rows up to key 20 only" in half_counted.smeta("rollback", "--env", "test").err
    file = half_counted.file("2_b")
    file.write_text(file.read_text().replace("n = n - 1", "n = n - 1 where id <= 20"))

    undone = half_counted.smeta("rollback", "--env", "test", "--from-file")

    assert undone.code == 0, undone.err
    assert database.query("select n, count(*) from items group by n") == [(0, 40)]
    assert half_counted.applied() == ["1_a"]
    assert apply(half_counted).code == 0
    assert database.query("select n, count(*) from items group by n") == [(1, 40)]


def test_a_backfill_pauses_for_an_old_transaction_on_its_table(
    workspace: Workspace, database: TestDatabase
) -> None:
    items(database, 40)
    workspace.environment = "locks: {require_quiet: 100ms}"
    workspace.migration(
        "1_a",
        "-- smeta: batch key=id size=2 pause=200ms\nupdate items set tenant = 'x' where tenant is null;",
    )
    run = workspace.start("apply", "--env", "test")
    done = "select count(*) from items where tenant is not null"
    until(lambda: database.query(done) > [(0,)])
    with locked(database, "select count(*) from items"):
        asks = (
            "select 1 from pg_stat_activity where query like 'select distinct pg_catalog.format(%%' "
            "and clock_timestamp() - state_change > '300 ms'"
        )
        until(lambda: bool(database.query(asks)), what="it waits between two looks")
        assert database.query(done) < [(40,)]
    _, err = run.communicate(timeout=60)

    assert run.returncode == 0, err
    assert "1_a/1: waits, pid" in err
    assert database.query(done) == [(40,)]
