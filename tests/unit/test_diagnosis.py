from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from smeta_declare import diagnosis
from smeta_declare.diagnosis import Left
from smeta_declare.diagnostics import Severity
from smeta_declare.run import History, OpenRun, PartialMigration
from smeta_declare.standalone import BuildsIndex, DetachesPartition, DropsIndex, Effect, Reindexes

RUN = OpenRun(
    id="u-1",
    direction="rollback",
    request="rollback 2",
    versions=("1_a",),
    started_at=datetime(2026, 11, 24, tzinfo=UTC),
    started_by="ann",
)
PARTIAL = PartialMigration(version="2_b", direction="rollback", round=0, steps=3, done={0: "d"})


@pytest.mark.parametrize(
    ("age", "idle", "expected"),
    [
        (40, None, ("long-transaction", Severity.LOW)),
        (600, None, ("long-transaction", Severity.MEDIUM)),
        (3600, 5, ("long-transaction", Severity.HIGH)),
        (40, 30, ("idle-in-transaction", Severity.MEDIUM)),
        (700, 600, ("idle-in-transaction", Severity.HIGH)),
    ],
)
def test_transaction_weighs_what_its_age_weighs(
    age: int, idle: int | None, expected: tuple[str, Severity]
) -> None:
    (found,) = diagnosis.transactions([(7, "ann", "shop", "active", age, idle, [])])

    assert (found.code, found.severity) == expected
    assert found.object == "pid 7"


@pytest.mark.parametrize(
    ("age", "severity"),
    [
        (179_000_000, None),
        (180_000_000, Severity.MEDIUM),
        (300_000_000, Severity.HIGH),
        (2_000_000_000, Severity.CRITICAL),
    ],
)
def test_wraparound_is_told_when_it_comes_close(age: int, severity: Severity | None) -> None:
    found = list(diagnosis.wraparound([("shop", age, 200_000_000, 5, 400_000_000)]))

    assert [f.severity for f in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("difference", "uncertainty", "told"), [(4.0, 0.0, False), (-6.0, 0.5, True), (6.0, 2.0, False)]
)
def test_clock_is_told_only_where_the_network_does_not_explain_it(
    difference: float, uncertainty: float, *, told: bool
) -> None:
    assert bool(list(diagnosis.clock(difference, uncertainty))) == told


@pytest.mark.parametrize(
    ("free", "full", "severity"),
    [
        (20_000_000_000, True, None),
        (5_000_000_000, True, Severity.MEDIUM),
        (1_000_000_000, True, Severity.HIGH),
        (1_000_000_000, False, None),
        (50_000_000, False, Severity.HIGH),
    ],
)
def test_disk_must_take_a_full_backup(free: int, full: bool, severity: Severity | None) -> None:  # noqa: FBT001
    found = list(diagnosis.disk(free, 10_000_000_000, "backups", full=full))

    assert [f.severity for f in found] == ([severity] if severity else [])


LIVE = SimpleNamespace(name="live", protected=False)


def test_interrupted_rollback_is_finished_by_what_was_asked_for() -> None:
    found = list(diagnosis.history(History(partial=(PARTIAL,), open_runs=(RUN,)), LIVE, running=False))

    assert [(f.code, f.severity) for f in found] == [
        ("half-done-migration", Severity.HIGH),
        ("open-run", Severity.HIGH),
    ]
    assert found[0].hint == "smeta rollback 2 --env live"
    assert found[0].message.endswith("half done on its way back: step 1 of 3 is done")


def test_run_in_progress_is_no_trouble() -> None:
    found = list(diagnosis.history(History(partial=(PARTIAL,), open_runs=(RUN,)), LIVE, running=True))

    assert [(f.code, f.severity) for f in found] == [("half-done-migration", Severity.INFO)]
    assert not diagnosis.fails(found)


def test_index_that_somebody_may_be_building_is_not_to_be_dropped() -> None:
    row = ("public.i", "public.t", False, False, False)
    left, building = (next(diagnosis.invalid_indexes([(*row, pid, 1)])) for pid in (None, 42))

    assert (left.severity, building.severity) == (Severity.HIGH, Severity.INFO)
    assert building.hint is not None
    assert "drop" not in building.hint


def test_findings_come_worst_first() -> None:
    rows = [("lock_timeout", "5000"), ("default_transaction_read_only", "on"), ("track_activities", "off")]

    found = diagnosis.worst_first(diagnosis.settings(rows))

    assert [f.severity for f in found] == [Severity.HIGH, Severity.MEDIUM, Severity.LOW]
    assert list(diagnosis.settings([("lock_timeout", "0"), ("track_activities", "on")])) == []


@pytest.mark.parametrize(
    ("effect", "name", "oid", "ours"),
    [
        (BuildsIndex(index="i", table="t"), "public.i", 1, True),
        (BuildsIndex(index="public.i", table="public.t"), "public.i", 1, True),
        (BuildsIndex(index="shop.i", table="shop.t"), "public.i", 1, False),
        (BuildsIndex(index="i", table="other"), "public.i", 1, False),
        (DropsIndex(index='"I"'), 'public."I"', 1, True),
        (Reindexes(scope="index", name="i"), "public.i_ccnew", 1, True),
        (Reindexes(scope="index", name='"I"'), 'public."I_ccnew1"', 1, True),
        (Reindexes(scope="index", name="j"), "public.i_ccnew", 1, False),
        (Reindexes(scope="table", name="t"), "public.i_ccold2", 1, True),
        (Reindexes(scope="table", name="t"), "public.i_ccold2", 7, False),  # there before it began
        (Reindexes(scope="schema", name="public"), "public.i_ccnew", 1, True),
        (Reindexes(scope="schema", name="public"), "public.i", 1, False),
        (DetachesPartition(table="t", partition="i"), "public.i", 1, False),
    ],
)
def test_index_that_we_left_is_not_to_be_dropped_by_hand(
    effect: Effect,
    name: str,
    oid: int,
    ours: bool,  # noqa: FBT001
) -> None:
    begun = [Left(version="1_a", effect=effect, before=(7,), way="smeta apply --env live")]
    leftover = "_cc" in name

    (found,) = diagnosis.invalid_indexes([(name, "public.t", False, leftover, False, None, oid)], begun)

    assert found.hint is not None
    assert ("smeta apply --env live" in found.hint) == ours
    assert ("drop index" in found.hint) != ours


def test_partition_that_we_left_pending_is_finished_by_us() -> None:
    begun = [
        Left(
            version="1_a",
            effect=DetachesPartition(table="t", partition="p"),
            before=(),
            way="smeta apply --env live",
        )
    ]
    ours, other = diagnosis.pending_detaches([("public.p", "public.t"), ("public.q", "public.t")], begun)

    assert (ours.hint or "").startswith("`smeta apply --env live` finishes it")
    assert other.hint == "alter table public.t detach partition public.q finalize"


def test_head_of_the_queue_is_where_to_look() -> None:
    rows = [
        (1, "ann", "shop", 5, "t", "pid 2", [2, 3]),
        (2, "ann", "shop", 5, "t", "pid 3", [3]),
        (4, "ann", "shop", 5, "t", "a prepared transaction", [0]),
    ]

    hints = [found.hint for found in diagnosis.blocked_sessions(rows)]

    assert hints == ["look at pid 3 first: the others wait behind it"] * 2 + [
        "look at the prepared transaction first: the others wait behind it"
    ]


def test_long_transaction_that_waits_is_not_the_one_to_cancel() -> None:
    (found,) = diagnosis.transactions([(7, "ann", "shop", "active", 40, None, [8])])

    assert found.hint == "it waits itself: look at pid 8 first"
