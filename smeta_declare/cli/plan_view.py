"""The plan for people: a summary line, then every step with its statements in the order they run."""

from __future__ import annotations

from smeta_declare.batching import Batch
from smeta_declare.inheritance import duration_text
from smeta_declare.plan import (
    AutocommitStep,
    BackfillStep,
    BackupStep,
    Plan,
    PlannedStatement,
    Question,
    Step,
    TransactionStep,
    Work,
)


def summary(plan: Plan) -> str:
    """One line: how many go which way, in how many transactions."""
    if plan.empty:
        return f"{plan.environment}: nothing to do"
    verb = "apply" if plan.direction == "forward" else "roll back"
    transactions = sum(isinstance(s, TransactionStep) for s in plan.steps)
    alone = sum(isinstance(s, AutocommitStep) for s in plan.steps)
    parts = [f"{len(plan.migrations)} to {verb}", _count(transactions, "transaction")]
    batched = sum(isinstance(s, BackfillStep) for s in plan.steps)
    if batched:
        parts.append(f"{_count(batched, 'statement')} in batches")
    if alone:
        parts.append(f"{_count(alone, 'statement')} outside of any")
    oneway = sum(not m.reversible for m in plan.migrations)
    if oneway:
        parts.append(f"{oneway} without a way back")
    return f"{plan.environment}, database {plan.target['database']} at {plan.address}: {', '.join(parts)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def plan_text(plan: Plan) -> str:
    """The whole plan."""
    target = plan.target
    lines = [
        f"environment  {plan.environment} (project {plan.project})",
        f"database     {target['database']}, PostgreSQL {target['server_major']}, as {plan.role or target['user']}",
        f"address      {plan.address}",
        f"plan         {plan.id[:12]}",
        "",
        summary(plan),
        *(["goes on with the rollback that was interrupted, and no further"] if plan.continues else []),
    ]
    for migration in plan.migrations:
        notes = [
            *(["out of order"] if migration.out_of_order else []),
            *([] if migration.reversible else ["no rollback section"]),
            *(
                [f"resumes at step {migration.resumes_at + 1} of {migration.steps}"]
                if migration.resumes_at
                else []
            ),
        ]
        sign = "+" if migration.direction == "forward" else "-"
        lines.append(f"  {sign} {migration.version}" + (f"  [{'; '.join(notes)}]" if notes else ""))
    for step in plan.steps:
        lines += ["", *_step(step)]
    return "\n".join(lines)


def _step(step: Step) -> list[str]:
    match step:
        case BackupStep():
            return [
                f"── backup: {step.policy.name} ({step.policy.scope}, {step.policy.format}), before anything runs"
            ]
        case TransactionStep():
            lines = ["┌─ transaction"]
            for work in step.works:
                lines += [f"│  {line}" for line in _work(work)]
            lines += [f"│  {line}" for q in step.checks for line in _question("check", q)]
            return [*lines, "└─ commit"]
        case AutocommitStep():
            return [
                f"── on its own: {step.reason}",
                *(f"   {line}" for line in _work(step.work)),
            ]
        case BackfillStep():
            return [
                f"── in batches of {step.batch.options.size:,} rows of {step.batch.relation}, "
                f"by {step.batch.options.key}: each is a transaction of its own",
                *(f"   {line}" for line in (*_work(step.work), *_batches(step.batch))),
            ]


def _batches(batch: Batch) -> list[str]:
    options = batch.options
    pauses = [f"pause of {duration_text(options.pause_ms)} between two"] if options.pause_ms else []
    if options.max_lag_ms is not None:
        pauses.append(f"waits while a standby is more than {duration_text(options.max_lag_ms)} behind")
    if batch.until:
        origin = "the statement's own condition" if batch.derived else "given"
        ends = f"only rows, and again until there is none, where {' '.join(batch.until.split())} ({origin})"
    else:
        ends = "one pass, up to the highest key at its start; each row once"
    return [f"  · {line}" for line in (ends, *pauses)]


def _work(work: Work) -> list[str]:
    part = f", step {work.position + 1} of {work.steps}" if work.steps > 1 else ""
    arrow = "forward" if work.direction == "forward" else "back"
    lines = [f"{work.version} ({arrow}{part})"]
    if work.forget:
        lines.append("  · leaves the history")
    for statement in work.statements:
        lines += _statement(statement)
    for question in work.validations:
        lines += _question("validation", question)
    if work.record:
        lines.append("  · enters the history")
    return lines


def _statement(statement: PlannedStatement) -> list[str]:
    at = statement.location
    first, *rest = statement.text.splitlines()
    return [f"  -- {statement.summary}  ({at.file}:{at.line})", f"  {first}", *(f"  {line}" for line in rest)]


def _question(kind: str, question: Question) -> list[str]:
    text = " ".join(question.statement.text.split())
    shown = text if len(text) <= 100 else text[:99] + "…"
    return [f"  ? {kind}, expect {question.expect}: {shown}"]
