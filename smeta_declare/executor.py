"""Run a plan: all of a step or none of it, each step once, and the truth told when it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from smeta_declare.autocommit import Alone, clean_edited
from smeta_declare.backfill import Backfill
from smeta_declare.environment import Environment, Timeouts
from smeta_declare.errors import Refused, SmetaError, Stopped
from smeta_declare.events import (
    CommitSettled,
    Noticed,
    RunFinished,
    RunStarted,
    Sink,
    StepCommitted,
    listed,
)
from smeta_declare.failures import (
    CommitUnknown,
    HistoryTouched,
    Interrupted,
    RunUnclosed,
    StateChanged,
    TransactionEnded,
)
from smeta_declare.plan import (
    AutocommitStep,
    BackfillStep,
    BackupStep,
    Plan,
    Step,
    TransactionStep,
    Work,
)
from smeta_declare.postgres.connection import ConnectionLost, ServerBusy, ServerError, privileges_explained
from smeta_declare.postgres.journal import Journal
from smeta_declare.postgres.target import prepare
from smeta_declare.run import History
from smeta_declare.settling import Settled, settle
from smeta_declare.stopping import Stop
from smeta_declare.working import LockMissed, Working, since


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
    stop: Stop,
    back_up: Callable[[BackupStep, Stop], None],
) -> RunResult:
    """Run every step of a plan that was made from `history`; the runner's lock is held by the caller.

    Backups are taken before the run is opened: a failed one leaves no trace in the database.
    """
    for step in plan.steps:
        if isinstance(step, BackupStep):
            _back_up(step, back_up, stop)
    working = Working(
        journal,
        environment,
        run=run,
        direction=plan.direction,
        secrets=secrets,
        told=told,
        stop=stop,
    )
    with working.monitor:
        return _Run(plan, working, history).run()


def _back_up(step: BackupStep, take: Callable[[BackupStep, Stop], None], stop: Stop) -> None:
    try:
        take(step, stop)
    except SmetaError as error:
        if stop.asked:
            raise stop.noticed() from error
        raise
    stop.check()


class _Run:
    def __init__(self, plan: Plan, working: Working, history: History) -> None:
        self.plan = plan
        self.working = working
        self.journal = working.journal
        self.history = history
        self.committed: list[str] = []
        # As committed; a step that is tried again begins with these.
        self.rows = {row.version: row.checksum for row in history.applied}
        self.steps_done = 0  # of this run, as the journal has them
        self.number = 0  # of the last history row
        self.recorded = 0  # history rows that the open transaction has added
        self.unwritten = ""  # the last migration's history row: it travels with what follows

    def run(self) -> RunResult:
        begun = time.monotonic()
        self.working.position = "the journal"
        self.working.retrying("journal", self._prepare_journal, hold=False)
        target, now = self.journal.state()
        if now.id is None or (self.history.id is not None and now.digest() != self.history.digest()):
            raise StateChanged(
                "the history changed while the run was being prepared", hint="run the command again"
            )
        self.working.history_id, self.number = now.id, now.last_number
        self.journal.open_run(self.working.run, self.plan)
        self.working.told(
            RunStarted(
                environment=self.plan.environment,
                direction=self.plan.direction,
                migrations=tuple(m.version for m in self.plan.migrations),
                plan=self.plan.id,
                database=target.database,
            )
        )
        try:
            self.working.retrying(
                "leftovers", lambda: clean_edited(self.working, self.plan, self.history), hold=False
            )
            for step in self.plan.steps:
                self.working.stop.check()
                self._step(step)
        except BaseException as error:
            meant = self._meant(error)
            self._failed(meant, begun)
            explained = self._explained(meant)
            if explained is error:
                raise
            raise explained from error
        finished = RunFinished(outcome="done", duration_ms=since(begun))
        self.working.keep(finished)
        try:
            self._close()
        except SmetaError as error:
            self.working.told(replace(finished, outcome="stopped", error=str(error)))
            raise
        self.working.told(finished)
        return RunResult(run=self.working.run, duration_ms=finished.duration_ms)

    def _prepare_journal(self) -> None:
        with self.working.guarded():
            if self.history.id is None:
                self.journal.create()
            self.journal.upgrade()
            with privileges_explained(
                "to see its own locks", "grant select on pg_catalog.pg_locks to the role"
            ):
                self.working.check_lock()

    def _close(self) -> None:
        """Close the run, as the last thing: until then the same command is known to be a repetition.

        A rollback of the last two, closed with its last commit and killed before it could say so, would undo two more.
        """
        try:
            try:
                self._say_done()
            except ConnectionLost:
                self.journal.reconnect()
                prepare(self.journal.session, self.working.environment)
                self._say_done()
        except SmetaError as error:
            raise RunUnclosed(
                f"the run could not be closed: {error.message}",
                hint="run the same command again: it closes the run",
                changed=f"all of it is committed: {listed(self.committed)}",
            ) from error

    def _say_done(self) -> None:
        with self.working.stop.patient():
            self.working.own_session()
            self.working.write_events()
            self.working.events_kept()
            self.journal.close_run(self.working.run, "done")

    def _step(self, step: Step) -> None:
        match step:
            case BackupStep():
                pass  # taken before the run was opened
            case TransactionStep():
                self.working.retrying(step.id, lambda: self._in_transaction(step), hold=True)
            case AutocommitStep():
                self._on_its_own(step)
            case BackfillStep():
                self._in_batches(step)

    # a step of its own

    def _on_its_own(self, step: AutocommitStep) -> None:
        begun = time.monotonic()
        alone = Alone(self.working, step, self.history)
        self.working.retrying(step.id, alone.run, hold=False)
        self.committed.append(step.id)
        self.steps_done += 1
        self.working.told(StepCommitted(step=step.id, duration_ms=since(begun)))
        self.working.check_lock()  # a procedure can hide what it lets go of

    # in batches

    def _in_batches(self, step: BackfillStep) -> None:
        begun = time.monotonic()
        backfill = Backfill(self.working, step)
        try:
            backfill.run()
        except BaseException:
            if backfill.committed:
                self.committed.append(backfill.committed)
            raise
        self.committed.append(step.id)
        self.steps_done += 1
        self.working.told(StepCommitted(step=step.id, duration_ms=since(begun)))

    # a transaction

    def _in_transaction(self, step: TransactionStep) -> None:
        begun = time.monotonic()
        working, session = self.working, self.working.session
        working.position = step.id
        self.unwritten, self.recorded = "", 0
        working.own_session()
        self._wait_for_quiet(step)
        transaction = session.run("begin; select pg_catalog.pg_current_xact_id()::text")[1].rows[0][0]
        with working.guarded():
            self._write_steps(step.works)
        for work in step.works:
            self._work(work)
        working.position = step.id
        # The last migration's session is not the checks', and an error of COMMIT itself would come too late.
        self._next(self.plan_timeouts, "set constraints all immediate")
        for question in step.checks:
            working.ask(question)
        with working.guarded():
            session.send(working.ours)
        rows = self._check_ours(transaction, step)
        with working.guarded():
            self._check_owner()
            working.write_events()
        working.stop.check()
        self._commit(step)
        working.events_kept()
        self.rows = rows
        self.steps_done += len(step.works)
        self.number += self.recorded
        self.committed += step.parts
        working.told(StepCommitted(step=step.id, parts=step.parts, duration_ms=since(begun)))

    @property
    def plan_timeouts(self) -> Timeouts:
        return self.working.environment.timeouts

    def _wait_for_quiet(self, step: TransactionStep) -> None:
        """An old transaction that holds one of the tables would make everybody queue behind us: not now."""
        age = self.working.environment.locks.require_quiet_ms
        if age is None:
            return
        self.working.session.send(self.working.fresh(self.plan_timeouts))  # names as the migrations see them
        tables = sorted({name for work in step.works for s in work.statements for name in s.objects})
        rows = self.working.session.ask("not_quiet", None, tables=tables, age_ms=age)[0].rows
        self.working.own_session()
        if rows:
            raise LockMissed(
                f"{step.id}: a table is in use by a transaction older than locks.require_quiet ({age} ms)",
                detail=[f"held by {row[0]}" for row in rows],
            )

    def _write_steps(self, works: Sequence[Work]) -> None:
        """Each step once: a row that was there already is one that another run committed."""
        written = self.journal.write_steps(self.working.history_id, self.working.run, works)
        for work in works:
            if (work.version, work.position) not in written:
                raise StateChanged(
                    f"step {work.position + 1} of {work.version} is in the journal already: "
                    "an earlier run committed it",
                    hint="run the same command again",
                )
        if forgotten := [work.version for work in works if work.forget]:
            self.journal.forget(forgotten)

    def _work(self, work: Work) -> None:
        """One migration's share of a transaction; its row of the journal is written already."""
        begun = time.monotonic()
        working = self.working
        working.begin_work(work)
        self._next(work.timeouts)
        working.send_each(work)
        for question in work.validations:
            working.ask(question)
        working.end_work(work, begun)
        if work.record:
            self.recorded += 1
            self.unwritten = self.journal.applied_sql(
                work.record, working.spent[work.version], number=self.number + self.recorded
            )

    def _next(self, timeouts: Timeouts, then: str = "") -> None:
        """Clean the session, write the history row that is waiting, and go on: one message for all."""
        with self.working.guarded():
            self.working.session.send(self.working.fresh(timeouts) + self.unwritten + then)
        self.unwritten = ""

    def _check_ours(self, transaction: str, step: TransactionStep) -> dict[str, str]:
        """Nothing that ran may have ended the transaction, dropped the lock, or written history of its own.

        The history's rows as they are once this is committed.
        """
        expected = dict(self.rows)
        for work in step.works:
            if work.forget:
                expected.pop(work.version, None)
            if work.record:
                expected[work.version] = work.record.checksum
        try:
            found = self.working.guard()
        except ServerBusy as error:
            raise self.working.failure(error, None) from error
        except ServerError as error:
            raise HistoryTouched(
                f"the history or the journal cannot be read any more: {error.message}",
                hint="a statement of this step dropped or changed them; they are smeta's own",
            ) from error
        if not found.held or found.transaction != transaction:
            what = (
                "the transaction is not the one that was begun" if found.held else "the runner's lock is gone"
            )
            raise TransactionEnded(
                f"{what}: a statement of this step ended it",
                hint="no statement may commit, roll back or release all advisory locks; look for CALL and DO blocks",
            )
        wanted = sorted(f"{version} {checksum}" for version, checksum in expected.items())
        if sorted(found.rows) != wanted or found.done != self.steps_done + len(step.works):
            raise HistoryTouched(
                f"the rows of {self.working.environment.history} or of the journal are not what this step leaves",
                hint="no statement, trigger or rule may write to them; look for one that does",
            )
        return expected

    def _check_owner(self) -> None:
        """What is not owned by the role of the environment cannot be altered by its next migration: say so."""
        role = self.working.environment.role
        if role:
            for (what,) in self.working.session.ask("foreign_owned", None, role=role)[0].rows:
                self.working.told(Noticed(severity="WARNING", message=f"{what}, not to role {role}"))

    def _commit(self, step: TransactionStep) -> None:
        """COMMIT travels alone: only then is a broken connection before it a rollback."""
        self.working.commits()
        try:
            with self.working.stop.patient():
                status = self.working.session.run("commit")[0].status
        except (ConnectionLost, KeyboardInterrupt) as error:
            if isinstance(error, ConnectionLost) and self._settled(step):
                return
            # A COMMIT that is cancelled may have happened all the same, as when it waits for a standby.
            what = "interrupted" if isinstance(error, KeyboardInterrupt) else "the connection broke"
            raise CommitUnknown(
                f"{what} while step {step.id} was being committed",
                hint="run the same command again: it asks the database what became of the step",
                changed="whether the step is committed is open",
            ) from error
        if status != "COMMIT":
            raise TransactionEnded(f"the server answered {status} to COMMIT of step {step.id}")

    def _settled(self, step: TransactionStep) -> bool:
        """Ask the database, over a new connection, what became of a COMMIT whose answer was lost.

        True: it is committed, and the run goes on. Where it is not, ConnectionLost; False: it stays open.
        """
        working = self.working
        outcome = settle(
            self.journal, working.history_id, working.run, step.works, working.environment, working.stop
        )
        if outcome is Settled.OPEN:
            return False
        if outcome is Settled.TAKEN:
            raise StateChanged(
                f"the connection broke while step {step.id} was being committed, it was not, and another run has "
                "done it since",
                hint="run the same command again",
            )
        working.told(CommitSettled(step=step.id, committed=outcome is Settled.COMMITTED))
        if outcome is Settled.UNDONE:
            raise ConnectionLost(
                f"the connection broke while step {step.id} was being committed, and it was not",
                hint="run the same command again",
            )
        working.monitor.pid = working.session.pid
        return True

    # the end

    def _meant(self, error: BaseException) -> BaseException:
        """A statement of our own that was cancelled because somebody asked us to stop."""
        if isinstance(error, ServerError) and error.timed_out and self.working.stop.asked:
            return self.working.stop.noticed()
        return error

    @property
    def _halfway(self) -> bool:
        """Whether part of what was asked for is committed, by this run or by the one it goes on from."""
        planned = {migration.version for migration in self.plan.migrations}
        resumed = any(p.changed_something for p in self.history.partial if p.version in planned)
        return bool(self.committed) or self.working.alone or resumed or self.plan.continues is not None

    def _failed(self, error: BaseException, begun: float) -> None:
        """Roll back and say so in the journal, as far as the connection still answers."""
        stopped = self._halfway or isinstance(error, CommitUnknown)
        outcome = "stopped" if stopped else "failed"
        code = error.code if isinstance(error, SmetaError) else type(error).__name__
        session = self.working.session
        finished = RunFinished(outcome=outcome, duration_ms=since(begun), error=f"{code}: {error}")
        self.working.told(finished)
        with suppress(SmetaError):
            if not session.usable:
                return
            if session.in_transaction:
                session.run("rollback")
            self.working.own_session()
            with suppress(ServerBusy):  # somebody locks the events: the run is closed all the same
                self.working.write_events()
                self.working.events_kept()
            if stopped:
                self.journal.stop_run(self.working.run)
            else:
                self.journal.close_run(self.working.run, outcome)

    def _explained(self, error: BaseException) -> BaseException:
        """Say what became of the database."""
        if isinstance(error, KeyboardInterrupt):
            error = Stopped("interrupted", hint="run the same command again")
        if not isinstance(error, SmetaError) or error.changed:
            return error
        if not self._halfway:
            error.changed = "everything was rolled back: the database is as it was before"
            return error
        done = (
            f"committed by this run: {listed(self.committed)}"
            if self.committed
            else "nothing new is committed"
        )
        fate = "was under way" if isinstance(error, Stopped) else "failed"
        failed = (
            f"the statement that {fate} ran outside of a transaction, and the next run looks at what it left"
            if self.working.alone
            else f"the step that {fate} was rolled back"
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


def check_secrets(plan: Plan, secrets: Mapping[str, str]) -> None:
    """Refuse before anything runs where a late-bound value has no value."""
    needed = sorted({slot.name for s in plan.statements() for slot in s.secrets})
    missing = [name for name in needed if secrets.get(name) is None]
    if missing:
        raise Refused(
            f"no value for {', '.join(missing)}",
            hint=f"set the environment variable {missing[0]}: the plan only names it",
        )
