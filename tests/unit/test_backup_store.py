from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from smeta_declare.backup import store
from smeta_declare.backup.dump import PgDumpMissing, choose_pg_dump
from smeta_declare.backup.store import BackupFailed, BackupRecord
from smeta_declare.postgres.binaries import Binaries

NOON = datetime(2025, 10, 7, 12, 0, tzinfo=UTC)
RECORD = BackupRecord(
    name="backup_0007_add_email_20251007T120000000Z",
    version="0007_add_email",
    created_at=NOON,
    policy="schema_before_apply",
    scope="schema",
    format="plain",
    size=3,
    sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",  # of "abc"
    pg_dump_version="15.18",
    server_version="15.18",
    unproven=False,
    database="смета",
)


def test_record_survives_json() -> None:
    assert BackupRecord.from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": "smeta.backup/2"}', '{"format": "smeta.backup/1"}']
)
def test_other_json_is_no_record(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # json's own message is as good
        BackupRecord.from_json(text)


def test_name_carries_version_and_moment() -> None:
    name = store.backup_name("0007_add_email", NOON.astimezone(timezone(timedelta(hours=3))))

    assert name == RECORD.name
    assert store.parse_name(name) == ("0007_add_email", NOON)


@pytest.mark.parametrize("name", ["backup_1", "x_1_20251007T120000000Z", "backup_../x_20251007T120000000Z"])
def test_name_of_something_else_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a backup"):
        store.parse_name(name)


def test_backups_are_listed_newest_first(tmp_path: Path) -> None:
    older = replace(RECORD, name="backup_1_20251006T120000Z", created_at=NOON - timedelta(days=1))
    for record in (older, RECORD):
        (tmp_path / f"{record.name}.json").write_text(record.to_json())
    (tmp_path / "backup_broken.json").write_text("{")
    (tmp_path / "notes.json").write_text(RECORD.to_json())

    assert store.list_backups(tmp_path) == (RECORD, older)


def test_no_directory_has_no_backups(tmp_path: Path) -> None:
    assert store.list_backups(tmp_path / "missing") == ()


def test_damage_is_found(tmp_path: Path) -> None:
    assert "cannot be read" in (store.damage(tmp_path, RECORD) or "")
    (tmp_path / RECORD.file).write_text("abc")
    assert store.damage(tmp_path, RECORD) is None
    (tmp_path / RECORD.file).write_text("abd")
    assert "sha256" in (store.damage(tmp_path, RECORD) or "")
    (tmp_path / RECORD.file).write_text("ab")
    assert "2 bytes instead of 3" in (store.damage(tmp_path, RECORD) or "")


def test_new_directory_is_private(tmp_path: Path) -> None:
    store.prepare_directory(tmp_path / "deep" / "backups")

    assert stat.S_IMODE((tmp_path / "deep" / "backups").stat().st_mode) == 0o700


def test_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    store.prepare_directory(tmp_path)

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(BackupFailed, match="symbolic link") as caught:
        store.prepare_directory(tmp_path / "link")

    assert caught.value.changed == "nothing was run"


def test_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("")

    with pytest.raises(BackupFailed, match="cannot be used"):
        store.prepare_directory(tmp_path / "backups")


def test_leftover_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys; from smeta_declare.backup.store import partial_file\n"
        f"with partial_file(pathlib.Path(sys.argv[1]), {RECORD.name!r}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert [path.name.startswith(".backup_") for path in tmp_path.iterdir()] == [True]

    store.prepare_directory(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_partial_file_in_use_is_left_alone(tmp_path: Path) -> None:
    with store.partial_file(tmp_path, RECORD.name) as (partial, _):
        store.prepare_directory(tmp_path)
        assert partial.exists()
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []


def test_kept_dump_has_its_record(tmp_path: Path) -> None:
    with store.partial_file(tmp_path, RECORD.name) as (partial, _):
        partial.write_text("abc")
        store.keep(tmp_path, partial, RECORD)

    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{RECORD.name}.json", f"{RECORD.name}.sql"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}
    assert store.list_backups(tmp_path) == (RECORD,)
    assert store.damage(tmp_path, RECORD) is None


def test_dump_without_its_record_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: BackupRecord) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BackupRecord, "to_json", full)
    with store.partial_file(tmp_path, RECORD.name) as (partial, _):
        partial.write_text("abc")
        with pytest.raises(OSError, match="No space left"):
            store.keep(tmp_path, partial, RECORD)

    assert list(tmp_path.iterdir()) == []


# --- which pg_dump


def installed(root: Path, *versions: str) -> tuple[Binaries, ...]:
    """Directories that look like PostgreSQL client programs of these versions."""
    found = []
    for version in versions:
        directory = root / version
        directory.mkdir()
        for program in ("pg_dump", "pg_restore"):
            (directory / program).write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
            (directory / program).chmod(0o755)
        major, minor = map(int, version.split("."))
        found.append(Binaries(directory=directory, major=major, minor=minor, origin="system"))
    return tuple(found)


@pytest.mark.parametrize(
    ("server", "versions", "chosen", "unproven"),
    [
        (150020, ["18.6", "15.20", "16.1"], "15.20", False),
        (150020, ["15.21", "15.20"], "15.21", False),
        (150020, ["18.6", "16.1", "16.2"], "16.2", True),
        (150020, ["15.19", "18.6"], "18.6", True),
        (150020, ["15.18", "15.19"], "15.19", True),
        (150020, ["14.9", "15.19"], "15.19", True),
    ],
)
def test_pg_dump_that_suits_best(
    tmp_path: Path, server: int, versions: list[str], chosen: str, *, unproven: bool
) -> None:
    found = choose_pg_dump(server, installed(tmp_path, *versions))

    assert (found.version, found.unproven) == (chosen, unproven)
    assert found.path == tmp_path / chosen / "pg_dump"
    assert found.server_version == "15.20"


def test_older_pg_dump_is_never_taken(tmp_path: Path) -> None:
    with pytest.raises(PgDumpMissing, match=r"PostgreSQL 18\.6: .* found: 15\.20, 17\.1") as caught:
        choose_pg_dump(180006, installed(tmp_path, "15.20", "17.1"))

    assert "postgresql-client-18" in (caught.value.hint or "")
    assert (caught.value.exit_code, caught.value.changed) == (3, "nothing was run")


def test_pg_dump_of_the_setting_wins(tmp_path: Path) -> None:
    candidates = installed(tmp_path, "15.20", "16.1")

    found = choose_pg_dump(150020, candidates, override=str(tmp_path / "16.1" / "pg_dump"))

    assert (found.version, found.unproven) == ("16.1", True)


@pytest.mark.parametrize("override", ["15.20/pg_dump", "missing/pg_dump"])
def test_pg_dump_of_the_setting_must_suit_too(tmp_path: Path, override: str) -> None:
    candidates = installed(tmp_path, "15.20", "16.1")

    with pytest.raises(PgDumpMissing, match="SMETA_PG_DUMP"):
        choose_pg_dump(160001, candidates, override=str(tmp_path / override))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(BackupFailed, match="cannot be used"):
        store.prepare_directory(tmp_path / "backups")


def test_of_two_backups_of_one_name_the_first_stays(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with store.partial_file(tmp_path, f"{RECORD.name}{text}") as (partial, _):
            partial.write_text(text)
            with contextlib.suppress(FileExistsError):
                store.keep(tmp_path, partial, RECORD)

    assert (tmp_path / RECORD.file).read_text() == "first"
    assert store.list_backups(tmp_path) == (RECORD,)
