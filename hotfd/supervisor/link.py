"""The supervisor's side of a server's control socket: as :mod:`hotfd.control.client`, on the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

from hotfd.control.client import READ_SIZE, check_greeting, request_failed
from hotfd.control.errors import ServerGone, Unreachable
from hotfd.control.lines import MAX_ANSWER, LineBuffer, LineTooLong, decode, encode
from hotfd.control.target import find
from hotfd.supervisor.worker import Probe

GREETING_LIMIT: Final = 5.0
"""Seconds in which a server must greet; as for the command line."""

PROBE_LIMIT: Final = 1.0
"""Seconds in which a server must greet whoever only wants a sign of life."""

QUEUE_LIMIT: Final = 0.001
"""Seconds to wait for a place in the server's queue, which is the only thing here that blocks the loop."""


class Link:
    """A connection to a server's control endpoint; an asynchronous context manager.

    Args:
        connection: a connected, non-blocking stream socket, which the link owns.
        label: what to call the server in messages.
    """

    def __init__(self, connection: socket.socket, label: str) -> None:
        self._connection = connection
        self._label = label
        self._input = LineBuffer(MAX_ANSWER)
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, pid: int, limit: float = GREETING_LIMIT) -> Link:
        """Connect to the control socket of a process, and make sure that it is that process's.

        Raises:
            Unreachable: see :class:`hotfd.control.errors.Unreachable`.
        """
        target = find(pid)
        connection, process = target.connect(QUEUE_LIMIT)
        connection.setblocking(False)
        link = cls(connection, target.label)
        try:
            async with asyncio.timeout(limit):
                greeting = await link._read()
            check_greeting(greeting, target.label, process)
        except TimeoutError:
            link.close()
            raise Unreachable("unresponsive", f"{target.label} did not answer within {limit:g} s") from None
        except ServerGone as error:
            link.close()
            raise Unreachable("unresponsive", f"{target.label} closed the connection at once") from error
        except BaseException:
            link.close()
            raise
        return link

    async def request(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Make one request; yield its events, and then its result, as :meth:`hotfd.control.Client.request`.

        There is no deadline here: what a request may take only its maker knows. Whether the server lives,
        and gives signs of life, is watched elsewhere.

        Raises:
            RequestFailed: the server answered with an error.
            ServerGone: the connection ended before the answer.
        """
        with suppress(OSError):  # the server closed before it read this; why it did may wait to be read
            await self._loop.sock_sendall(self._connection, encode(request))
        while True:
            message = await self._read()
            if error := message.get("error"):
                raise request_failed(error)
            yield message
            if "result" in message:
                return

    async def ask(self, request: dict[str, Any], limit: float) -> Any:
        """Make one request, and return its result; its events are passed over.

        Raises:
            RequestFailed, ServerGone: as :meth:`request`; the latter also when ``limit`` seconds are over.
        """
        try:
            async with asyncio.timeout(limit):
                async for message in self.request(request):
                    if "result" in message:
                        return message["result"]
        except TimeoutError:
            raise ServerGone(f"{self._label} did not answer in time", ended=False) from None
        raise AssertionError("a request ends with a result or an error")

    async def _read(self) -> dict[str, Any]:
        try:
            while (line := self._input.take()) is None:
                data = await self._loop.sock_recv(self._connection, READ_SIZE)
                if not data:
                    raise ServerGone(f"{self._label} ended the connection before it answered", ended=True)
                self._input.feed(data)
            return decode(line)
        except LineTooLong as error:
            raise ServerGone(f"{self._label} sent no answer but {error}", ended=True) from error
        except ValueError as error:
            raise ServerGone(f"{self._label} sent what is no JSON line", ended=True) from error
        except OSError as error:
            raise ServerGone(f"the connection to {self._label} broke: {error.strerror}", ended=True) from error

    def close(self) -> None:
        """Close the connection; what was started goes on. Idempotent."""
        self._connection.close()

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def probe(pid: int, limit: float = PROBE_LIMIT) -> Probe:
    """Ask a process for a sign of life within ``limit`` seconds: its control endpoint greets from its event loop."""
    try:
        (await Link.open(pid, limit)).close()
    except Unreachable as error:
        if error.code == "too-many-clients":  # it said so itself
            return Probe.ANSWERED
        return Probe.MUTE if error.code in {"not-a-server", "no-such-process"} else Probe.SILENT
    except OSError:  # no descriptors here; that is not the server's fault
        return Probe.MUTE
    return Probe.ANSWERED


async def probe_all(pids: set[int], limit: float = PROBE_LIMIT) -> dict[int, Probe]:
    """Ask several processes at once, each for ``limit`` seconds."""
    ordered = sorted(pids)
    return dict(zip(ordered, await asyncio.gather(*(probe(pid, limit) for pid in ordered)), strict=True))
