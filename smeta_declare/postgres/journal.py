"""What the database remembers, read and written: history table, journal, runner's lock."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from smeta_declare import __version__
from smeta_declare.environment import HistoryPlace
from smeta_declare.errors import Retryable
from smeta_declare.fingerprint import Catalog, catalog_of
from smeta_declare.postgres.connection import (
    Answer,
    MissingPrivileges,
    Rows,
    ServerError,
    Session,
    privileges_explained,
)
from smeta_declare.postgres.history import FORMAT, ForeignHistory, history_of, with_progress
from smeta_declare.run import Direction, History, PartialMigration, Progress, Target

if TYPE_CHECKING:
    from smeta_declare.events import Event
    from smeta_declare.plan import HistoryRow, Plan, Work

# First key of the advisory lock: "smet" in ASCII. The second is made from the history table's name.
LOCK_CLASS = 0x736D6574

_TABLES = ("run", "step")  # of every format, beside `history`
_LATER_TABLES = ("event", "backfill")
_HELD_TWICE = 100  # an advisory lock that was taken more often than this stays until the run ends
_ENDING = 2.0  # seconds that a server process may need to be gone
_ABSENT = ("42P01", "3F000")  # undefined_table, invalid_schema_name


class RunnerBusy(Retryable):
    """Another runner works on this database."""

    code = "runner-busy"


class Guard(NamedTuple):
    """What a session sees before it commits."""

    held: bool  # the runner's lock
    transaction: str  # the id of the open one
    rows: list[str]  # `version checksum` of each history row
    done: int  # steps of this run
    others: bool  # other advisory locks are held


class Journal:
    """The history and journal of one database, through one session."""

    def __init__(self, session: Session, place: HistoryPlace) -> None:
        self.session = session
        self.locked = False  # whether the runner's lock is with the session
        self.place = place
        self._names: dict[str, Any] = {
            "journal": place.journal_schema,
            "table": (place.table_schema, place.table),
        }
        # Positive and within 31 bits, so that it reads the same in pg_locks.
        self._lock = {
            "tool": LOCK_CLASS,
            "key": int.from_bytes(hashlib.sha256(str(place).encode()).digest()[:4]) & 0x7FFFFFFF,
        }

    def reconnect(self) -> None:
        """Go on over another connection to the same address; the lock was lost with the one before."""
        session = self.session.beside("")
        self.session.close()
        self.session, self.locked = session, False

    def over(self, session: Session) -> Journal:
        """The same journal through another session."""
        return Journal(session, self.place)

    def state(self) -> tuple[Target, History]:
        """The target and its history in one round trip. Creates nothing; no history is an empty one."""
        try:
            answers = self.session.run(
                self.session.compose("target") + self.session.compose("history", self._names)
            )
            history = history_of(answers[1:])
            if any(begun.kept.get("batches") for half in history.partial for begun in half.started.values()):
                progress = self.session.ask("backfill_progress", self._names)[0].rows
                history = with_progress(history, progress)
        except ServerError as error:
            if error.sqlstate == "42501":
                raise MissingPrivileges(
                    f"{error.message}: needed to read {self.place} and schema {self.place.journal_schema}",
                    hint=f"connect as their owner, set `role:` to it, or let it run: {self._grants()}",
                ) from error
            if error.lock_not_available:
                error.detail = (*error.detail, *self._holders())
            if error.sqlstate not in _ABSENT and error.sqlstate != "42703":
                raise
            if self.refuse_foreign():
                raise self._damaged(error.message) from error
            return self._target(self.session.ask("target")[0]), History()
        if history.unjournaled:
            raise self._damaged(f"{self.place} has {'; '.join(history.unjournaled[:3])}")
        return self._target(answers[0]), history

    def _holders(self) -> list[str]:
        """Who keeps others from reading history and journal, as far as our role may see."""
        table = self.session.compose("name", {"name": (self.place.table_schema, self.place.table)})
        with suppress(ServerError):
            rows = self.session.ask("journal_holders", None, table=table, journal=self.place.journal_schema)[
                0
            ].rows
            return [f"held by {_session_named([row])}" for row in rows]
        return []

    def _target(self, answer: Answer) -> Target:
        system, database, user, number, version, in_recovery = answer.rows[0]
        return Target(
            system_identifier=system,
            database=database,
            user=user,
            server_version_num=number,
            server_version=version,
            in_recovery=in_recovery,
            address=f"{self.session.conninfo} (from {self.session.conninfo.source})",
        )

    def refuse_foreign(self) -> bool:
        """Refuse tables of our names that are not ours, or of which only a part is there; True where all are."""
        names = {
            "table": self.session.compose("name", {"name": (self.place.table_schema, self.place.table)}),
            "journal": self.session.compose("name", {"name": (self.place.journal_schema, "history")}),
        }
        ((table, journal, ours, parts),) = self.session.ask(
            "history_exists", None, schema=self.place.journal_schema, **names
        )[0].rows
        if table and not ours:
            raise ForeignHistory(
                f"there is a table {self.place} that smeta did not make",
                hint="name another table in `history: {table: …}`, or rename this one",
            )
        if table != journal:
            missing, there = (f"the journal {self.place.journal_schema}.history", str(self.place))
            if journal:
                missing, there = there, missing
            raise ForeignHistory(
                f"{there} is there, {missing} is not: history and journal belong together",
                hint="restore the one that is missing from a backup, or correct `history:` in the manifest",
            )
        if missing_parts := [name for name in _TABLES if (name not in parts) == journal]:
            raise self._damaged(f"table {missing_parts[0]} is {'missing' if journal else 'there alone'}")
        return bool(journal)

    def _damaged(self, how: str) -> ForeignHistory:
        return ForeignHistory(
            f"the journal in schema {self.place.journal_schema} is damaged: {how}",
            hint="restore the schema from a backup; without it nobody knows what has run",
        )

    def _grants(self) -> str:
        user = self.session.parameters().get("user", "…")
        schemas = f"{self.place.table_schema}, {self.place.journal_schema}"
        return (
            f"grant usage on schema {schemas} to {user}; grant select on {self.place} to {user}; "
            f"grant select on all tables in schema {self.place.journal_schema} to {user}"
        )

    def create(self) -> None:
        """Make history and journal, all or nothing. To be called under the lock."""
        known = self.session.parameters()
        user, database = known.get("user", "…"), known.get("dbname", "…")
        hint = (
            f"let the owner run: grant create on database {database} to {user}; "
            f"grant usage, create on schema {self.place.table_schema} to {user}"
        )
        with privileges_explained(f"to create {self.place} and schema {self.place.journal_schema}", hint):
            # One message without BEGIN is one transaction.
            self.session.ask("create_history", self._names)

    def upgrade(self) -> None:
        """Bring a journal that an older smeta made to our format, a step at a time. To be called under the lock."""
        found = self.session.ask("format", self._names)[0].rows[0][0]
        hint = f"connect as the owner of schema {self.place.journal_schema}, or set `role:` to it"
        for number in range(found, FORMAT):
            with privileges_explained(f"to upgrade the journal from format {number}", hint):
                self.session.ask(f"upgrade_{number}", self._names)
        for name in _LATER_TABLES:
            if not self.session.ask("table_exists", None, schema=self.place.journal_schema, name=name)[
                0
            ].rows:
                raise self._damaged(f"table {name} is missing")

    def lock(
        self,
        wait_ms: int,
        told: Callable[[str, int], None],
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the runner's lock, asking again until `wait_ms`; RunnerBusy names the holder.

        Never waits inside the server: a waiting query holds a snapshot, and CREATE INDEX CONCURRENTLY of the
        other runner would wait for it (measured: deadlock).
        """
        begun = time.monotonic()
        while not self.session.ask("try_lock", None, **self._lock)[0].rows[0][0]:
            waited = int((time.monotonic() - begun) * 1000)
            holder = self.lock_holder() or "it has just finished"
            if waited >= wait_ms:
                raise RunnerBusy(
                    f"another runner works on this database: {holder}",
                    hint="wait for it to finish, or wait longer with --runner-wait",
                    changed="nothing was run",
                )
            told(holder, waited)
            pause(min(0.25, max(0.01, (wait_ms - waited) / 1000)) * random.uniform(0.8, 1.2))
        self.locked = True

    def lock_holder(self) -> str | None:
        """Who holds the runner's lock, as far as our role may see; None where nobody does."""
        return _session_named(self.session.ask("lock_holder", None, **self._lock)[0].rows)

    def refuse_living(self, wait_ms: int, *, pause: Callable[[float], None] = time.sleep) -> None:
        """RunnerBusy where a run that is open still has its session, though we got the lock: a statement of it let go.

        A server process that is ending lets go of its locks a moment before it is gone.
        """
        deadline = time.monotonic() + max(wait_ms / 1000, _ENDING)
        while living := _session_named(self.session.ask("living_runs", self._names)[0].rows):
            if time.monotonic() > deadline:
                raise RunnerBusy(
                    f"a run is open and still at work, without the runner's lock: {living}",
                    hint="wait for it to finish; one of its statements released all advisory locks",
                    changed="nothing was run",
                )
            pause(0.05)

    @property
    def lock_keys(self) -> dict[str, int]:
        """The two keys of the runner's advisory lock, as pg_locks shows them."""
        return self._lock

    def unlock(self) -> None:
        """Let go of the lock, where the session has it."""
        if self.locked and self.session.usable:
            self.locked = False
            self.session.ask("unlock", None, **self._lock)

    def catalog(self, names: Sequence[str]) -> Catalog:
        """The schema in digests, and what these names mean in it, in one round trip."""
        _, meant, _, digests, edges = (
            answer.rows
            for answer in self.session.ask(
                "fingerprint",
                None,
                names=list(names),
                journal=self.place.journal_schema,
                table=self.session.compose("name", {"name": (self.place.table_schema, self.place.table)}),
            )
        )
        return catalog_of(meant, digests, edges)

    def used(self, plan: str) -> str | None:
        """When a saved plan was applied to its end, and by whom; None where it was not."""
        rows = self.session.ask("plan_used", self._names, plan=plan)[0].rows
        return f"{rows[0][0]} by {rows[0][1]}" if rows else None

    def guard(self, run: str) -> Guard:
        """What must hold before a commit."""
        (row,) = self.session.ask("guard", self._names, run=run, pid=self.session.pid, **self._lock)[0].rows
        return Guard(*row)

    def unlock_others(self) -> None:
        """Let go of the advisory locks that a migration left to the session."""
        for _ in range(_HELD_TWICE):
            if not self.session.ask("unlock_others", None, **self._lock)[0].rows:
                return

    def open_run(self, run: str, plan: Plan) -> None:
        """Open the run; the ones before it that are still open end here: this one goes on from there.

        In one transaction: a request that is not known any more would be taken for a new one.
        """
        opening = self.session.compose(
            "open_run",
            self._names,
            run=run,
            environment=plan.environment,
            direction=plan.direction,
            request=plan.request,
            versions=[m.version for m in plan.migrations],
            plan=plan.saved or plan.id,
            saved=plan.saved is not None,
            settings=json.dumps(plan.settings, ensure_ascii=False),
            tool=__version__,
        )
        self.session.run(self.session.compose("close_dead_runs", self._names, run=run) + opening)

    def close_dead_runs(self, run: str) -> None:
        """Close every open run but this one. To be called under the lock: nobody works on them."""
        self.session.ask("close_dead_runs", self._names, run=run)

    def stop_run(self, run: str) -> None:
        """Say that the run stopped half-way; it stays open."""
        self.session.ask("stop_run", self._names, run=run)

    def close_run(self, run: str, outcome: str) -> None:
        """Close the run: `done` or `failed`."""
        self.session.ask("close_run", self._names, run=run, outcome=outcome)

    def write_events(self, run: str, events: Sequence[Event]) -> None:
        """Keep events beside the run."""
        rows = [
            {"event": facts.pop("event"), "facts": facts} for facts in (event.as_dict() for event in events)
        ]
        if rows:
            self.session.ask("events", self._names, run=run, rows=json.dumps(rows, ensure_ascii=False))

    def write_started(self, history: str, run: str, work: Work, kept: Mapping[str, Any]) -> None:
        """Say that a statement outside transactions begins, and what it may leave."""
        self.session.ask(
            "started",
            self._names,
            history=history,
            run=run,
            version=work.version,
            direction=work.direction,
            position=work.position,
            round=work.round,
            steps=work.steps,
            digest=work.digest,
            kept=json.dumps(
                {**kept, **({"rollback": asdict(work.keeps)} if work.keeps else {})}, ensure_ascii=False
            ),
        )

    def forget_started(
        self, history: str, version: str, direction: Direction, position: int, round: int
    ) -> None:
        """Take back that a statement has begun: it failed before our eyes, or what it left is taken away."""
        place = {"version": version, "direction": direction, "position": position, "round": round}
        self.session.ask("forget_started", self._names, history=history, **place)

    def forget_partial(self, partial: PartialMigration) -> None:
        """Forget what was begun of a migration and left nothing."""
        ((history, _),) = self.session.run(self.session.compose("history_id", self._names))[0].rows
        for position in partial.started:
            self.forget_started(history, partial.version, partial.direction, position, partial.round)

    def write_steps(self, history: str, run: str, works: Sequence[Work]) -> set[tuple[str, int]]:
        """Write the done rows of steps: version and position of those that were not there before."""
        rows = [
            {
                "version": work.version,
                "direction": work.direction,
                "position": work.position,
                "round": work.round,
                "steps": work.steps,
                "digest": work.digest,
                "kept": asdict(work.keeps) if work.keeps else None,
            }
            for work in works
        ]
        values = {
            "history": history,
            "run": run,
            "rows": json.dumps(rows, ensure_ascii=False),
        }
        written = self.session.ask("steps", self._names, **values)[0].rows
        return {(version, position) for version, position in written}

    def wrote_steps(self, history: str, run: str, works: Sequence[Work]) -> bool:
        """Whether all of these steps were done by this run."""
        rows = json.dumps([{**_place(history, work)} for work in works])
        ((ours,),) = self.session.ask("wrote_steps", self._names, history=history, run=run, rows=rows)[0].rows
        return int(ours) == len(works)

    def begin_backfill(self, history: str, run: str, work: Work) -> Progress:
        """The row of a backfill, made where there is none, and locked for this transaction."""
        values = {**_place(history, work), "run": run, "digest": work.digest}
        digest, passed, lower, upper, rows, done = self.session.ask("backfill_begin", self._names, **values)[
            1
        ].rows[0]
        return Progress(digest=digest, passed=passed, lower=lower, upper=upper, rows=rows, done=done)

    def move_backfill(self, history: str, run: str, work: Work, was: Progress, now: Progress) -> bool | None:
        """Move a backfill's row on: whether the runner's lock is still ours; None where the row is not at `was`."""
        rows = self.session.ask(
            "backfill_move",
            self._names,
            **_place(history, work),
            run=run,
            digest=now.digest,
            was_pass=was.passed,
            was_lower=was.lower,
            **{"pass": now.passed},
            lower=now.lower,
            upper=now.upper,
            done=now.done,
            **self._lock,
        )[0].rows
        return bool(rows[0][0]) if rows else None

    def count_backfill(self, history: str, work: Work, rows: int) -> None:
        """Add the rows of a batch."""
        self.session.ask("backfill_count", self._names, **_place(history, work), rows=rows)

    def applied_sql(self, record: HistoryRow, execution_time_ms: int, *, number: int) -> str:
        """The statement that writes a history row; `number` is its place in the order of application."""
        row = {field.name: getattr(record, field.name) for field in fields(record)}
        row["details"] = json.dumps(row["details"], ensure_ascii=False)
        return self.session.compose(
            "applied", self._names, **row, execution_time_ms=execution_time_ms, number=number
        )

    def forget(self, versions: Sequence[str]) -> None:
        """Remove history rows."""
        self.session.ask("forget", self._names, versions=list(versions))


def _session_named(rows: Rows) -> str | None:
    """The first of these sessions in words."""
    if not rows:
        return None
    pid, user, application, address, since = rows[0]
    told = [f"pid {pid}", f"user {user}", application or "no application name"]
    if since is not None:  # else our role may not see where from, and since when
        told += [address or "local", f"since {since}"]
    return ", ".join(told)


def _place(history: str, work: Work) -> dict[str, Any]:
    return {
        "history": history,
        "version": work.version,
        "direction": work.direction,
        "position": work.position,
        "round": work.round,
    }
