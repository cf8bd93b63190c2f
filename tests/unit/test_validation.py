"""What a query must answer: every expectation, read and judged."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.validation import Expectation, as_text

ROW = [(1,)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", Expectation()),
        (" true ", Expectation()),
        ("empty", Expectation(kind="rows", comparison="=", number=0)),
        ("rows = 3", Expectation(kind="rows", comparison="=", number=3)),
        ("rows>=1", Expectation(kind="rows", comparison=">=", number=1)),
        ("rows != 2", Expectation(kind="rows", comparison="<>", number=2)),
        ("value = 0", Expectation(kind="value", value="0")),
        ("value = 'да'", Expectation(kind="value", value="да")),
        ("value = RANGE (created_at)", Expectation(kind="value", value="RANGE (created_at)")),
    ],
)
def test_an_expectation_is_read(text: str, expected: Expectation) -> None:
    assert Expectation.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "rows", "rows = many", "rows about 3", "false", "value", "rows = -1", "None"]
)
def test_what_is_no_expectation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no expectation; write `rows = 3`"):
        Expectation.parse(text)


@pytest.mark.parametrize(
    ("expect", "rows", "failure"),
    [
        ("rows = 1", ROW, None),
        ("rows = 2", ROW, "expected rows = 2, got 1 row"),
        ("rows >= 1", [], "expected rows >= 1, got 0 rows"),
        ("rows > 0", ROW, None),
        ("rows <= 1", ROW * 2, "expected rows <= 1, got 2 rows"),
        ("rows < 1", [], None),
        ("rows <> 1", ROW, "expected rows <> 1, got 1 row"),
        ("empty", [], None),
        ("empty", ROW, "expected rows = 0, got 1 row"),
        ("true", ROW, None),
        ("true", [], "expected at least one row, got none"),
        ("true", [(True,)], None),
        ("true", [(True,), (False,)], "column c is false"),
        ("true", [(None,)], "column c is null"),
        ("true", [(0,)], None),
        ("value = 1", ROW, None),
        ("value = 1", [(Decimal("1.00"),)], "expected 1, got 1.00"),
        ("value = true", [(True,)], None),
        ("value = null", [(None,)], None),
        ("value = 2025-09-01", [(date(2025, 9, 1),)], None),
        ("value = 1", [], "expected one row with one column, got 0 × 1"),
        ("value = 1", ROW * 2, "expected one row with one column, got 2 × 1"),
    ],
)
def test_an_answer_is_judged(expect: str, rows: list[tuple[object, ...]], failure: str | None) -> None:
    assert Expectation.parse(expect).failure(["c"], rows) == failure


def test_any_boolean_column_counts_and_is_named() -> None:
    assert Expectation().failure(["name", "valid"], [("a", True), ("b", False)]) == "column valid is false"
    assert Expectation.parse("value = 1").failure(["a", "b"], [(1, 1)]) == (
        "expected one row with one column, got 1 × 2"
    )


@given(
    st.one_of(
        st.just(Expectation()),
        st.builds(
            Expectation,
            kind=st.just("rows"),
            comparison=st.sampled_from(["=", ">=", "<=", ">", "<", "<>"]),
            number=st.integers(min_value=0, max_value=10**6),
        ),
        st.builds(
            Expectation,
            kind=st.just("value"),
            value=st.text(alphabet="abж09.,- ()", min_size=1, max_size=20).filter(
                lambda s: s == s.strip() and s
            ),
        ),
    )
)
def test_an_expectation_survives_being_written(expectation: Expectation) -> None:
    assert Expectation.parse(str(expectation)) == expectation


def test_values_print_as_people_write_them() -> None:
    assert [as_text(v) for v in (None, True, False, 0, "x", Decimal("1.50"))] == [
        "null",
        "true",
        "false",
        "0",
        "x",
        "1.50",
    ]
