"""Servers with a configuration, as processes: from a store to their sessions, and through what may happen to both."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import hotfd
from hotfd.app.configuration import Configuration
from hotfd.config.open import open_store
from tests.integration import harness
from tests.integration.config_releases import of_module, publish, publish_to, staged

if TYPE_CHECKING:
    from hotfd.config.store import Acknowledgement

PROGRAM = """
    import os, sys
    import msgspec
    import hotfd

    class Rules(msgspec.Struct, frozen=True):
        size: int

    class Shop(msgspec.Struct, frozen=True):
        price: int = 0

    def first(rules):
        if rules.size == 13:
            raise RuntimeError("unlucky")

    async def talk(conn):
        async for line in conn:
            await conn.send(b"%d %d" % (conn.config.arena.size, conn.config.shop.price))

    own = Rules(7) if os.environ.get("OWN") else None
    source = {"source": "dir:" + sys.argv[2], "interval": 0.2}
    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", name="play", log_style="json", config=[
        hotfd.Config("arena", Rules, initial=own, on_first_use=first, **source),
        hotfd.Config("shop", Shop, initial=Shop(), **source),
    ])
"""


def command(tmp_path: Path, port: int) -> list[str]:
    program = harness.script(tmp_path, "play.py", PROGRAM)
    return [sys.executable, str(program), str(port), str(tmp_path / "store")]


@contextmanager
def playing(tmp_path: Path, port: int = 0, **options: Any) -> Iterator[harness.Server]:
    """Run the server on the store of a test."""
    port = port or harness.free_port()
    with harness.server(tmp_path, command(tmp_path, port), port, **options) as service:
        yield service


def logged(service: harness.Server, name: str) -> list[dict[str, Any]]:
    """Return the events of a name that the service's processes have logged."""
    lines = (json.loads(line) for line in service.logged().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == name]


class Client:
    """A client that asks what its session's configuration is."""

    def __init__(self, service: harness.Server) -> None:
        self.sock = service.connect()
        self.lines = self.sock.makefile("rb")

    def ask(self) -> tuple[int, int]:
        self.sock.sendall(b"?\n")
        size, price = self.lines.readline().split()
        return int(size), int(price)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *of: object) -> None:
        self.lines.close()
        self.sock.close()


def reports(store: Path, module: str = "arena") -> list[Acknowledgement]:
    """Return what servers have reported to a store."""

    async def run() -> list[Acknowledgement]:
        opened = open_store(f"dir:{store}")
        try:
            return await opened.acknowledgements(module)
        finally:
            await opened.aclose()

    return asyncio.run(run())


def reported(store: Path, **wanted: Any) -> None:
    """Wait for a report with these fields."""

    def found() -> bool:
        said = [{field: getattr(report, field) for field in wanted} for report in reports(store)]
        return wanted in said

    harness.becomes(found, True)


def test_a_publish_reaches_new_sessions_and_no_running_one_and_is_acknowledged(tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish(store, {"size": 1})
    with playing(tmp_path) as service:
        with Client(service) as old:
            assert old.ask() == (1, 0)
            reported(store, version=1, state="running", service="play", pid=service.pid)
            publish(store, {"size": 2})
            staged(service, 2)
            reported(store, version=2, state="staged", running=1)
            publish(store, {"price": 5}, "shop")
            staged(service, 1, "shop")
            with Client(service) as new:
                assert new.ask() == (2, 5)
                assert old.ask() == (1, 0)
                reported(store, version=2, state="running", running=2)
                assert of_module(service, "pinned") == {"1": 1, "2": 1}

            publish(store, {"size": "s3cret"})
            harness.becomes(lambda: of_module(service, "refused") is not None, True)
            reported(store, version=3, state="refused", faults=('size is "s3cret"; expected an integer',))
            publish(store, {"size": 13})
            staged(service, 4)
            with Client(service) as other:
                assert other.ask() == (2, 5), "a release that fails when it is first used reaches no session"
            reported(store, version=4, state="quarantined", running=2)
            publish(store, {"size": 5})
            staged(service, 5)
            with Client(service) as last:
                assert last.ask() == (5, 5)
            assert old.ask() == (1, 0)
        told = of_module(service, "quarantined"), of_module(service, "previous"), of_module(service, "refused")
        assert told == ([4], 2, None)
    assert "s3cret" not in service.logged(), "values are in no log"
    assert [line["version"] for line in logged(service, "config-activated") if line["module"] == "arena"] == [1, 2, 5]
    reported(store, pid=service.pid, state="ended")


def test_a_server_starts_without_its_store_from_what_it_knew_and_follows_when_it_is_back(tmp_path: Path) -> None:
    store, port = tmp_path / "store", harness.free_port()
    publish(store, {"size": 1})
    publish(store, {"size": 2})
    with playing(tmp_path, port) as service, Client(service) as client:
        assert client.ask() == (2, 0)
    store.rename(tmp_path / "lost")
    with playing(tmp_path, port) as service:
        (told,) = logged(service, "config-cold-start")
        assert (told["module"], told["version"], told["source"]) == ("arena", 2, "away")
        reasons = [(line["module"], line["reason"]) for line in logged(service, "config-initial")]
        assert reasons == [("shop", "the source has no release"), ("shop", "the source cannot be reached")]
        with Client(service) as client:
            assert client.ask() == (2, 0)
            assert (of_module(service, "cold"), of_module(service, "age")) == (True, None)
            (tmp_path / "lost").rename(store)
            harness.becomes(lambda: of_module(service, "cold"), False)
            publish(store, {"size": 3})
            staged(service, 3)
            with Client(service) as new:
                assert new.ask() == (3, 0)
            assert client.ask() == (2, 0)


def test_a_server_that_starts_again_does_not_go_back_with_a_restored_store(tmp_path: Path) -> None:
    store, port = tmp_path / "store", harness.free_port()
    publish(store, {"size": 1})
    with playing(tmp_path, port) as service:
        publish(store, {"size": 2})
        staged(service, 2)
    store.rename(tmp_path / "lost")
    publish(store, {"size": 9})
    with playing(tmp_path, port) as service:
        with Client(service) as client:
            assert client.ask() == (2, 0)
        (told,) = logged(service, "config-went-back")
        assert (told["known"], told["said"]) == (2, 1)
        publish(store, {"size": 10})
        publish(store, {"size": 11})
        staged(service, 3)
        with Client(service) as client:
            assert client.ask() == (11, 0)


def test_a_server_without_any_release_says_what_to_do_and_one_with_its_own_value_serves(tmp_path: Path) -> None:
    store, port = tmp_path / "store", harness.free_port()
    publish(store, {"price": 3}, "shop")
    done = subprocess.run(command(tmp_path, port), capture_output=True, text=True, timeout=harness.PATIENCE)
    assert done.returncode == 1
    assert (
        f"module 'arena': dir:{store} has no release of it yet; publish one with 'hotfd config publish'" in done.stderr
    )
    assert "Traceback" not in done.stderr
    with playing(tmp_path, port, env={"OWN": "yes"}) as service, Client(service) as client:
        assert client.ask() == (7, 3)
        publish(store, {"size": 1})
        staged(service, 1)
        with Client(service) as new:
            assert new.ask() == (1, 3)
        assert client.ask() == (7, 3)


def test_a_server_that_is_stopped_for_a_while_has_the_newest_release_when_it_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish(store, {"size": 1})
    with playing(tmp_path) as service, Client(service) as client:
        assert client.ask() == (1, 0)
        reported(store, state="running", version=1)  # what it writes for that would else lock the others out
        os.kill(service.pid, signal.SIGSTOP)
        harness.becomes(lambda: harness.stopped(service.pid), True)
        for size in range(2, 12):
            publish(store, {"size": size})
        os.kill(service.pid, signal.SIGCONT)
        staged(service, 11)
        with Client(service) as new:
            assert new.ask() == (11, 0)
        assert client.ask() == (1, 0)


# -- figures -----------------------------------------------------------------------------------------


class Many(msgspec.Struct, frozen=True):
    table: dict[str, int] = {}


ROUNDS = 5
"""Measurements of which the best counts: on a busy machine others are about that machine."""


QUIET = 0.001
"""Seconds that the loop may wait on a machine that does nothing else; where it waits longer, nothing can be measured."""


async def _lag(done: asyncio.Event) -> float:
    """Return the longest time for which the loop did nothing else, in seconds."""
    worst, before = 0.0, time.perf_counter()
    while not done.is_set():
        await asyncio.sleep(0)
        now = time.perf_counter()
        worst, before = max(worst, now - before), now
    return worst


@pytest.mark.alone
async def test_staging_two_thousand_keys_holds_the_loop_for_no_five_milliseconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(f"dir:{tmp_path / 'store'}", create=True)
    await publish_to(store, {"table": {"key": 0}})
    configuration = Configuration([hotfd.Config("arena", Many, source=store.url)], "play")
    lags, idle = [], []
    try:
        await configuration.start(1)
        slots = configuration.slots
        for number in range(ROUNDS):
            values = {"table": {f"key-{number}-{i}": i for i in range(2000)}}
            done = asyncio.Event()
            watch = asyncio.create_task(_lag(done))
            version = await publish_to(store, values)
            while (staged := slots.staged("arena")) is None or staged.version != version:
                await asyncio.sleep(0.001)
            assert len(slots.begin("a").value.table) == 2000
            done.set()
            lags.append(await watch)
            done.clear()
            asyncio.get_running_loop().call_later(0.05, done.set)
            idle.append(await _lag(done))
    finally:
        await configuration.aclose()
        await store.aclose()
    with capsys.disabled():
        print(
            f"\n[staging 2,000 keys: longest stall of the loop, in ms: {', '.join(f'{lag * 1e3:.2f}' for lag in lags)}]"
        )
    if min(idle) > QUIET:
        pytest.skip(f"other programs keep the loop waiting for {min(idle) * 1e3:.1f} ms already")
    assert min(lags) < 0.005
