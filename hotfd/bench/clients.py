"""The clients of ``hotfd bench``: one process, one thread, no event loop but the kernel's.

``python -m hotfd.bench.clients --address HOST:PORT --connections N --busy K --state BYTES``

All connections ask once, so that each is known to be served; then it prints ``ready``. From there on K of them ask
again some milliseconds after each answer. Every answer must be the one that is due: a count that goes on, and as
many bytes of state as in the beginning. Each line on standard input is answered by one of JSON: what was seen since the
one before (:class:`Seen`). At its end every connection asks once more, the last line is printed, and it exits.

The exit status is 1, with the reason on standard error, when a connection is lost or an answer is wrong or missing.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from typing import Final

import msgspec

from hotfd.bench.child import tell

THINK: Final = 0.01
"""Seconds between an answer and the next question of a connection that is busy: a hundred questions a second each, so
that the clients do not take the processors from what is measured."""

QUESTION: Final = struct.pack("!I", 1) + b"?"
"""One frame of one byte."""

ANSWER: Final = struct.Struct("!QQ")
"""What the server answers: how many questions this connection has asked, and how many bytes of state it has."""

REPLY: Final = 4 + ANSWER.size
"""Bytes of an answer with its length."""

WINDOW: Final = 64
"""Connections that are opened and not yet served: fewer than any listener's queue holds."""

PATIENCE: Final = 60.0
"""Seconds without any answer after which the server is taken to be stuck."""

STDIN: Final = 0


class Seen(msgspec.Struct):
    """What clients have seen for a while; times in seconds.

    Attributes:
        answers: how many came.
        wait_p50: from a question to its answer, the median.
        wait_p99: the same, of the slowest in a hundred.
        wait_max: the longest.
        seconds: how long it was.
    """

    answers: int
    wait_p50: float
    wait_p99: float
    wait_max: float
    seconds: float


class Lost(Exception):  # noqa: N818 - reads as the outcome
    """A connection is lost, or an answer is wrong or does not come."""


class Visitor:
    """One connection.

    Args:
        address: of the server.
        number: its place among the others.
        state: bytes that the server keeps of it.
    """

    __slots__ = ("answers", "asked", "number", "rest", "socket", "state")

    def __init__(self, address: tuple[str, int], number: int, state: int) -> None:
        self.number = number
        self.state = state
        self.answers = 0
        self.asked = 0.0
        self.rest = b""
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """Send a question; five bytes always fit, since the one before was answered."""
        self.asked = time.monotonic()
        try:
            self.socket.send(QUESTION)
        except OSError as error:
            raise self._lost(str(error)) from error

    def answered(self) -> float | None:
        """Read what has come; return the seconds from question to answer, or None when it is not whole yet."""
        try:
            data = self.socket.recv(REPLY + 1)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._lost(str(error)) from error
        if not data:
            raise self._lost("the server has closed it")
        self.rest += data
        if len(self.rest) < REPLY:
            return None
        self.answers += 1
        if not self.asked or self.rest[4:] != ANSWER.pack(self.answers, self.state):
            raise self._lost(f"its answer {self.answers} is not the one that was due")
        wait = time.monotonic() - self.asked
        self.asked = 0.0
        self.rest = b""
        return wait

    def _lost(self, what: str) -> Lost:
        return Lost(f"connection {self.number} after {self.answers} answers: {what}")


class Clients:
    """All connections.

    Args:
        address: of the server.
        connections: how many.
        busy: how many of them keep asking; spread evenly.
        state: bytes that the server keeps of each.
    """

    def __init__(self, address: tuple[str, int], connections: int, busy: int, state: int) -> None:
        self._address = address
        self._connections = connections
        self._busy = {
            number for number in range(connections) if (number + 1) * busy // connections > number * busy // connections
        }
        self._state = state
        self._poll = select.epoll()
        self._visitors: dict[int, Visitor] = {}
        self._waiting = 0
        self._due: deque[tuple[float, Visitor]] = deque()
        self._waits: list[float] = []
        self._began = 0.0

    def open(self) -> None:
        """Connect, and have each connection ask once."""
        for number in range(self._connections):
            visitor = Visitor(self._address, number, self._state)
            self._visitors[visitor.socket.fileno()] = visitor
            self._poll.register(visitor.socket, select.EPOLLIN)
            self._ask(visitor)
            self._settle(WINDOW)
        self._settle(0)

    def serve(self) -> None:
        """Keep asking, and answer what is said on standard input, until that ends."""
        self._poll.register(STDIN, select.EPOLLIN)
        self._begin()
        now = time.monotonic()
        self._due.extend((now + THINK, self._visitors[each]) for each in self._visitors if self._is_busy(each))
        while True:
            before_next = self._due[0][0] - time.monotonic() if self._due else PATIENCE
            if STDIN in self._turn(max(0.0, before_next), again=True):
                if not os.read(STDIN, 4096):
                    break
                self._tell()
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                self._ask(self._due.popleft()[1])
        self._poll.unregister(STDIN)

    def finish(self) -> None:
        """Have every connection ask once more, and tell what was seen of that."""
        self._settle(0)
        self._begin()
        for visitor in self._visitors.values():
            self._ask(visitor)
            self._settle(WINDOW)
        self._settle(0)
        self._tell()

    def _is_busy(self, fd: int) -> bool:
        return self._visitors[fd].number in self._busy

    def _ask(self, visitor: Visitor) -> None:
        self._waiting += 1
        visitor.ask()

    def _turn(self, timeout: float, *, again: bool) -> set[int]:
        """Wait for something, and see to it; return what became readable."""
        ready = {fd for fd, _ in self._poll.poll(timeout)}
        for fd in ready - {STDIN}:
            visitor = self._visitors[fd]
            wait = visitor.answered()
            if wait is None:
                continue
            self._waiting -= 1
            self._waits.append(wait)
            if again and self._is_busy(fd):
                self._due.append((time.monotonic() + THINK, visitor))
        return ready

    def _settle(self, few: int) -> None:
        """Wait until at most ``few`` questions are open."""
        while self._waiting > few:
            if not self._turn(PATIENCE, again=False):
                raise Lost(f"{self._waiting} questions are not answered within {PATIENCE:.0f} s")

    def _begin(self) -> None:
        self._waits = []
        self._began = time.monotonic()

    def _tell(self) -> None:
        # Whoever waits at this moment has waited that long at least.
        now = time.monotonic()
        open_waits = [now - visitor.asked for visitor in self._visitors.values() if visitor.asked]
        waits = sorted(self._waits) or [0.0]
        seen = Seen(
            answers=len(self._waits),
            wait_p50=waits[(len(waits) - 1) // 2],
            wait_p99=waits[(len(waits) * 99 + 99) // 100 - 1],
            wait_max=max(waits[-1], *open_waits, 0.0),
            seconds=now - self._began,
        )
        tell(msgspec.json.encode(seen))
        self._begin()


def main() -> int:
    """Run until standard input ends; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--busy", type=int, required=True)
    parser.add_argument("--state", type=int, required=True)
    asked = parser.parse_args()
    host, _, port = asked.address.rpartition(":")
    clients = Clients((host, int(port)), asked.connections, asked.busy, asked.state)
    try:
        clients.open()
        tell(b"ready")
        clients.serve()
        clients.finish()
    except (Lost, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
