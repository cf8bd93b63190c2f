"""`smeta verify`."""

from __future__ import annotations

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer, answer_json
from smeta_declare.errors import SmetaError


class VerificationFailed(SmetaError):
    """The database is not what its migrations say."""

    code = "verification-failed"


@click.command()
@options.environment
@options.format
@click.pass_obj
def command(app: App, environment: str, output: str) -> None:
    """Ask validations, declared checks and checksums again; nothing is changed."""
    runner = app.runner(app.resolve(environment))
    with runner.connected() as journal:
        target, asked = runner.verify(journal)
    failed = [a for a in asked if a.failure]
    if output == "json":
        answer_json(
            {
                "format": "smeta.verify/1",
                "environment": environment,
                "database": target.database,
                "verdict": "failed" if failed else "passed",
                "asked": [{"name": a.name, "failure": a.failure} for a in asked],
            }
        )
    else:
        for item in asked:
            answer(
                f"  {'FAILED' if item.failure else 'ok    '} {item.name}"
                + (f": {item.failure}" if item.failure else "")
            )
        answer(f"{len(asked) - len(failed)} of {len(asked)} hold")
    if failed:
        half = any(a.half_done for a in failed)
        why = (
            "finish what is half done, or undo it, then verify again: the rest may hold then"
            if half
            else "something changed the database or the files after they were applied"
        )
        raise VerificationFailed(
            f"{len(failed)} of {len(asked)} do not hold",
            changed="nothing was changed",
            hint=f"the lines above say which; {why}",
        )
