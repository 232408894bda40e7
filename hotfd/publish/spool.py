"""What is committed and not published yet, beside the repository, so that no crash and no outage loses it.

``REPOSITORY/hotfd-spool`` holds one entry at most: publishing makes up for everything that is committed, so one says
as much as a hundred. A lock orders who writes it and who takes it away; another one is held by the worker, of
which there is one. What was refused for good is kept for the next person who commits.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME: Final = "hotfd-spool"
"""The directory, within the repository's own."""

MAX_ENTRY: Final = 16 << 10
"""Bytes of an entry: it holds some words."""

MAX_REFUSAL: Final = 64 << 10
"""Bytes of a refusal that are kept: all faults of some modules."""


JUST_NOW: Final = 10.0
"""Seconds within which the second hook of a commit follows the first one; more than that, it is another commit's."""


class Entry(msgspec.Struct, frozen=True):
    """Something is to be published.

    Attributes:
        token: of this entry alone: it is taken away only by who has seen it.
        rewritten: whether somebody has accepted that history was rewritten.
        by: who has committed, as far as the hook knows.
    """

    token: str
    rewritten: bool = False
    by: str = ""


class Spool:
    """The spool of one repository.

    Args:
        repository: the directory of the repository itself: of a working git repository, its ``.git``.

    Raises:
        OSError: it cannot be made or written, from every method.
    """

    def __init__(self, repository: str) -> None:
        self.directory = os.path.join(repository, NAME)
        # Whoever may commit here runs the hooks, perhaps as another user of the same group.
        shared = stat.S_IMODE(os.stat(repository).st_mode)
        self._file_mode = 0o660 if shared & stat.S_IWGRP else 0o600
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            return
        os.chmod(self.directory, (shared & 0o2770) | 0o700)

    def add(self, *, rewritten: bool, by: str) -> Entry:
        """Note that something is to be published; when this returns, it is on stable storage."""
        with self._locked("lock"):
            waiting = self._read()
            rewritten = rewritten or (waiting is not None and waiting.rewritten)
            entry = Entry(secrets.token_hex(8), rewritten, by)
            self._write("pending", msgspec.json.encode(entry))
        return entry

    def pending(self) -> Entry | None:
        """Return what is to be published, or None."""
        with self._locked("lock"):
            return self._read()

    def done(self, entry: Entry) -> None:
        """Take an entry away, unless another one has come meanwhile."""
        with self._locked("lock"):
            waiting = self._read()
            if waiting is not None and waiting.token == entry.token:
                self._remove("pending")

    def refuse(self, text: str) -> None:
        """Keep why something was refused for good; an empty text removes what is kept."""
        if text:
            self._write("refused", text.encode(errors="replace")[:MAX_REFUSAL])
        else:
            self._remove("refused")

    def refused(self) -> str:
        """Return why something was refused for good since the last success; empty for nothing."""
        try:
            return self._bytes("refused", MAX_REFUSAL).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def hold(self, seconds: float) -> None:
        """Note how long a hook has held who commits, for the hook that follows it."""
        self._write("held", f"{time.clock_gettime(time.CLOCK_BOOTTIME)} {seconds}".encode(), durable=False)

    def held(self) -> float | None:
        """Return how long the hook before this one has held who commits; None if it has not said so just now."""
        try:
            when, seconds = (float(word) for word in self._bytes("held", MAX_ENTRY).split())
        except (FileNotFoundError, ValueError):
            return None
        return seconds if 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) - when < JUST_NOW else None

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Be the repository's only worker, if there is none."""
        with self._locked("worker", wait=False) as mine:
            yield mine

    def path(self, name: str) -> str:
        """Return the path of a file in the spool."""
        return os.path.join(self.directory, name)

    def open_log(self) -> int:
        """Return a descriptor that appends to the worker's log; who has asked for it closes it."""
        return self._shared("log", os.O_WRONLY | os.O_APPEND)

    def _shared(self, name: str, flags: int) -> int:
        """Open a file that is made if it is not there, for all who share the repository, whatever the umask is."""
        fd = os.open(self.path(name), flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, self._file_mode)
        with suppress(PermissionError):  # another user's, who has made it so already
            os.fchmod(fd, self._file_mode)
        return fd

    def _read(self) -> Entry | None:
        try:
            return msgspec.json.decode(self._bytes("pending", MAX_ENTRY), type=Entry)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            # Written by something else; that something is to be published is all that it could say.
            return Entry("")

    def _bytes(self, name: str, most: int) -> bytes:
        with open(os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            return file.read(most)

    def _write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        temporary = self.path(f".{name}.{secrets.token_hex(4)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, self._file_mode)
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(fd)
            os.rename(temporary, self.path(name))
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        if durable:
            self._sync()

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path(name))
            self._sync()

    def _sync(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        fd = self._shared(name, os.O_RDWR)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)


def directory_of(kind: str, where: str) -> str:
    """Return the directory of a repository itself, in which the spool is."""
    where = os.path.abspath(where)
    own = os.path.join(where, ".git")
    # Where that is possible without git, which can be slow: hooks have little time.
    if kind == "svn" or not os.path.lexists(own):
        return where
    if os.path.isdir(own):
        return own
    from hotfd.publish.git import Git
    from hotfd.publish.programs import Deadline

    repository = Git(where, "", Deadline())
    return repository.text("rev-parse", "--path-format=absolute", "--git-common-dir")
