"""What servers tell the supervisor: it is their service manager, and speaks sd_notify(3) from its side.

The socket is an abstract one: it leaves nothing behind, and a server that has given up its privileges still
reaches it. Anybody on the machine does, so the sender of each datagram is known from the kernel
(``SCM_CREDENTIALS``, unix(7)), and whoever is not of this service is not heard.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from hotfd.systemd import parse

MAX_DATAGRAM: Final = 4096
"""Bytes of a message that are taken; systemd takes as many."""

MESSAGES_AT_ONCE: Final = 1024
"""Messages taken in one go: more than the queue holds (net.unix.max_dgram_qlen), so that nothing that was said is
left behind, and an end to it, so that somebody who never stops cannot hold the loop."""

_CREDENTIALS: Final = struct.Struct("@iII")  # struct ucred, unix(7)

_MAX_DESCRIPTORS: Final = 253
"""Descriptors that one datagram may bring, SCM_MAX_FD; they are closed."""


class Inbox:
    """The socket, which it owns.

    Args:
        on_message: called with the sender's pid and the assignments of its message.
    """

    def __init__(self, on_message: Callable[[int, dict[str, str]], None]) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind("")  # the kernel finds a free abstract name
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self.drain)

    @property
    def address(self) -> str:
        """The value of ``NOTIFY_SOCKET`` for the servers."""
        name = self._socket.getsockname()
        return "@" + os.fsdecode(name[1:])

    def drain(self) -> None:
        """Take in what has come. Before an end is judged, what was said before it must have been heard."""
        for _ in range(MESSAGES_AT_ONCE):
            try:
                data, ancillary, _flags, _address = self._socket.recvmsg(
                    MAX_DATAGRAM,
                    socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except (BlockingIOError, InterruptedError):
                return
            pid = 0
            for level, kind, content in ancillary:
                if level != socket.SOL_SOCKET:
                    continue
                if kind == socket.SCM_CREDENTIALS:
                    pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
                elif kind == socket.SCM_RIGHTS:
                    for fd in memoryview(content[: len(content) // 4 * 4]).cast("i"):
                        os.close(fd)
            if pid > 0:
                self._on_message(pid, parse(data))

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
