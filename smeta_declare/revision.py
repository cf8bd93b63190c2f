"""The project as it was at a revision of git: read from the object store, without touching the work tree."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smeta_declare.errors import UsageError

_LINK = "120000"  # git's mode of a symbolic link


class RevisionUnknown(UsageError):
    """The revision to compare with is not there."""

    code = "revision-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A commit, and a directory for the files of another directory as they were in it."""

    commit: str
    root: Path  # what stands for that directory
    _origin: Path
    _prefix: str  # the directory's path in the repository

    def take(self, part: str) -> Path:
        """Copy a file, or all files of a directory, as they were; the path that it has now, if it was there."""
        for mode, path, blob in _files(self._origin, self.commit, self._prefix + part):
            place = self.root / path.removeprefix(self._prefix)
            place.parent.mkdir(parents=True, exist_ok=True)
            content = _run(self._origin, "cat-file", "blob", blob).stdout
            if mode == _LINK:
                place.symlink_to(content.decode())
            else:
                place.write_bytes(content)
        return self.root / part


@contextmanager
def checked_out(directory: Path, name: str) -> Iterator[Revision]:
    """The directory as it was at a revision, or rather at the commit where the branch began (`git merge-base`).

    What others have added since is then not taken for removed. Without a common ancestor, as in a shallow clone, it is
    the revision itself.
    """
    prefix = _git(directory, "rev-parse", "--show-prefix", wrong=f"{directory} is in no git repository")
    asked = _git(
        directory,
        *("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"),
        wrong=f"git knows no revision {name!r}",
    ).strip()
    base = _run(directory, "merge-base", asked, "HEAD")
    commit = base.stdout.decode().strip() if base.returncode == 0 else asked
    with tempfile.TemporaryDirectory(prefix="smeta-revision-") as root:
        yield Revision(commit=commit, root=Path(root), _origin=directory, _prefix=prefix.rstrip("\n"))


def _files(root: Path, commit: str, path: str) -> Iterator[tuple[str, str, str]]:
    """Mode, path from the repository's top, and object of each file. `git archive` would obey attributes."""
    listed = _git(
        root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", path, wrong=f"cannot list {commit}"
    )
    for line in filter(None, listed.split("\0")):
        what, _, path = line.partition("\t")
        mode, kind, blob = what.split()
        if kind == "blob":
            yield mode, path, blob


def _git(root: Path, *arguments: str, wrong: str) -> str:
    done = _run(root, *arguments)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise RevisionUnknown(
            wrong,
            detail=[said] if said else [],
            hint="name a commit, a branch or a tag that this clone has; a CI job may have to fetch it first",
        )
    return done.stdout.decode(errors="surrogateescape")


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git")
    if git is None:
        raise RevisionUnknown("there is no git here", hint="install git")
    return subprocess.run([git, *arguments], cwd=directory, capture_output=True, check=False)
