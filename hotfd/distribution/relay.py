"""The heart of a configuration server: reads the store, tells the subscribers, brings back what they say.

What it knows is in memory, so it goes on serving that while the store is away. Everything that goes to the store is
gathered and sent once an interval, however many subscribers there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, cast

from hotfd import log
from hotfd.config import push
from hotfd.config.reader import note
from hotfd.distribution.knowledge import Knowledge
from hotfd.distribution.lookups import Lookups
from hotfd.distribution.rota import Rota
from hotfd.errors import ConfigError
from hotfd.server.tasks import detached

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping

    from hotfd.config.link import Key
    from hotfd.config.release import Head
    from hotfd.config.store import Acknowledgement, Store
    from hotfd.distribution.subscriber import Subscriber

STORE_LIMIT: Final = 5.0
"""Seconds for one request to the store; a store of several nodes answers within one also when it changes its leader."""

HURRY_LIMIT: Final = 1.0
"""Seconds for the last reports of a process that hands over, or ends."""

PARTS: Final = 20
"""Parts of an interval: as often it is looked who is due."""

REGISTERED: Final = 3
"""Intervals for which the server is registered; each renews that, so two may fail."""

SLACK: Final = 2.0
"""Seconds beside that: the store's clock may count whole ones."""

SILENCE: Final = 3
"""Intervals without a word from the store after which it counts as away."""

SLICE: Final = 100
"""Subscribers that are woken in one turn of the loop."""

MAX_FETCHES: Final = 64
"""Releases that are read from the store at once; whoever wants another one is told to come again."""

MAX_REPORTS: Final = 20_000
"""Reports that wait for the store, one for each subscriber's module; the oldest go first."""

MAX_SCHEMAS: Final = 256
"""Schemas that wait for the store."""

REDECLARED: Final = 3600.0
"""Seconds until a schema that was declared is declared again: a store keeps it for a day."""

MAX_DIGESTS: Final = 1024
"""Encoded digests that are kept; subscribers of the same modules are told the same."""


class Relay:
    """What a configuration server does between its store and its subscribers.

    Args:
        store: the store; the relay closes it.
        modules: what it serves.
        interval: seconds between two digests, and between two writes to the store.
        advertised: returns the addresses to register.

    Attributes:
        knowledge: what it knows.
        interval: as given.
        lookups: who serves which modules.
    """

    def __init__(
        self, store: Store, modules: Sequence[str], interval: float, advertised: Callable[[], Sequence[str]]
    ) -> None:
        self.knowledge = Knowledge(modules)
        self.interval = interval
        self.lookups = Lookups(self._addresses, interval)
        self._store = store
        self._advertised = advertised
        self._rota = Rota(interval)
        self._notices: dict[str, asyncio.Queue[None]] = {}
        self._subscribed: dict[str, set[str]] = {module: set() for module in modules}
        self._digests: dict[tuple[tuple[tuple[str, int], ...], tuple[str, ...]], bytes] = {}
        self._fetching: dict[Key, asyncio.Task[bytes]] = {}
        self._reports: dict[tuple[str, str], Acknowledgement] = {}
        self._schemas: dict[tuple[str, str], bytes] = {}
        self._declared: dict[tuple[str, str], float] = {}
        self._registering = asyncio.Lock()
        self._withdrawn = False
        self._troubles: dict[str, str] = {}
        self._seen = time.monotonic()

    # -- the store -------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the store once; when that fails, what is read later counts."""
        await self._tried("read", self._load())

    async def _load(self) -> None:
        await self._take(await self._store.heads(self.knowledge.modules))

    async def watch(self) -> None:
        """Follow the store, for ever."""
        self._seen = time.monotonic()
        while True:
            try:
                watch = self._store.watch(self.knowledge.modules, self.interval)
                async with aclosing(cast("AsyncGenerator[dict[str, Head]]", watch)) as found:
                    async for heads in found:
                        self._well("read")
                        await self._take(heads)
            except ConfigError as error:
                self._failed("read", str(error))
            await asyncio.sleep(self.interval)

    async def _take(self, heads: Mapping[str, Head]) -> None:
        """Make heads known whose releases can be had, and wake those whom they concern."""
        bodies: dict[Key, bytes] = {}
        news = self.knowledge.news(heads.values())
        for head in news:
            for key in self.knowledge.lacking(head):
                try:
                    bodies[key] = await self.body(key)
                except (
                    ConfigError
                ) as error:  # without it the head is no news, and is looked at again with the next item
                    self._failed(f"release of {head.module}", str(error))
        changed = self.knowledge.accept(news, bodies)
        self.knowledge.seen(heads.values())
        self.knowledge.ready = True
        for module in changed:
            self._well(f"release of {module}")
            log.event(logging.INFO, "config-head", module=module, sequence=self.knowledge.heads[module].sequence)
        await self._wake(list(dict.fromkeys(who for module in changed for who in self._subscribed[module])))

    async def announce(self) -> None:
        """Be registered in the store, for ever."""
        ttl = REGISTERED * self.interval + SLACK
        while True:
            async with self._registering:
                for address in self._advertised() if self.knowledge.ready and not self._withdrawn else ():
                    await self._tried("register", self._store.register(address, self.knowledge.modules, ttl))
            await asyncio.sleep(self.interval)

    async def withdraw(self) -> None:
        """Be registered no more."""
        self._withdrawn = True
        async with self._registering:  # a registration that is on its way would come after this
            for address in self._advertised():
                await self._tried("register", self._store.unregister(address))

    async def deliver(self) -> None:
        """Bring to the store what subscribers have said, once an interval, for ever."""
        while True:
            await asyncio.sleep(self.interval)
            await self.flush()

    async def flush(self) -> None:
        """Bring to the store what subscribers have said; what the store does not take waits for the next time."""
        reports, self._reports = self._reports, {}
        try:
            if reports and await self._tried("report", note(self._store, list(reports.values()))):
                reports = {}
        finally:
            for key, report in reports.items():
                self._reports.setdefault(key, report)
        for (module, schema_id), schema in list(self._schemas.items()):
            if not await self._tried("declare", self._store.declare(module, schema_id, schema)):
                break
            self._schemas.pop((module, schema_id), None)
            self._declared[module, schema_id] = time.monotonic()

    async def hurry(self) -> None:
        """Do the same as well as it can be done at once: somebody waits."""
        if not self._troubles:
            with suppress(TimeoutError):
                async with asyncio.timeout(HURRY_LIMIT):
                    await self.flush()

    async def _tried(self, purpose: str, request: Awaitable[object]) -> bool:
        """Ask the store for something, and return whether that succeeded."""
        try:
            async with asyncio.timeout(STORE_LIMIT):
                await request
        except TimeoutError:
            self._failed(purpose, f"no answer within {STORE_LIMIT:g} s")
            return False
        except ConfigError as error:
            self._failed(purpose, str(error))
            return False
        self._well(purpose)
        return True

    def _failed(self, purpose: str, reason: str) -> None:
        if purpose not in self._troubles:
            log.event(logging.WARNING, "config-store-failed", purpose=purpose, reason=reason)
        self._troubles[purpose] = reason

    def _well(self, purpose: str) -> None:
        if purpose == "read":
            self._seen = time.monotonic()
        if self._troubles.pop(purpose, None) is not None:
            log.event(logging.INFO, "config-store-works", purpose=purpose)

    # -- subscribers -----------------------------------------------------------------------------------

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return len(self._notices)

    def attend(self, who: str, modules: Iterable[str], notices: asyncio.Queue[None]) -> None:
        """Tell a subscriber from now on, by its queue, when it is time for a digest.

        Args:
            who: an id of its connection.
            modules: those that it is told of.
            notices: a queue with room for one: notices that it has not taken become one.
        """
        self._notices[who] = notices
        for module in modules:
            if module in self._subscribed:
                self._subscribed[module].add(who)
        self._rota.join(who, time.monotonic())

    def leave(self, who: str) -> None:
        """Tell it no more. Does nothing for who is not told."""
        if self._notices.pop(who, None) is not None:
            self._rota.leave(who)
            for members in self._subscribed.values():
                members.discard(who)

    async def remind(self) -> None:
        """Tell each subscriber once an interval, for ever."""
        while True:
            await asyncio.sleep(self.interval / PARTS)
            now = time.monotonic()
            if now - self._seen > SILENCE * self.interval:
                self._failed("read", f"nothing was heard of the store for {SILENCE} intervals")
            await self._wake(self._rota.due(now))

    async def _wake(self, subscribers: Sequence[str]) -> None:
        for at, who in enumerate(subscribers):
            if at % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            notices = self._notices.get(who)
            if notices is not None and not notices.full():
                notices.put_nowait(None)

    def digest(self, subscriber: Subscriber) -> bytes:
        """Return what to tell a subscriber now, as a frame."""
        heads = subscriber.digest(self.knowledge.heads)
        silent = tuple(module for module in subscriber.modules if module in self.knowledge.silent)
        key = tuple((head.module, head.sequence) for head in heads), silent
        data = self._digests.get(key)
        if data is None:
            if len(self._digests) >= MAX_DIGESTS:
                self._digests.clear()
            data = self._digests[key] = push.frame(push.Digest(tuple(heads), silent))
        return data

    async def body(self, key: Key) -> bytes:
        """Return a release: from memory, or from the store, which is asked once whoever wants it.

        Raises:
            ConfigError: it cannot be had.
        """
        if (data := self.knowledge.body(key)) is not None:
            return data
        task = self._fetching.get(key)
        if task is None:
            if len(self._fetching) >= MAX_FETCHES:
                raise ConfigError("too many releases are wanted at once; ask again")
            task = self._fetching[key] = detached(self._fetch(key), f"config-release-{key.module}")
            task.add_done_callback(lambda done: self._fetched(key, done))
        return await asyncio.shield(task)

    async def _fetch(self, key: Key) -> bytes:
        try:
            async with asyncio.timeout(STORE_LIMIT):
                sealed = await self._store.release(key.module, key.version, key.sha256)
        except TimeoutError:
            raise ConfigError(f"the store did not send it within {STORE_LIMIT:g} s") from None
        self.knowledge.keep(key, sealed.data)
        return sealed.data

    def _fetched(self, key: Key, done: asyncio.Task[bytes]) -> None:
        self._fetching.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waits is told; if nobody does any more, it is nobody's business

    def note(self, reports: Iterable[Acknowledgement]) -> None:
        """Take reports; they get to the store within an interval, if that is there."""
        for report in reports:
            key = report.server, report.module
            self._reports.pop(key, None)  # so that the order is that of the times
            self._reports[key] = push.bounded(report)
        while len(self._reports) > MAX_REPORTS:
            del self._reports[next(iter(self._reports))]

    def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        """Take a schema; it gets to the store within an interval, if that is there."""
        key = module, schema_id
        if time.monotonic() - self._declared.get(key, -REDECLARED) >= REDECLARED and len(self._schemas) < MAX_SCHEMAS:
            self._schemas[key] = schema
            while len(self._declared) > MAX_SCHEMAS:
                del self._declared[next(iter(self._declared))]

    async def _addresses(self, module: str) -> list[str] | None:
        """Return where the store says that a module is served; None when it does not answer."""
        found: list[str] = []

        async def ask() -> None:
            found.extend(await self._store.addresses(module))

        if "look up" in self._troubles and time.monotonic() - self._seen > SILENCE * self.interval:
            return None  # the store is away: nobody has to wait to learn that again
        return found if await self._tried("look up", ask()) else None

    # -- looking at it ---------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what ``hotfd status`` shows of it."""
        releases, size = self.knowledge.held
        return {
            "store": self._store.url,
            "store_troubles": dict(self._troubles),
            "store_seen_s": round(time.monotonic() - self._seen, 1),
            "interval_s": self.interval,
            "modules": {
                module: {
                    "sequence": head.sequence if (head := self.knowledge.heads.get(module)) is not None else 0,
                    "subscribers": len(members),
                }
                for module, members in self._subscribed.items()
            },
            "subscribers": self.subscribers,
            "releases": releases,
            "release_bytes": size,
            "unwritten": len(self._reports) + len(self._schemas),
        }

    async def aclose(self) -> None:
        """Let go of the store."""
        await self.lookups.aclose()
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(ConfigError):
            await self._store.aclose()
