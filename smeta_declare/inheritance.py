"""How settings come together: what is built in, `defaults`, what is extended, the own block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smeta_declare.environment import Locks, Timeouts
from smeta_declare.references import chain
from smeta_declare.schemas import KeyPath, path_text

_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A value and the place it was written at; without a place, `origin` says what it is."""

    value: Any
    place: KeyPath | None = None
    origin: str = "built-in default"


def merged(data: Mapping[str, Any], name: str) -> dict[KeyPath, Leaf]:
    """Defaults, then what is extended, then the own block: mappings merge, lists replace, null unsets."""
    environments = data["environments"]
    layers: list[tuple[KeyPath, Any]] = [(("defaults",), data.get("defaults"))]
    layers += [(("environments", n), environments[n]) for n in chain(environments, name)]
    leaves: dict[KeyPath, Leaf] = {}
    for place, block in layers:
        for path, value in _flat(block or {}):
            if path == ("extends",):
                continue
            for other in [p for p in leaves if p[: len(path)] == path or path[: len(p)] == p]:
                del leaves[other]
            if value is not None:
                leaves[path] = Leaf(value=value, place=(*place, *path), origin=path_text(place))
    return leaves


def _flat(block: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _flat(value, (*above, key))
        else:
            yield (*above, key), value


def nested(leaves: Mapping[KeyPath, Leaf]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        holder = found
        for key in path[:-1]:
            holder = holder.setdefault(str(key), {})
        holder[str(path[-1])] = leaf.value
    return found


def duration_ms(text: str) -> int:
    """`15min` as milliseconds; the schema has checked the form."""
    number = re.match(r"\d+", text)
    assert number is not None  # noqa: S101 - the schema says so
    return int(number[0]) * _UNITS[text[number.end() :]]


def duration_text(milliseconds: int) -> str:
    """Milliseconds as people write them, in the largest unit that fits."""
    for unit in ("h", "min", "s"):
        if milliseconds and milliseconds % _UNITS[unit] == 0:
            return f"{milliseconds // _UNITS[unit]}{unit}"
    return f"{milliseconds}ms"


def built_in() -> dict[KeyPath, Any]:
    """What holds where nobody says anything."""
    timeouts, locks = Timeouts(), Locks()
    return {
        ("role",): None,
        ("protected",): False,
        ("require",): [],
        ("transaction",): "all",
        ("order",): "lenient",
        ("timeouts", "connect"): duration_text(timeouts.connect_ms),
        ("timeouts", "statement"): duration_text(timeouts.statement_ms),
        ("timeouts", "idle_in_transaction"): duration_text(timeouts.idle_in_transaction_ms),
        ("timeouts", "concurrent"): duration_text(timeouts.concurrent_ms),
        ("locks", "timeout"): duration_text(locks.timeout_ms),
        ("locks", "hold"): duration_text(locks.hold_ms),
        ("locks", "require_quiet"): None,
        ("locks", "terminate_blockers"): [],
        ("locks", "retries", "attempts"): locks.attempts,
        ("locks", "retries", "backoff"): duration_text(locks.backoff_ms),
        ("locks", "retries", "max_backoff"): duration_text(locks.max_backoff_ms),
        ("locks", "runner_wait"): duration_text(locks.runner_wait_ms),
        ("backup",): "none",
    }
