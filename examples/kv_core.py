"""What ``kv.py`` is made of: the data, what is kept of a client, and the table of commands."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from hotfd.framing import resp

if TYPE_CHECKING:
    import hotfd

SWEEP_KEYS = 1000
"""Expired keys that one sweep removes at most: about a millisecond's work."""

SHOWN = 128
"""Bytes of an unknown command that its error repeats, as in Redis."""

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")


class Refused(Exception):  # noqa: N818 - an answer to the client, and no fault of the server
    """A command cannot be carried out; the message is what the client gets."""


def refuse(message: str) -> NoReturn:
    """Answer with an error."""
    raise Refused(message)


def now_ms() -> int:
    """Return the wall-clock time in milliseconds: the same clock for every process, now and later."""
    return time.time_ns() // 1_000_000


def text(word: bytes) -> str:
    """Return a client's bytes as text, from which :func:`resp.error` makes the same bytes again."""
    return word.decode("utf-8", "surrogateescape")


def integer(word: bytes, otherwise: str = "ERR value is not an integer or out of range") -> int:
    """Read a number of 64 bits, written as Redis writes it: no spaces, no plus, no zeros in front."""
    if _INTEGER.fullmatch(word) and INT64_MIN <= (value := int(word)) <= INT64_MAX:
        return value
    refuse(otherwise)


def glob(pattern: bytes) -> re.Pattern[bytes]:
    r"""Return the regular expression of a pattern as Redis understands it (``[^a]`` negates, ``\`` quotes)."""
    parts = []
    for piece in re.findall(rb"\\.|\[\^?(?:\\.|[^\]\\])+\]|.", pattern, re.DOTALL):
        if piece == b"*":
            parts.append(b".*")
        elif piece == b"?":
            parts.append(b".")
        elif len(piece) > 2:
            negated, body = re.fullmatch(rb"\[(\^?)(.+)\]", piece, re.DOTALL).groups()  # type: ignore[union-attr]
            quoted = (re.escape(one[-1:]) if one != b"-" else one for one in re.findall(rb"\\.|.", body, re.DOTALL))
            parts.append(b"[%b%b]" % (negated, b"".join(quoted)))
        else:
            parts.append(re.escape(piece[-1:]))
    try:
        return re.compile(b"".join(parts), re.DOTALL)
    except re.error:  # such as [z-a], which matches nothing
        return re.compile(rb"(?!)")


class Keys:
    """The keys with their values and their ends, and what is counted of the service.

    Attributes:
        values: by key; those whose time is over may still be in it.
        ends: when a key expires, in milliseconds of the wall clock; only keys that do.
        connections: how many have been accepted, by all processes of the service.
        commands: how many have been carried out.
        started: when the service began, in seconds of the wall clock.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.ends: dict[bytes, int] = {}
        self.connections = 0
        self.commands = 0
        self.started = int(time.time())
        self._queue: list[tuple[int, bytes]] = []  # a heap of ends, among them some that hold no more

    def export(self) -> dict[str, Any]:
        """Return everything, for the process that takes over."""
        return {name: value for name, value in vars(self).items() if name != "_queue"}

    def take(self, exported: dict[str, Any]) -> None:
        """Go on from what another process has exported."""
        vars(self).update(exported)
        self._rebuild_queue()

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key that is there and has not expired."""
        if key in self.ends and self.ends[key] <= now_ms():
            self.delete(key)
        return self.values.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        """Set a value for ever."""
        self.values[key] = value
        if self.ends:
            self.ends.pop(key, None)

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self.values.pop(key, None)
        self.ends.pop(key, None)

    def clear(self) -> None:
        """Remove all keys."""
        self.values.clear()
        self.ends.clear()
        self._queue.clear()

    def end_at(self, key: bytes, end: int) -> None:
        """Let a key expire at a time, in milliseconds of the wall clock."""
        self.ends[key] = end
        heapq.heappush(self._queue, (end, key))
        if len(self._queue) > 2 * len(self.ends) + SWEEP_KEYS:  # each change of mind has left an entry
            self._rebuild_queue()

    def sweep(self) -> None:
        """Remove some keys that have expired and that nobody asks for."""
        now, queue = now_ms(), self._queue
        for _ in range(SWEEP_KEYS):
            if not queue or queue[0][0] > now:
                return
            end, key = heapq.heappop(queue)
            if self.ends.get(key) == end:
                self.delete(key)

    def matching(self, pattern: bytes) -> list[bytes]:
        """Return the keys that match a pattern."""
        matches = glob(pattern).fullmatch
        return [key for key in list(self.values) if matches(key) and self.get(key) is not None]

    def _rebuild_queue(self) -> None:
        self._queue = [(end, key) for key, end in self.ends.items()]
        heapq.heapify(self._queue)


@dataclass
class Client:
    """What a client has said about itself. It travels with the connection.

    Attributes:
        id: unique in the service's life.
        protocol: the version of RESP that it wants to be answered in, 2 or 3.
        name: what it calls itself.
        since: when it connected, in seconds of the wall clock.
    """

    id: int = 0
    protocol: int = 2
    name: bytes = b""
    since: int = 0

    def value(self, value: bytes | None) -> bytes:
        """Return the answer that is a value, or that there is none."""
        if value is not None:
            return b"$%d\r\n%b\r\n" % (len(value), value)
        return resp.null() if self.protocol == 3 else resp.null_bulk()

    def mapping(self, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return encoded pairs as a map, or in RESP2 as an array."""
        if self.protocol == 3:
            return resp.mapping(pairs)
        return resp.array([item for pair in pairs for item in pair])

    def text(self, content: bytes) -> bytes:
        """Return text for people, which RESP3 marks as such."""
        if self.protocol == 3:
            return b"=%d\r\ntxt:%b\r\n" % (len(content) + 4, content)
        return resp.bulk(content)

    def line(self, conn: hotfd.Connection[Client]) -> bytes:
        """Return the client's line in CLIENT LIST."""
        peer = conn.peername
        address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else conn.listener
        age = int(time.time()) - self.since
        about = (self.id, address.encode(), self.name, age, self.protocol)
        return b"id=%d addr=%b name=%b age=%d db=0 resp=%d\n" % about


Run = Callable[[Client, list[bytes]], bytes]


class Command(NamedTuple):
    """One command.

    Attributes:
        name: in lower case; ``client|list`` is the subcommand LIST of CLIENT.
        arity: how many words it has, its name among them; -3 stands for three or more.
        run: carries it out for a client and its words; returns the encoded answer.
        has_subcommands: the second word says what is to be done.
    """

    name: str
    arity: int
    run: Run
    has_subcommands: bool = False


COMMANDS: dict[bytes, Command] = {}
"""By name; each twice, since nearly all clients write all letters large or all small."""


def command(*names: str, arity: int, has_subcommands: bool = False) -> Callable[[Run], Run]:
    """Enter a function into the table."""

    def enter(run: Run) -> Run:
        for name in names:
            entry = Command(name, arity, run, has_subcommands)
            COMMANDS[name.encode()] = COMMANDS[name.upper().encode()] = entry
        return run

    return enter


def execute(client: Client, words: list[bytes]) -> bytes:
    """Carry out one request and return the encoded answer."""
    try:
        found = COMMANDS.get(words[0]) or COMMANDS.get(words[0].lower()) or unknown(words)
        if found.has_subcommands and len(words) > 1:
            found = COMMANDS.get(b"%b|%b" % (found.name.encode(), words[1].lower())) or unknown(words, found)
        if len(words) != found.arity and (found.arity > 0 or len(words) < -found.arity):
            refuse(f"ERR wrong number of arguments for '{found.name}' command")
        return found.run(client, words)
    except Refused as refused:
        return resp.error(re.sub(r"[\r\n]", " ", str(refused)))


def unknown(words: list[bytes], within: Command | None = None) -> NoReturn:
    """Answer that there is no such command."""
    if within is not None:
        refuse(f"ERR unknown subcommand '{text(words[1][:SHOWN])}'. Try {within.name.upper()} HELP.")
    shown = b""
    for word in words[1:]:
        if len(shown) < SHOWN:
            shown += b"'%b' " % word[: SHOWN - len(shown)]
    refuse(f"ERR unknown command '{text(words[0][:SHOWN])}', with args beginning with: {text(shown)}")
