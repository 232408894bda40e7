"""Which releases of the configuration sessions hold, and a warning when they hold too many, or one for too long."""

from __future__ import annotations

import logging
import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Final

from hotfd import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hotfd.config.slots import Slots
    from hotfd.config.snapshots import Snapshot
    from hotfd.server.session import Session

MAX_NAMED: Final = 10
"""Sessions that a warning names: enough to see what they have in common."""

MAX_VERSIONS: Final = 20
"""Versions that a warning counts, the oldest."""

Pinned = dict[str, dict[int, int]]
"""By module and version, how many sessions hold it."""


def counted(held: Mapping[Snapshot, int]) -> Pinned:
    """Return what is held of each module."""
    found: Pinned = {}
    for snapshot, sessions in held.items():
        for module, version in snapshot.versions.items():
            versions = found.setdefault(module, {})
            versions[version] = versions.get(version, 0) + sessions
    return found


class Pins:
    """Watches what sessions hold.

    Args:
        slots: the server's.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._ended: dict[tuple[str, int], float] = {}
        self._crowded: set[str] = set()
        self._overdue: set[tuple[str, int]] = set()

    def look(self, sessions: Iterable[Session]) -> None:
        """Warn of what has crossed a bound since the last look."""
        sessions = list(sessions)
        held = Counter(session.release for session in sessions if session.release is not None)
        self._note_ends(held)
        for module, versions in counted(held).items():
            if module in self._slots.modules:
                self._count(module, versions, sessions)
                self._age(module, versions, sessions)

    def _note_ends(self, held: Iterable[Snapshot]) -> None:
        """Note since when each release that is held is not in force any more."""
        now = time.time()
        ended: dict[tuple[str, int], float] = {}
        for snapshot in held:
            for module, version in snapshot.versions.items():
                if version not in self._in_force(module):
                    key = (module, version)
                    ended[key] = self._ended.get(key) or ended.get(key) or snapshot.replaced or now
        self._ended = ended
        self._overdue &= ended.keys()

    def _in_force(self, module: str) -> set[int]:
        if module not in self._slots.modules:
            return set()
        running, canary = self._slots.running, self._slots.canary(module)
        newest = running.compiled.get(module) if running is not None else None
        return {one.version for one in (newest, canary) if one is not None}

    def _count(self, module: str, versions: Mapping[int, int], sessions: Iterable[Session]) -> None:
        limit = self._slots.config(module).max_pinned
        if len(versions) <= limit:
            self._crowded.discard(module)
        elif module not in self._crowded:
            self._crowded.add(module)
            _warn("config-pinned-too-many", module, versions, min(versions), sessions, limit=limit)

    def _age(self, module: str, versions: Mapping[int, int], sessions: Iterable[Session]) -> None:
        limit, now = self._slots.config(module).max_pinned_age, time.time()
        for version in sorted(versions):
            key = (module, version)
            ended = self._ended.get(key)
            if ended is not None and now - ended > limit and key not in self._overdue:
                self._overdue.add(key)
                _warn("config-pinned-too-long", module, {version: versions[version]}, version, sessions, limit=limit)


def _warn(
    event: str, module: str, versions: Mapping[int, int], oldest: int, sessions: Iterable[Session], limit: float
) -> None:
    holders = (
        session.key or session.id
        for session in sessions
        if session.release is not None and session.release.versions.get(module) == oldest
    )
    log.event(
        logging.WARNING,
        event,
        module=module,
        limit=f"{limit:g}",
        releases=len(versions),
        held=", ".join(f"{version} by {versions[version]}" for version in sorted(versions)[:MAX_VERSIONS]),
        oldest_held_by=", ".join(islice(holders, MAX_NAMED)),
    )
