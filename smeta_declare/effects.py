"""What a statement costs others, and what it loses, by its parse tree: the strongest lock, what is destroyed. Pure.

By kind only: whether a table is rewritten, or is new in the same plan, is not looked at here.
https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES and the pages of the commands
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smeta_declare import parsetree
from smeta_declare.parsetree import Node, each, option

# From the weakest to the strongest; the numbers of LOCK's parse tree are their places.
LOCKS = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
_READ, _ROW_SHARE, _WRITE, _MAINTAIN, _SHARE, _SHARE_ROW, _EXCLUSIVE, _ALL = LOCKS

# Of ALTER TABLE: what takes less than everything.
_SUBCOMMANDS = {
    "AT_SetStatistics": _MAINTAIN,
    "AT_SetOptions": _MAINTAIN,
    "AT_ResetOptions": _MAINTAIN,
    "AT_SetRelOptions": _MAINTAIN,
    "AT_ResetRelOptions": _MAINTAIN,
    "AT_ValidateConstraint": _MAINTAIN,
    "AT_ClusterOn": _MAINTAIN,
    "AT_DropCluster": _MAINTAIN,
    "AT_DetachPartitionFinalize": _MAINTAIN,
    "AT_EnableTrig": _SHARE_ROW,
    "AT_EnableAlwaysTrig": _SHARE_ROW,
    "AT_EnableReplicaTrig": _SHARE_ROW,
    "AT_EnableTrigAll": _SHARE_ROW,
    "AT_EnableTrigUser": _SHARE_ROW,
    "AT_DisableTrig": _SHARE_ROW,
    "AT_DisableTrigAll": _SHARE_ROW,
    "AT_DisableTrigUser": _SHARE_ROW,
}
_KINDS = {
    "SelectStmt": _READ,
    "InsertStmt": _WRITE,
    "UpdateStmt": _WRITE,
    "DeleteStmt": _WRITE,
    "MergeStmt": _WRITE,
    "TruncateStmt": _ALL,
    "CreateTrigStmt": _SHARE_ROW,
    "CreatePolicyStmt": _ALL,
    "AlterPolicyStmt": _ALL,
    "RuleStmt": _ALL,
    "RenameStmt": _ALL,
    "AlterObjectSchemaStmt": _ALL,
    "ClusterStmt": _ALL,
    "CreateStatsStmt": _MAINTAIN,
    "CommentStmt": _MAINTAIN,
}
# What DROP takes away from a relation that others use.
_DROPPED = (
    "TABLE",
    "VIEW",
    "MATVIEW",
    "INDEX",
    "SEQUENCE",
    "FOREIGN_TABLE",
    "TRIGGER",
    "POLICY",
    "RULE",
    "SCHEMA",
)


def strongest_lock(kind: str, node: Node) -> str | None:
    """The strongest lock that a statement takes on a table that is there; None where it is on none."""
    match kind:
        case "AlterTableStmt":
            found = [_subcommand(c) for c in each(node.get("cmds"), "AlterTableCmd")]
            return max(found, key=LOCKS.index, default=_ALL)
        case "IndexStmt":
            return _MAINTAIN if node.get("concurrent") else _SHARE
        case "DropStmt":
            if node["removeType"].removeprefix("OBJECT_") not in _DROPPED:
                return None
            return _MAINTAIN if node.get("concurrent") else _ALL
        case "ReindexStmt":
            return _MAINTAIN if option(node, "params", "concurrently", default=False) else _ALL
        case "RefreshMatViewStmt":
            return _EXCLUSIVE if node.get("concurrent") else _ALL
        case "VacuumStmt":
            return _ALL if option(node, "options", "full", default=False) else _MAINTAIN
        case "LockStmt":
            return LOCKS[int(node["mode"]) - 1]
        case "CopyStmt":
            return _WRITE if node.get("is_from") else _READ
        case "ViewStmt":
            return _ALL if node.get("replace") else None
        case "CreateStmt":
            return _SHARE_ROW if any(_foreign_keys(node)) else None
        case "SelectStmt" if node.get("lockingClause"):
            return _ROW_SHARE
        case _:
            return _KINDS.get(kind)


def _subcommand(command: Node) -> str:
    subtype = command["subtype"]
    if subtype == "AT_AddConstraint":
        kind = command.get("def", {}).get("Constraint", {}).get("contype")
        return _SHARE_ROW if kind == "CONSTR_FOREIGN" else _ALL
    if subtype == "AT_DetachPartition" and command.get("def", {}).get("PartitionCmd", {}).get("concurrent"):
        return _MAINTAIN
    return _SUBCOMMANDS.get(subtype, _ALL)


def _foreign_keys(node: Node) -> Iterator[str]:
    """The tables that a CREATE TABLE refers to: they get triggers, under SHARE ROW EXCLUSIVE."""
    for element in node.get("tableElts", ()):
        constraints = (
            [element] if "Constraint" in element else element.get("ColumnDef", {}).get("constraints", ())
        )
        for constraint in each(constraints, "Constraint"):
            if constraint.get("contype") == "CONSTR_FOREIGN" and "pktable" in constraint:
                yield parsetree.qualified(constraint["pktable"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Data that a statement takes away and no later one brings back: in words, and where its rows are.

    Names as written. `nothing`: it held no rows of its own; where no name is given either, nobody can count them.
    """

    what: str
    relation: str | None = None
    column: str | None = None  # of the relation, unquoted; None: whole rows
    schema: str | None = None  # all tables in it
    nothing: bool = False


MOST_COUNTED = 100_000  # rows; of more it is only said that they are more

# The only kinds that `losses` finds anything in.
DESTRUCTIVE = frozenset(
    ("DropStmt", "DropdbStmt", "DropOwnedStmt", "TruncateStmt", "DeleteStmt", "AlterTableStmt")
)


def losses(kind: str, node: Node) -> tuple[Loss, ...]:
    """What data a statement takes away; best effort, by its kind: what functions do inside is not seen."""
    match kind:
        case "DropStmt":
            return tuple(_dropped(node, parsetree.objects(kind, node)))
        case "DropdbStmt":
            return (Loss(what=f"database {node['dbname']}"),)
        case "DropOwnedStmt":
            return tuple(
                Loss(what=f"everything that {role.get('rolename', 'the current role')} owns")
                for role in each(node["roles"], "RoleSpec")
            )
        case "TruncateStmt":
            names = parsetree.objects(kind, node)
            if node.get("behavior") == "DROP_CASCADE":
                return tuple(Loss(what=f"all rows of {name}, and of what refers to it") for name in names)
            return tuple(Loss(what=f"all rows of {name}", relation=name) for name in names)
        case "DeleteStmt":
            name = parsetree.qualified(node["relation"])
            scope = "rows" if "whereClause" in node else "all rows"
            return (Loss(what=f"{scope} of {name}", relation=name),)
        case "AlterTableStmt":
            table = parsetree.qualified(node["relation"])
            return tuple(
                Loss(
                    what=f"column {parsetree.quoted(command['name'])} of {table}",
                    relation=table,
                    column=command["name"],
                )
                for command in each(node.get("cmds"), "AlterTableCmd")
                if command["subtype"] == "AT_DropColumn"
            )
        case _:
            return ()


def _dropped(node: Node, names: tuple[str, ...]) -> Iterator[Loss]:
    what = node["removeType"].removeprefix("OBJECT_").replace("_", " ").lower()
    for name in names:
        match what:
            case "table":
                yield Loss(what=f"table {name}", relation=name)
            case "schema":
                yield Loss(what=f"schema {name}", schema=name)
            case "matview" | "sequence":
                yield Loss(what=f"{what} {name}", nothing=True)
            case "type" | "domain" | "extension" if node.get("behavior") == "DROP_CASCADE":
                yield Loss(
                    what=f"columns of {what} {name}" if what != "extension" else f"what needs {what} {name}"
                )
