"""A plan as a file: read with suspicion, and compared with what would be planned now."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from smeta_declare.errors import InvalidInput, Refused, SmetaError
from smeta_declare.fingerprint import differences
from smeta_declare.plan import FORMAT, Plan, canonical_digest, names_in
from smeta_declare.schemas import load, path_text, violations

Json: TypeAlias = Any
_LARGEST = 64 * 1024 * 1024  # bytes of a plan file
_DIFF_LINES = 12


class PlanUnreadable(InvalidInput):
    """The file is no plan of smeta, or one of another format."""

    code = "plan-unreadable"


class PlanUnwritten(SmetaError):
    """The file of the plan cannot be written."""

    code = "plan-unwritten"


class PlanTampered(Refused):
    """The file's content is not what its id says."""

    code = "plan-tampered"


class PlanForeign(Refused):
    """The plan was made for another environment, server or database."""

    code = "plan-foreign"


class PlanStale(Refused):
    """What would be planned now is not what was saved."""

    code = "plan-stale"


class PlanUsed(Refused):
    """The plan has been applied; each is good for once."""

    code = "plan-used"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPlan:
    """A plan file whose content is what its id says."""

    path: str
    document: Mapping[str, Json]

    @property
    def id(self) -> str:
        """SHA-256 of the decision."""
        return str(self.document["id"])

    @property
    def decision(self) -> Mapping[str, Json]:
        """What decides what runs."""
        found: Mapping[str, Json] = self.document["decision"]
        return found

    @property
    def environment(self) -> str:
        """The environment it was made for."""
        return str(self.decision["environment"])

    @property
    def forward(self) -> bool:
        """Whether it applies, or rolls back."""
        return bool(self.decision["direction"] == "forward")

    @property
    def count(self) -> int:
        """How many a rollback undoes, where it does not name the last one that stays."""
        words = str(self.decision["request"]).split()
        return int(words[1]) if words[0] == "rollback" and words[1] != "--to" else 1

    @property
    def to(self) -> str | None:
        """The version that was named with `--to`."""
        words = str(self.decision["request"]).split()
        return words[words.index("--to") + 1] if "--to" in words else None


def write(path: Path, plan: Plan) -> None:
    """Write a plan: the same plan gives the same bytes on any machine. Whole or not at all."""
    text = json.dumps(plan.document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        raise PlanUnwritten(f"{path} is there, and is no file", hint="name another file with --out")
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8", newline="\n")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise PlanUnwritten(
            f"cannot write {path}: {error.strerror}", hint="name another file with --out"
        ) from error


def read(path: Path) -> SavedPlan:
    """A plan file; PlanUnreadable or PlanTampered where it cannot be trusted."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise PlanUnreadable(f"cannot read {path}: {error.strerror}") from error
    hint = "make a new one with `smeta plan --env NAME --out FILE`"
    if len(content) > _LARGEST:
        raise PlanUnreadable(f"{path} is larger than any plan", hint=hint)
    try:
        document = json.loads(content, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        raise PlanUnreadable(f"{path} is no JSON document: {error}", hint=hint) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise PlanUnreadable(f"{path} has format {found!r}, this smeta reads {FORMAT}", hint=hint)
    if wrong := next(iter(violations(document, load("plan"))), None):
        raise PlanUnreadable(
            f"{path} is no plan: {path_text(wrong.path) or 'it'} breaks its schema", hint=hint
        )
    for part, name in (("decision", "id"), ("facts", "facts_id")):
        if canonical_digest(document[part]) != document[name]:
            raise PlanTampered(
                f"{path}: its {part} and its {name} do not belong together",
                hint="the file was edited or damaged; " + hint,
            )
    return SavedPlan(path=str(path), document=document)


def _unrepeated(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """One key twice reads one way here and another way elsewhere."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


# the comparison

_FOREIGN = ("project", "environment", "history", "target")
_SETTINGS = ("role", "transaction", "settings")
_TARGET = {
    "system_identifier": "the plan was made on another server",
    "database": "the plan was made for another database",
    "user": "the plan was made for another user of the database",
    "server_major": "the server has another major version",
    "history_id": "the history is not the one that the plan was made from",
}


def refuse_difference(saved: SavedPlan, now: Plan) -> None:
    """Refuse at the first difference between what was saved and what would be planned now, and name it."""
    was, is_now = saved.decision, now.decision
    _refuse_foreign(was, is_now)
    if was["base"] != is_now["base"]:
        raise _stale(
            f"the history is not the one that the plan was made from: {_base(was['base'], is_now['base'])}"
        )
    _refuse_settings(was, is_now)
    if was["migrations"] != is_now["migrations"]:
        raise _stale(_migrations(was["migrations"], is_now["migrations"]))
    if was["steps"] != is_now["steps"]:
        raise _steps_differ(was["steps"], is_now["steps"], now)
    if was["objects"] != is_now["objects"]:
        changed = differences(was["objects"] or {}, is_now["objects"] or {})
        raise _stale(f"the schema has changed since the plan was made: {changed[0]}", detail=changed[1:])
    if was["catalog"] != is_now["catalog"]:
        raise _stale(
            "the schema has changed since the plan was made, and the environment requires that none of it does"
        )
    if saved.id != now.id:  # nothing that this smeta knows differs, and yet it is another plan
        raise _stale("the plan would be another one now")


def refuse_other_rest(saved: SavedPlan, now: Plan) -> None:
    """Refuse to resume where what is left is not the end of what was saved."""
    was, is_now = saved.decision, now.decision
    _refuse_foreign(
        {**was, "target": {**was["target"], "history_id": is_now["target"]["history_id"]}}, is_now
    )
    try:
        _refuse_settings(was, is_now)
    except PlanStale as found:
        raise _unfinished(found, now) from None
    rest = [step for step in is_now["steps"] if step["kind"] != "backup"]
    end = was["steps"][len(was["steps"]) - len(rest) :] if rest else []
    if end != rest:
        raise _unfinished(_steps_differ(end, rest, now), now)


def names_done(saved: SavedPlan, now: Plan) -> frozenset[str]:
    """Everything that the steps of a saved plan name which are not left to do, or are half done themselves."""
    steps = saved.decision["steps"]
    first = len(steps) - sum(step["kind"] != "backup" for step in now.decision["steps"])
    if first < len(steps) and steps[first]["kind"] in ("autocommit", "backfill"):
        first += 1  # an index that is half built, batches that are done
    return frozenset(name for _, text in _texts(steps[:first]) for name in names_in(text))


def refuse_other_objects(saved: SavedPlan, now: Plan, done: Iterable[str]) -> None:
    """Refuse to resume where something is not what it was that the rest works on, and the finished steps did not.

    `done` are the objects that these touched. `now` is bound to its own.
    """
    ours = set(done)
    was, is_now = saved.decision["objects"] or {}, now.objects or {}
    # What a finished step has made, or what hangs on that, was not there.
    before, after = ({k: v for k, v in found.items() if k not in ours} for found in (was, is_now))
    if changed := differences({k: v for k, v in before.items() if k in after}, after):
        raise _unfinished(
            _stale(f"the schema has changed since the plan was made: {changed[0]}", detail=changed[1:]), now
        )


def _unfinished(found: PlanStale, now: Plan) -> PlanStale:
    """The plan is half done: a new one is not taken before that is ended."""
    found.hint = (
        "put it back and run the same command again; or end the run with "
        f"`smeta apply --env {now.environment} --abandon RUN_ID`, and make a new plan of what is left"
    )
    return found


def _stale(message: str, *, detail: Sequence[str] = ()) -> PlanStale:
    return PlanStale(
        message,
        detail=detail,
        hint="make a new plan, and let it be reviewed",
    )


def _refuse_foreign(was: Mapping[str, Json], now: Mapping[str, Json]) -> None:
    for key in _FOREIGN:
        if was[key] == now[key]:
            continue
        path, before, after = _first_difference(was[key], now[key], (key,))
        what = _TARGET.get(path[-1], f"{'.'.join(path)} is another one")
        raise PlanForeign(
            f"{what}: {before} in the plan, {after} here",
            hint=f"the plan is for environment {was['environment']} as it was then; make one for this database",
        )


def _refuse_settings(was: Mapping[str, Json], now: Mapping[str, Json]) -> None:
    for key in _SETTINGS:
        if was[key] != now[key]:
            path, before, after = _first_difference(was[key], now[key], (key,))
            name = ".".join(path).removeprefix("settings.")
            raise _stale(f"{name} was {_shown(before)} when the plan was made, and is {_shown(after)} now")


def _base(was: Mapping[str, Json], now: Mapping[str, Json]) -> str:
    def told(base: Mapping[str, Json]) -> str:
        return (
            f"{base['applied']} applied, the last one {base['last']}"
            if base["applied"]
            else "nothing applied"
        )

    if told(was) == told(now):
        return "a run was begun since, or something was rolled back and applied again"
    return f"then {told(was)}; now {told(now)}"


def _migrations(was: Sequence[Mapping[str, Json]], now: Sequence[Mapping[str, Json]]) -> str:
    before, after = ([m["version"] for m in found] for found in (was, now))
    if before == after:
        place = next(i for i, found in enumerate(was) if found != now[i])
        path, _, _ = _first_difference(was[place], now[place], ())
        return f"{before[place]} is not what the plan was made from: its {path[0].replace('_', ' ')} is another one"
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    said = [f"{', '.join(gone)} would not be run any more"] if gone else []
    said += [f"{', '.join(new)} would be run, too"] if new else []
    return "; ".join(said) or "the migrations would be run in another order"


def _steps_differ(was: Sequence[Json], now: Sequence[Json], plan: Plan) -> PlanStale:
    """Name the statement, and show how its text differs."""
    for before, after in zip(_texts(was), _texts(now), strict=False):
        if before[1] != after[1]:
            lines = list(
                difflib.unified_diff(
                    before[1].splitlines(), after[1].splitlines(), "plan", "now", lineterm="", n=1
                )
            )
            return _stale(
                f"a statement of {after[0]} has another text now", detail=lines[2 : 2 + _DIFF_LINES]
            )
    path, before, after = _first_difference(list(was), list(now), ("steps",))
    if path == ("steps",):
        return _stale(f"there would be {_shown(after)} steps now, {_shown(before)} in the plan")
    return _stale(f"{'.'.join(path)} was {_shown(before)} when the plan was made, and is {_shown(after)} now")


def _texts(steps: Sequence[Json]) -> Iterator[tuple[str, str]]:
    for step in steps:
        for work in step.get("works", ()):
            yield from ((work["version"], s["text"]) for s in work["statements"])
            yield from ((work["version"], q["statement"]["text"]) for q in work["validations"])
        yield from ((q["name"], q["statement"]["text"]) for q in step.get("checks", ()))


def _first_difference(was: Json, now: Json, path: tuple[str, ...]) -> tuple[tuple[str, ...], Json, Json]:
    """Where two values differ first, and the two there; of lists of other lengths, the lengths."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            if was.get(key) != now.get(key):
                return _first_difference(was.get(key), now.get(key), (*path, key))
    if isinstance(was, list) and isinstance(now, list):
        if len(was) != len(now):
            return path, len(was), len(now)
        for index, (before, after) in enumerate(zip(was, now, strict=True)):
            if before != after:
                return _first_difference(before, after, (*path, str(index + 1)))
    return path, was, now


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
