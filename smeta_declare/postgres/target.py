"""The database of an environment, opened: our own server started where the manifest says `embedded`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from smeta_declare.conninfo import Conninfo
from smeta_declare.environment import EmbeddedDatabase, Environment
from smeta_declare.errors import Refused
from smeta_declare.postgres.connection import ConnectionFailed, PoolerBetween, ServerError, Session, connect
from smeta_declare.postgres.journal import Journal
from smeta_declare.postgres.pooler import PoolMode, pool_mode
from smeta_declare.postgres.settings import check_server, own_session, settings, watch_client


class RoleUnusable(Refused):
    """The connection's user cannot become the environment's role."""

    code = "role-unusable"


class ElsewhereDirect(Refused):
    """`database:` and `direct:` reach different databases."""

    code = "direct-elsewhere"


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


def reach(
    environment: Environment, root: Path, environ: Mapping[str, str], *, application_name: str = ""
) -> Session:
    """A session that smeta can work in: through `database:`, or through `direct:` where a pooler forbids that.

    Nothing is set before both addresses are known to be right. PoolerBetween and ElsewhereDirect say why not.
    """
    timeouts = environment.timeouts
    with ExitStack() as stack:
        session = connect(
            conninfo_of(environment, root, environ), timeouts, application_name=application_name
        )
        stack.callback(session.close)
        mode = None if isinstance(environment.database, EmbeddedDatabase) else mode_of(session, environment)
        works = mode is None or mode.keeps_sessions
        if environment.direct is None:
            if not works:
                raise PoolerBetween(
                    f"{session.conninfo.source} leads through a pooler ({mode} mode): what a session sets and "
                    "locks would reach other clients",
                    hint="give the address of the server itself as `direct:` beside `database:`",
                )
            stack.pop_all()
            return session
        direct = connect(environment.direct, timeouts, application_name=application_name)
        stack.callback(direct.close)
        check_direct(session, direct)
        if works:
            stack.pop_all()
            session.around_pooler = direct.parameters()
            direct.close()
            return session
        stack.pop_all()
        why = f"because {session.conninfo.source} leads through a pooler ({mode} mode)"
        if not session.usable:
            why = (
                f"because {session.conninfo.source} gives no server process now; "
                "that both reach the same database could not be checked"
            )
        session.close()
        direct.conninfo = replace(direct.conninfo, source=f"{direct.conninfo.source}, {why}")
        return direct


def mode_of(session: Session, environment: Environment) -> PoolMode | None:
    """The mode of the pooler in between, None where there is none; where nobody answers, `direct:` may still serve.

    ConnectionFailed where nobody answers and there is no `direct:`.
    """
    try:
        mode = pool_mode(session)
    except ConnectionFailed:
        if environment.direct is None:
            raise
        return PoolMode.UNKNOWN
    if environment.direct is None and not session.usable:
        raise ConnectionFailed(
            f"{session.conninfo.source} leads through a pooler that has no free server process",
            hint="try again later, or give the address of the server itself as `direct:` beside `database:`",
            changed="nothing was run",
        )
    return mode


def check_direct(session: Session, direct: Session) -> None:
    """Refuse a `direct:` that leads through a pooler too, or to another database than `database:` does.

    The same system identifier, start of the server and database: then the history is the same too. A `database:`
    that has stopped answering cannot be asked.
    """
    if mode := pool_mode(direct):
        raise PoolerBetween(
            f"{direct.conninfo.source} leads through a pooler too ({mode} mode)",
            hint="`direct:` must be the address of the server itself",
        )
    if not session.usable:
        return
    ours, theirs = (s.ask("identity")[0].rows[0] for s in (session, direct))
    if ours != theirs:
        names = ("system identifier", "database", "standby", "start of the server")
        raise ElsewhereDirect(
            f"{session.conninfo.source} and {direct.conninfo.source} do not reach the same database",
            detail=[
                f"{name}: {ours[i]} there, {theirs[i]} directly"
                for i, name in enumerate(names)
                if ours[i] != theirs[i]
            ],
            hint="correct `direct:`, or unset it with `direct: null` where it was inherited",
        )


@contextmanager
def opened(
    environment: Environment, root: Path, environ: Mapping[str, str], *, application_name: str = ""
) -> Iterator[Journal]:
    """A journal on a session that is set up and checked; closed at the end, whatever happens."""
    session = reach(environment, root, environ, application_name=application_name)
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
