"""From what is wanted and what is there to a plan. Pure: the same inputs give the same plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from smeta_declare.backup.policy import BackupPolicy, strongest
from smeta_declare.boundaries import StepsBuilder, works_of
from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.environment import Environment, MigrationEntry
from smeta_declare.errors import Refused, StoppedHalfway, UsageError
from smeta_declare.parser import parser_version
from smeta_declare.plan import (
    BackupStep,
    HistoryRow,
    Plan,
    PlannedMigration,
    Question,
    Step,
    Work,
)
from smeta_declare.rendering import (
    RenderedMigration,
    RenderedSection,
    check_question,
    migration_findings,
    section_meaning,
)
from smeta_declare.run import (
    Direction,
    History,
    KeptRollback,
    Target,
    is_reconciliation,
)


class OutOfOrder(Refused):
    """A pending migration stands before an applied one, and the environment is strict."""

    code = "out-of-order"


class RequirementMissing(Refused):
    """A migration requires one that is neither applied nor planned before it."""

    code = "requirement-missing"


class RunOpen(StoppedHalfway):
    """An earlier run is half done; only the command that finishes it is accepted."""

    code = "run-open"


def plan_apply(
    environment: Environment,
    history: History,
    target: Target,
    rendered: Callable[[MigrationEntry], RenderedMigration],
    *,
    to: str | None = None,
    backup: bool = True,
) -> Plan:
    """The way forward: every pending migration of the environment, up to and including `to`."""
    refuse_open(environment, history, "forward")
    _refuse_unlisted(environment, history)
    pending = _pending(environment, history, to)
    _check_requirements(environment, history, pending)
    builder = StepsBuilder(environment)
    checks = _checks(environment)
    planned = []
    noticed: list[Diagnostic] = []
    for entry, out_of_order in pending:
        migration = rendered(entry)
        noticed += migration_findings(migration)
        partial = history.partial_of(entry.version, "forward")
        works = _forward_works(migration, history.rounds.get((entry.version, "forward"), 0), checks)
        builder.add(works, partial)
        planned.append(
            PlannedMigration(
                version=entry.version,
                name=migration.header.name,
                description=migration.header.description,
                direction="forward",
                reversible=migration.rollback is not None,
                out_of_order=out_of_order,
                resumes_at=len(partial.done) if partial else 0,
                resumes=partial.words if partial and partial.changed_something else "",
                steps=len(works),
                rollback=tuple(s.directed for s in migration.rollback.statements)
                if migration.rollback
                else None,
            )
        )
    policy = policy_of(environment, [entry for entry, _ in pending]) if pending and backup else None
    steps = builder.steps(checks)
    return made_plan(
        environment,
        history,
        target,
        "forward",
        planned,
        steps,
        policy,
        request=f"apply --to {to}" if to else "apply",
        noticed=noticed,
    )


def entry_of(environment: Environment, version: str) -> MigrationEntry | None:
    return next((e for e in environment.migrations if e.version == version), None)


def refuse_open(environment: Environment, history: History, direction: Direction) -> None:
    """Half-done work the other way must be finished first, or its run be abandoned; then it can be undone."""
    for partial in history.partial:
        run = history.open_run(partial.direction)
        if partial.direction == direction or (partial.direction == "forward" and run is None):
            continue
        resume = history.way_on_text(partial, environment)
        consent = f" --confirm {environment.name}" if environment.protected else ""
        end = f"smeta apply --env {environment.name} --abandon {run.id}{consent}" if run else ""
        then = "and roll back" if partial.changed_something else "which leaves nothing of it"
        way_out = f", or end its run with `{end}`, {then}" if run and not partial.only_onward else ""
        raise RunOpen(
            f"{partial.version} is half done on its way {'forward' if direction == 'rollback' else 'back'}: "
            f"{partial.words}",
            hint=f"finish it first: {resume}" + (way_out if direction == "rollback" else ""),
            changed="nothing was run now",
        )


def _refuse_unlisted(environment: Environment, history: History) -> None:
    listed = {entry.version for entry in environment.migrations}
    for partial in history.partial:
        if partial.direction == "forward" and partial.version not in listed:
            raise RunOpen(
                f"{partial.version} is half done, and {environment.name} does not list it any more",
                hint=f"put {partial.version} back into migrations.apply, with its file, and run "
                f"`smeta apply --env {environment.name}`",
                changed="nothing was run now",
            )


def _pending(environment: Environment, history: History, to: str | None) -> list[tuple[MigrationEntry, bool]]:
    """The migrations to apply, each with whether a later one is applied already."""
    entries = environment.migrations
    if to is not None and to not in {e.version for e in entries}:
        raise UsageError(
            f"no migration {to} in environment {environment.name}",
            hint=f"`smeta status --env {environment.name}` lists them",
        )
    applied = {row.version for row in history.applied}
    last = max((i for i, e in enumerate(entries) if e.version in applied), default=-1)
    pending = []
    for index, entry in enumerate(entries):
        if entry.version not in applied:
            if index < last and environment.order == "strict":
                raise OutOfOrder(
                    f"{entry.version} is pending and listed before {entries[last].version}, which is applied",
                    location=entry.location,
                    hint="list it after the applied ones, or set `order: lenient`",
                )
            pending.append((entry, index < last))
        if entry.version == to:
            break
    return pending


def _check_requirements(
    environment: Environment, history: History, pending: Sequence[tuple[MigrationEntry, bool]]
) -> None:
    there = {row.version for row in history.applied}
    for entry, _ in pending:
        for required in entry.requires:
            if required not in there:
                raise RequirementMissing(
                    f"{entry.version} requires {required}, which is neither applied nor part of this plan",
                    location=entry.location,
                    hint=f"let environment {environment.name} apply {required} first",
                )
        there.add(entry.version)


def policy_of(environment: Environment, entries: Sequence[MigrationEntry]) -> BackupPolicy | None:
    asked = (environment.backup, *(e.backup for e in entries))
    return strongest(tuple(p for p in asked if p))


def made_plan(
    environment: Environment,
    history: History,
    target: Target,
    direction: Direction,
    planned: Sequence[PlannedMigration],
    steps: Sequence[Step],
    policy: BackupPolicy | None,
    *,
    request: str,
    from_file: bool = False,
    continues: str | None = None,
    noticed: Iterable[Diagnostic] = (),
) -> Plan:
    backups: list[Step] = []
    if policy:
        backups = [BackupStep(id="backup", policy=policy, label=planned[0].version)]
    return Plan(
        environment=environment.name,
        project=environment.project,
        direction=direction,
        target={
            "system_identifier": target.system_identifier,
            "database": target.database,
            "user": None if environment.role else target.user,  # who works is the role
            "server_major": target.major,
            "history_id": history.id,
        },
        history=environment.history,
        base={
            "digest": history.digest(),
            "applied": len(history.applied),
            "last": history.applied[-1].version if history.applied else None,
        },
        settings=environment.settings(),
        from_file=from_file,
        role=environment.role,
        transaction=environment.transaction,
        migrations=tuple(planned),
        steps=(*backups, *steps),
        request=request,
        continues=continues,
        address=target.address,
        findings=(*_findings(environment, history, planned), *noticed),
    )


def _findings(
    environment: Environment, history: History, planned: Sequence[PlannedMigration]
) -> Iterable[Diagnostic]:
    listed = {e.version: e for e in environment.migrations}
    for row in history.applied:
        if row.version not in listed and not is_reconciliation(row.version):
            yield Diagnostic(
                code="applied-unknown",
                severity=Severity.MEDIUM,
                message=f"{row.version} is applied, and the manifest does not list it for {environment.name}",
                object=row.version,
                hint="the database is ahead of this checkout, or the entry was removed",
            )
    for version in history.erased:
        yield Diagnostic(
            code="row-erased",
            severity=Severity.HIGH,
            message=f"{version} was applied, as the journal has it, and its row in {environment.history} is gone",
            object=version,
            location=listed[version].location if version in listed else None,
            hint="put the row back from a backup; if what it made was undone by hand, too, apply makes it again",
        )
    for migration in planned:
        place = listed[migration.version].location if migration.version in listed else None
        if migration.out_of_order:
            yield Diagnostic(
                code="out-of-order",
                severity=Severity.LOW,
                message=f"{migration.version} is listed before a migration that is already applied",
                object=migration.version,
                location=place,
            )


def history_row(migration: RenderedMigration) -> HistoryRow:
    """What the history keeps of a migration once it is applied."""
    return HistoryRow(
        version=migration.file.version,
        name=migration.header.name,
        description=migration.header.description,
        checksum=migration.file.checksum,
        meaning=migration.forward.meaning,
        inputs=migration.inputs,
        forward_sql=migration.forward.text,
        rollback_sql=migration.rollback.text if migration.rollback else None,
        validation_sql=migration.validation.text if migration.validation else None,
        details={
            "parser": parser_version(),
            "validation_meaning": section_meaning(migration.validation, migration.validations),
            "rollback_secrets": slots_kept(migration.rollback),
            "validation_secrets": slots_kept(migration.validation),
        },
    )


def _forward_works(
    migration: RenderedMigration, round: int, checks: tuple[Question, ...]
) -> tuple[Work, ...]:
    return works_of(
        migration.file.version,
        "forward",
        round,
        migration.forward.statements,
        migration.entry.timeouts,
        record=history_row(migration),
        validations=migration.validations,
        checks=checks,
        keeps=_kept_of_migration(migration),
    )


def _kept_of_migration(migration: RenderedMigration) -> KeptRollback | None:
    kept = kept_of(migration.rollback)
    if kept and is_reconciliation(migration.file.version):
        return replace(kept, forward=migration.forward.text)
    return kept


def kept_of(section: RenderedSection | None) -> KeptRollback | None:
    """What a migration that stops half-way is rolled back with: its row in the history comes last."""
    return KeptRollback(text=section.text, secrets=tuple(slots_kept(section))) if section else None


def slots_kept(section: RenderedSection | None) -> list[dict[str, Any]]:
    if section is None:
        return []
    # The text is kept without the newlines around it, and so are the places in it.
    lead = len(section.rendered.text) - len(section.rendered.text.lstrip("\n"))
    return [
        {"start": s.start - lead, "end": s.end - lead, "name": s.name, "form": s.form}
        for s in section.rendered.secrets
    ]


def _checks(environment: Environment) -> tuple[Question, ...]:
    return tuple(check_question(check) for check in environment.checks)
