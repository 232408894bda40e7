"""The new process lets go of what a handoff has hung onto its connections, and its clients notice nothing of that."""

from __future__ import annotations

import os
from typing import Any, cast

from hotfd import _core
from hotfd.framing import Lines
from hotfd.server.engine import Engine
from hotfd.server.takeover import UNHOOKED, Takeover
from hotfd.state import Codec
from hotfd.transfer.touch import Mark, TouchMap
from tests.unit.wire_support import on_each_loop, turns


class Hooked:
    """A connection, as far as its hooks go."""

    def __init__(self, mark: Mark) -> None:
        self.mark: Mark | None = mark

    def _unhook(self) -> None:
        self.mark = None


async def nobody(conn: object) -> None:
    """Serve nobody."""


@on_each_loop
async def test_many_connections_are_unhooked_a_few_in_each_turn_and_the_map_is_closed_after_the_last() -> None:
    mine, theirs = _core.channel_pair()
    takeover = Takeover.of_remainder(mine, Engine(cast("Any", nobody), Lines(), Codec.of(None)), 1)
    touches, fd = TouchMap.create()
    os.close(fd)
    connections = [Hooked(Mark(touches, slot)) for slot in range(3 * UNHOOKED + 1)]
    takeover._touch = touches
    takeover._taken.extend(cast("Any", connections))
    takeover._unhook()
    left = [connection for connection in connections if connection.mark is not None]
    assert len(left) == len(connections) - UNHOOKED
    assert left[0].mark is not None
    left[0].mark()
    assert touches.touched(0), "the map is open as long as somebody may write to it"
    assert takeover._touch is None
    await turns(1)
    assert sum(connection.mark is not None for connection in connections) == UNHOOKED + 1
    await turns(2)
    assert all(connection.mark is None for connection in connections)
    assert touches.touched(1), "closed, it knows nothing any more: doubt counts"
    takeover.close()
    os.close(theirs)


def test_a_mark_in_a_map_that_is_closed_says_nothing() -> None:
    touches, fd = TouchMap.create()
    os.close(fd)
    mark = Mark(touches, 1)
    touches.close()
    mark()
    touches.rest(1)
    assert not touches.at_rest(1)
