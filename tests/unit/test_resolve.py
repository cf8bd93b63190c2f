from __future__ import annotations

from collections.abc import Mapping

import pytest

from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.conninfo import Conninfo
from smeta_declare.diagnostics import Diagnostic
from smeta_declare.environment import EmbeddedDatabase, Environment, HistoryPlace, Locks, Timeouts
from smeta_declare.errors import Exit, InvalidManifest, UnknownEnvironment
from smeta_declare.manifest import parse_manifest
from smeta_declare.resolve import Setting, effective, explain
from smeta_declare.resolve import resolve as resolve_manifest
from smeta_declare.template import Secret
from smeta_declare.validation import Expectation

HEAD = "manifest: 1\nproject: shop\n"
MANIFEST = """\
manifest: 1
project: ${PROJECT:-shop}
history: {table: app.applied, schema: journal}
defaults:
  timeouts: {statement: 5min}
  locks: {retries: {attempts: 3}}
  backup: definitions
  vars: {language: russian, sizes: [1, two], concurrently: true}
environments:
  dev:
    database: embedded
    backup: none
    vars: {concurrently: false, language: null}
  staging:
    database: ${STAGING_URL:?set the staging connection string}
    vars: {password: {secret: APP_PASSWORD}, sizes: [3]}
  production:
    extends: staging
    database: {service: shop}
    role: owner
    transaction: each
    order: strict
    protected: true
    backup: everything
    locks: {timeout: 1s}
migrations:
  apply:
    - 1_a
    - {version: 2_b, requires: [1_a], timeouts: {concurrent: 4h}, backup: everything}
    - {version: 3_c, only: [dev], timeouts: {statement: "${ONLY_DEV}"}}
backups:
  directory: ${BACKUPS:-kept}
  policies:
    definitions: {scope: schema, format: plain}
    everything: {scope: full, compress: gzip:6}
checks:
  - {name: none, sql: "select '$$'", expect: {rows: 0}}
  - {name: value, sql: select 1, expect: {value: true}}
  - {name: default, sql: select 1}
"""
STAGING = {"STAGING_URL": "postgresql://app:s3cret@db.example:5433/shop"}
DEFINITIONS = BackupPolicy(name="definitions", scope="schema", format="plain")
EVERYTHING = BackupPolicy(name="everything", scope="full", format="custom", compress=6)


def resolve(text: str, name: str, environ: Mapping[str, str] | None = None) -> Environment:
    return resolve_manifest(parse_manifest(text, file="smeta.yaml"), name, environ or {})


def refused(text: str, name: str, environ: Mapping[str, str] | None = None) -> tuple[Diagnostic, ...]:
    with pytest.raises(InvalidManifest) as caught:
        resolve(text, name, environ)
    assert caught.value.exit_code is Exit.INVALID
    return caught.value.findings


def environments(block: str) -> str:
    return f"{HEAD}environments:\n{block}"


def settings(text: str, name: str, environ: Mapping[str, str] | None = None) -> dict[str, Setting]:
    return {s.path: s for s in explain(parse_manifest(text, file="smeta.yaml"), name, environ or {})}


def test_minimal_environment_has_the_built_in_defaults() -> None:
    found = resolve(environments("  dev: {database: embedded}\n"), "dev")

    assert (found.transaction, found.order, found.protected, found.backup, found.role) == (
        *("all", "lenient", False, None, None),
    )
    assert (found.timeouts, found.locks, found.history) == (Timeouts(), Locks(), HistoryPlace())
    assert (found.migrations_directory, found.backups_directory) == ("migrations", "backups")
    assert (found.variables, found.migrations, found.checks) == ((), (), ())


def test_environment_inherits_merges_replaces_and_unsets() -> None:
    production = resolve(MANIFEST, "production")

    assert production.project == "shop"
    assert (production.transaction, production.order, production.protected) == ("each", "strict", True)
    assert production.role == "owner"
    assert production.timeouts == Timeouts(statement_ms=300_000)
    assert production.locks == Locks(timeout_ms=1000, attempts=3)
    assert production.history == HistoryPlace(table_schema="app", table="applied", journal_schema="journal")
    assert dict(production.variables) == {
        "concurrently": True, "language": "russian", "password": Secret(name="APP_PASSWORD"), "sizes": (3,),
    }  # fmt: skip
    assert dict(resolve(MANIFEST, "dev", {"ONLY_DEV": "9s"}).variables) == {
        "concurrently": False,
        "sizes": (1, "two"),
    }


def test_migrations_take_the_stronger_backup_and_their_own_timeouts() -> None:
    first, second = resolve(MANIFEST, "staging", STAGING).migrations

    assert (first.version, first.backup, first.timeouts) == (
        "1_a",
        DEFINITIONS,
        Timeouts(statement_ms=300_000),
    )
    assert (second.backup, second.requires) == (EVERYTHING, ("1_a",))
    assert second.timeouts == Timeouts(statement_ms=300_000, concurrent_ms=14_400_000)
    assert str(second.location) == "smeta.yaml:29:7"
    assert resolve(MANIFEST, "dev", {"ONLY_DEV": "9s"}).migrations[0].backup is None


def test_migration_belongs_to_the_environments_it_names_and_only_they_need_its_variables() -> None:
    versions = [m.version for m in resolve(MANIFEST, "dev", {"ONLY_DEV": "9s"}).migrations]

    assert versions == ["1_a", "2_b", "3_c"]
    assert resolve(MANIFEST, "dev", {"ONLY_DEV": "9s"}).migrations[2].timeouts.statement_ms == 9000
    assert [f.code for f in refused(MANIFEST, "dev")] == ["manifest-interpolation"]


def test_checks_are_resolved() -> None:
    none, value, default = resolve(MANIFEST, "production").checks

    assert (none.sql, none.expect) == ("select '$'", Expectation(kind="rows", number=0))
    assert value.expect == Expectation(kind="value", value="true")
    assert default.expect == Expectation()


# --- the target ----------------------------------------------------------------------------------------------------


def test_target_names_the_setting_and_the_variable_it_comes_from() -> None:
    assert resolve(MANIFEST, "dev", {"ONLY_DEV": "1s"}).database == EmbeddedDatabase(
        source="environments.dev.database"
    )
    assert resolve(MANIFEST, "staging", STAGING).database == Conninfo(
        dsn=STAGING["STAGING_URL"], source="environments.staging.database (STAGING_URL)"
    )
    assert resolve(MANIFEST, "production").database == Conninfo(
        dsn="service=shop", source="environments.production.database"
    )


def test_inherited_target_names_where_it_was_written() -> None:
    text = environments("  a: {database: 'host=h dbname=d'}\n  b: {extends: a}\n")

    assert resolve(text, "b").database == Conninfo(dsn="host=h dbname=d", source="environments.a.database")


def test_target_may_be_embedded_by_default_of_a_variable() -> None:
    text = environments("  ci:\n    database: ${CI_URL:-embedded}\n")

    assert resolve(text, "ci").database == EmbeddedDatabase(source="environments.ci.database")
    assert isinstance(resolve(text, "ci", {"CI_URL": "postgresql:///x"}).database, Conninfo)


@pytest.mark.parametrize(
    ("environ", "database"),
    [
        (
            {"DATABASE_URL": "postgresql://h/d", "PGHOST": "p"},
            Conninfo(dsn="postgresql://h/d", source="DATABASE_URL"),
        ),
        ({"PGHOST": "p"}, Conninfo(dsn="", source="PG* environment")),
        ({"PGSERVICE": "s", "DATABASE_URL": ""}, Conninfo(dsn="", source="PG* environment")),
    ],
)
def test_ambient_target_serves_only_where_there_is_no_other(
    environ: dict[str, str], database: Conninfo
) -> None:
    text = environments("  a:\n  b: {database: embedded}\n  c: {extends: b, database: null}\n")

    assert resolve(text, "a", environ).database == database
    assert resolve(text, "c", environ).database == database
    assert resolve(text, "b", environ).database == EmbeddedDatabase(source="environments.b.database")


def test_protected_environment_takes_no_ambient_target() -> None:
    environ = {"DATABASE_URL": "postgresql://h/d", "PGHOST": "h"}
    without = environments("  live: {protected: true}\n")
    named = environments("  base:\n    database: ${DATABASE_URL}\n  live: {extends: base, protected: true}\n")

    assert [(f.code, str(f.location)) for f in refused(without, "live", environ)] == [
        ("manifest-required", "smeta.yaml:4:3")
    ]
    assert [(f.code, str(f.location)) for f in refused(named, "live", environ)] == [
        ("manifest-value", "smeta.yaml:5:15")
    ]
    assert resolve(named, "base", environ).database == Conninfo(
        dsn="postgresql://h/d", source="environments.base.database (DATABASE_URL)"
    )


DIRECT = environments(
    "  staging: {database: 'postgresql://app:s3cret@pooler:6432/shop', direct: '${DIRECT_URL}'}\n"
    "  production: {extends: staging, protected: true}\n"
    "  local: {extends: staging, database: embedded}\n"
    "  service: {extends: staging, direct: {service: shop}}\n"
    "  none: {extends: local, direct: null}\n"
)


def test_a_requirement_that_comes_from_a_variable_cannot_drop_an_inherited_one() -> None:
    text = environments(
        "  a: {database: embedded, require: [rollback]}\n  b: {extends: a, require: ['${R}']}\n"
    )

    (dropped,) = refused(text, "b", {"R": "unchanged_catalog"})

    assert dropped.message == "`b` extends an environment that requires rollback, and cannot drop that"
    assert resolve(text, "b", {"R": "rollback"}).require == ("rollback",)


def test_direct_address_is_inherited_and_named_like_the_database() -> None:
    environ = {"DIRECT_URL": "postgresql://app:s3cret@db:5432/shop"}

    assert resolve(DIRECT, "production", environ).direct == Conninfo(
        dsn="postgresql://app:s3cret@db:5432/shop", source="environments.staging.direct (DIRECT_URL)"
    )
    assert resolve(DIRECT, "service", environ).direct == Conninfo(
        dsn="service=shop", source="environments.service.direct"
    )
    assert resolve(DIRECT, "none", environ).direct is None
    shown = settings(DIRECT, "production", environ)["direct"]
    assert (shown.value, shown.origin) == ("app@db:5432/shop", "environments.staging (DIRECT_URL)")
    assert "direct" not in settings(DIRECT, "none", environ)


def test_direct_address_has_the_rules_of_the_database() -> None:
    ambient = environments("  live: {database: 'postgresql://h/d', direct: '${PGDIRECT}', protected: true}\n")

    (no_pooler,) = refused(DIRECT, "local", {"DIRECT_URL": "postgresql://h/d"})
    (of_others,) = refused(ambient, "live", {"PGDIRECT": "postgresql://h/d"})
    (no_address,) = refused(DIRECT, "staging", {"DIRECT_URL": "embedded:s3cret"})
    (unset,) = refused(DIRECT, "staging")

    assert (no_pooler.code, no_pooler.hint) == ("manifest-value", "unset it here: `direct: null`")
    assert of_others.hint == "use a variable of its own, such as SMETA_LIVE_DIRECT_URL"
    assert "must be a connection string" in no_address.message
    assert "s3cret" not in no_address.message
    assert unset.code == "manifest-interpolation"


def test_environment_without_any_target_is_refused() -> None:
    found = refused(environments("  dev:\n"), "dev")[0]

    assert (found.code, found.message) == ("manifest-no-database", "`dev` has no database")
    assert found.hint == "add `database:` to `environments.dev`, or set DATABASE_URL"


@pytest.mark.parametrize("url", ["", "mysql://u:s3cret@h/d", "s3cret"])
def test_target_that_is_no_connection_string_is_refused_without_showing_it(url: str) -> None:
    text = environments("  dev:\n    database: ${URL}\n  other:\n")

    found = refused(text, "dev", {"URL": url})

    assert [(f.code, str(f.location)) for f in found] == [("manifest-value", "smeta.yaml:5:15")]
    assert "(the value of URL)" in found[0].message
    assert "s3cret" not in repr(found)
    if url:
        assert "s3cret" not in repr(refused(text, "other", {"DATABASE_URL": url}))


# --- variables -----------------------------------------------------------------------------------------------------


def test_missing_variable_is_told_at_its_place() -> None:
    (found,) = refused(MANIFEST, "staging")

    assert (found.code, str(found.location)) == ("manifest-interpolation", "smeta.yaml:15:15")
    assert found.message == (
        "STAGING_URL is not set; `environments.staging.database` of environment `staging` needs it: "
        "set the staging connection string"
    )
    assert found.hint == "set it with `export STAGING_URL=…`, or write `${STAGING_URL:-default}`"


def test_all_missing_variables_are_told_once() -> None:
    text = environments(
        '  a: {database: "x=${A}${B}", role: "${C}", protected: "${D}", vars: {v: ["${E}"]}}\n'
    )

    assert [f.message.split()[0] for f in refused(text, "a")] == ["A", "C", "D", "E"]


def test_variables_that_are_overridden_are_not_needed() -> None:
    assert resolve(MANIFEST, "production", {}).name == "production"


@pytest.mark.parametrize(
    ("written", "value", "expected"),
    [
        ("${V}", "true", True),
        ("${V}", "12", 12),
        ("'${V}'", "12", "12"),
        ("${V}", "012", "012"),
        ("${V}", "null", "null"),
        ("${V}", "", ""),
        ("${V}${V}", "1", 11),
        ("${V}", "a: [b]", "a: [b]"),
        ("a$$b", "", "a$b"),
    ],
)
def test_value_without_quotes_is_read_as_if_it_stood_there(
    written: str, value: str, expected: object
) -> None:
    text = environments(f"  a:\n    database: embedded\n    vars:\n      x: {written}\n")

    assert dict(resolve(text, "a", {"V": value}).variables) == {"x": expected}


def test_where_text_is_wanted_a_number_stays_text() -> None:
    text = environments("  a:\n    database: embedded\n    role: ${V}\n")

    assert resolve(text, "a", {"V": "42"}).role == "42"


def test_variables_may_give_truth_values_numbers_and_names() -> None:
    text = MANIFEST.replace("attempts: 3", "attempts: '${N}'").replace("protected: true", "protected: ${P}")
    text = text.replace("backup: everything\n    locks", "backup: ${B}\n    locks")

    found = resolve(text, "production", {"N": "7", "P": "true", "B": "definitions"})

    assert (found.locks.attempts, found.protected, found.backup) == (7, True, DEFINITIONS)


WHERE = "`environments.production."


@pytest.mark.parametrize(
    ("old", "new", "value", "told"),
    [
        (
            "transaction: each",
            "transaction: ${X}",
            "al",
            f"{WHERE}transaction` (the value of X) must be `all` or `each`",
        ),
        (
            "protected: true",
            "protected: ${X}",
            "yes",
            f"{WHERE}protected` (the value of X) must be true or false, not text",
        ),
        ("role: owner", "role: ${X}", "", f"{WHERE}role` (the value of X) must not be empty"),
        (
            "everything\n    locks",
            "${X}\n    locks",
            "nothing",
            "`backup:` names `nothing`, and there is no such policy",
        ),
        ("concurrent: 4h", "concurrent: '${X}'", "4", "(the value of X) must be a duration"),
    ],
)
def test_values_are_checked_once_the_variables_are_known(old: str, new: str, value: str, told: str) -> None:
    assert MANIFEST.count(old) == 1

    (found,) = refused(MANIFEST.replace(old, new), "production", {"X": value})

    assert told in found.message


def test_protection_cannot_be_taken_back_by_a_variable() -> None:
    text = environments(
        "  a: {database: embedded, protected: true}\n  b:\n    extends: a\n    protected: ${P:-true}\n"
    )

    assert resolve(text, "b").protected is True
    assert [(f.code, str(f.location)) for f in refused(text, "b", {"P": "false"})] == [
        ("manifest-value", "smeta.yaml:7:16")
    ]


def test_process_environment_overrides_vars_of_the_same_type() -> None:
    environ = {
        **STAGING,
        "SMETA_VAR_concurrently": "false",
        "SMETA_VAR_language": "007",
        "SMETA_VAR_unknown": "x",
    }

    found = dict(resolve(MANIFEST, "staging", environ).variables)

    assert (found["concurrently"], found["language"]) == (False, "007")
    assert "unknown" not in found


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("concurrently", "flase", "SMETA_VAR_concurrently must be true or false, as `vars.concurrently` is"),
        ("sizes", "[1]", "SMETA_VAR_sizes cannot replace a list"),
        (
            "password",
            "s3cret",
            "SMETA_VAR_password would turn the secret `password` into text that plans and logs show",
        ),
    ],
)
def test_override_of_another_type_is_refused(variable: str, value: str, told: str) -> None:
    (found,) = refused(MANIFEST, "staging", {**STAGING, f"SMETA_VAR_{variable}": value})

    assert (found.code, found.message) == ("manifest-value", told)


# --- what is told --------------------------------------------------------------------------------------------------


def test_unknown_environment_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownEnvironment) as caught:
        resolve(MANIFEST, "prodution")

    assert caught.value.exit_code is Exit.USAGE
    assert caught.value.hint == "did you mean `production`? the manifest has `dev`, `staging`, `production`"


def test_explain_says_where_every_value_comes_from() -> None:
    environ = {**STAGING, "SMETA_VAR_concurrently": "false"}

    found = {
        path: (s.value, s.origin, s.location and s.location.line)
        for path, s in settings(MANIFEST, "staging", environ).items()
    }

    assert found == {
        "project": ("shop", "manifest", 2),
        "history.table": ("app.applied", "history", 3),
        "history.schema": ("journal", "history", 3),
        "migrations.directory": ("migrations", "built-in default", None),
        "backups.directory": ("kept", "backups", 32),
        "database": ("app@db.example:5433/shop", "environments.staging (STAGING_URL)", 15),
        "role": (None, "built-in default", None),
        "protected": (False, "built-in default", None),
        "require": ([], "built-in default", None),
        "transaction": ("all", "built-in default", None),
        "order": ("lenient", "built-in default", None),
        "timeouts.connect": ("10s", "built-in default", None),
        "timeouts.statement": ("5min", "defaults", 5),
        "timeouts.idle_in_transaction": ("1min", "built-in default", None),
        "timeouts.concurrent": ("2h", "built-in default", None),
        "locks.timeout": ("200ms", "built-in default", None),
        "locks.hold": ("2s", "built-in default", None),
        "locks.require_quiet": (None, "built-in default", None),
        "locks.terminate_blockers": ([], "built-in default", None),
        "locks.retries.attempts": (3, "defaults", 6),
        "locks.retries.backoff": ("250ms", "built-in default", None),
        "locks.retries.max_backoff": ("10s", "built-in default", None),
        "locks.runner_wait": ("1min", "built-in default", None),
        "backup": ("definitions", "defaults", 7),
        "vars.concurrently": (False, "SMETA_VAR_concurrently", None),
        "vars.language": ("russian", "defaults", 8),
        "vars.password": ("(secret APP_PASSWORD)", "environments.staging", 16),
        "vars.sizes": ([3], "environments.staging", 16),
    }


def test_explain_names_ambient_targets() -> None:
    text = environments("  dev:\n")

    url = settings(text, "dev", {"DATABASE_URL": "postgresql://u:s3cret@h/d"})["database"]
    libpq = settings(text, "dev", {"PGHOST": "h"})["database"]

    assert (url.value, url.origin) == ("u@h/d", "DATABASE_URL")
    assert (libpq.value, libpq.origin) == ("(libpq's own variables)", "PG* environment")


def test_effective_settings_are_one_mapping_without_secrets() -> None:
    found = effective(parse_manifest(MANIFEST, file="f"), "staging", STAGING)

    assert found["environment"] == "staging"
    assert found["locks"] == {
        "timeout": "200ms",
        "hold": "2s",
        "require_quiet": None,
        "terminate_blockers": [],
        "retries": {"attempts": 3, "backoff": "250ms", "max_backoff": "10s"},
        "runner_wait": "1min",
    }
    assert found["vars"]["password"] == "(secret APP_PASSWORD)"
    assert "s3cret" not in repr(found)
