"""A few words for a statement. Pure."""

from __future__ import annotations

from smeta_declare import parsetree
from smeta_declare.parser import PARENTHESIS, shallow, tokens

_LONGEST = 80  # characters
# What comes after these words is detail.
_DETAIL: dict[str, frozenset[str]] = {
    "CreateStmt": frozenset({PARENTHESIS}),
    "CreateForeignTableStmt": frozenset({PARENTHESIS}),
    "CreateTableAsStmt": frozenset({"AS", PARENTHESIS}),
    "IndexStmt": frozenset({"USING", PARENTHESIS}),
    "ViewStmt": frozenset({"AS", PARENTHESIS, "WITH"}),
    "CreateFunctionStmt": frozenset({PARENTHESIS}),
    "CreateTrigStmt": frozenset({"FOR", "EXECUTE", "WHEN"}),
    "CreatePolicyStmt": frozenset({"AS", "FOR", "TO", "USING", "WITH"}),
    "AlterPolicyStmt": frozenset({"TO", "USING", "WITH"}),
    "CommentStmt": frozenset({"IS"}),
    "CreateEnumStmt": frozenset({"AS"}),
    "CompositeTypeStmt": frozenset({"AS"}),
    "CreateRangeStmt": frozenset({"AS"}),
    "DefineStmt": frozenset({PARENTHESIS}),
    "CreateRoleStmt": frozenset({"PASSWORD"}),
    "AlterRoleStmt": frozenset({"PASSWORD"}),
    "CreateSubscriptionStmt": frozenset({"CONNECTION"}),
    "CreateUserMappingStmt": frozenset({"OPTIONS"}),
}
_WRITES = {
    "InsertStmt": "insert into",
    "UpdateStmt": "update",
    "DeleteStmt": "delete from",
    "MergeStmt": "merge into",
}


def summarised(text: str, kind: str) -> str:
    """A few words for a person: a statement's own, up to the detail. `kind` is the tag of its tree."""
    if kind == "DoStmt":
        return "do block"
    if kind in _WRITES:
        ((_, node),) = shallow(text)
        relation = node["relation"]
        name = ".".join(parsetree.quoted(n) for n in (relation.get("schemaname"), relation["relname"]) if n)
        return _cut(f"{_WRITES[kind]} {name}")
    stop = _DETAIL.get(kind, frozenset())
    words = ""
    before = None
    for token in tokens(text):
        if token.name in stop or len(words) > _LONGEST:
            break
        word = text[token.start : token.end + 1]
        is_name = token.name in ("SCONST", "USCONST", "XCONST", "BCONST") or word.startswith('"')
        words += (" " if before is not None and token.start > before else "") + (
            " ".join(word.split()) if is_name else word.lower()
        )
        before = token.end + 1
    return _cut(words)


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1].rstrip()}…"
