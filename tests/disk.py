"""A small disk of its own, to be filled: a tmpfs, where this process may mount one."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from smeta_declare.postgres.account import account_of
from smeta_declare.postgres.server import OWNER

if TYPE_CHECKING:
    from tests.servers import TestServer


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A mounted file system of a few megabytes."""

    path: Path

    def grow(self, megabytes: int) -> None:
        """Somebody has made room."""
        _run("mount", "-o", f"remount,size={megabytes}m", str(self.path))


@contextlib.contextmanager
def small_disk(megabytes: int, path: Path | None = None) -> Iterator[Disk]:
    """Mount it, at a directory of its own or at `path`; it belongs to the account that servers run as."""
    place = path or Path(tempfile.mkdtemp(prefix="smeta-disk-"))
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place))
    try:
        account = account_of(place)
        if path is None:
            os.chown(place, account.uid, account.gid)
        yield Disk(path=place)
    finally:
        _run("umount", "--lazy", str(place))
        if path is None:
            place.rmdir()


@contextlib.contextmanager
def small_tablespace(server: TestServer, megabytes: int) -> Iterator[tuple[Disk, str]]:
    """A tablespace on a small disk, where the owner may create; to be left empty."""
    with small_disk(megabytes) as disk:
        name = f"small_{disk.path.name.replace('-', '_')}"
        with contextlib.closing(psycopg.connect(server.admin, autocommit=True)) as connection:
            space = sql.Identifier(name)
            connection.execute(
                sql.SQL("create tablespace {} location {}").format(space, sql.Literal(str(disk.path)))
            )
            connection.execute(
                sql.SQL("grant create on tablespace {} to {}").format(space, sql.Identifier(OWNER))
            )
            try:
                yield disk, name
            finally:
                connection.execute("checkpoint")  # the files of dropped tables are gone after it
                connection.execute(sql.SQL("drop tablespace {}").format(space))


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount a tmpfs: root outside of most containers."""
    if os.geteuid() != 0 or not Path("/proc/mounts").exists():
        return False
    try:
        with small_disk(1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
