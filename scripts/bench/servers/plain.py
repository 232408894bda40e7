"""A server that is replaced with what Python brings along: descriptors one at a time, as one writes it in an afternoon.

It answers as ``visitors.py`` does, by an asyncio protocol. On SIGUSR1 it starts itself anew, waits until that process is
ready, stops to read, and gives everything away; the new process serves each connection as soon as it has it. Then the old
one exits, and the new one writes down when what was, and who it is.

What it lacks: nobody says whether a connection has arrived (but in one of the ways), a new process that fails takes all connections with it, what
was written and not sent is lost, and nobody is served while the others move.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import current_process, reduction
from multiprocessing.connection import Connection
from typing import Any, Final

from scripts.bench.servers.visitor import REPLY, Visitor

MESSAGE_SIZE: Final = 1 << 16
"""Bytes of a message that is received: a state and a line that is not complete are a few hundred."""

BACKLOG: Final = 4096
"""Connections that may wait to be accepted."""

AUTHKEY: Final = b"of a benchmark"
"""By which both processes know each other; multiprocessing's own way to tell it is to fork."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to give a descriptor away, with something beside it.

    Attributes:
        kind: the channel's kind of socket.
        give: sends a record and a descriptor.
        take: receives them.
        wrap: makes of a socket what these two know.
        answered: whether each is answered by a byte when it is served, and the next one waits for that.
    """

    kind: socket.SocketKind
    give: Callable[[Any, Record, int], None]
    take: Callable[[Any], tuple[Record, int]]
    wrap: Callable[[socket.socket], Any]
    answered: bool = False


def give_fds(channel: socket.socket, record: Record, fd: int) -> None:
    """JSON beside one descriptor (SCM_RIGHTS)."""
    socket.send_fds(channel, [json.dumps(record).encode()], [fd])


def take_fds(channel: socket.socket) -> tuple[Record, int]:
    """What :func:`give_fds` sent."""
    data, fds, _, _ = socket.recv_fds(channel, MESSAGE_SIZE, 1)
    return json.loads(data), fds[0]


def give_handle(channel: Connection, record: Record, fd: int) -> None:
    """A pickle, then the descriptor."""
    channel.send(record)
    reduction.send_handle(channel, fd, None)


def take_handle(channel: Connection) -> tuple[Record, int]:
    """What :func:`give_handle` sent."""
    return channel.recv(), reduction.recv_handle(channel)


def give_dup(channel: Connection, record: Record, fd: int) -> None:
    """A pickle with a DupFd in it, as one of a socket has: the descriptor is fetched from a thread of this process."""
    channel.send((record, reduction.DupFd(fd)))


def take_dup(channel: Connection) -> tuple[Record, int]:
    """What :func:`give_dup` sent."""
    record, handle = channel.recv()
    return record, handle.detach()


def connection(sock: socket.socket) -> Connection:
    """Return a socket as multiprocessing knows it."""
    return Connection(sock.detach())


WAYS: Final = {
    "send_fds": Way(socket.SOCK_SEQPACKET, give_fds, take_fds, lambda sock: sock),
    "send_fds answered": Way(socket.SOCK_SEQPACKET, give_fds, take_fds, lambda sock: sock, answered=True),
    "send_handle": Way(socket.SOCK_STREAM, give_handle, take_handle, connection),
    "DupFd": Way(socket.SOCK_STREAM, give_dup, take_dup, connection),
}


class Talk(asyncio.Protocol):
    """A client."""

    def __init__(self, all_of_them: set[Talk], state: Visitor, rest: bytes = b"") -> None:
        self._all = all_of_them
        self.state = state
        self.rest = rest
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = transport
        self._all.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """It has gone."""
        self._all.discard(self)

    def data_received(self, data: bytes) -> None:
        """Number each line."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for _ in lines:
            self.state.lines += 1
            self.transport.write(REPLY % self.state.lines)


def note(path: str, **facts: float) -> None:
    """Write down when what was."""
    with open(path, "w", encoding="ascii") as file:
        json.dump(facts, file)


async def give_all(way: Way, listener: socket.socket, clients: set[Talk], report: str) -> None:
    """Start a new process, and give everything to it. Does not return."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, way.kind)
    spawned = time.monotonic()
    command = [sys.executable, *sys.orig_argv[1:], "--channel", str(theirs.fileno())]
    new = subprocess.Popen(command, pass_fds=[theirs.fileno()])  # noqa: ASYNC220 - as one writes it
    note(f"{report}.pid", pid=new.pid)
    theirs.close()
    mine.setblocking(False)
    await asyncio.get_running_loop().sock_recv(mine, 1)  # it has loaded everything
    mine.setblocking(True)
    began = time.monotonic()
    for client in clients:
        client.transport.pause_reading()
    channel = way.wrap(mine)
    way.give(channel, {"connections": len(clients)}, listener.fileno())
    for client in clients:
        record = {"state": asdict(client.state), "rest": client.rest.decode("latin-1")}
        way.give(channel, record, client.transport.get_extra_info("socket").fileno())
        if way.answered:
            channel.recv(1)
    channel.recv(1) if isinstance(channel, socket.socket) else channel.recv_bytes()
    note(f"{report}.old", spawned=spawned, began=began)
    os._exit(0)  # as everything else would shut the connections down


async def take_all(way: Way, sock: socket.socket, clients: set[Talk], report: str) -> socket.socket:
    """Take over from the process at the other end; returns the listening socket."""
    loop = asyncio.get_running_loop()
    sock.send(b"r")
    channel = way.wrap(sock)
    head, fd = way.take(channel)
    listener = socket.socket(fileno=fd)
    for _ in range(head["connections"]):
        record, fd = way.take(channel)
        make = partial(Talk, clients, Visitor(**record["state"]), record["rest"].encode("latin-1"))
        await loop.connect_accepted_socket(make, socket.socket(fileno=fd))
        if way.answered:
            channel.send(b"a")
    note(f"{report}.new", served=time.monotonic())
    channel.send(b"t") if isinstance(channel, socket.socket) else channel.send_bytes(b"t")
    return listener


async def main(options: argparse.Namespace) -> None:
    """Serve until SIGTERM, or until everything is given away."""
    way = WAYS[options.way]
    clients: set[Talk] = set()
    loop = asyncio.get_running_loop()
    if options.channel is None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    else:
        listener = await take_all(way, socket.socket(fileno=options.channel), clients, options.report)
    server = await loop.create_server(lambda: Talk(clients, Visitor()), sock=listener)
    loop.add_signal_handler(signal.SIGTERM, sys.exit, 0)
    given: list[asyncio.Task[None]] = []
    give = partial(give_all, way, listener, clients, options.report)
    loop.add_signal_handler(signal.SIGUSR1, lambda: given.append(loop.create_task(give())))
    print(":".join(map(str, listener.getsockname())), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument(
        "--report", required=True, help="where to write when what was, with .old, .new and .pid behind it"
    )
    parser.add_argument("--channel", type=int, help="the descriptor of a process that gives everything away")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    current_process().authkey = AUTHKEY
    asyncio.run(main(parser.parse_args()))
