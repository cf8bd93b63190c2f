"""Waiting for what a database says, without sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.servers import TestDatabase


def until(happened: Callable[[], bool], *, seconds: float = 30, what: str = "it") -> None:
    """Ask again until it is so; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


def until_running(database: TestDatabase, query: str, *, admin: bool = False) -> None:
    """Until a statement that is like this runs; what others than the owner run is seen as the superuser."""
    ask = database.query_as_admin if admin else database.query
    until(
        lambda: bool(
            ask(
                "select 1 from pg_stat_activity where query ilike %s and state = 'active' and pid <> pg_backend_pid()",
                query,
            )
        ),
        what=query,
    )
