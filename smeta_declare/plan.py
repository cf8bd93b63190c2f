"""The plan: what will happen, as data. Nothing here knows a connection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from smeta_declare import parsetree
from smeta_declare.backup.policy import BackupPolicy
from smeta_declare.batching import Batch
from smeta_declare.diagnostics import Diagnostic, Location
from smeta_declare.environment import HistoryPlace, Timeouts
from smeta_declare.losses import MOST_COUNTED, Loss, plan_losses
from smeta_declare.parser import tree
from smeta_declare.run import Direction, KeptRollback
from smeta_declare.standalone import Effect, as_dict
from smeta_declare.summary import summarised
from smeta_declare.template import Rendered, SecretSlot
from smeta_declare.validation import Expectation

FORMAT = "smeta.plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStatement:
    """One statement, exactly as it will be sent (secrets excepted: their places are noted)."""

    text: str
    kind: str
    source: Rendered = field(compare=False, repr=False)  # the section it is part of, which knows the places
    start: int  # where in that section
    alone: str | None = None  # why PostgreSQL refuses it inside a transaction
    effect: Effect | None = None  # what the catalogue shows of it, where it runs alone
    concurrently: bool = False  # blocks nobody while it queues
    resume: Literal["again", "done"] | None = (
        None  # what to do when it was begun and nobody knows whether it ended
    )
    batch: Batch | None = None  # how it is cut into transactions, where a directive asks for that
    secrets: tuple[SecretSlot, ...] = ()

    @property
    def summary(self) -> str:
        """A few words for a person."""
        return summarised(self.text, self.kind)

    @property
    def directive(self) -> str:
        """What a directive says of it, in one form; empty without one."""
        alone = self.kind == "AlterTableStmt"
        said = ["alone" if alone else f"commits-inside {self.resume}"] if self.resume else []
        return " ".join([*said, *([f"batch {self.batch.options}"] if self.batch else [])])

    @property
    def directed(self) -> str:
        """The text under its directive, if it has one."""
        return f"-- smeta: {self.directive}\n{self.text}" if self.directive else self.text

    @property
    def objects(self) -> tuple[str, ...]:
        """What it creates, alters, drops or writes, as written."""
        return parsetree.objects(*tree(self.text)[0])

    @property
    def names(self) -> frozenset[str]:
        """Everything that it names, also what it only reads, calls or refers to."""
        return names_in(self.text)

    @property
    def location(self) -> Location:
        """The template's place of its first character."""
        return self.locate(0)

    @property
    def last_line(self) -> int:
        """The template's line of its last character."""
        return self.locate(len(self.text) - 1).line

    def locate(self, offset: int) -> Location:
        """The template's place of a character of the statement."""
        return self.source.locate(self.start + offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A read-only query and what it must answer: a validation of a migration, or a declared check."""

    name: str
    statement: PlannedStatement
    expect: Expectation
    declared_at: Location | None = None  # of a check: where the manifest declares it

    @property
    def location(self) -> Location:
        """The place a person has to look at."""
        return self.declared_at or self.statement.location


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """What the history table keeps of a migration once it is applied."""

    version: str
    name: str
    description: str
    checksum: str
    meaning: str
    inputs: str
    forward_sql: str
    rollback_sql: str | None
    validation_sql: str | None
    details: Mapping[str, Any]


def digest_of(statements: Iterable[PlannedStatement]) -> str:
    """SHA-256 of the texts of statements, and of what batches they are cut into."""
    parts = [part for s in statements for part in (s.text, *(s.batch.identity if s.batch else ()))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One migration's share of a step: position `position` of its `steps`, in round `round`."""

    version: str
    direction: Direction
    position: int
    steps: int
    round: int
    statements: tuple[PlannedStatement, ...]
    timeouts: Timeouts
    validations: tuple[Question, ...] = ()
    record: HistoryRow | None = None  # written with this work: the last step on the way forward
    forget: bool = False  # the history row goes with this work: the first step of the way back
    keeps: KeptRollback | None = None  # what the journal needs to finish a way back of several steps

    @property
    def digest(self) -> str:
        """SHA-256 of the statements' texts, and of what batches they are cut into: what the journal remembers."""
        return digest_of(self.statements)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupStep:
    """A backup of the database before anything else."""

    id: str
    policy: BackupPolicy
    label: str  # the version it is named after


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionStep:
    """Everything in it commits together or not at all; `checks` are asked directly before the commit."""

    id: str
    works: tuple[Work, ...]
    checks: tuple[Question, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The migrations' steps that it commits."""
        return tuple(f"{work.version}/{work.position + 1}" for work in self.works)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutocommitStep:
    """One statement PostgreSQL refuses to run inside a transaction."""

    id: str
    work: Work
    reason: str

    @property
    def statement(self) -> PlannedStatement:
        """The one statement of the step."""
        return self.work.statements[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillStep:
    """One statement in batches by a key, each of them a transaction of its own."""

    id: str
    work: Work
    batch: Batch

    @property
    def statement(self) -> PlannedStatement:
        """The one statement of the step."""
        return self.work.statements[0]


Step: TypeAlias = BackupStep | TransactionStep | AutocommitStep | BackfillStep


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMigration:
    """A line of the plan's summary: which migration goes which way, and what to know about it."""

    version: str
    name: str
    description: str
    direction: Direction
    reversible: bool
    out_of_order: bool = False
    resumes_at: int = 0  # steps that an earlier run has already committed
    resumes: str = ""  # how far that run came, in words; told, and no part of the decision
    steps: int = 1
    rollback: tuple[str, ...] | None = (
        None  # the statements that will undo it; None where there is no section
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedLoss:
    """Data that the plan takes away, by which migration, and how many rows that is now; None: nobody can tell."""

    version: str
    what: str
    rows: int | None

    @property
    def words(self) -> str:
        """The loss and its size for a person."""
        if self.rows is None:
            return f"{self.what}: rows not counted"
        if self.rows > MOST_COUNTED:
            return f"{self.what}: more than {MOST_COUNTED:,} rows"
        return f"{self.what}: {self.rows:,} {'row' if self.rows == 1 else 'rows'}" if self.rows else self.what


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `apply` or `rollback` will do to one database, in order."""

    environment: str
    project: str
    direction: Direction
    target: Mapping[str, str | int | None]
    history: HistoryPlace
    base: Mapping[
        str, str | int | None
    ]  # the history that the plan starts from: its digest, and what it ends with
    settings: Mapping[str, Any]  # what the manifest says for this environment, addresses left out
    role: str | None
    transaction: Literal["all", "each"]
    migrations: tuple[PlannedMigration, ...]
    steps: tuple[Step, ...]
    request: str = "apply"  # what was asked for, as the command says it
    continues: str | None = None  # the open run whose target this plan keeps
    from_file: bool = False  # a way back: with the files' rollback sections, not the kept ones
    objects: Mapping[str, Mapping[str, str] | None] | None = (
        None  # what the statements name, and its dependents
    )
    saved: str | None = None  # the id of the file that it was made again from
    catalog: str | None = None  # digest of the whole schema; told
    catalog_bound: bool = False  # whether it is part of the decision: nothing at all may change meanwhile
    address: str = ""  # where the target was reached; told, and no part of the decision
    findings: tuple[Diagnostic, ...] = ()
    lost: tuple[CountedLoss, ...] = ()  # told, and no part of the decision: rows come and go

    @cached_property
    def losses(self) -> tuple[tuple[str, Loss], ...]:
        """What data it takes away, and which migration does."""
        return tuple(
            plan_losses(
                (work.version, statement.kind, statement.text)
                for step in self.steps
                for work in works_in(step)
                for statement in work.statements
            )
        )

    @property
    def uncounted(self) -> tuple[CountedLoss, ...]:
        """What it takes away, where no database can say how many rows that is."""
        return tuple(CountedLoss(version=version, what=loss.what, rows=None) for version, loss in self.losses)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.migrations

    @cached_property
    def id(self) -> str:
        """SHA-256 of the decision in canonical form: the same inputs give the same id on any machine."""
        return canonical_digest(self.decision)

    @cached_property
    def decision(self) -> dict[str, Any]:
        """Everything that decides what runs, as JSON values."""
        return {
            "project": self.project,
            "environment": self.environment,
            "direction": self.direction,
            "request": self.request,
            "from_file": self.from_file,
            "continues": self.continues,
            "target": dict(self.target),
            "history": {"table": str(self.history), "journal": self.history.journal_schema},
            "base": self.base,
            "objects": self.objects,
            "catalog": self.catalog if self.catalog_bound else None,
            "role": self.role,
            "transaction": self.transaction,
            "settings": self.settings,
            "migrations": [_migration(m) for m in self.migrations],
            "steps": [_step(s) for s in self.steps],
        }

    def document(self) -> dict[str, Any]:
        """The published form: the decision and its id, and apart from it the facts, which decide nothing."""
        facts = {
            "address": self.address,
            "catalog": self.catalog,
            # where each statement of the decision stands, in its order
            "places": [[at.file, at.line, at.column] for at in _places(self.steps)],
            "findings": [f.as_dict() for f in self.findings],
            "losses": [asdict(loss) for loss in self.lost],
            "resumes": {m.version: m.resumes for m in self.migrations if m.resumes},
        }
        return {
            "format": FORMAT,
            "id": self.id,
            "facts_id": canonical_digest(facts),
            "decision": self.decision,
            "facts": facts,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Every object that a statement names, as written."""
        return tuple(sorted({name for s in self.statements() for name in s.names}))

    def statements(self) -> Iterator[PlannedStatement]:
        """Every statement and question in the order of the decision."""
        for step in self.steps:
            for work in works_in(step):
                yield from work.statements
                yield from (question.statement for question in work.validations)
            if isinstance(step, TransactionStep):
                yield from (question.statement for question in step.checks)


def names_in(statement: str) -> frozenset[str]:
    """Everything that a statement names, as written."""
    kind, node = tree(statement)[0]
    return frozenset((*parsetree.objects(kind, node), *parsetree.relations(node), *parsetree.functions(node)))


def canonical_digest(value: object) -> str:
    """SHA-256 of a JSON value in canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def works_in(step: Step) -> tuple[Work, ...]:
    """The shares of migrations in a step, in their order."""
    match step:
        case BackupStep():
            return ()
        case TransactionStep():
            return step.works
        case AutocommitStep() | BackfillStep():
            return (step.work,)


def _places(steps: Iterable[Step]) -> Iterator[Location]:
    for step in steps:
        for work in works_in(step):
            yield from (statement.location for statement in work.statements)
            yield from (question.location for question in work.validations)
        if isinstance(step, TransactionStep):
            yield from (question.location for question in step.checks)


def _migration(m: PlannedMigration) -> dict[str, Any]:
    return {
        "version": m.version,
        "name": m.name,
        "description": m.description,
        "direction": m.direction,
        "reversible": m.reversible,
        "out_of_order": m.out_of_order,
        "resumes_at": m.resumes_at,
        "steps": m.steps,
        "rollback": None if m.rollback is None else list(m.rollback),
    }


def _step(step: Step) -> dict[str, Any]:
    match step:
        case BackupStep():
            policy = step.policy
            return {
                "id": step.id,
                "kind": "backup",
                "label": step.label,
                "policy": policy.name,
                "scope": policy.scope,
                "format": policy.format,
                "compress": policy.compress,
                "role": policy.role,
            }
        case TransactionStep():
            return {
                "id": step.id,
                "kind": "transaction",
                "works": [_work(w) for w in step.works],
                "checks": [_question(q) for q in step.checks],
            }
        case AutocommitStep():
            return {
                "id": step.id,
                "kind": "autocommit",
                "works": [_work(step.work)],
                "reason": step.reason,
                "effect": as_dict(step.statement.effect) if step.statement.effect else None,
            }
        case BackfillStep():
            batch, options = step.batch, step.batch.options
            return {
                "id": step.id,
                "kind": "backfill",
                "works": [_work(step.work)],
                "table": batch.relation,
                "key": options.key,
                "size": options.size,
                "pause_ms": options.pause_ms,
                "max_lag_ms": options.max_lag_ms,
                "until": batch.until,
                "until_derived": batch.derived,
            }


def _work(work: Work) -> dict[str, Any]:
    return {
        "version": work.version,
        "direction": work.direction,
        "position": work.position,
        "steps": work.steps,
        "round": work.round,
        "timeouts": {
            "statement_ms": work.timeouts.statement_ms,
            "concurrent_ms": work.timeouts.concurrent_ms,
        },
        "statements": [_statement(s) for s in work.statements],
        "validations": [_question(q) for q in work.validations],
        "records": work.record.version if work.record else None,
        "forgets": work.forget,
    }


def _question(question: Question) -> dict[str, Any]:
    return {
        "name": question.name,
        "statement": _statement(question.statement),
        "expect": str(question.expect),
    }


def _statement(statement: PlannedStatement) -> dict[str, Any]:
    return {
        "text": statement.text,
        "kind": statement.kind,
        "resume": statement.resume,
        "secrets": [
            {"start": s.start, "end": s.end, "name": s.name, "form": s.form} for s in statement.secrets
        ],
    }
