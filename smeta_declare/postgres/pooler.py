"""Whether a pooler stands between us and the server, and whether it takes the server process away between two
transactions: then a session's settings and locks are worth nothing, and other clients get them.

Found by asking only: nothing is set, and no transaction is held open.
"""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum

from smeta_declare.errors import SmetaError
from smeta_declare.postgres.connection import ConnectionFailed, Session

_PATIENCE = 3.0  # seconds for one answer: a pool without a free process lets us wait
# Who asks. An idle pooler gives the process that was used last (then all see the same one), or the one that
# was used longest ago (then the same connection, asking twice, sees two, or all see the only one).
_TURNS = (0, 0, 1, 2, 0, 1, 1, 2, 2, 0)


class PoolMode(StrEnum):
    """For how long a pooler lets a client keep a server process, as PgBouncer calls it."""

    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"
    UNKNOWN = "unknown"  # nobody answered in time: to be treated as the worst

    @property
    def keeps_sessions(self) -> bool:
        """Whether what holds for a session holds until the client leaves."""
        return self is PoolMode.SESSION


def pool_mode(session: Session) -> PoolMode | None:
    """The mode of the pooler in between; None where there is none. From here on the session knows its process.

    The server tells its process id when a session begins; a pooler tells a number of its own (measured with
    PgBouncer: 0 of 20 equal, directly 20 of 20). Several processes of a pooler on one address, each with a pool
    of its own, may pass for a pooler in session mode.
    """
    pid = session.backend_pid(within=_PATIENCE)
    if pid is None:  # no time-out of the server is set yet: that may be done once nobody stands in between
        raise ConnectionFailed(
            f"{session.conninfo} lets us in, and answers nothing within {_PATIENCE:.0f} s",
            hint="a lock on the system catalogue, or a pooler without a free connection: try again later",
            changed="nothing was run",
        )
    if pid == session.key_pid:
        return None
    session.pooled_pid = pid
    try:
        return _mode(session)
    except SmetaError:
        if not session.usable:
            raise
        return PoolMode.UNKNOWN


def _mode(session: Session) -> PoolMode:
    with ExitStack() as stack:
        others = [stack.enter_context(session.beside("pooler", known=False)) for _ in range(2)]
        asked = (session, *others)
        seen: dict[int, set[int]] = {0: {session.pid}, 1: set(), 2: set()}
        for turn in _TURNS:
            pid = asked[turn].backend_pid(within=_PATIENCE)
            if pid is None:
                return _starved(session) if turn else PoolMode.UNKNOWN
            seen[turn].add(pid)
        if len(seen[0] | seen[1] | seen[2]) == len(seen) and all(len(pids) == 1 for pids in seen.values()):
            return PoolMode.SESSION
        try:
            others[0].run("begin")
            others[0].run("rollback")
        except SmetaError:
            return PoolMode.STATEMENT
        return PoolMode.TRANSACTION


def _starved(session: Session) -> PoolMode:
    """Another connection gets no process. If ours has one still, it is kept; else we would queue behind."""
    pid = session.backend_pid(within=_PATIENCE)
    return PoolMode.SESSION if pid == session.pid else PoolMode.UNKNOWN
