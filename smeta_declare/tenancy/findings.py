"""What is wrong with a declaration once it meets a database, and cannot be put right by statements of ours. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from smeta_declare.diagnostics import Diagnostic, Location, Severity
from smeta_declare.tenancy.columns import filling_of, needs_filling
from smeta_declare.tenancy.declaration import SEALED, Tenancy
from smeta_declare.tenancy.grants import bound_roles
from smeta_declare.tenancy.keys import carries_tenant
from smeta_declare.tenancy.model import PUBLIC, Catalogue, Column, Relation, Role
from smeta_declare.tenancy.wanted import Wanted, key_column, wanted

_KINDS = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}


def catalogue_findings(tenancy: Tenancy, catalogue: Catalogue) -> tuple[Diagnostic, ...]:
    """Everything that keeps tenants from being sealed as declared: HIGH is to be refused, the rest to be told."""
    key = key_column(tenancy, catalogue)
    if key is None:
        missing = "" if catalogue.of(tenancy.registry) is None else f"column {tenancy.key} of "
        return (
            _finding(
                "tenancy-registry",
                f"there is no {missing}{tenancy.registry}, where tenants are registered",
                str(tenancy.registry),
                hint="create it in a migration, and name that in `tenancy.since`",
            ),
        )
    found = [*_registry(tenancy, catalogue, key), *_roles(tenancy, catalogue)]
    for each in wanted(tenancy, catalogue):
        found += _relation(each, tenancy, catalogue, key.type)
    found += _missing(tenancy, catalogue)
    found += _unclassified(tenancy, catalogue)
    return tuple(found)


def _finding(
    code: str,
    message: str,
    object: str,
    *,
    hint: str,
    severity: Severity = Severity.HIGH,
    location: Location | None = None,
) -> Diagnostic:
    return Diagnostic(
        code=code, severity=severity, message=message, object=object, hint=hint, location=location
    )


def _registry(tenancy: Tenancy, catalogue: Catalogue, key: Column) -> Iterator[Diagnostic]:
    if "(" in key.compared or key.compared.endswith("]"):
        yield _finding(
            "tenancy-type",
            f"{tenancy.registry}.{key.name} is {key.type}, which cannot be the key of a tenant",
            str(tenancy.registry),
            hint="take uuid, text, varchar, a whole number, or a domain over one of them",
        )
    registry = catalogue.of(tenancy.registry)
    if registry and not any(
        i.unique and i.valid and not i.partial and i.columns == (tenancy.key,) for i in registry.indexes
    ):
        yield _finding(
            "tenancy-registry",
            f"{tenancy.registry}.{tenancy.key} is not unique: nothing can refer to a tenant",
            str(tenancy.registry),
            hint="make it the primary key",
        )


def _missing(tenancy: Tenancy, catalogue: Catalogue) -> Iterator[Diagnostic]:
    for table in tenancy.tables:
        if catalogue.of(table.name) is None:
            yield _finding(
                "tenancy-missing",
                f"{table.name} is declared, and not there",
                str(table.name),
                severity=Severity.LOW,
                location=table.location,
                hint="create it in a migration, or remove it from `tenancy.tables`",
            )


def _relation(each: Wanted, tenancy: Tenancy, catalogue: Catalogue, key_type: str) -> Iterator[Diagnostic]:
    relation, table, place = each.relation, each.table, each.table.location
    name = str(relation.name)
    if each.part:
        return
    if table.kind in SEALED and relation.kind in ("m", "f"):
        yield _finding(
            "tenancy-kind",
            f"{name} is {_KINDS[relation.kind]}, which cannot have row security",
            name,
            location=place,
            hint="make it `internal`, or `global` where nothing in it is a tenant's",
        )
    if table.kind in SEALED and relation.kind == "v" and catalogue.major < 15:
        yield _finding(
            "tenancy-kind",
            f"{name} is a view, and shows what its owner may see: security_invoker exists since PostgreSQL 15",
            name,
            location=place,
            hint="make it `internal`",
        )
    column = relation.column(tenancy.column)
    if each.column and column and column.type != key_type:
        yield _finding(
            "tenancy-type",
            f"{name}.{tenancy.column} is {column.type}, the key of {tenancy.registry} is {key_type}",
            name,
            location=place,
            hint="change its type in a migration",
        )
    if relation.is_table and table.via and not each.policies:
        yield _finding(
            "tenancy-via",
            f"{name}.{table.via} does not lead to a tenant: there is no such foreign key to {table.parent}",
            name,
            location=place,
            hint="create the foreign key in a migration",
        )
    if (
        relation.is_table
        and table.parent
        and not table.via
        and table.kind == "tenant"
        and not any(r.target == table.parent for r in relation.references())
    ):
        yield _finding(
            "tenancy-parent",
            f"{name} has no foreign key to its parent {table.parent}",
            name,
            location=place,
            hint="create it in a migration, or remove `parent:`",
        )
    if needs_filling(each) and column is None and filling_of(tenancy, relation, catalogue) is None:
        yield _finding(
            "tenancy-default",
            f"{name} has rows, and nothing says whose they are",
            name,
            location=place,
            hint="declare `tenancy.default_tenant`, or give each row its tenant in a migration",
        )
    yield from _over_overlays(each, tenancy, catalogue)
    if relation.owner in bound_roles(tenancy):
        yield _finding(
            "tenancy-owner",
            f"{name} belongs to {relation.owner}, which could take its row security away",
            name,
            location=place,
            hint=f"alter table {relation.name.sql} owner to {tenancy.roles.owner}",
        )
    elif relation.owner != tenancy.roles.owner and table.kind in SEALED:
        yield _finding(
            "tenancy-owner",
            f"{name} belongs to {relation.owner}, and `tenancy.roles.owner` is {tenancy.roles.owner}",
            name,
            severity=Severity.MEDIUM,
            location=place,
            hint="no policy names its owner, who sees nothing once row security is forced",
        )


def _over_overlays(each: Wanted, tenancy: Tenancy, catalogue: Catalogue) -> Iterator[Diagnostic]:
    """References that no foreign key can keep within a tenant: to its own rows or the shared ones, or from them."""
    for key in each.relation.references() if each.column else ():
        other = tenancy.of(key.target) if key.target else None
        target = catalogue.of(key.target) if key.target else None
        if other is None or target is None or not other.has_column:
            continue
        if "overlay" in (other.kind, each.table.kind) and not carries_tenant(
            tenancy, target, key.target_columns
        ):
            yield _finding(
                "tenancy-overlay",
                f"{each.relation.name}.{key.name} accepts another tenant's row of {key.target}",
                str(each.relation.name),
                severity=Severity.MEDIUM,
                location=each.table.location,
                hint="give the overlay a key with a generated column that says whose a row is (the tenant, or "
                "'shared'), refer to both, and check that the one here is the row's own tenant or 'shared'",
            )


def _roles(tenancy: Tenancy, catalogue: Catalogue) -> Iterator[Diagnostic]:
    for name in (*tenancy.roles.bound, *tenancy.roles.bypass):
        role = catalogue.role(name)
        creatable = tenancy.roles.create and name not in tenancy.roles.bypass
        me = catalogue.role(catalogue.user)
        if role is None and not creatable and not (tenancy.roles.create and me and me.super):
            yield _finding(
                "tenancy-role",
                f"there is no role {name}",
                name,
                hint="create it, or say `create: true` under `tenancy.roles` (who bypasses row security is "
                "created by a superuser)",
            )
    past = {role.name for role in catalogue.roles if role.super or role.bypass}
    for name in bound_roles(tenancy):
        if reached := sorted(past & {r.name for r in _reachable(name, catalogue)}):
            how = "is" if name in reached else f"can become {reached[0]}, which is"
            yield _finding(
                "tenancy-role",
                f"{name} {how} not bound by row security",
                name,
                severity=Severity.CRITICAL,
                hint="take SUPERUSER, BYPASSRLS or the membership away",
            )


def _reachable(name: str, catalogue: Catalogue) -> Iterator[Role]:
    """The role itself, and all that it is a member of, over any number of others."""
    waiting, seen = [name], {name}
    while waiting:
        if role := catalogue.role(waiting.pop()):
            yield role
            waiting += [above for above in role.member_of if above not in seen]
            seen |= set(role.member_of)


def _unclassified(tenancy: Tenancy, catalogue: Catalogue) -> Iterator[Diagnostic]:
    """Relations that an application role may touch, by itself or as a member, and that nobody has thought about."""
    known = {table.name for table in tenancy.tables}
    known |= {part.name for name in list(known) for part in catalogue.descendants(name)}
    reaching = {role.name for name in bound_roles(tenancy) for role in _reachable(name, catalogue)} | {PUBLIC}
    for relation in catalogue.relations:
        if relation.name not in known and (held := _held(relation, reaching)):
            yield _finding(
                "tenancy-unclassified",
                f"{relation.name} has no class, and {', '.join(sorted(held))} may reach it",
                str(relation.name),
                severity=Severity.HIGH if tenancy.unclassified == "error" else Severity.LOW,
                hint="give it a class in `tenancy.tables`, or revoke the rights",
            )


def _held(relation: Relation, roles: set[str]) -> set[str]:
    return {r for r, _ in relation.grants if r in roles} | {
        r for r, _, _ in relation.column_grants if r in roles
    }
