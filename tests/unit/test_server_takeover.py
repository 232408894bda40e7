"""The new process lets go of what a handoff has hung onto its connections, and its clients notice nothing of that."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from hotfd import _core
from hotfd.errors import HandoffRefused
from hotfd.framing import Lines
from hotfd.server.engine import Engine
from hotfd.server.takeover import UNHOOKED, Takeover
from hotfd.state import Codec
from hotfd.transfer.touch import Mark, TouchMap
from hotfd.wire import messages as m
from tests.unit.wire_support import descriptor_limit, on_each_loop, turns


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


@on_each_loop
async def test_a_process_without_a_descriptor_to_poll_connections_with_says_so_before_anything_moves() -> None:
    old, inherited = _core.channel_pair()
    engine = Engine(cast("Any", nobody), Lines(), Codec.of(None))
    takeover = Takeover(inherited, engine, [], healthy=None, import_state=None)
    setup = m.Setup(m.PROTOCOL, "short of descriptors", 2, os.getpid(), {}, process_schema=False, framings={})
    _core.send_message(old, m.encode(setup))
    await takeover.hello()
    with descriptor_limit(0), pytest.raises(HandoffRefused, match="Too many open files") as refused:
        await takeover.ready()
    assert refused.value.code == "descriptor-limit"
    said = []
    for _ in range(2):
        raw = _core.receive_message(old)
        os.close(raw.pidfd)
        said.append(m.decode(raw.data))
    assert isinstance(said[0], m.Hello)
    assert isinstance(said[1], m.Failed)
    assert said[1].code == "descriptor-limit"
    takeover.close()
    os.close(old)


def test_a_mark_in_a_map_that_is_closed_says_nothing() -> None:
    touches, fd = TouchMap.create()
    os.close(fd)
    mark = Mark(touches, 1)
    touches.close()
    mark()
    touches.rest(1)
    assert not touches.at_rest(1)
