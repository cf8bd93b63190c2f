"""How many rows that exist now a plan takes away: counted up to a limit, in read-only transactions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from smeta_declare.effects import MOST_COUNTED, Loss
from smeta_declare.errors import SmetaError
from smeta_declare.postgres.connection import ServerError, Session


def counted(session: Session, losses: Sequence[Loss]) -> list[int | None]:
    """The rows that each loss takes away, at most `MOST_COUNTED` + 1; None where nobody can tell in time.

    Nobody can: row security hides some, a privilege is missing, somebody holds the table, two seconds were too short.
    """
    asked = [loss for loss in losses if loss.relation or loss.schema]
    tables: dict[int, list[tuple[str, str]]] | None = {}
    if asked:
        tables = _tables(session, asked)
    found: list[int | None] = []
    for loss in losses:
        if loss.nothing:
            found.append(0)
        elif loss in asked and tables is not None:
            found.append(_rows(session, loss, tables.get(asked.index(loss), [])))
        else:
            found.append(None)
    return found


def _tables(session: Session, losses: Sequence[Loss]) -> dict[int, list[tuple[str, str]]] | None:
    try:
        rows = session.ask(
            "loss_tables",
            None,
            relations=[loss.relation for loss in losses],
            schemas=[loss.schema for loss in losses],
            columns=[loss.column for loss in losses],
        )[1].rows
    except ServerError:  # a name that cannot be looked up, such as one with a database before it
        with suppress(SmetaError):
            session.run("set search_path = pg_catalog")
        return None
    found: dict[int, list[tuple[str, str]]] = {}
    for number, schema, table in rows:
        found.setdefault(number - 1, []).append((schema, table))
    return found


def _rows(session: Session, loss: Loss, tables: Sequence[tuple[str, str]]) -> int | None:
    total: int = 0
    for table in tables:
        try:
            if loss.column is None:
                answers = session.ask("count_rows", {"table": table}, limit=MOST_COUNTED + 1 - total)
            else:
                answers = session.ask(
                    "count_values", {"table": table, "column": loss.column}, limit=MOST_COUNTED + 1 - total
                )
        except ServerError:
            session.run("rollback")
            return None
        total += answers[-2].rows[0][0]
        if total > MOST_COUNTED:
            return total
    return total
