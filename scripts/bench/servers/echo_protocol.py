"""An echo server as an ``asyncio.Protocol`` written by hand: a buffer, a loop over its frames, ``transport.write``.

What somebody writes who wants the most of asyncio: no task per connection, a whole frame is not copied into the buffer
when it came alone, replies to what came together are written together, and a slow reader is not read from.
"""

from __future__ import annotations

import asyncio
from typing import cast

from scripts.bench.servers import echo_common

COMPACT_AT = 1 << 16
"""Bytes at the front of a buffer above which they are cut off."""


class Echo(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        """Read no more while the peer does not."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.transport.resume_reading()


class EchoLength(Echo):
    """Four bytes of length, and the payload."""

    def data_received(self, data: bytes) -> None:
        """Send back each complete frame."""
        if self.buffer:
            data = self.buffer + data
        at, size, replies = 0, len(data), []
        while size - at >= 4:
            length = int.from_bytes(data[at : at + 4], "big")
            if length > echo_common.MAX_FRAME:
                self.transport.abort()
                return
            end = at + 4 + length
            if end > size:
                break
            payload = data[at + 4 : end]
            replies.append(length.to_bytes(4, "big") + payload)
            at = end
        self.buffer = data[at:]
        if replies:
            self.transport.write(replies[0] if len(replies) == 1 else b"".join(replies))


class EchoLines(Echo):
    """Lines."""

    def data_received(self, data: bytes) -> None:
        """Send back each complete line."""
        if self.buffer:
            data = self.buffer + data
        at, replies = 0, []
        while (end := data.find(b"\n", at)) >= 0:
            line = data[at:end].removesuffix(b"\r")
            replies.append(line + b"\n")
            at = end + 1
        self.buffer = data[at:]
        if len(self.buffer) > echo_common.MAX_FRAME:
            self.transport.abort()
            return
        if replies:
            self.transport.write(replies[0] if len(replies) == 1 else b"".join(replies))


async def main(framing: str) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    protocol = EchoLength if framing == "length" else EchoLines
    server = await loop.create_server(protocol, sock=echo_common.listening(), backlog=echo_common.BACKLOG)
    echo_common.announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    options = echo_common.arguments(__doc__)
    echo_common.run(main(options.framing), options.loop)
