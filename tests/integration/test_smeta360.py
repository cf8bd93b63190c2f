"""SMETA360's own manifest and migrations: forward, back and forward again, and what its tenants may see."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from tests.servers import TestDatabase, TestServer
from tests.workspace import Workspace

CHECKOUT = Path(__file__).parents[2]
SQL = Path(__file__).parent / "sql"
BASE = (
    "20250901090000_reference_catalogue",
    "20250915090000_projects_and_estimates",
    "20250925090000_accounts",
)
READY = (
    "20251007120000_performance_indexes",
    "20251007121000_multitenancy_enhancement",
    "20251007122000_auth_security_enhancement",
)
ALL = (*BASE, *READY)
INDEXES, TENANCY, SECURITY = READY
APP = "smeta_app"


@pytest.fixture(scope="module", autouse=True)
def roles(server: TestServer) -> None:
    """The roles that are declared, made by somebody else: databases of other tests share them."""
    with closing(psycopg.connect(server.admin, autocommit=True)) as connection:
        for role in (APP, "smeta_readonly"):
            with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                connection.execute(f"create role {role}".encode())


@pytest.fixture
def project(tmp_path: Path, database: TestDatabase) -> Workspace:
    """The checkout's manifest and migrations; the environment `ci` is the fresh database."""
    workspace = Workspace.at(tmp_path / "smeta360", database)
    (workspace.root / "migrations").rmdir()
    shutil.copytree(CHECKOUT / "migrations", workspace.root / "migrations")
    shutil.copy(CHECKOUT / "smeta.yaml", workspace.manifest)
    workspace.environ["SMETA_CI_URL"] = database.conninfo.dsn
    return workspace


def build_at_once(project: Workspace) -> None:
    """Let `ci` build its indexes inside the transaction, as `dev` does."""
    text = project.manifest.read_text()
    assert "vars: {concurrently: true} " in text
    project.manifest.write_text(
        text.replace("vars: {concurrently: true} ", "vars: {concurrently: false} ", 1)
    )


def run(project: Workspace, *arguments: str) -> str:
    """Run a command that must succeed; its answer."""
    done = project.smeta(*arguments, "--env", "ci")
    assert done.code == 0, done.err
    return done.out


def listed(project: Workspace) -> list[str]:
    """The applied migrations that the manifest lists; what `tenancy:` declares is one more behind them."""
    return [version for version in project.applied() if not version.startswith("tenancy@")]


def schema(database: TestDatabase) -> str:
    """The schema without smeta's own tables: as pg_dump writes it, or from the catalogue of a foreign server."""
    if database.server.binaries is None:
        return "\n".join(str(row) for row in database.query((SQL / "schema.sql").read_text()))
    dump = subprocess.run(
        [
            database.server.binaries.directory / "pg_dump",
            "--schema-only",
            "--exclude-schema=smeta",
            "--exclude-table=public.schema_migrations*",
            f"--dbname={database.conninfo.dsn}",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return re.sub(r"^\\(un)?restrict .*\n", "", dump, flags=re.MULTILINE)  # a random word in each dump


@pytest.mark.parametrize("concurrently", [True, False])
def test_there_and_back_and_there_again(
    project: Workspace, database: TestDatabase, *, concurrently: bool
) -> None:
    if not concurrently:
        build_at_once(project)
    empty = schema(database)

    run(project, "apply")
    first = schema(database)
    run(project, "verify")
    run(project, "rollback", "7", "--no-backup", "--allow-destructive")
    assert schema(database) == empty
    assert project.applied() == []
    run(project, "apply", "--no-backup")

    assert schema(database) == first
    assert listed(project) == list(ALL)
    assert "nothing to do" in run(project, "plan")
    assert re.search(r"(\d+) of \1 hold", run(project, "verify"))


def test_one_by_one_each_way_back_is_the_way_it_came(project: Workspace, database: TestDatabase) -> None:
    stages = [schema(database)]
    for version in ALL:
        run(project, "apply", "--to", version, "--no-backup", "--allow-destructive")
        stages.append(schema(database))
    run(project, "apply", "--no-backup")
    stages.append(schema(database))
    assert len(set(stages)) == len(ALL) + 2

    for version, before in zip(reversed(project.applied()), reversed(stages[:-1]), strict=True):
        assert run(project, "rollback", "--no-backup", "--allow-destructive") == f"rolled back {version}\n"
        assert schema(database) == before, version


def test_status_on_the_base(project: Workspace) -> None:
    run(project, "apply", "--to", BASE[-1], "--no-backup")

    assert "total 6, applied 3, pending 3\n" in run(project, "status")


def test_the_backup_is_the_strongest_that_a_pending_migration_asks_for(project: Workspace) -> None:
    run(project, "apply", "--to", INDEXES)
    run(project, "apply")

    kinds = sorted(p.suffix for p in (project.root / "backups").iterdir() if p.suffix != ".json")
    assert kinds == [
        ".dump",
        ".sql",
        ".sql",
    ]  # everything before the migration that asks for it, else the schema
    assert {p.stat().st_mode & 0o777 for p in (project.root / "backups").iterdir()} == {0o600}


# the tenants


def attack(database: TestDatabase, role: str = "smeta_owner") -> None:
    """Try what one tenant may not do to another; raises what leaked. Leaves nothing behind."""
    with closing(psycopg.connect(database.admin)) as connection:
        connection.execute(f"set role {role}".encode())
        connection.execute((SQL / "tenant_isolation.sql").read_bytes())
        connection.rollback()


@pytest.mark.parametrize("role", [APP, "smeta_owner"])
def test_tenants_are_sealed(project: Workspace, database: TestDatabase, role: str) -> None:
    run(project, "apply", "--no-backup")
    database.query((SQL / "two_tenants.sql").read_text())

    attack(database, role)


def test_who_reads_only_and_who_signs_in_reach_no_more(project: Workspace, database: TestDatabase) -> None:
    run(project, "apply", "--no-backup")
    database.query((SQL / "two_tenants.sql").read_text())
    refused = (
        ("smeta_readonly", "update projects set name = 'x'"),
        ("smeta_readonly", "select from auth_users"),
        (APP, "select from auth_users"),
        (APP, "select from refresh_tokens"),
        (APP, "delete from audit_log"),
        (APP, "update phases set name = 'x'"),
        (APP, "insert into tenants (name, subdomain) values ('x', 'x')"),
        (APP, "select from statistics_2026_11"),
        (APP, "truncate projects"),
    )

    for role, statement in refused:
        with closing(psycopg.connect(database.admin)) as connection:
            connection.execute(f"set role {role}".encode())
            connection.execute("select set_tenant_context('aaaaaaaa-1111-4111-8111-111111111111')")
            assert connection.execute("select count(*) from projects").fetchall() == [(1,)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_the_demo_shows_two_companies_and_leaves_nothing(project: Workspace, database: TestDatabase) -> None:
    run(project, "apply", "--no-backup")
    assert database.server.binaries is not None
    psql, script = database.server.binaries.directory / "psql", CHECKOUT / "docs" / "two-companies.sql"

    shown = subprocess.run(
        [psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", "-f", script, database.conninfo.dsn],
        capture_output=True,
        text=True,
        check=True,
    )

    one, other, nobody = re.split(r"The other one|Nobody", shown.stdout)
    assert ("Ромашка" in one, "Василёк" in one) == (True, False)
    assert ("Ромашка" in other, "Василёк" in other) == (False, True)
    assert nobody.split()[-1] == "0"
    assert database.query_as_admin("select count(*) from tenants") == [(1,)]


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize(
    ("hole", "leak"),
    [
        ("alter table projects no force row level security", "projects"),
        ("alter table materials disable row level security", "materials"),
        ("create policy open on estimates for update using (true)", "estimates"),
        ("create policy open on estimate_items for delete using (true)", "estimate_items"),
        ("alter table statistics_2026_11 disable row level security", "statistics_2026_11"),
    ],
)
def test_the_attack_finds_a_hole(project: Workspace, database: TestDatabase, hole: str, leak: str) -> None:
    run(project, "apply", "--no-backup")
    database.query((SQL / "two_tenants.sql").read_text())
    database.query(hole)

    with pytest.raises(psycopg.errors.RaiseException, match=leak):
        attack(database)


# what its earlier draft did wrong


def test_every_concurrent_build_is_a_step_of_its_own(project: Workspace) -> None:
    plan = json.loads(run(project, "plan", "--format", "json"))["decision"]

    alone = [s for s in plan["steps"] if s["kind"] == "autocommit"]
    texts = [s["works"][0]["statements"][0]["text"] for s in alone]
    assert len(texts) == 6
    assert all(re.match(r"create (unique )?index concurrently ", text) for text in texts)
    inside = [
        statement["text"]
        for step in plan["steps"]
        if step["kind"] == "transaction"
        for work in step["works"]
        for statement in work["statements"]
    ]
    assert not [text for text in inside if re.match(r"(create|drop).* concurrently ", text)]


def test_built_at_once_everything_is_one_transaction(project: Workspace) -> None:
    build_at_once(project)

    plan = json.loads(run(project, "plan", "--format", "json"))["decision"]

    assert [s["kind"] for s in plan["steps"]] == ["backup", "transaction"]


SEALED = ("projects", "estimates", "estimate_items", "statistics", "user_tenants", "audit_log")


def test_rows_get_their_tenant_in_batches_where_the_application_runs(
    project: Workspace, database: TestDatabase
) -> None:
    run(project, "apply", "--to", INDEXES, "--no-backup")
    database.query(
        "insert into estimate_items (estimate_id, kind, name, unit, quantity, unit_price)"
        " select e.id, 'custom', 'i ' || i, 'h', 1, 1"
        " from (select id from estimates limit 1) as e, generate_series(1, 7000) as i"
    )

    run(project, "apply", "--no-backup")

    assert database.query("select state, rows >= 7000 from smeta.backfill") == [("done", True)]
    for table in SEALED:
        question = f"select count(*) > 0, count(tenant_id) = count(*), count(distinct tenant_id) from {table}"  # noqa: S608
        assert database.query_as_admin(question) == [(True, True, 1)]


def test_between_two_batches_the_application_as_it_was_can_write(
    project: Workspace, database: TestDatabase
) -> None:
    """It knows nothing of tenants yet: nothing refuses its rows, and none of them is in the way of the end."""
    run(project, "apply", "--to", SECURITY, "--no-backup")
    database.query("alter table estimate_items add constraint closed check (name = 'late') not valid")
    assert project.smeta("apply", "--env", "ci", "--no-backup").code == 5

    database.query(
        "insert into projects (name) values ('late');"
        "insert into estimates (project_id, number, title) select id, 'late', 'late' from projects where name = 'late';"
        "insert into statistics (type, metric_name, metric_value)"
        " select type, 'late', metric_value from statistics limit 1;"
        "insert into audit_log (table_name, record_id, action, new_values) values ('t', 'late', 'insert', '{}');"
        "alter table estimate_items drop constraint closed"
    )
    run(project, "apply", "--no-backup")

    late = database.query_as_admin(
        "select tenant_id from projects where name = 'late'"
        " union all select tenant_id from estimates where number = 'late'"
        " union all select tenant_id from statistics where metric_name = 'late'"
        " union all select tenant_id from audit_log where record_id = 'late'"
    )
    assert late == database.query_as_admin("select id from tenants") * 4


@pytest.mark.parametrize("table", ["estimate_items", "estimates"])
def test_stopped_on_the_way_to_what_is_declared_there_is_a_way_back_and_a_way_on(
    project: Workspace, database: TestDatabase, table: str
) -> None:
    """It fails in a batch, or before the last commit; then its run is abandoned, and undone."""
    run(project, "apply", "--to", SECURITY, "--no-backup")
    before = schema(database)
    database.query(f"alter table {table} add constraint closed check (false) not valid")

    stopped = project.smeta("apply", "--env", "ci", "--no-backup")
    assert stopped.code == 5, stopped.err
    ((stuck,),) = database.query("select id::text from smeta.run where finished_at is null")
    run(project, "apply", "--abandon", stuck)
    run(project, "rollback", "--no-backup", "--allow-destructive")

    database.query(f"alter table {table} drop constraint closed")
    assert schema(database) == before
    run(project, "apply", "--no-backup")
    forced = "select bool_and(relforcerowsecurity), count(*) from pg_class where relname = any(%s)"
    assert database.query(forced, list(SEALED)) == [(True, len(SEALED))]


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize(
    ("version", "damage"),
    [
        (INDEXES, "drop index materials_search_idx"),
        (INDEXES, "drop index auth_users_email_lower_idx"),
        (TENANCY, "alter table tenants drop constraint tenants_subdomain_key"),
        (TENANCY, "alter table materials drop column tenant_key cascade"),
        (TENANCY, "alter table work_materials drop constraint work_materials_own_or_shared_check"),
        (TENANCY, "drop trigger set_updated_at on projects"),
        (SECURITY, "drop table login_attempts cascade"),
        (SECURITY, "alter table auth_users drop column locked_until cascade"),
    ],
)
def test_validations_can_fail(project: Workspace, version: str, damage: str) -> None:
    """A migration that leaves something out is not applied."""
    build_at_once(project)
    path = project.root / "migrations" / f"{version}.sql"
    text = path.read_text()
    path.write_text(text.replace("-- ROLLBACK_START", f"{damage};\n-- ROLLBACK_START", 1))

    failed = project.smeta("apply", "--env", "ci", "--to", version, "--no-backup", "--allow-destructive")

    assert failed.code == 1
    assert "error[validation-failed]" in failed.err
    assert f"{version} validation " in failed.err
    assert project.applied() == []


def test_a_concurrent_build_that_fails_is_resumed(project: Workspace, database: TestDatabase) -> None:
    run(project, "apply", "--to", BASE[-1], "--no-backup")
    database.query(
        "insert into auth_users (email, password_hash, first_name, last_name)"
        " select upper(email), password_hash, first_name, last_name from auth_users limit 1"
    )

    halfway = project.smeta("apply", "--env", "ci", "--no-backup", "--allow-destructive")

    assert halfway.code == 5
    assert "Key (lower(email))=" in halfway.err
    assert INDEXES not in project.applied()
    assert "partial 1" in run(project, "status")
    database.query("delete from auth_users where email = upper(email); drop index auth_users_email_lower_idx")
    run(project, "apply", "--no-backup", "--allow-destructive")
    assert listed(project) == list(ALL)
    run(project, "verify")


# the data


def search(database: TestDatabase, words: str, tenant: str | None = None) -> tuple[list[str], str]:
    """What a search in the catalogue finds, and how PostgreSQL goes about it, as the owner of the table."""
    query = (
        "select name from materials where deleted_at is null"
        " and to_tsvector('russian', name || ' ' || coalesce(description, ''))"
        " @@ websearch_to_tsquery('russian', %s) order by name"
    )
    with closing(psycopg.connect(database.conninfo.dsn)) as connection:
        if tenant:
            connection.execute("select set_tenant_context(%s)", (tenant,))
        connection.execute("set local enable_seqscan = off")
        found = [row[0] for row in connection.execute(query, (words,))]
        plan = "\n".join(row[0] for row in connection.execute(f"explain {query}".encode(), (words,)))
    return found, plan


def test_russian_words_are_found_by_the_index_whatever_their_ending(
    project: Workspace, database: TestDatabase
) -> None:
    run(project, "apply", "--to", INDEXES, "--no-backup")

    found, plan = search(database, "бетонов")

    assert found == ["Бетон М100 В7,5", "Бетон М300 В22,5"]
    assert set(search(database, "кирпичей OR красками")[0]) == {
        "Кирпич керамический полнотелый",
        "Краска интерьерная моющаяся",
    }
    assert "materials_search_idx" in plan


def test_a_tenant_finds_the_shared_catalogue_and_nobody_else_does(
    project: Workspace, database: TestDatabase
) -> None:
    run(project, "apply", "--no-backup")
    ((tenant,),) = database.query_as_admin("select id::text from tenants")

    found, _ = search(database, "гранитного щебня", tenant)

    assert found == ["Бетон М300 В22,5"]
    assert search(database, "гранитного щебня")[0] == []
