"""Whatever happens at whatever moment: the same command run again finishes, and nothing runs twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.cases import Case
from tests.chaos.stage import Stage, play


def test_the_same_command_finishes(case: Case, stage: Stage, tmp_path: Path) -> None:
    report = play(stage, case, tmp_path)

    if report.complaints:
        pytest.fail(str(report), pytrace=False)
