from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smeta_declare.errors import InvalidManifest
from smeta_declare.schemas import Deferred
from smeta_declare.yaml_source import MAX_DEPTH, CannotAppend, append, read

APPLY = ("migrations", "apply")


def refused(text: str) -> list[str]:
    """The faults of a text that cannot be read, each with its place."""
    with pytest.raises(InvalidManifest) as caught:
        read(text, file="smeta.yaml")
    return [f"{f.location}: {f.message}" for f in caught.value.findings]


def problems(text: str) -> list[str]:
    return [f"{f.location}: {f.message}" for f in read(text, file="smeta.yaml").problems]


def test_only_truth_values_and_whole_numbers_are_not_text() -> None:
    text = "[true, false, 0, -7, ~, null, '1', yes, 1.10, 010, 1e3, 2025-01-01, 1:30, 20260101_01, '', True]"

    assert read(text, file="f").data == [
        *(True, False, 0, -7, None, None),
        *("1", "yes", "1.10", "010", "1e3", "2025-01-01", "1:30", "20260101_01", "", "True"),
    ]


def test_empty_file_is_an_empty_mapping() -> None:
    assert read("# nothing yet\n", file="f").data == {}


def test_places_count_characters_not_bytes_and_no_byte_order_mark() -> None:
    document = read("\ufeffимя: 😀 смета\r\nдругое: [a,\r\n  б]\r\n", file="f")

    assert str(document.at(("имя",))) == "f:1:6"
    assert str(document.at_key(("другое",))) == "f:2:1"
    assert str(document.at(("другое", 1))) == "f:3:3"
    assert document.at(("другое", 1)).source_line == "  б]"


def test_place_of_an_empty_value_is_its_key() -> None:
    assert str(read("a:\n  b:\n\n\nc: 1\n", file="f").at(("a", "b"))) == "f:2:3"


@pytest.mark.parametrize("text", ["a: x${B}\n", "a: 'x${B}'\n", 'a: "x${B}"\n'])
def test_place_inside_a_value(text: str) -> None:
    found = read(text, file="f").at(("a",), offset=1)

    assert text[found.column - 1] == "$"


def test_key_given_twice_names_the_first_line() -> None:
    assert problems("a: 1\nb: 2\na: 3\n") == ["smeta.yaml:3:1: the key `a` is given twice, first in line 1"]


def test_anchors_aliases_tags_and_merge_keys_are_all_told_and_never_expanded() -> None:
    text = "a: &x {b: 1}\nc:\n  <<: *x\nd: !!int 5\ne: *x\n"

    assert problems(text) == [
        "smeta.yaml:1:4: anchors are not used in a manifest",
        "smeta.yaml:3:7: aliases are not used in a manifest",
        "smeta.yaml:4:4: tags are not used in a manifest",
        "smeta.yaml:5:4: aliases are not used in a manifest",
        "smeta.yaml:3:3: a key is a word; merge keys are not used in a manifest",
    ]
    data = read(text, file="f").data
    assert isinstance(data, dict)
    assert isinstance(data["e"], Deferred)


def test_recursive_and_exploding_aliases_end() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 30))

    assert len(problems("a: &a [*a]\n")) == 2
    assert len(problems(bomb)) > 100


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000, "[" * (MAX_DEPTH + 1) + "]" * 41]
)
def test_depth_is_refused_before_the_parser_dies_of_it(text: str) -> None:
    faults = refused(text)

    # Newer versions of libyaml have a limit of their own, and tell it.
    assert any("nested deeper" in f or "nesting depth" in f for f in faults), [f[:200] for f in faults]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\n\tb: 2\n", "smeta.yaml:2:1: this is no YAML: .*(tab|t')"),
        ("a: 1\n---\nb: 2\n", "smeta.yaml:2:1: a second document begins here"),
        ("a: [1\n", "smeta.yaml:2:1: this is no YAML: .*expected ',' or ']'"),
        ("é: b\x01c\n", "smeta.yaml:1:5: the character U\\+0001 is not allowed"),
        ("a: 1\nb: \0\n", "smeta.yaml:2:4: the character U\\+0000 is not allowed"),
        ("a: b\u2028c: d\n", "smeta.yaml:1:5: the character U\\+2028 is not allowed"),
        ("a: \ud800\n", "smeta.yaml:1:4: the character U\\+D800 is not allowed"),
        ("a: b: c\n", "smeta.yaml:1:5: this is no YAML: mapping values are not allowed"),
    ],
)
def test_what_cannot_be_read_has_a_place(text: str, fault: str) -> None:
    found = refused(text)

    assert len(found) == 1
    assert re.match(fault, found[0]), found


def test_tabs_get_a_hint() -> None:
    with pytest.raises(InvalidManifest) as caught:
        read("a:\n\tb: 2\n", file="f")

    assert caught.value.findings[0].hint == "indent with spaces, not with tabs"


def test_variables_in_flow_style_get_a_hint() -> None:
    with pytest.raises(InvalidManifest) as caught:
        read("a: 1\nb: {c: ${D}, e: 1}\n", file="f")

    assert caught.value.findings[0].hint == "inside { } and [ ], a value with `${…}` goes between quotes"


@pytest.mark.parametrize(
    "line",
    [
        "database: postgresql://app:s3cret@db.example/shop",
        "database: host=db password=s3cret dbname=shop",
        "database: host=db password='s3cret s3cret' dbname=shop",
        "database: postgresql://app:a/s3cret@db.example/shop",
    ],
)
def test_no_password_is_shown_with_a_finding(line: str) -> None:
    shown = read(line + "\n", file="f").locate(0).source_line

    assert shown is not None
    assert "s3cret" not in shown
    assert len(shown) == len(line)


LAYOUTS = {
    "block": (
        "migrations:\n  apply:\n    - a\n    - b # last\n",
        "migrations:\n  apply:\n    - a\n    - b # last\n    - c\n",
    ),
    "same indent": ("migrations:\n  apply:\n  - a\nx: 1\n", "migrations:\n  apply:\n  - a\n  - c\nx: 1\n"),
    "no final newline": ("migrations:\n  apply:\n    - a", "migrations:\n  apply:\n    - a\n    - c"),
    "empty": (
        "migrations:\n  apply: # none yet\nx: 1\n",
        "migrations:\n  apply: # none yet\n    - c\nx: 1\n",
    ),
    "empty flow": ("migrations: {apply: []}\n", "migrations: {apply: [c]}\n"),
    "flow": ("migrations: {apply: [a, b]}\n", "migrations: {apply: [a, b, c]}\n"),
    "flow, trailing comma": ("migrations: {apply: [a, b,]}\n", "migrations: {apply: [a, b, c,]}\n"),
    "flow on lines": (
        "migrations:\n  apply: [\n    a, # first\n    b  # second\n  ]\n",
        "migrations:\n  apply: [\n    a, # first\n    b,  # second\n    c\n  ]\n",
    ),
    "flow on lines, trailing comma": (
        "migrations:\n  apply: [\n    a,\n    b, # second\n  ]\n",
        "migrations:\n  apply: [\n    a,\n    b, # second\n    c,\n  ]\n",
    ),
    "mapping items": (
        "migrations:\n  apply:\n    - version: a\n      requires: [x]\n      # a\n\n    # of nobody\nx: 1\n",
        "migrations:\n  apply:\n    - version: a\n      requires: [x]\n      # a\n    - c\n\n    # of nobody\nx: 1\n",
    ),
    "windows": (
        "migrations:\r\n  apply:\r\n    - a\r\nx: 1\r\n",
        "migrations:\r\n  apply:\r\n    - a\r\n    - c\r\nx: 1\r\n",
    ),
    "byte order mark": (
        "\ufeffmigrations:\n  apply:\n    - 😀\n",
        "\ufeffmigrations:\n  apply:\n    - 😀\n    - c\n",
    ),
}


@pytest.mark.parametrize(("before", "after"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_append_keeps_the_layout(before: str, after: str) -> None:
    assert append(before, APPLY, "c") == after


@pytest.mark.parametrize(
    "text",
    [
        "x: 1\n",
        "migrations: {}\n",
        "migrations:\n  apply: soon\n",
        "migrations:\n  apply:\n    - |+\n      a\n\n",
    ],
)
def test_append_refuses_what_it_cannot_prove(text: str) -> None:
    with pytest.raises(CannotAppend):
        append(text, APPLY, "c")


ITEM = st.sampled_from(
    ["a", "'b'", "version: a\n      only: [x]", "version: a\n      # deep\n      requires:\n        - y"]
)
NOISE = st.sampled_from(["", "\n", "    # a remark\n", "      # indented\n", "# flush left\n", "\n\n"])


@given(
    st.lists(st.tuples(ITEM, NOISE), min_size=1, max_size=5),
    st.sampled_from(["", "backups:\n  directory: b\n"]),
)
@example([("a", "\n    # the end\n")], "")
@settings(max_examples=150, deadline=None)
def test_append_adds_one_line_and_changes_no_other(items: list[tuple[str, str]], rest: str) -> None:
    text = "migrations:\n  apply:\n" + "".join(f"    - {item}\n{noise}" for item, noise in items) + rest

    before, after = text.splitlines(), append(text, APPLY, "c").splitlines()

    assert len(after) == len(before) + 1
    assert any(after[:n] + after[n + 1 :] == before and after[n] == "    - c" for n in range(len(after)))
