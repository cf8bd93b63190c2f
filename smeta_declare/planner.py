"""From what is wanted and what is there to a plan. Pure: the same inputs give the same plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from smeta_declare.backup.policy import BackupPolicy, strongest
from smeta_declare.boundaries import StepsBuilder, works_of
from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.environment import Environment, MigrationEntry
from smeta_declare.errors import Refused, StoppedHalfway, UsageError
from smeta_declare.events import listed
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
    section_of,
)
from smeta_declare.run import (
    AppliedMigration,
    Direction,
    History,
    KeptRollback,
    OpenRun,
    PartialMigration,
    Target,
    ways_text,
)
from smeta_declare.template import Rendered, SecretSlot


class OutOfOrder(Refused):
    """A pending migration stands before an applied one, and the environment is strict."""

    code = "out-of-order"


class RequirementMissing(Refused):
    """A migration requires one that is neither applied nor planned before it."""

    code = "requirement-missing"


class RunOpen(StoppedHalfway):
    """An earlier run is half done; only the command that finishes it is accepted."""

    code = "run-open"


class NoWayBack(Refused):
    """A migration has no rollback section."""

    code = "no-rollback"


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
    _refuse_open(environment, history, "forward")
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
                steps=len(works),
                rollback=tuple(s.text for s in migration.rollback.statements) if migration.rollback else None,
            )
        )
    policy = _policy(environment, [entry for entry, _ in pending]) if pending and backup else None
    steps = builder.steps(checks)
    return _plan(
        environment,
        history,
        target,
        "forward",
        planned,
        steps,
        policy,
        request=f"apply --to {to}" if to else "apply",
        backup=backup,
        noticed=noticed,
    )


def plan_rollback(
    environment: Environment,
    history: History,
    target: Target,
    *,
    count: int = 1,
    to: str | None = None,
    backup: bool = True,
    section_now: Callable[[str], bool] = lambda _version: False,
) -> Plan:
    """The way back, in reverse order of application, with the rollback SQL kept in the database.

    `to` names the migration that shall be the last applied one afterwards; otherwise the last `count` go, what is
    half done among them. `section_now` says, for an error, whether the file of a version has a rollback section.
    """
    _refuse_open(environment, history, "rollback")
    request = f"rollback --to {to}" if to else f"rollback {count}"
    interrupted = history.open_run("rollback")
    if interrupted and interrupted.request != request:
        raise RunOpen(
            f"`smeta {interrupted.request}` was interrupted and is not finished",
            hint=f"repeat it (`smeta {interrupted.request} --env {environment.name}`), or go forward with "
            f"`smeta apply --env {environment.name}`, which ends it",
            changed="nothing was run now",
        )
    half = [*_half_done(history), *_half_applied(history, interrupted)]
    rows = (
        _rows_left(history, interrupted)
        if interrupted
        else _rows_back(environment, history, max(0, count - len(half)), to)
    )
    builder = StepsBuilder(environment)
    planned: list[PlannedMigration] = []
    for version, kept, partial in [*half, *_whole(rows)]:
        if kept is None:
            later = () if interrupted else tuple(m.version for m in planned)
            raise _no_way_back(environment, history, version, later, section_now=section_now(version))
        section = section_of(
            Rendered.kept(kept.text, name=f"rollback of {version}", secrets=kept_slots(kept.secrets))
        )
        entry = _entry(environment, version)
        works = works_of(
            version,
            "rollback",
            history.rounds.get((version, "rollback"), 0),
            section.statements,
            entry.timeouts if entry else environment.timeouts,
            keeps=kept,
        )
        builder.add(works, partial)
        row = history.find(version)
        planned.append(
            PlannedMigration(
                version=version,
                name=row.name if row else version,
                description=row.description if row else "",
                direction="rollback",
                reversible=True,
                resumes_at=len(partial.done) if partial else 0,
                steps=len(works),
            )
        )
    asking = [entry for m in planned if (entry := _entry(environment, m.version))]
    policy = _policy(environment, asking) if planned and backup else None
    continues = interrupted.id if interrupted else None
    return _plan(
        environment,
        history,
        target,
        "rollback",
        planned,
        builder.steps(()),
        policy,
        request=request,
        backup=backup,
        continues=continues,
    )


def _no_way_back(
    environment: Environment, history: History, version: str, later: Sequence[str], *, section_now: bool
) -> NoWayBack:
    """Which migration blocks, what to do about it, and how far back it goes without it."""
    message, hint = f"{version} has no rollback section", "write a new migration that undoes it"
    if section_now:
        message = f"{version} was applied without a rollback section; the one in its file was added later"
        hint += ": smeta undoes with the SQL that it kept when it applied, and with no other"
    if half := history.partial_of(version, "forward"):
        hint = f"it is half done: {ways_text(history.ways_on(half, environment.name))}"
    if later:
        hint += (
            f"; `smeta rollback {len(later)} --env {environment.name}` undoes what was applied after it: "
            + listed(later, "migrations")
        )
    return NoWayBack(message, hint=hint)


_WayBack: TypeAlias = tuple[str, KeptRollback | None, PartialMigration | None]


def _half_done(history: History) -> list[_WayBack]:
    """Rollbacks of which steps are committed: their rows are gone, the journal has kept their text."""
    return [
        (p.version, history.rollback_texts.get(p.version), p)
        for p in history.partial
        if p.direction == "rollback"
    ]


def _half_applied(history: History, interrupted: OpenRun | None) -> list[_WayBack]:
    """Migrations of which steps are committed on the way forward, and no run wants to finish them."""
    return [
        (p.version, history.rollback_texts.get(p.version), None)
        for p in history.partial
        if p.direction == "forward"
        and p.changed_something
        and (interrupted is None or p.version in interrupted.versions)
    ]


def _whole(rows: Iterable[AppliedMigration]) -> list[_WayBack]:
    return [
        (
            row.version,
            None
            if row.rollback_sql is None
            else KeptRollback(text=row.rollback_sql, secrets=tuple(row.details.get("rollback_secrets", ()))),
            None,
        )
        for row in rows
    ]


def _entry(environment: Environment, version: str) -> MigrationEntry | None:
    return next((e for e in environment.migrations if e.version == version), None)


def kept_slots(kept: Iterable[Mapping[str, Any]]) -> tuple[SecretSlot, ...]:
    """The places of secrets as the history keeps them."""
    return tuple(SecretSlot(start=s["start"], end=s["end"], name=s["name"], form=s["form"]) for s in kept)


def _refuse_open(environment: Environment, history: History, direction: Direction) -> None:
    """Half-done work the other way must be finished first, or its run be abandoned; then it can be undone."""
    for partial in history.partial:
        run = history.open_run(partial.direction)
        if partial.direction == direction or (partial.direction == "forward" and run is None):
            continue
        resume = history.ways_on(partial, environment.name)[0]
        end = f"smeta apply --env {environment.name} --abandon {run.id}" if run else ""
        way_out = f", or end its run with `{end}`, and roll back" if run else ""
        raise RunOpen(
            f"{partial.version} is half done on its way {'forward' if direction == 'rollback' else 'back'}: "
            f"{len(partial.done)} of {partial.steps} steps are committed",
            hint=f"finish it first: `{resume}`" + (way_out if direction == "rollback" else ""),
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


def _policy(environment: Environment, entries: Sequence[MigrationEntry]) -> BackupPolicy | None:
    asked = (environment.backup, *(e.backup for e in entries))
    return strongest(tuple(p for p in asked if p))


def _plan(
    environment: Environment,
    history: History,
    target: Target,
    direction: Direction,
    planned: Sequence[PlannedMigration],
    steps: Sequence[Step],
    policy: BackupPolicy | None,
    *,
    request: str,
    backup: bool,
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
        backup=backup,
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
        if row.version not in listed:
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


def _rows_left(history: History, interrupted: OpenRun) -> list[AppliedMigration]:
    """What an interrupted rollback still has to undo: its target was resolved when it began."""
    found = (history.find(version) for version in interrupted.versions)
    return [row for row in found if row]


def _rows_back(
    environment: Environment, history: History, count: int, to: str | None
) -> list[AppliedMigration]:
    rows = list(reversed(history.applied))
    if to is None:
        return rows[:count]
    if history.find(to) is None:
        raise UsageError(
            f"{to} is not applied, so there is no way back to it",
            hint=f"`smeta status --env {environment.name}` lists what is",
        )
    index = next(i for i, row in enumerate(rows) if row.version == to)
    return rows[:index]


def _forward_works(
    migration: RenderedMigration, round: int, checks: tuple[Question, ...]
) -> tuple[Work, ...]:
    record = HistoryRow(
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
            "rollback_secrets": _kept_slots(migration.rollback),
            "validation_secrets": _kept_slots(migration.validation),
        },
    )
    return works_of(
        migration.file.version,
        "forward",
        round,
        migration.forward.statements,
        migration.entry.timeouts,
        record=record,
        validations=migration.validations,
        checks=checks,
        keeps=_kept(migration.rollback),
    )


def _kept(section: RenderedSection | None) -> KeptRollback | None:
    """What a migration that stops half-way is rolled back with: its row in the history comes last."""
    return KeptRollback(text=section.text, secrets=tuple(_kept_slots(section))) if section else None


def _kept_slots(section: RenderedSection | None) -> list[dict[str, Any]]:
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
