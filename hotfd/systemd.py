"""What passes between a service manager and its service: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

Only the protocol: environment variables, datagrams and descriptor numbers. Who says what, and when, is
decided by the server (:mod:`hotfd.app.notify`) and by the supervisor (:mod:`hotfd.supervisor`), of which the
latter is also a manager to its own servers.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

from hotfd import log

LISTEN_FDS_START: Final = 3
"""The first descriptor that is passed on; sd_listen_fds(3)."""

MAX_LISTEN_FDS: Final = 1024
"""More than any manager passes; a larger number in the environment is a mistake, and is not gone through."""

SUPERVISOR_VARIABLE: Final = "HOTFD_SUPERVISOR"
"""Environment variable of a server under ``hotfd run``: the supervisor's pid."""

WORKER_VARIABLE: Final = "HOTFD_WORKER"
"""Environment variable of a server under ``hotfd run``: the number of the worker that it is, from 1."""

WATCHED_BY: Final = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "SYSTEMD_EXEC_PID", "INVOCATION_ID", SUPERVISOR_VARIABLE, WORKER_VARIABLE}
)
"""Variables that say who watches a process, and not what it does: a successor has them from whom it succeeds, also
where it runs what ran before somebody else watched the service."""

NOTIFY_LIMIT: Final = 0.1
"""Seconds to wait for a place in the manager's queue, which has ten (net.unix.max_dgram_qlen) where several
servers may speak at once. A manager that takes longer hangs, and must not hold up who only tells it something."""

LIMIT_VARIABLE: Final = "X_HOTFD_LIMIT_USEC"
"""Beside ``RELOADING=1``: microseconds after which the handoff is certainly over, or stuck. Names that begin
with ``X_`` are private to the application; sd_notify(3)."""


def notify(*assignments: str, environment: Mapping[str, str] | None = None) -> bool:
    """Send one datagram to ``$NOTIFY_SOCKET``.

    Args:
        assignments: lines such as ``READY=1``; they take effect together.
        environment: where to look for the address; this process's environment when None.

    Returns:
        whether it was sent: False without a manager. One that cannot be told is logged.
    """
    path = (os.environ if environment is None else environment).get("NOTIFY_SOCKET")
    if not path or path[0] not in "/@":
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(NOTIFY_LIMIT)
            sock.connect(address)
            sock.send("\n".join(assignments).encode())
    except OSError as error:
        reason = "its queue is full" if isinstance(error, TimeoutError) else error.strerror or str(error)
        log.event(logging.WARNING, "notify-failed", reason=reason)
        return False
    return True


def reloading(limit: float | None = None) -> tuple[str, ...]:
    """Return the assignments that tell of a handoff's beginning.

    ``MONOTONIC_USEC`` says when, which systemd wants beside ``RELOADING=1``; sd_notify(3).

    Args:
        limit: seconds after which the handoff is certainly over, for a supervisor.
    """
    lines = ("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    return lines if limit is None else (*lines, f"{LIMIT_VARIABLE}={round(limit * 1e6)}")


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float | None:
    """Return within how many seconds the manager expects a sign of life each time, or None when it does not.

    Args:
        environment: where ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are.
        pid: the process that asks; the variables may be meant for another one.
    """
    wanted = environment.get("WATCHDOG_PID")
    if wanted is not None and wanted != str(pid):
        return None
    microseconds = number(environment.get("WATCHDOG_USEC"))
    return microseconds / 1e6 if microseconds else None


def listen_descriptors(environment: MutableMapping[str, str], pid: int) -> list[int]:
    """Take the descriptors that the manager has passed on, and remove the variables that tell of them.

    They become close-on-exec: no child is to keep a socket open without knowing it.

    Args:
        environment: where ``LISTEN_FDS`` and ``LISTEN_PID`` are; they are removed from it.
        pid: the process that asks; descriptors that are meant for another one stay what they are.

    Returns:
        open descriptors, which the caller owns; none when nothing was passed on to this process.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return []
    count = number(environment.get("LISTEN_FDS")) or 0
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    found = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + min(count, MAX_LISTEN_FDS)):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            log.event(logging.ERROR, "listen-fds-wrong", descriptor=fd, announced=count)
            break
        found.append(fd)
    return found


def parse(datagram: bytes) -> dict[str, str]:
    """Return the assignments of a datagram; what is no assignment is left out."""
    lines = (line.partition("=") for line in datagram.decode(errors="replace").split("\n"))
    return {name: value for name, separator, value in lines if separator and name}


def number(text: str | None) -> int | None:
    """Return the number that an assignment has as its value, None for anything else."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 20 else None
