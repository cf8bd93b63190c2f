"""Secrets are replaced wherever text is written, in every spelling they take."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smeta_declare.masking import MASK, Masker

SECRETS = st.text(alphabet="Zж\"'\\ \n%@/:&", min_size=8, max_size=20)


def test_every_occurrence_is_replaced() -> None:
    assert Masker.of(["hunter2"])("hunter2 and hunter2!") == f"{MASK} and {MASK}!"


def test_without_secrets_nothing_changes() -> None:
    assert Masker.of([])("text") == "text"
    assert Masker.of([""])("text") == "text"


def test_a_secret_that_begins_like_another_leaves_no_rest() -> None:
    assert Masker.of(["abc", "abcdef"])("abcdef abc") == f"{MASK} {MASK}"


@pytest.mark.parametrize(
    "spelled",
    [
        str,
        lambda s: quote(s, safe=""),
        quote,
        lambda s: s.replace("'", "''"),
        json.dumps,
        lambda s: json.dumps(s, ensure_ascii=False),
        repr,
    ],
)
def test_each_spelling_is_masked(spelled: object) -> None:
    assert callable(spelled)
    secret = "Zж'o\"n\\i k/@"
    masked = Masker.of([secret])(f"before {spelled(secret)} after")
    assert "Z" not in masked
    assert MASK in masked


@given(secrets=st.lists(SECRETS, max_size=4), before=st.text(max_size=10), after=st.text(max_size=10))
def test_no_secret_is_ever_left(secrets: list[str], before: str, after: str) -> None:
    text = before + "".join(secrets) + after

    masked = Masker.of(secrets)(text)

    assert [s for s in secrets if s in masked] == []


def test_a_short_secret_is_masked_as_a_word_of_its_own_only() -> None:
    masker = Masker.of(["app"])

    assert masker("applied as app: 'app'") == f"applied as {MASK}: '{MASK}'"
