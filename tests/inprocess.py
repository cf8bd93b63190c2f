"""The command line in this process: for words and exit codes, where a process of its own proves nothing more."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from unittest import mock

from jsonschema import Draft202012Validator

from smeta_declare.cli import main, views
from smeta_declare.errors import Exit
from smeta_declare.masking import Masker
from smeta_declare.schemas import load
from tests.workspace import Outcome

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def smeta_in(directory: Path, *arguments: str, environ: Mapping[str, str], stdin: str = "") -> Outcome:
    """Run a command in a directory under exactly this environ; what it changes of the process is put back."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    with (
        contextlib.chdir(directory),
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch("sys.stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main.run(arguments)
        finally:
            views.mask_with(Masker())
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return held(Outcome(int(code), out.getvalue(), err.getvalue()), directory, arguments)


def held(done: Outcome, directory: Path, arguments: Sequence[str]) -> Outcome:
    """What a command did in a directory, its plans held against their schema: on stdout, and in the file of `--out`."""
    _hold_against_schema(done.out)
    if done.code in (Exit.DONE, Exit.CHANGES) and (out := _named(arguments)) and (directory / out).is_file():
        _hold_against_schema((directory / out).read_text(encoding="utf-8"))
    return done


def _named(arguments: Sequence[str]) -> str | None:
    """The value of `--out`, written either way."""
    for place, word in enumerate(arguments):
        if word.startswith("--out="):
            return word.removeprefix("--out=")
        if word == "--out":
            return arguments[place + 1]
    return None


@cache
def _schemas() -> dict[str, Draft202012Validator]:
    """The schemas of plans, by the format that a document says it has."""
    found = {}
    for name in ("plan", "offline", "tenants"):
        schema = load(name)
        found[schema["properties"]["format"]["const"]] = Draft202012Validator(schema)
    return found


def _hold_against_schema(text: str) -> None:
    """Every plan and list of tenants that any test makes is what its schema says."""
    if not text.startswith("{"):
        return
    with contextlib.suppress(ValueError):
        document = json.loads(text)
        if (schema := _schemas().get(document.get("format"))) is not None:
            schema.validate(document)
