"""`smeta tenants`: all tenants are listed although row security binds the owner, one is made whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.servers import TestDatabase, TestServer, fresh_database
from tests.workspace import Outcome, Workspace

APP, PAST = f"app_tenants_{os.getpid()}", f"past_{os.getpid()}"
TENANCY = f"""
tenancy:
  strategy: row
  since: 1_base
  registry: {{table: tenants}}
  roles: {{create: true, owner: smeta_owner, application: [{APP}]}}
  default_tenant: {{subdomain: first, name: First}}
  tables:
    projects: tenant
    notes: {{class: tenant, parent: projects, via: project}}
    materials: overlay
    phases: global
"""
BASE = """
create table tenants (id uuid primary key default gen_random_uuid(), name text not null check (name <> 'Nobody'),
    subdomain text not null unique, settings jsonb not null default '{}',
    label text generated always as (upper(subdomain)) stored);
create table projects (id uuid primary key default gen_random_uuid(), name text);
create table notes (id int primary key, project uuid not null references projects);
create table materials (id text primary key);
create table phases (id text primary key);
insert into materials values ('shared');
"""
SEED = """
create function seed() returns trigger language plpgsql as $$ begin
    insert into public.projects (name) values (new.name);
    if new.subdomain = 'late' then raise exception 'no more' using errcode = '23514'; end if;
    return new;
end $$;
create trigger seed after insert on tenants for each row execute function seed();
"""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n")


@pytest.fixture(scope="module")
def sealed(server: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project whose tenants are sealed; every test makes tenants of its own."""
    with fresh_database(server) as database:
        workspace = Workspace.at(tmp_path_factory.mktemp("tenants") / "trial", database)
        workspace.more = TENANCY
        workspace.migration("1_base", BASE + SEED)
        done = workspace.smeta("apply", "--env", "test")
        assert done.code == 0, done.err
        created(workspace, "First", "first")
        yield workspace
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(f"drop role if exists {APP}".encode())


def tenants(workspace: Workspace, *arguments: str, env: str = "test") -> Outcome:
    return workspace.smeta("tenants", *arguments, "--env", env)


def created(workspace: Workspace, name: str, subdomain: str) -> str:
    done = tenants(workspace, "create", name, "--set", f"subdomain={subdomain}")
    assert (done.code, bool(UUID.fullmatch(done.out))) == (0, True), done.err
    return done.out.strip()


def database_of(workspace: Workspace) -> TestDatabase:
    assert workspace.database is not None
    return workspace.database


def forced(workspace: Workspace) -> bool:
    found = database_of(workspace).query("select relforcerowsecurity from pg_class where relname = 'tenants'")
    return bool(found[0][0])


def test_what_is_created_is_listed_by_an_owner_whom_row_security_binds(sealed: Workspace) -> None:
    one, other = created(sealed, "Альфа", "alpha"), created(sealed, 'O\'Hara "&" Co', "beta")
    assert forced(sealed)
    assert database_of(sealed).query("select from tenants") == []

    listed = tenants(sealed, "list", "--format", "json").json

    assert listed["format"] == "smeta.tenants/1"
    assert listed["more"] is False
    assert [t["id"] for t in listed["tenants"]] == sorted(t["id"] for t in listed["tenants"])
    found = {t["id"]: t["columns"] for t in listed["tenants"]}
    assert found[one] == {"name": "Альфа", "subdomain": "alpha"}
    assert found[other] == {"name": 'O\'Hara "&" Co', "subdomain": "beta"}
    assert f"{one}  Альфа " in tenants(sealed, "list").out
    assert forced(sealed)


def test_a_list_is_bounded_and_says_so(sealed: Workspace) -> None:
    created(sealed, "c", "c")
    created(sealed, "d", "d")

    shown = tenants(sealed, "list", "--limit", "1")
    listed = tenants(sealed, "list", "--limit", "1", "--format", "json").json

    assert len(shown.out.splitlines()) == 2
    assert "there are more than 1" in shown.err
    assert (len(listed["tenants"]), listed["more"]) == (1, True)


def test_the_owner_waits_for_no_lock_on_the_registry(sealed: Workspace) -> None:
    with psycopg.connect(database_of(sealed).conninfo.dsn) as other:
        other.execute("lock table tenants in row exclusive mode")

        refused = tenants(sealed, "list")

    assert (refused.code, "error[server-busy]" in refused.err) == (4, True), refused.err
    assert forced(sealed)


def test_a_declared_role_past_row_security_is_asked_and_locks_nothing(sealed: Workspace) -> None:
    database = database_of(sealed)
    database.query_as_admin(
        f"create role {PAST} bypassrls; grant {PAST} to smeta_owner; grant select on tenants to {PAST}"
    )
    sealed.more = TENANCY.replace("application:", f"bypass: [{PAST}], application:")
    sealed.write_manifest()
    tenant = created(sealed, "e", "e")
    try:
        with psycopg.connect(database.conninfo.dsn) as other:
            other.execute("lock table tenants in row exclusive mode")
            listed = tenants(sealed, "list", "--format", "json")
    finally:
        sealed.more = TENANCY
        sealed.write_manifest()
        database.query_as_admin(f"drop owned by {PAST}; drop role {PAST}")

    assert tenant in [t["id"] for t in listed.json["tenants"]], listed.err


def test_who_may_not_see_all_tenants_is_told_so_and_sees_none(sealed: Workspace) -> None:
    database = database_of(sealed)
    database.query_as_admin(
        f"create role {PAST}; grant {PAST} to smeta_owner; grant select on tenants to {PAST}"
    )
    sealed.environment = f"role: {PAST}"
    sealed.write_manifest()
    try:
        refused = [tenants(sealed, *verb) for verb in (("list",), ("create", "f", "--set", "subdomain=f"))]
    finally:
        sealed.environment = "{}"
        sealed.write_manifest()
        database.query_as_admin(f"drop owned by {PAST}; drop role {PAST}")

    for outcome in refused:
        assert (outcome.code, outcome.out) == (3, "")
        assert "error[missing-privileges]" in outcome.err


def test_a_tenant_is_shown_with_its_own_rows_counted(sealed: Workspace) -> None:
    tenant, other = created(sealed, "g", "g"), created(sealed, "h", "h")
    for owner, first in ((tenant, 0), (other, 50)):
        with psycopg.connect(database_of(sealed).conninfo.dsn) as owned:
            owned.execute("select set_tenant_context(%s)", (owner,))
            owned.execute("insert into projects (name) select 'p' from generate_series(1, 6)")
            owned.execute(
                "insert into notes select %s + n, projects.id from generate_series(1, 3) n, projects where name <> 'p'",
                (first,),
            )
            owned.execute("insert into materials values (%s)", (f"own {first}",))

    found = tenants(sealed, "show", tenant, "--format", "json").json["tenants"][0]
    bounded = tenants(sealed, "show", tenant, "--limit", "3", "--format", "json").json["tenants"][0]
    shown = tenants(sealed, "show", tenant, "--limit", "3").out

    assert found["columns"] == {"name": "g", "subdomain": "g", "settings": {}, "label": "G"}
    assert {c["table"]: (c["rows"], c["more"]) for c in found["counts"]} == {
        "projects": (7, False),
        "notes": (3, False),
        "materials": (1, False),
    }
    assert {c["table"]: (c["rows"], c["more"]) for c in bounded["counts"]}["projects"] == (3, True)
    assert re.search(r"^projects +more than 3$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("show", "00000000-0000-0000-0000-0000000000ff"), 1, "error[tenant-unknown]"),
        (("show", "g'; drop table tenants; --"), 64, "error[usage]"),
        (("create", "x"), 64, "--set subdomain=VALUE"),
        (("create", "x", "--set", "subdomian=x"), 64, "did you mean subdomain?"),
        (("create", "x", "--set", "label=x"), 64, "error[usage]"),
        (("create", "x", "--set", "subdomain"), 64, "COLUMN=VALUE"),
        (("create", "x", "--set", "name=y"), 64, "given twice"),
        (("create", " ", "--set", "subdomain=x"), 64, "is empty"),
        (("create", "a\nb", "--set", "subdomain=x"), 64, "cannot be printed"),
        (("create", "x", "--set", "subdomain=first"), 1, "error[tenant-exists]"),
        (("create", "Nobody", "--set", "subdomain=x"), 1, "error[tenant-invalid]"),
        (("create", "x", "--set", "subdomain=x", "--set", "settings={"), 1, "error[tenant-invalid]"),
        (("create", "x", "--set", "subdomain=late"), 1, "error[tenant-invalid]"),
        (("create", "x", "--set", "subdomain=x", "--id", "1"), 1, "error[tenant-invalid]"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    sealed: Workspace, arguments: tuple[str, ...], code: int, word: str
) -> None:
    question = (
        "select tenants.*, projects.name from tenants join projects on tenant_id = tenants.id order by 1"
    )
    before = database_of(sealed).query_as_admin(question)

    refused = tenants(sealed, *arguments)

    assert (refused.code, refused.out) == (code, ""), refused.err
    assert word in refused.err
    assert database_of(sealed).query_as_admin(question) == before


def test_a_protected_environment_needs_its_name(sealed: Workspace) -> None:
    sealed.environment = "protected: true"
    sealed.write_manifest()
    try:
        refused = tenants(sealed, "create", "p", "--set", "subdomain=p")
        done = tenants(sealed, "create", "p", "--set", "subdomain=p", "--confirm", "test")
    finally:
        sealed.environment = "{}"
        sealed.write_manifest()

    assert (refused.code, "error[consent-missing]" in refused.err) == (3, True)
    assert done.code == 0, done.err


@pytest.mark.parametrize("key", ["text", "integer generated always as identity", "bigserial"])
def test_keys_that_are_no_uuid(server: TestServer, key: str, workspace: Workspace) -> None:
    workspace.more = TENANCY.replace("subdomain: first, ", "")
    workspace.migration("1_base", f"create table tenants (id {key} primary key, name text)")

    refused = tenants(workspace, "create", "A")
    assert (refused.code, "error[tenancy-registry]" in refused.err) == (3, True), refused.err
    database_of(workspace).query(f"create table tenants (id {key} primary key, name text)")
    if key == "text":
        refused = tenants(workspace, "create", "A")
        assert (refused.code, "--id ID" in refused.err) == (64, True), refused.err
    wanted, more = ("it's", ("--id", "it's")) if key == "text" else ("1", ())

    assert tenants(workspace, "create", "A", *more).out == f"{wanted}\n"
    shown = tenants(workspace, "show", wanted)
    assert shown.out == f"id    {wanted}\nname  A\n"
    assert "not applied yet" in shown.err


def test_without_a_declaration_it_is_wrong_usage(offline: Workspace) -> None:
    for arguments in (("list",), ("create", "x"), ("show", "x")):
        refused = tenants(offline, *arguments)
        assert (refused.code, "declares no tenants" in refused.err) == (64, True)
