"""The tenant column of a table: added, filled, and never null again, while the application goes on. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smeta_declare.filters import literal
from smeta_declare.parsetree import quoted
from smeta_declare.tenancy.change import Change, Phase
from smeta_declare.tenancy.declaration import Name, Tenancy
from smeta_declare.tenancy.meaning import same
from smeta_declare.tenancy.model import Catalogue, Column, Constraint, Relation
from smeta_declare.tenancy.naming import object_name
from smeta_declare.tenancy.wanted import Wanted, WantedColumn

BATCH = "size=5000 pause=20ms max_lag=10s"
ALONE = (
    "-- smeta: alone\n"  # in a transaction of its own: it looks at every row, and locks of others would wait
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """Where rows that have no tenant get theirs from: the row of a parent, else the default tenant."""

    expression: str
    words: str
    parent: Name | None  # whose rows must have theirs before

    def update(self, relation: Relation, column: str) -> str:
        """The statement that fills them."""
        name = quoted(column)
        return f"update {relation.name.sql} set {name} = {self.expression} where {name} is null"


def default_tenant(tenancy: Tenancy, catalogue: Catalogue) -> str:
    """The key of the default tenant, as a sub-select."""
    found = f"select {quoted(tenancy.key)} from {tenancy.registry.sql}"
    return f"({found} where {_matching(tenancy, catalogue)})"


def make_default_tenant(tenancy: Tenancy, catalogue: Catalogue) -> str:
    """Insert the default tenant where it is not there."""
    columns = ", ".join(quoted(name) for name, _ in tenancy.default_tenant)
    values = ", ".join(literal(value) for _, value in tenancy.default_tenant)
    found = f"select from {tenancy.registry.sql} where {_matching(tenancy, catalogue)}"
    return f"insert into {tenancy.registry.sql} ({columns}) select {values} where not exists ({found})"


def _matching(tenancy: Tenancy, catalogue: Catalogue) -> str:
    registry = catalogue.of(tenancy.registry)
    given = dict(tenancy.default_tenant)
    unique = [
        index.columns
        for index in (registry.indexes if registry else ())
        if index.unique and index.valid and not index.partial and set(index.columns) <= set(given)
    ]
    names = [name for name in (unique[0] if unique else given) if name is not None]
    return " and ".join(f"{quoted(name)} = {literal(given[name])}" for name in names)


def filling_of(tenancy: Tenancy, relation: Relation, catalogue: Catalogue) -> Filling | None:
    """Where the rows of a tenants' table get their tenant from; None where nothing says so."""
    key = _key_to_parent(tenancy, relation, catalogue)
    usual = default_tenant(tenancy, catalogue) if tenancy.default_tenant else None
    if key is None or key.target is None:
        if usual is None:
            return None
        return Filling(expression=usual, words="its rows become those of the default tenant", parent=None)
    joined = " and ".join(
        f"p.{quoted(theirs)} = {quoted(relation.name.name)}.{quoted(ours)}"
        for ours, theirs in zip(key.columns, key.target_columns, strict=True)
    )
    found = f"(select p.{quoted(tenancy.column)} from {key.target.sql} p where {joined})"
    always = all((column := relation.column(name)) and column.not_null for name in key.columns)
    return Filling(
        expression=found if always or usual is None else f"coalesce({found}, {usual})",
        words=f"its rows become those of the tenant of their row in {key.target}",
        parent=key.target,
    )


def _key_to_parent(
    tenancy: Tenancy, relation: Relation, catalogue: Catalogue, below: frozenset[Name] = frozenset()
) -> Constraint | None:
    """The foreign key to a tenants' table whose rows may have, or get, another tenant than the default one."""
    declared, below = tenancy.of(relation.name), below | {relation.name}
    for key in sorted(relation.references(), key=lambda k: not (declared and k.target == declared.parent)):
        parent = tenancy.of(key.target) if key.target else None
        target = catalogue.of(key.target) if key.target else None
        if parent is None or target is None or target.name in below or tenancy.column in key.columns:
            continue
        if parent.kind != "tenant" or not parent.has_column:
            continue
        if target.column(tenancy.column) or _key_to_parent(tenancy, target, catalogue, below):
            return key
    return None


def needs_filling(wanted: Wanted) -> bool:
    """Whether there may be rows that must have a tenant and have none."""
    column = wanted.relation.column(wanted.column.name) if wanted.column else None
    missing = column is None or not column.not_null
    return bool(wanted.column and wanted.column.not_null and missing and not wanted.relation.empty)


def takes_default_at_once(wanted: Wanted, tenancy: Tenancy, catalogue: Catalogue) -> bool:
    """Whether the new column's default says whose all the rows are: no row has to be rewritten for it.

    A stable default is evaluated once, when the column is added, and kept beside the table.
    https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-NOTES
    """
    filling = filling_of(tenancy, wanted.relation, catalogue) if needs_filling(wanted) else None
    missing = wanted.relation.column(tenancy.column) is None
    return missing and filling is not None and filling.parent is None


def column_changes(
    wanted: Wanted, tenancy: Tenancy, catalogue: Catalogue, *, gentle: bool
) -> Iterator[Change]:
    """What makes the tenant column what it must be."""
    column = wanted.relation.column(tenancy.column)
    if wanted.column is None:
        if column is not None and not wanted.part:
            yield from _let_go(wanted, column, tenancy)
    elif column is None:
        yield _added(wanted, wanted.column, tenancy, catalogue, gentle=gentle)
        if needs_filling(wanted):
            at_once = takes_default_at_once(wanted, tenancy, catalogue)
            if gentle or not at_once:
                yield from _filled(wanted, wanted.column, tenancy, catalogue, gentle=gentle, rows=not at_once)
    else:
        if not same(column.default, wanted.column.default):
            yield _default(wanted.relation, column, wanted.column)
        if wanted.column.not_null and not column.not_null:
            yield from _filled(
                wanted, wanted.column, tenancy, catalogue, gentle=gentle, rows=not wanted.relation.empty
            )
        if not wanted.column.not_null and column.not_null:
            yield _nullable(wanted.relation, column, "a row without a tenant is shared")


def _alter(relation: Relation, what: str) -> str:
    return f"alter table {relation.name.sql} {what}"


def _added(
    wanted: Wanted, column: WantedColumn, tenancy: Tenancy, catalogue: Catalogue, *, gentle: bool
) -> Change:
    relation, name = wanted.relation, quoted(column.name)
    typed = f"add column {name} {column.type}"
    default = f"alter column {name} set default {column.default}"
    at_once = takes_default_at_once(wanted, tenancy, catalogue)
    filling = filling_of(tenancy, relation, catalogue) if needs_filling(wanted) else None
    if at_once or (relation.empty and column.not_null):
        never_null = " not null" if relation.empty or not gentle else ""
        forward = [_alter(relation, f"{typed}{never_null} default {column.default}")]
    else:
        forward = [_alter(relation, typed), _alter(relation, default)]
    told = (
        filling.words
        if filling
        else "what is there is shared"
        if not column.not_null and not relation.empty
        else ""
    )
    return Change(
        phase=Phase.COLUMN,
        object=str(relation.name),
        words=f"{relation.name}: gets {column.name}" + (f"; {told}" if told else ""),
        forward=tuple(forward),
        back=(_alter(relation, f"drop column if exists {name}"),),
    )


def _default(relation: Relation, column: Column, wanted: WantedColumn) -> Change:
    name = quoted(column.name)
    was = f"set default {column.default}" if column.default is not None else "drop default"
    return Change(
        phase=Phase.COLUMN,
        object=str(relation.name),
        words=f"{relation.name}: a new row belongs to the tenant of its transaction",
        forward=(_alter(relation, f"alter column {name} set default {wanted.default}"),),
        back=(_alter(relation, f"alter column {name} {was}"),),
    )


def _nullable(relation: Relation, column: Column, why: str) -> Change:
    name = quoted(column.name)
    return Change(
        phase=Phase.SETTLE,
        object=str(relation.name),
        words=f"{relation.name}: {column.name} may be null: {why}",
        forward=(_alter(relation, f"alter column {name} drop not null"),),
        back=(_alter(relation, f"alter column {name} set not null"),),
    )


def _let_go(wanted: Wanted, column: Column, tenancy: Tenancy) -> Iterator[Change]:
    """A table that has a tenant no longer, by its class: the column stays, what we made of it goes."""
    relation = wanted.relation
    if not same(column.default, f"{tenancy.functions.reader.sql}()") or wanted.table.kind == "tenant":
        return
    name = quoted(column.name)
    yield Change(
        phase=Phase.COLUMN,
        object=str(relation.name),
        words=f"{relation.name}: is {wanted.table.kind}, a new row belongs to no tenant",
        forward=(_alter(relation, f"alter column {name} drop default"),),
        back=(_alter(relation, f"alter column {name} set default {column.default}"),),
    )
    if column.not_null and not any(c.type == "p" and column.name in c.columns for c in relation.constraints):
        yield _nullable(relation, column, f"the table is {wanted.table.kind}")


def _filled(
    wanted: Wanted,
    column: WantedColumn,
    tenancy: Tenancy,
    catalogue: Catalogue,
    *,
    gentle: bool,
    rows: bool,
) -> Iterator[Change]:
    """Rows without a tenant get one, and from then on there are none."""
    relation, name = wanted.relation, quoted(column.name)
    filling = filling_of(tenancy, relation, catalogue)
    never = _alter(relation, f"alter column {name} set not null")
    may = _alter(relation, f"alter column {name} drop not null")
    if relation.column(column.name) is None:
        may = ""  # the column itself goes
    fill = filling.update(relation, column.name) if filling else None
    if rows and fill and filling:
        key = relation.walked_by() if gentle else None
        batch = f"-- smeta: batch key={quoted(key)} {BATCH}\n" if key else ""
        yield Change(
            phase=Phase.BACKFILL,
            object=str(relation.name),
            words=f"{relation.name}: where {column.name} is null, {filling.words}",
            forward=(f"{batch}{fill}",),
        )
    if not gentle:
        yield Change(
            phase=Phase.SETTLE,
            object=str(relation.name),
            words=f"{relation.name}: no row without a tenant",
            forward=(never,),
            back=(may,) if may else (),
        )
        return
    check = object_name(relation.name.name, column.name, "present")
    drop = _alter(relation, f"drop constraint if exists {quoted(check)}")
    yield Change(
        phase=Phase.KEY,
        object=str(relation.name),
        words=f"{relation.name}: from here on, no new row without a tenant; what came meanwhile gets one",
        forward=(
            _alter(relation, f"add constraint {quoted(check)} check ({name} is not null) not valid"),
            *((fill,) if fill else ()),
        ),
        back=(drop,),
    )
    yield Change(
        phase=Phase.VALIDATE,
        object=str(relation.name),
        forward=(f"{ALONE}{_alter(relation, f'validate constraint {quoted(check)}')}",),
    )
    yield Change(
        phase=Phase.SETTLE,
        object=str(relation.name),
        words=f"{relation.name}: no row without a tenant",
        forward=(never, drop),
        back=(may,) if may else (),
    )
