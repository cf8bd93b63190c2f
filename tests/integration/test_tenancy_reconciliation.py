"""Tenants as declared: made, adopted, repaired and taken back, on real servers, by what the catalogue and roles say."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from smeta_declare.postgres.connection import ServerError
from smeta_declare.tenancy.declaration import Tenancy
from smeta_declare.tenancy.findings import catalogue_findings
from tests.servers import TestDatabase, TestServer, fresh_database
from tests.tenants import Tenants, declared
from tests.waiting import until
from tests.workspace import Workspace

ROLES = {
    "create": True,
    "owner": "smeta_owner",
    "application": [f"app_{os.getpid()}"],
    "read_only": [f"Read Only {os.getpid()}"],
}
APP, READER = ROLES["application"][0], ROLES["read_only"][0]  # type: ignore[index]
TABLES: dict[str, Any] = {
    "projects": "tenant",
    "estimates": {"class": "tenant", "parent": "projects"},
    "items": {"class": "tenant", "parent": "estimates"},
    "notes": {"class": "tenant", "parent": "projects", "via": "project_id"},
    "remarks": {"class": "tenant", "parent": "notes", "via": "note_id"},
    "events": "tenant",
    "animals": "tenant",
    "materials": "overlay",
    "open_projects": "tenant",
    "newest_projects": "tenant",
    "project_counts": "internal",
    "phases": "global",
    "accounts": "internal",
    "Sales.Order Lines": {"class": "tenant", "application": ["select", "insert"]},
}
SCHEMA = '''
create table tenants (id uuid primary key default gen_random_uuid(), name text not null, subdomain text unique);
create table projects (id uuid primary key default gen_random_uuid(), name text not null, number int unique);
create table estimates (id uuid primary key default gen_random_uuid(),
    project_id uuid not null references projects on delete cascade, title text, unique (project_id, title));
create table items (id bigserial primary key, estimate_id uuid references estimates on delete set null,
    before_id bigint references items, code text);
create unique index items_code on items (lower(code)) where code <> '';
create table notes (id int primary key, project_id uuid not null references projects, body text);
create table remarks (id int primary key, note_id int references notes);
create table events (id int, at date not null, kind text) partition by range (at);
create table events_1 partition of events for values from ('2026-01-01') to ('2027-01-01');
create table events_2 partition of events for values from ('2027-01-01') to ('2028-01-01') partition by list (kind);
create table events_2_a partition of events_2 for values in ('a');
create table animals (id int primary key, name text);
create table dogs (tail int) inherits (animals);
create table materials (id text primary key, name text);
create view open_projects as select * from projects;
create view newest_projects as select id, name from open_projects;
create materialized view project_counts as select count(*) from projects;
create table phases (id text primary key);
create table accounts (id int primary key, email text unique);
create schema "Sales";
create table "Sales"."Order Lines" ("Line ""No""" int primary key, "select" text);
'''
ROWS = """
insert into projects (id, name, number) select gen_random_uuid(), 'p' || n, n from generate_series(1, 20) n;
insert into estimates (project_id, title) select id, 't' from projects;
insert into items (estimate_id, code)
    select estimates.id, number::text from estimates join projects p on p.id = project_id;
insert into notes select number, id from projects;
insert into remarks select id, id from notes;
insert into events select n, date '2026-05-01' + n * 20, 'a' from generate_series(1, 20) n;
insert into animals values (1, 'cat');
insert into dogs values (2, 'dog', 1);
insert into materials values ('m.1', 'sand');
insert into phases values ('ground');
insert into accounts values (1, 'a@example.org');
insert into "Sales"."Order Lines" values (1, 'x');
"""
A, B = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
NOBODY = "00000000-0000-0000-0000-0000000000ff"
DEFAULT = {"name": "First", "subdomain": "default"}


def tenancy(**more: Any) -> Tenancy:
    return declared(
        more.pop("roles", ROLES), {**TABLES, **more.pop("tables", {})}, **{"default_tenant": DEFAULT, **more}
    )


@pytest.fixture(scope="module", autouse=True)
def roles(server: TestServer) -> Iterator[None]:
    """Roles belong to the server: those that were made go when every database has gone that knows them."""
    yield
    with psycopg.connect(server.admin, autocommit=True) as connection:
        for role in (APP, READER, OTHER):
            connection.execute(f'drop role if exists "{role}"'.encode())


@pytest.fixture(scope="module")
def sealed(server: TestServer, roles: None) -> Iterator[Tenants]:
    """A database that was populated first, then reconciled in one transaction, and got two more tenants.

    Every test leaves it as it was.
    """
    with fresh_database(server) as database, Tenants.at(database) as tenants:
        database.query(SCHEMA + ROWS)
        tenants.reconcile(tenancy())
        _fill(tenants)
        tenants.as_it_was = tenants.fingerprint()
        yield tenants


@pytest.fixture(params=["empty", "populated", "gently"])
def fresh(request: pytest.FixtureRequest, server: TestServer) -> Iterator[tuple[Tenants, bool]]:
    """A database without tenants; whether its tables are used meanwhile."""
    with fresh_database(server) as database, Tenants.at(database) as tenants:
        database.query(SCHEMA + ("" if request.param == "empty" else ROWS))
        yield tenants, request.param == "gently"


def test_there_and_back_and_there(fresh: tuple[Tenants, bool]) -> None:
    tenants, gently = fresh
    before = tenants.fingerprint()

    first = tenants.reconcile(tenancy(), concurrently=gently)

    after = tenants.fingerprint()
    if gently:
        builds = [s for s in first.sql.splitlines() if s.startswith(("create index", "create unique"))]
        assert builds
        assert all(" concurrently " in s or " on only " in s for s in builds), builds
    steps = tenants.run(first.rollback_sql)
    assert steps == 1
    assert tenants.fingerprint().objects == before.objects
    again = tenants.planned(tenancy(), concurrently=gently)
    assert again is not None
    assert "create role" not in again.sql
    assert (tenants.run(again.sql) > 1) == gently
    assert tenants.fingerprint().objects == after.objects
    assert tenants.planned(tenancy()) is None


def test_from_every_boundary_there_is_a_way_back(server: TestServer) -> None:
    """Also where a unique key that is replaced is referred to by a foreign key that has not gone yet."""
    with fresh_database(server) as database, Tenants.at(database) as tenants:
        database.query(
            "create table tenants (id int primary key, name text unique); create table a (id int primary key);"
            "create table b (id int primary key, a int not null references a, above int, unique (a, id),"
            "    foreign key (a, above) references b (a, id));"
            "insert into a values (1); insert into b values (1, 1, null), (2, 1, 1)"
        )
        block = declared(ROLES, {"a": "tenant", "b": "tenant"}, default_tenant={"id": 1, "name": "first"})
        before = tenants.fingerprint()
        boundary, steps = 0, 1
        while boundary < steps:
            boundary += 1
            plan = tenants.planned(block, concurrently=True)
            assert plan is not None
            steps = tenants.run(plan.sql, until=boundary)
            tenants.run(plan.rollback_sql)
            assert tenants.fingerprint().objects == before.objects, boundary
    assert steps > 10


DRIFT = [
    "drop function public.set_tenant_context(uuid)",
    "create or replace function public.get_current_tenant_id() returns uuid language sql immutable parallel safe "
    "return nullif(current_setting('app.current_tenant_id', true), '')::uuid",
    "create or replace function public.get_current_tenant_id() returns uuid language sql stable parallel safe "
    "return current_setting('app.current_tenant_id', true)::uuid",
    "alter function public.get_current_tenant_id() security definer",
    "alter function public.set_tenant_context(uuid) set search_path = public",
    "create or replace function public.set_tenant_context(p_tenant_id uuid) returns void language sql "
    "as $$ select set_config('app.current_tenant_id', p_tenant_id::text, false) $$",
    "revoke execute on function public.get_current_tenant_id() from public, APP",
    "drop policy smeta_tenant on projects",
    "alter policy smeta_tenant on tenants using (true)",
    "alter policy smeta_tenant on projects with check (true)",
    "alter policy smeta_tenant on projects to public",
    "alter policy smeta_tenant on projects using (tenant_id::text = current_setting('app.current_tenant_id', true))",
    "alter policy smeta_tenant on notes using (true)",
    "alter policy smeta_tenant on remarks to smeta_owner",
    "drop policy smeta_tenant_select on materials; create policy smeta_tenant_select on materials using (true)",
    "alter policy smeta_tenant_select on materials using (tenant_id is null)",
    "drop policy smeta_tenant_delete on materials",
    "create policy smeta_tenant_more on projects for select to public using (true)",
    "create policy smeta_tenant on phases using (true); alter table phases enable row level security",
    "alter table projects disable row level security",
    "alter table projects no force row level security",
    "alter table events_1 no force row level security",
    "alter table events_2_a disable row level security",
    "alter table dogs disable row level security",
    "alter table projects alter column tenant_id drop default",
    "alter table projects alter column tenant_id set default '00000000-0000-0000-0000-000000000000'",
    "alter table projects alter column tenant_id drop not null",
    "alter table items alter column tenant_id drop not null",
    "alter table phases add column tenant_id uuid default public.get_current_tenant_id()",
    "drop index animals_tenant_id_idx",
    "drop index items_tenant_id_estimate_id_idx",
    "alter table projects drop constraint if exists projects_tenant_id_fkey",
    "alter table projects drop constraint if exists projects_tenant_id_number_key, add constraint n unique (number)",
    "alter table estimates drop constraint if exists estimates_tenant_id_project_id_fkey, "
    "add constraint p foreign key (project_id) references projects",
    "alter table estimates add constraint p foreign key (project_id) references projects on delete cascade",
    "alter table estimates drop constraint if exists estimates_tenant_id_project_id_fkey, add constraint e "
    "foreign key (project_id, tenant_id) references projects (id, tenant_id) on delete cascade not valid",
    "grant truncate, references on projects to APP",
    "grant update (name), references (id) on tenants to APP",
    "grant select on projects to APP with grant option",
    "grant select on projects to public",
    "grant insert (name) on projects to public",
    "revoke delete on projects from APP",
    'grant all on events_1, dogs, accounts, project_counts to APP, "READER"',
    'grant insert on phases to "READER"',
    'revoke usage on schema "Sales" from APP',
    "revoke usage on sequence items_id_seq from APP",
    "alter view open_projects reset (security_invoker)",
    "create or replace view newest_projects with (security_invoker = false) as select id, name from open_projects",
]


# What is right again, and not byte for byte what it was: columns stay, keys keep a person's name.
NOT_THE_SAME = ("add column", "drop constraint if", "revoke execute")


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_by_hand_is_planned_back_and_can_be_had_again(sealed: Tenants, drift: str) -> None:
    wanted = sealed.as_it_was
    sealed.session.run(drift.replace("APP", APP).replace("READER", READER))  # one message, one transaction
    drifted = sealed.fingerprint()
    assert drifted.objects != wanted.objects
    try:
        repair = sealed.reconcile(tenancy())
        repaired = sealed.fingerprint()
        sealed.run(repair.rollback_sql)
        assert sealed.fingerprint().objects == drifted.objects
    finally:
        if again := sealed.planned(tenancy()):
            sealed.run(again.sql)
        if any(said in drift for said in NOT_THE_SAME):
            sealed.session.run("alter table phases drop column if exists tenant_id")
            sealed.as_it_was = sealed.fingerprint()
    assert repair.words
    assert all(word.strip() for word in repair.words)
    if not any(said in drift for said in NOT_THE_SAME):
        assert repaired.objects == wanted.objects


def test_what_has_changed_is_said(sealed: Tenants) -> None:
    sealed.session.run("alter policy smeta_tenant on projects to public using (true) with check (true)")

    repair = sealed.reconcile(tenancy())

    now = "tenant_id = (select public.get_current_tenant_id())"
    assert repair.words == (
        f"projects: policy smeta_tenant is for {APP}, {READER}, smeta_owner, not for public, shows rows where {now}, "
        f"not where true, accepts rows where {now}, not where true",
    )


OTHER = f"other_{os.getpid()}"
SETTINGS: dict[str, dict[str, Any]] = {
    "column": {"column": "Company"},
    "setting": {"setting": "app.company"},
    "schema of the functions": {"functions": {"schema": "Sales"}},
    "names of the functions": {"functions": {"set": "set_company", "current": "Company"}},
    "another application": {"roles": {**ROLES, "application": [APP, OTHER]}},
    "no reader": {"roles": {**ROLES, "read_only": []}},
    "another reader": {"roles": {**ROLES, "read_only": [OTHER]}},
    "form": {"policy_form": "inline"},
    "form of one": {"tables": {"projects": {"class": "tenant", "policy_form": "inline"}}},
    "guard": {"guard": "restrictive"},
    "rights": {"tables": {"projects": {"class": "tenant", "application": ["select"], "read_only": []}}},
    "tenant to overlay": {"tables": {"animals": "overlay"}},
    "tenant to global": {"tables": {"animals": "global"}},
    "tenant to internal": {"tables": {"events": "internal"}},
    "overlay to tenant": {"tables": {"materials": "tenant"}},
    "global to tenant": {"tables": {"phases": "tenant"}},
    "internal to overlay": {"tables": {"accounts": "overlay"}},
    "with a column": {"tables": {"notes": {"class": "tenant", "parent": "projects"}, "remarks": "internal"}},
    "view to internal": {"tables": {"newest_projects": "internal"}},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_setting_is_changed_and_changed_back(sealed: Tenants, setting: str) -> None:
    before = sealed.as_it_was
    changed = tenancy(**SETTINGS[setting])

    there = sealed.reconcile(changed, concurrently=sealed.database.server.major >= 18)

    assert sealed.fingerprint().objects != before.objects
    sealed.run(there.rollback_sql)
    sealed.database.query_as_admin(
        "update materials set tenant_id = null where id = 'm.1'"
    )  # rows are not undone
    assert sealed.fingerprint().objects == before.objects


COUNTS = """
select (select count(*) from tenants), (select count(*) from projects), (select count(*) from estimates),
    (select count(*) from items), (select count(*) from notes), (select count(*) from remarks),
    (select count(*) from events), (select count(*) from materials), (select count(*) from newest_projects),
    (select count(*) from animals), (select count(*) from "Sales"."Order Lines"), (select count(*) from phases)
"""


def _fill(tenants: Tenants) -> None:
    """A few rows for two tenants each, made by the application beside those of the default tenant."""
    tenants.database.query_as_admin(f"insert into tenants values ('{A}', 'A', 'a'), ('{B}', 'B', 'b')")
    for number, tenant in enumerate((A, B)):
        for statement in (
            f"insert into projects (id, name, number) values ('{tenant}', 'one', {number + 1001})",
            f"insert into estimates (id, project_id, title) values ('{tenant}', '{tenant}', 'e')",
            f"insert into items (estimate_id, code) values ('{tenant}', 'same')",
            f"insert into notes values ({number + 100}, '{tenant}', 'note')",
            f"insert into remarks values ({number + 100}, {number + 100})",
            "insert into events values (1, '2026-07-01', 'a'), (2, '2027-07-01', 'a')",
            f"insert into animals values ({number + 100}, 'cow')",
            f"insert into materials values ('own.{number}', 'brick')",
            f'insert into "Sales"."Order Lines" values ({number + 100}, \'x\')',
        ):
            tenants.as_tenant(APP, tenant, statement)


@pytest.mark.parametrize("role", [APP, READER, "smeta_owner"], ids=["application", "reader", "owner"])
def test_a_tenant_sees_its_own_and_nobody_sees_without_one(sealed: Tenants, role: str) -> None:
    for tenant in (A, B):
        assert sealed.as_tenant(role, tenant, COUNTS) == [(1, 1, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1)]
    assert sealed.as_tenant(role, None, COUNTS) == [(0,) * 11 + (1,)]
    assert sealed.as_tenant(role, None, "select get_current_tenant_id() is null") == [(True,)]


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        (f"insert into projects (name, tenant_id) values ('x', '{B}')", "42501"),
        (f"update projects set tenant_id = '{B}'", "42501"),
        (f"insert into estimates (project_id) values ('{B}')", "23503"),
        ("insert into notes values (999, '" + B + "')", "42501"),
        ("insert into remarks values (999, 101)", "42501"),
        ("insert into materials (id, tenant_id) values ('shared', null)", "42501"),
        ("update materials set tenant_id = null", "42501"),
        ("insert into projects (name, number) values ('again', 1001)", "23505"),
        ("insert into phases values ('x')", "42501"),
        ("select from accounts", "42501"),
        ("select from project_counts", "42501"),
        ("select from events_1", "42501"),
        ("select from dogs", "42501"),
        ("truncate projects", "42501"),
        ("insert into tenants (name) values ('C')", "42501"),
        ("lock table projects; alter table projects no force row level security", "42501"),
        ("select set_tenant_context('x')", "22P02"),
    ],
)  # fmt: skip
def test_a_tenant_cannot(sealed: Tenants, statement: str, sqlstate: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        sealed.as_tenant(APP, A, statement)

    assert refused.value.sqlstate == sqlstate


def test_blind_writes_reach_no_other_tenant(sealed: Tenants) -> None:
    statement = (
        "with d as (delete from items returning 1), u as (update projects set name = 'u' returning 1), \
        m as (update materials set name = 'm' returning 1) select (select count(*) from d), (select count(*) from u), \
        (select count(*) from m)"
    )
    with psycopg.connect(sealed.database.admin) as connection:
        connection.execute("select set_config('role', %s, true), set_tenant_context(%s)", (APP, A))
        counts = connection.execute(statement.encode()).fetchall()
        connection.rollback()

    assert counts == [(1, 1, 1)]


def test_the_context_ends_with_the_transaction_and_what_is_left_is_nobody(sealed: Tenants) -> None:
    with psycopg.connect(sealed.database.conninfo.dsn) as connection:
        connection.execute("select set_tenant_context(%s)", (A,))
        assert connection.execute("select count(*) from projects").fetchall() == [(1,)]
        connection.commit()
        assert connection.execute("select current_setting('app.current_tenant_id', true)").fetchall() == [
            ("",)
        ]
        assert connection.execute("select count(*) from projects").fetchall() == [(0,)]


def test_the_policy_is_an_index_condition_asked_once(sealed: Tenants) -> None:
    with psycopg.connect(sealed.database.admin) as connection:
        connection.execute("select set_config('role', %s, true), set_tenant_context(%s)", (APP, A))
        connection.execute("set local enable_seqscan = off")
        plan = connection.execute("explain select from projects where number = 1").fetchall()
    text = "\n".join(row[0] for row in plan)

    assert "InitPlan" in text
    assert "Index Cond: (" in text
    assert "Seq Scan" not in text


@pytest.mark.parametrize("type", ["text", "integer", "bigint", "varchar(20)", "domain"])
def test_keys_of_other_types(server: TestServer, type: str) -> None:
    with fresh_database(server) as database, Tenants.at(database) as tenants:
        database.query(
            "create domain domain as text;"
            f"create table tenants (id {type} primary key); insert into tenants values ('1'), ('2');"
            "create table a (id int primary key); insert into a values (1);"
            "create table b (id int primary key, a_id int references a);"
            "create table c (id int primary key)"
        )
        before = tenants.fingerprint()
        block = declared(
            {**ROLES, "create": True},
            {"a": "tenant", "b": "tenant", "c": "overlay"},
            default_tenant={"id": "2"},
            unclassified="warn",
        )

        made = tenants.reconcile(block)

        assert database.query_as_admin("select tenant_id::text from a") == [("2",)]
        with psycopg.connect(database.admin) as connection:
            connection.execute("select set_config('role', %s, true), set_tenant_context('1')", (APP,))
            connection.execute(
                "insert into c values (1); insert into a values (2); insert into b values (1, 2)"
            )
            for table in "abc":
                assert connection.execute(f"select count(*) from {table}".encode()).fetchall() == [(1,)]
        tenants.run(made.rollback_sql)
        assert tenants.fingerprint().objects == before.objects


def test_rows_take_the_tenant_of_their_parent(server: TestServer) -> None:
    with fresh_database(server) as database, Tenants.at(database) as tenants:
        database.query(
            "create table tenants (id int primary key); insert into tenants values (1), (2), (3);"
            "create table a (id int primary key); insert into a select generate_series(1, 9)"
        )
        tenants.reconcile(declared(ROLES, {"a": "tenant"}, default_tenant={"id": 1}))
        database.query_as_admin("update a set tenant_id = 2 where id > 4")
        database.query(
            "create table b (id int primary key, a_id int references a);"
            "create table c (id int primary key, b_id int not null references b);"
        )
        database.query_as_admin(
            "insert into b select n, nullif(n, 9) from generate_series(1, 9) n; insert into c select id, id from b"
        )
        block = declared(
            ROLES,
            {"a": "tenant", "b": "tenant", "c": {"class": "tenant", "parent": "b"}},
            default_tenant={"id": 3},
        )

        tenants.reconcile(block, concurrently=True)

        rows = "select string_agg(tenant_id::text, '' order by id) from "
        assert database.query_as_admin(f"{rows} b") == [("111122223",)]
        assert database.query_as_admin(f"{rows} c") == [("111122223",)]
        assert database.query("select count(*) from a") == [(0,)], "the parent is forced again"


def test_what_cannot_be_put_right_is_told(sealed: Tenants) -> None:
    sealed.session.run(
        f"create table loose (id int); grant select (id) on loose to {APP};"
        "create table a (id int, tenant_id int); create table b (id int); insert into b values (1);"
    )
    block = tenancy(
        tables={
            "project_counts": "tenant",
            "a": "tenant",
            "b": "tenant",
            "Sales.Order Lines": {"class": "tenant", "parent": "projects"},
            "remarks": {"class": "tenant", "parent": "projects", "via": "note_id"},
            "later": "global",
        },
        default_tenant={},
        roles={**ROLES, "create": False, "bypass": ["nobody_knows"]},
    )

    found = catalogue_findings(block, sealed.catalogue(block))

    sealed.session.run("drop table loose, a, b")
    assert {(f.code, f.object, str(f.severity)) for f in found} == {
        ("tenancy-kind", "project_counts", "high"),
        ("tenancy-type", "a", "high"),
        ("tenancy-default", "b", "high"),
        ("tenancy-parent", "Sales.Order Lines", "high"),
        ("tenancy-via", "remarks", "high"),
        ("tenancy-missing", "later", "low"),
        ("tenancy-role", "nobody_knows", "high"),
        ("tenancy-unclassified", "loose", "high"),
    }
    assert catalogue_findings(tenancy(), sealed.catalogue(tenancy())) == ()


def test_a_role_that_reaches_past_row_security_is_told(sealed: Tenants) -> None:
    sealed.database.query_as_admin(f"grant smeta_backup to {APP}")
    try:
        (found,) = catalogue_findings(tenancy(), sealed.catalogue(tenancy()))
    finally:
        sealed.database.query_as_admin(f"revoke smeta_backup from {APP}")

    assert found.message == f"{APP} can become smeta_backup, which is not bound by row security"


def test_a_reference_to_an_overlay_is_told_unless_it_says_whose(sealed: Tenants) -> None:
    sealed.session.run(
        "create table uses (id int, material text references materials);"
        "create table things (id int, whose text generated always as (coalesce(tenant_id::text, 'shared')) stored, "
        "  tenant_id uuid, primary key (whose, id));"
        "create table uses_things (id int, thing int, whose text, foreign key (whose, thing) references things)"
    )
    block = tenancy(tables={"uses": "tenant", "things": "overlay", "uses_things": "tenant"})

    found = catalogue_findings(block, sealed.catalogue(block))

    sealed.session.run("drop table uses, uses_things, things")
    assert [(f.code, f.message) for f in found] == [
        ("tenancy-overlay", "uses.uses_material_fkey accepts another tenant's row of materials")
    ]


@pytest.mark.parametrize("gently", [False, True])
def test_a_foreign_key_is_not_taken_for_valid_because_its_rows_are_hidden(
    sealed: Tenants, *, gently: bool
) -> None:
    """Under forced row security PostgreSQL looks only at the rows that the owner sees: at none, and it is content."""
    sealed.session.run("alter table projects drop constraint if exists projects_tenant_id_fkey")
    sealed.database.query_as_admin(f"insert into projects (name, tenant_id) values ('orphan', '{NOBODY}')")
    repair = sealed.planned(tenancy(), concurrently=gently)
    assert repair is not None

    with pytest.raises(ServerError) as refused:
        sealed.run(repair.sql)

    assert refused.value.sqlstate == "23503"
    sealed.database.query_as_admin("delete from projects where name = 'orphan'")
    sealed.reconcile(tenancy())
    assert sealed.words(tenancy()) == ()


def test_an_application_that_knows_its_tenant_goes_on_meanwhile(
    workspace: Workspace, database: TestDatabase
) -> None:
    """It sets the context before anything reads it; writers and readers of all tables see no error."""
    block = tenancy(tables={"events": "internal"})
    database.query(SCHEMA + ROWS)
    database.query_as_admin(
        f"do $$ begin create role {APP}; exception when duplicate_object then end $$;"
        f"grant select, insert, update on projects, estimates, items, materials to {APP};"
        f"grant usage on sequence items_id_seq to {APP}"
    )
    ((default,),) = database.query(
        "insert into tenants (name, subdomain) values ('First', 'default') returning id"
    )
    over, errors, done = threading.Event(), list[str](), {"writes": 0, "reads": 0}

    def work(kind: str, *statements: str) -> None:
        try:
            with psycopg.connect(database.admin) as connection:
                connection.execute("select set_config('role', %s, false)", (APP,))
                connection.commit()
                while not over.is_set():
                    connection.execute(
                        "select set_config('app.current_tenant_id', %s, true)", (str(default),)
                    )
                    for statement in statements:
                        connection.execute(statement.encode())
                    connection.commit()
                    done[kind] += 1
        except psycopg.Error as error:
            errors.append(f"{kind}: {error}")

    writes = (
        "with p as (insert into projects (name) values ('w') returning id), "
        "e as (insert into estimates (project_id, title) select id, 'w' from p returning id) "
        "select count(*) from e",
        "insert into items (code) values (gen_random_uuid()::text)",
        "update projects set name = 'u' where number = 7",
    )
    reads = (
        "select count(*) from projects join estimates on project_id = projects.id",
        "select from materials",
    )
    workers = [threading.Thread(target=work, args=args) for args in (("writes", *writes), ("reads", *reads))]
    with Tenants.at(database) as tenants:
        found = tenants.planned(block, concurrently=True)
        assert found is not None
        workspace.environment = "locks: {retries: {attempts: 60}}"
        workspace.migration("1_tenancy", found.sql, found.rollback_sql)
        for worker in workers:
            worker.start()
        try:
            until(lambda: min(done.values()) > 3 or bool(errors))
            applied = workspace.smeta("apply", "--env", "test")
            before = dict(done)
            until(lambda: all(done[kind] > before[kind] + 3 for kind in done) or bool(errors))
        finally:
            over.set()
            for worker in workers:
                worker.join()

        assert errors == []
        assert applied.code == 0, applied.err
        assert tenants.planned(block) is None
    assert database.query_as_admin("select count(*) from items where tenant_id is null") == [(0,)]
    assert database.query_as_admin("select count(distinct tenant_id) from estimates") == [(1,)]
