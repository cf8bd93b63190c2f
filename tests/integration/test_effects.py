"""The strongest lock of a statement, as the plan tells it, is what the server shows in its open transaction."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from smeta_declare.effects import LOCKS, strongest_lock
from smeta_declare.losses import losses
from smeta_declare.parser import tree
from tests.servers import TestDatabase

SCHEMA = """
create table t (id int primary key, a int, b text, constraint t_a check (a > 0) not valid);
create table u (id int primary key);
create index t_b on t (b);
create view v as select a from t;
create materialized view m as select 1 as one;
create unique index m_one on m (one);
create table p (id int, at date) partition by range (at);
create table p_1 (id int, at date);
create function f() returns trigger language plpgsql as $$begin return new; end$$;
create trigger t_f before update on t for each row execute function f();
create policy t_p on t using (true);
create sequence s;
"""
# What waits for snapshots of others or runs in no transaction is told by its documentation only.
STATEMENTS = [
    "select * from t",
    "select * from t for update",
    "insert into t values (1, 1)",
    "update t set a = 1",
    "delete from t",
    "merge into t using u on t.id = u.id when matched then delete",
    "truncate t",
    "alter table t add column c int",
    "alter table t drop column b cascade",
    "alter table t alter a set statistics 5",
    "alter table t alter a set (n_distinct = 5)",
    "alter table t set (fillfactor = 50)",
    "alter table t validate constraint t_a",
    "alter table t add foreign key (a) references u",
    "alter table t add check (a < 9)",
    "alter table t disable trigger t_f",
    "alter table t enable trigger all",
    "alter table t cluster on t_pkey",
    "alter table t enable row level security",
    "alter table t alter a set not null",
    "alter table t rename b to c",
    "alter table t rename to t_2",
    "alter table p attach partition p_1 for values from ('2026-01-01') to ('2026-02-01')",
    "create index on t (a)",
    "create table x (id int references u)",
    "create trigger x after insert on t for each row execute function f()",
    "create policy x on t using (true)",
    "alter policy t_p on t using (false)",
    "create rule x as on delete to t do instead nothing",
    "create statistics x on a, b from t",
    "comment on table t is 'x'",
    "create or replace view v as select a, id from t",
    "drop table t cascade",
    "drop index t_b",
    "drop view v",
    "drop trigger t_f on t",
    "drop policy t_p on t",
    "lock table t in share row exclusive mode",
    "refresh materialized view m",
    "refresh materialized view concurrently m",
    "reindex index t_b",
    "cluster t using t_pkey",
    "analyze t",
    "copy t to stdout",
    "create table x (id int)",
    "create type x as enum ('a')",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_strongest_lock_is_what_the_server_shows(database: TestDatabase, statement: str) -> None:
    database.query(SCHEMA)
    there = {
        oid
        for (oid,) in database.query("select oid from pg_class where relnamespace = 'public'::regnamespace")
    }

    with contextlib.closing(psycopg.connect(database.conninfo.dsn)) as connection:
        if statement.startswith("copy"):
            with connection.cursor().copy(statement.encode()) as copied:
                list(copied)
        else:
            connection.execute(statement.encode())
        rows = connection.execute(
            "select relation::int8, mode from pg_locks where pid = pg_backend_pid() and locktype = 'relation'"
        ).fetchall()
    held = [_spelled(mode) for oid, mode in rows if oid in there]

    assert strongest_lock(*tree(statement)[0]) == max(held, key=LOCKS.index, default=None)


def _spelled(mode: str) -> str:
    """`AccessShareLock` as SQL writes it."""
    words = "".join(f" {c}" if c.isupper() else c for c in mode.removesuffix("Lock"))
    return words.strip().upper()


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("drop table a, b.c cascade", ("table a", "table b.c")),
        ("drop view v", ()),
        ("drop schema s cascade", ("schema s",)),
        ("drop materialized view m", ("matview m",)),
        ("truncate a, b", ("all rows of a", "all rows of b")),
        ("delete from a", ("all rows of a",)),
        ("delete from a where id = 1", ("rows of a",)),
        ('alter table a drop column "B", add column c int', ('column "B" of a',)),
        ("update a set b = null", ()),
        ("with d as (delete from a returning *) insert into b select * from d", ("all rows of a",)),
        ("merge into a using b on a.id = b.id when matched then delete", ("rows of a",)),
        ("merge into a using b on a.id = b.id when matched then do nothing", ()),
        ("explain analyze delete from a", ("all rows of a",)),
        ("truncate a cascade", ("all rows of a, and of what refers to it",)),
        ("drop type mood", ()),
        ("drop type mood cascade", ("columns that need type mood",)),
        ("drop extension hstore cascade", ("columns that need extension hstore",)),
        ("drop function f() cascade", ("columns that need function f",)),
        ("drop owned by app", ("everything that app owns",)),
    ],
)
def test_what_is_lost_is_told(statement: str, lost: tuple[str, ...]) -> None:
    assert tuple(loss.what for loss in losses(*tree(statement)[0])) == lost
