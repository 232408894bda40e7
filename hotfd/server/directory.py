"""Which process has which shared session, while several generations serve (without I/O).

The rule that keeps a session from existing twice is short: **only the newest process makes shared sessions.**
A process stops to make any the moment it is linked to a newer one, which is before that one can own a
connection; and it says then which keys it, and those older than itself, hold. So for a key that a process
has not got itself:

* an older process never makes a session: the connection that wants to join moves to the newest, and joins there;
* the newest makes one only when no older process can hold the key. The one that it replaces has said which keys
  there are in all older processes; no other can come to exist there, so each is taken until whoever was said to
  have it has let it go, or has died. Several may have said it of one key: the process that has the session, and the
  one that has passed that on. While an older process has not spoken itself, it may be the one that has it.

Sessions only ever move forward. When the newest process dies before it has settled, the one before it is the newest
again. Afterwards a process that was replaced makes none any more, also when it is left alone: there may be others
like it, and nobody decides between them.
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

    ORPHANED = "orphaned"
    """The process that has replaced this one has gone: nobody decides."""


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
        self._newer: dict[Link, None] = {}  # two, while the newer process is being replaced itself
        self._replaced = False
        self._older: dict[Link, None] = {}
        self._silent: set[Link] = set()  # older neighbours that have not said yet what they hold
        self._predecessor: Link | None = None  # the one that this process replaces; it speaks for those before it too
        self._listed = False  # it has
        self._below: dict[str, dict[Link, None]] = {}  # who has said of a key that it, or an older one, has it
        self._doubtful: set[str] = set()  # keys that nobody says to have any more, and a silent one may have
        self._asked: set[str] = set()  # keys whose holders know that somebody waits

    def verdict(self, key: str) -> Verdict:
        """Say what becomes of a wish to join a key that is not here."""
        if self._newer:
            return Verdict.MOVE
        if self._replaced:
            return Verdict.ORPHANED
        if key in self._below:
            if key not in self._asked:
                self._asked.add(key)
                self._ask(m.Wanted(key))
            return Verdict.WAIT
        if key in self._doubtful or not self._complete:
            return Verdict.WAIT
        return Verdict.CREATE

    @property
    def _complete(self) -> bool:
        """Whether all keys of older processes are known, if not always who has them."""
        return self._listed or not self._silent

    def replaced(self) -> None:
        """A newer process has settled: whatever becomes of it, this one makes no session any more."""
        self._replaced = True
        self._wake(None)

    def arrived(self, key: str) -> None:
        """A session with this key is served here from now on."""
        self._forget(key)
        self._wake(key)

    def released(self, key: str) -> None:
        """The session with this key has ended here."""
        for newer in self._newer:
            newer.send(m.Released(key))
        self._wake(key)

    # -- as a participant ------------------------------------------------------------------------------

    def connected(self, link: Link) -> None:
        """A neighbour: tell a newer one what is held here and by older ones; expect the same of an older one.

        One that is known already, since it was introduced, is told nothing new.
        """
        if link.newer:
            if link not in self._newer:
                self._newer[link] = None
                self._tell(link, [*self._held(), *self._below, *self._doubtful])
                self._wake(None)
        elif link not in self._older:
            self._older[link] = None
            self._silent.add(link)
            if self._predecessor is None:
                self._predecessor = link

    def disconnected(self, link: Link) -> None:
        """A neighbour has gone for good, with everything that it held."""
        self._newer.pop(link, None)
        if link in self._older:
            was_complete = self._complete
            del self._older[link]
            self._silent.discard(link)
            for key in list(self._below):
                self._withdraw(link, key)
            self._settle(was_complete)
        self._wake(None)

    def received(self, link: Link, message: m.Message) -> bool:
        """Take a neighbour's message; False when it is not for the directory."""
        match message:
            case m.Holds(keys=keys, last=last) if not link.newer:
                if link in self._older:
                    self._heard(link, keys, last=last)
            case m.Released(key=key) if not link.newer:
                self._withdraw(link, key)
                self._settle(self._complete)
            case m.Wanted(key=key) if link.newer:
                self._ask(message)
                self._wanted(key)
            case _:
                return False
        return True

    def _heard(self, link: Link, keys: list[str], *, last: bool) -> None:
        was_complete = self._complete
        held = set(self._held())
        for key in keys:
            self._doubtful.discard(key)
            self._asked.discard(key)  # who has it now has not been told
            if key not in held:
                self._below.setdefault(key, {})[link] = None
        if last:
            self._silent.discard(link)
            self._listed |= link is self._predecessor
        for newer in self._newer if keys else ():
            self._tell(newer, keys)
        self._settle(was_complete)
        self._wake(None)

    def _tell(self, newer: Link, keys: Iterable[str]) -> None:
        for part, last in _cut(keys):
            newer.send(m.Holds(part, last and self._complete))

    def _ask(self, wanted: m.Wanted) -> None:
        for holder in self._below.get(wanted.key, ()):
            holder.send(wanted)

    def _withdraw(self, link: Link, key: str) -> None:
        """A neighbour has a key no more. Nobody else says to have it: then only a silent one may."""
        holders = self._below.get(key, {})
        if link in holders:
            del holders[link]
            if not holders:
                del self._below[key]
                self._doubtful.add(key)

    def _settle(self, was_complete: bool) -> None:
        """Once every older process has said what it holds, nobody holds the rest."""
        if not self._silent:
            for key in list(self._doubtful):
                self._forget(key)
                self.released(key)
        if self._complete and not was_complete:
            for newer in self._newer:
                self._tell(newer, [])

    def _forget(self, key: str) -> None:
        self._below.pop(key, None)
        self._doubtful.discard(key)
        self._asked.discard(key)


def _cut(keys: Iterable[str]) -> list[tuple[list[str], bool]]:
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
