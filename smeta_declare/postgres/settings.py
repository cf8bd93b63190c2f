"""Which servers smeta works on, and the settings that its sessions work under: the only place that sets them."""

from __future__ import annotations

from psycopg import sql

from smeta_declare.environment import Locks, Timeouts
from smeta_declare.errors import Refused
from smeta_declare.postgres.connection import ServerError, Session

OLDEST, NEWEST = 14, 18  # the majors that are supported; newer ones may be read, not applied to


class UnsupportedServer(Refused):
    """A server that smeta does not apply anything to: too old, too new, or a standby."""

    code = "unsupported-server"


class ReadOnlyDatabase(Refused):
    """Somebody closed the database to writing, and we do not go around that."""

    code = "read-only-database"


def check_major(session: Session) -> None:
    """Refuse a server of a version that nothing may be applied to."""
    major = session.server_version_num // 10000
    if not OLDEST <= major <= NEWEST:
        raise UnsupportedServer(
            f"the server is PostgreSQL {major}; smeta applies to {OLDEST} to {NEWEST}",
            hint="a newer smeta may know it" if major > NEWEST else "upgrade the server",
        )


def check_server(session: Session, *, in_recovery: bool) -> None:
    """Refuse a server or database that nothing may be applied to."""
    check_major(session)
    if in_recovery:
        raise UnsupportedServer(
            "the server is a standby: it can be read only",
            hint="connect to the primary (target_session_attrs=read-write chooses it)",
        )
    if session.ask("read_only")[0].rows[0][0]:
        raise ReadOnlyDatabase(
            "default_transaction_read_only is on for this database or user: somebody closed it to writing",
            hint="ask who did it, or reset it: alter database … reset default_transaction_read_only",
        )


def settings(
    session: Session,
    timeouts: Timeouts,
    locks: Locks,
    *,
    alone: bool = False,
    concurrently: bool = False,
    role: str | None = None,
) -> str:
    """The settings every statement of ours and of a migration runs under: the only place that sets them.

    `alone`: for statements outside a transaction, which take longer. `concurrently`: for those of them that
    nobody queues behind while they wait: no lock_timeout.
    """
    wanted = {
        "statement_timeout": str(timeouts.concurrent_ms if alone else timeouts.statement_ms),
        "lock_timeout": str(0 if concurrently else locks.timeout_ms),
        "idle_in_transaction_session_timeout": str(timeouts.idle_in_transaction_ms),
        "idle_session_timeout": "0",
        "synchronous_commit": "on",
        "standard_conforming_strings": "on",  # what `literal` and our own literals rely on
        "default_transaction_read_only": "off",
        "default_transaction_isolation": "read committed",
    }
    if session.server_version_num >= 170000:
        wanted["transaction_timeout"] = "0"
    if session.watched:
        wanted["client_connection_check_interval"] = "2s"
    text = "".join(f"set {name} = '{value}';" for name, value in wanted.items())
    return text + (f"set role {sql.Identifier(role).as_string()};" if role else "")


def own_session(session: Session, role: str | None) -> str:
    """What our own statements run under, whatever a migration has set: the owner's role, nobody else's names."""
    become = f"set role {sql.Identifier(role).as_string()};" if role else "reset role;"
    # Our driver reads dates in ISO style only.
    return f"reset session authorization;{become}set search_path = pg_catalog;set datestyle = 'ISO, YMD';"


def watch_client(session: Session) -> None:
    """Let the server notice within seconds that we are gone (not supported on every system: then it is late)."""
    try:
        session.run("set client_connection_check_interval = '2s'")
        session.watched = True
    except ServerError as error:
        if error.sqlstate != "22023":  # invalid_parameter_value: the platform cannot do it
            raise
