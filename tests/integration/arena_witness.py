"""A witness of the arena, who believes nothing: each line of a room is checked against all that came before it.

It does no I/O. A player over a connection feeds it, or a test of the rules.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

_NUMBERED = re.compile(r"#(\d+) (.+)")
_SAYS = re.compile(r"([\w-]+) says: (.*)")
_TABLE = re.compile(
    r"(?P<event>[^|]+) \| (?:turn (?P<turn>\d+): (?P<current>[\w-]+), pot (?P<pot>\d+), clock (?P<clock>[\d.]+)"
    r"|waiting for (?P<waiting>[\w, -]+)) \| (?P<scores>[^|]+) = (?P<total>\d+)(?P<best> \| best [\w-]+ \d+)?"
)
_SCORE = re.compile(r"(\()?([\w-]+) (\d+)( x\d+)?\)?")
_BEGINS = re.compile(r"[\w-]+ is ready, and match (\d+) begins: (\d+) points win, the dice are sealed as (\w+)")
_ROLLS = re.compile(r"([\w-]+) rolls ([2-6])")
_BUSTS = re.compile(r"([\w-]+) rolls 1 and loses (\d+)(?: and (?P<score>\d+) of the score)?")
_HOLDS = re.compile(r"([\w-]+) holds (\d+)")
_LATE = re.compile(r"([\w-]+) is out of time and loses (\d+)")
_FORFEITS = re.compile(r"([\w-]+) leaves and forfeits")
_WINS = re.compile(r"(.+?)(?: and|, [\w-]+) wins match (\d+): the seed was (\w+)")
_QUIET = re.compile(r"[\w-]+ (?:sits down|watches|watches no more|leaves|is ready)")


class Violation(AssertionError):  # noqa: N818 - reads as the outcome
    """A line that the game cannot have led to."""


@dataclass
class Table:
    """What a line says of the match.

    Attributes:
        turn: which turn it is; 0 while nobody plays.
        current: whose turn it is.
        pot: what it has brought.
        clock: the seconds that it has left.
        scores: by name, in the order of the seats.
        gone: who has left.
        waiting: who is not ready.
        version: of the arena that wrote the line.
    """

    turn: int
    current: str
    pot: int
    clock: float
    scores: dict[str, int]
    gone: set[str]
    waiting: set[str]
    version: int


NOTHING = Table(0, "", 0, 0.0, {}, set(), set(), 0)


class Witness:
    """Hears the lines of one room, from its first one on or from some later one.

    Attributes:
        table: as of the last line.
        number: of the last line, None before the first.
        matches: how many matches it has seen from their beginning to their end.
        versions: how many lines came from which version of the arena.
        switches: how often the version changed in the middle of a match.
        own: how many events of each kind have come, by ``(name, kind)``.
    """

    def __init__(self) -> None:
        self.table = NOTHING
        self.number: int | None = None
        self.matches = 0
        self.versions: Counter[int] = Counter()
        self.switches = 0
        self.own: Counter[tuple[str, str]] = Counter()
        self._match: int | None = None
        self._seal = ""
        self._target = 0
        self._rolls: list[int] = []
        self._said: Counter[str] = Counter()

    def hear(self, line: str) -> bool:
        """Check one line.

        Args:
            line: without its end.

        Returns:
            whether it has told of the match; chat has not.

        Raises:
            Violation: it contradicts what was told before.
        """
        found = _NUMBERED.fullmatch(line)
        if found is None:
            raise Violation(f"no line of a room: {line!r}")
        number = int(found[1])
        if self.number is not None and number != self.number + 1:
            raise Violation(f"line {number} after line {self.number}: {line!r}")
        self.number = number
        if said := _SAYS.fullmatch(found[2]):
            self._chat(said[1], said[2], line)
            return False
        before, self.table = self.table, read_table(found[2])
        event = found[2].partition(" | ")[0]
        self.versions[self.table.version] += 1
        if before.turn and self.table.turn and before.version != self.table.version:
            self.switches += 1
        try:
            self._check(event, before, self.table)
        except Violation as violation:
            raise Violation(f"{violation}: {line!r} after {before}") from None
        return True

    def _chat(self, name: str, text: str, line: str) -> None:
        """Players number what they say: see that nothing of it is lost, doubled or out of order."""
        count = int(text)
        if self._said[name] and count != self._said[name] + 1:
            raise Violation(f"{name} has said {count} after {self._said[name]}: {line!r}")
        self._said[name] = count

    def _check(self, event: str, before: Table, now: Table) -> None:
        wins = _WINS.fullmatch(event)
        if wins is not None:
            event = wins[1]
        if bool(wins) != bool(before.turn and not now.turn) and before is not NOTHING:
            raise Violation("over without a winner, or the reverse")
        if begins := _BEGINS.fullmatch(event):
            self._match, self._target, self._seal, self._rolls = int(begins[1]), int(begins[2]), begins[3], []
            first = next(iter(now.scores))
            _expect(before.turn, 0, "a turn before the beginning")
            _expect((now.turn, now.current, now.pot, any(now.scores.values())), (1, first, 0, False), "the beginning")
        elif rolls := _ROLLS.fullmatch(event):
            self._mine(rolls[1], "roll", before)
            self._rolls.append(int(rolls[2]))
            self._same_turn(before, now, before.pot + int(rolls[2]))
        elif busts := _BUSTS.fullmatch(event):
            self._mine(busts[1], "roll", before)
            self._rolls.append(1)
            self._lost(busts, before, now)
        elif late := _LATE.fullmatch(event):
            self._mine(late[1], "late", before)
            self._lost(late, before, now)
        elif holds := _HOLDS.fullmatch(event):
            self._hold(holds, before, now)
        elif forfeits := _FORFEITS.fullmatch(event):
            self._forfeit(forfeits[1], before, now)
        elif _QUIET.fullmatch(event):
            self._same_turn(before, now, before.pot, scores=bool(before.turn))
        else:
            raise Violation("no such event")
        if wins is not None:
            self._won(wins)

    def _mine(self, name: str, kind: str, before: Table) -> None:
        self.own[name, kind] += 1
        if before is not NOTHING:
            _expect(name, before.current, "whose turn it was")

    def _same_turn(self, before: Table, now: Table, pot: int, *, scores: bool = True) -> None:
        if before is not NOTHING:
            if scores:
                _expect(now.scores, before.scores, "scores")
            _expect((now.turn, now.current, now.pot), (before.turn, before.current, pot), "turn and pot")

    def _lost(self, found: re.Match[str], before: Table, now: Table) -> None:
        if before is not NOTHING:
            name, damage = found[1], int(found.groupdict().get("score") or 0)
            _expect(int(found[2]), before.pot, "what was lost")
            _expect(now.scores, {**before.scores, name: before.scores[name] - damage}, "scores")
            self._next_turn(before, now)

    def _hold(self, found: re.Match[str], before: Table, now: Table) -> None:
        name, points = found[1], int(found[2])
        self._mine(name, "hold", before)
        if before is NOTHING:
            return
        _expect(points, before.pot, "what was held")
        _expect(now.scores, {**before.scores, name: before.scores[name] + points}, "scores")
        if now.turn:
            self._next_turn(before, now)
        elif self._match is not None and now.scores[name] < self._target:
            raise Violation("over, and nobody is at the target")

    def _forfeit(self, name: str, before: Table, now: Table) -> None:
        if name not in now.gone:
            raise Violation("who forfeits is there")
        if before is not NOTHING and now.turn:
            if name == before.current:
                _expect(now.scores, before.scores, "scores")
                self._next_turn(before, now)
            else:
                self._same_turn(before, now, before.pot)

    def _next_turn(self, before: Table, now: Table) -> None:
        order = list(before.scores)
        place = order.index(before.current)
        successors = [name for name in order[place + 1 :] + order[: place + 1] if name not in now.gone]
        _expect((now.turn, now.current, now.pot), (before.turn + 1, successors[0], 0), "the next turn")

    def _won(self, found: re.Match[str]) -> None:
        if self._match is None:
            return  # came in the middle of it
        _expect(int(found[2]), self._match, "which match")
        _expect(hashlib.sha256(found[3].encode()).hexdigest()[:16], self._seal, "the seed's seal")
        rolls = [roll_of(found[3], number) for number in range(1, len(self._rolls) + 1)]
        _expect(self._rolls, rolls, "the rolls")
        self.matches += 1
        self._match = None


def roll_of(seed: str, number: int) -> int:
    """Return a roll as the seed has it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()) % 6 + 1


def read_table(text: str) -> Table:
    """Return what an event with a table says.

    Raises:
        Violation: it is none, or the sum is wrong.
    """
    found = _TABLE.fullmatch(text)
    if found is None:
        raise Violation(f"no table: {text!r}")
    entries = [] if found["scores"] == "nobody" else found["scores"].split(", ")
    seats = [_SCORE.fullmatch(entry) for entry in entries]
    if not all(seats):
        raise Violation(f"no scores: {text!r}")
    scores = {seat[2]: int(seat[3]) for seat in seats if seat}
    if sum(scores.values()) != int(found["total"]):
        raise Violation(f"the scores are not what was handed out: {text!r}")
    return Table(
        int(found["turn"] or 0),
        found["current"] or "",
        int(found["pot"] or 0),
        float(found["clock"] or 0),
        scores,
        {seat[2] for seat in seats if seat and seat[1]},
        set((found["waiting"] or "").split(", ")) - {"", "players"},
        2 if found["best"] else 1,
    )


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Violation(f"{what}: {found} instead of {wanted}")
