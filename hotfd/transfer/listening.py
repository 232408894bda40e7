"""Listening sockets: how addresses are written, and how a socket comes to listen at one."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

BACKLOG: Final = 4096
"""Length of the accept queue; net.core.somaxconn bounds it. A handoff must not overflow it."""


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
        return socket.AF_INET6, (_canonical(host[1:-1]), int(port))
    if ":" in host:
        raise ValueError(f"{spec!r}: an IPv6 address stands in brackets, as in [::1]:7000")
    infos = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    infos.sort(key=lambda info: info[0] != socket.AF_INET)
    return infos[0][0], infos[0][4]


def _canonical(host: str) -> str:
    """Return an IPv6 address as getsockname(2) writes it; what is none stays as it is, for bind(2) to judge."""
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        return host


def listening_socket(spec: str) -> socket.socket:
    """Make a listening socket, non-blocking and close-on-exec, which the caller owns.

    A Unix socket that nobody listens on any more is replaced; anything else at its path is left alone.

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
    return sock


def _remove_stale(path: str) -> None:
    """Remove a Unix socket that nobody listens on; anything else at the path is left alone."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)
