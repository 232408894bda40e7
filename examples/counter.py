"""A line server that counts: each visitor's lines are numbered, also across a handoff.

python examples/counter.py --listen 127.0.0.1:7000
telnet 127.0.0.1 7000
hotfd handoff --pid PID
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import hotfd


@dataclass
class Visitor:
    """What the server keeps of a visitor."""

    lines: int = 0


async def talk(conn: hotfd.Connection[Visitor]) -> None:
    """Greet once, then answer each line with its number."""
    if not conn.resumed:
        await conn.send(b"hello")
    async for line in conn:
        conn.state.lines += 1
        await conn.send(b"%d %s" % (conn.state.lines, line))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:7000", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    arguments = parser.parse_args()
    hotfd.run(talk, listen=arguments.listen, framing=hotfd.Lines(), state=Visitor, name="counter", loop=arguments.loop)
