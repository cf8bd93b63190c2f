"""The way to what is declared, as a migration: text like a file's, forward and back, in an order that breaks nothing.

Everything is one transaction where that is wanted, or the tables are empty. Otherwise indexes are built concurrently,
rows filled in by batches and old rows looked through in steps of their own, which divides the rest; the last step
brings policies, rights and row security, FORCE last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from smeta_declare.tenancy.change import Change
from smeta_declare.tenancy.declaration import Tenancy
from smeta_declare.tenancy.difference import changes
from smeta_declare.tenancy.model import Catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What brings a database to what is declared. `version` tells by a digest what is done."""

    version: str
    changes: tuple[Change, ...]
    sql: str
    rollback_sql: str

    @property
    def words(self) -> tuple[str, ...]:
        """What follows from it, in a person's words."""
        return tuple(change.words for change in self.changes if change.words)

    @property
    def text(self) -> str:
        """As a migration file."""
        return (
            f"-- Migration: tenancy\n-- Version: {self.version}\n"
            f"-- Description: What `tenancy:` of the manifest declares\n\n{self.sql}"
            f"\n-- ROLLBACK_START\n{self.rollback_sql}-- ROLLBACK_END\n"
        )


def reconciliation(
    tenancy: Tenancy,
    catalogue: Catalogue,
    *,
    concurrently: bool = False,
    made: Catalogue | None = None,
    previous: str = "",
) -> Reconciliation | None:
    """What has to be done; None where everything is as declared.

    `concurrently`: tables with rows are used meanwhile. `made` is what the applied migrations make of an empty
    database (`fold.folded`): a foreign key that was dropped by hand is known from there. `previous` is the version of
    the reconciliation before: the same repair made again is another one.
    """
    if made:
        catalogue = replace(catalogue, made={relation.name: relation for relation in made.relations})
    found = changes(tenancy, catalogue, concurrently=concurrently)
    if not found:
        return None
    forward = "".join(_section((change.words, change.forward) for change in found))
    back = "".join(
        _section((change.words and f"back: {change.words}", change.back) for change in reversed(found))
    )
    digest = hashlib.sha256("\0".join((previous, forward, back)).encode()).hexdigest()
    return Reconciliation(
        version=f"tenancy@{digest[:12]}", changes=found, sql=forward, rollback_sql=f"{_lost(found)}{back}"
    )


def _section(parts: Iterable[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    for words, statements in parts:
        if not statements:
            continue
        if words:
            yield f"-- * {' '.join(words.split())}\n"  # the star: a table may be called smeta, as directives are
        for statement in statements:
            yield f"{statement};\n"


def _lost(found: Iterable[Change]) -> str:
    dropped = sorted({c.object for c in found if any(" drop column " in statement for statement in c.back)})
    if not dropped:
        return ""
    return f"-- irreversible: which row of {', '.join(dropped)} belonged to which tenant\n"


def wanted_sql(tenancy: Tenancy, made: Catalogue) -> str:
    """Everything that is wanted, from empty, as SQL to be reviewed: what the migrations alone do not make.

    `made` is what the migrations make of an empty database (`fold.folded`).
    """
    found = reconciliation(tenancy, made)
    return found.sql if found else ""
