"""Taking back what was committed to a new process that is certainly dead (G5)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hotfd import log
from hotfd.errors import StateError
from hotfd.server.moving import Moving, reset
from hotfd.server.snapshot import Readers

if TYPE_CHECKING:
    from hotfd.server.engine import Engine
    from hotfd.server.escrow import Newcomer
    from hotfd.transfer.touch import TouchMap
    from hotfd.wire.sender import Sender


def take_back(engine: Engine, machine: Sender, moving: Moving, touch: TouchMap | None, *, one_unit: bool) -> None:
    """Serve again what nobody else serves, and end what cannot be served.

    Args:
        engine: serves what comes back.
        machine: the protocol's state; it decides about each session.
        moving: the handoff's book, with the escrow.
        touch: what the new process has touched; None when it was given nothing.
        one_unit: all sessions share state: one that is touched is all of them.
    """
    all_lost = one_unit and touch is not None and _anything_touched(machine, moving, touch)

    def lost(slot: int) -> bool:
        return all_lost or touch is None or touch.touched(slot)

    result = machine.take_back(lost)
    moving.resume_uncommitted()
    read = Readers.of(engine)
    for id in result.restore:
        try:
            moving.restore_committed(id, read)
        except StateError as error:  # it was written here a moment ago; then it cannot be continued
            log.event(logging.ERROR, "session-not-restored", session=id, reason=str(error))
            moving.close_committed(id)
    for id in result.lost:
        moving.close_committed(id)
    for newcomer in moving.escrow.take_newcomers():
        _take_newcomer(engine, moving, newcomer, lost=lost(newcomer.slot))


def _anything_touched(machine: Sender, moving: Moving, touch: TouchMap) -> bool:
    return any(touch.touched(id) for id in machine.sessions) or any(
        touch.touched(newcomer.slot) for newcomer in moving.escrow.newcomers
    )


def _take_newcomer(engine: Engine, moving: Moving, newcomer: Newcomer, *, lost: bool) -> None:
    """A connection that the new process had accepted: fresh, unless it was touched."""
    if lost:
        reset(newcomer.fd)
        moving.tally.count("closed", 1, "lost-in-new-process")
    else:
        engine.welcome_descriptor(newcomer.listener, newcomer.fd)
        moving.tally.count("returned", 1)
