"""The index of the rendered files: what each migration does, one fact a line, so that a diff of it can be read.

Nothing in it counts over all migrations, so that one more of them is one more block and no other change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from smeta_declare.effects import LOCKS, strongest_lock
from smeta_declare.parser import shallow
from smeta_declare.plan import (
    AutocommitStep,
    BackfillStep,
    BackupStep,
    Plan,
    PlannedMigration,
    PlannedStatement,
    TransactionStep,
    Work,
    works_in,
)

_WorkingStep: TypeAlias = TransactionStep | AutocommitStep | BackfillStep  # has shares of migrations in it
INDEX_MARK = "<!-- Rendered by smeta"
_TOGETHER = {
    "all": "What is pending runs in one transaction, as far as PostgreSQL can do that.",
    "each": "Each migration is a transaction of its own, as far as PostgreSQL can do that.",
}


def index_markdown(plan: Plan) -> str:
    """The migrations of a plan, in the order in which they run."""
    works = [
        (step, work)
        for step in plan.steps
        if not isinstance(step, BackupStep)  # belongs to no migration
        for work in works_in(step)
    ]
    lines = [
        f"{INDEX_MARK} for environment {plan.environment}: do not edit -->",
        f"# {plan.project}: migrations of {plan.environment}",
        "",
        f"In their order. {_TOGETHER[plan.transaction]}",
    ]
    for migration in plan.migrations:
        own = [(step, work) for step, work in works if work.version == migration.version]
        lost = [loss.what for version, loss in plan.losses if version == migration.version]
        facts = [*_facts(migration, own), *(("destroys", what) for what in lost), *_way_back(migration)]
        # Indented, it is code to Markdown: nothing in it has to be escaped.
        lines += ["", f"## {migration.version}", "", *(f"    {name:14}  {value}" for name, value in facts)]
    return "\n".join(lines) + "\n"


def _facts(migration: PlannedMigration, works: list[tuple[_WorkingStep, Work]]) -> Iterator[tuple[str, str]]:
    if migration.description:
        yield "description", migration.description
    statements = [statement for _, work in works for statement in work.statements]
    record = works[-1][1].record
    yield "meaning", record.meaning if record else ""
    yield "statements", str(len(statements))
    for step, work in works:
        yield _boundary(step, work)
    yield "strongest lock", _strongest(statements)
    if asked := sum(len(work.validations) for _, work in works):
        yield "validations", str(asked)


def _boundary(step: _WorkingStep, work: Work) -> tuple[str, str]:
    part = f"step {work.position + 1} of {work.steps}"
    match step:
        case TransactionStep():
            return "transaction", f"{part}, {len(work.statements)} in it"
        case AutocommitStep():
            return "on its own", f"{part}, {step.statement.summary}: {step.reason}"
        case BackfillStep():
            options = step.batch.options
            return "in batches", f"{part}, {step.statement.summary}: {options.size} rows by {options.key}"


def _strongest(statements: list[PlannedStatement]) -> str:
    """Of tables that are there, by the kinds of the statements."""
    found = (strongest_lock(*shallow(statement.text)[0]) for statement in statements)
    return max((lock for lock in found if lock), key=LOCKS.index, default="none")


def _way_back(migration: PlannedMigration) -> Iterator[tuple[str, str]]:
    if migration.rollback is None:
        yield "way back", "no"
    else:
        count = len(migration.rollback)
        yield "way back", f"yes, {count} {'statement' if count == 1 else 'statements'}"
