"""migration.log: every event of a run as one line of JSON, with the run's id and never a secret."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from smeta_declare.events import Event
from smeta_declare.masking import Masker


@dataclass(slots=True)
class MigrationLog:
    """Appends events to a file that only its owner may read; the first event makes it."""

    path: Path
    run: str
    masker: Masker
    _file: int | None = None

    def __call__(self, event: Event) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": self.run,
            **event.as_dict(),
        }
        text = self.masker(json.dumps(line, ensure_ascii=False)) + "\n"
        if self._file is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
        # One write in append mode: lines of two runners never mix. Closed with the process.
        os.write(self._file, text.encode())
