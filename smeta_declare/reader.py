"""Looking at an environment's database: connected, compared with the project. Nothing is changed here.

What runs plans is `runner`; this is kept light, because `smeta status` is asked often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smeta_declare.environment import Environment
from smeta_declare.postgres.journal import Journal
from smeta_declare.postgres.target import opened
from smeta_declare.project import Project
from smeta_declare.report import Status, build_status, compare
from smeta_declare.run import History

if TYPE_CHECKING:
    from smeta_declare.events import Sink
    from smeta_declare.inputs import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Everything that is needed to look, besides the database."""

    environment: Environment
    project: Project
    environ: Mapping[str, str]
    secrets: Mapping[str, str]
    run: str
    application_name: str
    told: Sink

    @contextmanager
    def connected(self) -> Iterator[Journal]:
        """The journal of the environment's database."""
        with opened(
            self.environment, self.project.root, self.environ, application_name=self.application_name
        ) as journal:
            journal.session.on_notice(self._noticed)
            yield journal

    def _noticed(self, severity: str, message: str) -> None:
        from smeta_declare.events import Noticed

        self.told(Noticed(severity=severity, message=message))

    def status(self, journal: Journal) -> Status:
        """How far the database is."""
        target, history = journal.state()
        status = build_status(
            self.environment,
            history,
            target,
            lambda version: self.project.read(self.environment, version),
            lambda entry: self.project.rendered(self.environment, entry),
        )
        return replace(status, runner=journal.lock_holder()) if history.open_runs else status

    def changes(self, history: History) -> list[Change]:
        """What became of the files of applied migrations."""
        found = []
        for entry in self.environment.migrations:
            if row := history.find(entry.version):
                change = compare(
                    row,
                    entry,
                    self.environment,
                    lambda version: self.project.read(self.environment, version),
                    lambda entry: self.project.rendered(self.environment, entry),
                )
                found += [change] if change else []
        return found
