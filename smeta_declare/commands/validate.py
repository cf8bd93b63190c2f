"""`smeta validate`: manifest, files, and every environment that can be resolved here."""

from __future__ import annotations

import click

from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer
from smeta_declare.diagnostics import Diagnostic
from smeta_declare.errors import InvalidInput, InvalidManifest
from smeta_declare.planner import check_question
from smeta_declare.project import as_finding, raise_findings

_NOT_KNOWN_HERE = ("manifest-interpolation", "manifest-no-database")


def validate_project(app: App, names: tuple[str, ...]) -> tuple[list[str], list[Diagnostic]]:
    """Render every migration for every environment; what was checked, and what is wrong.

    An environment whose variables are not set here is passed over and said, unless it was asked for by name.
    """
    checked: list[str] = []
    findings: dict[tuple[object, ...], Diagnostic] = {}
    for name in names or app.manifest.environments:
        try:
            environment = app.resolve(name)
        except InvalidManifest as error:
            # What a variable would give is not known here; everything else is a mistake anywhere.
            if names or any(f.code not in _NOT_KNOWN_HERE for f in error.findings):
                raise
            missing = "; ".join(f.message for f in error.findings) or error.message
            checked.append(f"{name}: not checked here ({missing})")
            continue
        found = list(app.project.check_files(environment, (e.version for e in app.manifest.entries)))
        try:
            app.project.render_all(environment, [] if found else environment.migrations)
            for check in environment.checks:
                check_question(check)
        except InvalidInput as error:
            found += error.findings or [as_finding(error)]
        # The same mistake in every environment is one mistake.
        findings |= {(f.code, f.message, str(f.location)): f for f in found}
        checked.append(f"{name}: {len(environment.migrations)} migrations")
    return checked, list(findings.values())


@click.command()
@click.option("--env", "names", multiple=True, metavar="NAME", help="Only this environment (repeatable).")
@click.pass_obj
def command(app: App, names: tuple[str, ...]) -> None:
    """Check manifest and migrations without asking any database: structure, templates, SQL syntax, sections."""
    checked, findings = validate_project(app, names)
    if findings:
        raise_findings(findings)
    answer("\n".join(["valid", *(f"  {line}" for line in checked)]))
