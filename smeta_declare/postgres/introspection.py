"""Asks the database what its relations look like to tenants: one query, one round trip, no table read."""

from __future__ import annotations

import json

from smeta_declare.environment import HistoryPlace
from smeta_declare.postgres.connection import Session
from smeta_declare.tenancy.declaration import Tenancy
from smeta_declare.tenancy.model import Catalogue, catalogue_of


def tenancy_catalogue(session: Session, tenancy: Tenancy, history: HistoryPlace) -> Catalogue:
    """What is there now; smeta's own tables are left out."""
    *_, answer, _, _ = session.ask(
        "tenancy",
        None,
        journal=history.journal_schema,
        table=session.compose("name", {"name": (history.table_schema, history.table)}),
        schema=tenancy.functions.schema,
        functions=[tenancy.functions.set, tenancy.functions.current],
    )
    return catalogue_of(json.loads(answer.rows[0][0]))
