"""What migrations make of an empty database, as far as tenants are concerned: read from parse trees alone. Pure.

Tables with their columns and keys, views and unique indexes. What a DO block or a function makes is not seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from smeta_declare.parsetree import Node, each, quoted
from smeta_declare.tenancy.declaration import Name
from smeta_declare.tenancy.model import PUBLIC, Catalogue, Column, Constraint, Index, Relation

_NEWEST = 180_000
_TYPES = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "smallserial": "smallint",
    "serial": "integer",
    "bigserial": "bigint",
    "bool": "boolean",
    "float4": "real",
    "float8": "double precision",
    "varchar": "character varying",
    "bpchar": "character",
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
}
_CONSTRAINTS = {
    "CONSTR_PRIMARY": ("p", "pkey"),
    "CONSTR_UNIQUE": ("u", "key"),
    "CONSTR_FOREIGN": ("f", "fkey"),
}


def folded(statements: Iterable[tuple[str, Node]]) -> Catalogue:
    """The relations that statements leave behind, given as kind and parse tree; all are empty."""
    fold = _Fold()
    for kind, node in statements:
        fold.read(kind, node)
    relations = tuple(table.frozen() for table in fold.tables.values())
    return Catalogue(
        version=_NEWEST,
        user="",
        relations=relations,
        schemas={PUBLIC: ("", frozenset({(PUBLIC, "usage")}))},
    )


@dataclass
class _Table:
    name: Name
    kind: str
    partition: bool = False
    parents: tuple[Name, ...] = ()
    columns: dict[str, Column] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    sequences: tuple[Name, ...] = ()

    def frozen(self) -> Relation:
        return Relation(
            name=self.name,
            kind=self.kind,
            partition=self.partition,
            parents=self.parents,
            columns=tuple(self.columns.values()),
            constraints=tuple(self.constraints.values()),
            indexes=tuple(self.indexes.values()),
            sequences=self.sequences,
        )


class _Fold:
    def __init__(self) -> None:
        self.tables: dict[Name, _Table] = {}

    def read(self, kind: str, node: Node) -> None:
        match kind:
            case "CreateStmt" | "CreateForeignTableStmt":
                self._create(node.get("base", node), foreign=kind != "CreateStmt")
            case "ViewStmt":
                self._put(_name(node["view"]), "v")
            case "CreateTableAsStmt":
                self._put(_name(node["into"]["rel"]), "m" if node["objtype"] == "OBJECT_MATVIEW" else "r")
            case "AlterTableStmt":
                if table := self.tables.get(_name(node["relation"])):
                    for command in each(node.get("cmds"), "AlterTableCmd"):
                        self._alter(table, command)
            case "IndexStmt":
                self._index(node)
            case "DropStmt":
                for thing in node["objects"]:
                    self._drop(node["removeType"], thing)
            case "RenameStmt":
                self._rename(node)
            case "AlterObjectSchemaStmt":
                if "relation" in node and (table := self.tables.pop(_name(node["relation"]), None)):
                    self._moved(table, Name(node["newschema"], table.name.name))
            case _:
                pass

    def _put(self, name: Name, kind: str) -> _Table:
        return self.tables.setdefault(name, _Table(name, kind))

    def _create(self, node: Node, *, foreign: bool) -> None:
        name = _name(node["relation"])
        if name in self.tables or node["relation"].get("relpersistence") == "t":
            return
        table = self._put(name, "f" if foreign else "p" if "partspec" in node else "r")
        table.partition = "partbound" in node
        table.parents = tuple(_name(parent) for parent in each(node.get("inhRelations"), "RangeVar"))
        for parent in table.parents:
            if above := self.tables.get(parent):
                table.columns |= above.columns
        for element in node.get("tableElts", ()):
            if "ColumnDef" in element:
                self._column(table, element["ColumnDef"])
            elif "Constraint" in element:
                self._constraint(table, element["Constraint"], ())
            elif "TableLikeClause" in element and (
                like := self.tables.get(_name(element["TableLikeClause"]["relation"]))
            ):
                table.columns |= like.columns

    def _column(self, table: _Table, node: Node) -> None:
        name, type = node["colname"], _type(node["typeName"])
        given = list(each(node.get("constraints"), "Constraint"))
        kinds = {constraint["contype"] for constraint in given}
        serial = _strings(node["typeName"].get("names"))[-1:] in (
            ("serial",),
            ("bigserial",),
            ("smallserial",),
        )
        if serial:
            sequence = Name(table.name.schema, f"{table.name.name}_{name}_seq")
            table.sequences = (*table.sequences, sequence)
        made = next((c["raw_expr"] for c in given if c["contype"] == "CONSTR_GENERATED"), None)
        table.columns[name] = Column(
            name=name,
            type=type,
            compared="text" if type.startswith("character varying") and not type.endswith("]") else type,
            not_null=serial or bool(kinds & {"CONSTR_NOTNULL", "CONSTR_PRIMARY", "CONSTR_IDENTITY"}),
            default=json.dumps(made) if made else None,  # enough to see which columns it is made of
            generated=made is not None,
        )
        for constraint in given:
            self._constraint(table, constraint, (name,))

    def _constraint(self, table: _Table, node: Node, own: tuple[str, ...]) -> None:
        if node["contype"] not in _CONSTRAINTS:
            return
        letter, suffix = _CONSTRAINTS[node["contype"]]
        columns = own or _strings(node.get("fk_attrs") or node.get("keys"))
        if index := table.indexes.get(node.get("indexname", "")):
            columns = tuple(column for column in index.columns if column)
            del table.indexes[index.name]
        shown = () if letter == "p" else columns
        name = node.get("conname") or "_".join((table.name.name, *shown, suffix))
        target = _name(node["pktable"]) if letter == "f" else None
        theirs = _strings(node.get("pk_attrs"))
        if target and not theirs and (there := self.tables.get(target)):
            theirs = next((c.columns for c in there.constraints.values() if c.type == "p"), ())
        if target and len(theirs) != len(columns):
            return  # what it refers to is not known
        table.constraints[name] = Constraint(
            name=name,
            type=letter,
            definition="",
            columns=columns,
            target=target,
            target_columns=theirs,
            deferrable=node.get("deferrable", False),
            deferred=node.get("initdeferred", False),
            on_update=node.get("fk_upd_action", "a"),
            on_delete=node.get("fk_del_action", "a"),
            match=node.get("fk_matchtype", "s"),
            index=None if letter == "f" else name,
        )
        if letter == "p":
            for column in columns:
                if column in table.columns:
                    table.columns[column] = replace(table.columns[column], not_null=True)
        if letter != "f":
            table.indexes[name] = _plain_index(table.name, name, columns, unique=True, constraint=True)

    def _alter(self, table: _Table, command: Node) -> None:
        name, made = command.get("name", ""), command.get("def", {})
        match command["subtype"]:
            case "AT_AddColumn":
                self._column(table, made["ColumnDef"])
            case "AT_AddConstraint":
                self._constraint(table, made["Constraint"], ())
            case "AT_DropConstraint":
                table.constraints.pop(name, None)
                table.indexes.pop(name, None)
            case "AT_DropColumn":
                table.columns.pop(name, None)
                table.constraints = {k: c for k, c in table.constraints.items() if name not in c.columns}
                table.indexes = {k: i for k, i in table.indexes.items() if name not in i.columns}
            case "AT_SetNotNull" | "AT_DropNotNull" if name in table.columns:
                never = command["subtype"] == "AT_SetNotNull"
                table.columns[name] = replace(table.columns[name], not_null=never)
            case "AT_AttachPartition" if part := self.tables.get(_name(made["PartitionCmd"]["name"])):
                part.partition, part.parents = True, (table.name,)
            case "AT_DetachPartition" if part := self.tables.get(_name(made["PartitionCmd"]["name"])):
                part.partition, part.parents = False, ()
            case _:
                pass

    def _index(self, node: Node) -> None:
        table = self.tables.get(_name(node["relation"]))
        if table is None:
            return
        columns = tuple(element.get("name") for element in each(node["indexParams"], "IndexElem"))
        name = node.get("idxname") or "_".join((table.name.name, *(c or "expr" for c in columns), "idx"))
        table.indexes[name] = replace(
            _plain_index(table.name, name, columns, unique=node.get("unique", False), constraint=False),
            partial="whereClause" in node,
            method=node.get("accessMethod", "btree"),
        )

    def _drop(self, kind: str, thing: Node) -> None:
        names = _strings(thing.get("List", {}).get("items"))
        if not names:
            return
        if kind in ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_FOREIGN_TABLE"):
            gone = Name(names[-2] if len(names) > 1 else PUBLIC, names[-1])
            self.tables.pop(gone, None)
            for table in self.tables.values():
                table.constraints = {k: c for k, c in table.constraints.items() if c.target != gone}
        elif kind == "OBJECT_INDEX":
            for table in self.tables.values():
                table.indexes.pop(names[-1], None)

    def _rename(self, node: Node) -> None:
        table = self.tables.get(_name(node["relation"])) if "relation" in node else None
        if table is None:
            return
        new = node["newname"]
        match node["renameType"]:
            case "OBJECT_TABLE" | "OBJECT_VIEW" | "OBJECT_MATVIEW":
                del self.tables[table.name]
                self._moved(table, Name(table.name.schema, new))
            case "OBJECT_COLUMN":
                self._column_renamed(table, node["subname"], new)
            case "OBJECT_TABCONSTRAINT" if found := table.constraints.pop(node["subname"], None):
                table.constraints[new] = replace(found, name=new)
            case _:
                pass

    def _moved(self, table: _Table, name: Name) -> None:
        old, table.name = table.name, name
        self.tables[name] = table
        for other in self.tables.values():
            other.parents = tuple(name if parent == old else parent for parent in other.parents)
            for key, found in other.constraints.items():
                if found.target == old:
                    other.constraints[key] = replace(found, target=name)

    def _column_renamed(self, table: _Table, old: str, new: str) -> None:
        if old not in table.columns:
            return

        def renamed(columns: Iterable[Any]) -> tuple[Any, ...]:
            return tuple(new if column == old else column for column in columns)

        table.columns = {
            (new if k == old else k): replace(c, name=new) if k == old else c
            for k, c in table.columns.items()
        }
        table.indexes = {k: replace(i, columns=renamed(i.columns)) for k, i in table.indexes.items()}
        for other in self.tables.values():
            for key, found in other.constraints.items():
                ours = renamed(found.columns) if other is table else found.columns
                theirs = renamed(found.target_columns) if found.target == table.name else found.target_columns
                other.constraints[key] = replace(found, columns=ours, target_columns=theirs)


def _name(relation: Node) -> Name:
    return Name(relation.get("schemaname") or PUBLIC, relation["relname"])


def _strings(nodes: Any) -> tuple[str, ...]:
    return tuple(node["String"].get("sval", "") for node in nodes or () if "String" in node)


def _plain_index(
    table: Name, name: str, columns: tuple[str | None, ...], *, unique: bool, constraint: bool
) -> Index:
    shown = ", ".join(quoted(column) for column in columns if column)
    return Index(
        name=name,
        definition=f"CREATE UNIQUE INDEX {quoted(name)} ON {table.sql} USING btree ({shown})",
        columns=columns,
        unique=unique,
        constraint=constraint,
    )


def _type(node: Node) -> str:
    """As format_type() prints it."""
    names = [name for name in _strings(node.get("names")) if name != "pg_catalog"]
    type = ".".join(_TYPES.get(name, name) for name in names)
    sizes = [
        str(m["A_Const"]["ival"].get("ival", 0))
        for m in node.get("typmods", ())
        if "ival" in m.get("A_Const", {})
    ]
    if sizes and type in ("character varying", "character", "numeric"):
        type += f"({','.join(sizes)})"
    return type + "[]" * len(node.get("arrayBounds", ()))
