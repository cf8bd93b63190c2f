"""How many rows that exist now a plan takes away: counted up to a limit, in read-only transactions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from smeta_declare.errors import SmetaError
from smeta_declare.losses import MOST_COUNTED, Loss
from smeta_declare.postgres.connection import ServerError, Session


def counted(session: Session, losses: Sequence[Loss]) -> list[int | None]:
    """The rows that each loss takes away, at most `MOST_COUNTED` + 1; None where nobody can tell in time.

    Nobody can: row security hides some, a privilege is missing, somebody holds the table, two seconds were too short,
    what is named is a view, or names were moved before.
    """
    asked = [loss for loss in losses if loss.relation or loss.schema]
    tables = _tables(session, asked) if asked else ()
    found = dict(zip(map(id, asked), tables, strict=True))
    return [
        0 if loss.nothing else _rows(session, loss, found[id(loss)]) if id(loss) in found else None
        for loss in losses
    ]


def _tables(session: Session, losses: Sequence[Loss]) -> Sequence[Sequence[Sequence[str]] | None]:
    """Of each loss schema, name and kind of the relations that are there now; None where they cannot be looked up."""
    try:
        rows = session.ask(
            "loss_tables",
            None,
            relations=[loss.relation for loss in losses],
            schemas=[loss.schema for loss in losses],
            columns=[loss.column for loss in losses],
        )[1].rows
    except ServerError:  # a name such as one with a database before it
        with suppress(SmetaError):
            session.run("set search_path = pg_catalog")
        return [None] * len(losses)
    return [
        [relation for number, *relation in rows if number == place] for place in range(1, len(losses) + 1)
    ]


def _rows(session: Session, loss: Loss, relations: Sequence[Sequence[str]] | None) -> int | None:
    total: int = 0
    for schema, name, kind in relations or ():
        names = {"table": (schema, name), **({"column": loss.column} if loss.column else {})}
        try:
            if kind not in _TABLES:
                return None
            answers = session.ask(
                "count_values" if loss.column else "count_rows", names, limit=MOST_COUNTED + 1 - total
            )
        except ServerError:
            session.run("rollback")
            return None
        total += answers[-2].rows[0][0]
        if total > MOST_COUNTED:
            return total
    return None if relations is None or (total == 0 and loss.doubtful) else total


_TABLES = ("r", "p", "f")  # as pg_class has them: tables, partitioned ones, foreign ones
