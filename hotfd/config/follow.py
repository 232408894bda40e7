"""Follows a source: fetches what it puts in force, checks it, and stages it for the next session.

Four tasks, none of which waits for another: one reads what the source says, one fetches, checks and stages, one reports,
one keeps the last good releases on disk. The newest is all that counts for each of them: what came meanwhile is skipped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hotfd import log
from hotfd.config.cache import Kept
from hotfd.config.intake import Intake
from hotfd.config.reporter import Reporter
from hotfd.config.threads import Crew, aside
from hotfd.errors import ConfigError, Fault, ReleaseRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from hotfd.config.cache import Cache
    from hotfd.config.release import Head, Sealed, Track
    from hotfd.config.slots import Slots
    from hotfd.config.snapshots import Compiled
    from hotfd.config.source import Identity, Source

FETCH_LIMIT: Final = 30.0
"""Seconds in which a release must come: a megabyte over a bad line."""

COMPILE_LIMIT: Final = 60.0
"""Seconds that a program may take to check a release; one that takes longer hangs."""

CHECKS: Final = 4
"""Checks that may hang in all. A thread cannot be ended; when so many do, nothing more is checked, and that is said."""

FETCHES: Final = 8
"""Releases that are fetched at a time: enough to hide the way to a distant source."""

RETRY: Final = (0.5, 30.0)
"""Seconds to the next try after a source failed, at first and at most; it doubles. A sign of life comes before."""

AWAY: Final = (3.0, 5.0)
"""A source without a sign of life for so many intervals, and at least so many seconds, is away."""

HANGING: Final = "the checks of earlier releases still hang; mend them, and hand the server over to the mended program"
"""What is said of a release that cannot be checked for that reason."""

SAVE_LIMIT: Final = 2.0
"""Seconds that the end of a server waits for what it still has to keep on disk."""


class Follower:
    """Follows one source for some modules of a server.

    Args:
        source: it is closed by :meth:`aclose`.
        modules: the modules that come from it.
        slots: the server's.
        identity: of this server.
        cache: where the last good releases are kept.
        interval: seconds between two signs of life of the source.
        compiling: held while a release is checked, by all followers of a server: one at a time.
    """

    def __init__(
        self,
        source: Source,
        modules: Collection[str],
        slots: Slots,
        identity: Identity,
        cache: Cache,
        interval: float,
        compiling: asyncio.Lock,
    ) -> None:
        self.source = source
        self.modules = list(modules)
        self.intake = Intake(modules, slots, {name: cache.file(name) for name in modules})
        self.reporter = Reporter(source, modules, slots, self.intake, identity)
        self.life: float | None = None
        """When the source gave its last sign of life, by the monotonic clock."""
        self.away = False
        """Whether it has given none for long."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when the source has spoken, and what it said was worked through as far as possible."""
        self._slots = slots
        self._cache = cache
        self._interval = interval
        self._compiling = compiling
        self._fetching = asyncio.Semaphore(FETCHES)
        self._checks = Crew(CHECKS)
        self._said: tuple[Mapping[str, Head], Collection[str]] | None = None  # the heads, and of what nothing was said
        self._work_due = asyncio.Event()
        self._save_due = asyncio.Event()
        self._saved: dict[str, tuple[int, str]] = {}
        self._save_failing = False
        self._alarm: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._pause = RETRY[0]
        self._saving = asyncio.Lock()
        self._following: list[asyncio.Task[None]] = []
        self._telling: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to follow."""
        loop = asyncio.get_running_loop()
        self._following = [loop.create_task(part(), name="hotfd-config-follow") for part in (self._read, self._work)]
        self._telling = [loop.create_task(part(), name="hotfd-config-tell") for part in (self.reporter.run, self._save)]
        self._expect()

    async def aclose(self) -> None:
        """Stop, keep what is not kept yet, say that this server ends, and let go of the source. Idempotent."""
        for timer in (self._alarm, self._again):
            if timer is not None:
                timer.cancel()
        followed, self._following = self._following, []
        await _end(followed)
        if followed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._save_all(), SAVE_LIMIT)
            await self.reporter.farewell()
        await _end(self._telling)
        await self.source.aclose()

    # -- what the slots say ----------------------------------------------------------------------------

    def activated(self, compiled: Compiled) -> None:
        """Sessions begin with a release from now on. Plain and short: the first of them waits."""
        log.event(logging.INFO, "config-activated", module=compiled.module, version=compiled.version)
        self.reporter.poke()

    def quarantined(self, compiled: Compiled, error: BaseException) -> None:
        """A release failed when it was first used; the session begins with the one before."""
        log.event(logging.ERROR, "config-quarantined", module=compiled.module, version=compiled.version, exc_info=error)
        self.reporter.poke()
        self._work_due.set()  # what was published with it is held back as well, and what was before it is kept

    # -- what the source says --------------------------------------------------------------------------

    async def _read(self) -> None:
        pause = RETRY[0]
        while True:
            try:
                async for heads in self.source.heads(self.modules):
                    pause = RETRY[0]
                    self._hear(heads)
                reason, problem = "it has ended", None
            except ConfigError as error:
                reason, problem = str(error), None
            except Exception as error:  # noqa: BLE001 - a source that is broken must not end the server's configuration
                reason, problem = type(error).__name__, error
            level = logging.ERROR if problem is not None else logging.INFO
            log.event(level, "config-source-failed", source=self.source.url, reason=reason, exc_info=problem)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY[1])

    def _hear(self, heads: Mapping[str, Head]) -> None:
        self._said = heads, self.source.silent
        self.life = time.monotonic()
        if self.away:
            self.away = False
            log.event(logging.INFO, "config-source-back", source=self.source.url)
        self._expect()
        self._work_due.set()
        self.reporter.alive()

    def _expect(self) -> None:
        """Expect a sign of life in time."""
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(AWAY[0] * self._interval, AWAY[1])
        self._alarm = asyncio.get_running_loop().call_later(delay, self._missed)

    def _missed(self) -> None:
        self.away = True
        log.event(logging.WARNING, "config-source-away", source=self.source.url)

    # -- from a head to the slots ----------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._work_due.wait()
            self._work_due.clear()
            said, self._said = self._said, None
            try:
                if said is not None:
                    self.intake.take(*said)
                complete = await self._get(alive=said is not None)
                self._stage()
            except Exception as error:  # noqa: BLE001 - one head that cannot be followed must not be the last
                log.event(logging.ERROR, "config-follow-failed", source=self.source.url, exc_info=error)
                complete = False
            self._try_again(complete)
            self.on_change()

    def _try_again(self, complete: bool) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if complete:
            self._pause = RETRY[0]
        else:
            self._again = asyncio.get_running_loop().call_later(self._pause, self._work_due.set)
            self._pause = min(2 * self._pause, RETRY[1])

    async def _get(self, *, alive: bool) -> bool:
        """Fetch and check what is wanted; return whether everything came."""
        wanted = self.intake.wanted()
        fetched = await asyncio.gather(*(self._fetch(name, track) for name, track in wanted))
        for (name, track), came in zip(wanted, fetched, strict=True):
            match came:
                case str():
                    self.intake.failed(name, track, came, alive=alive)
                    self.reporter.poke()
                case Fault():
                    self.intake.refuse(name, track, [came])
                    self.reporter.poke()
                case sealed:
                    await self._compile(name, track, sealed)
        return not any(isinstance(came, str) for came in fetched)

    async def _fetch(self, name: str, track: Track) -> Sealed | Fault | str:
        """Return a release, or what is wrong with it, or why it did not come."""
        try:
            async with self._fetching, asyncio.timeout(FETCH_LIMIT):
                sealed = await self.source.release(name, track.version, track.sha256)
        except TimeoutError:
            return f"it did not come within {FETCH_LIMIT:g} s"
        except ConfigError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a source that breaks with one release must not hold up the others
            log.event(logging.ERROR, "config-follow-failed", source=self.source.url, exc_info=error)
            return f"the source failed with {type(error).__name__}; see the server's log"
        if (sealed.release.module, sealed.release.version, sealed.sha256) != (name, track.version, track.sha256):
            return Fault("", "", f"what came is not version {track.version}; its digest is another one")
        return sealed

    async def _compile(self, name: str, track: Track, sealed: Sealed) -> None:
        config = self._slots.config(name)
        async with self._compiling:
            try:
                if self._checks.busy:
                    raise ReleaseRefused(name, [Fault("", "", HANGING)])
                async with asyncio.timeout(COMPILE_LIMIT):
                    compiled = await self._checks.run(config.compile, sealed)
            except ReleaseRefused as refusal:
                faults = refusal.faults
            except TimeoutError:
                faults = [Fault("", "", f"the program took more than {COMPILE_LIMIT:g} s to check it")]
            except Exception as error:  # noqa: BLE001 - one release that breaks the check must not hold up the others
                log.event(logging.ERROR, "config-check-failed", module=name, version=track.version, exc_info=error)
                faults = [Fault("", "", f"the check failed with {type(error).__name__}; see the server's log")]
            else:
                self.intake.usable(name, track, self._slots.know(compiled))
                return
        self.intake.refuse(name, track, faults, sealed)
        self.reporter.poke()

    def _stage(self) -> None:
        """Stage what can be staged, of all modules in one step."""
        due = self.intake.due()
        if not due:
            return
        slots, modules = self._slots, [one.head.module for one in due]
        before = [(slots.newest(name), slots.canary(name)) for name in modules]
        slots.stage(due)
        self.intake.done(due)
        for name, (newest, canary) in zip(modules, before, strict=True):
            _log_staged(slots.newest(name), newest, canary=False)
            _log_staged(slots.canary(name), canary, canary=True)
        self.reporter.poke()
        self._save_due.set()

    # -- what is kept ----------------------------------------------------------------------------------

    async def _save(self) -> None:
        while True:
            await self._save_due.wait()
            self._save_due.clear()
            await self._save_all()

    async def _save_all(self) -> None:
        """Keep of each module what is not kept yet; what cannot be kept is told once, until it can be."""
        async with self._saving:  # at the end, what is being written is waited for
            for name in self.modules:
                await self._save_one(name)

    async def _save_one(self, name: str) -> None:
        head, newest = self._slots.head(name), self._slots.newest(name)
        if head is None or newest is None or not newest.version:
            return
        mark = head.sequence, newest.sha256
        if self._saved.get(name) == mark:
            return
        try:
            await aside(self._cache.save, Kept(head, newest.sealed))
        except (ConfigError, OSError) as error:
            if not self._save_failing:
                log.event(logging.WARNING, "config-not-kept", module=name, reason=str(error))
            self._save_failing = True
        else:
            self._saved[name] = mark
            self._save_failing = False


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _log_staged(now: Compiled | None, before: Compiled | None, *, canary: bool) -> None:
    if now is None or now is before:
        return
    log.event(
        logging.INFO,
        "config-staged",
        module=now.module,
        version=now.version,
        revision=now.sealed.release.revision,
        canary=canary,
    )
