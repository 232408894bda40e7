"""The releases of a handoff, as they come to a new process: what the test plays is the old one."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import hotfd
from hotfd import _core
from hotfd.config.carry import Luggage, carry
from hotfd.config.slots import Slots, Staged
from hotfd.errors import HandoffRefused
from hotfd.framing import Lines
from hotfd.server import releases
from hotfd.server.engine import Engine
from hotfd.server.snapshot import Readers
from hotfd.server.takeover import Takeover
from hotfd.state import Codec
from hotfd.transfer.channel import Channel, close_all
from hotfd.transfer.touch import TouchMap
from hotfd.wire import messages as m
from tests.unit.config_support import Rules, Shelf
from tests.unit.server_rig import Rig, rig, until
from tests.unit.wire_support import LIMIT, nothing_stays_open, on_each_loop

if TYPE_CHECKING:
    from hotfd.config.snapshots import Snapshot
    from hotfd.transfer.channel import Arrival

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")

STRANGE = "\N{OLD PERSIAN SIGN A}" * 80
"""A key that takes four bytes a character."""


class Before(msgspec.Struct, frozen=True):
    values: dict[str, dict[str, dict[str, int]]]


class After(msgspec.Struct, frozen=True):
    values: dict[str, dict[str, dict[str, bool]]]


async def talk(conn: Any) -> None:
    async for _ in conn:
        pass


def held(count: int) -> tuple[Slots, list[Snapshot]]:
    """Return slots, and what sessions hold of so many releases, none of which the new program can read."""
    slots, shelf = Slots([hotfd.Config("arena", Before, source="fake:")]), Shelf()
    found = []
    for number in range(count):
        head = shelf.publish("arena", values={STRANGE: {STRANGE: {f"{place}{STRANGE}": number for place in range(3)}}})
        assert head.stable is not None
        slots.stage([Staged(head, slots.know(slots.config("arena").compile(shelf.releases[head.stable.sha256])))])
        found.append(slots.begin("a"))
    return slots, found


class Old:
    """The old process's end of the channel."""

    def __init__(self, fd: int) -> None:
        self.heard: list[m.Message] = []
        self.channel = Channel(fd, self._on_message, lambda error: None, lambda: None)
        self.channel.start()

    def _on_message(self, arrival: Arrival) -> None:
        self.heard.append(arrival.message)
        arrival.close()

    def begin(self, *, announced: bool = True, **options: Any) -> None:
        self.channel.send(
            m.Setup(m.PROTOCOL, "h1", 2, os.getpid(), Codec.of(None).schema, False, {}, releases=announced, **options)
        )

    def bring(self, *pieces: bytes) -> None:
        memfd = _core.memfd_seal("test", list(pieces))
        self.channel.send(m.Releases(), [memfd], owned=[memfd])

    def listeners(self) -> None:
        touch, fd = TouchMap.create()
        touch.close()
        self.channel.send(m.Listeners([], False), [fd], owned=[fd])

    async def hello(self) -> m.Hello:
        await until(lambda: self.heard)
        (hello,) = self.heard
        assert isinstance(hello, m.Hello)
        return hello


@asynccontextmanager
async def takeover(*configs: hotfd.Config[Any]) -> AsyncIterator[tuple[Old, Takeover, Engine]]:
    """Begin a takeover by a program with this configuration."""
    mine, theirs = _core.channel_pair()
    engine = Engine(talk, Lines(), Codec.of(None), slots=Slots(configs) if configs else None)
    old, new = Old(mine), Takeover(theirs, engine, [], healthy=None, import_state=None)
    try:
        yield old, new, engine
    finally:
        new.done.cancel()
        new.close()
        old.channel.close()
        await engine.stop()


@on_each_loop
async def test_what_cannot_be_read_fits_the_hello_however_much_it_is() -> None:
    slots, snapshots = held(m.MAX_UNREADABLE + 8)
    async with takeover(hotfd.Config("arena", After, source="fake:")) as (old, new, _):
        old.begin()
        old.bring(carry(slots, snapshots))
        await new.hello()
        hello = await old.hello()
        assert hello.unreadable is None, "nothing is wrong with the states"
        assert len(hello.unreadable_releases) == m.MAX_UNREADABLE


@on_each_loop
async def test_a_hello_with_large_types_goes_without_what_cannot_be_read() -> None:
    slots, snapshots = held(m.MAX_UNREADABLE)
    large = {"field": "x" * (m.MAX_PACKET - 8192)}
    async with takeover(hotfd.Config("arena", After, source="fake:")) as (old, new, _):
        old.begin()
        old.bring(carry(slots, snapshots))
        await new._hear()
        hello = m.Hello(m.PROTOCOL, 1, "", {}, 1, 1, schema=large, unreadable_releases=new._releases.unreadable)
        new._say_hello(hello)
        assert (await old.hello()) == msgspec.structs.replace(hello, unreadable_releases={})


def nothing(old: Old) -> None:
    old.channel.send(m.Releases())


def a_pipe(old: Old) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    old.channel.send(m.Releases(), [reader], owned=[reader])


def unsealed(old: Old) -> None:
    memfd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(memfd, b"x")
    old.channel.send(m.Releases(), [memfd], owned=[memfd])


def damaged(old: Old) -> None:
    old.bring(b"\xc1")


def too_much(old: Old) -> None:
    old.bring(b"x" * 100)


@pytest.mark.parametrize("bring", [nothing, a_pipe, unsealed, damaged, too_much])
@on_each_loop
async def test_releases_that_do_not_come_as_they_should_end_the_handoff_with_a_reason(
    bring: Callable[[Old], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if bring is too_much:
        monkeypatch.setattr(releases, "MAX_CARRIED", 10)
    async with takeover(hotfd.Config("arena", After, source="fake:")) as (old, new, engine):
        old.begin()
        bring(old)
        with pytest.raises(HandoffRefused):
            await new.hello()
            await new.done
        assert engine.slots is not None
        assert engine.slots.running is None


@on_each_loop
async def test_releases_that_nobody_announced_end_the_handoff() -> None:
    slots, snapshots = held(1)
    async with takeover() as (old, new, _):
        old.begin(announced=False)
        old.bring(carry(slots, snapshots))
        await new.hello()
        with pytest.raises(HandoffRefused, match="nobody has announced"):
            await new.done


@on_each_loop
async def test_releases_that_come_twice_are_taken_twice() -> None:
    slots, snapshots = held(2)
    async with takeover(hotfd.Config("arena", Before, source="fake:")) as (old, new, engine):
        old.begin()
        old.bring(carry(slots, snapshots[:1]))
        await new.hello()
        old.bring(carry(slots, snapshots[1:]))
        luggage = new._releases.luggage
        assert luggage is not None
        await until(lambda: set(luggage._held) == {snapshot.serial for snapshot in snapshots})
        assert [luggage.snapshot(one.serial).versions for one in snapshots] == [{"arena": 1}, {"arena": 2}]
        assert engine.slots is not None
        assert engine.slots.begin("a").versions == {"arena": 2}


@on_each_loop
async def test_an_old_process_that_dies_while_its_releases_are_read_leaves_nothing_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots, snapshots = held(1)
    async with takeover(hotfd.Config("arena", Before, source="fake:")) as (old, new, engine):
        monkeypatch.setattr(new._releases, "unpack", dying(new, new._releases.unpack))
        old.begin()
        old.bring(carry(slots, snapshots))
        await new.hello()
        luggage = new._releases.luggage
        assert luggage is not None
        assert not luggage._held
        assert not old.heard
        assert engine.slots is not None
        assert engine.slots.begin("a").versions == {"arena": 1}, "what ran there runs here"


def dying(new: Takeover, unpack: Callable[[], Any]) -> Callable[[], Any]:
    async def run() -> None:
        new._orphaned()
        await unpack()

    return run


async def test_more_than_the_new_process_takes_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "MAX_CARRIED", 10)
    slots, snapshots = held(1)
    mine, theirs = _core.channel_pair()
    channel = Channel(mine, lambda arrival: None, lambda error: None, lambda: None)
    try:
        with pytest.raises(HandoffRefused, match="too-large"):
            releases.send_releases(channel, slots, snapshots)
    finally:
        channel.close()
        os.close(theirs)
        await asyncio.sleep(0)


async def echo(conn: Any) -> None:
    async for line in conn:
        await conn.send(line)


def with_own(made: Rig, **arguments: Any) -> Slots:
    """Give the old process a configuration."""
    slots = made.engine.slots = Slots([hotfd.Config("arena", Rules, initial=Rules(1), **arguments)])
    assert slots.start()
    return slots


@on_each_loop
async def test_a_checkpoint_of_a_session_that_is_offered_takes_it_back_and_sends_what_it_holds_now() -> None:
    async with rig(echo) as made:
        slots = with_own(made)
        await made.client()
        (id,) = await made.offered()
        before = made.session.release
        assert [type(message) for message in made.heard()] == [m.Releases, m.OfferPart]
        slots.publish("arena", Rules(2))
        assert made.session.checkpoint() == Rules(2)
        made.say(m.Accept([id]))
        await until(lambda: made.moving.gate.has_ready)
        await made.offered_again(id + 1)
        revoke, sent, offer = made.received()
        assert revoke[0] == m.Revoke([id])
        luggage = Luggage(Slots([hotfd.Config("arena", Rules, initial=Rules(9))]))
        luggage.unpack(_core.memfd_load(sent[1][0], 1 << 20))
        assert made.session.release is not before
        assert made.session.release is not None
        assert luggage.snapshot(made.session.release.serial).value == Rules(2)
        close_all([*sent[1], *offer[1]])


@on_each_loop
async def test_a_room_that_is_taken_back_holds_what_it_held_though_nobody_else_does() -> None:
    async def talk(conn: Any) -> None:
        async for word in conn:
            if word == b"in":
                await conn.join("room")
            await conn.send(b"%d" % conn.config.size)

    async with rig(talk) as made:
        slots = with_own(made)
        clients = [await made.client() for _ in range(2)]
        for client in clients:
            client.say(b"in\n")
            await client.hears(b"1\n")
        await until(lambda: all(session.obstacle() is None for session in made.sessions))
        (id,) = await made.offered()
        for size in (2, 3):  # so that what the room holds is neither in force nor was so before
            slots.publish("arena", Rules(size))
            slots.begin("x")
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed == 1)
        close_all([fd for _, descriptors in made.received() for fd in descriptors])
        gc.collect()
        assert not made.sessions
        made.moving.restore_committed(id, Readers.of(made.engine))
        assert made.session.key == "room"
        for client in clients:
            client.say(b"?\n")
            await client.hears(b"1\n")


@on_each_loop
async def test_releases_that_there_is_no_descriptor_for_leave_the_session_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig(echo) as made:
        with_own(made)
        client = await made.client()

        def full(name: str, pieces: list[bytes]) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as broken:
            broken.setattr(_core, "memfd_seal", full)
            with pytest.raises(HandoffRefused, match="descriptor-limit"):
                await made.offered()
        task = made.moving.revoke_all()
        assert task is not None
        await task
        client.say(b"x\n")
        await client.hears(b"x\n")


@on_each_loop
async def test_of_several_refusals_one_about_a_state_says_more_of_the_new_version_than_one_about_a_release() -> None:
    async with rig(echo) as made:
        for _ in range(3):
            await made.client()
        first, second, third = await made.offered()
        for id, code in ((first, "config-unreadable"), (second, "state-decode"), (third, "config-unreadable")):
            made.say(m.Refuse([m.Refusal(id, code, "why")]))
        await until(lambda: not made.moving.outstanding)
        assert made.moving.first_refusal == m.Refusal(second, "state-decode", "why")


@pytest.mark.parametrize("fails", ["when it is read", "when it is first used"])
@on_each_loop
async def test_a_new_process_that_cannot_use_what_came_into_force_while_it_started_does_not_serve(fails: str) -> None:
    def refuse(value: Rules) -> None:
        if value.size == 2:
            raise ValueError("no")

    slots, shelf = Slots([hotfd.Config("arena", Rules, source="fake:")]), Shelf()
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    slots.begin("a")
    hook: Any = {"check" if fails == "when it is read" else "on_first_use": refuse}
    async with takeover(hotfd.Config("arena", Rules, source="fake:", **hook)) as (old, new, engine):
        old.begin()
        old.bring(carry(slots, []))
        await new.hello()
        assert engine.slots is not None
        assert engine.slots.start()
        await new.ready()
        shelf.publish("arena", size=2)
        shelf.stage(slots)
        slots.begin("b")
        old.bring(carry(slots, []))
        old.listeners()
        with pytest.raises(HandoffRefused, match="config-unavailable"):
            await asyncio.wait_for(new.done, LIMIT)
        await until(lambda: any(isinstance(message, m.Failed) for message in old.heard))


@on_each_loop
async def test_what_is_staged_in_the_old_process_and_cannot_be_used_in_the_new_one_keeps_it_from_nothing() -> None:
    def refuse(value: Rules) -> None:
        if value.size == 2:
            raise ValueError("no")

    slots, shelf = Slots([hotfd.Config("arena", Rules, source="fake:")]), Shelf()
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    slots.begin("a")
    shelf.publish("arena", size=2)
    shelf.stage(slots)
    async with takeover(hotfd.Config("arena", Rules, source="fake:", on_first_use=refuse)) as (old, new, engine):
        old.begin()
        old.bring(carry(slots, []))
        await new.hello()
        assert engine.slots is not None
        assert engine.slots.start()
        await new.ready()
        old.listeners()
        await until(lambda: new._machine.listening)
        assert not new.done.done()
        assert engine.slots.begin("b").versions == {"arena": 1}
