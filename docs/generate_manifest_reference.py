"""Writes docs/manifest.md from the schema: `python docs/generate_manifest_reference.py`. A test compares the two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TYPES = {
    "string": "text",
    "integer": "whole number",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
}

INTRODUCTION = """\
<!-- Generated from schemas/manifest.schema.json by docs/generate_manifest_reference.py: change it there. -->

# The manifest, `smeta.yaml`

One file says which migrations a PostgreSQL database gets, in which environments, under which backup policies, for which
tenants.

```yaml
# yaml-language-server: $schema=./schemas/manifest.schema.json
manifest: 1
project: shop

defaults:
  backup: schema_before_apply
  vars: {search_language: russian}

environments:
  dev:
    database: embedded
  ci:
    database: ${SMETA_CI_URL:-embedded}
  staging:
    database: ${SMETA_STAGING_URL:?set the staging connection string}
    vars: {app_password: {secret: SMETA_APP_PASSWORD}}
  production:
    extends: staging
    database: {service: shop-production}
    role: shop_owner
    transaction: each
    protected: true

migrations:
  directory: migrations
  apply:
    - 20250901090000_customers
    - version: 20251007120000_order_indexes
      requires: [20250901090000_customers]
      timeouts: {concurrent: 4h}

backups:
  policies:
    schema_before_apply: {scope: schema, format: plain}

checks:
  - name: every order has a customer
    sql: select count(*) from orders o left join customers c on c.id = o.customer_id where c.id is null
    expect: value = 0
```

## How it is read

- **A safe part of YAML.** Keys given twice, merge keys, anchors, aliases, tags and unknown keys are mistakes. All
  mistakes of the file are told at once, each with its line. `true` and `false` are truth values, whole numbers are
  numbers, everything else is text: `yes`, `1.10` and dates too. Versions are always text.
- **Variables.** In values, `${NAME}` is the environment variable of that name, `${NAME:-default}` says what holds
  where it is unset or empty, `${NAME:?message}` what a person is told then. `$$` is a dollar, a bare `$` stays. Only
  what the chosen environment needs is looked up. A value without quotes is read as if it stood in the file, so that
  `${CONCURRENTLY:-true}` is a truth value; inside `{ }` and `[ ]` it needs quotes, and is text where text is allowed.
  Versions, `requires`, `only`, `extends` and `migrations.directory` are the same for everybody and take no variables.
- **Inheritance.** An environment starts from `defaults`, then from what it `extends`, then says its own: mappings
  merge, lists replace, null unsets. `smeta config --env NAME --explain` shows where every value comes from.
- **The target** is `database:` alone. `DATABASE_URL`, then `PGHOST`, `PGDATABASE` or `PGSERVICE` serve an environment
  without it, and never a protected one.
- **`SMETA_VAR_<name>`** in the process's environment replaces the entry of `vars` of that name, by a value of the same
  type; never a list or a secret.
- **Durations** are a whole number with a unit: `200ms`, `2s`, `15min`, `2h`.

"""


def render(schema: Mapping[str, Any]) -> str:
    """The reference as Markdown."""
    return INTRODUCTION + "\n".join(section.rstrip("\n") + "\n" for section in sections(schema, schema, ""))


def sections(schema: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    """One section for this mapping, then those of the mappings in it."""
    properties = schema.get("properties", {})
    if properties:
        required = schema.get("required", ())
        head = ["| key | value | default | meaning |", "|---|---|---|---|"]
        rows = [
            row(key, resolved(value, root), root, required=key in required)
            for key, value in properties.items()
        ]
        described = schema.get("description", "")
        yield "\n".join(
            [f"## `{path or 'smeta.yaml'}`", "", *([described, ""] if described else []), *head, *rows, ""]
        )
    for key, value in properties.items():
        yield from below(resolved(value, root), root, f"{path}.{key}" if path else key)


def below(schema: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[str]:
    """The sections of a value: its own mapping, what its keys or items hold, what holds under a condition."""
    if path.startswith("environments.<name>.") and path.split(".")[-1] in ("timeouts", "locks", "vars"):
        return  # as in `defaults`
    if path.startswith("migrations.apply[]."):
        return
    yield from sections(schema, root, path)
    if then := schema.get("then"):
        yield from sections({**then, "description": schema["description"]}, root, path)
    if isinstance(named := schema.get("additionalProperties"), dict):
        yield from below(resolved(named, root), root, f"{path}.<name>")
    if items := schema.get("items"):
        yield from below(resolved(items, root), root, f"{path}[]")


def row(key: str, schema: Mapping[str, Any], root: Mapping[str, Any], *, required: bool) -> str:
    """One line of a table."""
    default = "required" if required else f"`{shown(schema['default'])}`" if "default" in schema else ""
    return f"| `{key}` | {value_of(schema, root)} | {default} | {schema['description'].replace('|', chr(92) + '|')} |"


def value_of(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What may be written there, in a few words."""
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{shown(value)}`" for value in allowed if value is not None)
    if schema.get("pattern") == root["$defs"]["duration"]["pattern"]:
        return "duration"
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return " or ".join(TYPES[t] for t in types if t != "null")


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with what it refers to; what stands beside the reference wins."""
    if "$ref" not in schema:
        return schema
    return {**root["$defs"][schema["$ref"].removeprefix("#/$defs/")], **schema}


def shown(value: object) -> str:
    """A value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    text = (ROOT / "schemas" / "manifest.schema.json").read_text(encoding="utf-8")
    (ROOT / "docs" / "manifest.md").write_text(render(json.loads(text)), encoding="utf-8", newline="\n")
