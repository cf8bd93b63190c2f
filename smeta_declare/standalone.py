"""What a statement that runs outside transactions does, as far as the catalogue shows it. Pure.

Killed in the middle, such a statement may be done, half done or not begun; `leftovers` looks which it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from smeta_declare.parsetree import Node, each, index_removed, option, qualified, quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildsIndex:
    """CREATE INDEX CONCURRENTLY: a failed build leaves an INVALID index of that name."""

    index: str  # names as written, quoted where they must be
    table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropsIndex:
    """DROP INDEX CONCURRENTLY: cut off, it leaves an INVALID index, and can be repeated."""

    index: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reindexes:
    """REINDEX CONCURRENTLY: cut off, it leaves INVALID indexes named …_ccnew or …_ccold."""

    scope: Literal["index", "table", "schema", "database", "system"]
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachesPartition:
    """DETACH PARTITION CONCURRENTLY: cut off, the partition is pending, which only FINALIZE ends."""

    table: str
    partition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddsValue:
    """ALTER TYPE … ADD VALUE."""

    type: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatesGlobal:
    """CREATE DATABASE, TABLESPACE or SUBSCRIPTION."""

    kind: Literal["database", "tablespace", "subscription"]
    name: str  # without quotes


@dataclass(frozen=True, slots=True, kw_only=True)
class DropsGlobal:
    """DROP DATABASE, TABLESPACE or SUBSCRIPTION."""

    kind: Literal["database", "tablespace", "subscription"]
    name: str


Effect: TypeAlias = (
    BuildsIndex | DropsIndex | Reindexes | DetachesPartition | AddsValue | CreatesGlobal | DropsGlobal
)
_EFFECTS: dict[str, type[Effect]] = {
    kind.__name__: kind
    for kind in (BuildsIndex, DropsIndex, Reindexes, DetachesPartition, AddsValue, CreatesGlobal, DropsGlobal)
}


def as_dict(effect: Effect) -> dict[str, Any]:
    """The effect as JSON values, for the journal."""
    return {"effect": type(effect).__name__, **asdict(effect)}


def from_dict(kept: dict[str, Any]) -> Effect:
    """The effect that `as_dict` wrote."""
    facts = dict(kept)
    return _EFFECTS[facts.pop("effect")](**facts)


def effect_of(kind: str, node: Node) -> Effect | None:
    """What the catalogue will show of a statement; None where it shows nothing, and repeating it does no harm.

    VACUUM, ALTER SYSTEM and their like are of the second sort. What CALL does cannot be known.
    """
    match kind:
        case "IndexStmt" if node.get("concurrent") and "idxname" in node:
            schema = node["relation"].get("schemaname")  # an index is created in the schema of its table
            name = ".".join(quoted(part) for part in (schema, node["idxname"]) if part)
            return BuildsIndex(index=name, table=qualified(node["relation"]))
        case "DropStmt" if node.get("concurrent"):
            return DropsIndex(index=index_removed(node))
        case "ReindexStmt" if option(node, "params", "concurrently", default=False):
            scope = node["kind"].removeprefix("REINDEX_OBJECT_").lower()
            return Reindexes(
                scope=scope,
                name=qualified(node["relation"]) if "relation" in node else node.get("name"),
            )
        case "AlterTableStmt":
            for command in each(node.get("cmds"), "AlterTableCmd"):
                change = command.get("def", {}).get("PartitionCmd", {})
                if command["subtype"] == "AT_DetachPartition" and change.get("concurrent"):
                    return DetachesPartition(
                        table=qualified(node["relation"]), partition=qualified(change["name"])
                    )
            return None
        case "AlterEnumStmt" if "newVal" in node and "oldVal" not in node:
            parts = [part["String"]["sval"] for part in node["typeName"]]
            return AddsValue(type=".".join(map(quoted, parts)), value=node["newVal"])
        case "CreatedbStmt":
            return CreatesGlobal(kind="database", name=node["dbname"])
        case "DropdbStmt":
            return DropsGlobal(kind="database", name=node["dbname"])
        case "CreateTableSpaceStmt":
            return CreatesGlobal(kind="tablespace", name=node["tablespacename"])
        case "DropTableSpaceStmt":
            return DropsGlobal(kind="tablespace", name=node["tablespacename"])
        case "CreateSubscriptionStmt":
            return CreatesGlobal(kind="subscription", name=node["subname"])
        case "DropSubscriptionStmt":
            return DropsGlobal(kind="subscription", name=node["subname"])
        case _:
            return None
