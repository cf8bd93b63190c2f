"""A plain UPDATE, DELETE or INSERT … SELECT as batches in the order of a key. Pure.

The bounds go into the statement's text; that nothing else has changed is proven on its parse tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smeta_declare import parsetree
from smeta_declare.directives import BatchOptions
from smeta_declare.errors import SqlSyntaxError
from smeta_declare.parser import tokens, tree
from smeta_declare.parsetree import Node, quoted

_OPEN, _CLOSE = ("ASCII_40", "ASCII_91"), ("ASCII_41", "ASCII_93")
_PLACES = ("stmt_len", "list_start", "list_end", "rexpr_list_start", "rexpr_list_end")
# Of a row of the joined table it would depend on the batch which one is taken; rows come back to nobody.
_CLAUSES = {
    "withClause": "WITH",
    "fromClause": "FROM",
    "usingClause": "USING",
    "returningList": "RETURNING",
    "returningClause": "RETURNING",
}
_PLAIN_SELECT = {"targetList", "fromClause", "whereClause", "limitOption", "op"}
_AGGREGATES = frozenset(
    {
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "array_agg",
        "string_agg",
        "json_agg",
        "jsonb_agg",
        "bool_and",
        "bool_or",
    }
)


class NotBatchable(ValueError):
    """Why a statement cannot be run in batches; `hint` says what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A statement that runs in batches over the rows of one table.

    With `until`, the condition of a row that is left, passes are repeated until no such row is left, and a batch
    touches only such rows. Without it there is one pass, up to the highest key that was there at its start.
    """

    text: str
    options: BatchOptions
    relation: str  # the table whose rows are walked, as written
    only: bool  # whether tables that inherit from it are left out
    source: str  # the same as it stands behind FROM, with its alias
    key: str  # the key column, qualified
    until: str | None
    derived: bool = False  # whether `until` comes from the statement's own WHERE, which stays as it is
    functions: tuple[str, ...] = ()  # that must not turn out to be aggregates
    where: tuple[int, int] | None = None  # the statement's own condition in the text
    end: int = 0  # where the statement's WHERE clause ends, or would

    @property
    def identity(self) -> tuple[str, ...]:
        """What must stay the same for a half-done run to be gone on with; size and pauses may change."""
        return ("batch", self.options.key, *((self.until,) if self.until else ()))

    def within(self, lower: str | None, upper: str) -> str:
        """The statement for the rows above `lower`, up to and including `upper`: literals of SQL."""
        added = " and ".join(self.conditions(lower, upper))
        if self.where is None:
            return f"{self.text[: self.end]}\nwhere {added}{self._rest}"
        begin, end = self.where
        # The newline ends a comment that the condition may end with.
        return f"{self.text[:begin]} ({self.text[begin:end]}\n) and {added}{self._rest}"

    @property
    def _rest(self) -> str:
        return "\n" + self.text[self.end :] if self.text[self.end :].strip() else ""

    def shifts(self) -> tuple[tuple[int, int], ...]:
        """Where `within` put characters in front of the statement's own: (place in its text, how many)."""
        return ((self.where[0] + 2, 2),) if self.where else ()

    def conditions(self, lower: str | None, upper: str) -> list[str]:
        """What `within` adds to the statement's own condition."""
        given = [f"({self.until}\n)"] if self.until and not self.derived else []
        return [*given, *self._bounds(lower, upper)]

    def _bounds(self, lower: str | None, upper: str | None) -> list[str]:
        above = [f"{self.key} > {lower}"] if lower is not None else []
        return above + ([f"{self.key} <= {upper}"] if upper is not None else [])

    # The names come quoted from the parse tree, the conditions are the statement's own.

    def next_bound(self, lower: str | None, highest: str | None, size: int) -> str:
        """Asks for the key at which the next batch ends, as text; no row where nothing is left above `lower`."""
        rows = f"select {self.key} as k from {self.source}{self._where(self._bounds(lower, highest))}"  # noqa: S608
        # Qualified, because a bare k would be the text of the answer, and 9 comes after 10 there.
        return (
            f"select {_plain('batch.k')} from ({rows} order by {self.key} limit {size}) as batch "  # noqa: S608
            "order by batch.k desc limit 1"
        )

    def highest(self) -> str:
        """Asks for the highest key of the table, as text; no row where it is empty."""
        return f"{self._keys} order by {self.key} desc limit 1"

    def left(self) -> str:
        """Asks for the key of a row that is left to do, as text; no row where none is."""
        return f"{self._keys}{self._where([])} order by {self.key} limit 1"

    @property
    def _keys(self) -> str:
        return f"select {_plain(self.key)} from {self.source}"  # noqa: S608

    def _where(self, bounds: list[str]) -> str:
        conditions = [*([f"({self.until}\n)"] if self.until else []), *bounds]
        return f" where {' and '.join(conditions)}" if conditions else ""


def batch_of(text: str, options: BatchOptions) -> Batch:
    """A statement as batches; NotBatchable says why it cannot be one."""
    try:
        ((kind, statement),) = tree(text)
        found = _found(text, kind, statement, options)
        _prove(found, kind, statement, None)
        _prove(found, kind, statement, "'1'")
    except RecursionError as error:
        raise NotBatchable("it is nested too deeply", "write it flatter") from error
    return found


def _found(text: str, kind: str, statement: Node, options: BatchOptions) -> Batch:
    _refuse_kind(text, kind, statement)
    walked = _walked(kind, statement)
    name = walked.get("alias", {}).get("aliasname") or walked["relname"]
    if walked.get("alias", {}).get("colnames"):
        raise NotBatchable("its alias renames columns", "leave the column names of the alias out")
    only = not walked.get("inh", False)
    relation = parsetree.qualified(walked)
    alias = f" as {quoted(name)}" if "alias" in walked else ""
    where, end = _where(text, kind)
    until, derived = options.until, False
    if until is not None:
        _check_condition(until)
    if kind == "UpdateStmt":
        assigned = _assigned(statement)
        if options.key in assigned:
            raise NotBatchable(f"it sets its key {options.key}", "choose a key that stays as it is")
        if until is not None:
            _check_once(statement, assigned, until)
        elif where and _derivable(statement, assigned, name):
            until, derived = text[where[0] : where[1]].strip(), True
    return Batch(
        text=text,
        options=options,
        relation=relation,
        only=only,
        source=f"{'only ' if only else ''}{relation}{alias}",
        key=f"{quoted(name)}.{quoted(options.key)}",
        until=until,
        derived=derived,
        functions=_functions(statement) if kind == "InsertStmt" else (),
        where=where,
        end=end,
    )


# What is refused


def _refuse_kind(text: str, kind: str, statement: Node) -> None:
    if kind not in ("UpdateStmt", "DeleteStmt", "InsertStmt"):
        raise NotBatchable(
            "it is no update, delete or insert … select",
            "run it without `-- smeta: batch`, or write it as one",
        )
    for clause, word in _CLAUSES.items():
        if clause in statement:
            raise NotBatchable(f"it has {word}", "ask for what it needs in a sub-select of SET or WHERE")
    if any(token.name == "PARAM" for token in tokens(text)):
        raise NotBatchable("it has a parameter", "write the value")
    if "CurrentOfExpr" in statement.get("whereClause", {}):
        raise NotBatchable("it follows a cursor", "write the condition")
    if kind == "InsertStmt":
        _refuse_select(statement.get("selectStmt", {}).get("SelectStmt", {}))
        return
    table = statement["relation"]["relname"]
    for link in _nodes(statement, "SubLink"):
        if any(_is_table(node, table) for node in _nodes(link, "RangeVar")):
            raise NotBatchable(
                f"a sub-select reads {table}, the table that it changes: a batch would see what the one before it did",
                "keep what it needs in another table first",
            )


def _is_table(node: Node, name: str) -> bool:
    return bool(node.get("relname") == name)


def _refuse_select(select: Node) -> None:
    if "valuesLists" in select or not select:
        raise NotBatchable("it inserts values", "run it without `-- smeta: batch`")
    if extra := sorted(select.keys() - _PLAIN_SELECT) or select.get("op") != "SETOP_NONE":
        words = ", ".join(_readable(e) for e in extra) if isinstance(extra, list) else "UNION or its like"
        raise NotBatchable(f"its select has {words}", "select plain rows of one table")
    sources = select.get("fromClause", ())
    if len(sources) != 1 or "RangeVar" not in sources[0]:
        raise NotBatchable("it does not select from exactly one table", "look other tables up in sub-selects")
    for call in _calls(select):
        if call.keys() & {
            "agg_star",
            "agg_distinct",
            "agg_order",
            "agg_filter",
            "agg_within_group",
            "over",
        } or (_function(call) in _AGGREGATES):
            raise NotBatchable(f"{_function(call)}() looks at many rows at once", "select plain rows")


def _readable(clause: str) -> str:
    words = clause.removesuffix("Clause").removesuffix("List").upper()
    return {"SORT": "ORDER BY", "GROUP": "GROUP BY", "LIMITCOUNT": "LIMIT", "LIMITOFFSET": "OFFSET"}.get(
        words, words
    )


def _walked(kind: str, statement: Node) -> Node:
    if kind == "InsertStmt":
        found: Node = statement["selectStmt"]["SelectStmt"]["fromClause"][0]["RangeVar"]
        return found
    relation: Node = statement["relation"]
    return relation


def _functions(statement: Node) -> tuple[str, ...]:
    return tuple(sorted({_function(call) for call in _calls(statement["selectStmt"]["SelectStmt"])}))


def _calls(select: Node) -> Iterator[Node]:
    """The calls of functions in a select, those in its sub-selects left out."""
    yield from _nodes({k: v for k, v in select.items() if k == "targetList"}, "FuncCall", leave_out="SubLink")


def _function(call: Node) -> str:
    return str(call["funcname"][-1]["String"]["sval"])


# The condition


def _where(text: str, kind: str) -> tuple[tuple[int, int] | None, int]:
    """Where the condition of the statement lies, and where its WHERE clause ends, or would."""
    depth, begin = 0, None
    found = tokens(text)
    end = found[-1].end + 1
    for index, token in enumerate(found):
        depth += (token.name in _OPEN) - (token.name in _CLOSE)
        if depth:
            continue
        if token.name == "WHERE" and begin is None:
            begin = token.end + 1
        following = found[index + 1].name if index + 1 < len(found) else ""
        if kind == "InsertStmt" and (token.name, following) == ("ON", "CONFLICT"):
            end = found[index - 1].end + 1
            break
    return ((begin, end) if begin is not None else None), end


def _condition(text: str) -> Any:
    """The tree of a condition."""
    ((_, select),) = tree(f"select where ({text}\n)")
    return _bare(select["whereClause"])


def _check_condition(text: str) -> None:
    try:
        found = tree(f"select where ({text}\n)")
        depth = 0
        for token in tokens(text):
            depth += (token.name in _OPEN) - (token.name in _CLOSE)
            if depth < 0:
                raise NotBatchable(f"until: a parenthesis too many in {text}", "write one condition")
    except SqlSyntaxError as error:
        raise NotBatchable(
            f"until cannot be read: {error.message}", "write a condition as behind WHERE"
        ) from error
    whole = len(found) == 1 and found[0][0] == "SelectStmt"
    if not whole or found[0][1].keys() - {"whereClause", "limitOption", "op"}:
        raise NotBatchable(f"until is no condition: {text}", "write a condition as behind WHERE")
    if any(token.name == "PARAM" for token in tokens(text)):
        raise NotBatchable("until has a parameter", "write the value")


def _prove(batch: Batch, kind: str, statement: Node, lower: str | None) -> None:
    """The bounded text must be the statement itself, and nothing but the conditions added to its own."""
    upper = "'2'"
    try:
        found = tree(batch.within(lower, upper))
    except SqlSyntaxError as error:
        raise _unproven() from error
    if len(found) != 1 or found[0][0] != kind:
        raise _unproven()
    changed, before = _bare(found[0][1]), _bare(statement)
    parts, own = (_conjuncts(_reading(kind, node).pop("whereClause", None)) for node in (changed, before))
    added = [_condition(each) for each in batch.conditions(lower, upper)]
    if not own:
        # The parser joins what stands on the left of AND, in parentheses too.
        added = [*_conjuncts(added[0]), *added[1:]]
    if changed != before or parts != [*own, *added]:
        raise _unproven()


def _reading(kind: str, statement: Any) -> Any:
    """The part of a tree that has the WHERE clause."""
    return statement["selectStmt"]["SelectStmt"] if kind == "InsertStmt" else statement


def _unproven() -> NotBatchable:
    return NotBatchable(
        "a bound on its key changes more than its rows", "write it plainer, without parentheses"
    )


def _conjuncts(condition: Any) -> list[Any]:
    """The parts of a condition that must all hold. PostgreSQL's parser joins what stands on the left of AND."""
    match condition:
        case None:
            return []
        case {"BoolExpr": {"boolop": "AND_EXPR", "args": list(parts)}}:
            return parts
        case _:
            return [condition]


def _bare(node: Any) -> Any:
    """A tree without the places in the text."""
    match node:
        case dict():
            return {k: _bare(v) for k, v in node.items() if not k.endswith("location") and k not in _PLACES}
        case list():
            return [_bare(each) for each in node]
        case _:
            return node


# Whether it may be repeated


def _assigned(statement: Node) -> dict[str, Node]:
    return {target["name"]: target for target in parsetree.each(statement.get("targetList"), "ResTarget")}


def _check_once(statement: Node, assigned: Mapping[str, Node], until: str) -> None:
    """A row must leave the condition when it is done; what reads itself (x = x + 1) cannot be the proof of that."""
    reads = {name for name, target in assigned.items() if _reads(target, set(assigned))}
    told = set(_columns(_condition(until)))
    if not told & set(assigned):
        raise NotBatchable(
            "until names no column that the statement sets: no row would ever be done",
            f"write a condition on {', '.join(sorted(assigned))}, or leave until out",
        )
    if reads and not told & (set(assigned) - reads):
        raise NotBatchable(
            f"it reads {', '.join(sorted(reads))}, which it sets: a second pass would change rows again",
            "set a column that says that the row is done, and name it in until; or leave until out: each row "
            "is then changed once, up to the highest key at the start",
        )


def _reads(target: Node, assigned: set[str]) -> bool:
    """Whether a new value depends on what the statement sets."""
    if "indirection" in target:
        return True
    columns = set(_columns(target.get("val")))
    return "*" in columns or bool(columns & assigned)


def _columns(node: Any) -> Iterator[str]:
    for reference in _nodes(node, "ColumnRef"):
        last = reference["fields"][-1]
        yield last["String"].get("sval", "") if "String" in last else "*"


def _derivable(statement: Node, assigned: Mapping[str, Node], name: str) -> bool:
    """Whether the statement's own condition no longer holds for a row that it has changed."""
    return any(_undone(part, assigned, name) for part in _conjuncts(_bare(statement["whereClause"])))


def _undone(part: Any, assigned: Mapping[str, Node], name: str) -> bool:
    def value(column: Any) -> Any:
        """What the statement sets a column to; None where it sets it not, or not whole."""
        match column:
            case {"ColumnRef": {"fields": [{"String": {"sval": str(found)}}]}}:
                pass
            case {
                "ColumnRef": {"fields": [{"String": {"sval": qualifier}}, {"String": {"sval": str(found)}}]}
            } if qualifier == name:
                pass
            case _:
                return None
        target = assigned.get(found)
        return _bare(target.get("val")) if target and "indirection" not in target else None

    match part:
        case {"NullTest": {"arg": column, "nulltesttype": "IS_NULL"}}:
            set_to = value(column)
            return set_to is not None and not _is_null(set_to)
        case {"A_Expr": {"kind": "AEXPR_DISTINCT", "lexpr": column, "rexpr": constant}}:
            return _is_constant(constant) and value(column) == constant
        case {"A_Expr": {"kind": "AEXPR_OP", "name": [{"String": {"sval": operator}}], **sides}}:
            constant, set_to = sides.get("rexpr"), value(sides.get("lexpr"))
            if not _is_constant(constant) or not _is_constant(set_to) or _is_null(set_to):
                return False
            return bool(set_to == constant) if operator == "<>" else operator == "=" and set_to != constant
        case {"BoolExpr": {"boolop": "NOT_EXPR", "args": [column]}}:
            return bool(value(column) == {"A_Const": {"boolval": {"boolval": True}}})
        case _:
            return False


def _is_null(node: Any) -> bool:
    match node:
        case {"A_Const": {"isnull": True}} | {"SetToDefault": _}:
            return True
        case {"TypeCast": {"arg": inner}}:
            return _is_null(inner)
        case _:
            return False


def _is_constant(node: Any) -> bool:
    match node:
        case {"A_Const": _}:
            return True
        case {"TypeCast": {"arg": inner}}:
            return _is_constant(inner)
        case _:
            return False


def _nodes(node: Any, tag: str, *, leave_out: str = "") -> Iterator[Node]:
    """Every node of a kind, however deep."""
    match node:
        case dict():
            for key, value in node.items():
                if key == tag:
                    yield value
                if key != leave_out:
                    yield from _nodes(value, tag, leave_out=leave_out)
        case list():
            for each in node:
                yield from _nodes(each, tag, leave_out=leave_out)
        case _:
            pass


def _plain(key: str) -> str:
    """A key as text that means the same under every DateStyle: it is kept, and read in a later session."""
    return f"pg_catalog.to_jsonb({key}) operator(pg_catalog.#>>) '{{}}'"
