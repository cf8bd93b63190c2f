"""What docs/tenancy.md shows: made as shown, under the locks that it says, and its requests stay with their tenant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from smeta_declare.manifest import parse_manifest
from smeta_declare.parser import tree
from smeta_declare.rendered import Rendered
from smeta_declare.rendering import section_of
from smeta_declare.resolve import resolve
from smeta_declare.tenancy.adoption import wanted_sql
from smeta_declare.tenancy.declaration import Tenancy
from smeta_declare.tenancy.fold import folded
from tests.pooler import pgbouncer
from tests.servers import TestDatabase, TestServer, fresh_database
from tests.tenants import Tenants

PAGE = (Path(__file__).parents[2] / "docs" / "tenancy.md").read_text(encoding="utf-8")
A, B = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
ROWS = """
insert into currencies values ('RUB');
insert into orders (number, currency) values ('F-1', 'RUB');
insert into order_lines (order_id, product, quantity) select id, 'sand', 1 from orders;
insert into products (name) values ('shared');
"""


def shown(language: str, mark: str) -> list[str]:
    """The blocks of the page; those within a list lose their indent."""
    found = re.findall(rf"^( *)```{language} {re.escape(mark)}\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, mark
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def example(mark: str) -> dict[str, Any]:
    """The names that a Python block defines."""
    names: dict[str, Any] = {}
    exec(compile(shown("python", mark)[0], f"docs/tenancy.md {mark}", "exec"), names)  # noqa: S102 # our own page
    return names


MIGRATION = shown("sql", "migration")[0].partition("-- ROLLBACK_START")[0]


def declaration() -> Tenancy:
    manifest = parse_manifest(shown("yaml", "smeta.yaml")[0], file="smeta.yaml")
    found = resolve(manifest, "dev", {}, offline=True).tenancy
    assert found is not None
    return found


@pytest.fixture(scope="module")
def shop(server: TestServer) -> Iterator[TestDatabase]:
    """The example, with an order of the first tenant from before, and one each of A and B."""
    with fresh_database(server) as database:
        database.query(MIGRATION + ROWS)
        with Tenants.at(database) as tenants:
            tenants.reconcile(declaration())
        for name, tenant in (("A", A), ("B", B)):
            database.query(
                f"set app.current_tenant_id = '{tenant}';"
                f"insert into tenants values ('{tenant}', '{name}', lower('{name}'));"
                f"insert into orders (number, currency) values ('{name}-1', 'RUB'), ('same', 'RUB')"
            )
        yield database
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute("drop role shop_app")


def application(database: TestDatabase) -> str:
    """The connection string of the application, in its role."""
    values = psycopg.conninfo.conninfo_to_dict(database.admin) | {"options": "-c role=shop_app"}
    values.pop("dbname")
    return f"postgresql:///{database.name}?" + "&".join(
        f"{key}={quote(str(value), safe='')}" for key, value in values.items()
    )


def test_what_is_made_is_what_is_shown() -> None:
    wanted = wanted_sql(declaration(), folded(tree(MIGRATION))).splitlines()

    for text in shown("sql", "tenancy.sql"):
        lines = text.splitlines()
        assert [line for line in wanted if line in set(lines)] == lines


def test_a_request_in_psycopg_sees_its_tenant_and_the_next_one_does_not(shop: TestDatabase) -> None:
    orders_of: Callable[..., list[str]] = example("psycopg")["orders_of"]
    with psycopg.connect(application(shop), autocommit=True) as connection:
        assert orders_of(connection, A) == ["A-1", "same"]
        assert orders_of(connection, B) == ["B-1", "same"]
        assert connection.execute("select count(*) from orders").fetchall() == [(0,)]
        connection.execute("select set_tenant_context(%s)", (A,))  # outside a transaction
        assert connection.execute("select count(*) from orders").fetchall() == [(0,)]


def test_a_request_in_sqlalchemy_says_its_tenant_in_each_transaction(shop: TestDatabase) -> None:
    orders_of: Callable[..., list[str]] = example("sqlalchemy")["orders_of"]
    engine = create_engine(application(shop).replace("postgresql:", "postgresql+psycopg:"), pool_size=1)
    try:
        assert orders_of(engine, A) == ["A-1", "same"]
        assert orders_of(engine, B) == ["B-1", "same"]
        with engine.connect() as connection:
            assert connection.exec_driver_sql("select count(*) from orders").scalar() == 0
        with Session(engine, info={"tenant": A}) as session:
            for _ in range(2):
                found = session.connection().exec_driver_sql("select number from orders order by number")
                assert list(found.scalars()) == ["A-1", "same"]
                session.commit()
    finally:
        engine.dispose()


@pytest.mark.needs("pgbouncer")
def test_behind_a_pooler_two_tenants_share_a_connection_and_no_row(shop: TestDatabase) -> None:
    through = example("pooler")
    asked: Callable[..., list[str]] = example("psycopg")["orders_of"]
    asked_by_orm: Callable[..., list[str]] = example("sqlalchemy")["orders_of"]
    with pgbouncer(shop, "transaction", pool_size=1) as pooler:
        engine = through["engine_through"](pooler.url.replace("postgresql:", "postgresql+psycopg:"))
        with (
            through["connection_through"](pooler.url) as first,
            through["connection_through"](pooler.url) as second,
        ):
            for _ in range(3):
                assert asked(first, A) == asked_by_orm(engine, A) == ["A-1", "same"]
                assert asked(second, B) == asked_by_orm(engine, B) == ["B-1", "same"]
                assert second.execute("select count(*) from orders").fetchall() == [(0,)]
                second.commit()
            first.execute(
                "select set_config('app.current_tenant_id', %s, false)", (A,)
            )  # what the page warns of
            first.commit()
            leaked = second.execute("select count(*) from orders").fetchall()
        engine.dispose()
    assert leaked == [(2,)]


STRENGTH = (
    "RowExclusive",
    "ShareUpdateExclusive",
    "Share",
    "ShareRowExclusive",
    "Exclusive",
    "AccessExclusive",
)
LOCKS = """
select l.mode from pg_locks l join pg_class c on c.oid = l.relation
where l.pid = pg_backend_pid() and c.relname in ('orders', 'order_lines', 'products') and l.mode !~ '^(Access|Row)Share'
"""


def test_each_step_of_an_adoption_takes_the_lock_that_is_said(server: TestServer, shop: TestDatabase) -> None:
    told = dict(re.findall(r"^\| ([^|]+) \| (\w+)[^|]* \| [^|]+ \|$", PAGE, re.MULTILINE))
    taken: dict[str, str] = {}
    with fresh_database(server) as database, Tenants.at(database) as tenants:
        database.query(MIGRATION + ROWS)
        found = tenants.planned(declaration(), concurrently=True)
        assert found is not None
        with psycopg.connect(database.conninfo.dsn, autocommit=True) as connection:
            for statement in section_of(Rendered.kept(found.sql, name="tenancy")).statements:
                text = statement.text.encode()
                if " concurrently " in statement.text:
                    connection.execute(text)  # refuses a transaction, so nobody can look on from inside
                    continue
                with connection.transaction():
                    connection.execute(text)
                    modes = [mode.removesuffix("Lock") for (mode,) in connection.execute(LOCKS)]
                words = kind(statement.text)
                taken[words] = max([*modes, taken.get(words, STRENGTH[0])], key=STRENGTH.index)

    assert len(taken) == 6
    assert {words: told[words] for words in taken} == taken


def kind(statement: str) -> str:
    """The words of the page for a statement of an adoption."""
    for part, words in (
        (
            "^(create role|create or|insert|select|update)",
            "rows get the tenant of their parent's row, in batches",
        ),
        (" add column | set default ", "the column is added, null or with the default tenant"),
        (" check .* not valid", "no new row without a tenant (`not valid`); unique keys"),
        (" using index ", "no new row without a tenant (`not valid`); unique keys"),
        (" foreign key .* not valid", "foreign keys for new rows (`not valid`)"),
        (" validate constraint ", "old rows are looked through (`validate`), each alone"),
    ):
        if re.search(part, statement):
            return words
    return "`not null`; old keys go; policies, rights, row security"


@pytest.mark.parametrize("number", range(len(shown("sql", "forced"))))
def test_a_migration_under_force_reaches_every_row(shop: TestDatabase, number: int) -> None:
    statement = shown("sql", "forced")[number].replace("upper(number)", f"number || '.{number}'")
    maintenance = f"shop_maintenance_{shop.name}"
    shop.query_as_admin(
        f"create role {maintenance} bypassrls; grant {maintenance} to smeta_owner;"
        f"grant select, update on orders to {maintenance}"
    )
    try:
        with psycopg.connect(shop.conninfo.dsn) as connection:
            assert connection.execute("update orders set number = number").rowcount == 0  # and no error
            connection.execute(statement.replace("shop_maintenance", maintenance).encode())
            connection.commit()
            assert connection.execute("select count(*) from orders").fetchall() == [(0,)]
        changed = "select count(*) filter (where number like %s), count(*) from orders"
        assert shop.query_as_admin(changed, f"%.{number}") == [(5, 5)]
    finally:
        shop.query_as_admin(
            f"update orders set number = regexp_replace(number, '[.]{number}$', '');"
            f"drop owned by {maintenance}; drop role {maintenance}"
        )
