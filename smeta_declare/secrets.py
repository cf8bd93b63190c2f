"""Late-bound secrets: put into a statement when it is sent, and never before."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from smeta_declare.diagnostics import Location, excerpt
from smeta_declare.plan import PlannedStatement
from smeta_declare.template import scram_verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Sendable:
    """A statement as it goes to the server, and the way back from the server's positions."""

    statement: PlannedStatement
    text: str
    shifts: tuple[tuple[int, int], ...] = ()  # (end in the sent text, characters that were added up to there)

    def shown(self, position: int | None = None) -> str:
        """The statement as it may be shown: secrets named, not told; of a long one the part around a position."""
        return excerpt(self.statement.text, self._offset(position))

    def locate(self, position: int | None) -> Location:
        """The template's place of a position the server gave (from 1, in the text that was sent)."""
        return self.statement.locate(self._offset(position))

    def _offset(self, position: int | None) -> int:
        """A position in the text that was sent as one in the statement's own."""
        if position is None:
            return 0
        offset = position - 1
        added = 0
        for end, total in self.shifts:
            if offset >= end:
                added = total
        return min(max(0, offset - added), max(0, len(self.statement.text) - 1))


def sendable(
    statement: PlannedStatement,
    secrets: Mapping[str, str],
    literal: Callable[[object], str],
    *,
    salt: Callable[[int], bytes] = os.urandom,
) -> Sendable:
    """Fill the late-bound values into a statement."""
    if not statement.secrets:
        return Sendable(statement=statement, text=statement.text)
    pieces: list[str] = []
    shifts: list[tuple[int, int]] = []
    last = added = size = 0
    for slot in sorted(statement.secrets, key=lambda s: s.start):
        value = secrets[slot.name]
        if slot.form == "scram":
            value = scram_verifier(value, salt=salt(16))
        filled = literal(value)
        pieces += [statement.text[last : slot.start], filled]
        size += slot.start - last + len(filled)
        added += len(filled) - (slot.end - slot.start)
        shifts.append((size, added))
        last = slot.end
    return Sendable(statement=statement, text="".join([*pieces, statement.text[last:]]), shifts=tuple(shifts))
