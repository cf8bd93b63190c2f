"""The options that several commands share."""

from __future__ import annotations

import re

import click

from smeta_declare.cli.app import App
from smeta_declare.errors import Refused
from smeta_declare.events import BackupSkipped

environment = click.option(
    "--env",
    "environment",
    envvar="SMETA_ENV",
    required=True,
    metavar="NAME",
    help="The environment; or SMETA_ENV.",
)
format = click.option(
    "--format",
    "output",
    type=click.Choice(["human", "json"]),
    default="human",
    show_default=True,
    help="The same facts for people or for programs.",
)
confirm = click.option(
    "--confirm", metavar="NAME", help="The name of the protected environment: consent without being asked."
)
runner_wait = click.option(
    "--runner-wait", metavar="DURATION", help="How long to wait for another runner of smeta (10s, 2min)."
)
lock_timeout = click.option(
    "--lock-timeout", metavar="DURATION", help="How long a step may queue for a lock of the server (200ms)."
)
skip_backup = click.option(
    "--skip-backup", metavar="REASON", help="Take no backup; the reason is kept in the log."
)
no_backup = click.option("--no-backup", is_flag=True, help="The old name of --skip-backup, without a reason.")
auto_approve = click.option(
    "--auto-approve", is_flag=True, hidden=True, help="Accepted; consents to nothing."
)


def note_skipped_backup(app: App, reason: str | None, *, no_backup: bool) -> None:
    """Say and log that a backup is left out, and why."""
    if no_backup or reason:
        app.sink()(BackupSkipped(reason=reason or "--no-backup"))


class ConsentMissing(Refused):
    """A protected environment needs its name given."""

    code = "consent-missing"


def consent(name: str, *, protected: bool, given: str | None, interactive: bool, what: str) -> None:
    """Ask for the name of a protected environment; ConsentMissing where it is not given."""
    if given is not None and given != name:
        raise ConsentMissing(f"--confirm {given} does not name the environment {name}")
    if not protected or given == name:
        return
    if interactive:
        question = f"{name} is protected. Type its name to {what}"
        if click.prompt(question, err=True, default="", show_default=False) == name:
            return
    raise ConsentMissing(
        f"{name} is protected", hint=f"repeat with --confirm {name}, or type the name when asked"
    )


_DURATION = re.compile(r"(\d+)(ms|s|min|h)")
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}


def milliseconds(text: str | None, fallback: int) -> int:
    """A duration of the command line (`200ms`, `10s`, `2min`, `1h`) in milliseconds."""
    if text is None:
        return fallback
    match = _DURATION.fullmatch(text)
    if not match:
        raise click.BadParameter(f"{text!r} is no duration: write 200ms, 10s, 2min or 1h")
    return int(match[1]) * _UNITS[match[2]]
