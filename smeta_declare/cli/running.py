"""What `apply` and `rollback` have in common: their options, consent, and the words before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.plan_view import plan_sql, plan_text, summary
from smeta_declare.cli.views import answer, answer_json, quietly, show_findings, talk, visible
from smeta_declare.diagnostics import Severity
from smeta_declare.environment import EmbeddedDatabase, Environment
from smeta_declare.errors import Refused
from smeta_declare.events import BackupSkipped
from smeta_declare.plan import CountedLoss, Plan
from smeta_declare.run import is_reconciliation

if TYPE_CHECKING:
    from smeta_declare.executor import RunResult
    from smeta_declare.offline import Branch
    from smeta_declare.run import History
    from smeta_declare.runner import Runner

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


class ConsentMissing(Refused):
    """A protected environment needs its name given; rows that exist are destroyed only where that is agreed to."""

    code = "consent-missing"


class PlanRequired(Refused):
    """A protected environment is changed by a saved plan only."""

    code = "plan-required"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run was asked for on the command line."""

    dry_run: bool
    skip_backup: str | None
    no_backup: bool
    confirm: str | None
    allow_destructive: bool
    runner_wait: str | None
    lock_timeout: str | None
    auto_approve: bool  # accepted, and consents to nothing
    output: str

    @property
    def backup(self) -> bool:
        """Whether the backup that the policy asks for is taken."""
        return not (self.no_backup or self.skip_backup)


def run_options(command: AnyCommand) -> AnyCommand:
    """The options of a command that runs a plan; they fill a RunOptions."""
    for option in reversed(
        (
            click.option("--dry-run", is_flag=True, help="Show the plan and stop."),
            click.option(
                "--skip-backup", metavar="REASON", help="Take no backup; the reason is kept in the log."
            ),
            click.option(
                "--no-backup", is_flag=True, help="The old name of --skip-backup, without a reason."
            ),
            click.option(
                "--confirm",
                metavar="NAME",
                help="The name of the environment: consent to change a protected one, and to destroy rows.",
            ),
            click.option(
                "--allow-destructive",
                is_flag=True,
                help="Consent to destroy rows that exist now, and no more.",
            ),
            click.option(
                "--runner-wait",
                metavar="DURATION",
                help="How long to wait for another runner of smeta (10s, 2min).",
            ),
            click.option(
                "--lock-timeout",
                metavar="DURATION",
                help="How long a step may queue for a lock of the server (200ms).",
            ),
            click.option("--auto-approve", is_flag=True, hidden=True, help="Accepted; consents to nothing."),
            options.format,
        )
    ):
        command = option(command)
    return command


def with_locks(environment: Environment, given: RunOptions) -> Environment:
    """The environment with what the command line says of waiting."""
    locks = environment.locks
    return dataclasses.replace(
        environment,
        locks=dataclasses.replace(
            locks,
            timeout_ms=options.milliseconds(given.lock_timeout, locks.timeout_ms),
            runner_wait_ms=options.milliseconds(given.runner_wait, locks.runner_wait_ms),
        ),
    )


def note_skipped_backup(runner: Runner, given: RunOptions) -> None:
    """Say and log that a backup is left out, and why."""
    if not given.backup:
        runner.told(BackupSkipped(reason=given.skip_backup or "--no-backup"))


def asked(app: App, environment: Environment, given: RunOptions, what: str) -> Callable[[Plan], None]:
    """Tells the plan's summary, then asks for the consent that it needs."""

    def agree(plan: Plan) -> None:
        if plan.empty:
            return
        if not app.quiet:
            talk(summary(plan.decision, plan.address))
            # What follows from a declaration can be a hundred lines: `plan` shows them.
            show_findings(f for f in plan.findings if app.verbose or f.severity != Severity.INFO)
        for loss in plan.lost:
            if loss.rows != 0 or not app.quiet:
                talk(f"destroys {loss.words}")
        consent(environment, given, interactive=app.interactive, what=what, lost=plan.lost)
        # Before the run: somebody who finds the job failed sees what it was about to do.
        add_to_step_summary(app, plan)

    return agree


def consent(
    environment: Environment,
    given: RunOptions,
    *,
    interactive: bool,
    what: str,
    lost: Sequence[CountedLoss] = (),
) -> None:
    """Refuse a protected environment, or a plan that destroys rows, without consent; the embedded server needs none."""
    name = environment.name
    if given.confirm is not None and given.confirm != name:
        raise ConsentMissing(f"--confirm {given.confirm} does not name the environment {name}")
    destroyed = any(loss.rows != 0 for loss in lost)
    reasons = [f"{name} is protected"] if environment.protected else []
    ways = [f"--confirm {name}"]
    if destroyed and not given.allow_destructive:
        ways += [] if reasons else ["--allow-destructive"]
        reasons.append(f"rows that exist now would be destroyed in {name}")
    if not reasons or given.confirm == name or isinstance(environment.database, EmbeddedDatabase):
        return
    if interactive:
        question = f"{'; '.join(reasons)}. Type its name to {what}"
        if click.prompt(question, err=True, default="", show_default=False) == name:
            return
    raise ConsentMissing(
        "; ".join(reasons),
        hint=f"repeat with {' or '.join(ways)}, or type the name when asked",
    )


def refuse_unsaved(environment: Environment, plan: str) -> None:
    """Refuse to change a protected environment by anything but a saved plan; `plan` is how one is made."""
    if environment.protected and not isinstance(environment.database, EmbeddedDatabase):
        raise PlanRequired(
            f"{environment.name} is protected: only a saved plan changes it",
            hint=f"`{plan} --env {environment.name} --out FILE`, let it be reviewed, "
            f"then `smeta apply FILE --confirm {environment.name}`",
        )


def show_plan(plan: Plan, output: str, *, dry_run: bool = False) -> None:
    """A plan as the answer of a command."""
    if output != "json":
        show_findings(plan.findings)
    show_document(plan.document(), output)
    if dry_run and output != "json":
        talk("dry run: nothing was run")


def show_document(document: Mapping[str, Any], output: str) -> None:
    """A plan's published form as the answer of a command."""
    match output:
        case "json":
            answer_json(document, sort=True)
        case "markdown":
            from smeta_declare.cli.plan_markdown import plan_markdown

            answer(visible(plan_markdown(document)).rstrip("\n"))
        case "sql":
            answer(plan_sql(document))
        case _:
            answer(visible(plan_text(document)))


def add_to_step_summary(app: App, planned: Plan | Branch) -> None:
    """Append a plan's Markdown to the file that GitHub shows beside a job's step, where $GITHUB_STEP_SUMMARY names one.

    Nothing where there is nothing to do and nothing was found. A file that cannot be written fails nothing: it is said.
    """
    path = app.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    document = planned.document()
    if not (document["decision"]["migrations"] or document["facts"]["findings"]):
        return
    from smeta_declare.cli.plan_markdown import plan_markdown

    text = app.masker(visible(plan_markdown(document)))
    try:
        with Path(path).open("a", encoding="utf-8", newline="\n") as file:
            # What another command of the step has written may lack the end of its last line.
            file.write(f"\n{text}" if file.tell() else text)
    except OSError as error:
        talk(f"warning: the step summary {path} is not written: {error.strerror or error}")


def follows_reconciliation(environment: Environment, plan: Plan) -> bool:
    """Whether what `tenancy:` declares is looked at again after these migrations."""
    return environment.tenancy is not None and any(not is_reconciliation(m.version) for m in plan.migrations)


def show_run(
    plan: Plan, result: RunResult | None, output: str, *, then: tuple[Plan, RunResult | None] | None = None
) -> None:
    """A finished run as the answer of a command; `then` is the reconciliation that came after it."""
    done = [(plan, result), *([then] if then and then[1] else [])]
    with quietly():
        if output == "json":
            answer_json(
                {
                    "format": "smeta.run/1",
                    "run": result.run if result else None,
                    "environment": plan.environment,
                    "direction": plan.direction,
                    "migrations": [m.version for each, _ in done for m in each.migrations],
                    "duration_ms": sum(ended.duration_ms for _, ended in done if ended),
                }
            )
            return
        for each, ended in done:
            for line in _done_text(each, ended):
                answer(line)


def _done_text(plan: Plan, result: RunResult | None) -> Iterator[str]:
    forward = plan.direction == "forward"
    if result is None:
        if forward:
            yield f"{plan.environment} is up to date: nothing to apply"
        elif plan.continues:
            yield "the rollback that was interrupted is complete: nothing more was undone"
        else:
            yield "nothing to roll back"
    elif not forward:
        for migration in plan.migrations:
            yield f"rolled back {migration.version}"
    elif all(is_reconciliation(m.version) for m in plan.migrations):
        yield f"tenancy is as declared in {plan.environment}: {plan.migrations[0].version}, in {result.duration_ms} ms"
    else:
        noun = "migration" if len(plan.migrations) == 1 else "migrations"
        yield f"applied {len(plan.migrations)} {noun} to {plan.environment} in {result.duration_ms} ms"


def abandoned_text(run: str, left: History, environment: Environment) -> str:
    """What an abandoned run leaves, and the ways on."""
    lines = [f"run {run} is abandoned"]
    for half in left.partial:
        way = "forward" if half.direction == "forward" else "on the way back"
        lines.append(
            f"  {half.version} ({way}): {half.words}; that stays; " + left.ways_text(half, environment)
        )
    return "\n".join(lines)
