"""The events of one server: told once, heard by everybody who watches.

Whoever has asked for a handoff, all watchers see it. An event is a plain dictionary; the hub adds ``time`` (seconds
since the epoch) and keeps nothing: a watcher brings its own bounded place for what it has not read yet, and a slow
one delays nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd import log
from hotfd.app.request import only

if TYPE_CHECKING:
    from hotfd.report import Report

Emit = Callable[[dict[str, Any]], None]

COUNT_INTERVAL: Final = 1.0
"""Seconds between two looks at the counts: as often as a person can read them."""


class Hub:
    """Where the events of a server come together.

    Args:
        counts: returns what a watcher is told now and then, when it has changed.
    """

    def __init__(self, counts: Callable[[], dict[str, Any]]) -> None:
        self._counts = counts
        self._watchers: set[Emit] = set()
        self._over: asyncio.Future[None] | None = None
        self._result: dict[str, Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen: dict[str, Any] = {}

    def publish(self, event: dict[str, Any]) -> None:
        """Tell all watchers."""
        if self._watchers:
            stamped = {**event, "time": time.time()}
            for emit in list(self._watchers):
                emit(stamped)

    def also(self, emit: Emit) -> Emit:
        """Return what tells ``emit``, who has asked for something, and all watchers."""

        def both(event: dict[str, Any]) -> None:
            emit(event)
            self.publish(event)

        return both

    def outcome(self, report: Report) -> None:
        """Tell how a handoff ended, and what is served after it."""
        self.publish({"event": "outcome", "report": msgspec.to_builtins(report)})
        self.look()

    async def watch(self, request: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Carry the instruction ``watch`` out: tell everything until this server is replaced or ends.

        Returns:
            ``{"successor": pid}``: who serves from now on; None when nobody does.
        """
        only(request)
        if self._result is None:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            with self._watching(emit):
                await asyncio.shield(self._over)
        assert self._result is not None
        return self._result

    @contextmanager
    def _watching(self, emit: Emit) -> Iterator[None]:
        counts = self._counts()
        emit({"event": "watching", **counts, "time": time.time()})
        if not self._watchers:
            self._seen = counts
            self._arm()
        self._watchers.add(emit)
        try:
            yield
        finally:
            self._watchers.discard(emit)
            if not self._watchers and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(COUNT_INTERVAL, self._look)

    def _look(self) -> None:
        self._arm()
        self.look()

    def look(self) -> None:
        """Tell the counts if they have changed."""
        if not self._watchers:
            return
        try:
            counts = self._counts()
        except Exception as error:  # noqa: BLE001 - who only watches must not end what is watched
            log.event(logging.ERROR, "counts-failed", exc_info=error)
            return
        if counts != self._seen:
            self._seen = counts
            self.publish({"event": "counts", **counts})

    def close(self, successor: int | None) -> None:
        """End all watches: ``successor`` serves from now on, or nobody does. The first call counts."""
        if self._result is None:
            self._result = {"successor": successor}
            if self._over is not None:
                self._over.set_result(None)
