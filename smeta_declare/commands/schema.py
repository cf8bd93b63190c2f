"""`smeta schema`."""

from __future__ import annotations

import click

from smeta_declare.cli.views import answer
from smeta_declare.manifest import schema_text


@click.command()
def command() -> None:
    """Print the JSON Schema of the manifest, for editors and other tools."""
    answer(schema_text().rstrip("\n"))
