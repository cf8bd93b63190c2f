"""Which changes of an environment's policies are looser, in words."""

from __future__ import annotations

from typing import Any

import pytest

from smeta_declare.policy import loosened

STRICT: dict[str, Any] = {
    "protected": True,
    "order": "strict",
    "require": ["rollback", "unchanged_catalog"],
    "timeouts": {
        "connect_ms": 1,
        "statement_ms": 60_000,
        "idle_in_transaction_ms": 1_000,
        "concurrent_ms": 1_000,
    },
    "locks": {
        "timeout_ms": 200,
        "hold_ms": 1_000,
        "require_quiet_ms": 30_000,
        "terminate_blockers": ["reports"],
        "attempts": 2,
    },
    "backup": {"name": "everything", "scope": "full"},
    "checks": [{"name": "no orphans", "sql": "select 1", "expect": "true"}],
}


def changed(**changes: Any) -> dict[str, Any]:
    found = {**STRICT}
    for key, value in changes.items():
        found[key] = {**STRICT[key], **value} if isinstance(value, dict) and STRICT[key] else value
    return found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protected": False}, "it is not protected any more"),
        ({"order": "lenient"}, "migrations may run out of order, order was strict"),
        ({"require": ["rollback"]}, "requirement unchanged_catalog is dropped"),
        ({"backup": None}, "no backup is taken, it was everything"),
        (
            {"backup": {"name": "definitions", "scope": "schema"}},
            "the backup definitions keeps definitions only, everything kept the rows too",
        ),
        ({"timeouts": {"statement_ms": 90_000}}, "timeouts.statement is 90s, it was 1min"),
        ({"timeouts": {"concurrent_ms": 2_000}}, "timeouts.concurrent is 2s, it was 1s"),
        ({"locks": {"timeout_ms": 201}}, "locks.timeout is 201ms, it was 200ms"),
        ({"locks": {"hold_ms": 2_000}}, "locks.hold is 2s, it was 1s"),
        (
            {"locks": {"require_quiet_ms": None}},
            "transactions that hold a table are not waited for, they were from 30s on",
        ),
        (
            {"locks": {"require_quiet_ms": 60_000}},
            "transactions that hold a table may be 1min old, it was 30s",
        ),
        (
            {"locks": {"terminate_blockers": ["reports", "etl"]}},
            "sessions of etl may be ended when they block",
        ),
        ({"checks": []}, "the check `no orphans` is not asked any more"),
        (
            {"checks": [{"name": "no orphans", "sql": "select 2", "expect": "true"}]},
            "the check `no orphans` asks something else",
        ),
    ],
)
def test_what_is_looser_is_told_and_what_is_stricter_is_not(changes: dict[str, Any], words: str) -> None:
    now = changed(**changes)

    assert [f.message for f in loosened("live", STRICT, now)] == [f"policy of live: {words}"]
    stricter = [f.message for f in loosened("live", now, STRICT)]
    assert stricter == ([f"policy of live: {words}"] if "asks something else" in words else [])


def test_what_an_older_journal_does_not_know_is_no_change() -> None:
    assert [f.message for f in loosened("live", {"protected": True}, STRICT)] == [
        "policy of live: sessions of reports may be ended when they block"
    ]


def test_an_environment_that_was_never_protected_is_not_told_of() -> None:
    free = {**STRICT, "protected": False}

    assert list(loosened("dev", free, {**free, "backup": None, "require": []})) == []
