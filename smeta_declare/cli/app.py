"""What every command has at hand: the manifest, the project, the environ, the log."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smeta_declare.cli.views import mask_with, talk
from smeta_declare.conninfo import Conninfo
from smeta_declare.environment import Environment
from smeta_declare.masking import Masker
from smeta_declare.project import Project, raise_findings
from smeta_declare.rendered import Secret

if TYPE_CHECKING:
    from smeta_declare.events import Event, Sink
    from smeta_declare.manifest import Manifest
    from smeta_declare.migration_log import MigrationLog
    from smeta_declare.reader import Reader
    from smeta_declare.runner import Runner


def random_uuid(random: bytes) -> str:
    """A UUID of version 4 (RFC 9562) from 16 random bytes: the standard library's module takes 5 ms to import."""
    digits = f"{int.from_bytes(random) & ~(0xF << 76 | 3 << 62) | 4 << 76 | 2 << 62:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass
class App:
    """One call of smeta."""

    manifest_option: str | None
    log_option: str | None
    environ: dict[str, str]
    interactive: bool
    verbose: bool
    quiet: bool
    run: str = field(default_factory=lambda: random_uuid(os.urandom(16)))
    masker: Masker = field(default_factory=Masker)
    _masked: set[str] = field(default_factory=set)

    @cached_property
    def manifest_path(self) -> Path:
        """The manifest's file: as given, or found upwards from the working directory."""
        from smeta_declare.manifest import find_manifest

        if self.manifest_option:
            return Path(self.manifest_option)
        return Path(os.path.relpath(find_manifest(Path.cwd())))

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, loaded and checked."""
        from smeta_declare.manifest import load_manifest

        return load_manifest(self.manifest_path)

    @property
    def root(self) -> Path:
        """The directory of the manifest, which all paths in it start from."""
        return self.manifest_path.parent.absolute()

    @cached_property
    def project(self) -> Project:
        """The files of the project."""
        return Project(self.root)

    def resolve(self, name: str, *, offline: bool = False) -> Environment:
        """An environment with all its settings; from here on its secrets are masked in everything written."""
        from smeta_declare.resolve import resolve

        environment = resolve(self.manifest, name, self.environ, offline=offline)
        self.mask(self._secret_values(environment))
        return environment

    def resolve_at(self, manifest: Path, name: str) -> Environment | None:
        """The environment as another manifest has it, without its address; None where that has none of this name."""
        from smeta_declare.manifest import load_manifest
        from smeta_declare.resolve import resolve

        found = load_manifest(manifest)
        return resolve(found, name, self.environ, offline=True) if name in found.environments else None

    def _secret_values(self, environment: Environment) -> set[str]:
        named = (value.name for _, value in environment.variables if isinstance(value, Secret))
        values = {self.environ[name] for name in named if name in self.environ}
        for address in (environment.database, environment.direct):
            if isinstance(address, Conninfo):
                values |= address.secrets()
        if "PGPASSWORD" in self.environ:
            values.add(self.environ["PGPASSWORD"])
        return values

    def mask(self, values: set[str]) -> None:
        """From now on none of these is written anywhere."""
        self._masked |= values
        self.masker = Masker.of(self._masked)
        mask_with(self.masker)

    @property
    def secrets(self) -> LateSecrets:
        """The late-bound values, by the name of their environment variable; one that is read is masked first."""
        return LateSecrets(self)

    def checked(self, environment: Environment) -> Environment:
        """The same environment, its list of migrations compared with the files on disk."""
        findings = self.project.check_files(environment, self.manifest.listed)
        if findings:
            raise_findings(list(findings))
        return environment

    @cached_property
    def log(self) -> MigrationLog:
        """migration.log, to be used once the secrets of the environment are known."""
        from smeta_declare.migration_log import MigrationLog

        path = Path(self.log_option) if self.log_option else self.root / "migration.log"
        return MigrationLog(path, run=self.run, masker=lambda text: self.masker(text))

    def begin_another_run(self) -> None:
        """From here on another run is told of: the same command has done one, and a second one follows from it."""
        self.run = random_uuid(os.urandom(16))
        self.__dict__.pop("log", None)

    def sink(self) -> Sink:
        """Tells the log and the terminal what happens; a full disk or a closed terminal does not end the run."""

        @cache
        def sinks() -> list[Sink]:
            from smeta_declare.cli.progress import Progress

            return [self.log, Progress(quiet=self.quiet, verbose=self.verbose)]

        def told(event: Event) -> None:
            for sink in tuple(sinks()):
                try:
                    sink(event)
                except OSError as error:
                    sinks().remove(sink)
                    whom = str(self.log.path) if sink is self.log else "the terminal"
                    with suppress(OSError):
                        talk(f"warning: nothing more is told to {whom}: {error.strerror}")

        return told

    def reader(self, environment: Environment) -> Reader:
        """What looks at the database."""
        from smeta_declare.reader import Reader

        return Reader(**self._needs(environment))

    def runner(self, environment: Environment) -> Runner:
        """What plans and runs."""
        from smeta_declare.runner import Runner

        return Runner(**self._needs(environment))

    def _needs(self, environment: Environment) -> dict[str, Any]:
        return {
            "environment": environment,
            "project": self.project,
            "environ": self.environ,
            "secrets": self.secrets,
            "run": self.run,
            "application_name": self.application_name,
            "told": self.sink(),
        }

    @property
    def application_name(self) -> str:
        """What the server shows of us: the tool and the run (63 bytes at most)."""
        from smeta_declare import __version__

        return f"smeta/{__version__} run={self.run}"[:63]


@dataclass(frozen=True, slots=True)
class LateSecrets(Mapping[str, str]):
    """What late-bound variables hold: a plan may name one that the manifest does not name any more."""

    app: App

    def __getitem__(self, name: str) -> str:
        value = self.app.environ[name]
        self.app.mask({value})
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.app.environ)

    def __len__(self) -> int:
        return len(self.app.environ)
