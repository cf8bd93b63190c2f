"""What a schema cannot say about `tenancy:`: parents must be declared, classes must agree with what they are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smeta_declare.diagnostics import Diagnostic, nearest
from smeta_declare.schemas import Deferred, KeyPath, path_text
from smeta_declare.tenancy.declaration import Name
from smeta_declare.yaml_source import Document, mistake

_TABLES: KeyPath = ("tenancy", "tables")
_ROLES: KeyPath = ("tenancy", "roles")
_WITH_TENANT = ("tenant", "overlay")


def tenancy_mistakes(
    block: Mapping[str, Any], versions: Iterable[str], document: Document
) -> Iterator[Diagnostic]:
    """Every contradiction in a `tenancy:` block, which may break the schema as well."""
    yield from _since(block, tuple(versions), document)
    yield from _roles(block, document)
    tables = _mapping(block.get("tables"))
    classes = {name: kind for key, said in tables.items() if (name := _name(key)) and (kind := _class(said))}
    home = _name(_mapping(block.get("registry")).get("table"))
    yield from _twice(tables, document)
    for key, said in tables.items():
        path: KeyPath = (*_TABLES, key)
        name, kind = _name(key), _class(said)
        if kind == "registry" and home and name != home:
            told = f"`{key}` cannot be the registry: `tenancy.registry` names `{home}`"
            yield mistake("manifest-value", told, document.at(path), hint="give it another class")
        if name == home and kind not in (None, "registry"):
            told = f"`{key}` is the registry, and its class here is `{kind}`"
            yield mistake("manifest-value", told, document.at(path), hint="write `registry`")
        if isinstance(said, dict):
            yield from _more(key, said, classes, path, document)
    yield from _cycles(tables, document)


def _since(block: Mapping[str, Any], versions: tuple[str, ...], document: Document) -> Iterator[Diagnostic]:
    since = _text(block.get("since"))
    if since is not None and since not in versions:
        close = nearest(since, versions)
        yield mistake(
            "manifest-reference",
            f"`tenancy.since` names `{since}`, and there is no such migration",
            document.at(("tenancy", "since")),
            hint=f"did you mean `{close}`?" if close else "name a version of `migrations.apply`",
        )


def _roles(block: Mapping[str, Any], document: Document) -> Iterator[Diagnostic]:
    seen: dict[str, str] = {}
    roles = _mapping(block.get("roles"))
    for group in ("owner", "application", "read_only", "bypass"):
        given = roles.get(group)
        for index, role in enumerate(given if isinstance(given, list) else [given]):
            if (name := _text(role)) is None:
                continue
            path = (*_ROLES, group, index) if isinstance(given, list) else (*_ROLES, group)
            if name in seen:
                told = f"`{name}` is named as `{seen[name]}` and as `{group}`"
                yield mistake(
                    "manifest-duplicate", told, document.at(path), hint="each role has one thing to do"
                )
            seen.setdefault(name, group)


def _twice(tables: Mapping[str, Any], document: Document) -> Iterator[Diagnostic]:
    first: dict[Name, str] = {}
    for key in tables:
        name = _name(key)
        if name in first:
            told = f"`{key}` is the relation that `{first[name]}` is, too"
            yield mistake("manifest-duplicate", told, document.at_key((*_TABLES, key)), hint="keep one")
        elif name:
            first[name] = key


def _more(
    key: str, said: Mapping[str, Any], classes: Mapping[Name, str], path: KeyPath, document: Document
) -> Iterator[Diagnostic]:
    kind, parent = _class(said), _text(said.get("parent"))
    for word in ("parent", "via", "policy_form"):
        fits = word == "policy_form" and kind == "registry"
        if word in said and kind is not None and kind not in _WITH_TENANT and not fits:
            told = f"`{path_text((*path, word))}` says nothing of the class `{kind}`"
            yield mistake("manifest-value", told, document.at((*path, word)), hint="remove it")
    if "via" in said and "parent" not in said:
        told = f"`{key}` is a tenant's by `via`, and has no `parent`"
        yield mistake(
            "manifest-required", told, document.at((*path, "via")), hint="name the relation it leads to"
        )
    if "via" in said and kind == "overlay":
        told = f"`{key}` is an overlay, which needs a tenant column of its own"
        yield mistake(
            "manifest-value", told, document.at((*path, "via")), hint="remove `via:`, or make it `tenant`"
        )
    if parent is not None and (name := _name(parent)):
        place = document.at((*path, "parent"))
        if name not in classes:
            close = nearest(parent, map(str, classes))
            hint = f"did you mean `{close}`?" if close else "declare it in `tenancy.tables`"
            yield mistake(
                "manifest-reference",
                f"`{key}` has the parent `{parent}`, which has no class",
                place,
                hint=hint,
            )
        elif classes[name] not in _WITH_TENANT:
            told = f"`{key}` has the parent `{parent}`, whose class `{classes[name]}` has no tenant to give"
            yield mistake("manifest-value", told, place, hint="a parent is `tenant` or `overlay`")
    allowed = {"internal": (), "global": ("select",)}.get(kind or "")
    for group in ("application", "read_only"):
        given = said.get(group)
        for index, privilege in enumerate(given if isinstance(given, list) else ()):
            if allowed is not None and _text(privilege) is not None and privilege not in allowed:
                told = f"`{key}` is `{kind}`: {group.replace('_', '-')} roles cannot {privilege} there"
                yield mistake(
                    "manifest-value", told, document.at((*path, group, index)), hint="give it another class"
                )


def _cycles(tables: Mapping[str, Any], document: Document) -> Iterator[Diagnostic]:
    """Parents that lead back; a table that refers to itself is a tree, unless its tenant comes that way."""
    parents = {
        name: (key, parent, "via" in said)
        for key, said in tables.items()
        if isinstance(said, dict) and (name := _name(key)) and (parent := _name(said.get("parent")))
    }
    told: set[Name] = set()
    for start in parents:
        line = [start]
        while (found := parents.get(line[-1])) and found[1] not in line:
            line.append(found[1])
        if found and found[1] == start and not told & set(line) and (len(line) > 1 or found[2]):
            told |= set(line)
            shown = " → ".join(f"`{name}`" for name in (*line, start))
            yield mistake(
                "manifest-reference",
                f"parents lead back to where they begin: {shown}",
                document.at((*_TABLES, parents[start][0], "parent")),
                hint="remove one `parent:`",
            )


def _name(text: object) -> Name | None:
    try:
        return Name.written(known) if (known := _text(text)) is not None else None
    except ValueError:
        return None  # told by the schema


def _class(said: object) -> str | None:
    return _text(said.get("class") if isinstance(said, dict) else said)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and not isinstance(value, Deferred) else None
