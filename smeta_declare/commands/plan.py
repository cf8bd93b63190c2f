"""`smeta plan`: what apply or rollback would do, without doing it; as a file, for review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import add_to_step_summary, show_document
from smeta_declare.cli.views import show_findings, talk
from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.errors import Exit, InvalidInput
from smeta_declare.plan import Plan
from smeta_declare.run import run_ways

if TYPE_CHECKING:
    from smeta_declare.environment import Environment
    from smeta_declare.revision import Revision


def make_plan(
    app: App, name: str, *, to: str | None = None, rollback: int | None = None, from_file: bool = False
) -> Plan:
    """The plan of an environment, from what its database says now. Creates nothing there."""
    environment = app.checked(app.resolve(name))
    runner = app.runner(environment)
    with runner.connected() as journal:
        if rollback is None:
            plan, history = runner.plan_forward(journal, to=to)
        else:
            plan, history = runner.plan_back(journal, count=rollback, to=to, from_file=from_file)
        for run in history.open_runs:
            told = Diagnostic(
                code="run-open",
                severity=Severity.MEDIUM,
                message=f"the run {run.id} is not finished: until then no other saved plan is taken",
                object=run.id,
                hint=run_ways(run, environment),
            )
            plan = replace(plan, findings=(*plan.findings, told))
        return runner.bound(journal, plan)


@click.command()
@options.environment
@click.option("--to", metavar="VERSION", help="Up to and including this migration; back: down to it.")
@click.option(
    "--rollback",
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="The way back of the last N migrations (1 where nothing is said).",
)
@click.option(
    "--out", metavar="FILE", help="Write the plan to a file, which `smeta apply FILE` runs as it is."
)
@click.option(
    "--from-file",
    is_flag=True,
    help="Undo with the rollback sections of the files as they are now, not with the SQL kept in the database.",
)
@click.option("--offline", is_flag=True, help="Ask no database: show what a branch adds, with --since.")
@click.option(
    "--since", metavar="REVISION", help="With --offline: the revision of git that the branch began at."
)
@click.option("--detailed-exitcode", is_flag=True, help="Leave with 2 where there is something to do.")
@options.plan_format
@click.pass_obj
def command(
    app: App,
    /,
    environment: str,
    to: str | None,
    rollback: int | None,
    out: str | None,
    output: str,
    *,
    from_file: bool,
    offline: bool,
    since: str | None,
    detailed_exitcode: bool,
) -> int:
    """Show what apply would do: every statement, in its transaction. Nothing is changed or created."""
    if from_file and rollback is None:
        raise click.UsageError("--from-file goes with --rollback")
    if (since is None) == offline:
        raise click.UsageError("--offline and --since REVISION go together")
    if since is not None:
        if to or rollback or out:
            raise click.UsageError("--offline says what a branch adds: give no --to, --rollback, --out")
        return _offline(app, environment, since, output, detailed_exitcode=detailed_exitcode)
    plan = make_plan(app, environment, to=to, rollback=rollback, from_file=from_file)
    if output != "json":
        show_findings(plan.findings)
    show_document(plan.document(), output)
    add_to_step_summary(app, plan)
    if out is not None:
        from smeta_declare.saved import write

        write(Path(out), plan)
        consent = f" --confirm {environment}" if plan.settings["protected"] else ""
        talk(f"written to {out}: run it with `smeta apply {out}{consent}`")
    return Exit.CHANGES if detailed_exitcode and not plan.empty else Exit.DONE


def _offline(app: App, name: str, since: str, output: str, *, detailed_exitcode: bool) -> int:
    """What the checkout adds to what it was at a revision; 1 where a database would refuse it, or may."""
    from smeta_declare.offline import branch
    from smeta_declare.project import Project
    from smeta_declare.revision import checked_out

    environment = app.checked(app.resolve(name, offline=True))
    with checked_out(app.root, since) as there:
        before, unread = _base(app, name, there, since)
        found = branch(
            environment,
            app.project,
            (before, Project(there.root)) if before else None,
            unread=unread,
            revision=since,
            commit=there.commit,
        )
    if output != "json":
        show_findings(found.findings)
    show_document(found.document(), output)
    add_to_step_summary(app, found)
    if found.refused:
        return Exit.FAILED
    return Exit.CHANGES if detailed_exitcode and not found.plan.empty else Exit.DONE


def _base(
    app: App, name: str, there: Revision, since: str
) -> tuple[Environment | None, tuple[Diagnostic, ...]]:
    """The environment as a revision has it, with its files; or why there is nothing to compare with."""
    from smeta_declare.offline import absent, unreadable

    manifest = app.manifest_path.name
    try:
        if not (taken := there.take(manifest)).exists():
            return None, (absent(manifest, since),)
        if (before := app.resolve_at(taken, name)) is None:
            return None, (absent(f"environment {name}", since),)
        there.take(before.migrations_directory)
    except InvalidInput as error:
        return None, unreadable(error, since, root=there.root)
    return before, ()
