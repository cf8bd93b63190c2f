"""`smeta db start | stop | status | url | shell`: the embedded server."""

from __future__ import annotations

import os

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer
from smeta_declare.environment import EmbeddedDatabase, Environment
from smeta_declare.errors import Exit, UsageError
from smeta_declare.postgres.server import Server
from smeta_declare.postgres.target import conninfo_of, embedded_name


def _embedded(app: App, name: str) -> tuple[Environment, Server]:
    environment = app.resolve(name)
    if not isinstance(environment.database, EmbeddedDatabase):
        raise UsageError(
            f"environment {name} does not use the embedded server", hint="only `database: embedded` has one"
        )
    return environment, Server.of_project(app.root, app.environ)


@click.group()
def command() -> None:
    """Start, stop and reach the embedded server (`database: embedded`)."""


@command.command()
@options.environment
@click.pass_obj
def start(app: App, environment: str) -> None:
    """Start it and make the environment's database; nothing to do where it runs."""
    resolved, server = _embedded(app, environment)
    conninfo_of(resolved, app.root, app.environ)
    answer(
        f"running PostgreSQL {server.binaries.major}.{server.binaries.minor}, database {embedded_name(resolved)}"
    )


@command.command()
@options.environment
@click.pass_obj
def stop(app: App, environment: str) -> None:
    """Stop it; the data stays."""
    _embedded(app, environment)[1].stop()
    answer("stopped")


@command.command()
@options.environment
@click.pass_obj
def status(app: App, environment: str) -> int:
    """Say whether it runs; leaves with 1 where it does not."""
    server = _embedded(app, environment)[1]
    running = server.running()
    answer("running" if running else "stopped")
    return Exit.DONE if running else Exit.FAILED


@command.command()
@options.environment
@click.pass_obj
def url(app: App, environment: str) -> None:
    """Print its connection string (starts it)."""
    resolved, _ = _embedded(app, environment)
    answer(conninfo_of(resolved, app.root, app.environ).dsn)


@command.command(context_settings={"ignore_unknown_options": True})
@options.environment
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def shell(app: App, environment: str, arguments: tuple[str, ...]) -> None:
    """Open psql on it (starts it); further ARGUMENTS go to psql."""
    resolved, server = _embedded(app, environment)
    dsn = conninfo_of(resolved, app.root, app.environ).dsn
    os.execv(server.psql_path, ["psql", dsn, *arguments])  # noqa: S606 # psql takes our place, no shell between
