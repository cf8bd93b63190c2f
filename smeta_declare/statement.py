"""SQL text to statements, by PostgreSQL's own parser: where each begins and ends, and what it is. Pure.

Nothing here splits on semicolons, and nothing in a string, a body or a comment is mistaken for SQL.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

from smeta_declare import parsetree
from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.errors import InvalidMigration, SqlSyntaxError, TemplateError
from smeta_declare.parser import (
    COMMENTS,
    PARENTHESIS,
    decoded,
    meaning_of,
    parse_error,
    parser_version,
    scanned,
    tree_json,
)
from smeta_declare.rendered import Rendered
from smeta_declare.standalone import Effect, effect_of
from smeta_declare.summary import summarised

_SEMICOLON = "ASCII_59"
_CITUS = "create_distributed_table_concurrently"
_UNLOCK = "pg_advisory_unlock_all"
_QUOTING = "standard_conforming_strings"
_LOOKED_FOR = (_CITUS, _UNLOCK, _QUOTING)  # a text without any of these words is not searched for calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement: its exact text (no semicolon, no comments around it) and what its parse tree says.

    `alone` is the reason why PostgreSQL refuses it inside a transaction block, `effect` what the catalogue
    shows of it then; `concurrently` says that nobody queues behind it.
    """

    text: str
    start: int  # characters from the beginning of the rendered text
    kind: str  # the tag of its parse tree: "IndexStmt"
    alone: str | None = None
    effect: Effect | None = None
    concurrently: bool = False

    @property
    def summary(self) -> str:
        """A few words for a person: the statement's own, up to the detail."""
        return summarised(self.text, self.kind)

    @property
    def end(self) -> int:
        """One past its last character."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """A comment without its dashes, or its slashes and stars."""

    text: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The statements of a text, in order, and what the whole of it means.

    `meaning` is the SHA-256 of what PostgreSQL understands: comments, blanks, case and quoting do not count,
    constants do. Trees change between majors of the parser: store `parser_version` beside it.
    """

    statements: tuple[Statement, ...]
    meaning: str


def parse(rendered: Rendered) -> Script:
    """A text as PostgreSQL's parser reads it; what must not be run is an error with its place."""
    text = rendered.text
    if "\0" in text:
        raise _invalid([_refusal(rendered, text.index("\0"), "nul")])
    try:
        check_tokens(rendered)
        tree = tree_json(text)
    except parse_error() as error:
        _explain(rendered, error)
    raw = decoded(tree, text)
    lowered = text.lower()
    calls = any(function in lowered for function in _LOOKED_FOR)
    found: list[Statement] = []
    refused: list[Diagnostic] = []
    for (kind, node), begin, limit in zip(raw.statements, raw.begins, raw.ends, strict=True):
        start, words = _trimmed(text, begin, limit)
        reason = parsetree.alone(kind, node)
        if calls and _calls(words, _CITUS):
            reason = f"{_CITUS} cannot run inside a transaction block"
        statement = Statement(
            text=words,
            start=start,
            kind=kind,
            alone=reason,
            effect=effect_of(kind, node),
            concurrently=reason is not None and parsetree.concurrently(kind, node),
        )
        found.append(statement)
        why = [*_refused(kind, node), *(_refused_calls(statement) if calls else ())]
        refused += [_refusal(rendered, start, key, statement.summary) for key in why]
    if refused:
        raise _invalid(refused)
    return Script(statements=tuple(found), meaning=meaning_of(tree))


def check_tokens(rendered: Rendered) -> None:
    """Refuse values that could become SQL: `ident`, `literal` give one token, a bare value lies inside one.

    It finds `'{{ name|literal }}'`, where the filter did its work and the quotes end early all the same.
    """
    values = [value for value in rendered.values() if value[2].kind != "raw"]
    if not values:
        return
    try:
        tokens = scanned(rendered.text)
    except parse_error() as error:
        _explain(rendered, error)
    starts = [token.start for token in tokens]
    refused = []
    for start, end, span in values:
        at = bisect.bisect_right(starts, start) - 1
        token = tokens[at] if at >= 0 else None
        whole = token is not None and (token.start, token.end + 1) == (start, end)
        inside = token is not None and token.start <= start and end <= token.end + 1
        if not (whole or (span.kind == "bare" and inside)):
            message, hint = _not_a_token(rendered.text[start:end], span.kind, token if inside else None)
            refused.append(_finding(rendered, start, TemplateError.code, message, hint))
    if refused:
        raise TemplateError(
            _headline(refused),
            findings=refused,
            location=refused[0].location,
            hint=refused[0].hint if len(refused) == 1 else None,
        )


def _not_a_token(value: str, kind: str, around: Any) -> tuple[str, str]:
    shown = value if len(value) <= 40 else f"{value[:39]}…"
    message = f"{shown} of this {kind} value is not one word of the SQL around it"
    if around is not None and around.name in COMMENTS:
        return message, "it stands in a comment, where only a bare {{ value }} can go"
    if around is not None and around.name.endswith("SCONST"):
        return message, "it stands inside quotes: leave them to the filter, and put texts together with ||"
    return (
        message,
        "it runs into what stands beside it: leave a space, or build the whole name in one {{ a ~ b|… }}",
    )


def leading_comments(
    rendered: Rendered, found: Sequence[Statement]
) -> tuple[tuple[tuple[Comment, ...], ...], tuple[Comment, ...]]:
    """For each statement the comments above it; then those with no statement under them.

    A comment beside or inside a statement belongs to none.
    """
    groups: list[list[Comment]] = [[] for _ in (*found, None)]
    if "--" in rendered.text:
        starts = [statement.start for statement in found]
        code_end: int | None = None  # of the last thing that is not a comment
        for token in scanned(rendered.text):
            if token.name == "SQL_COMMENT":
                following = bisect.bisect_left(starts, token.start)
                inside = following > 0 and token.start < found[following - 1].end
                beside = code_end is not None and "\n" not in rendered.text[code_end : token.start]
                if not inside and not beside:
                    text = rendered.text[token.start + 2 : token.end + 1].strip()
                    groups[following].append(Comment(text=text, start=token.start))
            elif token.name != "C_COMMENT":
                code_end = token.end + 1
    *leading, trailing = map(tuple, groups)
    return tuple(leading), trailing


def comments(rendered: Rendered) -> Iterator[Comment]:
    """Every comment of a text, of both kinds, wherever it stands."""
    for token in scanned(rendered.text):
        if token.name in COMMENTS:
            text = rendered.text[token.start + 2 : token.end + 1]
            if token.name == "C_COMMENT":
                text = text.removesuffix("*/")
            yield Comment(text=text.strip(), start=token.start)


# Meaning

# Where something stands, in a tree. Inside JSON strings the quotes are escaped, so that this finds fields only.
# The look ahead passes over the fields that hold no number, which are most.
_BLANK = " \t\n\r\f\v"  # what PostgreSQL takes for a blank
_BEFORE = re.compile(rf"(?:[{_BLANK};]+|--[^\n]*)*")  # a statement; a comment of the other kind can be nested


def _trimmed(text: str, begin: int, end: int) -> tuple[int, str]:
    """First character and text of the statement between, without semicolons and comments around it."""
    match = _BEFORE.match(text, begin, end)
    start = match.end() if match else begin
    words = text[start:end]
    if "--" not in words and "/*" not in words:
        return start, words.rstrip(_BLANK)
    # Only the scanner knows whether that is a comment.
    tokens = [t for t in scanned(text[begin:end]) if t.name not in COMMENTS]
    first = next(t for t in tokens if t.name != _SEMICOLON)
    return begin + first.start, text[begin + first.start : begin + tokens[-1].end + 1]


def _explain(rendered: Rendered, error: Exception) -> NoReturn:
    """Our error for one of the parser's, after the two things people bring from psql."""
    message, place = (*error.args, None)[:2]
    text = rendered.text
    at = len(text.rstrip()) if place is None else int(place)
    if m := _COPY.search(text, 0, at):
        raise _invalid([_refusal(rendered, m.start("copy"), "copy")]) from error
    if m := re.compile(r"\\\S*").match(text, at):
        raise _invalid([_refusal(rendered, at, "psql", m[0])]) from error
    hint = f"correct it there; this is what the parser of {parser_version()} says"
    if text and not rendered.is_template_text(min(at, len(text) - 1)):
        hint = f"a value of the template stands here: {text[at : at + 40]!r}"
    raise SqlSyntaxError(str(message), location=rendered.locate(at), hint=hint) from error


# Refusals: what PostgreSQL or psql would take, and smeta must not send

_COPY = re.compile(r"^[ \t]*(?P<copy>copy\b[^;]*\bfrom\s+stdin\b)", re.IGNORECASE | re.MULTILINE)
# `set transaction read only` would stop our own statements at the end of the transaction.
_TRANSACTION_SETTINGS = (
    "transaction",
    "transaction snapshot",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
)
_REFUSED = {  # code, message, hint
    "nul": (
        "nul",
        "the file contains a NUL character",
        "PostgreSQL's text types cannot hold it; save the file as UTF-8",
    ),
    "psql": (
        "psql-command",
        "{} is a command of psql, not SQL",
        "write what it does in SQL; another file of the migrations goes in with {{% include %}}",
    ),
    "copy": (
        "copy-stdin",
        "copy from stdin and to stdout need a client that feeds them",
        "use insert, or copy from a file of the server",
    ),
    "transaction": (
        "transaction-control",
        "`{}` controls transactions, and smeta does that itself",
        "remove it; the plan shows what runs together and what runs alone",
    ),
    "unnamed": (
        "index-without-name",
        "an index that is built concurrently needs a name: a failed build leaves it INVALID, to be found and dropped",
        "write create index concurrently NAME on …",
    ),
    "discard": (
        "drops-runner-lock",
        "`discard all` drops the lock that keeps other runs out",
        "name what is to be discarded: plans, sequences or temp",
    ),
    "unlock": (
        "drops-runner-lock",
        "pg_advisory_unlock_all() drops the lock that keeps other runs out",
        "release your own locks by their key: pg_advisory_unlock(key)",
    ),
    "quoting": (
        "quoting",
        f"{_QUOTING} must stay on: values are quoted for it",
        "write E'…' where a backslash is an escape",
    ),
}


def _refused(kind: str, node: parsetree.Node) -> Iterator[str]:
    """The keys of `_REFUSED` that a statement deserves for what it is."""
    if kind == "TransactionStmt" or (
        kind == "VariableSetStmt" and node.get("name", "").lower() in _TRANSACTION_SETTINGS
    ):
        yield "transaction"
    if kind == "CopyStmt" and "filename" not in node:
        yield "copy"
    if kind == "IndexStmt" and node.get("concurrent") and "idxname" not in node:
        yield "unnamed"
    if kind == "DiscardStmt" and node["target"] == "DISCARD_ALL":
        yield "discard"
    if kind == "VariableSetStmt" and node.get("name", "").lower() == _QUOTING and not _sets_on(node):
        yield "quoting"


def _refused_calls(statement: Statement) -> Iterator[str]:
    """The keys of `_REFUSED` that it deserves for what it calls."""
    if _may_call(statement, _UNLOCK):
        yield "unlock"
    if _QUOTING in statement.text.lower() and _may_call(statement, "set_config"):
        yield "quoting"


def _refusal(rendered: Rendered, at: int, why: str, subject: str = "") -> Diagnostic:
    code, message, hint = _REFUSED[why]
    return _finding(rendered, at, code, message.format(subject), hint.format())


def _finding(rendered: Rendered, at: int, code: str, message: str, hint: str) -> Diagnostic:
    return Diagnostic(
        code=code, severity=Severity.HIGH, message=message, location=rendered.locate(at), hint=hint
    )


def _headline(refused: list[Diagnostic]) -> str:
    return refused[0].message if len(refused) == 1 else f"{len(refused)} things in the file cannot be run"


def _invalid(refused: list[Diagnostic]) -> InvalidMigration:
    hint = refused[0].hint if len(refused) == 1 else None
    return InvalidMigration(_headline(refused), findings=refused, location=refused[0].location, hint=hint)


def _may_call(statement: Statement, function: str) -> bool:
    """Whether running the statement calls a function: by its tokens, or as the body of a DO block reads."""
    if statement.kind == "DoStmt":
        return re.search(rf"(?i)\b{function}\s*\(", statement.text) is not None
    return _calls(statement.text, function)


def _sets_on(node: parsetree.Node) -> bool:
    if node["kind"] != "VAR_SET_VALUE":
        return True  # back to the default
    constants = [argument.get("A_Const", {}) for argument in node.get("args", ())]
    texts = [str(c.get("sval", {}).get("sval", c.get("ival", {}).get("ival", ""))).lower() for c in constants]
    return texts in (["on"], ["true"], ["yes"], ["1"])


def _calls(text: str, function: str) -> bool:
    """Whether a statement calls a function by this name."""
    return function in text.lower() and any(
        following.name == PARENTHESIS and text[token.start : token.end + 1].strip('"').lower() == function
        for token, following in pairwise(t for t in scanned(text) if t.name not in COMMENTS)
        if token.name == "IDENT"
    )
