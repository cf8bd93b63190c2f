"""`smeta doctor`: what would get in the way of a migration, before somebody runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer, answer_json
from smeta_declare.errors import Exit

if TYPE_CHECKING:
    from smeta_declare.doctor import Examination


def examination_text(found: Examination) -> str:
    """The findings, the worst first, each with what to do."""
    lines = [f"{found.environment} · database {found.database} at {found.address}"]
    for finding in found.findings:
        message = finding.message.replace("\r", "").replace("\n", "\n      ")
        lines.append(f"{finding.severity}[{finding.code}]: {message}")
        if finding.hint:
            lines.append(f"  = next: {finding.hint}")
    counts = [
        f"{sum(f.severity == severity for f in found.findings)} {severity}"
        for severity in dict.fromkeys(f.severity for f in found.findings)
    ]
    return "\n".join([*lines, f"{found.questions} questions asked: {', '.join(counts) or 'nothing found'}"])


@click.command()
@options.environment
@options.format
@click.pass_obj
def command(app: App, environment: str, output: str) -> int:
    """Look for what would get in the way: pooler, rights, pg_dump, long transactions, leftovers. Reads only."""
    from smeta_declare.doctor import examine  # here, so that `--help` needs no driver

    found = examine(app.reader(app.resolve(environment)))
    if output == "json":
        answer_json(found.as_dict())
    else:
        answer(examination_text(found))
    return Exit.DONE if found.healthy else Exit.FAILED
