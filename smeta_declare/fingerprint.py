"""The schema of a database in digests: enough to say which object is not what it was, and in which respect. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Every object by kind and qualified name: its aspects (columns, indexes, grants, …), each a digest.

    Comparable within one major version of PostgreSQL: the server's own words are what is digested.
    """

    objects: Mapping[str, Mapping[str, str]]  # `relation public.orders` → aspect → digest
    meant: Mapping[str, tuple[str, ...]]  # a name as written → the objects that it means now
    dependents: Mapping[str, tuple[str, ...]]  # an object → what hangs on it

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(json.dumps(self.objects, sort_keys=True).encode()).hexdigest()

    def touched(self, names: Iterable[str]) -> dict[str, Mapping[str, str] | None]:
        """What these names mean, and what hangs on that, with its aspects; None for a name that means nothing yet.

        With them goes what every new object depends on.
        """
        found: dict[str, Mapping[str, str] | None] = {
            key: aspects for key, aspects in self.objects.items() if key.startswith(_EVERYWHERE)
        }
        for name in names:
            meant = self.meant.get(name, ())
            if not meant:
                found[name] = None
            for key in self._with_dependents(meant):
                found[key] = self.objects[key]
        return dict(sorted(found.items()))

    def _with_dependents(self, keys: Iterable[str]) -> Iterator[str]:
        waiting, seen = list(keys), set()
        while waiting:
            key = waiting.pop()
            if key not in seen and key in self.objects:
                seen.add(key)
                yield key
                waiting += self.dependents.get(key, ())


_EVERYWHERE = ("setting ", "default privileges ")


def catalog_of(
    meant: Iterable[Sequence[str]], digests: Iterable[Sequence[str]], edges: Iterable[Sequence[str]]
) -> Catalog:
    """From the answers of `fingerprint.sql`: names as written, aspects of objects, what hangs on what."""
    objects: dict[str, dict[str, str]] = {}
    for kind, name, aspect, digest in digests:
        objects.setdefault(f"{kind} {name}", {})[aspect] = digest
    meanings: dict[str, list[str]] = {}
    for written, kind, name in meant:
        if kind == "setting":
            objects[f"setting {written}"] = {"value": name}
        if f"{kind} {name}" in objects:
            meanings.setdefault(written, []).append(f"{kind} {name}")
    dependents: dict[str, list[str]] = {}
    for target, name in edges:
        dependents.setdefault(f"relation {target}", []).append(f"relation {name}")
    return Catalog(
        objects=objects,
        meant={name: tuple(keys) for name, keys in meanings.items()},
        dependents={key: tuple(keys) for key, keys in dependents.items()},
    )


def differences(
    before: Mapping[str, Mapping[str, str] | None], now: Mapping[str, Mapping[str, str] | None]
) -> list[str]:
    """Which objects are not what they were, in words."""
    return [
        f"{name} {_difference(before.get(name), now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) or (name in before) != (name in now)
    ]


def _difference(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> str:
    if before is None and now is None:
        return "is named by one of the two only"
    if before is None:
        return "is there now"
    if now is None:
        return "is gone"
    changed = sorted(a for a in before.keys() | now.keys() if before.get(a) != now.get(a))
    return f"has other {', '.join(changed)}"
