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
    ConnectionError
     +-- ConnectionClosed        the connection is over; nothing more can be written
"""

from __future__ import annotations


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


class ConnectionClosed(ConnectionError):  # noqa: N818 - reads as the condition
    """The connection is over: closed by the handler, or lost. Nothing more can be written to it."""
