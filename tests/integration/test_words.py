"""What a person is told: places, addresses, ways out; and that passwords are never part of it."""

from __future__ import annotations

import functools
import re
import signal
import time

import psycopg
import pytest

from smeta_declare.backup import dump
from tests.servers import TestDatabase
from tests.workspace import Workspace


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop:s3cr3t/p@ss@127.0.0.1:1/shop",
        "postgresql://shop:s3cr3t?p@ss@127.0.0.1:1/shop",
        "postgresql://shop:p@ss/s3cr3t@127.0.0.1:1/shop",
        "postgresql://shop:/s3cr3t@127.0.0.1:1/shop",
        "postgresql://shop:1234/s3cr3t@127.0.0.1:1/shop",
        "postgresql://shop:s3cr3t/@127.0.0.1:1/shop",
    ],
)
@pytest.mark.parametrize("command", [("status",), ("config",), ("config", "--explain")])
def test_a_url_that_cannot_be_read_is_not_shown(
    offline: Workspace, url: str, command: tuple[str, ...]
) -> None:
    done = offline.smeta(*command, "--env", "test", environ={"TRIAL_URL": url})

    assert "s3cr3t" not in done.out + done.err
    assert "p@ss" not in done.out + done.err
    if command == ("status",):
        assert done.code == 78
        assert "error[connection-string]" in done.err
        assert "percent-encode" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan",), "no environment is named"),
        (("plna",), "did you mean `smeta plan`?"),
        (("apply", "--env", "test", "--runner-wait", "soon"), "is no duration"),
        (("rollback", "1", "--to", "x", "--env", "test"), "not both"),
        (("apply", "--env", "tset"), "test"),
    ],
)
def test_a_mistake_on_the_command_line_has_a_way_out(
    offline: Workspace, arguments: tuple[str, ...], said: str
) -> None:
    done = offline.smeta(*arguments)

    assert done.code == 64
    assert "error[" in done.err
    assert "= next: " in done.err
    assert said in done.err


# Only here: before 16, the owner inherits pg_read_all_data from the backup role that it may become.
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_who_may_not_read_the_history_is_told_the_grants(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query_as_admin(
        "revoke all on schema smeta from smeta_owner; alter schema smeta owner to postgres"
    )

    refused = workspace.smeta("status", "--env", "test")

    assert refused.code == 3
    assert "error[missing-privileges]" in refused.err
    assert "grant usage on schema public, smeta to smeta_owner" in refused.err


def test_an_empty_migration_is_told(offline: Workspace) -> None:
    offline.migration("1_a", "", "", "")
    offline.migration("2_b", "select 1;")

    done = offline.smeta("validate")

    assert done.code == 0
    assert "medium[empty-migration]: 1_a" in done.err
    assert "migrations/1_a.sql:1:1" in done.err
    assert "medium[no-rollback]: 2_b" in done.err


def test_the_mistakes_of_all_sections_are_told_at_once(offline: Workspace) -> None:
    offline.migration("1_a", "create tabel a (id int);", "drop tabel a;", "selct 1;")

    done = offline.smeta("validate")

    assert done.code == 78
    assert [f"1_a.sql:{line}:" in done.err for line in (4, 7, 11)] == [True, True, True]


def test_plan_and_status_say_where_they_looked(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    where = f"{database.conninfo} (from environments.test.database (TRIAL_URL))"

    assert where in workspace.smeta("plan", "--env", "test").out
    assert where in workspace.smeta("status", "--env", "test").out
    assert where in workspace.smeta("apply", "--env", "test").err


def test_a_failing_check_points_into_the_manifest(workspace: Workspace) -> None:
    workspace.more = 'checks:\n  - {name: bad, sql: "select 1", expect: empty}\n'
    workspace.migration("1_a", "create table a (id int);", "drop table a;")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert re.search(r"--> smeta\.yaml:\d+:\d+\n.*name: bad", failed.err)


def test_two_applies_within_one_second_both_take_their_backup(workspace: Workspace) -> None:
    workspace.more = "backups: {policies: {some: {scope: schema, format: plain}}}"
    workspace.environment = "backup: some"
    workspace.migration("1_a", "select 1 / 0;")

    codes = [workspace.smeta("apply", "--env", "test").code for _ in range(2)]

    assert codes == [1, 1]  # the migration's own fault, not the backup's
    assert len(list((workspace.root / "backups").glob("backup_1_a_*.sql"))) == 2
    listed = workspace.smeta("backup", "list", "--format", "json").json["backups"]
    assert [b["environment"] for b in listed] == ["test", "test"]


def test_a_second_failure_of_a_concurrent_build_tells_no_lies(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ninsert into a values (1), (1);\ncreate unique index concurrently a_id on a (id);",
        "drop table a;",
    )
    workspace.smeta("apply", "--env", "test")

    again = workspace.smeta("apply", "--env", "test")

    assert again.code == 5
    assert "the next run looks at what it left" in again.err
    assert "was rolled back" not in again.err
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.query("reindex index a_id")


def test_every_migration_of_a_committed_transaction_is_named(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table t (id int); insert into t values (1), (1)")
    for version in ("1_a", "2_b"):
        workspace.migration(version, f"create table t{version} (id int);", "")
    workspace.migration("3_c", "create table c (id int);\ncreate unique index concurrently t_id on t (id);")

    halfway = workspace.smeta("apply", "--env", "test")

    assert "committed by this run: 1_a/1, 2_b/1, 3_c/1;" in halfway.err
    assert "commit   1_a/1, 2_b/1, 3_c/1 (" in halfway.err


def test_of_many_migrations_the_first_and_the_last_are_named(workspace: Workspace) -> None:
    for number in range(1, 6):
        workspace.migration(f"{number}_m", f"create table t{number} (id int);", "")

    done = workspace.smeta("apply", "--env", "test")

    assert "commit   1_m/1 … 5_m/1 (5 steps) (" in done.err


def test_what_is_tried_again_is_told_once(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table t (id int)")
    workspace.migration("1_a", "create table a (id int);", "")
    workspace.migration("2_b", "alter table t add column x int;", "")
    with psycopg.connect(database.conninfo.dsn) as holder:
        holder.execute("lock table t in access share mode")

        failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 4
    assert failed.err.count("retry    ") == 1
    assert failed.err.count("ran      1_a") == 1


def test_an_interrupted_run_is_not_said_to_have_failed(workspace: Workspace, database: TestDatabase) -> None:
    workspace.environment = "transaction: each"
    workspace.migration("1_a", "create table a (id int);", "")
    workspace.migration("2_b", "select pg_sleep(60);", "")
    process = workspace.start("apply", "--env", "test")
    sleeping = "select from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
    deadline = time.monotonic() + 30
    while not database.query(sleeping):
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 5
    assert "committed by this run: 1_a/1; the step that was under way was rolled back" in err


def test_a_long_statement_is_shown_around_its_mistake(workspace: Workspace) -> None:
    rows = ",\n".join(["(1)"] * 20_000)
    workspace.migration(
        "1_a", f"create table a (id int);\ninsert into a values {rows},\n('{'x' * 100_000}');"
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert len(failed.err) < 6_000
    assert len((workspace.root / "migration.log").read_text()) < 10_000
    assert re.search(r"  = statement: \([\d,]+ characters before\) … \(1\),\n    \(1\),", failed.err)
    assert "more characters)" in failed.err
    assert "migrations/1_a.sql:20005:2" in failed.err


def test_duplicate_keys_are_said_to_be_the_datas_fault(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table a (id int); insert into a values (1), (1)")
    workspace.migration("1_a", "create unique index concurrently a_id on a (id);", "drop index a_id;")

    failed = workspace.smeta("apply", "--env", "test")

    assert "next: the data is at fault, not the migration: find the rows with the same key" in failed.err
    assert "Key (id)=(1) is duplicated" in failed.err
    database.query("delete from a where ctid = (select min(ctid) from a)")
    assert workspace.smeta("apply", "--env", "test").code == 0


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("alter table a add constraint a_key unique (id);", "rows with the same key"),
        ("insert into a values (null);", "rows without a value"),
        ("alter table a add constraint a_check check (id > 1);", "rows that break the check"),
        ("alter table a add constraint a_ref foreign key (id) references b;", "rows that refer to nothing"),
    ],
)
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_of_other_violations_both_ways_out_are_told(
    workspace: Workspace, database: TestDatabase, statement: str, rows: str
) -> None:
    database.query(
        "create table b (id int primary key); create table a (id int not null); insert into a values (1), (1)"
    )
    workspace.migration("1_a", statement, "")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert f"next: look for {rows}: correct the data, or the migration" in failed.err


def half_done(
    workspace: Workspace, database: TestDatabase, back: str | None = "drop table if exists a;"
) -> str:
    """1_a is applied, 2_b stopped half-way; the id of its run."""
    database.query("create table t (id int); insert into t values (1), (1)")
    workspace.migration("1_a", "create table first (id int);", "drop table first;")
    workspace.migration(
        "2_b", "create table a (id int);\ncreate unique index concurrently t_id on t (id);", back
    )
    assert workspace.smeta("apply", "--env", "test").code == 5
    (run,) = workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"]
    return str(run["run"])


def test_both_ways_on_are_told_once_the_run_is_abandoned(
    workspace: Workspace, database: TestDatabase
) -> None:
    run = half_done(workspace, database)
    assert "step 1 of 3 is done; `smeta apply --env test` goes on from there\n" in (
        workspace.smeta("status", "--env", "test").out
    )
    refused = workspace.smeta("rollback", "--env", "test").err
    assert f"`smeta apply --env test --abandon {run}`, and roll back" in refused

    abandoned = workspace.smeta("apply", "--env", "test", "--abandon", run)

    ways = "`smeta apply --env test` goes on from there, `smeta rollback --env test` undoes it"
    assert ways in abandoned.out
    assert ways in workspace.smeta("status", "--env", "test").out
    assert ways in workspace.smeta("doctor", "--env", "test").out
    assert workspace.smeta("rollback", "--env", "test").out == "rolled back 2_b\n"
    assert workspace.tables() == {"first", "t"}


def test_a_way_back_that_is_not_there_is_not_told(workspace: Workspace, database: TestDatabase) -> None:
    run = half_done(workspace, database, back=None)

    abandoned = workspace.smeta("apply", "--env", "test", "--abandon", run)

    assert abandoned.out.rstrip().endswith("done; that stays; `smeta apply --env test` goes on from there")
    refused = workspace.smeta("rollback", "--env", "test")
    assert refused.code == 3
    assert "next: it is half done: `smeta apply --env test` goes on from there" in refused.err


def test_a_rollback_that_was_abandoned_goes_on_and_undoes_no_more(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.migration(
        "2_b",
        "create table b (id int);\ncreate index concurrently b_id on b (id);",
        "drop index concurrently b_id;\ndrop table b;",
    )
    assert workspace.smeta("apply", "--env", "test").code == 0
    database.query("create view v as select * from b")
    assert workspace.smeta("rollback", "--env", "test").code == 5
    (run,) = workspace.smeta("status", "--env", "test", "--format", "json").json["open_runs"]
    other = workspace.smeta("rollback", "2", "--env", "test")
    assert other.code == 5
    end = f"end it: `smeta apply --env test --abandon {run['run']}`"
    assert f"next: finish it: `smeta rollback 1 --env test`, or {end}\n" in other.err

    abandoned = workspace.smeta("apply", "--env", "test", "--abandon", run["run"])

    assert "stays; `smeta rollback --env test` goes on from there\n" in abandoned.out
    assert (
        "next: finish it first: `smeta rollback --env test`\n"
        in workspace.smeta("apply", "--env", "test").err
    )
    database.query("drop view v")
    assert workspace.smeta("rollback", "--env", "test").out == "rolled back 2_b\n"
    assert workspace.applied() == ["1_a"]


def test_which_migration_has_no_way_back_and_how_far_it_goes(workspace: Workspace) -> None:
    for version in ("1_a", "2_b", "3_c", "4_d"):
        back = None if version == "2_b" else f"drop table t{version};"
        workspace.migration(version, f"create table t{version} (id int);", back)
    assert workspace.smeta("apply", "--env", "test").code == 0

    refused = workspace.smeta("rollback", "--to", "1_a", "--env", "test")

    assert refused.code == 3
    assert "error[no-rollback]: 2_b has no rollback section" in refused.err
    assert "`smeta rollback 2 --env test` undoes what was applied after it: 4_d, 3_c" in refused.err
    assert workspace.smeta("rollback", "2", "--env", "test").out == "rolled back 4_d\nrolled back 3_c\n"
    assert "undoes what was applied after it" not in workspace.smeta("rollback", "--env", "test").err


def test_a_rollback_section_that_came_later_is_not_used_and_that_is_said(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    workspace.migration("1_a", "create table a (id int);", "drop table a;")

    refused = workspace.smeta("rollback", "--env", "test")

    assert refused.code == 3
    assert "1_a was applied without a rollback section; the one in its file was added later" in refused.err
    assert "next: undo it with that one: `smeta rollback --env test --from-file`" in refused.err
    assert workspace.tables() == {"a"}


def test_what_has_nothing_to_undo_can_be_rolled_back(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.migration("2_b", "analyze;", "-- statistics stay\n-- smeta: nothing-to-undo")
    applied = workspace.smeta("apply", "--env", "test")
    assert "no-rollback" not in applied.err
    assert workspace.smeta("verify", "--env", "test").code == 0

    assert workspace.smeta("rollback", "--env", "test").out == "rolled back 2_b\n"
    assert workspace.applied() == ["1_a"]
    assert workspace.smeta("apply", "--env", "test").code == 0


def test_an_empty_rollback_section_is_no_way_back(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);", "-- later")

    applied = workspace.smeta("apply", "--env", "test")

    assert "medium[no-rollback]: 1_a has an empty rollback section" in applied.err
    assert "`-- smeta: nothing-to-undo` where nothing has to be" in applied.err
    assert workspace.smeta("rollback", "--env", "test").code == 3


BUILD = "create unique index concurrently t_id on t (id);"


@pytest.mark.parametrize(
    ("text", "said", "line", "then"),
    [
        (
            f"create table a (id int);\ncreate table b (\n  id int);\n{BUILD}\n",
            "2_b: the statement in lines 5 to 6 is new in step 1 of 3, which has run",
            5,
            "put new statements below line 7, or into a migration of their own",
        ),
        (
            f"create table b (id int);\nselect 1;\ncreate table a (id int);\n{BUILD}\n",
            "2_b: 2 statements in lines 4 to 5 are new in step 1 of 3, which has run",
            4,
            "below line 7",
        ),
        (
            f"create table a (id bigint);\nselect 1;\n\n{BUILD}",
            "2_b was edited after step 1 of 3 had run: that step is 2 statements in lines 4 to 5",
            4,
            "new statements belong below line 7, or into",
        ),
        (
            f"create table a (id int);\n{BUILD}\nvacuum t;\n",
            "2_b had 3 steps when it was begun, and has 4 now",
            5,
            "statements of a step that has not run may be edited",
        ),
    ],
)
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_what_was_changed_in_a_finished_step_is_pointed_at(
    workspace: Workspace, database: TestDatabase, text: str, said: str, line: int, then: str
) -> None:
    half_done(workspace, database)
    workspace.migration("2_b", text, "drop table if exists a;")

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 3
    assert f"error[partial-changed]: {said}\n  --> migrations/2_b.sql:{line}:1" in refused.err
    assert then in refused.err


def test_a_new_statement_below_the_place_that_is_named_runs(
    workspace: Workspace, database: TestDatabase
) -> None:
    half_done(workspace, database)
    database.query("truncate t")
    workspace.migration("2_b", f"create table a (id int);\n{BUILD}\ncreate table b (id int);", "")

    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.tables() == {"first", "t", "a", "b"}


def test_verify_says_that_a_migration_is_half_done(workspace: Workspace, database: TestDatabase) -> None:
    check = '{name: valid, expect: empty, sql: "select from pg_index where not indisvalid"}'
    workspace.more = f"checks: [{check}]"
    half_done(workspace, database)

    verified = workspace.smeta("verify", "--env", "test")

    assert verified.code == 1
    assert "FAILED 2_b complete: half done: step 1 of 3 is done; `smeta apply --env test`" in verified.out
    assert "FAILED valid" in verified.out
    assert "next: the lines above say which; finish what is half done" in verified.err
    assert "something changed the database" not in verified.err


@pytest.mark.parametrize("command", [("apply",), ("backup", "create")])
@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_who_blocks_a_backup_is_named(
    workspace: Workspace, database: TestDatabase, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("smeta_declare.runner.dump.take", functools.partial(dump.take, lock_wait_ms=2_000))
    database.query("create table t (id int)")
    workspace.more = "backups: {policies: {some: {scope: schema, format: plain}}}"
    workspace.environment = "backup: some"
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    with psycopg.connect(database.conninfo.dsn, application_name="reports") as holder:
        holder.execute("lock table t")
        who = f"pid {holder.info.backend_pid}, user smeta_owner, reports, idle in transaction for "

        blocked = workspace.smeta(*command, "--env", "test")

    assert blocked.code == 4
    assert "error[backup-blocked]: pg_dump waited in vain" in blocked.err
    assert f"  = blocked by {who}" in blocked.err
    assert "s: lock table t\n" in blocked.err
    assert blocked.err.count(f"blocked  backup waits for {who}") == 1
    assert "next: let it end, then run the same command again" in blocked.err
    assert workspace.tables() == {"t"}
