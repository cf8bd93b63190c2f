"""How long smeta takes, beside psql on the same server: 1,000 small migrations, and status afterwards.

    make bench

Prints medians over several rounds and their ratios. Nothing here is a test: the figures depend on the machine.
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
    """Seconds of a command that must succeed."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=environ, check=True, capture_output=True)
    return time.perf_counter() - begun


def median(rounds: int, measure: Callable[[int], float]) -> float:
    """The median over so many rounds."""
    return statistics.median(measure(n) for n in range(rounds))


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

        libraries = [sys.executable, "-c", "import psycopg, yaml, click"]
        figures = {
            "psql -1 -f": median(given.rounds, psql),
            "smeta apply": median(given.rounds, lambda n: own("apply", root, f"smeta{n}")),
            "start-up (smeta plan, no migrations)": median(
                given.rounds, lambda _: own("plan", empty, "empty")
            ),
            "smeta status": median(given.rounds, lambda _: own("status", root, "smeta0")),
            "import psycopg, yaml, click": median(
                given.rounds, lambda _: timed(libraries, root, dict(os.environ))
            ),
            "smeta --help": median(given.rounds, lambda _: timed([*smeta, "--help"], root, dict(os.environ))),
        }
    version = f"{server.binaries.major}.{server.binaries.minor}"
    print(f"{given.migrations} migrations, median of {given.rounds}, PostgreSQL {version}")
    for name, seconds in figures.items():
        print(f"  {name:40} {seconds * 1000:8.0f} ms")
    work = figures["smeta apply"] - figures["start-up (smeta plan, no migrations)"]
    print(f"  {'apply without start-up / psql':40} {work / figures['psql -1 -f']:8.2f}  (aim: at most 1.5)")
    ratio = figures["smeta status"] / figures["import psycopg, yaml, click"]
    print(f"  {'status / import of its libraries':40} {ratio:8.2f}  (aim: at most 2, and one round trip)")


if __name__ == "__main__":
    main()
