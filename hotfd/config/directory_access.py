"""Who may use a directory store, and how its files are made. Blocking.

Whoever may write the directory may publish. So it must belong to root, to this user, or to a group of this user, and
must not be writable for everybody. What is made in it gets the directory's own group and permissions, whatever the
umask is: a directory of mode 0700 keeps its releases private, 2750 lets a group read them, 2770 lets a group publish.
A directory that is made here has mode 0700.

A file is replaced by writing another one beside it, which is synchronised, renamed, and its directory synchronised:
after a power cut there is the old one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from hotfd.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Without O_NONBLOCK, opening a pipe that somebody has put there would wait for ever."""


class Access:
    """Makes what is in a store directory, with the directory's own group and permissions.

    Args:
        path: the directory, for messages.
        found: what it is.
    """

    def __init__(self, path: str, found: os.stat_result) -> None:
        self._path = path
        self._group = found.st_gid
        self._mode = stat.S_IMODE(found.st_mode)

    def open_shared(self, directory: int, name: str) -> int:
        """Open a file for reading and writing; make it if it is missing. The caller closes it."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            try:
                return os.open(name, flags, dir_fd=directory)
            except FileNotFoundError:
                pass
            try:
                descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            except FileExistsError:
                continue
            try:
                self._give(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def replace(self, directory: int, name: str, data: bytes) -> None:
        """Write a file as a whole; when this returns it is on stable storage. Only for who holds the lock."""
        beside = temporary(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=directory)  # of somebody who died in the middle
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(beside, flags, 0o600, dir_fd=directory)
        try:
            try:
                self._give(descriptor)
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=directory)
            raise
        os.fsync(directory)

    def make(self, parent: int, name: str) -> None:
        """Make a directory if it is missing; its name is on stable storage when this returns."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass  # by somebody who may have died before the last line
        else:
            descriptor = open_directory(parent, name)
            try:
                self._give(descriptor, directory=True)
            finally:
                os.close(descriptor)
        os.fsync(parent)

    def _give(self, descriptor: int, *, directory: bool = False) -> None:
        """Give what was made the store's group and permissions."""
        if self._mode & 0o060 and os.fstat(descriptor).st_gid != self._group:
            try:
                os.fchown(descriptor, -1, self._group)
            except PermissionError:
                raise StoreError(
                    f"what is in {self._path} must belong to its group, gid {self._group}: whoever publishes must be a "
                    "member of it"
                ) from None
        os.fchmod(descriptor, self._mode | 0o700 if directory else self._mode & 0o666 | 0o600)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn the system's errors into StoreErrors that say what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "see the message of the system")
        raise StoreError(f"{what}: {error.strerror}; {advice}") from error


_PERMISSIONS: Final = "whoever may read and write the directory can, see its owner, group and mode"

_ADVICE: Final = {
    errno.ENOENT: "somebody has removed it meanwhile",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "publish where the file system is mounted for writing",
    errno.ENOSPC: "nothing has changed; make room on the file system and try again",
    errno.EDQUOT: "nothing has changed; make room within the quota and try again",
    errno.EFBIG: "nothing has changed; raise the limit of file sizes (ulimit -f) and try again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.ENOTDIR: "name a directory",
    errno.ELOOP: "a symbolic link is in the place of a file of the store; remove it",
    errno.EIO: "look at the disk, and at what is in the store now",
}


def check_owner(path: str, found: os.stat_result) -> None:
    """Check that only those may write a directory whose releases this process is to trust.

    Raises:
        StoreError: everybody may, or a user who has nothing to do with this one.
    """
    if found.st_mode & 0o002:
        raise StoreError(f"everybody may write {path}, and so publish; chmod o-w {path}")
    if found.st_uid not in (0, os.geteuid()) and found.st_gid not in (os.getegid(), *os.getgroups()):
        raise StoreError(
            f"{path} belongs to uid {found.st_uid} and gid {found.st_gid}: neither to root, nor to this user (uid "
            f"{os.geteuid()}), nor to a group of his; give it to a group that publishers and servers have in common"
        )


def make_store(path: str) -> None:
    """Make the directory of a store, for this user alone, if nothing is there."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise StoreError(f"{path} cannot be made, since {os.path.dirname(path)} is missing; make that first") from None
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def open_directory(parent: int, name: str) -> int:
    """Open a directory in another one; the caller closes it."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)


def exists(directory: int, name: str) -> bool:
    """Return whether something has a name in a directory."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def temporary(name: str) -> str:
    """Return the name that a file has until it is complete."""
    return f".{name}.new"


def read_file(directory: int, name: str, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read.
        StoreError: it is larger, or something else.
    """
    descriptor = os.open(name, _READ, dir_fd=directory)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise StoreError(f"{name} in the store is no regular file; remove it, and restore it from a backup")
        pieces = []
        left = limit + 1
        # As much as there is, and not as there may be: os.read() has memory for all that it is asked for, and gives back
        # what the file did not fill. A small file that is kept would stand where that was: a heap of holes, which grows.
        while left > 0 and (piece := os.read(descriptor, min(left, about.st_size + 1))):
            pieces.append(piece)
            left -= len(piece)
        if left == 0:
            raise StoreError(
                f"{name} in the store has more than {limit} bytes: it is damaged; restore it from a backup"
            )
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
