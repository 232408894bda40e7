"""A client of the server under test, whose failures say what came instead."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hotfd.errors import FramingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hotfd.framing import Framing

T = TypeVar("T")

READ_SIZE: Final = 1 << 16
"""Bytes asked for per read."""

SHOWN: Final = 200
"""Bytes of data that a failure shows; more hides what it says."""


class Unexpected(AssertionError):  # noqa: N818 - reads as the outcome
    """The server did not send what the test expects; the text says what came instead."""


class Client:
    """One connection to the server under test. Made by :meth:`Harness.connect`, which also closes it.

    Every wait ends after the harness's ``timeout`` with :exc:`Unexpected`.

    Args:
        reader: the incoming direction.
        writer: the outgoing direction; the client owns it.
        framing: where frames end, in both directions.
        timeout: seconds for each wait.
        story: tells how often the connection was handed over, and what its handler raised.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        framing: Framing,
        timeout: float,
        story: Callable[[Client], str],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._framing = framing
        self._scan = framing.scanner().scan
        self._timeout = timeout
        self._story = story
        self._buffer = bytearray()
        self._ended: str | None = None

    @property
    def address(self) -> Any:
        """This end's address; the handler's ``conn.peername``."""
        return self._writer.get_extra_info("sockname")

    # -- towards the server ----------------------------------------------------------------------------

    async def send(self, payload: bytes) -> None:
        """Send one frame; raises what :meth:`write` raises, and ValueError for what the framing cannot carry."""
        await self.write(self._framing.encode(payload))

    async def write(self, data: bytes) -> None:
        """Send raw bytes: half a frame, or several at once.

        Raises:
            Unexpected: the server has reset the connection, or does not read.
        """
        self._check()
        self._writer.write(data)
        try:
            await self._within(self._writer.drain(), "the server to read")
        except ConnectionError as error:
            raise self._unexpected(f"the connection is lost: {error}") from error

    def write_eof(self) -> None:
        """End this direction (half-close)."""
        self._writer.write_eof()

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        self._writer.close()
        with suppress(ConnectionError):  # reset by the server already
            await self._writer.wait_closed()

    # -- from the server -------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Return the payload of the next frame.

        Raises:
            Unexpected: none came in time, the connection ended, or what came is no frame.
        """
        return await self._frame("a frame")

    async def expect(self, payload: bytes) -> None:
        """Wait for the next frame, which must be this one.

        Raises:
            Unexpected: it is another, or none came.
        """
        got = await self._frame(_shown(payload))
        if got != payload:
            raise self._unexpected(f"expected {_shown(payload)}, got {_shown(got)}")

    async def read_exactly(self, count: int) -> bytes:
        """Return the next bytes, raw.

        Args:
            count: how many.

        Raises:
            Unexpected: fewer came.
        """
        what = f"{count} bytes"
        while len(self._buffer) < count:
            await self._fill(what)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def expect_end(self) -> None:
        """Wait for the server to end the connection, or its direction, in order and without another byte.

        Raises:
            Unexpected: something else came.
        """
        while self._ended is None and not self._buffer:
            await self._read("the end of the connection")
        if self._buffer:
            raise self._unexpected(f"expected the end of the connection, got {_shown(self._buffer)}")
        if self._ended != "ended":
            raise self._unexpected(f"expected the end of the connection, but it {self._ended}")

    async def _frame(self, what: str) -> bytes:
        while True:
            try:
                spans = self._scan(self._buffer, 0) if self._buffer else []
            except FramingError as error:
                got = _shown(self._buffer)
                raise self._unexpected(f"expected {what}, got {got}, which is no frame: {error}") from error
            if spans:
                start, end, frame_end = spans[:3]
                payload = bytes(self._buffer[start:end])
                del self._buffer[:frame_end]
                return payload
            await self._fill(what)

    async def _fill(self, what: str) -> None:
        """Read more, or fail."""
        await self._read(what)
        if self._ended is not None:
            after = f" after {_shown(self._buffer)}" if self._buffer else ""
            raise self._unexpected(f"expected {what}, but the connection {self._ended}{after}")

    async def _read(self, what: str) -> None:
        self._check()
        try:
            data = await self._within(self._reader.read(READ_SIZE), what)
        except ConnectionError:
            self._ended = "was reset"
            return
        if not data:
            self._ended = "ended"
        self._buffer += data

    async def _within(self, awaitable: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await awaitable
        except TimeoutError:
            got = _shown(self._buffer) + " and no more" if self._buffer else "nothing"
            raise self._unexpected(f"expected {what}, got {got} within {self._timeout:g} s") from None

    def _check(self) -> None:
        """Raise what went wrong with the handovers."""
        error = self._reader.exception()
        if error is not None and not isinstance(error, ConnectionError):
            raise error

    def _unexpected(self, what: str) -> Unexpected:
        return Unexpected(f"{what} ({self._story(self)})")

    def _fail(self, error: Exception) -> None:
        """Let whoever waits here fail with this."""
        self._reader.set_exception(error)


def _shown(data: bytes | bytearray) -> str:
    data = bytes(data)
    return repr(data) if len(data) <= SHOWN else f"{data[:SHOWN]!r}... ({len(data)} bytes)"
