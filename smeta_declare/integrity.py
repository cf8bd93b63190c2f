"""What became of the files of applied migrations: the same, other words, or another meaning."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from smeta_declare.inputs import Change
from smeta_declare.migration import MigrationFile
from smeta_declare.parser import parser_version
from smeta_declare.rendered import Rendered
from smeta_declare.rendering import RenderedMigration, questions, section_meaning, section_of
from smeta_declare.run import AppliedMigration


def find_change(
    row: AppliedMigration,
    file: MigrationFile,
    rendered: Callable[[], RenderedMigration],
    *,
    kept_as: str = "applied",
) -> Change | None:
    """Compare a history row with its file by what both mean; `kept_as` names the row's text in a diff."""
    now = rendered()
    if row.inputs == now.inputs:
        return None
    if not _means_the_same(row, now):
        diff = difflib.unified_diff(
            row.forward_sql.splitlines(),
            now.forward.text.splitlines(),
            kept_as,
            file.path,
            lineterm="",
            n=1,
        )
        return Change(version=row.version, kind="meaning", diff=tuple(diff))
    if not _same(row.rollback_sql, now.rollback.text if now.rollback else None):
        return Change(version=row.version, kind="rollback")
    if not _asks_the_same(row, now):
        return Change(version=row.version, kind="validation")
    return Change(version=row.version, kind="comments")


def _means_the_same(row: AppliedMigration, now: RenderedMigration) -> bool:
    if row.forward_sql == now.forward.text:
        return True
    if row.details.get("parser") == parser_version():
        return row.meaning == now.forward.meaning
    # Parse trees change between parser versions: compare both texts with the parser of today.
    return _meaning(row.forward_sql) == now.forward.meaning


def _asks_the_same(row: AppliedMigration, now: RenderedMigration) -> bool:
    """Whether queries and expectations are the same; to a parser, an expectation is a comment."""
    if row.validation_sql is None or now.validation is None:
        return row.validation_sql is None and now.validation is None
    asked = section_meaning(now.validation, now.validations)
    if row.details.get("parser") == parser_version():
        return row.details.get("validation_meaning") == asked
    kept = section_of(Rendered.kept(row.validation_sql, name=f"validation of {row.version}"))
    return section_meaning(kept, questions(kept, row.version)) == asked


def _same(before: str | None, now: str | None) -> bool:
    if before is None or now is None or before == now:
        return (before or None) == (now or None)
    return _meaning(before) == _meaning(now)


def _meaning(kept: str) -> str:
    """The meaning of a section as the history keeps it: directives belong to it, other comments do not."""
    return section_of(Rendered.kept(kept, name="what was applied")).meaning
