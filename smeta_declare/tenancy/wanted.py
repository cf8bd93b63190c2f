"""From what is declared, and the relations that are there, to what each of them must look like. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smeta_declare.tenancy.declaration import SEALED, TableClass, Tenancy
from smeta_declare.tenancy.keys import Keys, keys_of
from smeta_declare.tenancy.model import Catalogue, Column, Policy, Relation
from smeta_declare.tenancy.policies import policies_of


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedColumn:
    """The tenant column: its type, whether it may be null, and its default. Never a constant."""

    name: str
    type: str
    not_null: bool
    default: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a relation must look like.

    `sealed` False says that it needs no row security of ours, `part` that it is reached through its parent only.
    """

    relation: Relation
    table: TableClass
    column: WantedColumn | None = None
    policies: tuple[Policy, ...] = ()
    sealed: bool = False
    invoker: bool = False
    part: bool = False
    grants: frozenset[tuple[str, str]] = frozenset()
    keys: Keys


def key_column(tenancy: Tenancy, catalogue: Catalogue) -> Column | None:
    """The registry's key, whose type all tenant columns have; None while there is no registry."""
    registry = catalogue.of(tenancy.registry)
    return registry.column(tenancy.key) if registry else None


def wanted(tenancy: Tenancy, catalogue: Catalogue) -> Iterator[Wanted]:
    """Every declared relation that is there, each followed by its partitions."""
    key = key_column(tenancy, catalogue)
    if key is None:
        return
    declared = {table.name for table in tenancy.tables}
    for table in tenancy.tables:
        relation = catalogue.of(table.name)
        if relation is None:
            continue
        yield _wanted(tenancy, table, relation, catalogue, key)
        for part in catalogue.descendants(table.name):
            if part.name not in declared:
                sealed = table.kind in SEALED and part.is_table
                yield Wanted(relation=part, table=table, part=True, sealed=sealed, keys=Keys())


def _wanted(
    tenancy: Tenancy, table: TableClass, relation: Relation, catalogue: Catalogue, key: Column
) -> Wanted:
    sealed = table.kind in SEALED and relation.is_table
    return Wanted(
        relation=relation,
        table=table,
        column=WantedColumn(
            name=tenancy.column,
            type=key.type,
            not_null=table.kind == "tenant",
            default=f"{tenancy.functions.reader.sql}()",
        )
        if table.has_column and relation.is_table
        else None,
        policies=policies_of(tenancy, table, relation, catalogue) if sealed else (),
        sealed=sealed,
        invoker=relation.kind == "v" and table.kind in SEALED and catalogue.major >= 15,
        grants=frozenset(_grants(tenancy, table, relation)),
        keys=keys_of(tenancy, table, relation, catalogue),
    )


def _grants(tenancy: Tenancy, table: TableClass, relation: Relation) -> Iterator[tuple[str, str]]:
    """What a declared role may do; a materialised view and a foreign table cannot be sealed: nothing there."""
    if table.kind in SEALED and relation.kind in ("m", "f"):
        return
    for roles, privileges in (
        (tenancy.roles.application, table.application),
        (tenancy.roles.read_only, table.read_only),
    ):
        for privilege in privileges:
            for role in roles:
                yield role, privilege
