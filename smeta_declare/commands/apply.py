"""`smeta apply` (alias `migrate`)."""

from __future__ import annotations

from typing import Any

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import (
    RunOptions,
    abandoned_text,
    asked,
    consent,
    note_skipped_backup,
    run_options,
    show_plan,
    show_run,
    with_locks,
)
from smeta_declare.cli.views import answer


@click.command()
@options.environment
@click.option("--to", metavar="VERSION", help="Up to and including this migration.")
@click.option(
    "--abandon", metavar="RUN_ID", help="End a run that stopped half-way, without finishing it; then stop."
)
@run_options
@click.pass_obj
def command(app: App, /, environment: str, to: str | None, abandon: str | None, **given: Any) -> None:
    """Apply every pending migration: all of them or none, where PostgreSQL can do that."""
    run = RunOptions(**given)
    resolved = app.checked(with_locks(app.resolve(environment), run))
    runner = app.runner(resolved)
    with runner.connected() as journal:
        if abandon is not None:
            consent(resolved, run.confirm, interactive=app.interactive, what="abandon the run")
            app.log.open()
            answer(abandoned_text(abandon, runner.abandon(journal, abandon), environment))
            return
        if run.dry_run:
            plan, _ = runner.plan_forward(journal, to=to, backup=run.backup)
            show_plan(plan, run.output, dry_run=True)
            return
        app.log.open()
        note_skipped_backup(runner, run)
        plan, result = runner.apply(
            journal, to=to, backup=run.backup, agreed=asked(app, resolved, run, "apply")
        )
    show_run(plan, result, run.output)
