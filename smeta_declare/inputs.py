"""Whether a migration is still what was applied: what it is rendered from as one digest, and how it may differ.

Equal inputs need no rendering to be known as unchanged; `integrity` compares the others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from smeta_declare.migration import MigrationFile
from smeta_declare.rendered import Secret, Value

_LOADS = re.compile(r"{%[-+]?\s*(include|import|from|extends)\b")


def inputs_digest(
    file: MigrationFile, variables: Mapping[str, Value], included: Iterable[tuple[str, str]] = ()
) -> str:
    """SHA-256 of all that rendering reads. A file without template marks depends on itself alone."""
    templated = any(mark in file.source for mark in ("{{", "{%", "{#"))
    values = {k: _printable(v) for k, v in sorted(variables.items())} if templated else {}
    return hashlib.sha256(json.dumps([file.source, values, sorted(included)]).encode()).hexdigest()


def loads_templates(file: MigrationFile) -> bool:
    """Whether a file may include others, so that its own text does not say everything."""
    return bool(_LOADS.search(file.source))


def _printable(value: Value) -> object:
    match value:
        case Secret():
            return {"secret": value.name}
        case tuple():
            return [_printable(v) for v in value]
        case Mapping():
            return {key: _printable(v) for key, v in value.items()}
        case _:
            return value


ChangeKind = Literal["comments", "meaning", "rollback", "validation", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How the file of an applied migration differs from what was applied.

    `meaning` is an integrity error, and so is `unreadable`, a file that nothing can be said of. The others,
    `comments`, `rollback` and `validation`, are told and do no harm.
    """

    version: str
    kind: ChangeKind
    diff: tuple[str, ...] = ()  # of `meaning`; why the file cannot be used, of `unreadable`

    @property
    def harmful(self) -> bool:
        """Whether the file may say something else than what was applied."""
        return self.kind in ("meaning", "unreadable")

    def __str__(self) -> str:
        match self.kind:
            case "comments":
                return (
                    f"{self.version}: comments or layout changed since it was applied; the SQL means the same"
                )
            case "meaning":
                return f"{self.version} was changed after it was applied"
            case "rollback":
                return f"{self.version}: the rollback section changed; rollback uses the one kept in the database"
            case "validation":
                return f"{self.version}: the validation section changed since it was applied"
            case "unreadable":
                return f"{self.version} cannot be compared with what was applied: {'; '.join(self.diff)}"
