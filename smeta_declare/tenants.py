"""The tenants of an environment: listed, registered, shown, whether or not row security binds who asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from smeta_declare.diagnostics import nearest
from smeta_declare.environment import Environment
from smeta_declare.errors import Refused, SmetaError, UsageError
from smeta_declare.parsetree import quoted
from smeta_declare.postgres.connection import (
    Answer,
    ConnectionLost,
    MissingPrivileges,
    ServerError,
    Session,
)
from smeta_declare.postgres.introspection import tenancy_catalogue
from smeta_declare.reader import Reader
from smeta_declare.tenancy.declaration import Tenancy
from smeta_declare.tenancy.model import Catalogue, Column, Relation
from smeta_declare.tenancy.registered import (
    context_sql,
    countings,
    first_rows_sql,
    key_sql,
    needed_columns,
    register_sql,
    row_sql,
)
from smeta_declare.tenancy.wanted import key_column

_NOT_OURS = ("42501", "22023", "42704")  # no right; no such role, in the two ways in which SET ROLE says it


class NoRegistry(Refused):
    """The table that tenants are registered in is not there."""

    code = "tenancy-registry"


class TenantUnknown(SmetaError):
    """No tenant has this key."""

    code = "tenant-unknown"


class TenantExists(SmetaError):
    """Another tenant has this key, or something else that must be unique."""

    code = "tenant-exists"


class TenantInvalid(SmetaError):
    """The registry does not take these values."""

    code = "tenant-invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many rows of a table are a tenant's; `more`: at least one more than that."""

    table: str
    rows: int
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A row of the registry: its key as text, other columns by name; `counts` where they were asked for."""

    id: str
    columns: Mapping[str, Any]
    counts: tuple[Count, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As in the published JSON."""
        found: dict[str, Any] = {"id": self.id, "columns": dict(self.columns)}
        if self.counts is not None:
            found["counts"] = [{"table": c.table, "rows": c.rows, "more": c.more} for c in self.counts]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The first tenants by key; `more`: there are others."""

    tenants: tuple[Tenant, ...]
    more: bool


def tenancy_of(environment: Environment) -> Tenancy:
    """What is declared; UsageError where nothing is."""
    if environment.tenancy is None:
        raise UsageError(
            "the manifest declares no tenants",
            hint="`tenancy:` says where they are registered and what is theirs",
        )
    return environment.tenancy


@contextmanager
def tenants_of(reader: Reader) -> Iterator[Tenants]:
    """The tenants of the reader's environment, connected."""
    tenancy = tenancy_of(reader.environment)
    with reader.connected() as journal:
        yield Tenants.at(journal.session, tenancy, reader.environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """The registry in a database."""

    session: Session
    tenancy: Tenancy
    registry: Relation
    key: Column
    catalogue: Catalogue = field(repr=False)

    @classmethod
    def at(cls, session: Session, tenancy: Tenancy, environment: Environment) -> Tenants:
        """NoRegistry where it is not there yet."""
        catalogue = tenancy_catalogue(session, tenancy, environment.history)
        registry, key = catalogue.of(tenancy.registry), key_column(tenancy, catalogue)
        if registry is None or key is None:
            missing = "" if registry is None else f"column {tenancy.key} of "
            raise NoRegistry(
                f"there is no {missing}{tenancy.registry}, where tenants are registered",
                hint=f"`smeta apply --env {environment.name}` applies the migration that creates it",
            )
        return cls(session=session, tenancy=tenancy, registry=registry, key=key, catalogue=catalogue)

    def listed(self, limit: int) -> Listed:
        """All of them, up to a limit."""
        found = self._unbound(first_rows_sql(self.tenancy, self.registry, limit)).rows
        return Listed(tenants=tuple(map(_tenant, found[:limit])), more=len(found) > limit)

    def show(self, tenant: str, limit: int) -> Tenant:
        """One of them, and how many rows of each table are its own, counted up to a limit."""
        question = row_sql(self.tenancy, self.registry, tenant)
        asked = tuple(countings(self.tenancy, self.catalogue, limit))
        try:
            answers = self._run(
                "begin read only",
                context_sql(self.tenancy, tenant),
                question,
                *(counting.sql for counting in asked),
                "rollback",
            )
            # Whom no policy names sees nothing, the registry's row included: then somebody else is asked.
            found = answers[2].rows or self._unbound(question).rows
        except ServerError as error:
            if error.sqlstate in ("22P02", "22003"):
                raise UsageError(f"{tenant!r} is no {self.key.type}, which the key of a tenant is") from error
            raise
        if not found:
            raise TenantUnknown(
                f"{self.tenancy.registry} has no tenant {tenant}",
                changed="nothing was changed",
                hint="`smeta tenants list --env NAME` shows them",
            )
        counts = [answer.rows[0][0] for answer in answers[3:-1]]
        row = _tenant(found[0])
        return Tenant(
            id=row.id,
            columns=row.columns,
            counts=tuple(
                Count(table=each.table, rows=min(count, limit), more=count > limit)
                for each, count in zip(asked, counts, strict=True)
            ),
        )

    def create(self, given: Mapping[str, str]) -> str:
        """Register one, with these columns, in one transaction; its key.

        In its own context: so row security accepts the row, and what triggers of the registry write is the tenant's.
        """
        self._check(given)
        values = dict(given)
        if self.tenancy.key not in values:
            values = {self.tenancy.key: self._next_key(), **values}
        tenant = values[self.tenancy.key]
        try:
            answers = self._run(
                "begin",
                context_sql(self.tenancy, tenant),
                register_sql(self.tenancy, values),
                "set constraints all immediate",
                "commit",
            )
        except ConnectionLost as error:
            raise ConnectionLost(
                "the connection to the server was lost",
                detail=error.detail,
                hint=f"`smeta tenants show {tenant}` says whether the tenant is there",
            ) from error
        except ServerError as error:
            raise self._refused(error) from error
        return str(answers[2].rows[0][0])

    def _check(self, given: Mapping[str, str]) -> None:
        known = [c.name for c in self.registry.columns if not c.generated]
        for name in given:
            if name not in known:
                close = nearest(name, known)
                raise UsageError(
                    f"{self.tenancy.registry} has no column {name} that can be given a value",
                    hint=f"did you mean {close}?" if close else f"it has {', '.join(known)}",
                )
        by_itself = key_sql(self.registry, self.key)
        missing = [
            name
            for name in needed_columns(self.registry)
            if name not in given and not (name == self.tenancy.key and by_itself)
        ]
        if missing:
            raise UsageError(
                f"a tenant of {self.tenancy.registry} needs {', '.join(missing)}",
                hint=" ".join(
                    "--id ID" if name == self.tenancy.key else f"--set {name}=VALUE" for name in missing
                ),
            )

    def _next_key(self) -> str:
        question = key_sql(self.registry, self.key)
        if question is None:
            raise UsageError(f"nothing gives a tenant its {self.tenancy.key}", hint="say it: --id ID")
        with self._rights():
            return str(self._run(question)[-1].rows[0][0])

    def _refused(self, error: ServerError) -> SmetaError:
        """What the registry's refusal of a row means."""
        if error.sqlstate.startswith(("22", "23")):
            taken = error.sqlstate == "23505"
            return (TenantExists if taken else TenantInvalid)(
                error.message,
                detail=error.detail,
                changed="nothing was changed",
                hint="`smeta tenants list --env NAME` shows those that are registered"
                if taken
                else "correct the value with --set COLUMN=VALUE",
            )
        if error.sqlstate == "42501":
            return MissingPrivileges(
                f"{error.message}: needed to register a tenant",
                hint=f"connect as {self.tenancy.roles.owner}, or name it as `role:` of the environment",
            )
        return error

    # asking

    def _unbound(self, question: str) -> Answer:
        """What a question gives where row security hides nothing; PostgreSQL says where it would.

        As who we are; else as a declared role that it does not bind; else as the owner of the registry, without FORCE
        in a transaction that is rolled back.
        """
        off = "set local row_security = off"
        become = [f"set local role {quoted(role)}" for role in self.tenancy.roles.bypass]
        for how in ((), *((role,) for role in become)):
            try:
                return self._run("begin read only", *how, off, question, "rollback")[-2]
            except ServerError as error:
                if error.sqlstate not in _NOT_OURS:
                    raise
        with self._rights():
            lifted = f"alter table {self.tenancy.registry.sql} no force row level security"
            return self._run("begin", lifted, off, question, "rollback")[-2]

    @contextmanager
    def _rights(self) -> Iterator[None]:
        try:
            yield
        except ServerError as error:
            if error.sqlstate not in _NOT_OURS:
                raise
            raise MissingPrivileges(
                f"{error.message}: needed to see all tenants",
                hint=f"connect as {self.tenancy.roles.owner}, or as a member of a role of `tenancy.roles.bypass`",
            ) from error

    def _run(self, *statements: str) -> list[Answer]:
        """Statements in one message; what is open after an error is rolled back."""
        try:
            return self.session.run(";\n".join(statements))
        except ServerError:
            if self.session.usable and self.session.in_transaction:
                self.session.run("rollback")
            raise


def _tenant(row: tuple[Any, ...]) -> Tenant:
    return Tenant(id=row[0], columns=json.loads(row[1]))
