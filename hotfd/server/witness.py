"""The second witness: whether anybody has read from or written to a connection since it was given away.

The touch byte is the new process's own word. For TCP the kernel has one too: how many bytes have been consumed
from a connection and written to it, ever (:class:`hotfd._core.TcpFacts`). The old process notes both when it has
fenced a session, and looks again before it takes the session back. What the peer sends or acknowledges,
retransmissions, probes and keepalives change neither.

The counters know nothing of timers, of bytes that travelled in user space, or of an end of file that was read;
and a Unix socket has none. There, the touch byte stands alone. Doubt counts as touched.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from hotfd import _core

if TYPE_CHECKING:
    from hotfd.transfer.offer import Bundle

NO_COUNTERS: Final = frozenset({errno.EOPNOTSUPP, errno.EPROTONOSUPPORT})
"""What the kernel says of a socket that is not TCP, and of itself before Linux 4.2."""

_Count = tuple[int, int] | None
"""Bytes consumed and written; None where the kernel keeps no count."""


class Witness:
    """What the kernel had counted of each connection, by its cookie, when it was given away."""

    def __init__(self) -> None:
        self._noted: dict[int, _Count] = {}
        self._given: set[int] = set()

    def note(self, *bundles: Bundle) -> None:
        """Note the counts of fenced sessions' connections; an earlier note of the same ones is replaced."""
        cookies = [record.cookie for bundle in bundles for record in bundle.connections]
        descriptors = [fd for bundle in bundles for fd in bundle.descriptors]
        self._given.update(cookies)
        codes, counts = _core.tcp_counts(descriptors)
        self._noted.update(zip(cookies, counts, strict=True))
        if any(codes):
            for cookie, code in zip(cookies, codes, strict=True):
                if code in NO_COUNTERS:
                    self._noted[cookie] = None
                elif code:
                    del self._noted[cookie]  # what is not noted is in doubt

    def given(self, cookie: int) -> bool:
        """Whether a connection was ever given away, whether or not it was counted, or has come back since."""
        return cookie in self._given

    def acted(self, bundle: Bundle) -> bool:
        """Whether anybody has, or may have, read from or written to a connection of a session since it was noted."""
        return any(
            self._differs(record.cookie, fd) for record, fd in zip(bundle.connections, bundle.descriptors, strict=True)
        )

    def _differs(self, cookie: int, fd: int) -> bool:
        if cookie not in self._noted:
            return True
        try:
            return _count(fd) != self._noted[cookie]
        except OSError:
            return True


def used(fd: int) -> bool:
    """Whether anybody has, or may have, read from or written to an accepted connection, ever."""
    try:
        return _count(fd) not in {None, (0, 0)}
    except OSError:
        return True


def _count(fd: int) -> _Count:
    """Read the counts.

    Raises:
        OSError: they cannot be read now, or prove nothing: packets come too fast, or the connection is over.
    """
    (code,), (count,) = _core.tcp_counts([fd])
    if code in NO_COUNTERS:
        return None
    if code:
        raise OSError(code, os.strerror(code))
    return count
