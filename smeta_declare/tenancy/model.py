"""What the database has, as values: relations with their columns, keys, policies and grants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from smeta_declare.tenancy.declaration import Name

PUBLIC = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; `compared` is the type that the operators of its type compare by: text for varchar."""

    name: str
    type: str
    compared: str
    not_null: bool = False
    default: str | None = None
    generated: bool = False
    identity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A key, reference or check. Types and actions are the catalogue's letters; `columns` of a check may be none."""

    name: str
    type: str
    definition: str
    columns: tuple[str, ...]
    validated: bool = True
    deferrable: bool = False
    deferred: bool = False
    inherited: bool = False
    target: Name | None = None
    target_columns: tuple[str, ...] = ()
    index: str | None = None
    on_update: str = "a"
    on_delete: str = "a"
    match: str = "s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index; None among its columns is an expression."""

    name: str
    definition: str
    columns: tuple[str | None, ...]
    unique: bool = False
    valid: bool = True
    partial: bool = False
    method: str = "btree"
    inherited: bool = False
    constraint: bool = False  # it serves a key, and goes with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy; `command` is the catalogue's letter, `*` for all."""

    name: str
    command: str
    permissive: bool = True
    roles: tuple[str, ...]
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, partitioned table (`p`), view (`v`), materialised view (`m`) or foreign table (`f`)."""

    name: Name
    kind: str = "r"
    owner: str = ""
    rls: bool = False
    forced: bool = False
    partition: bool = False
    rows: float = -1  # as the planner estimates; -1: never counted
    empty: bool = True  # surely empty, also below it; a table that once had rows may not count as empty
    invoker: bool | None = None  # security_invoker of a view; None where it does not say
    parents: tuple[Name, ...] = ()
    reads: tuple[Name, ...] = ()
    columns: tuple[Column, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[Index, ...] = ()
    policies: tuple[Policy, ...] = ()
    triggers: tuple[tuple[str, str, bool], ...] = ()  # name, definition, enabled: those that smeta made
    grants: frozenset[tuple[str, str]] = frozenset()  # role, privilege; the owner's own are left out
    grantable: frozenset[tuple[str, str]] = frozenset()  # those of them that may be passed on
    column_grants: tuple[tuple[str, str, str], ...] = ()  # role, privilege, column
    sequences: tuple[Name, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether it can have row security."""
        return self.kind in ("r", "p")

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    def index(self, name: str) -> Index | None:
        """The index of that name."""
        return next((index for index in self.indexes if index.name == name), None)

    def constraint(self, name: str) -> Constraint | None:
        """The constraint of that name."""
        return next((constraint for constraint in self.constraints if constraint.name == name), None)

    def references(self) -> tuple[Constraint, ...]:
        """Its foreign keys, without those that a partition has from its parent."""
        return tuple(c for c in self.constraints if c.type == "f" and not c.inherited)

    def walked_by(self) -> str | None:
        """A column by whose order all rows can be walked: unique by itself and never null; the primary key first."""
        primary = [c.columns for c in self.constraints if c.type == "p"]
        unique = [i.columns for i in self.indexes if i.unique and i.valid and not i.partial]
        for columns in (*primary, *unique):
            column = self.column(columns[0] or "") if len(columns) == 1 else None
            if column and column.not_null and self.kind == "r":
                return column.name
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function with all that decides what it does."""

    name: Name
    types: tuple[str, ...]
    returns: str
    language: str
    volatility: str
    parallel: str
    definer: bool
    strict: bool
    leakproof: bool
    settings: tuple[str, ...]
    owner: str
    source: str
    body: str | None
    definition: str
    arguments: str
    grants: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role and the roles that it is a member of."""

    name: str
    super: bool = False
    bypass: bool = False
    creates: bool = False
    member_of: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What is there now, as far as tenants are concerned."""

    version: int  # server_version_num
    user: str
    relations: tuple[Relation, ...]
    functions: tuple[Function, ...] = ()
    schemas: Mapping[str, tuple[str, frozenset[tuple[str, str]]]] = field(default_factory=dict)
    roles: tuple[Role, ...] = ()
    sequence_grants: frozenset[tuple[Name, str, str]] = frozenset()
    made: Mapping[Name, Relation] = field(default_factory=dict)  # what migrations made, where that is known

    @property
    def major(self) -> int:
        """Of the server: 15, 18."""
        return self.version // 10_000

    @cached_property
    def _by_name(self) -> dict[Name, Relation]:
        return {relation.name: relation for relation in self.relations}

    def of(self, name: Name) -> Relation | None:
        """The relation of that name."""
        return self._by_name.get(name)

    def role(self, name: str) -> Role | None:
        """The role of that name."""
        return next((role for role in self.roles if role.name == name), None)

    @cached_property
    def _children(self) -> dict[Name, list[Relation]]:
        found: dict[Name, list[Relation]] = {}
        for relation in self.relations:
            for parent in relation.parents:
                found.setdefault(parent, []).append(relation)
        return found

    @cached_property
    def referring(self) -> dict[Name, list[tuple[Relation, Constraint]]]:
        """For every relation the foreign keys to it, and whose they are."""
        found: dict[Name, list[tuple[Relation, Constraint]]] = {}
        for relation in self.relations:
            for key in relation.references():
                if key.target:
                    found.setdefault(key.target, []).append((relation, key))
        return found

    def descendants(self, name: Name) -> tuple[Relation, ...]:
        """Partitions and tables that inherit, of all levels, each behind its parent."""
        found: dict[Name, Relation] = {}
        waiting = list(self._children.get(name, ()))
        while waiting:
            relation = waiting.pop(0)
            found.setdefault(relation.name, relation)
            waiting += self._children.get(relation.name, ())
        return tuple(found.values())


def catalogue_of(data: Mapping[str, Any]) -> Catalogue:
    """From the answer of `tenancy.sql`."""
    return Catalogue(
        version=data["version"],
        user=data["user"],
        relations=tuple(map(_relation, data["relations"])),
        functions=tuple(map(_function, data["functions"])),
        schemas={s["name"]: (s["owner"], _pairs(s["grants"])) for s in data["schemas"]},
        roles=tuple(Role(**{**role, "member_of": tuple(role["member_of"] or ())}) for role in data["roles"]),
        sequence_grants=frozenset((Name(s, n), role, p) for s, n, role, p in data["sequence_grants"]),
    )


def _relation(data: Mapping[str, Any]) -> Relation:
    grants = data["grants"] or ()
    return Relation(
        name=Name(data["schema"], data["name"]),
        kind=data["kind"],
        owner=data["owner"],
        rls=data["rls"],
        forced=data["forced"],
        partition=data["partition"],
        rows=data["rows"],
        empty=data["empty"],
        invoker=data["invoker"],
        parents=_names(data["parents"]),
        reads=_names(data["reads"]),
        columns=tuple(
            Column(
                name=name,
                type=type,
                compared=compared,
                not_null=not_null,
                default=default,
                generated=generated,
                identity=identity,
            )
            for name, type, compared, not_null, default, generated, identity in data["columns"] or ()
        ),
        constraints=tuple(map(_constraint, data["constraints"] or ())),
        indexes=tuple(Index(**{**i, "columns": tuple(i["columns"])}) for i in data["indexes"] or ()),
        policies=tuple(Policy(**{**p, "roles": tuple(p["roles"])}) for p in data["policies"] or ()),
        triggers=tuple((name, definition, enabled) for name, definition, enabled in data["triggers"] or ()),
        grants=frozenset((role, privilege) for role, privilege, _ in grants),
        grantable=frozenset((role, privilege) for role, privilege, passed_on in grants if passed_on),
        column_grants=tuple((role, privilege, c) for role, privilege, c in data["column_grants"] or ()),
        sequences=_names(data["sequences"]),
    )


def _constraint(data: Mapping[str, Any]) -> Constraint:
    return Constraint(
        **{
            **data,
            "columns": tuple(data["columns"] or ()),
            "target": Name(*data["target"]) if data["target"] else None,
            "target_columns": tuple(data["target_columns"] or ()),
            "on_update": data["on_update"].strip() or "a",
            "on_delete": data["on_delete"].strip() or "a",
            "match": data["match"].strip() or "s",
        }
    )


def _function(data: Mapping[str, Any]) -> Function:
    return Function(
        **{
            **{key: value for key, value in data.items() if key != "schema"},
            "name": Name(data["schema"], data["name"]),
            "types": tuple(data["types"]),
            "settings": tuple(data["settings"] or ()),
            "grants": _pairs(data["grants"]),
        }
    )


def _names(pairs: Iterable[Iterable[str]] | None) -> tuple[Name, ...]:
    return tuple(Name(*pair) for pair in pairs or ())


def _pairs(grants: Iterable[tuple[str, str]] | None) -> frozenset[tuple[str, str]]:
    return frozenset((role, privilege) for role, privilege in grants or ())
