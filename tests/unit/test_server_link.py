"""Neighbours: who is linked to whom while several generations serve, and who takes whose place.

Three processes in one: each has its own engine, its own links and its own neighbours; the channels between them are real.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hotfd import _core
from hotfd.framing import Lines
from hotfd.server.directory import Verdict
from hotfd.server.engine import Engine
from hotfd.server.link import Link, Links
from hotfd.server.neighbours import MAX_OLDER, Neighbours
from hotfd.state import Codec
from hotfd.transfer.channel import Arrival, Channel
from hotfd.wire import messages as m
from tests.unit.server_rig import MANY_TURNS, until
from tests.unit.wire_support import is_open, nothing_stays_open, on_each_loop, turns

if TYPE_CHECKING:
    from hotfd.errors import ChannelError
    from hotfd.server.connection import Connection

__all__ = ["nothing_stays_open"]


class Listener:
    """A participant that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.takes: type[m.Message] | None = None

    def connected(self, link: Link) -> None:
        self.told.append(("connected", link.generation))

    def disconnected(self, link: Link) -> None:
        self.told.append(("disconnected", link.generation))

    def received(self, link: Link, message: m.Message) -> bool:
        return self.takes is not None and isinstance(message, self.takes)


async def idle(conn: Connection[Any]) -> None:
    """Serve nobody."""


class Departure:
    """What a completed handoff is to ``Neighbours.replaced``."""

    def __init__(self, links: Links, link: Link) -> None:
        self.link = link
        self._links = links

    def close(self) -> None:
        self._links.disconnect(self.link)


class Process:
    """One generation."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.engine = Engine(idle, Lines(), Codec.of(None))
        self.listener = Listener()
        self.engine.links.participants.append(self.listener)
        self.neighbours = Neighbours(self.engine, generation)
        self.channels: list[Channel] = []

    @property
    def links(self) -> Links:
        return self.engine.links

    @property
    def newer(self) -> int | None:
        return self.links.newer.generation if self.links.newer is not None else None

    @property
    def older(self) -> list[int]:
        return sorted(link.generation for link in self.links.older)

    def verdict(self, key: str) -> Verdict:
        return self.engine.rooms.directory.verdict(key)

    def link(self, fd: int, other: int) -> Link:
        """The link that a handoff makes of its channel."""

        def arrived(arrival: Arrival) -> None:
            if not isinstance(arrival.message, m.Linked):
                self.links.received(link, arrival)
            elif not link.newer and link not in self.links.older:
                self.links.connect(link)
            arrival.close()

        def ended(error: ChannelError | None = None) -> None:
            self.links.disconnect(link)
            channel.close()

        channel = Channel(fd, arrived, ended, ended)
        self.channels.append(channel)
        link = Link(channel, pid=os.getpid(), generation=other, newer=other > self.generation)
        channel.start()
        return link

    def settled(self) -> None:
        """The handoff by which this process was replaced is complete."""
        assert self.links.newer is not None
        self.engine.rooms.directory.replaced()
        self.neighbours.replaced(Departure(self.links, self.links.newer))  # type: ignore[arg-type]

    async def die(self) -> None:
        self.neighbours._close()
        for channel in self.channels:
            channel.close()
        await self.engine.stop()


def hand_over(old: Process, new: Process) -> None:
    """Begin a handoff: sessions may move."""
    mine, theirs = _core.channel_pair()
    new.link(theirs, old.generation)
    old.links.connect(old.link(mine, new.generation))


@asynccontextmanager
async def generations(count: int) -> AsyncIterator[list[Process]]:
    """Processes of which each has been replaced by the next, but for the last two: there the handoff is under way."""
    made = [Process(generation) for generation in range(1, count + 1)]
    try:
        for old, new in itertools.pairwise(made):
            hand_over(old, new)
            await until(lambda new=new, old=old: old.generation in new.older)
            if new is not made[-1]:
                old.settled()
                await turns(MANY_TURNS)
        yield made
    finally:
        for process in made:
            await process.die()
        await turns(MANY_TURNS)


pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@on_each_loop
async def test_a_handoff_links_two_processes() -> None:
    async with generations(2) as (one, two):
        assert (one.newer, one.older, two.newer, two.older) == (2, [], None, [1])
        assert two.links.status() == [{"pid": os.getpid(), "generation": 1}]
        await two.die()
        await until(lambda: one.newer is None)
        assert one.verdict("a") is Verdict.CREATE


@on_each_loop
async def test_the_oldest_and_the_newest_know_each_other_before_they_count() -> None:
    async with generations(3) as (one, two, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        assert (one.newer, two.older, two.newer, three.older) == (2, [1], 3, [2])
        assert ("connected", 3) not in one.listener.told
        assert ("connected", 1) not in three.listener.told


@on_each_loop
async def test_when_the_one_between_them_is_replaced_they_are_neighbours() -> None:
    async with generations(3) as (one, two, three):
        two.settled()
        await until(lambda: (one.newer, three.older, two.older) == (3, [1, 2], []))
        assert one.listener.told == [("connected", 2), ("connected", 3), ("disconnected", 2)]
        assert one.verdict("a") is Verdict.MOVE
        assert three.verdict("a") is Verdict.CREATE


@on_each_loop
async def test_when_the_one_between_them_dies_they_are_neighbours() -> None:
    async with generations(3) as (one, two, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        await two.die()
        await until(lambda: (one.newer, three.older) == (3, [1]))
        assert one.listener.told == [("connected", 2), ("connected", 3), ("disconnected", 2)]


@on_each_loop
async def test_a_process_that_ends_takes_no_new_neighbours() -> None:
    async with generations(3) as (one, _, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        await one.die()
        await three.die()
        assert one.listener.told == [("connected", 2), ("disconnected", 2)]
        assert ("connected", 1) not in three.listener.told


@on_each_loop
async def test_nobody_is_introduced_twice() -> None:
    async with generations(3) as (one, two, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        assert two.links.newer is not None
        known = list(one.neighbours._introduced)
        two.neighbours.connected(two.links.newer)
        await turns(MANY_TURNS)
        assert list(one.neighbours._introduced) == known


@on_each_loop
async def test_when_the_newest_fails_nothing_has_changed() -> None:
    async with generations(3) as (one, two, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        await three.die()
        await until(lambda: two.newer is None and not one.neighbours._introduced)
        assert (one.newer, two.older) == (2, [1])
        assert one.verdict("a") is Verdict.MOVE
        four = Process(4)
        try:
            hand_over(two, four)
            await until(lambda: two.older == [1] and four.older == [2] and one.neighbours._introduced)
            two.settled()
            await until(lambda: (one.newer, four.older) == (4, [1, 2]))
        finally:
            await four.die()


@on_each_loop
async def test_when_the_newest_dies_after_all_counted_each_is_alone() -> None:
    async with generations(3) as (one, two, three):
        two.settled()
        await until(lambda: one.newer == 3)
        await three.die()
        await until(lambda: one.newer is None and two.newer is None)
        assert one.verdict("a") is two.verdict("a") is Verdict.ORPHANED


@on_each_loop
async def test_who_was_replaced_and_is_left_alone_sends_the_older_ones_away() -> None:
    async with generations(3) as (one, two, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        await three.die()
        await until(lambda: not one.neighbours._introduced)
        two.engine.rooms.directory.replaced()
        two.neighbours._departed = Departure(two.links, two.links.older[0])  # type: ignore[assignment]
        two.neighbours._let_part(two.links.older[0])
        await until(lambda: one.newer is None)
        assert one.verdict("a") is Verdict.ORPHANED


@on_each_loop
async def test_four_generations_all_end_up_with_the_newest() -> None:
    async with generations(4) as (one, two, three, four):
        three.settled()
        await until(lambda: (one.newer, two.newer, three.newer, four.older) == (4, 4, 4, [1, 2, 3]))


@on_each_loop
async def test_one_that_counts_only_when_the_next_handoff_has_begun_is_introduced_then() -> None:
    async with generations(3) as (one, two, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        four = Process(4)
        try:
            hand_over(three, four)
            await until(lambda: four.older == [3])
            two.settled()
            await until(lambda: len(four.neighbours._introduced) == 2)
            three.settled()
            await until(lambda: (one.newer, two.newer, four.older) == (4, 4, [1, 2, 3]))
        finally:
            await four.die()


@on_each_loop
async def test_who_notices_late_that_the_next_is_dead_finds_the_newest_over_all_that_came_since() -> None:
    async with generations(3) as (one, two, three):
        await until(lambda: one.neighbours._introduced and three.neighbours._introduced)
        (link,) = three.links.older
        three.links.disconnect(link)  # it has noticed that the second is dead
        assert three.older == [1]
        four = Process(4)
        try:
            hand_over(three, four)
            await until(lambda: four.older == [3])
            three.settled()
            await until(lambda: four.older == [1, 3])
            assert one.newer == 2
            assert [known.generation for known in one.neighbours._introduced] == [4]
            await two.die()
            await until(lambda: one.newer == 4)
            assert ("connected", 3) not in one.listener.told
        finally:
            await four.die()


@on_each_loop
async def test_an_introduction_without_descriptors_leaves_the_older_one_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    async with generations(2) as (one, two):
        one.settled()
        await turns(MANY_TURNS)
        three = Process(3)
        try:
            mine, theirs = _core.channel_pair()
            three.link(theirs, 2)
            with monkeypatch.context() as patch:
                patch.setattr(_core, "channel_pair", exhausted)
                two.links.connect(two.link(mine, 3))
            two.settled()
            await turns(MANY_TURNS)
            assert (one.newer, two.older, three.older) == (2, [1], [2])
            assert one.verdict("a") is Verdict.MOVE
        finally:
            await three.die()


@on_each_loop
async def test_there_is_an_end_to_how_many_older_ones_a_process_takes() -> None:
    async with generations(2) as (_, two):
        (link,) = two.links.older
        pairs = [_core.channel_pair() for _ in range(MAX_OLDER + 1)]
        for mine, _ in pairs:
            two.neighbours._channel_came(link, m.Elder(os.getpid(), 1), mine)
        assert [is_open(mine) for mine, _ in pairs] == [True] * MAX_OLDER + [False]
        for _, theirs in pairs:
            os.close(theirs)
        await until(lambda: not two.neighbours._introduced)


@on_each_loop
async def test_a_channel_that_the_wrong_neighbour_brings_is_closed() -> None:
    async with generations(2) as (one, two):
        (older,), newer = two.links.older, one.links.newer
        assert newer is not None
        wrong: list[tuple[Process, Link, m.Message]] = [
            (two, older, m.Newest(1, 9)),
            (one, newer, m.Elder(1, 9)),
            (one, newer, m.Handover()),
        ]
        for process, link, message in wrong:
            mine, theirs = _core.channel_pair()
            process.neighbours._channel_came(link, message, mine)
            assert not is_open(mine)
            os.close(theirs)


@on_each_loop
async def test_a_process_that_is_to_be_replaced_takes_nothing_more_until_that_has_failed() -> None:
    async with generations(2) as (_, two):
        (link,) = two.links.older
        await two.neighbours.quiet()
        mine, theirs = _core.channel_pair()
        two.neighbours._channel_came(link, m.Handover(), mine)
        assert not is_open(mine)
        os.close(theirs)
        two.neighbours.loud()
        mine, theirs = _core.channel_pair()
        two.neighbours._channel_came(link, m.Handover(), mine)
        assert link.handovers == 1
        os.close(theirs)
        await until(lambda: link.handovers == 0)


# ---------------------------------------------------------------- links by themselves


def linked(links: Links, *, newer: bool, generation: int = 1) -> Link:
    class Silent:
        def send(self, message: m.Message, descriptors: object = (), owned: object = ()) -> None:
            if isinstance(message, m.Released):
                raise BufferError("full")  # noqa: TRY004 - as a channel does

    link = Link(Silent(), pid=1, generation=generation, newer=newer)  # type: ignore[arg-type]
    links.connect(link)
    return link


def test_a_neighbour_goes_once() -> None:
    listener = Listener()
    links = Links([listener])
    link = linked(links, newer=False)
    links.disconnect(link)
    links.disconnect(link)
    assert listener.told == [("connected", 1), ("disconnected", 1)]
    assert not link.up
    assert links.older == []


def test_a_neighbour_goes_only_when_what_it_has_handed_over_is_here() -> None:
    listener = Listener()
    links = Links([listener])
    link = linked(links, newer=False)
    link.handovers = 2
    links.disconnect(link)
    links.handover_over(link)
    assert listener.told == [("connected", 1)]
    links.handover_over(link)
    assert listener.told[1:] == [("disconnected", 1)]


def test_a_handover_that_is_over_does_not_part_neighbours() -> None:
    listener = Listener()
    links = Links([listener])
    link = linked(links, newer=False)
    link.handovers = 1
    links.handover_over(link)
    assert link.up
    assert links.older == [link]


def test_a_message_goes_to_the_first_who_takes_it_and_else_to_nobody() -> None:
    first, second = Listener(), Listener()
    links = Links([first, second])
    link = linked(links, newer=True)
    arrival = Arrival(m.Wanted("a"), [], False, 1, -1)
    assert not links.received(link, arrival)
    second.takes = m.Wanted
    assert links.received(link, arrival)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_message_that_brings_a_channel_brings_exactly_one(count: int) -> None:
    came: list[int] = []
    links = Links()
    links.on_channel = lambda link, message, fd: came.append(fd)
    link = linked(links, newer=False)
    arrival = Arrival(m.Handover(), list(range(1000, 1000 + count)), False, 1, -1)
    assert links.received(link, arrival)
    assert came == ([1000] if count == 1 else [])
    assert len(arrival.descriptors) == (0 if count == 1 else count), "what nobody took is closed with the rest"


def test_a_neighbour_that_reads_nothing_is_told_no_more(caplog: pytest.LogCaptureFixture) -> None:
    link = linked(Links(), newer=True)
    with caplog.at_level("WARNING", "hotfd"):
        link.send(m.Released("a"))
    assert "neighbour-does-not-read neighbour=1" in caplog.text
