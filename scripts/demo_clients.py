"""The clients of the demonstration, each of which knows what it must get: see demo.py."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER_LIMIT = 10.0
"""Seconds after the last line within which its answer must come, or it is lost."""

LOAD_CLIENTS = 50
"""Connections of redis-benchmark; its own default."""

SAMPLE = 20_000
"""Requests by which redis-benchmark's speed is measured first."""

SAMPLE_LIMIT = 60.0
"""Seconds for that measurement; it takes about one."""

COUNTED_KEY = b"counter:__rand_int__"
"""The key that redis-benchmark counts up; without ``-r`` it is this text."""


class Failed(Exception):  # noqa: N818 - the demonstration, not its code
    """The demonstration could not be given; the message says why."""


async def finished(process: asyncio.subprocess.Process, limit: float) -> tuple[bytes, bytes]:
    """Wait for a process and return what it wrote; it is killed when it takes too long or nobody waits any more."""
    try:
        async with asyncio.timeout(limit):
            return await process.communicate()
    except TimeoutError:
        raise Failed(f"a command did not end within {limit:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# ---------------------------------------------------------------- clients of the line server


@dataclass
class Tally:
    """What the clients of one server have seen."""

    connections: int = 0
    replies: int = 0
    lost: int = 0
    wrong: int = 0
    reconnects: int = 0


class Visitor:
    """One client of the line server, and the oracle of its answers.

    Args:
        port: of the server.
        tally: where it counts.
        seed: what makes its lines and their fragments differ from those of others.
    """

    def __init__(self, port: int, tally: Tally, seed: int) -> None:
        self._port = port
        self._tally = tally
        self._random = random.Random(seed)
        self._expected: deque[bytes] = deque([b"hello\n"])  # that it comes once is a part of what is checked
        self._lines = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Send and check until told to stop; then wait for what is on its way."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._tally.connections += 1
        checking = asyncio.create_task(self._check(reader))
        try:
            while not stop.is_set() and not checking.done():
                await self._send(writer)
            writer.write_eof()
            async with asyncio.timeout(ANSWER_LIMIT):
                await checking
        except (OSError, TimeoutError):
            self._tally.reconnects += 1  # a real client would have to, here
        finally:
            checking.cancel()
            self._tally.lost += len(self._expected)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        """Send one to four lines in fragments that end anywhere."""
        burst = bytearray()
        for _ in range(self._random.randint(1, 4)):
            self._lines += 1
            line = self._random.randbytes(self._random.randint(0, 40)).hex().encode()
            burst += line + b"\n"
            self._expected.append(b"%d %b\n" % (self._lines, line))
        while burst:
            size = self._random.randint(1, len(burst))
            writer.write(burst[:size])
            del burst[:size]
            await asyncio.sleep(self._random.random() * 0.1)
        await writer.drain()

    async def _check(self, reader: asyncio.StreamReader) -> None:
        while answer := await reader.readline():
            self._tally.replies += 1
            if not self._expected or answer != self._expected.popleft():
                self._tally.wrong += 1


@asynccontextmanager
async def visitors(port: int, count: int, tally: Tally) -> AsyncIterator[None]:
    """Have clients at the line server; at the end each waits for its last answers."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(Visitor(port, tally, seed).run(stop)) for seed in range(count)]
    try:
        yield
        stop.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------- redis-benchmark


class Redis:
    """A connection to the key-value server, to ask it what it has counted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Redis:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def ask(self, *words: bytes) -> bytes:
        """Return a bulk string; empty for none."""
        self._writer.write(b" ".join(words) + b"\r\n")
        size = int((await self._reader.readline())[1:])
        return (await self._reader.readexactly(size + 2))[:-2] if size >= 0 else b""

    async def counted(self) -> int:
        """Return how high redis-benchmark has counted."""
        return int(await self.ask(b"GET", COUNTED_KEY) or 0)

    async def accepted(self) -> int:
        """Return how many connections the service has accepted in its life."""
        stats = await self.ask(b"INFO", b"stats")
        return int(stats.partition(b"total_connections_received:")[2].split()[0])


class Load:
    """redis-benchmark, counting a key up over many connections.

    Args:
        port: of the key-value server.
        redis: a connection to it.
    """

    def __init__(self, port: int, redis: Redis) -> None:
        self._port = port
        self._redis = redis
        self._requests = 0
        self._before = (0, 0)
        self._connects = 0
        self.process: asyncio.subprocess.Process | None = None

    async def sample(self) -> float:
        """Run a little, undisturbed: return the requests per second, and see how often it connects."""
        before, began = await self._redis.accepted(), time.monotonic()
        process = await self._spawn(SAMPLE)
        _, err = await finished(process, SAMPLE_LIMIT)
        if process.returncode != 0:
            raise Failed(f"redis-benchmark: {err.decode(errors='replace').strip()}")
        self._connects = await self._redis.accepted() - before
        return SAMPLE / (time.monotonic() - began)

    async def start(self, requests: int) -> None:
        """Begin the load that the handoffs come into."""
        self._requests = requests
        self._before = (await self._redis.counted(), await self._redis.accepted())
        self.process = await self._spawn(requests)

    @property
    def running(self) -> bool:
        """Whether there is load at this moment."""
        return self.process is not None and self.process.returncode is None

    async def finish(self, limit: float) -> Tally:
        """Wait for the end of the load, and compare what was asked for with what was done."""
        assert self.process is not None
        _, err = await finished(self.process, limit)
        if self.process.returncode != 0 or err:
            raise Failed(
                f"redis-benchmark ended with {self.process.returncode}: {err.decode(errors='replace').strip()}"
            )
        counted = await self._redis.counted() - self._before[0]
        connects = await self._redis.accepted() - self._before[1]
        return Tally(
            connections=LOAD_CLIENTS,
            replies=self._requests,
            lost=max(self._requests - counted, 0),
            wrong=max(counted - self._requests, 0),
            reconnects=connects - self._connects,
        )

    async def _spawn(self, requests: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("redis-benchmark", "-p", str(self._port), "-c", str(LOAD_CLIENTS), "-n", str(requests)),
            *("-t", "incr", "--csv"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )


@asynccontextmanager
async def loading(port: int) -> AsyncIterator[Load]:
    """Have a redis-benchmark at hand; it is ended with the block."""
    redis = await Redis.connect(port)
    load = Load(port, redis)
    try:
        yield load
    finally:
        redis.close()
        if load.process is not None and load.process.returncode is None:
            load.process.kill()
            await load.process.wait()
