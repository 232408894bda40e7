"""Configuration servers and their subscribers when something is half away: the store, a release, a module's servers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import hotfd
from hotfd.config import client as client_module
from hotfd.config import link as link_module
from hotfd.config import push
from hotfd.config.intake import Intake
from hotfd.config.slots import Slots
from hotfd.config.tls import trouble_of
from hotfd.distribution import lookups
from hotfd.distribution import relay as relay_module
from hotfd.distribution.knowledge import named
from hotfd.distribution.program import ConfigurationServer
from hotfd.distribution.rota import Rota
from hotfd.distribution.settings import Settings
from hotfd.distribution.subscriber import Subscriber
from tests.unit.config_support import Rules
from tests.unit.push_certificates import certificates
from tests.unit.push_following import following_url
from tests.unit.push_heads import head, subscribe
from tests.unit.push_store import Store
from tests.unit.test_push_attendant import desk
from tests.unit.test_push_client import Fake
from tests.unit.test_push_relay import events, relaying, running, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


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
    async with Fake().running() as fake, following_url(f"hotfd://{fake.address}", 0.2, ("arena", "chat")) as follower:
        visit = await fake.visit()
        visit.say(push.Welcome("a", ("arena", "chat"), 60.0), push.Digest((head("chat"),), ("arena",)))
        assert await follower.heads() == {"chat": head("chat")}
        assert follower.source.silent == {"arena"}
        visit.say(push.Digest((head("chat"),)))
        await follower.heads()
        assert not follower.source.silent, "now it is said that there is none"


async def test_a_module_whose_servers_are_away_holds_no_other_one_up() -> None:
    async with Fake().running() as fake, following_url(f"hotfd://{fake.address}", 0.2, ("arena", "chat")) as follower:
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


# -- names that nobody can look up -------------------------------------------------------------------


async def test_names_that_hang_keep_neither_the_program_s_threads_nor_the_other_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging, real, threads = threading.Event(), socket.getaddrinfo, set()

    def getaddrinfo(host: str, *arguments: object, flags: int = 0, **options: object) -> object:
        if host != "127.0.0.1" and not flags:
            threads.add(threading.current_thread())
            hanging.wait()
        return real(host, *arguments, flags=flags, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    names = ",".join(f"name-{number}.invalid:1" for number in range(20))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    try:
        async with Fake().running() as fake:
            url = f"hotfd://{names},{fake.address}?ca="
            monkeypatch.setattr(client_module, "_parse", lambda _: client_module._Place(seeds(url), None))
            async with following_url(url, 0.2) as follower:
                (await fake.visit()).welcome("a", head())
                await follower.becomes(head())
                await until(lambda: len(threads) == link_module.LOOK_UPS)
                assert not [thread for thread in threads if thread.name != "hotfd-config"]
                assert await asyncio.to_thread(lambda: "the program's") == "the program's"
                assert len(threads) == link_module.LOOK_UPS
    finally:
        hanging.set()
        for thread in threads:
            thread.join()


def seeds(url: str) -> tuple[str, ...]:
    return tuple(url.removeprefix("hotfd://").partition("?")[0].split(","))


# -- what is kept ------------------------------------------------------------------------------------


def test_subscribers_that_come_and_go_all_the_time_leave_nothing_behind() -> None:
    rota = Rota(3600.0)
    rota.join("stays", 0.0)
    for number in range(10_000):
        rota.join(str(number), 0.0)
        rota.leave(str(number))
    assert len(rota._heap) < 2000
    assert rota.due(3600.0) == ["stays"]


async def test_two_servers_of_hosts_with_one_name_are_told_apart_by_what_they_advertise(tmp_path: Path) -> None:
    def identity(advertise: str) -> str:
        return ConfigurationServer(
            Settings(modules=("arena",), listen=("127.0.0.1:7400",), store=f"dir:{tmp_path}", advertise=(advertise,))
        ).identity()

    assert identity("127.0.0.1:1") == identity("127.0.0.1:1") != identity("127.0.0.1:2")


# -- who is refused ----------------------------------------------------------------------------------


async def test_who_is_refused_again_and_again_is_logged_once_for_each_reason(
    hotfd_serve: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hotfd")
    async with desk(hotfd_serve, Store()) as here:
        for _ in range(3):
            for module in ("other", "shop"):
                visitor = await here.visitor()
                await visitor.say(subscribe(module))
                assert await visitor.refused() == "unknown-module"
    assert events(caplog).count("config-subscriber-refused") == 2


async def test_who_greets_with_tls_where_there_is_none_is_told_so_in_the_log(
    hotfd_serve: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with desk(hotfd_serve, Store()) as here:
        visitor = await here.visitor()
        await visitor._client.write(b"\x16\x03\x01\x02\x00\x01")
        assert await visitor.refused() == "malformed"
    assert "leave ca=, cert= and key= out" in caplog.text
    assert events(caplog) == ["config-subscriber-refused"]


async def test_a_subscriber_says_what_is_wrong_with_tls_and_does_not_try_that_all_the_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = certificates(tmp_path)
    attempts = 0

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.write(push.frame(push.Refused("malformed", "this is no TLS")))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, following_url(f"hotfd://127.0.0.1:{port}{files.query}", 3600.0):
        await until(lambda: "it serves without TLS" in caplog.text)
        await asyncio.sleep(0.2)
    assert attempts == 1


def test_a_failure_of_tls_that_lasts_is_told_from_a_connection_that_broke() -> None:
    assert trouble_of(ssl.SSLEOFError(8, "EOF occurred")) == ("", "closed by the server in the middle of TLS")
    assert trouble_of(ssl.SSLError("nonsense")) == ("tls", "TLS has failed: ('nonsense',)")
