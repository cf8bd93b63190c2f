"""The rules of each class, as expressions and policies. Pure.

The form and the reasons of it: the tenant is asked in a sub-select, once per statement; whoever has none sees nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from smeta_declare.filters import literal
from smeta_declare.parsetree import quoted
from smeta_declare.tenancy.declaration import Name, TableClass, Tenancy
from smeta_declare.tenancy.meaning import same
from smeta_declare.tenancy.model import PUBLIC, Catalogue, Column, Function, Policy, Relation
from smeta_declare.tenancy.naming import PREFIX

_COMMANDS = {"r": "select", "a": "insert", "w": "update", "d": "delete", "*": "all"}


def policies_of(
    tenancy: Tenancy, table: TableClass, relation: Relation, catalogue: Catalogue
) -> tuple[Policy, ...]:
    """The policies that seal a relation; none where its class is not sealed, or what they need is not there."""
    rules: dict[str, tuple[str | None, str | None]] = {}
    match table.kind:
        case "tenant" | "registry":
            rule = _rule(tenancy, table, relation, catalogue)
            if rule:
                rules = {"*": (rule, rule)}
        case "overlay":
            own = _own(tenancy, table, tenant_column(tenancy, relation, catalogue), quoted(tenancy.column))
            current = _current(tenancy, table)
            shared = f"{quoted(tenancy.column)} is null and {current} is not null"
            rules = {
                "r": (f"{own} or ({shared})", None),
                "a": (None, own),
                "w": (own, own),
                "d": (own, None),
            }
        case "global" | "internal":
            pass
    return tuple(_policies(tenancy, rules))


def _policies(tenancy: Tenancy, rules: dict[str, tuple[str | None, str | None]]) -> Iterator[Policy]:
    for command, (using, check) in rules.items():
        suffix = "" if command == "*" else f"_{_COMMANDS[command]}"
        yield Policy(
            name=f"{PREFIX}{suffix}", command=command, roles=tenancy.roles.bound, using=using, check=check
        )
        if tenancy.guard == "restrictive":
            yield Policy(
                name=f"{PREFIX}_guard{suffix}",
                command=command,
                permissive=False,
                roles=(PUBLIC,),
                using=using,
                check=check,
            )


def _rule(tenancy: Tenancy, table: TableClass, relation: Relation, catalogue: Catalogue) -> str | None:
    """Whose a row is, for a class whose rows are always somebody's."""
    if table.kind == "registry":
        return _own(tenancy, table, relation.column(tenancy.key), quoted(tenancy.key))
    if table.via is None:
        return _own(tenancy, table, tenant_column(tenancy, relation, catalogue), quoted(tenancy.column))
    return _through_parent(tenancy, table, relation, catalogue, quoted(relation.name.name))


def _through_parent(
    tenancy: Tenancy, table: TableClass, relation: Relation, catalogue: Catalogue, alias: str, depth: int = 1
) -> str | None:
    """That the row which a foreign key leads to is the tenant's."""
    parent = tenancy.of(table.parent) if table.parent else None
    target = catalogue.of(table.parent) if table.parent else None
    key = next(
        (k for k in relation.references() if k.target == table.parent and table.via in k.columns), None
    )
    if parent is None or target is None or key is None:
        return None  # a finding says so
    above = f"p{depth}"
    joined = [
        f"{above}.{quoted(theirs)} = {alias}.{quoted(ours)}"
        for ours, theirs in zip(key.columns, key.target_columns, strict=True)
    ]
    rule = (
        _through_parent(tenancy, parent, target, catalogue, above, depth + 1)
        if parent.via
        else _own(
            tenancy, table, tenant_column(tenancy, target, catalogue), f"{above}.{quoted(tenancy.column)}"
        )
    )
    return rule and f"exists (select 1 from {target.name.sql} {above} where {' and '.join((*joined, rule))})"


def tenant_column(tenancy: Tenancy, relation: Relation, catalogue: Catalogue) -> Column | None:
    """The tenant column as it is, or as it will be: like the registry's key."""
    registry = catalogue.of(tenancy.registry)
    return relation.column(tenancy.column) or (registry.column(tenancy.key) if registry else None)


def _own(tenancy: Tenancy, table: TableClass, column: Column | None, name: str) -> str:
    """That a column holds the tenant of the transaction, compared as PostgreSQL compares its type."""
    cast = f"::{column.compared}" if column and column.compared != column.type else ""
    return f"{name}{cast} = {_current(tenancy, table)}"


def _current(tenancy: Tenancy, table: TableClass) -> str:
    call = f"{tenancy.functions.reader.sql}()"
    return call if table.policy_form == "inline" else f"(select {call})"


def create_policy(table: Name, policy: Policy) -> str:
    """The statement that makes a policy."""
    parts = [
        f"create policy {quoted(policy.name)} on {table.sql}",
        f"as {'permissive' if policy.permissive else 'restrictive'} for {_COMMANDS[policy.command]}",
        f"to {role_list(policy.roles)}",
    ]
    if policy.using is not None:
        parts.append(f"using ({policy.using})")
    if policy.check is not None:
        parts.append(f"with check ({policy.check})")
    return " ".join(parts)


def role_list(roles: Iterable[str]) -> str:
    """Roles as SQL, PUBLIC among them."""
    return ", ".join("public" if role == PUBLIC else quoted(role) for role in roles)


# Functions


def reader_body(tenancy: Tenancy, key_type: str) -> str:
    """What reads the tenant: null where it was never set, or only in an earlier transaction (then it is empty)."""
    found = f"nullif(pg_catalog.current_setting({literal(tenancy.setting)}, true), '')"
    return found if key_type == "text" else f"{found}::{key_type}"


def setter_source(tenancy: Tenancy) -> str:
    """What sets the tenant until the transaction ends.

    By SET LOCAL, because only that travels to the other nodes of a cluster: set_config() does not.
    """
    name = ".".join(map(quoted, tenancy.setting.split(".")))
    return (
        "\nbegin\n    -- null: nobody's\n"
        f"    execute pg_catalog.format('set local {name} = %L', coalesce($1::pg_catalog.text, ''));\nend\n"
    )


def create_reader(tenancy: Tenancy, key_type: str) -> str:
    """The body is bound when it is created, so that no search path matters."""
    return (
        f"create or replace function {tenancy.functions.reader.sql}() returns {key_type}\n"
        f"language sql stable parallel safe\nreturn {reader_body(tenancy, key_type)}"
    )


def create_setter(tenancy: Tenancy, key_type: str, existing: Function | None) -> str:
    """The argument keeps the name that it has."""
    named = existing.arguments.removesuffix(existing.types[0]).strip() if existing else "p_tenant_id"
    return (
        f"create or replace function {tenancy.functions.setter.sql}({f'{named} {key_type}'.strip()}) returns void\n"
        f"language plpgsql volatile\nas $smeta${setter_source(tenancy)}$smeta$"
    )


def is_reader(function: Function, tenancy: Tenancy, key_type: str) -> bool:
    """Whether a function is what `create_reader` makes."""
    body = function.body.strip().removeprefix("RETURN").strip() if function.body else None
    return same(body, reader_body(tenancy, key_type)) and _plain(
        function, returns=key_type, language="sql", volatility="s", parallel="s"
    )


def is_setter(function: Function, tenancy: Tenancy) -> bool:
    """Whether a function is what `create_setter` makes."""
    return function.source.strip() == setter_source(tenancy).strip() and _plain(
        function, returns="void", language="plpgsql", volatility="v", parallel="u"
    )


def _plain(function: Function, **wanted: str) -> bool:
    flags = (function.definer, function.strict, function.leakproof, function.settings)
    return all(getattr(function, k) == v for k, v in wanted.items()) and not any(flags)


def find_function(functions: Sequence[Function], name: Name, types: tuple[str, ...]) -> Function | None:
    """The function of that name and those types of arguments."""
    return next((f for f in functions if f.name == name and f.types == types), None)
