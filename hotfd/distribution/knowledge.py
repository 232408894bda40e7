"""What a configuration server knows: heads, and the releases that they name. Without I/O.

A head becomes known when its releases are here, and not before: whoever hears of it can have them from the same
server, also when the store goes away in that moment.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from hotfd.config.link import Key
from hotfd.config.push import MAX_HEAD
from hotfd.config.release import encode_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hotfd.config.release import Head

MAX_OLDER: Final = 256
"""Releases that are kept beside those that heads name: for subscribers that have just heard of an older head."""

MAX_OLDER_BYTES: Final = 64 << 20
"""Bytes of these."""


def named(head: Head) -> list[Key]:
    """Return the releases that a head names."""
    return [Key(head.module, track.version, track.sha256) for track in (head.stable, head.canary) if track is not None]


class Knowledge:
    """Heads and releases of some modules.

    Args:
        modules: the modules that the server serves.

    Attributes:
        modules: the same.
        ready: whether the store has been read once.
        silent: the modules that have a release in the store, none of which could be read yet.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = tuple(modules)
        self.ready = False
        self.silent: frozenset[str] = frozenset()
        self._heads: dict[str, Head] = {}
        self._current: dict[Key, bytes] = {}
        self._older: OrderedDict[Key, bytes] = OrderedDict()
        self._older_bytes = 0

    @property
    def heads(self) -> Mapping[str, Head]:
        """The heads by module."""
        return self._heads

    @property
    def held(self) -> tuple[int, int]:
        """How many releases are in memory, and how many bytes they are."""
        return len(self._current) + len(self._older), sum(map(len, self._current.values())) + self._older_bytes

    def news(self, heads: Iterable[Head]) -> list[Head]:
        """Return those heads that are newer than the known ones, of modules that are served, and not too large."""
        return [
            head
            for head in heads
            if head.module in self.modules
            and ((known := self._heads.get(head.module)) is None or known.sequence < head.sequence)
            and len(encode_head(head)) <= MAX_HEAD
        ]

    def lacking(self, head: Head) -> list[Key]:
        """Return the releases that a head names and that are not here."""
        return [key for key in named(head) if self.body(key) is None]

    def seen(self, heads: Iterable[Head]) -> None:
        """Note what the store shows, after what can be served of it was accepted."""
        self.silent = frozenset((self.silent | {head.module for head in heads}) & {*self.modules} - self._heads.keys())

    def accept(self, heads: Sequence[Head], bodies: Mapping[Key, bytes]) -> list[str]:
        """Make heads known whose releases are here, or among ``bodies``.

        Returns:
            the modules whose heads have changed.
        """
        accepted = [
            head for head in self.news(heads) if all(key in bodies or self.body(key) is not None for key in named(head))
        ]
        needed = {key: bodies[key] if key in bodies else self._held(key) for head in accepted for key in named(head)}
        self._heads.update((head.module, head) for head in accepted)
        for key, data in needed.items():
            self._current[key] = data
            if (older := self._older.pop(key, None)) is not None:
                self._older_bytes -= len(older)
        in_force = {key for head in self._heads.values() for key in named(head)}
        for key in [key for key in self._current if key not in in_force]:
            self.keep(key, self._current.pop(key))
        return [head.module for head in accepted]

    def body(self, key: Key) -> bytes | None:
        """Return a release as it is encoded, or None."""
        if (data := self._current.get(key)) is not None:
            return data
        if (data := self._older.get(key)) is not None:
            self._older.move_to_end(key)
        return data

    def _held(self, key: Key) -> bytes:
        data = self.body(key)
        assert data is not None
        return data

    def keep(self, key: Key, data: bytes) -> None:
        """Keep a release that no head names; those that nobody has wanted for longest make room."""
        if key in self._current or key in self._older:
            return
        self._older[key] = data
        self._older_bytes += len(data)
        while len(self._older) > MAX_OLDER or self._older_bytes > MAX_OLDER_BYTES:
            _, dropped = self._older.popitem(last=False)
            self._older_bytes -= len(dropped)
