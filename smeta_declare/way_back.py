"""The plan of the way back: what is undone, in which order, and with which SQL. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from smeta_declare.boundaries import StepsBuilder, works_of
from smeta_declare.environment import Environment
from smeta_declare.errors import InvalidInput, Refused, UsageError
from smeta_declare.events import listed
from smeta_declare.plan import Plan, PlannedMigration
from smeta_declare.planner import RunOpen, entry_of, kept_of, made_plan, policy_of, refuse_open
from smeta_declare.rendering import RenderedSection, section_of
from smeta_declare.run import (
    AppliedMigration,
    History,
    KeptRollback,
    OpenRun,
    PartialMigration,
    Progress,
    Target,
    run_ways,
)
from smeta_declare.template import Rendered, SecretSlot


class RowsBetween(Refused):
    """A backfill without `until` is half done: its rollback would change rows that it has not reached."""

    code = "backfill-halfway"


class NoWayBack(Refused):
    """A migration has no rollback section."""

    code = "no-rollback"


def plan_rollback(
    environment: Environment,
    history: History,
    target: Target,
    *,
    count: int = 1,
    to: str | None = None,
    backup: bool = True,
    section_now: Callable[[str], RenderedSection | None] = lambda _version: None,
    from_file: bool = False,
) -> Plan:
    """The way back, in reverse order of application, with the rollback SQL kept in the database.

    `to` names the migration that shall be the last applied one afterwards; otherwise the last `count` go, what is
    half done among them. `section_now` gives the rollback section that a version's file has today, which is used
    instead of the kept one where `from_file` says so.
    """
    refuse_open(environment, history, "rollback")
    request = f"rollback --to {to}" if to else f"rollback {count}"
    interrupted = history.open_run("rollback")
    if interrupted and interrupted.request != request:
        raise RunOpen(
            f"`smeta {interrupted.request}` was interrupted and is not finished",
            hint=run_ways(interrupted, environment)
            + (
                ""
                if any(p.direction == "rollback" for p in history.partial)
                else f", or go forward with `smeta apply --env {environment.name}`, which ends it"
            ),
            changed="nothing was run now",
        )
    half = [*_half_done(history), *_half_applied(history, interrupted)]
    there = len(half) + len(history.applied)
    if not interrupted and to is None and 0 < there < count:
        raise UsageError(
            f"{count} are to be undone, and only {there} {'is' if there == 1 else 'are'} applied",
            hint=f"`smeta status --env {environment.name}` lists them",
        )
    rows = (
        _rows_left(history, interrupted)
        if interrupted
        else _rows_back(environment, history, max(0, count - len(half)), to)
    )
    builder = StepsBuilder(environment)
    planned: list[PlannedMigration] = []
    for version, kept, partial in [*half, *_whole(rows)]:
        section = section_now(version) if from_file else None
        began = history.partial_of(version, "forward")
        if kept is not None and began and began.only_onward and not _is_other(section, version, kept):
            raise _rows_between(environment, history, began, began.only_onward)
        if section is not None:
            kept = kept_of(section)
        if kept is None:
            later = () if interrupted else tuple(m.version for m in planned)
            raise _no_way_back(environment, history, version, later, section_now=section_now)
        if section is None:
            section = _section_kept(version, kept)
        entry = entry_of(environment, version)
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
                resumes=partial.words if partial and partial.changed_something else "",
                steps=len(works),
            )
        )
    asking = [entry for m in planned if (entry := entry_of(environment, m.version))]
    policy = policy_of(environment, asking) if planned and backup else None
    continues = interrupted.id if interrupted else None
    return made_plan(
        environment,
        history,
        target,
        "rollback",
        planned,
        builder.steps(()),
        policy,
        request=request,
        from_file=from_file,
        continues=continues,
    )


def _section_kept(version: str, kept: KeptRollback) -> RenderedSection:
    return section_of(
        Rendered.kept(kept.text, name=f"rollback of {version}", secrets=kept_slots(kept.secrets))
    )


def _is_other(section: RenderedSection | None, version: str, kept: KeptRollback) -> bool:
    """Whether the file's rollback section was rewritten since the migration began."""
    return section is not None and section.meaning != _section_kept(version, kept).meaning


def _rows_between(
    environment: Environment, history: History, half: PartialMigration, at: Progress
) -> RowsBetween:
    return RowsBetween(
        f"{half.version} is half done: {half.words}; its rollback would change the other rows, too",
        hint=f"finish it ({history.way_on_text(half, environment)}), then roll back; or rewrite the rollback section "
        f"in its file so that it undoes the rows up to key {at.lower} only, and roll back with --from-file",
    )


def _no_way_back(
    environment: Environment,
    history: History,
    version: str,
    later: Sequence[str],
    *,
    section_now: Callable[[str], RenderedSection | None],
) -> NoWayBack:
    """Which migration blocks, what to do about it, and how far back it goes without it."""
    message, hint = f"{version} has no rollback section", "write a new migration that undoes it"
    if _has_section(section_now, version):
        message = f"{version} was applied without a rollback section; the one in its file was added later"
        hint = f"undo it with that one: `smeta rollback --env {environment.name} --from-file`; or {hint}"
    if half := history.partial_of(version, "forward"):
        hint = f"it is half done: {history.ways_text(half, environment)}"
    if later:
        hint += (
            f"; `smeta rollback {len(later)} --env {environment.name}` undoes what was applied after it: "
            + listed(later, "migrations")
        )
    return NoWayBack(message, hint=hint)


def _has_section(section_now: Callable[[str], RenderedSection | None], version: str) -> bool:
    try:
        return section_now(version) is not None
    except InvalidInput:
        return False


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


def kept_slots(kept: Iterable[Mapping[str, Any]]) -> tuple[SecretSlot, ...]:
    """The places of secrets as the history keeps them."""
    return tuple(SecretSlot(start=s["start"], end=s["end"], name=s["name"], form=s["form"]) for s in kept)
