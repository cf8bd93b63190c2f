"""The wheel, built from what is under version control and installed into an empty environment, works by itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program without our own Python's paths and settings."""
    environ = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SMETA_", "PG", "VIRTUAL_ENV"))
    }
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a clean copy of the tree: files that git does not know are not in it."""
    clean = tmp_path_factory.mktemp("clean")
    listed = run("git", "ls-files", "-z", cwd=CHECKOUT)
    assert listed.returncode == 0, listed.stderr
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, clean / name)
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=clean)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (clean / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`smeta`, installed with its dependencies and nothing else."""
    environment = tmp_path_factory.mktemp("venv")
    for command in (
        (sys.executable, "-m", "venv", environment),
        (environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel),
    ):
        done = run(*command, cwd=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    return environment / "bin" / "smeta"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project outside of the checkout."""
    shutil.copyfile(CHECKOUT / "smeta.yaml", tmp_path / "smeta.yaml")
    shutil.copytree(CHECKOUT / "migrations", tmp_path / "migrations")
    return tmp_path


def test_everything_that_is_read_at_run_time_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    clean = wheel.parents[1]
    schemas = {f"smeta_declare/schemas/{path.name}" for path in (clean / "schemas").glob("*.json")}
    texts = {str(path.relative_to(clean)) for path in (clean / "smeta_declare").rglob("*.sql")}
    assert schemas
    assert texts
    assert schemas | texts <= names
    assert not [n for n in names if n.startswith(("tests/", "migrations/", "backups/", "docs/"))]


def test_the_installed_command_works_in_a_project_elsewhere(installed: Path, project: Path) -> None:
    validated = run(installed, "validate", cwd=project)
    assert validated.returncode == 0, validated.stderr
    assert validated.stdout.startswith("valid\n")
    assert "dev: 6 migrations" in validated.stdout

    effective = run(installed, "config", "--env", "dev", cwd=project)
    assert effective.returncode == 0, effective.stderr
    assert "embedded" in effective.stdout

    printed = run(installed, "schema", cwd=project)
    assert json.loads(printed.stdout) == json.loads((CHECKOUT / "schemas/manifest.schema.json").read_text())

    rendered = run(installed, "render", "--env", "dev", cwd=project)
    assert "create table materials" in rendered.stdout

    helped = run(installed, "--help", cwd=project)
    assert helped.returncode == 0
    assert "apply" in helped.stdout
