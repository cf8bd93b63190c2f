from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from smeta_declare import schemas
from smeta_declare.errors import InvalidManifest
from smeta_declare.manifest import parse_manifest, schema_text
from smeta_declare.resolve import resolve

FULL = (Path(__file__).parent / "full_manifest.yaml").read_text(encoding="utf-8")  # every key there is
SCHEMA: dict[str, Any] = json.loads(schema_text())
KEYWORDS = {  # what manifest._told has words for
    *("$ref", "type", "enum", "const", "pattern", "minLength", "maxLength", "minimum", "maximum"),
    *("items", "minItems", "maxItems", "properties", "additionalProperties", "propertyNames", "required"),
    *("minProperties", "maxProperties", "if", "then", "else"),
}
DESCRIBING = {"$schema", "$id", "$defs", "title", "description", "default", "patternErrorMessage"}


def subschemas(schema: object) -> list[dict[str, Any]]:
    if not isinstance(schema, dict):
        return []
    below = [schema.get(k) for k in ("items", "additionalProperties", "propertyNames", "if", "then", "else")]
    below += [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    return [schema, *(found for part in below for found in subschemas(part))]


def test_schema_is_valid_and_uses_only_keywords_we_have_words_for() -> None:
    Draft202012Validator.check_schema(SCHEMA)

    assert {key for schema in subschemas(SCHEMA) for key in schema} <= KEYWORDS | DESCRIBING


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


def mutated(data: st.DataObject) -> Any:
    """The full manifest with one or two places that hold something else."""
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
    return instance


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_the_quick_yes_is_never_wrong_and_a_no_is_rare(data: st.DataObject) -> None:
    instance = mutated(data)

    quick = schemas.keeps(instance, SCHEMA, SCHEMA)

    # Patterns end at the end of the text here and for ECMA; Python's `$` lets a final newline pass.
    assert quick == Draft202012Validator(SCHEMA).is_valid(instance)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_is_wrong_with_a_manifest_is_told_as_that(data: st.DataObject) -> None:
    text = json.dumps(mutated(data), ensure_ascii=False)  # JSON is YAML
    environ = {"STAGING_URL": "postgresql://h/d", "DATABASE_URL": "x"}

    with suppress(InvalidManifest):  # and nothing else is ever raised
        manifest = parse_manifest(text, file="f")
        for name in manifest.environments:
            assert resolve(manifest, name, environ).name == name
