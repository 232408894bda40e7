"""What a configuration server does between its store and its subscribers, with a store that does what a test says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hotfd.config import push
from hotfd.config.link import Key
from hotfd.distribution import relay as relay_module
from hotfd.distribution.knowledge import named
from hotfd.distribution.relay import Relay
from hotfd.distribution.subscriber import Subscriber
from hotfd.errors import ConfigError
from tests.unit.push_heads import report
from tests.unit.push_store import Store

FUSE = 30.0
"""Seconds after which a test that waits has failed; nothing is measured with it."""

INTERVAL = 0.02


@asynccontextmanager
async def relaying(store: Store, *modules: str, interval: float = INTERVAL) -> AsyncIterator[Relay]:
    relay = Relay(store, modules or ("arena",), interval, lambda: ["127.0.0.1:1"])  # type: ignore[arg-type]
    try:
        yield relay
    finally:
        await relay.aclose()


@asynccontextmanager
async def running(*works: Callable[[], Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work()) for work in works]
    try:
        yield
        for task in tasks:
            assert not task.done(), "it runs for ever"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(FUSE):
        while not condition():
            await asyncio.sleep(0.001)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.hotfd["event"] for record in caplog.records]  # type: ignore[attr-defined]


# -- what it knows ---------------------------------------------------------------------------------


async def test_it_is_ready_when_the_store_was_read_once_whether_there_is_a_release_or_not() -> None:
    store = Store()
    store.away = True
    async with relaying(store) as relay:
        await relay.load()
        assert not relay.knowledge.ready
        store.away = False
        await relay.load()
        assert relay.knowledge.ready


async def test_whoever_waits_is_told_as_soon_as_something_is_published() -> None:
    store = Store()
    async with relaying(store, "arena", "chat", interval=3600) as relay, running(relay.watch):
        arena, chat = asyncio.Queue[None](1), asyncio.Queue[None](1)
        relay.attend("1", ["arena"], arena)
        relay.attend("2", ["chat"], chat)
        await until(lambda: relay.knowledge.ready)
        for _ in range(2):
            published = store.publish("arena")
            async with asyncio.timeout(FUSE):
                await arena.get()
            assert relay.knowledge.heads["arena"] == published
        assert chat.empty(), "it is none of their business"


async def test_a_head_is_told_only_when_its_release_could_be_read(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    async with relaying(store) as relay, running(relay.watch):
        missing = store.releases.pop(named(store.publish())[0])
        notices = asyncio.Queue[None](1)
        relay.attend("1", ["arena"], notices)
        await until(lambda: len(store.reads) > 2)
        assert relay.knowledge.heads == {}
        assert notices.empty()
        store.releases[Key("arena", 1, missing.sha256)] = missing
        await until(lambda: relay.knowledge.heads)
        async with asyncio.timeout(FUSE):
            await notices.get()
    assert events(caplog).count("config-store-failed") == 1


async def test_what_is_known_is_served_while_the_store_is_away() -> None:
    store = Store()
    published = store.publish()
    async with relaying(store) as relay:
        await relay.load()
        store.away = True
        await relay.load()
        subscriber = Subscriber(server="s1", modules=["arena"])
        assert push.read_answer(relay.digest(subscriber)[4:]) == push.Digest((published,))
        assert await relay.body(named(published)[0]) == store.releases[named(published)[0]].data
        with pytest.raises(ConfigError, match="away"):
            await relay.body(Key("arena", 9, "0" * 64))


async def test_a_store_that_says_nothing_is_noticed_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hotfd")
    store = Store()
    async with relaying(store) as relay, running(relay.watch, relay.remind):
        await until(lambda: relay.knowledge.ready)
        store.away = True
        await until(lambda: "read" in relay.status()["store_troubles"])
        await asyncio.sleep(5 * INTERVAL)
        store.away = False
        await until(lambda: "read" not in relay.status()["store_troubles"])
    assert events(caplog) == ["config-store-failed", "config-store-works"]


async def test_a_release_that_many_want_is_read_once() -> None:
    store = Store()
    key = named(store.publish())[0]
    async with relaying(store) as relay:
        store.hold.clear()
        wanted = [asyncio.create_task(relay.body(key)) for _ in range(100)]
        await until(lambda: store.reads)
        wanted[0].cancel()  # who asked first has gone meanwhile
        store.hold.set()
        found = await asyncio.gather(*wanted, return_exceptions=True)
        assert found[1:] == [store.releases[key].data] * 99
        assert store.reads == [key]


async def test_no_more_releases_are_read_at_once_than_the_store_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "MAX_FETCHES", 2)
    store = Store()
    async with relaying(store) as relay:
        store.hold.clear()
        wanted = [asyncio.create_task(relay.body(Key("arena", version, "0" * 64))) for version in range(3)]
        await until(lambda: wanted[2].done())
        assert "ask again" in str(wanted[2].exception())
        store.hold.set()
        await asyncio.gather(*wanted, return_exceptions=True)


async def test_a_store_that_hangs_does_not_hang_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "STORE_LIMIT", 0.01)
    store = Store()
    store.publish()
    store.hold.clear()
    async with relaying(store) as relay:
        with pytest.raises(ConfigError, match="did not send it within"):
            await relay.body(named(store.published["arena"])[0])
        await relay.load()
        assert not relay.knowledge.heads


# -- what subscribers are told ---------------------------------------------------------------------


async def test_every_subscriber_is_reminded_every_interval() -> None:
    store = Store()
    async with relaying(store) as relay, running(relay.remind):
        queues = [asyncio.Queue[None](1) for _ in range(250)]
        for number, queue in enumerate(queues):
            relay.attend(str(number), ["arena"], queue)
        relay.leave("7")
        for _ in range(3):
            for number, queue in enumerate(queues):
                if number != 7:
                    async with asyncio.timeout(FUSE):
                        await queue.get()
        assert queues[7].empty()
        assert relay.subscribers == 249


async def test_the_same_digest_is_encoded_once_for_all() -> None:
    store = Store()
    store.publish()
    async with relaying(store) as relay:
        await relay.load()
        first, second = (relay.digest(Subscriber(modules=["arena"])) for _ in range(2))
        assert first is second
        behind = Subscriber(modules=["arena"], told={"arena": 5})
        assert push.read_answer(relay.digest(behind)[4:]) == push.Digest(())


# -- what it brings to the store -------------------------------------------------------------------


async def test_reports_of_all_subscribers_become_one_write_with_the_newest_of_each() -> None:
    store = Store()
    async with relaying(store) as relay:
        for version in (1, 2, 3):
            for server in ("s1", "s2"):
                relay.note([report(server=server, version=version)])
        await relay.flush()
        assert store.writes == [[report(server="s1", version=3), report(server="s2", version=3)]]
        await relay.flush()
        assert len(store.writes) == 1, "nothing new, nothing written"


async def test_reports_wait_while_the_store_is_away_and_newer_ones_replace_them() -> None:
    store = Store()
    async with relaying(store) as relay:
        store.away = True
        relay.note([report(version=1), report(server="s2")])
        await relay.flush()
        relay.note([report(version=2)])
        await relay.flush()
        assert relay.status()["unwritten"] == 2
        store.away = False
        await relay.flush()
        assert len(store.writes) == 1
        assert {(one.server, one.version) for one in store.writes[0]} == {("s1", 2), ("s2", 1)}


async def test_reports_that_wait_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "MAX_REPORTS", 3)
    store = Store()
    async with relaying(store) as relay:
        for server in ("s1", "s2", "s3", "s1", "s4"):
            relay.note([report(server=server)])
        await relay.flush()
        assert [one.server for one in store.writes[0]] == ["s3", "s1", "s4"]


async def test_a_schema_that_all_subscribers_have_is_declared_once() -> None:
    store = Store()
    async with relaying(store) as relay:
        for _ in range(100):
            relay.declare("arena", "id-1", b"{}")
        await relay.flush()
        relay.declare("arena", "id-1", b"{}")
        relay.declare("arena", "id-2", b"[]")
        await relay.flush()
        assert store.writes == [("arena", "id-1", b"{}"), ("arena", "id-2", b"[]")]


async def test_a_server_registers_again_and_again_once_it_can_serve_and_no_more_when_it_ends() -> None:
    store = Store()
    async with relaying(store) as relay, running(relay.announce):
        await asyncio.sleep(3 * INTERVAL)
        assert store.registered == {}
        await relay.load()
        await until(lambda: len(store.registered.get("arena", [])) > 2)
        await relay.withdraw()
        await asyncio.sleep(3 * INTERVAL)
        assert store.registered == {}


async def test_who_serves_a_module_is_asked_of_the_store_once_an_interval_for_all() -> None:
    store = Store()
    store.registered = {"arena": ["127.0.0.1:2", "127.0.0.1:1"], "chat": ["nonsense"]}
    async with relaying(store, interval=3600) as relay:
        found = await asyncio.gather(*(relay.lookups.served(["arena", "chat", "other"]) for _ in range(100)))
        assert found == [push.Addresses({"arena": ("127.0.0.1:1", "127.0.0.1:2")})] * 100
        assert len(store.reads) == 3


async def test_who_served_a_module_is_still_told_while_the_store_is_away() -> None:
    store = Store()
    store.registered = {"arena": ["127.0.0.1:2"]}
    async with relaying(store, interval=0.001) as relay:
        before = await relay.lookups.served(["arena"])
        store.away = True
        await asyncio.sleep(0.01)
        assert await relay.lookups.served(["arena"]) == before == push.Addresses({"arena": ("127.0.0.1:2",)})
