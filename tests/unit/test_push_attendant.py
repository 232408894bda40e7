"""The handler of a subscriber's connection: each conversation as it is, and handed over between every two messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hotfd.config import push
from hotfd.distribution import attendant as attendant_module
from hotfd.distribution.attendant import MAX_LARGE, SMALL, Attendant
from hotfd.distribution.knowledge import named
from hotfd.distribution.relay import Relay
from hotfd.distribution.subscriber import Subscriber
from hotfd.testing.client import Unexpected
from tests.unit.push_heads import head, report, sealed, subscribe
from tests.unit.push_store import Store

if TYPE_CHECKING:
    from hotfd.testing.client import Client

LARGE = "x" * (SMALL + 1)


class Visitor:
    """A subscriber that says and hears messages."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def say(self, *requests: push.Request) -> None:
        for request in requests:
            await self._client.write(push.frame(request))

    async def hear(self) -> push.Answer:
        return push.read_answer(await self._client.receive())

    async def subscribed(self, *modules: str, **fields: object) -> push.Answer:
        """Subscribe, and return the first digest."""
        await self.say(subscribe(*modules, **fields))
        assert isinstance(await self.hear(), push.Addresses)
        assert isinstance(await self.hear(), push.Welcome)
        return await self.hear()

    async def refused(self) -> str:
        """Return the code with which the connection ends."""
        while not isinstance(answer := await self.hear(), push.Refused):
            pass
        await self._client.expect_end()
        return answer.code

    async def reset(self) -> None:
        """Wait until the server has reset the connection."""
        with pytest.raises(Unexpected, match="was reset"):
            await self._client.expect_end()


class Desk:
    """A server under test, with its store."""

    def __init__(self, server: object, store: Store, relay: Relay, attendant: Attendant) -> None:
        self.server, self.store, self.relay, self.attendant = server, store, relay, attendant

    async def visitor(self) -> Visitor:
        return Visitor(await self.server.connect())  # type: ignore[attr-defined]


@asynccontextmanager
async def desk(hotfd_serve: object, store: Store, limit: int = 10) -> AsyncIterator[Desk]:
    relay = Relay(store, ("arena", "chat"), 3600, lambda: ["127.0.0.1:1"])  # type: ignore[arg-type]
    await relay.load()
    attendant = Attendant(relay, None, lambda: "server-1", limit)
    watch = asyncio.create_task(relay.watch())
    try:
        async with hotfd_serve(attendant.serve, framing=attendant.framing, state=Subscriber) as server:  # type: ignore[operator]
            yield Desk(server, store, relay, attendant)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await relay.aclose()


async def test_a_subscriber_is_welcomed_told_and_sent_what_it_wants(hotfd_serve: object) -> None:
    store = Store()
    store.registered = {"arena": ["127.0.0.1:1", "127.0.0.1:2"]}
    first = store.publish()
    async with desk(hotfd_serve, store) as here:
        visitor = await here.visitor()
        await visitor.say(subscribe("arena", "other"))
        assert await visitor.hear() == push.Addresses({"arena": ("127.0.0.1:1", "127.0.0.1:2")})
        assert await visitor.hear() == push.Welcome("server-1", ("arena",), 3600)
        assert await visitor.hear() == push.Digest((first,))
        second = store.publish()
        assert await visitor.hear() == push.Digest((second,))
        (key,) = named(second)
        await visitor.say(push.Want(*key), push.Want("arena", 9, "0" * 64), push.Lookup(("arena",)))
        assert await visitor.hear() == push.Body(*key, store.releases[key].data)
        assert await visitor.hear() == push.Unavailable("arena", 9, "0" * 64, "there is no such release")
        assert await visitor.hear() == push.Addresses({"arena": ("127.0.0.1:1", "127.0.0.1:2")})
        await visitor.say(push.Report((report(version=2),)), push.Declare("arena", "id-1", b"{}"))
        await visitor.say(push.Lookup(("arena",)))
        assert isinstance(await visitor.hear(), push.Addresses)
        await here.relay.flush()
        assert store.writes == [[report(version=2)], ("arena", "id-1", b"{}")]


async def test_what_was_told_before_a_move_is_still_known_after_it(hotfd_serve: object) -> None:
    store = Store()
    store.publish()
    async with desk(hotfd_serve, store) as here:
        visitor = await here.visitor()
        assert await visitor.subscribed("arena", "chat", have={"arena": 5}) == push.Digest(())
        chat = store.publish("chat")
        assert await visitor.hear() == push.Digest((chat,)), "the server lags with the arena, and does not go back"


async def test_a_large_release_that_waits_its_turn_moves_and_is_sent_once(hotfd_serve: object) -> None:
    store = Store()
    published = store.publish(text=LARGE)
    (key,) = named(published)
    async with desk(hotfd_serve, store) as here:
        visitor = await here.visitor()
        await visitor.subscribed()
        for _ in range(MAX_LARGE):
            await here.attendant._large.acquire()
        await visitor.say(push.Want(*key), push.Lookup(("arena",)))
        await here.server.hand_over()  # type: ignore[attr-defined]
        for _ in range(MAX_LARGE):
            here.attendant._large.release()
        assert await visitor.hear() == push.Body(*key, store.releases[key].data)
        assert isinstance(await visitor.hear(), push.Addresses)
        assert here.attendant._large._value == MAX_LARGE, "every turn was given back"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (push.Lookup(("arena",)), "malformed"),
        (subscribe(protocol=7), "protocol"),
        (subscribe("other"), "unknown-module"),
        (subscribe(server=""), "malformed"),
    ],
)
async def test_who_cannot_be_served_is_told_why_and_ended(
    hotfd_serve: object, request_: push.Request, code: str
) -> None:
    async with desk(hotfd_serve, Store()) as here:
        visitor = await here.visitor()
        await visitor.say(request_)
        assert await visitor.refused() == code


async def test_a_server_that_knows_nothing_yet_serves_nobody(hotfd_serve: object) -> None:
    store = Store()
    store.away = True
    async with desk(hotfd_serve, store) as here:
        visitor = await here.visitor()
        await visitor.say(subscribe())
        assert await visitor.refused() == "not-ready"
        assert here.relay.subscribers == 0


async def test_a_full_server_refuses_and_has_room_again_when_one_has_left(hotfd_serve: object) -> None:
    store = Store()
    published = store.publish()
    async with desk(hotfd_serve, store, limit=1) as here:
        first = await here.visitor()
        assert await first.subscribed() == push.Digest((published,))
        second = await here.visitor()
        await here.server.hand_over()  # type: ignore[attr-defined]
        while not here.relay.subscribers:  # while it is on its way between two processes, it is not counted
            await asyncio.sleep(0)
        await second.say(subscribe(server="s2"))
        assert await second.refused() == "too-many"
        first._client.write_eof()
        await first._client.expect_end()
        third = await here.visitor()
        assert await third.subscribed(server="s3") == push.Digest((published,))


async def test_who_says_nothing_for_long_is_ended(hotfd_serve: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendant_module, "GREETING_LIMIT", 0.05)
    store = Store()
    store.publish()
    async with desk(hotfd_serve, store) as here:
        silent = await here.visitor()
        await silent.reset()
        monkeypatch.setattr(attendant_module, "GREETING_LIMIT", 30.0)
        here.attendant._quiet = 0.05
        quiet = await here.visitor()
        assert await quiet.subscribed() == push.Digest((head("arena", 1, sealed("arena", 1)),))
        await quiet.reset()
