"""Taking a backup with pg_dump: the right one, read to its end, and only then kept."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smeta_declare.backup import store
from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.backup.store import BackupFailed, BackupRecord
from smeta_declare.errors import Exit, Refused
from smeta_declare.masking import Masker
from smeta_declare.postgres.binaries import Binaries, program_version

# What pg_dump prints, and what to do about it; the first that fits.
_HINTS = (
    (
        r"row-level security|row security",
        "row security would hide rows from this role: set `role` of the environment to one with BYPASSRLS",
    ),
    (
        r'role "[^"]*" does not exist|permission denied to set role',
        "create the role that the policy names, or correct `role:` of the policy; `smeta doctor --env NAME` checks it",
    ),
    (r"permission denied", "the role must be able to read everything that is dumped"),
    (r"No space left", "free space in the backup directory"),
    (r"password|authentication|no pg_hba", "check the connection's user and password"),
    (r"could not connect|connection to server|timeout expired", "is the server reachable from here?"),
    (r"compress", "this pg_dump cannot compress like that: change `compress` of the policy"),
)
_LOOK_S = 0.5  # seconds between two looks at whom a dump waits for
_COMPLETE = re.compile(rb"\n-- PostgreSQL database dump complete\n--\n\s*(?:\\unrestrict \S+\s*)?\Z")


class BackupBlocked(BackupFailed):
    """Somebody holds a lock that excludes even readers."""

    code = "backup-blocked"
    exit_code = Exit.RETRY


class PgDumpMissing(Refused):
    """No pg_dump on this machine may dump that server."""

    code = "pg-dump-missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PgDump:
    """The pg_dump chosen for a server."""

    directory: Path
    program: str = "pg_dump"
    version: str
    server_version: str
    unproven: bool = False  # it may write what cannot be restored: restore before relying on it

    @property
    def path(self) -> Path:
        """The program."""
        return self.directory / self.program


def choose_pg_dump(
    server_version_num: int, candidates: tuple[Binaries, ...], *, override: str | None = None
) -> PgDump:
    """The pg_dump that suits a server best; `override` is SMETA_PG_DUMP.

    The server's own major with a minor not older; else the next newer major, else an older minor of its own,
    both unproven; never an older major. A newer major may write what no pg_restore reads: 18.6 writes the
    column option `pg_attver` of 15.20 as a setting, which every server refuses.
    """
    major, minor = divmod(server_version_num, 10_000)
    server_version = f"{major}.{minor}"

    def chosen(path: Path, found: tuple[int, int]) -> PgDump:
        return PgDump(
            directory=path.parent,
            program=path.name,
            version=f"{found[0]}.{found[1]}",
            server_version=server_version,
            unproven=found[0] != major or found[1] < minor,
        )

    if override:
        found = program_version(Path(override))
        if found is None or found[0] < major:
            says = "is no pg_dump" if found is None else f"is {found[0]}.{found[1]}, older than the server"
            raise PgDumpMissing(
                f"SMETA_PG_DUMP ({override}) {says}; the server is PostgreSQL {server_version}",
                hint=f"let SMETA_PG_DUMP name a pg_dump {major}, or unset it",
            )
        return chosen(Path(override).absolute(), found)

    usable = [b for b in candidates if b.major >= major and b.has("pg_dump", "pg_restore")]
    if not usable:
        known = ", ".join(f"{b.major}.{b.minor}" for b in candidates if b.has("pg_dump")) or "none"
        raise PgDumpMissing(
            f"no pg_dump for PostgreSQL {server_version}: it must be {major} or newer, found: {known}",
            hint=f"apt-get install postgresql-client-{major}, or name a pg_dump in SMETA_PG_DUMP",
        )

    def preference(b: Binaries) -> tuple[int, int, int]:
        if b.major == major:
            return (0 if b.minor >= minor else 2, 0, -b.minor)
        return (1, b.major, -b.minor)

    best = min(usable, key=preference)
    return chosen(best.directory / "pg_dump", (best.major, best.minor))


def take(
    policy: BackupPolicy,
    *,
    conninfo: Mapping[str, str],
    pg_dump: PgDump,
    target: Path,
    name: str,
    timeout_ms: int,
    environment: str = "",
    lock_wait_ms: int = 10_000,
    role: str | None = None,
    environ: Mapping[str, str] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    written: Callable[[int], None] = lambda _size: None,
    blockers: Callable[[], Sequence[str]] = tuple,
) -> BackupRecord:
    """Dump a database into the directory `target`, read the dump to its end, and keep it with its record.

    `conninfo` holds the libpq keywords of the connection that is really used (host, port, user, dbname,
    password, …). `cancelled` is asked, and `written` told the bytes so far, ten times a second;
    `blockers`, asked twice a second, names whom the dump waits for. Whatever goes wrong, nothing half-made is left.
    """
    version, created_at = store.parse_name(name)
    dump = _Dump(
        conninfo=conninfo,
        environ=os.environ if environ is None else environ,
        deadline=time.monotonic() + timeout_ms / 1000,
        cancelled=cancelled,
        blockers=blockers,
        environment=environment,
    )
    store.prepare_directory(target)
    if (target / (name + store.extension(policy.format))).exists() or (target / f"{name}.json").exists():
        raise _failed(f"the backup {name} exists already in {target}")
    try:
        with store.partial_file(target, name) as (partial, lock):
            dump.written = lambda: written(partial.stat().st_size)
            dump.run(pg_dump.path, *_arguments(policy, dump, partial, lock_wait_ms, role), lock=lock)
            if policy.format == "custom":
                # `--list` says "fine" of a dump cut in half; only reading all of it finds that.
                dump.run(pg_dump.directory / "pg_restore", f"--file={os.devnull}", str(partial), lock=lock)
            elif not _COMPLETE.search(_end_of(partial)):
                raise _failed("the dump ends before its closing comment: it is not whole")
            record = BackupRecord(
                name=name,
                version=version,
                created_at=created_at,
                policy=policy.name,
                scope=policy.scope,
                format=policy.format,
                size=partial.stat().st_size,
                sha256=store.sha256_of(partial),
                pg_dump_version=pg_dump.version,
                server_version=pg_dump.server_version,
                unproven=pg_dump.unproven,
                database=conninfo.get("dbname", ""),
                environment=environment,
            )
            store.keep(target, partial, record)
            return record
    except OSError as error:
        raise _failed(f"the backup cannot be written to {target}: {error.strerror}") from error


def _arguments(
    policy: BackupPolicy, dump: _Dump, partial: Path, lock_wait_ms: int, role: str | None
) -> list[str]:
    # Never --enable-row-security: it would leave out the rows the role cannot see, with exit 0.
    return [
        f"--dbname={dump.connection()}",
        "--no-password",
        f"--lock-wait-timeout={lock_wait_ms}",
        f"--format={policy.format}",
        f"--file={partial}",
        *(["--schema-only"] if policy.scope == "schema" else []),
        *(
            [f"--compress={policy.compress}"]
            if policy.format == "custom" and policy.compress is not None
            else []
        ),
        *([f"--role={role}"] if role else []),
    ]


@dataclass(slots=True, kw_only=True)
class _Dump:
    """One backup being taken: whom to ask, until when."""

    conninfo: Mapping[str, str]
    environ: Mapping[str, str]
    deadline: float
    cancelled: Callable[[], bool]
    blockers: Callable[[], Sequence[str]]
    environment: str
    written: Callable[[], None] = lambda: None
    blocked_by: Sequence[str] = ()  # whom it was last seen waiting for

    def connection(self) -> str:
        """The connection string for the command line, without secrets: every user can read it."""
        for key in ("sslpassword", "oauth_client_secret"):
            if self.conninfo.get(key):
                raise _failed(
                    f"pg_dump can be given `{key}` only where everybody can read it",
                    hint="put it into a libpq service file and use `database: {service: …}`",
                )
        # Options could set row_security or a search_path; the dump is to be in the database's encoding.
        left_out = ("password", "options", "client_encoding", "application_name")
        quoted = {k: re.sub(r"(['\\])", r"\\\1", v) for k, v in self.conninfo.items() if k not in left_out}
        return " ".join(f"{k}='{v}'" for k, v in quoted.items())

    def run(self, program: Path, *arguments: str, lock: int) -> None:
        """Run to the end; the exit status decides."""
        # The password goes by the environment, which only this user and root can read.
        environ = {k: v for k, v in self.environ.items() if k not in ("PGOPTIONS", "PGCLIENTENCODING")}
        environ |= {"LC_ALL": "C", "PGCONNECT_TIMEOUT": "10", "PGAPPNAME": f"smeta {program.name}"}
        if password := self.conninfo.get("password"):
            environ["PGPASSWORD"] = password
        with tempfile.TemporaryFile() as errors:
            try:
                child = subprocess.Popen(
                    [program, *arguments],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C is for us; we end the child
                    umask=0o077,
                    pass_fds=(lock,),
                )
            except OSError as error:
                raise _failed(f"{program} cannot be run: {error.strerror}") from error
            try:
                self._wait(child, program)
            finally:
                _end(child)
            if child.returncode != 0:
                errors.seek(0)
                raise self._explained(
                    program, child.returncode, errors.read()[-8_000:].decode(errors="replace")
                )

    def _wait(self, child: subprocess.Popen[bytes], program: Path) -> None:
        look_at = time.monotonic() + _LOOK_S
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=0.1)
                return
            self.written()
            if time.monotonic() >= look_at:
                self.blocked_by = self.blockers() or self.blocked_by
                look_at = time.monotonic() + _LOOK_S
            if self.cancelled():
                raise _failed("the backup was cancelled")
            if time.monotonic() > self.deadline:
                raise _failed(
                    f"{program.name} did not finish in time and was stopped",
                    hint="give the environment a longer `timeouts.concurrent`",
                )

    @property
    def _where_to_look(self) -> str:
        return f"see who holds it (`smeta doctor --env {self.environment or 'NAME'}`)"

    def _explained(self, program: Path, status: int, said: str) -> BackupFailed:
        secrets = (self.conninfo.get("password"), self.environ.get("PGPASSWORD"))
        said = Masker.of(secret for secret in secrets if secret)(said)
        detail = said.strip().splitlines()[-10:]
        # pg_dump bounds its waiting for locks by statement_timeout.
        if re.search(r"due to (statement|lock) timeout", said):
            return BackupBlocked(
                f"{program.name} waited in vain for the lock of a table that it must read",
                hint=("let it end" if self.blocked_by else self._where_to_look)
                + ", then run the same command again",
                detail=[*(f"blocked by {who}" for who in self.blocked_by), *detail],
                changed="nothing was run",
            )
        how = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
        return _failed(
            f"{program.name} {how}",
            hint=next((hint for pattern, hint in _HINTS if re.search(pattern, said)), None),
            detail=detail,
        )


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1_000))
        return file.read()


def _failed(message: str, *, hint: str | None = None, detail: list[str] | None = None) -> BackupFailed:
    return BackupFailed(message, hint=hint, detail=detail or (), changed="nothing was run")
