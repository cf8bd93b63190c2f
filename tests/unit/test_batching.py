"""Statements cut into batches: what they become, what is refused and why, and that a bound changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.batching import Batch, NotBatchable, batch_of
from smeta_declare.directives import BatchOptions
from smeta_declare.parser import tree


def batch(text: str, *, key: str = "id", until: str | None = None) -> Batch:
    return batch_of(text, BatchOptions(key=key, until=until))


@pytest.mark.parametrize(
    ("text", "bounded"),
    [
        ("update t set a = 1", "update t set a = 1\nwhere t.id > '3' and t.id <= '8'"),
        (
            "update t set a = 1 where b or c -- why",
            "update t set a = 1 where ( b or c\n) and t.id > '3' and t.id <= '8'\n -- why",
        ),
        (
            'delete from only s."T" as x where y in (select y from u where z)',
            "delete from only s.\"T\" as x where ( y in (select y from u where z)\n) and x.id > '3' and x.id <= '8'",
        ),
        (
            "insert into d (a) select a from s where b on conflict (a) where q do update set c = 1 where d.e",
            "insert into d (a) select a from s where ( b\n) and s.id > '3' and s.id <= '8'\n"
            " on conflict (a) where q do update set c = 1 where d.e",
        ),
        ("insert into d select * from s", "insert into d select * from s\nwhere s.id > '3' and s.id <= '8'"),
    ],
)
def test_the_bounds_go_into_the_text(text: str, bounded: str) -> None:
    assert batch(text).within("'3'", "'8'") == bounded


def test_the_first_batch_has_no_lower_bound() -> None:
    assert batch("delete from t").within(None, "'8'") == "delete from t\nwhere t.id <= '8'"


def test_a_condition_that_is_given_goes_into_every_batch() -> None:
    found = batch("update t set a = b where c", until="a is null or d")

    assert found.within("'3'", "'8'") == (
        "update t set a = b where ( c\n) and (a is null or d\n) and t.id > '3' and t.id <= '8'"
    )
    assert found.next_bound("'3'", None, 10) == (
        "select pg_catalog.to_jsonb(batch.k) operator(pg_catalog.#>>) '{}' "
        "from (select t.id as k from t where (a is null or d\n) and t.id > '3' "
        "order by t.id limit 10) as batch order by batch.k desc limit 1"
    )
    assert found.left() == (
        "select pg_catalog.to_jsonb(t.id) operator(pg_catalog.#>>) '{}' "
        "from t where (a is null or d\n) order by t.id limit 1"
    )


def test_a_condition_of_several_parts_is_proven_without_another_one() -> None:
    assert "where (a is null and b\n) and t.id" in batch(
        "update t set a = 1", until="a is null and b"
    ).within(None, "'8'")


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("update t set a = 7 where a is null", "a is null"),
        ("update t set a = lower(b) where a is null and c", "a is null and c"),
        ("update t as x set a = 7 where x.a is null", "x.a is null"),
        ("update t set a = 'n' where a is distinct from 'n'", "a is distinct from 'n'"),
        ("update t set a = 'n' where a <> 'n'", "a <> 'n'"),
        ("update t set a = 'n' where a = 'o'", "a = 'o'"),
        ("update t set n = n + 1, done = true where not done", "not done"),
        # These are true of a row that was changed, too, as far as anybody can tell:
        ("update t set a = 7", None),
        ("update t set a = null where a is null", None),
        ("update t set a = default where a is null", None),
        ("update t set a[1] = 7 where a is null", None),
        ("update t set a = 7 where b is null", None),
        ("update t set a = 7 where a is null or c", None),
        ("update t set a = 7 where other.a is null", None),
        ("update t set a = random() where a <> random()", None),
        ("update t set a = null where a = 'o'", None),
        ("update t set a = 'o' where a = 'o'", None),
        ("delete from t where a is null", None),
    ],
)
def test_what_is_left_is_derived_where_the_statement_ends_it(text: str, until: str | None) -> None:
    found = batch(text)

    assert (found.until, found.derived) == (until, until is not None)


@pytest.mark.parametrize(
    ("text", "until", "reason"),
    [
        ("update t set a = u.a from u where u.id = t.id", None, "it has FROM"),
        ("delete from t using u where u.id = t.id", None, "it has USING"),
        ("with u as (select 1) delete from t", None, "it has WITH"),
        ("update t set a = 1 returning id", None, "it has RETURNING"),
        ("update t set id = id + 1", None, "it sets its key id"),
        ("update t set (a, id) = (1, 2)", None, "it sets its key id"),
        ("update t set a = (select max(a) from t)", None, "a sub-select reads t"),
        ("delete from t where id not in (select min(id) from s.t group by a)", None, "a sub-select reads t"),
        ("delete from t where current of c", None, "it follows a cursor"),
        ("delete from t where id = $1", None, "it has a parameter"),
        ("create table t (id int)", None, "no update, delete or insert"),
        ("merge into t using u on true when matched then delete", None, "no update, delete or insert"),
        ("insert into d values (1)", None, "it inserts values"),
        ("insert into d default values", None, "it inserts values"),
        ("insert into d select a from s, u", None, "exactly one table"),
        ("insert into d select a from s join u using (id)", None, "exactly one table"),
        ("insert into d select 1", None, "exactly one table"),
        ("insert into d select count(*) from s", None, r"count\(\) looks at many rows"),
        ("insert into d select sum(a) from s", None, r"sum\(\) looks at many rows"),
        ("insert into d select row_number() over () from s", None, r"row_number\(\) looks at many rows"),
        ("insert into d select distinct a from s", None, "its select has DISTINCT"),
        ("insert into d select a from s group by a", None, "its select has GROUP BY"),
        ("insert into d select a from s order by a", None, "its select has ORDER BY"),
        ("insert into d select a from s limit 5", None, "its select has LIMIT"),
        ("insert into d select a from s for update", None, "its select has LOCKING"),
        ("insert into d select a from s union all select 1", None, "its select has"),
        ("insert into d (select a from s)", None, "changes more than its rows"),
        ("update t set a = 1", "a is null) or (true", "a parenthesis too many"),
        ("update t set a = 1", "a is", "until cannot be read"),
        ("update t set a = 1", "true) limit (1", "parenthesis too many|no condition"),
        ("update t set a = 1", "a is null; drop table t", "until cannot be read"),
        ("update t set a = 1", "a = $1", "until has a parameter"),
        ("update t set a = 1", "b is null", "no column that the statement sets"),
        ("update t set a = a + 1", "a < 10", "it reads a, which it sets"),
        ("update t set a = t.*::text", "a is null", "it reads a, which it sets"),
    ],
)
def test_what_is_refused_and_why(text: str, until: str | None, reason: str) -> None:
    with pytest.raises(NotBatchable, match=reason) as refused:
        batch(text, until=until)

    assert refused.value.hint


def test_a_change_that_reads_itself_may_say_by_another_column_that_it_is_done() -> None:
    assert batch("update t set n = n + 1, seen = true", until="not seen").until == "not seen"


# the property: a bound changes nothing else

NAME = st.sampled_from(["t", "s.t", '"Where"', 'only s."a b"'])
ALIAS = st.sampled_from(["", " as x", ' "X y"', " as подряд"])
CONDITION = st.sampled_from(
    [
        "",
        "a",
        "a or b",
        "a and b",
        "not a",
        "(a) and (b or c)",
        "a in (select 1 from u where b)",
        "b = ' where id > 3 ' -- where",
        "/* where */ arr[1:2] = '{1}' or exists (select where true)",
        "'𝛑' <> e\n-- end",
        "case when a then b else c end",
    ]
)
SHAPE = st.sampled_from(
    [
        "update {name}{alias} set a = 1, b = (select 2 where true){where}",
        "delete from {name}{alias}{where}",
        "insert into d (a) select b, (select 3 where false) from {name}{alias}{where}",
        "insert into d select b from {name}{alias}{where} on conflict do nothing",
    ]
)
LITERAL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(
    lambda value: "'" + value.replace("'", "''") + "'"
)


def without_places(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            k: without_places(v)
            for k, v in node.items()
            if "location" not in k
            and k not in ("rexpr_list_start", "rexpr_list_end", "list_start", "list_end")
        }
    return [without_places(each) for each in node] if isinstance(node, list) else node


def condition_taken(text: str) -> tuple[Any, list[Any]]:
    """A statement's tree without its condition, and the parts of that condition."""
    ((_, tagged),) = tree(text)
    node = without_places(tagged)
    inner = node["selectStmt"]["SelectStmt"] if "selectStmt" in node else node
    where = inner.pop("whereClause", None)
    parts = (
        where["BoolExpr"]["args"]
        if where and where.get("BoolExpr", {}).get("boolop") == "AND_EXPR"
        else [where]
    )
    return node, [part for part in parts if part]


@given(SHAPE, NAME, ALIAS, CONDITION, LITERAL, LITERAL)
def test_a_bound_is_all_that_changes(
    shape: str, name: str, alias: str, condition: str, lower: str, upper: str
) -> None:
    # As a person writes it: a comment at the end of a condition ends with its line.
    where = f" where {condition}\n" if condition else ""
    text = shape.format(name=name, alias=alias, where=where).strip()

    bounded = batch(text).within(lower, upper)

    before, own = condition_taken(text)
    after, parts = condition_taken(bounded)
    assert after == before
    assert parts[:-2] == own
    values = [part["A_Expr"]["rexpr"]["A_Const"]["sval"].get("sval", "") for part in parts[-2:]]
    assert values == [bound[1:-1].replace("''", "'") for bound in (lower, upper)]
    assert [part["A_Expr"]["name"][0]["String"]["sval"] for part in parts[-2:]] == [">", "<="]
