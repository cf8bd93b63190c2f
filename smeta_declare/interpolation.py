"""`${NAME}`, `${NAME:-default}`, `${NAME:?message}` as in Compose files; `$$` is a dollar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

_MARK = re.compile(r"\$\$|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_DEPTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One `${…}`; `default` may hold further ones."""

    name: str
    offset: int
    default: Parts | None = None
    message: str | None = None


Part: TypeAlias = str | Reference
Parts: TypeAlias = tuple[Part, ...]


class Malformed(ValueError):
    """A `${…}` that cannot be read, and where it begins."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset, self.message = offset, message


class Unset(LookupError):
    """A variable that is needed and not set."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(reference.name)
        self.reference = reference


@dataclass(slots=True)
class Substituted:
    """The text with its values, and the variables whose values it holds."""

    text: str = ""
    used: list[str] = field(default_factory=list)


def parse(text: str) -> Parts:
    """The pieces of a text; Malformed names the first `${…}` that is none of the three forms."""
    parts, _ = _parse(text, 0, depth=0)
    return parts


def _parse(text: str, start: int, *, depth: int) -> tuple[Parts, int]:
    """Pieces up to the end, or inside a default up to its closing brace."""
    parts: list[Part] = []
    position = start
    while True:
        mark = _MARK.search(text, position)
        brace = text.find("}", position) if depth else -1
        if brace >= 0 and (mark is None or brace < mark.start()):
            return (*parts, text[position:brace]), brace
        if mark is None:
            return (*parts, text[position:]), len(text)
        parts.append(text[position : mark.start()])
        if mark[0] == "$$":
            parts.append("$")
            position = mark.end()
        else:
            reference, position = _reference(text, mark.start(), depth=depth + 1)
            parts.append(reference)


def _reference(text: str, start: int, *, depth: int) -> tuple[Reference, int]:
    name = _NAME.match(text, start + 2)
    if name is None:
        raise Malformed(
            start, "`${` must be followed by the name of a variable; a dollar before a brace is `$${`"
        )
    if depth > _MAX_DEPTH:
        raise Malformed(start, "defaults are nested too deeply")
    rest, operator = name.end(), text[name.end() : name.end() + 2]
    if operator == ":-":
        default, end = _parse(text, rest + 2, depth=depth)
        reference = Reference(name=name[0], offset=start, default=default)
    elif operator == ":?":
        end = text.find("}", rest)
        end = len(text) if end < 0 else end
        reference = Reference(name=name[0], offset=start, message=text[rest + 2 : end].strip())
    else:
        end, reference = rest, Reference(name=name[0], offset=start)
    if end == len(text):
        raise Malformed(start, f"`${{{name[0]}` has no closing brace")
    if text[end] != "}":
        forms = "`${NAME}`, `${NAME:-default}` and `${NAME:?message}`"
        raise Malformed(start, f"`{text[start : end + 2]}…` is none of {forms}")
    return reference, end + 1


def substitute(parts: Parts, environ: Mapping[str, str]) -> Substituted:
    """The text for this environ; an empty variable counts as unset where there is a default or a message."""
    result = Substituted()
    for part in parts:
        if isinstance(part, str):
            result.text += part
            continue
        value = environ.get(part.name)
        optional = part.default is not None or part.message is not None
        if value is not None and (value or not optional):
            result.text += value
            result.used.append(part.name)
        elif part.default is not None:
            inner = substitute(part.default, environ)
            result.text += inner.text
            result.used += inner.used
        else:
            raise Unset(part)
    return result
