"""Keys and indexes that take the tenant with them: which a table must have, and which they replace. Pure.

A foreign key without the tenant accepts another's row; a unique key without it tells what another has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from smeta_declare.parsetree import quoted
from smeta_declare.tenancy.declaration import Name, TableClass, Tenancy
from smeta_declare.tenancy.model import Catalogue, Constraint, Index, Relation
from smeta_declare.tenancy.naming import object_name

_ACTIONS = {"a": "", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A foreign key that must be there; `replaces` is the one without the tenant."""

    name: str
    columns: tuple[str, ...]
    target: Name
    target_columns: tuple[str, ...]
    tail: str = ""  # what follows the columns: actions, deferrable
    replaces: Constraint | None = None

    @property
    def sql(self) -> str:
        """As `alter table … add` takes it."""
        return (
            f"constraint {quoted(self.name)} foreign key ({listed(self.columns)}) "
            f"references {self.target.sql} ({listed(self.target_columns)}){self.tail}"
        )

    def is_met_by(self, found: Constraint) -> bool:
        """Whether a foreign key that is there says the same, in whatever order and under whatever name."""
        pairs = zip(self.columns, self.target_columns, strict=True)
        theirs = zip(found.columns, found.target_columns, strict=True)
        return found.type == "f" and found.target == self.target and set(pairs) == set(theirs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """A unique index that must be there; as a constraint where other keys refer to it or it replaces one."""

    name: str
    definition: str  # from `create unique index` on
    columns: tuple[str | None, ...]
    constraint: bool
    deferral: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a table must have, and what it must not have any more."""

    references: tuple[Reference, ...] = ()
    uniques: tuple[Unique, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()  # columns, the tenant first
    replaced: tuple[Index, ...] = ()  # unique without the tenant


def listed(columns: Iterable[str | None]) -> str:
    """Columns as SQL."""
    return ", ".join(quoted(column) for column in columns if column is not None)


def keys_of(tenancy: Tenancy, table: TableClass, relation: Relation, catalogue: Catalogue) -> Keys:
    """The keys of a relation with a tenant column."""
    if not table.has_column or not relation.is_table or relation.partition:
        return Keys()
    references = (_to_registry(tenancy, relation), *_references(tenancy, table, relation, catalogue))
    replaced = tuple(_without_tenant(tenancy, table, relation, catalogue))
    uniques = (*_referred_to(tenancy, table, catalogue), *_replacing(tenancy, table, relation, replaced))
    uniques = tuple({unique.name: unique for unique in reversed(uniques)}.values())
    indexes = list(dict.fromkeys(r.columns for r in references[1:]))
    leads = [i.columns[0] for i in relation.indexes if i.valid and not i.partial and i.method == "btree"]
    if not indexes and tenancy.column not in (*leads, *(u.columns[0] for u in uniques)):
        indexes.append((tenancy.column,))
    return Keys(references=references, uniques=uniques, indexes=tuple(indexes), replaced=replaced)


def carries_tenant(tenancy: Tenancy, relation: Relation, columns: Iterable[str | None]) -> bool:
    """Whether the tenant is part of a key, itself or as what a generated column makes of it."""
    for name in columns:
        column = relation.column(name) if name else None
        if column and (
            column.name == tenancy.column or (column.generated and tenancy.column in (column.default or ""))
        ):
            return True
    return False


def _to_registry(tenancy: Tenancy, relation: Relation) -> Reference:
    return Reference(
        name=object_name(relation.name.name, tenancy.column, "fkey"),
        columns=(tenancy.column,),
        target=tenancy.registry,
        target_columns=(tenancy.key,),
    )


def _references(
    tenancy: Tenancy, table: TableClass, relation: Relation, catalogue: Catalogue
) -> Iterator[Reference]:
    """For every foreign key from one tenants' table to another: the one that takes the tenant with it."""
    done: set[tuple[str, ...]] = set()
    lost = tuple(_lost(relation, catalogue))
    for found in sorted((*relation.references(), *lost), key=lambda c: tenancy.column not in c.columns):
        pairs = dict(zip(found.columns, found.target_columns, strict=True))
        if not _between_tenants(tenancy, table, found):
            continue
        if pairs.get(tenancy.column) == tenancy.column:
            rest = tuple(column for column in found.columns if column != tenancy.column)
            done.add(rest)
            yield Reference(
                name=found.name,
                columns=(tenancy.column, *rest),
                target=found.target or relation.name,
                target_columns=(tenancy.column, *(pairs[column] for column in rest)),
                tail=_tail(replace(found, columns=rest), catalogue.major) or "",
            )
        elif (tail := _tail(found, catalogue.major)) is not None and not tenancy.exempt(
            "K01", relation.name, found.name, *found.columns
        ):
            again = found.columns in done
            yield Reference(
                name=object_name(relation.name.name, tenancy.column, *found.columns, "fkey"),
                columns=(tenancy.column, *found.columns),
                target=found.target or relation.name,
                target_columns=(tenancy.column, *found.target_columns),
                tail="" if again else tail,
                replaces=None if found in lost else found,
            )


def _lost(relation: Relation, catalogue: Catalogue) -> Iterator[Constraint]:
    """Foreign keys that migrations made and that somebody has dropped, with nothing in their place."""
    made = catalogue.made.get(relation.name)
    for key in made.references() if made else ():
        if all(relation.column(column) for column in key.columns) and not any(
            c.target == key.target and set(key.columns) <= set(c.columns) for c in relation.references()
        ):
            yield key


def _between_tenants(tenancy: Tenancy, table: TableClass, found: Constraint) -> bool:
    parent = tenancy.of(found.target) if found.target else None
    return table.kind == "tenant" and parent is not None and parent.kind == "tenant" and parent.has_column


def _tail(found: Constraint, major: int) -> str | None:
    """Actions of a foreign key, fit for one column more; None where it cannot have it.

    What sets null or a default names its columns: the tenant must stay. That exists since PostgreSQL 15.
    """
    if found.match == "f" and len(found.columns) > 1:
        return None  # all null or none: with a tenant it would refuse what it allows now
    said = ""
    for word, action in (("update", found.on_update), ("delete", found.on_delete)):
        if action in ("n", "d"):
            if major < 15 or word == "update":
                return None
            said += f" on {word} {_ACTIONS[action]} ({listed(found.columns)})"
        elif action != "a":
            said += f" on {word} {_ACTIONS[action]}"
    return said + deferral(found)


def deferral(found: Constraint) -> str:
    """When a constraint is checked, as SQL."""
    return " deferrable" + (" initially deferred" if found.deferred else "") if found.deferrable else ""


def _referred_to(tenancy: Tenancy, table: TableClass, catalogue: Catalogue) -> Iterator[Unique]:
    """Unique keys of a parent, which foreign keys of its children need."""
    done: set[tuple[str, ...]] = set()
    children = {child.name: child for child, _ in catalogue.referring.get(table.name, ())}
    for made in catalogue.made.values():
        if (child := catalogue.of(made.name)) and any(key.target == table.name for key in made.references()):
            children[made.name] = child
    for child in children.values():
        declared = tenancy.of(child.name)
        if declared is None or child.partition or not declared.has_column:
            continue
        for reference in _references(tenancy, declared, child, catalogue):
            columns = reference.target_columns
            if reference.target == table.name and columns not in done:
                done.add(columns)
                name = object_name(table.name.name, *columns, "key")
                yield Unique(
                    name=name,
                    definition=f"create unique index {quoted(name)} on {table.name.sql} ({listed(columns)})",
                    columns=columns,
                    constraint=True,
                )


def _without_tenant(
    tenancy: Tenancy, table: TableClass, relation: Relation, catalogue: Catalogue
) -> Iterator[Index]:
    """Unique indexes that reach over tenants. Primary keys stay, and so do random ones: they tell nothing."""
    primary = {c.index for c in relation.constraints if c.type == "p"}
    kept = {
        key.index
        for other, key in catalogue.referring.get(relation.name, ())
        if not ((declared := tenancy.of(other.name)) and _between_tenants(tenancy, declared, key))
    }
    for index in relation.indexes:
        if not index.unique or index.inherited or index.name in primary | kept:
            continue
        if table.kind != "tenant" or index.method != "btree":
            continue
        known = [c for name in index.columns if name and (c := relation.column(name))]
        random = len(index.columns) == 1 and [c.compared for c in known] == ["uuid"]
        if (
            not random
            and not carries_tenant(tenancy, relation, index.columns)
            and not tenancy.exempt("K02", relation.name, index.name, *(c.name for c in known))
        ):
            yield index


def _replacing(
    tenancy: Tenancy, table: TableClass, relation: Relation, replaced: Iterable[Index]
) -> Iterator[Unique]:
    for index in replaced:
        constraint = next((c for c in relation.constraints if c.index == index.name and c.type == "u"), None)
        columns = [column or "expr" for column in index.columns]
        distinct = ("expr" in columns or index.partial) and not index.constraint
        of = [index.name, tenancy.column] if distinct else [table.name.name, tenancy.column, *columns]
        name = object_name(*of, "key")
        at = index.definition.index(" USING ", len(f"CREATE UNIQUE INDEX {quoted(index.name)} ON "))
        head, _, rest = index.definition[at:].partition("(")
        yield Unique(
            name=name,
            definition=f"create unique index {quoted(name)} on {table.name.sql}"
            f"{head.lower()}({quoted(tenancy.column)}, {rest}",
            columns=(tenancy.column, *index.columns),
            constraint=constraint is not None,
            deferral=deferral(constraint) if constraint else "",
        )
