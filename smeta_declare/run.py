"""What a database remembers of migrations: applied rows, rounds, half-done work. Read by `postgres.journal`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Protocol

Direction = Literal["forward", "rollback"]
_RECONCILIATION = "tenancy@"


def is_reconciliation(version: str) -> bool:
    """Whether a version is no file, and was made from what `tenancy:` declares."""
    return version.startswith(_RECONCILIATION)


class Named(Protocol):
    """An environment, as far as the commands that change it depend on it."""

    @property
    def name(self) -> str: ...

    @property
    def protected(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedMigration:
    """One row of the history table."""

    version: str
    name: str
    description: str
    applied_at: datetime
    applied_by: str
    execution_time_ms: int
    checksum: str  # SHA-256 of the source file, BOM and line endings normalised
    meaning: str  # SHA-256 of the parse tree of the forward SQL
    inputs: str  # digest of all that rendering read: the source, what it includes, the variables
    forward_sql: str
    rollback_sql: str | None
    validation_sql: str | None
    details_json: str = "{}"

    @property
    def details(self) -> Mapping[str, Any]:
        """Meanings of the other sections, places of secrets. Read when asked for: a history may be long."""
        found: Mapping[str, Any] = json.loads(self.details_json)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a backfill is: in which pass (0: not begun), after which key, up to which, rows changed so far."""

    digest: str  # of the statement and its key
    passed: int = 0
    lower: str | None = None
    upper: str | None = None  # fixed at the start where there is no `until`: each row once, in one pass
    rows: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A statement outside transactions that was begun and is not known to be finished."""

    digest: str  # of its text
    kept: Mapping[str, Any] = field(
        default_factory=dict
    )  # what it may leave behind, and what was there before
    progress: Progress | None = None  # of a backfill of which batches are committed


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialMigration:
    """A migration of which some steps are committed and others are not."""

    version: str
    direction: Direction
    round: int
    steps: int
    done: Mapping[int, str]  # position → digest of the text that ran
    started: Mapping[int, Started] = field(default_factory=dict)  # autocommit steps, by position

    @property
    def words(self) -> str:
        """How far it is."""
        if not self.changed_something:
            return "begun, and nothing of it is committed"
        rows = [
            f"{at.rows:,} {'row' if at.rows == 1 else 'rows'} of step {position + 1}"
            for position, at in sorted(self.backfills.items())
        ]
        if self.done:
            return ", and ".join((f"step {len(self.done)} of {self.steps} is done", *rows))
        return f"{', and '.join(rows)} of {self.steps} {'is' if rows[0].startswith('1 ') else 'are'} done"

    @property
    def backfills(self) -> Mapping[int, Progress]:
        """The statements of which batches are committed, and others may not be; by position."""
        return {position: s.progress for position, s in self.started.items() if s.progress}

    @property
    def only_onward(self) -> Progress | None:
        """A backfill that is half done and has no `until`: its rollback would change rows that it has not reached.

        With `until` the rows themselves tell which of them are done.
        """
        return next((at for at in self.backfills.values() if at.upper is not None), None)

    @property
    def changed_something(self) -> bool:
        """Whether anything of it is committed: a step, or batches of one."""
        return bool(self.done or self.backfills)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that was opened and never closed."""

    id: str
    direction: Direction
    request: str  # what was asked for: `apply`, `rollback 2`
    versions: tuple[str, ...]
    started_at: datetime
    started_by: str
    plan: str = ""  # the id of its plan
    saved: bool = False  # whether that was a file


def run_ways(run: OpenRun, environment: Named) -> str:
    """The commands that finish an open run and that end it, as a sentence.

    An environment that has become protected since takes saved plans only: then only the second one is there.
    """
    consent = f" --confirm {environment.name}" if environment.protected else ""
    end = f"end it: `smeta apply --env {environment.name} --abandon {run.id}{consent}`"
    if run.saved:
        return f"finish it: `smeta apply FILE{consent}` with the file of plan {run.plan[:12]}, or {end}"
    return (
        end
        if environment.protected
        else f"finish it: `smeta {run.request} --env {environment.name}`, or {end}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRollback:
    """Rollback SQL of a migration whose history row is gone already, kept by the journal until it is finished."""

    text: str
    secrets: tuple[Mapping[str, Any], ...] = ()
    forward: str | None = None  # of a reconciliation, which has no file: what it is finished with


@dataclass(frozen=True, kw_only=True)
class History:
    """The state that a plan starts from. `id` is None where the database has no history yet."""

    id: str | None = None
    applied: tuple[AppliedMigration, ...] = ()  # in the order of application
    last_number: int = 0  # of the last one
    rounds: Mapping[tuple[str, Direction], int] = field(default_factory=dict)
    partial: tuple[PartialMigration, ...] = ()
    open_runs: tuple[OpenRun, ...] = ()
    rollback_texts: Mapping[str, KeptRollback] = field(
        default_factory=dict
    )  # of rollbacks that are half done
    erased: tuple[str, ...] = ()  # applied as the journal has it, and yet without a row
    settings: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # what the manifest said of each environment when it last ran
    unjournaled: tuple[str, ...] = ()  # with a row, and not all of their steps in the journal; in words

    def find(self, version: str) -> AppliedMigration | None:
        """The row of a version, if it is applied."""
        return self._by_version.get(version)

    @cached_property
    def _by_version(self) -> dict[str, AppliedMigration]:
        return {row.version: row for row in self.applied}

    def partial_of(self, version: str, direction: Direction) -> PartialMigration | None:
        """What is half done of a version in a direction."""
        return next((p for p in self.partial if (p.version, p.direction) == (version, direction)), None)

    def open_run(self, direction: Direction) -> OpenRun | None:
        """The run of a direction that was opened and never closed."""
        return next((run for run in self.open_runs if run.direction == direction), None)

    def ways_on(self, half: PartialMigration, environment: Named) -> tuple[str, ...]:
        """The commands that half-done work accepts: the first goes on; a second one, where there is one, undoes it."""
        run, name = self.open_run(half.direction), environment.name
        consent = f" --confirm {name}" if environment.protected else ""
        if run is not None and run.saved:
            return (f"smeta apply FILE{consent}",)  # the plan whose id the run has
        if run is not None and environment.protected:  # it became so since: nothing unsaved goes on
            return (f"smeta apply --env {name} --abandon {run.id}{consent}",)
        forward, request = f"smeta apply --env {name}", run.request if run else "rollback"
        back = f"smeta {request} --env {name}"
        if environment.protected:
            forward, back = (
                f"smeta plan {kind}--env {name} --out FILE && smeta apply FILE{consent}"
                for kind in ("", "--rollback ")
            )
        if half.direction == "rollback":
            return (back,)
        undone = run is None and half.changed_something and not half.only_onward
        return (forward, back) if undone and half.version in self.rollback_texts else (forward,)

    def way_on_text(self, half: PartialMigration, environment: Named) -> str:
        """The command that goes on with half-done work, and with which file where it takes one."""
        run = self.open_run(half.direction)
        of = f" with the file of plan {run.plan[:12]}" if run and run.saved else ""
        return f"`{self.ways_on(half, environment)[0]}`{of}"

    def ways_text(self, half: PartialMigration, environment: Named) -> str:
        """The commands that half-done work accepts, as a sentence."""
        _, *back = self.ways_on(half, environment)
        run = self.open_run(half.direction)
        ends = run is not None and not run.saved and environment.protected
        on = f"{self.way_on_text(half, environment)} {'ends its run' if ends else 'goes on from there'}"
        return on + "".join(f", `{way}` undoes it" for way in back)

    def digest(self) -> str:
        """SHA-256 over everything here that decides what a plan does."""
        state = {
            "id": self.id,
            "applied": [(row.version, row.checksum) for row in self.applied],
            "rounds": sorted((v, d, n) for (v, d), n in self.rounds.items()),
            "open": [run.id for run in self.open_runs],
            "partial": sorted(
                (p.version, p.direction, p.round, sorted(p.done.items())) for p in self.partial
            ),
        }
        return hashlib.sha256(json.dumps(state, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The database itself, as it answered."""

    system_identifier: str
    database: str
    user: str
    server_version_num: int
    server_version: str
    in_recovery: bool = False
    address: str = ""  # where it was reached and which setting said so, without secrets

    @property
    def major(self) -> int:
        """PostgreSQL's major version."""
        return self.server_version_num // 10000
