"""The tables that statements add or alter, and their foreign keys, as an entity diagram of Mermaid. Pure.

By the parse trees only: what a `do` block or a function makes is not seen. A partition stands for its parent.
https://mermaid.js.org/syntax/entityRelationshipDiagram.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from smeta_declare.parsetree import Node, each, objects, qualified

MOST_TABLES = 40  # a larger drawing is read by nobody
_ADDED, _CHANGED = "new", "changed"


@dataclass(slots=True)
class Tables:
    """What the statements so far did to tables: how each stands, and who refers to whom by which columns."""

    states: dict[str, str] = field(default_factory=dict)
    keys: dict[tuple[str, str, str], None] = field(default_factory=dict)  # in the order of their statements

    def see(self, kind: str, node: Node) -> None:
        """Take in one more statement."""
        match kind:
            case "CreateStmt" if "partbound" in node:
                for parent in each(node.get("inhRelations"), "RangeVar"):
                    self.states.setdefault(_table(parent), _CHANGED)
            case "CreateStmt":
                self.states.setdefault(_table(node["relation"]), _ADDED)
                self._refer(_table(node["relation"]), node.get("tableElts", ()))
            case "CreateTableAsStmt" if node["objtype"] == "OBJECT_TABLE":
                self.states.setdefault(_table(node["into"]["rel"]), _ADDED)
            case "AlterTableStmt" if node["objtype"] == "OBJECT_TABLE":
                self.states.setdefault(_table(node["relation"]), _CHANGED)
                definitions = [c["def"] for c in each(node.get("cmds"), "AlterTableCmd") if "def" in c]
                self._refer(_table(node["relation"]), definitions)
            case "RenameStmt" if node["renameType"] == "OBJECT_TABLE":
                renamed = {**node["relation"], "relname": node["newname"]}
                self._rename(_table(node["relation"]), _table(renamed))
            case "DropStmt" if node["removeType"] == "OBJECT_TABLE":
                for name in objects(kind, node):
                    self._drop(name.removeprefix("public."))
            case _:
                pass

    def _refer(self, table: str, elements: Iterable[Node]) -> None:
        self.keys |= {(table, to, columns): None for to, columns in _foreign_keys(elements)}

    def _rename(self, old: str, new: str) -> None:
        self.states[new] = self.states.pop(old, _CHANGED)
        self.keys = {
            (new if child == old else child, new if parent == old else parent, columns): None
            for child, parent, columns in self.keys
        }

    def _drop(self, table: str) -> None:
        self.states.pop(table, None)
        self.keys = {key: None for key in self.keys if table not in key[:2]}


def _table(relation: Node) -> str:
    """As written; `public.` is left out, so that one table has one name."""
    return qualified(relation).removeprefix("public.")


def _foreign_keys(elements: Iterable[Node]) -> Iterator[tuple[str, str]]:
    for element in elements:
        column = element.get("ColumnDef", {})
        for constraint in each((element, *column.get("constraints", ())), "Constraint"):
            if constraint.get("contype") == "CONSTR_FOREIGN" and "pktable" in constraint:
                named = [c.get("sval", "") for c in each(constraint.get("fk_attrs"), "String")]
                yield _table(constraint["pktable"]), ", ".join(named or [column.get("colname", "")])


def mermaid(statements: Iterable[tuple[str, Node]]) -> str | None:
    """The diagram's source, the same for the same statements; None where no table is added or altered.

    Beyond MOST_TABLES the later tables are left out, and a box says how many.
    """
    seen = Tables()
    for kind, node in statements:
        seen.see(kind, node)
    if not seen.states:
        return None
    shown = dict(list(seen.states.items())[:MOST_TABLES])
    keys = [key for key in seen.keys if key[0] in shown]
    others = [parent for _, parent, _ in keys if parent not in shown]
    places = {name: f"t{number}" for number, name in enumerate(dict.fromkeys((*shown, *others)), 1)}
    left = len(seen.states) - len(shown)
    lines = [
        "erDiagram",
        *(
            f'  {place}["{escaped(name)}{f" ({shown[name]})" if name in shown else ""}"]'
            for name, place in places.items()
        ),
        *([f'  more["… and {left} more"]'] if left else []),
        *(f'  {places[child]} }}o--|| {places[parent]} : "{escaped(by)}"' for child, parent, by in keys),
    ]
    return "\n".join(lines)


def escaped(name: str) -> str:
    """A name within Mermaid's double quotes: what is neither a letter, a digit, nor harmless becomes its code."""
    return "".join(c if c.isalnum() or c in " _.,$" else f"#{ord(c)};" for c in name)
