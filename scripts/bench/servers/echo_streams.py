"""An echo server with asyncio's streams, as its documentation shows one."""

from __future__ import annotations

import asyncio

from scripts.bench.servers import echo_common


async def echo_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back each frame: four bytes of length, and the payload."""
    try:
        while True:
            header = await reader.readexactly(4)
            size = int.from_bytes(header, "big")
            if size > echo_common.MAX_FRAME:
                break
            payload = await reader.readexactly(size)
            writer.write(header + payload)
            await writer.drain()
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back each line."""
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    finally:
        writer.close()


async def main(framing: str) -> None:
    """Serve until the process is ended."""
    handler = echo_length if framing == "length" else echo_lines
    server = await asyncio.start_server(handler, sock=echo_common.listening(), limit=2 * echo_common.MAX_FRAME)
    echo_common.announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    options = echo_common.arguments(__doc__)
    echo_common.run(main(options.framing), options.loop)
