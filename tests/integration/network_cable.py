"""A cable between two network namespaces with a mind of its own: it delays packets, and lets some overtake others.

The netem queueing discipline does this in the kernel, but not every kernel has it. Here each end of the cable is a TUN
device, and a task of the test's event loop carries IP packets from one to the other. It knows nothing of what it
carries. See https://docs.kernel.org/networking/tuntap.html.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.namespaces import within

TUN = Path("/dev/net/tun")

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
"""From linux/if_tun.h."""

PACKET = 65536
"""Bytes of the largest IP packet."""

BATCH = 64
"""Packets that are taken in one turn of the loop, so that a fast sender does not hold it."""


def tun(namespace: str, device: str) -> int:
    """Make a TUN device in a namespace; it is there as long as the descriptor that is returned, which the caller owns."""

    def make() -> int:
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
        except OSError:
            os.close(fd)
            raise
        return fd

    return within(namespace, make)


class Cable:
    """Carries packets while it is plugged in; until then, and afterwards, what is sent waits in the devices' queues.

    Attributes:
        delay: seconds that each packet travels.
        late: share of the packets, 0 to 1, that travel longer than those behind them.
        lateness: seconds that these travel longer.
        carried: packets that have arrived.
        overtaken: packets that arrived after one that was sent later.
    """

    def __init__(self, ends: tuple[int, int], seed: int = 0) -> None:
        self.delay = 0.0
        self.late = 0.0
        self.lateness = 0.0
        self.carried = 0
        self.overtaken = 0
        self._ends = ends
        self._random = random.Random(seed)
        self._sent = dict.fromkeys(ends, 0)
        self._newest = dict.fromkeys(ends, 0)
        self._plugged = False

    @contextmanager
    def plugged(self) -> Iterator[None]:
        """Carry packets in the running event loop; what is on its way at the end is lost."""
        loop = asyncio.get_running_loop()
        one, other = self._ends
        self._plugged = True
        loop.add_reader(one, self._carry, one, other)
        loop.add_reader(other, self._carry, other, one)
        try:
            yield
        finally:
            self._plugged = False
            loop.remove_reader(one)
            loop.remove_reader(other)

    def _carry(self, source: int, target: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(BATCH):
            try:
                packet = os.read(source, PACKET)
            except BlockingIOError:
                return
            self._sent[source] += 1
            travels = self.delay + (self.lateness if self._random.random() < self.late else 0.0)
            if travels:
                loop.call_later(travels, self._arrive, source, target, self._sent[source], packet)
            else:
                self._arrive(source, target, self._sent[source], packet)

    def _arrive(self, source: int, target: int, number: int, packet: bytes) -> None:
        if not self._plugged:
            return
        self.overtaken += number < self._newest[source]
        self._newest[source] = max(number, self._newest[source])
        self.carried += 1
        try:
            os.write(target, packet)
        except BlockingIOError:  # the device's queue is full: the packet is lost, as on any cable
            return


@contextmanager
def cable(one: tuple[str, str], other: tuple[str, str], seed: int = 0) -> Iterator[Cable]:
    """Make two TUN devices, each a namespace and a name, and a cable between them; skips where TUN cannot be had."""
    try:
        left = tun(*one)
    except OSError as error:
        pytest.skip(f"packets cannot be delayed here: {TUN}: {error.strerror}")
    try:
        right = tun(*other)
        try:
            yield Cable((left, right), seed)
        finally:
            os.close(right)
    finally:
        os.close(left)
