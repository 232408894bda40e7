"""What a framing is, and the scanner for framings that are written in Python."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final, Protocol

from hotfd import _core
from hotfd.errors import FrameTooLarge, FramingError

DEFAULT_MAX_SIZE = 1 << 20
"""Bytes: the ``max_size`` of a framing that names none. A peer can make a server hold this much for each
connection before it has sent a single frame."""

MAX_SPANS = _core.MAX_SPANS
"""Frames that one call of :meth:`Scanner.scan` returns; after as many the caller calls again."""

OVERHEAD = 1024
"""Bytes around a payload that a framing written in Python may need. It bounds what is kept of a frame that does
not end, since only ``find`` knows which of its bytes are payload."""


class Scanner(Protocol):
    """Finds the frames of one connection. A bookmark: a fresh one over the same bytes finds the same frames."""

    @property
    def need(self) -> int:
        """Bytes from the current frame's first one below which another call finds nothing; 0, it may find something now."""
        ...  # pragma: no cover - a protocol

    def scan(self, data: bytes | bytearray, start: int) -> list[int]:
        """Find the complete frames in ``data`` from ``start``, at most :data:`MAX_SPANS`.

        Args:
            data: what was received. While a frame is incomplete it only grows behind ``start``; the offset of
                ``start`` itself may change between calls.
            start: offset in ``data`` of the first byte of the current, unfinished frame.

        Returns:
            For each frame three offsets in ``data``: payload start, payload end, frame end. The next call
            starts at the last frame end.

        Raises:
            FrameTooLarge: the current frame is larger than ``max_size``.
            FramingError: the current bytes are no frame. Both come when all frames before the bad one have
                been returned, and from every later call.
        """
        ...  # pragma: no cover - a protocol


class Framing(ABC):
    """How a connection's bytes divide into frames; immutable, shared by all connections of a server.

    A framing of your own implements :meth:`find` and :meth:`encode`, and :meth:`spec` if it has parameters::

        class Tagged(Framing):
            name = "tagged"                 # one byte of tag, one byte of length, payload

            def find(self, data, start, seen):
                if len(data) < start + 2 or len(data) < start + 2 + data[start + 1]:
                    return None
                end = start + 2 + data[start + 1]
                return start + 2, end, end

            def encode(self, payload):
                return bytes([0, len(payload)]) + payload

    Args:
        max_size: bytes of payload; a larger frame ends the connection.

    Raises:
        ValueError: ``max_size`` is not positive, or beyond any address space.
    """

    name: ClassVar[str] = "custom"
    """Names the protocol in :meth:`spec`, logs and reports."""

    max_size: int = DEFAULT_MAX_SIZE

    def __init__(self, *, max_size: int = DEFAULT_MAX_SIZE) -> None:
        if not 0 < max_size <= _core.MAX_SIZE:
            raise ValueError(f"max_size must be 1 to {_core.MAX_SIZE} bytes, not {max_size}")
        self.max_size = max_size

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    def __repr__(self) -> str:
        return f"<{self.spec()} max_size={self.max_size}>"

    def spec(self) -> str:
        """Return a canonical text of all that decides where frames end, without ``max_size``.

        Two generations of a server whose texts are equal divide the same bytes in the same way.
        """
        return f"{self.name}()"

    def scanner(self) -> Scanner:
        """Return a scanner for one connection, at the beginning of a frame."""
        return PythonScanner(self)

    @abstractmethod
    def encode(self, payload: bytes) -> bytes:
        """Return ``payload`` as one frame on the wire.

        Raises:
            ValueError: the payload cannot be framed, and why.
        """

    def find(self, data: bytes | bytearray, start: int, seen: int) -> tuple[int, int, int] | None:
        """Find one frame; for framings that are written in Python.

        Args:
            data: what was received.
            start: offset of the frame's first byte; there is at least one byte.
            seen: how many bytes behind ``start`` a previous call for this frame has looked at, 0 at first: a
                search for the frame's end need not begin before it, less what the end's own pattern takes.

        Returns:
            Payload start, payload end and frame end, as offsets in ``data``; None while it is incomplete.

        Raises:
            FramingError: the bytes are no frame.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither a scanner nor find()")

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self.max_size:
            raise ValueError(f"a payload of {len(payload)} bytes exceeds max_size of {self.max_size} bytes")


class NativeFraming(Framing):
    """A framing whose frames are found in C."""

    def __init__(self, parameters: _core.FramingSpec) -> None:
        super().__init__(max_size=parameters.max_size)
        self._compiled = _core.CompiledFraming(parameters)

    def scanner(self) -> Scanner:
        """Return a scanner for one connection, at the beginning of a frame."""
        return _core.FrameScanner(self._compiled)

    def _check_whole(self, frame: bytes) -> None:
        """Raise ``ValueError`` unless ``frame`` is exactly one frame."""
        try:
            spans = self.scanner().scan(frame, 0)
        except FramingError as error:
            raise ValueError(f"this is no frame: {error}") from error
        if spans[2:] != [len(frame)]:
            raise ValueError("this is not exactly one frame")


class PythonScanner:
    """Calls a framing's ``find`` for one connection, and holds it to the rules."""

    __slots__ = ("_error", "_framing", "_seen")

    need: Final = 0

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._seen = 0
        self._error: FramingError | None = None

    def scan(self, data: bytes | bytearray, start: int) -> list[int]:
        """Find the complete frames in ``data`` from ``start``; see :meth:`Scanner.scan`."""
        if self._error is not None:
            raise self._error
        if not 0 <= start <= len(data) - self._seen:
            raise ValueError("start is outside the data, or the data became shorter while a frame is incomplete")
        found: list[int] = []
        try:
            while start < len(data) and len(found) < 3 * MAX_SPANS:
                span = self._next(data, start)
                if span is None:
                    break
                found += span
                start = span[2]
        except FramingError as error:
            self._error = error
            if not found:
                raise
        return found

    def _next(self, data: bytes | bytearray, start: int) -> tuple[int, int, int] | None:
        framing = self._framing
        span = framing.find(data, start, self._seen)
        if span is None:
            self._seen = len(data) - start
            if self._seen > framing.max_size + OVERHEAD:
                raise FrameTooLarge(framing.max_size)
            return None
        payload, payload_end, end = span
        if not (start <= payload <= payload_end <= end <= len(data) and start < end):
            raise FramingError(f"find() of the framing {framing.name} returned a frame that is not in the data")
        if payload_end - payload > framing.max_size:
            raise FrameTooLarge(framing.max_size)
        self._seen = 0
        return span
