"""Comments that say how the statement under them is run: what they mean, and that none is passed over."""

from __future__ import annotations

import pytest

from smeta_declare.directives import Alone, BatchOptions, CommitsInside, Directive, directives
from smeta_declare.errors import InvalidMigration
from smeta_declare.rendered import Rendered
from smeta_declare.rendering import questions, section_of
from smeta_declare.statement import parse


def found(text: str) -> list[Directive | None]:
    rendered = Rendered.kept(text, name="m.sql")
    placed = directives(rendered, parse(rendered).statements)
    return [above.directive if above else None for above in placed]


def test_a_directive_belongs_to_the_statement_under_it() -> None:
    text = "select 1;\n\n-- smeta: batch key=id\n-- a word more\nupdate t set a = 1;\nselect 2;"

    assert found(text) == [None, BatchOptions(key="id"), None]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            'batch key=id size=5000 pause=50ms max_lag=5s until "tenant_id is null"',
            BatchOptions(key="id", size=5000, pause_ms=50, max_lag_ms=5000, until="tenant_id is null"),
        ),
        ('batch key="Row ""Id""" until="a = \'b\'"', BatchOptions(key='Row "Id"', until="a = 'b'")),
        ("batch  size = 7   key=ID", BatchOptions(key="id", size=7)),
        ('batch key=id until "a"" is null"', BatchOptions(key="id", until='a" is null')),
        ("alone", Alone()),
        ("commits-inside resume=again", CommitsInside(resume="again")),
        ("commits-inside resume=done", CommitsInside(resume="done")),
    ],
)
def test_directive_says(said: str, meant: Directive) -> None:
    assert found(f"--smeta:{said}\nupdate t set a = 1;") == [meant]


@pytest.mark.parametrize(
    ("text", "message", "hint", "line"),
    [
        ("-- smeta: bacth key=id\nselect 1;", "no directive 'bacth'", "did you mean batch?", 1),
        ("-- smeta: batch kay=id\nselect 1;", "no option 'kay'", "did you mean key?", 1),
        ("select 1;\n-- smeta: batch\nselect 1;", "a batch needs a key", "key=COLUMN", 2),
        ("-- smeta: batch key=id size=0\nselect 1;", "size 0 is no number", "from 1 to", 1),
        ("-- smeta: batch key=id size=\nselect 1;", "cannot be read from here: size=", "name=value", 1),
        ("-- smeta: batch key=id pause=5\nselect 1;", "pause 5 is no duration", "50ms", 1),
        ("-- smeta: batch key=a,b\nselect 1;", "a key of several columns", "one column", 1),
        ("-- smeta: batch key=id key=x\nselect 1;", "key is given twice", "keep one", 1),
        ('-- smeta: batch key=id until "a\nselect 1;', "cannot be read from here", "name=value", 1),
        ("-- smeta batch key=id\nselect 1;", "a directive without its colon", "-- smeta: batch", 1),
        ("-- smeta: commits-inside\nselect 1;", "must say how to resume", "resume=again", 1),
        ("-- smeta: commits-inside resume=maybe\nselect 1;", "must say how to resume", "resume=done", 1),
        ("-- smeta:\nselect 1;", "an empty directive", "known: batch", 1),
        ("select 1;\n-- smeta: batch key=id\n", "no statement under it", "above its statement", 2),
        ("select 1; -- smeta: batch key=id\nselect 2;", "beside or inside", "line above", 1),
        ("select\n-- smeta: batch key=id\n1;", "beside or inside", "line above", 2),
        ("/* smeta: batch key=id */\nselect 1;", "beside or inside", "line above", 1),
        ("-- smeta: batch key=a\n-- smeta: batch key=b\nselect 1;", "two directives", "keep one", 2),
    ],
)
def test_no_directive_is_passed_over(text: str, message: str, hint: str, line: int) -> None:
    with pytest.raises(InvalidMigration, match=message) as refused:
        found(text)

    assert refused.value.hint is not None
    assert hint in refused.value.hint
    assert refused.value.location is not None
    assert refused.value.location.line == line


@pytest.mark.parametrize(
    "text", ["select '-- smeta: batch';", "-- smeta is a word\nselect 1;", "-- smeta's\nselect 1"]
)
def test_what_is_no_directive(text: str) -> None:
    assert found(text) == [None]


def test_what_cannot_be_batched_is_told_at_the_directive() -> None:
    with pytest.raises(InvalidMigration, match="cannot be run in batches: it has RETURNING") as refused:
        section_of(
            Rendered.kept("select 1;\n-- smeta: batch key=id\ndelete from t returning id;", name="m.sql")
        )

    assert refused.value.location is not None
    assert refused.value.location.line == 2


def test_commits_inside_runs_alone() -> None:
    section = section_of(Rendered.kept("-- smeta: commits-inside resume=again\ncall p();", name="m.sql"))

    (statement,) = section.statements
    assert statement.alone == "it makes transactions of its own"
    assert statement.resume == "again"


@pytest.mark.parametrize("statement", ["vacuum t", "create index concurrently i on t (a)", "select f()"])
def test_commits_inside_is_for_what_can_commit(statement: str) -> None:
    text = f"select 1;\n-- smeta: commits-inside resume=done\n{statement};"
    with pytest.raises(InvalidMigration, match="which makes no transactions of its own") as refused:
        section_of(Rendered.kept(text, name="m.sql"))

    assert refused.value.location is not None
    assert refused.value.location.line == 2


def test_a_validation_of_a_constraint_may_be_alone() -> None:
    text = "-- smeta: alone\nalter table t validate constraint c;"
    (statement,) = section_of(Rendered.kept(text, name="m.sql")).statements

    assert statement.alone == "it looks at every row, and holds no other lock meanwhile"
    assert (statement.resume, statement.directive) == ("again", "alone")


@pytest.mark.parametrize(
    "statement", ["alter table t validate constraint c, add column d int", "update t set a = a + 1"]
)
def test_what_cannot_run_twice_is_not_alone(statement: str) -> None:
    with pytest.raises(InvalidMigration, match="whether it may run twice"):
        section_of(Rendered.kept(f"-- smeta: alone\n{statement};", name="m.sql"))


def test_a_directive_is_part_of_the_meaning() -> None:
    def meaning(text: str) -> str:
        return section_of(Rendered.kept(text, name="m.sql")).meaning

    plain = meaning("delete from t;")
    assert meaning("-- a word\ndelete from t;") == plain
    batched = meaning("-- smeta: batch key=id\ndelete from t;")
    assert batched != plain
    assert batched == meaning("--smeta:batch size=5000 key=ID\ndelete from t")
    assert batched != meaning("-- smeta: batch key=other\ndelete from t;")


def test_a_validation_has_none() -> None:
    text = "-- smeta: commits-inside resume=done\ncall p();"
    with pytest.raises(InvalidMigration, match="a directive above a validation"):
        questions(section_of(Rendered.kept(text, name="m.sql")), "1")
