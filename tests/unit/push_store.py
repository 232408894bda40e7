"""A store in memory that does what a test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hotfd.config.link import Key
from hotfd.errors import StoreError
from tests.unit.push_heads import head, sealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from hotfd.config.release import Head, Sealed
    from hotfd.config.store import Acknowledgement


class Store:
    """A store in memory, which can be away."""

    url = "memory:"

    def __init__(self) -> None:
        self.away = False
        self.published: dict[str, Head] = {}
        self.releases: dict[Key, Sealed] = {}
        self.reads: list[Key] = []
        self.writes: list[Any] = []
        self.registered: dict[str, list[str]] = {}
        self.changed = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    def publish(self, module: str = "arena", **values: Any) -> Head:
        sequence = self.published[module].sequence + 1 if module in self.published else 1
        one = sealed(module, sequence, **values)
        self.published[module] = head(module, sequence, one)
        self.releases[Key(module, sequence, one.sha256)] = one
        self.changed.set()
        return self.published[module]

    def check(self) -> None:
        if self.away:
            raise StoreError("the store is away")

    async def heads(self, modules: Sequence[str] | None = None) -> dict[str, Head]:
        self.check()
        return dict(self.published)

    async def watch(self, modules: Sequence[str], interval: float) -> AsyncIterator[dict[str, Head]]:
        while True:
            if not self.away:
                yield dict(self.published)
            self.changed.clear()
            try:
                async with asyncio.timeout(interval):
                    await self.changed.wait()
            except TimeoutError:
                pass

    async def release(self, module: str, version: int, sha256: str | None = None) -> Sealed:
        self.check()
        key = Key(module, version, sha256 or "")
        self.reads.append(key)
        await self.hold.wait()
        if key not in self.releases:
            raise StoreError("there is no such release")
        return self.releases[key]

    async def acknowledge(self, reports: Sequence[Acknowledgement]) -> None:
        self.check()
        self.writes.append(list(reports))

    async def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        self.check()
        self.writes.append((module, schema_id, schema))

    async def register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        self.check()
        for module in modules:
            self.registered.setdefault(module, []).append(address)

    async def unregister(self, address: str) -> None:
        self.check()
        self.registered.clear()

    async def addresses(self, module: str) -> list[str]:
        self.check()
        self.reads.append(Key(module, 0, "addresses"))
        return sorted(set(self.registered.get(module, [])))

    async def aclose(self) -> None:
        self.writes.append("closed")
