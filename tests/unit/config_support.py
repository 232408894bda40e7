"""Releases, heads and sources for the tests of a server's configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hotfd.config import rollout
from hotfd.config.release import Head, Release, Sealed, Values, seal
from hotfd.config.slots import Slots, Staged
from hotfd.config.source import Identity
from hotfd.errors import StoreError

if TYPE_CHECKING:
    import pytest

    from hotfd.config.rollout import For
    from hotfd.config.store import Acknowledgement

FUSE = 30.0
"""Seconds after which a test that waits has failed; nothing is measured with it."""

ME = Identity("s1", "play", "", "host", 42, 1)


class Rules(msgspec.Struct, frozen=True):
    size: int = 1


class Shop(msgspec.Struct, frozen=True):
    price: int = 1


def sealed(module: str, version: int, batch: str = "", zones: dict[str, Values] | None = None, **values: Any) -> Sealed:
    """Return a release of a module."""
    return seal(Release(module, version, f"r{version}", "anna", 1.5, values, zones or {}, batch=batch))


class Shelf:
    """What was published, without a store: heads and releases."""

    def __init__(self) -> None:
        self.heads: dict[str, Head] = {}
        self.releases: dict[str, Sealed] = {}
        self.now = 1000.0

    def publish(
        self,
        module: str,
        *,
        canary: For | None = None,
        batch: str = "",
        zones: dict[str, Values] | None = None,
        **values: Any,
    ) -> Head:
        """Publish the next release of a module."""
        head = self.heads.get(module)
        one = sealed(module, rollout.next_version(head), batch, zones, **values)
        self.releases[one.sha256] = one
        return self._put(rollout.publish(head, one, by="anna", canary=canary).head)

    def promote(self, module: str) -> Head:
        return self._put(rollout.promote(self.heads[module], by="anna").head)

    def abort(self, module: str) -> Head:
        return self._put(rollout.abort(self.heads[module], by="anna").head)

    def wait(self, seconds: float) -> None:
        """Let time pass between two publishes."""
        self.now += seconds

    def _put(self, head: Head) -> Head:
        head = self.heads[head.module] = msgspec.structs.replace(head, time=self.now)
        return head

    def stage(self, slots: Slots, *modules: str) -> None:
        """Stage what is in force, as a follower does."""
        updates = []
        for module in modules or list(self.heads):
            head, config = self.heads[module], slots.config(module)
            stable, canary = (
                slots.know(config.compile(self.releases[track.sha256])) if track is not None else None
                for track in (head.stable, head.canary)
            )
            updates.append(Staged(head, stable, canary))
        slots.stage(updates)


class FakeSource:
    """A source that says what it is told to say, and notes what is reported."""

    url = "fake:"
    silent: Collection[str] = ()

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.reports: list[Acknowledgement] = []
        self.schemas: dict[str, tuple[str, bytes]] = {}
        self.closed = False
        self.fetched: list[tuple[str, int]] = []
        self.fetching: Callable[[str, int], Exception | None] = lambda module, version: None
        self.reporting: Callable[[], Exception | None] = lambda: None
        self.blocked: asyncio.Event | None = None
        self._said: asyncio.Queue[dict[str, Head] | Exception | None] = asyncio.Queue()
        self.reported = asyncio.Event()

    @property
    def contact(self) -> str:
        return "fake"

    def say(self, heads: Mapping[str, Head] | Exception | bool | None = True) -> None:
        """Give a sign of life: with what is in force, or these heads; or fail with an error; None ends the iterator."""
        self._said.put_nowait(dict(self.shelf.heads) if heads is True else heads)  # type: ignore[arg-type]

    async def heads(self, modules: Collection[str]) -> AsyncIterator[dict[str, Head]]:
        while (said := await self._said.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield {name: head for name, head in said.items() if name in modules}

    async def release(self, module: str, version: int, sha256: str) -> Sealed:
        self.fetched.append((module, version))
        if self.blocked is not None:
            await self.blocked.wait()
        if (error := self.fetching(module, version)) is not None:
            raise error
        if sha256 not in self.shelf.releases:
            raise StoreError(f"there is no version {version} of {module!r}")
        return self.shelf.releases[sha256]

    async def report(self, reports: Sequence[Acknowledgement]) -> None:
        if (error := self.reporting()) is not None:
            raise error
        self.reports += reports
        self.reported.set()

    async def declare(self, schemas: Mapping[str, tuple[str, bytes]]) -> None:
        self.schemas.update(schemas)

    async def aclose(self) -> None:
        self.closed = True

    async def told(self, wanted: Callable[[Acknowledgement], bool]) -> Acknowledgement:
        """Wait for a report."""
        async with asyncio.timeout(FUSE):
            while True:
                self.reported.clear()
                for report in self.reports:
                    if wanted(report):
                        return report
                await self.reported.wait()


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[dict[str, Any]]:
    """Return the events of these names that were logged, in order, as fields."""
    found: Iterable[dict[str, Any]] = (record.__dict__.get("hotfd", {}) for record in caplog.records)
    return [fields for fields in found if fields.get("event") in names]
