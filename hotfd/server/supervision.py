"""Who watches this process, and whether a handoff, which ends it, would take the service down."""

from __future__ import annotations

import os
from typing import Final

from hotfd.errors import HandoffRefused
from hotfd.systemd import SUPERVISOR_VARIABLE

_WATCHES_ONE: Final = {
    "tini": "ends the container",
    "docker-init": "ends the container",
    "dumb-init": "ends the container",
    "catatonit": "ends the container",
    "runsv": "starts another server beside the new process",
    "s6-supervise": "starts another server beside the new process",
    "supervise": "starts another server beside the new process",
    "supervisord": "starts another server beside the new process",
}
"""Programs that watch one child, and what they do when it exits, whoever has taken over from it."""

_MAX_DEPTH: Final = 64
"""Ancestors that are looked at; a chain of parents is short, and /proc may change while it is read."""


def check_supervision() -> None:
    """Refuse what would take the service down when this process exits.

    Raises:
        HandoffRefused: somebody watches this very pid and cannot be told of another.
    """
    if os.getpid() == 1:
        raise HandoffRefused(
            "unsupervised",
            "the server is pid 1, and its exit would end the container; start it with hotfd run, or use --force",
        )
    if under_supervisor():
        return  # it adopts the new process
    # SYSTEMD_EXEC_PID names the process that systemd itself started (systemd.exec(5)); children inherit
    # the variable, so it counts only where it is this process.
    if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        if not os.environ.get("NOTIFY_SOCKET"):
            raise HandoffRefused(
                "unsupervised",
                "systemd would take the exit of this main process for the end of the service; "
                "set Type=notify in the unit, start the server with hotfd run, or use --force",
            )
        return
    parent = os.getppid()
    name = _name(parent)
    if name in _WATCHES_ONE:
        raise HandoffRefused(
            "unsupervised",
            f"process {parent} ({name}) watches this very process, and {_WATCHES_ONE[name]} when it exits; "
            "put hotfd run between the two, or use --force",
        )


def under_supervisor() -> bool:
    """Return whether ``hotfd run`` lives, and is an ancestor of this process, so that it adopts a new one."""
    value = os.environ.get(SUPERVISOR_VARIABLE, "")
    if not value.isdecimal():
        return False
    pid = os.getppid()
    for _ in range(_MAX_DEPTH):
        if pid == int(value):
            return True
        if pid <= 1:
            return False
        pid = _parent(pid)
    return False


def _name(pid: int) -> str:
    """Return a process's name, comm of proc_pid_comm(5); empty when it cannot be known."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
