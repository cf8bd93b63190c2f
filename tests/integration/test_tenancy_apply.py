"""What `tenancy:` declares, planned and applied by the command line like a migration, and taken back like one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psycopg
import pytest

from tests.servers import TestDatabase, TestServer
from tests.waiting import until
from tests.workspace import Workspace

APP = f"app_of_{os.getpid()}"
TENANCY = f"""
tenancy:
  strategy: row
  since: 1_base
  registry: {{table: tenants}}
  roles: {{create: true, owner: smeta_owner, application: [{APP}]}}
  default_tenant: {{name: First}}
  tables: {{tenants: registry, projects: tenant, phases: global}}
"""
A = "00000000-0000-0000-0000-00000000000a"


@pytest.fixture(scope="module", autouse=True)
def role(server: TestServer) -> Iterator[None]:
    yield
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(f"drop role if exists {APP}".encode())


@pytest.fixture
def declared(workspace: Workspace, database: TestDatabase) -> Iterator[Workspace]:
    """Tables with rows are made by one migration; what belongs to tenants is declared."""
    workspace.more = TENANCY
    workspace.environment = "vars: {concurrently: true}"
    workspace.migration(
        "1_base",
        "create table tenants (id uuid primary key default gen_random_uuid(), name text not null);\n"
        "create table projects (id int primary key, name text);\n"
        "create table phases (id text primary key);\n"
        "insert into projects select n, 'p' || n from generate_series(1, 20) as n;",
        "drop table phases, projects, tenants;",
    )
    yield workspace
    if database.query("select from pg_roles where rolname = %s", APP):
        database.query_as_admin(f"drop owned by {APP}")


def seen(database: TestDatabase, tenant: str | None) -> int:
    """How many projects the application sees in the context of a tenant."""
    with psycopg.connect(database.admin) as connection:
        connection.execute("select set_config('role', %s, true)", (APP,))
        if tenant:
            connection.execute("select set_tenant_context(%s)", (tenant,))
        row = connection.execute("select count(*) from projects").fetchone()
        assert row is not None
        return int(row[0])


def test_one_apply_runs_the_migrations_and_then_what_is_declared(
    declared: Workspace, database: TestDatabase
) -> None:
    planned = declared.smeta("plan", "--env", "test")
    assert "info[tenancy-follows]" in planned.err

    done = declared.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert done.out.startswith("applied 1 migration to test in ")
    assert "tenancy is as declared in test: tenancy@" in done.out
    assert database.query("select relforcerowsecurity from pg_class where relname = 'projects'") == [(True,)]
    ((first,),) = database.query_as_admin("select id::text from tenants")
    assert (seen(database, first), seen(database, A), seen(database, None)) == (20, 0, 0)

    again = declared.smeta("apply", "--env", "test")
    assert (again.code, again.out) == (0, "test is up to date: nothing to apply\n")
    status = declared.smeta("status", "--env", "test")
    assert "total 1, applied 1, pending 0" in status.out
    assert "reconciled tenancy@" in status.out
    assert declared.smeta("verify", "--env", "test").code == 0


def test_a_change_of_the_declaration_is_told_in_words_planned_saved_and_taken_back(
    declared: Workspace, database: TestDatabase
) -> None:
    assert declared.smeta("apply", "--env", "test").code == 0
    policies = (
        "select polname, pg_get_expr(polqual, polrelid) from pg_policy order by 1, polrelid::regclass::text"
    )
    before = database.query(policies)
    declared.more = TENANCY.replace("projects: tenant", "projects: {class: tenant, policy_form: inline}")
    declared.write_manifest()

    file = declared.root / "plan.json"
    planned = declared.smeta("plan", "--env", "test", "--out", str(file))
    assert planned.code == 0, planned.err
    assert "info[tenancy-change]: projects: " in planned.err
    assert declared.smeta("apply", str(file)).code == 0
    assert database.query(policies) != before
    assert declared.smeta("plan", "--env", "test", "--detailed-exitcode").code == 0

    declared.more = TENANCY
    declared.write_manifest()
    assert declared.smeta("rollback", "--env", "test").code == 0
    assert database.query(policies) == before
    assert declared.smeta("plan", "--env", "test", "--detailed-exitcode").code == 0


def test_what_was_changed_by_hand_is_planned_back(declared: Workspace, database: TestDatabase) -> None:
    assert declared.smeta("apply", "--env", "test").code == 0
    database.query("alter table projects no force row level security")

    planned = declared.smeta("plan", "--env", "test", "--detailed-exitcode")

    assert planned.code == 2
    assert "force row level security" in planned.out
    assert declared.smeta("apply", "--env", "test").code == 0
    assert database.query("select relforcerowsecurity from pg_class where relname = 'projects'") == [(True,)]


def test_a_killed_reconciliation_is_finished_by_the_same_command(
    declared: Workspace, database: TestDatabase
) -> None:
    """It is finished as it was begun: what is there by then would be compared to another plan."""
    with psycopg.connect(database.conninfo.dsn) as other:
        assert declared.smeta("apply", "--env", "test", "--to", "1_base").code == 0
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("select 1")  # an index that is built concurrently waits for the end of this snapshot
        with declared.start("apply", "--env", "test") as run:
            building = "select count(*) from pg_index where not indisvalid"
            until(lambda: database.query(building) == [(1,)], what="an index that is being built")
            run.send_signal(signal.SIGKILL)
    assert "partial" in declared.smeta("status", "--env", "test").out

    done = declared.smeta("apply", "--env", "test")

    assert done.code == 0, done.err
    assert database.query("select relforcerowsecurity from pg_class where relname = 'projects'") == [(True,)]
    assert declared.smeta("plan", "--env", "test", "--detailed-exitcode").code == 0
    assert declared.smeta("rollback", "--env", "test", "--allow-destructive").code == 0
    columns = "select column_name from information_schema.columns where table_name = 'projects' order by 1"
    assert database.query(columns) == [("id",), ("name",)]


def test_what_statements_cannot_bring_about_is_refused(declared: Workspace, database: TestDatabase) -> None:
    """A relation that belongs to no class: somebody has to say what it is."""
    assert declared.smeta("apply", "--env", "test").code == 0
    database.query(f"create table forgotten (id int); grant select on forgotten to {APP}")

    refused = declared.smeta("plan", "--env", "test")

    assert (refused.code, "error[tenancy-impossible]" in refused.err) == (3, True), refused.err
    assert "forgotten" in refused.err
