"""What the machines of the supervisor want done. Plain values: whoever carries them out decides nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the worker's server."""

    worker: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Learn of a process's end from now on."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal to a process."""

    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a process at once, and say why."""

    pid: int
    why: str


@dataclass(frozen=True, slots=True)
class Serves:
    """A process serves for the worker: the first one, or one that has taken over."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Tell that a server has crashed, and will be started again in so many seconds."""

    worker: int
    status: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The worker is over; nobody serves for it any more."""

    worker: int
    status: int
    meant: bool


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the service manager; see :func:`hotfd.systemd.notify`."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything has ended: leave with this status."""

    status: int


Action = Spawn | Watch | Send | Kill | Serves | Restart | Finished | Notify | Exit
