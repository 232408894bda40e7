"""The tree of errors that hotfd raises.

Every error says what happened and what to do. Two of them are not mistakes but events that unwind a
handler: :class:`HandedOff` (the connection serves on in another process) derives from
``BaseException``, as :class:`asyncio.CancelledError` does, so that ``except Exception`` in a handler
does not swallow it.

::

    BaseException
     +-- HandedOff               the handler's connection moved; unwind
    Exception
     +-- HotfdError
          +-- ConnectionMoved    somebody else's connection moved; nothing was sent
          +-- FramingError       the peer sent what is no frame
          |    +-- FrameTooLarge
          +-- StateError         a state cannot travel, or cannot be read
          |    +-- StateTooNew   it holds what the older version that is to read it does not know
          +-- ChannelError       the other process broke the handoff protocol
          +-- HandoffRefused     a handoff did not happen, and why
          +-- ControlError       a control endpoint could not be reached or answered badly
          +-- ConfigError        a configuration cannot be had, published or read
               +-- ReleaseRefused  what was published is not what the code declares; says every fault
               +-- PushRefused     a configuration server and its subscriber cannot deal with each other
               +-- StoreError      the store of releases could not be read or written
                    +-- Conflict   somebody else has changed the module meanwhile
    ConnectionError
     +-- ConnectionClosed        the connection is over; nothing more can be written
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class HandedOff(BaseException):
    """The connection is handed over; its handler unwinds and starts again in the new process."""


class HotfdError(Exception):
    """Base of the errors that are hotfd's own."""


class ConnectionMoved(HotfdError):  # noqa: N818 - the field's word for it
    """A task that does not belong to a connection wrote to it after it moved; nothing was sent."""


class SessionElsewhere(HotfdError):  # noqa: N818 - reads as the condition
    """A connection would have to move to a newer process to join a session, and cannot.

    Args:
        reason: why it cannot: as the handler has said it with ``movable``, or what of its state cannot travel; None
            when that process has gone.
    """

    def __init__(self, reason: str | None) -> None:
        super().__init__(
            "the process that has replaced this one, and serves shared sessions, is gone; close the connection, "
            "so that its client comes again"
            if reason is None
            else f"a newer process serves shared sessions now, and this connection cannot move there ({reason}); "
            "set movable to True before join, and keep in its state what can travel"
        )
        self.reason = reason


class FramingError(HotfdError):
    """The peer sent bytes that are no frame of this protocol; the connection ends."""


class FrameTooLarge(FramingError):  # noqa: N818 - reads as the condition
    """A frame is larger than the framing's ``max_size``.

    Args:
        limit: the framing's ``max_size`` in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"a frame exceeds max_size of {limit} bytes; raise max_size if it is legitimate")
        self.limit = limit


class StateError(HotfdError):
    """A state cannot be written exactly, or what was written cannot be read.

    Args:
        path: where in the state, e.g. ``Visitor.names[3]``.
        problem: what is wrong there, without the value (values never appear in logs).
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class StateTooNew(StateError):  # noqa: N818 - reads as the condition
    """A state that is to be written for an older version holds something which that version does not know."""


class ChannelError(HotfdError):
    """The process at the other end of the handoff channel broke the protocol."""


class HandoffRefused(HotfdError):  # noqa: N818 - reads as the outcome
    """A handoff did not happen or was rolled back; the old process serves.

    Args:
        code: the reason code, e.g. ``descriptor-limit``.
        detail: one line that says what happened and what to do.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class ControlError(HotfdError):
    """A control endpoint could not be found, reached, or did not answer as one."""


class Fault(NamedTuple):
    """One fault of a release: where, what stands there, and what would be right.

    Attributes:
        path: where in the values, e.g. ``damage.sword`` or ``rooms[3].size``; empty for the whole.
        value: what stands there, written as JSON and cut to a length that fits a line.
        expected: what would be right, for people.
    """

    path: str
    value: str
    expected: str

    def __str__(self) -> str:
        where = self.path or "the whole"
        return f"{where} is {self.value}; expected {self.expected}" if self.value else f"{where}: {self.expected}"


class ConfigError(HotfdError):
    """A configuration cannot be had, published or read; the message says what to do."""


class ReleaseRefused(ConfigError):  # noqa: N818 - reads as the outcome
    """A release is not what the code declares; nothing has changed.

    Args:
        module: the module.
        faults: every fault that was found.
    """

    SHOWN: Final = 20
    """Faults in the message; the others are counted."""

    def __init__(self, module: str, faults: Iterable[Fault]) -> None:
        self.module = module
        self.faults = list(faults)
        lines = [str(fault) for fault in self.faults[: self.SHOWN]]
        if len(self.faults) > self.SHOWN:
            lines.append(f"and {len(self.faults) - self.SHOWN} more")
        super().__init__(f"module {module!r}: " + "; ".join(lines))


class PushRefused(ConfigError):  # noqa: N818 - reads as the outcome
    """A configuration server and a subscriber of it cannot deal with each other; their connection ends.

    Args:
        code: ``protocol``, ``malformed``, ``tls``, ``too-many``, ``unknown-module`` or ``not-ready``.
        detail: one line that says what happened and what to do.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class StoreError(ConfigError):
    """The store of releases could not be reached, read or written; nothing was published."""


class Conflict(StoreError):  # noqa: N818 - reads as the condition
    """Somebody else has changed the module meanwhile; look again, and decide anew."""


class ConnectionClosed(ConnectionError):  # noqa: N818 - reads as the condition
    """The connection is over: closed by the handler, or lost. Nothing more can be written to it."""
