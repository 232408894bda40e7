"""A whole cluster on loopback: three nodes of etcd, three configuration servers, twenty servers in four zones.

One of each kind is killed, one after another, while releases are published; every living server has each of them in time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hotfd.config import rollout
from hotfd.config.open import open_store
from hotfd.config.release import Release, seal
from hotfd.errors import Conflict, StoreError
from tests.integration import harness
from tests.integration.etcd_cluster import Cluster, etcd_cluster

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]

INTERVAL = 3.0
"""Seconds between two pushes: what ``hotfd config serve`` has when nothing else is said."""

ZONES = ["ap-1", "eu-1", "eu-2", "us-1"]
SERVERS = 20

PROGRAM = """
    import sys
    import msgspec
    import hotfd

    class Rules(msgspec.Struct, frozen=True):
        number: int
        zone: str

    async def talk(conn):
        async for _ in conn:
            await conn.send(f"{conn.config.number} {conn.config.zone}".encode())

    hotfd.run(
        talk, f"127.0.0.1:{sys.argv[1]}", name="business", log_style="json",
        config=hotfd.Config("arena", Rules, source=sys.argv[2]),
    )
"""


@dataclass
class Process:
    """One process of the cluster, and what it has logged."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    zone: str = ""

    def kill(self) -> None:
        """Kill it with SIGKILL, and remove what it cannot remove any more."""
        self.process.kill()
        self.process.wait()
        (Path(os.environ["HOTFD_RUNTIME_DIR"]) / f"{self.process.pid}.sock").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def staged(self) -> list[tuple[float, int]]:
        """Return when it has staged which release."""
        found = []
        for line in self.log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "config-staged":
                found.append((event["time"], event["version"]))
        return found

    def ask(self) -> str:
        """Begin a session, and return what it holds."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock:
            sock.sendall(b"?\n")
            with sock.makefile() as lines:
                return lines.readline().strip()


class Everything:
    """The cluster of a test."""

    def __init__(self, etcd: Cluster, tmp_path: Path) -> None:
        self.etcd = etcd
        self.url = etcd.url("cluster")
        self._tmp_path = tmp_path
        self._program = harness.script(tmp_path, "business.py", PROGRAM)
        self.distributors: list[Process] = []
        self.servers: list[Process] = []
        self.published: list[tuple[float, int]] = []

    def start(self) -> None:
        ports = [harness.free_port() for _ in range(3)]
        self.distributors = [self.distributor(port) for port in ports]
        source = "hotfd://" + ",".join(f"127.0.0.1:{port}" for port in ports)
        self.servers = [self._server(index, source) for index in range(SERVERS)]
        self.wait(self.published[-1][1])

    def distributor(self, port: int) -> Process:
        command = [*harness.HOTFD, "config", "serve", "--module", "arena", "--listen", f"127.0.0.1:{port}"]
        return self._run([*command, "--store", self.url, "--log-style", "json"], port, f"distributor-{port}")

    def _server(self, index: int, source: str) -> Process:
        port, zone = harness.free_port(), ZONES[index % len(ZONES)]
        command = [sys.executable, str(self._program), str(port), source]
        return self._run(command, port, f"server-{index}", zone)

    def _run(self, command: list[str], port: int, name: str, zone: str = "") -> Process:
        log = self._tmp_path / f"{name}.log"
        environment = {**os.environ, "HOTFD_ZONE": zone, "HOTFD_CACHE_DIR": str(self._tmp_path / f"cache-{name}")}
        with log.open("ab") as sink:
            return Process(subprocess.Popen(command, stdout=sink, stderr=sink, env=environment), port, log, zone)

    @property
    def living(self) -> list[Process]:
        return [server for server in self.servers if server.process.poll() is None]

    def wait(self, version: int) -> None:
        """Wait until every living server has a release, or a newer one."""
        behind = self.living
        deadline = time.monotonic() + harness.PATIENCE
        while behind := [one for one in behind if not any(found >= version for _, found in one.staged())]:
            assert time.monotonic() < deadline, f"{len(behind)} behind:\n{behind[0].log.read_text()[-3000:]}"
            assert all(one.process.poll() is None for one in behind), behind[0].log.read_text()[-3000:]
            time.sleep(0.05)

    async def publish(self, count: int, pause: float = 0.0) -> None:
        """Publish releases one after another, whatever is killed meanwhile."""
        store = open_store(self.url)
        try:
            for _ in range(count):
                await self._publish_one(store)
                await asyncio.sleep(pause)
        finally:
            await store.aclose()

    async def _publish_one(self, store: Any) -> None:
        deadline = time.monotonic() + harness.PATIENCE
        while True:
            try:
                head = (await store.heads(["arena"])).get("arena")
                number = rollout.next_version(head)
                zones = {zone: {"zone": zone} for zone in ZONES}
                release = Release(
                    "arena", number, f"r{number}", "tester", time.time(), {"number": number, "zone": "-"}, zones
                )
                await store.commit([rollout.publish(head, seal(release), by="tester")])
            except Conflict:
                continue
            except StoreError:  # nothing was acknowledged: a node is being replaced
                assert time.monotonic() < deadline
                continue
            self.published.append((time.time(), number))
            return

    def check(self) -> tuple[float, float]:
        """Check every living server against every release that was acknowledged.

        Returns:
            the longest and the median time from the acknowledgement of a release to its staging.
        """
        delays = []
        for server in self.living:
            staged = server.staged()
            versions = [version for _, version in staged]
            assert versions == sorted(set(versions)), f"went back: {versions}"
            started = staged[0][0]
            for acknowledged, version in self.published:
                if acknowledged >= started:
                    had = min(when for when, found in staged if found >= version)
                    delays.append(had - acknowledged)
        assert max(delays) <= 2 * INTERVAL, f"{max(delays):.1f} s"
        return max(delays), sorted(delays)[len(delays) // 2]

    def close(self) -> None:
        for one in [*self.servers, *self.distributors]:
            one.stop()
        for one in [*self.servers, *self.distributors]:
            try:
                one.process.wait(harness.STOP_LIMIT)
            except subprocess.TimeoutExpired:
                one.kill()


@contextmanager
def everything(tmp_path: Path) -> Iterator[Everything]:
    with ExitStack() as stack:
        made = Everything(stack.enter_context(etcd_cluster(3)), tmp_path)
        stack.callback(made.close)
        asyncio.run(made.publish(1))
        made.start()
        yield made


def test_every_living_server_has_every_release_in_time_though_one_of_each_kind_is_killed(tmp_path: Path) -> None:
    with everything(tmp_path) as made:

        async def kill() -> None:
            pause = 1.5
            made.etcd.leader().kill()
            await asyncio.sleep(pause)
            made.distributors[0].kill()
            await asyncio.sleep(pause)
            made.servers[0].kill()
            await asyncio.sleep(pause)
            made.etcd.mend()  # in this thread, with whose end its processes end
            made.distributors.append(made.distributor(made.distributors[0].port))
            await asyncio.sleep(pause)
            made.etcd.leader().kill()
            made.distributors[1].kill()
            await asyncio.sleep(pause)

        async def run() -> None:
            killing = asyncio.create_task(kill())
            while not killing.done():
                await made.publish(1, pause=0.3)
            await killing

        asyncio.run(run())
        made.wait(made.published[-1][1])
        longest, median = made.check()
        assert {server.ask() for server in made.living} == {f"{made.published[-1][1]} {zone}" for zone in ZONES}
        asyncio.run(history_is_whole(made))
        print(
            f"\n{len(made.published)} releases, {len(made.living)} servers: staged after {median:.2f} s (median), "
            f"{longest:.2f} s (longest); two intervals are {2 * INTERVAL:g} s ",
            end="",
        )


async def history_is_whole(made: Everything) -> None:
    store = open_store(made.url)
    try:
        events = await store.history("arena", limit=1000)
        sequences = [event.sequence for event in events]
        assert sequences == list(range(len(events), 0, -1))
        versions = {event.version for event in events}
        assert versions == set(range(1, max(versions) + 1))
        assert {version for _, version in made.published} <= versions
    finally:
        await store.aclose()
