"""An echo server with hotfd, as its documentation shows one."""

from __future__ import annotations

import asyncio
import signal

import hotfd
from scripts.bench.servers import echo_common


async def echo(conn: hotfd.Connection[None]) -> None:
    """Send back each frame."""
    async for frame in conn:
        await conn.send(frame)


async def main(framing: hotfd.Framing) -> None:
    """Serve until SIGTERM."""
    async with hotfd.Server(echo, "127.0.0.1:0", framing=framing, name="bench-echo", control=False) as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        print(server.addresses[0], flush=True)
        await server.serve()


if __name__ == "__main__":
    options = echo_common.arguments(__doc__)
    size = echo_common.MAX_FRAME
    chosen = hotfd.LengthPrefix(max_size=size) if options.framing == "length" else hotfd.Lines(max_size=size)
    echo_common.run(main(chosen), options.loop)
