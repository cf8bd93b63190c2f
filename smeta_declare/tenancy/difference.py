"""What the database has against what is declared: compared by meaning, told in words, undone as it was. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smeta_declare.parsetree import quoted
from smeta_declare.tenancy.change import Change, Phase
from smeta_declare.tenancy.columns import (
    column_changes,
    default_tenant,
    filling_of,
    make_default_tenant,
    needs_filling,
    takes_default_at_once,
)
from smeta_declare.tenancy.declaration import Name, Tenancy
from smeta_declare.tenancy.grants import grant_changes, usage_changes
from smeta_declare.tenancy.key_changes import adds_references, key_changes
from smeta_declare.tenancy.meaning import same
from smeta_declare.tenancy.model import Catalogue, Policy
from smeta_declare.tenancy.naming import PREFIX
from smeta_declare.tenancy.policies import (
    create_policy,
    create_reader,
    create_setter,
    find_function,
    is_reader,
    is_setter,
)
from smeta_declare.tenancy.wanted import Wanted, key_column, wanted


def changes(tenancy: Tenancy, catalogue: Catalogue, *, concurrently: bool = False) -> tuple[Change, ...]:
    """Everything to be done, in the order in which it is done; nothing where all is as declared.

    `concurrently`: tables that have rows are read and written meanwhile.
    """
    key = key_column(tenancy, catalogue)
    if key is None:
        return ()
    found = sorted(wanted(tenancy, catalogue), key=lambda w: _depth(w, tenancy, catalogue))
    made = [*_roles(tenancy, catalogue), *_functions(tenancy, catalogue, key.compared)]
    made += _tenant(found, tenancy, catalogue)
    opened = _opened(found, tenancy, catalogue)
    former = frozenset(_former(found, tenancy, catalogue))
    for each in found:
        gentle = concurrently and not each.relation.empty
        made += column_changes(each, tenancy, catalogue, gentle=gentle)
        made += key_changes(each, catalogue, gentle=gentle)
        made += _policies(each)
        made += grant_changes(each, tenancy, catalogue, former)
        made += _sealing(each, opened=each.relation.name in opened)
    made += usage_changes(tenancy, catalogue, key.compared)
    return tuple(sorted(made, key=lambda change: change.phase))


def _depth(wanted: Wanted, tenancy: Tenancy, catalogue: Catalogue) -> int:
    """How many parents have to be filled in before."""
    if not needs_filling(wanted):
        return 0
    depth, seen, relation = 0, {wanted.relation.name}, wanted.relation
    while (
        (filling := filling_of(tenancy, relation, catalogue))
        and filling.parent
        and filling.parent not in seen
    ):
        above = catalogue.of(filling.parent)
        if above is None:
            break
        depth, relation = depth + 1, above
        seen.add(above.name)
    return depth


def _roles(tenancy: Tenancy, catalogue: Catalogue) -> Iterator[Change]:
    if not tenancy.roles.create:
        return
    me = catalogue.role(catalogue.user)
    names = (*tenancy.roles.bound, *(tenancy.roles.bypass if me and me.super else ()))
    for name in names:
        if catalogue.role(name) is None:
            past = name in tenancy.roles.bypass
            yield Change(
                phase=Phase.ROLE,
                object=name,
                words=f"role {name} is created, without the right to log in"
                + ("; row security does not bind it" if past else ""),
                forward=(f"create role {quoted(name)} nologin{' bypassrls' if past else ''}",),
            )


def _functions(tenancy: Tenancy, catalogue: Catalogue, key_type: str) -> Iterator[Change]:
    reader = find_function(catalogue.functions, tenancy.functions.reader, ())
    setter = find_function(catalogue.functions, tenancy.functions.setter, (key_type,))
    for function, right, name, create, types, does in (
        (
            reader,
            reader is not None and is_reader(reader, tenancy, key_type),
            tenancy.functions.reader,
            create_reader(tenancy, key_type),
            "",
            f"reads the tenant of a transaction from {tenancy.setting}; null where there is none",
        ),
        (
            setter,
            setter is not None and is_setter(setter, tenancy),
            tenancy.functions.setter,
            create_setter(tenancy, key_type, setter),
            key_type,
            f"sets the tenant in {tenancy.setting}, until the transaction ends",
        ),
    ):
        if not right:
            drop = f"drop function if exists {name.sql}({types})"
            yield Change(
                phase=Phase.FUNCTION,
                object=f"{name}({types})",
                words=f"{name}({types}): {does}",
                forward=(create,),
                back=(function.definition if function else drop,),
            )


def _tenant(found: Iterable[Wanted], tenancy: Tenancy, catalogue: Catalogue) -> Iterator[Change]:
    """The default tenant, where rows must have one; and its context, where a new column is filled by its default."""
    if not tenancy.default_tenant:
        return
    to_fill = [w for w in found if needs_filling(w)]
    at_once = [w for w in to_fill if takes_default_at_once(w, tenancy, catalogue)]
    if not any(_uses_default(w, tenancy, catalogue) for w in to_fill):
        return
    shown = ", ".join(f"{name} {value}" for name, value in tenancy.default_tenant)
    context = f"select {tenancy.functions.setter.sql}({{}})"
    forward = [make_default_tenant(tenancy, catalogue)]
    if at_once:
        forward.append(context.format(default_tenant(tenancy, catalogue)))
    yield Change(
        phase=Phase.TENANT,
        object=str(tenancy.registry),
        words=f"{tenancy.registry}: the default tenant ({shown}) is there",
        forward=tuple(forward),
    )
    if at_once:
        yield Change(phase=Phase.UNTENANT, object=str(tenancy.registry), forward=(context.format("null"),))


def _uses_default(wanted: Wanted, tenancy: Tenancy, catalogue: Catalogue) -> bool:
    filling = filling_of(tenancy, wanted.relation, catalogue)
    return filling is not None and default_tenant(tenancy, catalogue) in filling.expression


def _opened(found: Iterable[Wanted], tenancy: Tenancy, catalogue: Catalogue) -> frozenset[Name]:
    """Forced tables whose rows are to be filled in, read for that, or looked through: their owner would see none."""
    names: set[Name] = set()
    for each in found:
        filled = needs_filling(each)
        if filled and (filling := filling_of(tenancy, each.relation, catalogue)):
            names |= {each.relation.name, tenancy.registry}
            names |= {filling.parent} if filling.parent else set()
        if adds_references(each):
            names.add(each.relation.name)
            names |= {reference.target for reference in each.keys.references}
    return frozenset(name for name in names if (r := catalogue.of(name)) and r.forced)


def _former(found: Iterable[Wanted], tenancy: Tenancy, catalogue: Catalogue) -> Iterator[str]:
    """Roles that policies of ours name and that are not declared any more."""
    kept = {*tenancy.roles.bound, *tenancy.roles.bypass, "public"}
    kept |= {each.relation.owner for each in found}
    for each in found:
        for policy in each.relation.policies:
            if policy.name.startswith(PREFIX):
                yield from (role for role in policy.roles if role not in kept)


def _policies(wanted: Wanted) -> Iterator[Change]:
    """Policies by what they say; only those that have our name are taken away."""
    relation = wanted.relation
    missing = [p for p in wanted.policies if not any(_alike(p, e) for e in relation.policies)]
    ours = [e for e in relation.policies if e.name.startswith(PREFIX)]
    extra = [e for e in ours if not any(_alike(p, e) for p in wanted.policies)]
    if not missing and not extra:
        return
    table = relation.name
    drop = [f"drop policy if exists {quoted(p.name)} on {table.sql}" for p in extra]
    undo = [f"drop policy if exists {quoted(p.name)} on {table.sql}" for p in missing]
    undo += [statement for statement in drop if statement not in undo]
    yield Change(
        phase=Phase.POLICY,
        object=str(table),
        words=f"{table}: {_told(missing, extra)}",
        forward=(*drop, *(create_policy(table, p) for p in missing)),
        back=(*undo, *(create_policy(table, p) for p in extra)),
    )


def _told(missing: list[Policy], extra: list[Policy]) -> str:
    before = {policy.name: policy for policy in extra}
    said = [_other(before[p.name], p) if p.name in before else f"policy {p.name} is added" for p in missing]
    added = {policy.name for policy in missing}
    said += [f"policy {name} is removed" for name in before if name not in added]
    return "; ".join(said)


def _other(was: Policy, now: Policy) -> str:
    """In which respects a policy is not what it was."""
    said = []
    if set(was.roles) != set(now.roles):
        said.append(f"is for {', '.join(now.roles)}, not for {', '.join(was.roles)}")
    if (was.command, was.permissive) != (now.command, now.permissive):
        said.append("is of another kind")
    if not same(was.using, now.using):
        said.append(f"shows rows where {now.using}, not where {was.using}")
    if not same(was.check or was.using, now.check or now.using):
        said.append(f"accepts rows where {now.check or now.using}, not where {was.check or was.using}")
    return f"policy {now.name} {', '.join(said)}"


def _alike(one: Policy, other: Policy) -> bool:
    """Whether two policies say the same; without a check of its own, a policy checks what it shows."""
    return (
        (one.command, one.permissive, frozenset(one.roles))
        == (other.command, other.permissive, frozenset(other.roles))
        and same(one.using, other.using)
        and same(one.check or one.using, other.check or other.using)
    )


def _sealing(wanted: Wanted, *, opened: bool) -> Iterator[Change]:
    relation = wanted.relation
    table, where = relation.name, f"alter table {relation.name.sql} "
    on, off = f"{where}enable row level security", f"{where}disable row level security"
    force, unforce = f"{where}force row level security", f"{where}no force row level security"
    if opened:
        yield Change(
            phase=Phase.UNFORCE,
            object=str(table),
            words=f"{table}: its owner sees all rows, until they are filled in and looked through",
            forward=(unforce,),
            back=(force,),
        )
    if wanted.sealed:
        part = ", asked by its own name it shows nothing" if wanted.part else ""
        if not relation.rls:
            yield Change(
                phase=Phase.ENABLE,
                object=str(table),
                words=f"{table}: row security is enabled{part}",
                forward=(on,),
                back=(off,),
            )
        if not relation.forced or opened:
            yield Change(
                phase=Phase.FORCE,
                object=str(table),
                words=f"{table}: row security is forced, so that its owner is bound too",
                forward=(force,),
                back=(unforce,),
            )
    elif relation.rls and any(p.name.startswith(PREFIX) for p in relation.policies):
        if not all(p.name.startswith(PREFIX) for p in relation.policies):
            return  # somebody else's policies still need it
        yield Change(
            phase=Phase.ENABLE,
            object=str(table),
            words=f"{table}: is {wanted.table.kind}, without row security",
            forward=(unforce, off),
            back=(on, *((force,) if relation.forced else ())),
        )
