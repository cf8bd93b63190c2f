"""`smeta apply` (alias `migrate`)."""

from __future__ import annotations

import dataclasses

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.plan_view import plan_text, summary
from smeta_declare.cli.views import answer, answer_json, show_findings, talk
from smeta_declare.plan import Plan


@click.command()
@options.environment
@click.option("--to", metavar="VERSION", help="Up to and including this migration.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop; the same as `smeta plan`.")
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
    """Apply every pending migration: all of them or none, where PostgreSQL can do that."""
    from smeta_declare.commands.plan import make_plan

    if dry_run:
        plan = make_plan(app, environment, to=to)
        if output == "json":
            answer_json(plan.as_dict())
        else:
            show_findings(plan.findings)
            answer(plan_text(plan))
            talk("dry run: nothing was run")
        return
    resolved = app.checked(app.resolve(environment))
    locks = dataclasses.replace(
        resolved.locks,
        timeout_ms=options.milliseconds(lock_timeout, resolved.locks.timeout_ms),
        runner_wait_ms=options.milliseconds(runner_wait, resolved.locks.runner_wait_ms),
    )
    resolved = dataclasses.replace(resolved, locks=locks)

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
            what="apply",
        )

    options.note_skipped_backup(app, skip_backup, no_backup=no_backup)
    runner = app.runner(resolved)
    with runner.connected() as journal:
        plan, result = runner.apply(
            journal,
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
                "applied": [m.version for m in plan.migrations],
                "duration_ms": result.duration_ms if result else 0,
            }
        )
    elif result is None:
        answer(f"{environment} is up to date: nothing to apply")
    else:
        noun = "migration" if len(plan.migrations) == 1 else "migrations"
        answer(f"applied {len(plan.migrations)} {noun} to {environment} in {result.duration_ms} ms")
