"""`smeta rollback`."""

from __future__ import annotations

from typing import Any

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import (
    RunOptions,
    asked,
    note_skipped_backup,
    refuse_unsaved,
    run_options,
    show_plan,
    show_run,
    with_locks,
)


@click.command()
@click.argument("count", type=click.IntRange(min=1), required=False)
@options.environment
@click.option("--to", metavar="VERSION", help="Undo everything that was applied after this migration.")
@click.option(
    "--from-file",
    is_flag=True,
    help="Undo with the rollback sections of the files as they are now, not with the SQL kept in the database.",
)
@run_options
@click.pass_obj
def command(
    app: App, /, count: int | None, environment: str, to: str | None, *, from_file: bool, **given: Any
) -> None:
    """Undo the last COUNT migrations (1 where nothing is said) with the rollback SQL kept in the database."""
    if count is not None and to is not None:
        raise click.UsageError("give a number or --to, not both")
    run = RunOptions(**given)
    resolved = with_locks(app.resolve(environment), run)
    if not run.dry_run:
        way = f"--to {to}" if to else "--rollback" + (f" {count}" if count else "")
        refuse_unsaved(
            resolved,
            "smeta plan " + ("--rollback " if to else "") + way + (" --from-file" if from_file else ""),
        )
    runner = app.runner(resolved)
    with runner.connected() as journal:
        if run.dry_run:
            plan, _ = runner.plan_back(
                journal, count=count or 1, to=to, backup=run.backup, from_file=from_file
            )
            show_plan(plan, run.output, dry_run=True)
            return
        app.log.open()
        note_skipped_backup(runner, run)
        plan, result = runner.roll_back(
            journal,
            count=count or 1,
            to=to,
            backup=run.backup,
            from_file=from_file,
            agreed=asked(app, resolved, run, "roll back"),
        )
    show_run(plan, result, run.output)
