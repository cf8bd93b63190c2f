"""`smeta config`: what an environment really gets, and where each value comes from."""

from __future__ import annotations

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer, answer_json, table


@click.command()
@options.environment
@click.option("--explain", is_flag=True, help="Show where each value comes from.")
@options.format
@click.pass_obj
def command(app: App, /, environment: str, output: str, *, explain: bool) -> None:
    """Show the effective settings of an environment; secrets are named, never shown."""
    import yaml

    from smeta_declare.resolve import effective
    from smeta_declare.resolve import explain as explain_settings

    app.resolve(environment)
    if explain:
        settings = explain_settings(app.manifest, environment, app.environ)
        if output == "json":
            answer_json(
                {
                    "format": "smeta.config/1",
                    "environment": environment,
                    "settings": [
                        {
                            "path": s.path,
                            "value": s.value,
                            "origin": s.origin,
                            "at": str(s.location) if s.location else None,
                        }
                        for s in settings
                    ],
                }
            )
            return
        answer(
            table(
                ((s.path, str(s.value), s.origin, str(s.location or "")) for s in settings),
                headings=("setting", "value", "from", "at"),
            )
        )
        return
    found = effective(app.manifest, environment, app.environ)
    if output == "json":
        answer_json({"format": "smeta.config/1", **found})
    else:
        answer(yaml.safe_dump(found, sort_keys=False, allow_unicode=True).rstrip("\n"))
