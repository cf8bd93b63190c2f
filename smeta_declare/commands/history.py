"""`smeta history`."""

from __future__ import annotations

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer, answer_json, table


@click.command()
@options.environment
@options.format
@click.pass_obj
def command(app: App, environment: str, output: str) -> None:
    """List applied migrations in the order of application: when, by whom, how long it took."""
    reader = app.reader(app.resolve(environment))
    with reader.connected() as journal:
        _, history = journal.state()
    if output == "json":
        answer_json(
            {
                "format": "smeta.history/1",
                "environment": environment,
                "history": history.id,
                "applied": [
                    {
                        "version": row.version,
                        "name": row.name,
                        "description": row.description,
                        "applied_at": row.applied_at.isoformat(),
                        "applied_by": row.applied_by,
                        "execution_time_ms": row.execution_time_ms,
                        "checksum": row.checksum,
                        "meaning": row.meaning,
                        "reversible": row.rollback_sql is not None,
                    }
                    for row in history.applied
                ],
            }
        )
    elif not history.applied:
        answer("nothing is applied")
    else:
        answer(
            table(
                (
                    (
                        row.version,
                        row.applied_at.isoformat(sep=" ", timespec="seconds"),
                        row.applied_by,
                        f"{row.execution_time_ms} ms",
                        row.checksum[:12],
                        row.description,
                    )
                    for row in history.applied
                ),
                headings=("version", "applied at", "by", "took", "checksum", "description"),
            )
        )
