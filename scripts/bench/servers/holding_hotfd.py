"""A server that holds state for each session and answers lines: what is handed over."""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
from dataclasses import dataclass

import hotfd

size = 0


@dataclass
class Held:
    """What a session keeps: how often it was asked, and bytes of no meaning."""

    asked: int = 0
    kept: bytes = b""


async def answer(conn: hotfd.Connection[Held]) -> None:
    """Answer each line by itself; with the first one the session has its state."""
    async for line in conn:
        if not conn.state.kept:
            conn.state.kept = bytes(size)  # zeros are written, sent and read like others: nothing here compresses
        conn.state.asked += 1
        await conn.send(line)


async def main(listen: str) -> None:
    """Serve until SIGTERM, or until another process does."""
    async with hotfd.Server(answer, listen, framing=hotfd.Lines(), state=Held, name="bench-holding") as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        for address in server.addresses:  # a process that takes over has them later; who measures knows them by then
            print(address, flush=True)
        await server.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=int, default=200, help="bytes that each session keeps")
    parser.add_argument("--listen", default="127.0.0.1:0")
    options = parser.parse_args()
    size = options.state
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(options.listen))
