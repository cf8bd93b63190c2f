"""The published JSON Schemas, and the question whether a value keeps to one: `jsonschema` answers it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

KeyPath: TypeAlias = tuple[str | int, ...]
Schema: TypeAlias = Mapping[str, Any]


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


def violations(instance: object, schema: Schema) -> Iterator[Violation]:
    """Every violation; a value of the wrong type is told once, an unknown key each."""
    errors = tuple(_validator(json.dumps(schema)).iter_errors(instance))
    mistyped = {tuple(e.absolute_path) for e in errors if e.validator == "type"}
    told = set()
    for error in errors:
        path: KeyPath = tuple(error.absolute_path)
        if path in mistyped and error.validator != "type":
            continue
        # Of a name the library says only that it breaks a rule, not that it is a key.
        named = "propertyNames" in error.absolute_schema_path
        keyword = "propertyNames" if named else str(error.validator)
        for key in (error.instance,) if named else _keys(error):
            if key is None or (path, keyword, key) not in told:
                told.add((path, keyword, key))
                yield Violation(
                    path=path, keyword=keyword, schema=error.schema, instance=error.instance, key=key
                )


def _keys(error: Any) -> tuple[str | None, ...]:
    """The keys that an error is about: the unknown ones, the missing ones, or none in particular."""
    if error.validator == "additionalProperties":
        return tuple(key for key in error.instance if key not in error.schema.get("properties", {}))
    if error.validator == "required":
        return tuple(key for key in error.validator_value if f"{key!r} is" in error.message)
    return (None,)


@cache
def _validator(schema: str) -> Any:
    """The library's validator, with two of its words changed: text that waits for a variable breaks no rule,
    and a pattern means the whole text (ECMA's `$`, which JSON Schema means, lets no final newline pass)."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    def waiting(keyword: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
        def check(
            validator: Any, value: object, instance: object, within: Schema
        ) -> Iterator[ValidationError]:
            if not isinstance(instance, Deferred):
                yield from keyword(validator, value, instance, within) or ()

        return check

    def pattern(_: Any, value: str, instance: object, within: Schema) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not re.fullmatch(
            value.removeprefix("^").removesuffix("$"), instance
        ):
            yield ValidationError(f"{instance!r} does not match {value!r}")

    keywords = {**Draft202012Validator.VALIDATORS, "pattern": pattern}
    tolerant = extend(  # type: ignore[no-untyped-call] # so are its stubs
        Draft202012Validator, {name: waiting(check) for name, check in keywords.items()}
    )
    return tolerant(json.loads(schema))


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
