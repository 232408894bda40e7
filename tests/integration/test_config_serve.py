"""Configuration servers: what is published is pushed, bodies travel once, and any of the servers may die."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hotfd.config import push, rollout
from hotfd.config.open import open_store
from hotfd.config.store import Acknowledgement, Store
from tests.integration import harness
from tests.integration.config_releases import publish, publish_to, staged
from tests.integration.config_serving import (
    configuration,
    eventually,
    raw,
    resident,
    subscription,
    url_of,
)
from tests.unit.push_following import following_url

LARGE = {"text": "x" * 900_000}
"""Values that make nearly the largest release."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The directory of a store with one release."""
    path = tmp_path / "store"
    publish(path, {"size": 1})
    return path


def opened(path: Path) -> Store:
    return open_store(f"dir:{path}")


def said(service: harness.Server, field: str) -> object:
    """Return what a configuration server says of itself."""
    return service.status()["distribution"][field]


async def handed_over(service: harness.Server) -> None:
    (report,) = await harness.handoffs(service, 1)
    assert report["outcome"] == "completed"


def report_of(version: int, state: str = "staged") -> Acknowledgement:
    faults = ("size is 3; expected a string",) if state == "refused" else ()
    return Acknowledgement("arena", "s1", "games", "host", 7, version, state, version, 1, time.time(), faults=faults)  # type: ignore[arg-type]


async def test_one_publish_reaches_the_subscribers_of_all_servers_and_what_they_make_of_it_comes_back(
    tmp_path: Path, path: Path
) -> None:
    store = opened(path)
    with configuration(tmp_path, path, interval=30) as one, configuration(tmp_path, path) as two:
        async with following_url(url_of(one), interval=30) as follower:
            heads = await follower.heads()
            assert (await follower.source.release("arena", 1, heads["arena"].stable.sha256)).release.values == {
                "size": 1
            }

            # One server says nothing by itself for half a minute: what comes, comes since it was published.
            assert await publish_to(store, {"size": 2}) == 2
            while (heads := await follower.heads())["arena"].sequence < 2:
                pass
            assert (await follower.source.release("arena", 2, heads["arena"].stable.sha256)).release.values == {
                "size": 2
            }

        # From the other server, which writes twice a second: reports, schemas, and the end of a canary.
        async with following_url(url_of(two)) as follower:
            await follower.source.report([report_of(2)])
            await follower.source.declare({"arena": ("id-1", b"{}")})
            assert [one.server for one in await reported(store, 2)] == ["s1"]
            await eventually(lambda: store.schemas("arena"), {"id-1": b"{}"})
            await publish_to(store, {"size": 3}, canary=rollout.For(share=0.5))
            await follower.source.report([report_of(3, "refused")])
            while (heads := await follower.heads())["arena"].change != "halted":
                pass
            assert heads["arena"].canary is None
    await store.aclose()


async def reported(store: Store, version: int) -> list[Acknowledgement]:
    """Wait until a version was reported; return the reports."""
    while not (found := [one for one in await store.acknowledgements("arena") if one.version == version]):
        await asyncio.sleep(0.02)
    return found


async def test_a_release_travels_only_to_who_wants_it(tmp_path: Path, path: Path) -> None:
    with configuration(tmp_path, path) as service:
        async with raw(service, subscription()) as client:
            await client.hear_of(1)
            before = client.received
            store = opened(path)
            await publish_to(store, LARGE)
            digest = await client.hear_of(2)
            for _ in range(3):
                await client.hear_of(2)
            assert client.received - before < 5_000, "digests say which release there is, and not what is in it"
            head = digest.heads[0]
            client.say(push.Want("arena", 2, head.stable.sha256))
            body = await client.hear_a(push.Body)
            assert isinstance(body, push.Body)
            assert len(body.data) > 900_000
            assert client.received - before < 910_000 + 5_000
            client.say(push.Want("arena", 2, "0" * 64))
            assert isinstance(await client.hear_a(push.Unavailable), push.Unavailable)
            await store.aclose()


async def test_when_a_server_is_killed_its_subscribers_hear_from_the_other_and_its_address_expires(
    tmp_path: Path, path: Path
) -> None:
    store = opened(path)
    with configuration(tmp_path, path) as one, configuration(tmp_path, path) as two:
        addresses = sorted(f"127.0.0.1:{service.port}" for service in (one, two))
        await eventually(lambda: store.addresses("arena"), addresses)
        async with following_url(url_of(one)) as follower:
            await eventually(lambda: sorted(follower.source.contact.split(", ")), addresses)
            harness.kill(one.pid)
            await publish_to(store, {"size": 2})
            while (await follower.heads())["arena"].sequence < 2:
                pass
            await eventually(lambda: follower.source.contact, f"127.0.0.1:{two.port}")
            await eventually(lambda: store.addresses("arena"), [f"127.0.0.1:{two.port}"])
    await eventually(lambda: store.addresses("arena"), [])
    await store.aclose()
    harness.hotfd("ps")  # removes the socket file that was left by who was killed


async def test_subscribers_stay_connected_while_their_server_is_replaced(tmp_path: Path, path: Path) -> None:
    store = opened(path)
    with configuration(tmp_path, path) as service:
        async with raw(service, subscription()) as client, following_url(url_of(service)) as follower:
            await client.hear_of(1)
            await follower.heads()
            await handed_over(service)
            await publish_to(store, {"size": 2})
            digest = await client.hear_of(2)
            client.say(push.Want("arena", 2, digest.heads[0].stable.sha256))
            assert isinstance(await client.hear_a(push.Body), push.Body)
            while (await follower.heads())["arena"].sequence < 2:
                pass

            # One that is in the middle of two large releases, and has read nothing of them, gets them all the same.
            large = [await publish_to(store, {**LARGE, "number": number}) for number in range(2)]
            await client.hear_of(large[-1])
            wanted = [push.Want("arena", one.version, one.sha256) for one in await store.history("arena", limit=2)]
            async with raw(service, subscription(server="slow"), *wanted, limit=1) as slow:
                await eventually(lambda: said(service, "subscribers"), 3)
                await handed_over(service)
                bodies = [await slow.hear_a(push.Body) for _ in wanted]
                assert sorted(body.version for body in bodies) == large  # type: ignore[union-attr]
            await eventually(lambda: said(service, "subscribers"), 2)

            await follower.source.report([report_of(2)])
            assert await reported(store, 2)
            assert said(service, "subscribers") == 2
            assert await store.addresses("arena") == [f"127.0.0.1:{service.port}"], "it is registered all the time"
    assert await store.addresses("arena") == [], "and no more when it was stopped"
    await store.aclose()


async def test_a_server_serves_on_while_its_store_is_away_and_a_new_one_that_knows_nothing_does_not(
    tmp_path: Path, path: Path
) -> None:
    away = path.with_name("away")
    with configuration(tmp_path, path) as one:
        async with following_url(url_of(one)) as follower:
            heads = await follower.heads()
            path.rename(away)
            await eventually(lambda: "read" in one.status()["distribution"]["store_troubles"], True)
            for _ in range(3):
                assert await follower.heads() == heads
            async with raw(one, subscription()) as client:
                await client.hear_of(1)
                client.say(push.Want("arena", 1, heads["arena"].stable.sha256))
                await client.hear_a(push.Body)

            # A new process that could say nothing is given nothing.
            report = await asyncio.to_thread(one.handoff, "--deadline", "30", expect=1)
            assert report["reason"].startswith("unhealthy")
            for _ in range(3):
                assert await follower.heads() == heads

            with configuration(tmp_path, path) as two:
                async with raw(two, subscription()) as client:
                    refused = (await client.ended())[-1]
                    assert isinstance(refused, push.Refused)
                    assert refused.code == "not-ready"
                away.rename(path)
                store = opened(path)
                await publish_to(store, {"size": 2})
                await store.aclose()
                async with following_url(url_of(two)) as other:
                    while (await other.heads())["arena"].sequence < 2:
                        pass
                while (await follower.heads())["arena"].sequence < 2:
                    pass
            assert "config-store-works" in one.logged()


async def test_modules_are_looked_up_and_followed_at_the_servers_that_have_them(tmp_path: Path, path: Path) -> None:
    await asyncio.to_thread(publish, path, {"words": 1}, "chat")
    with configuration(tmp_path, path) as arena, configuration(tmp_path, path, modules=("chat",)) as chat:
        async with raw(arena, subscription("other")) as client:
            answers = await client.ended()
            assert [type(answer) for answer in answers] == [push.Addresses, push.Refused]
            assert (answers[-1].code, "arena" in answers[-1].text) == ("unknown-module", True)  # type: ignore[union-attr]
        store = opened(path)
        await eventually(lambda: store.addresses("chat"), [f"127.0.0.1:{chat.port}"])
        await store.aclose()
        async with following_url(url_of(arena), modules=("arena", "chat")) as follower:
            while (heads := await follower.heads()).keys() != {"arena", "chat"}:
                pass
            assert {module: head.sequence for module, head in heads.items()} == {"arena": 1, "chat": 1}
            assert (await follower.source.release("chat", 1, heads["chat"].stable.sha256)).release.values == {
                "words": 1
            }


async def test_hostile_clients_are_ended_and_cost_the_others_nothing(tmp_path: Path, path: Path) -> None:
    with configuration(tmp_path, path, "--max-subscribers", "3", impatient=True) as service:
        await asyncio.to_thread(publish, path, LARGE)
        async with (
            raw(service) as silent,
            raw(service, subscription(server="good")) as good,
            raw(service, subscription(server="slow"), limit=1) as slow,
        ):
            await good.hear_of(2)
            before = resident(service.pid)
            head = (await slow.hear_of(2)).heads[0]
            for data in (b"\xff\xff\xff\xff", b"\0\4\0\1" + bytes(1000), b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\2{}"):
                async with raw(service) as garbage:
                    garbage.write(data)
                    assert all(isinstance(answer, push.Refused) for answer in await garbage.ended())
            for first in (push.Lookup(("arena",)), subscription(protocol=9), subscription(server="")):
                async with raw(service, first) as wrong:
                    assert isinstance((await wrong.ended())[-1], push.Refused)
            async with raw(service, subscription(server="flood"), *[push.Lookup(("arena",))] * 600) as flood:
                refused = (await flood.ended())[-1]
                assert isinstance(refused, push.Refused)
                assert refused.code == "too-many"

            # It wants hundreds of megabytes, and reads nothing: no more than one release waits for it.
            for _ in range(400):
                slow.say(push.Want("arena", 2, head.stable.sha256))
            async with raw(service, subscription(server="third")) as third:
                await third.hear_of(2)
                async with raw(service, subscription(server="fourth")) as fourth:
                    refused = (await fourth.ended())[-1]
                    assert isinstance(refused, push.Refused)
                    assert (refused.code, "another server" in refused.text) == ("too-many", True)
            await eventually(lambda: "config-subscriber-slow" in service.logged(), True)
            assert resident(service.pid) - before < 20, "MiB"

            assert await silent.ended() == [], "who says nothing is not waited for"
            await good.hear_of(2)
            good.say(push.Want("arena", 2, head.stable.sha256))
            await good.hear_a(push.Body)
            assert "Traceback" not in service.logged()


def test_a_server_that_other_machines_could_reach_without_tls_does_not_start(path: Path) -> None:
    done = harness.hotfd("config", "serve", "--module", "arena", "--listen", "0.0.0.0:7000", "--store", f"dir:{path}")
    assert done.returncode == 2
    assert "--tls-cert FILE --tls-key FILE --tls-ca FILE" in done.stderr


PLAYER = """
    import sys

    import msgspec

    import hotfd


    class Rules(msgspec.Struct, frozen=True):
        size: int = 0


    async def talk(conn):
        async for line in conn:
            await conn.send(b"%d" % conn.config.size)


    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", config=hotfd.Config("arena", Rules, interval=0.5))
"""


def test_a_server_that_follows_configuration_servers_gives_its_next_sessions_what_was_published(
    tmp_path: Path, path: Path
) -> None:
    with configuration(tmp_path, path) as one, configuration(tmp_path, path) as two:
        env = {"HOTFD_CONFIG_SOURCE": url_of(one, two)}
        with harness.program(tmp_path, PLAYER, env=env) as game, game.connect() as first:
            ask(first, 1)
            assert publish(path, {"size": 2}) == 2
            staged(game, 2)
            ask(first, 1)
            with game.connect() as second:
                ask(second, 2)
            harness.kill(one.pid)
            publish(path, {"size": 3})
            staged(game, 3)
            game.handoff("--probation", "0.2")
            ask(first, 1)
            with game.connect() as third:
                ask(third, 3)
            asyncio.run(is_known_to_run(path, 3))
    harness.hotfd("ps")  # removes the socket file that was left by who was killed


def ask(client: socket.socket, size: int) -> None:
    """Ask a session with which configuration it runs."""
    client.sendall(b"size?\n")
    assert client.recv(100) == b"%d\n" % size


async def is_known_to_run(path: Path, version: int) -> None:
    """Wait until the store has it from the new process that it begins sessions with a release."""
    store = opened(path)

    async def newest() -> list[tuple[int, int, str]]:
        found = await store.acknowledgements("arena")
        return [(one.running, one.generation, one.state) for one in found if one.generation == 2]

    await eventually(newest, [(version, 2, "running")])
    await store.aclose()


@pytest.mark.alone
def test_a_subscriber_is_current_within_an_interval_after_it_was_cut_off(tmp_path: Path) -> None:
    interval = 2.0
    possible = ["unshare", "-n", "sh", "-c", "ip link set lo up && nft list ruleset"]
    try:
        subprocess.run(possible, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs unshare, ip and nft, and the right to use them: {error}")
    command = ["unshare", "-n", sys.executable, "-m", "tests.integration.partition", str(tmp_path), str(interval)]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, timeout=harness.PATIENCE)
    assert done.returncode == 0, done.stderr
    print(f"\ncurrent again {1000 * float(done.stdout):.0f} ms after a partition; the interval is {interval:g} s")
    assert float(done.stdout) <= interval


@pytest.mark.alone
async def test_five_hundred_subscribers_have_a_release_within_the_interval(tmp_path: Path, path: Path) -> None:
    interval, count = 3.0, 500
    with configuration(tmp_path, path, interval=interval) as service:
        store = opened(path)

        async def subscriber(number: int, ready: asyncio.Event, seen: list[float]) -> float:
            async with raw(service, subscription(server=f"s{number}")) as client:
                await client.hear_of(1)
                seen.append(time.monotonic())
                if len(seen) == count:
                    ready.set()
                digest = await client.hear_of(2)
                client.say(push.Want("arena", 2, digest.heads[0].stable.sha256))
                body = await client.hear_a(push.Body)
                assert isinstance(body, push.Body)
                assert len(body.data) > 4096
                return time.monotonic()

        ready = asyncio.Event()
        seen: list[float] = []
        subscribers = [asyncio.create_task(subscriber(number, ready, seen)) for number in range(count)]
        async with asyncio.timeout(harness.PATIENCE):
            await ready.wait()
        began = time.monotonic()
        await publish_to(store, {"text": "x" * 4096})
        published = time.monotonic()
        times = await asyncio.gather(*subscribers)
        slowest = max(times) - began
        print(
            f"\n{count} subscribers of 4 KiB: the slowest after {1000 * slowest:.0f} ms, of which the publish took "
            f"{1000 * (published - began):.0f} ms; the server has {resident(service.pid):.0f} MiB"
        )
        assert slowest <= interval + 1.0
        await store.aclose()


def test_sigterm_ends_a_server_with_subscribers_in_order(tmp_path: Path, path: Path) -> None:
    with configuration(tmp_path, path) as service:
        harness.kill(service.pid, signal.SIGTERM)
        assert service.process.wait(harness.PATIENCE) == 0
