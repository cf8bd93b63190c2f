"""Directories for a server of our own: made where its account gets there, and nobody else can enter them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from smeta_declare.postgres.account import Account


def place_digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def state_directories(home: Path, state: Path | None) -> Iterator[Path]:
    name = f"smeta-{os.geteuid()}-{place_digest(home)}"
    if state:
        yield state.absolute() / name
    elif os.geteuid() == 0:
        # /var/tmp last: some systems clean it after a month.
        yield from (Path("/var/lib") / name, Path("/var/tmp") / name)  # noqa: S108 # made 0710 and checked
    else:
        yield Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / name


def take_place(place: Path, account: Account) -> bool:
    """Make `place` and its data directory; whether both are ours and the server's account gets there."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700)
    except FileExistsError:
        if place.is_symlink() or place.lstat().st_uid != os.geteuid():
            return False
    except OSError:
        return False
    if account.other:
        # Root's own, so that nobody swaps the files in it; the server's account passes through by its group.
        os.chown(place, 0, account.gid)
        place.chmod(0o710)
    reachable = not account.other or account.run("test", "-x", place)[0] == 0
    if reachable and private(place / "data", account):
        return True
    for directory in (place / "data", place):
        with contextlib.suppress(OSError):
            directory.rmdir()
    return False


def private(directory: Path, account: Account) -> bool:
    """Make it if it is missing; whether it is a directory of that account which nobody else can enter."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        if account.other:
            os.chown(directory, account.uid, account.gid)
    found = directory.lstat()
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == account.uid and stat.S_IMODE(found.st_mode) == 0o700
    )
