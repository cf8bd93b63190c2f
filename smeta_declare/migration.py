"""Migration files as written: header, sections, order. Nothing is rendered or parsed as SQL here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from smeta_declare.diagnostics import Location
from smeta_declare.errors import InvalidMigration

# The lines that may hold a marker: comments, and bare words with its first letter. The patterns below are tried
# there only: `^` alone would make the engine try every character of a file, and this skips from line to line.
_MAYBE = re.compile(r"\n[ \t]*(?:--|/\*|-?[ \t]*[rRvV])")
_MARKER = re.compile(r"^[ \t]*--[ \t]*(ROLLBACK|VALIDATION)_(START|END)[ \t]*$", re.MULTILINE | re.IGNORECASE)
# A marker that is nearly right would make a rollback part of the way forward: refused, not ignored.
_NEARLY = tuple(
    re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    for pattern in (
        r"^[ \t]*(?:-*|/\*)[ \t]*((?:ROLLBACK|VALIDATION)[ \t_-]*(?:START|BEGIN|END|STOP))[ \t:;.-]*(?:\*/[ \t]*)?$",
        r"^[ \t]*(?:--+|/\*)[ \t]*((?:ROLLBACK|VALIDATION)_(?:START|END)\b).*$",
    )
)
_LONE_WORD = re.compile(
    r"^[ \t]*(?:--|/\*)[ \t]*([a-z]+[_-][a-z_-]+)[ \t:;.-]*(?:\*/[ \t]*)?$", re.MULTILINE | re.IGNORECASE
)
_MARKERS = ("ROLLBACK_START", "ROLLBACK_END", "VALIDATION_START", "VALIDATION_END")
_HEADER = re.compile(
    r"^[ \t]*--[ \t]*(Migration|Version|Description):[ \t]*(.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE
)
_COMMENTS = re.compile(r"(?:[ \t]*(?:--[^\n]*)?\n)*(?:[ \t]*--[^\n]*)?")
_BLANK_OR_COMMENT = re.compile(r"(?:\s|--[^\n]*|/\*.*?\*/)*", re.DOTALL)


def checksum(text: str) -> str:
    """SHA-256 of the text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationFile:
    """One file of the migrations directory, normalised."""

    version: str
    path: str  # as shown to people, relative to the manifest
    source: str  # normalised: no BOM, lines end with LF

    @property
    def checksum(self) -> str:
        """SHA-256 of the normalised source."""
        return checksum(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the comments at the top of a file say of it."""

    name: str
    description: str

    @classmethod
    def read(cls, file: MigrationFile) -> Header:
        """Name and description; InvalidMigration where the file says another version than its name."""
        top = file.source[: _top(file.source)]
        found = {m[1].lower(): m for m in reversed(list(_HEADER.finditer(top)))}
        if (version := found.get("version")) and version[2] != file.version:
            raise InvalidMigration(
                f"the header says version {version[2]}, the file is {file.version}",
                location=Location.of(file.path, file.source, version.start(2)),
                hint="make them the same: the version is the name of the file without .sql",
            )
        fallback = re.sub(r"^\d+[_-]", "", file.version)
        name = found["migration"][2] if "migration" in found else ""
        return cls(
            name=name or fallback, description=found["description"][2] if "description" in found else ""
        )


def _top(source: str) -> int:
    """Where the comments at the beginning of a file end."""
    match = _COMMENTS.match(source)
    return match.end() if match else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """Where the parts of a file lie, as half-open ranges of characters."""

    forward: tuple[int, int]
    rollback: tuple[int, int] | None
    validation: tuple[int, int] | None


def _lines(pattern: re.Pattern[str], text: str, begins: Iterable[int]) -> Iterator[re.Match[str]]:
    """The lines that a pattern matches, of those that begin at these characters."""
    return (match for begin in begins if (match := pattern.match(text, begin)))


def _nearly_markers(text: str, begins: Sequence[int]) -> Iterator[re.Match[str]]:
    for pattern in _NEARLY:
        yield from _lines(pattern, text, begins)
    for word in _lines(_LONE_WORD, text, begins):
        if word[1].upper() not in _MARKERS and get_close_matches(
            word[1].upper().replace("-", "_"), _MARKERS, n=1, cutoff=0.84
        ):
            yield word


def cut_sections(
    text: str,
    *,
    locate: Callable[[int], Location],
    genuine: Callable[[int], bool] = lambda _offset: True,
) -> Sections:
    """Cut a file at its `-- ROLLBACK_START` … and `-- VALIDATION_START` … markers.

    `genuine` says whether a character was written by a person (a value of a template is never a marker).
    An unclosed, doubled, nested or misspelled marker, and SQL behind the first section, raise InvalidMigration.
    """

    def refuse(offset: int, message: str, hint: str) -> InvalidMigration:
        return InvalidMigration(message, location=locate(offset), hint=hint)

    begins = [0, *(m.start() + 1 for m in _MAYBE.finditer(text))]
    exact = list(_lines(_MARKER, text, begins))
    markers = [m for m in exact if genuine(m.start(1))]
    known = {m.start() for m in exact}
    for nearly in _nearly_markers(text, [begin for begin in begins if begin not in known]):
        if genuine(nearly.start(1)):
            raise refuse(
                nearly.start(1),
                f"`{nearly[0].strip()}` is nearly a section marker, and would be ignored",
                "write it as one of " + ", ".join(f"-- {marker}" for marker in _MARKERS),
            )
    ranges: dict[str, tuple[int, int]] = {}
    opened: re.Match[str] | None = None
    outside = [0]
    for marker in markers:
        name, edge = marker[1].upper(), marker[2].upper()
        if edge == "START":
            if opened:
                raise refuse(
                    marker.start(1),
                    f"{name}_START inside of {opened[1].upper()}_START",
                    f"close it first with -- {opened[1].upper()}_END",
                )
            if name in ranges:
                raise refuse(
                    marker.start(1), f"a second {name}_START", "keep one section of each kind in a file"
                )
            opened = marker
            outside.append(marker.start())
        elif not opened or opened[1].upper() != name:
            raise refuse(
                marker.start(1), f"{name}_END without {name}_START", "add the line that opens the section"
            )
        else:
            ranges[name] = (opened.end(), marker.start())
            opened = None
            outside.append(marker.end())
    if opened:
        raise refuse(
            opened.start(1),
            f"{opened[1].upper()}_START is never closed",
            f"add a line -- {opened[1].upper()}_END",
        )
    outside.append(len(text))
    for start, end in zip(outside[2::2], outside[3::2], strict=True):
        blank = _BLANK_OR_COMMENT.match(text, start, end)
        if blank and blank.end() < end:
            raise refuse(
                blank.end(),
                "SQL after the first section would belong to none",
                "the way forward stands before -- ROLLBACK_START and -- VALIDATION_START",
            )
    return Sections(
        forward=(0, outside[1]), rollback=ranges.get("ROLLBACK"), validation=ranges.get("VALIDATION")
    )
