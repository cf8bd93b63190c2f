"""The command line in this process: for words and exit codes, where a process of its own proves nothing more."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from smeta_declare.cli import main, views
from smeta_declare.masking import Masker
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
    return Outcome(int(code), out.getvalue(), err.getvalue())
