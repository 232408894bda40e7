"""The load under which processes fail: clients of an oracle, idle and busy, in a room, and coming and going."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from tests.integration.harness import PATIENCE
from tests.proof.oracle import Finding, Oracle, Receiver

BURST = 3
"""Frames that a busy client says at once."""


class Client:
    """One connection.

    Attributes:
        gone: how it ended: ``reset``, ``ended``, or an empty string while it has not.
        slowest: seconds that the slowest answer took since this was last set to zero.
    """

    def __init__(
        self, oracle: Oracle, receiver: Receiver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.receiver = receiver
        self.gone = ""
        self.slowest = 0.0
        self._oracle, self._reader, self._writer = oracle, reader, writer
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, oracle: Oracle, address: tuple[str, int], listens_to: Client | None = None) -> Client:
        """Connect.

        Args:
            oracle: what the connection says and hears.
            address: where to.
            listens_to: who speaks in the room that this one only listens to.
        """
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(*address)
        receiver = oracle.receiver() if listens_to is None else oracle.listener(listens_to.receiver)
        return cls(oracle, receiver, reader, writer)

    async def tell(self, line: str) -> bool:
        """Say something to the program itself; return whether it was done."""
        self._writer.write(line.encode() + b"\n")
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                return await self._reader.readline() == b"!done\n"
        return False

    async def talk(self, frames: int = 1, *listeners: Client) -> None:
        """Say frames, and hear the answers, as do those who listen; nothing when the connection is over."""
        if self.gone:
            return
        async with self._lock:
            began = time.monotonic()
            data = self.receiver.ask(frames)
            for listener in listeners:
                listener.receiver.ask(frames)
            self._writer.write(data)
            await asyncio.gather(self._hear(), *(listener._hear() for listener in listeners))
            self.slowest = max(self.slowest, time.monotonic() - began)

    async def _hear(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not self.gone and not self.receiver.complete and not self.receiver.astray:
                    data = await self._reader.read(1 << 16)
                    if not data:
                        self.gone = "ended"
                    self.receiver.feed(data)
        except ConnectionError:
            self.gone = "reset"
        except TimeoutError:
            self.gone = "silent"

    def findings(self) -> list[Finding]:
        """Return what is wrong with what was heard. One whose connection is over may lack the end of it."""
        return self._oracle.findings(self.receiver)

    async def close(self) -> None:
        """End the connection, in order where it lives."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class Crowd:
    """All clients of a server.

    Args:
        idle: how many say nothing while the processes fail.
        busy: how many talk all the time.
        listeners: how many listen in the room.

    Attributes:
        departed: visitors that have gone, with all that they were to hear, since the case began.
    """

    def __init__(self, idle: int, busy: int, listeners: int) -> None:
        self.oracle = Oracle()
        self._sizes = idle, busy, listeners
        self.idle: list[Client] = []
        self.busy: list[Client] = []
        self.room: list[Client] = []  # the first speaks
        self.doomed: Client | None = None  # the server is about to close its connection
        self.visitors: list[Client] = []
        self.departed = 0
        self._rooms = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    @property
    def everybody(self) -> list[Client]:
        """All clients."""
        return [*self.idle, *self.busy, *self.room, *self.visitors]

    async def doom(self) -> None:
        """Have the server close the connection of one who is idle, as soon as it is offered."""
        self.doomed = self.idle.pop(0)
        assert await self.doomed.tell("!close")

    async def fill(self, address: tuple[str, int]) -> None:
        """Have all of them connected who are not."""
        if self.doomed is not None:
            await self._leave([self.doomed])
            self.doomed = None
        idle, busy, listeners = self._sizes
        for group, size in ((self.idle, idle), (self.busy, busy)):
            await self._leave([client for client in group if client.gone])
            group[:] = [client for client in group if not client.gone]
            while len(group) < size:
                group.append(await Client.open(self.oracle, address))
                await group[-1].talk(1)
        if not self.room or any(client.gone for client in self.room):
            await self._leave(self.room)
            self._rooms += 1
            self.room = [await Client.open(self.oracle, address)]
            self.room += [await Client.open(self.oracle, address, self.room[0]) for _ in range(listeners)]
            for client in self.room:
                assert await client.tell(f"!room {self._rooms}")
        await self._leave(self.visitors)
        self.departed = 0
        for client in self.everybody:
            client.slowest = 0.0

    def begin(self, address: tuple[str, int]) -> None:
        """Let them talk."""
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._chat(client)) for client in self.busy]
        self._tasks += [asyncio.create_task(self._chat(self.room[0], *self.room[1:]))]
        self._tasks += [asyncio.create_task(self._visit(address))]

    async def end(self) -> None:
        """Let them come to an end; then everybody says one thing more, the idle ones too."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*(client.talk(1) for client in [*self.idle, *self.busy, *self.visitors]))
        if not any(client.gone for client in self.room):
            await self.room[0].talk(1, *self.room[1:])
        else:
            await asyncio.gather(*(client._hear() for client in self.room))

    async def _chat(self, client: Client, *listeners: Client) -> None:
        while not self._stop.is_set() and not any(each.gone for each in (client, *listeners)):
            await client.talk(BURST, *listeners)
            await asyncio.sleep(0.004)

    async def _visit(self, address: tuple[str, int]) -> None:
        """Come and go; every third one stays."""
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                visitor = await Client.open(self.oracle, address)
            except (OSError, TimeoutError):  # nobody serves: the case says whether that may be
                await asyncio.sleep(0.05)
                continue
            self.visitors.append(visitor)
            await visitor.talk(1)
            if number % 3:
                await visitor.close()
                if not visitor.gone:
                    self.visitors.remove(visitor)
                    self.departed += 1
            await asyncio.sleep(0.02)

    @staticmethod
    async def _leave(clients: list[Client]) -> None:
        for client in clients:
            await client.close()
        clients.clear()

    async def close(self) -> None:
        """Let everybody go."""
        await self._leave([*self.idle, *self.busy, *self.room, *self.visitors])
