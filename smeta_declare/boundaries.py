"""Where one transaction ends and the next begins: statements to works, works to steps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from smeta_declare.batching import Batch
from smeta_declare.diagnostics import Location
from smeta_declare.environment import Environment, Timeouts
from smeta_declare.errors import Refused
from smeta_declare.plan import (
    AutocommitStep,
    BackfillStep,
    HistoryRow,
    PlannedStatement,
    Question,
    Step,
    TransactionStep,
    Work,
    digest_of,
)
from smeta_declare.run import Direction, KeptRollback, PartialMigration
from smeta_declare.standalone import AddsValue

_TRIED = 100  # statements of a step among which an addition is looked for


class PartialChanged(Refused):
    """A migration was edited after part of it ran."""

    code = "partial-changed"


def works_of(
    version: str,
    direction: Direction,
    round: int,
    statements: Sequence[PlannedStatement],
    timeouts: Timeouts,
    *,
    record: HistoryRow | None = None,
    validations: tuple[Question, ...] = (),
    checks: Iterable[Question] = (),
    keeps: KeptRollback | None = None,
) -> tuple[Work, ...]:
    """Cut a section where PostgreSQL needs it: statements that run alone stand alone.

    The way forward ends, and the way back begins, with a piece that is a transaction: there the history row
    is written or removed. `checks` are asked after the last migration, maybe in that very transaction.
    """
    pieces: list[list[PlannedStatement]] = [[]]
    asked = [question.statement for question in (*validations, *checks)]
    for statement in _with_used_values_alone(statements, asked):
        if statement.alone or statement.batch:
            pieces += [[statement], []]
        else:
            pieces[-1].append(statement)
    last = len(pieces) - 1
    kept = [
        i
        for i, piece in enumerate(pieces)
        if piece or (direction == "forward" and i == last) or (direction == "rollback" and i == 0)
    ]
    return tuple(
        Work(
            version=version,
            direction=direction,
            position=position,
            steps=len(kept),
            round=round,
            statements=tuple(pieces[i]),
            timeouts=timeouts,
            validations=validations if i == last else (),
            record=record if i == last else None,
            forget=direction == "rollback" and i == 0,
            keeps=keeps if position == 0 and len(kept) > 1 else None,
        )
        for position, i in enumerate(kept)
    )


def _with_used_values_alone(
    statements: Sequence[PlannedStatement], asked: Sequence[PlannedStatement]
) -> Iterator[PlannedStatement]:
    """A new value of an enum can be used once it is committed: where that is wanted, it is added on its own.

    A question uses it, too: even `= 'value'` is refused in the transaction that added it.

    https://www.postgresql.org/docs/current/sql-altertype.html#SQL-ALTERTYPE-NOTES
    """
    for index, statement in enumerate(statements):
        effect = statement.effect
        if isinstance(effect, AddsValue) and _mention({effect.value}, (*statements[index + 1 :], *asked)):
            reason = "a later statement uses the new value, which it can do once it is committed"
            yield replace(statement, alone=reason)
        else:
            yield statement


def _mention(values: set[str], statements: Iterable[PlannedStatement]) -> bool:
    """Whether a value may be used: inside a function's body only its text can tell."""
    literals = ["'" + value.replace("'", "''") + "'" for value in values]
    return any(literal in statement.text for statement in statements for literal in literals)


class StepsBuilder:
    """Collects the works of migrations into steps, with the transaction boundaries of the environment."""

    def __init__(self, environment: Environment) -> None:
        self._each = environment.transaction == "each"
        self._steps: list[Step] = []
        self._open: list[Work] = []
        self._added: set[str] = set()  # values that the open transaction adds to enums

    def add(self, works: Sequence[Work], partial: PartialMigration | None) -> None:
        if partial and partial.done and partial.steps != len(works):
            raise PartialChanged(
                f"{partial.version} had {partial.steps} steps when it was begun, and has {len(works)} now",
                location=_first_other(works, partial),
                hint="statements of a step that has not run may be edited, and plain ones may be added to it; what "
                "runs alone or in batches is a step of its own and belongs into another migration"
                + ("" if partial.only_onward else ". Or end the run with --abandon, and roll back"),
            )
        for work in works:
            if partial and work.position in partial.done:
                _check_unchanged(works, work, partial)
            elif batch := _batch(work):
                self._close()
                self._steps.append(
                    BackfillStep(id=f"{work.version}/{work.position + 1}", work=work, batch=batch)
                )
            elif reason := _reason(work):
                self._close()
                self._steps.append(
                    AutocommitStep(id=f"{work.version}/{work.position + 1}", work=work, reason=reason)
                )
            else:
                asked = [question.statement for question in work.validations]
                if _mention(self._added, (*work.statements, *asked)):
                    self._close()
                self._open.append(work)
                self._added |= {s.effect.value for s in work.statements if isinstance(s.effect, AddsValue)}
        if self._each:
            self._close()

    def _close(self) -> None:
        if self._open:
            first = self._open[0]
            self._steps.append(
                TransactionStep(id=f"{first.version}/{first.position + 1}", works=tuple(self._open))
            )
            self._open = []
        self._added = set()

    def steps(self, checks: tuple[Question, ...]) -> tuple[Step, ...]:
        """All steps; the declared checks are asked in the last transaction."""
        self._close()
        if checks and self._steps and isinstance(last := self._steps[-1], TransactionStep):
            self._steps[-1] = TransactionStep(id=last.id, works=last.works, checks=checks)
        return tuple(self._steps)


def _reason(work: Work) -> str | None:
    return work.statements[0].alone if len(work.statements) == 1 else None


def _batch(work: Work) -> Batch | None:
    return work.statements[0].batch if len(work.statements) == 1 else None


def _first_other(works: Sequence[Work], partial: PartialMigration) -> Location | None:
    """Where the first step begins that is not one of those that ran."""
    others = (w for w in works if w.statements and partial.done.get(w.position) != w.digest)
    return next((work.statements[0].location for work in others), None)


def _check_unchanged(works: Sequence[Work], work: Work, partial: PartialMigration) -> None:
    """The journal keeps a digest of each finished step: what was put in can be found, what was edited cannot."""
    ran = partial.done[work.position]
    if ran == work.digest:
        return
    step = f"step {work.position + 1} of {partial.steps}"
    place = _place_for_new(works, work)
    if added := _added(work.statements, ran):
        raise PartialChanged(
            f"{work.version}: {_lines(added)} {'is' if len(added) == 1 else 'are'} new in {step}, which has run",
            location=added[0].location,
            hint=f"put new statements {place}, or into a migration of their own",
        )
    raise PartialChanged(
        f"{work.version} was edited after {step} had run"
        + (f": that step is {_lines(work.statements)}" if work.statements else ""),
        location=work.statements[0].location if work.statements else None,
        hint="put the text of the finished steps back as it was; what is still to run may be edited, and new "
        f"statements belong {place}, or into a migration of their own",
    )


def _added(statements: Sequence[PlannedStatement], ran: str) -> Sequence[PlannedStatement]:
    """The neighbouring statements without which the text is what ran; none where nothing but an edit explains it."""
    count = min(len(statements), _TRIED)
    for length in range(1, count + 1):
        for start in range(count - length + 1):
            if digest_of([*statements[:start], *statements[start + length :]]) == ran:
                return statements[start : start + length]
    return ()


def _lines(statements: Sequence[PlannedStatement]) -> str:
    noun = "the statement" if len(statements) == 1 else f"{len(statements)} statements"
    first, last = statements[0].location.line, statements[-1].last_line
    return f"{noun} in line {first}" if first == last else f"{noun} in lines {first} to {last}"


def _place_for_new(works: Sequence[Work], work: Work) -> str:
    """Behind the statement that runs alone and ends a finished step, where it is not that step itself."""
    alone = work if _reason(work) or _batch(work) else works[min(work.position + 1, len(works) - 1)]
    return f"below line {alone.statements[-1].last_line}" if alone.statements else "behind what has run"
