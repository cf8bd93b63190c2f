"""A real PgBouncer in front of a test database, in a pool mode of choice."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from smeta_declare.postgres.account import account_of
from smeta_declare.postgres.server import OWNER
from tests.servers import TestDatabase, program

USER = "pooled_user"  # an ordinary role that may do what the owner may, and has a password as poolers need
PASSWORD = "pooled-s3cret"
_PORT = 6432  # names the socket; nothing listens on TCP


@dataclass(frozen=True, kw_only=True)
class Pooler:
    """A running PgBouncer: the database through it, and the same one around it."""

    url: str
    direct: str

    def connect(self) -> psycopg.Connection[Any]:
        """A client of the pooler, as an application is one."""
        return psycopg.connect(self.url, autocommit=True, prepare_threshold=None)


@contextlib.contextmanager
def pgbouncer(
    database: TestDatabase, mode: str, *, user: str = USER, pool_size: int = 5, round_robin: bool = False
) -> Iterator[Pooler]:
    """Start a PgBouncer for one database; ended with everything in its directory."""
    make_user(database, user)
    parameters = psycopg.conninfo.conninfo_to_dict(database.conninfo.dsn)
    host, port = parameters["host"], parameters.get("port", 5432)
    directory = Path(tempfile.mkdtemp(prefix="smeta-pooler-"))
    account = account_of(directory)
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{database.name} = host={host} port={port} dbname={database.name} "
        f"user={user} password={PASSWORD}\n"
        f"[pgbouncer]\npool_mode = {mode}\ndefault_pool_size = {pool_size}\n"
        f"server_round_robin = {int(round_robin)}\nauth_type = any\nlisten_addr =\nlisten_port = {_PORT}\n"
        f"unix_socket_dir = {directory}\nlogfile = {directory}/log\nquery_wait_timeout = 30\n"
    )
    if account.other:
        for path in (directory, settings):
            os.chown(path, account.uid, account.gid)
    binary = program("pgbouncer")
    assert binary is not None
    child = subprocess.Popen(
        [binary, "-q", settings],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account.uid if account.other else None,
        group=account.gid if account.other else None,
        extra_groups=[] if account.other else None,
        cwd="/",
    )
    try:
        pooler = Pooler(
            url=f"postgresql:///{database.name}?host={directory}&port={_PORT}&user={user}",
            direct=f"postgresql:///{database.name}?host={host}&port={port}&user={user}&password={PASSWORD}",
        )
        _until_ready(pooler, child, directory)
        yield pooler
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=10)
        shutil.rmtree(directory, ignore_errors=True)


def make_user(database: TestDatabase, user: str) -> None:
    """The role on whose behalf the pooler connects."""
    create = sql.SQL("create role {} login password {} in role {}").format(
        sql.Identifier(user), sql.Literal(PASSWORD), sql.Identifier(OWNER)
    )
    with contextlib.closing(psycopg.connect(database.server.admin, autocommit=True)) as connection:
        if not connection.execute("select 1 from pg_roles where rolname = %s", [user]).fetchone():
            connection.execute(create)


def _until_ready(pooler: Pooler, child: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            pooler.connect().close()
            return
        except psycopg.OperationalError as error:
            if child.poll() is not None or time.monotonic() > deadline:
                log = directory / "log"
                raise AssertionError(log.read_text() if log.exists() else "pgbouncer: no log") from error
            time.sleep(0.02)
