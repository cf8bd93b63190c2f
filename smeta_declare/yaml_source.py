"""YAML with places: a small, safe part of the language, read so that every key and value knows its position.

Scalars are those of YAML 1.2 without floats, dates and `yes`: `1.10`, `010` and `2025-01-01` stay text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent

from smeta_declare.diagnostics import Diagnostic, Location, Severity
from smeta_declare.errors import InvalidManifest
from smeta_declare.schemas import Deferred, KeyPath

MAX_DEPTH = 40
_LOADER: Any = getattr(
    yaml, "CBaseLoader", yaml.BaseLoader
)  # libyaml where there is one, thirty times faster
_TRUTH = re.compile(r"true|false")
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,14})", re.ASCII)
_NOTHING = re.compile(r"null|~|")
# What YAML forbids, and the line breaks that only YAML 1.1 knows: an editor shows no new line there.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_PASSWORD = re.compile(
    r"(?<=://)([^/@\s:]*:)([^@\s]+)(?=@)|(password\s*=\s*)('[^']*'|[^\s'\"]+)", re.IGNORECASE
)
_SHOWN = 400  # characters of a line that are worth showing

Node: TypeAlias = yaml.Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML file: its values, where each of them is, and what is wrong with its structure."""

    file: str
    text: str  # without a byte order mark, as the marks of the parser do not count it
    data: object
    problems: tuple[Diagnostic, ...]
    values: Mapping[KeyPath, Node]
    keys: Mapping[KeyPath, Node]
    line_starts: tuple[int, ...]
    _places: dict[KeyPath, Location] = field(default_factory=dict, init=False, compare=False, repr=False)

    def at(self, path: KeyPath, *, offset: int = 0) -> Location:
        """The place of a value, or of what encloses it; `offset` counts characters inside the value."""
        if offset:
            return self._at(path, offset)
        if (
            path not in self._places
        ):  # a long list is asked for twice: by its environment and beside its files
            self._places[path] = self._at(path, 0)
        return self._places[path]

    def _at(self, path: KeyPath, offset: int) -> Location:
        while path and path not in self.values:
            path = path[:-1]
        node = self.values.get(path)
        if node is None:
            return self.locate(0)
        if path in self.keys and (isinstance(node, yaml.MappingNode) or node.value == ""):
            node = self.keys[path]  # the mark of an empty value may be on the next line
        start = node.start_mark.index
        written = self.written(path)
        if offset and written is not None:
            quote = not self.text.startswith(written, start) and self.text.startswith(written, start + 1)
            exact = quote or self.text.startswith(written, start)
            start += (quote + offset) if exact else 0
        return self.locate(start)

    def at_key(self, path: KeyPath) -> Location:
        """The place of a key."""
        return self.locate(self.keys[path].start_mark.index) if path in self.keys else self.at(path)

    def written(self, path: KeyPath) -> str | None:
        """A scalar as text, whatever type it has; None for lists, mappings and where there is nothing."""
        node = self.values.get(path)
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def is_plain(self, path: KeyPath) -> bool:
        """Whether a scalar is written without quotes and not as a block."""
        node = self.values.get(path)
        return isinstance(node, yaml.ScalarNode) and not node.style

    def locate(self, index: int) -> Location:
        """The place of a character, with its line; a password in the line is blotted out."""
        return _location(self.file, self.text, self.line_starts, index)


def _location(file: str, text: str, line_starts: tuple[int, ...], index: int) -> Location:
    line = bisect_right(line_starts, index)
    start = line_starts[line - 1]
    end = line_starts[line] if line < len(line_starts) else len(text)
    shown = text[start:end].rstrip("\r\n")
    if "@" in shown or "=" in shown:  # there is no password without one of them
        shown = _PASSWORD.sub(_blotted, shown)
    return Location(file=file, line=line, column=index - start + 1, source_line=shown[:_SHOWN])


def _blotted(match: re.Match[str]) -> str:
    kept = match[1] or match[3]
    return kept + "*" * (len(match[0]) - len(kept))  # as long as before: a caret below it stays right


def read(text: str, *, file: str) -> Document:
    """The document; InvalidManifest where it cannot be read at all, lesser faults are in its `problems`."""
    text = text.removeprefix("\ufeff")
    starts = (0, *(m.end() for m in re.finditer(r"\r\n|\r|\n", text)))

    def problem(
        index: int, message: str, *, hint: str | None = None, code: str = "manifest-yaml"
    ) -> Diagnostic:
        place = _location(file, text, starts, min(index, len(text)))
        return mistake(code, message, place, hint=hint)

    if bad := [
        problem(m.start(), f"the character U+{ord(m[0]):04X} is not allowed", hint="remove it")
        for m in _FORBIDDEN.finditer(text)
    ][:20]:
        raise invalid(file, bad)
    reader = _Reader(problem)
    try:
        reader.survey(text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        index = mark.index if mark else 0
        line = text[starts[bisect_right(starts, index) - 1] :].splitlines()[:1]
        hint = None
        if text[index : index + 1] == "\t":
            hint = "indent with spaces, not with tabs"
        elif line and "${" in line[0]:
            hint = "inside { } and [ ], a value with `${…}` goes between quotes"
        fault = problem(index, f"this is no YAML: {message}", hint=hint)
        raise invalid(file, [*reader.problems, fault]) from error
    except yaml.YAMLError as error:
        raise invalid(file, [*reader.problems, problem(0, f"this is no YAML: {error}")]) from error
    except _Hopeless as hopeless:
        raise invalid(file, reader.problems) from hopeless
    data = reader.value(node, ()) if node is not None else {}
    return Document(
        file=file,
        text=text,
        data=data,
        problems=tuple(reader.problems),
        values=reader.values,
        keys=reader.keys,
        line_starts=starts,
    )


def mistake(code: str, message: str, place: Location | None, *, hint: str | None = None) -> Diagnostic:
    """A finding about a manifest: none of them is a matter of taste."""
    return Diagnostic(code=code, severity=Severity.HIGH, message=message, location=place, hint=hint)


def invalid(file: str, findings: list[Diagnostic]) -> InvalidManifest:
    """The error that carries the findings, in the order of the file."""

    def place(finding: Diagnostic) -> tuple[int, int, str]:
        at = finding.location
        return (at.line, at.column, finding.code) if at else (0, 0, finding.code)

    findings = list(dict.fromkeys(findings))
    mistakes = "1 mistake" if len(findings) == 1 else f"{len(findings)} mistakes"
    return InvalidManifest(f"{file} has {mistakes}", findings=sorted(findings, key=place))


class _Hopeless(Exception):
    """Nothing more can be learnt from the file."""


class _Reader:
    """Turns nodes into values and remembers where they were."""

    def __init__(self, problem: Any) -> None:
        self.problem = problem
        self.problems: list[Diagnostic] = []
        self.values: dict[KeyPath, Node] = {}
        self.keys: dict[KeyPath, Node] = {}
        self.seen: set[int] = set()

    def survey(self, text: str) -> None:
        """Look for what we do not take before any graph is built: libyaml recurses, depth kills it."""
        level = documents = 0
        for event in yaml.parse(text, Loader=_LOADER):
            index = event.start_mark.index if event.start_mark else 0
            for refused in _refused(event):
                self.problems.append(self.problem(index, f"{refused} are not used in a manifest"))
            level += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            documents += isinstance(event, DocumentStartEvent)
            if level > MAX_DEPTH:
                self.problems.append(self.problem(index, f"nested deeper than {MAX_DEPTH} levels"))
                raise _Hopeless
            if documents > 1:
                self.problems.append(
                    self.problem(index, "a second document begins here: a manifest is one document")
                )
                raise _Hopeless

    def value(self, node: Node, path: KeyPath) -> object:
        """The value of a node; what was refused becomes a text about which nothing is known."""
        self.values[path] = node
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else scalar(node.value)
        if id(node) in self.seen:  # an alias: never expanded, so that it cannot explode
            return Deferred("*")
        self.seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        found: dict[str, object] = {}
        for key, value in node.value:
            index = key.start_mark.index
            if not isinstance(key, yaml.ScalarNode) or (key.value == "<<" and not key.style):
                self.problems.append(
                    self.problem(index, "a key is a word; merge keys are not used in a manifest")
                )
            elif first := self.keys.get((*path, key.value)):
                line = first.start_mark.line + 1
                told = f"the key `{key.value}` is given twice, first in line {line}"
                self.problems.append(self.problem(index, told, code="manifest-duplicate-key"))
            else:
                self.keys[(*path, key.value)] = key
                found[key.value] = self.value(value, (*path, key.value))
        return found


def _refused(event: yaml.Event) -> Iterator[str]:
    if isinstance(event, AliasEvent):
        yield "aliases"
    elif getattr(event, "anchor", None):
        yield "anchors"
    if getattr(event, "tag", None):
        yield "tags"


def scalar(text: str) -> str | int | bool | None:
    """A plain scalar: `true` and `false`, whole numbers, nothing; everything else is text."""
    if _TRUTH.fullmatch(text):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return None if _NOTHING.fullmatch(text) else text


class CannotAppend(Exception):
    """The layout is beyond us; a person adds the line."""


def append(text: str, path: KeyPath, word: str) -> str:
    """Add an item to the list at `path`, and leave every other character as it is.

    Proved, not hoped: the result is read again and must hold the old values plus the new one.
    """
    before = read(text, file="the manifest")
    newline = "\r\n" if "\r\n" in text else "\n"
    edits = _edits(before, path, word, bom=text.startswith("\ufeff"), newline=newline)
    if before.problems or not edits:
        raise CannotAppend
    after = text
    for offset, piece in sorted(edits, reverse=True):
        after = after[:offset] + piece + after[offset:]
    try:
        found = read(after, file="the manifest").data
    except InvalidManifest as error:
        raise CannotAppend from error
    holder: Any = before.data
    for part in path[:-1]:
        holder = holder[part]
    quoted = word.startswith('"')
    holder[path[-1]] = [*(holder[path[-1]] or []), word[1:-1] if quoted else scalar(word)]
    if found != before.data:
        raise CannotAppend
    return after


def _edits(document: Document, path: KeyPath, word: str, *, bom: bool, newline: str) -> list[tuple[int, str]]:
    text = "\ufeff" + document.text if bom else document.text
    node, key = document.values.get(path), document.keys.get(path)

    def place(mark: Any) -> int:
        return int(mark.index) + bom

    if isinstance(node, yaml.ScalarNode) and key is not None:
        if node.value or node.style:
            return []
        indent = " " * (key.start_mark.column + 2)  # `apply:` with nothing behind it
        return [(_line_end(text, place(key.end_mark)), f"{newline}{indent}- {word}")]
    if not isinstance(node, yaml.SequenceNode):
        return []
    if not node.flow_style:
        leaf, dash = node.value[-1], node.start_mark.column
        # The end mark of a block mapping lies behind the comments that follow it: take the last leaf.
        while leaf.value and not isinstance(leaf, yaml.ScalarNode) and not leaf.flow_style:
            leaf = leaf.value[-1][1] if isinstance(leaf, yaml.MappingNode) else leaf.value[-1]
        block = getattr(leaf, "style", None) in ("|", ">")
        end = _line_end(text, place(leaf.start_mark if block else leaf.end_mark))
        while following := _continues(text, end, dash):
            end = _line_end(text, following)
        return [(end, f"{newline}{' ' * dash}- {word}")]
    close = place(node.end_mark) - 1
    if not node.value:
        return [(close, word)]
    last = node.value[-1]
    end = place(last.end_mark)
    found = re.match(r"(?:\s|#[^\n]*)*,", text[end:close])
    comma = end + found.end() - 1 if found else None
    if last.start_mark.line in (node.start_mark.line, node.end_mark.line):
        return [(end, f", {word}")] if comma is None else [(comma + 1, f" {word},")]
    line = f"{newline}{' ' * last.start_mark.column}{word}"
    if comma is None:
        return [(end, ","), (_line_end(text, end), line)]
    return [(_line_end(text, comma), f"{line},")]


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    end = len(text) if end < 0 else end
    return end - (end > index and text[end - 1] == "\r")


def _continues(text: str, end: int, dash: int) -> int:
    """Where the next written line belongs to the item above: its start, else 0."""
    found = re.compile(r"\r?\n(?:[ \t]*\r?\n)*( *)(?=[^ \r\n])").match(text, end)
    return found.end() if found and len(found[1]) > dash else 0
