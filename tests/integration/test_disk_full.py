"""A disk that is full: of the data, of temporary files, of backups, of the WAL. And the same command afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from smeta_declare.postgres.server import Server
from tests.disk import Disk, small_disk, small_tablespace
from tests.servers import TestDatabase, TestServer, fresh_database, own_server
from tests.waiting import until
from tests.workspace import Workspace

OWN_SERVERS = pytest.mark.parametrize("server", ["pg18", "pg15"], indirect=True)
# About 20 MB that cannot be compressed, neither in the table nor in an index.
LARGE = (
    "select i as id, (select string_agg(md5((i * j)::text), '') from generate_series(1, 30) as j) as t "
    "from generate_series(1, 20000) as i"
)


@pytest.fixture
def small(server: TestServer) -> Iterator[tuple[Disk, str]]:
    """A tablespace of 12 MB."""
    with small_tablespace(server, 12) as made:
        yield made


@pytest.fixture
def space(small: tuple[Disk, str], database: TestDatabase, workspace: Workspace) -> str:
    """Its name; what is made in it is gone before it is dropped."""
    return small[1]


@pytest.fixture
def disk(small: tuple[Disk, str]) -> Disk:
    return small[0]


@pytest.fixture
def database(server: TestServer, small: tuple[Disk, str]) -> Iterator[TestDatabase]:
    """A fresh database, dropped before the tablespace is."""
    with fresh_database(server) as fresh:
        yield fresh


@OWN_SERVERS
@pytest.mark.needs("mount")
def test_a_transaction_is_rolled_back(
    workspace: Workspace, database: TestDatabase, disk: Disk, space: str
) -> None:
    workspace.migration("1_a", "create table a (id int);")
    workspace.migration("2_b", f"create table b tablespace {space} as {LARGE};")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 4
    assert "error[server-exhausted]: 2_b: could not extend file" in failed.err
    assert "No space left on device" in failed.err
    assert "sqlstate: 53100" in failed.err
    assert "everything was rolled back" in failed.err
    assert "make room on the server" in failed.err
    assert (workspace.tables(), workspace.applied()) == (set(), [])
    disk.grow(100)
    again = workspace.smeta("apply", "--env", "test")
    assert again.code == 0, again.err
    assert (workspace.tables(), workspace.applied()) == ({"a", "b"}, ["1_a", "2_b"])
    assert database.query("select count(*) from b") == [(20_000,)]


@OWN_SERVERS
@pytest.mark.needs("mount")
def test_an_index_that_is_half_built_is_taken_away(
    workspace: Workspace, database: TestDatabase, disk: Disk, space: str
) -> None:
    database.query(f"create table a as {LARGE}")
    workspace.migration("1_a", f"create index concurrently a_t on a (t, id) tablespace {space};")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 5
    assert "error[server-exhausted]: 1_a: could not" in failed.err
    assert "sqlstate: 53100" in failed.err
    assert "ran outside of a transaction, and the next run looks at what it left" in failed.err
    left = "select indisvalid from pg_index where indexrelid = to_regclass('a_t')"
    assert database.query(left) == [(False,)]
    assert workspace.applied() == []
    disk.grow(100)
    again = workspace.smeta("apply", "--env", "test")
    assert again.code == 0, again.err
    assert "cleaned  1_a/1: invalid index a_t dropped" in again.err
    assert database.query(left) == [(True,)]
    assert workspace.applied() == ["1_a"]


@OWN_SERVERS
@pytest.mark.needs("mount")
def test_batches_go_on_where_the_disk_was_full(
    workspace: Workspace, database: TestDatabase, disk: Disk, space: str
) -> None:
    database.query(f"create table a (id int primary key, n int default 0, t text) tablespace {space}")
    database.query(f"insert into a (id, t) {LARGE} limit 9000")
    workspace.migration("1_a", "-- smeta: batch key=id size=500\nupdate a set n = n + 1, t = t || 'x';")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 5
    assert "error[server-exhausted]: 1_a: could not extend file" in failed.err
    assert "committed by this run: 1_a/1 up to row" in failed.err
    assert "the step that failed was rolled back" in failed.err
    (changed,) = database.query("select count(*) from a where n = 1")
    assert 0 < changed[0] < 9000
    assert changed[0] % 500 == 0
    assert workspace.applied() == []
    disk.grow(100)
    again = workspace.smeta("apply", "--env", "test")
    assert again.code == 0, again.err
    assert database.query("select n, count(*) from a group by n") == [(1, 9000)]
    assert workspace.applied() == ["1_a"]


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.needs("mount")
def test_a_backup_that_finds_no_room_is_none(
    workspace: Workspace, database: TestDatabase, server: TestServer
) -> None:
    database.query(f"create table a as {LARGE}")
    workspace.more = "backups: {policies: {kept: {scope: full, format: plain}}}"
    workspace.environment = "backup: kept"
    workspace.migration("1_b", "create table b (id int);")
    backups = workspace.root / "backups"
    backups.mkdir()
    with small_disk(4, backups) as disk:
        failed = workspace.smeta("apply", "--env", "test")

        assert failed.code == 1
        assert "pg_dump failed with exit status 1" in failed.err
        assert "No space left on device" in failed.err
        assert "nothing was run" in failed.err
        assert "free space in the backup directory" in failed.err
        assert [p.name for p in backups.iterdir() if p.suffix in (".sql", ".json")] == []
        assert sum(p.stat().st_size for p in backups.iterdir()) == 0
        assert workspace.tables() == {"a"}
        assert database.query("select to_regclass('schema_migrations'), to_regnamespace('smeta')") == [
            (None, None)
        ]
        disk.grow(100)
        again = workspace.smeta("apply", "--env", "test")
        assert again.code == 0, again.err
        assert len([p for p in backups.iterdir() if p.suffix == ".sql"]) == 1
    assert workspace.applied() == ["1_b"]


def test_a_limit_on_temporary_files_is_like_a_full_disk(workspace: Workspace, database: TestDatabase) -> None:
    """Works everywhere; SQLSTATE 53400, of the same class."""
    database.query(f"create table a as {LARGE}")
    database.query_as_admin(
        f'alter database "{database.name}" set temp_file_limit = 1024;'
        f"alter database \"{database.name}\" set work_mem = '64kB'"
    )
    workspace.migration("1_a", "create table b as select * from a order by t desc, id;")

    failed = workspace.smeta("apply", "--env", "test")

    assert failed.code == 4
    assert "error[server-exhausted]: 1_a: temporary file size exceeds" in failed.err
    assert "everything was rolled back" in failed.err
    assert (workspace.tables(), workspace.applied()) == ({"a"}, [])
    database.query_as_admin(f'alter database "{database.name}" reset temp_file_limit')
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.applied() == ["1_a"]


@pytest.mark.parametrize("kind", ["pg18", "pg15"])
@pytest.mark.needs("mount", "pg15")
def test_a_server_that_panics_without_room_for_its_wal(tmp_path: Path, kind: str) -> None:
    """PostgreSQL goes down when it cannot write its log, and comes back with what was committed."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(110))
        disk.path.chmod(0o755)
        own, server = stack.enter_context(own_server(kind, parent=disk.path))
        with fresh_database(server) as database:
            workspace = Workspace.at(tmp_path / "trial", database)
            workspace.environment = "transaction: each"
            workspace.migration("1_a", "create table a (id int, t text);")
            workspace.migration(
                "2_b",
                f"insert into a {LARGE}; insert into a {LARGE}; insert into a {LARGE};"
                "create index concurrently a_id on a (id);",
            )

            failed = workspace.smeta("apply", "--env", "test")

            assert failed.code == 5, failed.err
            # Rows may fill the disk a moment before the log does: then the statement fails before the server does.
            assert "error[connection-lost]" in failed.err or "error[server-exhausted]" in failed.err
            assert "committed by this run: 1_a/1" in failed.err
            disk.grow(400)
            _up_again(own)
            assert database.query("select count(*) from a") == [(0,)]
            again = workspace.smeta("apply", "--env", "test")
            assert again.code == 0, again.err
            assert database.query("select count(*) from a") == [(60_000,)]
            assert database.query("select indisvalid from pg_index where indrelid = 'a'::regclass") == [
                (True,)
            ]
            assert workspace.applied() == ["1_a", "2_b"]


def _up_again(server: Server) -> None:
    """It recovers by itself where it has room; where it has given up, somebody starts it."""
    until(lambda: not (server.data / "postmaster.pid").exists() or server.running(), what="its end")
    server.start()
