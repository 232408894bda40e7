"""The messages of the bus that somebody may still need, in this process's order (without I/O).

Two kinds of need keep a message. A *hold* is firm: an older process has not got the message yet, or a session on
its way has not; when firm holds fill the log, publishers wait. A *memory* is soft: a neighbour has gone that may
come back by another way; what it needs is kept within narrow limits, and nobody waits for it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

LOG_ENTRIES: Final = 8192
"""Messages that are held before publishers have to wait: several windows of several slow processes."""

LOG_BYTES: Final = 16 << 20
"""Bytes of values that are held before publishers have to wait."""

MEMORY_ENTRIES: Final = 1024
"""Messages that are remembered for a neighbour that may come back: more than two windows, so all of what was on
its way when it went."""

MEMORY_BYTES: Final = 4 << 20
"""Bytes of values that are remembered for a neighbour that may come back."""


@dataclass(slots=True)
class Entry:
    """One published message.

    Attributes:
        position: its place in this process's order, from 1.
        origin: the token of the process that published it.
        number: which of that process's messages it is, from 1.
        topic: its topic.
        value: its encoded value.
        above: its position in the newer neighbour's order, or 0 if it did not come from there.
    """

    position: int
    origin: bytes
    number: int
    topic: str
    value: bytes
    above: int = 0


class Log:
    """The end of the order, as far back as it is needed. Positions in it have no gaps."""

    def __init__(self) -> None:
        self.position = 0
        """The position of the last message."""
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._holds: dict[object, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, object]] = []
        self._memories: dict[object, int] = {}
        self._turn = 0  # tells holds apart, and keeps the heap from comparing keys

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def first(self) -> int:
        """The position of the oldest message that is kept, or the next position when none is."""
        return self._entries[0].position if self._entries else self.position + 1

    @property
    def oldest(self) -> Entry | None:
        """The oldest message that is kept."""
        return self._entries[0] if self._entries else None

    @property
    def held(self) -> Collection[object]:
        """The keys for which something is kept firmly, now and later: the same object always."""
        return self._holds

    @property
    def full(self) -> bool:
        """Whether publishers should wait."""
        return len(self._entries) >= LOG_ENTRIES or self._bytes >= LOG_BYTES

    def append(self, origin: bytes, number: int, topic: str, value: bytes, above: int = 0) -> Entry:
        """Put a message at the end; it goes with the next :meth:`trim` unless it is needed."""
        self.position += 1
        entry = Entry(self.position, origin, number, topic, value, above)
        self._entries.append(entry)
        self._bytes += len(value)
        return entry

    def tail(self, entries: int, size: int) -> list[Entry]:
        """Return the last messages, in order: at most so many, of at most so many bytes together."""
        found: list[Entry] = []
        for entry in reversed(self._entries):
            size -= len(entry.value)
            if len(found) == entries or size < 0:
                break
            found.append(entry)
        return found[::-1]

    def at(self, position: int) -> Entry:
        """Return the message at a position that is kept."""
        return self._entries[position - self._entries[0].position]

    # -- who needs what --------------------------------------------------------------------------------

    def hold(self, key: object, position: int) -> None:
        """Keep everything from a position on, firmly; in place of what was held for this key before."""
        self._turn += 1
        self._holds[key] = position, self._turn
        heapq.heappush(self._heap, (position, self._turn, key))
        if len(self._heap) > 2 * len(self._holds) + 16:  # mostly what is held no more
            self._heap = [(at, turn, key) for key, (at, turn) in self._holds.items()]
            heapq.heapify(self._heap)

    def release(self, key: object) -> bool:
        """Nothing is held for this key any more. False when nothing was."""
        return self._holds.pop(key, None) is not None

    def remember(self, key: object) -> None:
        """Keep softly what was held for this key, or what comes from now on."""
        self._memories[key] = self._holds.pop(key, (self.position + 1, 0))[0]

    def forget(self, keys: Iterable[object] | None = None) -> None:
        """Drop memories: these, or all."""
        for key in list(self._memories) if keys is None else keys:
            self._memories.pop(key, None)

    def holds(self, key: object, position: int) -> bool:
        """Whether the message at this position is held for this key."""
        return key in self._holds and self._holds[key][0] <= position

    @property
    def _floor(self) -> int:
        """The first position that is held."""
        while self._heap:
            at, turn, key = self._heap[0]
            if self._holds.get(key) == (at, turn):
                return at
            heapq.heappop(self._heap)
        return self.position + 1

    def trim(self) -> None:
        """Drop what nobody needs."""
        floor = self._floor
        memory = min(self._memories.values(), default=floor)
        while self._entries and (oldest := self._entries[0]).position < floor:
            small = len(self._entries) <= MEMORY_ENTRIES and self._bytes <= MEMORY_BYTES
            if oldest.position >= memory and small:
                break
            self._entries.popleft()
            self._bytes -= len(oldest.value)
