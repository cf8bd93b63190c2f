"""One environment, resolved: every setting has its value, every migration its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.conninfo import Conninfo
from smeta_declare.diagnostics import Location
from smeta_declare.rendered import Secret, Value
from smeta_declare.tenancy.declaration import Tenancy
from smeta_declare.validation import Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Milliseconds each; the server's settings of the same names."""

    connect_ms: int = 10_000
    statement_ms: int = 900_000
    idle_in_transaction_ms: int = 60_000
    concurrent_ms: int = 7_200_000  # statement_timeout of CREATE INDEX CONCURRENTLY and its like


@dataclass(frozen=True, slots=True, kw_only=True)
class Locks:
    """How to queue for locks, how long to hold them, and how often to try again (milliseconds).

    `hold_ms` is about locks that readers or writers wait for, on tables that were there before the step.
    `require_quiet_ms`: how old a transaction may be that holds one of the step's tables when it begins.
    `terminate_blockers` are the application names of sessions that may be ended when they block a step.
    """

    timeout_ms: int = 200
    hold_ms: int = 2_000
    require_quiet_ms: int | None = None
    terminate_blockers: tuple[str, ...] = ()
    attempts: int = 12
    backoff_ms: int = 250
    max_backoff_ms: int = 10_000
    runner_wait_ms: int = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPlace:
    """Where the database remembers: the readable table and the schema of the journal."""

    table_schema: str = "public"
    table: str = "schema_migrations"
    journal_schema: str = "smeta"

    def __str__(self) -> str:
        return f"{self.table_schema}.{self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedDatabase:
    """smeta's own server under `.smeta/`."""

    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationEntry:
    """One line of `migrations.apply`, with what it inherits."""

    version: str
    requires: tuple[str, ...] = ()
    timeouts: Timeouts = Timeouts()
    backup: BackupPolicy | None = None
    location: Location | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A question about the data that must hold after every apply."""

    name: str
    sql: str
    expect: Expectation
    location: Location | None = None


def _as_json(value: Value) -> Any:
    match value:
        case Secret(name=name):
            return {"secret": name}
        case tuple():
            return [_as_json(item) for item in value]
        case Mapping():
            return {key: _as_json(item) for key, item in value.items()}
        case _:
            return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Everything a plan needs to know about where it will run."""

    name: str
    project: str
    database: Conninfo | EmbeddedDatabase
    direct: Conninfo | None = None  # the same database without a pooler in between
    role: str | None
    transaction: Literal["all", "each"]
    order: Literal["lenient", "strict"]
    protected: bool
    require: tuple[str, ...] = ()  # what every plan must carry
    timeouts: Timeouts
    locks: Locks
    backup: BackupPolicy | None
    policies: tuple[BackupPolicy, ...]
    variables: tuple[tuple[str, Value], ...]
    history: HistoryPlace
    migrations_directory: str  # relative to the manifest
    backups_directory: str  # relative to the manifest
    migrations: tuple[MigrationEntry, ...]
    checks: tuple[Check, ...]
    tenancy: Tenancy | None = None

    def settings(self) -> dict[str, Any]:
        """What the manifest says for this environment and a plan depends on, as JSON values.

        Without the addresses: another name of the same server changes nothing. Secrets are named only.
        """
        return {
            "protected": self.protected,
            "require": sorted(self.require),
            "order": self.order,
            "timeouts": asdict(self.timeouts),
            "locks": {**asdict(self.locks), "terminate_blockers": list(self.locks.terminate_blockers)},
            "backup": asdict(self.backup) if self.backup else None,
            "variables": {name: _as_json(value) for name, value in self.variables},
            "checks": [{"name": c.name, "sql": c.sql, "expect": str(c.expect)} for c in self.checks],
        }

    def template_variables(self) -> dict[str, Value]:
        """What templates may use: the variables, `environment`, its name, and `tenancy`, as it is declared."""
        declared = {"tenancy": self.tenancy.template_value()} if self.tenancy else {}
        return {**dict(self.variables), "environment": self.name, **declared}
