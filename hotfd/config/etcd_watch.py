"""A doorbell: it rings when heads have changed in etcd, and somebody should look.

What is true is always read (:meth:`hotfd.config.etcd.EtcdStore.heads`); a watch of etcd's only says when. So a
watch that was compacted, has ended, hangs, or belongs to a member that lags behind, can delay a look until the
interval is over, and nothing else. From the revision of the last look on, a watch misses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from hotfd import log
from hotfd.config.etcd_messages import end_of
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

    from hotfd.config.etcd_gateway import Gateway
    from hotfd.config.etcd_messages import WatchResult

PAUSE: Final = 1.0
"""Seconds between two watches at least: one that ends at once must not make its reader go round in circles."""


class Doorbell:
    """Rings for the heads of some modules.

    Args:
        gateway: the cluster.
        prefix: what the keys of heads begin with; a module's name follows.
        modules: the modules.
    """

    def __init__(self, gateway: Gateway, prefix: bytes, modules: Collection[str]) -> None:
        self._gateway = gateway
        self._prefix = prefix
        self._keys = {prefix + module.encode() for module in modules}
        self._task: asyncio.Task[None] | None = None
        self._endpoint = ""
        self._seen = 0
        self._rung = asyncio.Event()

    @property
    def listening(self) -> bool:
        """Whether a watch is there, so far as one knows."""
        return self._task is not None and not self._task.done()

    def forget(self) -> None:
        """Forget that it rang; to be called before each look, so that what rings during it is not lost."""
        self._rung.clear()

    async def listen(self, revision: int) -> None:
        """Have a watch for what has changed since a look, at the member that has answered last.

        One that is there stays, unless that is at another member: there it may hang, and nobody would know.

        Args:
            revision: etcd's revision at the look.
        """
        self._seen = revision
        if self.listening and self._endpoint == self._gateway.endpoint:
            return
        await self.hang_up()
        self._endpoint = self._gateway.endpoint
        self._task = asyncio.create_task(self._watch(self._endpoint, revision + 1), name="hotfd-config-watch")

    async def wait(self, limit: float) -> bool:
        """Wait until it rings, at most ``limit`` seconds; return whether it did."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._rung.wait()
        return self._rung.is_set()

    def ring(self) -> None:
        """Ring for another reason."""
        self._rung.set()

    async def hang_up(self) -> None:
        """End the watch. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self, endpoint: str, revision: int) -> None:
        started = asyncio.get_running_loop().time()
        try:
            async with aclosing(self._gateway.watch(endpoint, self._prefix, end_of(self._prefix), revision)) as results:
                async for result in results:
                    self._hear(result)
                    if result.canceled:
                        detail = result.cancel_reason or f"compacted up to revision {result.compact_revision}"
                        log.event(logging.DEBUG, "config-watch-ended", endpoint=endpoint, detail=detail)
                        break
        except ConfigError as error:
            log.event(logging.DEBUG, "config-watch-ended", endpoint=endpoint, detail=error)
        # Its end may be the end of a member: somebody should look, which finds another one.
        await _pause(started + PAUSE - asyncio.get_running_loop().time())
        self._rung.set()

    def _hear(self, result: WatchResult) -> None:
        for change in result.events:
            if change.kv.key in self._keys and change.kv.mod_revision > self._seen:
                self._rung.set()


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)
