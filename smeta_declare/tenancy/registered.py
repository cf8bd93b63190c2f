"""The tenants themselves, as statements: listed, registered, their rows counted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from smeta_declare.filters import literal
from smeta_declare.parsetree import quoted
from smeta_declare.tenancy.declaration import Tenancy
from smeta_declare.tenancy.model import Catalogue, Column, Relation
from smeta_declare.tenancy.policies import find_function, policies_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """The question how many rows of a table the tenant of the transaction has."""

    table: str
    sql: str


def shown_columns(tenancy: Tenancy, registry: Relation) -> tuple[str, ...]:
    """What a list shows of a tenant beside its key: its name, and what the default tenant is known by."""
    names = dict.fromkeys(("name", *(name for name, _ in tenancy.default_tenant)))
    return tuple(name for name in names if name != tenancy.key and registry.column(name))


def rows_sql(tenancy: Tenancy, columns: tuple[str, ...], rest: str) -> str:
    """Rows of the registry as text of the key and JSON of some columns; `rest` is what follows the table."""
    key = quoted(tenancy.key)
    pairs = ", ".join(f"{literal(name)}, {quoted(name)}" for name in columns)
    return (
        f"select {key}::pg_catalog.text, pg_catalog.json_build_object({pairs})::pg_catalog.text "
        f"from {tenancy.registry.sql} {rest}"
    )


def first_rows_sql(tenancy: Tenancy, registry: Relation, limit: int) -> str:
    """The first tenants by key, and one more than asked for, which tells that there are more."""
    return rows_sql(
        tenancy, shown_columns(tenancy, registry), f"order by {quoted(tenancy.key)} limit {limit + 1}"
    )


def row_sql(tenancy: Tenancy, registry: Relation, tenant: str) -> str:
    """The row of one tenant, whole."""
    columns = tuple(column.name for column in registry.columns if column.name != tenancy.key)
    return rows_sql(tenancy, columns, f"where {quoted(tenancy.key)} = {literal(tenant)}")


def context_sql(tenancy: Tenancy, tenant: str) -> str:
    """Whom the rest of the transaction serves; needs no function of ours."""
    return f"select pg_catalog.set_config({literal(tenancy.setting)}, {literal(tenant)}, true)"


def key_sql(registry: Relation, key: Column) -> str | None:
    """The key that the next tenant would get; None where somebody has to say it."""
    if key.identity:
        sequence = f"pg_catalog.pg_get_serial_sequence({literal(registry.name.sql)}, {literal(key.name)})"
        return f"select pg_catalog.nextval({sequence})::pg_catalog.text"
    return f"select ({key.default})::pg_catalog.text" if key.default and not key.generated else None


def register_sql(tenancy: Tenancy, values: Mapping[str, str]) -> str:
    """Insert a tenant, its key given: the statement that row security accepts in its own context."""
    columns = ", ".join(map(quoted, values))
    given = ", ".join(str(literal(value)) for value in values.values())
    return (
        f"insert into {tenancy.registry.sql} ({columns}) overriding system value values ({given}) "
        f"returning {quoted(tenancy.key)}::pg_catalog.text"
    )


def needed_columns(registry: Relation) -> tuple[str, ...]:
    """The columns that a new tenant must be given a value for."""
    return tuple(
        c.name
        for c in registry.columns
        if c.not_null and c.default is None and not c.identity and not c.generated
    )


def countings(tenancy: Tenancy, catalogue: Catalogue, limit: int) -> Iterator[Counting]:
    """A question per table whose rows are somebody's, up to `limit` rows and one more.

    By the rule of its policy: so a role that row security does not bind counts the same. Shared rows are nobody's.
    """
    if find_function(catalogue.functions, tenancy.functions.reader, ()) is None:
        return
    for table in tenancy.tables:
        relation = catalogue.of(table.name)
        if relation is None or not relation.is_table or table.kind not in ("tenant", "overlay"):
            continue
        if table.has_column and relation.column(tenancy.column) is None:
            continue
        own = [p.using for p in policies_of(tenancy, table, relation, catalogue) if p.command in ("*", "d")]
        if own:
            yield Counting(
                table=str(table.name),
                sql=f"select pg_catalog.count(*) from (select from {table.name.sql} where {own[0]} "
                f"limit {limit + 1}) as found",
            )
