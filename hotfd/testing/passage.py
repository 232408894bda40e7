"""The ways of connections through their handovers, and of what is handed over: where each stands, and what became of it."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

    from hotfd.server.session import Session

AT_WORK: Final = "no-boundary", "its handler works on a frame"
"""Why a unit cannot be handed over: reason code and detail."""


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


@dataclass(slots=True, eq=False)
class Passage:
    """A connection's way through its handovers, whichever session it belongs to.

    Attributes:
        number: which connection it is, from 1 in the order in which they came.
        peername: its client's address.
        boundaries: how many it has stood at after a delivery, and the one before the first.
        handovers: how often it was handed over.
        at_work: its handler was given something, or has begun, and has not stood at a boundary since.
    """

    number: int
    peername: Any
    boundaries: int = 0
    handovers: int = 0
    at_work: bool = True

    def arrive(self) -> Boundary:
        """Come to a boundary; return it."""
        boundary = Boundary(self.number, self.boundaries, self.handovers)
        self.boundaries += 1
        self.at_work = False
        return boundary


class Phase(enum.Enum):
    """Where a unit is between two deliveries; the text of :mod:`hotfd.testing.mover` says how it goes on from there."""

    WORKING = "working"
    DUE = "due"
    OPEN = "open"
    HELD = "held"


@dataclass(slots=True, eq=False)
class Unit:
    """What is handed over at once: a connection by itself, or all of a shared session.

    Attributes:
        session: its latest incarnation.
        name: what it is, for people.
        phase: where it stands.
        handovers: how often it was handed over.
        stayed: why it was not when it was to be, by reason code and detail, and how often.
        timer: ends the time in which it is to come to rest.
        late: that time is over.
    """

    session: Session
    name: str
    phase: Phase = Phase.WORKING
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

    def obstacle(self) -> tuple[str, str] | None:
        """Say why it cannot be handed over now: reason code and detail; None when it can."""
        if self.phase is not Phase.DUE:
            return AT_WORK
        return self.session.obstacle()

    def wait_no_longer(self) -> None:
        """Stop the timer."""
        self.late = False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
