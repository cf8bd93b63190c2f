"""How long smeta takes, beside psql on the same server: 1,000 small migrations, and status afterwards.

    make bench

Prints medians over several rounds, and the medians of the ratios within a round.
Nothing here is a test: the figures depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from smeta_declare.postgres.binaries import find_binaries
from smeta_declare.postgres.server import Server

PSQL, APPLY = "psql -1 -f", "smeta apply"
START, STATUS = "start-up (smeta plan, no migrations)", "smeta status"
LIBRARIES, TRIP = "import psycopg, yaml, click", "connect, read the history once"
ROUND_TRIP = """\
import sys, time, psycopg
begun = time.perf_counter()
with psycopg.connect(sys.argv[1]) as connection:
    connection.execute("select * from schema_migrations").fetchall()
print(time.perf_counter() - begun)
"""
MANIFEST = """\
manifest: 1
project: bench
defaults: {{backup: none}}
environments:
  bench: {{database: "${{BENCH_URL}}"}}
migrations:
  apply:
{versions}
"""


def migration(number: int) -> tuple[str, str]:
    """A small migration, as they are in practice: a table, an index, a comment, two rows."""
    table = f"t{number:04}"
    forward = f"""\
create table {table} (id bigint generated always as identity primary key, name text not null, created_at timestamptz);
create index {table}_name on {table} (name);
comment on table {table} is 'number {number}';
insert into {table} (name) values ('one'), ('two');
"""  # noqa: S608 # the table's name is ours
    return forward, f"drop table {table};\n"


def project(root: Path, count: int) -> Path:
    """A project of so many migrations; the file with all of them for psql."""
    (root / "migrations").mkdir(parents=True)
    versions, everything = [], []
    for number in range(count):
        version = f"{20260101000000 + number}_table"
        forward, back = migration(number)
        text = f"-- Migration: table\n-- Version: {version}\n\n{forward}\n-- ROLLBACK_START\n{back}-- ROLLBACK_END\n"
        (root / "migrations" / f"{version}.sql").write_text(text)
        versions.append(f"    - {version}")
        everything.append(forward)
    (root / "smeta.yaml").write_text(MANIFEST.format(versions="\n".join(versions)))
    whole = root / "all.sql"
    whole.write_text("".join(everything))
    return whole


def timed(command: list[str | Path], cwd: Path, environ: dict[str, str]) -> float:
    """Seconds of a command that must succeed, with compiled modules as an installed package has them."""
    environ = {k: v for k, v in environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")}
    begun = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=environ, check=True, capture_output=True)
    return time.perf_counter() - begun


def rounds_of(count: int, measures: dict[str, Callable[[int], float]]) -> list[dict[str, float]]:
    """Everything once per round, so that a machine that is slow for a while is slow for all of them."""
    return [{name: measure(n) for name, measure in measures.items()} for n in range(count)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--migrations", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    smeta = [sys.executable, "-m", "smeta_declare"]
    with Server.scratch(find_binaries(os.environ)) as server, tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "many"
        whole = project(root, given.migrations)
        empty = Path(folder) / "empty"
        project(empty, 0)

        def environ(name: str) -> dict[str, str]:
            return {**os.environ, "BENCH_URL": server.ensure_database(name).dsn}

        def psql(n: int) -> float:
            dsn = server.ensure_database(f"psql{n}").dsn
            options = ["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", whole]
            return timed([server.psql_path, *options, dsn], root, dict(os.environ))

        def own(verb: str, where: Path, name: str) -> float:
            return timed([*smeta, verb, "--env", "bench"], where, environ(name))

        def round_trip(name: str) -> float:
            command = [sys.executable, "-c", ROUND_TRIP, server.ensure_database(name).dsn]
            return float(subprocess.run(command, check=True, capture_output=True).stdout)

        libraries = [sys.executable, "-c", "import psycopg, yaml, click"]
        plain = dict(os.environ)
        rounds = rounds_of(
            given.rounds,
            {
                PSQL: psql,
                APPLY: lambda n: own("apply", root, f"smeta{n}"),
                START: lambda _: own("plan", empty, "empty"),
                STATUS: lambda n: own("status", root, f"smeta{n}"),
                LIBRARIES: lambda _: timed(libraries, root, plain),
                TRIP: lambda n: round_trip(f"smeta{n}"),
                "smeta --help": lambda _: timed([*smeta, "--help"], root, plain),
            },
        )
    version = f"{server.binaries.major}.{server.binaries.minor}"
    print(f"{given.migrations} migrations, medians of {given.rounds} rounds, PostgreSQL {version}")
    for name in rounds[0]:
        print(f"  {name:40} {statistics.median(r[name] for r in rounds) * 1000:8.0f} ms")
    work = statistics.median((r[APPLY] - r[START]) / r[PSQL] for r in rounds)
    print(f"  {'apply without start-up / psql':40} {work:8.2f}  (aim: at most 1.5)")
    ratio = statistics.median((r[STATUS] - r[TRIP]) / r[LIBRARIES] for r in rounds)
    print(f"  {'status without round trip / its imports':40} {ratio:8.2f}  (aim: at most 2)")


if __name__ == "__main__":
    main()
