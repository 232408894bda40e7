"""One client of the endpoint, from its greeting to its end.

Requests are carried out one at a time, in order. A client that hangs up does not end what it started: a
handoff goes on. Only those end with it that are of no use without it, because all that they do is to tell.

A client that does not read costs a bounded amount of memory: progress is dropped first, then other events, and when
an answer cannot be kept either, the connection ends, so that no client takes silence for an answer. What was
dropped is counted, and the client is told how many events it has lost before it is told anything else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TYPE_CHECKING, Any

from hotfd import log
from hotfd.control.lines import MAX_REQUEST, LineBuffer, LineTooLong, decode, encode
from hotfd.errors import HandoffRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_OUTPUT = 1024 * 1024
"""Bytes kept for a client that does not read: thousands of progress lines, and 64 MiB over all clients."""

MAX_PASSING = 256 * 1024
"""Bytes kept for a client that does not read before events of passing interest are dropped: the rest of
:data:`MAX_OUTPUT` is for those that matter afterwards."""

PASSING = frozenset({"progress", "counts"})
"""Events of passing interest: the next of their kind says the same, and newer."""

MAX_ATTENDED = 48
"""Clients whose instruction lasts as long as they do, such as ``watch``: the other places are left to those who ask and
go, so that forgotten watchers cannot keep an operator from his server."""

CLOSE_TIMEOUT = 1.0
"""Seconds that a client has to read the last answer before its connection is closed."""

READ_SIZE = 64 * 1024
"""Bytes taken from a socket at once."""

LINES_PER_TURN = 64
"""Lines of one client that are looked at in one turn of the event loop: 64 KiB can hold as many as there are bytes, and
each that is no request costs an answer."""

Emit = Callable[[dict[str, Any]], None]
"""Sends one progress line to the client that asked. It never raises and never blocks: the line is dropped
when the client is gone or does not read."""

Instruction = Callable[[dict[str, Any], Emit], Awaitable[Any]]
"""Carries out one request: takes the request and a way to report progress, returns the result.

The result is anything with a JSON form, msgspec Structs included. :class:`hotfd.errors.HandoffRefused`
becomes an error with its code; any other exception is a bug, which is logged with its traceback and
answered with ``internal``.
"""


class Peer:
    """One connected client.

    Args:
        connection: a non-blocking stream socket; the peer owns it from :meth:`start` on.
        loop: the running event loop.
        instructions: what a request's ``type`` may be.
        idle_timeout: seconds in which the client must complete a request.
        running: the endpoint's set of running instructions, which keeps them alive.
        attended: the instructions that end with their client.
        peers: all clients of the endpoint.

    Attributes:
        attending: whether the instruction that runs ends with this client.
        closed: done once the connection is closed.
        task: the instruction that runs for this client, or None.
    """

    def __init__(
        self,
        connection: socket.socket,
        loop: asyncio.AbstractEventLoop,
        instructions: Mapping[str, Instruction],
        idle_timeout: float,
        running: set[asyncio.Task[None]],
        attended: Collection[str] = (),
        peers: Collection[Peer] = (),
    ) -> None:
        self.attending = False
        self.closed: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._loop = loop
        self._instructions = instructions
        self._idle_timeout = idle_timeout
        self._running = running
        self._attended = attended
        self._peers = peers
        self._lost = 0  # events that were dropped and not told of yet
        self._input = LineBuffer(MAX_REQUEST)
        self._output = bytearray()
        self._reading = False
        self._ended = False  # the client sent its end of stream; it may still read
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, greeting: bytes) -> None:
        """Greet the client and begin to read its requests."""
        self._send(greeting)
        self._watch_input(True)
        self._arm(self._idle_timeout, self._idle)

    def finish(self) -> None:
        """Close the connection once the running instruction has answered and what is due has been sent."""
        self._closing = True
        if self.closed.done() or self.task is not None:
            return
        self._watch_input(False)
        if self._output:
            self._arm(CLOSE_TIMEOUT, self.drop)
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection now. A running instruction goes on, unless it ends with its client."""
        if self.closed.done():
            return
        self._closing = True
        self._disarm()
        # A descriptor leaves the poller before it is closed; afterwards its number may be somebody else's.
        self._watch_input(False)
        self._loop.remove_writer(self._connection.fileno())
        self._connection.close()
        self._output.clear()
        self.closed.set_result(None)
        if self.attending and self.task is not None:
            self.task.cancel()

    def _watch_input(self, wanted: bool) -> None:
        if wanted == self._reading or self.closed.done():
            return
        self._reading = wanted
        if wanted:
            self._loop.add_reader(self._connection.fileno(), self._readable)
        else:
            self._loop.remove_reader(self._connection.fileno())

    def _readable(self) -> None:
        try:
            data = self._connection.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.drop()
            return
        if data:
            self._input.feed(data)
        else:
            self._ended = True
        if self.attending and (self._ended or len(self._input) > MAX_REQUEST):
            self.drop()  # it has gone; or it sends without end, and its going would not be seen behind that
            return
        self._proceed()

    def _proceed(self) -> None:
        """Start the next request, or wait for one."""
        for looked in count():
            if self.task is not None or self._closing:
                break
            if looked == LINES_PER_TURN:
                self._watch_input(False)
                self._loop.call_soon(self._proceed)
                return
            try:
                line = self._input.take()
            except LineTooLong:
                self._fail("too-long", f"a request is one line of at most {MAX_REQUEST} bytes")
                self.finish()
                return
            if line is None:
                if self._ended:
                    self.finish()
                break
            if line.strip():
                self._begin(line)
        # While an instruction runs, the client may send ahead, but only as much as one request.
        self._watch_input(not self._ended and not self._closing and len(self._input) <= MAX_REQUEST)

    def _begin(self, line: bytes) -> None:
        try:
            request = decode(line)
        except ValueError:
            self._fail("malformed", 'a request is one JSON object a line, e.g. {"type": "status"}')
            return
        kind = request.get("type")
        instruction = self._instructions.get(kind) if isinstance(kind, str) else None
        if instruction is None:
            known = ", ".join(sorted(self._instructions))
            self._fail(
                "unknown-instruction",
                f"this server knows the types {known}",
                known=sorted(self._instructions),
            )
            return
        attending = kind in self._attended
        if attending and sum(peer.attending for peer in self._peers) >= MAX_ATTENDED:
            self._fail("too-many-clients", f"{MAX_ATTENDED} clients have asked for {kind} already; end one")
            return
        self._disarm()
        self.attending = attending
        self.task = self._loop.create_task(self._run(str(kind), instruction, request))
        self._running.add(self.task)
        self.task.add_done_callback(self._done)

    async def _run(self, kind: str, instruction: Instruction, request: dict[str, Any]) -> None:
        live = True

        def emit(event: dict[str, Any]) -> None:
            if live:
                self._progress(event)

        try:
            answer = encode({"result": await instruction(request, emit)})
        except asyncio.CancelledError:
            self._fail("shutting-down", "the server closed its control endpoint before this was done")
            raise
        except Exception as exc:  # noqa: BLE001 - a broken instruction must not end the server
            self._fail(*refusal(kind, exc))
        else:
            self._send(answer)
        finally:
            live = False

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.task = None
        self.attending = False
        if not task.cancelled() and task.exception() is not None:
            self.drop()  # neither a result nor an error, as when the program exits: the client sees the end
            return
        if self.closed.done():
            return
        if self._closing:
            self.finish()
            return
        self._arm(self._idle_timeout, self._idle)
        self._proceed()

    def _idle(self) -> None:
        self._fail("idle", f"no complete request within {self._idle_timeout:g} s; connect again")
        self.finish()

    def _fail(self, code: str, message: str, **fields: object) -> None:
        self._send(encode({"error": {"code": code, "message": message, **fields}}))

    def _progress(self, event: dict[str, Any]) -> None:
        try:
            line = encode(event)
        except (TypeError, ValueError) as exc:
            # Reporting must never break what is reported.
            log.event(logging.ERROR, "control-event-failed", exc_info=exc)
            return
        room = MAX_PASSING if event.get("event") in PASSING else MAX_OUTPUT
        if len(self._output) + len(line) <= room:
            self._send(line)
        else:
            self._lost += 1

    def _send(self, line: bytes) -> None:
        if self.closed.done():
            return
        if self._lost:
            line = encode({"event": "lost", "count": self._lost}) + line
            self._lost = 0
        if len(self._output) > MAX_OUTPUT:
            log.event(logging.WARNING, "control-client-dropped", reason="it does not read", bytes=len(self._output))
            self.drop()
            return
        waiting = bool(self._output)
        self._output += line
        if not waiting:
            self._writable()

    def _writable(self) -> None:
        try:
            sent = self._connection.send(self._output, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.drop()
            return
        del self._output[:sent]
        if self._output:
            self._loop.add_writer(self._connection.fileno(), self._writable)
            return
        self._loop.remove_writer(self._connection.fileno())
        if self._closing and self.task is None:
            self.drop()

    def _arm(self, seconds: float, callback: Callable[[], None]) -> None:
        self._disarm()
        if not self.closed.done():
            self._timer = self._loop.call_later(seconds, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def refusal(kind: str, error: Exception) -> tuple[str, str]:
    """Return the code and the message with which a client is told that an instruction failed; log a defect.

    Args:
        kind: the instruction.
        error: what it raised.
    """
    if isinstance(error, HandoffRefused):
        return error.code, error.detail
    log.event(logging.ERROR, "control-instruction-failed", exc_info=error, instruction=kind)
    # The text of an exception may hold what clients sent; its type does not.
    return "internal", f"{type(error).__name__}; the server's log has the traceback"
