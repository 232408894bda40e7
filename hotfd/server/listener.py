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
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from hotfd import log

BACKLOG: Final = 4096
"""Length of the accept queue; net.core.somaxconn bounds it. A handoff must not overflow it."""

ACCEPTS_PER_TURN: Final = 64
"""Connections accepted in one turn of the loop, so that a storm of them cannot starve the others."""

FULL_PAUSE: Final = 0.1
"""Seconds without accepting after the process ran out of descriptors."""


def parse(spec: str) -> tuple[int, Any]:
    """Read a listen address: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``.

    Returns:
        the address family, and the address for bind(2).

    Raises:
        ValueError: it is none of these.
    """
    try:
        spec.encode()
    except UnicodeEncodeError:
        raise ValueError("a listen address must be text that UTF-8 can carry") from None
    if spec.startswith("unix:"):
        if not spec[5:] or "\0" in spec:
            raise ValueError("unix: needs a path, as in unix:/run/app.sock")
        return socket.AF_UNIX, spec[5:]
    host, separator, port = spec.rpartition(":")
    if not separator or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"{spec!r} is no listen address; give HOST:PORT, [IPV6]:PORT or unix:PATH")
    if host.startswith("[") and host.endswith("]"):
        return socket.AF_INET6, (host[1:-1], int(port))
    if ":" in host:
        raise ValueError(f"{spec!r}: an IPv6 address stands in brackets, as in [::1]:7000")
    infos = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    infos.sort(key=lambda info: info[0] != socket.AF_INET)
    return infos[0][0], infos[0][4]


class Listener:
    """One listening socket, which it owns.

    Args:
        spec: the address as the server was told.
        sock: the socket, bound, listening, non-blocking.
        on_accept: called with the listener, each new socket and the peer's address.
    """

    def __init__(
        self, spec: str, sock: socket.socket, on_accept: Callable[[Listener, socket.socket, Any], None]
    ) -> None:
        self.spec = spec
        self.sock = sock
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
        family, address = parse(spec)
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_UNIX:
                _remove_stale(address)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot listen on {spec}: {error.strerror or error}") from error
        return cls(spec, sock, on_accept)

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

    def stop(self) -> None:
        """Poll no more; the socket stays open and its queue goes on to fill. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self.sock.fileno())

    def close(self, *, unlink: bool) -> None:
        """Close the socket; with ``unlink``, remove a Unix socket's path, since nobody serves it now."""
        self.stop()
        if unlink and self.sock.family == socket.AF_UNIX and self.sock.fileno() >= 0:
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
                    self.stop()
                    self._pause = self._loop.call_later(FULL_PAUSE, self.start)
                    return
                continue  # accept(2): errors of the connection that was accepted; take the next one
            sock.setblocking(False)
            self._on_accept(self, sock, peername)
            if not self._accepting:
                return


def _remove_stale(path: str) -> None:
    """Remove a Unix socket that nobody listens on; anything else at the path is left alone."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)
