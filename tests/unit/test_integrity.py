"""What became of the file of an applied migration: nothing, other words, or another meaning."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from smeta_declare.environment import MigrationEntry
from smeta_declare.inputs import Change
from smeta_declare.integrity import find_change
from smeta_declare.migration import MigrationFile
from smeta_declare.parser import parser_version
from smeta_declare.rendering import RenderedMigration, render_migration, section_meaning
from smeta_declare.run import AppliedMigration

SOURCE = """\
-- Migration: a
create table a (id int default 1);
-- ROLLBACK_START
drop table a;
-- ROLLBACK_END
-- VALIDATION_START
-- expect: rows = 1
select 1;
-- VALIDATION_END
"""


def migration(source: str) -> RenderedMigration:
    file = MigrationFile(version="1_a", path="migrations/1_a.sql", source=source)
    return render_migration(file, MigrationEntry(version="1_a"), {}, lambda _name: None)


def row(source: str = SOURCE, *, parser: str | None = None) -> AppliedMigration:
    was = migration(source)
    return AppliedMigration(
        version="1_a",
        name="a",
        description="",
        applied_at=datetime(2026, 1, 1, tzinfo=UTC),
        applied_by="u",
        execution_time_ms=1,
        checksum=was.file.checksum,
        meaning=was.forward.meaning,
        inputs=was.inputs,
        forward_sql=was.forward.text,
        rollback_sql=was.rollback.text if was.rollback else None,
        validation_sql=was.validation.text if was.validation else None,
        details_json=json.dumps(
            {
                "parser": parser or parser_version(),
                "validation_meaning": section_meaning(was.validation, was.validations),
            }
        ),
    )


def change(source: str, before: AppliedMigration | None = None) -> Change | None:
    now = migration(source)
    return find_change(before or row(), now.file, lambda: now)


def test_the_same_file_has_not_changed() -> None:
    assert change(SOURCE) is None


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("-- Migration: a", "-- Migration: a\n-- Description: more", "comments"),
        ("create table a", "CREATE  TABLE\n  a", "comments"),
        ("id int ", "id int4 ", "meaning"),
        ("default 1", "default 2", "meaning"),
        (";\n-- ROLLBACK_START", ";\ncreate table b ();\n-- ROLLBACK_START", "meaning"),
        ("drop table a", "drop table if exists a", "rollback"),
        ("drop table a", "drop  table a", "comments"),
        ("-- expect: rows = 1", "-- expect: rows >= 0", "validation"),
        ("select 1", "select 2", "validation"),
        ("-- expect: rows = 1", "-- words\n-- expect:  rows = 1", "comments"),
    ],
)
def test_a_change_is_known_by_what_it_means(old: str, new: str, kind: str) -> None:
    found = change(SOURCE.replace(old, new))

    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("parser", [None, "an older one"])
def test_a_directive_is_no_comment(parser: str | None) -> None:
    source = SOURCE.replace(
        "create table a (id int default 1);", "-- smeta: batch key=id size=10\ndelete from a;"
    ).replace("drop table a;", "-- smeta: batch key=id\ndelete from a;")
    before = row(source, parser=parser)

    same = change("-- a word\n" + source, before)
    forward = change(source.replace("size=10", "size=20"), before)
    back = change(source.replace("-- smeta: batch key=id\n", ""), before)

    assert [found.kind for found in (same, forward, back) if found] == ["comments", "meaning", "rollback"]


def test_a_section_that_is_gone_is_told() -> None:
    gone = SOURCE.split("-- ROLLBACK_START")[0]
    found = change(gone)
    assert found is not None
    assert found.kind == "rollback"


def test_another_meaning_shows_what_changed() -> None:
    found = change(SOURCE.replace("default 1", "default 2"))

    assert found is not None
    assert "-create table a (id int default 1);" in found.diff
    assert "+create table a (id int default 2);" in found.diff
    assert str(found) == "1_a was changed after it was applied"


def test_a_newer_parser_is_no_change_of_meaning() -> None:
    before = replace(row(parser="an older one"), meaning="a hash of other trees")

    commented = change(SOURCE.replace("-- Migration: a", "-- Migration: a\n-- words"), before)
    changed = change(SOURCE.replace("default 1", "default 2"), before)

    expecting = change(SOURCE.replace("rows = 1", "rows >= 0"), before)

    assert expecting is not None
    assert expecting.kind == "validation"
    assert commented is not None
    assert commented.kind == "comments"
    assert changed is not None
    assert changed.kind == "meaning"
