"""What a branch adds, from git alone: no database is asked, and no address is needed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.workspace import Outcome, Workspace

SCHEMAS = Path(__file__).parents[2] / "schemas"
SCHEMA = json.loads((SCHEMAS / "offline.schema.json").read_text(encoding="utf-8"))


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def branched(tmp_path: Path) -> Workspace:
    """A project below the top of its repository: two migrations on `main`, and a branch that adds nothing yet."""
    git(tmp_path, "init", "-q", "-b", "main")
    project = Workspace.at(tmp_path / "db")
    del project.environ["TRIAL_URL"]  # the address: not needed
    project.migration("1_a", "create table a (id int);", "drop table a;")
    project.migration("2_b", "{% include 'part.txt' %}", "drop table b;")
    (project.root / "migrations" / "part.txt").write_text("create table b (id int);\n")
    commit(project)
    git(tmp_path, "checkout", "-q", "-b", "feature")
    return project


def commit(project: Workspace) -> str:
    git(project.root, "add", "-A")
    git(project.root, "commit", "-q", "-m", "step")
    return git(project.root, "rev-parse", "HEAD")


def take_for_base(project: Workspace) -> None:
    """What is in the work tree becomes the commit that the branch begins at."""
    git(project.root, "checkout", "-q", "main")
    commit(project)
    git(project.root, "checkout", "-q", "-B", "feature")


SINCE_MAIN = ("plan", "--offline", "--since", "main", "--env", "test")


def since(project: Workspace, *options: str, revision: str = "main") -> Outcome:
    return project.smeta("plan", "--offline", "--since", revision, "--env", "test", *options)


def document(project: Workspace, code: int = 0) -> dict[str, object]:
    done = since(project, "--format", "json")
    assert done.code == code, done.err
    jsonschema.validate(done.json, SCHEMA)
    found: dict[str, object] = done.json
    return found


def codes(project: Workspace, code: int = 0) -> list[str]:
    facts = document(project, code)["facts"]
    assert isinstance(facts, dict)
    return [finding["code"] for finding in facts["findings"]]


def test_a_branch_that_adds_nothing(branched: Workspace) -> None:
    done = since(branched, "--detailed-exitcode")

    assert (done.code, done.err) == (0, "")
    assert "test: nothing to do" in done.out
    assert f"since        main (commit {git(branched.root, 'rev-parse', '--short=12', 'main')})" in done.out


def test_what_a_branch_adds_is_shown_committed_or_not(branched: Workspace) -> None:
    branched.migration("3_c", "drop table a;", "create table a (id int);")

    done = since(branched)
    assert done.code == 0
    assert "1 to apply" in done.out
    assert "! destroys table a: rows not counted (3_c)" in done.out
    assert "create table b" not in done.out
    assert since(branched, "--detailed-exitcode").code == 2
    commit(branched)
    assert since(branched).out == done.out
    assert "drop table a" in since(branched, "--format", "sql").out
    assert "<!-- smeta-offline trial/test -->" in since(branched, "--format", "markdown").out


def test_a_migration_that_the_base_had_is_called_out_first(branched: Workspace) -> None:
    """Through its own file, or through what it includes."""
    branched.migration("3_c", "create table c (id int);")
    branched.migration("1_a", "create table a (id bigint);", "drop table a;")

    done = since(branched)

    assert done.code == 1
    assert done.err.startswith("high[base-changed]: 1_a, which main has, means something else now\n")
    assert "  ~ 1_a: the SQL means something else" in done.out
    assert "-create table a (id int);" in done.out
    assert "+create table a (id bigint);" in done.out
    assert "<!-- smeta" in since(branched, "--format", "markdown").out
    branched.migration("1_a", "create table a (id int);", "drop table a;")
    (branched.root / "migrations" / "part.txt").write_text("create table b (id int, more int);\n")
    assert "2_b, which main has, means something else now" in since(branched).err


def test_other_changes_of_the_base_are_told_for_what_they_are(branched: Workspace) -> None:
    branched.migration("1_a", "-- why\ncreate table a (id int);", "drop table a;")
    assert codes(branched) == ["base-comments"]
    branched.migration("1_a", "create table a (id int);", "drop table if exists a;")
    assert codes(branched) == ["base-rollback"]
    branched.migration("1_a", "create table a (id int);", "drop table a;", "select true;")
    assert codes(branched) == ["base-validation"]
    branched.migration("1_a", "create table a (id int);", "drop table a;")
    branched.versions.reverse()
    branched.write_manifest()
    assert codes(branched, 1) == ["base-changed"]
    branched.versions.remove("1_a")
    branched.write_manifest()
    branched.file("1_a").unlink()
    assert codes(branched, 1) == ["base-changed"]


def test_a_looser_policy_of_a_branch_is_told(branched: Workspace) -> None:
    branched.environment = "protected: true\n    require: [rollback]"
    branched.write_manifest()
    git(branched.root, "checkout", "-q", "main")
    commit(branched)
    git(branched.root, "checkout", "-q", "-B", "feature")
    branched.environment = "protected: true"
    branched.write_manifest()

    assert codes(branched) == ["policy-loosened"]


@pytest.mark.parametrize("place", ["../mig", "./migrations/.", "linked", "elsewhere/../../mig"])
def test_the_directory_of_the_base_is_found_wherever_it_is_in_the_repository(
    branched: Workspace, place: str
) -> None:
    root = branched.root
    if "migrations" not in place:
        (root / "migrations").rename(root.parent / "mig")
        (root / "linked").symlink_to("../db/through")
        (root / "through").symlink_to("../mig")
        (root / "elsewhere").mkdir()
        (root / "elsewhere" / "file").touch()
    branched.manifest.write_text(
        branched.manifest.read_text().replace("directory: migrations", f"directory: {place}")
    )
    take_for_base(branched)
    assert codes(branched) == []

    (root / place / "1_a.sql").write_text("create table a (id bigint);\n")

    assert codes(branched, 1) == ["base-changed"]


def test_a_manifest_that_is_a_link_is_compared_with_what_it_led_to(branched: Workspace) -> None:
    branched.manifest.rename(branched.root / "db.yaml")
    branched.manifest.symlink_to("db.yaml")
    take_for_base(branched)
    branched.migration("1_a", "create table a (id bigint);", "drop table a;")

    assert codes(branched, 1) == ["base-changed"]


@pytest.mark.parametrize("how", ["absolute", "absolute link", "above", "circle"])
def test_a_directory_outside_of_the_repository_is_named(
    branched: Workspace, tmp_path: Path, how: str
) -> None:
    """Its files of today would be compared with themselves."""
    here = branched.root / "migrations"
    outside = branched.root / "outside"
    match how:
        case "absolute":
            place = str(here)
        case "above":
            place = f"../../{tmp_path.name}/db/migrations"
        case "absolute link":
            place = "outside"
            outside.symlink_to(here)
        case _:
            place = "outside"
            outside.symlink_to("outside")
    manifest = branched.manifest.read_text().replace("directory: migrations", f"directory: {place}")
    branched.manifest.write_text(manifest)
    take_for_base(branched)
    if how == "circle":
        outside.unlink()
        outside.symlink_to("migrations")

    done = since(branched)

    assert (done.code, "2 to apply" in done.out) == (1, True), done.err
    told = f"high[base-unreadable]: at main: {place} leads out of the repository"
    assert done.err.startswith(told), done.err


def test_a_requirement_that_the_branch_does_not_meet_is_told_before_apply_refuses_it(
    branched: Workspace,
) -> None:
    branched.environment = "require: [rollback]"
    branched.migration("3_c", "create table c (id int);")

    done = since(branched)

    assert (done.code, "1 to apply" in done.out) == (1, True), done.err
    assert done.err.startswith(
        "high[require-unmet]: test requires a way back of every migration, and 3_c has none"
    )
    branched.migration("3_c", "create table c (id int);", "drop table c;")
    assert codes(branched) == []


def test_what_others_added_since_is_not_taken_for_removed(branched: Workspace) -> None:
    git(branched.root, "checkout", "-q", "main")
    branched.migration("2_others", "create table others (id int);", "drop table others;")
    commit(branched)
    git(branched.root, "checkout", "-q", "feature")
    branched.versions.remove("2_others")
    branched.write_manifest()

    assert codes(branched) == []


def test_a_manifest_that_was_not_there_is_told_and_all_of_it_is_new(branched: Workspace) -> None:
    """It may have been there under another name, with other migrations."""
    branched.migration("1_a", "create table a (id bigint);")
    git(branched.root, "mv", "smeta.yaml", "db.yaml")

    done = branched.smeta("--manifest", "db.yaml", "plan", "--offline", "--since", "main", "--env", "test")

    assert (done.code, "2 to apply" in done.out) == (0, True), done.err
    assert done.err.startswith(
        "medium[base-missing]: main has no db.yaml: nothing could be compared, and everything is shown as new\n"
    )


def test_an_environment_that_was_not_there_is_told_and_all_of_it_is_new(branched: Workspace) -> None:
    branched.migration("1_a", "create table a (id bigint);")
    branched.manifest.write_text(branched.manifest.read_text().replace("  test:", "  trial:"))

    done = branched.smeta("plan", "--offline", "--since", "main", "--env", "trial")

    assert (done.code, "2 to apply" in done.out) == (0, True), done.err
    assert done.err.startswith(
        "medium[base-missing]: main has no environment trial: nothing could be compared"
    )


def test_a_base_with_a_broken_manifest_does_not_stop_its_repair(branched: Workspace) -> None:
    whole = branched.manifest.read_text()
    branched.manifest.write_text(whole + "nonsense: 1\n")
    take_for_base(branched)
    branched.manifest.write_text(whole)

    done = since(branched)

    assert (done.code, "2 to apply" in done.out) == (1, True), done.err
    assert done.err.startswith(
        "high[base-unreadable]: at main: smeta.yaml:15:1: `nonsense` is no key of the manifest"
    )
    assert "smeta-revision-" not in done.err
    assert codes(branched, 1) == ["base-unreadable"]


def test_a_variable_that_only_the_base_needs_does_not_stop_the_branch(branched: Workspace) -> None:
    branched.environment = "vars: {n: '${ONLY_THERE:?set it}'}"
    branched.write_manifest()
    take_for_base(branched)
    branched.environment = "{}"
    branched.write_manifest()

    done = since(branched)

    assert (done.code, "2 to apply" in done.out) == (1, True), done.err
    assert done.err.startswith("high[base-unreadable]: at main: smeta.yaml:"), done.err
    assert "ONLY_THERE" in done.err
    assert branched.smeta(*SINCE_MAIN, environ={"ONLY_THERE": "1"}).code == 0


@pytest.mark.parametrize("order", ["lenient", "strict"])
def test_a_base_with_a_broken_migration_shows_the_repair_and_compares_the_rest(
    branched: Workspace, order: str
) -> None:
    branched.environment = f"order: {order}"
    branched.migration("1_a", "creat table a (id int);", "drop table a;")
    take_for_base(branched)
    branched.migration("1_a", "create table a (id int);", "drop table a;")
    branched.file("2_b").write_text("-- other words\n" + branched.file("2_b").read_text())

    done = since(branched)

    assert (done.code, "1 to apply" in done.out) == (1, True), done.err
    assert "create table a (id int)" in done.out
    assert "  ~ 2_b: " in done.out
    assert done.err.startswith("high[base-unreadable]: at main: migrations/1_a.sql:4:1: "), done.err
    assert "correct it there" not in done.err
    assert "creat table" not in done.out
    branched.migration("2_b", "create table b (id bigint);", "drop table b;")
    assert codes(branched, 1)[:2] == ["base-unreadable", "base-changed"]


@pytest.mark.parametrize("revision", ["nowhere", "--help", "main:db/smeta.yaml", ""])
def test_a_revision_that_is_none_is_refused(branched: Workspace, revision: str) -> None:
    done = branched.smeta("plan", "--offline", f"--since={revision}", "--env", "test")

    assert (done.code, "error[revision-unknown]: git knows no revision" in done.err) == (64, True), done.err


def test_outside_of_git_it_is_refused(tmp_path: Path) -> None:
    done = since(Workspace.at(tmp_path))

    assert (done.code, "is in no git repository" in done.err) == (64, True), done.err


@pytest.mark.parametrize(
    "options", [("--offline",), ("--since", "main"), ("--offline", "--since", "main", "--to", "1_a")]
)
def test_options_that_do_not_go_together(branched: Workspace, options: tuple[str, ...]) -> None:
    assert branched.smeta("plan", "--env", "test", *options).code == 64


def test_its_schema_says_of_the_parts_of_a_plan_what_that_of_a_plan_says() -> None:
    """Each is published whole, so the parts are written twice."""
    plan = json.loads((SCHEMAS / "plan.schema.json").read_text(encoding="utf-8"))
    assert SCHEMA["$defs"] == plan["$defs"]
    for part in ("decision", "facts"):
        ours, theirs = SCHEMA["properties"][part], plan["properties"][part]
        properties = ours["properties"]
        assert properties == {name: theirs["properties"][name] for name in properties}
        assert ours["required"] == [name for name in theirs["required"] if name in properties]


def test_it_is_no_plan_to_apply(branched: Workspace) -> None:
    branched.migration("3_c", "create table c (id int);")
    file = branched.root / "offline.json"
    file.write_text(json.dumps(document(branched)))

    refused = branched.smeta("apply", str(file))

    assert (refused.code, "error[plan-unreadable]" in refused.err) == (78, True)
    assert "smeta.offline/1" in refused.err


def test_the_work_tree_is_left_alone(branched: Workspace) -> None:
    branched.migration("3_c", "create table c (id int);")
    before = git(branched.root, "status", "--porcelain"), git(branched.root, "stash", "list")

    since(branched)

    assert (git(branched.root, "status", "--porcelain"), git(branched.root, "stash", "list")) == before
