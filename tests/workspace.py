"""A small project on disk and the command line run on it, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import TestDatabase

MANIFEST = """\
manifest: 1
project: trial
defaults:
  backup: none
  timeouts: {{statement: 30s}}
  locks: {{timeout: 200ms, retries: {{attempts: 2, backoff: 50ms, max_backoff: 100ms}}, runner_wait: 1s}}
environments:
  test:
    database: ${{TRIAL_URL}}
    {environment}
migrations:
  directory: migrations
  apply: [{versions}]
{more}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The answer as JSON."""
        return json.loads(self.out)


class _Started(subprocess.Popen[str]):
    """A command that runs; it is killed where the test that started it fails: nobody waits for ever."""

    def __exit__(self, kind: type[BaseException] | None, *others: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *others)


@dataclass
class Workspace:
    """A project whose environment `test` is a fresh database."""

    root: Path
    database: TestDatabase | None
    versions: list[str]
    environ: dict[str, str]
    environment: str = "{}"
    more: str = ""

    @classmethod
    def at(cls, root: Path, database: TestDatabase | None = None) -> Workspace:
        """An empty project."""
        (root / "migrations").mkdir(parents=True)
        ours = ("PG", "SMETA_", "DATABASE_URL", "GITHUB_STEP_SUMMARY")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        environ |= {"TRIAL_URL": database.conninfo.dsn if database else "host=/nonexistent dbname=none"}
        workspace = cls(root, database, [], environ)
        workspace.write_manifest()
        return workspace

    def write_manifest(self) -> None:
        """The manifest with what is listed so far."""
        self.manifest.write_text(
            MANIFEST.format(
                versions=", ".join(self.versions),
                more=self.more,
                environment="" if self.environment == "{}" else self.environment,
            )
        )

    @property
    def manifest(self) -> Path:
        """smeta.yaml."""
        return self.root / "smeta.yaml"

    def migration(
        self, version: str, forward: str, rollback: str | None = None, validation: str | None = None
    ) -> Path:
        """Write a migration and list it."""
        text = f"-- Migration: {version}\n-- Version: {version}\n\n{forward}\n"
        if rollback is not None:
            text += f"\n-- ROLLBACK_START\n{rollback}\n-- ROLLBACK_END\n"
        if validation is not None:
            text += f"\n-- VALIDATION_START\n{validation}\n-- VALIDATION_END\n"
        path = self.file(version)
        path.write_text(text)
        if version not in self.versions:
            self.versions.append(version)
            self.write_manifest()
        return path

    def file(self, version: str) -> Path:
        """The file of a version."""
        return self.root / "migrations" / f"{version}.sql"

    def smeta(self, *arguments: str, environ: Mapping[str, str] | None = None, stdin: str = "") -> Outcome:
        """Run the command, in this process: starting one takes longer than most commands do."""
        from tests.inprocess import smeta_in

        return smeta_in(self.root, *arguments, environ={**self.environ, **(environ or {})}, stdin=stdin)

    def process(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        stdin: str = "",
        directory: Path | None = None,
    ) -> Outcome:
        """Run the command in a process of its own, as a user would; in the project's directory if nothing is said."""
        from tests.inprocess import held

        done = subprocess.run(
            [sys.executable, "-m", "smeta_declare", *arguments],
            cwd=directory or self.root,
            env={**self.environ, **(environ or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return held(Outcome(done.returncode, done.stdout, done.stderr), directory or self.root, arguments)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command and let it run."""
        return _Started(
            [sys.executable, "-m", "smeta_declare", *arguments],
            cwd=self.root,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tables(self) -> set[str]:
        """The tables of schema public that the database has, the history not counted."""
        assert self.database is not None
        rows = self.database.query(
            "select tablename from pg_tables where schemaname = 'public' and tablename <> 'schema_migrations'"
        )
        return {row[0] for row in rows}

    def applied(self) -> list[str]:
        """The versions in the history table, in their order; empty where there is none."""
        assert self.database is not None
        if self.database.query("select to_regclass('public.schema_migrations') is null")[0][0]:
            return []
        return [
            row[0] for row in self.database.query("select version from public.schema_migrations order by id")
        ]

    def log(self) -> list[dict[str, Any]]:
        """The events in migration.log."""
        path = self.root / "migration.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
