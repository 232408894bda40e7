"""The files of a directory store. Blocking: :mod:`hotfd.config.directory` calls this in threads.

::

    PATH/heads.json                        what is in force, by module; replaced as a whole: the commit
    PATH/releases/MODULE/0000000012.json   a release; never changed once a head names it
    PATH/ledger.sqlite                     history, acknowledgements, schemas, addresses (directory_ledger.py)
    PATH/waiting.json                      history that the ledger could not take yet (directory_history.py)
    PATH/lock                              held by whoever commits, with his pid in it

Everything below the directory is opened relative to one descriptor of it, so that what belongs together is read and
written in one place, whatever happens to the path meanwhile. Who may do what is in directory_access.py.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import time
from typing import TYPE_CHECKING, Final, Self

import msgspec

from hotfd.config.directory_access import Access, check_owner, exists, make_store, open_directory, read_file, told
from hotfd.config.directory_access import temporary as beside
from hotfd.config.release import MAX_RELEASE, Head, Name, Sealed, unseal
from hotfd.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

HEADS: Final = "heads.json"
RELEASES: Final = "releases"
LEDGER: Final = "ledger.sqlite"
LOCK: Final = "lock"

MAX_HEADS: Final = 4 << 20
"""Bytes of ``heads.json``: some thousand modules. A larger one is no store's."""

LOCK_WAIT: Final = 10.0
"""Seconds that a commit waits for another one: ten times what a slow disk takes for a large one."""

_LOOK: Final = 0.004
"""Seconds, at the mean, between two tries for the lock: flock(2) has no time limit of its own."""

_MAX_PID: Final = 32
"""Bytes of the lock that are read: a pid has at most seven digits."""

_heads_decoder = msgspec.json.Decoder(dict[Name, Head])
_heads_encoder = msgspec.json.Encoder(order="sorted")


def release_name(version: int) -> str:
    """Return the name of a version's file in its module's directory."""
    return f"{version:010d}.json"


class StoreDirectory:
    """An open store directory, checked. It owns its descriptor, and closes it in :meth:`close`.

    Attributes:
        path: where it was, for messages and for SQLite.
        descriptor: of it, close-on-exec.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._access = Access(path, os.fstat(descriptor))

    @classmethod
    def open(cls, path: str, *, create: bool = False) -> Self:
        """Open a store's directory.

        Args:
            path: where it is, absolute.
            create: make it if nothing is there, and make an empty directory a store.

        Raises:
            StoreError: it is missing, no directory, no store, not accessible, or others than its owner and group may
                write it.
        """
        with told(f"the store {path} cannot be opened"):
            if create:
                make_store(path)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise StoreError(
                    f"there is no store at {path}; the first 'hotfd config publish' makes it, or correct the path"
                ) from None
        try:
            check_owner(path, os.fstat(descriptor))
            directory = cls(path, descriptor)
            if create:
                with told(f"the store {path} cannot be made"):
                    directory._initialise()
        except BaseException:
            os.close(descriptor)
            raise
        return directory

    def close(self) -> None:
        """Close the descriptor. May be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_store(self) -> None:
        """Check that the directory is a store.

        Raises:
            StoreError: it is another one.
        """
        if not exists(self.descriptor, HEADS):
            raise StoreError(
                f"{self.path} is no store: it has no {HEADS}; correct the path, or restore the file from a backup"
            )

    # -- what is in force ----------------------------------------------------------------------------

    def heads(self) -> dict[str, Head]:
        """Read what is in force.

        Raises:
            StoreError: it cannot be read, or is damaged.
        """
        path = f"{self.path}/{HEADS}"
        self.check_store()
        with told(f"{path} cannot be read"):
            data = read_file(self.descriptor, HEADS, MAX_HEADS)
        try:
            heads = _heads_decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{path} is damaged: {error}; restore it from a backup") from None
        if wrong := [module for module, head in heads.items() if head.module != module]:
            raise StoreError(f"{path} is damaged: the head of {wrong[0]!r} is another module's; restore it")
        return heads

    def write_heads(self, heads: Mapping[str, Head]) -> None:
        """Put heads in force: when this returns they are on stable storage.

        Raises:
            StoreError: they are not, or it cannot be said whether they are.
        """
        data = msgspec.json.format(_heads_encoder.encode(heads), indent=1) + b"\n"
        if len(data) > MAX_HEADS:
            raise StoreError(
                f"{self.path}: the heads of {len(heads)} modules take {len(data)} bytes, above {MAX_HEADS}"
            )
        self.write_file(HEADS, data)

    # -- releases ------------------------------------------------------------------------------------

    def release(self, module: str, version: int, sha256: str | None) -> Sealed:
        """Read a release.

        Args:
            module: the module's name, checked.
            version: the version.
            sha256: the digest that it must have; None takes any.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        name = f"{RELEASES}/{module}/{release_name(version)}"
        with told(f"{self.path}/{name} cannot be read"):
            try:
                data = read_file(self.descriptor, name, MAX_RELEASE)
            except FileNotFoundError:
                raise StoreError(f"module {module!r}: {self.path} has no release {version}") from None
        try:
            sealed = unseal(data, sha256)
        except ConfigError as error:
            raise StoreError(f"{self.path}/{name}: {error}; restore it from a backup, or publish again") from None
        if (sealed.release.module, sealed.release.version) != (module, version):
            raise StoreError(f"{self.path}/{name} is another module's or version's release; restore it from a backup")
        return sealed

    def write_release(self, sealed: Sealed) -> None:
        """Put a release on stable storage, in place of one that no head came to name.

        Raises:
            StoreError: it could not be written.
        """
        module = sealed.release.module
        with told(f"release {sealed.release.version} of {module!r} cannot be written to {self.path}"):
            self._access.make(self.descriptor, RELEASES)
            releases = open_directory(self.descriptor, RELEASES)
            try:
                self._access.make(releases, module)
                own = open_directory(releases, module)
            finally:
                os.close(releases)
            try:
                self._access.replace(own, release_name(sealed.release.version), sealed.data)
            finally:
                os.close(own)

    # -- what waits for the ledger ---------------------------------------------------------------------

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file beside the heads, as a whole: when this returns it is on stable storage.

        Raises:
            StoreError: it could not be written; what was there before still is.
        """
        with told(f"{self.path}/{name} cannot be written"):
            self._access.replace(self.descriptor, name, data)

    def remove(self, name: str) -> None:
        """Remove a file beside the heads for good, and what a power cut has left of it. Only for who holds the lock.

        Raises:
            StoreError: it could not be removed.
        """
        with told(f"{self.path}/{name} cannot be removed"):
            found = [one for one in (name, beside(name)) if exists(self.descriptor, one)]
            for one in found:
                os.unlink(one, dir_fd=self.descriptor)
            if found:
                os.fsync(self.descriptor)

    # -- one at a time -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, wait: float = LOCK_WAIT) -> Iterator[None]:
        """Hold the store's lock; nobody else commits meanwhile.

        Args:
            wait: seconds to wait for it.

        Raises:
            StoreError: this user may not write the store, or somebody else held the lock all the time.
        """
        deadline = time.monotonic() + wait
        while True:
            with told(f"the store {self.path} cannot be written"):
                descriptor = self._lock_by(deadline)
            try:
                if not self._is_lock(descriptor):
                    continue  # somebody has removed the file that we waited for: another one is the lock now
                with contextlib.suppress(OSError):  # the pid is for people only, and the disk may be full
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
                yield
                return
            finally:
                os.close(descriptor)

    def _lock_by(self, deadline: float) -> int:
        descriptor = self._access.open_shared(self.descriptor, LOCK)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        holder = os.pread(descriptor, _MAX_PID, 0).decode("ascii", "replace").strip()
                        raise StoreError(
                            f"process {holder or '(unknown)'} has held {self.path}/{LOCK} for long; look at what it "
                            "does, end it if it hangs, and try again"
                        ) from None
                # At random times: else whoever has just had the lock gets it again before those who wait.
                time.sleep(random.uniform(0, 2 * _LOOK))  # noqa: S311 - nobody gains by guessing it
        except BaseException:
            os.close(descriptor)
            raise

    def _is_lock(self, descriptor: int) -> bool:
        try:
            named = os.stat(LOCK, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    # -- making files --------------------------------------------------------------------------------

    def prepare_ledger(self) -> bool:
        """Make an empty ledger with the right permissions if there is none; return whether there is one now.

        Raises:
            StoreError: it could not be made for a reason that is no lack of permission, or this is no store.
        """
        self.check_store()
        with told(f"{self.path}/{LEDGER} cannot be made"):
            if exists(self.descriptor, LEDGER):
                # SQLite writes its journal beside it.
                return all(
                    os.access(name, os.W_OK, dir_fd=self.descriptor, effective_ids=True) for name in (LEDGER, ".")
                )
            try:
                os.close(self._access.open_shared(self.descriptor, LEDGER))
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                    return False
                raise
        return True

    def _initialise(self) -> None:
        """Make an empty directory a store. Its heads come last: what has none is no store."""
        if exists(self.descriptor, HEADS):
            return
        strangers = set(os.listdir(self.descriptor)) - {LOCK, beside(HEADS), "lost+found"}
        if exists(self.descriptor, HEADS):
            return  # somebody else has just done it, and the strangers are his
        if strangers:
            raise StoreError(
                f"{self.path} is not empty and is no store (it has no {HEADS}); name another directory, or restore the file"
            )
        with self.locked():
            if not exists(self.descriptor, HEADS):
                self._access.replace(self.descriptor, HEADS, b"{}\n")
