"""One subscriber as its configuration server sees it: what it has said, what it was told, what it may do. No I/O.

It is the state of its connection, and so it goes where that goes when the server is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hotfd.config import push
from hotfd.config.release import MAX_MODULES
from hotfd.errors import PushRefused

if TYPE_CHECKING:
    from hotfd.config.release import Head

BURST: Final = 512.0
"""Messages that a subscriber may send at once: after a connect, all its modules' releases, reports and schemas."""

RATE: Final = 64.0
"""Messages in an interval after that: twenty with reports, the releases of a large publish, and a question."""


@dataclass
class Subscriber:
    """A subscriber.

    Attributes:
        server: the id of its process; empty until it has subscribed.
        service: its service.
        zone: its zone.
        host: its host.
        modules: what it hears of here.
        asked: what it wants to hear of.
        told: by module, the sequence of the newest head that it knows.
        wanted: releases that it has asked for and has not got yet, as module, version and digest.
        left: how many messages it may send at once.
        counted: when that was counted, in seconds of the machine's monotonic clock.
    """

    server: str = ""
    service: str = ""
    zone: str = ""
    host: str = ""
    modules: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)
    wanted: list[tuple[str, int, str]] = field(default_factory=list)
    left: float = BURST
    counted: float = 0.0

    def hear(self, message: push.Request, now: float, interval: float) -> None:
        """Check a message, and note what it says.

        Args:
            message: from the subscriber.
            now: seconds of the machine's monotonic clock.
            interval: the server's, in seconds.

        Raises:
            PushRefused: the subscriber may not say that; its connection ends.
        """
        self._count(now, interval)
        match message:
            case push.Subscribe():
                self._subscribe(message)
            case _ if not self.server:
                raise PushRefused("malformed", "the first message of a connection is a subscription")
            case push.Want(module=module):
                self._check_module(module)
                key = (message.module, message.version, message.sha256)
                if len(self.wanted) >= 2 * MAX_MODULES:
                    raise PushRefused("too-many", f"{len(self.wanted)} releases are wanted and not delivered yet")
                if key not in self.wanted:
                    self.wanted.append(key)
            case push.Report():
                for report in message.reports:
                    self._check_module(report.module)
                    if report.server != self.server:
                        raise PushRefused("malformed", "a report of another server than the one that has subscribed")
            case push.Declare(module=module):
                self._check_module(module)
            case push.Lookup():
                pass

    def _count(self, now: float, interval: float) -> None:
        if self.counted:
            self.left = min(BURST, self.left + max(0.0, now - self.counted) * RATE / interval)
        self.counted = now
        self.left -= 1
        if self.left < 0:
            raise PushRefused("too-many", f"more than {BURST:.0f} messages at once, or {RATE:.0f} an interval")

    def _subscribe(self, message: push.Subscribe) -> None:
        if message.protocol != push.PROTOCOL:
            raise PushRefused(
                "protocol",
                f"protocol {message.protocol} is not spoken here, but {push.PROTOCOL}; use versions of hotfd that agree",
            )
        if self.server:
            raise PushRefused("malformed", "a connection is subscribed once")
        if not message.server:
            raise PushRefused("malformed", "a subscriber has an id")
        self.server, self.service = message.server, message.service
        self.zone, self.host = message.zone, message.host
        self.told = dict(message.have)

    def admit(self, offered: tuple[str, ...], asked: tuple[str, ...]) -> None:
        """Note which of the modules that it asked for are served.

        Raises:
            PushRefused: none is.
        """
        self.asked = list(dict.fromkeys(asked))
        self.modules = [module for module in self.asked if module in offered]
        if not self.modules:
            raise PushRefused(
                "unknown-module", f"here are {', '.join(offered)}; name the servers of {', '.join(asked)}"[:1000]
            )
        self.told = {module: self.told[module] for module in self.modules if module in self.told}

    def still(self, offered: tuple[str, ...]) -> bool:
        """Return whether it hears of all of its modules that are served, and of no others."""
        return self.modules == [module for module in self.asked if module in offered]

    def _check_module(self, module: str) -> None:
        if module not in self.modules:
            raise PushRefused("malformed", f"module {module!r} is none that this connection is subscribed to")

    def digest(self, heads: Mapping[str, Head]) -> list[Head]:
        """Return the heads to tell, of those that are known: none that is older than what the subscriber knows."""
        found = []
        for module in self.modules:
            head = heads.get(module)
            if head is not None and head.sequence >= self.told.get(module, 0):
                self.told[module] = head.sequence
                found.append(head)
        return found
