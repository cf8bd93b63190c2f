"""The jobs to copy and our own: they parse, name what exists, and their shell does what they say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.platforms import Json, Platform
from tests.unit.test_docs import parse

ROOT = Path(__file__).parents[2]
HUB, LAB, OURS = "docs/ci/github-actions.yml", "docs/ci/gitlab-ci.yml", ".github/workflows/plan.yml"
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in (HUB, LAB, OURS)}
JOBS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
MARKER = "<!-- smeta-plan shop/staging -->"
PLAN = f"{MARKER}\n### smeta plan: 1 to apply\n\n`@everyone` $HOME 'quoted' \"twice\" & more\n"
HEAD, MERGE = "1" * 40, "2" * 40


def scripts(name: str) -> Iterator[tuple[str, str]]:
    """Every shell text of a file, by job."""
    if name == LAB:
        for job, said in JOBS[LAB].items():
            if job != "stages":
                for text in (*said.get("before_script", ()), *said.get("script", ())):
                    yield job, text
    else:
        for job, said in JOBS[name]["jobs"].items():
            for step in said["steps"]:
                if "run" in step:
                    yield job, step["run"]


SCRIPTS = [(name, job, text) for name in TEXTS for job, text in scripts(name)]
COMMANDS = sorted(
    {(name, line) for name, _, text in SCRIPTS for line in text.splitlines() if line.startswith("smeta ")}
)


def test_every_job_has_its_commands() -> None:
    shown = {(name, job): text for name, job, text in SCRIPTS if text.startswith("smeta ")}

    assert {key for key in shown if key[0] != OURS} == {
        *((HUB, job) for job in ("plan", "offline", "apply")),
        *((LAB, job) for job in ("smeta plan", "smeta plan offline", "smeta apply")),
    }
    assert [
        text for _, job, text in SCRIPTS if job in ("apply", "smeta apply") if "smeta plan -" in text
    ] == []


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_command_line_exists(name: str, line: str) -> None:
    assert parse(line), name


@pytest.mark.parametrize(("name", "job", "text"), SCRIPTS)
def test_shell_is_shell_and_takes_no_text_of_others(name: str, job: str, text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, ""), (name, job)
    assert "${{" not in text, "what GitHub fills in becomes shell: give it by env:"


@pytest.mark.parametrize("name", [HUB, OURS])
def test_actions_are_pinned_and_the_token_may_do_no_more_than_the_job_does(name: str) -> None:
    used = re.findall(r"uses: (.*)", TEXTS[name])
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    assert JOBS[name]["permissions"] == {"contents": "read"}
    for job, said in JOBS[name]["jobs"].items():
        writes = {what for what, how in said.get("permissions", {}).items() if how != "read"}
        assert writes == ({"pull-requests"} if job == "plan" else set())
        for step in said["steps"]:
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_two_applies_never_run_at_once_and_none_is_cut_off() -> None:
    hub = JOBS[HUB]["jobs"]["apply"]["concurrency"]
    assert (hub["cancel-in-progress"], "${{" in hub["group"]) == (False, False)
    lab = JOBS[LAB]["smeta apply"]
    assert (lab["interruptible"], "$" in lab["resource_group"]) == (False, False)


def test_a_job_without_credentials_has_none() -> None:
    assert "secrets." not in json.dumps(JOBS[HUB]["jobs"]["offline"])
    assert "secrets." not in json.dumps({**JOBS[HUB], "jobs": None})
    assert "secrets." not in TEXTS[OURS]


def test_a_plan_is_named_by_the_commit_that_is_reviewed() -> None:
    uploads = [
        step["with"] for step in JOBS[HUB]["jobs"]["plan"]["steps"] if "upload" in step.get("uses", "")
    ]
    assert [upload["name"] for upload in uploads] == [
        "staging.plan-${{ github.event.pull_request.head.sha }}"
    ]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """A plan to comment, where a job has made it."""
    (tmp_path / "plan.md").write_text(PLAN)
    return Platform.at(tmp_path)


# GitHub


def step(name: str, job: str, begins: str) -> dict[str, Json]:
    found: list[dict[str, Json]] = [
        s for s in JOBS[name]["jobs"][job]["steps"] if s.get("name", "").startswith(begins)
    ]
    assert len(found) == 1
    assert found[0]["shell"] == "bash"  # with pipefail, as Platform.run has it
    assert found[0]["env"]["GH_TOKEN"] == "${{ github.token }}"
    return found[0]


COMMENT = step(HUB, "plan", "Put the plan")
COMMENTS = "repos/acme/shop/issues/7/comments"


@pytest.fixture
def hub(platform: Platform) -> Platform:
    """A pull request, number 7."""
    platform.environ = {
        "GITHUB_REPOSITORY": "acme/shop",
        "GITHUB_SHA": MERGE,
        "GITHUB_WORKFLOW": "smeta",
        "NUMBER": "7",
        "AUTHOR": COMMENT["env"]["AUTHOR"],
    }
    return platform


def by(login: str, number: int, body: str) -> dict[str, Json]:
    return {"id": number, "user": {"login": login}, "body": body}


BOT = "github-actions[bot]"
NOT_OURS = [
    by("mallory", 1, f"{MARKER}\n### smeta plan: nothing to see here"),
    by(BOT, 2, f"as said above:\n\n{MARKER}"),
    by(BOT, 3, "<!-- smeta-plan shop/staging-2 -->\n### another environment"),
    by(BOT, 4, "coverage: 97 %"),
]


def test_our_own_job_comments_by_the_same_shell() -> None:
    ours = step(OURS, "plan", "Put the plan")

    assert {key: ours[key] for key in ("env", "run", "shell")} == {
        key: COMMENT[key] for key in ("env", "run", "shell")
    }


@pytest.mark.needs("jq")
@pytest.mark.parametrize("there", [[[]], [NOT_OURS], [NOT_OURS, NOT_OURS]], ids=["none", "similar", "pages"])
def test_the_first_plan_is_a_new_comment(hub: Platform, there: Json) -> None:
    hub.answers(f"{COMMENTS}?per_page=100", *there)

    done = hub.run(COMMENT["run"])

    assert (done.returncode, done.stderr) == (0, "")
    assert hub.told == [["POST", COMMENTS, PLAN]]


@pytest.mark.needs("jq")
def test_the_next_plan_takes_the_place_of_the_first_of_ours(hub: Platform) -> None:
    ours = [by(BOT, number, f"{MARKER}\n### an older plan") for number in (50, 51)]
    hub.answers(f"{COMMENTS}?per_page=100", NOT_OURS, [*NOT_OURS, *ours])

    done = hub.run(COMMENT["run"])

    assert (done.returncode, done.stderr) == (0, "")
    assert hub.told == [["PATCH", "repos/acme/shop/issues/comments/50", PLAN]]


@pytest.mark.needs("jq")
@pytest.mark.parametrize("text", ["", "error[history-foreign]\n", f"text before {MARKER}\n"])
def test_what_is_no_plan_is_not_commented(hub: Platform, text: str) -> None:
    hub.answers(f"{COMMENTS}?per_page=100", [by(BOT, 4, "coverage: 97 %")])
    (hub.root / "plan.md").write_text(text)

    assert hub.run(COMMENT["run"]).returncode != 0
    assert hub.told == []


def test_nothing_is_commented_where_the_comments_cannot_be_read(hub: Platform) -> None:
    hub.answers("something else", [])

    assert hub.run(COMMENT["run"]).returncode != 0
    assert hub.told == []


FETCH = step(HUB, "apply", "Fetch the plan")
PULLS = f"repos/acme/shop/commits/{MERGE}/pulls"


def pull(merged: str | None, head: str = HEAD, at: str | None = "2026-01-01T00:00:00Z") -> dict[str, Json]:
    return {"merged_at": at, "merge_commit_sha": merged, "head": {"sha": head}}


@pytest.mark.needs("jq")
def test_what_is_applied_is_the_plan_of_the_commit_that_was_merged(hub: Platform) -> None:
    hub.answers(PULLS, [pull("3" * 40, "4" * 40), pull(MERGE), pull(MERGE, "5" * 40, at=None)])
    hub.answers(f"runs of smeta for {HEAD}", 90, 89)
    hub.answers(f"artifact staging.plan-{HEAD} of 90", *b"the plan")

    done = hub.run(FETCH["run"])

    assert (done.returncode, done.stderr) == (0, "")
    assert (hub.root / "staging.plan.json").read_text() == "the plan"


@pytest.mark.needs("jq")
@pytest.mark.parametrize(
    ("pulls", "runs", "said"),
    [
        ([], [90], f"::error::{MERGE} is no merge of a pull request"),
        ([pull("3" * 40)], [90], "is no merge of a pull request"),
        ([pull(MERGE, at=None)], [90], "is no merge of a pull request"),
        ([pull(MERGE)], [], f"::error::no run of smeta has planned {HEAD}"),
        ([pull(MERGE)], [90], ""),  # the run has no such artifact: that of a fork
    ],
)
def test_without_a_reviewed_plan_nothing_is_applied(
    hub: Platform, pulls: Json, runs: Json, said: str
) -> None:
    hub.answers(PULLS, pulls)
    hub.answers(f"runs of smeta for {HEAD}", *runs)

    done = hub.run(FETCH["run"])

    assert done.returncode != 0
    assert said in done.stdout
    assert not (hub.root / "staging.plan.json").exists()


# GitLab


API = "https://lab.example/api/v4"
NOTES = f"{API}/projects/3/merge_requests/7/notes"


@pytest.fixture
def lab(platform: Platform) -> Platform:
    """A merge request, number 7, of project 3."""
    platform.environ = {
        "CI_API_V4_URL": API,
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "7",
        "CI_COMMIT_SHA": MERGE,
        "SMETA_API_TOKEN": "token",
    }
    platform.answers(f"{API}/user", {"id": 40})
    return platform


def lab_script(job: str) -> str:
    """What a job does between installing smeta and running it."""
    shell: list[str] = [*JOBS[LAB][".smeta"]["before_script"], *JOBS[LAB][job]["script"]]
    return "\n".join(text for text in shell if not text.startswith(("pip ", "smeta ")))


def note(author: int, number: int, body: str) -> dict[str, Json]:
    return {"id": number, "author": {"id": author}, "body": body}


FOREIGN_NOTES = [
    note(41, 1, f"{MARKER}\n### smeta plan: nothing to see here"),
    note(40, 2, f"as said above:\n\n{MARKER}"),
    note(40, 3, "<!-- smeta-plan shop/staging-2 -->\n### another environment"),
]


@pytest.mark.parametrize("pages", [[], [FOREIGN_NOTES], [FOREIGN_NOTES, FOREIGN_NOTES]])
def test_the_first_plan_is_a_new_note(lab: Platform, pages: Json) -> None:
    lab.answers(NOTES, *pages)

    done = lab.run(lab_script("smeta plan"))

    assert (done.returncode, done.stderr) == (0, "")
    assert lab.told == [["POST", NOTES, PLAN]]


def test_the_next_plan_takes_the_place_of_the_first_note_of_ours(lab: Platform) -> None:
    ours = [note(40, number, f"{MARKER}\n### an older plan") for number in (50, 51)]
    lab.answers(NOTES, FOREIGN_NOTES, [*FOREIGN_NOTES, *ours])

    done = lab.run(lab_script("smeta plan"))

    assert (done.returncode, done.stderr) == (0, "")
    assert lab.told == [["PUT", f"{NOTES}/50", PLAN]]


def test_what_is_no_plan_is_no_note(lab: Platform) -> None:
    lab.answers(NOTES, [note(40, 4, "coverage: 97 %")])
    (lab.root / "plan.md").write_text("")

    assert lab.run(lab_script("smeta plan")).returncode != 0
    assert lab.told == []


PROJECT = f"{API}/projects/3"


def merged(**other: Json) -> dict[str, Json]:
    usual = {"iid": 7, "state": "merged", "sha": HEAD, "merge_commit_sha": MERGE, "squash_commit_sha": None}
    return {**usual, **other}


def pipelines(lab: Platform, *found: Json) -> None:
    lab.answers(f"{PROJECT}/merge_requests/7/pipelines", list(found))
    lab.answers(f"{PROJECT}/pipelines/90/jobs", [{"id": 8, "name": "lint"}, {"id": 9, "name": "smeta plan"}])
    lab.answers(f"{PROJECT}/jobs/9/artifacts/staging.plan.json", *b"the plan")


REF = "refs/merge-requests/7/head"
BRANCH = {"id": 70, "sha": HEAD, "ref": "feature"}
OLDER = {"id": 71, "sha": "4" * 40, "ref": REF}
PLANNED = {"id": 90, "sha": HEAD, "ref": REF}


@pytest.mark.parametrize(
    "request_",
    [
        merged(),
        merged(merge_commit_sha="6" * 40, squash_commit_sha=MERGE),
        merged(merge_commit_sha=None, sha=HEAD, squash_commit_sha=MERGE),
    ],
    ids=["merge", "squash-and-merge", "squash"],
)
def test_gitlab_applies_the_plan_of_the_commit_that_was_merged(lab: Platform, request_: Json) -> None:
    lab.answers(
        f"{PROJECT}/repository/commits/{MERGE}/merge_requests", [merged(state="closed", iid=6), request_]
    )
    pipelines(lab, BRANCH, OLDER, PLANNED)

    done = lab.run(lab_script("smeta apply"))

    assert (done.returncode, done.stderr) == (0, "")
    assert (lab.root / "staging.plan.json").read_text() == "the plan"


def test_gitlab_knows_a_fast_forward(lab: Platform) -> None:
    lab.environ["CI_COMMIT_SHA"] = HEAD
    lab.answers(f"{PROJECT}/repository/commits/{HEAD}/merge_requests", [merged(merge_commit_sha=None)])
    pipelines(lab, PLANNED)

    assert lab.run(lab_script("smeta apply")).returncode == 0
    assert (lab.root / "staging.plan.json").read_text() == "the plan"


@pytest.mark.parametrize(
    ("requests", "planned", "said"),
    [
        ([], [PLANNED], f"{MERGE} is no merge of a merge request"),
        ([merged(state="opened")], [PLANNED], "is no merge of a merge request"),
        ([merged(merge_commit_sha="6" * 40)], [PLANNED], "is no merge of a merge request"),
        ([merged()], [BRANCH, OLDER], f"no pipeline of merge request 7 has planned {HEAD}"),
    ],
)
def test_gitlab_applies_nothing_without_a_reviewed_plan(
    lab: Platform, requests: Json, planned: Json, said: str
) -> None:
    lab.answers(f"{PROJECT}/repository/commits/{MERGE}/merge_requests", requests)
    pipelines(lab, *planned)

    done = lab.run(lab_script("smeta apply"))

    assert done.returncode == 1
    assert said in done.stdout
    assert not (lab.root / "staging.plan.json").exists()
