"""Socket activation: listening sockets that a service manager has made, found for the addresses that a server names.

systemd passes the sockets of a socket unit, ``hotfd run --listen`` its own. Both keep them, so that nobody is
refused while the server is restarted; see sd_listen_fds(3) and systemd.socket(5).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from typing import Any

from hotfd import log
from hotfd.systemd import listen_descriptors
from hotfd.transfer.listening import parse


def activated(specs: Iterable[str]) -> dict[str, socket.socket]:
    """Take the sockets that were passed to this process, by the addresses that the server listens on.

    A socket that no address names is logged and left open: it may be meant for another part of the program.

    Args:
        specs: listen addresses.

    Returns:
        for each address that a socket was passed for, that socket, non-blocking; the caller owns it.

    Raises:
        ValueError: an address cannot be read; the sockets stay open, as they came.
    """
    descriptors = listen_descriptors(os.environ, os.getpid())
    if not descriptors:
        return {}
    addresses = {spec: parse(spec) for spec in specs}
    # Exact addresses first: a wildcard must not take what another address names.
    wanted = sorted(addresses, key=lambda spec: _is_wild(addresses[spec]))
    found: dict[str, socket.socket] = {}
    left = [sock for sock in map(_listening, descriptors) if sock is not None]
    for spec in wanted:
        for sock in left:
            if _names(addresses[spec], sock):
                left.remove(sock)
                sock.setblocking(False)
                found[spec] = sock
                break
    for sock in left:
        log.event(logging.WARNING, "listen-fds-unused", address=_text(sock), descriptor=sock.detach())
    return found


def _listening(fd: int) -> socket.socket | None:
    """Return the stream socket that listens on a descriptor; None, and a line in the log, for anything else."""
    sock = None
    try:
        sock = socket.socket(fileno=fd)
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return sock
    except OSError:
        pass
    if sock is not None:
        sock.detach()
    log.event(logging.WARNING, "listen-fds-unused", address="no stream socket that listens", descriptor=fd)
    return None


def _is_wild(parsed: tuple[int, Any]) -> bool:
    family, address = parsed
    return family != socket.AF_UNIX and (address[1] == 0 or address[0] in {"0.0.0.0", "::"})  # noqa: S104 - compared


def _names(parsed: tuple[int, Any], sock: socket.socket) -> bool:
    """Return whether a listen address stands for this socket."""
    family, address = parsed
    name = sock.getsockname()
    if family == socket.AF_UNIX:
        return sock.family == family and os.path.realpath(os.fsdecode(name)) == os.path.realpath(address)
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or address[1] not in {0, name[1]}:
        return False
    if sock.family == family:
        return bool(name[0] == address[0])
    # systemd's ListenStream=7000 is one socket for both families, ipv6(7) IPV6_V6ONLY.
    both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return both and name[0] == "::" and address[0] == "0.0.0.0"  # noqa: S104 - compared


def _text(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"{name[0]} port {name[1]}" if isinstance(name, tuple) else f"unix:{os.fsdecode(name)}"
