"""What carries connections between processes, alone: ``hotfd.transfer`` and the messages, without a server around it.

    python -m scripts.bench.servers.transfer_alone CONNECTIONS BATCH

Three processes, as in ``floor.c``: clients that do nothing, one that has accepted them, and one that gets them. Offers of
BATCH sessions of one connection each: their records in a sealed memfd beside the descriptors. The new process maps that,
ties each record to its socket by SO_COOKIE, and accepts; the old one commits. Two offers are on their way at a time, as in
a handoff. At the end, ``Finish`` is answered by ``Settled``.

Without a server there are no states and no handlers: records are as empty as they may be, and made beforehand. The state
machines of the protocol are left out. The garbage collector rests, as in a handoff.

Prints the seconds from before the first offer until ``Settled`` has come.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import prctl

from hotfd import _core
from hotfd.transfer.channel import Arrival, Channel
from hotfd.transfer.offer import Assembler, Bundle, pack
from hotfd.wire import messages as m
from hotfd.wire.records import ConnectionRecord, SessionRecord

if TYPE_CHECKING:
    from hotfd.errors import ChannelError

OFFERS: Final = 2
"""Offers that are on their way at a time."""

BACKLOG: Final = 1024
"""Connections that wait to be accepted."""

SPARE: Final = 64
"""Descriptors beside the connections."""


class Give:
    """The old process.

    Args:
        fd: the channel.
        descriptors: the connections.
        batch: how many are offered at a time.
    """

    def __init__(self, fd: int, descriptors: Sequence[int], batch: int) -> None:
        self._channel = Channel(fd, self._heard, broken)
        self._done = asyncio.get_running_loop().create_future()
        cookies = _core.cookies(descriptors)
        bundles = [bundle(id, cookie, fd) for id, (cookie, fd) in enumerate(zip(cookies, descriptors, strict=True))]
        self._batches = deque(bundles[at : at + batch] for at in range(0, len(bundles), batch))
        self._offers = 0
        self._open = 0

    async def run(self) -> float:
        """Give everything; return the seconds."""
        self._channel.start()
        began = time.perf_counter()
        for _ in range(OFFERS):
            self._offer()
        await self._done
        return time.perf_counter() - began

    def _offer(self) -> None:
        if self._batches:
            batch = self._batches.popleft()
            for part in pack(self._offers, batch[0].record.session, batch):
                self._channel.send(part.message, [part.memfd, *part.descriptors], owned=[part.memfd])
            self._offers += 1
            self._open += len(batch)
        elif self._open == 0:
            self._channel.send(m.Finish(0.0))
            self._open = -1  # said once

    def _heard(self, arrival: Arrival) -> None:
        if isinstance(arrival.message, m.Accept):
            self._open -= len(arrival.message.ids)
            self._channel.send(m.Commit(arrival.message.ids))
            self._offer()
        elif isinstance(arrival.message, m.Settled):
            self._done.set_result(None)


class Take:
    """The new process.

    Args:
        fd: the channel.
    """

    def __init__(self, fd: int) -> None:
        self._channel = Channel(fd, self._heard, broken)
        self._assembler = Assembler()
        self._held: dict[int, Bundle] = {}
        self._owned: list[Bundle] = []
        self._done = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Take everything; return how many connections that were."""
        self._channel.start()
        await self._done
        return sum(len(bundle.descriptors) for bundle in self._owned)

    def _heard(self, arrival: Arrival) -> None:
        message = arrival.message
        if isinstance(message, m.OfferPart):
            arrived = self._assembler.add(message, arrival.descriptors)
            if arrived is not None:
                self._held |= arrived.bundles
                for ids in m.chunks(list(arrived.bundles)):
                    self._channel.send(m.Accept(ids))
        elif isinstance(message, m.Commit):
            self._owned += [self._held.pop(id) for id in message.ids]
        elif isinstance(message, m.Finish):
            self._channel.send(m.Settled(0.0, 0.0, 0.0))
            self._done.set_result(None)


def bundle(id: int, cookie: int, fd: int) -> Bundle:
    """Return a session that is nothing but its connection."""
    record = ConnectionRecord(id, cookie, "", "", socket.AF_INET, None, b"")
    return Bundle(SessionRecord(id, "", 1), [record], [fd])


def broken(error: ChannelError) -> None:
    """The other process does not keep to the protocol."""
    raise SystemExit(str(error))


def child(work: Callable[[], None]) -> int:
    """Fork a process that dies with this one, and return its pid."""
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        prctl.set_pdeathsig(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a forked process must not run on in the parent's code
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return pid


def be_clients(address: tuple[str, int], connections: int) -> NoReturn:
    """Connect, and do nothing more."""
    kept = [socket.create_connection(address) for _ in range(connections)]
    while kept:
        signal.pause()
    raise AssertionError


async def taking(fd: int, connections: int) -> None:
    """Be the new process."""
    taken = await Take(fd).run()
    if taken != connections:
        raise SystemExit(f"{taken} of {connections} connections have come")


async def giving(fd: int, descriptors: Sequence[int], batch: int) -> float:
    """Be the old process."""
    return await Give(fd, descriptors, batch).run()


def main(connections: int, batch: int) -> None:
    """Measure once."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < connections + SPARE:
        raise SystemExit(f"RLIMIT_NOFILE allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    mine, theirs = _core.channel_pair()
    for end in (mine, theirs):
        _core.set_pass_pidfd(end, False)  # as both do from the moment on when they know each other: before any offer
    taker = child(lambda: asyncio.run(taking(theirs, connections)))  # before anything is accepted
    os.close(theirs)
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        clients = child(lambda: be_clients(listener.getsockname(), connections))
        accepted = [listener.accept()[0] for _ in range(connections)]
    print(asyncio.run(giving(mine, [sock.fileno() for sock in accepted], batch)))
    _, status = os.waitpid(taker, 0)
    os.kill(clients, signal.SIGKILL)
    os.waitpid(clients, 0)
    raise SystemExit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
