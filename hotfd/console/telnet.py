"""The Telnet protocol, without I/O: bytes in, data and signals out, and the replies that are due (RFC 854, RFC 855).

Options are negotiated by the Q method (RFC 1143), which cannot loop: a request is answered only when it changes
something, and what was asked for is remembered until it is answered. The console needs one option, ECHO (RFC 857),
which it asks for while a token is typed, so that the client shows nothing. It agrees to SUPPRESS-GO-AHEAD (RFC 858),
since it never sends a go-ahead anyway, and to nothing else; LINEMODE (RFC 1184) and all others are refused.
::

              our side of one option, RFC 1143 section 7
                      peer: DO      peer: DONT   we want it    we do not
    NO                WILL or WONT  -            WILL          -
    YES               -             WONT         -             WONT
    WANT_NO           -> NO         -> NO        opposite      -
    WANT_NO_OPPOSITE  -> YES        WILL         -             -> WANT_NO
    WANT_YES          -> YES        -> NO        -             opposite
    WANT_YES_OPPOSITE WONT          -> NO        -> WANT_YES   -
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

SE, BREAK, INTERRUPT_PROCESS, ABORT = 240, 243, 244, 238
END_OF_FILE, ARE_YOU_THERE, ERASE_CHARACTER, ERASE_LINE = 236, 246, 247, 248
SB, WILL, WONT, DO, DONT, IAC = 250, 251, 252, 253, 254, 255

ECHO: Final = 1
SUPPRESS_GO_AHEAD: Final = 3

MAX_COMMANDS: Final = 4096
"""Bytes of Telnet commands between two ends of line: a client that negotiates everything there is, with terminal
types and environment, needs some hundred. Beyond it somebody only keeps the server busy."""


class TooMuch(ValueError):  # noqa: N818 - reads as the condition
    """The peer sends more than anybody types; the text says what."""


class Signal(Enum):
    """What a person tells besides text."""

    INTERRUPT = auto()
    ERASE_CHARACTER = auto()
    ERASE_LINE = auto()
    END = auto()


class Side(Enum):
    """Whether an option is on, on our side; see the table above."""

    NO = auto()
    YES = auto()
    WANT_NO = auto()
    WANT_NO_OPPOSITE = auto()
    WANT_YES = auto()
    WANT_YES_OPPOSITE = auto()


_ON_DO: Final = {
    Side.YES: (Side.YES, None),
    Side.WANT_NO: (Side.NO, None),  # an error of the peer's: it answers WONT by DO
    Side.WANT_NO_OPPOSITE: (Side.YES, None),
    Side.WANT_YES: (Side.YES, None),
    Side.WANT_YES_OPPOSITE: (Side.WANT_NO, WONT),
}
"""What DO does, but where it is a request, which is agreed to or not."""

_ON_DONT: Final = {
    Side.NO: (Side.NO, None),
    Side.YES: (Side.NO, WONT),
    Side.WANT_NO: (Side.NO, None),
    Side.WANT_NO_OPPOSITE: (Side.WANT_YES, WILL),
    Side.WANT_YES: (Side.NO, None),
    Side.WANT_YES_OPPOSITE: (Side.NO, None),
}

_WANTED: Final = {
    Side.NO: (Side.WANT_YES, WILL),
    Side.YES: (Side.YES, None),
    Side.WANT_NO: (Side.WANT_NO_OPPOSITE, None),
    Side.WANT_NO_OPPOSITE: (Side.WANT_NO_OPPOSITE, None),
    Side.WANT_YES: (Side.WANT_YES, None),
    Side.WANT_YES_OPPOSITE: (Side.WANT_YES, None),
}

_UNWANTED: Final = {
    Side.NO: (Side.NO, None),
    Side.YES: (Side.WANT_NO, WONT),
    Side.WANT_NO: (Side.WANT_NO, None),
    Side.WANT_NO_OPPOSITE: (Side.WANT_NO, None),
    Side.WANT_YES: (Side.WANT_YES_OPPOSITE, None),
    Side.WANT_YES_OPPOSITE: (Side.WANT_YES_OPPOSITE, None),
}

_SIGNALS: Final = {
    BREAK: Signal.INTERRUPT,
    INTERRUPT_PROCESS: Signal.INTERRUPT,
    ABORT: Signal.INTERRUPT,
    END_OF_FILE: Signal.END,
    ERASE_CHARACTER: Signal.ERASE_CHARACTER,
    ERASE_LINE: Signal.ERASE_LINE,
}
"""Commands of RFC 854 and RFC 1184 that tell something; the others (no-operation, data mark, ...) do not."""


class _Reading(Enum):
    DATA = auto()
    COMMAND = auto()  # after IAC
    OPTION = auto()  # after IAC WILL, WONT, DO or DONT
    SUB = auto()  # after IAC SB, up to IAC SE
    SUB_COMMAND = auto()  # after IAC within that


class Telnet:
    """One Telnet connection, as the server."""

    def __init__(self) -> None:
        self._reading = _Reading.DATA
        self._verb = 0
        self._ours: dict[int, Side] = {}
        self._replies = bytearray()
        self._commands = 0

    def receive(self, data: bytes) -> Iterator[bytes | Signal]:
        """Take what was received; yield the data and the signals in it, in order.

        The rest of ``data`` is lost when the iterator is not exhausted.

        Raises:
            TooMuch: commands without end; the connection is to be closed.
        """
        at = 0
        while at < len(data):
            if self._reading is _Reading.DATA:
                end = data.find(IAC, at)
                end = len(data) if end < 0 else end
                if end > at:
                    yield data[at:end]
                if end < len(data):
                    self._reading = _Reading.COMMAND
                    self._commands += 1
                at = end + 1
                continue
            byte = data[at]
            at += 1
            self._commands += 1
            if self._commands > MAX_COMMANDS:
                raise TooMuch(f"more than {MAX_COMMANDS} bytes of Telnet commands in one line")
            found = self._command(byte)
            if found is not None:
                yield found

    def line_ended(self) -> None:
        """A line has come to its end: commands are counted anew."""
        self._commands = 0

    def hide_input(self, hidden: bool) -> None:
        """Ask the client to show nothing of what is typed: the server claims to echo, and does not."""
        self._apply(ECHO, (_WANTED if hidden else _UNWANTED)[self._ours.get(ECHO, Side.NO)])

    def take_replies(self) -> bytes:
        """Return what is to be sent to the peer now."""
        replies = bytes(self._replies)
        self._replies.clear()
        return replies

    def _command(self, byte: int) -> bytes | Signal | None:
        """Take one byte that is not data; return what it means, if it means anything outside of Telnet."""
        match self._reading:
            case _Reading.COMMAND:
                self._reading = _Reading.DATA
                if byte == IAC:
                    return b"\xff"
                if byte in (WILL, WONT, DO, DONT):
                    self._verb = byte
                    self._reading = _Reading.OPTION
                elif byte == SB:
                    self._reading = _Reading.SUB
                elif byte == ARE_YOU_THERE:
                    self._replies += b"\r\n[yes]\r\n"
                return _SIGNALS.get(byte)
            case _Reading.OPTION:
                self._reading = _Reading.DATA
                self._negotiate(self._verb, byte)
            case _Reading.SUB:
                if byte == IAC:
                    self._reading = _Reading.SUB_COMMAND
            case _:
                # IAC IAC is a byte of it. Anything else but SE is an error; what follows may still be its end.
                self._reading = _Reading.DATA if byte == SE else _Reading.SUB
        return None

    def _negotiate(self, verb: int, option: int) -> None:
        """Answer one request or answer of the peer's."""
        if verb == WILL:
            self._replies += bytes((IAC, DONT, option))  # no option is ever on at its side
        elif verb in (DO, DONT):
            side = self._ours.get(option, Side.NO)
            if verb == DO and side is Side.NO:
                agreed = option == SUPPRESS_GO_AHEAD
                self._apply(option, (Side.YES, WILL) if agreed else (Side.NO, WONT))
            else:
                self._apply(option, (_ON_DO if verb == DO else _ON_DONT)[side])

    def _apply(self, option: int, step: tuple[Side, int | None]) -> None:
        side, verb = step
        if side is Side.NO:
            self._ours.pop(option, None)
        else:
            self._ours[option] = side
        if verb is not None:
            self._replies += bytes((IAC, verb, option))


def encode(text: str) -> bytes:
    r"""Return text as it is sent: UTF-8, which has no byte 255, with ``\r\n`` as the end of line (RFC 854)."""
    return text.replace("\n", "\r\n").encode(errors="replace")
