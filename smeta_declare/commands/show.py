"""`smeta show`: a saved plan."""

from __future__ import annotations

from pathlib import Path

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.running import show_document


@click.command()
@click.argument("file")
@options.plan_format
@click.pass_obj
def command(app: App, /, file: str, output: str) -> None:
    """Show a plan file; no database is asked."""
    from smeta_declare.saved import read

    show_document(read(Path(file)).document, output)
