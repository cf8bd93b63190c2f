"""SQL text to statements: boundaries, what must run alone, what is refused, comments, meaning."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smeta_declare import parsetree
from smeta_declare.errors import InvalidMigration, SqlSyntaxError, TemplateError
from smeta_declare.parser import parser_version, tree
from smeta_declare.rendering import section_of
from smeta_declare.standalone import (
    AddsValue,
    BuildsIndex,
    CreatesGlobal,
    DetachesPartition,
    DropsGlobal,
    DropsIndex,
    Effect,
    Reindexes,
    as_dict,
    effect_of,
    from_dict,
)
from smeta_declare.statement import Statement, check_tokens, leading_comments, parse
from smeta_declare.template import Rendered, Secret, SecretSlot, Value, render


def plain(text: str) -> Rendered:
    return Rendered.kept(text, name="1_a.sql")


def statements(text: Rendered) -> tuple[Statement, ...]:
    return parse(text).statements


def meaning(text: str) -> str:
    return parse(plain(text)).meaning


def texts(text: str) -> list[str]:
    return [statement.text for statement in statements(plain(text))]


def objects_of(text: str) -> tuple[str, ...]:
    return parsetree.objects(*tree(text)[0])


def one(text: str) -> Statement:
    (statement,) = statements(plain(text))
    return statement


def refused(text: str) -> InvalidMigration:
    with pytest.raises(InvalidMigration) as caught:
        statements(plain(text))
    return caught.value


def from_template(source: str, variables: Mapping[str, Value]) -> Rendered:
    return render(source, name="1_a.sql", variables=variables, load=lambda name: None)


# Boundaries

BODY = "create function f() returns int language sql begin atomic select 1; select 2; end"
DOLLAR = "do $x$ begin perform 'a;b'; /* ; */ end; -- ';\n $x$"
QUOTES = """select 'it''s; -- no', E'\\'; ', "a;b", $$;$$, $a$ $b$ ; $a$, U&'\\0041;'"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ;; -- nothing; here\n/* nor; here */", []),
        ("select 1", ["select 1"]),
        ("select 1;", ["select 1"]),
        ("-- a; b\n/* c; /* d; */ */ select 1 -- e\n; -- f\n", ["select 1"]),
        ("select 1 -- the end", ["select 1"]),
        ("select /* in */ 1 /* out */", ["select /* in */ 1"]),
        (
            f"{BODY};\n{DOLLAR};{QUOTES};;select 'é𝄞';select 2",
            [BODY, DOLLAR, QUOTES, "select 'é𝄞'", "select 2"],
        ),
    ],
)
def test_statements_are_the_exact_slices(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_start_counts_characters_from_the_beginning_of_the_text() -> None:
    text = "select 'é𝄞';\n  -- x\n  select 2;\n"
    assert [statement.start for statement in statements(plain(text))] == [0, text.index("select 2")]


def test_an_expression_too_deep_for_python_is_still_a_statement() -> None:
    deep = "select " + " || ".join(["'}{'"] * 1500)
    found = statements(plain(f"create table a.b (c int);\n{deep};\ncreate index concurrently d on b (c)"))
    assert [statement.kind for statement in found] == ["CreateStmt", "SelectStmt", "IndexStmt"]
    assert found[1].text == deep
    assert (objects_of(found[0].text), found[2].alone is not None) == (("a.b",), True)


SQL = st.lists(
    st.sampled_from(
        [
            *(BODY, DOLLAR, QUOTES, "select 1", "insert into é values ('𝄞')", "create table a (b int)"),
            *("-- c;'\n", "/* ; ' */", "\n", " ", ";", ";"),
        ]
    ),
    max_size=15,
).map(
    lambda parts: "".join(part if part.strip() == "" or part[0] in "-/;" else f"{part}\n;" for part in parts)
)


@settings(max_examples=150, deadline=None)
@given(SQL)
def test_splitting_never_loses_a_token(text: str) -> None:
    from pglast.parser import scan

    def tokens(sql: str) -> list[tuple[str, str]]:
        return [
            (token.name, sql[token.start : token.end + 1])
            for token in scan(sql)
            if token.name not in ("SQL_COMMENT", "C_COMMENT", "ASCII_59")
        ]

    found = statements(plain(text))
    assert [token for statement in found for token in tokens(statement.text)] == tokens(text)
    assert all(text[statement.start : statement.end] == statement.text for statement in found)
    assert not any(statement.text.endswith(("\n", " ")) for statement in found)


# Statements in which others lie, and texts that look like the tree's own.
NESTED = (
    """select '}},"stmt_len":5},{"stmt":{"CheckPointStmt":{}}]}', '{"stmt":{"X":', e'"stmts":[]}'""",
    "create schema s create table a (b int) create view v as select 1",
    "create rule r as on insert to t do also (select 1; insert into u values (1))",
    *("explain insert into t values (1)", "prepare p as select 1", "checkpoint", "select"),
    *("create index concurrently i on é (a)", "alter table a detach partition b concurrently"),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from((*NESTED, BODY, DOLLAR, QUOTES)), max_size=5).map(" ;\n".join), st.booleans())
def test_every_statement_of_the_tree_is_found_and_read_as_it_is(text: str, ended: bool) -> None:  # noqa: FBT001
    text += ";" if ended and text else ""
    expected = [
        (kind, parsetree.alone(kind, node), effect_of(kind, node), parsetree.concurrently(kind, node))
        for kind, node in tree(text)
    ]
    found = statements(plain(text))
    assert [(s.kind, s.alone, s.effect, s.concurrently) for s in found] == expected


# What a statement is


@pytest.mark.parametrize(
    ("sql", "kind", "summary", "objects"),
    [
        (
            "CREATE TABLE Public.Tenants (id int)",
            "CreateStmt",
            "create table public.tenants",
            ("public.tenants",),
        ),
        (
            "create unique index concurrently materials_search on s.materials using gin (a)",
            "IndexStmt",
            "create unique index concurrently materials_search on s.materials",
            ("s.materials_search", "s.materials"),
        ),
        (
            "alter table x\n  add column y int -- why\n default 1",
            "AlterTableStmt",
            "alter table x add column y int default 1",
            ("x",),
        ),
        ("insert into phases values (1)", "InsertStmt", "insert into phases", ("phases",)),
        (
            "with d as (delete from a returning 1) insert into b select * from d",
            "InsertStmt",
            "insert into b",
            ("a", "b"),
        ),
        ('update only "A".b set c = 1', "UpdateStmt", 'update "A".b', ('"A".b',)),
        (
            "drop table if exists a.b, c cascade",
            "DropStmt",
            "drop table if exists a.b, c cascade",
            ("a.b", "c"),
        ),
        ("drop policy p on a.b", "DropStmt", "drop policy p on a.b", ("a.b",)),
        ("drop function a.f(int)", "DropStmt", "drop function a.f(int)", ("a.f",)),
        ("create view v as select 1", "ViewStmt", "create view v", ("v",)),
        ("create policy p on t using (true)", "CreatePolicyStmt", "create policy p on t", ("t",)),
        (BODY, "CreateFunctionStmt", "create function f", ("f",)),
        (DOLLAR, "DoStmt", "do block", ()),
        ("create role r login password 'x'", "CreateRoleStmt", "create role r login", ("r",)),
        ("grant select on a.t to x", "GrantStmt", "grant select on a.t to x", ("a.t",)),
        ("comment on column a.t.c is 'x'", "CommentStmt", "comment on column a.t.c", ("a.t",)),
        ("alter type a.e add value 'New'", "AlterEnumStmt", "alter type a.e add value 'New'", ("a.e",)),
        ("truncate a, b", "TruncateStmt", "truncate a, b", ("a", "b")),
        ("alter table a rename to b", "RenameStmt", "alter table a rename to b", ("a",)),
        ("select set_config('A.b', 'c', true)", "SelectStmt", "select set_config('A.b', 'c', true)", ()),
    ],
)
def test_statement_says_what_it_is(sql: str, kind: str, summary: str, objects: tuple[str, ...]) -> None:
    found = one(sql)
    assert (found.kind, found.summary, objects_of(found.text)) == (kind, summary, objects)


def test_a_long_summary_is_cut() -> None:
    summary = one("select " + "x, " * 100 + "y").summary
    assert 70 < len(summary) <= 80
    assert summary.endswith("…")


# Each was tried inside `begin` on PostgreSQL 18: refused with 25001, or not.
ALONE = """
create index concurrently i2 on t (a)
drop index concurrently a.i
reindex (concurrently, verbose) table t
reindex index concurrently i
reindex schema s
reindex database
reindex system
vacuum
vacuum (analyze) t
create database d
drop database d
create tablespace t location '/x'
drop tablespace t
alter system set work_mem = '1MB'
alter database d set tablespace t
alter table t detach partition p concurrently
create subscription s connection '' publication p
drop subscription s
alter subscription s refresh publication
alter subscription s add publication p
alter subscription s set (two_phase = true)
cluster
select create_distributed_table_concurrently('t', 'a')
"""
TOGETHER = """
create index on t (a)
drop index i
reindex (concurrently false) table t
reindex table t
analyze t
alter database d set work_mem = '1MB'
alter table t detach partition p
alter table t detach partition p finalize
create subscription s connection '' publication p with (create_slot = false)
create subscription s connection '' publication p with (connect = off)
alter subscription s set publication p with (refresh = false)
alter subscription s disable
cluster t using i
refresh materialized view concurrently m
alter type e add value 'x'
call p()
select 'create_distributed_table_concurrently(1)'
"""


@pytest.mark.parametrize("sql", ALONE.strip().splitlines())
def test_statement_must_run_alone(sql: str) -> None:
    reason = one(sql).alone
    assert reason is not None
    assert reason.endswith("cannot run inside a transaction block")


@pytest.mark.parametrize("sql", TOGETHER.strip().splitlines())
def test_statement_may_run_with_others(sql: str) -> None:
    assert one(sql).alone is None


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        ('create index concurrently if not exists "I" on a.t (b)', BuildsIndex(index='a."I"', table="a.t")),
        ("create index concurrently i on t (b)", BuildsIndex(index="i", table="t")),
        ("create index i on t (b)", None),
        ('drop index concurrently if exists a."B"', DropsIndex(index='a."B"')),
        ("drop index i", None),
        ("reindex index concurrently a.i", Reindexes(scope="index", name="a.i")),
        ("reindex (concurrently, verbose) table t", Reindexes(scope="table", name="t")),
        ("reindex schema concurrently s", Reindexes(scope="schema", name="s")),
        ("reindex database concurrently", Reindexes(scope="database", name=None)),
        ("reindex table t", None),
        ("alter table p detach partition s.c concurrently", DetachesPartition(table="p", partition="s.c")),
        ("alter table p detach partition c", None),
        ("alter type s.e add value if not exists 'x'", AddsValue(type="s.e", value="x")),
        ("alter type e rename value 'x' to 'y'", None),
        ("create database d", CreatesGlobal(kind="database", name="d")),
        ("drop database if exists d", DropsGlobal(kind="database", name="d")),
        ("drop tablespace t", DropsGlobal(kind="tablespace", name="t")),
        ("vacuum t", None),
    ],
)
def test_what_the_catalogue_shows_of_a_statement(sql: str, effect: Effect | None) -> None:
    found = one(sql).effect

    assert found == effect
    assert found is None or from_dict(as_dict(found)) == found


# Refusals

REFUSALS = {
    "transaction-control": [
        *(
            "begin",
            "start transaction read only",
            "COMMIT",
            "end",
            "rollback",
            "abort",
            "savepoint a",
            "release a",
        ),
        *("rollback to a", "prepare transaction 'x'", "commit prepared 'x'", "rollback prepared 'x'"),
    ],
    "copy-stdin": ["copy t from stdin", "copy t to stdout", "copy (select 1) to stdout (format csv)"],
    "drops-runner-lock": [
        *(
            "discard all",
            "select 1, pg_catalog.pg_advisory_unlock_all()",
            'select "pg_advisory_unlock_all" ()',
        ),
        "do $$ begin perform pg_advisory_unlock_all(); end $$",
    ],
    "quoting": [
        *("set standard_conforming_strings = off", "set local STANDARD_conforming_strings to 'off'"),
        *(
            "set standard_conforming_strings = 0",
            "select set_config('standard_conforming_strings', 'off', true)",
        ),
    ],
}


@pytest.mark.parametrize(("code", "sql"), [(code, sql) for code, many in REFUSALS.items() for sql in many])
def test_statement_is_refused_by_name(code: str, sql: str) -> None:
    error = refused(f"select 1;\n  {sql};\n")
    (finding,) = error.findings
    assert (finding.code, str(finding.location)) == (code, "1_a.sql:2:3")
    assert finding.hint
    assert str(error) == finding.message


@pytest.mark.parametrize(
    "sql",
    [
        "create function f() returns void language sql begin atomic select 1; end",
        "do $$ begin null; end $$",
        "select 'begin; commit; pg_advisory_unlock_all()'",
        "create table rollback (commit int)",
        "comment on table t is 'discard all'",
        "discard plans",
        "copy t from '/srv/t.csv'",
        "set standard_conforming_strings = on",
        "select pg_advisory_unlock(1)",
        r"select '\d', E'\\d', $$\d$$ -- \d",
    ],
)
def test_statement_that_only_looks_like_one_of_them_passes(sql: str) -> None:
    assert texts(sql)


def test_all_refusals_of_a_file_come_at_once() -> None:
    error = refused("begin;\nselect 1;\ncopy t from stdin;\ncommit;\n")
    assert [str(finding.location) for finding in error.findings] == [
        "1_a.sql:1:1",
        "1_a.sql:3:1",
        "1_a.sql:4:1",
    ]
    assert str(error) == "3 things in the file cannot be run"


@pytest.mark.parametrize(
    ("text", "code", "location", "message"),
    [
        ("select 1;\n\\i other.sql\n", "psql-command", "1_a.sql:2:1", r"\i is a command of psql, not SQL"),
        ("select 1 \\gx\n", "psql-command", "1_a.sql:1:10", r"\gx is a command of psql, not SQL"),
        (
            "select '\n';\n\\connect b\n",
            "psql-command",
            "1_a.sql:3:1",
            r"\connect is a command of psql, not SQL",
        ),
        ("a;\nselect 1\0;", "nul", "1_a.sql:2:9", "the file contains a NUL character"),
        (
            "select 1;\nCopy t (a)\n from STDIN;\n1\tit's\n\\.\n",
            "copy-stdin",
            "1_a.sql:2:1",
            "copy from stdin",
        ),
        ("copy t from stdin;\n1\tx\n\\.\n", "copy-stdin", "1_a.sql:1:1", "copy from stdin"),
    ],
)
def test_what_comes_from_psql_is_refused_by_name(text: str, code: str, location: str, message: str) -> None:
    error = refused(text)
    assert [finding.code for finding in error.findings] == [code]
    assert str(error.location) == location
    assert str(error).startswith(message)


@pytest.mark.parametrize(
    ("text", "location", "message"),
    [
        ("select 1;\nselect from where;", "1_a.sql:2:13", 'syntax error at or near "where"'),
        ("select 'é𝄞' 1;", "1_a.sql:1:13", 'syntax error at or near "1"'),
        ("create table t (a int\n-- x\n", "1_a.sql:2:5", "syntax error at end of input"),
        ("select 1;\nselect 'abc", "1_a.sql:2:8", 'unterminated quoted string at or near "\'abc"'),
    ],
)
def test_syntax_errors_are_postgresqls_own(text: str, location: str, message: str) -> None:
    with pytest.raises(SqlSyntaxError) as caught:
        statements(plain(text))
    assert (str(caught.value.location), str(caught.value)) == (location, message)


def test_a_syntax_error_in_a_value_points_at_its_place_in_the_template() -> None:
    with pytest.raises(SqlSyntaxError) as caught:
        statements(from_template("select\n  {{ sql|raw }};", {"sql": "1 +"}))
    assert str(caught.value.location) == "1_a.sql:2:16"
    with pytest.raises(SqlSyntaxError) as caught:
        statements(from_template("select\n  {{ sql|raw }};", {"sql": "1 1"}))
    assert str(caught.value.location) == "1_a.sql:2:3"
    assert "value" in (caught.value.hint or "")


# Values are tokens

EVIL: dict[str, Value] = {
    "v": "x' or 1=1; drop table t; --",
    "n": "a b",
    "w": "word",
    "i": 7,
    "neg": -7,
    "xs": ("a'b", 2),
}


@pytest.mark.parametrize(
    "source",
    [
        "select '{{ v|literal }}'",
        "select E{{ v|literal }}",
        "select U&{{ n|ident }}",
        "select {{ v|literal }}{{ v|literal }}",
        "select a{{ w|ident }}",
        "select {{ i|literal }}5",
        "select 1 -- {{ v|literal }}",
        "select $$ {{ v|literal }} $$",
        "select 1 /* {{ n|ident }} */",
        "select '{{ n|ident }}'",
        "select {{ w }}{{ w|ident }}",
        "select {{ v|literal }}\n{{ v|literal }}",
    ],
)
def test_a_value_that_is_not_one_token_is_refused(source: str) -> None:
    whole = from_template(f"select 1;\n{source};\n", EVIL)
    for check in (check_tokens, statements):
        with pytest.raises(InvalidMigration) as caught:
            check(whole)
        assert isinstance(caught.value, TemplateError | SqlSyntaxError)
        assert caught.value.location is not None
        assert caught.value.location.line == 2


def test_the_refusal_of_a_value_says_what_to_do() -> None:
    with pytest.raises(TemplateError) as caught:
        statements(from_template("select '{{ w|literal }}',\n  /* {{ w|literal }} */ 1", {"w": "é; --"}))
    assert [str(finding.location) for finding in caught.value.findings] == ["1_a.sql:1:9", "1_a.sql:2:6"]
    assert [(finding.hint or "").split(":")[0] for finding in caught.value.findings] == [
        "it runs into what stands beside it",
        "it stands in a comment, where only a bare {{ value }} can go",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "select {{ v|literal }}, {{ n|ident }}.{{ w|ident }}, ({{ xs|literal }})",
        "select 1 -{{ neg|literal }}",
        "create table t_{{ w }}_{{ i }} (a varchar({{ i }}))",
        "select '{{ w }}' -- {{ w }}",
        "select 1 where a in ({{ xs|literal }}) -- it's",
        "{{ 'select 1; select 2'|raw }}",
    ],
)
def test_values_that_are_tokens_pass(source: str) -> None:
    assert statements(from_template(source, EVIL))


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.text(min_size=1, max_size=15).filter(lambda name: "\0" not in name and name.isprintable()),
)
def test_a_value_is_always_one_constant_and_a_name_one_identifier(value: str, name: str) -> None:
    import json

    from pglast.parser import parse_sql_json

    whole = from_template("select {{ v|literal }} as {{ n|ident }}", {"v": value, "n": name})
    (found,) = statements(whole)
    (target,) = json.loads(parse_sql_json(found.text))["stmts"][0]["stmt"]["SelectStmt"]["targetList"]
    constant = target["ResTarget"]["val"]["A_Const"]["sval"]
    assert (constant.get("sval", ""), target["ResTarget"]["name"]) == (value, name)


def test_slots_count_from_the_statement() -> None:
    variables = {"pw": Secret("PW")}
    whole = from_template("select 'é';\ncreate role a password {{ pw|literal }};\nselect 1", variables)
    first, second, third = section_of(whole).statements
    assert (first.secrets, third.secrets) == ((), ())
    assert second.secrets == (SecretSlot(23, 36, "PW", "literal"),)
    assert second.text[23:36] == "'<secret PW>'"


# Comments


def test_comments_belong_to_the_statement_under_them() -> None:
    text = plain(
        "-- one\n--two\nselect 1 -- inside\n; -- beside\n/* no */\n"
        "-- three\n\nselect '\n-- no\n', $$\n-- no\n$$;\n-- after\n"
    )
    found = statements(text)
    leading, trailing = leading_comments(text, found)
    assert [[comment.text for comment in group] for group in leading] == [["one", "two"], ["three"]]
    assert [comment.text for comment in trailing] == ["after"]
    assert text.text[leading[1][0].start :].startswith("-- three")


def test_a_statement_without_comments_has_none() -> None:
    text = plain("select 1; select 2")
    assert leading_comments(text, statements(text)) == (((), ()), ())
    assert leading_comments(plain("-- only"), ())[1][0].text == "only"


# Meaning


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("select 1; -- x", "SELECT\n 1"),
        ("select $$a$$, E'a', 0x10, 1::int", "select 'a', 'a', 16, cast(1 as int)"),
        ("create table t (a int not null)", "create table T (\n\n a integer   not null -- why\n)"),
        ("delete from t where a != 1", "delete from t where a <> 1"),
    ],
)
def test_meaning_is_the_same(left: str, right: str) -> None:
    assert meaning(left) == meaning(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("alter table t alter a set default 1", "alter table t alter a set default 2"),
        ("grant select on t to a", "grant select on t to b"),
        ("create table t (a varchar(5))", "create table t (a varchar(6))"),
        ("do $$ begin null; end $$", "do $$ begin  null; end $$"),
        ("select 1; select 2", "select 2; select 1"),
        ("""select '"location":1'""", """select '"location":2'"""),
    ],
)
def test_meaning_differs(left: str, right: str) -> None:
    assert meaning(left) != meaning(right)


def test_meaning_of_what_is_no_sql_is_an_error() -> None:
    with pytest.raises(SqlSyntaxError):
        meaning("selekt")
    assert parser_version().startswith("postgresql ")


# Statements whose trees have places of every sort: first in a node, last, of lists, in texts that look like one.
PLACED = (
    *("select array[]::int[], row(), current_date, null, *, $1 from t", "select 1 from a, b as c"),
    """select a in (1, 2), a not in (3), '"location":1', ',"location":2,', '{"version":3' from t""",
    *("create table t (stmt_len int default -1, location text not null, check (version > 0))", "values (-1)"),
    *("merge into t using s on t.a = s.a when matched then delete", "alter table t set (list_end = 5)"),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from((*PLACED, BODY, DOLLAR, QUOTES)), max_size=4).map(";\n".join))
def test_meaning_is_the_tree_without_places_as_earlier_versions_stored_it(text: str) -> None:
    from pglast.parser import parse_sql_json

    places = re.compile(r',?"(?:[a-z_]*location|stmt_len|(?:rexpr_)?list_(?:start|end)|version)":-?\d+')
    tree = places.sub("", parse_sql_json(text))
    assert meaning(text) == hashlib.sha256(tree.encode()).hexdigest()


def test_a_concurrent_index_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidMigration, match="needs a name"):
        statements(Rendered.kept("create index concurrently on t (b);", name="f.sql"))
