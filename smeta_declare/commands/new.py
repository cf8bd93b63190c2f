"""`smeta new` (alias `generate`): the next migration, written and listed."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import click

from smeta_declare.cli.app import App
from smeta_declare.cli.views import answer, talk
from smeta_declare.errors import UsageError
from smeta_declare.manifest import append_migration

_TEMPLATE = """\
-- Migration: {name}
-- Version: {version}
-- Description: {description}

-- The way forward. Statements PostgreSQL refuses inside a transaction become steps of their own.


-- ROLLBACK_START

-- ROLLBACK_END

-- VALIDATION_START
-- Queries that fail where the migration did not do its work; above each may stand what it must answer,
-- such as `expect: rows = 3`, `expect: empty` or `expect: value = 0` in a comment of its own.

-- VALIDATION_END
"""


def write_migration(app: App, name: str, description: str, *, now: datetime) -> tuple[Path, str]:
    """Write the file and list it in the manifest; neither is touched when one of them cannot be."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,99}", name):
        raise UsageError(
            f"{name!r} is no name for a migration",
            hint="use small letters, digits and underscores: add_user_preferences",
        )
    if "\n" in description or "\r" in description:
        raise UsageError("a description is one line")
    version = f"{now:%Y%m%d%H%M%S}_{name}"
    directory = app.root / app.manifest.migrations_directory
    path = directory / f"{version}.sql"
    before = app.manifest_path.read_bytes().decode()
    after = append_migration(before, version)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(
                _TEMPLATE.format(
                    name=name, version=version, description=description or name.replace("_", " ")
                )
            )
    except FileExistsError as error:
        raise UsageError(f"{path} exists already") from error
    try:
        _replace(app.manifest_path, after)
    except OSError:
        path.unlink()
        raise
    return path, version


def _replace(path: Path, text: str) -> None:
    """Write a file beside it and rename: a crash leaves the old one or the new one."""
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(text.encode())
    beside.chmod(path.stat().st_mode & 0o777)
    beside.replace(path)


@click.command()
@click.argument("name")
@click.argument("description", default="")
@click.pass_obj
def command(app: App, name: str, description: str) -> None:
    """Write the next migration, NAME, and list it at the end of migrations.apply."""
    path, version = write_migration(app, name, description, now=datetime.now(UTC))
    answer(os.path.relpath(path))
    if not app.quiet:
        talk(
            f"listed as {version} in {app.manifest_path.name}; fill in its three sections, then `smeta validate`"
        )
