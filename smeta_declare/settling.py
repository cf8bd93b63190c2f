"""What became of a COMMIT whose answer was lost: the step's key is inserted again, over a new connection.

Never by reading the row, which may be invisible though durable, nor by the transaction's number, which is handed
out again after a crash (measured): a duplicate key says committed, success says that it never can be any more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum

from smeta_declare.environment import Environment
from smeta_declare.errors import SmetaError
from smeta_declare.plan import Work
from smeta_declare.postgres.connection import ServerError, Session
from smeta_declare.postgres.journal import Journal
from smeta_declare.postgres.settings import watch_client
from smeta_declare.postgres.target import prepare
from smeta_declare.stopping import Stop

_PAUSE = 0.25  # seconds between two tries
_NO_RUN = "23503"  # foreign_key_violation


class Settled(StrEnum):
    """What the database says of a lost COMMIT."""

    COMMITTED = "committed"
    UNDONE = "undone"
    TAKEN = "taken"  # ours never was, and another run has done the step since
    OPEN = "open"  # the old server process still lives, or no server answers


def settle(
    journal: Journal, history: str, run: str, works: Sequence[Work], environment: Environment, stop: Stop
) -> Settled:
    """Ask for at most `locks.runner_wait`; the journal works over the new connection afterwards, under its lock."""
    deadline = time.monotonic() + environment.locks.runner_wait_ms / 1000
    while time.monotonic() < deadline and not stop.asked:
        try:
            session = journal.session.beside("")
        except SmetaError:
            time.sleep(_PAUSE)  # a server that restarts
            continue
        try:
            outcome = _ask(journal, session, history, run, works, environment, deadline, stop)
        except SmetaError:
            outcome = Settled.OPEN
        if outcome is Settled.COMMITTED or outcome is Settled.UNDONE:
            return outcome
        session.close()
        if outcome is Settled.TAKEN:
            return outcome
        time.sleep(_PAUSE)
    return Settled.OPEN


def _ask(
    journal: Journal,
    session: Session,
    history: str,
    run: str,
    works: Sequence[Work],
    environment: Environment,
    deadline: float,
    stop: Stop,
) -> Settled:
    prepare(session, environment)
    moved = journal.over(session)
    target, now = moved.state()
    if target.in_recovery or now.id != history:
        return Settled.OPEN  # a standby, or another database: wait for the new primary
    watch_client(session)
    # The old server process holds the lock as long as it lives.
    left = max(0, int((deadline - time.monotonic()) * 1000))
    moved.lock(left, lambda _holder, _waited: None, pause=stop.sleep)
    session.run("begin")
    try:
        written: object = moved.write_steps(history, run, works)
        if not written and not moved.wrote_steps(history, run, works):
            return Settled.TAKEN
    except ServerError as error:
        if error.sqlstate != _NO_RUN:
            raise
        written = True  # a new primary that never had the run: what it lost never happened
    finally:
        if session.usable:
            session.run("rollback")
    journal.session.close()
    journal.session, journal.locked = session, True
    return Settled.UNDONE if written else Settled.COMMITTED
