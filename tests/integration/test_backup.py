"""Backups of real servers: whole, private, restorable; and nothing left when they fail."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from smeta_declare.backup import store
from smeta_declare.backup.dump import BackupBlocked, PgDump, choose_pg_dump, take
from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.backup.store import BackupFailed, BackupRecord
from smeta_declare.postgres.binaries import all_binaries
from tests.servers import TestDatabase, fresh_database

NAME = "backup_0007_20251007T120000000Z"
PLAIN = BackupPolicy(name="schema_before_apply", scope="schema", format="plain")
CUSTOM = BackupPolicy(name="full_before_apply", scope="full", format="custom", compress=1)
CUT = 'for a; do case $a in --file=*) f="${a#--file=}";; esac; done; "$REAL" "$@"; truncate "$f" -s'
TABLE = (
    "create table норма (id int primary key, name text); insert into норма values (1, 'бетон'), (2, 'песок')"
)


@pytest.fixture
def pg_dump(database: TestDatabase) -> PgDump:
    return choose_pg_dump(database.server.version_num, all_binaries(os.environ))


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "резерв 'x'"


def backup(
    database: TestDatabase,
    pg_dump: PgDump,
    target: Path,
    policy: BackupPolicy = CUSTOM,
    **options: str,
) -> BackupRecord:
    conninfo = database.conninfo.parameters() | options
    return take(
        policy,
        conninfo=conninfo,
        pg_dump=pg_dump,
        target=target,
        name=NAME,
        timeout_ms=30_000,
        lock_wait_ms=300,
    )


def stand_in(pg_dump: PgDump, directory: Path, script: str) -> PgDump:
    """A pg_dump that misbehaves; `$REAL` is the real one."""
    program = directory / "pg_dump"
    program.write_text(f"#!/bin/sh\nREAL={pg_dump.path}\n{script}\n")
    program.chmod(0o755)
    (directory / "pg_restore").symlink_to(pg_dump.directory / "pg_restore")
    return PgDump(directory=directory, version=pg_dump.version, server_version=pg_dump.server_version)


@contextlib.contextmanager
def locked(database: TestDatabase, table: str) -> Iterator[None]:
    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as holder:
        holder.execute(f"lock table {table} in access exclusive mode")
        yield


def test_full_backup_can_be_restored(database: TestDatabase, pg_dump: PgDump, backups: Path) -> None:
    database.query(TABLE)

    record = backup(database, pg_dump, backups)

    assert store.list_backups(backups) == (record,)
    assert store.damage(backups, record) is None
    assert (record.version, record.scope, record.database) == ("0007", "full", database.name)
    with fresh_database(database.server) as other:
        restored = subprocess.run(
            [
                pg_dump.directory / "pg_restore",
                "--exit-on-error",
                f"--dbname={other.admin}",
                backups / record.file,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert restored.stderr == ""
        assert other.query_as_admin("select name from норма order by id") == [("бетон",), ("песок",)]


def test_schema_backup_has_no_rows(database: TestDatabase, pg_dump: PgDump, backups: Path) -> None:
    database.query(TABLE)

    record = backup(database, pg_dump, backups, PLAIN)

    text = (backups / record.file).read_text()
    assert record.file == f"{NAME}.sql"
    assert 'CREATE TABLE public."норма"' in text
    assert "бетон" not in text


def test_backup_is_private(database: TestDatabase, pg_dump: PgDump, backups: Path) -> None:
    old = os.umask(0)
    try:
        backup(database, pg_dump, backups)
    finally:
        os.umask(old)

    assert stat.S_IMODE(backups.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in backups.iterdir()} == {0o600}


def test_backup_is_never_overwritten(database: TestDatabase, pg_dump: PgDump, backups: Path) -> None:
    record = backup(database, pg_dump, backups)

    with pytest.raises(BackupFailed, match="exists already"):
        backup(database, pg_dump, backups)

    assert store.damage(backups, record) is None


def test_locked_table_ends_the_backup_soon(database: TestDatabase, pg_dump: PgDump, backups: Path) -> None:
    database.query(TABLE)

    with locked(database, "норма"), pytest.raises(BackupBlocked, match="lock") as caught:
        backup(database, pg_dump, backups)

    assert caught.value.exit_code == 4
    assert caught.value.changed == "nothing was run"
    assert list(backups.iterdir()) == []


def test_rows_hidden_by_row_security_fail_the_backup(
    database: TestDatabase, pg_dump: PgDump, backups: Path
) -> None:
    database.query(TABLE + "; alter table норма enable row level security, force row level security")

    with pytest.raises(BackupFailed) as caught:
        backup(database, pg_dump, backups)

    assert "BYPASSRLS" in (caught.value.hint or "")
    assert list(backups.iterdir()) == []


def test_options_of_the_connection_do_not_reach_the_backup(
    database: TestDatabase, pg_dump: PgDump, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.query(TABLE)
    monkeypatch.setenv("PGOPTIONS", "-c no_such_setting=1")

    record = backup(database, pg_dump, backups, options="-c nonsense=1", client_encoding="SQL_ASCII")

    assert record.size > 0


@pytest.mark.parametrize(
    ("policy", "script"),
    [
        (CUSTOM, f"{CUT} -9"),
        (PLAIN, f"{CUT} -90"),
        (CUSTOM, 'kill -9 $$'),
    ],
    ids=["custom", "plain", "killed"],
)  # fmt: skip
def test_dump_that_is_not_whole_is_no_backup(
    database: TestDatabase, pg_dump: PgDump, backups: Path, tmp_path: Path, policy: BackupPolicy, script: str
) -> None:
    database.query(TABLE)

    with pytest.raises(BackupFailed):
        backup(database, stand_in(pg_dump, tmp_path, script), backups, policy)

    assert list(backups.iterdir()) == []


def test_password_is_in_no_argument_and_no_message(
    database: TestDatabase, pg_dump: PgDump, backups: Path, tmp_path: Path
) -> None:
    script = f'echo "$@" > "{tmp_path}/arguments"; echo "it was $PGPASSWORD" >&2; exit 1'

    with pytest.raises(BackupFailed) as caught:
        backup(database, stand_in(pg_dump, tmp_path, script), backups, password="s3cr et'\\")

    assert "s3cr" not in (tmp_path / "arguments").read_text()
    assert caught.value.detail == ("it was «secret»",)


def test_password_lets_in(database: TestDatabase, pg_dump: PgDump, backups: Path) -> None:
    role = f"{database.name}_reader"
    database.query_as_admin(f"create role {role} login superuser password 'a ''b'")
    try:
        assert backup(database, pg_dump, backups, user=role, password="a 'b").size > 0
        with pytest.raises(BackupFailed, match="pg_dump failed") as caught:
            backup(database, pg_dump, backups.with_name("other"), user=role, password="wrong")
        assert "password" in (caught.value.hint or "")
    finally:
        database.query_as_admin(f"drop role {role}")


@pytest.mark.parametrize("how", ["timeout", "cancelled", "ctrl-c"])
def test_interrupted_backup_leaves_nothing(
    database: TestDatabase, pg_dump: PgDump, backups: Path, how: str
) -> None:
    database.query(TABLE)
    waiting = threading.Event()

    def cancelled() -> bool:
        if database.query_as_admin("select from pg_locks where not granted and pid <> pg_backend_pid()"):
            waiting.set()
            if how == "ctrl-c":
                raise KeyboardInterrupt
        return how == "cancelled" and waiting.is_set()

    with locked(database, "норма"):
        with pytest.raises(KeyboardInterrupt if how == "ctrl-c" else BackupFailed):
            take(
                CUSTOM,
                conninfo=database.conninfo.parameters(),
                pg_dump=pg_dump,
                target=backups,
                name=NAME,
                timeout_ms=1_000 if how == "timeout" else 20_000,
                lock_wait_ms=30_000,
                cancelled=cancelled,
            )
        assert waiting.is_set()
        assert list(backups.iterdir()) == []
        deadline = time.monotonic() + 5  # the server notices a little later than the client
        asleep = "select from pg_stat_activity where application_name like 'smeta pg_dump%'"
        while database.query_as_admin(asleep):
            assert time.monotonic() < deadline, "pg_dump lives on"
