"""Configuration servers and their subscribers when something is half away: the store, a release, a module's servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import hotfd
from hotfd.config import push
from hotfd.config.intake import Intake
from hotfd.config.slots import Slots
from hotfd.distribution import lookups
from hotfd.distribution import relay as relay_module
from hotfd.distribution.knowledge import named
from hotfd.distribution.subscriber import Subscriber
from tests.unit.config_support import Rules
from tests.unit.push_heads import head, subscribe
from tests.unit.push_store import Store
from tests.unit.test_push_attendant import desk
from tests.unit.test_push_client import Fake, following
from tests.unit.test_push_relay import relaying, running, until

if TYPE_CHECKING:
    from collections.abc import Sequence


class HangingStore(Store):
    """A store that does not answer who serves a module, until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = asyncio.Event()

    async def addresses(self, module: str) -> list[str]:
        await self.answering.wait()
        return await super().addresses(module)


# -- a store that hangs ------------------------------------------------------------------------------


async def test_a_subscriber_is_served_what_is_known_while_the_store_does_not_say_who_serves_its_modules(
    hotfd_serve: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "WAIT", 0.01)
    monkeypatch.setattr(relay_module, "STORE_LIMIT", 3600)
    store = HangingStore()
    store.registered = {"arena": ["127.0.0.1:1"]}
    first = store.publish()
    async with desk(hotfd_serve, store) as here:
        visitor = await here.visitor()
        assert await visitor.subscribed("arena", "chat") == push.Digest((first,))
        second = store.publish()
        await visitor.say(push.Lookup(("arena", "chat")))
        assert {type(await visitor.hear()) for _ in range(2)} == {push.Addresses, push.Digest}
        assert here.relay.knowledge.heads["arena"] == second
        store.answering.set()
        await until(lambda: here.relay.lookups._known)
        await visitor.say(push.Lookup(("arena",)))
        assert await visitor.hear() == push.Addresses({"arena": ("127.0.0.1:1",)})


async def test_the_store_is_asked_once_for_all_who_look_a_module_up_while_it_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookups, "WAIT", 0.01)
    store = HangingStore()
    store.registered = {"arena": ["127.0.0.1:1"]}
    async with relaying(store, interval=3600) as relay:
        found = await asyncio.gather(*(relay.lookups.served(["arena"]) for _ in range(10)))
        assert found == [push.Addresses({})] * 10
        store.answering.set()
        await until(lambda: relay.lookups._known)
        assert await relay.lookups.served(["arena"]) == push.Addresses({"arena": ("127.0.0.1:1",)})
        assert len(store.reads) == 1


# -- a release that cannot be read -------------------------------------------------------------------


async def test_a_server_that_cannot_read_a_release_does_not_say_that_there_is_none() -> None:
    store = Store()
    key = named(store.publish("arena"))[0]
    missing = store.releases.pop(key)
    async with relaying(store, "arena", "chat") as relay, running(relay.watch):
        await until(lambda: store.reads)
        await until(lambda: relay.knowledge.ready)
        subscriber = Subscriber(server="s1", modules=["arena", "chat"])
        assert push.read_answer(relay.digest(subscriber)[4:]) == push.Digest((), ("arena",))
        store.releases[key] = missing
        await until(lambda: relay.knowledge.heads)
        told = push.read_answer(relay.digest(subscriber)[4:])
        assert told == push.Digest((store.published["arena"],)), "and chat has none"


async def test_what_a_server_cannot_say_of_one_module_holds_no_other_one_up() -> None:
    async with Fake().running() as fake, following(fake, modules=("arena", "chat")) as follower:
        visit = await fake.visit()
        visit.say(push.Welcome("a", ("arena", "chat"), 60.0), push.Digest((head("chat"),), ("arena",)))
        assert await follower.heads() == {"chat": head("chat")}
        assert follower.source.silent == {"arena"}
        visit.say(push.Digest((head("chat"),)))
        await follower.heads()
        assert not follower.source.silent, "now it is said that there is none"


async def test_a_module_whose_servers_are_away_holds_no_other_one_up() -> None:
    async with Fake().running() as fake, following(fake, modules=("arena", "chat")) as follower:
        visit = await fake.visit()
        visit.welcome("a", head("arena", 3), modules=("arena",))
        assert await follower.heads() == {"arena": head("arena", 3)}
        assert follower.source.silent == {"chat"}


def test_a_module_of_which_a_source_cannot_speak_is_not_taken_to_have_no_release() -> None:
    slots = Slots([hotfd.Config(name, Rules, source="dir:/nowhere") for name in ("arena", "chat")])
    intake = Intake(["arena", "chat"], slots, {})
    intake.take({}, silent={"arena"})
    assert intake.verdict("arena") is None
    assert not intake.spoken("arena")
    assert intake.verdict("chat") == "none"


# -- a server that is replaced by one of other modules -----------------------------------------------


@pytest.mark.parametrize("served", [("arena",), ("arena", "chat", "shop")])
async def test_a_subscriber_subscribes_anew_when_the_new_process_serves_others_of_its_modules(
    hotfd_serve: object, served: Sequence[str]
) -> None:
    async with desk(hotfd_serve, Store()) as here:
        visitor = await here.visitor()
        await visitor.subscribed("arena", "chat", "shop")
        here.relay.knowledge.modules = tuple(served)
        await here.server.hand_over()  # type: ignore[attr-defined]
        if here.server.handovers:  # type: ignore[attr-defined]
            await visitor._client.expect_end()


async def test_a_subscriber_stays_when_the_new_process_serves_more_that_is_none_of_its_business(
    hotfd_serve: object,
) -> None:
    async with desk(hotfd_serve, Store()) as here:
        visitor = await here.visitor()
        await visitor.subscribed("arena", "chat")
        here.relay.knowledge.modules = ("shop", "chat", "arena")
        await here.server.hand_over()  # type: ignore[attr-defined]
        await visitor.say(push.Lookup(("arena",)))
        assert await visitor.hear() == push.Addresses({})


async def test_a_subscription_asks_for_no_more_than_it_asked_for() -> None:
    subscriber = Subscriber()
    subscriber.hear(subscribe("arena", "other"), 0.0, 1.0)
    subscriber.admit(("arena",), ("arena", "other"))
    assert (subscriber.modules, subscriber.asked) == (["arena"], ["arena", "other"])
    assert subscriber.still(("arena", "shop"))
    assert not subscriber.still(("arena", "other"))
    assert not subscriber.still(("shop",))
