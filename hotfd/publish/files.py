"""A directory of files that are not committed, as a repository with one revision: to check before one commits."""

from __future__ import annotations

import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from hotfd.errors import ConfigError
from hotfd.publish.repository import MAX_ENTRIES, Commit, Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from hotfd.publish.programs import Deadline
    from hotfd.publish.repository import Kind, Relation

REVISION: Final = "files"
"""The name of the one revision."""


class Files:
    """Files as they are on disk; what git and Subversion keep for themselves is left out.

    Args:
        where: the directory.
        path: the directory of modules in it.
        deadline: not needed: a disk answers.
    """

    def __init__(self, where: str, path: str, deadline: Deadline) -> None:
        self.where = where
        self.deadline = deadline
        self._root = os.path.join(where, path) if path else where

    def newest(self, rev: str | None = None) -> str:
        """Return the name of the one revision."""
        if rev is not None:
            raise ConfigError(f"{self.where} is no repository, and has no revision {rev!r}")
        return REVISION

    def modules(self, revision: str, only: str | None = None) -> Mapping[str, tuple[Entry, ...]]:
        """Return the files by directory."""
        found = {}
        with _told():
            for name in sorted(os.listdir(self._root)):
                directory = os.path.join(self._root, name)
                if name not in {".git", ".svn"} and only in {None, name} and stat.S_ISDIR(os.lstat(directory).st_mode):
                    found[name] = tuple(sorted(self._below(directory), key=lambda entry: entry.path))
        return found

    def _below(self, directory: str) -> Iterator[Entry]:
        count = 0
        for place, directories, names in os.walk(directory, onerror=_raised):
            directories[:] = [name for name in directories if name not in {".git", ".svn"}]
            for name in names:
                full = os.path.join(place, name)
                facts = os.lstat(full)
                mode = facts.st_mode
                kind: Kind = "file" if stat.S_ISREG(mode) else "link" if stat.S_ISLNK(mode) else "other"
                count += 1
                if count > MAX_ENTRIES:
                    raise ConfigError(f"{directory} has more than {MAX_ENTRIES} files")
                path = os.path.relpath(full, directory)
                yield Entry(path, facts.st_size, kind, bool(mode & stat.S_IXUSR), full)

    def read(self, revision: str, module: str, entries: Sequence[Entry]) -> dict[str, bytes]:
        """Return what is in files, by path; of one that has grown meanwhile, as much as it had."""
        found = {}
        for entry in entries:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with _told(), open(os.open(entry.key, flags), "rb") as file:
                found[entry.path] = file.read(entry.size)
        return found

    def commit(self, revision: str) -> Commit:
        """Return what is known of what is not committed."""
        return Commit(revision, "", time.time(), "")

    def touching(self, module: str, after: str | None, until: str) -> list[str]:
        """Return the one revision."""
        return [REVISION]

    def ordered(self, revisions: Collection[str], until: str) -> list[str]:
        """Return the one revision."""
        return list(revisions)

    def relation(self, old: str, new: str) -> Relation:
        """Return that everything that was published came before."""
        return "older"


@contextmanager
def _told() -> Iterator[None]:
    """Make an error of the system one that says what cannot be read."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from None


def _raised(error: OSError) -> None:
    """Have os.walk not pass over what it cannot look into: a module would seem to be gone."""
    raise error
