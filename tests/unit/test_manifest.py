from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from smeta_declare import schemas
from smeta_declare.diagnostics import Diagnostic
from smeta_declare.errors import Exit, InvalidManifest
from smeta_declare.manifest import (
    MAX_BYTES,
    CannotEdit,
    MissingManifest,
    append_migration,
    find_manifest,
    load_manifest,
    parse_manifest,
    schema_text,
)

MINIMAL = "manifest: 1\nproject: shop\nenvironments:\n  dev:\n    database: embedded\n"
FULL = """\
# yaml-language-server: $schema=./schemas/manifest.schema.json
manifest: 1
project: shop
history: {table: public.schema_migrations, schema: smeta}
defaults:
  transaction: all
  order: lenient
  timeouts: {connect: 10s, statement: 15min, idle_in_transaction: 1min, concurrent: 2h}
  locks:
    timeout: 200ms
    retries: {attempts: 12, backoff: 250ms, max_backoff: 10s}
    runner_wait: 60s
  backup: definitions
  vars: {search_language: russian, sizes: [1, two, true]}
  role: owner
environments:
  dev:
    database: embedded
    vars: {concurrently: false}
  staging:
    database: ${STAGING_URL:?set the staging connection string}
    vars: {app_password: {secret: APP_PASSWORD}}
  production:
    extends: staging
    database: {service: shop-production}
    protected: true
migrations:
  directory: migrations
  apply:
    - 20250901090000_customers
    - 20250915090000
    - {version: 3, requires: [20250915090000], timeouts: {concurrent: 4h}, backup: everything, only: [dev]}
backups:
  directory: backups
  policies:
    definitions: {scope: schema, format: plain}
    everything: {scope: full, format: custom, compress: gzip:6}
checks:
  - {name: no orphans, sql: select 1, expect: {value: 0}}
  - {name: rows, sql: select 1, expect: rows >= 1}
  - {name: as declared, sql: select 1, expect: true}
"""


def findings(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(text, file="smeta.yaml")
    return caught.value.findings


def only(text: str) -> tuple[str, int, int, str, str | None]:
    """The one finding of a text."""
    found = findings(text)
    assert len(found) == 1, [f.message for f in found]
    place = found[0].location
    assert place is not None
    return found[0].code, place.line, place.column, found[0].message, found[0].hint


def changed(old: str, new: str) -> str:
    assert FULL.count(old) == 1, old
    return FULL.replace(old, new)


def test_full_manifest_is_valid() -> None:
    manifest = parse_manifest(FULL, file="smeta.yaml")

    assert manifest.project == "shop"
    assert manifest.environments == ("dev", "staging", "production")
    assert (manifest.migrations_directory, manifest.backups_directory) == ("migrations", "backups")
    assert [e.version for e in manifest.entries] == ["20250901090000_customers", "20250915090000", "3"]
    assert [e.location.line for e in manifest.entries] == [30, 31, 32]


def test_minimal_manifest_has_no_migrations() -> None:
    manifest = parse_manifest(MINIMAL, file="smeta.yaml")

    assert manifest.entries == ()
    assert manifest.migrations_directory == "migrations"


@pytest.mark.parametrize(
    "version", ["1.10", "010", "true", "null", "20260101_01", "2025-01-01", "1e3", "0x1F"]
)
def test_versions_are_text_whatever_yaml_makes_of_them(version: str) -> None:
    manifest = parse_manifest(f"{MINIMAL}migrations:\n  apply: [{version}]\n", file="smeta.yaml")

    assert [e.version for e in manifest.entries] == [version]


@pytest.mark.parametrize("version", ["-a", "../x", "a b", "a/b", "'x\\ny'", '"x\\n"', "x" * 129, "ё"])
def test_versions_are_names_of_files(version: str) -> None:
    assert only(f"{MINIMAL}migrations:\n  apply: [{version}]\n")[0] == "manifest-value"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  order: lenient",
            "  ordr: lenient",
            (
                "manifest-unknown-key",
                7,
                3,
                "`ordr` is no key of `defaults`; the keys are `transaction`, `order`, "
                "`timeouts`, `locks`, `backup`, `vars`, `role`",
                "did you mean `order`?",
            ),
        ),
        (
            "transaction: all",
            "transaction: al",
            (
                "manifest-value",
                6,
                16,
                "`defaults.transaction` must be `all` or `each`, not `al`",
                "did you mean `all`?",
            ),
        ),
        (
            "attempts: 12",
            "attempts: many",
            (
                "manifest-type",
                11,
                25,
                "`defaults.locks.retries.attempts` must be a whole number, not text",
                None,
            ),
        ),
        (
            "timeout: 200ms",
            "timeout: 200",
            (
                "manifest-type",
                10,
                14,
                "`defaults.locks.timeout` must be a duration with its unit, such as `200ms`, "
                "`2s`, `15min` or `2h` (at most `499h`), not a whole number",
                "say the unit: `200ms`, `200s`, `200min`",
            ),
        ),
        (
            "attempts: 12",
            "attempts: 0",
            ("manifest-value", 11, 25, "`defaults.locks.retries.attempts` must be at least 1", None),
        ),
        (
            "manifest: 1",
            "manifest: 2",
            ("manifest-value", 2, 11, "`manifest` must be `1`, not `2`", None),
        ),
        (
            "{scope: schema, format: plain}",
            "{format: plain}",
            ("manifest-required", 36, 5, "`backups.policies.definitions` needs `scope`", "add `scope:`"),
        ),
        (
            "format: plain",
            "format: plain, compress: gzip:1",
            (
                "manifest-value",
                36,
                59,
                "`backups.policies.definitions.compress` needs `format: custom`; pg_dump compresses"
                " no plain script here",
                "remove `compress:`, or use `format: custom`",
            ),
        ),
        (
            "backup: definitions",
            "backup: definition",
            (
                "manifest-reference",
                13,
                11,
                "`backup:` names `definition`, and there is no such policy of `backups.policies`",
                "did you mean `definitions`?",
            ),
        ),
        (
            "extends: staging",
            "extends: stagin",
            (
                "manifest-reference",
                24,
                14,
                "`production` extends `stagin`, and there is no such environment",
                "did you mean `staging`?",
            ),
        ),
        (
            "only: [dev]",
            "only: [dve]",
            (
                "manifest-reference",
                32,
                103,
                "`only:` of `3` names `dve`, and there is no such environment",
                "did you mean `dev`?",
            ),
        ),
        (
            "requires: [20250915090000]",
            "requires: [20250915090001]",
            (
                "manifest-reference",
                32,
                31,
                "`3` requires `20250915090001`, and there is no such migration",
                "did you mean `20250915090000`?",
            ),
        ),
        (
            "    - 20250915090000\n",
            "    - {version: 20250915090000, requires: [3]}\n",
            (
                "manifest-reference",
                31,
                44,
                "`20250915090000` requires `3`, which is listed later; the order of the list "
                "is the order of application",
                "move `3` above `20250915090000`",
            ),
        ),
        (
            "    - 20250915090000\n",
            "    - {version: 20250915090000, only: [staging]}\n",
            (
                "manifest-reference",
                32,
                31,
                "`3` requires `20250915090000`, which `dev` does not get",
                "make the two `only:` lists agree",
            ),
        ),
        (
            "    - 20250915090000\n",
            "    - 20250915090000\n    - 20250915090000\n",
            (
                "manifest-duplicate",
                32,
                7,
                "`20250915090000` is listed twice, first in line 31",
                "remove one of the two lines",
            ),
        ),
        (
            "backup: everything",
            "backup: none",
            (
                "manifest-value",
                32,
                84,
                "a migration may only ask for more than its environment, and `none` is never more",
                "remove `backup:` here, or set it on the environment",
            ),
        ),
        (
            "expect: rows >= 1",
            "expect: rows >= many",
            (
                "manifest-value",
                40,
                41,
                "`rows >= many` is no expectation; write `rows = 3`, `rows >= 1`, `empty`, "
                "`value = 0` or `true`",
                None,
            ),
        ),
        (
            "name: rows",
            "name: no orphans",
            (
                "manifest-duplicate",
                40,
                12,
                "two checks have the name `no orphans`, the first in line 39",
                "say what each of them asks",
            ),
        ),
        (
            "expect: true",
            "expect: false",
            ("manifest-value", 41, 48, "`checks[2].expect` must be `true`, not `false`", None),
        ),
        (
            "  dev:\n",
            "  Dev:\n",
            (
                "manifest-value",
                17,
                3,
                "`Dev` in `environments` must be a name of small letters, digits, `_` and `-` that "
                "starts with a letter",
                None,
            ),
        ),
        (
            "{service: shop-production}",
            "{servce: shop-production}",
            (
                "manifest-unknown-key",
                25,
                16,
                "`servce` is no key of `environments.production.database`; the keys are `service`",
                "did you mean `service`?",
            ),
        ),
        (
            "database: embedded",
            "database: embeded",
            (
                "manifest-value",
                18,
                15,
                "`environments.dev.database` must be `embedded`, a connection string "
                "(`postgresql://…` or `host=… dbname=…`) or `{service: NAME}`",
                "did you mean `embedded`?",
            ),
        ),
        (
            "project: shop",
            "project: 360",
            ("manifest-type", 3, 10, "`project` must be text, not a whole number", "put it between quotes"),
        ),
        (
            "directory: migrations",
            "directory: ${DIRECTORY}",
            (
                "manifest-interpolation",
                28,
                14,
                "`migrations.directory` is the same for everybody: no variables here",
                "write the name itself",
            ),
        ),
        (
            "role: owner",
            "role: a${1}",
            (
                "manifest-interpolation",
                15,
                10,
                "`${` must be followed by the name of a variable; a dollar before a brace is `$${`",
                "write `$$` for a dollar that is meant literally",
            ),
        ),
        (
            "role: owner",
            "role: ${A+x}",
            (
                "manifest-interpolation",
                15,
                9,
                "`${A+x…` is none of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`",
                "write `$$` for a dollar that is meant literally",
            ),
        ),
        (
            "role: owner",
            "role: ${A:-x",
            (
                "manifest-interpolation",
                15,
                9,
                "`${A` has no closing brace",
                "write `$$` for a dollar that is meant literally",
            ),
        ),
    ],
)
def test_mistake_is_told_with_place_and_way_out(
    old: str, new: str, expected: tuple[str, int, int, str, str | None]
) -> None:
    if old == "  dev:\n":  # the environment is named elsewhere too
        assert expected in [_as_tuple(f) for f in findings(changed(old, new))]
    else:
        assert only(changed(old, new)) == expected


def _as_tuple(finding: Diagnostic) -> tuple[str, int, int, str, str | None]:
    assert finding.location is not None
    return finding.code, finding.location.line, finding.location.column, finding.message, finding.hint


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
manifest: 1
project: 360
project: shop
defaults: {backup: none, order: maybe, role: "${"}
environments:
  dev: {extends: live, databse: embedded}
  live: &x {database: 5}
migrations:
  apply: [a, a, {requires: [b]}]
"""

    assert [(f.code, f.location.line) for f in findings(text) if f.location] == [
        ("manifest-type", 2),
        ("manifest-duplicate-key", 3),
        ("manifest-value", 4),
        ("manifest-interpolation", 4),
        ("manifest-unknown-key", 6),
        ("manifest-yaml", 7),
        ("manifest-type", 7),
        ("manifest-duplicate", 9),
        ("manifest-required", 9),
    ]


def test_an_error_carries_the_line_and_the_exit_code() -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(MINIMAL + "nonsense: 1\n", file="deploy/smeta.yaml")

    place = caught.value.findings[0].location
    assert caught.value.exit_code is Exit.INVALID
    assert str(caught.value) == "deploy/smeta.yaml has 1 mistake"
    assert (str(place), place and place.source_line) == ("deploy/smeta.yaml:6:1", "nonsense: 1")


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "~\n"])
def test_what_is_no_mapping_is_told(text: str) -> None:
    assert {f.code for f in findings(text)} <= {"manifest-type", "manifest-required"}


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        ({"a": "a"}, "`a` extends itself: a → a"),
        ({"a": "b", "b": "c", "c": "a"}, "`a` extends itself: a → b → c → a"),
        ({"a": "b", "b": "b"}, "`a` extends itself: a → b → b"),
    ],
)
def test_extends_in_a_circle(extends: dict[str, str], told: str) -> None:
    blocks = "".join(f"  {name}: {{extends: {base}}}\n" for name, base in extends.items())

    assert told in [f.message for f in findings(f"manifest: 1\nproject: p\nenvironments:\n{blocks}")]


@pytest.mark.parametrize("loosened", ["false", "null"])
def test_protection_cannot_be_taken_back(loosened: str) -> None:
    text = FULL.replace(
        "migrations:\n  dir", f"  copy: {{extends: production, protected: {loosened}}}\nmigrations:\n  dir"
    )

    code, line, _, message, _ = only(text)

    assert (code, line) == ("manifest-value", 27)
    assert message == "`copy` extends `production`, which is protected, and cannot take that back"


def test_values_that_wait_for_variables_pass_wherever_they_stand() -> None:
    text = FULL
    for value in ("transaction: all", "attempts: 12", "connect: 10s", "backup: definitions", "scope: full",
                  "compress: gzip:6", "protected: true", "expect: {value: 0}", "expect: rows >= 1"):  # fmt: skip
        key = value.split(":")[0]
        assert text.count(value) == 1
        text = text.replace(value, f"{key}: '${{X}}'")

    assert parse_manifest(text, file="f").environments == ("dev", "staging", "production")


def test_bare_dollars_stay() -> None:
    manifest = parse_manifest(changed("role: owner", "role: a$b$$c$"), file="f")

    assert manifest.data["defaults"]["role"] == "a$b$c$"


def test_no_finding_shows_a_password() -> None:
    text = f"{MINIMAL}  live: {{databse: 'postgresql://u:s3cret@h/d', protected: 5}}\n  x: {{database: 'mysql://u:s3cret@h'}}\n"

    assert len(findings(text)) == 3
    assert "s3cret" not in repr(findings(text))


def test_find_manifest_looks_upwards(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_text(MINIMAL)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    assert find_manifest(below) == tmp_path / "smeta.yaml"


def test_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingManifest) as caught:
        load_manifest(tmp_path / "smeta.yaml")

    assert caught.value.code == "manifest-missing"
    assert caught.value.hint is not None
    with pytest.raises(MissingManifest):
        load_manifest(tmp_path)


def test_file_that_is_not_utf8_has_a_place(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_bytes("manifest: 1\nproject: ё".encode() + b"\xff\n")

    with pytest.raises(InvalidManifest) as caught:
        load_manifest(tmp_path / "smeta.yaml")

    assert caught.value.findings[0].message == "this is not UTF-8"
    assert str(caught.value.findings[0].location).endswith("smeta.yaml:2:11")


def test_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_bytes(b"#" * (MAX_BYTES + 1))

    with pytest.raises(InvalidManifest, match="larger than 5 MB"):
        load_manifest(tmp_path / "smeta.yaml")


def test_loaded_file_keeps_its_path(tmp_path: Path) -> None:
    (tmp_path / "smeta.yaml").write_bytes(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode())

    manifest = load_manifest(tmp_path / "smeta.yaml")

    assert manifest.path == tmp_path / "smeta.yaml"
    assert manifest.entries[1].location.source_line == "    - 20250915090000"


def test_append_migration_adds_a_line_and_keeps_the_manifest_valid() -> None:
    after = append_migration(FULL, "20251201000000_orders")

    assert after == changed("only: [dev]}\n", "only: [dev]}\n    - 20251201000000_orders\n")
    assert parse_manifest(after, file="f").entries[-1].version == "20251201000000_orders"


@pytest.mark.parametrize("version", ["20251201000000", "true", "null"])
def test_append_migration_quotes_what_yaml_would_not_read_as_text(version: str) -> None:
    after = append_migration(FULL, version)

    assert f'    - "{version}"\n' in after
    assert parse_manifest(after, file="f").entries[-1].version == version


def test_append_migration_says_the_line_when_it_cannot() -> None:
    with pytest.raises(CannotEdit) as caught:
        append_migration(MINIMAL, "1_a")

    assert caught.value.detail == ("migrations:", "  apply:", "    - 1_a")
    assert caught.value.exit_code is Exit.INVALID


def test_append_migration_takes_no_other_names() -> None:
    with pytest.raises(InvalidManifest, match="must be a version"):
        append_migration(FULL, "a: b")


def test_light_commands_do_not_import_the_heavy_libraries() -> None:
    script = (
        "import sys, smeta_declare.manifest as m; m.parse_manifest(sys.stdin.read(), file='f');"
        "sys.exit(', '.join({'jsonschema', 'psycopg', 'jinja2', 'pglast', 'rich'} & sys.modules.keys()) or 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], input=FULL, text=True, capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


# --- the schema, and our reading of it -----------------------------------------------------------------------------

SCHEMA: dict[str, Any] = json.loads(schema_text())
DESCRIBING = {"$schema", "$id", "$defs", "title", "description", "default", "patternErrorMessage"}


def subschemas(schema: object) -> list[dict[str, Any]]:
    if not isinstance(schema, dict):
        return []
    below = [schema.get(k) for k in ("items", "additionalProperties", "propertyNames", "if", "then", "else")]
    below += [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    return [schema, *(found for part in below for found in subschemas(part))]


def test_schema_is_valid_and_uses_only_keywords_we_decide_on() -> None:
    Draft202012Validator.check_schema(SCHEMA)

    assert {key for schema in subschemas(SCHEMA) for key in schema} <= schemas.KEYWORDS | DESCRIBING


def test_every_property_and_every_pattern_is_described() -> None:
    properties = [(k, p) for s in subschemas(SCHEMA) for k, p in s.get("properties", {}).items()]

    assert len(properties) > 50
    assert [name for name, schema in properties if not schema.get("description")] == []
    assert [s for s in subschemas(SCHEMA) if "pattern" in s and "patternErrorMessage" not in s] == []
    assert [
        s for s in subschemas(SCHEMA) if "properties" in s and s.get("additionalProperties") is not False
    ] == []


WORDS = st.sampled_from(
    [
        "all",
        "embedded",
        "10s",
        "gzip:6",
        "schema",
        "dev",
        "postgres://h/d",
        "",
        "-",
        "rows",
        ">= 1",
        "20250101_a",
        "x y",
    ]
)
KEYS = st.sampled_from(
    [
        "manifest",
        "project",
        "defaults",
        "environments",
        "database",
        "service",
        "vars",
        "secret",
        "version",
        "only",
        "apply",
        "migrations",
        "expect",
        "rows",
        "value",
        "name",
        "sql",
        "checks",
        "locks",
        "retries",
        "timeout",
        "policies",
        "é",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2000) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in places(item, (*path, key)))]


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_our_reading_of_the_schema_agrees_with_the_library(data: st.DataObject) -> None:
    instance: Any = json.loads(json.dumps(parse_manifest(FULL, file="f").data))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([p for p in places(instance) if p]))
        holder = instance
        for key in path[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            holder[data.draw(KEYS)] = data.draw(VALUES)
        else:
            holder[path[-1]] = data.draw(VALUES)

    ours = {v.path for v in schemas.violations(instance, SCHEMA, root=SCHEMA)}
    library = list(Draft202012Validator(SCHEMA).iter_errors(instance))

    assert bool(ours) == bool(library)
    # A value of the wrong type is told once; the library goes on to its other keywords, at the same place.
    assert ours <= {tuple(e.absolute_path) for e in library} | {tuple(e.absolute_path)[:-1] for e in library}
    assert {tuple(e.absolute_path) for e in library} <= ours
