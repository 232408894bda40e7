"""The last releases that a server could use, on disk: it starts with them while its source cannot be reached.

::

    DIRECTORY/SERVICE-MODULE-DIGEST.json    DIGEST: of the service's name, the source and the module

A file has three lines: the SHA-256 of the two others, a head, and a release, byte for byte. The head is the newest one
that the server knew, and no server of the service goes back to an older one, also after a restart. The release is the
newest that was for all and could be used; where the newest one was refused, that is an older one than the head's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec

from hotfd.config.release import MAX_RELEASE, Digest, Head, Name, Sealed, unseal
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

ENVIRONMENT: Final = "HOTFD_CACHE_DIR"
"""The variable that names the directory."""

MAX_FILE: Final = MAX_RELEASE + (256 << 10)
"""Bytes of a file: a release, and a head with all its zones."""

STALE: Final = 3600.0
"""Seconds after which a half-written file is nobody's: no disk takes that long for a megabyte."""

LOCK_LIMIT: Final = 1.0
"""Seconds that a process waits for another one that writes: more than most disks take for a megabyte."""

_LOOK: Final = 0.01
"""Seconds between two tries for the lock: flock(2) has no time limit of its own."""

_FORMAT: Final = 1
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Without O_NONBLOCK, opening a pipe that somebody has put there would wait for ever."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a module: the newest head that was known, and the newest release for all that could be used."""

    head: Head
    sealed: Sealed


class _Header(msgspec.Struct, frozen=True):
    """The second line of a file."""

    format: int
    service: str
    source: Digest
    module: Name
    release: Digest
    head: Head


def default_path() -> str:
    """Return the directory of this process.

    ``$HOTFD_CACHE_DIR``, else ``$XDG_STATE_HOME/hotfd/config``, else ``/var/lib/hotfd/config`` for root, else
    ``~/.local/state/hotfd/config`` (XDG Base Directory Specification).
    """
    if path := os.environ.get(ENVIRONMENT):
        return path
    if base := os.environ.get("XDG_STATE_HOME"):
        return os.path.join(base, "hotfd", "config")
    if os.geteuid() == 0:
        return "/var/lib/hotfd/config"
    return os.path.join(os.path.expanduser("~"), ".local", "state", "hotfd", "config")


class Cache:
    """What is kept for one service and one source. Blocking: used in threads.

    Args:
        service: the service's name.
        source: the source, as the program names it.
        path: the directory; :func:`default_path` when None.
    """

    def __init__(self, service: str, source: str, path: str | None = None) -> None:
        self._service = service
        self._source = hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()
        self.path = default_path() if path is None else path

    def file(self, module: str) -> str:
        """Return the path of a module's file, for people: removing it forgets what was known."""
        return os.path.join(self.path, self._name(module))

    def load(self, module: str) -> Kept | None:
        """Return what is kept of a module; None when nothing is.

        Raises:
            ConfigError: what is there is damaged, or somebody else's; the message says which file.
            OSError: it cannot be read.
        """
        try:
            with _Directory.open(self.path, make=False) as directory:
                data = directory.read(self._name(module))
        except FileNotFoundError:
            return None
        try:
            return self._unpack(module, data)
        except (ConfigError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(f"{self.file(module)} is damaged: {error}") from None

    def save(self, kept: Kept) -> None:
        """Keep a module's head and release in place of what was kept before, unless another process knew a newer head.

        Raises:
            ConfigError: the directory is not this user's alone, or the service's name is no text.
            OSError: it cannot be written; what was kept before is.
        """
        module = kept.head.module
        header = _Header(_FORMAT, self._service, self._source, module, kept.sealed.sha256, kept.head)
        try:
            body = msgspec.json.encode(header) + b"\n" + kept.sealed.data
        except UnicodeEncodeError:
            raise ConfigError(f"the service's name {self._service!r} cannot be written as UTF-8") from None
        with _Directory.open(self.path, make=True) as directory, directory.alone():
            there = self._there(directory, module)
            if there is not None and (there.head.sequence > kept.head.sequence or there == kept):
                return  # two processes of a service share a file, and this one lags behind
            directory.replace(self._name(module), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def _there(self, directory: _Directory, module: str) -> Kept | None:
        """Return what is kept; None when there is nothing, or nothing that could be read."""
        try:
            return self._unpack(module, directory.read(self._name(module)))
        except (OSError, ConfigError, msgspec.MsgspecError, ValueError, RecursionError):
            return None

    def _name(self, module: str) -> str:
        text = f"{self._service}\0{self._source}\0{module}".encode(errors="surrogatepass")
        shown = re.sub(r"[^A-Za-z0-9._-]", "_", self._service)[:64].lstrip(".")
        return f"{shown}-{module}-{hashlib.sha256(text).hexdigest()[:16]}.json"

    def _unpack(self, module: str, data: bytes) -> Kept:
        digest, _, body = data.partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise ConfigError("it has not the digest that it should have")
        line, _, release = body.partition(b"\n")
        header = msgspec.json.decode(line, type=_Header)
        if (header.format, header.service, header.source) != (_FORMAT, self._service, self._source):
            raise ConfigError("it is another service's, or of another source, or written by another version of hotfd")
        sealed = unseal(release, header.release)
        if not module == header.module == header.head.module == sealed.release.module:
            raise ConfigError("it is another module's")
        return Kept(header.head, sealed)


class _Directory:
    """An open directory that is this user's alone. It owns its descriptor."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: str, *, make: bool) -> Self:
        """Open and check it.

        Raises:
            FileNotFoundError: nothing is there, and it is not to be made.
            ConfigError: others may write to it, or it is somebody else's, or no absolute path.
            OSError: it cannot be made or opened.
        """
        if not os.path.isabs(path):
            raise ConfigError(f"{path!r} is a relative path; set {ENVIRONMENT} to an absolute one")
        if make:
            os.makedirs(path, 0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _check_own(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def read(self, name: str) -> bytes:
        """Return a file's bytes; ConfigError when it is not this user's alone, or too large."""
        where = os.path.join(self._path, name)
        descriptor = os.open(name, _READ, dir_fd=self._descriptor)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{where} is no file; remove it")
            _check_own(where, found)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_FILE + 1)
        finally:
            os.close(descriptor)
        if len(data) > MAX_FILE:
            raise ConfigError(f"{where} is larger than {MAX_FILE} bytes; remove it")
        return data

    def replace(self, name: str, data: bytes) -> None:
        """Write a file in place of the one before: after a power cut there is the old one or the new one."""
        self._sweep(name)
        draft = f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(draft, flags, 0o600, dir_fd=self._descriptor)
        try:
            try:
                with open(descriptor, "wb", closefd=False) as file:
                    file.write(data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(draft, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=self._descriptor)
            raise
        os.fsync(self._descriptor)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have no other process write meanwhile, unless one of them takes long: that one may have been stopped."""
        deadline = time.monotonic() + LOCK_LIMIT
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_LOOK)
                    continue
            except OSError:
                pass  # NFS locks no directory
            break
        yield  # the lock goes with the descriptor

    def _sweep(self, name: str) -> None:
        """Remove what processes have left that died while they wrote."""
        for draft in os.listdir(self._descriptor):
            if draft.startswith(f".{name}."):
                with contextlib.suppress(OSError):
                    age = time.time() - os.stat(draft, dir_fd=self._descriptor, follow_symlinks=False).st_mtime
                    if age > STALE:
                        os.unlink(draft, dir_fd=self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def _check_own(path: str, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to uid {found.st_uid}, not to uid {os.geteuid()}; remove it")
    if found.st_mode & 0o077:
        raise ConfigError(f"{path} has mode {stat.S_IMODE(found.st_mode):04o}: others may use it; make it private")
