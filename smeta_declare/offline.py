"""What can be said without a database: the plan of a project from nothing, and what a branch adds. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.environment import Environment
from smeta_declare.errors import InvalidInput
from smeta_declare.inputs import Change
from smeta_declare.integrity import find_change
from smeta_declare.parser import tree
from smeta_declare.plan import HistoryRow, Plan
from smeta_declare.planner import history_row, plan_apply
from smeta_declare.policy import loosened, unmet
from smeta_declare.project import Project
from smeta_declare.run import AppliedMigration, History, Target
from smeta_declare.tenancy.fold import folded
from smeta_declare.tenancy.model import Catalogue

FORMAT = "smeta.offline/1"
_NOWHERE = Target(system_identifier="", database="", user="", server_version_num=0, server_version="")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_KEPT_FIELDS = tuple(field.name for field in fields(HistoryRow) if field.name != "details")
_LOOK = "see for yourself that what databases have applied is unchanged"
_REFUSED = ("base-changed", "base-unreadable", "require-unmet")
_OF_A_DATABASE = (
    "target",
    "base",
    "objects",
    "catalog",
    "continues",
    "from_file",
    "history",
)  # nothing to say of them here


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """What a checkout has that a revision had not: migrations to apply, and changes of those that were there."""

    revision: str
    commit: str
    plan: Plan
    changes: tuple[Change, ...]
    findings: tuple[Diagnostic, ...]

    @property
    def refused(self) -> bool:
        """Whether a database would refuse it: for what it changes of the base, or may, or for what it lacks."""
        return any(f.code in _REFUSED for f in self.findings)

    def document(self) -> dict[str, Any]:
        """The published form: like a plan's, without a target, and nothing that `apply` would take."""
        document = self.plan.document()
        decision = {k: v for k, v in document["decision"].items() if k not in _OF_A_DATABASE}
        return {
            "format": FORMAT,
            "since": {"revision": self.revision, "commit": self.commit},
            "changes": [{**asdict(change), "diff": list(change.diff)} for change in self.changes],
            "decision": decision,
            "facts": {
                "places": document["facts"]["places"],
                "losses": document["facts"]["losses"],
                "findings": [f.as_dict() for f in self.findings],
            },
        }


def unbound_plan(
    environment: Environment, project: Project, applied: tuple[AppliedMigration, ...] = ()
) -> Plan:
    """The way forward from an empty history, or from these rows of one. It names no target: nothing may run it."""
    plan = plan_apply(
        environment, History(applied=applied), _NOWHERE, lambda entry: project.rendered(environment, entry)
    )
    return replace(plan, lost=plan.uncounted)


def made_by(environment: Environment, project: Project) -> Catalogue:
    """What the migrations of an environment make of an empty database, by their parse trees."""
    sections = (project.rendered(environment, entry).forward for entry in environment.migrations)
    return folded(tree(statement.text)[0] for section in sections for statement in section.statements)


def branch(
    environment: Environment,
    project: Project,
    before: tuple[Environment, Project] | None,
    *,
    unread: Iterable[Diagnostic] = (),
    revision: str,
    commit: str,
) -> Branch:
    """What the environment has that it had not; `before` is the one of the revision.

    None where the revision has no such environment, or it cannot be read; `unread` says which. InvalidMigration is
    about the files of the checkout: one of the revision that cannot be read is a finding, and new here.
    """
    rows, broken = _rows(*before, revision) if before else ((), ())
    listed = {entry.version: entry for entry in environment.migrations}
    project.render_all(environment, environment.migrations)
    kept = tuple(row for row in rows if row.version in listed)
    # What is repaired may stand before what was whole: `order: strict` is no reason to show nothing of it.
    plan = unbound_plan(replace(environment, order="lenient") if broken else environment, project, kept)
    plan = replace(plan, settings=environment.settings())
    changes = tuple(
        change
        for row in kept
        if (
            change := find_change(
                row,
                project.read(environment, row.version),
                lambda row=row: project.rendered(environment, listed[row.version]),  # type: ignore[misc]
                kept_as=revision,
            )
        )
    )
    findings = [*unread, *broken, *(_changed(change, revision) for change in changes)]
    findings += [_gone(row.version, revision) for row in rows if row.version not in listed]
    order = [entry.version for entry in environment.migrations if entry.version in {r.version for r in kept}]
    if order != [row.version for row in kept]:
        findings.append(_harm(None, f"migrations that {revision} has are listed in another order now"))
    if before:
        findings += loosened(
            environment.name,
            before[0].settings(),
            environment.settings(),
            hint="nothing to do if this is meant",
        )
    findings += unmet(environment, plan)
    findings.sort(key=lambda f: f.code not in _REFUSED)
    return Branch(
        revision=revision,
        commit=commit,
        plan=plan,
        changes=changes,
        findings=(*findings, *plan.findings),
    )


def absent(what: str, revision: str) -> Diagnostic:
    """That a revision has nothing of the environment: its manifest, or the environment itself, is not there."""
    return Diagnostic(
        code="base-missing",
        severity=Severity.MEDIUM,
        message=f"{revision} has no {what}: nothing could be compared, and everything is shown as new",
        hint=f"nothing to do if it is new; if it has another name now, {_LOOK}",
    )


def unreadable(
    error: InvalidInput, revision: str, *, root: Path, version: str | None = None
) -> tuple[Diagnostic, ...]:
    """Why something of a revision cannot be compared; `root` is where its files were copied to, and is not told."""
    return tuple(
        Diagnostic(
            code="base-unreadable",
            severity=Severity.HIGH,
            message=f"at {revision}: {f'{found.location}: ' if found.location else ''}{found.message}".replace(
                f"{root}/", ""
            ),
            object=version,
            hint=f"what is here of {version or 'it'} is shown as new; {_LOOK}",
        )
        for found in error.as_findings()
    )


def _rows(
    environment: Environment, project: Project, revision: str
) -> tuple[tuple[AppliedMigration, ...], tuple[Diagnostic, ...]]:
    """The history of a database that had everything applied; what cannot be rendered no database has from there."""
    rows: list[AppliedMigration] = []
    broken: list[Diagnostic] = []
    for entry in environment.migrations:
        try:
            row = history_row(project.rendered(environment, entry))
        except InvalidInput as error:
            broken += unreadable(error, revision, root=project.root, version=entry.version)
            continue
        rows.append(
            AppliedMigration(
                applied_at=_LONG_AGO,
                applied_by="",
                execution_time_ms=0,
                details_json=json.dumps(row.details),
                **{field: getattr(row, field) for field in _KEPT_FIELDS},
            )
        )
    return tuple(rows), tuple(broken)


_KINDS: Mapping[str, tuple[Severity, str]] = {
    "rollback": (
        Severity.MEDIUM,
        "another rollback section: where it is applied, the one kept there is used",
    ),
    "validation": (Severity.LOW, "another validation section"),
    "comments": (Severity.INFO, "other comments or layout; the SQL means the same"),
}


def _changed(change: Change, revision: str) -> Diagnostic:
    if change.kind in _KINDS:
        severity, words = _KINDS[change.kind]
        return Diagnostic(
            code=f"base-{change.kind}",
            severity=severity,
            message=f"{change.version}, which {revision} has, has {words}",
            object=change.version,
        )
    return _harm(change.version, f"{change.version}, which {revision} has, means something else now")


def _gone(version: str, revision: str) -> Diagnostic:
    return _harm(version, f"{version}, which {revision} has, is not listed any more")


def _harm(version: str | None, message: str) -> Diagnostic:
    return Diagnostic(
        code="base-changed",
        severity=Severity.HIGH,
        message=message,
        object=version,
        hint="a database that has it applied refuses this; put it back, and write the change as a new migration",
    )
