"""A session: what moves as a unit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotfd.server.connection import Connection


class Session:
    """One connection, or several that share state.

    Attributes:
        id: unique across generations, for people and logs.
        connections: its connections.
        gated: whether a handoff holds it at its next boundary.
        stale: its helpers were stopped for a handoff that it has not joined; its handlers are to start again.
        fenced_ns: CLOCK_MONOTONIC when it was fenced last, in nanoseconds.
    """

    __slots__ = ("connections", "fenced_ns", "gated", "id", "stale")

    def __init__(self, id: str) -> None:
        self.id = id
        self.connections: list[Connection[Any]] = []
        self.gated = False
        self.stale = False
        self.fenced_ns = 0

    def gate(self, closed: bool) -> None:
        """With the gate closed no handler of the session is given anything new; open, they go on."""
        if self.gated != closed:
            self.gated = closed
            for connection in self.connections:
                connection._gate(closed)

    def obstacle(self) -> tuple[str, str] | None:
        """Say why the session is at no boundary now.

        Returns:
            None at a boundary; else a reason code and what it is about, for people.
        """
        for connection in self.connections:
            found = connection._obstacle()
            if found is not None:
                return found
        return None

    def stop_helpers(self) -> bool:
        """Cancel what may be cancelled at a boundary; True when nothing of it is left."""
        stopped = [connection._stop_helpers() for connection in self.connections]
        return all(stopped)

    def fence(self) -> None:
        """Neither read nor write any connection from here on."""
        for connection in self.connections:
            connection._stream.fence()
        self.fenced_ns = time.monotonic_ns()

    def resume(self) -> None:
        """Go on after a fence, as if nothing had been."""
        for connection in self.connections:
            connection._stream.unfence()
        self.gate(False)
        for connection in self.connections:
            connection._unfenced()

    @property
    def disturbed(self) -> bool:
        """Whether helpers were stopped, so that handlers must start again to go on."""
        return any(connection._helpers_stopped for connection in self.connections)
