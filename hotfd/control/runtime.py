"""The runtime directory: where control sockets are, and who may be there.

A directory that only its owner can enter is the access control of everything in it, so it is opened
once, checked through the descriptor, and used through the descriptor from then on: a path that is
swapped after the check leads nowhere. Sockets are bound and reached through ``/proc/self/fd/N/NAME``,
which also keeps any directory within the 108 bytes of an address (unix(7)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
import struct
import time
from typing import TYPE_CHECKING

from hotfd.control.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

ENVIRONMENT = "HOTFD_RUNTIME_DIR"
"""The variable that names the runtime directory."""

BACKLOG = 64
"""Connections that wait for the server to accept them: as many as it serves at once."""

_SOCKET_NAME = re.compile(r"([1-9][0-9]{0,9})\.sock")

Identity = tuple[int, int]
"""Device and inode: which file a name stands for."""


def default_path() -> str:
    """Return the runtime directory of this process.

    ``$HOTFD_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR/hotfd``, else ``/run/hotfd`` for root, else
    ``/tmp/hotfd-UID``.
    """
    if path := os.environ.get(ENVIRONMENT):
        return path
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(base, "hotfd")
    uid = os.geteuid()
    return "/run/hotfd" if uid == 0 else f"/tmp/hotfd-{uid}"  # noqa: S108 - opened safely, its owner is checked


def socket_name(pid: int) -> str:
    """Return the name of the control socket of ``pid`` within a runtime directory."""
    return f"{pid}.sock"


class RuntimeDirectory:
    """An open runtime directory. It owns ``descriptor`` and closes it in :meth:`close`.

    Args:
        path: the directory's path, for messages.
        descriptor: an open descriptor of it, close-on-exec; already checked.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def open(cls, path: str | None = None) -> RuntimeDirectory:
        """Open the directory for a server: make it if it is missing, and check that it is private.

        Args:
            path: an absolute path; :func:`default_path` when None.

        Raises:
            Unreachable: ``unsafe-directory``: it cannot be made, is not a directory, is not owned by this
                user, or others may enter it; the message says what to do.
        """
        path = default_path() if path is None else path
        if not os.path.isabs(path):
            raise Unreachable(
                "unsafe-directory",
                f"the runtime directory {path!r} is a relative path; set {ENVIRONMENT} to an absolute one",
            )
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except OSError as exc:
            raise Unreachable(
                "unsafe-directory",
                f"the runtime directory {path} cannot be made ({exc.strerror}); make its parent, or set "
                f"{ENVIRONMENT} to a directory that uid {os.geteuid()} may use",
            ) from exc
        directory = cls.look(path, {os.geteuid()})
        # systemd-tmpfiles ages files out of /tmp, but leaves a directory alone that somebody has locked
        # (tmpfiles.d(5)). Where a cleaner holds it at this moment, or the file system has no locks, the
        # server works as well.
        with contextlib.suppress(OSError):
            fcntl.flock(directory.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return directory

    @classmethod
    def look(cls, path: str, owners: Collection[int] | None) -> RuntimeDirectory:
        """Open an existing directory and check it.

        Args:
            path: where it is.
            owners: user ids that it may belong to; None leaves it unchecked, for a socket that the
                user has named himself (the process behind it is still checked).

        Raises:
            FileNotFoundError: nothing is there.
            PermissionError: this user may not look there.
            Unreachable: ``unsafe-directory``: it is no directory of one of ``owners`` that is theirs alone.
        """
        flags = os.O_RDONLY if owners is not None else os.O_PATH
        try:
            # A link here would let whoever made it choose the directory.
            follow = os.O_NOFOLLOW if owners is not None else 0
            descriptor = os.open(path, flags | os.O_DIRECTORY | os.O_CLOEXEC | follow)
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Unreachable(
                    "unsafe-directory",
                    f"the runtime directory {path} is a symbolic link or no directory; remove it, or set "
                    f"{ENVIRONMENT} to a directory of your own",
                ) from exc
            raise
        try:
            if owners is not None:
                _check_private(path, os.fstat(descriptor), owners)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def listen(self, name: str) -> socket.socket:
        """Bind a listening socket, mode 0600, in place of a stale one of that name.

        Returns:
            a non-blocking, close-on-exec socket that the caller owns.

        Raises:
            Unreachable: ``unsafe-directory``: a live process listens there, or something that is not a
                socket has the name.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # The mode of an unbound socket is the mode of the file that bind makes: no moment is left at
            # which the file exists with another one, and the umask of the process is not touched.
            os.fchmod(listener.fileno(), 0o600)
            try:
                listener.bind(self._address(name))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                self._remove_stale(name)
                listener.bind(self._address(name))
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self, name: str, timeout: float) -> socket.socket:
        """Connect to a socket of this directory.

        Args:
            name: the socket's name.
            timeout: seconds to wait for a place in the server's queue.

        Returns:
            a blocking, close-on-exec socket that the caller owns.

        Raises:
            OSError: as connect(2): ``ConnectionRefusedError`` where nobody listens, ``BlockingIOError``
                when the queue is full for ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            while True:
                # settimeout would make connect fail at once when the queue is full (unix(7) knows no
                # EINPROGRESS); the kernel's own send timeout waits for a place. Zero would be for ever.
                seconds, fraction = divmod(max(deadline - time.monotonic(), 0.001), 1)
                wait = struct.pack("@ll", int(seconds), int(fraction * 1e6))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
                connection.connect(self._address(name))
                # When a signal interrupts connect(2), Python takes it to go on in the background, as it
                # does for TCP, and returns. For a Unix socket nothing goes on.
                if _is_connected(connection):
                    return connection
        except BaseException:
            connection.close()
            raise

    def identity(self, name: str) -> Identity | None:
        """Return which socket stands at ``name``, or None when there is none."""
        try:
            found = os.stat(self._address(name), follow_symlinks=False)
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None

    def remove(self, name: str, identity: Identity) -> bool:
        """Remove the socket at ``name`` if it is still the one of ``identity``; return whether it was."""
        if self.identity(name) != identity:
            return False
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return False
        return True

    def pids(self) -> list[int]:
        """Return the process ids that have a control socket here, in order."""
        matches = (_SOCKET_NAME.fullmatch(name) for name in os.listdir(self.descriptor))
        return sorted(int(match[1]) for match in matches if match)

    def close(self) -> None:
        """Close the descriptor. May be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> RuntimeDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self.descriptor}/{name}"

    def _remove_stale(self, name: str) -> None:
        identity = self.identity(name)
        if identity is None:
            raise Unreachable("unsafe-directory", f"{self.path}/{name} is in the way and is not a socket; remove it")
        try:
            self.connect(name, 0.0).close()
        except ConnectionRefusedError:
            self.remove(name, identity)
            return
        except BlockingIOError:
            pass  # somebody listens and his queue is full
        raise Unreachable(
            "unsafe-directory",
            f"a live process listens at {self.path}/{name}: processes of several pid namespaces share this "
            f"directory; set {ENVIRONMENT} to one of its own for each",
        )


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:
            raise
        return False
    return True


def _check_private(path: str, found: os.stat_result, owners: Collection[int]) -> None:
    if found.st_uid not in owners:
        wanted = " or ".join(str(uid) for uid in sorted(owners))
        raise Unreachable(
            "unsafe-directory",
            f"the runtime directory {path} is owned by uid {found.st_uid}, not by uid {wanted}: somebody "
            f"else made it; remove it, or set {ENVIRONMENT} to a directory of your own",
        )
    if found.st_mode & 0o077:
        raise Unreachable(
            "unsafe-directory",
            f"the runtime directory {path} has mode {stat.S_IMODE(found.st_mode):04o}: other users may "
            f"enter it; chmod 700 {path}",
        )
