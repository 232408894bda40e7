"""What /proc says of the processes below the supervisor."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from hotfd.systemd import WORKER_VARIABLE
from hotfd.transfer.process import CHANNEL_VARIABLE

_MAX_DEPTH = 64
"""Ancestors that are looked at; a chain of parents is short, and /proc may change while it is read."""

_DEAD = frozenset({"Z", "X", "x"})  # states of a process that has exited; proc_pid_stat(5)

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say something of the machine, and nothing of the process that is looked at."""


@dataclass(frozen=True, slots=True)
class Descendant:
    """A living process below this one.

    Args:
        pid: its pid.
        parent: its parent's pid.
        group: its process group.
    """

    pid: int
    parent: int
    group: int


def descendants() -> list[Descendant]:
    """Return the living processes below this one, parents before their children.

    This process is a subreaper (prctl(2)): whatever loses its parent becomes its child, so nothing that it
    has started, at any depth, is missing here.

    Raises:
        OSError: it cannot be known now, for want of descriptors or memory.
    """
    children: dict[int, list[Descendant]] = {}
    for found in _all():
        children.setdefault(found.parent, []).append(found)
    below, front = [], [os.getpid()]
    while front:
        generation = [child for pid in front for child in children.get(pid, ())]
        below += generation
        front = [child.pid for child in generation]
    return below


def descendant(pid: int) -> Descendant | None:
    """Return a process if it lives below this one; for who is asked about often, and by strangers.

    Raises:
        OSError: as :func:`descendants`.
    """
    found = parent = _look(pid)
    for _ in range(_MAX_DEPTH):
        if parent is None:
            return None
        if parent.parent == os.getpid():
            return found
        parent = _look(parent.parent)
    return None


def lives(pid: int) -> bool:
    """Return whether a process lives; one that waits to be reaped does not.

    Raises:
        OSError: as :func:`descendants`.
    """
    return _look(pid) is not None


def _all() -> Iterator[Descendant]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (found := _look(int(entry))) is not None:
            yield found


def _look(pid: int) -> Descendant | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may hold spaces and parentheses: fields are counted from the last one, which ends it.
            state, parent, group = file.read().rpartition(b")")[2].split()[:3]
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return None  # it has ended
    return None if state.decode() in _DEAD else Descendant(pid, int(parent), int(group))


def environment(pid: int, name: str) -> str | None:
    """Return a variable of the environment that a process was started with; None when unset or not to be known."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return None
    prefix = os.fsencode(name) + b"="
    return next((os.fsdecode(entry[len(prefix) :]) for entry in entries if entry.startswith(prefix)), None)


def worker_of(process: Descendant, roots: dict[int, int]) -> int | None:
    """Return the number of the worker that a process belongs to.

    Args:
        process: a descendant.
        roots: the number by the pid of what was started for each worker, living or not: the process group of
            all that came of it, where the environment cannot be read.
    """
    value = environment(process.pid, WORKER_VARIABLE)
    if value is not None and value.isdecimal():
        return int(value)
    return roots.get(process.group)


def started_by_handoff(pid: int) -> bool:
    """Return whether a handoff has started a process, and its channel may still be open."""
    value = environment(pid, CHANNEL_VARIABLE)
    if value is None or not value.isdecimal():
        return False
    try:
        return os.readlink(f"/proc/{pid}/fd/{value}").startswith("socket:")
    except OSError:
        return False


def command_line(pid: int) -> tuple[list[str], str] | None:
    """Return what a process runs, and in which directory; None when it cannot be known."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = [os.fsdecode(argument) for argument in file.read().split(b"\0")[:-1]]
        return (arguments, os.readlink(f"/proc/{pid}/cwd")) if arguments else None
    except OSError:
        return None


def cpu_time(pid: int) -> int:
    """Return for how long a process has computed, in clock ticks; 0 when it is gone. proc_pid_stat(5), utime and stime."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def survives(pid: int, number: int) -> bool:
    """Return whether a process handles or ignores a signal, and so lives on after it; proc_pid_status(5)."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("SigIgn", "SigCgt")))
        return any(int(mask, 16) >> (number - 1) & 1 for mask in fields.values())
    except (OSError, ValueError):
        return False
