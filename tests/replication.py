"""A primary with a streaming standby, both of one kind, and the address that leads to whichever may be written to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from smeta_declare.postgres.account import account_of, postmaster
from smeta_declare.postgres.server import OWNER, SUPERUSER, Server
from tests.servers import TestServer, own_server
from tests.waiting import until

# Behind what smeta writes for its scratch servers: the last word on a setting counts.
_SETTINGS = """
wal_level = replica
max_wal_senders = 5
hot_standby = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 100ms
"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two servers that hold the same databases."""

    primary: Server
    standby: Server
    server: TestServer  # the primary, as tests know servers

    def either(self, database: str) -> str:
        """The address of both: who connects gets the one that can be written to."""
        return (
            f"postgresql:///{database}?host={self.primary.socket},{self.standby.socket}&port=5432,5432"
            f"&user={OWNER}&target_session_attrs=read-write"
        )

    def kill_primary(self) -> None:
        """The machine is gone, from one moment to the next."""
        pid = postmaster(self.primary.data)
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        until(lambda: postmaster(self.primary.data) is None, what="the end of the primary")

    def promote(self) -> None:
        """The standby becomes the primary."""
        self.on_standby("select pg_promote(true, 30)")

    def on_standby(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Ask the standby, as the superuser."""
        dsn = self.standby.conninfo(database, SUPERUSER).dsn
        with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
            return connection.execute(statement.encode()).fetchall()

    def until_replayed(self) -> None:
        """Until the standby has all that the primary has now."""
        with contextlib.closing(psycopg.connect(self.server.admin, autocommit=True)) as connection:
            (at,) = connection.execute("select pg_current_wal_lsn()::text").fetchone() or ("",)
        until(
            lambda: self.on_standby(f"select pg_last_wal_replay_lsn() >= '{at}'") == [(True,)],
            what="the standby has it",
        )


@contextlib.contextmanager
def replicated(kind: str) -> Iterator[Pair]:
    """Start both; asynchronous until somebody sets synchronous_standby_names."""
    with own_server(kind) as (primary, server):
        primary.stop()
        with (primary.data / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS)
        primary.start()
        # Its own user map knows who calls smeta, and not the account that the standby runs as.
        with (primary.data / "pg_hba.conf").open("a") as rules:
            rules.write("local replication all trust\n")
        with contextlib.closing(psycopg.connect(server.admin, autocommit=True)) as connection:
            connection.execute("select pg_reload_conf()")
        top = Path(tempfile.mkdtemp(prefix="smeta-standby-"))
        top.chmod(0o711)
        standby = Server(home=top / "postgres", binaries=primary.binaries, state=top, durable=False)
        try:
            _copy(primary, standby)
            standby.start()
            yield Pair(primary=primary, standby=standby, server=server)
        finally:
            standby.remove()
            shutil.rmtree(top, ignore_errors=True)


def _copy(primary: Server, standby: Server) -> None:
    account = account_of(primary.data)
    standby.home.mkdir(mode=0o711)
    subprocess.run(
        [
            primary.binaries.directory / "pg_basebackup", "--write-recovery-conf", "--checkpoint=fast",
            f"--pgdata={standby.home / 'data'}", f"--host={primary.socket}", "--port=5432",
            f"--username={SUPERUSER}",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    if account.other:
        for path in (standby.home / "data", *(standby.home / "data").rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
