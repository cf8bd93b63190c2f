"""What is shown of a long text: bounded, and never without the place that matters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.diagnostics import excerpt


def test_a_short_text_is_shown_whole() -> None:
    assert excerpt("select 1\nfrom a", 3) == "select 1\nfrom a"


def test_of_a_long_text_the_beginning_is_shown_and_what_is_left_out_is_said() -> None:
    assert excerpt("x" * 5_000) == "x" * 2_000 + " … (3,000 more characters)"
    assert excerpt("a\n" * 30) == "\n".join("a" * 20) + " … (21 more characters)"


@given(st.text(alphabet="x \n", max_size=9_000), st.floats(min_value=0, max_value=1))
def test_the_place_is_always_among_what_is_shown(around: str, where: float) -> None:
    position = int(where * len(around))
    text = around[:position] + "HERE" + around[position:]

    shown = excerpt(text, position)

    assert "HERE" in shown
    assert len(shown) <= 2_100
    assert shown.count("\n") <= 20
