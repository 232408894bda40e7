"""The server that ``hotfd bench`` hands over: it counts what it is asked, and keeps some bytes per connection.

``python -m hotfd.bench.server --state BYTES --loop LOOP``
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hotfd.app.runner import run
from hotfd.bench.clients import ANSWER
from hotfd.framing import LengthPrefix

if TYPE_CHECKING:
    from hotfd.server.connection import Connection

LISTEN: Final = "127.0.0.1:0"


@dataclass
class Visitor:
    """What is kept of a connection.

    Attributes:
        frames: how many it has sent.
        ballast: bytes that only have to travel.
    """

    frames: int = 0
    ballast: bytes = b""


def main() -> None:
    """Serve until SIGTERM, or until a new process has taken over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=int, required=True)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], required=True)
    asked = parser.parse_args()

    async def serve(conn: Connection[Visitor]) -> None:
        if not conn.resumed:
            conn.state.ballast = bytes(asked.state)
        async for _frame in conn:
            conn.state.frames += 1
            await conn.send(ANSWER.pack(conn.state.frames, len(conn.state.ballast)))

    run(serve, LISTEN, framing=LengthPrefix(), state=Visitor, name="hotfd-bench", loop=asked.loop)


if __name__ == "__main__":
    main()
