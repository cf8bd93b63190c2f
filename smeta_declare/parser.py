"""PostgreSQL's own parser, by pglast: trees, tokens, and the meaning that is the same for the same tree."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from smeta_declare import parsetree
from smeta_declare.errors import SqlSyntaxError

COMMENTS = ("SQL_COMMENT", "C_COMMENT")
PARENTHESIS = "ASCII_40"
_DEEPEST = 40  # levels of a tree that are looked at where Python cannot hold all of it


_PLACE = r'"(?=[a-z_]++":[-\d])(?:[a-z_]*location|stmt_len|(?:rexpr_)?list_(?:start|end)|version)":-?\d+'
# Two passes, because a pattern that begins with fixed characters is found three times as fast.
_LATER_PLACE = re.compile(f",{_PLACE}")
_FIRST_PLACE = re.compile(rf"\{{{_PLACE}")


def meaning_of(tree: str) -> str:
    """`Script.meaning` of a tree."""
    return hashlib.sha256(_FIRST_PLACE.sub("{", _LATER_PLACE.sub("", tree)).encode()).hexdigest()


@functools.cache
def parser_version() -> str:
    """The parser whose trees `meaning` hashes."""
    from pglast.parser import get_postgresql_version

    return "postgresql " + ".".join(map(str, get_postgresql_version()))


# Parsing


def tree(text: str) -> list[tuple[str, parsetree.Node]]:
    """Kind and parse tree of every statement of a text, whole (RecursionError where it is too deep to be held)."""
    try:
        found = json.loads(tree_json(text))
    except parse_error() as error:
        raise SqlSyntaxError(str(error.args[0])) from error
    return [item for entry in found.get("stmts", ()) for item in entry["stmt"].items()]


def shallow(text: str) -> list[tuple[str, parsetree.Node]]:
    """As `tree`, and each statement is decoded as far as it is asked."""
    return decoded(tree_json(text), text).statements


def tokens(text: str) -> tuple[Any, ...]:
    """The tokens of a text that are no comments: `name`, `start`, and `end`, the last character's place."""
    return tuple(token for token in scanned(text) if token.name not in COMMENTS)


@dataclass(frozen=True, slots=True)
class Parsed:
    statements: list[tuple[str, parsetree.Node]]
    begins: list[int]  # one past the semicolon before it, at the earliest
    ends: list[int]  # where each statement's semicolon stands, or the end of the text


def parse_error() -> type[Exception]:
    from pglast.parser import ParseError

    error: type[Exception] = ParseError
    return error


@functools.lru_cache(maxsize=8)
def scanned(text: str) -> tuple[Any, ...]:
    from pglast.parser import scan

    return tuple(scan(text))


def tree_json(text: str) -> str:
    from pglast.parser import parse_sql_json

    tree: str = parse_sql_json(text)
    return tree


def decoded(source: str, text: str) -> Parsed:
    """What the tree of a text (JSON, of `source`) says of its statements: what they are, and where they stand.

    Borders of statements are found by pattern, because decoding all of a tree takes longer than making it, and
    most statements are told by their kind alone. No other node has a field `stmt`, and in texts quotes are escaped.
    """
    found = Parsed([], [], [])
    if source.endswith('"stmts":[]}'):
        return found
    head = _HEAD.match(source)
    assert head  # noqa: S101 # what libpg_query's writer of JSON gives
    kind, at = head[1], head.end()
    data = None if text.isascii() else text.encode()
    seen_bytes = seen = 0
    for border in _BORDER.finditer(source, at):
        found.statements.append((kind, _Node(source[at : border.start() + 1])))
        found.begins.append(found.ends[-1] + 1 if found.ends else 0)
        location, length, kind = border.groups()
        at = border.end()
        if not length:
            found.ends.append(len(text))
            continue
        end = int(location or 0) + int(length)
        if data is not None:  # the JSON counts bytes
            seen += len(data[seen_bytes:end].decode())
            seen_bytes, end = end, seen
        found.ends.append(end)
    assert at == len(source)  # noqa: S101 # no statement is lost
    return found


_HEAD = re.compile(r'\{"version":\d+,"stmts":\[\{"stmt":\{"(\w+)":')
_BORDER = re.compile(
    r'\}\}(?:,"stmt_location":(\d+))?(?:,"stmt_len":(\d+))?\}(?:,\{"stmt":\{"(\w+)":|\]\}\Z)'
)


class _Node(Mapping[str, Any]):
    """The tree of a statement, decoded when something is asked of it."""

    __slots__ = ("_fields", "_source")

    def __init__(self, source: str) -> None:
        self._source = source
        self._fields: parsetree.Node | None = None

    def _decoded(self) -> parsetree.Node:
        if self._fields is None:
            try:
                self._fields = json.loads(self._source)
            except RecursionError:
                self._fields = json.loads(_shallow(self._source))
        return cast(parsetree.Node, self._fields)

    def __getitem__(self, field: str) -> Any:
        return self._decoded()[field]

    def get(self, field: str, default: Any = None) -> Any:  # Mapping's own takes four times as long
        return self._decoded().get(field, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())


def _shallow(source: str) -> str:
    """A JSON text whose deepest levels are emptied: nothing that is asked of a tree lies there."""
    kept: list[str] = []
    depth = position = 0
    for m in re.finditer(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', source):
        if m[0] in "{[":
            depth += 1
            if depth == _DEEPEST:
                kept.append(source[position : m.end()])
        elif m[0] in "}]":
            if depth == _DEEPEST:
                position = m.start()
            depth -= 1
    kept.append(source[position:])
    return "".join(kept)
