"""What is told about a database and a project, as data: status, history, verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from smeta_declare.environment import Environment, MigrationEntry
from smeta_declare.errors import InvalidInput
from smeta_declare.inputs import Change, inputs_digest, loads_templates
from smeta_declare.migration import MigrationFile
from smeta_declare.run import AppliedMigration, History, OpenRun, Target, is_reconciliation

if TYPE_CHECKING:
    from smeta_declare.rendering import RenderedMigration

STATUS_FORMAT = "smeta.status/1"
State = Literal["applied", "pending", "partial", "unknown", "reconciled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """One line of `smeta status`."""

    version: str
    state: State
    applied_at: str | None = None
    applied_by: str | None = None
    change: Change | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a database is, compared with the manifest."""

    environment: str
    database: str
    address: str
    total: int  # how many migrations the manifest lists for the environment
    migrations: tuple[MigrationStatus, ...]
    open_runs: tuple[OpenRun, ...] = ()
    runner: str | None = None  # who holds the runner's lock now

    def count(self, state: State) -> int:
        """How many migrations are in a state."""
        return sum(m.state == state for m in self.migrations)

    @property
    def clean(self) -> bool:
        """Whether nothing is pending, half done, unknown or changed."""
        return not self.open_runs and all(
            m.state in ("applied", "reconciled") and not _bad(m) for m in self.migrations
        )

    def as_dict(self) -> dict[str, Any]:
        """The status in the published form."""
        return {
            "format": STATUS_FORMAT,
            "environment": self.environment,
            "database": self.database,
            "address": self.address,
            "total": self.total,
            "applied": self.count("applied"),
            "pending": self.count("pending"),
            "partial": self.count("partial"),
            "unknown": self.count("unknown"),
            "runner": self.runner,
            "open_runs": [
                {
                    "run": run.id,
                    "request": run.request,
                    "started_at": run.started_at.isoformat(timespec="seconds"),
                    "started_by": run.started_by,
                }
                for run in self.open_runs
            ],
            "migrations": [
                {
                    "version": m.version,
                    "state": m.state,
                    "applied_at": m.applied_at,
                    "applied_by": m.applied_by,
                    "changed": m.change.kind if m.change else None,
                    "diff": list(m.change.diff) if m.change else [],
                    "note": m.note,
                }
                for m in self.migrations
            ],
        }


def _bad(line: MigrationStatus) -> bool:
    return line.change is not None and line.change.harmful


def build_status(
    environment: Environment,
    history: History,
    target: Target,
    read: Callable[[str], MigrationFile],
    rendered: Callable[[MigrationEntry], RenderedMigration],
) -> Status:
    """Compare list, files and history. Files that are byte for byte what was applied are not parsed again."""
    partial = {p.version: p for p in history.partial}
    lines = []
    for entry in environment.migrations:
        row = history.find(entry.version)
        half = partial.get(entry.version)
        if half:
            way = "" if half.direction == "forward" else " (on the way back)"
            ways = history.ways_text(half, environment)
            note = f"{half.words}{way}; {ways}"
            lines.append(MigrationStatus(version=entry.version, state="partial", note=note))
        elif row:
            lines.append(_applied(row, compare(row, entry, environment, read, rendered)))
        else:
            erased = (
                "applied, as the journal has it, and its history row is gone: deleted by hand?"
                if entry.version in history.erased
                else None
            )
            lines.append(MigrationStatus(version=entry.version, state="pending", note=erased))
    listed = {e.version for e in environment.migrations}
    for half in history.partial:
        if half.version not in listed:
            ways = history.ways_text(half, environment)
            note = f"{half.words}, and the manifest does not list it any more: list it again, then {ways}"
            lines.append(MigrationStatus(version=half.version, state="partial", note=note))
    for row in history.applied:
        if row.version not in listed:
            lines.append(
                MigrationStatus(
                    version=row.version,
                    state="reconciled" if is_reconciliation(row.version) else "unknown",
                    applied_at=row.applied_at.isoformat(timespec="seconds"),
                    applied_by=row.applied_by,
                    note=None
                    if is_reconciliation(row.version)
                    else "applied, and not listed in the manifest",
                )
            )
    return Status(
        environment=environment.name,
        database=target.database,
        address=target.address,
        total=len(environment.migrations),
        migrations=tuple(lines),
        open_runs=history.open_runs,
    )


def compare(
    row: AppliedMigration,
    entry: MigrationEntry,
    environment: Environment,
    read: Callable[[str], MigrationFile],
    rendered: Callable[[MigrationEntry], RenderedMigration],
) -> Change | None:
    """What changed in the file of an applied migration.

    Nothing is rendered or parsed where the inputs are byte for byte the same: that is the usual case.
    """
    try:
        file = read(row.version)
        if not loads_templates(file) and row.inputs == inputs_digest(file, environment.template_variables()):
            return None
        from smeta_declare.integrity import find_change

        return find_change(row, file, lambda: rendered(entry))
    except InvalidInput as error:
        place = f" ({error.location})" if error.location else ""
        return Change(version=row.version, kind="unreadable", diff=(f"{error.message}{place}",))


def _applied(row: AppliedMigration, change: Change | None) -> MigrationStatus:
    return MigrationStatus(
        version=row.version,
        state="applied",
        applied_at=row.applied_at.isoformat(timespec="seconds"),
        applied_by=row.applied_by,
        change=change,
    )
