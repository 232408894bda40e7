"""What the kernel's memory holds: its caches of objects, and what of their growth came with connections."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

SLABS: Final = "/proc/slabinfo"
"""Source: slabinfo(5). Root alone reads it."""

SHARE: Final = 0.9
"""Objects per connection from which on the growth of a cache is taken for the connections'. Other programs make
objects meanwhile; in a cache with fewer, theirs would be counted."""

HEADER_LINES: Final = 2


def slabs() -> dict[str, tuple[int, int]] | None:
    """Return for each cache of the kernel how many objects are in use, and the bytes of one; None without the right."""
    with suppress(OSError), open(SLABS, encoding="ascii") as file:
        found = (line.split() for line in file.read().splitlines()[HEADER_LINES:])
        return {words[0]: (int(words[1]), int(words[3])) for words in found}
    return None


def growth(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], ends: int) -> dict[str, float]:
    """Return what each cache has grown by, in bytes per end of a connection, where it has grown with the connections.

    Args:
        before: :func:`slabs` without the connections.
        after: the same with them.
        ends: how many sockets that are; of a connection to this machine itself both.
    """
    return {
        name: (objects - before.get(name, (0, 0))[0]) * size / ends
        for name, (objects, size) in after.items()
        if objects - before.get(name, (0, 0))[0] >= SHARE * ends
    }
