"""What data statements take away, by their parse trees, and where its rows are now: `postgres.losses` counts them.

What functions and `do` blocks do inside is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from smeta_declare import parsetree
from smeta_declare.parser import tree
from smeta_declare.parsetree import Node, each, qualified, quoted

MOST_COUNTED = 100_000  # rows; of more it is only said that they are more


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Data that a statement takes away and no later one brings back: in words, and where its rows are.

    Names as written. Where no name is given, nobody can count them.
    """

    what: str
    relation: str | None = None
    column: str | None = None  # of the relation, unquoted; None: whole rows
    schema: str | None = None  # all tables in it
    nothing: bool = False  # it holds no rows that exist now
    doubtful: bool = False  # names were moved before: that nothing is found under this one says nothing


# What takes data away, or moves names; of others only a DELETE inside of them matters.
_TELLING = frozenset(
    (
        *("DropStmt", "DropdbStmt", "DropOwnedStmt", "TruncateStmt", "DeleteStmt", "AlterTableStmt"),
        *("CreateStmt", "CreateTableAsStmt", "RenameStmt", "AlterObjectSchemaStmt", "VariableSetStmt"),
    )
)


def plan_losses(statements: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, Loss]]:
    """The losses of statements, given as version, kind and text in their order, each with its version.

    A table that the statements make themselves holds nothing that exists now; one that they rename is counted under
    the name that it has now.
    """
    names = _Names()
    for version, kind, text in statements:
        names.lost_track |= "search_path" in text.lower()  # set_config, too
        if kind not in _TELLING and "delete" not in text.lower():  # a parse tree takes its time
            continue
        ((_, node),) = tree(text)
        for loss in losses(kind, node):
            yield version, names.now(loss)
        names.follow(kind, node)


def losses(kind: str, node: Node) -> tuple[Loss, ...]:
    """What data a statement takes away, by its kind; best effort."""
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
        case "AlterTableStmt":
            table = qualified(node["relation"])
            return tuple(
                Loss(
                    what=f"column {quoted(command['name'])} of {table}",
                    relation=table,
                    column=command["name"],
                )
                for command in each(node.get("cmds"), "AlterTableCmd")
                if command["subtype"] == "AT_DropColumn"
            )
        case _:
            return tuple(_deleted(kind, node))


def _dropped(node: Node, names: tuple[str, ...]) -> Iterator[Loss]:
    what = node["removeType"].removeprefix("OBJECT_").replace("_", " ").lower()
    cascade = node.get("behavior") == "DROP_CASCADE"
    for name in names:
        match what:
            case "table":
                yield Loss(what=f"table {name}", relation=name)
            case "schema":
                yield Loss(what=f"schema {name}", schema=name)
            case "matview" | "sequence":
                yield Loss(what=f"{what} {name}", nothing=True)
            case "type" | "domain" | "extension" | "function" | "procedure" | "routine" if cascade:
                yield Loss(what=f"columns that need {what} {name}")


def _deleted(kind: str, node: Node) -> Iterator[Loss]:
    """What DELETE and MERGE take, wherever they stand in a statement: in a WITH, behind EXPLAIN ANALYZE."""
    waiting: list[tuple[str, Any]] = [(kind, node)]
    while waiting:
        tag, found = waiting.pop()
        if isinstance(found, Mapping):
            merges = tag == "MergeStmt" and any(
                clause.get("commandType") == "CMD_DELETE"
                for clause in each(found.get("mergeWhenClauses"), "MergeWhenClause")
            )
            if tag == "DeleteStmt" or merges:
                name = qualified(found["relation"])
                scope = "rows" if merges or "whereClause" in found else "all rows"
                yield Loss(what=f"{scope} of {name}", relation=name)
            waiting += [(key, found[key]) for key in found]
        elif isinstance(found, list):
            waiting += [(tag, item) for item in found]


@dataclass(slots=True)
class _Names:
    """What names mean at a place of a plan, compared with now, as far as that can be followed."""

    fresh: set[str] = field(default_factory=set)  # tables that the plan has made
    before: dict[str, str] = field(default_factory=dict)  # the name that a renamed table has now
    lost_track: bool = False

    def now(self, loss: Loss) -> Loss:
        """The loss under the names of now."""
        if loss.relation in self.fresh:
            return replace(loss, relation=None, column=None, nothing=True)
        if loss.relation is not None:
            return replace(
                loss, relation=self.before.get(loss.relation, loss.relation), doubtful=self.lost_track
            )
        return replace(loss, doubtful=self.lost_track)

    def follow(self, kind: str, node: Node) -> None:
        """What a statement does to names."""
        match kind:
            case "CreateStmt" if not node.get("if_not_exists"):
                self.fresh.add(qualified(node["relation"]))
            case "CreateTableAsStmt" if not node.get("if_not_exists"):
                self.fresh.add(qualified(node["into"]["rel"]))
            case "RenameStmt" if node["renameType"] == "OBJECT_TABLE":
                old = qualified(node["relation"])
                self._move(old, qualified({**node["relation"], "relname": node["newname"]}))
            case "RenameStmt" if node["renameType"] == "OBJECT_COLUMN":
                self.lost_track |= qualified(node["relation"]) not in self.fresh
            case "RenameStmt" if node["renameType"] == "OBJECT_SCHEMA":
                self.lost_track = True
            case "AlterObjectSchemaStmt" if node["objectType"] == "OBJECT_TABLE":
                old = qualified(node["relation"])
                self._move(old, qualified({**node["relation"], "schemaname": node["newschema"]}))
                self.lost_track |= old not in self.fresh
            case "AlterTableStmt":
                self._attach(node)
            case "VariableSetStmt" if node.get("name") in ("search_path", "role") or "name" not in node:
                self.lost_track = True
            case _:
                pass

    def _move(self, old: str, new: str) -> None:
        if old in self.fresh:
            self.fresh.remove(old)
            self.fresh.add(new)
        else:
            self.fresh.discard(new)
            self.before[new] = self.before.get(old, old)

    def _attach(self, node: Node) -> None:
        """A parent holds what its children hold."""
        for command in each(node.get("cmds"), "AlterTableCmd"):
            if command["subtype"] == "AT_AttachPartition":
                child = qualified(command["def"]["PartitionCmd"]["name"])
            elif command["subtype"] == "AT_AddInherit":
                child = ""
            else:
                continue
            if child not in self.fresh:
                self.fresh.discard(qualified(node["relation"]))
                self.lost_track = True
