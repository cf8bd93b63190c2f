"""`smeta show`: a saved plan."""

from __future__ import annotations

from pathlib import Path

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import show_document
from smeta_declare.errors import InvalidInput


@click.command()
@click.argument("file")
@options.plan_format
@click.pass_obj
def command(app: App, /, file: str, output: str) -> None:
    """Show a plan file; no database is asked."""
    from smeta_declare.parser import parse_error
    from smeta_declare.saved import PlanUnreadable, read

    document = read(Path(file)).document
    try:
        show_document(document, output)
    except (StopIteration, InvalidInput, parse_error()) as error:
        raise PlanUnreadable(
            f"{file} holds statements, or places of statements, that no smeta has written",
            hint="make a new one with `smeta plan --env NAME --out FILE`",
        ) from error
