"""Connections: opened, set up and read from in one place; psycopg's errors become ours here and nowhere else."""

from __future__ import annotations

import logging
import re
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors, generators, pq, sql
from psycopg.pq.abc import PGresult

from smeta_declare import __version__
from smeta_declare.conninfo import Conninfo
from smeta_declare.environment import Timeouts
from smeta_declare.errors import InvalidInput, Refused, Retryable, SmetaError

logging.getLogger("psycopg").addHandler(logging.NullHandler())  # what it has to say is in its errors

Rows = list[tuple[Any, ...]]


class ConnectionFailed(Retryable):
    """The server cannot be reached, or it does not let us in."""

    code = "connection"


class MalformedConnectionString(InvalidInput):
    """A URL whose parts run into each other; it is not shown, since nobody knows where its password ends."""

    code = "connection-string"


class ConnectionLost(Retryable):
    """The connection broke while it was in use."""

    code = "connection-lost"


class MissingPrivileges(Refused):
    """The role may not do what smeta needs for itself."""

    code = "missing-privileges"


class PoolerBetween(Refused):
    """A pooler stands between us and the server, where only the server itself will do."""

    code = "pooler"


class ServerError(SmetaError):
    """PostgreSQL refused a statement; its own fields are kept."""

    code = "server"

    def __init__(self, cause: psycopg.Error) -> None:
        diagnostic = cause.diag
        detail = [
            f"{label}: {text}"
            for label, text in (
                ("detail", diagnostic.message_detail),
                ("context", diagnostic.context),
                ("hint", diagnostic.message_hint),
            )
            if text
        ]
        super().__init__(diagnostic.message_primary or str(cause).strip(), detail=detail)
        self.sqlstate = cause.sqlstate or ""
        self.hint = "`smeta status --env NAME` tells where the database stands"
        self.position = int(diagnostic.statement_position) if diagnostic.statement_position else None

    @property
    def timed_out(self) -> bool:
        """Cancelled by a time-out, or by somebody."""
        return self.sqlstate == "57014"

    @property
    def lock_not_available(self) -> bool:
        """A lock time-out or a deadlock: the same step may pass when tried again."""
        return self.sqlstate in ("55P03", "40P01")


class ServerBusy(ServerError, Retryable):
    """A question of our own that was cancelled, had no lock, or found the server out of room or going down."""

    code = "server-busy"

    def __init__(self, cause: psycopg.Error) -> None:
        super().__init__(cause)
        self.hint = "run the same command again later; `smeta doctor --env NAME` names the sessions that are in the way"


# lock_not_available, deadlock_detected, query_canceled; and by class: insufficient resources, operator intervention
_BUSY = ("55P03", "40P01", "57014", "53", "57P")


def translated(cause: psycopg.Error, connection: psycopg.Connection[Any]) -> SmetaError:
    """Our error for one of psycopg's."""
    if connection.closed or connection.broken or connection.pgconn.status != pq.ConnStatus.OK:
        return ConnectionLost(
            "the connection to the server was lost",
            detail=[str(cause).strip()],
            hint="run the same command again: the journal knows what is done",
        )
    return ServerBusy(cause) if (cause.sqlstate or "").startswith(_BUSY) else ServerError(cause)


def connect(conninfo: Conninfo, timeouts: Timeouts, *, application_name: str = "") -> Session:
    """Open a connection in autocommit mode; ConnectionFailed says where it went and what the server answered."""
    if conninfo.garbled:
        raise MalformedConnectionString(
            f"the connection string of {conninfo.source} cannot be read",
            hint="percent-encode the special characters of user and password: @ is %40, / is %2F, : is %3A",
        )
    # libpq counts whole seconds, and 1 means 2.
    limit = max(2, timeouts.connect_ms // 1000)
    try:
        connection = psycopg.connect(
            conninfo.dsn,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=limit,
            application_name=application_name or f"smeta/{__version__}",
            client_encoding="UTF8",
            keepalives_idle=30,
            tcp_user_timeout=60_000,  # milliseconds; a network that is gone is noticed, where the system can
        )
    except psycopg.Error as error:
        message = re.sub(r"\s*\n\s*", " · ", str(error).strip())
        secret_refused = error.pgconn is not None and (
            error.pgconn.used_password or error.pgconn.needs_password
        )
        raise ConnectionFailed(
            f"cannot connect to {conninfo}",
            detail=[message, f"the address comes from {conninfo.source}"],
            hint="name the service in ~/.pg_service.conf, or in the file that PGSERVICEFILE names"
            if "definition of service" in message
            else "check user, password (PGPASSWORD, ~/.pgpass or the connection string) and database"
            if secret_refused
            else "check that the server runs and that host, port and database are right",
            changed="nothing was run",
        ) from None  # psycopg's own traceback shows the connection string
    return Session(connection, conninfo, timeouts)


_ADDRESS = ("host", "hostaddr", "port", "user", "dbname")


@dataclass(frozen=True, slots=True)
class Answer:
    """One result: column names and rows; what the server called it; rows touched."""

    columns: tuple[str, ...]
    rows: Rows
    status: str
    rowcount: int


class Session:
    """A connection that asks and is answered; every failure is one of our errors."""

    def __init__(self, connection: psycopg.Connection[Any], conninfo: Conninfo, timeouts: Timeouts) -> None:
        self._connection = connection
        self.conninfo = conninfo
        self._timeouts = timeouts
        self._noticed: Callable[[str, str], None] | None = None
        self.watched = False  # whether the server looks after us while a statement runs
        self.pooled_pid: int | None = None  # behind a pooler: the server process that it gave us
        self.around_pooler: dict[str, str] | None = (
            None  # libpq parameters of `direct:`, where they are known
        )

    @property
    def key_pid(self) -> int:
        """The process id that came with the key for cancelling: the server's own, or what a pooler made up."""
        return self._connection.info.backend_pid

    @property
    def pid(self) -> int:
        """The server process's id."""
        return self.key_pid if self.pooled_pid is None else self.pooled_pid

    def backend_pid(self, within: float | None = None) -> int | None:
        """The server process that answers now; None where nobody does `within` seconds: then the session is closed.

        A question that nobody has answered is still in the queue, and nothing else could be asked.
        """
        if within is None:
            return int(self.ask("backend_pid")[0].rows[0][0])
        pgconn, deadline = self._connection.pgconn, time.monotonic() + within
        try:
            pgconn.send_query(self.compose("backend_pid").encode())
            results: list[PGresult] = []
            while True:
                left = max(0.0, deadline - time.monotonic())
                pgconn.flush()
                if not select.select([pgconn.socket], [], [], left)[0]:
                    self.close()
                    return None
                pgconn.consume_input()
                while not pgconn.is_busy():
                    result = pgconn.get_result()
                    if result is None:
                        value = results[0].get_value(0, 0)
                        return int(value) if value else None
                    _check(result)
                    results.append(result)
        except psycopg.Error as error:
            meant = translated(error, self._connection)
            self.close()  # the rest of the answer is still to come
            raise meant from error

    @property
    def server_version_num(self) -> int:
        """As in `server_version_num`: 180006, 150018."""
        return self._connection.info.server_version

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open (also a failed one)."""
        return self._connection.info.transaction_status in (
            pq.TransactionStatus.INTRANS,
            pq.TransactionStatus.INERROR,
        )

    @property
    def usable(self) -> bool:
        """Whether a statement can be sent."""
        return not (self._connection.closed or self._connection.broken)

    def parameters(self) -> dict[str, str]:
        """The libpq parameters for pg_dump: where we are connected, and what else the connection string gives.

        Not all that our libpq knows: an older pg_dump refuses parameters that are newer than itself (sslcertmode).
        """
        given = self.conninfo.parameters()
        known = self._connection.info.get_parameters()
        kept = {k: v for k, v in known.items() if k in _ADDRESS or k in given}
        return {**kept, "password": self._connection.info.password or ""}

    def dump_parameters(self) -> dict[str, str]:
        """The libpq parameters for pg_dump, never through a pooler: its search_path would stay with the server
        process and poison the application's connections (measured)."""
        if self.pooled_pid is None:
            return self.parameters()
        if self.around_pooler is None:
            raise PoolerBetween(
                f"a backup cannot be taken through the pooler of {self.conninfo.source}",
                hint="give the address of the server itself as `direct:` beside `database:`",
            )
        return self.around_pooler

    def run(self, text: str) -> list[Answer]:
        """Send text as it is, as one message; the answers of all its statements."""
        try:
            cursor = self._connection.execute(text.encode())
            answers = [_answer(cursor)]
            while cursor.nextset():
                answers.append(_answer(cursor))
        except psycopg.Error as error:
            raise translated(error, self._connection) from error
        return answers

    def send(self, text: str) -> None:
        """Send text as it is, as one message. No row is read: a migration's may be many, and of any type.

        Half the time of `run` for a small statement (measured: 0.05 ms against 0.1).
        """
        connection = self._connection
        try:
            with connection.lock:
                connection.pgconn.send_query(text.encode())
                results = connection.wait(generators.execute(connection.pgconn))
            for result in results:
                _check(result)
        except psycopg.Error as error:
            raise translated(error, connection) from error

    def send_each(self, statements: Sequence[str], answered: Callable[[], None]) -> None:
        """Send statements one after the other without a round trip in between; `answered` is called after each.

        Locks are held no longer than the server needs for its work. What follows a failed statement is not run.
        https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
        """
        connection, pgconn = self._connection, self._connection.pgconn
        try:
            with connection.lock:
                pgconn.enter_pipeline_mode()
                for statement in statements:
                    pgconn.send_query_params(statement.encode(), None)
                    pgconn.send_flush_request()
                pgconn.pipeline_sync()
                connection.wait(generators.send(pgconn))
                try:
                    for _ in statements:
                        result = connection.wait(generators.fetch(pgconn))
                        connection.wait(generators.fetch(pgconn))  # None: this statement has no more results
                        _check(result)
                        answered()
                finally:
                    self._leave_pipeline()
        except psycopg.Error as error:
            raise translated(error, connection) from error

    def _leave_pipeline(self) -> None:
        """Read what is left up to the end of the pipeline; a connection that is lost was told of already."""
        pgconn = self._connection.pgconn
        with suppress(psycopg.OperationalError):
            while pgconn.status == pq.ConnStatus.OK:
                result = self._connection.wait(generators.fetch(pgconn))
                if result and result.status == pq.ExecStatus.PIPELINE_SYNC:
                    pgconn.exit_pipeline_mode()
                    return

    def ask(
        self, name: str, identifiers: dict[str, str | Sequence[str]] | None = None, /, **values: object
    ) -> list[Answer]:
        """Run one of our own texts from `sql/`, identifiers and values filled in as literals."""
        return self.run(self.compose(name, identifiers, **values))

    def compose(
        self, name: str, identifiers: dict[str, str | Sequence[str]] | None = None, /, **values: object
    ) -> str:
        """One of our own texts with identifiers and values in their places."""
        pieces = _text(name)
        filled = {
            key: _identifier(v if isinstance(v, str) else tuple(v)) for key, v in (identifiers or {}).items()
        }
        return "".join(
            piece
            if kind == "text"
            else filled[piece]
            if kind == "identifier"
            else self.literal(values[piece])
            for kind, piece in pieces
        )

    def literal(self, value: object) -> str:
        """A value as an SQL literal."""
        if isinstance(value, str) and "\0" not in value:  # libpq's own way: a tenth of the time
            return pq.Escaping(self._connection.pgconn).escape_literal(value.encode()).decode()
        return sql.Literal(value).as_string(self._connection)

    def on_notice(self, told: Callable[[str, str], None]) -> None:
        """Tell severity and message of every notice the server sends."""
        self._noticed = told
        self._connection.add_notice_handler(
            lambda diagnostic: told(diagnostic.severity_nonlocalized or "", diagnostic.message_primary or "")
        )

    def beside(self, purpose: str, *, known: bool = True) -> Session:
        """Another connection to the same address, named after this one and its purpose.

        `known`: what is known of a pooler holds for it too.
        """
        try:
            name = self._connection.info.get_parameters().get("application_name", "")
        except psycopg.Error as error:
            raise translated(error, self._connection) from error
        other = connect(self.conninfo, self._timeouts, application_name=f"{name} {purpose}".strip()[:63])
        if not purpose and self._noticed:  # it takes this one's place
            other.on_notice(self._noticed)
        if known and self.pooled_pid is not None:
            other.pooled_pid, other.around_pooler = other.backend_pid(), self.around_pooler
        return other

    def cancel(self) -> None:
        """Cancel what the server does for us; to be called from another thread."""
        try:
            self._connection.cancel_safe(timeout=5)
        except psycopg.Error as error:
            raise translated(error, self._connection) from error

    def close(self) -> None:
        """Close the connection; the server rolls back what is open and lets go of the locks."""
        self._connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY)


def _check(result: PGresult | None) -> None:
    if result is not None and result.status not in _GOOD:
        raise errors.error_from_result(result)


def _answer(cursor: psycopg.Cursor[Any]) -> Answer:
    if cursor.description is None:
        return Answer((), [], cursor.statusmessage or "", cursor.rowcount)
    columns = tuple(column.name for column in cursor.description)
    return Answer(columns, cursor.fetchall(), cursor.statusmessage or "", cursor.rowcount)


@cache
def _identifier(name: str | tuple[str, ...]) -> str:
    return sql.Identifier(*((name,) if isinstance(name, str) else name)).as_string()


_PLACE = re.compile(r"%\((\w+)\)s|\{(\w+)\}")


@cache
def _text(name: str) -> tuple[tuple[str, str], ...]:
    """A file of `sql/` in pieces: text, {identifier}, %(value)s. Comments are left out."""
    source = (Path(__file__).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    source = re.sub(r"^--.*\n", "", source, flags=re.MULTILINE).strip()
    pieces: list[tuple[str, str]] = []
    end = 0
    for match in _PLACE.finditer(source):
        pieces.append(("text", source[end : match.start()]))
        pieces.append(("value", match[1]) if match[1] else ("identifier", match[2]))
        end = match.end()
    return (*pieces, ("text", source[end:]))


@contextmanager
def privileges_explained(purpose: str, hint: str) -> Iterator[None]:
    """Turn a refusal by rights into MissingPrivileges that says what smeta wanted to do."""
    try:
        yield
    except ServerError as error:
        if error.sqlstate != "42501":
            raise
        raise MissingPrivileges(f"{error.message}: needed {purpose}", hint=hint) from error
