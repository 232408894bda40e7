"""When each subscriber is spoken to: every interval, and not all at once. Without I/O."""

from __future__ import annotations

import heapq
import random as random_module
from typing import Final

JITTER: Final = 0.1
"""By which part of an interval the times differ at random, so that those who began together do not stay together."""

SLACK: Final = 1000
"""Times of subscribers that have left which are kept for a while: to remove each at once would cost more."""


class Rota:
    """The times at which subscribers are due; one clock for all of them.

    Args:
        interval: seconds between two times of a subscriber, at most; less the jitter, at least.
        random: for tests.
    """

    def __init__(self, interval: float, random: random_module.Random | None = None) -> None:
        self._interval = interval
        self._random = random or random_module.Random()  # noqa: S311 - the times are no secret
        self._heap: list[tuple[float, int, str]] = []
        self._entry: dict[str, int] = {}  # each subscriber's entry in the heap; those of others are out of date
        self._count = 0

    def __len__(self) -> int:
        return len(self._entry)

    def join(self, who: str, now: float) -> None:
        """Let a subscriber be due at some time within the next interval."""
        self._count += 1
        self._entry[who] = self._count
        self._enter(who, now + self._interval * self._random.random())

    def leave(self, who: str) -> None:
        """Forget a subscriber."""
        self._entry.pop(who, None)
        if not self._entry:
            self._heap.clear()

    def due(self, now: float) -> list[str]:
        """Return who is due by now; each is due again in an interval."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, entry, who = heapq.heappop(self._heap)
            if self._entry.get(who) == entry:
                found.append(who)
        for who in found:
            self._enter(who, now + self._interval * self._random.uniform(1.0 - JITTER, 1.0))
        return found

    def _enter(self, who: str, at: float) -> None:
        if len(self._heap) > SLACK + 2 * len(self._entry):  # of those that came and went within an interval
            self._heap = [one for one in self._heap if self._entry.get(one[2]) == one[1]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (at, self._entry[who], who))
