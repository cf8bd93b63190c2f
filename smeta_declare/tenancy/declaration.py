"""The manifest's `tenancy:` as values: who serves whom, and to which class every relation belongs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from smeta_declare.diagnostics import Location
from smeta_declare.parsetree import quoted
from smeta_declare.rendered import Value

Class: TypeAlias = Literal["tenant", "overlay", "registry", "global", "internal"]
PolicyForm: TypeAlias = Literal["initplan", "inline"]
SEALED: tuple[Class, ...] = ("tenant", "overlay", "registry")  # row security decides which rows are seen
_PART = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')
_GRANTS: Mapping[Class, tuple[str, ...]] = {
    "tenant": ("select", "insert", "update", "delete"),
    "overlay": ("select", "insert", "update", "delete"),
    "registry": ("select",),
    "global": ("select",),
    "internal": (),
}


class Name(NamedTuple):
    """A relation or function by schema and name, as the catalogue has them."""

    schema: str
    name: str

    @classmethod
    def written(cls, text: str) -> Name:
        """As the manifest writes it: capitals count, `public` may be left out, a part with a dot is in quotes.

        ValueError where the text is no such name.
        """
        parts: list[str] = []
        position = 0
        while match := _PART.match(text, position):
            parts.append(match[1].replace('""', '"') if match[1] else match[2])
            position = match.end()
            if position == len(text) and len(parts) <= 2:
                return cls("public" if len(parts) == 1 else parts[0], parts[-1])
            if text[position : position + 1] != ".":
                break
            position += 1
        raise ValueError(f"`{text}` is no table: write `table` or `schema.table`")

    @property
    def sql(self) -> str:
        """Schema-qualified, quoted where SQL needs it."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def __str__(self) -> str:
        """As a person says it: without `public`."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """The functions that set and read the tenant of a transaction."""

    schema: str = "public"
    set: str = "set_tenant_context"
    current: str = "get_current_tenant_id"

    @property
    def setter(self) -> Name:
        """The one that sets it."""
        return Name(self.schema, self.set)

    @property
    def reader(self) -> Name:
        """The one that reads it."""
        return Name(self.schema, self.current)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Who owns the tables, who serves tenants, who only reads, and who may see past row security."""

    owner: str
    application: tuple[str, ...]
    read_only: tuple[str, ...] = ()
    bypass: tuple[str, ...] = ()
    create: bool = False

    @property
    def bound(self) -> tuple[str, ...]:
        """Everybody whom row security binds, in the order in which policies name them."""
        return tuple(dict.fromkeys((*self.application, *self.read_only, self.owner)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableClass:
    """What a relation is to tenants.

    `via` is the column that leads to the row of `parent` whose tenant it belongs to, where the relation has no
    tenant column of its own. Grants are privileges in small letters.
    """

    name: Name
    kind: Class
    parent: Name | None = None
    via: str | None = None
    application: tuple[str, ...]
    read_only: tuple[str, ...]
    policy_form: PolicyForm = "initplan"
    location: Location | None = None

    @property
    def has_column(self) -> bool:
        """Whether its rows carry the tenant themselves."""
        return self.kind in ("tenant", "overlay") and self.via is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """A check that an object may fail, and why."""

    check: str
    object: str  # table.column or table.constraint, as the manifest writes it
    because: str


@dataclass(frozen=True, kw_only=True)
class Tenancy:
    """Shared tables whose rows belong to tenants, sealed by row security."""

    since: str | None = None
    registry: Name
    key: str
    column: str
    setting: str
    functions: Functions
    roles: Roles
    default_tenant: tuple[tuple[str, str | int | bool], ...] = ()  # columns of the registry and their values
    tables: tuple[TableClass, ...]
    unclassified: Literal["error", "warn"] = "error"
    guard: Literal["none", "restrictive"] = "none"
    exemptions: tuple[Exemption, ...] = ()

    def of(self, name: Name) -> TableClass | None:
        """The class of a relation; None where it has none."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[Name, TableClass]:
        return {table.name: table for table in self.tables}

    def template_value(self) -> dict[str, Value]:
        """What migrations may read of it; relations by class, each with schema and name for `ident`."""
        classes: dict[str, Value] = {
            kind: tuple(table.name._asdict() for table in self.tables if table.kind == kind)
            for kind in _GRANTS
        }
        return {
            "column": self.column,
            "setting": self.setting,
            "registry": {**self.registry._asdict(), "key": self.key},
            "functions": {
                "schema": self.functions.schema,
                "set": self.functions.set,
                "current": self.functions.current,
            },
            "roles": {
                "owner": self.roles.owner,
                "application": self.roles.application,
                "read_only": self.roles.read_only,
                "bypass": self.roles.bypass,
            },
            "tables": classes,
        }

    def exempt(self, check: str, table: Name, *parts: str) -> bool:
        """Whether a check need not hold for one of these columns or constraints of a table."""
        names = {f"{table}.{part}" for part in parts} | {f"{table.schema}.{table.name}.{p}" for p in parts}
        return any(e.check == check and e.object in names for e in self.exemptions)


def tenancy_of(
    block: Mapping[str, Any], place: Callable[[str], Location | None] = lambda _table: None
) -> Tenancy:
    """From a block that keeps to the schema and leads nowhere wrong; `place` says where a table is written."""
    registry = block["registry"]
    roles, form = block["roles"], block.get("policy_form", "initplan")
    home = Name.written(registry["table"])
    tables = [_table(name, said, form, place(name)) for name, said in block["tables"].items()]
    if all(table.name != home for table in tables):
        tables.insert(0, _table(registry["table"], "registry", form, None))
    return Tenancy(
        since=block.get("since"),
        registry=home,
        key=registry.get("key", "id"),
        column=block.get("column", "tenant_id"),
        setting=block.get("setting", "app.current_tenant_id"),
        functions=Functions(**(block.get("functions") or {})),
        roles=Roles(
            owner=roles["owner"],
            application=tuple(roles["application"]),
            read_only=tuple(roles.get("read_only") or ()),
            bypass=tuple(roles.get("bypass") or ()),
            create=roles.get("create", False),
        ),
        default_tenant=tuple((block.get("default_tenant") or {}).items()),
        tables=tuple(tables),
        unclassified=block.get("unclassified", "error"),
        guard=block.get("guard", "none"),
        exemptions=tuple(Exemption(**said) for said in block.get("exceptions") or ()),
    )


def settings_of(block: Mapping[str, Any]) -> dict[tuple[str | int, ...], Any]:
    """Every setting of a block with its value, also those that the block leaves out; lists stay whole."""
    tenancy = tenancy_of(block)
    functions = tenancy.functions
    built_in: dict[tuple[str | int, ...], Any] = {
        ("tenancy", "registry", "key"): tenancy.key,
        ("tenancy", "column"): tenancy.column,
        ("tenancy", "setting"): tenancy.setting,
        ("tenancy", "functions", "schema"): functions.schema,
        ("tenancy", "functions", "set"): functions.set,
        ("tenancy", "functions", "current"): functions.current,
        ("tenancy", "roles", "create"): tenancy.roles.create,
        ("tenancy", "unclassified"): tenancy.unclassified,
        ("tenancy", "policy_form"): block.get("policy_form", "initplan"),
        ("tenancy", "guard"): tenancy.guard,
    }
    return {**built_in, **dict(_flat(block, ("tenancy",)))}


def _flat(
    block: Mapping[str, Any], above: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _flat(value, (*above, key))
        else:
            yield (*above, key), value


def _table(written: str, said: Any, form: PolicyForm, place: Location | None) -> TableClass:
    more: Mapping[str, Any] = {"class": said} if isinstance(said, str) else said
    kind: Class = more["class"]
    usual = _GRANTS[kind]
    return TableClass(
        name=Name.written(written),
        kind=kind,
        parent=Name.written(more["parent"]) if "parent" in more else None,
        via=more.get("via"),
        application=_privileges(more.get("application", usual)),
        read_only=_privileges(more.get("read_only", usual[:1])),
        policy_form=more.get("policy_form", form),
        location=place,
    )


def _privileges(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(p for p in ("select", "insert", "update", "delete") if p in set(given))
