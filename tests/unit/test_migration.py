"""Migration files as written: header and sections, literals in, equality out."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smeta_declare import migration
from smeta_declare.diagnostics import Location
from smeta_declare.errors import InvalidMigration
from smeta_declare.migration import Header, MigrationFile, Sections, checksum, cut_sections


def file(source: str, version: str = "20250901090000_add_users") -> MigrationFile:
    return MigrationFile(version=version, path=f"migrations/{version}.sql", source=source)


def cut(text: str) -> Sections:
    return cut_sections(text, locate=lambda offset: Location.of("m.sql", text, offset))


def parts(text: str) -> tuple[str, str | None, str | None]:
    found = cut(text)

    def part(bounds: tuple[int, int] | None) -> str | None:
        return None if bounds is None else text[slice(*bounds)]

    return text[slice(*found.forward)], part(found.rollback), part(found.validation)


def refusal(text: str) -> tuple[str, str]:
    with pytest.raises(InvalidMigration) as caught:
        cut(text)
    return caught.value.message, str(caught.value.location)


def test_the_header_is_read() -> None:
    source = (
        "-- Migration: add users\n-- Version: 20250901090000_add_users\n-- Description:  Люди \nselect 1;"
    )
    assert Header.read(file(source)) == Header(name="add users", description="Люди")


def test_the_words_of_the_header_may_be_in_any_case_and_order() -> None:
    assert Header.read(file("\n-- description: d\n--MIGRATION:n\n")) == Header(name="n", description="d")


def test_without_a_header_the_name_is_the_files() -> None:
    assert Header.read(file("select 1;")) == Header(name="add_users", description="")


def test_only_the_comments_at_the_top_are_a_header() -> None:
    assert Header.read(file("select 1;\n-- Version: 1_other\n-- Migration: x\n")).name == "add_users"


def test_a_header_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidMigration, match="the header says version 1_b, the file is 1_a") as caught:
        Header.read(file("-- Migration: a\n-- Version: 1_b\n", "1_a"))
    assert str(caught.value.location) == "migrations/1_a.sql:2:13"


def test_a_file_without_markers_is_all_forward() -> None:
    assert parts("create table a ();") == ("create table a ();", None, None)


def test_sections_are_cut_at_their_markers() -> None:
    text = "a;\n-- ROLLBACK_START\nb;\n-- ROLLBACK_END\n\n-- VALIDATION_START\nc;\n-- VALIDATION_END\n"
    assert parts(text) == ("a;\n", "\nb;\n", "\nc;\n")


@pytest.mark.parametrize(
    "text",
    [
        "a;\n--VALIDATION_START\nc;\n\t--  validation_end \n -- Rollback_Start\t\nb;\n--ROLLBACK_END",
        "a;\n-- VALIDATION_START\nc;\n-- VALIDATION_END\n/* words */ -- more\n-- ROLLBACK_START\nb;\n-- ROLLBACK_END\n",
    ],
)
def test_order_spacing_and_case_of_markers_do_not_matter(text: str) -> None:
    forward, back, validation = parts(text)
    assert (forward.strip(), (back or "").strip(), (validation or "").strip()) == ("a;", "b;", "c;")


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("a;\n-- ROLLBACK_START\nb;", "ROLLBACK_START is never closed", "m.sql:2:4"),
        ("a;\n-- ROLLBACK_END\n", "ROLLBACK_END without ROLLBACK_START", "m.sql:2:4"),
        (
            "-- ROLLBACK_START\n-- ROLLBACK_END\n-- ROLLBACK_START\n-- ROLLBACK_END\n",
            "a second ROLLBACK_START",
            "m.sql:3:4",
        ),
        (
            "-- ROLLBACK_START\n-- VALIDATION_START\n",
            "VALIDATION_START inside of ROLLBACK_START",
            "m.sql:2:4",
        ),
        ("-- ROLLBACK_START\n-- VALIDATION_END\n", "VALIDATION_END without VALIDATION_START", "m.sql:2:4"),
        (
            "-- ROLLBACK_START\n-- ROLLBACK_END\n\n  drop table a;",
            "SQL after the first section would belong to none",
            "m.sql:4:3",
        ),
    ],
)
def test_markers_that_do_not_fit_together_are_refused(text: str, message: str, place: str) -> None:
    assert refusal(text) == (message, place)


@pytest.mark.parametrize(
    "line",
    [
        "-- ROLLBACK START",
        "-- ROLLBACK-START",
        "-- rollback_begin",
        "-- VALIDATION_STOP",
        "--- ROLLBACK_START ---",
        "-- ROLLBACK_START:",
        "-- ROLLBACK_START in reverse order",
        "/* ROLLBACK_START */",
        "-- ROLBACK_START",
        "-- ROLLBACK_STRAT",
        "-- VALIDATE_START",
        "-- VALIDATION_STARTS",
    ],
)
def test_what_is_nearly_a_marker_is_refused(line: str) -> None:
    # Both markers misspelled alike: what should undo the migration would run as a part of it.
    message, place = refusal(f"create table a ();\n{line}\ndrop table a;\n{line.replace('START', 'END')}\n")
    assert message == f"`{line}` is nearly a section marker, and would be ignored"
    assert place.startswith("m.sql:2:")


@pytest.mark.parametrize(
    "line",
    [
        "-- the rollback starts here",
        "-- rollback state",
        "-- rollback_sql",
        "-- validation_query",
        "rollback_start timestamptz,",
        "-- see ROLLBACK_START",
        "-- start",
        "select 'ROLLBACK_START';",
    ],
)
def test_words_of_a_person_are_no_markers(line: str) -> None:
    assert parts(f"a;\n{line}\nb;\n") == (f"a;\n{line}\nb;\n", None, None)


def test_a_value_of_a_template_is_never_a_marker() -> None:
    text = "a;\n-- ROLLBACK_START\nb;\n"
    found = cut_sections(text, locate=lambda _: Location(file="m", line=1), genuine=lambda _: False)
    assert found == Sections(forward=(0, len(text)), rollback=None, validation=None)


# Text in which no line can be a marker, or nearly one.
_SQL = st.text(alphabet="abc;' \n\t", max_size=40)


@given(
    forward=_SQL,
    sections=st.permutations(["ROLLBACK", "VALIDATION"]).flatmap(
        lambda names: st.tuples(*(st.tuples(st.just(name), _SQL) for name in names))
    ),
    blanks=st.text(alphabet=" \n", max_size=5),
)
def test_cutting_sections_loses_nothing(
    forward: str, sections: tuple[tuple[str, str], ...], blanks: str
) -> None:
    text = forward + "\n"
    for name, body in sections:
        text += f"-- {name}_START\n{body}\n-- {name}_END\n{blanks}\n"

    found = parts(text)

    bodies = {name: f"\n{body}\n" for name, body in sections}
    assert found == (forward + "\n", bodies["ROLLBACK"], bodies["VALIDATION"])


@given(st.text(max_size=200))
def test_any_text_is_cut_or_refused_as_a_migration(text: str) -> None:
    try:
        found = cut(text)
    except InvalidMigration:
        return
    assert found.forward[0] == 0
    if found.rollback is None and found.validation is None:
        assert found.forward == (0, len(text))


_LINE = st.tuples(
    st.sampled_from(["", " ", "\t", "\r"]),
    st.sampled_from(["", "-", "--", "---", "/*", "x --"]),
    st.sampled_from(["", " ", "\t "]),
    st.sampled_from(["", "ROLLBACK", "rollback", "VALIDATION", "Validation", "ROLBACK", "values (", "é"]),
    st.sampled_from(["", "_START", "_end", " BEGIN", "_STRAT", "-stop", ":"]),
    st.sampled_from(["", " ", " */", " in order", ";"]),
).map("".join)


def _outcome(text: str) -> object:
    try:
        return cut(text)
    except InvalidMigration as error:
        return str(error), str(error.location)


@settings(max_examples=500)
@given(st.lists(_LINE, max_size=5).map("\n".join))
def test_a_line_that_is_not_looked_at_never_holds_a_marker(text: str) -> None:
    found = _outcome(text)
    with patch.object(migration, "_MAYBE", re.compile("\n")):
        assert _outcome(text) == found  # every line looked at


def test_a_checksum_is_sha_256_of_utf_8() -> None:
    assert (
        checksum("")
        == file("").checksum
        == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
