"""What `tenancy:` declares, as a migration after those that the manifest lists: compared with what is there now."""

from __future__ import annotations

from dataclasses import dataclass, replace

from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.environment import Environment, MigrationEntry
from smeta_declare.errors import Refused
from smeta_declare.migration import Header, MigrationFile, checksum
from smeta_declare.offline import made_by
from smeta_declare.postgres.connection import Session
from smeta_declare.postgres.introspection import tenancy_catalogue
from smeta_declare.project import Project
from smeta_declare.rendered import Rendered
from smeta_declare.rendering import RenderedMigration, section_of
from smeta_declare.run import History, is_reconciliation
from smeta_declare.tenancy.adoption import reconciliation
from smeta_declare.tenancy.findings import catalogue_findings

_REFUSED = (Severity.CRITICAL, Severity.HIGH)


class TenancyImpossible(Refused):
    """What `tenancy:` declares cannot be brought about by statements alone."""

    code = "tenancy-impossible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciling:
    """The migration that brings about what is declared, if one is needed, and what is told of it."""

    migration: RenderedMigration | None = None
    findings: tuple[Diagnostic, ...] = ()

    def listed(self, environment: Environment) -> Environment:
        """The environment with this migration behind those that the manifest lists."""
        if self.migration is None:
            return environment
        return replace(environment, migrations=(*environment.migrations, self.migration.entry))


def reconciling(
    environment: Environment, history: History, project: Project, session: Session, *, wanted: bool
) -> Reconciling:
    """What is to be done, from `since` on and once no migration is pending; `wanted`: not stopped before by `--to`.

    One that stopped half-way is finished as it was begun. TenancyImpossible where statements cannot help.
    """
    tenancy = environment.tenancy
    if tenancy is None:
        return Reconciling()
    for half in history.partial:
        if half.direction == "forward" and is_reconciliation(half.version):
            kept = history.rollback_texts.get(half.version)
            forward = (kept and kept.forward) or ""
            return Reconciling(
                migration=_migration(environment, half.version, forward, kept.text if kept else "")
            )
    pending = [entry.version for entry in environment.migrations if not history.find(entry.version)]
    if not wanted or (
        tenancy.since is not None and not history.find(tenancy.since) and tenancy.since not in pending
    ):
        return Reconciling()
    if pending:
        told = "once these are applied, tables are compared with `tenancy:`, and what is missing is a plan of its own"
        return Reconciling(
            findings=(Diagnostic(code="tenancy-follows", severity=Severity.INFO, message=told),)
        )
    catalogue = tenancy_catalogue(session, tenancy, environment.history)
    found = catalogue_findings(tenancy, catalogue)
    if refused := [finding for finding in found if finding.severity in _REFUSED]:
        raise TenancyImpossible(
            f"tenancy cannot be brought about: {refused[0].message}",
            location=refused[0].location,
            detail=[finding.message for finding in refused[1:]],
            hint=refused[0].hint,
        )
    before = [row.version for row in history.applied if is_reconciliation(row.version)]
    needed = reconciliation(
        tenancy,
        catalogue,
        concurrently=bool(dict(environment.variables).get("concurrently", True)),
        made=made_by(environment, project),
        previous=before[-1] if before else "",
    )
    if needed is None:
        return Reconciling(findings=found)
    words = [
        Diagnostic(code="tenancy-change", severity=Severity.INFO, message=words) for words in needed.words
    ]
    migration = _migration(environment, needed.version, needed.sql, needed.rollback_sql)
    return Reconciling(migration=migration, findings=(*found, *words))


def _migration(environment: Environment, version: str, sql: str, rollback_sql: str) -> RenderedMigration:
    entry = MigrationEntry(version=version, timeouts=environment.timeouts, backup=environment.backup)
    forward = section_of(Rendered.kept(sql, name=version))
    back = rollback_sql or "-- smeta: nothing-to-undo\n"
    return RenderedMigration(
        file=MigrationFile(version=version, path=version, source=sql),
        text=sql,
        header=Header(name="tenancy", description="What `tenancy:` of the manifest declares"),
        entry=entry,
        forward=forward,
        rollback=section_of(Rendered.kept(back, name=f"rollback of {version}")),
        rollback_empty=False,
        validation=None,
        validations=(),
        inputs=checksum(sql),
    )
