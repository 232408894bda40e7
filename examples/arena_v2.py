"""The next version of ``arena.py``: the same game, with streaks and the best hold on the table.

    hotfd handoff --pid PID -- python examples/arena_v2.py --listen 127.0.0.1:7777
    hotfd rollback --pid PID

Matches go on. Version 1 has kept one number of the points that were handed out; version 2 keeps a ledger, so the state
of a match has another shape. ``Match.upgrade`` reads the old one, and ``Match.downgrade`` writes it for the way back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from arena_core import Game, Seat
from arena_hall import serve_arena


@dataclass
class Match(Game):
    """A room and its match, as version 2 knows them.

    Attributes:
        ledger: each hold of the match, as name and points. What version 1 has handed out is one entry without a name.
        streaks: how many turns in a row a player has brought home his pot, by connection.
    """

    ledger: list[tuple[str, int]] = field(default_factory=list)
    streaks: dict[str, int] = field(default_factory=dict)

    version = 2

    @classmethod
    def upgrade(cls, old: dict[str, Any], version: int) -> Match:
        """Take over a match that version 1 has begun: who handed out what is unknown, how much is not."""
        points = old.pop("points")
        return cls(**old, ledger=[("", points)] if points else [])

    @classmethod
    def downgrade(cls, match: Match, version: int) -> dict[str, Any]:
        """Return the fields of a match as version 1 knows them."""
        shared = {one.name: getattr(match, one.name) for one in fields(Game)}
        return {**shared, "points": match.handed_out}

    @property
    def handed_out(self) -> int:
        """The points that were handed out in this match."""
        return sum(points for _, points in self.ledger)

    def clear(self) -> None:
        """A match begins."""
        self.ledger.clear()
        self.streaks.clear()

    def bank(self, seat: Seat, points: int) -> None:
        """Enter points that are handed out, or taken away."""
        self.ledger.append((seat.name, points))
        if points > 0:
            self.streaks[seat.id] = self.streaks.get(seat.id, 0) + 1

    def bust(self, seat: Seat) -> None:
        """End a player's streak."""
        self.streaks.pop(seat.id, None)

    def remark(self, seat: Seat) -> str:
        """Return a player's streak, such as ``x3``; one hold is none."""
        streak = self.streaks.get(seat.id, 0)
        return f" x{streak}" if streak > 1 else ""

    def footnote(self) -> str:
        """Return the best hold of the match, as far as this version has seen it."""
        points, name = max(
            ((points, name) for name, points in self.ledger if name and points > 0), default=(0, "nobody")
        )
        return f" | best {name} {points}"


if __name__ == "__main__":
    serve_arena(Match, __doc__)
