"""From a resolved environment to a finished run: connect, lock, plan from what is there, back up, execute."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from smeta_declare.abandoning import take_away
from smeta_declare.backup import dump, store
from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.backup.store import BackupRecord
from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.errors import Refused, SmetaError, Stopped, UsageError
from smeta_declare.events import BackupProgressed, BackupTaken, Blocked, LeftoverCleaned, RunnerWaited
from smeta_declare.executor import RunResult, check_secrets, execute
from smeta_declare.monitor import Blocker
from smeta_declare.plan import BackupStep, CountedLoss, Plan, Question
from smeta_declare.planner import RunOpen, plan_apply
from smeta_declare.policy import loosened, refuse_unmet, unmet
from smeta_declare.postgres.binaries import all_binaries
from smeta_declare.postgres.connection import ServerError, Session
from smeta_declare.postgres.journal import Journal
from smeta_declare.postgres.losses import counted
from smeta_declare.postgres.target import prepare, refuse_unless_writable
from smeta_declare.questions import ask
from smeta_declare.reader import Reader
from smeta_declare.reconciling import reconciling
from smeta_declare.rendering import RenderedSection, check_question, questions, section_of
from smeta_declare.run import AppliedMigration, History, OpenRun, Target, run_ways
from smeta_declare.saved import (
    PlanUsed,
    SavedPlan,
    names_done,
    refuse_difference,
    refuse_other_objects,
    refuse_other_rest,
)
from smeta_declare.stopping import Stop
from smeta_declare.template import Rendered
from smeta_declare.way_back import kept_slots, plan_rollback

Result = TypeVar("Result")


class MigrationChanged(Refused):
    """A migration means something else than what was applied."""

    code = "migration-changed"


class NoSuchRun(UsageError):
    """The run to abandon is not open."""

    code = "no-such-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """One question asked again: what it is called, and why its answer is wrong (None: it is right)."""

    name: str
    failure: str | None = None
    half_done: bool = False  # a migration, and what is wrong beside it may come from that


class Runner(Reader):
    """Plans and runs."""

    # planning

    def plan_forward(
        self, journal: Journal, *, to: str | None = None, backup: bool = True
    ) -> tuple[Plan, History]:
        """The plan of `apply`, from what is there now. Changes nothing."""
        target, history = journal.state()
        self._check_unchanged(history)
        tenancy = reconciling(self.environment, history, self.project, journal.session, wanted=to is None)
        made = tenancy.migration
        pending = [e for e in self.environment.migrations if not history.find(e.version)]
        last = next((i for i, e in enumerate(pending, start=1) if e.version == to), len(pending))
        self.project.render_all(self.environment, pending[:last])
        plan = plan_apply(
            tenancy.listed(self.environment),
            history,
            target,
            lambda entry: (
                made if made and entry is made.entry else self.project.rendered(self.environment, entry)
            ),
            to=to,
            backup=backup,
        )
        plan = replace(plan, findings=(*plan.findings, *tenancy.findings))
        return self._told_more(journal, plan, history), history

    def plan_back(
        self,
        journal: Journal,
        *,
        count: int = 1,
        to: str | None = None,
        backup: bool = True,
        from_file: bool = False,
    ) -> tuple[Plan, History]:
        """The plan of `rollback`."""
        target, history = journal.state()
        plan = plan_rollback(
            self.environment,
            history,
            target,
            count=count,
            to=to,
            backup=backup,
            section_now=self._rollback_section,
            from_file=from_file,
        )
        return self._told_more(journal, plan, history), history

    def _told_more(self, journal: Journal, plan: Plan, history: History) -> Plan:
        """The plan with how many rows it takes away now, and with what its policies let happen that they did not."""
        findings = [*plan.findings, *unmet(self.environment, plan)]
        if before := history.settings.get(plan.environment):
            findings += loosened(plan.environment, before, plan.settings)
        lost = plan.losses
        rows = counted(journal.session, [loss for _, loss in lost])
        return replace(
            plan,
            findings=tuple(findings),
            lost=tuple(
                CountedLoss(version=version, what=loss.what, rows=number)
                for (version, loss), number in zip(lost, rows, strict=True)
            ),
        )

    def bound(self, journal: Journal, plan: Plan) -> Plan:
        """The plan with the digests of the objects that its statements name: what it may be saved with."""
        names = plan.names
        catalog = journal.catalog(names)
        return replace(
            plan,
            objects=catalog.touched(names),
            catalog=catalog.digest,
            catalog_bound=plan.direction == "forward" and "unchanged_catalog" in self.environment.require,
        )

    def plan_again(self, journal: Journal, saved: SavedPlan) -> tuple[Plan, History]:
        """What a saved plan would be now; refused where that is another one, or where it has been applied."""
        _, history = journal.state()
        if history.id is not None and (used := journal.used(saved.id)):
            raise PlanUsed(f"the plan was applied at {used}", hint="a plan is good for once: make a new one")
        mine = any(run.plan == saved.id for run in history.open_runs)
        if history.open_runs and not mine:
            raise self._run_open(history.open_runs[0])
        if saved.forward:
            plan, history = self.plan_forward(journal, to=saved.to)
        else:
            plan, history = self.plan_back(
                journal, count=saved.count, to=saved.to, from_file=bool(saved.decision["from_file"])
            )
        if mine:
            refuse_other_rest(saved, plan)
            done = names_done(saved, plan)
            catalog = journal.catalog([*plan.names, *done])
            plan = replace(plan, objects=catalog.touched(plan.names), catalog=catalog.digest)
            refuse_other_objects(saved, plan, catalog.touched(done))
        else:
            plan = self.bound(journal, plan)
            refuse_difference(saved, plan)
            plan = self._catalog_compared(saved, plan)
        return replace(plan, saved=saved.id), history

    def _catalog_compared(self, saved: SavedPlan, plan: Plan) -> Plan:
        """The plan, told that something has changed that it does not touch."""
        if saved.document["facts"]["catalog"] == plan.catalog:
            return plan
        message = "the schema has changed since the plan was made, though nothing that the plan touches"
        notice = Diagnostic(code="catalog-changed", severity=Severity.LOW, message=message)
        return replace(plan, findings=(*plan.findings, notice))

    def _refuse_saved_run(self, history: History) -> None:
        """The run of a saved plan is finished by that plan, so that nothing else runs than what was reviewed."""
        for run in history.open_runs:
            if run.saved:
                raise self._run_open(run)

    def _run_open(self, run: OpenRun) -> RunOpen:
        what = f"of plan {run.plan[:12]}" if run.saved else f"of `smeta {run.request}`"
        return RunOpen(
            f"the run {run.id} {what} is not finished",
            hint=run_ways(run, self.environment),
            changed="nothing was run now",
        )

    def _rollback_section(self, version: str) -> RenderedSection | None:
        """How a migration's file says today that it is undone."""
        entry = next((e for e in self.environment.migrations if e.version == version), None)
        return self.project.rendered(self.environment, entry).rollback if entry else None

    def _check_unchanged(self, history: History) -> None:
        changed = [c for c in self.changes(history) if c.harmful]
        if changed:
            raise MigrationChanged(
                "; ".join(str(c) for c in changed),
                detail=[line for c in changed if c.kind == "meaning" for line in c.diff],
                hint="put the file back as it was applied, and write the change as a new migration",
            )

    # doing

    def apply(
        self,
        journal: Journal,
        *,
        to: str | None = None,
        backup: bool = True,
        agreed: Callable[[Plan], None] = lambda _plan: None,
    ) -> tuple[Plan, RunResult | None]:
        """Apply what is pending; None as the result where nothing was."""

        def planned() -> tuple[Plan, History]:
            plan, history = self.plan_forward(journal, to=to, backup=backup)
            self._refuse_saved_run(history)
            return plan, history

        return self._locked(journal, planned, agreed)

    def apply_saved(
        self, journal: Journal, saved: SavedPlan, *, agreed: Callable[[Plan], None] = lambda _plan: None
    ) -> tuple[Plan, RunResult | None]:
        """Run a saved plan, forward or back, or refuse it; nothing has run then."""
        return self._locked(journal, lambda: self.plan_again(journal, saved), agreed)

    def roll_back(
        self,
        journal: Journal,
        *,
        count: int = 1,
        to: str | None = None,
        backup: bool = True,
        from_file: bool = False,
        agreed: Callable[[Plan], None] = lambda _plan: None,
    ) -> tuple[Plan, RunResult | None]:
        """Undo the last `count` migrations, or all after `to`; with the files' rollback sections where asked."""

        def planned() -> tuple[Plan, History]:
            plan, history = self.plan_back(journal, count=count, to=to, backup=backup, from_file=from_file)
            self._refuse_saved_run(history)
            return plan, history

        return self._locked(journal, planned, agreed)

    def abandon(self, journal: Journal, run: str) -> History:
        """End a run that stopped half-way without finishing it; what its statements left half done is taken away.

        What is committed stays: the history that is left says how far each migration is. Where nothing is, the
        migration is pending again. A partition that is half detached cannot be attached again: its detaching is ended.
        """
        cleaned: list[LeftoverCleaned] = []
        try:
            return self._stoppable(journal, lambda stop: self._abandoned(journal, run, stop, cleaned))
        except SmetaError as error:
            gone = "; ".join(event.what for event in cleaned) or "nothing was taken away"
            error.changed = error.changed or (
                f"what is committed stays; {gone}; the run is open until the same command has ended it"
            )
            raise

    def _abandoned(self, journal: Journal, run: str, stop: Stop, cleaned: list[LeftoverCleaned]) -> History:
        self._take_lock(journal, stop)
        try:
            _, history = journal.state()
            if run not in {open_run.id for open_run in history.open_runs}:
                known = ", ".join(f"{r.id} ({r.request})" for r in history.open_runs)
                raise NoSuchRun(
                    f"no run {run} is open",
                    hint=f"open: {known}" if known else "no run is open at all",
                    changed="nothing was run",
                )
            journal.refuse_living(self.environment.locks.runner_wait_ms, pause=stop.sleep)
            journal.upgrade()
            for each in take_away(journal, self.environment, history, self.told):
                cleaned.append(each)  # one by one: what is gone is told, too, where the next fails
            prepare(journal.session, self.environment)
            for partial in history.partial:
                if not partial.changed_something:  # nothing of it is there: it is pending again
                    journal.forget_partial(partial)
            journal.write_events(run, cleaned)
            journal.close_run(run, "abandoned")
            return journal.state()[1]
        finally:
            journal.unlock()

    def _locked(
        self,
        journal: Journal,
        planned: Callable[[], tuple[Plan, History]],
        agreed: Callable[[Plan], None],
    ) -> tuple[Plan, RunResult | None]:
        """Plan under the lock, so that what is planned is what is run."""
        try:
            return self._stoppable(
                journal, lambda stop: self._planned_and_run(journal, planned, agreed, stop)
            )
        except Stopped as stopped:
            # Else the executor has said what became of it.
            stopped.changed = stopped.changed or "nothing was run"
            raise

    @staticmethod
    def _stoppable(journal: Journal, work: Callable[[Stop], Result]) -> Result:
        """Work that signals stop."""
        stop = Stop(cancel=lambda: journal.session.cancel())
        with stop.listening():
            try:
                return work(stop)
            except ServerError as error:
                if stop.asked and error.timed_out:  # a question of our own was cancelled
                    raise stop.noticed() from error
                raise

    def _take_lock(self, journal: Journal, stop: Stop) -> None:
        target, _ = journal.state()
        refuse_unless_writable(journal, in_recovery=target.in_recovery)
        journal.lock(
            self.environment.locks.runner_wait_ms,
            lambda holder, waited: self.told(RunnerWaited(holder=holder, waited_ms=waited)),
            pause=stop.sleep,
        )

    def _planned_and_run(
        self,
        journal: Journal,
        planned: Callable[[], tuple[Plan, History]],
        agreed: Callable[[Plan], None],
        stop: Stop,
    ) -> tuple[Plan, RunResult | None]:
        self._take_lock(journal, stop)
        try:
            plan, history = planned()
            refuse_unmet(self.environment, plan)
            with stop.paused():
                agreed(plan)
            stop.check()
            if history.open_runs:
                journal.refuse_living(self.environment.locks.runner_wait_ms, pause=stop.sleep)
            if plan.empty:
                if history.open_runs:
                    journal.close_dead_runs(self.run)
                return plan, None
            check_secrets(plan, self.secrets)
            result = execute(
                plan,
                self.environment,
                journal,
                history,
                secrets=self.secrets,
                run=self.run,
                told=self.told,
                stop=stop,
                back_up=lambda step, stop: self._back_up(journal.session, step, stop),
            )
            return plan, result
        finally:
            if not journal.session.in_transaction:
                with suppress(SmetaError):  # the connection is closed next, and the lock goes with it
                    journal.unlock()

    def _back_up(self, session: Session, step: BackupStep, stop: Stop) -> None:
        self.back_up(session, step.policy, step.label, cancelled=lambda: stop.asked)

    def back_up(
        self,
        session: Session,
        policy: BackupPolicy,
        label: str,
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> BackupRecord:
        """Take a backup of the session's database by a policy, named after a version."""
        begun = time.monotonic()
        chosen = dump.choose_pg_dump(
            session.server_version_num, all_binaries(self.environ), override=self.environ.get("SMETA_PG_DUMP")
        )
        record = dump.take(
            policy,
            conninfo=session.dump_parameters(),
            pg_dump=chosen,
            target=self.project.root / self.environment.backups_directory,
            name=store.backup_name(label, datetime.now(UTC)),
            timeout_ms=self.environment.timeouts.concurrent_ms,
            environment=self.environment.name,
            role=policy.role or self.environment.role,
            environ=self.environ,
            cancelled=cancelled,
            written=self._told_size(),
            blockers=self._blockers(session),
        )
        self.told(
            BackupTaken(
                file=f"{self.environment.backups_directory}/{record.file}",
                size=record.size,
                duration_ms=int((time.monotonic() - begun) * 1000),
            )
        )
        return record

    def _blockers(self, session: Session) -> Callable[[], Sequence[str]]:
        """Asks our own session, which has nothing to do meanwhile, whom pg_dump waits for; tells each once."""
        told: set[int] = set()

        def look() -> Sequence[str]:
            try:
                found = [Blocker(*row) for row in session.ask("backup_blockers")[0].rows]
            except SmetaError:  # what the dump itself meets is told by the dump
                return ()
            if new := [b for b in found if b.pid not in told]:
                told.update(b.pid for b in new)
                self.told(
                    Blocked(
                        step="backup",
                        blockers=tuple(b.who for b in new),
                        queries=tuple(b.words for b in new),
                    )
                )
            return [str(b) for b in found]

        return look

    def _told_size(self) -> Callable[[int], None]:
        """Tells how large a backup has become, at most once a second."""
        at = time.monotonic()

        def written(size: int) -> None:
            nonlocal at
            if time.monotonic() - at >= 1:
                at = time.monotonic()
                self.told(BackupProgressed(size=size))

        return written

    # asking again

    def verify(self, journal: Journal) -> tuple[Target, list[Verification]]:
        """Ask the kept validations of applied migrations, the declared checks and the checksums again.

        In one read-only transaction that is rolled back.
        """
        target, history = journal.state()
        found = [
            Verification(
                name=f"{p.version} complete",
                failure=f"half done{'' if p.direction == 'forward' else ' on its way back'}: {p.words}; "
                + history.ways_text(p, self.environment),
                half_done=True,
            )
            for p in history.partial
        ]
        found += [
            Verification(name=f"{v} history", failure="applied, as the journal has it, and its row is gone")
            for v in history.erased
        ]
        found += [
            Verification(name=f"{c.version} file", failure=None if c.kind == "comments" else str(c))
            for c in self.changes(history)
        ]
        asked = [
            question
            for row in history.applied
            if row.validation_sql
            for question in _kept_validations(row, row.validation_sql)
        ]
        asked += [check_question(check) for check in self.environment.checks]
        journal.session.run("begin read only; reset search_path")
        for question in asked:
            journal.session.run("savepoint smeta_verify")
            try:
                ask(journal.session, question, self.secrets)
                found.append(Verification(name=question.name))
            except SmetaError as error:
                if not journal.session.usable:
                    raise
                why = error.message.removeprefix(f"{question.name}: ")
                found.append(Verification(name=question.name, failure=f"{why} ({error.location})"))
            journal.session.run("rollback to savepoint smeta_verify")
        journal.session.run("rollback")
        return target, found


def _kept_validations(row: AppliedMigration, text: str) -> tuple[Question, ...]:
    """The validation queries of an applied migration as the history keeps them."""
    kept = Rendered.kept(
        text,
        name=f"validation of {row.version}",
        secrets=kept_slots(row.details.get("validation_secrets", ())),
    )
    return questions(section_of(kept), row.version)
