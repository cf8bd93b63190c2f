"""Backups on disk: `backups/<name>.sql|.dump` and its record `<name>.json`; without one it is no backup."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from smeta_declare.errors import SmetaError

FORMAT = "smeta.backup/1"
_NAME = re.compile(r"backup_(?P<version>.+)_(?P<moment>\d{8}T\d{9}Z)")
_PARTIAL = re.compile(r"\.backup_.*\.part")


class BackupFailed(SmetaError):
    """The backup that a policy asks for could not be taken."""

    code = "backup-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRecord:
    """What is known of a backup: where it comes from and how to recognise that it is whole."""

    name: str  # backup_<version>_<timestamp>, without extension
    version: str  # the migration it was taken for
    created_at: datetime
    policy: str
    scope: Literal["schema", "full"]
    format: Literal["plain", "custom"]
    size: int  # bytes
    sha256: str
    pg_dump_version: str
    server_version: str
    unproven: bool  # by a pg_dump not known to suit this server; proven once it has been restored
    database: str
    environment: str = ""

    @property
    def file(self) -> str:
        """The file name of the dump."""
        return self.name + extension(self.format)

    def to_json(self) -> str:
        """The record as it is kept beside the dump."""
        values = asdict(self) | {"created_at": self.created_at.isoformat(), "dump_format": self.format}
        return json.dumps(values | {"format": FORMAT}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BackupRecord:
        """Read a record; ValueError where it is none."""
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise ValueError(f"not a {FORMAT} record")
            values["format"] = values.pop("dump_format")
            values["created_at"] = datetime.fromisoformat(values["created_at"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a {FORMAT} record") from error


def backup_name(version: str, moment: datetime) -> str:
    """`backup_<version>_<timestamp>`, the timestamp in UTC to the millisecond."""
    utc = moment.astimezone(UTC)
    return f"backup_{version}_{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03}Z"


def parse_name(name: str) -> tuple[str, datetime]:
    """The version and the moment of a backup's name; ValueError where it is none."""
    found = _NAME.fullmatch(name)
    if not found or "/" in name:
        raise ValueError(f"`{name}` is no name of a backup")
    return found["version"], datetime.strptime(found["moment"], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def extension(format: Literal["plain", "custom"]) -> str:
    """What the file name of a dump ends with."""
    return ".sql" if format == "plain" else ".dump"


def list_backups(directory: Path) -> tuple[BackupRecord, ...]:
    """The backups recorded in a directory, newest first; files that are no records are passed over."""
    found = []
    for path in directory.glob("backup_*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(BackupRecord.from_json(path.read_text()))
    return tuple(sorted(found, key=lambda record: (record.created_at, record.name), reverse=True))


def damage(directory: Path, record: BackupRecord) -> str | None:
    """What is wrong with the dump of a record; None when it is, byte for byte, what was written."""
    path = directory / record.file
    try:
        if path.stat().st_size != record.size:
            return f"{path} has {path.stat().st_size} bytes instead of {record.size}"
        if sha256_of(path) != record.sha256:
            return f"{path} was changed: its sha256 is not the recorded one"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None


def sha256_of(path: Path) -> str:
    """The checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare_directory(directory: Path) -> None:
    """Make the directory, for us alone, if it is missing, and remove what killed runs left in it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not stat.S_ISDIR(directory.lstat().st_mode):
            raise BackupFailed(
                f"{directory} is a symbolic link: the backups could go anywhere",
                hint="name the real directory in `backups.directory`",
                changed="nothing was run",
            )
        for leftover in directory.iterdir():
            if _PARTIAL.fullmatch(leftover.name) and not _is_locked(leftover):
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise BackupFailed(
            f"the backup directory {directory} cannot be used: {error.strerror}",
            hint="make it writable, or name another one in `backups.directory`",
            changed="nothing was run",
        ) from error


@contextlib.contextmanager
def partial_file(directory: Path, name: str) -> Iterator[tuple[Path, int]]:
    """A hidden file to write a dump to, removed at the end unless it was renamed, and its descriptor.

    Its lock says that somebody works on it: the kernel frees it when we, and the child that inherits the
    descriptor, are gone, whatever pids say.
    """
    path = directory / f".{name}.{os.getpid()}.part"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path, descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def keep(directory: Path, partial: Path, record: BackupRecord) -> None:
    """Make a complete dump a backup: its final name, then its record, each on disk before the next.

    A link, unlike a rename, never replaces a file of that name: FileExistsError, and nothing is touched.
    """
    final, note = directory / record.file, directory / f"{record.name}.json"
    _sync(partial)
    os.link(partial, final)
    try:
        partial.unlink()
        _sync(directory)
        with partial_file(directory, f"{record.name}.json") as (unfinished, _):
            unfinished.write_text(record.to_json())
            _sync(unfinished)
            unfinished.rename(note)
        _sync(directory)
    except BaseException:
        note.unlink(missing_ok=True)
        final.unlink(missing_ok=True)
        raise


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
