"""Pauses of Python's cyclic garbage collector while sessions move, and its work afterwards.

A full collection looks at every object of the process: with fifteen thousand connections that is some
seventy milliseconds, in the middle of a cut-over, for everybody who is fenced at that moment. So the
collector rests while sessions move, on both sides, and for a bounded time.

What was made meanwhile is all *young* when the collector goes on: its first, otherwise short, collection would look at
each of fifteen thousand connections, and the next one again. They have come to stay, and are filed with what is old.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

LIMIT: Final = 5.0
"""Seconds after which it works again, though sessions still move: laggards may take long, and memory counts."""

COLLECT_AFTER: Final = 1.0
"""Seconds between a handoff and the collection of what it leaves behind: who came back is served first."""

FROZEN_BY_PYTHON: Final = 1000
"""Objects: fewer are frozen by nobody but the interpreter itself, 375 in Python 3.12. A program that freezes what it has
imported freezes ten thousands."""


def collect_later() -> None:
    """Have collected what a handoff leaves behind in a process that serves on.

    Sessions that were given away are cycles, with all that is in their states. Python collects them when many new
    objects were made, which is never in a quiet server. Does nothing where the program has switched the collector off,
    and leaves it to the next handoff where that has begun meanwhile.
    """
    if gc.isenabled():
        asyncio.get_running_loop().call_later(COLLECT_AFTER, _collect)


def _collect() -> None:
    if gc.isenabled():
        gc.collect()


class CollectorPause:
    """A pause of the collector. Does nothing where the program has switched it off itself."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Let the collector rest, for ``LIMIT`` seconds at most. Idempotent."""
        if self._timer is None and gc.isenabled():
            gc.disable()
            self._timer = asyncio.get_running_loop().call_later(LIMIT, self.end)

    def end(self) -> None:
        """Let it work again. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            file_as_old()
            gc.enable()


def file_as_old() -> None:
    """Put all objects into the oldest generation without looking at any: to freeze and to thaw joins lists, no more.

    Does nothing in a program that has frozen objects itself, which would be thawed by this. See gc.freeze in Python's
    documentation of the module.
    """
    if gc.get_freeze_count() < FROZEN_BY_PYTHON:
        gc.freeze()
        gc.unfreeze()
