"""What people read: answers to stdout, talk to stderr, every line masked on its way out."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from smeta_declare.diagnostics import Diagnostic, Location
from smeta_declare.errors import InvalidInput, SmetaError
from smeta_declare.masking import Masker

_masker = Masker()
# A line of the manifest that may hold a password is not shown, whatever the mistake in it is.
_SENSITIVE = re.compile(r"(?i)pass|[^\s/]:[^\s]*@")


def mask_with(masker: Masker) -> None:
    """From now on nothing is written that the masker knows."""
    global _masker
    _masker = masker


def answer(text: str) -> None:
    """An answer: stdout."""
    click.echo(_masker(text))


# Control characters but tab and newline, and those that turn the direction of what follows.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text to be reviewed: what a terminal or a page would obey, or hide, is written as an escape."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


@contextmanager
def quietly() -> Iterator[None]:
    """Of what is done already: that the answer cannot be written is a warning, and no failure of the command."""
    try:
        yield
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
        with suppress(OSError):
            talk(f"warning: it is done, and the answer cannot be written: {error.strerror}")


def answer_json(document: Any, *, sort: bool = False) -> None:
    """An answer as one JSON document: stdout."""
    click.echo(json.dumps(_masked(document), indent=2, ensure_ascii=False, sort_keys=sort))


def _masked(document: Any) -> Any:
    """The values of a document masked; its keys are our own words."""
    match document:
        case dict():
            return {key: _masked(value) for key, value in document.items()}
        case list() | tuple():
            return [_masked(value) for value in document]
        case str():
            return _masker(document)
        case _:
            return document


def talk(text: str) -> None:
    """Everything that is not the answer: stderr."""
    click.echo(_masker(text), err=True)


def style(text: str, **how: Any) -> str:
    """Colour, where a terminal reads it and NO_COLOR is not set; meaning never hangs on it."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **how)


def show_error(error: SmetaError) -> None:
    """An error whole: code, message, place, detail, what became of the database, what to do next."""
    findings = error.findings if isinstance(error, InvalidInput) else ()
    for finding in findings:
        show_finding(finding, as_error=True)
    message = error.message.replace("\r", "").replace(
        "\n", "\n    "
    )  # a server's text forges no line of ours
    talk(style(f"error[{error.code}]", fg="red", bold=True) + f": {message}")
    if error.location:
        _show_place(error.location)
    for detail in error.detail:
        first, *rest = detail.splitlines() or [""]
        talk(f"  = {first}")
        for line in rest:
            talk(f"    {line}")
    if error.changed:
        talk(f"  = database: {error.changed}")
    if error.hint:
        talk(f"  = next: {error.hint}")


def show_finding(finding: Diagnostic, *, as_error: bool = False) -> None:
    """A finding with its place and the line itself."""
    label = "error" if as_error else str(finding.severity)
    colour = "red" if label in ("error", "critical", "high") else "yellow"
    talk(style(f"{label}[{finding.code}]", fg=colour, bold=True) + f": {finding.message}")
    if finding.location:
        _show_place(finding.location)
    if finding.hint:
        talk(f"  = next: {finding.hint}")


def _show_place(place: Location) -> None:
    talk(f"  --> {place}")
    if (
        place.source_line is not None
        and place.source_line.strip()
        and not _SENSITIVE.search(place.source_line)
    ):
        number = str(place.line)
        # Long lines are cut around the place, tabs keep their width by becoming one blank.
        start = max(0, place.column - 1 - 80)
        shown = place.source_line.replace("\t", " ")[start : start + 120]
        talk(f"{number:>5} | {shown}")
        talk(f"{'':>5} | {' ' * (place.column - 1 - start)}^")


def show_findings(findings: Iterable[Diagnostic]) -> None:
    """Several findings, to stderr."""
    for finding in findings:
        show_finding(finding)


def show_bug(error: BaseException, *, verbose: bool) -> None:
    """Our own mistake, without local variables (they may hold secrets)."""
    talk(f"error[bug]: {type(error).__name__}: {error}")
    if verbose:
        import traceback

        talk("".join(traceback.format_exception(error)))
    talk(
        "  = database: `smeta status --env NAME` tells where it stands; an unfinished transaction is rolled back"
    )
    talk("  = next: this is a bug of smeta: please report it with the output of the same command and -v")


def table(rows: Iterable[Iterable[str]], *, headings: Iterable[str]) -> str:
    """Columns aligned by their widest cell."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def is_terminal() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr.isatty()
