"""The published JSON Schemas, and the question whether a value keeps to one.

`violations` knows the keywords that our schemas use and no more (a test sees to it, and compares it with the
`jsonschema` library). It is here because importing that library takes longer than reading the manifest does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
Schema: TypeAlias = Mapping[str, Any]

#: What `violations` decides on; the other keywords of our schemas only describe.
KEYWORDS = frozenset({
    "$ref", "type", "enum", "const", "pattern", "minLength", "maxLength", "minimum", "maximum", "items",
    "minItems", "maxItems", "properties", "additionalProperties", "propertyNames", "required",
    "minProperties", "maxProperties", "if", "then", "else",
})  # fmt: skip


class Deferred(str):
    """Text that stands for a value which is not known yet: it violates nothing."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One place where a value breaks the schema; `key` is the one that is unknown, misnamed or missing."""

    path: KeyPath
    keyword: str
    schema: Schema
    instance: object
    key: str | None = None


def schema_text(name: str) -> str:
    """A schema as published, such as `manifest`: from the installed package, else from the checkout."""
    file = f"{name}.schema.json"
    packaged = files("smeta_declare") / "schemas" / file
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parent.parent / "schemas" / file).read_text(encoding="utf-8")


@cache
def load(name: str) -> Schema:
    """The schema as data."""
    schema: Schema = json.loads(schema_text(name))
    return schema


def path_text(path: KeyPath) -> str:
    """A place as people write it, counting from 0: `migrations.apply[3].version`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def type_of(value: object) -> str:
    """JSON Schema's word for the type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            raise TypeError(f"{type(value).__name__} is no JSON")


def violations(instance: object, schema: Schema, *, root: Schema, path: KeyPath = ()) -> Iterator[Violation]:
    """Every violation, in the order of the schema; a value of the wrong type is told once."""
    if isinstance(instance, Deferred):
        return
    if reference := schema.get("$ref"):
        yield from violations(instance, definition(root, reference), root=root, path=path)

    def broken(keyword: str) -> Violation:
        return Violation(path=path, keyword=keyword, schema=schema, instance=instance)

    if "type" in schema and type_of(instance) not in _types(schema):
        yield broken("type")
        return
    if "enum" in schema and not any(_same(instance, allowed) for allowed in schema["enum"]):
        yield broken("enum")
    if "const" in schema and not _same(instance, schema["const"]):
        yield broken("const")
    match instance:
        case str():
            if "pattern" in schema and not _matches(schema["pattern"], instance):
                yield broken("pattern")
            yield from map(broken, _outside(len(instance), schema, "minLength", "maxLength"))
        case int() if not isinstance(instance, bool):
            yield from map(broken, _outside(instance, schema, "minimum", "maximum"))
        case list():
            yield from map(broken, _outside(len(instance), schema, "minItems", "maxItems"))
            if "items" in schema:
                for index, item in enumerate(instance):
                    yield from violations(item, schema["items"], root=root, path=(*path, index))
        case dict():
            yield from map(broken, _outside(len(instance), schema, "minProperties", "maxProperties"))
            yield from _of_mapping(instance, schema, root, path)
        case _:
            pass  # true, false and nothing have no further properties
    if "if" in schema:
        holds = next(violations(instance, schema["if"], root=root, path=path), None) is None
        branch = schema.get("then" if holds else "else", {})
        yield from violations(instance, branch, root=root, path=path)


def _of_mapping(
    instance: Mapping[str, object], schema: Schema, root: Schema, path: KeyPath
) -> Iterator[Violation]:
    def broken(keyword: str, key: str, within: Schema = schema) -> Violation:
        return Violation(path=path, keyword=keyword, schema=within, instance=instance, key=key)

    for key in schema.get("required", ()):
        if key not in instance:
            yield broken("required", key)
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for key, value in instance.items():
        if names := schema.get("propertyNames"):
            yield from (broken("propertyNames", key, names) for _ in violations(key, names, root=root))
        if key in known:
            yield from violations(value, known[key], root=root, path=(*path, key))
        elif others is False:
            yield broken("additionalProperties", key)
        else:
            yield from violations(value, others, root=root, path=(*path, key))


def types_at(schema: Schema, path: KeyPath, root: Schema) -> frozenset[str]:
    """The types that the schema allows at a place, whatever the conditions."""
    if reference := schema.get("$ref"):
        schema = {**definition(root, reference), **schema, "$ref": None}
    if not path:
        return _types(schema)
    found: frozenset[str] = frozenset()
    for part in (schema, schema.get("then", {}), schema.get("else", {})):
        below = part.get("items") if isinstance(path[0], int) else part.get("properties", {}).get(path[0])
        below = below or (not isinstance(path[0], int) and part.get("additionalProperties"))
        if below:
            found |= types_at(below, path[1:], root)
    return found


def definition(root: Schema, reference: str) -> Schema:
    """What `#/$defs/…` refers to."""
    found: Schema = root["$defs"][reference.removeprefix("#/$defs/")]
    return found


def _types(schema: Schema) -> frozenset[str]:
    types = schema.get("type", ())
    return frozenset((types,) if isinstance(types, str) else types)


def _same(instance: object, allowed: object) -> bool:
    return instance == allowed and type_of(instance) == type_of(allowed)  # Python takes true for 1


def _matches(pattern: str, text: str) -> bool:
    # Our patterns are anchored at both ends; Python's `$` would let a final newline pass.
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


def _outside(number: int, schema: Schema, least: str, most: str) -> Iterator[str]:
    if number < schema.get(least, number):
        yield least
    if number > schema.get(most, number):
        yield most
