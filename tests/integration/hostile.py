"""New processes that lie, and a watch on what the old one's clients see of them.

A liar is a program that speaks on the handoff channel by itself, without a server: it says what no version of hotfd
would say. What it is handed stays open in it until it dies.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hotfd.control.client import Client
from hotfd.control.target import find
from tests.integration import harness

LIAR = """
import os, select, signal, socket, sys

sys.path.insert(0, {root!r})
from hotfd import _core
from hotfd.wire import messages as m

channel = int(os.environ["HOTFD_CHANNEL"])
held = []


def raw(data, *fds):
    while True:
        select.select([], [channel], [])
        try:
            return socket.socket(fileno=os.dup(channel)).sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds))] if fds else [])
        except BlockingIOError:
            pass


def say(message, *fds):
    raw(m.encode(message), *fds)


def hear(kind):
    while True:
        select.select([channel], [], [])
        found = _core.receive_message(channel)
        held.extend(found.descriptors)
        if not found.data:
            sys.exit("the old process has gone")
        message = m.decode(found.data)
        if isinstance(message, m.Abort):
            sys.exit(0)
        if isinstance(message, kind):
            return message, found.descriptors


def hello(**fields):
    hear(m.Setup)
    say(m.Hello(**{{"protocol": m.PROTOCOL, "pid": os.getpid(), "version": "lie", "framings": {{}},
                   "descriptor_limit": 1 << 20, "descriptors_open": 8, **fields}}))


def ready():
    hello()
    say(m.Ready())


def offered():
    ready()
    part, descriptors = hear(m.OfferPart)
    return list(range(part.first, part.first + part.sessions)), descriptors[1:]


def committed():
    ids, descriptors = offered()
    say(m.Accept(ids))
    hear(m.Commit)
    return ids, descriptors


def proving():
    ready()
    while True:
        message, _ = hear(m.OfferPart | m.Finish)
        if isinstance(message, m.Finish):
            return message
        say(m.Accept(list(range(message.first, message.first + message.sessions))))


def hang():
    while True:
        hear(m.Abort)


def cookie(fd):
    return _core.cookies([fd])[0]


def sockets(listening):
    found = []
    for fd in held:
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == listening:
            found.append(sock)
    return found


"""
"""What a liar can say and hear. ``hang`` waits to be ended; the end of the program is its death."""


class Witness:
    """A client that knows every byte that it must get; it talks all the time, or only when it is asked."""

    def __init__(self, service: harness.Server) -> None:
        self._sock = service.connect()
        self._reader = self._sock.makefile("rb")
        self._said = 0
        assert self._reader.readline() == b"hello\n"

    def say(self) -> None:
        """Say a line; the answer must have the next number."""
        self._said += 1
        self._sock.sendall(b"x\n")
        reply = self._reader.readline()
        assert reply == b"%d x\n" % self._said, f"line {self._said} was answered {reply!r}"

    @property
    def lines(self) -> int:
        """How many lines it has said."""
        return self._said

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self._sock.close()


class Deceived:
    """A server with clients, one of which talks without a break, which is lied to again and again."""

    def __init__(self, tmp_path: Path, service: harness.Server) -> None:
        self._path = tmp_path
        self.service = service
        self._quiet: list[Witness] = []
        self._problems: list[str] = []
        self._stop = threading.Event()

    @contextmanager
    def watched(self, quiet: int = 3) -> Iterator[Deceived]:
        """Have clients, and see at the end that none of them has noticed anything."""
        self._quiet = [Witness(self.service) for _ in range(quiet)]
        talker = Witness(self.service)
        thread = threading.Thread(target=self._talk, args=[talker])
        thread.start()
        try:
            yield self
            self.unharmed("in the end")
        finally:
            self._stop.set()
            thread.join(harness.PATIENCE)
            for witness in [talker, *self._quiet]:
                witness.close()

    def _talk(self, witness: Witness) -> None:
        try:
            while not self._stop.wait(0.002):
                witness.say()
        except (AssertionError, OSError) as error:
            self._problems.append(f"{type(error).__name__}: {error}")

    def unharmed(self, when: str) -> None:
        """Check that every client is served, and a new one too."""
        assert not self._problems, f"{when}: {self._problems}"
        for witness in self._quiet:
            witness.say()
        fresh = Witness(self.service)
        fresh.say()
        fresh.close()

    def update(self, command: list[str], **fields: Any) -> dict[str, Any]:
        """Hand over as the command line does."""
        with Client.connect(find(self.service.pid), harness.PATIENCE) as client:
            return client.ask("update", harness.PATIENCE, command=command, **fields)

    def lie(self, source: str, **fields: Any) -> str:
        """Hand over to a liar; check that nothing has come of it, and return the reason.

        Args:
            source: what the liar does.
            fields: of the request, beside the command.
        """
        path = harness.script(self._path, "liar.py", "")
        path.write_text(LIAR.format(root=str(harness.ROOT)) + source)
        before = harness.descriptors_of(self.service.pid)
        report = self.update([sys.executable, str(path)], **fields)
        told = f"{source}\n{report}\n{self.service.logged()[-3000:]}"
        assert report["outcome"] == "rolled-back", told
        assert report["connections"]["moved"] == report["connections"]["closed"] == 0, told
        assert not harness.alive(report["new_pid"]), told
        self.unharmed(told)
        # A connection of a moment ago may not be closed on both sides yet.
        harness.becomes(lambda: harness.descriptors_of(self.service.pid) <= before, True)
        return report["reason"]


def listening(port: int) -> bool:
    """Return whether somebody can be connected to."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=harness.PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True
