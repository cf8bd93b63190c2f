"""`smeta plan`: what apply would do, without doing it."""

from __future__ import annotations

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import show_plan
from smeta_declare.errors import Exit
from smeta_declare.plan import Plan


def make_plan(app: App, name: str, *, to: str | None = None) -> Plan:
    """The plan of an environment, from what its database says now. Creates nothing there."""
    environment = app.checked(app.resolve(name))
    runner = app.runner(environment)
    with runner.connected() as journal:
        return runner.plan_forward(journal, to=to)[0]


@click.command()
@options.environment
@click.option("--to", metavar="VERSION", help="Up to and including this migration.")
@click.option("--detailed-exitcode", is_flag=True, help="Leave with 2 where there is something to apply.")
@options.format
@click.pass_obj
def command(app: App, /, environment: str, to: str | None, output: str, *, detailed_exitcode: bool) -> int:
    """Show what apply would do: every statement, in its transaction. Nothing is changed or created."""
    plan = make_plan(app, environment, to=to)
    show_plan(plan, output)
    return Exit.CHANGES if detailed_exitcode and not plan.empty else Exit.DONE
