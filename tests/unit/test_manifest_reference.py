from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from smeta_declare.manifest import parse_manifest, schema_text
from smeta_declare.resolve import explain

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "reference", ROOT / "docs" / "generate_manifest_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_is_what_the_schema_says() -> None:
    assert generator().render(json.loads(schema_text())) == REFERENCE, (
        "run docs/generate_manifest_reference.py"
    )


def test_every_key_of_the_schema_is_in_the_reference() -> None:
    def keys(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(keys, schema))
        if not isinstance(schema, dict):
            return set()
        return set(schema.get("properties", {})) | set().union(*map(keys, schema.values()))

    assert {key for key in keys(json.loads(schema_text())) if f"| `{key}` |" not in REFERENCE} == set()


def test_example_of_the_reference_is_valid_and_resolves() -> None:
    example = re.search(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)
    assert example is not None

    manifest = parse_manifest(example[1], file="smeta.yaml")

    for name in manifest.environments:
        assert explain(manifest, name, {"SMETA_STAGING_URL": "postgresql://h/d"})


def test_defaults_of_the_schema_are_the_ones_that_hold() -> None:
    manifest = parse_manifest(
        "manifest: 1\nproject: p\nenvironments: {dev: {database: embedded}}\n"
        "tenancy: {strategy: row, registry: {table: t}, roles: {owner: o, application: [a]}, tables: {t: registry}}",
        file="f",
    )
    built_in = {s.path: s.value for s in explain(manifest, "dev", {}) if s.origin == "built-in default"}
    schema = json.loads(schema_text())

    def defaults(part: dict[str, Any], path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in part.get("properties", {}).items():
            below = (
                {**schema["$defs"][value["$ref"].removeprefix("#/$defs/")], **value}
                if "$ref" in value
                else value
            )
            if "default" in below:
                found[f"{path}{key}"] = below["default"]
            found |= defaults(below, f"{path}{key}.")
        return found

    environment = schema["properties"]["environments"]["additionalProperties"]
    top = {k: v for k, v in defaults(schema, "").items() if not k.startswith("defaults.")}
    documented = defaults(environment, "") | top

    assert {**documented, "role": None, "locks.require_quiet": None} == built_in
    assert defaults(schema["properties"]["defaults"], "").items() <= documented.items()
