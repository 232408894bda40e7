"""Ways to find frames in what is read: hotfd's scanners, and what else people use. Each takes reads, and returns payloads.

Those of others are written as their users would write them with care: nothing is searched or copied twice that need not be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from hotfd.framing import Framing, Resp
from hotfd.framing.resp import command

Parse = Callable[[Sequence[bytes]], list[Any]]
"""Returns what is in these reads."""


SMALL: Final = 4096
"""Bytes of an unfinished frame up to which it is joined with the next read as ``bytes``, of which slices are cheaper;
a larger one is gathered in a ``bytearray``, so that no read copies what came before it."""


def scanned(framing: Framing, reads: Sequence[bytes]) -> list[bytes]:
    """Find frames with a scanner: offsets from C, payloads cut out in Python."""
    scanner = framing.scanner()
    scan = scanner.scan
    found: list[bytes] = []
    buffer: bytes | bytearray = b""
    for data in reads:
        if not buffer:
            buffer = data
        else:
            if len(buffer) > SMALL and type(buffer) is bytes:
                buffer = bytearray(buffer)
            buffer += data
            if len(buffer) < scanner.need:
                continue
        start = 0
        while spans := scan(buffer, start):
            if len(spans) == 3 and type(buffer) is bytes:
                begin, end, start = spans
                found.append(buffer[begin:end])
            else:
                found += payloads(buffer, spans)
                start = spans[-1]
            if start == len(buffer):
                buffer, start = b"", 0
                break
            if len(buffer) - start < scanner.need:
                break
        if start:
            buffer = buffer[start:]
    return found


def payloads(buffer: bytes | bytearray, spans: Sequence[int]) -> list[bytes]:
    """Return what of a buffer these spans deliver."""
    if type(buffer) is not bytes:
        with memoryview(buffer) as view:
            return [bytes(view[spans[at] : spans[at + 1]]) for at in range(0, len(spans), 3)]
    if len(spans) == 2 * 3:  # nothing is set up for so few
        return [buffer[spans[0] : spans[1]], buffer[spans[3] : spans[4]]]
    three = iter(spans)
    return [buffer[begin:end] for begin, end, _ in zip(three, three, three, strict=True)]


def commands(reads: Sequence[bytes]) -> list[list[bytes]]:
    """Find RESP commands with a scanner, and their words."""
    return [command(frame) for frame in scanned(Resp(), reads)]


# ---------------------------------------------------------------- lines


def split(reads: Sequence[bytes]) -> list[bytes]:
    """bytes.split; a line that goes on in the next read is gathered in pieces."""
    found: list[bytes] = []
    pieces: list[bytes] = []
    for data in reads:
        first, *rest = data.split(b"\n")
        pieces.append(first)
        if rest:
            found.append(b"".join(pieces))
            pieces = [rest.pop()]
            found += rest
    return found


def splitlines(reads: Sequence[bytes]) -> list[bytes]:
    """bytes.splitlines; it says nothing of whether the last line was whole."""
    found: list[bytes] = []
    pieces: list[bytes] = []
    for data in reads:
        lines = data.splitlines()
        if pieces:
            pieces.append(lines[0])
            if len(lines) == 1 and not data.endswith(b"\n"):
                continue
            lines[0] = b"".join(pieces)
        pieces = [] if data.endswith(b"\n") else [lines.pop()]
        found += lines
    return found


def find_loop(reads: Sequence[bytes]) -> list[bytes]:
    """bytearray.find from one newline to the next."""
    found: list[bytes] = []
    buffer = bytearray()
    for data in reads:
        seen = len(buffer)
        buffer += data
        start = 0
        while (end := buffer.find(b"\n", seen)) >= 0:
            found.append(bytes(buffer[start:end]))
            start = seen = end + 1
        del buffer[:start]
    return found


# ---------------------------------------------------------------- lengths

_LENGTH = struct.Struct(">I")


def struct_loop(reads: Sequence[bytes]) -> list[bytes]:
    """A length of 32 bits by ``struct.unpack_from``."""
    found: list[bytes] = []
    buffer = bytearray()
    for data in reads:
        buffer += data
        start, have = 0, len(buffer)
        while have - start >= 4:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if have - start - 4 < size:
                break
            found.append(bytes(buffer[start + 4 : start + 4 + size]))
            start += 4 + size
        del buffer[:start]
    return found


def from_bytes_loop(reads: Sequence[bytes]) -> list[bytes]:
    """A length of 32 bits by ``int.from_bytes``."""
    found: list[bytes] = []
    buffer = bytearray()
    for data in reads:
        buffer += data
        start, have = 0, len(buffer)
        while have - start >= 4:
            size = int.from_bytes(buffer[start : start + 4], "big")
            if have - start - 4 < size:
                break
            found.append(bytes(buffer[start + 4 : start + 4 + size]))
            start += 4 + size
        del buffer[:start]
    return found


def _varint(buffer: bytearray, at: int) -> tuple[int, int] | None:
    """Return the number at ``at`` and where it ends; None while it is incomplete."""
    size = shift = 0
    while at < len(buffer):
        byte = buffer[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return size, at
        shift += 7
    return None


def varint_loop(reads: Sequence[bytes]) -> list[bytes]:
    """A length in base 128, a byte at a time."""
    found: list[bytes] = []
    buffer = bytearray()
    for data in reads:
        buffer += data
        start = 0
        while (header := _varint(buffer, start)) is not None:
            size, begin = header
            if len(buffer) - begin < size:
                break
            start = begin + size
            found.append(bytes(buffer[begin:start]))
        del buffer[:start]
    return found


def netstring_loop(reads: Sequence[bytes]) -> list[bytes]:
    """The colon by ``find``, the length by ``int``."""
    found: list[bytes] = []
    buffer = bytearray()
    for data in reads:
        buffer += data
        start = 0
        while (colon := buffer.find(b":", start, start + 20)) >= 0:
            end = colon + 1 + int(buffer[start:colon])
            if end >= len(buffer):
                break
            if buffer[end] != ord(","):
                raise ValueError("a netstring ends with a comma")
            found.append(bytes(buffer[colon + 1 : end]))
            start = end + 1
        del buffer[:start]
    return found


# ---------------------------------------------------------------- RESP


class _Reads:
    """What redis-py takes for a socket: each ``recv`` is the next read."""

    def __init__(self, reads: Sequence[bytes]) -> None:
        self._reads = iter(reads)

    def recv(self, _size: int) -> bytes:
        return next(self._reads, b"")


def resp_peers() -> tuple[dict[str, Parse], list[str]]:
    """Return the parsers of RESP that are installed, and what is missing."""
    peers: dict[str, Parse] = {}
    skipped: list[str] = []
    for name, make in (("hiredis", _hiredis), ("redis-py's own parser", _redis_py)):
        try:
            peers[name] = make()
        except ImportError as error:
            skipped.append(f"{name}: {error}; pip install '.[bench]'")
    return peers, skipped


def _hiredis() -> Parse:
    import hiredis

    def parse(reads: Sequence[bytes]) -> list[Any]:
        found: list[Any] = []
        reader = hiredis.Reader()
        for data in reads:
            reader.feed(data)
            while (value := reader.gets()) is not False:
                found.append(value)
        return found

    return parse


def _redis_py() -> Parse:
    from redis._parsers.resp2 import _RESP2Parser
    from redis._parsers.socket import SocketBuffer
    from redis.exceptions import ConnectionError as Ended

    def parse(reads: Sequence[bytes]) -> list[Any]:
        found: list[Any] = []
        parser = _RESP2Parser(socket_read_size=1 << 16)
        parser._buffer = SocketBuffer(_Reads(reads), 1 << 16, None)
        try:
            while True:
                found.append(parser.read_response(disable_decoding=True))
        except Ended:
            return found

    return parse
