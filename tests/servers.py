"""PostgreSQL for the tests: throw-away servers, one per kind and worker, and a fresh database per test."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from smeta_declare.conninfo import Conninfo
from smeta_declare.postgres.binaries import Binaries, NoPostgres, find_binaries
from smeta_declare.postgres.server import BACKUP, OWNER, SUPERUSER, Server
from tests.disk import can_mount

URL = "SMETA_TEST_URL"  # a superuser's URL of a server whose databases may be created and dropped
KINDS = ("pg18", "pg15", *(("url",) if os.environ.get(URL) else ()))
_OWNER_PASSWORD = "smeta"


@dataclass(frozen=True, kw_only=True)
class TestServer:
    """A running server that tests may do anything to, except to roles and databases of other tests."""

    __test__ = False  # the name is right, pytest need not look

    id: str
    major: int
    version_num: int
    binaries: Binaries | None  # None: somebody else's server
    _conninfo: Any

    def conninfo(self, database: str, user: str = OWNER) -> Conninfo:
        """As the ordinary owner role, or as the superuser `postgres`."""
        found = self._conninfo(database, user)
        assert isinstance(found, Conninfo)
        return found

    @property
    def admin(self) -> str:
        """The superuser's connection string of the database `postgres`."""
        return self.conninfo("postgres", SUPERUSER).dsn


@dataclass(frozen=True, kw_only=True)
class TestDatabase:
    """A fresh database, owned by the ordinary role `smeta_owner`; gone after the test."""

    __test__ = False

    name: str
    server: TestServer
    conninfo: Conninfo  # the owner: no superuser, bound by row security
    admin: str  # the superuser's connection string

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run SQL as the owner, each call in a connection of its own; the rows of the last statement.

        Without parameters several statements may be given.
        """
        return _query(self.conninfo.dsn, statement, parameters)

    def query_as_admin(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The same as the superuser, whom row security does not bind."""
        return _query(self.admin, statement, parameters)


def is_available(need: str) -> bool:
    """Whether `pg15` (a server of that major), `url`, the right to `mount`, or a program of that name is there."""
    if need == "url":
        return bool(os.environ.get(URL))
    if major := re.fullmatch(r"pg(\d+)", need):
        try:
            find_binaries(os.environ, major=int(major[1]))
        except NoPostgres:
            return False
        return True
    if need == "mount":
        return can_mount()
    return program(need) is not None


def program(name: str) -> str | None:
    """Where a program is; Debian keeps daemons where an ordinary user's PATH does not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


# Kept for the whole process: random order asks for them in turns, and a start takes a second.
_running: dict[str, TestServer] = {}
_stack = contextlib.ExitStack()
atexit.register(_stack.close)


def stop_servers() -> None:
    """Stop and remove what this process started. Killed before: the next scratch server sweeps it up."""
    _running.clear()
    _stack.close()


def running_server(kind: str) -> TestServer:
    """The server of that kind, started when first asked for."""
    if kind not in _running:
        _running[kind] = _of_url(os.environ[URL]) if kind == "url" else _own(kind)
    return _running[kind]


def _own(kind: str) -> TestServer:
    return _stack.enter_context(own_server(kind))[1]


@contextlib.contextmanager
def own_server(kind: str, *, parent: Path | None = None) -> Iterator[tuple[Server, TestServer]]:
    """A server of that kind for one test alone, that it may crash and start again; `parent`: where its data is."""
    binaries = find_binaries(os.environ, major=int(kind.removeprefix("pg")))
    with Server.scratch(binaries, parent=parent) as server:
        server.ensure_database("smeta")  # creates the owner role
        yield server, _described(kind, binaries, server.conninfo)


def _of_url(url: str) -> TestServer:
    def conninfo(database: str, user: str = OWNER) -> Conninfo:
        values = psycopg.conninfo.conninfo_to_dict(url) | {"dbname": database}
        if user == OWNER:
            values |= {"user": OWNER, "password": _OWNER_PASSWORD}
        host = quote(str(values.pop("host", "localhost")), safe="")
        query = "&".join(f"{k}={quote(str(v), safe='')}" for k, v in sorted(values.items()))
        return Conninfo(dsn=f"postgresql:///?host={host}&{query}", source=URL)

    for role in (
        f"create role {OWNER} login createrole password '{_OWNER_PASSWORD}'",
        f"create role {BACKUP} bypassrls; grant pg_read_all_data to {BACKUP}; grant {BACKUP} to {OWNER}",
    ):
        with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            _query(url, role, ())
    return _described("url", None, conninfo)


def _described(kind: str, binaries: Binaries | None, conninfo: Any) -> TestServer:
    (row,) = _query(
        conninfo("postgres", SUPERUSER).dsn, "select current_setting('server_version_num')::int", ()
    )
    return TestServer(
        id=kind, major=row[0] // 10_000, version_num=row[0], binaries=binaries, _conninfo=conninfo
    )


_numbers = itertools.count(1)


@contextlib.contextmanager
def fresh_database(server: TestServer) -> Iterator[TestDatabase]:
    """A new empty database of `smeta_owner`, dropped with whoever is still connected."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    create = sql.SQL("create database {} owner {} template template0").format(
        sql.Identifier(name), sql.Identifier(OWNER)
    )
    _query(server.admin, create, ())
    try:
        yield TestDatabase(
            name=name,
            server=server,
            conninfo=server.conninfo(name),
            admin=server.conninfo(name, SUPERUSER).dsn,
        )
    finally:
        _query(
            server.admin, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)), ()
        )


def _query(dsn: str, statement: str | sql.Composed, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
        text = statement.encode() if isinstance(statement, str) else statement
        cursor = connection.execute(text, parameters or None)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description is not None else []
