"""The files of a project: migrations read from disk, confined to their directory, rendered when asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smeta_declare.diagnostics import Diagnostic, Location, Severity, nearest
from smeta_declare.environment import Environment, MigrationEntry
from smeta_declare.errors import InvalidInput, InvalidMigration
from smeta_declare.migration import MigrationFile
from smeta_declare.rendered import normalise

if TYPE_CHECKING:
    from smeta_declare.rendering import RenderedMigration

LARGEST = 64 * 1024 * 1024  # bytes of one migration file


@dataclass(slots=True)
class Project:
    """A checkout: the directory of the manifest and what lies below it."""

    root: Path
    _rendered: dict[tuple[str, str], RenderedMigration] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)

    def directory(self, environment: Environment) -> Path:
        """Where the migrations lie."""
        return self.root / environment.migrations_directory

    def read(self, environment: Environment, version: str) -> MigrationFile:
        """The file of a version; InvalidMigration where it is missing, too large or not UTF-8."""
        name = f"{version}.sql"
        shown = f"{environment.migrations_directory}/{name}"
        source = self._text(environment.migrations_directory, name)
        if source is None:
            if (self.directory(environment) / name).is_symlink():
                raise InvalidMigration(
                    f"{shown} is a link to nowhere, or out of {environment.migrations_directory}",
                    hint="put the file itself there",
                )
            raise InvalidMigration(
                f"there is no {shown}", hint="`smeta new` writes one; or remove it from the list"
            )
        return MigrationFile(version=version, path=shown, source=normalise(source))

    def rendered(self, environment: Environment, entry: MigrationEntry) -> RenderedMigration:
        """A migration rendered for an environment."""
        from smeta_declare.rendering import render_migration

        key = (environment.name, entry.version)
        if key not in self._rendered:
            directory = environment.migrations_directory
            self._rendered[key] = render_migration(
                self.read(environment, entry.version),
                entry,
                environment.template_variables(),
                lambda name: self._text(directory, name),
            )
        return self._rendered[key]

    def render_all(self, environment: Environment, entries: Iterable[MigrationEntry]) -> None:
        """Render many, so that the mistakes of all files are told at once (InvalidMigration)."""
        findings: list[Diagnostic] = []
        for entry in entries:
            try:
                self.rendered(environment, entry)
            except InvalidInput as error:
                findings += error.as_findings()
        if findings:
            raise_findings(findings)

    def check_files(self, environment: Environment, listed: Mapping[str, Location]) -> tuple[Diagnostic, ...]:
        """What is wrong between the list of the manifest and the files on disk."""
        directory = self.directory(environment)
        shown = environment.migrations_directory
        present = _stems(directory) if directory.is_dir() else set()
        return tuple(
            [
                Diagnostic(
                    code="migration-missing",
                    severity=Severity.HIGH,
                    message=f"{version} is listed in the manifest, and there is no {shown}/{version}.sql",
                    object=version,
                    location=listed[version],
                    hint=_meant(version, present - set(listed))
                    or f"write it with `smeta new`, or remove {version} from migrations.apply",
                )
                for version in listed
                if version not in present
            ]
            + [
                Diagnostic(
                    code="migration-unlisted",
                    severity=Severity.HIGH,
                    message=f"{shown}/{version}.sql is on disk, and migrations.apply does not list it",
                    object=version,
                    location=Location(file=f"{shown}/{version}.sql", line=1),
                    hint=f"add `- {version}` to migrations.apply at its place, or move the file away",
                )
                for version in sorted(present - set(listed))
            ]
        )

    def _text(self, directory: str, name: str) -> str | None:
        """A file below the directory; None where there is none. Links may not lead out of the project."""
        if directory not in self._real:
            self._real[directory] = os.path.realpath(self.root / directory)
        path = f"{self._real[directory]}/{name}"
        if "/" in name or os.path.islink(path):  # noqa: PTH114 # a thousand files: pathlib takes twice as long
            path = os.path.realpath(path)
            if not path.startswith(self._real[directory] + os.sep):
                return None
        shown = f"{directory}/{name}"
        try:
            found = os.stat(path)  # noqa: PTH116 # for the same reason
            if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for for ever
                return None
            # Asked before, because a limit given to read() is allocated whole: ten times the cost of the file.
            if found.st_size > LARGEST:
                raise InvalidMigration(
                    f"{shown} is larger than {LARGEST // 2**20} MiB",
                    hint="load data with psql or a batch job",
                )
            with open(path, "rb") as file:  # noqa: PTH123 # for the same reason
                data = file.read()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise InvalidMigration(
                f"{shown} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}",
                location=Location(file=shown, line=line),
                hint="save it in UTF-8",
            ) from error


def _stems(directory: Path) -> set[str]:
    """The names of the SQL files in a directory, without their ending: `glob` takes seven times as long."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 # for the same reason
    except PermissionError:
        return set()
    return {os.path.splitext(name)[0] for name in names if name.endswith(".sql")}  # noqa: PTH122


def _meant(version: str, unlisted: set[str]) -> str | None:
    close = nearest(version, unlisted)
    return f"did you mean {close}, which is on disk and not listed?" if close else None


def raise_findings(findings: list[Diagnostic]) -> None:
    """One InvalidMigration for all of them."""
    noun = "mistake" if len(findings) == 1 else "mistakes"
    raise InvalidMigration(f"{len(findings)} {noun} in the migrations", findings=findings)
