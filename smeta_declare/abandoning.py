"""Take away what statements of an abandoned run left half done."""

from __future__ import annotations

from collections.abc import Iterator

from smeta_declare.environment import Environment
from smeta_declare.events import LeftoverCleaned, Sink
from smeta_declare.leftovers import clean_up
from smeta_declare.monitor import Monitor
from smeta_declare.postgres.journal import Journal
from smeta_declare.postgres.settings import settings
from smeta_declare.run import History


def take_away(
    journal: Journal, environment: Environment, history: History, told: Sink
) -> Iterator[LeftoverCleaned]:
    """Take away what is half done; gives each thing after it is gone. To be called under the runner's lock."""
    cleaning = settings(
        journal.session,
        environment.timeouts,
        environment.locks,
        alone=True,
        concurrently=True,
        role=environment.role,
    )
    monitor = Monitor(
        lambda: journal.session.beside("monitor"),
        pid=journal.session.pid,
        journal_schema=environment.history.journal_schema,
        locks=environment.locks,
        told=told,
    )
    with monitor, monitor.watching("abandon", hold=False):
        for partial in history.partial:
            for position, started in partial.started.items():
                for what in clean_up(journal.session, started, under=cleaning):
                    cleaned = LeftoverCleaned(step=f"{partial.version}/{position + 1}", what=what)
                    told(cleaned)
                    yield cleaned
