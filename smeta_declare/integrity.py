"""What became of the files of applied migrations: the same, other words, or another meaning."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from smeta_declare.migration import MigrationFile
from smeta_declare.rendering import RenderedMigration, section_meaning
from smeta_declare.run import AppliedMigration
from smeta_declare.statement import meaning, parser_version

ChangeKind = Literal["comments", "meaning", "rollback", "validation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How the file of an applied migration differs from what was applied.

    `meaning` is an integrity error; `comments`, `rollback` and `validation` are told and do no harm.
    """

    version: str
    kind: ChangeKind
    diff: tuple[str, ...] = ()

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


def find_change(
    row: AppliedMigration,
    file: MigrationFile,
    rendered: Callable[[], RenderedMigration],
) -> Change | None:
    """Compare a history row with its file by what both mean."""
    now = rendered()
    if row.inputs == now.inputs:
        return None
    if not _means_the_same(row, now):
        diff = difflib.unified_diff(
            row.forward_sql.splitlines(),
            now.forward.text.splitlines(),
            "applied",
            file.path,
            lineterm="",
            n=1,
        )
        return Change(version=row.version, kind="meaning", diff=tuple(diff))
    if not _same(row.rollback_sql, now.rollback.text if now.rollback else None):
        return Change(version=row.version, kind="rollback")
    if row.details.get("validation_meaning") != section_meaning(
        now.validation, now.validations
    ) and not _same(row.validation_sql, now.validation.text if now.validation else None):
        return Change(version=row.version, kind="validation")
    return Change(version=row.version, kind="comments")


def _means_the_same(row: AppliedMigration, now: RenderedMigration) -> bool:
    if row.forward_sql == now.forward.text:
        return True
    if row.details.get("parser") == parser_version():
        return row.meaning == now.forward.meaning
    # Parse trees change between parser versions: compare both texts with the parser of today.
    return meaning(row.forward_sql) == now.forward.meaning


def _same(before: str | None, now: str | None) -> bool:
    if before is None or now is None or before == now:
        return (before or None) == (now or None)
    return meaning(before) == meaning(now)
