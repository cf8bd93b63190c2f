"""`smeta version`."""

from __future__ import annotations

import click

from smeta_declare import __version__
from smeta_declare.cli.views import answer


@click.command()
def command() -> None:
    """Print the version."""
    answer(__version__)
