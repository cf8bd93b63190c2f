"""The diagram of a plan: which tables it shows, and that no name breaks Mermaid."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.cli.plan_markdown import plan_markdown
from smeta_declare.diagram import MOST_TABLES, escaped, mermaid
from smeta_declare.parser import tree


def drawn(sql: str) -> list[str]:
    return (mermaid(tree(sql)) or "").splitlines()


def test_tables_and_their_foreign_keys_are_drawn() -> None:
    assert drawn("""
        create table public.a (id int primary key, parent int references a);
        create table b (x int, y int, foreign key (x, y) references other.o);
        alter table old add column a_id int references a (id);
        alter table old add constraint k foreign key (b_id) references b;
        create index on b (x);
    """) == [
        "erDiagram",
        '  t1["a (new)"]',
        '  t2["b (new)"]',
        '  t3["old (changed)"]',
        '  t4["other.o"]',
        '  t1 }o--|| t1 : "parent"',
        '  t2 }o--|| t4 : "x, y"',
        '  t3 }o--|| t1 : "a_id"',
        '  t3 }o--|| t2 : "b_id"',
    ]


def test_what_is_renamed_has_its_new_name_and_what_is_dropped_is_not_there() -> None:
    sql = """
        create table a (id int primary key);
        create table b (a_id int references a, c_id int references c);
        alter table b rename to d;
        drop table public.a;
    """
    assert drawn(sql) == ["erDiagram", '  t1["d (new)"]', '  t2["c"]', '  t1 }o--|| t2 : "c_id"']


def test_a_partition_stands_for_its_parent() -> None:
    assert drawn("create table p_1 partition of p default") == ["erDiagram", '  t1["p (changed)"]']


def test_nothing_is_drawn_where_no_table_is_touched() -> None:
    assert mermaid(tree("create index on a (b); insert into a values (1); drop table a")) is None


def test_a_large_diagram_says_what_is_left_out() -> None:
    lines = drawn(";".join(f"create table t_{n} (id int references t_0)" for n in range(MOST_TABLES + 3)))

    assert len([line for line in lines if "(new)" in line]) == MOST_TABLES
    assert '  more["… and 3 more"]' in lines
    assert f"t{MOST_TABLES + 1} " not in "\n".join(lines)


@given(
    st.text(
        alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=30
    )
)
def test_no_name_ends_its_quotes_or_its_line(name: str) -> None:
    """What Mermaid's lexer takes as one quoted word: /"[^"%\\r\\n\\v\\b\\\\]*"/, and no HTML or directive in it."""
    text = escaped(name)

    assert not re.search(r'["%\\`<>{}\[\]&\x00-\x1f\u2028\u2029]', text)
    decoded = re.sub(r"#(\d+);", lambda code: chr(int(code[1])), text)
    assert decoded == name


def document(sql: str) -> dict[str, Any]:
    """What the Markdown view reads of a plan with one statement."""
    work = {
        "version": "1_a",
        "direction": "forward",
        "position": 0,
        "steps": 1,
        "forgets": False,
        "records": True,
        "statements": [{"text": sql, "kind": tree(sql)[0][0]}],
        "validations": [],
    }
    migration = {
        "version": "1_a",
        "direction": "forward",
        "out_of_order": False,
        "reversible": True,
        "resumes_at": 0,
        "steps": 1,
    }
    return {
        "id": "0" * 64,
        "decision": {
            "environment": "test",
            "project": "trial",
            "role": None,
            "direction": "forward",
            "continues": False,
            "target": {"database": "d", "server_major": 18, "user": "u"},
            "migrations": [migration],
            "steps": [{"kind": "transaction", "id": "1", "works": [work], "checks": []}],
        },
        "facts": {"address": "h:1", "findings": [], "losses": [], "places": [["1_a.sql", 1, 1]]},
    }


def test_statements_are_cut_before_a_small_diagram_and_a_large_one_is_left_out() -> None:
    statement = "create table a (id int primary key, of int references b, " + "c int, " * 2_000 + "d int)"
    whole = plan_markdown(document(statement))
    diagram = "".join(whole.partition("<details>")[1:]).partition("<details><summary>Every")[0]

    cut = plan_markdown(document(statement), longest=len(diagram) * 11)
    small = plan_markdown(document(statement), longest=len(diagram) * 9)

    assert ("mermaid" in cut, "cut here" in cut) == (True, True)
    assert ("mermaid" in small, "cut here" in small) == (False, True)


@pytest.mark.parametrize("longest", [900, 600, 300])
def test_a_comment_is_never_longer_than_it_may_be(longest: int) -> None:
    statement = "create table a (" + ", ".join(f"column_{n} int" for n in range(200)) + ")"

    assert len(plan_markdown(document(statement), longest=longest)) <= longest
