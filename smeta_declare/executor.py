"""Run a plan: all of a step or none of it, each step once, and the truth told when it stops."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from smeta_declare.diagnostics import Location
from smeta_declare.environment import Environment, Timeouts
from smeta_declare.errors import Refused, Retryable, SmetaError
from smeta_declare.events import (
    MigrationDone,
    MigrationStarted,
    Noticed,
    RunFinished,
    RunStarted,
    Sink,
    StatementDone,
    StepCommitted,
    StepRetried,
    ValidationPassed,
)
from smeta_declare.failures import (
    CommitUnknown,
    HistoryTouched,
    Interrupted,
    LockTimeout,
    StateChanged,
    StatementFailed,
    TransactionEnded,
    failure,
)
from smeta_declare.plan import (
    AutocommitStep,
    BackupStep,
    Plan,
    PlannedStatement,
    Question,
    Step,
    TransactionStep,
    Work,
)
from smeta_declare.postgres.connection import ConnectionLost, ServerError, Session, own_session, settings
from smeta_declare.postgres.journal import Journal
from smeta_declare.questions import ask
from smeta_declare.run import History
from smeta_declare.secrets import Sendable, sendable

# What a migration may leave in its session, undone for the next one. RESET ALL leaves the role alone.
_CLEAN = (
    "reset session authorization; reset role; reset all;"
    "close all; deallocate all; discard sequences; discard temp;"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a finished run did."""

    run: str
    duration_ms: int


def execute(
    plan: Plan,
    environment: Environment,
    journal: Journal,
    history: History,
    *,
    secrets: Mapping[str, str],
    run: str,
    told: Sink,
    back_up: Callable[[BackupStep], None],
) -> RunResult:
    """Run every step of a plan that was made from `history`; the runner's lock is held by the caller.

    Backups are taken before the run is opened: a failed one leaves no trace in the database.
    """
    for step in plan.steps:
        if isinstance(step, BackupStep):
            back_up(step)
    return _Run(plan, environment, journal, history, secrets, run, told).run()


class _Run:
    def __init__(
        self,
        plan: Plan,
        environment: Environment,
        journal: Journal,
        history: History,
        secrets: Mapping[str, str],
        run: str,
        told: Sink,
    ) -> None:
        self.plan = plan
        self.environment = environment
        self.journal = journal
        self.session: Session = journal.session
        self.secrets = secrets
        self.told = told
        self.id = run
        self.history = history
        self.history_id = ""
        self.committed: list[str] = []
        self.rows = {row.version: row.checksum for row in history.applied}
        self.steps_done = 0  # of this run, as the journal has them
        self.alone = False  # whether a statement outside any transaction has begun and not ended
        self.spent: Counter[str] = Counter()  # milliseconds by migration
        self.unwritten = ""  # the last migration's history row: it travels with what follows
        self.position = ""  # where we are, for the words of an error
        self.ours = own_session(self.session, environment.role)

    def run(self) -> RunResult:
        begun = time.monotonic()
        if self.history.id is None:
            self.journal.create()
        target, now = self.journal.state()
        if now.id is None or (self.history.id is not None and now.digest() != self.history.digest()):
            raise StateChanged(
                "the history changed while the run was being prepared", hint="run the command again"
            )
        self.history_id = now.id
        self.journal.open_run(self.id, self.plan)
        self.told(
            RunStarted(
                environment=self.environment.name,
                direction=self.plan.direction,
                migrations=tuple(m.version for m in self.plan.migrations),
                plan=self.plan.id,
                database=target.database,
            )
        )
        try:
            for step in self.plan.steps:
                self._step(step)
        except BaseException as error:
            self._failed(error, begun)
            raise self._explained(error) from error
        try:
            self._own_session()
            self.journal.close_run(self.id, "done")
        except SmetaError as error:
            # Everything is committed; the next run closes this one.
            self.told(Noticed(severity="WARNING", message=f"the run could not be closed: {error.message}"))
        duration = _since(begun)
        self.told(RunFinished(outcome="done", duration_ms=duration))
        return RunResult(run=self.id, duration_ms=duration)

    def _step(self, step: Step) -> None:
        match step:
            case BackupStep():
                pass  # taken before the run was opened
            case TransactionStep():
                self._own_session()
                self._retrying(step.id, lambda: self._in_transaction(step))
            case AutocommitStep():
                self._own_session()
                self._on_its_own(step)

    def _own_session(self) -> None:
        """Our own session again: a committed `set default_transaction_read_only = on` would stop the journal."""
        own = settings(self.session, self.environment.timeouts, self.environment.locks)
        self.session.send(_CLEAN + own + self.ours)

    def _retrying(self, name: str, attempt: Callable[[], None]) -> None:
        """Try a whole step again where a lock was not to be had; between the tries nobody queues behind us."""
        locks = self.environment.locks
        spent = self.spent.copy()
        for number in range(1, locks.attempts + 1):
            try:
                return attempt()
            except _LockMissed as missed:
                self.session.run("rollback")
                self.spent, self.unwritten = spent.copy(), ""
                if number == locks.attempts:
                    raise LockTimeout(
                        f"no lock after {number} tries: {missed.cause.message}",
                        location=missed.location,
                        detail=missed.cause.detail,
                        hint="somebody holds the table: try later, or allow more with locks.timeout and locks.retries",
                    ) from missed.cause
                wait = min(locks.max_backoff_ms, locks.backoff_ms * 2 ** (number - 1)) * random.uniform(
                    0.5, 1.0
                )
                self.told(
                    StepRetried(
                        step=name,
                        attempt=number,
                        of=locks.attempts,
                        wait_ms=int(wait),
                        reason=missed.cause.message,
                    )
                )
                time.sleep(wait / 1000)
        return None

    def _in_transaction(self, step: TransactionStep) -> None:
        begun = time.monotonic()
        self.position = step.id
        transaction = self.session.run("begin; select pg_catalog.pg_current_xact_id()::text")[1].rows[0][0]
        with self._statement(None):
            self._check_written(
                self.journal.write_steps(self.history_id, self.id, step.works, "done"), step.works
            )
            if forgotten := [work.version for work in step.works if work.forget]:
                self.journal.forget(forgotten)
        for work in step.works:
            self._work(work)
        self.position = step.id
        # The last migration's session is not the checks', and an error of COMMIT itself would come too late.
        self._next(self.environment.timeouts, "set constraints all immediate")
        for question in step.checks:
            self._ask(question)
        self.session.send(self.ours)
        self._check_ours(transaction, step)
        self._commit(step.id)
        self.committed.append(step.id)
        self.told(StepCommitted(step=step.id, duration_ms=_since(begun)))

    def _check_ours(self, transaction: str, step: TransactionStep) -> None:
        """Nothing that ran may have ended the transaction, dropped the lock, or written history of its own."""
        expected = dict(self.rows)
        for work in step.works:
            if work.forget:
                expected.pop(work.version, None)
            if work.record:
                expected[work.version] = work.record.checksum
        try:
            held, now, rows, done = self.journal.guard(self.id)
        except ServerError as error:
            raise HistoryTouched(
                f"the history or the journal cannot be read any more: {error.message}",
                hint="a statement of this step dropped or changed them; they are smeta's own",
            ) from error
        if not held or now != transaction:
            what = (
                "the runner's lock is gone" if not held else "the transaction is not the one that was begun"
            )
            raise TransactionEnded(
                f"{what}: a statement of this step ended it",
                hint="no statement may commit, roll back or release all advisory locks; look for CALL and DO blocks",
            )
        wanted = sorted(f"{version} {checksum}" for version, checksum in expected.items())
        if sorted(rows) != wanted or done != self.steps_done + len(step.works):
            raise HistoryTouched(
                f"the rows of {self.environment.history} or of the journal are not what this step leaves",
                hint="no statement, trigger or rule may write to them; look for one that does",
            )
        self.rows, self.steps_done = expected, done

    def _commit(self, name: str) -> None:
        """COMMIT travels alone: only then is a broken connection before it a rollback."""
        try:
            status = self.session.run("commit")[0].status
        except (ConnectionLost, KeyboardInterrupt) as error:
            # A COMMIT that is cancelled may have happened all the same, as when it waits for a standby.
            what = "interrupted" if isinstance(error, KeyboardInterrupt) else "the connection broke"
            raise CommitUnknown(
                f"{what} while step {name} was being committed",
                hint="run the same command again: it asks the database what became of the step",
                changed="whether the step is committed is open",
            ) from error
        if status != "COMMIT":
            raise TransactionEnded(f"the server answered {status} to COMMIT of step {name}")

    def _work(self, work: Work) -> None:
        """One migration's share of a transaction; its row of the journal is written already."""
        begun = time.monotonic()
        self.position = work.version
        self.told(
            MigrationStarted(
                version=work.version, direction=work.direction, position=work.position, steps=work.steps
            )
        )
        self._next(work.timeouts)
        self._send(work)
        for question in work.validations:
            self._ask(question)
        self._told_done(work, _since(begun))
        if work.record:
            self.unwritten = self.journal.applied_sql(work.record, self.spent[work.version])

    def _next(self, timeouts: Timeouts, then: str = "") -> None:
        """Clean the session, write the history row that is waiting, and go on: one message for all."""
        with self._statement(None):
            self.session.send(self._fresh(timeouts) + self.unwritten + then)
        self.unwritten = ""

    def _told_done(self, work: Work, duration: int) -> None:
        self.spent[work.version] += duration
        self.told(
            MigrationDone(
                version=work.version,
                direction=work.direction,
                position=work.position,
                steps=work.steps,
                statements=len(work.statements),
                duration_ms=duration,
            )
        )

    def _check_written(self, written: set[tuple[str, int]], works: Sequence[Work]) -> None:
        """Each step once: a row that was there already is one that another run committed."""
        for work in works:
            if (work.version, work.position) not in written:
                raise StateChanged(
                    f"step {work.position + 1} of {work.version} is in the journal already: "
                    "an earlier run committed it",
                    hint="run the same command again",
                )

    def _on_its_own(self, step: AutocommitStep) -> None:
        """A statement outside a transaction: a started row before it, a done row after it, each committed."""
        begun = time.monotonic()
        work = step.work
        self.position = work.version
        self.told(
            MigrationStarted(
                version=work.version, direction=work.direction, position=work.position, steps=work.steps
            )
        )
        if not self._done_already(step):
            self._send_alone(work, step.statement)
        self.alone = False
        self._own_session()
        self._check_written(self.journal.write_steps(self.history_id, self.id, [work], "done"), [work])
        self.committed.append(step.id)
        self.steps_done += 1
        duration = _since(begun)
        self._told_done(work, duration)
        self.told(StepCommitted(step=step.id, duration_ms=duration))

    def _done_already(self, step: AutocommitStep) -> bool:
        """Write the started row, and look at what an earlier run left: all of it, half of it, or nothing.

        A killed client's server process may finish its statement after it (measured). The row is written only
        where no index of that name is there, so that one that is there beside the row was made by the statement.
        """
        work, statement = step.work, step.statement
        partial = self.history.partial_of(work.version, work.direction)
        begun = partial.started.get(work.position) if partial else None
        fresh = self._fresh(work.timeouts, alone=True, concurrently=statement.concurrently)
        self.session.run(fresh)
        if statement.removes and begun == work.digest and self._index(statement.removes, statement) is None:
            return True
        index = self._index(statement.leaves_behind, statement) if statement.leaves_behind else None
        name = statement.leaves_behind
        if index and begun not in (None, work.digest):
            raise StatementFailed(
                f"{work.version}: index {name} was built by this step before it was edited",
                location=statement.location,
                hint=f"put the statement back as it was, or: drop index concurrently {name}",
            )
        if index is False and begun is None:
            raise StatementFailed(
                f"{work.version}: index {name} is there and INVALID, and no run of smeta left it",
                location=statement.location,
                hint=f"look at it, then: drop index concurrently {name}",
            )
        if index is False:
            with self._statement(None):
                self.session.run(f"drop index concurrently {name}")
        if index is None:
            self.session.send(self.ours)
            self.journal.write_steps(self.history_id, self.id, [work], "started")
            self.session.send(fresh)
        self.alone = index is not True
        return index is True and begun is not None

    def _index(self, name: str, statement: PlannedStatement) -> bool | None:
        """Whether an index is valid; None where there is none of that name."""
        rows = self.session.ask("index_state", None, name=name, table=statement.builds_on)[0].rows
        if rows and rows[0][1] is False:
            raise StatementFailed(
                f"index {name} is there and belongs to another table than {statement.builds_on}",
                location=statement.location,
                hint="give one of the two another name",
            )
        return bool(rows[0][0]) if rows else None

    def _fresh(self, timeouts: Timeouts, *, alone: bool = False, concurrently: bool = False) -> str:
        """The session every migration starts from."""
        return _CLEAN + settings(
            self.session,
            timeouts,
            self.environment.locks,
            alone=alone,
            concurrently=concurrently,
            role=self.environment.role,
        )

    def _send(self, work: Work) -> None:
        """The statements of a work inside the open transaction."""
        ready = [sendable(statement, self.secrets, self.session.literal) for statement in work.statements]
        waiting = list(reversed(ready))
        begun = time.monotonic()

        def answered() -> None:
            nonlocal begun
            done = waiting.pop()
            self.told(
                StatementDone(version=work.version, statement=done.statement, duration_ms=_since(begun))
            )
            begun = time.monotonic()

        try:
            self.session.send_each([each.text for each in ready], answered)
        except ServerError as error:
            raise self._failure(error, waiting[-1]) from error

    def _send_alone(self, work: Work, statement: PlannedStatement) -> None:
        begun = time.monotonic()
        ready = sendable(statement, self.secrets, self.session.literal)
        with self._statement(ready):
            self.session.send(ready.text)
        self.told(StatementDone(version=work.version, statement=statement, duration_ms=_since(begun)))

    def _ask(self, question: Question) -> None:
        """Ask a question inside the open transaction: read only, and row security may not filter the answer."""
        with self._statement(None):
            ask(self.session, question, self.secrets)
        self.told(ValidationPassed(name=question.name))

    @contextmanager
    def _statement(self, sent: Sendable | None) -> Iterator[None]:
        try:
            yield
        except ServerError as error:
            raise self._failure(error, sent) from error

    def _failure(self, error: ServerError, sent: Sendable | None) -> Exception:
        location = sent.locate(error.position) if sent else None
        if error.lock_not_available and self.session.in_transaction:
            return _LockMissed(error, location)
        return failure(error, sent, location, self.position, self.plan.direction)

    @property
    def _halfway(self) -> bool:
        """Whether part of what was asked for is committed, by this run or by the one it goes on from."""
        resumed = self.plan.continues is not None or any(m.resumes_at for m in self.plan.migrations)
        return bool(self.committed) or self.alone or resumed

    def _failed(self, error: BaseException, begun: float) -> None:
        """Roll back and say so in the journal, as far as the connection still answers."""
        outcome = "stopped" if self._halfway else "failed"
        try:
            if self.session.usable:
                if self.session.in_transaction:
                    self.session.run("rollback")
                self._own_session()
                if self._halfway or isinstance(error, CommitUnknown):
                    self.journal.stop_run(self.id)
                else:
                    self.journal.close_run(self.id, outcome)
        except SmetaError:
            outcome = "lost"
        code = error.code if isinstance(error, SmetaError) else type(error).__name__
        self.told(RunFinished(outcome=outcome, duration_ms=_since(begun), error=f"{code}: {error}"))

    def _explained(self, error: BaseException) -> BaseException:
        """Say what became of the database."""
        if isinstance(error, KeyboardInterrupt):
            error = Retryable("interrupted", hint="run the same command again")
        if not isinstance(error, SmetaError) or error.changed:
            return error
        if not self._halfway:
            error.changed = "everything was rolled back: the database is as it was before"
            return error
        done = (
            f"committed by this run: {', '.join(self.committed)}"
            if self.committed
            else "nothing new is committed"
        )
        failed = (
            "the statement that failed ran outside of a transaction, and the next run looks at what it left"
            if self.alone
            else "the step that failed was rolled back"
        )
        halfway = Interrupted(
            error.message,
            location=error.location,
            detail=error.detail,
            hint=error.hint,
            changed=f"{done}; {failed}; the same command goes on from there",
        )
        halfway.code = error.code  # type: ignore[misc] # the code names the cause, the exit code the state
        return halfway


class _LockMissed(Exception):
    """A lock time-out or deadlock inside a transaction: the whole step goes back."""

    def __init__(self, cause: ServerError, location: Location | None) -> None:
        super().__init__(cause.message)
        self.cause, self.location = cause, location


def check_secrets(plan: Plan, secrets: Mapping[str, str]) -> None:
    """Refuse before anything runs where a late-bound value has no value."""
    needed = sorted({slot.name for s in _statements(plan) for slot in s.secrets})
    missing = [name for name in needed if secrets.get(name) is None]
    if missing:
        raise Refused(
            f"no value for {', '.join(missing)}",
            hint=f"set the environment variable {missing[0]}: the plan only names it",
        )


def _statements(plan: Plan) -> Iterator[PlannedStatement]:
    for step in plan.steps:
        match step:
            case BackupStep():
                pass
            case TransactionStep():
                for work in step.works:
                    yield from work.statements
                    yield from (q.statement for q in work.validations)
                yield from (q.statement for q in step.checks)
            case AutocommitStep():
                yield step.statement


def _since(begun: float) -> int:
    return int((time.monotonic() - begun) * 1000)
