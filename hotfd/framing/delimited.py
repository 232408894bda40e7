"""Frames that end with a delimiter, and frames that all have one size."""

from __future__ import annotations

from hotfd import _core
from hotfd.framing.base import DEFAULT_MAX_SIZE, NativeFraming


class Lines(NativeFraming):
    r"""Lines of text: ``\n`` and ``\r\n`` end a line, and neither is delivered.

    Args:
        max_size: bytes of a line without its end.
        newline: what :meth:`encode` ends a line with, ``b"\n"`` or ``b"\r\n"``.

    Raises:
        ValueError: another ``newline``, or a ``max_size`` out of range.
    """

    name = "lines"

    def __init__(self, *, max_size: int = DEFAULT_MAX_SIZE, newline: bytes = b"\n") -> None:
        if newline not in (b"\n", b"\r\n"):
            raise ValueError(f"newline must be LF or CR LF, not {newline!r}")
        super().__init__(_core.FramingSpec(_core.KIND_DELIMITED, max_size, flags=_core.FLAG_STRIP_CR, delimiter=b"\n"))
        self.newline = newline

    def spec(self) -> str:
        """Return the canonical text; how lines are written does not decide how they are read."""
        return "lines(delimiter=0a,strip_cr=1)"

    def encode(self, payload: bytes) -> bytes:
        r"""Return ``payload`` as a line.

        Raises:
            ValueError: there is a ``\n`` in it, it ends with a ``\r`` that the reader would drop, or it is
                larger than ``max_size``.
        """
        if len(payload) > self.max_size:
            self._check_size(payload)
        if b"\n" in payload:
            raise ValueError("a line cannot contain a newline")
        if payload.endswith(b"\r") and self.newline == b"\n":
            raise ValueError("a line cannot end with a carriage return")
        return payload + self.newline


class Delimited(NativeFraming):
    """Frames that end with a delimiter, which is not delivered.

    Args:
        delimiter: 1 to 16 bytes.
        max_size: bytes of a frame without its delimiter.

    Raises:
        ValueError: an empty or too long delimiter, or a ``max_size`` out of range.
    """

    name = "delimited"

    def __init__(self, delimiter: bytes, *, max_size: int = DEFAULT_MAX_SIZE) -> None:
        super().__init__(_core.FramingSpec(_core.KIND_DELIMITED, max_size, delimiter=delimiter))
        self.delimiter = delimiter

    def spec(self) -> str:
        """Return the canonical text, with the delimiter in hexadecimal."""
        return f"delimited(delimiter={self.delimiter.hex()})"

    def encode(self, payload: bytes) -> bytes:
        """Return ``payload`` with the delimiter behind it.

        Raises:
            ValueError: the reader would find the delimiter earlier, within the payload or across its end, or
                it is larger than ``max_size``.
        """
        self._check_size(payload)
        frame = payload + self.delimiter
        if frame.find(self.delimiter) != len(payload):
            raise ValueError("the delimiter occurs before the end of the frame")
        return frame


class Fixed(NativeFraming):
    """Frames of one size.

    Args:
        size: bytes of each frame; this is its ``max_size`` too.

    Raises:
        ValueError: ``size`` is not positive.
    """

    name = "fixed"

    def __init__(self, size: int) -> None:
        super().__init__(_core.FramingSpec(_core.KIND_FIXED, size, size=size))
        self.size = size

    def spec(self) -> str:
        """Return the canonical text."""
        return f"fixed(size={self.size})"

    def encode(self, payload: bytes) -> bytes:
        """Return ``payload`` as it is.

        Raises:
            ValueError: it has another size.
        """
        if len(payload) != self.size:
            raise ValueError(f"each frame has {self.size} bytes, this payload {len(payload)}")
        return payload
