"""Who a server runs as, running programs as that account, and whether its process lives."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from smeta_declare.errors import Retryable, SmetaError


class ServerFailed(SmetaError):
    """Our own server could not be made, started or stopped."""

    code = "server-failed"


class ServerKilled(Retryable):
    """Our own server was ended from outside while it started."""

    code = "server-killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who the server runs as; `other` when that is not ourselves."""

    uid: int
    gid: int
    other: bool

    def run(self, *command: str | Path, cwd: Path = Path("/")) -> tuple[int, str]:
        """Run as that account, away from the terminal's Ctrl-C; exit status and all output."""
        # A short environment: the server must see neither PGPORT nor our secrets.
        environ = {"LC_ALL": "C"}
        environ |= {k: v for k in ("PATH", "TZ", "LD_LIBRARY_PATH") if (v := os.environ.get(k))}
        # To a file: the server inherits the output, and a pipe would be open as long as it lives.
        with tempfile.TemporaryFile() as output:
            try:
                done = subprocess.run(
                    command, cwd=cwd, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    check=False, start_new_session=True, umask=0o077,
                    user=self.uid if self.other else None, group=self.gid if self.other else None,
                    extra_groups=[] if self.other else None,
                )  # fmt: skip
            except OSError as error:
                return 126, str(error)
            output.seek(0)
            return done.returncode, output.read().decode(errors="replace")


def account_of(data: Path) -> Account:
    """Ourselves; for root the owner of data that exists, else `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid(), other=False)
    with contextlib.suppress(OSError):
        owner = data.lstat()
        if owner.st_uid != 0:
            return Account(uid=owner.st_uid, gid=owner.st_gid, other=True)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(uid=entry.pw_uid, gid=entry.pw_gid, other=True)
    raise ServerFailed(
        "PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody` to run it under",
        hint="run smeta as an ordinary user",
    )


def recorded_pid(data: Path) -> int | None:
    """The process id in the data directory's pid file."""
    try:
        return abs(int((data / "postmaster.pid").read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return None


def zombie(pid: int | None) -> bool:
    """Whether the process is dead and only waits to be reaped (in a container without init, for ever)."""
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return False


def postmaster(data: Path) -> int | None:
    """The process that the pid file names, if it lives and can be a PostgreSQL."""
    pid = recorded_pid(data)
    if pid is None or zombie(pid):
        return None
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    name = Path(f"/proc/{pid}/comm")
    with contextlib.suppress(OSError):
        if not name.read_text().startswith("postgres"):  # the number was given to somebody else
            return None
    return pid
