"""Players of ``examples/arena.py`` over real connections, each with a witness of its own."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field

from tests.integration.arena_witness import Violation, Witness

LINE_LIMIT = 60.0
"""Seconds without a line after which a player says that one was lost: far more than a handoff under load takes."""

PRECIOUS = 12
"""Points in the pot that a player holds: matches get on, and both moves are used."""

CAREFUL = 0.1
"""How often a player holds less than that."""

TALKATIVE = 0.05
"""How often a player says something before he moves."""

CLOSED = "the lobby is closed"
"""What is said in the lobby last."""

_WON = re.compile(
    r"\* ([\w-]+): [\w-]+ (?:holds \d+ and|leaves and forfeits, [\w-]+) wins match (\d+): the seed was \w+"
)


@dataclass
class Tally:
    """What all players of a test saw.

    Attributes:
        violations: what a witness or a player has objected to.
        lost: connections that ended, or were silent.
        moves: how many there were.
        witnesses: by room and name, of those who have gone in the end.
    """

    violations: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    moves: int = 0
    witnesses: dict[tuple[str, str], Witness] = field(default_factory=dict)

    def check(self) -> None:
        assert not self.violations, f"{len(self.violations)} violations: {self.violations[:3]}"
        assert not self.lost, f"{len(self.lost)} lost: {self.lost[:3]}"


class Visitor:
    """One connection to the arena."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> Visitor:
        return cls(*await asyncio.open_connection(*address))

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def type(self, line: str) -> None:
        """Send a line, ended as telnet ends it."""
        self._writer.write(line.encode() + b"\r\n")

    def reset(self) -> None:
        """Be lost, without an orderly end."""
        linger = struct.pack("ii", 1, 0)  # close(2) resets then, socket(7)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def read(self) -> str:
        """Return the next line.

        Raises:
            EOFError: the connection has ended.
            TimeoutError: none came.
        """
        async with asyncio.timeout(LINE_LIMIT):
            line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(f"the connection ended after {line[:80]!r}")
        return line[:-2].decode()

    async def read_until(self, pattern: str) -> re.Match[str]:
        """Return the next line that has a pattern in it, as its match."""
        while True:
            if found := re.search(pattern, await self.read()):
                return found

    async def ask(self, line: str) -> str:
        """Type something that only this player is answered to; return the answer."""
        self.type(line)
        return (await self.read_until("^- (.*)$"))[1]


class Player:
    """Plays in one room, match after match, and checks everything.

    Args:
        room: where he plays.
        name: his name.
        company: how many players a match begins with.
        tally: where he tells what he has found.
        over: set when no further match is to begin.
        hands: how many moves may be on their way at once, by all players together: it is what bounds the load.
    """

    def __init__(
        self, room: str, name: str, company: int, tally: Tally, over: asyncio.Event, hands: asyncio.Semaphore
    ) -> None:
        self.witness = Witness()
        self._room = room
        self._name = name
        self._company = company
        self._tally = tally
        self._over = over
        self._hands = hands
        self._rng = random.Random(f"{room}-{name}")
        self._said = 0
        self._typed: Counter[str] = Counter()
        self._ready = False

    async def play(self, address: tuple[str, int]) -> None:
        """Play until it is over; a violation or a lost connection goes into the tally."""
        try:
            async with await Visitor.connect(address) as visitor:
                await self._play(visitor)
            self._tally.witnesses[self._room, self._name] = self.witness
        except Violation as violation:
            self._tally.violations.append(f"{self._name} in {self._room}: {violation}")
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            self._tally.lost.append(f"{self._name} in {self._room}: {type(error).__name__} {error}")

    async def _play(self, visitor: Visitor) -> None:
        if not re.fullmatch(r"arena [12]: welcome, guest-\w+\. Type help\.", greeting := await visitor.read()):
            raise Violation(f"greeted with {greeting!r}")
        for line, answer in ((f"name {self._name}", f"you are {self._name}"), ("version", "arena ")):
            if not (got := await visitor.ask(line)).startswith(answer):
                raise Violation(f"{line} was answered with {got!r}")
        visitor.type(f"join {self._room}")
        while (line := await visitor.read()).startswith("* "):
            pass  # of the lobby, where he was until now
        self.witness.hear(line)
        while not self._may_go():
            if self.witness.table.current == self._name:
                await self._move(visitor)
            else:
                self._get_ready(visitor)
                await self._hear(visitor)
        visitor.type("quit")
        while (line := await visitor.read()) != "goodbye":
            self.witness.hear(line)

    def _may_go(self) -> bool:
        """Whether it is over, and the match as well; one that others have left before it began is nobody's match."""
        table = self.witness.table
        return self._over.is_set() and (not table.turn or len(table.scores) < self._company)

    async def _hear(self, visitor: Visitor) -> None:
        self.witness.hear(await visitor.read())
        if self.witness.table.turn:
            self._ready = False  # for the next match

    def _get_ready(self, visitor: Visitor) -> None:
        table = self.witness.table
        if not table.turn and not self._ready and len(table.scores) - len(table.gone) == self._company:
            self._ready = True
            visitor.type("ready")

    async def _move(self, visitor: Visitor) -> None:
        """Make one move, and wait until the room has been told of it."""
        pot = self.witness.table.pot
        move = "hold" if pot >= PRECIOUS or (pot and self._rng.random() < CAREFUL) else "roll"
        self._typed[move] += 1
        async with self._hands:
            if self._rng.random() < TALKATIVE:
                self._said += 1
                visitor.type(f"say {self._said}")
            visitor.type(move)
            while self.witness.own[self._name, move] < self._typed[move]:
                await self._hear(visitor)
        self._tally.moves += 1
        if self.witness.own[self._name, move] != self._typed[move]:
            raise Violation(f"{move} has come {self.witness.own[self._name, move]} times, typed {self._typed[move]}")


class Listener:
    """Sits in the lobby, and hears who wins in which room, until it is closed.

    Args:
        name: his name.
        tally: where he tells what he has found.

    Attributes:
        wins: how many matches he has heard of, by room.
    """

    def __init__(self, name: str, tally: Tally) -> None:
        self.wins: Counter[str] = Counter()
        self._name = name
        self._tally = tally

    async def listen(self, visitor: Visitor) -> None:
        """Hear every announcement; a violation or a lost connection goes into the tally."""
        try:
            while not (line := await visitor.read()).endswith(f" says: {CLOSED}"):
                self._hear(line)
        except Violation as violation:
            self._tally.violations.append(f"{self._name} in the lobby: {violation}")
        except (OSError, EOFError) as error:
            self._tally.lost.append(f"{self._name} in the lobby: {type(error).__name__} {error}")

    def _hear(self, line: str) -> None:
        found = _WON.fullmatch(line)
        if found is None:
            raise Violation(f"no announcement: {line!r}")
        room, number = found[1], int(found[2])
        if number != self.wins[room] + 1:
            raise Violation(f"match {number} after match {self.wins[room]} of {room}")
        self.wins[room] = number
