"""migration.log: every event of a run as one line of JSON, with the run's id and never a secret."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from smeta_declare.errors import Refused
from smeta_declare.events import Event, Progressed, StatementDone


class LogUnwritable(Refused):
    """The log cannot be written, and nothing is run that would not be in it."""

    code = "log-unwritable"


SLOW_MS = 100  # statements that took less have no line of their own; their migration's line has the sum


@dataclass(slots=True)
class MigrationLog:
    """Appends events to a file that only its owner may read; `open` or the first event makes it."""

    path: Path
    run: str
    masker: Callable[[str], str]
    _file: int | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progressed) or (
            isinstance(event, StatementDone) and event.duration_ms < SLOW_MS
        ):
            return
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": self.run,
            **event.as_dict(),
        }
        text = self.masker(json.dumps(line, ensure_ascii=False)) + "\n"
        # One write in append mode: lines of two runners never mix. Closed with the process.
        os.write(self._opened(), text.encode())

    def open(self) -> None:
        """Make sure that it can be written; LogUnwritable before anything has run."""
        try:
            self._opened()
        except OSError as error:
            raise LogUnwritable(
                f"the log {self.path} cannot be written: {error.strerror}",
                hint="name another file with --log-file",
            ) from error

    def _opened(self) -> int:
        if self._file is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
        return self._file
