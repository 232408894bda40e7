"""sd_notify(3): tell a service manager which process is the service's.

Only what a handoff cannot do without: READY when the first process serves, and MAINPID when, and not
before, a new process has taken over for good.
"""

from __future__ import annotations

import logging
import os
import socket

from hotfd import log


def notify(message: str) -> None:
    """Send a message to ``$NOTIFY_SOCKET``; without one, do nothing. A manager that cannot be told is logged."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path or path[0] not in "/@":
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(address)
            sock.send(message.encode())
    except OSError as error:
        log.event(logging.WARNING, "notify-failed", reason=error.strerror)
