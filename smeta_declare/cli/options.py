"""The options that many commands share."""

from __future__ import annotations

import re

import click

environment = click.option(
    "--env",
    "environment",
    envvar="SMETA_ENV",
    required=True,
    metavar="NAME",
    help="The environment; or SMETA_ENV.",
)
environment_or_plan = click.option(
    "--env",
    "environment",
    envvar="SMETA_ENV",
    metavar="NAME",
    help="The environment; or SMETA_ENV. A saved plan names its own.",
)
format = click.option(
    "--format",
    "output",
    type=click.Choice(["human", "json"]),
    default="human",
    show_default=True,
    help="The same facts for people or for programs.",
)

plan_format = click.option(
    "--format",
    "output",
    type=click.Choice(["human", "json", "markdown", "sql"]),
    default="human",
    show_default=True,
    help="The same plan for people, for programs, for a pull request, or as SQL.",
)

_DURATION = re.compile(r"(\d{1,9})(ms|s|min|h)")
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}


def milliseconds(text: str | None, fallback: int) -> int:
    """A duration of the command line (`200ms`, `10s`, `2min`, `1h`) in milliseconds."""
    if text is None:
        return fallback
    match = _DURATION.fullmatch(text)
    if not match or not int(match[1]):
        raise click.BadParameter(
            f"{text!r} is no duration: write 200ms, 10s, 2min or 1h (0 would wait for ever)"
        )
    return int(match[1]) * _UNITS[match[2]]
