r"""From what is typed to whole lines, without I/O.

Ends of line are those of the network virtual terminal (``\r\n`` and ``\r\0``, RFC 854) and of everything else that
people connect with (``\n``, ``\r``). A client that sends each key by itself gets its mistakes corrected here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hotfd.console.telnet import Signal, TooMuch

MAX_LINE: Final = 1024
"""Longest line in bytes: a command with a dozen long paths fits."""

MAX_KEYS: Final = 4 * MAX_LINE
"""Bytes between two ends of line, those included that are erased or mean nothing: the longest line, typed with as many
mistakes. Beyond it nobody types, and each byte costs the server time."""

CONTROL_C, CONTROL_D, BACKSPACE, NEWLINE, RETURN, CONTROL_U, DELETE = 3, 4, 8, 10, 13, 21, 127

_KEYS: Final = {
    CONTROL_C: Signal.INTERRUPT,
    BACKSPACE: Signal.ERASE_CHARACTER,
    DELETE: Signal.ERASE_CHARACTER,
    CONTROL_U: Signal.ERASE_LINE,
}


class Editor:
    """Makes lines of data and signals."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._keys = 0
        self._after_return = False

    def feed(self, event: bytes | Signal) -> Iterator[str | Signal]:
        """Take what :class:`hotfd.console.telnet.Telnet` yields.

        Yields:
            lines without their end and without control characters, and ``INTERRUPT`` and ``END``.

        Raises:
            TooMuch: a line is longer than :data:`MAX_LINE` bytes, or took more than :data:`MAX_KEYS` to type.
        """
        if isinstance(event, Signal):
            yield from self._signal(event)
            return
        for byte in event:
            if byte in (RETURN, NEWLINE):
                if byte == NEWLINE and self._after_return:
                    self._after_return = False
                    continue
                self._after_return = byte == RETURN
                yield self._take()
                continue
            self._after_return = False
            self._keys += 1
            if self._keys > MAX_KEYS:
                raise TooMuch(f"more than {MAX_KEYS} keys in one line")
            if byte >= 32 and byte != DELETE:
                if len(self._line) >= MAX_LINE:
                    raise TooMuch(f"a line of more than {MAX_LINE} bytes")
                self._line.append(byte)
            elif byte == CONTROL_D and not self._line:
                yield Signal.END
            elif byte in _KEYS:
                yield from self._signal(_KEYS[byte])

    def _signal(self, signal: Signal) -> Iterator[Signal]:
        match signal:
            case Signal.ERASE_CHARACTER:
                while self._line and self._line.pop() & 0xC0 == 0x80:
                    pass  # the bytes of one character of UTF-8 (RFC 3629), up to its first
            case Signal.ERASE_LINE:
                self._line.clear()
            case _:
                self._line.clear()
                yield signal

    def _take(self) -> str:
        text = self._line.decode(errors="replace")
        self._line.clear()
        self._keys = 0
        return "".join(char for char in text if char.isprintable())
