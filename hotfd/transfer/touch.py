"""The touch map: one byte per session in memory that both processes share.

The new process sets a session's byte *before* it reads from one of its connections or lets its handler
act. When the new process has died, the old one reads there which sessions are as they were at the
cut-over, and serves those again. A byte that was set is never cleared; a slot outside of the map counts as
touched, since doubt does.

A touched session can say more: that it stands *at rest*, every byte that was read handled and every byte of the
answers with the kernel. The new process takes that back before it acts again. Then the byte stream is whole, though
the state is another.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from hotfd import _core
from hotfd.faults import Point, reach

TOUCH_SIZE: Final = 1 << 21
"""Bytes of a map: a million sessions that moved and a million that came. Pages appear when written."""

NEWCOMERS: Final = TOUCH_SIZE // 2
"""The first slot for connections that the new process accepts itself; below are the offered sessions."""


TOUCHED: Final = 1
AT_REST: Final = 2


class TouchMap:
    """A mapping of the shared memory. Either process has its own; both see the same bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._size = size

    @classmethod
    def create(cls) -> tuple[TouchMap, int]:
        """Make a map of untouched slots.

        Returns:
            the map, and the memfd behind it, which the caller closes.
        """
        fd = _core.memfd_shared("hotfd-touch", TOUCH_SIZE)
        try:
            return cls(fd, TOUCH_SIZE), fd
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, fd: int) -> TouchMap:
        """Map the memory behind a received memfd, which the caller closes.

        Raises:
            ValueError: it is no touch map: not a memfd whose size is sealed, or larger than one.
            OSError: it cannot be mapped.
        """
        return cls(fd, _core.memfd_shared_size(fd, TOUCH_SIZE))

    def mark(self, slot: int) -> None:
        """Say that the slot's session is touched."""
        reach(Point.NEW_TOUCH)
        if slot < self._size:
            self._map[slot] = TOUCHED
        reach(Point.NEW_TOUCHED)

    def rest(self, slot: int) -> None:
        """Say that the slot's session, which is touched, stands at rest."""
        if slot < self._size:
            self._map[slot] = AT_REST

    def at_rest(self, slot: int) -> bool:
        """Return whether the slot's session is touched and stands at rest."""
        return slot < self._size and self._map[slot] == AT_REST

    def touched(self, slot: int) -> bool:
        """Return whether the slot's session is, or may be, touched."""
        return slot >= self._size or self._map[slot] != 0

    def close(self) -> None:
        """Unmap; what is still marked says nothing then. Idempotent."""
        self._size = 0
        self._map.close()


class Mark:
    """Says, when it is called, that one slot's session is touched.

    Every connection has one until the handoff is settled, so it is as small as can be.

    Args:
        touch: the map.
        slot: the session's place in it.
    """

    __slots__ = ("_slot", "_touch")

    def __init__(self, touch: TouchMap, slot: int) -> None:
        self._touch = touch
        self._slot = slot

    def __call__(self) -> None:
        """See :meth:`TouchMap.mark`."""
        self._touch.mark(self._slot)
