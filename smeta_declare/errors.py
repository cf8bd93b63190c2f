"""The errors of smeta: one tree, each with a stable code and the exit code of the process.

Every error says what is wrong and where; `changed` says what became of the database, `hint` what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar

from smeta_declare.diagnostics import Diagnostic, Location, Severity


class Exit(IntEnum):
    """The exit codes, as documented in the README."""

    DONE = 0
    FAILED = 1
    CHANGES = 2
    REFUSED = 3
    RETRY = 4
    HALFWAY = 5
    USAGE = 64
    BUG = 70
    INVALID = 78


class SmetaError(Exception):
    """Something a person must know; subclasses fix `code` and `exit_code`.

    `detail` holds further lines (the server's DETAIL, a statement); `changed` is one sentence about the database.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[Exit] = Exit.FAILED

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        location: Location | None = None,
        detail: Iterable[str] = (),
        changed: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.location = location
        self.detail = tuple(detail)
        self.changed = changed


class UsageError(SmetaError):
    """The command line asks for something that does not exist."""

    code = "usage"
    exit_code = Exit.USAGE


class UnknownEnvironment(UsageError):
    """The manifest has no environment of this name."""

    code = "unknown-environment"


class InvalidInput(SmetaError):
    """The manifest or a migration cannot be used as it stands; carries every mistake found."""

    code = "invalid"
    exit_code = Exit.INVALID

    def __init__(self, message: str, *, findings: Iterable[Diagnostic] = (), hint: str | None = None,
                 location: Location | None = None, detail: Iterable[str] = ()) -> None:  # fmt: skip
        super().__init__(message, hint=hint, location=location, detail=detail, changed="nothing was run")
        self.findings = tuple(findings)

    def as_findings(self) -> tuple[Diagnostic, ...]:
        """The mistakes it carries; a single one is a finding itself."""
        return self.findings or (
            Diagnostic(
                code=self.code,
                severity=Severity.HIGH,
                message=self.message,
                location=self.location,
                hint=self.hint,
            ),
        )


class InvalidManifest(InvalidInput):
    """smeta.yaml is malformed, or says something that smeta does not know."""

    code = "manifest-invalid"


class InvalidMigration(InvalidInput):
    """A migration file cannot be turned into statements."""

    code = "migration-invalid"


class TemplateError(InvalidMigration):
    """A template cannot be rendered, or would put a value where it could become SQL."""

    code = "template"


class SqlSyntaxError(InvalidMigration):
    """PostgreSQL's parser refuses the SQL."""

    code = "sql-syntax"


class Refused(SmetaError):
    """Policy or safety says no; nothing ran."""

    code = "refused"
    exit_code = Exit.REFUSED

    def __init__(self, message: str, *, hint: str | None = None, location: Location | None = None,
                 detail: Iterable[str] = ()) -> None:  # fmt: skip
        super().__init__(message, hint=hint, location=location, detail=detail, changed="nothing was run")


class Retryable(SmetaError):
    """A lock, a time-out or the connection: the same command may work in a moment."""

    code = "retry"
    exit_code = Exit.RETRY


class Stopped(Retryable):
    """Somebody asked us to stop: Ctrl-C, or whoever runs the job."""

    code = "interrupted"


class StoppedHalfway(SmetaError):
    """Part of the plan is committed and part is not; the same command resumes."""

    code = "halfway"
    exit_code = Exit.HALFWAY
