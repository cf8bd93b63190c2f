"""What an application feels while a migration adds a column and an index to the table it works on.

    make bench-locks

Three tables: with a long reader in the way, with an autovacuum in the way, and with application transactions of half
a second while the index is built. smeta stands beside psql, which queues without a limit.
Nothing here is a test: the figures depend on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from smeta_declare.postgres.binaries import find_binaries
from smeta_declare.postgres.server import SUPERUSER, Server

ROWS = 100_000
MANIFEST = """\
manifest: 1
project: bench
defaults:
  backup: none
  locks: {timeout: 200ms, retries: {attempts: 30, backoff: 250ms, max_backoff: 1s}}
environments:
  bench: {database: "${BENCH_URL}"}
migrations:
  apply: [1_change]
"""
COLUMN = "alter table accounts add column note text;\n"
INDEX = "create index concurrently accounts_n on accounts (n);\n"


@dataclass
class Load:
    """An application: some threads that read and update one row at a time, and how long each statement took."""

    dsn: str
    threads: int = 4
    thinking: float = 0.0  # seconds that a transaction stays open after its update; 0: one statement each
    taken: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """Work in the background."""
        workers = [threading.Thread(target=self._work, args=(n,)) for n in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            yield self
        finally:
            self._stop.set()
            for worker in workers:
                worker.join()

    def _work(self, number: int) -> None:
        key = number
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                key = (key + 7919) % ROWS
                if self.thinking:
                    with connection.transaction():
                        self._timed(connection, "update accounts set n = n + 1 where id = %s", key)
                        self._stop.wait(self.thinking)
                else:
                    self._timed(connection, "select n from accounts where id = %s", key)
                    self._timed(connection, "update accounts set n = n + 1 where id = %s", key)

    def _timed(self, connection: psycopg.Connection[tuple[object, ...]], statement: str, key: int) -> None:
        begun = time.perf_counter()
        connection.execute(statement.encode(), [key])
        self.taken.append(time.perf_counter() - begun)

    @property
    def felt(self) -> str:
        """Columns of the table: statements, worst in ms, how many took longer than 100 ms."""
        slow = sum(seconds > 0.1 for seconds in self.taken)
        return f"{len(self.taken):11,} {max(self.taken) * 1000:11,.0f} {slow:9,}"


@contextlib.contextmanager
def reader(dsn: str, seconds: float) -> Iterator[None]:
    """A transaction that has read the table and stays open for so long."""
    done, holds = threading.Event(), threading.Event()

    def read() -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute("select count(*) from accounts")
            holds.set()
            done.wait(seconds)

    thread = threading.Thread(target=read)
    thread.start()
    holds.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Bench:
    """A server, and a fresh database with the application's table for each measurement."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder, self.number = server, folder, 0

    def database(self) -> str:
        """The owner's connection string of a fresh database."""
        self.number += 1
        dsn = self.server.ensure_database(f"bench{self.number}").dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create table accounts (id int primary key, n int not null, filler text)")
            connection.execute(
                "insert into accounts select i, i, repeat('x', 80) from generate_series(0, %s) i", [ROWS]
            )
            connection.execute("vacuum analyze accounts")
        return dsn

    def admin(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Ask as the superuser."""
        dsn = self.server.conninfo(database, SUPERUSER).dsn
        with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def smeta(self, dsn: str, change: str) -> subprocess.CompletedProcess[str]:
        """Apply the change as a migration."""
        root = self.folder / f"project{self.number}"
        (root / "migrations").mkdir(parents=True)
        (root / "smeta.yaml").write_text(MANIFEST)
        (root / "migrations" / "1_change.sql").write_text(f"-- Version: 1_change\n\n{change}")
        return subprocess.run(
            [sys.executable, "-m", "smeta_declare", "-v", "apply", "--env", "bench"],
            cwd=root,
            env={**os.environ, "BENCH_URL": dsn},
            capture_output=True,
            text=True,
            check=False,
        )

    def psql(self, dsn: str, change: str) -> subprocess.CompletedProcess[str]:
        """Run the change, statement by statement, as people do."""
        return subprocess.run(
            [self.server.psql_path, "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn],
            input=change,
            capture_output=True,
            text=True,
            check=False,
        )


def tries_of(done: subprocess.CompletedProcess[str]) -> int:
    """How often smeta tried: it tells each retry."""
    return 1 + sum(line.startswith("retry") for line in done.stderr.splitlines())


Way = Callable[[str, str], subprocess.CompletedProcess[str]]
_HEAD = f"{'':34} {'exit':>4} {'seconds':>8} {'tries':>6} {'statements':>11} {'worst ms':>11} {'> 100 ms':>9}"


def measured(name: str, load: Load, run: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    """Run beside the load, and print a line."""
    with load.running():
        time.sleep(0.5)
        begun = time.monotonic()
        done = run()
        seconds = time.monotonic() - begun
        time.sleep(0.5)
    tries = tries_of(done) if "smeta" in name else 1
    print(f"  {name:32} {done.returncode:4} {seconds:8.1f} {tries:6} {load.felt}", flush=True)
    if done.returncode:
        print(*(f"      {line}" for line in done.stderr.splitlines()[-6:]), sep="\n")


def long_reader(bench: Bench, seconds: float) -> None:
    """Column and index, while a transaction that has read the table stays open."""
    print(f"a reader holds the table for {seconds:g} s, four threads read and update\n{_HEAD}")
    dsn = bench.database()

    def nothing() -> subprocess.CompletedProcess[str]:
        time.sleep(seconds)
        return subprocess.CompletedProcess("", 0, "", "")

    with reader(dsn, seconds + 1):
        measured("no migration", Load(dsn), nothing)
    for name, way, change in (
        ("smeta, locks.timeout 200ms", bench.smeta, COLUMN + INDEX),
        ("psql", bench.psql, COLUMN + INDEX),
        ("psql, index not concurrently", bench.psql, COLUMN + INDEX.replace("concurrently ", "")),
    ):
        dsn = bench.database()
        with reader(dsn, seconds):
            measured(name, Load(dsn), lambda way=way, dsn=dsn, change=change: way(dsn, change))  # type: ignore[misc]


def autovacuum(bench: Bench) -> None:
    """A column, while a plain autovacuum works on the table and would do so for a minute."""
    print(f"a plain autovacuum works on the table, four threads read and update\n{_HEAD}")
    bench.admin("alter system set autovacuum = on")
    bench.admin("alter system set autovacuum_naptime = '1s'")
    bench.admin("select pg_reload_conf()")
    for name, way in (("smeta, locks.timeout 200ms", bench.smeta), ("psql", bench.psql)):
        dsn = bench.database()
        slow = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                f"alter table accounts set ({slow}, autovacuum_vacuum_threshold = 100)".encode()
            )
            connection.execute("update accounts set n = n + 1")
            deadline = time.monotonic() + 60
            database = f"bench{bench.number}"
            vacuums = f"select 1 from pg_stat_progress_vacuum where datname = '{database}'"  # noqa: S608
            while not bench.admin(vacuums):
                if time.monotonic() > deadline:
                    raise SystemExit("no autovacuum began within a minute")
                time.sleep(0.1)
        measured(name, Load(dsn), lambda way=way, dsn=dsn: way(dsn, COLUMN))  # type: ignore[misc]
    bench.admin("alter system reset all")
    bench.admin("select pg_reload_conf()")


def busy_application(bench: Bench) -> None:
    """The index, while each of four threads always has a transaction of half a second open."""
    print(f"four threads with transactions of half a second, index built concurrently\n{_HEAD}")
    for name, way in (("smeta", bench.smeta), ("psql", bench.psql)):
        dsn = bench.database()
        load = Load(dsn, thinking=0.5)
        measured(name, load, lambda way=way, dsn=dsn: way(dsn, INDEX))  # type: ignore[misc]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--reader", type=float, default=8.0, help="seconds that the long reader stays")
    given = parser.parse_args()
    with Server.scratch(find_binaries(os.environ)) as server, tempfile.TemporaryDirectory() as folder:
        bench = Bench(server, Path(folder))
        print(f"PostgreSQL {server.binaries.major}.{server.binaries.minor}, {ROWS:,} rows")
        long_reader(bench, given.reader)
        autovacuum(bench)
        busy_application(bench)


if __name__ == "__main__":
    main()
