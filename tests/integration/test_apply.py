"""The whole way: manifest, files, plan, run, and what the database says afterwards."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.servers import TestDatabase
from tests.workspace import Workspace


def test_everything_is_applied_and_recorded(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration(
        "1_a", "create table a (id int);", "drop table a;", "select 1 from pg_class where relname = 'a';"
    )
    workspace.migration("2_b", "create table b (id int);\ninsert into b values (1), (2);", "drop table b;")

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert done.out.startswith("applied 2 migrations to test")
    assert workspace.tables() == {"a", "b"}
    rows = database.query(
        "select version, name, rollback_sql, length(checksum), execution_time_ms >= 0, applied_by"
        " from public.schema_migrations order by id"
    )
    assert rows == [
        ("1_a", "1_a", "drop table a;\n", 64, True, "smeta_owner"),
        ("2_b", "2_b", "drop table b;\n", 64, True, "smeta_owner"),
    ]
    assert database.query("select outcome, direction from smeta.run") == [("done", "forward")]
    assert database.query("select count(*) from smeta.step where state = 'done'") == [(2,)]


def test_a_second_apply_has_nothing_to_do(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);")
    workspace.smeta("apply", "--env", "test")

    again = workspace.smeta("apply", "--env", "test")

    assert again.code == 0
    assert "nothing to apply" in again.out


def test_there_and_back_and_there_again(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.migration("2_b", "create table b (id int);", "drop table b;")
    workspace.smeta("apply", "--env", "test")

    assert workspace.smeta("rollback", "--env", "test").out == "rolled back 2_b\n"
    assert workspace.tables() == {"a"}
    assert workspace.applied() == ["1_a"]
    assert workspace.smeta("rollback", "1", "--env", "test").out == "rolled back 1_a\n"
    assert workspace.tables() == set()
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.tables() == {"a", "b"}
    # Each way has been gone twice; the key of a step holds the round.
    assert database.query(
        "select version, direction, max(round) from smeta.step group by 1, 2 order by 1, 2"
    ) == [
        ("1_a", "forward", 1),
        ("1_a", "rollback", 0),
        ("2_b", "forward", 1),
        ("2_b", "rollback", 0),
    ]


def test_rollback_to_a_version_keeps_that_one(workspace: Workspace) -> None:
    for version in ("1_a", "2_b", "3_c"):
        workspace.migration(version, f"create table t{version} (id int);", f"drop table t{version};")
    workspace.smeta("apply", "--env", "test")

    done = workspace.smeta("rollback", "--to", "1_a", "--env", "test")

    assert done.out == "rolled back 3_c\nrolled back 2_b\n"
    assert workspace.applied() == ["1_a"]


def test_rollback_uses_the_sql_kept_in_the_database(workspace: Workspace) -> None:
    path = workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.smeta("apply", "--env", "test")
    path.unlink()

    assert workspace.smeta("rollback", "--env", "test").code == 0
    assert workspace.tables() == set()


def test_rollback_without_a_section_is_refused(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);")
    workspace.smeta("apply", "--env", "test")

    refused = workspace.smeta("rollback", "--env", "test")

    assert refused.code == 3
    assert "error[no-rollback]" in refused.err
    assert workspace.tables() == {"a"}


def test_a_failure_in_the_middle_leaves_nothing(workspace: Workspace, database: TestDatabase) -> None:
    for number in range(1, 7):
        bad = "select 1 / 0;" if number == 4 else ""
        workspace.migration(
            f"{number}_m", f"create table t{number} (id int);\n{bad}", f"drop table t{number};"
        )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "error[statement-failed]: 4_m: division by zero" in failed.err
    assert "migrations/4_m.sql:5:1" in failed.err
    assert "everything was rolled back" in failed.err
    assert workspace.tables() == set()
    assert workspace.applied() == []
    assert database.query("select outcome from smeta.run") == [("failed",)]
    assert database.query("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]


def test_with_a_transaction_each_what_was_committed_stays(workspace: Workspace) -> None:
    workspace.environment = "transaction: each"
    workspace.migration("1_a", "create table a (id int);")
    path = workspace.migration("2_b", "create table b (id int);\nselect 1 / 0;")

    halfway = workspace.smeta("apply", "--env", "test")

    assert halfway.code == 5
    assert "committed by this run: 1_a/1" in halfway.err
    assert workspace.tables() == {"a"}
    path.write_text("create table b (id int);")
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.applied() == ["1_a", "2_b"]


def test_the_position_of_an_error_is_the_templates(workspace: Workspace) -> None:
    workspace.environment = "vars: {wide: a_rather_long_column_name, n: 3}"
    workspace.migration(
        "1_a",
        "create table a (id int);\n{% for i in range(n) %}\n"
        "select {{ wide|literal }}, missing_column from a;\n{% endfor %}",
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "migrations/1_a.sql:6:28" in failed.err  # the place of missing_column in the template
    assert 'column "missing_column" does not exist' in failed.err


def test_statements_postgresql_refuses_in_a_transaction_are_steps_of_their_own(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ncreate index concurrently a_id on a (id);\ncreate table b (id int);",
        "drop index concurrently a_id;\ndrop table a, b;",
        "select 1 from pg_index where indexrelid = 'a_id'::regclass and indisvalid;",
    )
    plan = workspace.smeta("plan", "--env", "test", "--format", "json").json["decision"]
    assert [s["kind"] for s in plan["steps"]] == ["transaction", "autocommit", "transaction"]

    assert workspace.smeta("apply", "--env", "test").code == 0
    assert database.query("select position, state from smeta.step order by position, at") == [
        (0, "done"),
        (1, "started"),
        (1, "done"),
        (2, "done"),
    ]
    assert workspace.smeta("rollback", "--env", "test").code == 0
    assert workspace.tables() == set()


def test_a_half_done_migration_is_resumed(workspace: Workspace, database: TestDatabase) -> None:
    path = workspace.migration(
        "1_a",
        "create table a (id int);\ninsert into a values (1), (1);\ncreate unique index concurrently a_id on a (id);",
        "drop table a;",
    )
    workspace.migration("2_b", "create table b (id int);", "drop table b;")
    halfway = workspace.smeta("apply", "--env", "test")
    assert halfway.code == 5
    assert workspace.applied() == []
    status = workspace.smeta("status", "--env", "test", "--format", "json").json
    assert [m["state"] for m in status["migrations"]] == ["partial", "pending"]
    back = workspace.smeta("rollback", "--env", "test")
    assert back.code == 5
    assert "error[run-open]" in back.err

    # What has run may not be edited; what is still to run may.
    text = path.read_text()
    path.write_text(text.replace("create table a (id int)", "create table a (id bigint)"))
    refused = workspace.smeta("apply", "--env", "test")
    assert refused.code == 3
    assert "error[partial-changed]" in refused.err
    path.write_text(text)
    database.query("delete from a; drop index a_id")
    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert workspace.applied() == ["1_a", "2_b"]
    assert database.query("select indisvalid from pg_index where indexrelid = 'a_id'::regclass") == [(True,)]


def test_a_half_done_rollback_is_resumed(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ncreate index concurrently a_id on a (id);",
        "drop index concurrently a_id;\ndrop table a;",
    )
    workspace.smeta("apply", "--env", "test")
    database.query("create view v as select * from a")

    halfway = workspace.smeta("rollback", "--env", "test")

    assert halfway.code == 5
    assert workspace.applied() == []
    assert workspace.smeta("apply", "--env", "test").code == 5
    database.query("drop view v")
    done = workspace.smeta("rollback", "--env", "test")
    assert done.code == 0, done.err
    assert workspace.tables() == set()
    assert workspace.smeta("status", "--env", "test", "--format", "json").json["pending"] == 1


def test_an_index_left_invalid_is_built_again(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ninsert into a values (1), (1);\n"
        "create unique index concurrently if not exists a_id on a (id);",
        "drop table a;",
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 5
    assert "the next run looks at what it left" in failed.err
    assert database.query("select indisvalid from pg_index where indexrelid = 'a_id'::regclass") == [(False,)]
    again = workspace.smeta(
        "apply", "--env", "test"
    )  # cleared away, tried again, and the rows are still doubled
    assert again.code == 5
    assert "could not create unique index" in again.err
    assert "nothing new is committed" in again.err
    database.query("delete from a")
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert database.query("select indisvalid from pg_index where indexrelid = 'a_id'::regclass") == [(True,)]
    assert workspace.applied() == ["1_a"]


def test_an_invalid_index_of_somebody_else_is_not_touched(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table a (id int); insert into a values (1), (1)")
    with pytest.raises(psycopg.Error):
        database.query("create unique index concurrently a_id on a (id)")
    workspace.migration("1_a", "create unique index concurrently if not exists a_id on a (id);")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "INVALID" in failed.err
    assert database.query("select indisvalid from pg_index where indexrelid = 'a_id'::regclass") == [(False,)]


def test_a_migration_that_lost_a_step_while_half_done_is_refused(
    workspace: Workspace, database: TestDatabase
) -> None:
    bad = "create unique index concurrently a_id on a (id);"
    path = workspace.migration(
        "1_a", f"create table a (id int);\ninsert into a values (1), (1);\n{bad}", "drop table a;"
    )
    workspace.smeta("apply", "--env", "test")
    path.write_text(path.read_text().replace(bad, ""))

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 3
    assert "had 3 steps when it was begun, and has 1 now" in refused.err
    assert workspace.applied() == []
    verified = workspace.smeta("verify", "--env", "test")
    assert verified.code == 1
    assert "FAILED 1_a complete" in verified.out


def test_a_rollback_that_stopped_goes_on_to_its_target_and_no_further(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.environment = "transaction: each"
    for version in ("1_a", "2_b", "3_c"):
        workspace.migration(version, f"create table t{version} (id int);", f"drop table t{version};")
    workspace.smeta("apply", "--env", "test")
    database.query("create view v as select * from t2_b")

    for _ in range(2):
        halfway = workspace.smeta("rollback", "2", "--env", "test")
        assert halfway.code == 5, halfway.err
        assert workspace.applied() == ["1_a", "2_b"]
    database.query("drop view v")
    done = workspace.smeta("rollback", "2", "--env", "test")

    assert done.code == 0, done.err
    assert done.out == "rolled back 2_b\n"
    assert workspace.applied() == ["1_a"]
    assert database.query("select count(*) from smeta.run where finished_at is null") == [(0,)]


def test_a_rollback_killed_after_its_last_commit_is_not_done_twice(
    workspace: Workspace, database: TestDatabase
) -> None:
    for version in ("1_a", "2_b"):
        workspace.migration(version, f"create table t{version} (id int);", f"drop table t{version};")
    workspace.smeta("apply", "--env", "test")
    workspace.smeta("rollback", "--env", "test")
    # What a kill -9 between the commit and the closing of the run leaves:
    database.query("update smeta.run set finished_at = null, outcome = null where direction = 'rollback'")

    again = workspace.smeta("rollback", "--env", "test")

    assert "the rollback that was interrupted is complete" in again.out
    assert workspace.applied() == ["1_a"]
    assert workspace.smeta("rollback", "--env", "test").out == "rolled back 1_a\n"


def test_an_applied_file_that_cannot_be_read_is_no_unchanged_one(workspace: Workspace) -> None:
    path = workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.smeta("apply", "--env", "test")
    path.write_text("create tabel a (id int);")

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 3
    assert "cannot be compared" in refused.err
    assert workspace.smeta("verify", "--env", "test").code == 1
    status = workspace.smeta("status", "--env", "test", "--format", "json").json
    assert status["migrations"][0]["changed"] == "unreadable"


def test_a_rollback_takes_the_backup_its_migration_asks_for(
    workspace: Workspace, database: TestDatabase
) -> None:
    some, everything = "{scope: schema, format: plain}", "{scope: full, format: custom}"
    workspace.more = f"backups: {{policies: {{some: {some}, all: {everything}}}}}"
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.versions = ["{version: 1_a, backup: all}"]
    workspace.environment = "backup: some"
    workspace.write_manifest()
    assert workspace.smeta("apply", "--env", "test").code == 0

    plan = workspace.smeta("rollback", "--dry-run", "--env", "test", "--format", "json").json["decision"]

    assert plan["steps"][0]["policy"] == "all"
    backups = sorted(p.name for p in (workspace.root / "backups").iterdir())
    assert len(backups) == 2
    assert backups[0].startswith("backup_1_a_")
    assert backups[0].endswith(".dump")


def test_a_failing_validation_rolls_back(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;", "-- expect: rows = 2\nselect 1;")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "error[validation-failed]" in failed.err
    assert "expected rows = 2, got 1 row" in failed.err
    assert "migrations/1_a.sql:12:1" in failed.err
    assert workspace.tables() == set()


def test_a_validation_cannot_write(workspace: Workspace) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ncreate function f() returns bool language sql as "
        "$$ insert into a values (1); select true $$;",
        "drop table a;",
        "select f();",
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "read-only transaction" in failed.err
    assert workspace.tables() == set()


def test_a_validation_is_not_fooled_by_row_security(workspace: Workspace) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ninsert into a values (1);\nalter table a enable row level security, "
        "force row level security;",
        "drop table a;",
        "-- expect: empty\nselect * from a;",
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "row-level security" in failed.err


def test_a_failing_check_rolls_back(workspace: Workspace) -> None:
    workspace.more = (
        "checks:\n  - {name: no tables, sql: \"select 1 from pg_class where relname = 'a'\", expect: empty}\n"
    )
    workspace.migration("1_a", "create table a (id int);")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "no tables: expected rows = 0, got 1 row" in failed.err
    assert workspace.tables() == set()


def test_a_deferred_constraint_fails_before_the_commit(workspace: Workspace) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int primary key);\n"
        "create table b (a int references a deferrable initially deferred);\ninsert into b values (1);",
    )

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 1
    assert "foreign key" in failed.err
    assert workspace.tables() == set()


def test_a_changed_migration_is_refused_and_a_comment_is_not(workspace: Workspace) -> None:
    path = workspace.migration("1_a", "create table a (id int default 1);", "drop table a;")
    workspace.smeta("apply", "--env", "test")
    workspace.migration("2_b", "create table b (id int);")
    text = path.read_text()

    path.write_text(text.replace("default 1", "default 2"))
    refused = workspace.smeta("apply", "--env", "test")
    assert refused.code == 3
    assert "error[migration-changed]" in refused.err
    assert "+create table a (id int default 2);" in refused.err
    status = workspace.smeta("status", "--env", "test", "--format", "json").json
    assert status["migrations"][0]["changed"] == "meaning"
    assert workspace.tables() == {"a"}

    path.write_bytes(
        b"\xef\xbb\xbf"
        + text.replace("create table", "-- words\ncreate  TABLE").replace("\n", "\r\n").encode()
    )
    assert (
        workspace.smeta("status", "--env", "test", "--format", "json").json["migrations"][0]["changed"]
        == "comments"
    )
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.tables() == {"a", "b"}


def test_a_changed_rollback_section_is_told(workspace: Workspace) -> None:
    path = workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.smeta("apply", "--env", "test")
    path.write_text(path.read_text().replace("drop table a", "drop table if exists a"))

    assert (
        workspace.smeta("status", "--env", "test", "--format", "json").json["migrations"][0]["changed"]
        == "rollback"
    )
    assert workspace.smeta("apply", "--env", "test").code == 0


def test_what_is_applied_and_not_listed_is_told(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.migration("2_b", "create table b (id int);", "drop table b;")
    workspace.smeta("apply", "--env", "test")
    workspace.versions.remove("2_b")
    workspace.file("2_b").unlink()
    workspace.write_manifest()

    status = workspace.smeta("status", "--env", "test", "--format", "json").json

    assert (status["total"], status["applied"], status["unknown"]) == (1, 1, 1)


def test_status_prints_the_counts_of_the_old_tool(workspace: Workspace) -> None:
    for number in range(1, 7):
        workspace.migration(f"{number}_m", f"create table t{number} (id int);")
    workspace.smeta("apply", "--to", "3_m", "--env", "test")

    status = workspace.smeta("status", "--env", "test")

    assert "total 6, applied 3, pending 3" in status.out
    assert workspace.smeta("status", "--env", "test", "--detailed-exitcode").code == 2


def test_looking_creates_nothing(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);")

    for command in (
        ("plan",),
        ("status",),
        ("history",),
        ("verify",),
        ("apply", "--dry-run"),
        ("rollback", "--dry-run"),
    ):
        done = workspace.smeta(*command, "--env", "test")
        assert done.code == 0, done.err

    assert database.query("select count(*) from pg_class where relnamespace = 'public'::regnamespace") == [
        (0,)
    ]
    assert database.query("select to_regnamespace('smeta') is null") == [(True,)]


def test_the_same_inputs_give_the_same_plan(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);")

    first, second = (workspace.smeta("plan", "--env", "test", "--format", "json") for _ in range(2))

    assert first.out == second.out
    assert first.json["format"] == "smeta.plan/1"
    assert workspace.smeta("plan", "--env", "test", "--detailed-exitcode").code == 2


def test_a_foreign_history_table_is_refused(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);")
    database.query("create table public.schema_migrations (version bigint)")

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 3
    assert "error[history-foreign]" in refused.err
    assert workspace.tables() == set()


def test_missing_privileges_are_explained(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);")
    database.query_as_admin(f"alter database {database.name} owner to postgres")

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 3
    assert "error[missing-privileges]" in refused.err
    assert "grant" in refused.err
    assert database.query("select to_regclass('public.schema_migrations') is null") == [(True,)]


def test_two_runners_do_not_work_at_once(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);\nselect pg_sleep(3);")
    first = workspace.start("apply", "--env", "test")
    try:
        deadline = time.monotonic() + 20
        while database.query("select count(*) from pg_locks where locktype = 'advisory'") == [(0,)]:
            assert time.monotonic() < deadline, "the first runner never took the lock"
        second = workspace.smeta("apply", "--env", "test", "--runner-wait", "200ms")
        assert second.code == 4
        assert "error[runner-busy]" in second.err
        assert "smeta/" in second.err  # the holder's application name
        waiting = workspace.smeta("apply", "--env", "test", "--runner-wait", "30s")
        assert waiting.code == 0, waiting.err
        assert "nothing to apply" in waiting.out
    finally:
        _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert workspace.applied() == ["1_a"]


def test_a_lock_that_is_not_to_be_had_is_given_up_politely(
    workspace: Workspace, database: TestDatabase
) -> None:
    database.query("create table busy (id int)")
    workspace.migration("1_a", "create table a (id int);\nalter table busy add column b int;")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as reader:
        reader.execute("select * from busy")

        failed = workspace.smeta("apply", "--env", "test")

        assert failed.code == 4
        assert "error[lock-timeout]" in failed.err
        assert "retry" in failed.err
        assert workspace.tables() == {"busy"}
    assert workspace.smeta("apply", "--env", "test").code == 0


def test_what_one_migration_sets_does_not_reach_the_next(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        "create schema other;\nset search_path = other;\nset statement_timeout = 7;\ncreate temp table t (id int);",
    )
    workspace.migration(
        "2_b",
        "create table b as select current_setting('statement_timeout') as timeout, to_regclass('pg_temp.t') as temp;",
    )

    assert workspace.smeta("apply", "--env", "test").code == 0

    assert database.query("select * from public.b") == [("30s", None)]


def test_a_role_owns_what_is_created(workspace: Workspace, database: TestDatabase) -> None:
    role = f"owner_{database.name}"
    database.query_as_admin(
        f"create role {role}; grant {role} to smeta_owner; grant create on database {database.name} to {role};"
        f"grant usage, create on schema public to {role}"
    )
    try:
        workspace.environment = f"role: {role}"
        workspace.migration("1_a", "create table a (id int);", "drop table a;")

        assert workspace.smeta("apply", "--env", "test").code == 0

        owners = database.query(
            "select tablename, tableowner from pg_tables where schemaname in ('public', 'smeta')"
        )
        assert {owner for _, owner in owners} == {role}
        assert database.query("select applied_by from public.schema_migrations") == [("smeta_owner",)]
        assert workspace.smeta("rollback", "--env", "test").code == 0
    finally:
        database.query_as_admin(f"drop owned by {role}; drop role {role}")


def test_verify_finds_what_was_changed_by_hand(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration(
        "1_a", "create table a (id int);", "drop table a;", "select 1 from pg_class where relname = 'a';"
    )
    workspace.smeta("apply", "--env", "test")
    assert workspace.smeta("verify", "--env", "test").code == 0
    database.query("drop table a")

    failed = workspace.smeta("verify", "--env", "test")

    assert failed.code == 1
    assert "FAILED 1_a validation 1" in failed.out


def test_the_order_of_late_comers(workspace: Workspace) -> None:
    workspace.migration("2_b", "create table b (id int);")
    workspace.smeta("apply", "--env", "test")
    workspace.migration("1_a", "create table a (id int);")
    workspace.versions.sort()
    workspace.environment = "order: strict"
    workspace.write_manifest()

    refused = workspace.smeta("apply", "--env", "test")
    assert refused.code == 3
    assert "error[out-of-order]" in refused.err
    workspace.environment = "order: lenient"
    workspace.write_manifest()
    told = workspace.smeta("apply", "--env", "test")

    assert told.code == 0
    assert "out-of-order" in told.err
    assert workspace.applied() == ["2_b", "1_a"]


def test_the_log_has_one_run_and_its_events(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);")
    workspace.smeta("apply", "--env", "test")

    log = workspace.log()

    assert len({line["run"] for line in log}) == 1
    assert log[0]["event"] == "run-started"
    assert log[-1]["event"] == "run-finished"
    assert log[-1]["outcome"] == "done"
    assert all(isinstance(line["duration_ms"], int) for line in log if line["event"].endswith("-done"))
    assert (workspace.root / "migration.log").stat().st_mode & 0o777 == 0o600


def test_a_secret_is_nowhere_but_in_the_database(workspace: Workspace, database: TestDatabase) -> None:
    canary = "c4nary-Зв'онок"
    role = f"app_{database.name}"
    workspace.environment = "vars: {password: {secret: TRIAL_PASSWORD}}"
    workspace.migration(
        "1_a",
        f"create role {role} login password {{{{ password|literal }}}};\n"
        "create table kept as select {{ password|literal }} as password;",
        f"drop table kept;\ndrop role {role};",
    )
    assert workspace.smeta("apply", "--env", "test").code == 3  # no value: nothing runs
    environ = {"TRIAL_PASSWORD": canary}

    runs = [
        workspace.smeta(*command, environ=environ)
        for command in (
            ("-v", "apply", "--env", "test"),
            ("plan", "--env", "test"),
            ("render", "--env", "test"),
            ("config", "--env", "test", "--explain"),
            ("status", "--env", "test"),
        )
    ]

    assert [r.code for r in runs] == [0] * 5, runs[0].err
    assert database.query("select password from kept") == [(canary,)]
    for run in runs:
        assert canary not in run.out + run.err
    assert canary not in (workspace.root / "migration.log").read_text()
    kept = database.query("select row_to_json(m)::text from public.schema_migrations m")
    assert canary not in kept[0][0]
    assert "secret TRIAL_PASSWORD" in kept[0][0]
    assert workspace.smeta("rollback", "--env", "test", "--allow-destructive", environ=environ).code == 0


def test_a_secret_is_masked_in_the_servers_own_words(workspace: Workspace) -> None:
    workspace.environment = "vars: {password: {secret: TRIAL_PASSWORD}}"
    workspace.migration("1_a", "select {{ password|literal }}::int;")

    failed = workspace.smeta("apply", "--env", "test", environ={"TRIAL_PASSWORD": "s3cr3t-canary"})

    assert failed.code == 1
    assert "invalid input syntax" in failed.err
    assert "s3cr3t-canary" not in failed.err + (workspace.root / "migration.log").read_text()


def test_a_run_that_is_killed_leaves_a_state_the_next_one_finishes(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a", "create table a (id int);\ncreate index concurrently a_id on a (id);\nselect pg_sleep(60);"
    )
    run = workspace.start("apply", "--env", "test")
    deadline = time.monotonic() + 30
    asleep = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    while database.query(asleep) == [(0,)]:
        assert time.monotonic() < deadline
    run.kill()
    run.communicate()
    workspace.migration(
        "1_a", "create table a (id int);\ncreate index concurrently a_id on a (id);\nselect 1;"
    )

    # The orphaned server process keeps the lock until it notices: 2 s.
    done = workspace.smeta("apply", "--env", "test", "--runner-wait", "30s")

    assert done.code == 0, done.err
    assert workspace.applied() == ["1_a"]
    assert database.query("select outcome from smeta.run order by started_at") == [("died",), ("done",)]


def test_ctrl_c_rolls_back_and_says_so(workspace: Workspace, database: TestDatabase) -> None:
    import signal

    workspace.migration("1_a", "create table a (id int);\nselect pg_sleep(60);")
    run = workspace.start("apply", "--env", "test")
    deadline = time.monotonic() + 30
    asleep = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    while database.query(asleep) == [(0,)]:
        assert time.monotonic() < deadline
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=20)

    assert run.returncode == 4, err
    assert "rolled back" in err
    assert workspace.tables() == set()
    assert database.query(asleep) == [(0,)]


def test_a_check_sees_the_tables_of_the_search_path(workspace: Workspace) -> None:
    workspace.more = 'checks:\n  - {name: rows, sql: "select count(*) from a", expect: {value: 2}}\n'
    workspace.migration("1_a", "create table a (id int);\ninsert into a values (1), (2);", "drop table a;")

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert workspace.smeta("verify", "--env", "test").code == 0


def test_constraints_deferred_in_one_migration_are_deferred_in_the_next(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int primary key);\n"
        "create table b (a int references a deferrable initially deferred);",
        "drop table b, a;",
        "select 1 from pg_class where relname = 'b';",
    )
    workspace.migration(
        "2_b", "insert into b values (1);\ninsert into a values (1);", "delete from b; delete from a;"
    )

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert database.query("select count(*) from b") == [(1,)]


def test_a_validation_that_meets_a_lock_is_tried_again(workspace: Workspace, database: TestDatabase) -> None:
    database.query("create table busy (id int)")
    workspace.migration(
        "1_a", "create table a (id int);", "drop table a;", "-- expect: empty\nselect * from busy;"
    )
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as writer:
        writer.execute("lock table busy in access exclusive mode")

        failed = workspace.smeta("apply", "--env", "test")

        assert failed.code == 4
        assert "error[lock-timeout]" in failed.err
    assert workspace.smeta("apply", "--env", "test").code == 0


def test_another_rollback_than_the_interrupted_one_is_refused(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.environment = "transaction: each"
    for version in ("1_a", "2_b", "3_c"):
        workspace.migration(version, f"create table t{version} (id int);", f"drop table t{version};")
    workspace.smeta("apply", "--env", "test")
    database.query("create view v as select * from t2_b")
    workspace.smeta("rollback", "2", "--env", "test")

    other = workspace.smeta("rollback", "--env", "test")

    assert other.code == 5
    assert "`smeta rollback 2` was interrupted" in other.err
    assert workspace.applied() == ["1_a", "2_b"]
    assert workspace.smeta("apply", "--env", "test").code == 0  # the other way out
    assert workspace.applied() == ["1_a", "2_b", "3_c"]
    assert workspace.smeta("rollback", "--env", "test").out == "rolled back 3_c\n"


def test_a_concurrent_drop_that_the_server_finished_is_recognised(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ncreate index concurrently a_id on a (id);",
        "drop index concurrently a_id;\ndrop table a;",
    )
    workspace.smeta("apply", "--env", "test")
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as reader:
        reader.execute("select * from a")
        run = workspace.start("rollback", "--env", "test")
        deadline = time.monotonic() + 30
        while database.query(
            "select count(*) from smeta.step where state = 'started' and direction = 'rollback'"
        ) == [(0,)]:
            assert time.monotonic() < deadline
        run.kill()
        run.communicate()
    database.query("drop index if exists a_id")  # what the orphaned process may have done before it noticed

    done = workspace.smeta("rollback", "--env", "test", "--runner-wait", "30s")

    assert done.code == 0, done.err
    assert workspace.tables() == set()


def test_an_index_built_from_an_earlier_text_is_not_taken_for_the_new_one(
    workspace: Workspace, database: TestDatabase
) -> None:
    build = "create unique index concurrently a_id on a (id);"
    path = workspace.migration(
        "1_a", f"create table a (id int, n int);\ninsert into a values (1, 1), (1, 2);\n{build}"
    )
    workspace.smeta("apply", "--env", "test")
    database.query("delete from a; drop index a_id")
    database.query("create unique index a_id on a (id)")  # as if the killed client's process had finished it
    path.write_text(path.read_text().replace("on a (id);", "on a (n);"))

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 5
    assert "before it was edited" in refused.err
    database.query("drop index a_id")
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert database.query("select pg_get_indexdef('a_id'::regclass) like '%(n)'") == [(True,)]


def test_a_half_done_migration_that_is_not_listed_is_not_forgotten(workspace: Workspace) -> None:
    workspace.migration(
        "1_a",
        "create table a (id int);\ninsert into a values (1), (1);\ncreate unique index concurrently a_id on a (id);",
    )
    workspace.smeta("apply", "--env", "test")
    path = workspace.file("1_a")
    text = path.read_text()
    path.unlink()
    workspace.versions.clear()
    workspace.write_manifest()

    refused = workspace.smeta("apply", "--env", "test")

    assert refused.code == 5
    assert "put 1_a back" in refused.err
    status = workspace.smeta("status", "--env", "test", "--format", "json").json
    assert [(m["version"], m["state"]) for m in status["migrations"]] == [("1_a", "partial")]
    assert text


def test_up_to_a_version_needs_no_later_file_to_be_right(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    workspace.migration("2_b", "create tabel b;")

    assert workspace.smeta("apply", "--to", "1_a", "--env", "test").code == 0
    assert workspace.applied() == ["1_a"]


def test_a_secret_that_only_the_kept_rollback_names(workspace: Workspace, database: TestDatabase) -> None:
    environ = {"TRIAL_PASSWORD": "c4nary-value"}
    workspace.environment = "vars: {password: {secret: TRIAL_PASSWORD}}"
    path = workspace.migration(
        "1_a",
        "create table a (id int);",
        "drop table a;\nselect {{ password|literal }}::int;",
        "select {{ password|literal }} <> '';",
    )
    assert workspace.smeta("apply", "--env", "test", environ=environ).code == 0
    workspace.environment = "{}"
    path.write_text("create table a (id int);")
    workspace.write_manifest()

    assert workspace.smeta("rollback", "--env", "test").code == 3
    verified = workspace.smeta("verify", "--env", "test")
    assert verified.code == 1
    assert "no value for TRIAL_PASSWORD" in verified.out
    failed = workspace.smeta("-v", "rollback", "--env", "test", environ=environ)

    assert failed.code == 1
    assert "invalid input syntax" in failed.err
    assert "c4nary" not in failed.err + failed.out + (workspace.root / "migration.log").read_text()
    assert workspace.tables() == {"a"}


def test_vacuum_stands_alone(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);\nvacuum a;", "drop table a;")

    assert workspace.smeta("apply", "--env", "test").code == 0
    assert database.query("select count(*) from smeta.step where state = 'started'") == [(1,)]


@pytest.mark.parametrize(
    "harm",
    [
        "delete from public.schema_migrations;",
        "update public.schema_migrations set checksum = '0';",
        "create rule no_rows as on insert to public.schema_migrations do instead nothing;",
        "drop schema smeta cascade;",
        "delete from smeta.step;",
        "drop table public.schema_migrations;",
    ],
)
def test_a_migration_that_writes_history_itself_is_rolled_back(
    workspace: Workspace, database: TestDatabase, harm: str
) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    assert workspace.smeta("apply", "--env", "test").code == 0
    workspace.migration("2_b", f"create table b (id int);\n{harm}", "drop table b;")

    refused = workspace.smeta("apply", "--env", "test", "--allow-destructive")

    assert refused.code == 1, refused.err
    assert "is as it was before" in refused.err
    assert workspace.tables() == {"a"}
    assert workspace.applied() == ["1_a"]
    assert database.query("select count(*) from smeta.step") == [(1,)]


def test_any_datestyle_of_the_database_will_do(workspace: Workspace, database: TestDatabase) -> None:
    database.query_as_admin(f"alter database {database.name} set datestyle = 'SQL, DMY'")
    workspace.migration(
        "1_a", "create table a (at timestamptz);\nselect now();", "drop table a;", "select now();"
    )

    for command in (("apply",), ("status",), ("history",), ("verify",), ("rollback",)):
        done = workspace.smeta(*command, "--env", "test")
        assert done.code == 0, done.err


def test_what_a_server_tells_of_a_secret_in_pieces_is_withheld(workspace: Workspace) -> None:
    secret = "first-part-of-it\n" + "x" * 80
    workspace.environment = "vars: {password: {secret: TRIAL_PASSWORD}}"
    workspace.migration(
        "1_a",
        "create table a (t text check (length(t) < 3));\ninsert into a values ({{ password|literal }});",
    )

    failed = workspace.smeta("apply", "--env", "test", environ={"TRIAL_PASSWORD": secret})

    assert failed.code == 1
    assert "sqlstate: 23514" in failed.err
    for piece in ("first-part", "xxxx"):
        assert piece not in failed.err + (workspace.root / "migration.log").read_text()


def test_a_short_password_does_not_mask_our_own_words(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    dsn = database.conninfo.dsn + "&password=app"
    workspace.smeta("apply", "--env", "test", environ={"TRIAL_URL": dsn})

    status = workspace.smeta("status", "--env", "test", "--format", "json", environ={"TRIAL_URL": dsn})

    assert status.json["migrations"][0]["state"] == "applied"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_an_answer_that_cannot_be_written_is_no_failure_of_what_is_done(workspace: Workspace) -> None:
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    command = f"{shlex.quote(sys.executable)} -m smeta_declare apply --env test > /dev/full"

    done = subprocess.run(
        ["sh", "-c", command],
        cwd=workspace.root,
        env=workspace.environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, workspace.applied()) == (0, ["1_a"])
    assert "warning: it is done, and the answer cannot be written: No space left on device" in done.stderr
