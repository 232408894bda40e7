"""A proxy in front of a member of etcd that loses, delays and mutes what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.integration.etcd_cluster import Member


@dataclass
class Held:
    """Requests to one path that are held back, from the next one on."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """One that runs.

    Attributes:
        host: where it listens.
        port: the port there.
        requests: the paths of all requests, in their order.
        lost: how many requests to a path are carried out without an answer, from the next one on.
        held: by path, requests that are carried out later, without an answer.
        muted: paths of streams of which nothing is passed on but the first message.
    """

    def __init__(self, member: Member) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.requests: list[str] = []
        self.lost: dict[str, int] = {}
        self.held: dict[str, Held] = {}
        self.muted: set[str] = set()
        self._member = member
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def count(self, path: str) -> int:
        """Return how many requests a path has had."""
        return self.requests.count(path)

    async def open(self) -> None:
        """Listen, where it has listened before if it has."""
        self._server = await asyncio.start_server(self._accepted, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End all connections, and refuse others. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, _, rest = head.partition(b"\r\n")
        size = next(int(line[15:]) for line in rest.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        body = await reader.readexactly(size)
        path = first.split()[1].decode()
        self.requests.append(path)
        held = self.held.pop(path, None)
        if held is not None:
            held.arrived.set()
            await held.go.wait()
        there, away = await asyncio.open_connection(self._member.host, self._member.port)
        try:
            away.write(first + b"\r\nConnection: close\r\n" + rest + body)
            lost = self.lost.get(path, 0)
            if lost or held is not None:
                self.lost[path] = max(0, lost - 1)
                await there.read()
                if held is not None:
                    held.done.set()
                return
            passed = b""
            while data := await there.read(65536):
                if path not in self.muted or b'"created":true' not in passed:
                    passed += data
                    writer.write(data)
                    await writer.drain()
        finally:
            away.transport.abort()


@asynccontextmanager
async def proxy(member: Member) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a member."""
    running = Proxy(member)
    await running.open()
    try:
        yield running
    finally:
        await running.cut()
