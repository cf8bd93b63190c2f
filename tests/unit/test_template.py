"""Templates: what comes out, where it came from, and what is refused."""

from __future__ import annotations

import base64
import hmac
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smeta_declare.errors import TemplateError
from smeta_declare.template import Rendered, Secret, SecretSlot, Value, render, scram_verifier

VARIABLES: dict[str, Value] = {
    "schema": "public",
    "table": "order",
    "text": "it's",
    "number": -5,
    "ratio": 0.5,
    "on": True,
    "nothing": None,
    "languages": ("de", "pt_BR"),
    "password": Secret("APP_PASSWORD"),
}


def rendered(
    source: str, variables: Mapping[str, Value] = VARIABLES, files: Mapping[str, str] | None = None
) -> Rendered:
    return render(source, name="1_a.sql", variables=variables, load=(files or {}).get)


def refused(source: str, files: Mapping[str, str] | None = None) -> TemplateError:
    started = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        rendered(source, files=files)
    assert time.monotonic() - started < 10, "limits are there to be reached soon"
    assert caught.value.code == "template"
    assert caught.value.location is not None
    return caught.value


def place(text: Rendered, part: str) -> str:
    return str(text.locate(text.text.index(part)))


# What comes out


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ schema }}.t_{{ schema }}", "public.t_public"),
        ("{{ schema|ident }}.{{ table|ident }}", 'public."order"'),
        ("{{ 'a.b'|ident }}, {{ 'A\"b'|ident }}", '"a.b", "A""b"'),
        ("({{ languages|ident }})", '(de, "pt_BR")'),
        ("({{ languages|literal }})", "('de', 'pt_BR')"),
        ("{{ text|literal }}", "'it''s'"),
        (r"{{ 'a\\b'|literal }}", r"'a\b'"),
        ("1 -{{ number|literal }}", "1 -(-5)"),
        ("{{ ratio|literal }} {{ ratio }} {{ 7 }}", "0.5 0.5 7"),
        ("{{ on|literal }} {{ (not on)|literal }} {{ nothing|literal }}", "true false null"),
        ("{{ 'a = 1'|raw }}", "a = 1"),
        ("{% if on %}concurrently{% endif %}", "concurrently"),
        ("{% for l in languages %}{{ l|literal }}{{ ', ' if not loop.last }}{% endfor %}", "'de', 'pt_BR'"),
        ("{% set x %}{{ text|literal }}{% endset %}a {{ x }} b", "a 'it''s' b"),
        ("{% macro m(n) %}({{ n|ident }}){% endmacro %}{{ m(table) }}", '("order")'),
        ("{{ (schema ~ '_' ~ 1)|ident }}", "public_1"),
        ("{{ missing|default('x')|literal }}{# a comment #}", "'x'"),
        ("{% raw %}'{{1,2}}'{% endraw %}", "'{{1,2}}'"),
        ("{% for l in languages|map('upper')|sort %}{{ l }} {% endfor %}", "DE PT_BR "),
        ("{{ 'a-b'|replace('-', '_') }}{{ languages|join('_') }}", "a_bde_pt_BR"),
        ("a\n{%- if on %} b{% endif %}\n", "a b\n"),
        ("{% if password is defined %}x{% endif %}", "x"),
        ("{{ '' }}", ""),
    ],
)
def test_template_gives(source: str, text: str) -> None:
    assert rendered(source).text == text


def test_line_ends_and_byte_order_mark_do_not_matter() -> None:
    variants = [
        "select 1;\nselect {{ 2 }};\n",
        "\ufeffselect 1;\r\nselect {{ 2 }};\r\n",
        "select 1;\rselect {{ 2 }};\r",
    ]
    assert {rendered(variant).text for variant in variants} == {"select 1;\nselect 2;\n"}
    assert {place(rendered(variant), "2;") for variant in variants} == {"1_a.sql:2:8"}


def test_a_file_without_template_marks_is_itself() -> None:
    text = rendered("\ufeffselect '{';\r\n-- %}\n")
    assert text == Rendered.kept("select '{';\n-- %}\n", name="1_a.sql")
    assert (text.includes, text.secrets) == ((), ())


def test_plain_files_need_neither_jinja_nor_the_parser() -> None:
    program = (
        "import sys; from smeta_declare.template import render\n"
        "render('select 1', name='a', variables={}, load=lambda name: None)\n"
        "print(sorted({'jinja2', 'pglast', 'psycopg'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_includes_are_named_once_in_the_order_they_were_needed() -> None:
    files = {"b.sql": "b {% include 'a.sql' %}", "a.sql": "{{ schema }}", "unused.sql": ""}
    text = rendered("{% include 'b.sql' %} {% include 'a.sql' %}", files=files)
    assert text.text == "b public public"
    assert text.includes == ("b.sql", "a.sql")


def test_imported_macros_see_the_variables() -> None:
    files = {"m.sql": "{% macro name(t) %}{{ schema|ident }}.{{ t|ident }}{% endmacro %}"}
    assert rendered("{% import 'm.sql' as m %}{{ m.name('t') }}", files=files).text == "public.t"


# Where it came from


def test_positions_are_those_of_the_template() -> None:
    source = "select 1;\n{% for l in languages %}\n  select {{ l|literal }}, é𝄞;\n{% endfor %}drop table x;\n"
    text = rendered(source)
    assert place(text, "'pt_BR'") == "1_a.sql:3:10"
    assert place(text, "pt_BR") == "1_a.sql:3:10"  # inside a value: where its braces open
    assert place(text, "𝄞") == "1_a.sql:3:28"
    assert place(text, "drop") == "1_a.sql:4:13"
    assert text.locate(text.text.index("drop")).source_line == "{% endfor %}drop table x;"
    assert str(text.locate(len(text.text))) == "1_a.sql:5:1"


def test_positions_lead_into_included_files_and_macros() -> None:
    files = {"i.sql": "\n  two {{ schema }};", "m.sql": "{% macro m() %}\n three{% endmacro %}"}
    text = rendered("one;{% include 'i.sql' %}{% from 'm.sql' import m %}{{ m() }}", files=files)
    assert [place(text, word) for word in ("one", "two", "public", "three")] == [
        "1_a.sql:1:1",
        "i.sql:2:3",
        "i.sql:2:7",
        "m.sql:2:2",
    ]


def test_only_the_template_writes_markers() -> None:
    text = rendered("-- A\n{{ v|raw }}{{ '-- C' }}\n", variables={"v": "-- B"})
    assert [text.is_template_text(text.text.index(letter)) for letter in "ABC"] == [True, False, False]


PIECES = st.lists(
    st.sampled_from(
        [
            *("select é", "\n", "𝄞;", "-- x\n", "'", "{", "{# c #}", "{% raw %}{{{% endraw %}"),
            *("{{ n }}", "{{ t|literal }}", "{{ t|raw }}", "{{ ', ' }}", "{% include 'i' %}"),
            *("{% if on %}a\n{% endif %}", "{%- if on -%} b {% endif %}"),
            *("{% for x in (1, 2) %}<{{ x }}\n>{% endfor %}", "{% set s %}q{{ t|ident }}{% endset %}{{ s }}"),
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(PIECES)
def test_text_is_always_equal_at_its_place_in_the_source(source: str) -> None:
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.sandbox import SandboxedEnvironment

    files = {"i": "in{{ n }}cluded\n"}
    try:
        SandboxedEnvironment().parse(source)
    except TemplateSyntaxError:
        return
    text = render(source, name="s", variables={"n": 1, "t": "a b", "on": True}, load=files.get)
    lines = {"s": source.split("\n"), "i": files["i"].split("\n")}
    for offset, character in enumerate(text.text):
        where = text.locate(offset)
        if text.is_template_text(offset):
            assert (lines[where.file][where.line - 1] + "\n")[where.column - 1] == character
        else:
            assert lines[where.file][where.line - 1].startswith("{{", where.column - 1)


@settings(max_examples=100, deadline=None)
@given(PIECES, st.data())
def test_a_slice_always_locates_as_the_whole_does(source: str, data: st.DataObject) -> None:
    try:
        whole = render(source, name="s", variables={"n": 1, "t": "a", "on": True}, load={"i": "{{ n }}"}.get)
    except TemplateError:
        return
    start = data.draw(st.integers(0, len(whole.text)))
    end = data.draw(st.integers(start, len(whole.text)))
    part = whole.slice(start, end)
    assert part.text == whole.text[start:end]
    for offset in range(end - start):
        assert part.locate(offset) == whole.locate(start + offset)
        assert part.is_template_text(offset) == whole.is_template_text(start + offset)


# Secrets


def test_secrets_leave_a_placeholder_and_a_slot() -> None:
    text = rendered("create role a password {{ password|scram }}; select {{ [password, 1]|literal }}")
    assert text.text == "create role a password '<scram APP_PASSWORD>'; select '<secret APP_PASSWORD>', 1"
    assert text.secrets == (
        SecretSlot(23, 45, "APP_PASSWORD", "scram"),
        SecretSlot(54, 77, "APP_PASSWORD", "literal"),
    )
    assert text.slice(47, len(text.text)).secrets == (SecretSlot(7, 30, "APP_PASSWORD", "literal"),)
    with pytest.raises(ValueError, match="cut a secret"):
        text.slice(0, 30)


def test_kept_text_has_its_secrets_again() -> None:
    text = rendered("a {{ password|literal }} b")
    again = Rendered.kept(text.text, name="journal", secrets=text.secrets)
    assert again.secrets == text.secrets
    assert place(again, "b") == "journal:1:27"


@pytest.mark.parametrize(
    "expression",
    [
        "{{ password }}",
        "{{ password|raw }}",
        "{{ password|ident }}",
        "{{ password|upper|literal }}",
        "{{ password|string|raw }}",
        "{{ (password ~ 'x')|literal }}",
        "{{ ('x' + password)|literal }}",
        "{{ password|length }}",
        "{{ password.name|literal }}",
        "{{ password['name']|literal }}",
        "{{ [password]|join|literal }}",
        "{{ 'x'|replace('x', password)|literal }}",
        "{% if password %}x{% endif %}",
        "{% if password == 'x' %}x{% endif %}",
        "{% for c in password %}x{% endfor %}",
        "{{ password|literal|upper }}",
        "{{ password|literal|literal }}",
        "{{ ((password|literal) ~ '')|raw }}",
        "{{ (password|literal)[1:5]|raw }}",
        "{{ ((password|literal) * 2)|raw }}",
        "{% set x %}{{ password|literal }}{% endset %}{{ x|list|join|raw }}",
        "{% set x %}{{ password|literal }}{% endset %}{% for c in x %}{{ c|raw }}{% endfor %}",
        "{% filter lower %}{{ password|literal }}{% endfilter %}",
        "{{ text|scram }}",
    ],
)
def test_a_secret_that_is_touched_is_refused(expression: str) -> None:
    assert "secret" in str(refused(f"select {expression}"))


# Errors


def test_an_unknown_variable_is_named_with_its_place_and_the_nearest_known() -> None:
    error = refused("select 1;\nselect {{ langages|literal }}")
    assert (str(error.location), str(error)) == ("1_a.sql:2:8", "variable langages is not defined")
    assert error.hint == "did you mean languages?"
    assert "schema" in (refused("{{ zzzzzz }}").hint or "")


@pytest.mark.parametrize(
    ("source", "location", "message"),
    [
        ("a\n {% if zzzzzz %}b{% endif %}", "1_a.sql:2:5", "variable zzzzzz is not defined"),
        ("{% include 'bad.sql' %}", "bad.sql:2:2", "variable nope is not defined"),
        ("{% include 'syntax.sql' %}", "syntax.sql:2:4", "encountered unknown tag 'endfor'"),
        ("\n{% include 'none.sql' %}", "1_a.sql:2:4", "template none.sql does not exist"),
        ("\nselect '{{1,2},{3,4}}'", "1_a.sql:2:9", "unexpected '}'"),
        ("a {{ x", "1_a.sql:1:3", "unexpected end of template"),
        ("{% if on %}", "1_a.sql:1:10", "unexpected end of template"),
        ("x\n{{ 'a }}", "1_a.sql:2:4", 'unexpected char "\'"'),
        ("{{ text|litral }}", "1_a.sql:1:1", "there is no filter litral"),
        (" {{ 1 / 0 }}", "1_a.sql:1:2", "division by zero"),
        (" {{ text }}", "1_a.sql:1:2", '"it\'s" is not a bare word or number'),
        (" {{ number }}", "1_a.sql:1:2", "'-5' is not a bare word or number"),
        (" {{ nothing }}", "1_a.sql:1:2", "the value is none"),
        (" {{ on }}", "1_a.sql:1:2", "the value is true or false"),
        (" {{ languages }}", "1_a.sql:1:2", "the value is a list"),
        (" {{ []|literal }}", "1_a.sql:1:2", "an empty list cannot be a literal"),
        (" {{ ''|ident }}", "1_a.sql:1:2", "a name must not be empty or contain NUL"),
        (" {{ ('é' * 32)|ident }}", "1_a.sql:1:2", f"'{'é' * 32}' has 64 bytes as a name"),
        (" {{ (text if nothing)|literal }}", "1_a.sql:1:2", "the value is undefined"),
        ("{% autoescape true %}{% endautoescape %}", "1_a.sql:1:4", "autoescape is for HTML"),
    ],
)
def test_errors_say_what_and_where(source: str, location: str, message: str) -> None:
    files = {"bad.sql": "\n {{ nope }}", "syntax.sql": "\n{% endfor %}"}
    error = refused(source, files)
    assert str(error).lower().startswith(message.lower())
    assert str(error.location) == location


@pytest.mark.parametrize(
    "expression",
    [
        "text ~ ''",
        "(text|literal) ~ 'x'",
        "text|literal|upper",
        "[text|literal, text|literal]|join",
        "(text|literal)[0:3]",
        "'a b'.format(1)",
        "(text|raw) + 'x; drop'",
        "[1, 2]",
        "range",
        "{'a': 1}",
        "schema.upper",
    ],
)
def test_what_is_no_longer_one_value_is_refused(expression: str) -> None:
    refused("select {{ " + expression + " }}")


def test_text_made_by_a_filter_block_is_no_template_text() -> None:
    refused("{% filter replace('a', '; drop table t;') %}a b{% endfilter %}")


def test_nul_is_refused() -> None:
    assert "NUL" in str(refused(r"{{ 'a\0'|literal }}"))


# Attacks: each is stopped by a count or a size, so that it stops at the same place everywhere


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__ }}",
        "{{ text|attr('__class__') }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ self._TemplateReference__context }}",
        "{{ languages|map(attribute='__class__')|list|first }}",
        "{% set d = {} %}{{ d.update({1: 2}) }}",
        "{{ lipsum() }}",
        "{{ languages|random }}",
        "{{ cycler(1) }}",
        "{{ range|string|literal }}",
        "{{ range|upper|literal }}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**(10**8) }}",
        "{{ (2**4000) * (2**4000) }}",
        "{{ [0] * 10**9 }}",
        "{{ '%999999999d' % 1 }}",
        "{% set ns = namespace(x='aa') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aa') %}{% for i in range(40) %}{% set ns.x = (ns.x ~ ns.x) ~ '' %}{% endfor %}",
        "{{ 'a'.zfill(10**9) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
        "{% set x = 'a' * 100000 %}{{ x|replace('a', x) }}",
        "{{ range(99999)|join('a' * 100000) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ range(99999)|list|length }}{% endfor %}",
        "{% for a in range(99999) %}{{ range(99999)|map('string')|list|length }}{% endfor %}",
        "{% for a in [1, 2] recursive %}{% if loop.depth < 60 %}{% set _ = loop([1, 2]) %}{% endif %}{% endfor %}",
        "{% for a in [1] recursive %}{% if loop.depth < 9 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{% set a = m(n - 1) %}{% set b = m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include '1_a.sql' %}",
        "{% for a in range(99999) %}{% include 'empty.sql' %}{% endfor %}",
        "{% for a in range(99999) %}" + "x" * 100 + "{% endfor %}",
    ],
)
def test_attack_is_stopped(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smeta_declare.sandbox.STEPS", 100_000)  # a tenth: the tests have other things to do
    refused(attack, {"empty.sql": ""})


def test_the_same_inputs_give_the_same_bytes() -> None:
    source = (
        "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ languages|sort|literal }}"
    )
    assert len({rendered(source).text for _ in range(3)}) == 1


# SCRAM


def test_scram_verifier_answers_the_example_of_rfc_7677() -> None:
    verifier = scram_verifier("pencil", salt=base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    first = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"

    form, salted, keys = verifier.split("$")
    server_key = base64.b64decode(keys.split(":")[1])

    assert (form, salted) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    signature = base64.b64encode(hmac.digest(server_key, first.encode(), "sha256"))
    assert signature == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    ("password", "keys"),
    [  # compared with what a PostgreSQL 18 server stores
        (
            "пароль ①",
            "t+UHlXUwMxnYcrVJZiTDnhd5UV2dYed8rUOkWcnaocs=:aKUa3o5+hWBYs0YJAF7A+BCdwYXVH2QAvSvPgsMc9Wg=",
        ),
        (  # nothing and a space
            "a\u00ad\u00a0b",
            "2rk8ozQF6mFul4o/eBQJGFZYT30xZfbvIPbBLAWLciE=:pSG3jifpoVWrie8UI3R+dT6wAl5kSJ99Eq0WJFwgetU=",
        ),
        (  # right to left beside left to right: not allowed, and used as it is
            "\u0627x",
            "Pb+p4PqiHRHt+MKS6jDrq5muQItfXef2XyvlanhzS0c=:Wbop/45HzzKMBidSCoXp6eqSE9wjLeS/UWlfnfaa5q8=",
        ),
    ],
)
def test_scram_verifier_prepares_passwords_as_postgresql_does(password: str, keys: str) -> None:
    salt = "AAECAwQFBgcICQoLDA0ODw=="
    assert scram_verifier(password, salt=bytes(range(16))) == f"SCRAM-SHA-256$4096:{salt}${keys}"
