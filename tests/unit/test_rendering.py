"""One migration for one environment: sections, expectations, and what its digests depend on."""

from __future__ import annotations

import pytest

from smeta_declare.environment import MigrationEntry
from smeta_declare.errors import InvalidMigration
from smeta_declare.migration import MigrationFile
from smeta_declare.rendered import Secret, Value
from smeta_declare.rendering import RenderedMigration, migration_findings, render_migration

BACK = "\n-- ROLLBACK_START\ndrop table a;\n-- ROLLBACK_END\n"


def render(source: str, files: dict[str, str] | None = None, **variables: Value) -> RenderedMigration:
    file = MigrationFile(version="1_a", path="migrations/1_a.sql", source=source)
    return render_migration(file, MigrationEntry(version="1_a"), variables, (files or {}).get)


def asking(section: str) -> RenderedMigration:
    return render(f"create table a ();\n-- VALIDATION_START\n{section}\n-- VALIDATION_END\n")


def test_sections_become_statements() -> None:
    migration = render("create table a (); -- one\ncreate table b ();" + BACK)

    assert [s.text for s in migration.forward.statements] == ["create table a ()", "create table b ()"]
    assert migration.rollback is not None
    assert migration.rollback.text == "drop table a;\n"
    assert str(migration.rollback.statements[0].location) == "migrations/1_a.sql:4:1"
    assert migration.validation is None


def test_a_rollback_section_without_a_statement_is_none() -> None:
    migration = render("select 1;\n-- ROLLBACK_START\n-- nothing yet\n-- ROLLBACK_END\n")

    assert migration.rollback is None
    (finding,) = migration_findings(migration)
    assert finding.message == "1_a has an empty rollback section: there will be no way back"


def test_a_rollback_section_may_say_that_there_is_nothing_to_undo() -> None:
    migration = render(
        "select 1;\n-- ROLLBACK_START\n-- a query only\n-- smeta: nothing-to-undo\n-- ROLLBACK_END\n"
    )

    assert migration.rollback is not None
    assert migration.rollback.statements == ()
    assert list(migration_findings(migration)) == []


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("-- smeta: nothing-to-undo\n", "outside of a rollback section", 1),
        ("-- smeta: nothing-to-undo\nselect 1;", "above a statement", 1),
        ("select 1;\n-- VALIDATION_START\n-- smeta: nothing-to-undo\n-- VALIDATION_END", "outside of", 3),
        (
            "select 1;\n-- ROLLBACK_START\ndrop table a;\n-- smeta: nothing-to-undo\n-- ROLLBACK_END",
            "no statement under it",
            4,
        ),
        (
            "select 1;\n-- ROLLBACK_START\n-- smeta: nothing-to-do\n-- ROLLBACK_END",
            "no statement under it",
            3,
        ),
    ],
)
def test_nothing_to_undo_stands_in_a_rollback_section_alone(source: str, message: str, line: int) -> None:
    with pytest.raises(InvalidMigration, match=message) as refused:
        render(source)

    assert refused.value.location is not None
    assert refused.value.location.line == line


def test_expectations_belong_to_the_query_below() -> None:
    migration = asking(
        "-- words\n-- expect: rows = 2\n-- more words\nselect 1;\nselect 2;\n-- expect: empty\nselect 3;"
    )

    assert [(q.name, str(q.expect)) for q in migration.validations] == [
        ("1_a validation 1", "rows = 2"),
        ("1_a validation 2", "true"),
        ("1_a validation 3", "rows = 0"),
    ]


@pytest.mark.parametrize(
    ("section", "message", "place"),
    [
        ("select 1;\n-- expect: empty", "an expectation with no query under it", "4:1"),
        ("-- expect: empty\n-- expect: rows = 1\nselect 1;", "two expectations for one query", "4:1"),
        ("select 1;\n-- expect: soon\nselect 2;", "`soon` is no expectation", "4:1"),
        ("delete from a;", "a validation must be a query, this is delete from a", "3:1"),
    ],
)
def test_a_validation_that_cannot_be_asked_is_refused(section: str, message: str, place: str) -> None:
    with pytest.raises(InvalidMigration) as caught:
        asking(section)
    assert caught.value.message.startswith(message)
    assert str(caught.value.location) == f"migrations/1_a.sql:{place}"


def test_comments_and_layout_change_the_checksum_and_not_the_meaning() -> None:
    one, other = render("create table a (id int);"), render("/* x */ CREATE TABLE a\n(id int4 ) ;")

    assert one.file.checksum != other.file.checksum
    assert one.forward.meaning == render("-- x\ncreate  table A (id int);").forward.meaning
    assert one.forward.meaning != render("create table a (id bigint);").forward.meaning


def test_constants_are_part_of_the_meaning() -> None:
    assert render("select 1;").forward.meaning != render("select 2;").forward.meaning


def test_a_plain_file_depends_on_itself_alone() -> None:
    assert render("select 1;", x=1).inputs == render("select 1;", x=2).inputs
    assert render("select {{ x }};", x=1).inputs != render("select {{ x }};", x=2).inputs


def test_an_include_is_part_of_the_inputs() -> None:
    source = '{% include "part.sql" %}'
    one, other = (render(source, {"part.sql": text}) for text in ("select 1;", "select 2;"))

    assert one.inputs != other.inputs


def test_a_secret_is_named_and_its_value_never_known() -> None:
    migration = render("create role r password {{ p|literal }};", p=Secret("TRIAL_PASSWORD"))

    assert "TRIAL_PASSWORD" in migration.text
    assert [slot.name for slot in migration.forward.statements[0].secrets] == ["TRIAL_PASSWORD"]
