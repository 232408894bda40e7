"""Waiting until a file of a directory is replaced: inotify(7), and an interval as the safety net.

The *directory* is watched: a watched file is another one after the first replacement. inotify says nothing where
another host changes a network file system, nothing when a directory further up is moved, and cannot be had at all when
the user has used up his instances (128 on most systems). For all of these somebody looks at intervals.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Final

from hotfd import _core, log

_Place = tuple[int, int]
"""A directory's device and inode."""

_NONE: Final = -1


class Bell:
    """Rings when a file of a directory was replaced.

    It owns the descriptor of its watch from :meth:`arm` to :meth:`close`.

    Args:
        path: the directory, for the log.
        name: the file's name in it.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._rung = asyncio.Event()
        self._place: _Place | None = None
        self._polled = _NONE
        self._said = False
        self._lock = threading.Lock()  # for the two below: arm runs in a thread, and outlives who has given it up
        self._made = _NONE
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def arm(self, directory: int) -> None:
        """Watch a directory, unless it is the one that is watched already. Blocking: for a thread.

        What changes afterwards rings. Where it cannot be watched this is logged once.

        Args:
            directory: a descriptor of it, which stays the caller's.
        """
        found = os.fstat(directory)
        place = (found.st_dev, found.st_ino)
        if place == self._place:
            return
        try:
            watch = _core.watch_directory(directory)
        except OSError as error:
            if not self._said:
                self._said = True
                log.event(logging.WARNING, "config-watch-unavailable", path=self._path, detail=error.strerror)
            return
        with self._lock:
            spare = watch if self._closed else self._made
            if not self._closed:
                self._made, self._place = watch, place
        if spare != _NONE:
            os.close(spare)

    async def wait(self, seconds: float) -> None:
        """Return when it rings, or rang since the last wait, or when the time is over; at once when it is closed."""
        self._poll_made()
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            pass
        self._rung.clear()

    def close(self) -> None:
        """Let go of the watch, and wake who waits. May be called twice."""
        with self._lock:
            self._closed = True
            made, self._made = self._made, _NONE
        if made != _NONE:
            os.close(made)
        self._unpoll()
        self._rung.set()

    def _poll_made(self) -> None:
        """Poll what the last :meth:`arm` has made, if anything; what happened meanwhile is in it."""
        with self._lock:
            made, self._made = self._made, _NONE
        if made != _NONE:
            self._unpoll()
            self._polled = made
            asyncio.get_running_loop().add_reader(made, self._on_readable)

    def _unpoll(self) -> None:
        if self._polled != _NONE:
            asyncio.get_running_loop().remove_reader(self._polled)
            os.close(self._polled)
            self._polled = _NONE

    def _on_readable(self) -> None:
        news = _core.watch_news(self._polled, self._name)
        if news.over:
            self._unpoll()
            self._place = None
        if news.new or news.over:
            self._rung.set()
