"""The client's side of the control socket: blocking, with a deadline on everything.

It uses plain sockets, because a command that runs for a moment should not load an event loop first.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
from hotfd.control.lines import MAX_ANSWER, PROTOCOL, LineBuffer, LineTooLong, decode, encode
from hotfd.control.target import CONNECT_TIMEOUT, Target

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from hotfd.control.process import Process

REQUEST_TIMEOUT = 30.0
"""Seconds that a request may take unless its caller says otherwise."""

READ_SIZE = 64 * 1024
"""Bytes taken from the socket at once."""


class Client:
    """A connection to a server's control endpoint; a context manager.

    Args:
        connection: a connected stream socket, which the client owns.
        label: what to call the server in messages.
        process: the process at the other end, where it is known.

    Attributes:
        greeting: what the server said first; empty until :meth:`connect` has returned.
        process: as above.
    """

    def __init__(self, connection: socket.socket, label: str, process: Process | None) -> None:
        self.greeting: dict[str, Any] = {}
        self.process = process
        self._connection = connection
        self._label = label
        self._input = LineBuffer(MAX_ANSWER)

    @classmethod
    def connect(cls, target: Target, timeout: float = CONNECT_TIMEOUT) -> Client:
        """Connect to ``target``, and make sure that it is a hotfd server and the process that was meant.

        Args:
            target: from :func:`hotfd.control.find` or :func:`hotfd.control.at`.
            timeout: seconds until the server must have greeted.

        Raises:
            Unreachable: see :class:`hotfd.control.errors.Unreachable`.
        """
        deadline = time.monotonic() + timeout
        connection, process = target.connect(timeout)
        client = cls(connection, target.label, process)
        try:
            client._greet(deadline, timeout)
        except BaseException:
            client.close()
            raise
        return client

    @property
    def pid(self) -> int:
        """The server's process id, as this process sees it where it can."""
        return self.process.pid if self.process else int(self.greeting.get("pid", 0))

    def request(self, kind: str, /, timeout: float = REQUEST_TIMEOUT, **fields: object) -> Iterator[dict[str, Any]]:
        """Make one request, and yield its events and then its result.

        Args:
            kind: the request's ``type``.
            timeout: seconds until the answer must be there.
            fields: the rest of the request.

        Yields:
            ``{"event": ...}`` any number of times, then ``{"result": ...}`` once, as the last.

        Raises:
            RequestFailed: the server answered with an error.
            ServerGone: the connection ended before the answer, or nothing came in time.
        """
        deadline = time.monotonic() + timeout
        self._write(encode({"type": kind, **fields}), deadline)
        while True:
            message = self._read(deadline)
            if error := message.get("error"):
                raise request_failed(error)
            yield message
            if "result" in message:
                return

    def ask(
        self,
        kind: str,
        /,
        timeout: float = REQUEST_TIMEOUT,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        **fields: object,
    ) -> dict[str, Any]:
        """Make one request and return its result; ``on_event`` is called with each event.

        Raises:
            RequestFailed, ServerGone: as :meth:`request`.
        """
        result: dict[str, Any] = {}
        for message in self.request(kind, timeout, **fields):
            if "result" in message:
                result = message["result"]
            elif on_event is not None:
                on_event(message)
        return result

    def close(self) -> None:
        """Close the connection; what was started goes on. May be called twice."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _greet(self, deadline: float, timeout: float) -> None:
        try:
            greeting = self._read(deadline)
        except ServerGone as exc:
            what = (
                "closed the connection at once; it is shutting down"
                if exc.ended
                else f"did not answer within {timeout:g} s; it is stopped or its event loop hangs"
            )
            raise Unreachable("unresponsive", f"{self._label} has a control socket, but {what}") from exc
        check_greeting(greeting, self._label, self.process)
        self.greeting = greeting

    def _write(self, line: bytes, deadline: float) -> None:
        try:
            self._connection.settimeout(_remaining(deadline))
            self._connection.sendall(line)
        except TimeoutError:
            raise ServerGone(f"{self._label} does not read its requests", ended=False) from None
        except OSError:
            # The server closed before it read this; why it did may wait to be read.
            pass

    def _read(self, deadline: float) -> dict[str, Any]:
        try:
            while (line := self._input.take()) is None:
                self._connection.settimeout(_remaining(deadline))
                data = self._connection.recv(READ_SIZE)
                if not data:
                    raise ServerGone(f"{self._label} ended the connection before it answered", ended=True)
                self._input.feed(data)
            return decode(line)
        except TimeoutError:
            raise ServerGone(f"{self._label} did not answer in time", ended=False) from None
        except LineTooLong as exc:
            raise ServerGone(f"{self._label} sent no answer but {exc}", ended=True) from exc
        except ValueError as exc:
            raise ServerGone(f"{self._label} sent what is no JSON line", ended=True) from exc
        except OSError as exc:
            raise ServerGone(f"the connection to {self._label} broke: {exc.strerror}", ended=True) from exc


def _remaining(deadline: float) -> float:
    # settimeout(0) would mean non-blocking, a negative one is an error; a passed deadline is a timeout.
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def check_greeting(greeting: dict[str, Any], label: str, process: Process | None) -> None:
    """Make sure by its greeting that a server is one, and the process that was meant.

    Args:
        greeting: the first line that it sent.
        label: what to call it in messages.
        process: the process that was meant, where it is known.

    Raises:
        Unreachable: it has turned this client away, is no hotfd server, or is another process.
    """
    if error := greeting.get("error"):
        failed = request_failed(error)
        raise Unreachable(failed.code, failed.message)
    if greeting.get("hotfd") != PROTOCOL:
        raise Unreachable(
            "incompatible",
            f"{label} does not speak version {PROTOCOL} of the control protocol; use the hotfd "
            "command of the environment that the server runs in",
        )
    told = greeting.get("pid"), greeting.get("start_time")
    if process is not None and told != (process.inner_pid, process.start_time):
        raise Unreachable("impostor", f"what answers at the control socket of {label} is another process; try again")


def request_failed(error: object) -> RequestFailed:
    """Return the error that a server's answer holds."""
    if isinstance(error, dict):
        return RequestFailed(str(error.get("code", "unknown")), str(error.get("message", "")))
    return RequestFailed("unknown", str(error))
