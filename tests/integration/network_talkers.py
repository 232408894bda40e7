"""Clients on the lines of a network, each of which knows every byte that it must hear; and handoffs on their server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.integration import harness

if TYPE_CHECKING:
    from tests.integration.network_lines import Network
    from tests.proof.oracle import Oracle, Receiver

PORT = 7000
"""Of the server, which has its network for itself."""

WINDOW = 4096
"""Bytes of answers below which a client says more."""

BURST = 4
"""Frames said at once."""

PAUSE = 0.05
"""Seconds after which it looks again: so a client is busy, and thirty of them leave the processor idle."""

PIECE = 65536
"""Bytes read at once."""


class Talker:
    """One connection of a client that talks all the time, says so when it is done, and hears the rest.

    Args:
        oracle: knows all streams of the test.
        line: what the line is called.
        sock: a socket of the client's host, which the talker owns.
        window: bytes of answers below which it says more.

    Attributes:
        receiver: checks what is heard.
        ended: the server has ended its direction.
        error: what has ended the connection instead.
    """

    def __init__(self, oracle: Oracle, line: str, sock: socket.socket, *, window: int = WINDOW) -> None:
        self.line = line
        self.sock = sock
        self.receiver: Receiver = oracle.receiver()
        self.ended = False
        self.error: OSError | None = None
        self._oracle = oracle
        self._window = window

    async def connect(self, address: Any) -> None:
        """Connect, and hear the greeting."""
        self.sock.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(harness.PATIENCE):
            await loop.sock_connect(self.sock, address)
            while not self.receiver.complete:
                data = await loop.sock_recv(self.sock, PIECE)
                assert data, f"line {self.line}: the connection has ended before the greeting"
                assert self.receiver.feed(data), self.faults()

    async def run(self, stop: asyncio.Event) -> None:
        """Talk until it is time to stop, then end this direction and hear the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hear())
                group.create_task(self._speak(stop))
        except* OSError as errors:
            self.error = next(error for error in errors.exceptions if isinstance(error, OSError))
        finally:
            self.sock.close()

    async def _speak(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not (stop.is_set() or self.ended):
            while self.receiver.total - self.receiver.offset < self._window:
                await loop.sock_sendall(self.sock, self.receiver.ask(BURST))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PAUSE)
        self.sock.shutdown(socket.SHUT_WR)

    async def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self.sock, PIECE):
            self.receiver.feed(data)
        self.ended = True

    def faults(self) -> list[str]:
        """Say what was wrong with what was heard, and with how it ended."""
        found = [str(finding) for finding in self._oracle.findings(self.receiver, ended=self.ended)]
        if self.error is not None:
            found.append(f"{type(self.error).__name__} after {self.receiver.offset} bytes")
        return [f"line {self.line}: {fault}" for fault in found]


async def progress(talkers: Sequence[Talker]) -> None:
    """Wait until every line has heard more than now: one connection of each, since a single one may be very unlucky."""
    heard = {id(talker): talker.receiver.offset for talker in talkers}
    still = {talker.line for talker in talkers}
    deadline = time.monotonic() + harness.PATIENCE
    while still:
        assert time.monotonic() < deadline, f"nothing comes any more on the lines {', '.join(still)}"
        assert not (faults := [fault for talker in talkers for fault in talker.faults()]), faults
        still -= {talker.line for talker in talkers if talker.receiver.offset > heard[id(talker)]}
        await asyncio.sleep(0.01)


async def hand_over(network: Network, service: harness.Server, *options: str) -> dict[str, Any]:
    """Hand over with the command line on the server's host, while the caller's loop runs on; nothing may go wrong."""
    command = [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "0.2", *options]
    process = await asyncio.create_subprocess_exec(
        *network.of_server(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    done = subprocess.CompletedProcess([], process.returncode or 0, out.decode(), err.decode())
    return service.outcome(done, 0)
