"""A server with hotfd that is handed over: it numbers each client's lines."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Callable

import hotfd
from hotfd.app.runner import raise_descriptor_limit
from scripts.bench.servers.visitor import REPLY, Visitor


async def number(conn: hotfd.Connection[Visitor]) -> None:
    """Answer each line with its number."""
    async for _ in conn:
        conn.state.lines += 1
        await conn.write(REPLY % conn.state.lines)


async def main() -> None:
    """Serve until SIGTERM, or until a new process has taken over."""
    async with hotfd.Server(number, "127.0.0.1:0", framing=hotfd.Lines(), state=Visitor, name="visitors") as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        if server.addresses:  # a new process has none before it has taken over, and nobody asks it
            print(server.addresses[0], flush=True)
        await server.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    raise_descriptor_limit()
    logging.basicConfig(level=logging.INFO)  # shown when something goes wrong
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if parser.parse_args().loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
