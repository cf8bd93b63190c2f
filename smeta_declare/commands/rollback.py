"""`smeta rollback`."""

from __future__ import annotations

import dataclasses

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.plan_view import plan_text, summary
from smeta_declare.cli.views import answer, answer_json, show_findings, talk
from smeta_declare.plan import Plan


@click.command()
@click.argument("count", type=click.IntRange(min=1), default=None, required=False)
@options.environment
@click.option("--to", metavar="VERSION", help="Undo everything that was applied after this migration.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@options.skip_backup
@options.no_backup
@options.confirm
@options.runner_wait
@options.lock_timeout
@options.auto_approve
@options.format
@click.pass_obj
def command(
    app: App,
    /,
    count: int | None,
    environment: str,
    to: str | None,
    skip_backup: str | None,
    confirm: str | None,
    runner_wait: str | None,
    lock_timeout: str | None,
    output: str,
    *,
    dry_run: bool,
    no_backup: bool,
    auto_approve: bool,
) -> None:
    """Undo the last COUNT migrations (1 where nothing is said) with the rollback SQL kept in the database."""
    if count is not None and to is not None:
        raise click.UsageError("give a number or --to, not both")
    resolved = app.resolve(environment)
    locks = dataclasses.replace(
        resolved.locks,
        timeout_ms=options.milliseconds(lock_timeout, resolved.locks.timeout_ms),
        runner_wait_ms=options.milliseconds(runner_wait, resolved.locks.runner_wait_ms),
    )
    resolved = dataclasses.replace(resolved, locks=locks)
    runner = app.runner(resolved)

    def agreed(plan: Plan) -> None:
        if plan.empty:
            return
        if not app.quiet:
            talk(summary(plan))
            show_findings(plan.findings)
        options.consent(
            environment,
            protected=resolved.protected,
            given=confirm,
            interactive=app.interactive,
            what="roll back",
        )

    with runner.connected() as journal:
        if dry_run:
            plan, _ = runner.plan_back(journal, count=count or 1, to=to)
            if output == "json":
                answer_json(plan.as_dict())
            else:
                answer(plan_text(plan))
                talk("dry run: nothing was run")
            return
        options.note_skipped_backup(app, skip_backup, no_backup=no_backup)
        plan, result = runner.roll_back(
            journal,
            count=count or 1,
            to=to,
            backup=not (no_backup or skip_backup),
            wait_ms=locks.runner_wait_ms,
            agreed=agreed,
        )
    if output == "json":
        answer_json(
            {
                "format": "smeta.run/1",
                "run": result.run if result else None,
                "environment": environment,
                "rolled_back": [m.version for m in plan.migrations],
                "duration_ms": result.duration_ms if result else 0,
            }
        )
    elif result is None:
        answer("nothing to roll back")
    else:
        for migration in plan.migrations:
            answer(f"rolled back {migration.version}")
