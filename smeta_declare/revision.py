"""The project as it was at a revision of git: read from the object store, without touching the work tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from smeta_declare.errors import InvalidInput, UsageError

_LINK = "120000"  # git's mode of a symbolic link
_MOST_LINKS = 40  # as Linux follows, then it takes them for a circle


class RevisionUnknown(UsageError):
    """The revision to compare with is not there."""

    code = "revision-unknown"


class _Entry(NamedTuple):
    mode: str
    kind: str
    path: str  # from the top of the repository
    blob: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A commit, and a copy of what is taken of it, in which a directory has its place below the top as in git."""

    commit: str
    root: Path  # what stands for that directory
    _origin: Path
    _top: Path  # what stands for the top of the repository
    _prefix: str  # the directory's path in the repository

    def take(self, part: str) -> Path:
        """Copy a file, or all files of a directory, as they were; the path that it has now, if it was there.

        Links on the way are followed inside of the repository; InvalidInput where it leads out of that.
        """
        for found in _listed(self._origin, self.commit, self._followed(part), "-r"):
            if found.kind == "blob":
                self._put(found.path, self._content(found.blob), link=found.mode == _LINK)
        return self.root / part

    def _followed(self, part: str) -> str:
        """Where something really was in the repository; the links to it are copied."""
        if part.startswith("/"):
            raise _outside(part)
        done: list[str] = []
        names = [*reversed(f"{self._prefix}/{part}".split("/"))]
        links = 0
        while names:
            name = names.pop()
            if name == ".." and done:
                done.pop()
                continue
            if name == "..":
                raise _outside(part)
            if name in ("", "."):
                continue
            path = "/".join((*done, name))
            link = next(
                (entry for entry in _listed(self._origin, self.commit, path) if entry.mode == _LINK), None
            )
            if link is None:
                done.append(name)
                continue
            target = self._content(link.blob)
            links += 1
            if target.startswith(b"/") or links > _MOST_LINKS:
                raise _outside(part)
            self._put(path, target, link=True)
            names += reversed(os.fsdecode(target).split("/"))
        return "/".join(done)

    def _content(self, blob: str) -> bytes:
        return _run(self._origin, "cat-file", "blob", blob).stdout

    def _put(self, path: str, content: bytes, *, link: bool) -> None:
        place = self._top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not link:
            place.write_bytes(content)
        elif not place.is_symlink():
            place.symlink_to(os.fsdecode(content))


def _outside(part: str) -> InvalidInput:
    return InvalidInput(
        f"{part} leads out of the repository, or in a circle: git does not know what was there"
    )


@contextmanager
def checked_out(directory: Path, name: str) -> Iterator[Revision]:
    """The directory as it was at a revision, or rather at the commit where the branch began (`git merge-base`).

    What others have added since is then not taken for removed. Without a common ancestor, as in a shallow clone, it is
    the revision itself.
    """
    prefix = _git(directory, "rev-parse", "--show-prefix", wrong=f"{directory} is in no git repository")
    prefix = prefix.removesuffix("\n").removesuffix("/")
    asked = _git(
        directory,
        *("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"),
        wrong=f"git knows no revision {name!r}",
    ).strip()
    base = _run(directory, "merge-base", asked, "HEAD")
    commit = base.stdout.decode().strip() if base.returncode == 0 else asked
    with tempfile.TemporaryDirectory(prefix="smeta-revision-") as root:
        top = Path(root)
        there = top / prefix
        there.mkdir(parents=True, exist_ok=True)
        yield Revision(commit=commit, root=there, _origin=directory, _top=top, _prefix=prefix)


def _listed(root: Path, commit: str, path: str, *options: str) -> Iterator[_Entry]:
    """What a commit has at a path from the repository's top, or below it. `git archive` would obey attributes."""
    listed = _git(
        root,
        *("ls-tree", *options, "-z", "--full-tree", commit, "--", *([path] if path else [])),
        wrong=f"cannot list {commit}",
    )
    for line in filter(None, listed.split("\0")):
        what, _, found = line.partition("\t")
        mode, kind, blob = what.split()
        yield _Entry(mode, kind, found, blob)


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
