"""Behind a real PgBouncer: its mode is found by asking, and nothing of ours stays with other clients."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psycopg
import pytest

from smeta_declare.backup.dump import choose_pg_dump
from smeta_declare.conninfo import Conninfo
from smeta_declare.environment import Timeouts
from smeta_declare.postgres.binaries import all_binaries
from smeta_declare.postgres.connection import connect
from smeta_declare.postgres.pooler import PoolMode, pool_mode
from smeta_declare.postgres.server import OWNER
from smeta_declare.postgres.target import check_direct
from tests.pooler import Pooler, pgbouncer
from tests.servers import TestDatabase, fresh_database
from tests.workspace import Workspace

pytestmark = [
    pytest.mark.needs("pgbouncer"),
    pytest.mark.parametrize("server", ["pg18"], indirect=True),
]
TABLE = "create table orders (id int primary key);"
BACKUP = "backups: {policies: {kept: {scope: full, format: plain}}}"


def found_mode(address: str) -> PoolMode | None:
    with connect(Conninfo(dsn=address, source="test"), Timeouts()) as session:
        return pool_mode(session)


def behind(workspace: Workspace, pooler: Pooler, *, direct: str | None = None, backup: bool = False) -> None:
    """Let the environment lead through the pooler."""
    workspace.environ["TRIAL_URL"] = pooler.url
    lines = [f"role: {OWNER}"]
    if direct is not None:
        workspace.environ["TRIAL_DIRECT_URL"] = direct
        lines.append("direct: ${TRIAL_DIRECT_URL}")
    if backup:
        lines.append("backup: kept")
    workspace.environment = "\n    ".join(lines)
    workspace.more = BACKUP
    workspace.write_manifest()


@contextlib.contextmanager
def applications(pooler: Pooler, count: int = 3) -> Iterator[list[psycopg.Connection]]:
    """Clients of the pooler that do something all together, so that it has as many server processes."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(pooler.connect())) for _ in range(count)]
        for client in clients:
            client.execute("begin; select 1")
        for client in clients:
            client.execute("commit")
        yield clients


def sessions_as_before(database: TestDatabase, pooler: Pooler) -> bool:
    """Whether every server process that the pooler may hand out has the settings it was started with."""
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(contextlib.closing(pooler.connect()))
            client.execute("begin")
            changed = client.execute(
                "select name, setting from pg_settings where source = 'session' and name in "
                "('search_path', 'role', 'lock_timeout', 'statement_timeout', 'row_security', 'DateStyle', "
                "'idle_in_transaction_session_timeout', 'idle_session_timeout', 'session_authorization', "
                "'client_connection_check_interval', 'transaction_timeout')"
            ).fetchall()
            if changed:
                return False
    return True


@pytest.mark.parametrize("round_robin", [False, True])
@pytest.mark.parametrize("busy", [0, 1, 2, 4])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_mode_is_found(database: TestDatabase, mode: str, busy: int, *, round_robin: bool) -> None:
    """`busy`: how many server processes the pool has already, all of them free in transaction mode."""
    with (
        pgbouncer(database, mode, round_robin=round_robin, pool_size=8) as pooler,
        applications(pooler, busy),
    ):
        found = [found_mode(pooler.url) for _ in range(5)]

    assert found == [PoolMode(mode)] * 5


@pytest.mark.parametrize("round_robin", [False, True])
@pytest.mark.parametrize("pool_size", [1, 5])
def test_statement_mode_is_found(database: TestDatabase, pool_size: int, *, round_robin: bool) -> None:
    with pgbouncer(database, "statement", pool_size=pool_size, round_robin=round_robin) as pooler:
        assert found_mode(pooler.url) is PoolMode.STATEMENT


def test_pool_with_a_single_process_is_found(database: TestDatabase) -> None:
    """In session mode nobody else gets a process while we have it: that is told after a while, not for ever."""
    with pgbouncer(database, "transaction", pool_size=1) as pooler:
        assert found_mode(pooler.url) is PoolMode.TRANSACTION
    with pgbouncer(database, "session", pool_size=1) as pooler:
        assert found_mode(pooler.url) is PoolMode.SESSION


def test_busy_transaction_pool_is_never_taken_for_sessions(database: TestDatabase) -> None:
    """Other clients hold all processes but one."""
    with pgbouncer(database, "transaction", pool_size=3) as pooler, applications(pooler) as clients:
        for client in clients[:2]:
            client.execute("begin; select 1")

        assert found_mode(pooler.url) is PoolMode.TRANSACTION


def test_without_a_pooler_there_is_no_mode(database: TestDatabase) -> None:
    assert found_mode(database.conninfo.dsn) is None


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_nothing_runs_through_a_transaction_pooler(
    workspace: Workspace, database: TestDatabase, mode: str
) -> None:
    workspace.migration("1_orders", TABLE, "drop table orders;")
    with pgbouncer(database, mode) as pooler:
        behind(workspace, pooler)

        outcomes = [workspace.smeta(verb, "--env", "test") for verb in ("plan", "status", "apply")]

        assert [o.code for o in outcomes] == [3, 3, 3], outcomes[2].err
        assert all("error[pooler]" in o.err and "`direct:`" in o.err for o in outcomes)
        assert mode in outcomes[0].err
        assert mode == "statement" or sessions_as_before(database, pooler)
    assert database.query("select to_regclass('orders'), to_regnamespace('smeta')") == [(None, None)]


def test_direct_address_is_used_instead_of_a_transaction_pooler(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_orders", TABLE, "drop table orders;")
    with pgbouncer(database, "transaction") as pooler, applications(pooler) as clients:
        behind(workspace, pooler, direct=pooler.direct, backup=True)
        for client in clients:
            client.execute("select 1")

        plan = workspace.smeta("plan", "--env", "test")
        applied = workspace.smeta("apply", "--env", "test")

        assert "environments.test.direct (TRIAL_DIRECT_URL), because" in plan.out
        assert "leads through a pooler (transaction mode)" in plan.out
        assert (applied.code, workspace.applied()) == (0, ["1_orders"]), applied.err
        assert sessions_as_before(database, pooler)
        for client in clients:
            assert client.execute("select count(*) from orders").fetchone() == (
                0,
            )  # found by its search_path
        (dump,) = (workspace.root / "backups").glob("*.sql")
        assert "PostgreSQL database dump complete" in dump.read_text()
        assert "s3cret" not in plan.out + plan.err + applied.out + applied.err


def test_session_pooler_is_fine_and_its_backup_goes_around_it(
    workspace: Workspace, database: TestDatabase
) -> None:
    workspace.migration("1_orders", TABLE, "drop table orders;")
    with pgbouncer(database, "session") as pooler:
        behind(workspace, pooler, direct=pooler.direct, backup=True)
        arguments = workspace.root / "arguments"
        real = choose_pg_dump(database.server.version_num, all_binaries(os.environ)).path
        noting = workspace.root / "pg_dump"
        noting.write_text(f'#!/bin/sh\necho "$@" >> {arguments}\nexec {real} "$@"\n')
        noting.chmod(0o755)

        applied = workspace.smeta("apply", "--env", "test", environ={"SMETA_PG_DUMP": str(noting)})

        assert (applied.code, workspace.applied()) == (0, ["1_orders"]), applied.err
        assert "environments.test.direct" not in applied.err  # the work went through the pooler
        assert sessions_as_before(database, pooler)
        (dump,) = [line for line in arguments.read_text().splitlines() if "--dbname=" in line]
        assert f"host='{database.conninfo.parameters()['host']}'" in dump
        assert "smeta-pooler-" not in dump
    assert len(list((workspace.root / "backups").glob("*.sql"))) == 1


def test_backup_through_a_session_pooler_is_refused(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_orders", TABLE, "drop table orders;")
    with pgbouncer(database, "session") as pooler:
        behind(workspace, pooler, backup=True)

        refused = workspace.smeta("apply", "--env", "test")
        alone = workspace.smeta("backup", "create", "--env", "test")

        assert (refused.code, alone.code) == (3, 3), refused.err
        assert "error[pooler]: a backup cannot be taken through the pooler" in refused.err
        assert workspace.tables() == set()
        assert not list((workspace.root / "backups").glob("*.sql"))
        behind(workspace, pooler)
        assert workspace.smeta("apply", "--env", "test").code == 0
    assert workspace.tables() == {"orders"}


def test_direct_address_of_another_database_is_refused(workspace: Workspace, database: TestDatabase) -> None:
    workspace.migration("1_orders", TABLE, "drop table orders;")
    with fresh_database(database.server) as other, pgbouncer(database, "transaction") as pooler:
        elsewhere = pooler.direct.replace(f"/{database.name}?", f"/{other.name}?")
        behind(workspace, pooler, direct=elsewhere)
        through_pooler = workspace.smeta("apply", "--env", "test")
        workspace.environ["TRIAL_URL"] = pooler.direct
        without_pooler = workspace.smeta("apply", "--env", "test")
        workspace.environ |= {"TRIAL_URL": pooler.url, "TRIAL_DIRECT_URL": pooler.url}
        pooler_again = workspace.smeta("apply", "--env", "test")

        assert [o.code for o in (through_pooler, without_pooler, pooler_again)] == [3, 3, 3]
        assert "error[direct-elsewhere]" in through_pooler.err
        assert f"database: {database.name} there, {other.name} directly" in without_pooler.err
        assert "leads through a pooler too (transaction mode)" in pooler_again.err
        assert sessions_as_before(database, pooler)
        for each in (database, other):
            assert each.query("select to_regclass('orders'), to_regnamespace('smeta')") == [(None, None)]


def test_a_pool_that_is_taken_does_not_keep_direct_from_working(
    workspace: Workspace, database: TestDatabase
) -> None:
    """Nobody else gets a process of the pool: not when we come, or not any more while we look."""
    workspace.migration("1_orders", TABLE, "drop table orders;")
    with (
        pgbouncer(database, "transaction", pool_size=1) as pooler,
        contextlib.closing(pooler.connect()) as one,
    ):
        one.execute("begin; select 1")
        behind(workspace, pooler)
        without = workspace.smeta("apply", "--env", "test")
        behind(workspace, pooler, direct=pooler.direct)
        examined = workspace.smeta("doctor", "--env", "test")
        plan = workspace.smeta("plan", "--env", "test")
        applied = workspace.smeta("apply", "--env", "test")

        assert (without.code, "error[connection]" in without.err) == (4, True), without.err
        assert "nothing was run" in without.err
        assert examined.code == 0, examined.out + examined.err
        assert "could not be checked" in plan.out
        assert (applied.code, workspace.applied()) == (0, ["1_orders"]), applied.err


def test_a_pool_that_is_taken_while_we_look_leaves_direct(
    workspace: Workspace, database: TestDatabase
) -> None:
    with (
        pgbouncer(database, "transaction", pool_size=1) as pooler,
        contextlib.closing(pooler.connect()) as one,
        connect(Conninfo(dsn=pooler.url, source="test"), Timeouts()) as session,
        connect(Conninfo(dsn=pooler.direct, source="test"), Timeouts()) as direct,
    ):
        session.backend_pid()
        one.execute("begin; select 1")

        assert session.backend_pid(within=0.1) is None
        check_direct(session, direct)
