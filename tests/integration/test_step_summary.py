"""The plan in the file that GitHub shows beside a step: appended by `plan` and `apply`, never a reason to fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.workspace import Workspace

pytestmark = pytest.mark.parametrize("server", ["pg18"], indirect=True)
MARKER = "<!-- smeta-plan trial/test -->\n"


@pytest.fixture
def summary(workspace: Workspace) -> Path:
    """The file of the step; one migration is pending."""
    file = workspace.root.parent / "summary.md"
    workspace.environ["GITHUB_STEP_SUMMARY"] = str(file)
    workspace.migration("1_a", "create table a (id int);", "drop table a;")
    return file


def test_a_plan_is_appended_as_the_comment_of_the_pull_request(workspace: Workspace, summary: Path) -> None:
    summary.write_text("### tests: no end of line")

    comment = workspace.smeta("plan", "--env", "test", "--format", "markdown", "--out", "plan.json").out
    assert comment.startswith(MARKER)
    assert summary.read_text() == f"### tests: no end of line\n{comment}"

    assert workspace.smeta("apply", "plan.json").code == 0
    assert summary.read_text() == f"### tests: no end of line\n{comment}\n{comment}"


def test_apply_and_rollback_tell_what_they_run(workspace: Workspace, summary: Path) -> None:
    assert workspace.smeta("apply", "--env", "test").code == 0
    assert summary.read_text().startswith(MARKER)
    assert "create table a (id int)" in summary.read_text()
    summary.unlink()

    assert workspace.smeta("rollback", "--env", "test").code == 0
    assert "drop table a" in summary.read_text()


def test_a_run_that_fails_has_told_what_it_was_about_to_do(workspace: Workspace, summary: Path) -> None:
    workspace.migration("2_b", "select 1 / 0;")

    assert workspace.smeta("apply", "--env", "test").code == 1
    assert "select 1 / 0" in summary.read_text()


def test_nothing_is_told_of_nothing_of_a_file_shown_and_of_a_run_without_consent(
    workspace: Workspace, summary: Path
) -> None:
    plan = ["plan", "--env", "test", "--out", "plan.json"]
    assert workspace.smeta(*plan, environ={"GITHUB_STEP_SUMMARY": ""}).code == 0
    assert workspace.smeta("show", "plan.json").code == 0
    assert not summary.exists()

    assert workspace.smeta("apply", "plan.json", environ={"GITHUB_STEP_SUMMARY": ""}).code == 0
    for verb in ("plan", "apply"):
        assert workspace.smeta(verb, "--env", "test").code == 0
    assert not summary.exists()

    workspace.environment = "protected: true"
    workspace.migration("2_b", "create table b (id int);")
    assert workspace.smeta(*plan, environ={"GITHUB_STEP_SUMMARY": ""}).code == 0
    assert "error[consent-missing]" in workspace.smeta("apply", "plan.json").err
    assert not summary.exists()


def test_a_file_that_cannot_be_written_is_a_warning(workspace: Workspace, summary: Path) -> None:
    summary.mkdir()

    done = workspace.smeta("apply", "--env", "test")

    assert done.code == 0
    assert f"warning: the step summary {summary} is not written: Is a directory" in done.err
    assert workspace.tables() == {"a"}


def test_a_full_disk_is_a_warning(workspace: Workspace, summary: Path) -> None:
    workspace.environ["GITHUB_STEP_SUMMARY"] = "/dev/full"

    done = workspace.smeta("plan", "--env", "test")

    assert done.code == 0
    assert "warning: the step summary /dev/full is not written: No space left on device" in done.err


def test_a_secret_is_masked_in_it(workspace: Workspace, summary: Path) -> None:
    canary = "canary-5d20c4b1"
    workspace.environ["TRIAL_SECRET"] = canary
    workspace.environment = "vars: {key: {secret: TRIAL_SECRET}}"
    # Late-bound it is in no plan; who writes it into the SQL by mistake is not told on, either.
    workspace.migration("2_b", f"select {{{{ key | literal }}}}, '{canary}';")

    for verb in ("plan", "apply"):
        assert workspace.smeta(verb, "--env", "test").code == 0

    assert summary.read_text().count("2_b") >= 2
    assert canary not in summary.read_text()
    assert "«secret»" in summary.read_text()


def test_what_a_branch_adds_is_told_and_what_it_changes(workspace: Workspace, summary: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
        subprocess.run([*git, *arguments], cwd=workspace.root, check=True)
    offline = ["plan", "--offline", "--since", "main", "--env", "test"]
    assert workspace.smeta(*offline).code == 0
    assert not summary.exists()

    workspace.migration("1_a", "create table other (id int);", "drop table other;")
    assert workspace.smeta(*offline).code == 1
    assert "`base-changed`" in summary.read_text()

    workspace.migration("2_b", "create table b (id int);")
    assert workspace.smeta(*offline).code == 1
    assert "create table b (id int)" in summary.read_text()
