"""The scanners in C against scanners in plain Python, which see all bytes at once and are written to be obvious.

An input says by itself which framing it is for and where it is cut; ``csrc/fuzz_scan.c`` reads it in the same way, so
that what its fuzzer finds is compared here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from hotfd import _core
from hotfd.errors import FrameTooLarge, FramingError
from tests.fuzz.engine import Target

HEADER_SIZE: Final = 16
MAX_DATA: Final = 4096

Span = tuple[int, int, int]
Verdict = Span | str
"""A frame's payload, its end, and the frame's end; or "more", "large" or "bad"."""

LINES: Final = b"+-:,(_#"
BULKS: Final = b"$!="
AGGREGATES: Final = b"*~>%|"
TYPES: Final = LINES + BULKS + AGGREGATES + b";."


@dataclass(frozen=True)
class Case:
    """One input, read."""

    framing: _core.FramingSpec
    seed: int
    data: bytes

    @classmethod
    def read(cls, raw: bytes) -> Case | None:
        """Read an input; None when it is for no framing that there is."""
        if len(raw) < HEADER_SIZE:
            return None
        spec = _core.FramingSpec(
            1 + raw[0] % 6,
            1 + raw[2] + 256 * raw[3],
            flags=raw[1],
            size=1 + raw[4],
            length_bytes=(1, 2, 4, 8)[raw[5] % 4],
            offset=raw[6] % 8,
            trailer=raw[7] % 8,
            delimiter=raw[9:13][: 1 + raw[8] % 4],
        )
        try:
            _core.CompiledFraming(spec)
        except ValueError:
            return None
        return cls(spec, raw[13] + 256 * raw[14], raw[HEADER_SIZE : HEADER_SIZE + MAX_DATA])


# ---------------------------------------------------------------- the references


def reference(spec: _core.FramingSpec, data: bytes) -> Verdict:
    """Say what begins with the first of these bytes."""
    match spec.kind:
        case _core.KIND_DELIMITED:
            return delimited(spec, data)
        case _core.KIND_FIXED:
            return (0, spec.size, spec.size) if len(data) >= spec.size else "more"
        case _core.KIND_LENGTH:
            return length(spec, data)
        case _core.KIND_VARINT:
            return varint(spec, data)
        case _core.KIND_NETSTRING:
            return netstring(spec, data)
        case _:
            return resp(spec, data)


def delimited(spec: _core.FramingSpec, data: bytes) -> Verdict:
    strip = b"\r" if spec.flags & _core.FLAG_STRIP_CR else b""
    payload, found, _ = data.partition(spec.delimiter)
    if found:
        size = len(payload.removesuffix(strip))
        return (0, size, len(payload) + len(found)) if size <= spec.max_size else "large"
    # Whatever comes, these bytes are payload: the last ones may be a part of the delimiter, or a '\r' before it.
    certain = len(data) - (len(spec.delimiter) - 1) - (bool(strip) and data.endswith(strip))
    return "large" if certain > spec.max_size else "more"


def length(spec: _core.FramingSpec, data: bytes) -> Verdict:
    field = data[spec.offset : spec.offset + spec.length_bytes]
    if len(field) < spec.length_bytes:
        return "more"
    header = spec.offset + spec.length_bytes + spec.trailer
    number = int.from_bytes(field, "little" if spec.flags & _core.FLAG_LITTLE_ENDIAN else "big")
    end = number if spec.flags & _core.FLAG_INCLUDES_HEADER else header + number
    if end < header:
        return "bad"
    begin = 0 if spec.flags & _core.FLAG_KEEP_HEADER else header
    if end - begin > spec.max_size:
        return "large"
    return (begin, end, end) if len(data) >= end else "more"


def varint(spec: _core.FramingSpec, data: bytes) -> Verdict:
    number = 0
    for at, byte in enumerate(data):
        number += (byte & 127) << (7 * at)
        if number >= 1 << 64 or at >= 10 or (at == 9 and byte >= 128):
            return "bad"
        if byte < 128:
            if number > spec.max_size:
                return "large"
            end = at + 1 + number
            return (at + 1, end, end) if len(data) >= end else "more"
    return "more"


def netstring(spec: _core.FramingSpec, data: bytes) -> Verdict:
    for at, byte in enumerate(data):
        if byte == ord(":") and at > 0:
            comma = at + 1 + int(data[:at])
            if len(data) <= comma:
                return "more"
            return (at + 1, comma, comma + 1) if data[comma] == ord(",") else "bad"
        if byte not in b"0123456789" or data[: at + 1] == b"0%c" % byte:
            return "bad"
        if int(data[: at + 1]) > spec.max_size:
            return "large"
    return "more"


class Stop(Exception):  # noqa: N818 - a verdict, not an error
    """The verdict, from inside of a RESP value."""


def resp(spec: _core.FramingSpec, data: bytes) -> Verdict:
    seen = data[: spec.max_size]
    try:
        if seen[0] not in TYPES and spec.flags & _core.FLAG_INLINE:
            end = seen.find(b"\n") + 1
            if not end:
                raise Stop("more")
        else:
            end = resp_value(seen, 0, 1, spec.max_size)
    except Stop as stop:
        return "large" if str(stop) == "more" and len(seen) == spec.max_size else str(stop)
    return 0, end, end


def resp_value(data: bytes, at: int, depth: int, limit: int) -> int:
    """Return where the value ends that begins at ``at``."""
    while True:
        if at >= len(data):
            raise Stop("more")
        kind = data[at]
        if kind in LINES:
            return resp_line(data, at + 1)
        if kind in BULKS:
            return resp_bulk(data, at, limit)
        if kind not in AGGREGATES:
            raise Stop("bad")
        count, at = resp_number(data, at + 1, limit)
        if count < 0 and kind != ord("*"):
            raise Stop("bad")
        values = max(0, count) * (2 if kind in b"%|" else 1)
        if 3 * values > limit - at:
            raise Stop("large")
        if values and depth > _core.RESP_DEPTH:
            raise Stop("bad")
        for _ in range(values):
            at = resp_value(data, at, depth + 1, limit)
        if kind != ord("|"):  # an attribute stands in front of a value
            return at


def resp_line(data: bytes, at: int) -> int:
    while data[at : at + 1] not in (b"", b"\r", b"\n"):
        at += 1
    return line_end(data, at)


def line_end(data: bytes, at: int) -> int:
    end = data[at : at + 2]
    if end == b"\r\n":
        return at + 2
    raise Stop("more" if end in (b"", b"\r") else "bad")


def resp_number(data: bytes, at: int, limit: int) -> tuple[int, int]:
    if data[at : at + 1] == b"-":
        if data[at + 1 : at + 2] not in (b"", b"1"):
            raise Stop("bad")
        return -1, line_end(data, at + 2)
    begin = at
    while data[at : at + 1].isdigit():
        at += 1
        if data[begin : begin + 1] == b"0" and at - begin > 1:
            raise Stop("bad")
        if int(data[begin:at]) > limit:
            raise Stop("large")
    if at == begin:
        raise Stop("bad" if at < len(data) else "more")
    end = line_end(data, at)
    return int(data[begin:at]), end


def resp_bulk(data: bytes, at: int, limit: int) -> int:
    size, begin = resp_number(data, at + 1, limit)
    if size < 0:
        if data[at] != ord("$"):
            raise Stop("bad")
        return begin
    if begin + size + 2 > limit:
        raise Stop("large")
    return line_end(data, begin + size)


# ---------------------------------------------------------------- both, compared


def expected(case: Case) -> tuple[list[int], str]:
    spans: list[int] = []
    at = 0
    while at < len(case.data):
        verdict = reference(case.framing, case.data[at:])
        if isinstance(verdict, str):
            return spans, verdict
        spans += [at + offset for offset in verdict]
        at += verdict[2]
    return spans, "more"


def scanned(case: Case, cut: Random | None) -> tuple[list[int], str]:
    """Scan as a connection does: in pieces, and framed bytes are dropped now and then, for the offset may change."""
    compiled = _core.CompiledFraming(case.framing)
    scanner = _core.FrameScanner(compiled)
    buffer = bytearray()
    spans: list[int] = []
    dropped = start = at = 0
    while at < len(case.data):
        piece = len(case.data) if cut is None else cut.choice((1, 1, 2, 3, 7, 60, 500))
        buffer += case.data[at : at + piece]
        at += piece
        if cut is not None and cut.random() < 0.2:
            scanner = _core.FrameScanner(compiled)  # the connection is another process's now
        if cut is not None and cut.random() < 0.5:
            del buffer[:start]
            dropped, start = dropped + start, 0
        try:
            while found := scanner.scan(buffer, start):
                spans += [dropped + offset for offset in found]
                start = found[-1]
        except FrameTooLarge:
            return spans, "large"
        except FramingError:
            return spans, "bad"
    return spans, "more"


def compare(raw: bytes) -> None:
    """Compare the scanner in C with the reference: whole, and cut as the input says."""
    case = Case.read(raw)
    if case is not None:
        right = expected(case)
        assert scanned(case, None) == right, case
        assert scanned(case, Random(case.seed)) == right, case


def made(kind: int, data: bytes, *, flags: int = 0, max_size: int = 64, fields: bytes = b"") -> bytes:
    """Return an input for a framing; ``fields`` are the header's bytes from the size on."""
    header = bytes([kind - 1, flags, (max_size - 1) & 255, (max_size - 1) >> 8]) + fields
    return header.ljust(HEADER_SIZE, b"\0") + data


def seeds() -> list[bytes]:
    """Return inputs for every framing, each with all of its flags and at the edges of its limit."""
    found = []
    delimiters = {b"\n": b"a\r\nbb\n\r\n\r", b"\r\n": b"a\r\r\nb\r\n", b"aab": b"aaab" * 3 + b"aa", b"abab": b"aababab"}
    for delimiter, data in delimiters.items():
        fields = bytes([0, 0, 0, 0, len(delimiter) - 1]) + delimiter
        found += [made(1, data, flags=flags, max_size=size, fields=fields) for flags in (0, 1) for size in (1, 2, 64)]
    found += [made(2, b"abcdefgh", fields=bytes([size])) for size in (0, 2, 63)]
    for flags in range(0, 16, 2):
        for width, number in enumerate((1, 2, 4, 8)):
            data = b"xx" + (number + 6).to_bytes(number, "little" if flags & 2 else "big") + b"y" + b"z" * 12
            found.append(made(3, data, flags=flags, max_size=13, fields=bytes([0, width, 2, 1])))
    # A length so near to 2**64 that header and payload together are small again; and payloads at the edge, unsent.
    found += [made(3, b"\xff" * 8 + b"z" * 8, flags=flags, max_size=13, fields=b"\0\3") for flags in (0, 2, 8, 10)]
    found += [made(6, b"$10\r\n", max_size=size) for size in (15, 16, 17)]
    found += [made(4, b"\x05hello\x80\x01" + b"x" * 128, max_size=size) for size in (4, 5, 127, 128)]
    found.append(made(4, b"\xff" * 9 + b"\x01"))
    found += [made(5, b"5:hello,0:,12:hello, world,", max_size=size) for size in (4, 5, 11, 12)]
    values = b"*2\r\n$3\r\nGET\r\n:5\r\n%1\r\n+k\r\n~1\r\n_\r\n|1\r\n+a\r\n#t\r\n>1\r\n=5\r\ntxt:x\r\n*-1\r\n$-1\r\n(12\r\nPING a\r\n"
    found += [made(6, values, flags=flags, max_size=size) for flags in (0, 16) for size in (9, 21, 22, 400)]
    found.append(made(6, b"*1\r\n" * 33 + b"+\r\n", max_size=1000))
    found.append(made(6, b"|1\r\n+a\r\n" * 40 + b"+\r\n" * 80, max_size=1000))
    return found


TARGETS: Final = (
    Target(
        "scan",
        seeds,
        compare,
        tokens=(
            b"\r\n",
            b"$5\r\n",
            b"*3\r\n",
            b"|1\r\n",
            b"-1\r\n",
            b":",
            b",",
            b"\xff" * 9,
            b"\x80\x80",
            b"\r",
            b"\n",
            b"0",
            b"9",
        ),
    ),
)
