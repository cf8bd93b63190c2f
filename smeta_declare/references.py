"""What a schema cannot say about a manifest: names must exist, orders must hold, settings must agree.

Works on data that may break the schema as well, so that all mistakes are told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smeta_declare.diagnostics import Diagnostic, nearest
from smeta_declare.schemas import Deferred, KeyPath, path_text
from smeta_declare.tenancy.mistakes import tenancy_mistakes
from smeta_declare.validation import Expectation, as_text
from smeta_declare.yaml_source import Document, mistake


def reference_findings(
    data: Mapping[str, Any], document: Document, *, origins: Mapping[KeyPath, KeyPath] | None = None
) -> Iterator[Diagnostic]:
    """Every name that leads nowhere and every pair of settings that contradicts itself.

    For a resolved environment `origins` says where its settings were written.
    """
    yield from _inheritance(data, document)
    yield from _policies(data, document, origins or {})
    yield from _migrations(data, document)
    yield from _checks(data, document)
    versions = [version for _, version, _ in _entries(data)]
    yield from tenancy_mistakes(_mapping(data.get("tenancy")), versions, document)


def chain(environments: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The environments whose settings make up this one, the first ancestor first."""
    found: list[str] = []
    following: object = name
    while isinstance(following, str) and following in environments and following not in found:
        found.append(following)
        following = _mapping(environments[following]).get("extends")
    return tuple(reversed(found))


def expectation(value: object) -> Expectation:
    """What a check expects, in whatever form it is written; ValueError says what is allowed."""
    match value:
        case True:
            return Expectation()
        case str():
            return Expectation.parse(value)
        case {"value": wanted}:
            return Expectation(kind="value", value=as_text(wanted))
        case {"rows": int(number)}:
            return Expectation.parse(f"rows = {number}")
        case {"rows": str(text)}:
            return Expectation.parse(f"rows = {text}" if text[:1].isdigit() else f"rows {text}")
        case {"empty": True}:
            return Expectation.parse("empty")
        case _:
            raise ValueError("an expectation is `true`, `empty`, `rows = 3`, `rows >= 1` or `value = 0`")


def _inheritance(data: Mapping[str, Any], document: Document) -> Iterator[Diagnostic]:
    environments = _mapping(data.get("environments"))
    for name, block in environments.items():
        base = _text(_mapping(block).get("extends"))
        place = document.at(("environments", name, "extends"))
        if base is None:
            continue
        if base not in environments:
            yield _unknown("environment", base, environments, place, f"`{name}` extends")
            continue
        line = chain(environments, name)
        if _mapping(environments[line[0]]).get("extends") in line:
            told = " → ".join((*reversed(line), str(_mapping(environments[line[0]])["extends"])))
            yield mistake(
                "manifest-reference", f"`{name}` extends itself: {told}", place, hint="remove one `extends:`"
            )
            continue
        guarded = [n for n in line[:-1] if _mapping(environments[n]).get("protected") is True]
        own = _mapping(block).get("protected", True)
        if guarded and own is not True and not isinstance(own, Deferred):
            yield unprotected(document, name, guarded[0])
        demanded = [_list(_mapping(environments[n]).get("require")) for n in line[:-1]]
        if "require" in _mapping(block):
            yield from undemanded(document, name, demanded, _list(_mapping(block)["require"]))


def undemanded(
    document: Document, name: str, demanded: Iterable[list[Any]], own: list[Any]
) -> Iterator[Diagnostic]:
    """An environment drops what the ones it extends demand of every plan."""
    if any(isinstance(item, Deferred) for item in own):
        return  # known when the environment is resolved
    for item in dict.fromkeys(item for items in demanded for item in items):
        if item not in own and not isinstance(item, Deferred):
            yield mistake(
                "manifest-value",
                f"`{name}` extends an environment that requires {item}, and cannot drop that",
                document.at(("environments", name, "require")),
                hint=f"add {item} to `require:` here; a list replaces the one it inherits",
            )


def unprotected(document: Document, name: str, base: str) -> Diagnostic:
    """An environment takes the protection away that it inherits."""
    return mistake(
        "manifest-value",
        f"`{name}` extends `{base}`, which is protected, and cannot take that back",
        document.at(("environments", name, "protected")),
        hint=f"remove `protected:`, or move what both share into an environment that `{base}` extends too",
    )


def _policies(
    data: Mapping[str, Any], document: Document, origins: Mapping[KeyPath, KeyPath]
) -> Iterator[Diagnostic]:
    policies = _mapping(_mapping(data.get("backups")).get("policies"))
    for name, policy in policies.items():
        path: KeyPath = ("backups", "policies", name, "compress")
        if "compress" in _mapping(policy) and _mapping(policy).get("format", "custom") == "plain":
            told = f"`{path_text(path)}` needs `format: custom`; pg_dump compresses no plain script here"
            yield mistake(
                "manifest-value", told, document.at(path), hint="remove `compress:`, or use `format: custom`"
            )
    users: list[tuple[KeyPath, Any]] = [(("defaults",), data.get("defaults"))]
    users += [(("environments", n), block) for n, block in _mapping(data.get("environments")).items()]
    users += [(path, entry) for path, _, entry in _entries(data)]
    for path, block in users:
        wanted = _text(_mapping(block).get("backup"))
        if wanted is None or wanted in policies:
            continue
        place = document.at(origins.get((*path, "backup"), (*path, "backup")))
        if wanted != "none":
            yield _unknown(
                "policy of `backups.policies`", wanted, (*policies, "none"), place, "`backup:` names"
            )
        elif path[0] == "migrations":
            told = "a migration may only ask for more than its environment, and `none` is never more"
            yield mistake(
                "manifest-value", told, place, hint="remove `backup:` here, or set it on the environment"
            )


def _migrations(data: Mapping[str, Any], document: Document) -> Iterator[Diagnostic]:
    environments = tuple(_mapping(data.get("environments")))
    entries = list(_entries(data))
    listed = {version for _, version, _ in entries}
    earlier: dict[str, tuple[KeyPath, frozenset[str]]] = {}
    for path, version, entry in entries:
        if version in earlier:
            line = document.at(earlier[version][0]).line
            told = f"`{version}` is listed twice, first in line {line}"
            yield mistake("manifest-duplicate", told, document.at(path), hint="remove one of the two lines")
            continue
        only = _list(entry.get("only"))
        for index, name in enumerate(only):
            if _text(name) is not None and name not in environments:
                place = document.at((*path, "only", index))
                yield _unknown("environment", name, environments, place, f"`only:` of `{version}` names")
        goes_to = frozenset(n for n in environments if n in only) if only else frozenset(environments)
        for index, needed in enumerate(_list(entry.get("requires"))):
            place = document.at((*path, "requires", index))
            if _text(needed) is None:
                continue
            if needed in earlier:
                missing = sorted(goes_to - earlier[needed][1])
                if missing:
                    told = f"`{version}` requires `{needed}`, which `{missing[0]}` does not get"
                    yield mistake("manifest-reference", told, place, hint="make the two `only:` lists agree")
            elif needed in listed:
                what = "itself" if needed == version else f"`{needed}`, which is listed later"
                told = f"`{version}` requires {what}; the order of the list is the order of application"
                yield mistake("manifest-reference", told, place, hint=f"move `{needed}` above `{version}`")
            else:
                yield _unknown("migration", needed, listed, place, f"`{version}` requires")
        earlier[version] = path, goes_to


def _checks(data: Mapping[str, Any], document: Document) -> Iterator[Diagnostic]:
    names: dict[str, int] = {}
    for index, check in enumerate(_list(data.get("checks"))):
        path: KeyPath = ("checks", index)
        if (name := _text(_mapping(check).get("name"))) is not None:
            place = document.at((*path, "name"))
            if name in names:
                told = f"two checks have the name `{name}`, the first in line {names[name]}"
                yield mistake("manifest-duplicate", told, place, hint="say what each of them asks")
            names.setdefault(name, place.line)
        if isinstance(wanted := _mapping(check).get("expect"), str) and not isinstance(wanted, Deferred):
            try:
                expectation(wanted)
            except ValueError as error:
                yield mistake("manifest-value", str(error), document.at((*path, "expect")))


def _entries(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, Mapping[str, Any]]]:
    """Every entry whose version can be read: place, version, what else it says."""
    for index, item in enumerate(_list(_mapping(data.get("migrations")).get("apply"))):
        entry = _mapping(item)
        if (version := _text(entry.get("version") if entry else item)) is not None:
            yield ("migrations", "apply", index), version, entry


def _unknown(kind: str, name: str, known: Iterable[str], place: Any, who: str) -> Diagnostic:
    close = nearest(name, known)
    listed = ", ".join(f"`{n}`" for n in list(known)[:12])
    hint = (
        f"did you mean `{close}`?"
        if close
        else f"there are: {listed}"
        if listed
        else f"there is no {kind} yet"
    )
    return mistake("manifest-reference", f"{who} `{name}`, and there is no such {kind}", place, hint=hint)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    """A text that is known: not one that waits for a variable."""
    return value if isinstance(value, str) and not isinstance(value, Deferred) else None
