"""What a statement outside transactions left when it was cut off: looked for in the catalogue, and taken away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from smeta_declare.parsetree import quoted
from smeta_declare.postgres.connection import Session
from smeta_declare.run import Started
from smeta_declare.standalone import (
    AddsValue,
    BuildsIndex,
    CreatesGlobal,
    DetachesPartition,
    DropsGlobal,
    DropsIndex,
    Effect,
    Reindexes,
    from_dict,
)


class Found(StrEnum):
    """What the catalogue says of a statement's effect."""

    NOTHING = "nothing"
    HALF = "half"
    DONE = "done"
    ELSEWHERE = "elsewhere"  # an index of that name, on another table


def look(session: Session, effect: Effect, before: Iterable[int] = ()) -> Found:
    """How far a statement has come; `before` are the leftovers (OIDs) that were there when it began.

    Names are resolved by the session's search_path, as the statement resolves them.
    """
    match effect:
        case BuildsIndex():
            rows = session.ask("index_state", None, name=effect.index, table=effect.table)[0].rows
            if not rows:
                return Found.NOTHING
            valid, wanted, *_ = rows[0]
            if wanted is False:
                return Found.ELSEWHERE
            return Found.DONE if valid else Found.HALF
        case DropsIndex():
            rows = session.ask("index_state", None, name=effect.index, table=None)[0].rows
            return Found.NOTHING if rows else Found.DONE
        case Reindexes():
            return Found.HALF if any(left.ours for left in _left(session, effect, before)) else Found.NOTHING
        case DetachesPartition():
            rows = session.ask("partition_state", None, table=effect.table, partition=effect.partition)[
                0
            ].rows
            if not rows:
                return Found.DONE
            return Found.HALF if rows[0][0] else Found.NOTHING
        case AddsValue():
            there = session.ask("enum_value", None, type=effect.type, value=effect.value)[0].rows
            return Found.DONE if there else Found.NOTHING
        case CreatesGlobal():
            return Found.DONE if _global_exists(session, effect) else Found.NOTHING
        case DropsGlobal():
            return Found.NOTHING if _global_exists(session, effect) else Found.DONE


def standing(session: Session, effect: Effect) -> list[int]:
    """The leftovers (OIDs) of somebody else that are there before a statement begins: not ours to take away."""
    return [left.oid for left in _left(session, effect, ())] if isinstance(effect, Reindexes) else []


def staying(session: Session, effect: Effect, before: Iterable[int] = ()) -> list[str]:
    """What is half done and stays, and who can take it away; the statement can be run again all the same.

    The index of a TOAST table cannot be dropped by the table's owner alone (measured: "permission denied for schema
    pg_toast"), and it costs writes of large values only.
    """
    if not isinstance(effect, Reindexes):
        return []
    return [
        f"invalid index {left} stays, because our role may not use schema {left.schema}; as a superuser: "
        f"drop index concurrently {left}"
        for left in _left(session, effect, before)
        if not left.ours
    ]


def clean(session: Session, effect: Effect, before: Iterable[int] = ()) -> Iterator[str]:
    """Take away, or finish, what is half done; tells each thing after it is done.

    Names come from the catalogue, as they are told apart there.
    """
    match effect:
        case BuildsIndex():
            for _, _, *index in session.ask("index_state", None, name=effect.index, table=effect.table)[
                0
            ].rows:
                session.send(session.compose("drop_index", {"index": index}))
                yield f"invalid index {effect.index} dropped"
        case Reindexes():
            for left in _left(session, effect, before):
                if left.ours:
                    session.send(session.compose("drop_index", {"index": (left.schema, left.name)}))
                    yield f"invalid index {left} dropped"
        case DetachesPartition():
            asked = session.ask("partition_state", None, table=effect.table, partition=effect.partition)
            for _, *names in asked[0].rows:
                session.send(session.compose("finish_detach", {"table": names[:2], "partition": names[2:]}))
                yield f"detaching of {effect.partition} finished"
        case _:
            return


def clean_up(session: Session, started: Started, *, under: str) -> Iterator[str]:
    """Take away what a statement left half done that will not run again; `under` are settings for statements alone."""
    if "effect" not in started.kept:
        return
    effect, before = from_dict(dict(started.kept["effect"])), started.kept.get("before", ())
    session.send("reset search_path;" + under)  # names are resolved as the statement did
    if look(session, effect, before) is Found.HALF:
        yield from clean(session, effect, before)
    yield from staying(session, effect, before)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """An index that a REINDEX CONCURRENTLY left."""

    oid: int
    schema: str
    name: str
    ours: bool  # whether our role may drop it

    def __str__(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def _left(session: Session, effect: Reindexes, before: Iterable[int]) -> list[_Left]:
    rows = session.ask("reindex_leftovers", None, scope=effect.scope, name=effect.name)[0].rows
    known = set(before)
    found = (_Left(oid=oid, schema=schema, name=name, ours=ours) for oid, schema, name, ours in rows)
    return [left for left in found if left.oid not in known]


def _global_exists(session: Session, effect: CreatesGlobal | DropsGlobal) -> bool:
    return bool(session.ask("global_exists", None, kind=effect.kind, name=effect.name)[0].rows)
