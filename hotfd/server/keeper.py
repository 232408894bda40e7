"""Whom a connection tells what happens to it: who keeps it, and who moves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hotfd.config.snapshots import Snapshot
    from hotfd.server.bus import Bus
    from hotfd.server.connection import Connection
    from hotfd.server.poller import Poller
    from hotfd.server.rooms import Rooms
    from hotfd.server.session import Session


class Mover(Protocol):
    """Who moves sessions: what he must hear of them."""

    def at_boundary(self, session: Session) -> None:
        """A gated session may have come to a boundary, or is over."""

    def left_boundary(self, session: Session) -> None:
        """A fenced session is to end here, or its handler was woken by somebody else."""

    def grown(self, session: Session) -> None:
        """A connection has joined a gated session."""

    def appeared(self, session: Session) -> None:
        """A connection has left a shared session, and is one by itself now."""


class Keeper(Protocol):
    """Who keeps the connections: what a connection tells about itself."""

    @property
    def rooms(self) -> Rooms:
        """The shared sessions."""

    @property
    def bus(self) -> Bus:
        """What is published among all connections."""

    @property
    def poller(self) -> Poller:
        """Who reads from all connections."""

    def release_for(self, key: str) -> Snapshot | None:
        """Return what a session that begins now holds of the configuration; None for a server without one."""

    def at_boundary(self, session: Session) -> None:
        """A gated session may have come to a boundary, or is over."""

    def left_boundary(self, session: Session) -> None:
        """A fenced session is to end here, or its handler was woken by somebody else."""

    def start_handler(self, connection: Connection[Any]) -> None:
        """Input has come for a connection whose handler does not run yet."""

    def connection_ending(self, connection: Connection[Any]) -> None:
        """The handler is over, and the connection ends here."""

    def connection_closed(self, connection: Connection[Any]) -> None:
        """The connection's descriptor is closed."""
