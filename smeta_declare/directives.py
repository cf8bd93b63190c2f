"""Directives: comments that begin with `smeta:` and say how the statement under them is to be run. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, NamedTuple, TypeAlias

from smeta_declare.errors import InvalidMigration
from smeta_declare.rendered import Rendered
from smeta_declare.statement import Comment, Statement, comments, leading_comments

_DIRECTIVE = re.compile(r"smeta[ \t]*:[ \t]*(.*?)\s*", re.IGNORECASE | re.DOTALL)
_NOTHING = "nothing-to-undo"
_NAMES = ("batch", "alone", "commits-inside", _NOTHING)
# A directive without its colon would be a comment like any other, and what it asks for would not happen.
_NEARLY = re.compile(rf"smeta[ \t=-]+({'|'.join(_NAMES)})\b.*", re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r'\s*([a-z_][a-z_-]*)(?:\s*=\s*|\s+(?="))("(?:[^"]|"")*"|[^\s"=]+)(?=\s|$)', re.IGNORECASE)
_DURATION = re.compile(r"(\d{1,9})(ms|s|min|h)")
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}
_LARGEST = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """`-- smeta: batch …`: the statement below is run in batches of `size` rows, in the order of a unique key.

    `until` is a condition that holds for every row that is left to do. Times are milliseconds.
    """

    key: str  # the column's name as the catalogue has it
    size: int = 5_000
    pause_ms: int = 0
    max_lag_ms: int | None = None
    until: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitsInside:
    """`-- smeta: commits-inside resume=…`: the statement makes transactions of its own, so it runs in none.

    `resume` says what to do where it was begun and nobody knows whether it ended.
    """

    resume: Literal["again", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """`-- smeta: alone`: the statement is a transaction of its own, so that its locks are not held beside others'."""


Directive: TypeAlias = Alone | BatchOptions | CommitsInside


class Placed(NamedTuple):
    """A directive and where it stands in the text."""

    directive: Directive
    start: int


def directives(rendered: Rendered, found: Sequence[Statement]) -> tuple[Placed | None, ...]:
    """For each statement the directive above it; what is malformed or has no statement is InvalidMigration."""
    if "smeta" not in rendered.text.lower():
        return (None,) * len(found)
    above, below = leading_comments(rendered, found)
    known = {comment.start for group in (*above, below) for comment in group}
    for comment in comments(rendered):
        if comment.start not in known and _says(comment) is not None:
            raise _refused(
                rendered,
                comment.start,
                "a directive beside or inside a statement",
                "put it on the line above",
            )
    for comment in below:
        if (said := _says(comment)) is not None and not (said == _NOTHING and not found):
            raise _refused(
                rendered,
                comment.start,
                "a directive with no statement under it",
                "put it above its statement",
            )
    return tuple(_only(rendered, group) for group in above)


def nothing_to_undo(rendered: Rendered) -> int | None:
    """Where a text without statements says `-- smeta: nothing-to-undo`; None where it does not."""
    _, below = leading_comments(rendered, ())
    return next((comment.start for comment in below if _says(comment) == _NOTHING), None)


def _only(rendered: Rendered, group: Iterable[Comment]) -> Placed | None:
    found: Placed | None = None
    for comment in group:
        if (said := _says(comment)) is not None:
            if found:
                raise _refused(
                    rendered, comment.start, "two directives for one statement", "keep one of them"
                )
            try:
                found = Placed(_parsed(said), comment.start)
            except _Malformed as error:
                raise _refused(rendered, comment.start, str(error), error.hint) from error
    return found


def _says(comment: Comment) -> str | None:
    """What a comment says as a directive; None where it is none."""
    if match := _DIRECTIVE.fullmatch(comment.text):
        return match[1]
    if match := _NEARLY.fullmatch(comment.text):
        return f"missing-colon {match[1]}"
    return None


def _refused(rendered: Rendered, start: int, message: str, hint: str) -> InvalidMigration:
    return InvalidMigration(message, location=rendered.locate(start), hint=hint)


# One directive


class _Malformed(ValueError):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def _parsed(said: str) -> Directive:
    name, _, rest = said.partition(" ")
    match name:
        case "alone":
            _options(rest, ())
            return Alone()
        case "batch":
            return _batch(_options(rest, ("key", "size", "pause", "max_lag", "until")))
        case "commits-inside":
            options = _options(rest, ("resume",))
            match options.get("resume"):
                case ("again" | "done") as resume:
                    return CommitsInside(resume=resume)
                case _:
                    raise _Malformed(
                        "commits-inside must say how to resume",
                        "write resume=again (it may run twice) or resume=done (never again)",
                    )
        case "nothing-to-undo":
            raise _Malformed(
                "nothing-to-undo above a statement",
                "it stands alone in a rollback section: remove it, or the statement",
            )
        case "missing-colon":
            raise _Malformed("a directive without its colon", f"write -- smeta: {rest} …")
        case _:
            raise _Malformed(
                f"no directive {name!r}" if name else "an empty directive", _nearest(name, _NAMES)
            )


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _options(text: str, known: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _words(text):
        if name not in known:
            raise _Malformed(f"no option {name!r}", _nearest(name, known))
        if name in found:
            raise _Malformed(f"{name} is given twice", "keep one of them")
        found[name] = value
    return found


def _words(text: str) -> Iterator[tuple[str, str]]:
    """`name=value`, `name="value"` and `name "value"`; a quote inside of quotes is doubled, as in SQL."""
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _WORD.match(text, position)
        if not match:
            raise _Malformed(
                f"cannot be read from here: {text[position:].strip()}",
                'options are name=value, or name="…" where the value has blanks',
            )
        yield match[1].lower(), match[2]
        position = match.end()


def _batch(options: dict[str, str]) -> BatchOptions:
    if "key" not in options:
        raise _Malformed("a batch needs a key", "add key=COLUMN, a column that is unique and not null")
    max_lag = options.get("max_lag")
    return BatchOptions(
        key=_column(options["key"]),
        size=_size(options.get("size", "5000")),
        pause_ms=_duration("pause", options.get("pause", "0ms")),
        max_lag_ms=_duration("max_lag", max_lag) if max_lag is not None else None,
        until=_unquoted(options["until"]) if "until" in options else None,
    )


def _column(text: str) -> str:
    """A column's name as SQL reads it: folded to lower case, unless in quotes."""
    if text.startswith('"'):
        return _unquoted(text)
    if "," in text:
        raise _Malformed("a key of several columns", "batches need one column that is unique by itself")
    return text.lower()


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _LARGEST:
        raise _Malformed(f"size {text} is no number of rows", f"write a number from 1 to {_LARGEST}")
    return int(text)


def _duration(name: str, text: str) -> int:
    match = _DURATION.fullmatch(text)
    if not match:
        raise _Malformed(f"{name} {text} is no duration", "write it with its unit: 50ms, 5s, 2min")
    return int(match[1]) * _UNITS[match[2]]
