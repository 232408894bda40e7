"""The vectors of tests/csrc/vectors.txt, seen from Python: the same frames, and exceptions for codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hotfd.errors import FrameTooLarge, FramingError
from hotfd.framing import Delimited, Fixed, Framing, LengthPrefix, Lines, Netstring, Resp, VarintPrefix

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = Path(__file__).parents[1] / "csrc" / "vectors.txt"


class Vector(NamedTuple):
    line: int
    framing: Framing
    data: bytes
    spans: list[int]
    ends: str


def header(max_size: int, *, keep: bool) -> Framing:
    return LengthPrefix(16, "little", includes_header=True, offset=2, trailer=1, keep_header=keep, max_size=max_size)


FRAMINGS: dict[str, Callable[[int], Framing]] = {
    "lines": lambda max_size: Lines(max_size=max_size),
    "crlf": lambda max_size: Delimited(b"\r\n", max_size=max_size),
    "aab": lambda max_size: Delimited(b"aab", max_size=max_size),
    "fixed": lambda max_size: Fixed(max_size),
    "u8": lambda max_size: LengthPrefix(8, max_size=max_size),
    "u32be": lambda max_size: LengthPrefix(max_size=max_size),
    "u64be": lambda max_size: LengthPrefix(64, max_size=max_size),
    "header": lambda max_size: header(max_size, keep=False),
    "kept": lambda max_size: header(max_size, keep=True),
    "kept64": lambda max_size: LengthPrefix(64, keep_header=True, max_size=max_size),
    "varint": lambda max_size: VarintPrefix(max_size=max_size),
    "netstring": lambda max_size: Netstring(max_size=max_size),
    "resp": lambda max_size: Resp(inline=False, max_size=max_size),
    "inline": lambda max_size: Resp(max_size=max_size),
}


def unescape(text: str) -> bytes:
    return re.sub(
        rb"\\(x[0-9a-f]{2}|.)",
        lambda match: (
            bytes([int(match[1][1:], 16)])
            if match[1][:1] == b"x"
            else {b"r": b"\r", b"n": b"\n", b"0": b"\0", b"\\": b"\\"}[match[1]]
        ),
        text.encode(),
    )


def read_vectors() -> list[Vector]:
    vectors = []
    for number, line in enumerate(VECTORS.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\w+) \| (\d+) \| (.*) \| ([\d: ]*?) ?\| (\w+)", line)
        if match is None:  # no frames: the two separators share a space
            match = re.fullmatch(r"(\w+) \| (\d+) \| (.*) \|() \| (\w+)", line)
        assert match, f"vectors.txt:{number}"
        name, max_size, data, spans, ends = match.groups()
        framing = FRAMINGS[name](int(max_size))
        vectors.append(Vector(number, framing, unescape(data), [int(n) for n in re.findall(r"\d+", spans)], ends))
    return vectors


ERRORS = {"large": FrameTooLarge, "bad": FramingError}

every_vector = pytest.mark.parametrize("vector", read_vectors(), ids=lambda vector: f"line{vector.line}")


def check_end(vector: Vector, error: FramingError | None, used: int) -> None:
    assert type(error) is ERRORS.get(vector.ends, type(None))
    if vector.ends in ("end", "more"):
        assert (used == len(vector.data)) == (vector.ends == "end")


@every_vector
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("before", [b"", b"earlier\n"])
def test_a_vector_at_once(vector: Vector, kind: type[bytes], before: bytes) -> None:
    scanner = vector.framing.scanner()
    data = kind(before + vector.data)
    found: list[int] = []
    start = len(before)
    error = None
    try:
        while spans := scanner.scan(data, start):
            found += spans
            start = spans[-1]
    except FramingError as caught:
        error = caught
        with pytest.raises(type(caught)):  # and from every later call
            scanner.scan(data, start)
    assert [offset - len(before) for offset in found] == vector.spans
    check_end(vector, error, start - len(before))


@every_vector
def test_a_vector_byte_by_byte(vector: Vector) -> None:
    scanner = vector.framing.scanner()
    found: list[int] = []
    start = 0
    error = None
    for size in range(1, len(vector.data) + 1):
        try:
            spans = scanner.scan(vector.data[:size], start)
        except FramingError as caught:
            error = caught
            break
        assert not spans or spans[2:] == [size], "a frame is found with its last byte"
        found += spans
        start = spans[-1] if spans else start
    assert found == vector.spans
    check_end(vector, error, start)


def test_a_frame_that_is_too_large_names_the_limit() -> None:
    with pytest.raises(FrameTooLarge) as caught:
        Lines(max_size=3).scanner().scan(b"12345", 0)
    assert caught.value.limit == 3
