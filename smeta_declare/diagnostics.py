"""What is told about a place in a file: position, severity, finding. One form for every source of findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place in a file a person can open; line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int = 1
    source_line: str | None = None  # the line itself, to be shown under the message

    @classmethod
    def of(cls, file: str, text: str, offset: int) -> Location:
        """The place of a character offset in `text` (lines end with LF, CRLF or CR)."""
        offset = max(0, min(offset, len(text)))
        before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
        start = before.rfind("\n") + 1
        rest = text[offset:].replace("\r", "\n")
        source_line = before[start:] + rest.split("\n", 1)[0]
        return cls(
            file=file,
            line=before.count("\n") + 1,
            column=len(before) - start + 1,
            source_line=source_line,
        )

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """A finding: the same facts whether manifest, lint, tenancy or doctor found it."""

    code: str
    severity: Severity
    message: str
    location: Location | None = None
    object: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, str | int | None]:
        """The finding in the published form (`schemas/findings.schema.json`)."""
        place = self.location
        return {
            "code": self.code,
            "severity": str(self.severity),
            "message": self.message,
            "object": self.object,
            "file": place.file if place else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "hint": self.hint,
        }


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word a mistyped one was probably meant to be, if any is close."""
    import difflib  # only where something is wrong

    matches = difflib.get_close_matches(word, tuple(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


_LINES, _CHARACTERS = 20, 2_000  # what is shown of a long text
_BEFORE = 500  # characters shown before the place that matters


def excerpt(text: str, position: int = 0) -> str:
    """A text to be shown: whole where it is short, else the part around a position, and how much is left out."""
    if len(text) <= _CHARACTERS and text.count("\n") < _LINES:
        return text
    start = 0
    if position >= _CHARACTERS - _BEFORE or text.count("\n", 0, position) >= _LINES // 2:
        start = max(0, position - _BEFORE)
        lines = text[start:position].split("\n")
        start = position - len("\n".join(lines[-_LINES // 2 :]))
    shown = "\n".join(text[start : start + _CHARACTERS].split("\n")[:_LINES])
    before, after = start, len(text) - start - len(shown)
    return (
        (f"({before:,} characters before) … " if before else "")
        + shown
        + (f" … ({after:,} more characters)" if after else "")
    )
