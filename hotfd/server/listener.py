"""Listening sockets: made, or inherited, and polled without asyncio's Server.

asyncio's own Unix server unlinks its path when it closes (from Python 3.13 on), also when another
process serves that path already. A listener here unlinks only when its server really stops.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from hotfd import log
from hotfd.transfer.listening import BACKLOG, listening_socket

ACCEPTS_PER_TURN: Final = 64
"""Connections accepted in one turn of the loop, so that a storm of them cannot starve the others."""

FULL_PAUSE: Final = 0.1
"""Seconds without accepting after the process ran out of descriptors."""


class Listener:
    """One listening socket, which it owns.

    Args:
        spec: the address as the server was told.
        sock: the socket, bound, listening, non-blocking.
        on_accept: called with the listener, each new socket and the peer's address.
        lent: whether a service manager has made the socket, and keeps it.
    """

    def __init__(
        self,
        spec: str,
        sock: socket.socket,
        on_accept: Callable[[Listener, socket.socket, Any], None],
        *,
        lent: bool = False,
    ) -> None:
        self.spec = spec
        self.sock = sock
        self.lent = lent
        self._on_accept = on_accept
        self._loop = asyncio.get_running_loop()
        self._accepting = False
        self._pause: asyncio.TimerHandle | None = None

    @classmethod
    def bind(cls, spec: str, on_accept: Callable[[Listener, socket.socket, Any], None]) -> Listener:
        """Make a listening socket.

        Raises:
            OSError, ValueError: it cannot be made; nothing is left over.
        """
        return cls(spec, listening_socket(spec), on_accept)

    @property
    def address(self) -> str:
        """The address that clients connect to; with the real port where port 0 was asked for."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{name}"
        return f"[{name[0]}]:{name[1]}" if self.sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"

    def start(self) -> None:
        """Poll for connections. Idempotent."""
        if not self._accepting:
            self._accepting = True
            self._loop.add_reader(self.sock.fileno(), self._on_readable)

    def mend(self) -> None:
        """Make the socket what it was, after a new process had a copy that may have spoilt it.

        O_NONBLOCK and shutdown(2) act on what all copies share. A blocking accept(2) would hold the loop up until
        somebody connects; a TCP socket that was shut down listens no more, and does so again. A Unix socket does not:
        what was shut down there stays so, and its server has to be started again.

        Raises:
            OSError: it cannot listen any more.
        """
        self.sock.setblocking(False)
        if not self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            log.event(logging.WARNING, "listening-again", listener=self.spec)
            self.sock.listen(BACKLOG)

    def stop(self) -> None:
        """Poll no more; the socket stays open and its queue goes on to fill. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self.sock.fileno())

    def pause(self, seconds: float) -> None:
        """Poll no more for so long."""
        self.stop()
        self._pause = self._loop.call_later(seconds, self.start)

    def close(self, *, unlink: bool) -> None:
        """Close the socket; with ``unlink``, remove a Unix socket's path, since nobody serves it now.

        A path that a service manager has made stays: connections wait there for the next server.
        """
        self.stop()
        if unlink and not self.lent and self.sock.family == socket.AF_UNIX and self.sock.fileno() >= 0:
            with suppress(OSError):
                os.unlink(self.sock.getsockname())
        self.sock.close()

    def _on_readable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peername = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    log.event(logging.ERROR, "accept-paused", listener=self.spec, reason=error.strerror)
                    self.pause(FULL_PAUSE)
                    return
                continue  # accept(2): errors of the connection that was accepted; take the next one
            sock.setblocking(False)
            self._on_accept(self, sock, peername)
            if not self._accepting:
                return
