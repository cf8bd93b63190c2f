"""`smeta render`: the SQL of an environment, to read, to pipe, to commit."""

from __future__ import annotations

import os
from pathlib import Path

import click

from smeta_declare.cli import options
from smeta_declare.cli.app import App
from smeta_declare.cli.index_view import INDEX_MARK, index_markdown
from smeta_declare.cli.views import answer, talk
from smeta_declare.environment import Environment
from smeta_declare.errors import Refused, SmetaError
from smeta_declare.offline import made_by, unbound_plan
from smeta_declare.project import Project
from smeta_declare.tenancy.adoption import wanted_sql


class RenderStale(SmetaError):
    """The files that were rendered are not what rendering gives now."""

    code = "render-stale"


class ForeignFile(Refused):
    """The directory for rendered files holds others."""

    code = "render-foreign"


_MARK = "-- Rendered by smeta"
_TENANCY = "tenancy.sql"  # all that `tenancy:` declares, from empty: an edit of it is a diff here
_INDEX = "README.md"  # which the pages of a repository show under the list of the files


def rendered_files(project: Project, environment: Environment) -> dict[str, str]:
    """The whole text of every migration by file name, forward, rollback and validation sections in place."""
    project.render_all(environment, environment.migrations)
    mark = f"{_MARK} for environment {environment.name}: do not edit\n"
    files = {
        f"{entry.version}.sql": mark + project.rendered(environment, entry).text
        for entry in environment.migrations
    }
    if environment.tenancy:
        files[_TENANCY] = mark + wanted_sql(environment.tenancy, made_by(environment, project))
    return files


def index(project: Project, environment: Environment) -> dict[str, str]:
    """What stands beside them: what each migration does, to be read as a diff."""
    return {_INDEX: index_markdown(unbound_plan(environment, project))}


def stale_files(files: dict[str, str], directory: Path) -> list[str]:
    """Which files of a directory are missing, different, or not rendered any more."""
    paths = (*directory.glob("*.sql"), *directory.glob(_INDEX))
    on_disk = {path.name: _text(path) for path in paths}
    foreign = [n for n, text in on_disk.items() if text is None or not text.startswith((_MARK, INDEX_MARK))]
    if foreign:
        raise ForeignFile(
            f"{directory} holds what was not rendered: {', '.join(sorted(foreign))}",
            hint="name a directory of its own with --out; what is rendered there is replaced and removed",
        )
    return sorted(name for name in files.keys() | on_disk.keys() if files.get(name) != on_disk.get(name))


def _text(path: Path) -> str | None:
    """What is in a file, if it can be ours: text that can be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None


def write_files(files: dict[str, str], directory: Path) -> None:
    """Write what changed, and remove rendered files of migrations that are gone."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in stale_files(files, directory):
        if name in files:
            (directory / name).write_text(files[name], encoding="utf-8", newline="\n")
        else:
            (directory / name).unlink()


@click.command()
@options.environment
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a file per migration, and README.md, their index.",
)
@click.option(
    "--check", is_flag=True, help="With --out: write nothing, leave with 1 where the files are stale."
)
@click.pass_obj
def command(app: App, /, environment: str, out: Path | None, *, check: bool) -> None:
    """Show or write the SQL of an environment; no database is asked, secrets are named only."""
    if check and out is None:
        raise click.UsageError("--check needs --out DIR: the directory to compare with")
    resolved = app.checked(app.resolve(environment, offline=True))
    files = rendered_files(app.project, resolved)
    if out is None:
        answer("\n".join(text.rstrip("\n") + "\n" for text in files.values()).rstrip("\n"))
        return
    files |= index(app.project, resolved)
    if check:
        if stale := stale_files(files, out):
            raise RenderStale(
                f"{len(stale)} rendered files in {out} are stale",
                detail=stale,
                hint=f"run `smeta render --env {environment} --out {out}` and commit the result",
            )
        talk(f"{out} is up to date")
    else:
        write_files(files, out)
        talk(f"{len(files)} files in {os.path.relpath(out)}")
