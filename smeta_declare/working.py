"""The working connection: under which settings it runs what, what its errors mean, when a step is tried again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from smeta_declare.diagnostics import Location
from smeta_declare.environment import Environment, Locks, Timeouts
from smeta_declare.events import (
    Blocked,
    BlockerTerminated,
    CommitSettled,
    Event,
    FoundDone,
    LeftoverCleaned,
    MigrationDone,
    MigrationStarted,
    RunFinished,
    RunStarted,
    Sink,
    StatementDone,
    StepRetried,
    ValidationPassed,
)
from smeta_declare.failures import LockHeld, LockTimeout, TransactionEnded, failure
from smeta_declare.monitor import Monitor, Watch
from smeta_declare.plan import PlannedStatement, Question, Work
from smeta_declare.postgres.connection import ServerError, Session
from smeta_declare.postgres.journal import Guard, Journal
from smeta_declare.postgres.settings import own_session, settings
from smeta_declare.questions import ask
from smeta_declare.run import Direction
from smeta_declare.secrets import Sendable, sendable
from smeta_declare.stopping import Stop

# What a migration may leave in its session, undone for the next one. RESET ALL leaves the role alone.
_CLEAN = (
    "reset session authorization; reset role; reset all;"
    "close all; deallocate all; unlisten *; discard sequences; discard temp;"
)
# What the journal keeps of a run, beside its steps.
_KEPT = (
    RunStarted,
    StepRetried,
    Blocked,
    BlockerTerminated,
    LeftoverCleaned,
    FoundDone,
    CommitSettled,
    RunFinished,
)
_YIELD_MS = (
    200  # beyond deadlock_timeout: then a plain autovacuum has given way (measured: below it never does)
)


class LockMissed(Exception):
    """A lock time-out or deadlock: the whole attempt goes back and may be repeated."""

    def __init__(self, message: str, *, detail: Iterable[str] = (), location: Location | None = None) -> None:
        super().__init__(message)
        self.message, self.detail, self.location = message, tuple(detail), location


class Working:
    """The working connection of a run, and the rules under which it works."""

    def __init__(
        self,
        journal: Journal,
        environment: Environment,
        *,
        run: str,
        direction: Direction,
        secrets: Mapping[str, str],
        told: Sink,
        stop: Stop,
    ) -> None:
        self.journal = journal
        self.environment = environment
        self.run = run
        self.direction = direction
        self.secrets = secrets
        self.stop = stop
        self.monitor = Monitor(
            lambda: self.session.beside("monitor"),
            pid=journal.session.pid,
            journal_schema=environment.history.journal_schema,
            locks=environment.locks,
            told=self.told,
        )
        self.history_id = ""
        self.position = ""  # where we are, for the words of an error
        self.spent: Counter[str] = Counter()  # milliseconds by migration
        self.locks: Locks = environment.locks  # of this attempt
        self.alone = False  # whether a statement outside any transaction has begun and not ended
        self._other_locks = False  # of a migration
        self._told = told
        self._telling = threading.Lock()
        self._kept: list[Event] = []
        self._written = 0  # of these, in the open transaction
        self._watch: Watch | None = None

    @property
    def session(self) -> Session:
        """The connection; another one after a lost COMMIT was settled."""
        return self.journal.session

    # telling

    def told(self, event: Event) -> None:
        """Tell an event; some are kept in the journal with the next commit. The monitor's thread tells, too."""
        self.keep(event)
        with self._telling:
            self._told(event)

    def keep(self, event: Event) -> None:
        """Remember an event for the journal, where it is one of those."""
        # Everybody who may read the journal reads what is kept: no query of others, no words of the server.
        if isinstance(event, Blocked):
            self._kept.append(replace(event, queries=()))
        elif isinstance(event, RunFinished):
            self._kept.append(replace(event, error=event.error and event.error.partition(":")[0]))
        elif isinstance(event, _KEPT):
            self._kept.append(event)

    def write_events(self) -> None:
        """Write what is to be kept; `events_kept` says that it is durable."""
        kept = tuple(self._kept)
        self.journal.write_events(self.run, kept)
        self._written = len(kept)

    def events_kept(self) -> None:
        """What was written is committed: the next write is about what came after."""
        del self._kept[: self._written]  # the monitor may have told of more
        self._written = 0

    def begin_work(self, work: Work) -> None:
        """A migration's share of a step begins."""
        self.position = work.version
        self.told(
            MigrationStarted(
                version=work.version, direction=work.direction, position=work.position, steps=work.steps
            )
        )

    def end_work(self, work: Work, begun: float, *, statements: int | None = None) -> None:
        """A migration's share of a step has run; `statements` where not all of them had to."""
        duration = since(begun)
        self.spent[work.version] += duration
        self.told(
            MigrationDone(
                version=work.version,
                direction=work.direction,
                position=work.position,
                steps=work.steps,
                statements=len(work.statements) if statements is None else statements,
                duration_ms=duration,
            )
        )

    # settings

    @property
    def ours(self) -> str:
        """What our own statements run under, in the middle of a migration's session."""
        return own_session(self.session, self.environment.role)

    def own_session(self) -> None:
        """Our own session again: a committed `set default_transaction_read_only = on` would stop the journal."""
        self.session.send(_CLEAN + settings(self.session, self.environment.timeouts, self.locks) + self.ours)
        if self._other_locks:
            self._other_locks = False
            self.journal.unlock_others()

    def fresh(self, timeouts: Timeouts, *, alone: bool = False, concurrently: bool = False) -> str:
        """The session every migration starts from."""
        return _CLEAN + settings(
            self.session,
            timeouts,
            self.locks,
            alone=alone,
            concurrently=concurrently,
            role=self.environment.role,
        )

    def check_lock(self) -> None:
        """Raise TransactionEnded where the runner's lock is not ours any more."""
        if not self.guard().held:
            raise TransactionEnded(
                "the runner's lock is gone: a statement released it",
                hint="no statement may release all advisory locks; look for CALL and DO blocks",
            )

    def guard(self) -> Guard:
        """What must hold before a commit; locks that a migration left are let go of before the next step."""
        found = self.journal.guard(self.run)
        self._other_locks = found.others
        return found

    # sending

    def send_each(self, work: Work) -> None:
        """The statements of a work inside the open transaction."""
        self.stop.check()
        ready = [sendable(statement, self.secrets, self.session.literal) for statement in work.statements]
        waiting = list(reversed(ready))
        begun = time.monotonic()

        def answered() -> None:
            nonlocal begun
            done = waiting.pop()
            self.told(StatementDone(version=work.version, statement=done.statement, duration_ms=since(begun)))
            begun = time.monotonic()

        try:
            self.session.send_each([each.text for each in ready], answered)
        except ServerError as error:
            raise self.failure(error, waiting[-1]) from error

    def send_alone(self, work: Work, statement: PlannedStatement) -> None:
        """A statement outside any transaction."""
        self.stop.check()
        begun = time.monotonic()
        ready = sendable(statement, self.secrets, self.session.literal)
        with self.guarded(ready):
            self.session.send(ready.text)
        self.told(StatementDone(version=work.version, statement=statement, duration_ms=since(begun)))

    def ask(self, question: Question) -> None:
        """Ask a question inside the open transaction: read only, and row security may not filter the answer."""
        with self.guarded():
            ask(self.session, question, self.secrets)
        self.told(ValidationPassed(name=question.name))

    @contextmanager
    def guarded(self, sent: Sendable | None = None) -> Iterator[None]:
        """Errors of the server in our words."""
        try:
            yield
        except ServerError as error:
            raise self.failure(error, sent) from error

    def failure(self, error: ServerError, sent: Sendable | None) -> Exception:
        """What an error of the server means: we were asked to stop, held a lock too long, or got none."""
        location = sent.locate(error.position) if sent else None
        watch = self._watch
        if error.timed_out and self.stop.asked:
            return self.stop.noticed()
        if error.timed_out and watch and watch.overdue:
            return LockHeld(
                f"{self.position}: {watch.overdue} was held for longer than {self.environment.locks.hold_ms} ms",
                location=location,
                hint="whoever reads or writes there meanwhile has to wait: do the long part before or after, in a "
                "migration of its own, or allow more with locks.hold, then run the command again",
            )
        if error.lock_not_available:
            blockers = tuple(f"blocked by {b}" for b in watch.blockers) if watch else ()
            told = () if sent and sent.statement.secrets else error.detail
            return LockMissed(
                f"{self.position}: {error.message}", detail=(*told, *blockers), location=location
            )
        return failure(error, sent, location, self.position, self.direction)

    def commits(self) -> None:
        """From here on the monitor cancels nothing: a cancelled COMMIT does not wait for its standby any more."""
        if self._watch:
            self.monitor.release(self._watch)

    # trying again

    def retrying(self, name: str, attempt: Callable[[], None], *, hold: bool) -> None:
        """Try a whole step again where a lock was not to be had; between the tries nobody queues behind us.

        Waiting before a try is announced; there is always a time-out.
        """
        try:
            self._try(name, attempt, hold=hold)
        finally:
            self._watch, self.locks = None, self.environment.locks

    def _try(self, name: str, attempt: Callable[[], None], *, hold: bool) -> None:
        allowed = self.environment.locks
        spent = self.spent.copy()
        for number in range(1, allowed.attempts + 1):
            try:
                with self.monitor.watching(name, hold=hold) as self._watch:
                    return attempt()
            except LockMissed as missed:
                if self.session.in_transaction:
                    self.session.run("rollback")
                self.spent = spent.copy()
                if number == allowed.attempts:
                    raise LockTimeout(
                        f"no lock after {number} tries: {missed.message}",
                        location=missed.location,
                        detail=missed.detail,
                        hint="somebody holds the table: try later, or allow more with locks.timeout and locks.retries",
                    ) from missed
                wait = self._before_next(number)
                self.told(
                    StepRetried(
                        step=name,
                        attempt=number,
                        of=allowed.attempts,
                        wait_ms=int(wait),
                        reason=missed.message,
                    )
                )
                self.stop.sleep(wait / 1000)
        return None

    def _before_next(self, number: int) -> float:
        """Milliseconds to wait before the next try, which waits longer for an autovacuum that will yield."""
        locks, watch = self.environment.locks, self._watch
        if watch and watch.blockers and all(b.yields for b in watch.blockers):
            self.locks = replace(
                locks, timeout_ms=max(locks.timeout_ms, watch.deadlock_timeout_ms + _YIELD_MS)
            )
            return min(locks.backoff_ms, locks.max_backoff_ms)
        self.locks = locks
        longest: int = min(locks.max_backoff_ms, locks.backoff_ms * 2 ** (number - 1))
        return longest * random.uniform(0.5, 1.0)


def since(begun: float) -> int:
    """Milliseconds since a time of `time.monotonic`."""
    return int((time.monotonic() - begun) * 1000)
