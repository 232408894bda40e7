"""Where configuration servers serve which modules, for the subscribers that ask.

The store is asked beside them, once for all of them and at most once an interval; what it said last is told while it
does not answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from hotfd.config import push
from hotfd.server.tasks import detached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

WAIT: Final = 0.25
"""Seconds that a subscriber waits for an answer: its digests wait as long, and they must not be late."""

MAX_MODULES: Final = 1024
"""Modules of which it is known where they are served, and modules that are to be asked for."""


class Lookups:
    """Answers who serves which modules.

    Args:
        ask: asks the store where a module is served; None when it does not say. It is asked for one after the other.
        interval: seconds for which an answer counts.
    """

    def __init__(self, ask: Callable[[str], Awaitable[list[str] | None]], interval: float) -> None:
        self._ask = ask
        self._interval = interval
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}  # by module: when it was asked, and the answer
        self._due: dict[str, None] = {}
        self._asking: asyncio.Task[None] | None = None

    async def served(self, modules: Collection[str]) -> push.Addresses:
        """Return where these modules are served, as far as that is known in a moment."""
        if old := [module for module in modules if self._is_old(module)]:
            if len(self._due) < MAX_MODULES:
                self._due.update(dict.fromkeys(old))
            if self._asking is None or self._asking.done():
                self._asking = detached(self._ask_all(), "config-addresses")
            await asyncio.wait([self._asking], timeout=WAIT)
        known = {module: self._known[module][1] for module in modules if module in self._known}
        return push.Addresses({module: addresses for module, addresses in known.items() if addresses})

    def _is_old(self, module: str) -> bool:
        known = self._known.get(module)
        return known is None or time.monotonic() - known[0] >= self._interval

    async def _ask_all(self) -> None:
        while self._due:
            module = next(iter(self._due))
            try:
                if self._is_old(module):
                    self._note(module, await self._ask(module))
            finally:
                del self._due[module]

    def _note(self, module: str, found: list[str] | None) -> None:
        before = self._known.pop(module, (0.0, ()))[1]  # so that the order is that of the times
        if found is not None:
            before = tuple(address for address in found if push.ADDRESS.fullmatch(address))[: push.MAX_ADDRESSES]
        self._known[module] = time.monotonic(), before
        while len(self._known) > MAX_MODULES:
            del self._known[next(iter(self._known))]

    async def aclose(self) -> None:
        """Ask no more. Idempotent."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
