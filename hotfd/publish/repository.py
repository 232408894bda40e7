"""What a repository does, whichever it is, and which one a name means.

A repository is read only. Its methods wait for another program, each at most until the repository's deadline:
they are called in a thread.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol
from urllib.parse import quote

from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hotfd.publish.programs import Deadline

MAX_PENDING: Final = 1000
"""Revisions that one publish catches up with; with more, the oldest are published and it is said that there are more."""

MAX_ENTRIES: Final = 10_000
"""Files that are looked at below the directory of modules."""

Kind = Literal["file", "link", "other"]
"""What an entry is."""

Relation = Literal["same", "older", "newer", "unrelated"]
"""How one revision stands to another: the same, in its past, in its future, or none of these."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a module, before it is read.

    Attributes:
        path: within the module's directory, such as ``config.toml``.
        size: bytes.
        kind: what it is; only a file is ever read, since a link can lead anywhere.
        executable: whether it may be executed.
        key: by what the repository knows it.
    """

    path: str
    size: int
    kind: Kind
    executable: bool
    key: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Who committed a revision, when, and the first line of why."""

    revision: str
    author: str
    time: float
    note: str


class Repository(Protocol):
    """A repository, and the directory in it whose directories are modules.

    All methods raise ConfigError when it cannot be read, saying what to do.

    Attributes:
        where: for people.
        deadline: when every call has to be done.
    """

    where: str
    deadline: Deadline

    def newest(self, rev: str | None = None) -> str:
        """Return the full name of a revision: of the newest, or of the one that ``rev`` names."""
        ...

    def modules(self, revision: str, only: str | None = None) -> Mapping[str, tuple[Entry, ...]]:
        """Return the files by directory at a revision; with ``only`` those of one, if it is there."""
        ...

    def read(self, revision: str, module: str, entries: Sequence[Entry]) -> dict[str, bytes]:
        """Return what is in files of one module, by path; who asks has looked at their sizes."""
        ...

    def commit(self, revision: str) -> Commit:
        """Return who made a revision."""
        ...

    def touching(self, module: str, after: str | None, until: str) -> list[str]:
        """Return the revisions that touched a module, oldest first, ``after`` excluded and ``until`` included.

        With ``after`` None the newest of them alone. At most ``MAX_PENDING + 1``, the oldest.
        """
        ...

    def ordered(self, revisions: Collection[str], until: str) -> list[str]:
        """Return revisions in the order in which they were committed, as seen from ``until``."""
        ...

    def relation(self, old: str, new: str) -> Relation:
        """Return how ``old`` stands to ``new``; ``unrelated`` also if it is not there."""
        ...


def open_repository(where: str, path: str, deadline: Deadline) -> Repository:
    """Return the git or Subversion repository that a name means.

    Args:
        where: a git repository's directory (with a working tree, or bare), a Subversion repository's directory,
            a directory that was checked out of one, or a Subversion repository's URL.
        path: the directory in it whose directories are modules; empty for the root.
        deadline: when every call has to be done.

    Raises:
        ConfigError: it is none.
    """
    # Not at the top: each of them imports this module.
    from hotfd.publish.git import Git
    from hotfd.publish.svn import Svn

    path = checked_path(path)
    if re.match(r"[a-z][a-z0-9+.-]*://", where):
        return Svn(where, path, deadline)
    kind = kind_of(where)
    if kind == "git":
        return Git(where, path, deadline)
    if kind == "svn":
        return Svn(f"file://{quote(os.path.abspath(where))}", path, deadline)
    if kind == "svn-files":
        return Svn(os.path.abspath(where), path, deadline)  # svn does not run where this process does
    raise ConfigError(
        f"{where} is neither a git nor a Subversion repository; name its directory, or the URL of a Subversion one"
    )


def kind_of(where: str) -> Literal["git", "svn", "svn-files", "files"]:
    """Return what a directory is: ``svn-files`` was checked out of one.

    Raises:
        ConfigError: there is no such directory.
    """
    if not os.path.isdir(where):
        raise ConfigError(f"there is no directory {where}")

    def has(*names: str) -> bool:
        return all(os.path.exists(os.path.join(where, name)) for name in names)

    if has(".git"):
        return "git"
    if has("HEAD", "objects", "refs"):
        return "git"
    if has("format", "db", "hooks"):
        return "svn"
    return "svn-files" if has(".svn") else "files"


def checked_path(path: str) -> str:
    """Return a path within a repository without slashes at its ends.

    Raises:
        ConfigError: it leads out of the repository.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or any(ord(char) < 32 for char in path):
        raise ConfigError(f"--path {path!r} must be a directory within the repository")
    return "/".join(parts)


def split(path: str, base: str) -> tuple[str, str] | None:
    """Return the module and the path in it of a repository's file, or None if it belongs to none."""
    if base:
        if not path.startswith(base + "/"):
            return None
        path = path[len(base) + 1 :]
    module, slash, rest = path.partition("/")
    return (module, rest) if slash and rest else None
