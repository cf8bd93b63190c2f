"""From the manifest to one environment: inheritance, variables, the target, and where every value comes from.

Pure: the process's environment is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from smeta_declare import interpolation, schemas, yaml_source
from smeta_declare.backup.policy import BackupPolicy, strongest
from smeta_declare.conninfo import Conninfo
from smeta_declare.diagnostics import Diagnostic, Location, nearest
from smeta_declare.environment import (
    Check,
    EmbeddedDatabase,
    Environment,
    HistoryPlace,
    Locks,
    MigrationEntry,
    Timeouts,
)
from smeta_declare.errors import UnknownEnvironment
from smeta_declare.inheritance import Leaf, built_in, duration_ms, merged, nested
from smeta_declare.manifest import Manifest, schema_findings
from smeta_declare.references import chain, expectation, reference_findings, undemanded, unprotected
from smeta_declare.rendered import Secret, Value
from smeta_declare.schemas import Deferred, KeyPath, path_text
from smeta_declare.tenancy.declaration import settings_of, tenancy_of
from smeta_declare.yaml_source import Document, invalid, mistake

_AMBIENT = ("PGHOST", "PGDATABASE", "PGSERVICE")
_OVERRIDE = "SMETA_VAR_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One effective value, fit to be printed, and where it comes from."""

    keys: tuple[str, ...]  # ("locks", "timeout")
    value: str | int | bool | list[str | int | bool] | None
    origin: str  # "defaults", "environments.production", "built-in default", "SMETA_VAR_x", "DATABASE_URL"
    location: Location | None

    @property
    def path(self) -> str:
        """As people write it: `locks.timeout`."""
        return path_text(self.keys)


@dataclass(slots=True, kw_only=True)
class _Resolution:
    """The work on one environment: values with their variables put in, and what was wrong."""

    manifest: Manifest
    name: str
    environ: Mapping[str, str]
    findings: list[Diagnostic] = field(default_factory=list)
    used: dict[KeyPath, tuple[str, ...]] = field(
        default_factory=dict
    )  # place → variables whose values it holds
    replaced: bool = False  # whether any `${…}` was resolved, if only to its default

    @property
    def document(self) -> Document:
        return self.manifest.document

    def known(self, value: Any, place: KeyPath) -> Any:
        """The value with every `${…}` in it replaced; what cannot be is a finding, and stays unknown."""
        match value:
            case Deferred():
                return self._text(value, place)
            case dict():
                return {key: self.known(item, (*place, key)) for key, item in value.items()}
            case list():
                return [self.known(item, (*place, index)) for index, item in enumerate(value)]
            case _:
                return value

    def _text(self, text: Deferred, place: KeyPath) -> Any:
        self.replaced = True
        try:
            found = interpolation.substitute(interpolation.parse(text), self.environ)
        except interpolation.Unset as error:
            wanted = error.reference
            told = f"{wanted.name} is not set; `{path_text(place)}` of environment `{self.name}` needs it"
            self.findings.append(
                mistake(
                    "manifest-interpolation",
                    f"{told}: {wanted.message}" if wanted.message else told,
                    self.document.at(place, offset=wanted.offset),
                    hint=f"set it with `export {wanted.name}=…`, or write `${{{wanted.name}:-default}}`",
                )
            )
            return text
        self.used[place] = tuple(dict.fromkeys(found.used))
        schema = schemas.load("manifest")
        types = schemas.types_at(schema, place, schema)
        if self.document.is_plain(place) or "string" not in types:  # as if the value stood there
            typed = yaml_source.scalar(found.text)
            if typed is not None and schemas.type_of(typed) in types:
                return typed
        return found.text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolved:
    environment: Environment
    settings: tuple[Setting, ...]


def resolve(
    manifest: Manifest, name: str, environ: Mapping[str, str], *, offline: bool = False
) -> Environment:
    """The environment with all its values; UnknownEnvironment or InvalidManifest where that cannot be.

    Offline its addresses are not looked at: whoever only renders needs none of their variables.
    """
    return _resolved(manifest, name, environ, offline=offline).environment


def explain(manifest: Manifest, name: str, environ: Mapping[str, str]) -> tuple[Setting, ...]:
    """Each effective setting and where it comes from, secrets masked."""
    return _resolved(manifest, name, environ).settings


def effective(manifest: Manifest, name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The effective settings as one mapping that may be printed, secrets masked."""
    found: dict[str, Any] = {"environment": name}
    for setting in explain(manifest, name, environ):
        *above, last = setting.keys
        holder = found
        for key in above:
            holder = holder.setdefault(key, {})
        holder[last] = setting.value
    return found


def _resolved(
    manifest: Manifest, name: str, environ: Mapping[str, str], *, offline: bool = False
) -> _Resolved:
    if name not in manifest.environments:
        close = nearest(name, manifest.environments)
        known = f"the manifest has {', '.join(f'`{n}`' for n in manifest.environments)}"
        hint = f"did you mean `{close}`? {known}" if close else known
        raise UnknownEnvironment(f"there is no environment `{name}` in {manifest.file}", hint=hint)
    work = _Resolution(manifest=manifest, name=name, environ=environ)
    leaves = {
        path: replace(leaf, value=work.known(leaf.value, leaf.place or ()))
        for path, leaf in merged(manifest.data, name).items()
        if not (offline and path[0] in ("database", "direct"))
    }
    top = _top_level(work)
    _check_protection(work)
    _override_variables(work, leaves)
    work.findings += _recheck(work, leaves, top)
    database = Conninfo(dsn="", source="offline") if offline else _database(work, leaves)
    direct = None if offline else _direct(work, leaves, database)
    if work.findings or database is None:
        raise invalid(manifest.file, work.findings)
    for path, value in built_in().items():
        leaves.setdefault(path, Leaf(value=value))
    settings = (*_top_settings(work, top), *_settings(work, leaves, database, direct))
    return _Resolved(environment=_environment(work, leaves, top, database, direct), settings=settings)


def _top_level(work: _Resolution) -> dict[str, Any]:
    """Everything beside the environments, resolved; entries for others keep only their version."""
    data = work.manifest.data
    found = {
        k: work.known(data[k], (k,))
        for k in ("manifest", "project", "history", "backups", "tenancy", "checks")
        if k in data
    }
    if "migrations" in data:
        listed = data["migrations"].get("apply") or []
        ours = [
            work.known(item, ("migrations", "apply", index)) if _is_for(item, work.name) else item["version"]
            for index, item in enumerate(listed)
        ]
        found["migrations"] = {**data["migrations"], "apply": ours}
    return found


def _is_for(entry: Any, environment: str) -> bool:
    return not isinstance(entry, dict) or "only" not in entry or environment in entry["only"]


def _check_protection(work: _Resolution) -> None:
    """`protected: ${…}` and `require: [${…}]` are known only now: they may not take back what was inherited."""
    environments, guard = work.manifest.data["environments"], None
    for name in chain(environments, work.name):
        block = environments[name] or {}
        if "protected" not in block:
            continue
        own = work.known(block["protected"], ("environments", name, "protected"))
        if guard and own is not True and not isinstance(own, Deferred):
            work.findings.append(unprotected(work.document, name, guard))
        guard = name if own is True else guard
    demanded: list[list[Any]] = []
    for name in chain(environments, work.name):
        if "require" in (environments[name] or {}):
            known = work.known(environments[name]["require"] or [], ("environments", name, "require"))
            work.findings += undemanded(work.document, name, demanded, known)
            demanded.append(known)


def _override_variables(work: _Resolution, leaves: dict[KeyPath, Leaf]) -> None:
    """`SMETA_VAR_x` replaces the value of `x` by one of the same type: a typo cannot turn false into text."""
    for path, leaf in list(leaves.items()):
        variable = f"{_OVERRIDE}{path[1]}" if path[0] == "vars" else ""
        if variable not in work.environ or not variable:
            continue
        given = work.environ[variable]
        value = given if isinstance(leaf.value, str) else yaml_source.scalar(given)
        place = work.document.at(leaf.place or ())
        if len(path) > 2:
            told = f"{variable} would turn the secret `{path[1]}` into text that plans and logs show"
            work.findings.append(mistake("manifest-value", told, place, hint=f"set {leaf.value} instead"))
        elif schemas.type_of(value) != schemas.type_of(leaf.value):
            wanted = {"boolean": "true or false", "integer": "a whole number"}.get(
                schemas.type_of(leaf.value)
            )
            told = (
                f"{variable} must be {wanted}, as `vars.{path[1]}` is"
                if wanted
                else f"{variable} cannot replace a list"
            )
            work.findings.append(mistake("manifest-value", told, place, hint=f"change or unset {variable}"))
        leaves[path] = Leaf(value=value, place=None, origin=variable)


def _recheck(
    work: _Resolution, leaves: Mapping[KeyPath, Leaf], top: Mapping[str, Any]
) -> Iterator[Diagnostic]:
    """What the manifest's checks say now that the variables have values."""
    if not work.replaced:
        return
    resolved = {**top, "environments": {work.name: nested(leaves)}}
    if not any(place[0] == "migrations" for place in work.used):
        resolved.pop("migrations", None)  # nothing in the long list has changed
        if "tenancy" in resolved:  # which names one of them
            resolved["tenancy"] = {k: v for k, v in resolved["tenancy"].items() if k != "since"}
    origins = {("environments", work.name, *path): leaf.place for path, leaf in leaves.items() if leaf.place}
    for path, leaf in leaves.items():
        if isinstance(leaf.value, list) and leaf.place:
            for index in range(len(leaf.value)):
                origins[("environments", work.name, *path, index)] = (*leaf.place, index)
    yield from schema_findings(resolved, work.document, origins=origins, variables=work.used)
    everybody = dict.fromkeys(work.manifest.environments)
    resolved["environments"] = {**everybody, work.name: resolved["environments"][work.name]}
    yield from reference_findings(resolved, work.document, origins=origins)


def _database(work: _Resolution, leaves: Mapping[KeyPath, Leaf]) -> Conninfo | EmbeddedDatabase | None:
    """The target, and the setting that names it; None with a finding where there is none."""
    path = next((path for path in leaves if path[0] == "database"), None)
    if path is None:
        return _ambient_database(work, protected=_is_protected(leaves))
    address = _address(work, leaves, path)
    if leaves[path].value == "embedded" and len(path) == 1:
        return EmbeddedDatabase(source=address.source)
    return address


def _direct(
    work: _Resolution, leaves: Mapping[KeyPath, Leaf], database: Conninfo | EmbeddedDatabase | None
) -> Conninfo | None:
    """The address without a pooler, under the rules of `database:`."""
    path = next((path for path in leaves if path[0] == "direct"), None)
    if path is None:
        return None
    if isinstance(database, EmbeddedDatabase):
        told = f"`{work.name}` uses the embedded server, which has no pooler and no other address"
        place = work.document.at(leaves[path].place or ())
        work.findings.append(mistake("manifest-value", told, place, hint="unset it here: `direct: null`"))
    return _address(work, leaves, path)


def _is_protected(leaves: Mapping[KeyPath, Leaf]) -> bool:
    return ("protected",) in leaves and bool(leaves[("protected",)].value)


def _address(work: _Resolution, leaves: Mapping[KeyPath, Leaf], path: KeyPath) -> Conninfo:
    """The connection string under `database` or `direct`, and the setting that it comes from."""
    leaf = leaves[path]
    place = leaf.place or ()
    names = work.used.get(place, ())
    ambient = [n for n in names if n == "DATABASE_URL" or re.fullmatch(r"PG[A-Z]+", n)]
    if _is_protected(leaves) and ambient:
        told = (
            f"`{work.name}` is protected: its database must not come from {ambient[0]}, which other tools set"
        )
        suffix = "URL" if path[0] == "database" else "DIRECT_URL"
        hint = f"use a variable of its own, such as SMETA_{work.name.upper().replace('-', '_')}_{suffix}"
        work.findings.append(mistake("manifest-value", told, work.document.at(place), hint=hint))
    source = path_text(place[:3]) + (f" ({', '.join(names)})" if names else "")
    return Conninfo(dsn=leaf.value if len(path) == 1 else f"service={leaf.value}", source=source)


def _ambient_database(work: _Resolution, *, protected: bool) -> Conninfo | None:
    """Where the manifest says nothing: DATABASE_URL, else libpq's own variables; never if it is protected."""
    place = work.document.at_key(("environments", work.name))
    if protected:
        told = f"`{work.name}` is protected and has no `database:`; DATABASE_URL and PG* do not serve it"
        hint = f"add `database:` to `environments.{work.name}`"
        work.findings.append(mistake("manifest-required", told, place, hint=hint))
    elif url := work.environ.get("DATABASE_URL"):
        if re.match(r"postgres(ql)?://|\s*[a-z_]+\s*=", url):
            return Conninfo(dsn=url, source="DATABASE_URL")
        told = f"`{work.name}` has no `database:`, and DATABASE_URL is no PostgreSQL connection string"
        work.findings.append(mistake("manifest-value", told, place, hint="it begins with `postgresql://`"))
    elif any(work.environ.get(variable) for variable in _AMBIENT):
        return Conninfo(dsn="", source="PG* environment")
    else:
        told = f"`{work.name}` has no database"
        hint = f"add `database:` to `environments.{work.name}`, or set DATABASE_URL"
        work.findings.append(mistake("manifest-no-database", told, place, hint=hint))
    return None


def _environment(
    work: _Resolution, leaves: Mapping[KeyPath, Leaf], top: Mapping[str, Any],
    database: Conninfo | EmbeddedDatabase, direct: Conninfo | None,
) -> Environment:  # fmt: skip
    def get(*path: str) -> Any:
        return leaves[path].value

    policies = _policies(top)
    backup = policies.get(get("backup"))  # `none` is the name of no policy
    timeouts = Timeouts(
        **_milliseconds({p[1]: leaf.value for p, leaf in leaves.items() if p[0] == "timeouts"})
    )
    backups, migrations = top.get("backups") or {}, top.get("migrations") or {}
    quiet = get("locks", "require_quiet")
    return Environment(
        name=work.name,
        project=top["project"],
        database=database,
        direct=direct,
        role=get("role"),
        transaction=get("transaction"),
        order=get("order"),
        protected=get("protected"),
        require=tuple(get("require")),
        timeouts=timeouts,
        locks=Locks(
            timeout_ms=duration_ms(get("locks", "timeout")),
            hold_ms=duration_ms(get("locks", "hold")),
            require_quiet_ms=duration_ms(quiet) if quiet else None,
            terminate_blockers=tuple(get("locks", "terminate_blockers")),
            attempts=get("locks", "retries", "attempts"),
            backoff_ms=duration_ms(get("locks", "retries", "backoff")),
            max_backoff_ms=duration_ms(get("locks", "retries", "max_backoff")),
            runner_wait_ms=duration_ms(get("locks", "runner_wait")),
        ),
        backup=backup,
        policies=tuple(policies.values()),
        variables=_variables(leaves),
        history=_history(top),
        migrations_directory=migrations.get("directory", "migrations"),
        backups_directory=backups.get("directory", "backups"),
        migrations=tuple(
            _entry(item, timeouts, backup, policies, work.document.at(("migrations", "apply", index)))
            for index, item in enumerate(migrations.get("apply") or [])
            if _is_for(work.manifest.data["migrations"]["apply"][index], work.name)
        ),
        checks=tuple(
            Check(
                name=item["name"],
                sql=item["sql"],
                expect=expectation(item.get("expect", True)),
                location=work.document.at(("checks", index)),
            )
            for index, item in enumerate(top.get("checks") or [])
        ),
        tenancy=tenancy_of(top["tenancy"], lambda table: work.document.at(("tenancy", "tables", table)))
        if "tenancy" in top
        else None,
    )


def _entry(
    item: Any,
    timeouts: Timeouts,
    backup: BackupPolicy | None,
    policies: Mapping[str, BackupPolicy],
    place: Location,
) -> MigrationEntry:
    if isinstance(item, str):
        return MigrationEntry(version=item, timeouts=timeouts, backup=backup, location=place)
    asked = policies.get(item.get("backup", "none"))
    return MigrationEntry(
        version=item["version"],
        requires=tuple(item.get("requires") or ()),
        timeouts=replace(timeouts, **_milliseconds(item.get("timeouts") or {})),
        backup=strongest(tuple(policy for policy in (backup, asked) if policy)),
        location=place,
    )


def _milliseconds(durations: Mapping[Any, str | None]) -> dict[str, int]:
    return {f"{name}_ms": duration_ms(text) for name, text in durations.items() if text is not None}


def _policies(top: Mapping[str, Any]) -> dict[str, BackupPolicy]:
    declared = (top.get("backups") or {}).get("policies") or {}
    return {
        name: BackupPolicy(
            name=name,
            scope=policy["scope"],
            format=policy.get("format", "custom"),
            role=policy.get("role"),
            compress=int(policy["compress"].removeprefix("gzip:")) if "compress" in policy else None,
        )
        for name, policy in declared.items()
    }


def _variables(leaves: Mapping[KeyPath, Leaf]) -> tuple[tuple[str, Value], ...]:
    found: dict[str, Value] = {}
    for path, leaf in leaves.items():
        if path[0] == "vars":
            value = tuple(leaf.value) if isinstance(leaf.value, list) else leaf.value
            found[str(path[1])] = Secret(name=leaf.value) if len(path) > 2 else value
    return tuple(sorted(found.items()))


def _history(top: Mapping[str, Any]) -> HistoryPlace:
    place, declared = HistoryPlace(), top.get("history") or {}
    schema, _, table = declared.get("table", str(place)).rpartition(".")
    return HistoryPlace(
        table_schema=schema or "public",
        table=table,
        journal_schema=declared.get("schema", place.journal_schema),
    )


def _top_settings(work: _Resolution, top: Mapping[str, Any]) -> Iterator[Setting]:
    history, manifest = _history(top), work.manifest
    values: dict[KeyPath, Any] = {
        ("project",): top["project"],
        ("history", "table"): str(history),
        ("history", "schema"): history.journal_schema,
        ("migrations", "directory"): manifest.migrations_directory,
        ("backups", "directory"): (top.get("backups") or {}).get("directory", manifest.backups_directory),
    }
    if "tenancy" in top:
        values |= settings_of(top["tenancy"])
    for path, value in values.items():
        given = path in work.document.values
        origin = path_text(path[:-1]) or "manifest"
        leaf = Leaf(value=value, place=path, origin=origin) if given else Leaf(value=value)
        yield _setting(work, path, leaf, value)


def _settings(
    work: _Resolution,
    leaves: Mapping[KeyPath, Leaf],
    database: Conninfo | EmbeddedDatabase,
    direct: Conninfo | None,
) -> Iterator[Setting]:
    target = next((leaf for path, leaf in leaves.items() if path[0] == "database"), None)
    match database:
        case EmbeddedDatabase():
            shown = "embedded"
        case Conninfo():
            shown = str(database) if database.dsn else "(libpq's own variables)"
    yield _setting(work, ("database",), target or Leaf(value=shown, origin=database.source), shown)
    if direct:
        leaf = next(leaf for path, leaf in leaves.items() if path[0] == "direct")
        yield _setting(work, ("direct",), leaf, str(direct))
    for path, leaf in sorted(leaves.items(), key=lambda item: (_rank(item[0]), item[0])):
        if path[0] == "vars" and len(path) > 2:
            yield _setting(work, path[:2], leaf, f"(secret {leaf.value})")
        elif path[0] not in ("database", "direct"):
            yield _setting(work, path, leaf, leaf.value)


def _rank(path: KeyPath) -> int:
    order = [key for key, *_ in built_in()]
    return order.index(path[0]) if path[0] in order else len(order)


def _setting(work: _Resolution, path: KeyPath, leaf: Leaf, value: Any) -> Setting:
    names = [
        name
        for place, used in work.used.items()
        if leaf.place and place[: len(leaf.place)] == leaf.place
        for name in used
    ]
    return Setting(
        keys=tuple(map(str, path)),
        value=value,
        origin=leaf.origin + (f" ({', '.join(dict.fromkeys(names))})" if names else ""),
        location=work.document.at(leaf.place) if leaf.place else None,
    )
