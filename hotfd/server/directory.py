"""Which process has which shared session, while several generations serve (without I/O).

The rule that keeps a session from existing twice is short: **only the newest process makes shared sessions.**
A process stops to make any the moment it is linked to a newer one, which is before that one can own a
connection; and it says then which keys it, and those older than itself, hold. So for a key that a process
has not got itself:

* an older process never makes a session: the connection that wants to join moves to the newest, and joins there;
* the newest makes one only when no older process can hold the key: all of them have said which they hold, and
  this one is not among those, or has been let go since.

Sessions only ever move forward. When the newest process dies, the one before it is the newest again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from hotfd.wire import messages as m

if TYPE_CHECKING:
    from hotfd.server.link import Link

KEYS_PER_MESSAGE: Final = 200
"""Keys in one message: at 255 characters of four bytes each they might not fit a packet of 64 KiB, so they are
cut by bytes as well."""

KEY_BYTES_PER_MESSAGE: Final = 60_000
"""Bytes of keys in one message, which leaves room for the rest of the packet."""


class Verdict(enum.Enum):
    """What a connection that wants to join a key which is not here has to do."""

    CREATE = "create"
    """Nobody has it: make it here."""

    WAIT = "wait"
    """An older process has it, or may have: it comes, or ends."""

    MOVE = "move"
    """A newer process decides: move there, and join there."""


class Directory:
    """One process's part of the directory; a participant of its links.

    Args:
        held: returns the keys of the shared sessions of this process.
        wake: called with a key, or None for all, when the verdict about it may have changed.
        wanted: called with a key of this process that a connection of a newer one waits for.
    """

    def __init__(
        self, held: Callable[[], Iterable[str]], wake: Callable[[str | None], None], wanted: Callable[[str], None]
    ) -> None:
        self._held = held
        self._wake = wake
        self._wanted = wanted
        self._newer: Link | None = None
        self._below: dict[str, Link] = {}
        self._silent: set[Link] = set()  # older neighbours that have not said yet what they hold
        self._doubtful: set[str] = set()  # keys of a neighbour that has gone, which a silent one may hold
        self._asked: set[str] = set()  # keys whose holder knows that somebody waits

    def verdict(self, key: str) -> Verdict:
        """Say what becomes of a wish to join a key that is not here."""
        if self._newer is not None:
            return Verdict.MOVE
        if key in self._below:
            if key not in self._asked:
                self._asked.add(key)
                self._below[key].send(m.Wanted(key))
            return Verdict.WAIT
        if self._silent or key in self._doubtful:
            return Verdict.WAIT
        return Verdict.CREATE

    def arrived(self, key: str) -> None:
        """A session with this key is served here from now on."""
        self._below.pop(key, None)
        self._doubtful.discard(key)
        self._asked.discard(key)
        self._wake(key)

    def released(self, key: str) -> None:
        """The session with this key has ended here."""
        if self._newer is not None:
            self._newer.send(m.Released(key))
        self._wake(key)

    # -- as a participant ------------------------------------------------------------------------------

    def connected(self, link: Link) -> None:
        """A neighbour: tell a newer one what is held here and by older ones; expect the same of an older one."""
        if not link.newer:
            self._silent.add(link)
            return
        self._newer = link
        for keys, last in _cut([*self._held(), *self._below, *self._doubtful]):
            link.send(m.Holds(keys, last))
        self._wake(None)

    def disconnected(self, link: Link) -> None:
        """A neighbour has gone for good, with everything that it held."""
        if link is self._newer:
            self._newer = None
        self._silent.discard(link)
        gone = {key for key, holder in self._below.items() if holder is link}
        for key in gone:
            del self._below[key]
        if not link.passed_on:
            # A neighbour that goes has passed its own older ones on, and those speak for themselves soon.
            self._doubtful |= gone
            self._settle()
        self._wake(None)

    def received(self, link: Link, message: m.Message) -> bool:
        """Take a neighbour's message; False when it is not for the directory."""
        match message:
            case m.Holds(keys=keys, last=last) if not link.newer:
                self._heard(link, keys, last=last)
            case m.Released(key=key) if not link.newer:
                if self._below.get(key) is link:
                    self._release(key)
            case m.Wanted(key=key):
                if key in self._below:
                    self._below[key].send(message)
                else:
                    self._wanted(key)
            case _:
                return False
        return True

    def _heard(self, link: Link, keys: list[str], *, last: bool) -> None:
        held = set(self._held())
        for key in keys:
            self._doubtful.discard(key)
            if key not in held:
                self._below[key] = link
            self._asked.discard(key)  # a new holder has not been told
        if last:
            self._silent.discard(link)
        self._settle()
        if self._newer is not None and keys:
            for part, end in _cut(keys):
                self._newer.send(m.Holds(part, end))
        self._wake(None)

    def _settle(self) -> None:
        """Once every older process has said what it holds, nobody holds the rest."""
        if not self._silent:
            for key in list(self._doubtful):
                self._release(key)

    def _release(self, key: str) -> None:
        self._below.pop(key, None)
        self._doubtful.discard(key)
        self._asked.discard(key)
        self.released(key)


def _cut(keys: list[str]) -> list[tuple[list[str], bool]]:
    """Cut keys into lists that fit one message each; the last one, which may be empty, is marked."""
    parts: list[list[str]] = [[]]
    size = 0
    for key in dict.fromkeys(keys):
        length = len(key.encode()) + 5
        if len(parts[-1]) >= KEYS_PER_MESSAGE or size + length > KEY_BYTES_PER_MESSAGE:
            parts.append([])
            size = 0
        parts[-1].append(key)
        size += length
    return [(part, part is parts[-1]) for part in parts]
