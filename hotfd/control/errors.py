"""The branch of :class:`hotfd.errors.ControlError` that tells a client what to do next.

::

    ControlError
     +-- Unreachable      no request was made: nothing has changed
     +-- RequestFailed    the server answered, and the answer is no
     +-- ServerGone       the connection broke after a request: the outcome is unknown here
"""

from __future__ import annotations

from hotfd.errors import ControlError


class Unreachable(ControlError):  # noqa: N818 - reads as the condition
    """No request could be made of a server; nothing has changed.

    Args:
        code: ``no-such-process``, ``not-permitted``, ``not-a-server``, ``unsafe-directory``,
            ``impostor`` (somebody else answers at its socket), ``unresponsive``, ``incompatible`` or
            ``too-many-clients``.
        detail: one line that says what was found and what to do.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class RequestFailed(ControlError):  # noqa: N818 - reads as the condition
    """The server answered a request with an error.

    Args:
        code: the reason code, e.g. ``handoff-in-progress``.
        message: one line that says what happened and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ServerGone(ControlError):  # noqa: N818 - reads as the condition
    """The connection ended, or fell silent, between a request and its answer.

    Args:
        detail: one line that says what was seen.
        ended: True when the stream ended (the process died, or closed its endpoint); False when it is
            open and nothing came in time.
    """

    def __init__(self, detail: str, *, ended: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.ended = ended
