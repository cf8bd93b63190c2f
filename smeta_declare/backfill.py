"""A statement in batches: each a transaction that moves a row of the journal on, so that every batch runs once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from smeta_declare.errors import SmetaError
from smeta_declare.events import (
    BackfillDone,
    BackfillPaused,
    BackfillProgress,
    BackfillStarted,
    Noticed,
    StatementDone,
)
from smeta_declare.failures import CommitUnknown, StateChanged, TransactionEnded
from smeta_declare.plan import BackfillStep
from smeta_declare.postgres.connection import ConnectionLost, ServerError
from smeta_declare.run import Progress
from smeta_declare.secrets import Sendable
from smeta_declare.working import LockMissed, Working, since

_LONG = 1.0  # seconds: a batch that takes longer is too large
_SHORT = 0.5  # and one that takes less may grow again, up to the size that was asked for
_TELL = 1.0  # seconds between two words on how far it is
_LOOK = 0.5  # seconds between two looks at standbys and old transactions
_PASSES = 10  # of one run
_HIDDEN = "42501"  # insufficient_privilege, which row security is with `row_security = off`


class BatchKeyUnusable(SmetaError):
    """The column that a backfill goes by does not tell its rows apart, or cannot be put in order."""

    code = "batch-key"


class BackfillUnfinished(SmetaError):
    """Every row was visited, and rows are left that the statement does not change, or that writers keep adding."""

    code = "backfill-unfinished"


class BackfillChanged(SmetaError):
    """A statement was edited while it was half done, and its rows cannot be told from those that are left."""

    code = "backfill-changed"


class Backfill:
    """A backfill step being run; a repeated run goes on after the last batch that was committed."""

    def __init__(self, working: Working, step: BackfillStep) -> None:
        self.working = working
        self.step = step
        self.batch = step.batch
        self.at = Progress(digest=step.work.digest)
        self.batches = 0  # of this run
        self._size = step.batch.options.size
        self._total: int | None = None  # rows of the table, as the planner estimates
        self._passes = 1  # of this run
        self._witness: str | None = None  # the key of a row that the last pass left
        self._begun = self._told_at = self._looked_at = time.monotonic()
        self._before = 0  # rows of earlier runs
        self._told_hidden = False  # that nothing is known of standbys

    @property
    def committed(self) -> str:
        """What of the step this run has committed, if it stops here; empty where that is nothing."""
        return f"{self.step.id} up to row {self.at.rows:,}" if self.at.rows > self._before else ""

    def run(self) -> None:
        """Run every batch that is left, and write the step's done row with the last one."""
        working, work = self.working, self.step.work
        working.begin_work(work)
        self._check_key()
        working.retrying(self.step.id, self._take_up, hold=False)
        working.told(
            BackfillStarted(
                step=self.step.id, table=self.batch.relation, rows=self.at.rows, total=self._total
            )
        )
        while not self.at.done:
            self._wait_for_others()
            working.retrying(self.step.id, self._next, hold=False)
            self._tell()
            if not self.at.done:
                working.stop.sleep(self.batch.options.pause_ms / 1000)
        duration = since(self._begun)
        working.told(
            BackfillDone(
                step=self.step.id,
                rows=self.at.rows,
                batches=self.batches,
                passes=self.at.passed,
                duration_ms=duration,
            )
        )
        working.told(StatementDone(version=work.version, statement=self.step.statement, duration_ms=duration))
        working.own_session()
        working.end_work(work, self._begun)

    # before the first batch

    def _check_key(self) -> None:
        """Ask the catalogue whether the key tells every row apart; nothing is written before that."""
        batch, column = self.batch, self.batch.options.key
        self.working.own_session()
        self.working.session.send(self._fresh)
        rows = self.working.session.ask(
            "backfill_key", None, table=batch.relation, column=column, functions=list(batch.functions)
        )[0].rows
        if not rows:
            raise self._refused(f"there is no table {batch.relation}", "create it in an earlier statement")
        kind, not_null, ordered, type_name, unique, inherited, self._total, aggregates = rows[0]
        name = f"column {column} of {batch.relation}"
        whole = "a key must be one column, unique and not null, of a plain type"
        if kind not in ("r", "p"):
            raise self._refused(f"{batch.relation} is no table", "name the table itself")
        if not_null is None:
            raise self._refused(f"there is no {name}", "name a column that is there")
        if not unique:
            raise self._refused(
                f"{name} is not unique by itself: rows of one key could lie on both sides of a bound",
                f"{whole}; build a unique index on it in an earlier step",
            )
        if not not_null:
            raise self._refused(
                f"{name} may be null: such rows would be in no batch", f"{whole}: alter table … set not null"
            )
        if not ordered:
            raise self._refused(
                f"{name} has type {type_name}", f"{whole}: a number, text, uuid, date or time"
            )
        if inherited and not batch.only:
            raise self._refused(
                f"other tables inherit from {batch.relation}, and no index is unique across them",
                "write ONLY, and a statement for each of the others",
            )
        if aggregates:
            raise self._refused(f"{aggregates}() looks at many rows at once", "select plain rows")

    def _refused(self, message: str, hint: str) -> BatchKeyUnusable:
        return BatchKeyUnusable(
            f"{self.step.work.version}: {message}", location=self.step.statement.location, hint=hint
        )

    def _take_up(self) -> None:
        """Make the journal's row, or take it up where an earlier run left it."""
        working, work = self.working, self.step.work
        working.own_session()
        session, journal = working.session, working.journal
        session.send("begin")
        with working.guarded():
            found = journal.begin_backfill(working.history_id, working.run, work)
            journal.write_started(working.history_id, working.run, work, {"batches": found.passed > 0})
        self.at, self._before = found, found.rows
        if found.digest != work.digest and not found.passed:
            now = replace(found, digest=work.digest)  # no batch of the earlier text was committed
            self._move(found, now)
            found = now
        elif found.digest != work.digest:
            if self.batch.until is None:
                raise BackfillChanged(
                    f"{work.version}: the statement was edited after {found.rows:,} rows had been changed",
                    location=self.step.statement.location,
                    hint="put its text and key back as they were; size and pauses may change",
                )
            # Who is left is asked of the rows, so that another text may go on; from the beginning.
            now = replace(found, digest=work.digest, lower=None, upper=None, passed=found.passed + 1)
            self._move(found, now)
            found = now
        self._commit()
        self.at = found

    # a batch

    @property
    def _fresh(self) -> str:
        # Filtered rows would be neither changed nor missed: PostgreSQL shall refuse instead.
        # A key that is a float must come back from its text as it was.
        return (
            self.working.fresh(self.step.work.timeouts)
            + "set row_security = off; set extra_float_digits = 1;"
        )

    def _next(self) -> None:
        try:
            self._run_batch()
        except LockMissed:
            self._size = max(1, self._size // 2)
            raise

    def _run_batch(self) -> None:
        """The next batch, or the end of the pass: one transaction."""
        working, session, batch = self.working, self.working.session, self.batch
        working.stop.check()
        begun = time.monotonic()
        session.send(self._fresh + "begin")
        was, now = self.at, self.at
        if not now.passed:
            now = replace(now, passed=1, upper=self._asked(batch.highest()) if batch.until is None else None)
            if batch.until is None and now.upper is None:
                return self._finish(was, now)
        bound = self._asked(batch.next_bound(self._literal(now.lower), self._literal(now.upper), self._size))
        if bound is None:
            return self._end_pass(was, now)
        now = replace(now, lower=bound)
        self._move(was, now)
        if not was.passed:
            working.journal.write_started(working.history_id, working.run, self.step.work, {"batches": True})
        session.send("reset search_path; reset datestyle; reset extra_float_digits")
        upper = session.literal(bound)
        sent = Sendable(
            statement=self.step.statement,
            text=batch.within(self._literal(was.lower), upper),
            shifts=batch.shifts(),
        )
        with self._guarded(sent):
            rows = session.run(sent.text)[0].rowcount
        session.send(working.ours)
        working.journal.count_backfill(working.history_id, self.step.work, rows)
        self._commit()
        self.at = replace(now, rows=was.rows + rows)
        self.batches += 1
        self._adapt(time.monotonic() - begun)

    def _adapt(self, seconds: float) -> None:
        if seconds > _LONG:
            self._size = max(1, self._size // 2)
        elif seconds < _SHORT:
            self._size = min(self.batch.options.size, self._size + self._size // 2 + 1)

    def _literal(self, key: str | None) -> str | None:
        return None if key is None else self.working.session.literal(key)

    def _asked(self, query: str) -> str | None:
        """A key as text; None where there is no row."""
        statement = self.step.statement
        with self._guarded(Sendable(statement=replace(statement, text=query, secrets=()), text=query)):
            rows = self.working.session.run(query)[0].rows
        return str(rows[0][0]) if rows else None

    def _move(self, was: Progress, now: Progress) -> None:
        working = self.working
        working.session.send(working.ours)
        with working.guarded():
            held = working.journal.move_backfill(working.history_id, working.run, self.step.work, was, now)
        if held is None:
            raise StateChanged(
                f"step {self.step.id} is not where this run left it: another run works on it",
                hint="run the same command again",
            )
        if not held:
            raise TransactionEnded(
                "the runner's lock is gone: a batch dropped it",
                hint="no statement or trigger may release all advisory locks",
            )

    def _commit(self) -> None:
        """COMMIT alone; where its answer is lost, the journal's row says later whether the batch is in."""
        working = self.working
        try:
            with working.stop.patient():
                status = working.session.run("commit")[0].status
        except (ConnectionLost, KeyboardInterrupt) as error:
            raise CommitUnknown(
                f"the connection broke while a batch of step {self.step.id} was being committed",
                hint="run the same command again: it asks the database what became of the batch",
                changed=f"committed: {self.committed or 'no batch before it'}; whether this one is, is open",
            ) from error
        if status != "COMMIT":
            raise TransactionEnded(f"the server answered {status} to COMMIT of a batch of {self.step.id}")

    # the end

    def _end_pass(self, was: Progress, now: Progress) -> None:
        """Nothing is left above: done, or another pass for what writers left below."""
        left = self._asked(self.batch.left()) if self.batch.until else None
        if left is None:
            return self._finish(was, now)
        if left == self._witness or self._passes == _PASSES:
            raise BackfillUnfinished(
                f"{self.step.work.version}: after {self._passes} passes the row with {self.batch.options.key} = "
                f"{left} is still left",
                location=self.step.statement.location,
                detail=[f"left is where: {self.batch.until}"],
                hint="either the statement does not change it so that this is no longer true, or writers keep "
                "adding such rows: give the column a default first; then run the same command again",
            )
        now = replace(now, lower=None, passed=now.passed + 1)
        self._move(was, now)
        self._commit()
        self.at, self._witness = now, left
        self._passes += 1

    def _finish(self, was: Progress, now: Progress) -> None:
        """The step is done: said in the transaction that found nothing left."""
        working, now = self.working, replace(now, done=True)
        self._move(was, now)
        if not working.journal.write_steps(working.history_id, working.run, [self.step.work]):
            raise StateChanged(
                f"step {self.step.id} is in the journal already", hint="run the same command again"
            )
        working.write_events()
        self._commit()
        working.events_kept()
        self.at = now

    # beside the batches

    def _wait_for_others(self) -> None:
        """Pause while a standby is further behind than it may be, or an old transaction holds the table.

        Rows that such a transaction may still see cannot be vacuumed: each batch would make the table grow.
        """
        if self.batches and time.monotonic() - self._looked_at < _LOOK:
            return
        while reason := self._in_the_way():
            self.working.told(BackfillPaused(step=self.step.id, reason=reason))
            self.working.stop.sleep(_LOOK)

    def _in_the_way(self) -> str | None:
        self._looked_at = time.monotonic()
        session, limit = self.working.session, self.batch.options.max_lag_ms
        session.send(self.working.ours)
        if limit is not None:
            lag, hidden = session.ask("replica_lag")[0].rows[0]
            if hidden and not self._told_hidden:
                self._told_hidden = True
                unseen = "max_lag has no effect: our role may not see the standbys (grant pg_read_all_stats)"
                self.working.told(Noticed(severity="WARNING", message=f"{self.step.id}: {unseen}"))
            if lag is not None and lag > limit:
                return f"a standby is {lag} ms behind"
        age = self.working.environment.locks.require_quiet_ms
        if age is not None and self.batches:
            session.send("reset search_path")  # the table as the statement names it
            rows = session.ask("not_quiet", None, tables=[self.batch.relation], age_ms=age)[0].rows
            if rows:
                return str(rows[0][0])
        return None

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at < _TELL:
            return
        self._told_at = now
        rows = self.at.rows
        rate = (rows - self._before) / max(now - self._begun, 0.001)
        left = self._total - rows if self._total is not None and self._total > rows else None
        self.working.told(
            BackfillProgress(
                step=self.step.id,
                rows=rows,
                total=self._total,
                rate=round(rate, 1),
                eta_s=int(left / rate) if left is not None and rate else None,
            )
        )

    @contextmanager
    def _guarded(self, sent: Sendable) -> Iterator[None]:
        try:
            with self.working.guarded(sent):
                yield
        except SmetaError as error:
            cause = error.__cause__
            if isinstance(cause, ServerError) and cause.sqlstate == _HIDDEN:
                error.hint = (
                    "the role lacks a right, or forced row security would hide rows from it: say `no force row "
                    "level security` before, and `force` after"
                )
            raise
