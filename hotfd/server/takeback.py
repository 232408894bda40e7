"""Taking back what was committed to a new process that is certainly dead (G5).

A session that the new process has not touched is here as it was at its cut-over, and goes on. Of one that it has
touched nobody knows what its client has seen, and it is reset. Who says so are two witnesses: the touch map, and
the kernel's counters (:mod:`hotfd.server.witness`).

Sessions that share process-wide state (``cutover="together"``) are one unit: when one is touched, that state may have
changed, and the others would go on with an older one. The operator says whether they shall.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from hotfd import log
from hotfd.errors import StateError
from hotfd.faults import Point, reach
from hotfd.server.snapshot import Readers
from hotfd.server.witness import used
from hotfd.wire.sender import Phase

if TYPE_CHECKING:
    from hotfd.server.engine import Engine
    from hotfd.server.escrow import Newcomer
    from hotfd.server.moving import Moving
    from hotfd.transfer.touch import TouchMap
    from hotfd.wire.sender import Sender

Unit = Literal["session", "close", "stale"]
"""What is touched as one: each session by itself; or all, which are then closed, or go on with the older state."""


class _Verdicts:
    """What is known of each session that the dead process had.

    Args:
        machine: the protocol's state.
        moving: the handoff's book, with the escrow and the counters.
        touch: what the new process has touched; None when it was given nothing.
        unit: what is touched as one.
    """

    def __init__(self, machine: Sender, moving: Moving, touch: TouchMap | None, unit: Unit) -> None:
        self._moving = moving
        self._touch = touch
        self._touched = {id for id in machine.sessions if self._is_touched(id)}
        newcomers = moving.escrow.newcomers
        # A process that has settled notes no touches any more: then doubt counts, as it does in the machine.
        settled = machine.phase is Phase.SETTLED
        self._newcomers = {newcomer.slot for newcomer in newcomers if settled or self._is_used(newcomer)}
        unit_touched = unit != "session" and bool(self._touched or self._newcomers)
        self._all_lost = unit_touched and unit == "close"
        self.stale = unit_touched and unit == "stale"

    def _is_touched(self, id: int) -> bool:
        bundle = self._moving.escrow.held(id)
        if bundle is None:
            return False  # it is not committed
        if self._touch is None or self._touch.touched(id):
            return True
        if self._moving.witness.acted(bundle):
            log.event(logging.WARNING, "touched-untold", session=bundle.record.id)
            return True
        return False

    def _is_used(self, newcomer: Newcomer) -> bool:
        return self._touch is None or self._touch.touched(newcomer.slot) or used(newcomer.fd)

    def spent(self, id: int) -> bool:
        """Whether a session goes on though it was touched: its byte streams are whole, and only its state is older."""
        return self.stale and id in self._touched and self._touch is not None and self._touch.at_rest(id)

    def lost(self, id: int) -> bool:
        """Whether a session cannot go on."""
        return self._all_lost or (id in self._touched and not self.spent(id))

    def newcomer_lost(self, newcomer: Newcomer) -> bool:
        """Whether a connection that the new process accepted cannot go on: there is no older state of it."""
        return self._all_lost or newcomer.slot in self._newcomers


def take_back(engine: Engine, machine: Sender, moving: Moving, touch: TouchMap | None, unit: Unit) -> None:
    """Serve again what nobody else serves, and end what cannot be served.

    Args:
        engine: serves what comes back.
        machine: the protocol's state; it decides about each session.
        moving: the handoff's book, with the escrow.
        touch: what the new process has touched; None when it was given nothing.
        unit: what is touched as one.
    """
    verdicts = _Verdicts(machine, moving, touch, unit)
    reach(Point.OLD_VERDICT)
    result = machine.take_back(verdicts.lost)
    moving.resume_uncommitted()
    read = Readers.of(engine)
    for id in result.restore:
        try:
            if verdicts.stale:
                moving.restore_committed(id, read, spent=verdicts.spent(id), reason="stale")
            else:
                moving.restore_committed(id, read)
        except StateError as error:  # it was written here a moment ago; then it cannot be continued
            log.event(logging.ERROR, "session-not-restored", session=id, reason=str(error))
            moving.close_committed(id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must not pay for it
            log.event(logging.ERROR, "session-not-restored", session=id, exc_info=error)
            moving.close_committed(id)
    for id in result.lost:
        moving.close_committed(id)
    for newcomer in moving.escrow.take_newcomers():
        lost = verdicts.newcomer_lost(newcomer)
        try:
            _take_newcomer(engine, moving, newcomer, lost=lost)
        except Exception as error:  # noqa: BLE001 - as above
            log.event(logging.ERROR, "session-not-restored", exc_info=error)
            moving.close_newcomer(newcomer)
    reach(Point.OLD_TAKEN_BACK)


def _take_newcomer(engine: Engine, moving: Moving, newcomer: Newcomer, *, lost: bool) -> None:
    """A connection that the new process had accepted: fresh, unless it was touched."""
    reach(Point.OLD_NEWCOMER_BACK)
    if lost:
        moving.close_newcomer(newcomer)
    else:
        engine.welcome_descriptor(newcomer.listener, newcomer.fd)
        moving.tally.count("returned", 1)
