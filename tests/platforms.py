"""GitHub and GitLab as the shell of a job meets them: a `gh` and a `curl` that answer as the APIs do.

An option, a place or a value that they do not know is an error, so that a misspelled one fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = Any


@dataclass
class Platform:
    """A directory with `gh` and `curl`, what they answer with, and what they were told."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, root: Path) -> Platform:
        """Both programs in a directory, which is where scripts run."""
        python = f'#!/bin/sh\nexec {sys.executable} -IS "$@"\n'  # as it starts fastest
        (root / "bin").mkdir()
        for name, body in (("gh", _PLATFORM + _GH), ("curl", _PLATFORM + _CURL), ("python", python)):
            (root / "bin" / name).write_text(body)
            (root / "bin" / name).chmod(0o755)
        return cls(root)

    def answers(self, url: str, *pages: Json) -> None:
        """What a list, or one thing, is: page by page."""
        known = json.loads(self._answers.read_text()) if self._answers.exists() else {}
        self._answers.write_text(json.dumps({**known, url: pages}))

    @property
    def _answers(self) -> Path:
        return self.root / "answers.json"

    @property
    def told(self) -> list[list[str]]:
        """Everything that was written: method, place, text."""
        log = self.root / "told.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a step as the runners do: stopped at the first failure, also within a pipe."""
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.root,
            env={"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", **self.environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


_PLATFORM = f"""\
#!{sys.executable} -IS
import json, os, re, subprocess, sys
from pathlib import Path

def known(place):
    answers = json.loads(Path("answers.json").read_text())
    if place not in answers:
        sys.exit(f"404: {{place}}")
    return answers[place]

def told(*what):
    with Path("told.jsonl").open("a") as log:
        log.write(json.dumps(what) + "\\n")

def take(words, *, flags=(), values=()):
    found, rest = {{}}, []
    words = iter(words)
    for word in words:
        if word in values:
            found[word] = next(words)
        elif word in flags:
            found[word] = True
        elif word.startswith("-"):
            sys.exit(f"unknown option {{word}}")
        else:
            rest.append(word)
    return found, rest

def only(what, wanted):
    if what != wanted:
        sys.exit(f"{{what}} is not {{wanted}}")

"""
_GH = """
def filtered(page, expression):
    jq = subprocess.run(["jq", "-r", expression], input=json.dumps(page), text=True, stdout=subprocess.PIPE, check=True)
    sys.stdout.write(jq.stdout)

match sys.argv[1:]:
    case ["api", *words]:
        options, (place,) = take(words, flags=("--paginate", "--silent"), values=("--jq", "-X", "-F"))
        if "-X" in options:
            name, _, file = options["-F"].partition("=@")
            only(name, "body")
            told(options["-X"], place, Path(file).read_text())
        else:
            pages = known(place)
            for page in pages if "--paginate" in options else pages[:1]:
                filtered(page, options["--jq"])
    case ["run", "list", *words]:
        options, _ = take(words, values=("--workflow", "--event", "--commit", "--status", "--limit", "--json", "--jq"))
        only(options["--event"], "pull_request")
        only(options["--status"], "success")
        only(options["--json"], "databaseId")
        runs = known(f"runs of {options['--workflow']} for {options['--commit']}")
        filtered([{"databaseId": run} for run in runs][: int(options["--limit"])], options["--jq"])
    case ["run", "download", run, "--name", name]:
        Path("staging.plan.json").write_bytes(bytes(known(f"artifact {name} of {run}")))
    case _:
        sys.exit(f"unknown: {sys.argv[1:]}")
"""
_CURL = """
options, (url,) = take(
    sys.argv[1:],
    flags=("--silent", "--show-error", "--fail", "--location", "--globoff"),
    values=("--header", "--output", "--request", "--data-urlencode"),
)
only(options["--header"], "Authorization: Bearer token")
only("--fail" in options, True)
page = re.search(r"&page=([0-9]+)$", url)
place = url.partition("?")[0]
if "--request" in options:
    name, _, file = options["--data-urlencode"].partition("@")
    only(name, "body")
    told(options["--request"], place, Path(file).read_text())
elif "artifacts" in place:
    Path(options["--output"]).write_bytes(bytes(known(place)))
else:
    pages = known(place)
    number = int(page[1]) if page else 1
    print(json.dumps(pages[number - 1] if number <= len(pages) else []))
"""
