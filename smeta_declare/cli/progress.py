"""A run as it happens, told on stderr: a line per step, a moving line where a terminal shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smeta_declare.cli.views import is_terminal, talk
from smeta_declare.events import (
    BackfillDone,
    BackfillPaused,
    BackfillProgress,
    BackfillStarted,
    BackupProgressed,
    BackupSkipped,
    BackupTaken,
    Blocked,
    BlockerTerminated,
    BuildProgressed,
    CommitSettled,
    Event,
    FoundDone,
    LeftoverCleaned,
    MigrationDone,
    MigrationStarted,
    Noticed,
    RunFinished,
    RunnerWaited,
    RunStarted,
    StatementDone,
    StepCommitted,
    StepRetried,
    listed,
)

if TYPE_CHECKING:
    from rich.status import Status


_LINE_S = 10.0  # seconds between two lines on the same thing, where no terminal shows it moving


@dataclass
class Progress:
    """Tells a person about events."""

    quiet: bool
    verbose: bool
    _live: Any = field(default=None, repr=False)
    _line_at: float = 0.0
    _begun: set[str] = field(default_factory=set)  # migrations, each once however often it is tried
    _ran: set[tuple[str, int]] = field(default_factory=set)  # their steps, told once
    _total: int = 0

    def __call__(self, event: Event) -> None:
        if self.quiet:
            return
        match event:
            case RunnerWaited():
                self._show(f"waiting for another runner: {event.holder}")
            case BackupTaken():
                talk(f"backup   {event.file} ({event.size:,} bytes, {event.duration_ms} ms)")
            case BackupSkipped():
                talk(f"backup   left out: {event.reason}")
            case MigrationStarted():
                part = f" (step {event.position + 1} of {event.steps})" if event.steps > 1 else ""
                self._begun.add(event.version)
                self._show(
                    f"{_verb(event.direction)} {event.version}{part}, {len(self._begun)} of {self._total}"
                )
            case StatementDone() if self.verbose:
                talk(f"         {event.statement.summary} ({event.duration_ms} ms)")
            case MigrationDone() if self._new(event):
                part = f" step {event.position + 1} of {event.steps}," if event.steps > 1 else ""
                noun = "statement" if event.statements == 1 else "statements"
                talk(f"ran      {event.version}:{part} {event.statements} {noun}, {event.duration_ms} ms")
            case StepRetried():
                talk(
                    f"retry    {event.step}: {event.reason}; try {event.attempt} of {event.of}, "
                    f"again in {event.wait_ms} ms"
                )
            case Blocked():
                for blocker, query in zip(event.blockers, event.queries, strict=True):
                    talk(f"blocked  {event.step} waits for {blocker}{query}")
            case BlockerTerminated():
                talk(f"ended    {event.blocker} (locks.terminate_blockers)")
            case LeftoverCleaned():
                talk(f"cleaned  {event.step}: {event.what}")
            case FoundDone():
                talk(f"not run  {event.step}: {event.why}")
            case CommitSettled():
                outcome = "it is committed" if event.committed else "it is not committed"
                talk(f"settled  {event.step}: the answer to COMMIT was lost, and {outcome}")
            case BuildProgressed():
                share = f"{event.done / event.total:.0%} of {event.total:,} {event.what}"
                self._moving(f"{event.step}: {event.phase}, {share}")
            case BackfillStarted():
                about = f", about {event.total:,} rows" if event.total is not None else ""
                goes_on = f", goes on after {event.rows:,}" if event.rows else ""
                talk(f"batches  {event.step}: {event.table}{about}{goes_on}")
            case BackfillProgress():
                total = f" of about {event.total:,}" if event.total is not None else ""
                eta = f", about {event.eta_s} s left" if event.eta_s is not None else ""
                self._moving(f"{event.step}: {event.rows:,} rows{total}, {event.rate:,.0f}/s{eta}")
            case BackfillPaused():
                self._moving(f"{event.step}: waits, {event.reason}")
            case BackfillDone():
                passes = f", {event.passes} passes" if event.passes > 1 else ""
                talk(
                    f"batched  {event.step}: {event.rows:,} rows, {event.batches:,} batches{passes}, "
                    f"{event.duration_ms} ms"
                )
            case StepCommitted():
                talk(f"commit   {listed(event.parts or (event.step,))} ({event.duration_ms} ms)")
            case Noticed() if event.severity == "WARNING" or self.verbose:
                talk(f"{event.severity.lower():8} {event.message}")
            case RunStarted():
                self._stop()
                self._begun, self._ran, self._total = set(), set(), len(event.migrations)
            case RunFinished():
                self._stop()
            case BackupProgressed():
                self._moving(f"backup: {event.size:,} bytes written")
            case _:
                pass

    def _new(self, event: MigrationDone) -> bool:
        """Whether a step is to be told: it does something, and is not just tried again."""
        step = (event.version, event.position)
        if step in self._ran or not (event.statements or event.steps == 1):
            return False
        self._ran.add(step)
        return True

    def _moving(self, text: str) -> None:
        """Something that changes: in place on a terminal, a line now and then in a log."""
        if is_terminal():
            self._show(text)
        elif time.monotonic() - self._line_at >= _LINE_S:
            self._line_at = time.monotonic()
            talk(f"still    {text}")

    def _show(self, text: str) -> None:
        if not is_terminal():
            return
        if self._live is None:
            from rich.console import Console

            live: Status = Console(stderr=True).status(text)
            live.start()
            self._live = live
        self._live.update(text)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _verb(direction: str) -> str:
    return "applying" if direction == "forward" else "rolling back"
