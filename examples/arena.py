"""A match server for people with telnet: rooms of up to four players, turns with a clock, chat, spectators.

    python examples/arena.py --listen 127.0.0.1:7777
    telnet 127.0.0.1 7777
    hotfd handoff --pid PID -- python examples/arena_v2.py --listen 127.0.0.1:7777

In the middle of a match the last line replaces the server by its next version. Nobody is disconnected, whose turn it
was goes on with the time that was left, and the table begins to show streaks. ``hotfd rollback --pid PID`` goes back.

The rules are in ``arena_core.py``, lobby and rooms in ``arena_hall.py``; this is what makes them version 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from arena_core import Game, Seat
from arena_hall import serve_arena


@dataclass
class Match(Game):
    """A room and its match, as version 1 knows them.

    Attributes:
        points: handed out in this match.
    """

    points: int = 0

    version = 1

    @property
    def handed_out(self) -> int:
        """The points that were handed out in this match."""
        return self.points

    def clear(self) -> None:
        """A match begins."""
        self.points = 0

    def bank(self, seat: Seat, points: int) -> None:
        """Count points that are handed out."""
        self.points += points


if __name__ == "__main__":
    serve_arena(Match, __doc__)
