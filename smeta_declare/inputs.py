"""What a migration is rendered from, as one digest: equal inputs need no rendering to be known as unchanged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

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
        case _:
            return value
