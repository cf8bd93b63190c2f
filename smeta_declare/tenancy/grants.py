"""Rights of the declared roles: what their class gives them, and nothing that goes around row security. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smeta_declare.parsetree import quoted
from smeta_declare.tenancy.change import Change, Phase
from smeta_declare.tenancy.declaration import Name, Tenancy
from smeta_declare.tenancy.model import PUBLIC, Catalogue
from smeta_declare.tenancy.policies import role_list
from smeta_declare.tenancy.wanted import Wanted


def bound_roles(tenancy: Tenancy) -> tuple[str, ...]:
    """The roles that serve tenants: what they may do is declared."""
    return (*tenancy.roles.application, *tenancy.roles.read_only)


def grant_changes(
    wanted: Wanted, tenancy: Tenancy, catalogue: Catalogue, former: frozenset[str]
) -> Iterator[Change]:
    """What makes the rights on a relation what is declared; also `truncate`, which row security does not see."""
    relation, table = wanted.relation, wanted.relation.name
    ruled = {PUBLIC, *bound_roles(tenancy), *former} - {relation.owner}
    have = {(role, p) for role, p in relation.grants if role in ruled}
    want = {(role, p) for role, p in wanted.grants if role in ruled}
    for role in sorted(ruled):
        more, less = _of(want - have, role), _of(have - want, role)
        passed_on = _of({g for g in relation.grantable if g in want}, role)
        columns = sorted((p, c) for r, p, c in relation.column_grants if r == role)
        forward: list[str] = []
        back: list[str] = []
        told: list[str] = []
        to = role_list((role,))
        if less or columns:
            shown = ", ".join(dict.fromkeys((*less, *(f"{p} ({quoted(c)})" for p, c in columns))))
            forward.append(f"revoke {shown} on {table.sql} from {to}")
            back += [_regrant(relation.grantable, role, p, table) for p in less]
            back += [f"grant {p} ({quoted(c)}) on {table.sql} to {to}" for p, c in columns]
            told.append(f"{role} may not {shown}")
        if passed_on:
            forward.append(f"revoke grant option for {', '.join(passed_on)} on {table.sql} from {to}")
            back += [_regrant(relation.grantable, role, p, table) for p in passed_on]
            told.append(f"{role} passes nothing on")
        if more:
            forward.append(f"grant {', '.join(more)} on {table.sql} to {to}")
            back.insert(0, f"revoke {', '.join(more)} on {table.sql} from {to}")
            told.append(f"{role} may {', '.join(more)}")
        if forward:
            yield Change(
                phase=Phase.GRANT,
                object=str(table),
                words=f"{table}: {'; '.join(told)}",
                forward=tuple(forward),
                back=tuple(back),
            )
    yield from _sequences(wanted, catalogue)
    if wanted.invoker and not relation.invoker:
        where = f"alter view {table.sql} "
        was = "reset (security_invoker)" if relation.invoker is None else "set (security_invoker = false)"
        yield Change(
            phase=Phase.GRANT,
            object=str(table),
            words=f"{table}: shows what whoever asks may see, not what its owner may",
            forward=(f"{where}set (security_invoker = true)",),
            back=(f"{where}{was}",),
        )


_ORDER = ("select", "insert", "update", "delete", "truncate", "references", "trigger", "maintain")


def _of(grants: Iterable[tuple[str, str]], role: str) -> list[str]:
    return sorted((p for r, p in grants if r == role), key=_ORDER.index)


def _regrant(grantable: frozenset[tuple[str, str]], role: str, privilege: str, table: Name) -> str:
    option = " with grant option" if (role, privilege) in grantable else ""
    return f"grant {privilege} on {table.sql} to {role_list((role,))}{option}"


def _sequences(wanted: Wanted, catalogue: Catalogue) -> Iterator[Change]:
    """Whoever inserts takes the next number; reading the last one would count other tenants' rows."""
    for sequence in wanted.relation.sequences:
        for role in sorted({role for role, privilege in wanted.grants if privilege == "insert"}):
            if not catalogue.sequence_grants & {(sequence, role, "usage"), (sequence, PUBLIC, "usage")}:
                yield Change(
                    phase=Phase.GRANT,
                    object=str(sequence),
                    words=f"{sequence}: {role} may take the next number",
                    forward=(f"grant usage on sequence {sequence.sql} to {quoted(role)}",),
                    back=(f"revoke usage on sequence {sequence.sql} from {quoted(role)}",),
                )


def usage_changes(tenancy: Tenancy, catalogue: Catalogue, key_type: str) -> Iterator[Change]:
    """Schemas and the context functions, where not everybody may use them anyway."""
    roles = bound_roles(tenancy)
    names = {t.name.schema for t in tenancy.tables if catalogue.of(t.name)} | {tenancy.functions.schema}
    for schema in sorted(names):
        owner, grants = catalogue.schemas.get(schema, ("", frozenset()))
        for role in roles:
            if role != owner and not grants & {(role, "usage"), (PUBLIC, "usage")}:
                yield Change(
                    phase=Phase.GRANT,
                    object=schema,
                    words=f"schema {schema}: {role} may use it",
                    forward=(f"grant usage on schema {quoted(schema)} to {quoted(role)}",),
                    back=(f"revoke usage on schema {quoted(schema)} from {quoted(role)}",),
                )
    for name, types in ((tenancy.functions.reader, ()), (tenancy.functions.setter, (key_type,))):
        function = next((f for f in catalogue.functions if f.name == name and f.types == types), None)
        call = f"{name.sql}({', '.join(types)})"
        for role in (*roles, tenancy.roles.owner):
            granted = function.grants if function else frozenset({(PUBLIC, "execute")})
            owner = function.owner if function else catalogue.user
            if role != owner and not granted & {(role, "execute"), (PUBLIC, "execute")}:
                yield Change(
                    phase=Phase.GRANT,
                    object=str(name),
                    words=f"{name}: {role} may call it",
                    forward=(f"grant execute on function {call} to {quoted(role)}",),
                    back=(f"revoke execute on function {call} from {quoted(role)}",),
                )
