"""What the matrix rests on: that cases are found again by their ids, and that damage is seen."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from tests.chaos.cases import Fault, every, parse, sample
from tests.chaos.proxy import TERMINATE, Moment, Proxy
from tests.chaos.scenarios import SCENARIOS, scenario
from tests.chaos.stage import Stage, play, project, snapshot


def test_a_seed_gives_the_same_cases_and_another_seed_gives_others() -> None:
    assert sample(200, 1) == sample(200, 1)
    assert len({str(case) for case in sample(200, 1)}) == 200
    assert sample(200, 1) != sample(200, 2)


def test_every_scenario_meets_every_fault_in_the_sample() -> None:
    met = Counter((case.scenario.name, case.fault) for case in sample())

    assert len(met) == len(SCENARIOS) * len(Fault)
    assert {case.moment for case in sample()} == set(Moment)


def test_a_case_is_found_by_its_id() -> None:
    for case in sample():
        assert parse(str(case)) == case


def test_all_cases_differ_and_reach_every_message(stage: Stage, tmp_path: Path) -> None:
    messages = {s.name: stage.undisturbed(s, tmp_path / s.name).messages for s in SCENARIOS}

    cases = list(every(messages))

    assert len({str(case) for case in cases}) == len(cases)
    for name in messages:
        reached = {
            case.point(messages[name]).number
            for case in cases
            if case.scenario.name == name and case.fault is Fault.KILL
        }
        # The server does nothing at Bind, Describe and Execute that it would not do at the Flush after them.
        assert reached == {m.number for m in messages[name] if m.kind not in "BDE"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("insert into ledger values ('1_before')", "too much ['ledger (1_before)'], missing []"),
        ("delete from ledger where what = '3_after'", "missing ['ledger (3_after)']"),
        ("delete from schema_migrations where version = '1_before'", "history: "),
        ("delete from smeta.step where version = '1_before'", "done: "),
        ("drop index items_n", "catalogue: "),
        ("update pg_index set indisvalid = false where indexrelid = 'items_n'::regclass", "catalogue: "),
    ],
)
def test_damage_is_seen(stage: Stage, tmp_path: Path, damage: str, words: str) -> None:
    build = scenario("build")
    known = stage.undisturbed(build, tmp_path)
    with stage.database(known.template) as name, Proxy(stage.socket) as proxy:
        work = project(build, tmp_path / "work", stage.through(proxy, name))
        assert work.smeta("apply", "--env", "test").code == 0
        assert snapshot(stage.server, name).difference(known.ends) == ""
        dsn = stage.server.conninfo(name, "postgres").dsn
        with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
            connection.execute(damage.encode())

        assert words in snapshot(stage.server, name).difference(known.ends)


def test_a_run_that_is_over_before_the_fault_is_done(stage: Stage, tmp_path: Path) -> None:
    case = parse("all-cut-before-p999")
    assert case.point(stage.undisturbed(case.scenario, tmp_path).messages).kind == TERMINATE

    report = play(stage, case, tmp_path)

    assert report.complaints == []
    assert report.codes == [0]


@pytest.mark.parametrize("name", ["each-cut-answered-c1", "all-cut-answered-c0"])
def test_a_commit_whose_answer_is_lost_is_settled_and_the_run_goes_on(
    stage: Stage, tmp_path: Path, name: str
) -> None:
    report = play(stage, parse(name), tmp_path)

    assert report.complaints == []
    assert report.codes == [0]
    assert "the answer to COMMIT was lost, and it is committed" in report.told[0]


@pytest.mark.parametrize("name", ["each-cut-before-c1", "each-restart-before-c1"])
def test_a_commit_that_never_arrived_is_found_undone(stage: Stage, tmp_path: Path, name: str) -> None:
    report = play(stage, parse(name), tmp_path)

    assert report.complaints == []
    assert report.codes == [5, 0]  # the first migration is committed
    assert "the answer to COMMIT was lost, and it is not committed" in report.told[0]
