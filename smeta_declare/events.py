"""What happens during a run, as past facts. `migration.log` and the terminal are told the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; subclasses say what."""

    def as_dict(self) -> dict[str, Any]:
        """The event's name and facts."""
        name, facts = _form(type(self))  # type: ignore[arg-type] # mypy takes the hash of the instances for the class's
        return {"event": name, **{fact: getattr(self, fact) for fact in facts}}


class Progressed(Event):
    """How far something is: for whoever looks on, and not kept."""

    __slots__ = ()


@cache
def _form(kind: type[Event]) -> tuple[str, tuple[str, ...]]:
    """An event's name and the names of its facts."""
    name = "".join(f"-{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("-")
    return name, tuple(field.name for field in fields(kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run was opened in the journal."""

    environment: str
    direction: str
    migrations: tuple[str, ...]
    plan: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerWaited(Event):
    """Another runner holds the lock; we ask again until the limit."""

    holder: str
    waited_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupTaken(Event):
    """A backup was written, read back and named."""

    file: str
    size: int
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupProgressed(Progressed):
    """A backup is being written: bytes so far."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSkipped(Event):
    """Somebody asked for no backup."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStarted(Event):
    """A migration's share of a step begins."""

    version: str
    direction: str
    position: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationDone(Event):
    """The statements of a migration's share ran; it counts once its step is committed."""

    version: str
    direction: str
    position: int
    steps: int
    statements: int
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementDone(Event):
    """One statement ran."""

    version: str
    statement: Summarised
    duration_ms: int

    def as_dict(self) -> dict[str, Any]:
        """The statement by its summary."""
        return {**Event.as_dict(self), "statement": self.statement.summary}


class Summarised(Protocol):
    """Something that has a few words for a person."""

    @property
    def summary(self) -> str:
        """Those words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPassed(Event):
    """A validation or check answered as expected."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRetried(Event):
    """A lock was not to be had in time: the step was rolled back whole and will be tried again."""

    step: str
    attempt: int
    of: int
    wait_ms: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked(Event):
    """A step waits for locks that these sessions hold; what they run is shown, and not kept in the database."""

    step: str
    blockers: tuple[str, ...]
    queries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockerTerminated(Event):
    """A session that blocked a step was ended, as `locks.terminate_blockers` allows."""

    step: str
    blocker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgressed(Progressed):
    """How far an index is: `done` of `total` blocks, rows (tuples) or transactions to wait for (lockers)."""

    step: str
    phase: str
    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftoverCleaned(Event):
    """What an earlier run left half done was taken away."""

    step: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDone(Event):
    """A statement outside transactions was not run: an earlier run began it, and it counts as done."""

    step: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitSettled(Event):
    """The answer to a COMMIT was lost, and the database was asked what became of it."""

    step: str
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillStarted(Event):
    """A backfill begins, or goes on: `total` is the planner's estimate of the table's rows (None: never analysed)."""

    step: str
    table: str
    rows: int  # changed by earlier runs
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillProgress(Progressed):
    """How far a backfill is: rows changed so far, rows per second of this run, seconds left as far as known."""

    step: str
    rows: int
    total: int | None
    rate: float
    eta_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPaused(Progressed):
    """A backfill waits: for a standby that is behind, for an old transaction that holds its table."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillDone(Event):
    """A backfill is complete, and nothing is left."""

    step: str
    rows: int
    batches: int  # of this run
    passes: int
    duration_ms: int  # of this run


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCommitted(Event):
    """A step is durable; `parts` says of a transaction which migrations' steps it holds (1_a/2, 2_b/1)."""

    step: str
    duration_ms: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed(Event):
    """The server sent a notice or a warning."""

    severity: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run was closed."""

    outcome: str
    duration_ms: int
    error: str | None = None


class Sink(Protocol):
    """Whoever wants to know."""

    def __call__(self, event: Event) -> None:
        """Take an event; must not raise for reasons of its own."""


def listed(names: Sequence[str], noun: str = "steps") -> str:
    """Names for a sentence: all of up to three, else the first, the last and how many there are."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} {noun})"
