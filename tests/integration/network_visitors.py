"""A server on a network of its own whose handler does a different thing at each of its addresses, and its clients."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.integration import harness
from tests.integration.harness import PATIENCE
from tests.integration.network_lines import SERVER, SERVER6, Line, Network, network
from tests.proof.oracle import bulk

ECHO, BULK, ENDS_FIRST, PROBES = 7000, 7001, 7002, 7003
"""Ports: answers as the counter does; answers with much; ends its own direction first; sends keep-alive probes."""

Loop = Literal["asyncio", "uvloop"]

BULK_SIZE = 3 << 20
"""Bytes of one answer at BULK: many times what the kernels of both hosts keep for a connection."""

PROBE_IDLE, PROBE_INTERVAL, PROBE_COUNT = 1, 1, 3
"""Seconds of silence before the first probe, seconds between them, and how many stay without an answer."""

PROGRAM = f"""
    import asyncio
    import hashlib
    import os
    import socket
    import sys
    from dataclasses import dataclass

    import hotfd

    sys.path.insert(0, {str(harness.ROOT)!r})
    from tests.proof.oracle import bulk

    @dataclass
    class Visitor:
        lines: int = 0
        digest: str = ""

    async def echo(conn):
        if not conn.resumed:
            await conn.send(b"hello")
        async for line in conn:
            conn.state.lines += 1
            await conn.send(b"%d %s" % (conn.state.lines, line))

    async def much(conn):
        # The line names a stream; "end" ends this direction, behind whatever is unsent.
        async for line in conn:
            if line == b"end":
                conn.write_eof()
            else:
                await conn.write(bulk(line, 0, {BULK_SIZE}))

    async def ends_first(conn):
        if not conn.resumed:
            await conn.send(b"goodbye")
            conn.write_eof()
        async for line in conn:
            conn.state.lines += 1
            conn.state.digest = hashlib.sha256(conn.state.digest.encode() + line).hexdigest()
        with open(sys.argv[1], "w") as file:
            file.write(f"{{conn.state.lines}} {{conn.state.digest}}")

    async def probes(conn):
        if not conn.resumed:
            # The connection's own socket is not for handlers: a copy of its descriptor, closed at once, sets the options.
            with socket.socket(fileno=os.dup(conn._stream.fileno())) as copy:
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, {PROBE_IDLE})
                copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, {PROBE_INTERVAL})
                copy.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, {PROBE_COUNT})
        await echo(conn)

    HANDLERS = {{"{BULK}": much, "{ENDS_FIRST}": ends_first, "{PROBES}": probes}}

    async def talk(conn):
        await HANDLERS.get(conn.listener.rpartition(":")[2], echo)(conn)

    ports = [{BULK}, {ENDS_FIRST}, {PROBES}]
    hotfd.run(
        talk,
        [f"unix:{{sys.argv[2]}}", f"[{SERVER6}]:{ECHO}", f"[{SERVER6}]:{BULK}", f"{SERVER}:{ECHO}"]
        + [f"{SERVER}:{{port}}" for port in ports],
        framing=hotfd.Lines(),
        state=Visitor,
        name="visitors",
        loop=sys.argv[3],
    )
"""


@dataclass
class Site:
    """The server, its network, and what it leaves for the test."""

    net: Network
    service: harness.Server
    result: Path
    path: Path

    def connect(self, line: Line, port: int, family: int = socket.AF_INET, **options: int) -> socket.socket:
        """Connect from a line's client; the options are buffer sizes in bytes, which hold from the first packet on."""
        sock = line.socket(family)
        try:
            for name, size in options.items():
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), size)
            sock.settimeout(PATIENCE)
            sock.connect((SERVER if family == socket.AF_INET else SERVER6, port))
        except OSError:
            sock.close()
            raise
        return sock

    def connections(self) -> int:
        """Return how many connections the server has, in the operator's words."""
        return int(self.service.status()["connections"])


@contextmanager
def site(tmp_path: Path, loop: Loop, *lines: str) -> Iterator[Site]:
    """Run the server on an event loop, with clients on lines of these names."""
    result, path = tmp_path / "result", tmp_path / "server.sock"
    program = harness.script(tmp_path, "visitors.py", PROGRAM)
    with network(lines) as net:
        command = net.of_server([sys.executable, program, result, path, loop])
        with harness.server(tmp_path, command, PROBES, host=SERVER) as service:
            yield Site(net, service, result, path)
            assert "Traceback" not in service.logged(), service.logged()


def read(sock: socket.socket, size: int) -> bytes:
    """Read so many bytes, or what there is before the end."""
    found = bytearray()
    while len(found) < size and (piece := sock.recv(min(size - len(found), 1 << 18))):
        found += piece
    return bytes(found)


def expected_bulk(*names: bytes) -> bytes:
    """Return what BULK sends to somebody who has named these streams."""
    return b"".join(bulk(name, 0, BULK_SIZE) for name in names)
