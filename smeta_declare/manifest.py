"""smeta.yaml: what the user wrote, with the place of every word, and every mistake in it told at once."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smeta_declare import interpolation, schemas, yaml_source
from smeta_declare.diagnostics import Diagnostic, Location, nearest
from smeta_declare.errors import InvalidManifest
from smeta_declare.references import reference_findings
from smeta_declare.schemas import Deferred, KeyPath, Violation, path_text
from smeta_declare.yaml_source import Document, invalid, mistake

FILE_NAME = "smeta.yaml"
MAX_BYTES = 5_000_000
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


class MissingManifest(InvalidManifest):
    """There is no manifest to read."""

    code = "manifest-missing"


class CannotEdit(InvalidManifest):
    """The manifest is laid out in a way that only a person can extend."""

    code = "manifest-edit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of `migrations.apply`: which version, and where it is written."""

    version: str
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest without mistakes. `${…}` in it is unresolved: that is `resolve`'s business."""

    file: str  # as it was given, for messages
    path: Path | None  # None: the text did not come from a file
    document: Document
    data: Mapping[str, Any]  # texts with `${…}` are Deferred

    @property
    def project(self) -> str:
        """The name of the project, as written."""
        return str(self.data["project"])

    @property
    def environments(self) -> tuple[str, ...]:
        """The names of the environments, in the order of the file."""
        return tuple(self.data["environments"])

    @property
    def migrations_directory(self) -> str:
        """Where the migration files are, relative to the manifest."""
        return str((self.data.get("migrations") or {}).get("directory", "migrations"))

    @property
    def backups_directory(self) -> str:
        """Where backups are kept, relative to the manifest, as written; an environment has it resolved."""
        return str((self.data.get("backups") or {}).get("directory", "backups"))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every migration listed, for whatever environment, in order."""
        listed = (self.data.get("migrations") or {}).get("apply") or []
        return tuple(
            Entry(
                version=item["version"] if isinstance(item, dict) else item,
                location=self.document.at(("migrations", "apply", index)),
            )
            for index, item in enumerate(listed)
        )

    @property
    def listed(self) -> dict[str, Location]:
        """Every version that is listed, and where."""
        return {entry.version: entry.location for entry in self.entries}


def schema_text() -> str:
    """The JSON Schema of the manifest, as published."""
    return schemas.schema_text("manifest")


def find_manifest(start: Path) -> Path:
    """The `smeta.yaml` of this directory, or of the nearest one above it."""
    directory = start.absolute()
    for place in (directory, *directory.parents):
        if (place / FILE_NAME).is_file():
            return place / FILE_NAME
    raise MissingManifest(
        f"no {FILE_NAME} in {directory} or above it",
        hint=f"create {FILE_NAME}, or name the file with `--manifest FILE`",
    )


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest; InvalidManifest carries every mistake in it."""
    file = str(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise MissingManifest(f"{file} is not a file", hint="name the manifest with `--manifest FILE`")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingManifest(
            f"there is no {file}", hint=f"create {FILE_NAME}, or use `--manifest FILE`"
        ) from error
    except OSError as error:
        raise MissingManifest(
            f"{file} cannot be read: {error.strerror}", hint="look at its permissions"
        ) from error
    if len(content) > MAX_BYTES:
        raise InvalidManifest(f"{file} is larger than 5 MB", hint="is this the manifest?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        place = Location.of(file, before, len(before))
        fault = mistake("manifest-yaml", "this is not UTF-8", place, hint="save the file in UTF-8")
        raise invalid(file, [fault]) from error
    return _manifest(text, file=file, path=path)


def parse_manifest(text: str, *, file: str) -> Manifest:
    """Check a manifest that is already in memory; `file` is its name in messages."""
    return _manifest(text, file=file, path=None)


def append_migration(text: str, version: str) -> str:
    """The manifest with a version added at the end of `migrations.apply`; nothing else in it changes."""
    schema = schemas.load("manifest")
    for violation in schemas.violations(version, schema["$defs"]["version"]):
        raise InvalidManifest(f"`{version}` {violation.schema['patternErrorMessage']}")
    bare = yaml_source.scalar(version) == version
    try:
        # Read by other tools, too: what YAML would take for a number or a truth value gets quotes.
        return yaml_source.append(text, ("migrations", "apply"), version if bare else json.dumps(version))
    except yaml_source.CannotAppend as error:
        raise CannotEdit(
            f"{version} cannot be added to `migrations.apply` without disturbing the manifest",
            hint="add the line by hand",
            detail=("migrations:", "  apply:", f"    - {version if bare else json.dumps(version)}"),
        ) from error


def _manifest(text: str, *, file: str, path: Path | None) -> Manifest:
    document = yaml_source.read(text, file=file)
    findings = list(document.problems)
    data = _prepared(document, document.data, (), findings)
    findings += schema_findings(data, document)
    if isinstance(data, dict):
        findings += reference_findings(data, document)
    if findings:
        raise invalid(file, findings)
    assert isinstance(data, dict)  # noqa: S101 - the schema says so
    return Manifest(file=file, path=path, document=document, data=data)


def _prepared(document: Document, value: object, path: KeyPath, findings: list[Diagnostic]) -> object:
    """The values with names as text, `$$` as a dollar, and text that waits for variables marked Deferred."""
    if isinstance(value, dict):
        return {key: _prepared(document, item, (*path, key), findings) for key, item in value.items()}
    if isinstance(value, list):
        return [_prepared(document, item, (*path, index), findings) for index, item in enumerate(value)]
    if isinstance(value, Deferred):
        return value
    is_name = _is_name(path)
    if is_name:
        value = document.written(path) or value  # versions are text, whatever YAML would make of them
    if not isinstance(value, str) or "$" not in value:
        return value
    try:
        parts = interpolation.parse(value)
    except interpolation.Malformed as error:
        place = document.at(path, offset=error.offset)
        hint = "write `$$` for a dollar that is meant literally"
        findings.append(mistake("manifest-interpolation", error.message, place, hint=hint))
        return Deferred(value)
    if all(isinstance(part, str) for part in parts):
        return "".join(part for part in parts if isinstance(part, str))
    if is_name:
        told = f"`{path_text(path)}` is the same for everybody: no variables here"
        findings.append(
            mistake("manifest-interpolation", told, document.at(path), hint="write the name itself")
        )
    return Deferred(value)


def _is_name(path: KeyPath) -> bool:
    """Whether a place holds a name that must not depend on where the manifest is read."""
    match path:
        case (
            ("migrations", "directory")
            | ("migrations", "apply", int())
            | ("migrations", "apply", int(), "version")
            | ("migrations", "apply", int(), "requires" | "only", int())
            | ("environments", str(), "extends")
            | ("tenancy", "since")
        ):
            return True
        case _:
            return False


def schema_findings(
    data: object, document: Document, *, origins: Mapping[KeyPath, KeyPath] | None = None,
    variables: Mapping[KeyPath, Iterable[str]] | None = None,
) -> list[Diagnostic]:  # fmt: skip
    """What the schema has against the data.

    For a resolved environment, `origins` says where a value was written and `variables` whose values it
    holds: such a value is never shown.
    """
    schema = schemas.load("manifest")
    found = list(schemas.violations(data, schema))
    unknown = [
        (v.path, nearest(v.key or "", v.schema["properties"]))
        for v in found
        if v.keyword == "additionalProperties"
    ]
    told = []
    for violation in found:
        if violation.keyword == "required" and (violation.path, violation.key) in unknown:
            continue  # misspelt, and told as that
        path = (origins or {}).get(violation.path, violation.path)
        names = tuple((variables or {}).get(path, ()))
        told.append(_told(violation, document, path, names, schema))
    return told


def _told(
    violation: Violation,
    document: Document,
    path: KeyPath,
    variables: tuple[str, ...],
    schema: schemas.Schema,
) -> Diagnostic:
    rule, instance, key = violation.schema, violation.instance, violation.key or ""
    name = f"`{path_text(path)}`" if path else "the manifest"
    if variables:
        name += f" (the value of {', '.join(variables)})"
    place, allowed = document.at(path), rule.get("patternErrorMessage")
    match violation.keyword:
        case "additionalProperties":
            close = nearest(key, rule["properties"])
            return mistake(
                "manifest-unknown-key",
                f"`{key}` is no key of {name}; the keys are {_listed(rule['properties'])}",
                document.at_key((*path, key)),
                hint=f"did you mean `{close}`?" if close else None,
            )
        case "propertyNames":
            return mistake("manifest-value", f"`{key}` in {name} {allowed}", document.at_key((*path, key)))
        case "required":
            return mistake("manifest-required", f"{name} needs `{key}`", place, hint=f"add `{key}:`")
        case "type":
            types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
            wanted = allowed or "must be " + " or ".join(_TYPES[t] for t in types if t != "null")
            found = _TYPES[schemas.type_of(instance)]
            return mistake(
                "manifest-type", f"{name} {wanted}, not {found}", place, hint=_type_hint(violation, schema)
            )
        case "enum" | "const":
            values = [v for v in rule.get("enum", [rule.get("const")]) if v is not None]
            close = nearest(str(instance), map(str, values)) if not variables else None
            shown = "" if variables else f", not `{_yaml(instance)}`"
            return mistake(
                "manifest-value",
                f"{name} must be {' or '.join(f'`{_yaml(v)}`' for v in values)}{shown}",
                place,
                hint=f"did you mean `{close}`?" if close else None,
            )
        case "pattern":
            close = (
                nearest(str(instance), ("embedded",))
                if path[-1:] == ("database",) and not variables
                else None
            )
            return mistake(
                "manifest-value", f"{name} {allowed}", place, hint=close and f"did you mean `{close}`?"
            )
        case "minLength" | "minItems" | "minProperties":
            return mistake("manifest-value", f"{name} must not be empty", place)
        case "maxLength":
            return mistake("manifest-value", f"{name} is longer than {rule['maxLength']} characters", place)
        case "minimum" | "maximum":
            bound = "at least" if violation.keyword == "minimum" else "at most"
            return mistake("manifest-value", f"{name} must be {bound} {rule[violation.keyword]}", place)
        case "maxProperties":
            return mistake("manifest-value", f"{name} takes only one of {_listed(rule['properties'])}", place)
        case other:
            raise AssertionError(other)  # a test knows the keywords that our schemas use


def _type_hint(violation: Violation, schema: schemas.Schema) -> str | None:
    number = isinstance(violation.instance, int) and not isinstance(violation.instance, bool)
    if number and violation.schema == schema["$defs"]["duration"]:
        return f"say the unit: `{violation.instance}ms`, `{violation.instance}s`, `{violation.instance}min`"
    if schemas.type_of(violation.instance) in ("integer", "boolean") and "string" in violation.schema["type"]:
        return "put it between quotes"
    return None


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
