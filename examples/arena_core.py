"""The rules of the arena's game, without a connection and without a clock: who may do what, and what it leads to.

The game is pig. Whose turn it is rolls a die as often as he dares. A 1 loses what the turn has brought so far, the
pot, and passes the turn; ``hold`` takes the pot to his score and passes it too. The first at the target wins.

Whatever happens in a room is a line that all in it get. A player can check from the lines alone that nothing was
lost, doubled, or made up on the way to a new process:

- Lines are numbered, one after another.
- Each line about the match has the table: whose turn it is, the scores in the order of the seats, and behind ``=`` the
  points that were handed out, which the server counts apart from the scores.
- The dice are sealed: a match begins with the hash of a seed and ends with the seed, from which every roll follows.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

import hotfd

LEAST_PLAYERS = 2
"""Players that a match needs."""

LONGEST_NAME = 16
"""Characters of a player's or a room's name: four fit into a line with their scores."""

LONGEST_SAYING = 200
"""Characters that one may say at once; others have to read it between two rolls."""

DIE = 6
"""Sides of the die."""

LOSING = 1
"""The side that loses the pot."""

_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9-]{{0,{LONGEST_NAME - 1}}}")

# What telnet(1) sends between the lines of a person: two- and three-byte commands, subnegotiations (RFC 854, RFC 855).
_TELNET = re.compile(rb"\xff(?:[\xfb-\xfe].?|\xfa.*?(?:\xff\xf0|$)|.?)", re.DOTALL)


class Rules(msgspec.Struct, frozen=True):
    """What an operator changes while people play: the module ``arena`` of the configuration.

    A match keeps the rules with which it began, whatever is published meanwhile; the next one begins with the newest.

    Attributes:
        target: the points that win a match.
        turn_seconds: what a turn may take.
        room_size: players in a room.
        damage: points that a 1 costs of one's score, beside the pot.
        chat: whether people may talk; that follows the newest rules in the middle of a match, too.
    """

    target: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 50
    turn_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    room_size: Annotated[int, msgspec.Meta(ge=2, le=16)] = 4
    damage: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    chat: Annotated[bool, hotfd.Live] = True


class Refusal(Exception):  # noqa: N818 - an answer to a player, and no fault of the server
    """A player may not do this now; the message tells him why."""


def plain(line: bytes) -> str:
    """Return what a person typed, without what telnet said beside it and without control characters."""
    text = _TELNET.sub(b"", line).decode("utf-8", "replace")
    return "".join(one for one in text if one.isprintable()).strip()


def checked_name(text: str) -> str:
    """Return a name that can stand in a line with others.

    Raises:
        Refusal: it has something else in it than letters, digits and hyphens, or is too long.
    """
    if not _NAME.fullmatch(text):
        raise Refusal(f"a name is a letter, and then up to {LONGEST_NAME - 1} letters, digits and hyphens")
    return text


def checked_saying(text: str) -> str:
    """Return what somebody says, as much of it as others have to read.

    Raises:
        Refusal: there is nothing to read.
    """
    if not text:
        raise Refusal("say what?")
    return text[:LONGEST_SAYING]


@dataclass
class Player:
    """What travels with a connection.

    Attributes:
        name: what the others see.
        room: the room that he is in or on his way to; empty in the lobby.
        watching: whether he is a spectator there.
    """

    name: str = ""
    room: str = ""
    watching: bool = False


@dataclass
class Dice:
    """Rolls that all follow from a seed, so that they can be checked when it is told.

    Attributes:
        seed: kept from the players until the match is over.
        rolls: how many rolls there were. With the seed it is all that has to travel.
    """

    seed: str = ""
    rolls: int = 0

    @property
    def seal(self) -> str:
        """What is told of the seed beforehand."""
        return hashlib.sha256(self.seed.encode()).hexdigest()[:16]

    def roll(self) -> int:
        """Return the next roll."""
        self.rolls += 1
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{self.rolls}".encode()).digest()) % DIE + 1


@dataclass
class Seat:
    """A place at the table.

    Attributes:
        id: the connection whose place it is.
        name: its player's name.
        score: his points in this match.
        ready: whether he wants the next match to begin.
        gone: he has left; what he had stays on the table until the next match begins.
    """

    id: str
    name: str
    score: int = 0
    ready: bool = False
    gone: bool = False


@dataclass
class Game(ABC):
    """A room: the people in it, and the match that they play or wait for.

    Every method that somebody's command leads to returns the event that the room is to be told, and raises
    :exc:`Refusal`, having changed nothing, when the player may not do that.

    The points that are handed out are counted by the class that is derived from this one: they are what differs between
    the versions of the example.

    Attributes:
        seats: the players, in the order of their turns.
        audience: the spectators' names by connection.
        lines: how many lines the room was told.
        number: which match it is, from 1 on.
        playing: whether it goes on.
        turn: which turn of the match it is, from 1 on.
        current: whose turn, as an index of ``seats``.
        pot: what the turn has brought so far.
        dice: of this match.
    """

    seats: list[Seat] = field(default_factory=list)
    audience: dict[str, str] = field(default_factory=dict)
    lines: int = 0
    number: int = 0
    playing: bool = False
    turn: int = 0
    current: int = 0
    pot: int = 0
    dice: Dice = field(default_factory=Dice)

    version = 1  # of this shape; it is no field

    # ---------------------------------------------------------------- what differs between versions

    @property
    @abstractmethod
    def handed_out(self) -> int:
        """The points that were handed out in this match, counted apart from the scores."""

    @abstractmethod
    def clear(self) -> None:
        """A match begins: nothing is handed out yet."""

    @abstractmethod
    def bank(self, seat: Seat, points: int) -> None:
        """Points are handed out; fewer than 0 are taken away."""

    def bust(self, seat: Seat) -> None:  # noqa: B027 - only a version that keeps something of it has to say what
        """A player has lost his pot."""

    def remark(self, seat: Seat) -> str:
        """Return what is said of a player behind his score."""
        return ""

    def footnote(self) -> str:
        """Return what is said at the end of the table."""
        return ""

    # ---------------------------------------------------------------- coming and going

    def __contains__(self, id: str) -> bool:
        return id in self.audience or any(seat.id == id for seat in self._present())

    def _present(self) -> Iterator[Seat]:
        return (seat for seat in self.seats if not seat.gone)

    def enter(self, id: str, name: str, rules: Rules, *, watching: bool) -> str:
        """Somebody comes in, to play or to watch."""
        names = [(seat.id, seat.name) for seat in self.seats] + list(self.audience.items())
        if any(name == other and id != whose for whose, other in names):
            raise Refusal(f"there is a {name} in that room already; choose another name")
        if watching:
            self.audience[id] = name
            return f"{name} watches"
        if self.playing:
            raise Refusal("they are playing; you can watch until the match is over")
        if sum(1 for _ in self._present()) >= rules.room_size:
            raise Refusal(f"all {rules.room_size} seats are taken; you can watch")
        for seat in self.seats:
            if seat.id == id:  # he left after the last match, which is on the table still
                seat.name, seat.gone = name, False
                break
        else:
            self.seats.append(Seat(id, name))
        return f"{name} sits down"

    def leave(self, id: str) -> str:
        """Somebody goes; a player in the middle of a match forfeits it."""
        if id in self.audience:
            return f"{self.audience.pop(id)} watches no more"
        seat = self._seat(id)
        if not self.playing:
            if self.number:
                seat.gone, seat.ready = True, False
            else:
                self.seats.remove(seat)
            return f"{seat.name} leaves"
        seat.gone = True
        event = f"{seat.name} leaves and forfeits"
        others = list(self._present())
        if len(others) == 1:
            return f"{event}, {others[0].name} {self._wins()}"
        if seat is self.seats[self.current]:
            self._pass_on()
        return event

    def say(self, id: str, text: str) -> str:
        """Return what somebody says as a line of the room."""
        name = self.audience[id] if id in self.audience else self._seat(id).name
        self.lines += 1
        return f"#{self.lines} {name} says: {text}"

    # ---------------------------------------------------------------- a match

    def ready(self, id: str, seed: str, rules: Rules) -> str:
        """A player is ready; when all are, a match begins.

        Args:
            id: whose command it is.
            seed: of the match's dice, if it begins; nobody can guess it.
            rules: of that match.

        Returns:
            the event.
        """
        seat = self._seat(id)
        if self.playing:
            raise Refusal("the match has begun")
        seat.ready = True
        event = f"{seat.name} is ready"
        players = list(self._present())
        if len(players) >= LEAST_PLAYERS and all(one.ready for one in players):
            self.seats = [Seat(one.id, one.name) for one in players]
            self.number += 1
            self.turn, self.current, self.pot, self.playing = 1, 0, 0, True
            self.dice = Dice(seed)
            self.clear()
            event += (
                f", and match {self.number} begins: {rules.target} points win, the dice are sealed as {self.dice.seal}"
            )
        return event

    def roll(self, id: str, rules: Rules) -> str:
        """The player whose turn it is rolls."""
        seat = self._whose_turn(id)
        die = self.dice.roll()
        if die != LOSING:
            self.pot += die
            return f"{seat.name} rolls {die}"
        event = f"{seat.name} rolls {die} and loses {self.pot}"
        self.bust(seat)
        if lost := min(rules.damage, seat.score):
            seat.score -= lost
            self.bank(seat, -lost)
            event += f" and {lost} of the score"
        self._pass_on()
        return event

    def hold(self, id: str, rules: Rules) -> str:
        """The player whose turn it is takes the pot."""
        seat = self._whose_turn(id)
        if not self.pot:
            raise Refusal("there is nothing in the pot; roll first")
        points = self.pot
        seat.score += points
        self.bank(seat, points)
        event = f"{seat.name} holds {points}"
        if seat.score >= rules.target:
            return f"{event} and {self._wins()}"
        self._pass_on()
        return event

    def time_is_up(self) -> str:
        """The clock of the turn has run out."""
        seat = self.seats[self.current]
        event = f"{seat.name} is out of time and loses {self.pot}"
        self.bust(seat)
        self._pass_on()
        return event

    def _seat(self, id: str) -> Seat:
        for seat in self._present():
            if seat.id == id:
                return seat
        raise Refusal("you are watching")

    def _whose_turn(self, id: str) -> Seat:
        seat = self._seat(id)
        if not self.playing:
            raise Refusal("no match is on; say when you are ready")
        if seat is not self.seats[self.current]:
            raise Refusal(f"it is the turn of {self.seats[self.current].name}")
        return seat

    def _pass_on(self) -> None:
        self.pot = 0
        self.turn += 1
        self.current = (self.current + 1) % len(self.seats)
        while self.seats[self.current].gone:
            self.current = (self.current + 1) % len(self.seats)

    def _wins(self) -> str:
        self.playing, self.pot = False, 0
        return f"wins match {self.number}: the seed was {self.dice.seed}"

    # ---------------------------------------------------------------- what is told

    def line(self, event: str, clock: float | None) -> str:
        """Return an event as the room's next line.

        Args:
            event: what happened.
            clock: seconds that the turn has left; None while there is no turn.

        Returns:
            the line, with its number and the table.
        """
        self.lines += 1
        return f"#{self.lines} {event} | {self.table(clock)}"

    def table(self, clock: float | None) -> str:
        """Return how the match stands; for ``clock`` see :meth:`line`."""
        if self.playing:
            standing = f"turn {self.turn}: {self.seats[self.current].name}, pot {self.pot}"
            standing += f", clock {clock:.1f}" if clock is not None else ""
        else:
            waiting = [seat.name for seat in self._present() if not seat.ready]
            standing = f"waiting for {', '.join(waiting) or 'players'}"
        scores = ", ".join(self._entry(seat) for seat in self.seats)
        return f"{standing} | {scores or 'nobody'} = {self.handed_out}{self.footnote()}"

    def _entry(self, seat: Seat) -> str:
        entry = f"{seat.name} {seat.score}{self.remark(seat)}"
        return f"({entry})" if seat.gone else entry
