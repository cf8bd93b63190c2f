"""What a statement costs others, by its parse tree: the strongest lock that it takes. Pure.

By kind only: whether a table is rewritten, or is new in the same plan, is not looked at here.
https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES and the pages of the commands
"""

from __future__ import annotations

from collections.abc import Iterator

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
