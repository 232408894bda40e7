"""What one configuration server takes for each of its subscribers: bytes, processor time, memory, and how soon they know."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hotfd.config import push, rollout
from hotfd.config.open import open_store
from hotfd.config.release import Release, seal
from scripts.bench.generations import HOTFD, RUNTIME, status_of
from scripts.bench.idle import MEMORY
from scripts.bench.processes import START_LIMIT, cpu_seconds, end, memory_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE: Final = "bench"

INTERVAL: Final = 3.0
"""Seconds between two digests; what a server has without --interval."""

OPENING: Final = 200
"""Subscribers that connect at a time: fewer than a small backlog holds."""

LIMIT: Final = 120.0
"""Seconds for anything that is waited for here."""

LOOK: Final = 0.05
"""Seconds between two looks at what does not tell, or tells too often."""


@dataclass(frozen=True)
class Fanout:
    """What was measured. Figures are of one subscriber, unless they say otherwise.

    Attributes:
        subscribers: how many there were.
        release: bytes of the release.
        joining: bytes that the server says to a subscriber that is new.
        digest: bytes that it says in an interval in which nothing happens.
        telling: bytes that it says of a release, the release included.
        idle_cpu: processor seconds in an interval in which nothing happens.
        release_cpu: processor seconds for a release.
        memory: bytes of the server.
        first: seconds from the publish until the first subscriber had the release.
        last: the same of the last one.
    """

    subscribers: int
    release: int
    joining: float
    digest: float
    telling: float
    idle_cpu: float
    release_cpu: float
    memory: float
    first: float
    last: float


class _Subscriber(asyncio.Protocol):
    """A subscriber that asks for each release that it is told of, and counts what it is sent."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._splitter = push.Splitter(push.MAX_ANSWER)
        self._transport: asyncio.Transport | None = None
        self._asked = 0
        self.received = 0
        self.digests = 0
        self.version = 0
        self.had: dict[int, float] = {}
        """When it had which version, by time.monotonic()."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        greeting = push.Subscribe(push.PROTOCOL, f"b{self._number}", "bench", "", "host", os.getpid(), 1, (MODULE,))
        transport.write(push.frame(greeting))

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        for payload in self._splitter.feed(data):
            self._answer(push.read_answer(payload))

    def _answer(self, answer: push.Answer) -> None:
        assert self._transport is not None
        assert not isinstance(answer, push.Refused), f"a subscriber was refused: {answer}"
        if isinstance(answer, push.Digest):
            self.digests += 1
            for head in answer.heads:
                if (newest := head.stable) is not None and newest.version > self._asked:
                    self._asked = newest.version
                    self._transport.write(push.frame(push.Want(MODULE, newest.version, newest.sha256)))
        elif isinstance(answer, push.Body):
            self.version = answer.version
            self.had[answer.version] = time.monotonic()


def measure(subscribers: int, release: int, directory: Path) -> Fanout:
    """Connect subscribers to a configuration server, and publish.

    Args:
        subscribers: how many.
        release: bytes of text in a release.
        directory: for the store and the control socket.
    """
    store = f"dir:{directory / 'store'}"
    environment = {RUNTIME: str(directory / "control")}
    asyncio.run(_publish(store, release))
    with _serving(store, environment) as (pid, port):
        return asyncio.run(_measure(subscribers, release, store, pid, port))


async def _measure(count: int, size: int, store: str, pid: int, port: int) -> Fanout:
    loop = asyncio.get_running_loop()
    empty = memory_bytes(pid, MEMORY)
    clients: list[_Subscriber] = []
    transports = []
    try:
        async with asyncio.timeout(LIMIT):
            for at in range(0, count, OPENING):
                for number in range(at, min(count, at + OPENING)):
                    transport, client = await loop.create_connection(lambda n=number: _Subscriber(n), "127.0.0.1", port)  # type: ignore[misc]
                    transports.append(transport)
                    clients.append(client)
                await _all_have(clients, 1)
            memory = memory_bytes(pid, MEMORY) - empty
            joined = sum(client.received for client in clients)
            quiet, digests = await _interval(pid, clients)
            before, said = cpu_seconds(pid), sum(client.received for client in clients)
            began = time.monotonic()
            await _publish(store, size)
            published = time.monotonic()
            await _all_have(clients, 2)
            spent = cpu_seconds(pid) - before
            told = sum(client.received for client in clients) - said
    finally:
        for transport in transports:
            transport.abort()
    times = [client.had[2] - began for client in clients]
    # Digests that were due anyway went out meanwhile; they are taken off by the time that passed.
    due = (max(times) + began - published) / INTERVAL
    return Fanout(
        subscribers=count,
        release=size,
        joining=joined / count,
        digest=digests / count,
        telling=told / count - digests / count * due,
        idle_cpu=quiet / count,
        release_cpu=max(0.0, spent - quiet * due) / count,
        memory=memory / count,
        first=min(times),
        last=max(times),
    )


async def _interval(pid: int, clients: list[_Subscriber]) -> tuple[float, float]:
    """Let each be told once that nothing has happened; return processor seconds and bytes of that."""
    before, said = cpu_seconds(pid), sum(client.received for client in clients)
    counts = [client.digests for client in clients]
    while any(client.digests == count for client, count in zip(clients, counts, strict=True)):  # noqa: ASYNC110
        await asyncio.sleep(LOOK)  # and not at each of thousands of answers
    heard = sum(client.digests for client in clients) - sum(counts)
    spent = cpu_seconds(pid) - before
    share = len(clients) / heard  # some were told twice by then
    return spent * share, (sum(client.received for client in clients) - said) * share


async def _all_have(clients: list[_Subscriber], version: int) -> None:
    while any(client.version < version for client in clients):  # noqa: ASYNC110 - as above
        await asyncio.sleep(LOOK)


async def _publish(url: str, size: int) -> None:
    """Publish the next release of the module."""
    store = open_store(url, create=True)
    try:
        head = (await store.heads([MODULE])).get(MODULE)
        version = rollout.next_version(head)
        sealed = seal(Release(MODULE, version, f"r{version}", "bench", time.time(), {"text": "x" * size}))
        await store.commit([rollout.publish(head, sealed, by="bench")])
    finally:
        await store.aclose()


@contextmanager
def _serving(store: str, environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """Run a configuration server; yields its pid and port."""
    command = [*HOTFD, "config", "serve", "--module", MODULE, "--listen", "127.0.0.1:0", "--store", store]
    with tempfile.TemporaryFile(prefix="hotfd-bench-") as log:
        process = subprocess.Popen(
            [*command, "--interval", str(INTERVAL)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **environment},
        )
        try:
            deadline = time.monotonic() + START_LIMIT
            while not (found := status_of(process.pid, environment)).get("listeners"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the configuration server does not serve")
                time.sleep(LOOK)
            yield process.pid, int(found["listeners"][0].rpartition(":")[2])
        except BaseException as error:
            error.add_note(f"its log:\n{os.pread(log.fileno(), 4000, 0).decode(errors='replace')}")
            raise
        finally:
            end(process)
