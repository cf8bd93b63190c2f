"""Keys and indexes: what is missing is made, then what it replaces goes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from smeta_declare.parsetree import quoted
from smeta_declare.tenancy.change import Change, Phase
from smeta_declare.tenancy.columns import ALONE
from smeta_declare.tenancy.keys import Reference, Unique, listed
from smeta_declare.tenancy.model import Catalogue, Constraint, Index, Relation
from smeta_declare.tenancy.naming import object_name
from smeta_declare.tenancy.wanted import Wanted


def key_changes(wanted: Wanted, catalogue: Catalogue, *, gentle: bool) -> Iterator[Change]:
    """What makes the keys of a table what they must be; `gentle`: others read and write it meanwhile."""
    relation, keys = wanted.relation, wanted.keys
    apart = (
        gentle and relation.kind == "r"
    )  # partitioned tables can neither build concurrently nor check later
    for unique in keys.uniques:
        if not _has_unique(relation, unique):
            yield from _unique(relation, unique, concurrently=apart)
    for columns in keys.indexes:
        if not _serves(relation, keys.uniques, columns):
            parts = catalogue.descendants(relation.name) if gentle and relation.kind == "p" else ()
            yield (
                _index_by_parts(relation, parts, columns)
                if parts
                else _index(relation, columns, concurrently=apart)
            )
    for reference in keys.references:
        yield from _reference(relation, reference, later=apart)
        if reference.replaces:
            yield _dropped_key(relation, reference.replaces)
    for index in keys.replaced:
        yield _dropped_unique(relation, index, catalogue)


def adds_references(wanted: Wanted) -> bool:
    """Whether old rows will be looked through for a foreign key."""
    return not wanted.relation.empty and any(
        not any(r.is_met_by(c) and c.validated for c in wanted.relation.references())
        for r in wanted.keys.references
    )


def _has_unique(relation: Relation, unique: Unique) -> bool:
    """Under its name; what foreign keys refer to under any name, and in any order of columns."""
    named = relation.index(unique.name)
    if named and named.valid:
        return True
    plain = unique.constraint and None not in unique.columns
    return plain and any(
        i.unique and i.valid and not i.partial and set(i.columns) == set(unique.columns)
        for i in relation.indexes
    )


def _serves(relation: Relation, coming: tuple[Unique, ...], columns: tuple[str, ...]) -> bool:
    """Whether an index begins with these columns, in whatever order."""
    there = [i.columns for i in relation.indexes if i.valid and not i.partial and i.method == "btree"]
    there += [u.columns for u in coming if " WHERE " not in u.definition]
    return any(set(found[: len(columns)]) == set(columns) for found in there)


def _alter(relation: Relation, what: str) -> str:
    return f"alter table {relation.name.sql} {what}"


def _schema_of(relation: Relation, name: str) -> str:
    return f"{quoted(relation.name.schema)}.{quoted(name)}"


def _drop_index(relation: Relation, name: str) -> str:
    return f"drop index if exists {_schema_of(relation, name)}"


def _leftover(relation: Relation, name: str) -> tuple[str, ...]:
    found = relation.index(name)
    return (_drop_index(relation, name),) if found and not found.valid else ()


def _unique(relation: Relation, unique: Unique, *, concurrently: bool) -> Iterator[Change]:
    name, shown = quoted(unique.name), ", ".join(column or "an expression" for column in unique.columns)
    words = f"{relation.name}: ({shown}) is unique"
    drop = _alter(relation, f"drop constraint if exists {name}")
    if unique.constraint and relation.kind == "p":
        add = _alter(relation, f"add constraint {name} unique ({listed(unique.columns)}){unique.deferral}")
        yield Change(phase=Phase.INDEX, object=str(relation.name), words=words, forward=(add,), back=(drop,))
        return
    definition = unique.definition
    if concurrently:
        definition = definition.replace("create unique index", "create unique index concurrently", 1)
    yield Change(
        phase=Phase.INDEX,
        object=str(relation.name),
        words=words,
        forward=(*_leftover(relation, unique.name), definition),
        back=(_drop_index(relation, unique.name),),
    )
    if unique.constraint:
        add = _alter(relation, f"add constraint {name} unique using index {name}{unique.deferral}")
        yield Change(phase=Phase.KEY, object=str(relation.name), forward=(add,), back=(drop,))


def _index(relation: Relation, columns: tuple[str, ...], *, concurrently: bool) -> Change:
    name = _index_name(relation, columns)
    how = "concurrently " if concurrently else ""
    return Change(
        phase=Phase.INDEX,
        object=str(relation.name),
        words=f"{relation.name}: an index by {', '.join(columns)}",
        forward=(
            *_leftover(relation, name),
            f"create index {how}{quoted(name)} on {relation.name.sql} ({listed(columns)})",
        ),
        back=(_drop_index(relation, name),),
    )


def _index_name(relation: Relation, columns: tuple[str, ...]) -> str:
    name = object_name(relation.name.name, *columns, "idx")
    if (taken := relation.index(name)) and taken.valid:
        name = object_name(relation.name.name, *columns, "tenant", "idx")
    return name


def _index_by_parts(relation: Relation, parts: tuple[Relation, ...], columns: tuple[str, ...]) -> Change:
    """An index of a partitioned table, built concurrently on each partition: nobody waits for it.

    https://www.postgresql.org/docs/current/ddl-partitioning.html#DDL-PARTITIONING-DECLARATIVE-MAINTENANCE
    """
    all_of_them = {r.name: r for r in (relation, *parts)}
    names = {name: _index_name(r, columns) for name, r in all_of_them.items()}
    built = [
        f"create index {'concurrently ' if r.kind == 'r' else ''}{quoted(names[r.name])} on "
        f"{'' if r.kind == 'r' else 'only '}{r.name.sql} ({listed(columns)})"
        for r in all_of_them.values()
    ]
    attached = [
        f"alter index {_schema_of(all_of_them[above], names[above])} attach partition {_schema_of(r, names[r.name])}"
        for r in reversed(parts)
        for above in r.parents
        if above in all_of_them
    ]
    left = [s for r in all_of_them.values() for s in _leftover(r, names[r.name])]
    return Change(
        phase=Phase.INDEX,
        object=str(relation.name),
        words=f"{relation.name}: an index by {', '.join(columns)}, one partition after the other",
        forward=(*left, *built, *attached),
        back=tuple(_drop_index(r, names[r.name]) for r in all_of_them.values()),
    )


def _reference(relation: Relation, reference: Reference, *, later: bool) -> Iterator[Change]:
    found = next((c for c in relation.references() if reference.is_met_by(c)), None)
    name = found.name if found else reference.name
    validate = _alter(relation, f"validate constraint {quoted(name)}")
    words = f"{relation.name}: ({', '.join(reference.columns)}) refers to {reference.target}"
    if found is None:
        add = _alter(relation, f"add {reference.sql}{' not valid' if later else ''}")
        yield Change(
            phase=Phase.KEY,
            object=str(relation.name),
            words=words + ", so that no row refers to another tenant's" * bool(reference.replaces),
            forward=(add,),
            back=(_alter(relation, f"drop constraint if exists {quoted(name)}"),),
        )
    if found is not None and not found.validated:
        again = _alter(relation, f"add constraint {quoted(name)} {found.definition}")
        drop = _alter(relation, f"drop constraint if exists {quoted(name)}")
        yield Change(
            phase=Phase.VALIDATE,
            object=str(relation.name),
            words=f"{words}, rows from before are checked, too",
            forward=(f"{ALONE if later else ''}{validate}",),
            back=(drop, again),
        )
    elif found is None and later:
        yield Change(phase=Phase.VALIDATE, object=str(relation.name), forward=(f"{ALONE}{validate}",))


def _dropped_key(relation: Relation, old: Constraint) -> Change:
    drop = _alter(relation, f"drop constraint if exists {quoted(old.name)}")
    return Change(
        phase=Phase.UNREFER,
        object=str(relation.name),
        words=f"{relation.name}: the foreign key without the tenant, {old.name}, goes",
        forward=(drop,),
        back=(drop, _alter(relation, f"add constraint {quoted(old.name)} {old.definition}")),
    )


def _dropped_unique(relation: Relation, old: Index, catalogue: Catalogue) -> Change:
    constraint = next((c for c in relation.constraints if c.index == old.name and c.type == "u"), None)
    if constraint:
        drop = _alter(relation, f"drop constraint if exists {quoted(constraint.name)}")
        again = _alter(relation, f"add constraint {quoted(constraint.name)} {constraint.definition}")
    else:
        drop, again = _drop_index(relation, old.name), old.definition
    # Stopped half-way, what refers to it may not have gone: it does, and comes again behind.
    refers = [
        _alter(child, f"drop constraint if exists {quoted(key.name)}")
        for child, key in catalogue.referring.get(relation.name, ())
        if key.index == old.name
    ]
    return Change(
        phase=Phase.REPLACE,
        object=str(relation.name),
        words=f"{relation.name}: {old.name}, unique over all tenants, goes",
        forward=(drop,),
        back=(*refers, drop, again),
    )
