"""`smeta apply` (alias `migrate`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import (
    RunOptions,
    abandoned_text,
    asked,
    consent,
    follows_reconciliation,
    note_skipped_backup,
    refuse_unsaved,
    run_options,
    show_plan,
    show_run,
    with_locks,
)
from smeta_declare.cli.views import answer

if TYPE_CHECKING:
    from smeta_declare.executor import RunResult
    from smeta_declare.plan import Plan
    from smeta_declare.postgres.journal import Journal
    from smeta_declare.runner import Runner


@click.command()
@click.argument("file", required=False)
@options.environment_or_plan
@click.option("--to", metavar="VERSION", help="Up to and including this migration.")
@click.option(
    "--abandon", metavar="RUN_ID", help="End a run that stopped half-way, without finishing it; then stop."
)
@run_options
@click.pass_obj
def command(
    app: App,
    /,
    file: str | None,
    environment: str | None,
    to: str | None,
    abandon: str | None,
    **given: Any,
) -> None:
    """Apply every pending migration, or run the saved plan FILE: all of it or nothing, where PostgreSQL can do that."""
    run = RunOptions(**given)
    if file is not None:
        _apply_saved(app, Path(file), environment, run, others=to is not None or abandon is not None)
        return
    if environment is None:
        raise click.UsageError("name the environment with --env NAME, or a plan: smeta apply FILE")
    resolved = app.checked(with_locks(app.resolve(environment), run))
    if abandon is None and not run.dry_run:
        refuse_unsaved(resolved, "smeta plan" + (f" --to {to}" if to else ""))
    runner = app.runner(resolved)
    with runner.connected() as journal:
        if abandon is not None:
            consent(resolved, run, interactive=app.interactive, what="abandon the run")
            app.log.open()
            answer(abandoned_text(abandon, runner.abandon(journal, abandon), resolved))
            return
        if run.dry_run:
            plan, _ = runner.plan_forward(journal, to=to, backup=run.backup)
            show_plan(plan, run.output, dry_run=True)
            return
        done = _run(app, runner, journal, run, to=to)
    if to is None and follows_reconciliation(resolved, done[0]):
        app.begin_another_run()
        runner = app.runner(resolved)
        with runner.connected() as journal:
            show_run(*done, run.output, then=_run(app, runner, journal, run))
        return
    show_run(*done, run.output)


def _run(
    app: App, runner: Runner, journal: Journal, run: RunOptions, *, to: str | None = None
) -> tuple[Plan, RunResult | None]:
    app.log.open()
    note_skipped_backup(runner, run)
    return runner.apply(
        journal, to=to, backup=run.backup, agreed=asked(app, runner.environment, run, "apply")
    )


def _apply_saved(app: App, file: Path, environment: str | None, run: RunOptions, *, others: bool) -> None:
    from smeta_declare.saved import PlanForeign, read

    if others or not run.backup:
        raise click.UsageError(
            "a saved plan says itself what it runs and backs up: give no --to, --abandon, --skip-backup"
        )
    saved = read(file)
    if environment is not None and environment != saved.environment:
        raise PlanForeign(
            f"{file} was made for environment {saved.environment}, not for {environment}",
            hint="leave --env out, or make a plan for that environment",
        )
    resolved = app.checked(with_locks(app.resolve(saved.environment), run))
    runner = app.runner(resolved)
    with runner.connected() as journal:
        if run.dry_run:
            show_plan(runner.plan_again(journal, saved)[0], run.output, dry_run=True)
            return
        app.log.open()
        plan, result = runner.apply_saved(
            journal, saved, agreed=asked(app, resolved, run, "apply" if saved.forward else "roll back")
        )
    show_run(plan, result, run.output)
