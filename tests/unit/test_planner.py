"""From what is wanted and what is there to a plan: boundaries, order, requirements, stable ids."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.conninfo import Conninfo
from smeta_declare.environment import Check, Environment, HistoryPlace, Locks, MigrationEntry, Timeouts
from smeta_declare.errors import InvalidManifest, UsageError
from smeta_declare.migration import MigrationFile
from smeta_declare.plan import AutocommitStep, BackfillStep, BackupStep, Plan, TransactionStep
from smeta_declare.planner import OutOfOrder, RequirementMissing, plan_apply
from smeta_declare.rendering import RenderedMigration, render_migration
from smeta_declare.run import AppliedMigration, History, Target
from smeta_declare.validation import Expectation
from smeta_declare.way_back import NoWayBack, plan_rollback

TARGET = Target(
    system_identifier="1", database="d", user="u", server_version_num=180006, server_version="18.6"
)
SOURCES = {
    "1_a": "create table a (id int);\n-- ROLLBACK_START\ndrop table a;\n-- ROLLBACK_END\n",
    "2_b": "create table b (id int);\ncreate index concurrently b_id on b (id);\ninsert into b values (1);\n"
    "-- ROLLBACK_START\ndrop index concurrently b_id;\ndrop table b;\n-- ROLLBACK_END\n",
    "3_c": "create table c (id int);",
    "4_d": "alter table a add d int;\n-- smeta: batch key=id size=10\nupdate a set d = 1 where d is null;\n"
    "alter table a alter d set not null;\n",
}


def environment(*versions: str, **changes: Any) -> Environment:
    found = Environment(
        name="test",
        project="trial",
        database=Conninfo(dsn="dbname=d", source="test"),
        role=None,
        transaction="all",
        order="lenient",
        protected=False,
        timeouts=Timeouts(),
        locks=Locks(),
        backup=None,
        policies=(),
        variables=(),
        history=HistoryPlace(),
        migrations_directory="migrations",
        backups_directory="backups",
        migrations=tuple(MigrationEntry(version=v) for v in versions or ("1_a", "2_b", "3_c")),
        checks=(),
    )
    return dataclasses.replace(found, **changes)


def rendered(entry: MigrationEntry) -> RenderedMigration:
    version = entry.version
    file = MigrationFile(version=version, path=f"migrations/{version}.sql", source=SOURCES[version])
    return render_migration(file, entry, {}, lambda _name: None)


def applied(*versions: str) -> History:
    return History(
        id="h",
        applied=tuple(
            AppliedMigration(
                version=v,
                name=v,
                description="",
                applied_at=datetime(2026, 1, 1, tzinfo=UTC),
                applied_by="u",
                execution_time_ms=1,
                checksum="c",
                meaning="m",
                inputs="i",
                forward_sql="",
                rollback_sql=text.text if (text := rendered(MigrationEntry(version=v)).rollback) else None,
                validation_sql=None,
            )
            for v in versions
        ),
    )


def forward(wanted: Environment, history: History | None = None, to: str | None = None) -> Plan:
    return plan_apply(wanted, history or History(), TARGET, rendered, to=to)


def shape(plan: Plan) -> list[str]:
    """Each step as the versions and statements in it."""
    found = []
    for step in plan.steps:
        match step:
            case BackupStep():
                found.append(f"backup {step.policy.name}")
            case TransactionStep():
                found.append("in " + ", ".join(f"{w.version}:{len(w.statements)}" for w in step.works))
            case AutocommitStep():
                found.append(f"alone {step.work.version}")
            case BackfillStep():
                found.append(f"batches {step.work.version}")
    return found


def test_everything_is_one_transaction_but_for_what_cannot_be() -> None:
    assert shape(forward(environment())) == ["in 1_a:1, 2_b:1", "alone 2_b", "in 2_b:1, 3_c:1"]


def test_a_batch_stands_between_the_transactions_before_and_after_it() -> None:
    plan = forward(environment("1_a", "4_d"))

    assert shape(plan) == ["in 1_a:1, 4_d:1", "batches 4_d", "in 4_d:1"]
    step = plan.decision["steps"][1]
    assert {k: step[k] for k in ("kind", "table", "key", "size", "until", "until_derived")} == {
        "kind": "backfill",
        "table": "a",
        "key": "id",
        "size": 10,
        "until": "d is null",
        "until_derived": True,
    }


def test_each_migration_is_a_transaction_where_that_is_wanted() -> None:
    assert shape(forward(environment("1_a", "3_c", transaction="each"))) == ["in 1_a:1", "in 3_c:1"]


def test_only_what_is_pending_is_planned() -> None:
    assert [m.version for m in forward(environment(), applied("1_a")).migrations] == ["2_b", "3_c"]
    assert forward(environment(), applied(*SOURCES)).empty
    assert [m.version for m in forward(environment(), to="2_b").migrations] == ["1_a", "2_b"]


def test_the_history_row_is_written_with_the_last_work_and_goes_with_the_first() -> None:
    plan = forward(environment("2_b"))
    works = [w for s in plan.steps for w in (s.works if isinstance(s, TransactionStep) else ())]
    assert [w.record is not None for w in works] == [False, True]

    back = plan_rollback(environment("2_b"), applied("2_b"), TARGET)
    assert shape(back) == ["in 2_b:0", "alone 2_b", "in 2_b:1"]
    assert isinstance(back.steps[0], TransactionStep)
    assert back.steps[0].works[0].forget


def test_an_unknown_version_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no migration 9_z in environment test"):
        forward(environment(), to="9_z")
    with pytest.raises(UsageError, match="9_z is not applied"):
        plan_rollback(environment(), applied("1_a"), TARGET, to="9_z")


def test_rollback_goes_in_reverse_order_of_application() -> None:
    history = applied("2_b", "1_a")  # a late-comer

    def versions(**how: Any) -> list[str]:
        return [m.version for m in plan_rollback(environment(), history, TARGET, **how).migrations]

    assert versions() == ["1_a"]
    assert versions(count=2) == ["1_a", "2_b"]
    with pytest.raises(UsageError, match="9 are to be undone, and only 2 are applied"):
        versions(count=9)
    assert versions(to="2_b") == ["1_a"]
    assert versions(to="1_a") == []


def test_there_is_no_way_back_without_a_section() -> None:
    assert [f.code for f in forward(environment("3_c")).findings] == ["no-rollback"]
    with pytest.raises(NoWayBack, match="3_c has no rollback section"):
        plan_rollback(environment(), applied("3_c"), TARGET)


def test_a_late_comer_is_told_or_refused() -> None:
    lenient = forward(environment("1_a", "2_b"), applied("2_b"))
    assert lenient.migrations[0].out_of_order
    assert [f.code for f in lenient.findings] == ["out-of-order"]
    with pytest.raises(OutOfOrder, match="1_a is pending and listed before 2_b"):
        forward(environment("1_a", "2_b", order="strict"), applied("2_b"))


def test_what_a_migration_requires_is_applied_or_planned_before_it() -> None:
    wanted = environment(
        migrations=(MigrationEntry(version="1_a"), MigrationEntry(version="3_c", requires=("1_a", "2_b")))
    )
    with pytest.raises(RequirementMissing, match="3_c requires 2_b"):
        forward(wanted)
    assert not forward(wanted, applied("2_b")).empty


def test_the_strongest_policy_that_a_pending_migration_asks_for_is_taken() -> None:
    schema = BackupPolicy(name="s", scope="schema", format="plain")
    full = BackupPolicy(name="f", scope="full", format="custom")
    wanted = environment(
        backup=schema, migrations=(MigrationEntry(version="1_a"), MigrationEntry(version="3_c", backup=full))
    )
    assert shape(forward(wanted))[0] == "backup f"
    assert shape(forward(wanted, to="1_a"))[0] == "backup s"
    assert shape(forward(wanted, applied("1_a", "3_c"))) == []


def test_declared_checks_are_asked_in_the_last_transaction() -> None:
    check = Check(name="c", sql="select 1", expect=Expectation())
    plan = forward(environment(checks=(check,)))
    asked = [[q.name for q in s.checks] for s in plan.steps if isinstance(s, TransactionStep)]
    assert asked == [[], ["c"]]
    for bad in ("select 1; select 2", "delete from a", ""):
        with pytest.raises(InvalidManifest, match="check “c” must be exactly one query"):
            forward(environment(checks=(dataclasses.replace(check, sql=bad),)))


def test_the_same_inputs_give_the_same_id_and_another_base_another() -> None:
    assert forward(environment()).id == forward(environment()).id
    ids = {
        forward(environment()).id,
        forward(environment(name="other")).id,
        forward(environment(role="r")).id,
        forward(environment(transaction="each")).id,
        forward(environment(), applied("1_a")).id,
    }
    assert len(ids) == 5
