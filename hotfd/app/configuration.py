"""A server's configuration: its modules, the sources that they come from, and how it comes to its first releases."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from hotfd import log
from hotfd.app.beginning import Beginning
from hotfd.app.pins import Pins, counted
from hotfd.config.cache import Cache
from hotfd.config.declare import SOURCE
from hotfd.config.follow import Follower
from hotfd.config.open import open_source
from hotfd.config.release import MAX_MODULES
from hotfd.config.slots import Slots
from hotfd.config.source import Identity
from hotfd.config.threads import aside
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from hotfd.app.pins import Pinned
    from hotfd.config.cache import Kept
    from hotfd.config.declare import Config
    from hotfd.config.snapshots import Compiled, Snapshot
    from hotfd.server.session import Session

START_LIMIT: Final = 60.0
"""Seconds that a server waits at most for its first releases."""

CACHE_LIMIT: Final = 5.0
"""Seconds in which what is kept on disk must be read; a disk that hangs does not keep a server from its source."""

LOOK: Final = (1.0, 60.0)
"""Seconds between two looks at what sessions hold: after a release came into force, and otherwise."""

MAX_SHOWN: Final = 64
"""Versions, and faults, that a status shows of a module."""


class Configuration:
    """The configuration of one server.

    Args:
        configs: its modules; one at least.
        service: the service's name: what is kept on disk belongs to it.

    Attributes:
        slots: what new sessions begin with.
        sessions: the server's sessions, by id; set by whoever serves them.

    Raises:
        ConfigError: a module is declared twice, has neither a source nor a value of the program's own, or there are
            too many.
    """

    def __init__(self, configs: Sequence[Config[Any]], service: str) -> None:
        _check(configs)
        self.slots = Slots(configs)
        self.slots.on_activated = self._activated
        self.slots.on_quarantined = self._quarantined
        self.sessions: Mapping[str, Session] = {}
        self._configs = {config.module: config for config in configs}
        self._service = service
        self._server = secrets.token_hex(8)
        self._followers: dict[str, Follower] = {}
        self._caches = {name: Cache(service, config.source) for name, config in self._configs.items() if config.source}
        self._pins = Pins(self.slots)
        self._watching: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._heard = asyncio.Event()
        self._since: dict[str, float] = {}
        self._previous: dict[str, int] = {}
        self._from_cache: frozenset[str] = frozenset()

    # -- life ----------------------------------------------------------------------------------------

    async def start(self, generation: int, deadline: float = START_LIMIT) -> None:
        """Follow the sources, and come to a release of each module.

        What the process before this one has handed over is in force at once, and what its source says next follows it.
        Otherwise a source is waited for, for a while; then what is kept of it on disk holds, or the program's own value
        where nothing is known of any release.

        Args:
            generation: of this process.
            deadline: seconds that this takes at most.

        Raises:
            ConfigError: a module has no release that this program can use; the message says what to do.
        """
        end = time.monotonic() + deadline
        needed = [name for name in self._caches if self.slots.newest(name) is None]
        own = self._handed_own()
        kept = await self._load()
        self._follow(generation)
        beginning = Beginning(self.slots, self._followers, kept, self._heard)
        if needed:
            await beginning.find(needed, end)
        self._from_cache = frozenset(beginning.kept)  # the names: the releases are the sessions' to keep
        self._begin(beginning.own | own)
        self._since = dict.fromkeys(self.slots.modules, time.time()) | self._since
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="hotfd-config-pins")

    def _handed_own(self) -> set[str]:
        """Return the modules of which the process before ran the program's own value: it could use no release."""
        running = self.slots.running.compiled if self.slots.running is not None else {}
        found = {name: (running.get(name), self.slots.newest(name)) for name in self._caches}
        return {name for name, known in found.items() if any(one is not None and not one.version for one in known)}

    def _begin(self, own: Collection[str]) -> None:
        """Put in force what is staged; of these modules the program's own values may be."""
        alone = {name for name, config in self._configs.items() if not config.source}
        if self.slots.start() and self.slots.running is not None:
            running = self.slots.running.compiled
            bad = [name for name in self._configs if not running[name].version and name not in alone | {*own}]
        else:
            bad = [name for name in self._configs if self.slots.newest(name) is None]
        if bad:
            raise ConfigError(
                f"module {bad[0]!r}: its release failed when it was first used, and no earlier one is here; see the log"
            )
        initial = [self.slots.initial(name) for name in alone]
        self.slots.begin_with(one for one in initial if one is not None)  # the process before may have had others

    async def aclose(self) -> None:
        """Let go of the sources. Idempotent."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        followers, self._followers = {id(one): one for one in self._followers.values()}, {}
        for error in await asyncio.gather(*(one.aclose() for one in followers.values()), return_exceptions=True):
            if isinstance(error, Exception):
                log.event(logging.ERROR, "config-close-failed", exc_info=error)

    async def _load(self) -> dict[str, Kept]:
        """Read what is kept on disk; no module goes back behind it."""
        try:
            async with asyncio.timeout(CACHE_LIMIT):
                kept = await aside(_read_all, self._caches)
        except TimeoutError:
            log.event(logging.WARNING, "config-cache-unusable", reason=f"it was not read within {CACHE_LIMIT:g} s")
            return {}
        for one in kept.values():
            self.slots.floor(one.head)
        return kept

    def _follow(self, generation: int) -> None:
        groups: dict[str, list[Config[Any]]] = {}
        for name in self._caches:
            groups.setdefault(self._configs[name].source, []).append(self._configs[name])
        compiling = asyncio.Lock()
        for url, configs in groups.items():  # all of a source together: so are the releases of one publish
            names, interval = [config.module for config in configs], min(config.interval for config in configs)
            zone = configs[0].zone if len({config.zone for config in configs}) == 1 else ""
            identity = Identity(self._server, self._service, zone, socket.gethostname(), os.getpid(), generation)
            source = open_source(url, identity, interval)
            follower = Follower(source, names, self.slots, identity, self._caches[names[0]], interval, compiling)
            follower.on_change = self._heard.set
            follower.reporter.pinned = self._pinned
            self._followers.update(dict.fromkeys(names, follower))
        for follower in {id(one): one for one in self._followers.values()}.values():
            follower.start()

    # -- what the slots say --------------------------------------------------------------------------

    def _activated(self, compiled: Iterable[Compiled]) -> None:
        running, previous = self.slots.running, self.slots.previous
        for one in compiled:
            if running is not None and running.compiled.get(one.module) is one:
                self._since[one.module] = time.time()
                if previous is not None and (before := previous.compiled.get(one.module)) is not None:
                    self._previous[one.module] = before.version
            if (follower := self._followers.get(one.module)) is not None:
                follower.activated(one)
        self._look.set()

    def _quarantined(self, compiled: Compiled, error: BaseException) -> None:
        if (follower := self._followers.get(compiled.module)) is not None:
            follower.quarantined(compiled, error)

    async def _watch(self) -> None:
        soon, late = LOOK
        while True:
            self._look.clear()
            try:
                self._pins.look(self.sessions.values())
            except Exception as error:  # noqa: BLE001 - a warning that cannot be given must not end the watch
                log.event(logging.ERROR, "config-pins-failed", exc_info=error)
            await asyncio.sleep(soon)
            try:
                async with asyncio.timeout(late):
                    await self._look.wait()
            except TimeoutError:
                pass

    def _pinned(self) -> Pinned:
        sessions = self.sessions.values()
        return counted(Counter(session.release for session in sessions if session.release is not None))

    # -- looking at it ---------------------------------------------------------------------------------

    def status(self, held: Mapping[Snapshot, int]) -> dict[str, Any]:
        """Return by module what ``hotfd status`` shows.

        Args:
            held: how many sessions hold which snapshot.
        """
        pinned = counted(held)
        return {name: self._status(name, pinned.get(name, {})) for name in self.slots.modules}

    def _status(self, name: str, pinned: Mapping[int, int]) -> dict[str, Any]:
        slots, follower = self.slots, self._followers.get(name)
        running = slots.running.compiled.get(name) if slots.running is not None else None
        staged, canary, head = slots.staged(name), slots.canary(name), slots.head(name)
        refusal = follower.intake.refusal(name) if follower is not None else None
        life = follower.life if follower is not None else None
        return {
            "zone": self._configs[name].zone,
            "source": follower.source.url if follower is not None else "",
            "contact": follower.source.contact if follower is not None else "",
            "running": running.version if running is not None else None,
            "since": self._since.get(name),
            "staged": staged.version if staged is not None else None,
            "previous": self._previous.get(name),
            "canary": {"version": canary.version, "share": slots.share(name)} if canary is not None else None,
            "quarantined": sorted(slots.quarantined(name).values())[-MAX_SHOWN:],
            "refused": {"version": refusal.version, "faults": list(refusal.faults[:MAX_SHOWN])} if refusal else None,
            "pinned": {str(version): pinned[version] for version in sorted(pinned)[-MAX_SHOWN:]},
            "sequence": head.sequence if head is not None else 0,
            "age": round(time.monotonic() - life, 1) if life is not None else None,
            "away": follower.away if follower is not None else False,
            "cold": self._cold(name),
        }

    def _cold(self, name: str) -> bool:
        """Whether a module lives from what was kept on disk, and its source has not said yet whether that is right."""
        return name in self._from_cache and not self._followers[name].intake.spoken(name)


def _check(configs: Sequence[Config[Any]]) -> None:
    if len(configs) > MAX_MODULES:
        raise ConfigError(f"{len(configs)} modules; a server has at most {MAX_MODULES}")
    for config in configs:
        if not config.source and config.initial() is None:
            raise ConfigError(
                f"module {config.module!r} has no source: give its hotfd.Config one, set {SOURCE}, or give it an "
                "initial value"
            )


def _read_all(caches: Mapping[str, Cache]) -> dict[str, Kept]:
    kept = {}
    for name, cache in caches.items():
        try:
            if (one := cache.load(name)) is not None:
                kept[name] = one
        except (ConfigError, OSError) as error:
            log.event(logging.WARNING, "config-cache-unusable", module=name, reason=str(error))
    return kept
