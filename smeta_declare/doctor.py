"""Examining a database before somebody migrates it: every question asked read only, nothing set that stays."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smeta_declare import diagnosis
from smeta_declare.backup.dump import choose_pg_dump
from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.diagnostics import Diagnostic, Severity
from smeta_declare.environment import EmbeddedDatabase, Environment
from smeta_declare.errors import Refused, SmetaError
from smeta_declare.postgres.binaries import all_binaries
from smeta_declare.postgres.connection import ServerError, Session, connect
from smeta_declare.postgres.journal import Journal
from smeta_declare.postgres.pooler import PoolMode
from smeta_declare.postgres.settings import check_major
from smeta_declare.postgres.target import check_direct, conninfo_of, mode_of
from smeta_declare.reader import Reader
from smeta_declare.run import History

# One message, so that all of it reaches one server process whatever stands in between, and nothing of it stays.
_BEGIN = (
    "begin transaction read only; set local search_path = pg_catalog; set local datestyle = 'ISO, YMD'; "
    "set local statement_timeout = '10s'; set local lock_timeout = '1s'; "
)
_UNSEEN = {  # SQLSTATE → why there is no answer
    "42501": "no permission",
    "57014": "no answer within 10 s",
    "55P03": "a lock is in the way",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found, and where."""

    environment: str
    database: str
    address: str
    questions: int  # how many were asked
    findings: tuple[Diagnostic, ...]  # the worst first

    @property
    def healthy(self) -> bool:
        """Whether no finding is high or worse."""
        return not diagnosis.fails(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """In the published form (`schemas/findings.schema.json`)."""
        return {
            "format": "smeta.findings/1",
            "environment": self.environment,
            "database": self.database,
            "address": self.address,
            "verdict": "passed" if self.healthy else "failed",
            "findings": [f.as_dict() for f in self.findings],
        }


def examine(reader: Reader, *, clock: Callable[[], float] = time.time) -> Examination:
    """Ask all there is to ask; only where nobody lets us in at all is that an error."""
    environment = reader.environment
    with ExitStack() as stack:
        session = connect(
            conninfo_of(environment, reader.project.root, reader.environ),
            environment.timeouts,
            application_name=reader.application_name,
        )
        stack.callback(session.close)
        embedded = isinstance(environment.database, EmbeddedDatabase)
        mode = None if embedded else mode_of(session, environment)
        findings = list(_path(environment, session, mode))
        if environment.direct and not (mode is None or mode.keeps_sessions) and not diagnosis.fails(findings):
            session = connect(
                environment.direct, environment.timeouts, application_name=reader.application_name
            )
            stack.callback(session.close)
            mode = None
        if not session.usable:  # nobody is there to be asked; the findings say why
            return Examination(
                environment=environment.name,
                database="",
                address=f"{session.conninfo} (from {session.conninfo.source})",
                questions=0,
                findings=diagnosis.worst_first(findings),
            )
        work = _Examination(reader=reader, session=session, mode=mode, clock=clock, findings=findings)
        work.run()
        return Examination(
            environment=environment.name,
            database=session.parameters().get("dbname", ""),
            address=f"{session.conninfo} (from {session.conninfo.source})",
            questions=work.questions,
            findings=diagnosis.worst_first(work.findings),
        )


def _path(environment: Environment, session: Session, mode: PoolMode | None) -> Iterator[Diagnostic]:
    """What stands between us and the server, and whether `direct:` leads around it."""
    around = False
    if environment.direct:
        try:
            with connect(environment.direct, environment.timeouts) as direct:
                check_direct(session, direct)
            around = True
        except SmetaError as error:
            code = "direct-unreachable" if not isinstance(error, Refused) else error.code
            found = diagnosis.of_error(error, object=environment.direct.source)
            yield Diagnostic(
                code=code,
                severity=found.severity,
                message=found.message,
                object=found.object,
                hint=found.hint,
            )
    if mode is None:
        return
    severity, then = Severity.INFO, "`direct:` is used instead"
    if mode.keeps_sessions:
        then = "that is fine, and backups go to `direct:`"
        if not around:
            severity = Severity.HIGH if _policies(environment) else Severity.LOW
            then = "that is fine, but no backup can be taken through it"
    elif not around:
        severity, then = Severity.HIGH, "nothing runs through it"
    yield Diagnostic(
        code="pooler",
        severity=severity,
        message=f"{session.conninfo.source} leads through a pooler ({mode} mode): {then}",
        object=str(session.conninfo),
        hint=None if around else "give the address of the server itself as `direct:` beside `database:`",
    )


def _policies(environment: Environment) -> tuple[BackupPolicy, ...]:
    """Every policy that a run in this environment may use."""
    asked = [environment.backup, *(entry.backup for entry in environment.migrations)]
    return tuple(dict.fromkeys(policy for policy in asked if policy))


@dataclass(slots=True, kw_only=True)
class _Examination:
    """The questions to one session."""

    reader: Reader
    session: Session
    mode: PoolMode | None
    clock: Callable[[], float]
    findings: list[Diagnostic]
    questions: int = 0
    user: str = ""
    role: str | None = None  # the environment's, where we may become it
    running: bool = False
    found: History | None = None
    unseen: dict[str, list[str]] = field(default_factory=dict)  # why → the questions without an answer

    def run(self) -> None:
        self._server()
        self._who()
        self._clock()
        self._history()
        for name, meaning in (
            ("settings", diagnosis.settings),
            ("transactions", diagnosis.transactions),
            ("prepared_transactions", diagnosis.prepared_transactions),
            ("slots", diagnosis.slots),
            ("blocked_sessions", diagnosis.blocked_sessions),
            ("strong_locks", diagnosis.strong_locks),
            ("invalid_indexes", lambda rows: diagnosis.invalid_indexes(rows, self._left())),
            ("unvalidated_constraints", diagnosis.unvalidated_constraints),
            ("pending_detaches", lambda rows: diagnosis.pending_detaches(rows, self._left())),
            ("wraparound", diagnosis.wraparound),
        ):
            self._told(name, meaning, seconds=diagnosis.OPEN_FOR)
        self._told("hidden_sessions", lambda rows: diagnosis.hidden_sessions(rows, self.user))
        self._backups()
        for why, names in self.unseen.items():
            self.findings.append(diagnosis.not_visible(", ".join(names), why, who=self.user))

    def _left(self) -> tuple[diagnosis.Left, ...]:
        """What statements of smeta may have left half done, and the command that goes on from there."""
        return diagnosis.left(self.found, self.reader.environment) if self.found else ()

    # asking

    def _ask(self, name: str, **values: object) -> list[tuple[Any, ...]] | None:
        """The rows of a question; None, and a finding that says so, where they are not ours to see."""
        self.questions += 1
        try:
            answers = self.session.run(f"{_BEGIN}{self.session.compose(f'doctor/{name}', **values)} rollback")
        except ServerError as error:
            self._undo()
            if error.sqlstate not in _UNSEEN:
                raise
            self._unseen(name.replace("_", " "), error)
            return None
        return next(answer.rows for answer in answers if answer.columns)

    def _unseen(self, question: str, error: ServerError) -> None:
        self.unseen.setdefault(f"{_UNSEEN[error.sqlstate]} ({error.message})", []).append(question)

    def _undo(self) -> None:
        if self.session.usable and self.session.in_transaction:
            self.session.run("rollback")
        elif not self.session.usable:  # a pooler in statement mode ends a client whose transaction failed
            self.session = self.session.beside("")

    def _told(
        self,
        name: str,
        meaning: Callable[[list[tuple[Any, ...]]], Iterable[Diagnostic]],
        **values: object,
    ) -> None:
        rows = self._ask(name, **values)
        if rows is not None:
            self.findings += meaning(rows)

    # the questions that need more than rows

    def _server(self) -> None:
        try:
            check_major(self.session)
        except Refused as error:
            self.findings.append(diagnosis.of_error(error))
        if (rows := self._ask("recovery")) and rows[0][0]:
            self.findings.append(
                Diagnostic(
                    code="standby",
                    severity=Severity.HIGH,
                    message="the server is a standby: it can be read only",
                    hint="connect to the primary (target_session_attrs=read-write chooses it)",
                )
            )

    def _may_become(self, role: str | None) -> list[tuple[Any, ...]] | None:
        newer = self.session.server_version_num >= 160000
        return self._ask("user", role=role, become="set" if newer else "member")

    def _who(self) -> None:
        role = self.reader.environment.role
        if rows := self._may_become(role):
            self.user = rows[0][0]
            self.role = role if rows[0][2] else None
            self.findings += diagnosis.user(rows, role)
        if role and not self.role:
            return  # the rights of another role say nothing
        place = self.reader.environment.history
        who = self.role or self.user
        self._told(
            "rights",
            lambda rows: diagnosis.rights(rows, who),
            who=who,
            schema=place.table_schema,
            table=place.table,
            journal=place.journal_schema,
        )

    def _clock(self) -> None:
        before = self.clock()
        rows = self._ask("clock")
        after = self.clock()
        if rows:
            uncertainty = (after - before) / 2
            self.findings += diagnosis.clock(rows[0][0] - (before + uncertainty), uncertainty)

    def _history(self) -> None:
        """Read as `status` reads it, in a transaction that cannot write and sets nothing for longer."""
        journal = Journal(self.session, self.reader.environment.history)
        rows = self._ask("runner_lock", **journal.lock_keys)
        self.running = bool(rows)
        self.findings += diagnosis.runner(rows or [])
        self.questions += 1
        if self.mode is PoolMode.STATEMENT:
            self.unseen["a pooler in statement mode allows no transaction to read it in"] = ["history"]
            return
        try:
            self.session.run(_BEGIN + self._become())
            self.found = found = journal.state()[1]
        except ServerError as error:
            self._undo()
            if error.sqlstate in _UNSEEN:
                self._unseen("history", error)
            elif error.sqlstate == "25P02":  # asked again in a transaction that had failed
                self._absent(journal)
            else:
                raise
        except SmetaError as error:
            self.findings.append(diagnosis.of_error(error, object=str(self.reader.environment.history)))
        else:
            self.findings += diagnosis.history(found, self.reader.environment, running=self.running)
        finally:
            self._undo()

    def _absent(self, journal: Journal) -> None:
        """The history could not be read: is there none, or one that is not ours?"""
        self.session.run(_BEGIN + self._become())
        try:
            journal.refuse_foreign()
        except SmetaError as error:
            self.findings.append(diagnosis.of_error(error, object=str(self.reader.environment.history)))
        else:
            self.findings.append(
                Diagnostic(
                    code="no-history",
                    severity=Severity.INFO,
                    message="there is no history yet: smeta has applied nothing here",
                    object=str(self.reader.environment.history),
                )
            )

    def _become(self) -> str:
        return self.session.compose("become", {"role": self.role}) if self.role else ""

    def _backups(self) -> None:
        environment, environ = self.reader.environment, self.reader.environ
        policies = _policies(environment)
        wanted = Severity.HIGH if policies else Severity.LOW
        self.questions += 1
        try:
            chosen = choose_pg_dump(
                self.session.server_version_num, all_binaries(environ), override=environ.get("SMETA_PG_DUMP")
            )
        except Refused as error:
            found = diagnosis.of_error(error)
            self.findings.append(
                Diagnostic(code=found.code, severity=wanted, message=found.message, hint=found.hint)
            )
        else:
            if chosen.unproven:
                self.findings.append(
                    Diagnostic(
                        code="pg-dump-unproven",
                        severity=Severity.MEDIUM if policies else Severity.LOW,
                        message=f"{chosen.path} is {chosen.version}, the server {chosen.server_version}: "
                        "a backup may not be restorable",
                        object=str(chosen.path),
                        hint=f"install pg_dump {chosen.server_version.partition('.')[0]} of the server's version, "
                        "or restore a backup to see",
                    )
                )
        for policy in policies:
            self._dump_role(policy)
        if policies:
            self._disk(full=any(policy.scope == "full" for policy in policies))

    def _dump_role(self, policy: BackupPolicy) -> None:
        role = policy.role or self.reader.environment.role or self.user
        if policy.role and (rows := self._may_become(policy.role)):
            problems = tuple(diagnosis.user(rows, policy.role))
            self.findings += problems
            if problems:
                return
        self._told(
            "dump_rights",
            lambda rows: diagnosis.dump_rights(rows, role, policy.name, rows_too=policy.scope == "full"),
            role=role,
        )

    def _disk(self, *, full: bool) -> None:
        directory = self.reader.project.root / self.reader.environment.backups_directory
        there = next(place for place in (directory, *directory.parents) if place.exists())
        size = self._ask("size")
        self.questions += 1
        if not os.access(there, os.W_OK | os.X_OK):
            self.findings.append(
                Diagnostic(
                    code="backup-space",
                    severity=Severity.HIGH,
                    message=f"backups cannot be written: {_shown(there)} is not writable",
                    object=_shown(directory),
                    hint="correct its permissions, or `backups.directory`",
                )
            )
        free = shutil.disk_usage(there).free
        self.findings += diagnosis.disk(
            free, size[0][1] if size else None, self.reader.environment.backups_directory, full=full
        )


def _shown(path: Path) -> str:
    return os.path.relpath(path)
