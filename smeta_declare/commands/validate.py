"""`smeta validate`: manifest, files, and every environment that can be resolved here."""

from __future__ import annotations

from dataclasses import dataclass, field

import click

from smeta_declare.cli.app import App
from smeta_declare.cli.plan_view import counted
from smeta_declare.cli.views import answer, show_findings
from smeta_declare.diagnostics import Diagnostic
from smeta_declare.errors import InvalidInput, InvalidManifest
from smeta_declare.project import raise_findings
from smeta_declare.rendering import check_question, migration_findings

_NOT_KNOWN_HERE = ("manifest-interpolation", "manifest-no-database")


@dataclass(slots=True)
class Verdict:
    """What was checked, what is wrong, and what is allowed but was noticed."""

    checked: list[str] = field(default_factory=list)
    mistakes: dict[str, Diagnostic] = field(default_factory=dict)
    noticed: dict[str, Diagnostic] = field(default_factory=dict)


def validate_project(app: App, names: tuple[str, ...]) -> Verdict:
    """Render every migration for every environment. The same mistake in each of them is one mistake.

    An environment whose variables are not set here is passed over and said, unless it was asked for by name.
    """
    verdict = Verdict()
    for name in names or app.manifest.environments:
        try:
            environment = app.resolve(name)
        except InvalidManifest as error:
            # What a variable would give is not known here; everything else is a mistake anywhere.
            if names or any(f.code not in _NOT_KNOWN_HERE for f in error.findings):
                raise
            missing = "; ".join(f.message for f in error.findings) or error.message
            verdict.checked.append(f"{name}: not checked here ({missing})")
            continue
        found = list(app.project.check_files(environment, app.manifest.listed))
        entries = () if found else environment.migrations
        noticed: list[Diagnostic] = []
        try:
            app.project.render_all(environment, entries)
            for entry in entries:
                noticed += migration_findings(app.project.rendered(environment, entry))
            for check in environment.checks:
                check_question(check)
        except InvalidInput as error:
            found += error.as_findings()
        verdict.mistakes |= {f"{f.location} {f.message}": f for f in found}
        verdict.noticed |= {f"{f.location} {f.message}": f for f in noticed}
        verdict.checked.append(f"{name}: {counted(len(environment.migrations), 'migration')}")
    return verdict


@click.command()
@click.option("--env", "names", multiple=True, metavar="NAME", help="Only this environment (repeatable).")
@click.pass_obj
def command(app: App, names: tuple[str, ...]) -> None:
    """Check manifest and migrations without asking any database: structure, templates, SQL syntax, sections."""
    verdict = validate_project(app, names)
    show_findings(verdict.noticed.values())
    if verdict.mistakes:
        raise_findings(list(verdict.mistakes.values()))
    answer("\n".join(["valid", *(f"  {line}" for line in verdict.checked)]))
