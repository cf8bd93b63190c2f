"""`smeta backup list | create`."""

from __future__ import annotations

import click

from smeta_declare.backup.store import list_backups
from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer, answer_json, table
from smeta_declare.errors import UsageError


@click.group()
def command() -> None:
    """List and take backups."""


@command.command("list")
@options.format
@click.pass_obj
def list_command(app: App, output: str) -> None:
    """List the backups of this project, the newest first."""
    records = list_backups(app.root / app.manifest.backups_directory)
    if output == "json":
        answer_json(
            {
                "format": "smeta.backups/1",
                "backups": [
                    {
                        "file": r.file,
                        "version": r.version,
                        "created_at": r.created_at.isoformat(),
                        "policy": r.policy,
                        "scope": r.scope,
                        "size": r.size,
                        "sha256": r.sha256,
                        "environment": r.environment,
                        "database": r.database,
                        "unproven": r.unproven,
                    }
                    for r in records
                ],
            }
        )
    elif not records:
        answer("no backups")
    else:
        answer(
            table(
                (
                    (
                        r.file,
                        r.created_at.isoformat(sep=" "),
                        r.environment,
                        r.database,
                        r.scope,
                        f"{r.size:,}",
                    )
                    for r in records
                ),
                headings=("file", "taken at", "environment", "database", "scope", "bytes"),
            )
        )


@command.command("create")
@options.environment
@click.option("--policy", metavar="NAME", help="Another policy of backups.policies than the environment's.")
@click.pass_obj
def create_command(app: App, environment: str, policy: str | None) -> None:
    """Take a backup now, by the environment's policy or a named one."""
    resolved = app.resolve(environment)
    chosen = next((p for p in resolved.policies if p.name == policy), None) if policy else resolved.backup
    if policy and chosen is None:
        raise UsageError(
            f"there is no backup policy {policy}",
            hint=f"backups.policies has: {', '.join(p.name for p in resolved.policies) or 'none'}",
        )
    if chosen is None:
        raise UsageError(
            f"environment {environment} has no backup policy",
            hint="name one of backups.policies with --policy",
        )
    app.log.open()
    runner = app.runner(resolved)
    with runner.connected() as journal:
        _, history = journal.state()
        reached = [row.version for row in history.applied] + [p.version for p in history.partial]
        label = reached[-1] if reached else "empty"
        record = runner.back_up(journal.session, chosen, label)
    answer(f"{resolved.backups_directory}/{record.file}")
