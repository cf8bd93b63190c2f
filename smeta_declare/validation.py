"""Validation queries and checks: what a query must answer, and whether it did. Pure; the executor asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Comparison = Literal["=", ">=", "<=", ">", "<", "<>"]
_ROWS = re.compile(r"rows\s*(=|>=|<=|>|<|<>|!=)\s*(\d+)")
_VALUE = re.compile(r"value\s*=\s*(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the answer of a query must look like.

    `true`: at least one row, and no false or null in a boolean column (what a query without `-- expect:` means).
    `rows`: so many rows. `value`: exactly one row with one column that prints as `value`.
    """

    kind: Literal["true", "rows", "value"] = "true"
    comparison: Comparison = "="
    number: int = 0
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """`rows = 3`, `rows >= 1`, `empty`, `value = 0`, `true`; ValueError says what is allowed otherwise."""
        text = text.strip()
        if text == "true":
            return cls()
        if text == "empty":
            return cls(kind="rows", comparison="=", number=0)
        if m := _ROWS.fullmatch(text):
            operator = "<>" if m[1] == "!=" else m[1]
            return cls(kind="rows", comparison=operator, number=int(m[2]))  # type: ignore[arg-type] # the regular expression allows only these
        if m := _VALUE.fullmatch(text):
            return cls(kind="value", value=m[1].strip().strip("'"))
        raise ValueError(
            f"`{text}` is no expectation; write `rows = 3`, `rows >= 1`, `empty`, `value = 0` or `true`"
        )

    def __str__(self) -> str:
        match self.kind:
            case "true":
                return "true"
            case "rows":
                return f"rows {self.comparison} {self.number}"
            case "value":
                return f"value = {self.value}"

    def failure(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str | None:
        """Why the answer is not what was expected; None when it is."""
        match self.kind:
            case "true":
                return _not_true(columns, rows)
            case "rows":
                holds = {
                    "=": len(rows) == self.number,
                    ">=": len(rows) >= self.number,
                    "<=": len(rows) <= self.number,
                    ">": len(rows) > self.number,
                    "<": len(rows) < self.number,
                    "<>": len(rows) != self.number,
                }[self.comparison]
                return (
                    None
                    if holds
                    else f"expected {self}, got {len(rows)} {'row' if len(rows) == 1 else 'rows'}"
                )
            case "value":
                if len(rows) != 1 or len(columns) != 1:
                    return f"expected one row with one column, got {len(rows)} × {len(columns)}"
                found = as_text(rows[0][0])
                return None if found == self.value else f"expected {self.value}, got {found}"


def _not_true(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str | None:
    if not rows:
        return "expected at least one row, got none"
    for row in rows:
        for name, value in zip(columns, row, strict=True):
            if value is False or value is None:
                return f"column {name} is {as_text(value)}"
    return None


def as_text(value: object) -> str:
    """A value the way psql prints it, near enough to compare with what somebody wrote in a file."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
