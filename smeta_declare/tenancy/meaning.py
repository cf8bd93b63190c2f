"""What an expression means, whoever printed it: the same is what PostgreSQL's parser reads as the same. Pure."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from smeta_declare.parser import parse_error, tree_json

_CATALOGUE = {"String": {"sval": "pg_catalog"}}


def same(one: str | None, other: str | None) -> bool:
    """Whether two expressions mean the same; the server's own print of one is the same as the one."""
    return one == other or (one is not None and other is not None and meaning(one) == meaning(other))


@lru_cache(maxsize=4096)
def meaning(expression: str) -> str:
    """The parse tree without what printing adds: places, names of unnamed columns, `pg_catalog`, `::text` of texts.

    A text that is no expression means itself.
    """
    try:
        tree = json.loads(tree_json(f"select ({expression}\n)"))
    except parse_error():
        return expression
    return json.dumps(_bare(tree["stmts"]), sort_keys=True)


def _bare(node: Any) -> Any:
    match node:
        case {"ResTarget": {"val": value}}:  # `( SELECT f() AS f)` is how `(select f())` is printed
            return _bare(value)
        case {
            "TypeCast": {"arg": {"A_Const": {"sval": text}}, "typeName": {"names": [*_, {"String": kind}]}}
        } if kind["sval"] == "text":
            return {"A_Const": {"sval": text}}
        case dict():
            return {k: _bare(v) for k, v in node.items() if not k.endswith("location") and k != "stmt_len"}
        case list():
            return [_bare(each) for each in node if each != _CATALOGUE or len(node) == 1]
        case _:
            return node
