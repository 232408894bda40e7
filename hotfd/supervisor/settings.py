"""What an operator asks of ``hotfd run``."""

from __future__ import annotations

from dataclasses import dataclass, field

from hotfd.supervisor.service import STOP_TIMEOUT
from hotfd.supervisor.worker import Policy


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for.

    Attributes:
        command: the server's program and arguments.
        name: the service's name.
        pidfile: where the pid file is to be, or None.
        workers: how many servers.
        listen: addresses whose sockets the supervisor makes, and every server gets.
        policy: when servers are started again, and when they count as hung.
        stop_timeout: seconds from the order to stop until what is left is killed.
    """

    command: tuple[str, ...]
    name: str
    pidfile: str | None = None
    workers: int = 1
    listen: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    stop_timeout: float = STOP_TIMEOUT
