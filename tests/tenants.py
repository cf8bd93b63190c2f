"""A database with tenants, for the tests: what is declared is reconciled as the executor would, without its journal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from smeta_declare.environment import HistoryPlace, Timeouts
from smeta_declare.fingerprint import Catalog, catalog_of
from smeta_declare.postgres.connection import Session, connect
from smeta_declare.postgres.introspection import tenancy_catalogue
from smeta_declare.rendered import Rendered
from smeta_declare.rendering import section_of
from smeta_declare.tenancy.adoption import Reconciliation, reconciliation
from smeta_declare.tenancy.declaration import Tenancy, tenancy_of
from smeta_declare.tenancy.model import Catalogue
from tests.servers import TestDatabase


def declared(roles: Mapping[str, Any], tables: Mapping[str, Any], **more: Any) -> Tenancy:
    """A `tenancy:` block as it is read."""
    return tenancy_of({"registry": {"table": "tenants"}, "roles": roles, "tables": tables, **more})


@dataclass
class Tenants:
    """A database, its owner's session, and what is declared of it."""

    database: TestDatabase
    session: Session
    as_it_was: Catalog = field(default_factory=lambda: catalog_of((), (), ()))

    @classmethod
    @contextlib.contextmanager
    def at(cls, database: TestDatabase) -> Iterator[Tenants]:
        """With a session that is closed at the end."""
        with connect(database.conninfo, Timeouts()) as session:
            yield cls(database, session)

    def catalogue(self, tenancy: Tenancy) -> Catalogue:
        """What is there."""
        return tenancy_catalogue(self.session, tenancy, HistoryPlace())

    def planned(self, tenancy: Tenancy, *, concurrently: bool = False) -> Reconciliation | None:
        """What would be done."""
        return reconciliation(tenancy, self.catalogue(tenancy), concurrently=concurrently)

    def words(self, tenancy: Tenancy) -> tuple[str, ...]:
        """What would be done, in words."""
        found = self.planned(tenancy)
        return found.words if found else ()

    def reconcile(self, tenancy: Tenancy, *, concurrently: bool = False) -> Reconciliation:
        """Do it; then nothing is left to do."""
        found = self.planned(tenancy, concurrently=concurrently)
        assert found is not None
        self.run(found.sql)
        left = self.planned(tenancy, concurrently=concurrently)
        assert left is None, left and left.sql
        return found

    def run(self, sql: str, *, until: int | None = None) -> int:
        """Run SQL in the steps that the executor would make of it, or only so many; how many there are."""
        pieces: list[list[str]] = [[]]
        for statement in section_of(Rendered.kept(sql, name="tenancy")).statements:
            if statement.alone or statement.batch:
                pieces += [[statement.text], []]
            else:
                pieces[-1].append(statement.text)
        pieces = [piece for piece in pieces if piece]
        for piece in pieces[:until]:
            self.session.run(";\n".join(piece))  # one message is one transaction
        return len(pieces)

    def fingerprint(self) -> Catalog:
        """The schema as `smeta` sees it."""
        _, meant, _, digests, edges = (
            answer.rows
            for answer in self.session.ask(
                "fingerprint", None, names=[], journal="smeta", table="public.schema_migrations"
            )
        )
        self.session.run("reset search_path")
        return catalog_of(meant, digests, edges)

    def as_tenant(self, role: str, tenant: str | None, statement: str) -> list[tuple[Any, ...]]:
        """What a role gets in the transaction of a tenant."""
        with psycopg.connect(self.database.admin) as connection:
            connection.execute("select set_config('role', %s, true)", (role,))
            if tenant is not None:
                connection.execute("select public.set_tenant_context(%s)", (tenant,))
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]
