"""What can go wrong while a plan runs, in words that name the template's line and the way out."""

from __future__ import annotations

import re

from smeta_declare.diagnostics import Location, excerpt
from smeta_declare.errors import Retryable, SmetaError, StoppedHalfway
from smeta_declare.postgres.connection import ServerError
from smeta_declare.run import Direction
from smeta_declare.secrets import Sendable


class StatementFailed(SmetaError):
    """PostgreSQL refused a statement of a migration."""

    code = "statement-failed"


class ValidationFailed(SmetaError):
    """A validation or check did not answer as expected."""

    code = "validation-failed"


class LockTimeout(Retryable):
    """A lock was not to be had, however often it was tried."""

    code = "lock-timeout"


class LockHeld(Retryable):
    """A step held a lock that others wait for longer than `locks.hold` allows, and cancelled itself."""

    code = "lock-held"


class StatementTimeout(Retryable):
    """A statement ran into `timeouts.statement` (or `concurrent`)."""

    code = "statement-timeout"


class StatementCancelled(Retryable):
    """Somebody cancelled a statement on the server."""

    code = "statement-cancelled"


class ServerExhausted(Retryable):
    """The server has run out of disk, memory or connections (SQLSTATE class 53)."""

    code = "server-exhausted"


class StateChanged(Retryable):
    """Something else worked on the same migration meanwhile."""

    code = "state-changed"


class TransactionEnded(SmetaError):
    """A statement ended smeta's transaction or dropped its lock behind the parser's back."""

    code = "transaction-ended"


class HistoryTouched(SmetaError):
    """A migration wrote to the history or the journal, or took them away."""

    code = "history-touched"


class CommitUnknown(StoppedHalfway):
    """The connection broke while a COMMIT was under way."""

    code = "commit-unknown"


class Interrupted(StoppedHalfway):
    """A part of the plan is committed, the rest is not."""

    code = "halfway"


class RunUnclosed(StoppedHalfway):
    """Every step is committed, and the journal could not be told that the run is over."""

    code = "run-unclosed"


def failure(
    error: ServerError, sent: Sendable | None, location: Location | None, where: str, direction: Direction
) -> SmetaError:
    """The error of a statement, in the words of the template."""
    statement = (f"statement: {sent.shown(error.position)}",) if sent else ()
    told, said = error.detail, error.message
    if sent and sent.statement.secrets:
        # PostgreSQL cuts and splits values in its words, and what is left of a secret is not found by masking.
        told = ("what the server says of it is withheld: the statement holds a secret",)
        said = re.sub(r'".*"', '"…"', said, flags=re.DOTALL)
    said = excerpt(said)
    detail = (*map(excerpt, told), *statement, f"sqlstate: {error.sqlstate}")
    if error.timed_out and "user request" in error.message:  # in another language it is told as a time-out
        return StatementCancelled(
            f"{where}: {said}",
            location=location,
            detail=detail,
            hint="somebody cancelled it on the server (pg_cancel_backend): ask who and why, then run the same "
            "command again",
        )
    if error.timed_out:
        return StatementTimeout(
            f"{where}: {said}",
            location=location,
            detail=detail,
            hint="give it longer with `timeouts:` of this migration, or make it smaller",
        )
    if error.sqlstate.startswith("53"):
        return ServerExhausted(
            f"{where}: {said}",
            location=location,
            detail=detail,
            hint="make room on the server (disk, memory, connections), then run the same command again",
        )
    if error.lock_not_available:
        return LockTimeout(f"{where}: {said}", location=location, detail=detail)
    otherwise = {
        "forward": "correct the migration and run the same command again",
        "rollback": "this is the rollback SQL kept when it was applied: remove what stands in its way and run the "
        "same command again, or correct the section in the file and run it with --from-file",
    }
    hints = {
        "25006": "the server has become a standby, or somebody closed the database to writing: connect to the primary",
        "2D000": "it commits or rolls back inside: it can run outside of a transaction, with "
        "`-- smeta: commits-inside resume=again` (or done) above it, which says what to do when it was cut off",
        "42501": "grant the role what it needs, or set `role:` to the owner",
        "0A000": "PostgreSQL cannot do this here; see its message",
        "25001": "PostgreSQL refuses this inside a transaction, and a parse tree does not tell (a partitioned table, "
        "a procedure): do it for each partition, or outside of smeta",
        "55P04": "a new value of an enum can be used once it is committed: apply up to the migration that adds it "
        "first (--to VERSION), or set `transaction: each`",
        **(_data_hints(sent) if direction == "forward" else {}),
    }
    return StatementFailed(
        f"{where}: {said}",
        location=location,
        detail=detail,
        hint=hints.get(error.sqlstate, otherwise[direction]),
    )


# What rows can have done to a statement that is right.
# https://www.postgresql.org/docs/current/errcodes-appendix.html (class 23)
_ROWS = {
    "23502": "rows without a value",
    "23503": "rows that refer to nothing",
    "23505": "rows with the same key",
    "23514": "rows that break the check",
}


def _data_hints(sent: Sendable | None) -> dict[str, str]:
    """The data may be at fault, and for a unique index it is: an edited migration would not build it either."""
    hints = {
        state: f"look for {rows}: correct the data, or the migration where it asks too much or writes them itself, "
        "and run the same command again"
        for state, rows in _ROWS.items()
    }
    if sent and sent.statement.kind in ("IndexStmt", "ReindexStmt"):
        hints["23505"] = (
            "the data is at fault, not the migration: find the rows with the same key (the detail names one), "
            "correct or remove them, and run the same command again"
        )
    return hints
