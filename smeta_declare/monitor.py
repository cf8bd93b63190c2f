"""A second connection that watches the working one: who blocks it, how long it holds what, how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from smeta_declare.environment import Locks
from smeta_declare.errors import SmetaError
from smeta_declare.events import Blocked, BlockerTerminated, BuildProgressed, Noticed, Sink
from smeta_declare.postgres.connection import ServerError, Session

_FIRST = 0.05  # seconds after which a step is looked at for the first time; shorter ones cost nothing
_QUICK = 0.05  # seconds between two looks while somebody waits or a lock is held
_SLOW = 0.5
_SHARE = 20  # times as long as a look takes passes before the next: thousands of locks take long to read
_BEFORE_TIMEOUT = 0.6  # of the lock time-out
_TELL = 1.0  # seconds between two words on the progress of a build


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that ours waits for, as far as our role may see it. Process 0 is a prepared transaction."""

    pid: int
    user: str | None
    application: str | None
    state: str | None
    autovacuum: bool
    age_s: int | None  # of its transaction
    query: str | None

    @property
    def yields(self) -> bool:
        """Whether it is an autovacuum that gives way to whoever waits longer than deadlock_timeout.

        One that prevents wraparound never does.
        https://www.postgresql.org/docs/current/routine-vacuuming.html#AUTOVACUUM
        """
        return self.autovacuum and "(to prevent wraparound)" not in (self.query or "")

    def __str__(self) -> str:
        return self.who + self.words

    @property
    def words(self) -> str:
        """What it runs or ran last, at most 120 characters; it may hold secrets of others, and is never kept."""
        query = " ".join((self.query or "").split())
        visible = self.state is not None or self.age_s is not None
        return f": {query[:120]}" if query and visible else ""

    @property
    def who(self) -> str:
        """Whose session it is, and its state."""
        if self.pid == 0:
            return "a prepared transaction (see pg_prepared_xacts)"
        what = "autovacuum" if self.autovacuum else f"user {self.user or '?'}"
        name = f", {self.application}" if self.application else ""
        if self.application in ("pg_dump", "smeta pg_dump"):
            name += " (a backup: it holds every table until it ends)"
        age = f" for {self.age_s} s" if self.age_s is not None else ""
        if self.state is None and self.age_s is None:
            return f"pid {self.pid}, {what}{name} (more is not visible to our role: grant pg_read_all_stats)"
        return f"pid {self.pid}, {what}{name}, {self.state or 'at work'}{age}"


@dataclass(slots=True)
class Watch:
    """One attempt at a step, as the monitor sees it."""

    step: str
    hold: bool  # whether locks may be held for `locks.hold` only
    begun: float
    blockers: tuple[Blocker, ...] = ()  # the last ones that were seen
    deadlock_timeout_ms: int = 1_000
    overdue: str | None = None  # the lock that was held too long, for which the statement was cancelled
    waiting: bool = False
    seen: dict[str, float] = field(default_factory=dict)  # relation → when a strong lock on it was first seen


class Monitor:
    """Watches a working connection from a thread of its own.

    It connects when a step takes longer than a moment, holds no snapshot between two looks, and what happens
    to it is never the run's failure.
    """

    def __init__(
        self, connect: Callable[[], Session], *, pid: int, journal_schema: str, locks: Locks, told: Sink
    ) -> None:
        self._connect = connect
        self.pid = pid
        self._journal_schema = journal_schema
        self._locks = locks
        self._told = told
        self._watch: Watch | None = None
        self._session: Session | None = None
        self._told_of: set[tuple[str, tuple[int, ...]]] = set()
        self._told_at = 0.0
        self._told_alone = False  # that there is no connection to watch with
        self._closing = threading.Event()
        self._cancelling = threading.Lock()  # a cancel hits the watched try, before its COMMIT, or nothing
        self._thread = threading.Thread(target=self._loop, name="smeta monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    @contextmanager
    def watching(self, step: str, *, hold: bool) -> Iterator[Watch]:
        """Watch an attempt at a step."""
        watch = Watch(step=step, hold=hold, begun=time.monotonic())
        self._watch = watch
        try:
            yield watch
        finally:
            with self._cancelling:
                self._watch = None

    def release(self, watch: Watch) -> None:
        """From here on nothing is cancelled: a cancelled COMMIT does not wait for its standby any more."""
        with self._cancelling:
            watch.hold = False

    def _loop(self) -> None:
        pause = _FIRST
        while not self._closing.wait(pause):
            watch = self._watch
            pause = _FIRST
            if watch is None or time.monotonic() - watch.begun < _FIRST:
                continue
            try:
                pause = self._look(watch)
            except SmetaError as error:
                # The working connection meets the same trouble, and tells it; but for a second connection there
                # may be no room where one was to be had.
                if self._session is None and not self._told_alone:
                    self._told_alone = True
                    without = "who blocks is not named, and locks.hold is not enforced"
                    told = f"no second connection to watch the first: {without} ({'; '.join(error.detail)})"
                    self._told(Noticed(severity="WARNING", message=told))
                self._close()
                pause = _SLOW
        self._close()

    def _close(self) -> None:
        if self._session:
            self._session.close()
        self._session = None

    def _look(self, watch: Watch) -> float:
        """Look once; the seconds until the next time."""
        if self._session is None:
            self._session = self._connect()
            # Names come out with their schema; a look that hangs is no look.
            self._session.send("set search_path = pg_catalog; set statement_timeout = '5s'")
        begun = time.monotonic()
        rows = self._session.ask("watch", None, pid=self.pid, journal=self._journal_schema)[0].rows
        if not rows or watch is not self._watch:
            return _FIRST
        watch.waiting, blockers, held, progress, watch.deadlock_timeout_ms = rows[0]
        if watch.hold:
            self._holding(watch, held or {})
        if blockers:
            self._blocked(watch, tuple(Blocker(**b) for b in blockers))
        if progress:
            self._progressed(watch, progress)
        young = time.monotonic() - watch.begun < 2
        pause = _QUICK if watch.waiting or watch.seen or young else _SLOW
        # A blocker must be seen before the lock time-out ends the wait for it.
        longest = _BEFORE_TIMEOUT * self._locks.timeout_ms / 1000
        return max(pause, min(_SHARE * (time.monotonic() - begun), longest))

    def _blocked(self, watch: Watch, blockers: tuple[Blocker, ...]) -> None:
        watch.blockers = blockers
        key = (watch.step, tuple(b.pid for b in blockers))
        if key not in self._told_of:
            self._told_of.add(key)
            self._told(
                Blocked(
                    step=watch.step,
                    blockers=tuple(b.who for b in blockers),
                    queries=tuple(b.words for b in blockers),
                )
            )
        for blocker in blockers:
            if blocker.pid and blocker.application in self._locks.terminate_blockers and self._session:
                self._end(watch, blocker)

    def _end(self, watch: Watch, blocker: Blocker) -> None:
        key = ("ended", (blocker.pid,))
        if key in self._told_of or not self._session:
            return
        self._told_of.add(key)
        try:
            ended = self._session.ask("terminate", None, pid=blocker.pid)[0].rows[0][0]
        except ServerError as error:
            self._told(Noticed(severity="WARNING", message=f"{blocker.who} cannot be ended: {error.message}"))
            return
        if ended:
            self._told(BlockerTerminated(step=watch.step, blocker=blocker.who))

    def _holding(self, watch: Watch, held: dict[str, str]) -> None:
        now = time.monotonic()
        watch.seen = {relation: watch.seen.get(relation, now) for relation in held}
        overdue = [r for r, since in watch.seen.items() if (now - since) * 1000 >= self._locks.hold_ms]
        if not overdue or not self._session:
            return
        # At every look as long as it is held: a cancel that comes between two statements is lost.
        with self._cancelling:
            if watch is self._watch and watch.hold:
                watch.overdue = f"{held[overdue[0]]} on {overdue[0]}"
                self._session.ask("cancel", None, pid=self.pid)

    def _progressed(self, watch: Watch, progress: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._told_at < _TELL:
            return
        self._told_at = now
        for what in ("lockers", "blocks", "tuples"):
            if progress[f"{what}_total"]:
                done, total = progress[f"{what}_done"], progress[f"{what}_total"]
                self._told(
                    BuildProgressed(
                        step=watch.step, phase=progress["phase"], what=what, done=done, total=total
                    )
                )
                return
