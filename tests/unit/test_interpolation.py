from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.interpolation import Malformed, Unset, parse, substitute

ENVIRON = {"A": "a", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected", "used"),
    [
        ("plain", "plain", []),
        ("x${A}y${A}", "xaya", ["A", "A"]),
        ("${A:-b}${B:-b}${EMPTY:-e}", "abe", ["A"]),
        ("${EMPTY}|${B:-}", "|", ["EMPTY"]),
        ("${B:-${C:-${A}}}!", "a!", ["A"]),
        ("${A:?needed}", "a", ["A"]),
        ("$$ $ $A $${A} $$$${", "$ $ $A ${A} $${", []),
        ("{}}${B:-$$}}", "{}}$}", []),
        ("cost 5$", "cost 5$", []),
    ],
)
def test_substitution(text: str, expected: str, used: list[str]) -> None:
    found = substitute(parse(text), ENVIRON)

    assert (found.text, found.used) == (expected, used)


def test_a_value_is_never_read_again() -> None:
    assert substitute(parse("${A}"), {"A": "${B} $$"}).text == "${B} $$"


@pytest.mark.parametrize(
    ("text", "message"), [("x${B}", None), ("x${EMPTY:?say it}", "say it"), ("x${B:-${C:?c}}", "c")]
)
def test_unset_variable_is_named(text: str, message: str | None) -> None:
    with pytest.raises(Unset) as caught:
        substitute(parse(text), ENVIRON)

    assert caught.value.reference.message == message
    assert text[caught.value.reference.offset :].startswith(f"${{{caught.value.reference.name}")


@pytest.mark.parametrize(
    ("text", "offset"),
    [("a${}", 1), ("${1}", 0), ("${A", 0), ("${A:-", 0), ("${A:?", 0), ("${A-b}", 0), ("${A:+b}", 0), ("${A b}", 0),
     ("$$${ A}", 2), ("${A:-${}}", 5), ("${A:-" * 20 + "}" * 20, 50), ("${A:-" * 5000, 50)],
)  # fmt: skip
def test_malformed_reference_has_an_offset(text: str, offset: int) -> None:
    with pytest.raises(Malformed) as caught:
        parse(text)

    assert caught.value.offset == offset


@given(st.text())
def test_any_text_can_be_written_with_doubled_dollars(text: str) -> None:
    assert substitute(parse(text.replace("$", "$$")), {}).text == text
