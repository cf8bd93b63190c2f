"""The published JSON Schemas, and the question whether a value keeps to one: `jsonschema` answers it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
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
    here = Path(__file__).parent
    packaged = here / "schemas" / file
    return (packaged if packaged.is_file() else here.parent / "schemas" / file).read_text(encoding="utf-8")


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
    if keeps(instance, schema, schema):
        return
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


def keeps(instance: object, schema: Schema, root: Schema) -> bool:
    """Whether a value surely keeps to a schema, answered without importing a library; no is no verdict.

    Nearly every manifest is valid, and jsonschema takes 0.15 s to say so of a thousand migrations, half of it
    to be imported (measured): as long as everything else that `smeta status` does of its own. A keyword that is
    not known here is a no; a test holds the yes against jsonschema's.
    """
    return all(keyword in _QUICK and _QUICK[keyword](instance, schema, root) for keyword in schema)


def _each_keeps(instance: object, schema: Schema, root: Schema) -> bool:
    """`properties` and `additionalProperties`, which say nothing without each other."""
    if not isinstance(instance, dict):
        return True
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(
        keeps(value, known[key], root)
        if key in known
        else others is True or (others is not False and keeps(value, others, root))
        for key, value in instance.items()
    )


def _branch(instance: object, schema: Schema, root: Schema) -> bool:
    # The condition must be certain: one that only looks at the type is.
    if schema["if"].keys() != {"type"}:
        return False
    return keeps(instance, schema.get("then" if keeps(instance, schema["if"], root) else "else", {}), root)


def _passes(*_: object) -> bool:
    return True


_QUICK: Mapping[str, Callable[[Any, Any, Any], bool]] = {
    **dict.fromkeys(
        ("$schema", "$id", "$defs", "title", "description", "default", "patternErrorMessage"), _passes
    ),
    "$ref": lambda i, s, root: keeps(i, definition(root, s["$ref"]), root),
    "type": lambda i, s, _: type_of(i) in _types(s),
    "enum": lambda i, s, _: any(i == allowed and type(i) is type(allowed) for allowed in s["enum"]),
    "const": lambda i, s, _: i == s["const"] and type(i) is type(s["const"]),
    "pattern": lambda i, s, _: not isinstance(i, str) or matches(s["pattern"], i),
    "minLength": lambda i, s, _: not isinstance(i, str) or len(i) >= s["minLength"],
    "maxLength": lambda i, s, _: not isinstance(i, str) or len(i) <= s["maxLength"],
    "minimum": lambda i, s, _: type(i) is not int or i >= s["minimum"],
    "maximum": lambda i, s, _: type(i) is not int or i <= s["maximum"],
    "minItems": lambda i, s, _: not isinstance(i, list) or len(i) >= s["minItems"],
    "maxItems": lambda i, s, _: not isinstance(i, list) or len(i) <= s["maxItems"],
    "items": lambda i, s, root: not isinstance(i, list) or all(keeps(v, s["items"], root) for v in i),
    "minProperties": lambda i, s, _: not isinstance(i, dict) or len(i) >= s["minProperties"],
    "maxProperties": lambda i, s, _: not isinstance(i, dict) or len(i) <= s["maxProperties"],
    "required": lambda i, s, _: not isinstance(i, dict) or all(key in i for key in s["required"]),
    "propertyNames": lambda i, s, root: (
        not isinstance(i, dict) or all(keeps(key, s["propertyNames"], root) for key in i)
    ),
    "properties": _each_keeps,
    "additionalProperties": lambda i, s, root: "properties" in s or _each_keeps(i, s, root),
    "if": _branch,
    "then": _passes,
    "else": _passes,
}


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches: ECMA's `$`, which JSON Schema means, lets no final newline pass."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


@cache
def _validator(schema: str) -> Any:
    """The library's validator, with two of its words changed: text that waits for a variable breaks no rule,
    and a pattern means the whole text."""
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
