"""One statement outside of transactions: a started row, the statement, a look at the catalogue, a done row."""

from __future__ import annotations

import time
from typing import Any

from smeta_declare.errors import SmetaError
from smeta_declare.events import FoundDone, LeftoverCleaned, Noticed
from smeta_declare.failures import LockTimeout, StateChanged, StatementFailed
from smeta_declare.leftovers import Found, clean, clean_up, look, standing, staying
from smeta_declare.plan import AutocommitStep, Plan, PlannedStatement
from smeta_declare.postgres.connection import ServerError
from smeta_declare.run import History, Started
from smeta_declare.standalone import (
    AddsValue,
    BuildsIndex,
    CreatesGlobal,
    DetachesPartition,
    DropsGlobal,
    DropsIndex,
    Effect,
    Reindexes,
    as_dict,
    from_dict,
)
from smeta_declare.working import LockMissed, Working


class Alone:
    """An autocommit step being run; made once per step, tried as often as its locks need it.

    A killed client's server process may finish its statement after it (measured). The started row says what the
    statement may leave, so that the next run can tell our leftovers from somebody else's.
    """

    def __init__(self, working: Working, step: AutocommitStep, history: History) -> None:
        self.working = working
        self.step = step
        partial = history.partial_of(step.work.version, step.work.direction)
        self.started: Started | None = partial.started.get(step.work.position) if partial else None
        self._ran = False  # and only its done row is missing
        self._sent = 0  # statements of ours that ran

    def run(self) -> None:
        """Run the statement, or see that it has been run; then the done row is written and committed."""
        working, work, statement = self.working, self.step.work, self.step.statement
        begun = time.monotonic()
        working.begin_work(work)
        working.own_session()
        working.check_lock()
        fresh = working.fresh(work.timeouts, alone=True, concurrently=statement.concurrently)
        working.session.send(fresh)
        if not self._ran and not self._done_already(fresh):
            working.alone = True
            self._send(statement)
            self._check(statement)
            self._sent = 1
        self._ran = working.alone = True  # committed, and the journal does not say so yet
        with working.guarded(), working.stop.patient():
            working.own_session()
            working.session.send("begin")
            if not working.journal.write_steps(working.history_id, working.run, [work]):
                raise StateChanged(
                    f"step {self.step.id} is in the journal already", hint="run the same command again"
                )
            working.write_events()
            working.session.send("commit")
            working.events_kept()
        working.alone = False
        working.end_work(work, begun, statements=self._sent)

    def _send(self, statement: PlannedStatement) -> None:
        try:
            self.working.send_alone(self.step.work, statement)
        except (SmetaError, LockMissed) as failed:
            if isinstance(failed.__cause__, ServerError):
                self._forget_started(failed)
                if statement.resume == "done" and isinstance(failed, LockMissed):
                    # Parts of it may be committed: whether it runs again is a person's decision.
                    raise LockTimeout(
                        failed.message,
                        location=failed.location,
                        detail=failed.detail,
                        hint="see what it has committed, then run the same command again: that calls it once more",
                    ) from failed
            raise

    def _forget_started(self, failed: SmetaError | LockMissed) -> None:
        """The server answered that it failed: its end is known, and `resume=done` is for ends that nobody saw.

        What leaves something half done keeps its row: the next run cleans up by it.
        """
        if self._may_be_half_done():
            return
        if self.started is None:
            self.working.alone = False
            return
        try:
            with self.working.stop.patient():
                self.working.own_session()
                work = self.step.work
                self.working.journal.forget_started(
                    self.working.history_id, work.version, work.direction, work.position, work.round
                )
            self.started = None
            # A procedure may have committed parts; of anything else nothing is left.
            self.working.alone = self.step.statement.resume is not None
        except SmetaError as error:
            if self.step.statement.resume == "done":
                failed.detail = (
                    *failed.detail,
                    f"the journal could not be told that it failed ({error.message}): the next run takes it for done",
                )

    def _may_be_half_done(self) -> bool:
        effect = self.step.statement.effect
        if effect is None or self.started is None:
            return False
        if isinstance(effect, DropsIndex | DropsGlobal):
            return True  # what is still there may be broken
        try:
            return look(self.working.session, effect, self._before) is not Found.NOTHING
        except SmetaError:
            return True

    def _done_already(self, fresh: str) -> bool:
        """Look at what an earlier try left, take half-done things away, and write the started row."""
        statement, effect = self.step.statement, self.step.statement.effect
        if self.started and self.started.digest != self.step.work.digest:
            self._leave_earlier_text(self.started)
        ours = self.started is not None and self.started.digest == self.step.work.digest
        found = self._look(effect)
        if ours and self.started:
            if statement.resume == "done":
                return self._found_done(
                    "it was begun, nobody saw it end, and resume=done says that it counts"
                )
            if found is Found.HALF and effect:
                self._clean(effect, self.started)
                found = look(self.working.session, effect, self._before)
            for what in staying(self.working.session, effect, self._before) if effect else ():
                self.working.told(Noticed(severity="WARNING", message=what))
            return found is Found.DONE and self._found_done("what it does is done: an earlier run began it")
        if found is Found.HALF and isinstance(effect, BuildsIndex):
            raise self._refused(
                f"index {effect.index} is there and INVALID, and no run of smeta left it",
                f"look at it, then: drop index concurrently {effect.index}",
            )
        if found is Found.HALF and isinstance(effect, DetachesPartition):
            raise self._refused(
                f"partition {effect.partition} is half detached, and no run of smeta began it",
                f"end it (alter table {effect.table} detach partition {effect.partition} finalize), and take the "
                "statement out of the migration",
            )
        if found is not Found.DONE:  # else the server says that it is there, or IF NOT EXISTS passes over it
            self._write_started(effect)
            self.working.session.send(fresh)
        return False

    def _found_done(self, why: str) -> bool:
        self.working.told(FoundDone(step=self.step.id, why=why))
        return True

    def _look(self, effect: Effect | None) -> Found:
        if effect is None:
            return Found.NOTHING
        found = look(self.working.session, effect, self._before)
        if found is Found.ELSEWHERE and isinstance(effect, BuildsIndex):
            raise self._refused(
                f"index {effect.index} is there and belongs to another table than {effect.table}",
                "give one of the two another name",
            )
        return found

    @property
    def _before(self) -> list[int]:
        """Leftovers of somebody else, that were there when the statement began."""
        return list(self.started.kept.get("before", ())) if self.started else []

    def _leave_earlier_text(self, started: Started) -> None:
        """The statement was edited after it had begun: what the earlier text left half done is taken away."""
        if "effect" not in started.kept:
            return
        effect = from_dict(dict(started.kept["effect"]))
        found = look(self.working.session, effect, self._before)
        if found is Found.DONE:
            raise self._refused(*_done_before_the_edit(effect))
        if found is Found.HALF:
            self._clean(effect, started)

    def _clean(self, effect: Effect, started: Started) -> None:
        with self.working.guarded():
            for what in clean(self.working.session, effect, started.kept.get("before", ())):
                self.working.told(LeftoverCleaned(step=self.step.id, what=what))

    def _write_started(self, effect: Effect | None) -> None:
        session, journal = self.working.session, self.working.journal
        kept: dict[str, Any] = {"effect": as_dict(effect)} if effect else {}
        if effect and (before := standing(session, effect)):
            kept["before"] = before
        session.send(self.working.ours)
        journal.write_started(self.working.history_id, self.working.run, self.step.work, kept)
        self.started = Started(digest=self.step.work.digest, kept=kept)

    def _check(self, statement: PlannedStatement) -> None:
        """Success is what the catalogue shows: `if not exists` is content with an INVALID index."""
        effect = statement.effect
        if effect is None:
            return
        found = self._look(effect)
        wanted = Found.NOTHING if isinstance(effect, Reindexes) else Found.DONE
        if found is not wanted:
            raise self._refused(
                "the server reports success, and the catalogue does not show it", "run the same command again"
            )

    def _refused(self, message: str, hint: str) -> StatementFailed:
        work = self.step.work
        return StatementFailed(f"{work.version}: {message}", location=self.step.statement.location, hint=hint)


def _done_before_the_edit(effect: Effect) -> tuple[str, str]:
    """What a step did before its statement was edited, and the way out: it would stay, and nobody would know of it."""
    back = "put the statement back as it was"
    match effect:
        case BuildsIndex():
            what, undo = f"index {effect.index} was built", f"drop index concurrently {effect.index}"
        case DropsIndex():
            what, undo = f"index {effect.index} was dropped", "build it again"
        case DetachesPartition():
            what = f"partition {effect.partition} was detached"
            undo = f"attach it again (alter table {effect.table} attach partition {effect.partition} …)"
        case AddsValue():
            return f"value {effect.value} was added to {effect.type} by this step before it was edited", back
        case CreatesGlobal():
            what, undo = f"{effect.kind} {effect.name} was created", f"drop {effect.kind} {effect.name}"
        case DropsGlobal():
            what, undo = f"{effect.kind} {effect.name} was dropped", "make it again"
        case Reindexes():  # nothing tells whether it was done, and it does no harm
            raise ValueError(effect)
    return f"{what} by this step before it was edited", f"{back}, or undo that: {undo}"


def clean_edited(working: Working, plan: Plan, history: History) -> None:
    """Take away what statements left half done that no longer stand alone: the migration was edited since."""
    alone = {(s.work.version, s.work.position) for s in plan.steps if isinstance(s, AutocommitStep)}
    planned = {migration.version for migration in plan.migrations}
    for partial in history.partial:
        if partial.direction != plan.direction or partial.version not in planned:
            continue
        for position, started in partial.started.items():
            if (partial.version, position) in alone or "effect" not in started.kept:
                continue
            effect = from_dict(dict(started.kept["effect"]))
            with working.guarded():
                working.session.send("reset search_path")
                if look(working.session, effect, started.kept.get("before", ())) is Found.DONE:
                    message, hint = _done_before_the_edit(effect)
                    raise StatementFailed(f"{partial.version}: {message}", hint=hint)
                under = working.fresh(working.environment.timeouts, alone=True, concurrently=True)
                for what in clean_up(working.session, started, under=under):
                    working.told(LeftoverCleaned(step=f"{partial.version}/{position + 1}", what=what))
                working.own_session()
                working.journal.forget_started(
                    working.history_id, partial.version, partial.direction, position, partial.round
                )
