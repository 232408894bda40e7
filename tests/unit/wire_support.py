"""What the tests of the channel and of the sockets share: waiting for facts, and counting descriptors."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import resource
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hotfd.errors import ChannelError
    from hotfd.transfer.channel import Arrival
    from hotfd.wire import messages as m

LIMIT = 20.0
"""Seconds after which a test that waits for a fact fails; no test takes a hundredth of it."""


Loop = Callable[[], asyncio.AbstractEventLoop]


@functools.cache
def loops() -> dict[str, Loop]:
    """The event loops that hotfd runs on: asyncio's own, and uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return {"asyncio": asyncio.new_event_loop}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))  # the first one opens descriptors that the process keeps
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on every loop, each time on a fresh one that is closed afterwards."""

    @functools.wraps(test)
    def run(*, loop_factory: Loop, **arguments: object) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**arguments))

    signature = inspect.signature(test)
    factory = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), factory]
    )
    return pytest.mark.parametrize("loop_factory", loops().values(), ids=loops())(run)


def open_descriptors() -> set[str]:
    """The open descriptors and what they are, so that a leak shows its kind."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return found


def wait_for_given_up_threads() -> None:
    """Wait until everything has ended that was run aside for the configuration, also what nobody waits for any more."""
    for thread in threading.enumerate():
        if thread.name == "hotfd-config":
            thread.join(LIMIT)
            assert not thread.is_alive(), "a thread that does not end"


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def descriptor_limit(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client that blocks for at most ``LIMIT``, and the server's end, which does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.settimeout(LIMIT)
    server.setblocking(False)
    with client, server:
        yield client, server


async def turns(count: int = 4) -> None:
    """Let the loop poll: whatever is ready on a local socket has been handled afterwards."""
    for _ in range(count):
        await asyncio.sleep(0)


class Happening:
    """A fact that a callback brings about and a test waits for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def note(self, *_: object) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds that changes only when :meth:`note` is called."""
        async with asyncio.timeout(LIMIT):
            while not condition():
                self._event.clear()
                await self._event.wait()


class Inbox:
    """The receiving side of a channel: keeps what arrives, closes what came with it at the end."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.broken: list[ChannelError] = []
        self.happening = Happening()

    def on_message(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        self.happening.note()

    def on_broken(self, error: ChannelError) -> None:
        self.broken.append(error)
        self.happening.note()

    @property
    def messages(self) -> list[m.Message]:
        return [arrival.message for arrival in self.arrivals]

    async def until(self, count: int) -> None:
        await self.happening.until(lambda: len(self.arrivals) >= count)

    async def until_broken(self) -> None:
        await self.happening.until(lambda: bool(self.broken))

    def close(self) -> None:
        for arrival in self.arrivals:
            arrival.close()
        self.arrivals.clear()


@pytest.fixture()
def nothing_stays_open() -> Iterator[None]:
    """Fail a test that leaves a descriptor open, or closes one that is not its own."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before
