"""The cases that are run: a sample, all, or those that are named.

SMETA_CHAOS=all           every case
SMETA_CHAOS='ID ID …'     these
SMETA_CHAOS_SEED=7        another sample; the seed is in the tests' ids
SMETA_CHAOS_SAMPLE=500    a larger one
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cases import SAMPLE, SEED, Case, every, parse, sample
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.stage import Stage, open_stage


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    wanted = os.environ.get("SMETA_CHAOS", "")
    prefix = ""
    if wanted == "all":
        cases = _all()
    elif wanted:
        cases = [parse(name) for name in wanted.split()]
    else:
        seed = int(os.environ.get("SMETA_CHAOS_SEED", SEED))
        prefix = f"seed{seed}-"
        cases = sample(int(os.environ.get("SMETA_CHAOS_SAMPLE", SAMPLE)), seed)
    metafunc.parametrize("case", cases, ids=[f"{prefix}{case}" for case in cases])


def _all() -> list[Case]:
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stage = open_stage(stack)
        messages = {s.name: stage.undisturbed(s, Path(folder) / s.name).messages for s in SCENARIOS}
    return list(every(messages))


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """One server for all cases of this process: they come one after the other, also those that restart it."""
    with contextlib.ExitStack() as stack:
        yield open_stage(stack)
