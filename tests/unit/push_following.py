"""A subscriber that follows configuration servers, for tests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from hotfd.config.client import ServersSource
from hotfd.config.source import Identity
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hotfd.config.release import Head

FUSE = 60.0
"""Seconds after which a test that waits has failed; nothing is measured with it."""

WHO = Identity("s1", "games", "eu", "host", 7, 1)


class Following:
    """A source that is followed, and what it has said."""

    def __init__(self, source: ServersSource) -> None:
        self.source = source
        self._heads: asyncio.Queue[dict[str, Head]] = asyncio.Queue()

    async def heads(self) -> dict[str, Head]:
        """Return the next heads."""
        async with asyncio.timeout(FUSE):
            return await self._heads.get()

    async def becomes(self, *wanted: Head) -> None:
        """Wait until these are the heads."""
        while await self.heads() != {one.module: one for one in wanted}:
            pass

    async def run(self, modules: tuple[str, ...]) -> None:
        async for heads in self.source.heads(modules):
            self._heads.put_nowait(heads)

    @property
    def silent(self) -> bool:
        return self._heads.empty()


@asynccontextmanager
async def following_url(
    url: str, interval: float = 1.0, modules: tuple[str, ...] = ("arena",), who: Identity = WHO
) -> AsyncIterator[Following]:
    """Follow configuration servers; see that the source goes on until it is closed, and leaves no task over."""
    source = ServersSource(url, who, interval)
    found = Following(source)
    task = asyncio.create_task(found.run(modules))
    try:
        yield found
        assert not task.done(), "it follows until it is told to stop"
    finally:
        tasks = [*source._tasks.values(), source._keeper]
        await source.aclose()
        async with asyncio.timeout(FUSE):
            with pytest.raises(ConfigError, match="closed"):
                await task
    assert not source._tasks
    assert all(task is None or task.done() for task in tasks)
