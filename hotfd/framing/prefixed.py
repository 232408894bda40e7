"""Frames that begin with the length of their payload."""

from __future__ import annotations

import struct
from typing import Final, Literal

from hotfd import _core
from hotfd.framing.base import DEFAULT_MAX_SIZE, NativeFraming

_FIELDS: Final = {8: "B", 16: "H", 32: "I", 64: "Q"}
"""By the bits of a length field, what :mod:`struct` calls it."""


class LengthPrefix(NativeFraming):
    """A binary length, and then the payload. The header may have other bytes around the length.

    Args:
        bits: of the length field: 8, 16, 32 or 64.
        byteorder: of the length field.
        includes_header: the field counts the whole header with the payload; without it the payload alone.
        offset: bytes of header before the field.
        trailer: bytes of header after the field.
        keep_header: deliver the header in front of the payload, and expect it there in :meth:`encode`.
            Without it the header's other bytes are skipped on reading and zero on writing.
        max_size: bytes of payload as delivered.

    Raises:
        ValueError: a parameter is out of range.
    """

    name = "length"

    def __init__(
        self,
        bits: Literal[8, 16, 32, 64] = 32,
        byteorder: Literal["big", "little"] = "big",
        *,
        includes_header: bool = False,
        offset: int = 0,
        trailer: int = 0,
        keep_header: bool = False,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> None:
        if bits not in (8, 16, 32, 64):
            raise ValueError(f"a length field has 8, 16, 32 or 64 bits, not {bits}")
        if byteorder not in ("big", "little"):
            raise ValueError(f"byteorder is big or little, not {byteorder!r}")
        flags = (
            (_core.FLAG_LITTLE_ENDIAN if byteorder == "little" else 0)
            | (_core.FLAG_INCLUDES_HEADER if includes_header else 0)
            | (_core.FLAG_KEEP_HEADER if keep_header else 0)
        )
        super().__init__(
            _core.FramingSpec(
                _core.KIND_LENGTH,
                max_size,
                flags=flags,
                length_bytes=bits // 8,
                offset=offset,
                trailer=trailer,
            )
        )
        # The whole header at once; x is a byte of zero, struct(3).
        order, field = ("<" if byteorder == "little" else ">"), _FIELDS[bits]
        self._header = struct.Struct(f"{order}{offset}x{field}{trailer}x").pack
        self._counted = offset + bits // 8 + trailer if includes_header else 0
        # Bytes of the largest payload that only needs a header; of none when the payload brings its own.
        self._plain_size = -1 if keep_header else min(max_size, (1 << bits) - 1 - self._counted)
        self.bits = bits
        self.byteorder: Literal["big", "little"] = byteorder
        self.includes_header = includes_header
        self.offset = offset
        self.trailer = trailer
        self.keep_header = keep_header

    def spec(self) -> str:
        """Return the canonical text."""
        return (
            f"length(bits={self.bits},byteorder={self.byteorder},includes_header={self.includes_header:d},"
            f"offset={self.offset},trailer={self.trailer},keep_header={self.keep_header:d})"
        )

    def encode(self, payload: bytes) -> bytes:
        """Return ``payload`` with its header, or check that it is a whole frame when the header is kept.

        Raises:
            ValueError: it is larger than ``max_size`` or than the field can say, or with ``keep_header`` its
                length field is not right.
        """
        size = len(payload)
        if size <= self._plain_size:
            return self._header(size + self._counted) + payload
        self._check_size(payload)
        if self.keep_header:
            self._check_whole(payload)
            return payload
        raise ValueError(f"a length of {size + self._counted} does not fit in {self.bits} bits")


class VarintPrefix(NativeFraming):
    """A length in base 128, least significant group first (LEB128), and then the payload.

    It is how protobuf delimits messages in a stream.

    Args:
        max_size: bytes of payload.

    Raises:
        ValueError: ``max_size`` is out of range.
    """

    name = "varint"

    def __init__(self, *, max_size: int = DEFAULT_MAX_SIZE) -> None:
        super().__init__(_core.FramingSpec(_core.KIND_VARINT, max_size))

    def encode(self, payload: bytes) -> bytes:
        """Return ``payload`` with its length before it.

        Raises:
            ValueError: it is larger than ``max_size``.
        """
        self._check_size(payload)
        header = bytearray()
        length = len(payload)
        while length > 0x7F:
            header.append(length & 0x7F | 0x80)
            length >>= 7
        header.append(length)
        return bytes(header) + payload


class Netstring(NativeFraming):
    """``<length>:<payload>,`` with the length in decimal.

    cr.yp.to/proto/netstrings.txt

    Args:
        max_size: bytes of payload.

    Raises:
        ValueError: ``max_size`` is out of range.
    """

    name = "netstring"

    def __init__(self, *, max_size: int = DEFAULT_MAX_SIZE) -> None:
        super().__init__(_core.FramingSpec(_core.KIND_NETSTRING, max_size))

    def encode(self, payload: bytes) -> bytes:
        """Return ``payload`` as a netstring.

        Raises:
            ValueError: it is larger than ``max_size``.
        """
        self._check_size(payload)
        return b"%d:%b," % (len(payload), payload)
