"""The database of an environment, opened: our own server started where the manifest says `embedded`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smeta_declare.conninfo import Conninfo
from smeta_declare.environment import EmbeddedDatabase, Environment
from smeta_declare.errors import Refused
from smeta_declare.postgres.connection import (
    ServerError,
    Session,
    check_server,
    connect,
    own_session,
    settings,
    watch_client,
)
from smeta_declare.postgres.journal import Journal


class RoleUnusable(Refused):
    """The connection's user cannot become the environment's role."""

    code = "role-unusable"


def conninfo_of(environment: Environment, root: Path, environ: Mapping[str, str]) -> Conninfo:
    """The address of the environment's database; starts the embedded server where that is what it is."""
    match environment.database:
        case Conninfo():
            return environment.database
        case EmbeddedDatabase():
            from smeta_declare.postgres.server import Server

            server = Server.of_project(root, environ)
            server.start()
            return server.ensure_database(embedded_name(environment))


def embedded_name(environment: Environment) -> str:
    """The database of an environment on the embedded server: dev and ci of one project do not share theirs."""
    return f"{environment.project}_{environment.name}"


@contextmanager
def opened(
    environment: Environment, root: Path, environ: Mapping[str, str], *, application_name: str = ""
) -> Iterator[Journal]:
    """A journal on a session that is set up and checked; closed at the end, whatever happens."""
    conninfo = conninfo_of(environment, root, environ)
    session = connect(conninfo, environment.timeouts, application_name=application_name)
    journal = Journal(session, environment.history)
    try:
        prepare(session, environment)
        yield journal
    finally:
        journal.session.close()  # another one than at the beginning, where a lost COMMIT had to be settled


def prepare(session: Session, environment: Environment) -> None:
    """Set a new session up; RoleUnusable where its user cannot become the environment's role."""
    try:
        session.run(
            settings(session, environment.timeouts, environment.locks)
            + own_session(session, environment.role)
        )
    except ServerError as error:
        if environment.role is None or error.sqlstate not in ("42501", "22023", "42704"):
            raise
        raise RoleUnusable(
            f"cannot become role {environment.role}: {error.message}",
            hint=f"grant {environment.role} to the user of the connection, or correct `role:`",
        ) from error


def refuse_unless_writable(journal: Journal, *, in_recovery: bool) -> None:
    """Refuse a server nothing may be applied to, and let it look after us from here on."""
    check_server(journal.session, in_recovery=in_recovery)
    watch_client(journal.session)
