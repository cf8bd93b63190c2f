"""Fixtures of the whole suite: `server` and `database`, once for each PostgreSQL we can get.

    def test_something(database: TestDatabase) -> None: ...          # runs on pg18 and on pg15

    @pytest.mark.parametrize("server", ["pg18"], indirect=True)      # only on one
    @pytest.mark.needs("pgbouncer")                                  # only where that program is

What is not run for lack of something is listed at the end; SMETA_TEST_REQUIRE=pg15,… makes it a failure.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import (
    KINDS,
    TestDatabase,
    TestServer,
    fresh_database,
    is_available,
    running_server,
    stop_servers,
)
from tests.workspace import Workspace


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs(name, …): what the test needs: pg15, url, or a program; skipped and listed without it",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for need in marker.args:
            _need(need)


def pytest_unconfigure() -> None:
    stop_servers()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if (reason := reason.removeprefix("Skipped: ")).startswith("needs "):
            missing[reason, report.nodeid.partition("::")[0]] += 1
    if missing:
        terminalreporter.section("not run here")
        for (reason, file), tests in sorted(missing.items()):
            terminalreporter.write_line(f"{reason}: {file} ({tests} {'test' if tests == 1 else 'tests'})")


def _need(need: str) -> None:
    if is_available(need):
        return
    if need in os.environ.get("SMETA_TEST_REQUIRE", "").split(","):
        pytest.fail(f"needs {need}, which SMETA_TEST_REQUIRE says must be here", pytrace=False)
    pytest.skip(f"needs {need}")


@pytest.fixture(scope="session", params=KINDS)
def server(request: pytest.FixtureRequest) -> TestServer:
    """A running throw-away server."""
    _need(request.param)
    return running_server(request.param)


@pytest.fixture
def database(server: TestServer) -> Iterator[TestDatabase]:
    """A fresh database on it."""
    with fresh_database(server) as fresh:
        yield fresh


@pytest.fixture
def workspace(tmp_path: Path, database: TestDatabase) -> Workspace:
    """A project whose environment `test` is the fresh database."""
    return Workspace.at(tmp_path / "trial", database)


@pytest.fixture
def offline(tmp_path: Path) -> Workspace:
    """A project whose database cannot be reached."""
    return Workspace.at(tmp_path / "trial")
