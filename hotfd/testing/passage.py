"""A connection's way through its handovers: where it stands, and what has become of it."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from hotfd.server.session import Session


@dataclass(frozen=True, slots=True)
class Boundary:
    """A frame boundary, for a function that chooses at which of them to hand over.

    Attributes:
        connection: which connection it is, from 1 in the order in which they came.
        number: how many boundaries the connection stood at before; 0 is the one before the first frame.
        handovers: how often the connection was handed over.
    """

    connection: int
    number: int
    handovers: int


class Phase(enum.Enum):
    """Where a session is between two deliveries; the text of :mod:`hotfd.testing.mover` says how it goes on from there."""

    WORKING = "working"
    DUE = "due"
    RESUMING = "resuming"
    OPEN = "open"
    HELD = "held"


@dataclass(slots=True, eq=False)
class Passage:
    """A connection's way through its handovers. ``session`` is its latest incarnation, at these peers."""

    number: int
    session: Session
    peernames: list[Any]
    phase: Phase = Phase.WORKING
    boundaries: int = 0
    handovers: int = 0
    stayed: Counter[tuple[str, str]] = field(default_factory=Counter)
    timer: asyncio.TimerHandle | None = None
    late: bool = False

    @property
    def parked(self) -> bool:
        """Whether every handler of the session waits in one of hotfd's calls."""
        return all(connection._parked for connection in self.session.connections)

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return not self.session.connections

    def wait_no_longer(self) -> None:
        """Stop the timer."""
        self.late = False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
