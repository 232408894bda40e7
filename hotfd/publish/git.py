"""git repositories, by the program ``git``: bare ones and working ones; their commits, never their working files."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Final

from hotfd.errors import ConfigError
from hotfd.publish import programs
from hotfd.publish.faults import short
from hotfd.publish.repository import MAX_ENTRIES, MAX_PENDING, Commit, Entry, split

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hotfd.publish.programs import Deadline
    from hotfd.publish.repository import Kind, Relation

CALL_LIMIT: Final = 30.0
"""Seconds for one call of git: a large repository on a slow disk."""

HOOK_VARIABLES: Final = (
    "GIT_QUARANTINE_PATH",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_INDEX_FILE",
)
"""With these git tells a hook where the objects are that are not yet in the repository (githooks(5))."""

_REVISION: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Git:
    """A git repository.

    History is the line of first parents: what was merged counts as one revision, when it was merged.

    Args:
        where: the repository's directory; of a bare one, or a working tree's.
        path: the directory of modules in it.
        deadline: when every call has to be done.
        branch: what ``newest`` means; None for what is checked out.
    """

    def __init__(self, where: str, path: str, deadline: Deadline, branch: str | None = None) -> None:
        self.where = where
        self.deadline = deadline
        self._path = path
        self._branch = branch
        self._program = programs.find("git", "a git repository")
        self._env = programs.environment(
            {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1"} | _of_the_hook()
        )
        self.directory = os.path.abspath(where)
        self.directory = self.text("-C", self.directory, "rev-parse", "--absolute-git-dir")

    def git(self, *arguments: str, data: bytes = b"", statuses: Sequence[int] = (0,)) -> tuple[int, bytes]:
        """Run git in the repository; return its exit status and what it says."""
        place = () if arguments[0] == "-C" else (f"--git-dir={self.directory}",)
        try:
            # Names of paths are taken as they are: a module's directory is no pattern.
            return programs.run(
                [self._program, "--literal-pathspecs", *place, *arguments],
                self.deadline,
                limit=CALL_LIMIT,
                env=self._env,
                data=data,
                statuses=statuses,
            )
        except programs.TooLate:
            raise
        except ConfigError as error:
            hint = ""
            if "dubious ownership" in str(error):
                hint = (
                    f". If you trust its owner:  git config --global --add safe.directory {self.directory}  (as the user "
                    "who publishes)"
                )
            raise ConfigError(f"{self.where}: {programs.essence(error, 'fatal: ', 'error: ')}{hint}") from None

    def text(self, *arguments: str) -> str:
        """Run git in the repository, and return the line that it says."""
        return self.git(*arguments)[1].decode(errors="surrogateescape").strip()

    def newest(self, rev: str | None = None) -> str:
        """Return the id of a commit: the branch's newest, or the one that ``rev`` names."""
        name = rev or (f"refs/heads/{self._branch}" if self._branch else "HEAD")
        status, found = self.git(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", statuses=(0, 1, 128)
        )
        if status:
            what = f"no commit {name!r}" if rev or self._branch else "no commit yet"
            raise ConfigError(f"{self.where}: there is {what}")
        return found.decode().strip()

    def modules(self, revision: str, only: str | None = None) -> Mapping[str, tuple[Entry, ...]]:
        """Return the files by directory at a commit, or a tree."""
        under = "/".join(part for part in (self._path, only) if part)
        where = ("--", f"{under}/") if under else ()
        _, listing = self.git("ls-tree", "-r", "-l", "-z", "--full-tree", revision, *where)
        found: dict[str, list[Entry]] = {}
        lines = listing.split(b"\0")[:-1]
        if len(lines) > MAX_ENTRIES:
            raise ConfigError(f"{self.where}: more than {MAX_ENTRIES} files; name the directory of modules with --path")
        for line in lines:
            facts, _, name = line.partition(b"\t")
            mode, kind, key, size = facts.decode().split()
            place = split(name.decode(errors="surrogateescape"), self._path)
            if place is None:
                continue
            what: Kind = "link" if mode == "120000" else "file" if kind == "blob" else "other"
            length = int(size) if size != "-" else 0
            found.setdefault(place[0], []).append(Entry(place[1], length, what, mode == "100755", key))
        return {module: tuple(entries) for module, entries in sorted(found.items())}

    def read(self, revision: str, module: str, entries: Sequence[Entry]) -> dict[str, bytes]:
        """Return what is in files, by path."""
        if not entries:
            return {}
        _, data = self.git("cat-file", "--batch", data="".join(f"{entry.key}\n" for entry in entries).encode())
        found, position = {}, 0
        for entry in entries:
            end = data.index(b"\n", position)  # "<id> blob <size>" or "<id> missing", git-cat-file(1)
            words = data[position:end].split()
            if len(words) != 3:
                raise ConfigError(f"{self.where}: {module}/{entry.path} is missing or damaged at {short(revision)}")
            size = int(words[2])
            found[entry.path] = data[end + 1 : end + 1 + size]
            position = end + 1 + size + 1
        return found

    def commit(self, revision: str) -> Commit:
        """Return who made a commit: the author, the time of the commit, the first line of its message."""
        _, said = self.git("log", "-1", "--no-show-signature", "--format=%an <%ae>%n%ct%n%s", revision)
        author, when, note = said.decode(errors="replace").split("\n", 2)
        return Commit(revision, author, float(when), note.strip("\n"))

    def touching(self, module: str, after: str | None, until: str) -> list[str]:
        """Return the commits that touched a module, oldest first."""
        under = "/".join(part for part in (self._path, module) if part)
        if after is None:
            return self._line("-n", "1", until, "--", under)
        touching = self._line(until, f"^{after}", "--", under)
        whole = self.text("rev-list", "--first-parent", "--parents", until, f"^{after}").splitlines()[::-1]
        line = [words.split()[0] for words in whole]
        if not whole or whole[0].split()[1:2] == [after]:
            return touching[: MAX_PENDING + 1]
        # What was published last has been merged into a line that does not hold it. The commits of that line before
        # the merge do not hold it either: they would take it back. The merge is what follows it, with all that it brings.
        since = set(self.text("rev-list", "--ancestry-path", f"{after}..{until}").split())
        following = [name for name in line if name in since]
        return [name for name in following if name in {*touching, *following[:1]}][: MAX_PENDING + 1]

    def _line(self, *which: str) -> list[str]:
        """Return commits of the line of first parents, oldest first."""
        return self.text("rev-list", "--first-parent", *which).split()[::-1]

    def ordered(self, revisions: Collection[str], until: str) -> list[str]:
        """Return commits in the order of the line of first parents."""
        wanted = set(revisions)
        if len(wanted) < 2:
            return list(wanted)
        _, base = self.git("merge-base", "--octopus", *sorted(wanted), statuses=(0, 1))
        since = base.decode().split()
        before = [f"^{name}^@" for name in since] if since else []
        _, said = self.git("rev-list", "--first-parent", "--reverse", until, *before)
        line = [name for name in said.decode().split() if name in wanted]
        return [*sorted(wanted - set(line)), *line]

    def relation(self, old: str, new: str) -> Relation:
        """Return how one commit stands to another."""
        if old == new:
            return "same"
        if _REVISION.fullmatch(old) and not self.git("cat-file", "-e", f"{old}^{{commit}}", statuses=(0, 1, 128))[0]:
            if not self.git("merge-base", "--is-ancestor", old, new, statuses=(0, 1))[0]:
                return "older"
            if not self.git("merge-base", "--is-ancestor", new, old, statuses=(0, 1))[0]:
                return "newer"
        if self.text("rev-parse", "--is-shallow-repository") == "true":
            raise ConfigError(
                f"{self.where} is a shallow clone, and does not show how {short(old)}, from which the last release was "
                f"made, leads to {short(new)}; fetch the rest with git fetch --unshallow"
            )
        return "unrelated"


def _of_the_hook() -> dict[str, str]:
    """Return what git has told this process if it is a hook, without paths that depend on where the hook runs."""
    return {
        name: ":".join(os.path.abspath(part) for part in os.environ[name].split(":"))
        for name in HOOK_VARIABLES
        if os.environ.get(name)
    }


class GitIndex(Git):
    """What is about to be committed, as a commit that follows the last one."""

    def __init__(self, where: str, path: str, deadline: Deadline) -> None:
        super().__init__(where, path, deadline)
        self._tree = self.text("write-tree")
        status, found = self.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", statuses=(0, 1, 128))
        self._head = None if status else found.decode().strip()

    def newest(self, rev: str | None = None) -> str:
        """Return the id of the tree that the index is."""
        return self._tree

    def commit(self, revision: str) -> Commit:
        """Return what is known of a commit that is not made yet."""
        return Commit(revision, "", time.time(), "") if revision == self._tree else super().commit(revision)

    def touching(self, module: str, after: str | None, until: str) -> list[str]:
        """Return the commits that touched a module, and the tree if it does."""
        if after is None or self._head is None:
            return [self._tree]
        under = "/".join(part for part in (self._path, module) if part)
        touched = self.git("diff-tree", "--quiet", self._head, self._tree, "--", under, statuses=(0, 1))[0]
        return super().touching(module, after, self._head) + ([self._tree] if touched else [])

    def ordered(self, revisions: Collection[str], until: str) -> list[str]:
        """Return commits in the order of the line of first parents, and the tree after them."""
        earlier = [name for name in revisions if name != self._tree]
        line = super().ordered(earlier, self._head) if self._head is not None else earlier
        return [*line, self._tree] if self._tree in revisions else line

    def relation(self, old: str, new: str) -> Relation:
        """Return how a commit stands to what is about to be committed."""
        if self._head is None:
            return "unrelated"
        relation = super().relation(old, self._head)
        return "older" if relation == "same" else relation
