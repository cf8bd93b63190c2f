"""What migrations make, read from their text alone: the same as what a server makes of them."""

from __future__ import annotations

from typing import Any

from smeta_declare.parser import tree
from smeta_declare.tenancy.adoption import reconciliation, wanted_sql
from smeta_declare.tenancy.fold import folded
from smeta_declare.tenancy.model import Catalogue, Relation
from tests.servers import TestDatabase
from tests.tenants import Tenants, declared

SQL = """
create table tenants (id uuid primary key, code varchar(9) unique);
create schema s;
create table projects (id bigserial primary key, name text not null, at timestamptz, amount numeric(14,2)[]);
create table s."Odd Name" (a int, b int, "C c" text generated always as ('x') stored, primary key (a, b));
create table notes (id int generated always as identity primary key, project int references projects on delete cascade,
    a int, b int, foreign key (a, b) references s."Odd Name", unique (a, id));
alter table notes add column extra text unique, add column gone int unique;
alter table notes drop column gone, alter column extra set not null;
create table events (id int, at date not null) partition by range (at);
create table events_1 partition of events for values from ('2026-01-01') to ('2027-01-01');
create table events_2 (like events);
alter table events attach partition events_2 for values from ('2027-01-01') to ('2028-01-01');
create table animals (id int);
create table dogs (tail int) inherits (animals);
create view v as select 1 as one;
create materialized view m as select 1 as one;
create table copied as select 1 as one;
create table dropped (id int primary key);
create table refers (id int references dropped, p bigint);
drop table dropped cascade;
create unique index refers_lower on refers (id) where id > 1;
create unique index refers_p on refers (p);
alter table refers add constraint refers_p_key unique using index refers_p;
alter table refers rename column p to project;
alter table refers rename to referring;
alter table referring rename constraint refers_p_key to project_once;
alter table referring add foreign key (project) references projects;
alter table projects rename to works;
alter table animals set schema s;
create temporary table passing (id int);
"""


def shape(relation: Relation) -> Any:
    """What the fold promises to know of a relation."""
    columns = relation.columns if relation.name.name != "copied" else ()
    return {
        "kind": relation.kind,
        "partition": relation.partition,
        "parents": relation.parents,
        "columns": sorted((c.name, c.type, c.compared, c.not_null, c.generated) for c in columns),
        "references": sorted(
            (c.columns, c.target, c.target_columns, c.on_delete) for c in relation.references()
        ),
        "keys": sorted((c.type, c.name, c.columns) for c in relation.constraints if c.type in "pu"),
        "sequences": relation.sequences,
        "unique": sorted((i.columns, i.partial) for i in relation.indexes if i.unique),
    }


def shapes(catalogue: Catalogue) -> dict[str, Any]:
    return {r.name.sql: shape(r) for r in catalogue.relations}


def test_fold_is_what_the_server_makes(database: TestDatabase) -> None:
    database.query(SQL)
    with Tenants.at(database) as tenants:
        there = tenants.catalogue(declared({"owner": "o", "application": ["a"]}, {"notes": "tenant"}))

    assert shapes(folded(tree(SQL))) == shapes(there)


def test_wanted_sql_brings_an_empty_database_to_what_is_declared(database: TestDatabase) -> None:
    block = declared(
        {"owner": "smeta_owner", "application": ["smeta_backup"]},
        {
            "works": "tenant",
            "notes": {"class": "tenant", "parent": "works"},
            "events": "tenant",
            "v": "tenant",
        },
    )
    database.query(SQL)
    wanted = wanted_sql(block, folded(tree(SQL)))

    with Tenants.at(database) as tenants:
        tenants.run(wanted)
        assert tenants.planned(block) is None
    assert wanted == wanted_sql(block, folded(tree(SQL)))


def test_a_foreign_key_that_was_dropped_is_known_from_the_migrations(database: TestDatabase) -> None:
    made = folded(tree(SQL))
    block = declared(
        {"owner": "smeta_owner", "application": ["smeta_backup"]},
        {"works": "tenant", "notes": {"class": "tenant", "parent": "works"}},
    )
    database.query(SQL)
    with Tenants.at(database) as tenants:
        tenants.reconcile(block)
        sealed = tenants.fingerprint()
        tenants.session.run(
            "alter table notes drop constraint notes_tenant_id_project_fkey;"
            "alter table works drop constraint works_tenant_id_id_key"
        )

        repair = reconciliation(block, tenants.catalogue(block), made=made)

        assert repair is not None
        assert repair.words == (
            "works: (tenant_id, id) is unique",
            "notes: (tenant_id, project) refers to works",
        )
        tenants.run(repair.sql)
        assert tenants.fingerprint().objects == sealed.objects
        assert reconciliation(block, tenants.catalogue(block), made=made) is None
