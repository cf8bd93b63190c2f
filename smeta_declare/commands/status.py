"""`smeta status`."""

from __future__ import annotations

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer, answer_json, talk
from smeta_declare.errors import Exit
from smeta_declare.report import MigrationStatus, Status


def status_text(status: Status) -> str:
    """The counts as migration-manager.js printed them, then a line per migration."""
    counts = f"total {status.total}, applied {status.count('applied')}, pending {status.count('pending')}"
    for state in ("partial", "unknown"):
        if number := status.count(state):
            counts += f", {state} {number}"
    if changed := sum(m.change is not None and m.change.harmful for m in status.migrations):
        counts += f", changed since applied {changed}"
    lines = [f"{status.environment} · database {status.database} at {status.address}", counts, ""]
    lines += [_line(m) for m in status.migrations]
    now = f"running now ({status.runner})" if status.runner else "stopped or died; nobody works on it"
    lines += [
        f"  open run {run.id} ({run.request}), since {run.started_at.isoformat(timespec='seconds')} "
        f"by {run.started_by}: {now}"
        for run in status.open_runs
    ]
    return "\n".join(lines).rstrip("\n")


def _line(m: MigrationStatus) -> str:
    text = f"  {m.state:8} {m.version}"
    if m.applied_at:
        text += f"  {m.applied_at} by {m.applied_by}"
    notes = [m.note, str(m.change).removeprefix(f"{m.version}: ") if m.change else None]
    return text + "".join(f"\n           ! {note}" for note in notes if note)


@click.command()
@options.environment
@click.option(
    "--detailed-exitcode", is_flag=True, help="Leave with 2 where anything is pending or not as it should be."
)
@options.format
@click.pass_obj
def command(app: App, /, environment: str, output: str, *, detailed_exitcode: bool) -> int:
    """Show what is applied, pending, half done, unknown, or changed since it was applied."""
    resolved = app.resolve(environment)
    for finding in app.project.check_files(resolved, app.manifest.listed):
        talk(f"{finding.severity}[{finding.code}]: {finding.message}")
    reader = app.reader(resolved)
    with reader.connected() as journal:
        status = reader.status(journal)
    if output == "json":
        answer_json(status.as_dict())
    else:
        answer(status_text(status))
    return Exit.CHANGES if detailed_exitcode and not status.clean else Exit.DONE
