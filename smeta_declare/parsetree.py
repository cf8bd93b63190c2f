"""What PostgreSQL's parse tree says about a statement: the names in it, and whether it must run alone. Pure.

Trees are libpg_query's JSON, where false and zero are left out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Node: TypeAlias = Mapping[str, Any]

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_OFF = frozenset({"false", "off", "no", "0"})


def quoted(name: str) -> str:
    """An identifier as SQL, in quotes only where PostgreSQL's quote_ident() would put them."""
    if _PLAIN.fullmatch(name) and name not in _keywords():
        return name
    return '"' + name.replace('"', '""') + '"'


@functools.cache
def _keywords() -> frozenset[str]:
    from pglast import keywords

    return frozenset(
        keywords.RESERVED_KEYWORDS | keywords.COL_NAME_KEYWORDS | keywords.TYPE_FUNC_NAME_KEYWORDS
    )


# Which statements run alone: everything that calls PreventInTransactionBlock().


def alone(kind: str, node: Node) -> str | None:
    """Why PostgreSQL refuses the statement inside a transaction block; None when it does not.

    A tree cannot tell REINDEX and CLUSTER of a partitioned table, nor procedures that commit.
    ALTER TYPE … ADD VALUE is allowed inside a transaction, but that transaction cannot use the value yet.
    """
    what = _alone(kind, node)
    return f"{what} cannot run inside a transaction block" if what else None


def concurrently(kind: str, node: Node) -> bool:
    """Whether the statement takes no lock that readers or writers would queue behind while it waits for them."""
    what = _alone(kind, node)
    return what is not None and what.endswith("concurrently")


def _alone(kind: str, node: Node) -> str | None:
    match kind:
        case "IndexStmt":
            return "create index concurrently" if node.get("concurrent") else None
        case "DropStmt":
            return "drop index concurrently" if node.get("concurrent") else None
        case "ReindexStmt":
            if option(node, "params", "concurrently", default=False):
                return "reindex concurrently"
            scope = node["kind"].removeprefix("REINDEX_OBJECT_").lower()
            return f"reindex {scope}" if scope in ("schema", "system", "database") else None
        case "VacuumStmt":
            return "vacuum" if node.get("is_vacuumcmd") else None
        case "ClusterStmt":
            return None if "relation" in node else "cluster of all tables"
        case "AlterTableStmt":
            for command in each(node.get("cmds"), "AlterTableCmd"):
                change = command.get("def", {}).get("PartitionCmd", {})
                if command["subtype"] == "AT_DetachPartition" and change.get("concurrent"):
                    return "alter table … detach partition concurrently"
            return None
        case "AlterDatabaseStmt":
            moves = any(o["defname"] == "tablespace" for o in each(node.get("options"), "DefElem"))
            return "alter database … set tablespace" if moves else None
        case "CreateSubscriptionStmt":
            connects = option(node, "options", "connect", default=True)
            creates = option(node, "options", "create_slot", default=connects)
            return "create subscription with a replication slot" if creates else None
        case "AlterSubscriptionStmt":
            return _subscription_change(node)
        case _:
            return {
                "CreatedbStmt": "create database",
                "DropdbStmt": "drop database",
                "CreateTableSpaceStmt": "create tablespace",
                "DropTableSpaceStmt": "drop tablespace",
                "AlterSystemStmt": "alter system",
                "DropSubscriptionStmt": "drop subscription",
            }.get(kind)


def _subscription_change(node: Node) -> str | None:
    change = node["kind"].removeprefix("ALTER_SUBSCRIPTION_")
    if change.startswith("REFRESH"):
        return "alter subscription … refresh publication"
    if change.endswith("_PUBLICATION") and option(node, "options", "refresh", default=True):
        return "alter subscription … publication with a refresh"
    for slot_option in ("failover", "two_phase"):
        if change == "OPTIONS" and any(
            o["defname"] == slot_option for o in each(node.get("options"), "DefElem")
        ):
            return f"alter subscription … set ({slot_option})"
    return None


def validates(kind: str, node: Node) -> bool:
    """Whether a statement only looks old rows through for a constraint: nothing else comes of running it twice."""
    commands = [*each(node.get("cmds"), "AlterTableCmd")] if kind == "AlterTableStmt" else []
    return bool(commands) and all(c["subtype"] == "AT_ValidateConstraint" for c in commands)


def option(node: Node, where: str, name: str, *, default: bool) -> bool:
    """The value of a boolean option in parentheses, as defGetBoolean() reads it."""
    for element in each(node.get(where), "DefElem"):
        if element["defname"] == name:
            match element.get("arg"):
                case {"String": text}:
                    return text.get("sval", "").lower() not in _OFF
                case {"TypeName": {"names": [*_, {"String": text}]}}:  # `off` is no reserved word
                    return text.get("sval", "").lower() not in _OFF
                case {"Boolean": {**truth}}:
                    return bool(truth.get("boolval"))
                case {"Integer": {**number}}:
                    return number.get("ival", 0) != 0
                case _:
                    return True
    return default


# Names


def qualified(relation: Node) -> str:
    """The name of a relation as written, quoted where it must be."""
    return ".".join(quoted(part) for part in (relation.get("schemaname"), relation["relname"]) if part)


def relations(node: Node) -> Iterator[str]:
    """The relations that a statement names anywhere, also to read them or to refer to them; as written."""
    waiting: list[Any] = [node]
    while waiting:
        match waiting.pop():
            case dict() as found:
                if isinstance(found.get("relname"), str):
                    yield qualified(found)
                waiting += found.values()
            case list() as found:
                waiting += found
            case _:
                pass


def functions(node: Node) -> Iterator[str]:
    """The functions that a statement calls anywhere, as written."""
    waiting: list[Any] = [node]
    while waiting:
        match waiting.pop():
            case dict() as found:
                if "funcname" in found:
                    yield ".".join(
                        quoted(part["String"]["sval"]) for part in found["funcname"] if "String" in part
                    )
                waiting += found.values()
            case list() as found:
                waiting += found
            case _:
                pass


def index_removed(node: Node) -> str:
    """The index that DROP INDEX CONCURRENTLY removes, as written; it takes one only."""
    (dropped,) = each(node.get("objects"), "List")
    return ".".join(quoted(part["String"]["sval"]) for part in dropped["items"])


def objects(kind: str, node: Node) -> tuple[str, ...]:
    """What the statement creates, alters, drops or writes, as written; best effort, without duplicates."""
    return tuple(dict.fromkeys(name for name in _objects(kind, node) if name))


def _objects(kind: str, node: Node) -> Iterator[str]:
    for query in each(node.get("withClause", {}).get("ctes"), "CommonTableExpr"):
        for inner_kind, inner in query.get("ctequery", {}).items():
            yield from _objects(inner_kind, inner)
    match kind:
        case "SelectStmt":
            yield _name(node.get("intoClause", {}).get("rel"))
        case "CreateTableAsStmt":
            yield _name(node["into"]["rel"])
        case "CreateForeignTableStmt":
            yield _name(node["base"]["relation"])
        case "IndexStmt":
            if "idxname" in node:
                schema = node["relation"].get("schemaname")
                yield ".".join(quoted(part) for part in (schema, node["idxname"]) if part)
            yield _name(node["relation"])
        case "AlterTableStmt":
            yield _name(node["relation"])
            for command in each(node.get("cmds"), "AlterTableCmd"):
                yield _name(command.get("def", {}).get("PartitionCmd", {}).get("name"))
        case "DropStmt" | "CommentStmt" | "SecLabelStmt":
            target = node.get("removeType") or node["objtype"]
            # table, name: these belong to a table
            part = target.removeprefix("OBJECT_") in ("POLICY", "TRIGGER", "RULE", "COLUMN", "TABCONSTRAINT")
            for thing in node.get("objects") or (node["object"],):
                yield _name(thing, without_last=part)
        case "CopyStmt":
            yield _name(node.get("relation") if node.get("is_from") else None)
        case "ReindexStmt" | "ClusterStmt" | "RefreshMatViewStmt":
            yield _name(node.get("relation") or node.get("name"))
        case "VacuumStmt":
            for table in each(node.get("rels"), "VacuumRelation"):
                yield _name(table.get("relation"))
        case "RenameStmt" | "AlterOwnerStmt" | "AlterObjectSchemaStmt" | "AlterObjectDependsStmt":
            yield _name(node.get("relation") or node.get("object") or node.get("subname"))
        case "CreateSchemaStmt":
            yield _name(node.get("schemaname") or node.get("authrole"))
        case "CreateFunctionStmt":
            yield _name(node["funcname"])
        case "CallStmt" | "DoStmt" | "VariableSetStmt" | "ExplainStmt" | "PrepareStmt" | "ExecuteStmt":
            return
        case _:
            for field in _SUBJECTS:
                if field in node:
                    yield from _names(node[field])
                    return


# Where the other kinds of statement keep the name of what they are about: the first field that is there.
_SUBJECTS = (
    *(
        "relation",
        "relations",
        "table",
        "view",
        "sequence",
        "objects",
        "typevar",
        "func",
        "funcname",
        "domainname",
    ),
    *(
        "defnames",
        "cfgname",
        "dictname",
        "opclassname",
        "opfamilyname",
        "trigname",
        "extname",
        "role",
        "roles",
    ),
    *(
        "dbname",
        "tablespacename",
        "subname",
        "pubname",
        "servername",
        "fdwname",
        "amname",
        "plname",
        "typeName",
    ),
)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, list) and not all("String" in element for element in value):
        for element in value:
            yield _name(element)
    else:
        yield _name(value)


def _name(value: Any, *, without_last: bool = False) -> str:
    match value:
        case None:
            return ""
        case str():
            return quoted(value)
        case list():
            parts = [part["String"].get("sval", "") for part in value if "String" in part]
            return ".".join(map(quoted, parts[:-1] if without_last and len(parts) > 1 else parts))
        case {"relname": str(relation)}:
            return ".".join(quoted(part) for part in (value.get("schemaname"), relation) if part)
        case {"rolename": str(role)}:
            return quoted(role)
        case {"sval": str(text)}:
            return quoted(text)
        case {"List": {"items": list(items)}} | {"items": list(items)}:
            return _name(items, without_last=without_last)
        case {"objname": list(names)} | {"names": list(names)}:
            return _name(names)
        case {"RangeVar": inner} | {"String": inner} | {"TypeName": inner} | {"ObjectWithArgs": inner}:
            return _name(inner)
        case {"RoleSpec": inner}:
            return _name(inner)
        case _:
            return ""


def each(nodes: Any, tag: str) -> Iterator[Node]:
    for node in nodes or ():
        if tag in node:
            yield node[tag]
