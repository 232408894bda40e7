"""Framings: what they refuse to write, what they call themselves, and those written in Python."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from hotfd import _core
from hotfd.errors import FrameTooLarge, FramingError
from hotfd.framing import (
    DEFAULT_MAX_SIZE,
    MAX_SPANS,
    Delimited,
    Fixed,
    Framing,
    LengthPrefix,
    Lines,
    Netstring,
    Resp,
    VarintPrefix,
)
from hotfd.framing.base import OVERHEAD


@pytest.mark.parametrize(
    ("framing", "payload", "frame"),
    [
        (Lines(), b"ab", b"ab\n"),
        (Lines(newline=b"\r\n"), b"ab", b"ab\r\n"),
        (Lines(newline=b"\r\n"), b"ab\r", b"ab\r\r\n"),
        (Delimited(b"||"), b"ab", b"ab||"),
        (Fixed(2), b"ab", b"ab"),
        (LengthPrefix(8), b"ab", b"\x02ab"),
        (LengthPrefix(), b"ab", b"\0\0\0\x02ab"),
        (LengthPrefix(64, "little"), b"ab", b"\x02\0\0\0\0\0\0\0ab"),
        (LengthPrefix(16, includes_header=True, offset=2, trailer=1), b"ab", b"\0\0\0\x07\0ab"),
        (LengthPrefix(16, offset=2, keep_header=True), b"HH\0\x02ab", b"HH\0\x02ab"),
        (VarintPrefix(), b"", b"\0"),
        (VarintPrefix(), b"x" * 300, b"\xac\x02" + b"x" * 300),
        (Netstring(), b"hello", b"5:hello,"),
        (Resp(), b"+OK\r\n", b"+OK\r\n"),
    ],
)
def test_a_payload_becomes_a_frame(framing: Framing, payload: bytes, frame: bytes) -> None:
    assert framing.encode(payload) == frame


@pytest.mark.parametrize(
    ("framing", "payload", "why"),
    [
        (Lines(), b"a\nb", "newline"),
        (Lines(), b"a\r", "carriage return"),
        (Lines(max_size=3), b"abcd", "max_size of 3"),
        (Delimited(b"aab"), b"xaaby", "delimiter"),
        (Delimited(b"aa"), b"xa", "delimiter"),  # would end one byte early
        (Delimited(b"|", max_size=3), b"abcd", "max_size of 3"),
        (Fixed(2), b"abc", "2 bytes"),
        (LengthPrefix(8), bytes(256), "256 does not fit in 8 bits"),
        (LengthPrefix(8, includes_header=True), bytes(255), "256 does not fit in 8 bits"),
        (LengthPrefix(max_size=3), b"abcd", "max_size of 3"),
        (LengthPrefix(8, keep_header=True), b"\x02a", "not exactly one frame"),
        (LengthPrefix(8, keep_header=True), b"\x01ab", "not exactly one frame"),
        (LengthPrefix(8, keep_header=True), b"", "not exactly one frame"),
        (LengthPrefix(8, includes_header=True, keep_header=True), b"\0", "no frame"),
        (VarintPrefix(max_size=3), b"abcd", "max_size of 3"),
        (Netstring(max_size=3), b"abcd", "max_size of 3"),
        (Resp(), b"+OK\r\n+OK\r\n", "not exactly one frame"),
        (Resp(), b"*1\r\n", "not exactly one frame"),
        (Resp(inline=False), b"PING\r\n", "no frame"),
        (Resp(max_size=4), b"+OK\r\n", "max_size of 4"),
    ],
)
def test_a_payload_that_no_reader_would_get_back_is_refused(framing: Framing, payload: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        framing.encode(payload)


@pytest.mark.parametrize(
    ("framing", "spec"),
    [
        (Lines(), "lines(delimiter=0a,strip_cr=1)"),
        (Lines(newline=b"\r\n", max_size=5), "lines(delimiter=0a,strip_cr=1)"),
        (Delimited(b"\r\n"), "delimited(delimiter=0d0a)"),
        (Fixed(7), "fixed(size=7)"),
        (
            LengthPrefix(16, "little", includes_header=True, offset=1, trailer=2, keep_header=True),
            "length(bits=16,byteorder=little,includes_header=1,offset=1,trailer=2,keep_header=1)",
        ),
        (VarintPrefix(), "varint()"),
        (Netstring(), "netstring()"),
        (Resp(), "resp(inline=1)"),
        (Resp(inline=False), "resp(inline=0)"),
    ],
)
def test_the_spec_names_what_decides_where_frames_end_and_no_more(framing: Framing, spec: str) -> None:
    assert framing.spec() == spec
    assert repr(framing) == f"<{spec} max_size={framing.max_size}>"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lines(max_size=0),
        lambda: Lines(max_size=-1),
        lambda: Lines(max_size=_core.MAX_SIZE + 1),
        lambda: Lines(newline=b"\r"),
        lambda: Delimited(b""),
        lambda: Delimited(bytes(17)),
        lambda: Fixed(0),
        lambda: Fixed(-1),
        lambda: LengthPrefix(24),  # type: ignore[arg-type]
        lambda: LengthPrefix(32, "middle"),  # type: ignore[arg-type]
        lambda: LengthPrefix(offset=-1),
        lambda: LengthPrefix(offset=1025),
        lambda: LengthPrefix(trailer=1 << 40),
        lambda: Netstring(max_size=0),
        lambda: VarintPrefix(max_size=0),
        lambda: Resp(max_size=0),
    ],
)
def test_parameters_that_make_no_framing_are_refused(make: type[Framing]) -> None:
    with pytest.raises(ValueError, match=r"must be|delimiter|framing|parameter|length field|byteorder"):
        make()


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_a_resp_frame_of_any_size_is_encoded_as_it_is_and_nothing_else(kind: type[bytes], size: int) -> None:
    frame = kind(b"$%d\r\n%b\r\n" % (size, bytes(size)))
    assert Resp().encode(frame) is frame
    for wrong in (frame + b"+", frame[:-1], b"?" + frame, b"+" + frame):
        with pytest.raises(ValueError, match="frame"):
            Resp(inline=False).encode(wrong)
    with pytest.raises(ValueError, match=f"{len(frame)} bytes exceeds max_size"):
        Resp(max_size=len(frame) - 1).encode(frame)


def test_a_frame_split_across_reads_is_found_once() -> None:
    scanner = Lines().scanner()
    assert scanner.scan(b"hel", 0) == []
    assert scanner.scan(b"hello", 0) == []
    assert scanner.scan(b"hello\nnext", 0) == [0, 5, 6]
    assert scanner.scan(b"hello\nnext\n", 6) == [6, 10, 11]


def test_more_frames_than_a_call_returns_come_with_the_next_call() -> None:
    scanner = Lines().scanner()
    data = b"x\n" * (MAX_SPANS + 3)
    first = scanner.scan(data, 0)
    assert len(first) == 3 * MAX_SPANS
    assert first[-1] == 2 * MAX_SPANS
    assert len(scanner.scan(data, first[-1])) == 9


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_what_was_not_looked_at_for_lack_of_room_is_looked_at_then(kind: type[bytes]) -> None:
    scanner = Lines().scanner()
    data = kind(b"x\n" * (2 * MAX_SPANS) + b"y" * (2 * _core.BOOKMARK_FROM))
    first = scanner.scan(data, 0)
    second = scanner.scan(data, first[-1])
    assert (len(first), len(second), second[-1]) == (3 * MAX_SPANS, 3 * MAX_SPANS, 4 * MAX_SPANS)


def test_a_scanner_says_how_many_bytes_it_waits_for() -> None:
    scanner = LengthPrefix().scanner()
    assert scanner.need == 0, "it has not looked yet"
    scanner.scan(b"\0\0", 0)
    assert scanner.need == 4, "the header"
    scanner.scan(b"\0\0\0\x05ab", 0)
    assert scanner.need == 9, "the frame"
    scanner.scan(b"\0\0\0\x05abcde\0", 0)
    assert scanner.need == 4, "the next header"
    scanner.scan(b"\0\0\0\0", 0)
    assert scanner.need == 0
    scanner = Netstring().scanner()
    scanner.scan(b"1:a,x", 0)
    assert scanner.need == 0, "an error is there to be told"
    scanner = Lines().scanner()
    scanner.scan(b"x\n" * (MAX_SPANS + 1), 0)
    assert scanner.need == 0, "another frame is there"
    assert Tagged().scanner().need == 0, "nobody knows"


def test_a_long_line_is_searched_without_a_call_into_c_and_still_held_to_max_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = counted_looks(monkeypatch)
    size = 4 * _core.BOOKMARK_FROM
    scanner = Lines(max_size=size).scanner()
    buffer = bytearray(size // 2)
    for _ in range(size // 2):
        assert scanner.scan(buffer, 0) == []
        buffer += b"x"
    assert scanner.scan(buffer, 0) == []
    assert looks == [size // 2]
    assert scanner.scan(buffer + b"\r", 0) == [], "it may belong to the end of the line"
    with pytest.raises(FrameTooLarge):
        scanner.scan(buffer + b"\rx", 0)
    with pytest.raises(FrameTooLarge):
        scanner.scan(buffer, 0)


def test_a_long_line_that_became_shorter_is_refused() -> None:
    scanner = Lines().scanner()
    for size in (10_000, 10_001):
        assert scanner.scan(bytes(size), 0) == []
    with pytest.raises(ValueError, match="shorter"):
        scanner.scan(bytes(10_000), 0)


def test_data_that_became_shorter_is_refused() -> None:
    scanner = Lines().scanner()
    scanner.scan(b"hello", 0)
    with pytest.raises(ValueError, match="shorter"):
        scanner.scan(b"hell", 0)
    with pytest.raises(ValueError, match="outside"):
        scanner.scan(b"hello", 6)


def counted_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return where each call into C leaves how many bytes it was given."""
    looks: list[int] = []
    look = _core._look

    def counting(*arguments: Any) -> int:
        looks.append(arguments[4])
        return look(*arguments)

    monkeypatch.setattr(_core, "_look", counting)
    return looks


def test_a_frame_that_is_announced_is_not_looked_for_before_it_can_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = counted_looks(monkeypatch)
    frame = LengthPrefix().encode(bytes(100_000))
    scanner = LengthPrefix().scanner()
    buffer = bytearray()
    for at in range(0, len(frame), 1000):
        assert scanner.scan(buffer, 0) == []
        buffer += frame[at : at + 1000]
    assert scanner.scan(buffer, 0) == [4, 100_004, 100_004]
    assert looks == [0, 1000, 100_004], "once without a byte, once for the length, once for the frame"


def test_what_was_looked_through_is_not_looked_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = counted_looks(monkeypatch)
    scanner = Lines().scanner()
    data = b"a\nb\nunfinished"
    assert scanner.scan(data, 0) == [0, 1, 2, 2, 3, 4]
    assert scanner.scan(data, 4) == []
    assert looks == [14]
    assert scanner.scan(data[4:] + b"\n", 0) == [0, 10, 11], "the beginning of the frame has moved"


@pytest.mark.parametrize("step", [1, 700, _core.BOOKMARK_FROM, 3 * _core.BOOKMARK_FROM])
def test_a_long_frame_in_pieces_is_found_and_so_is_what_follows(step: int) -> None:
    for framing, payload in ((Lines(), b"x" * 30_000), (Resp(), b"*2\r\n+OK\r\n$20000\r\n%b\r\n" % bytes(20_000))):
        frame = framing.encode(payload)
        data = 2 * (frame + (b"\n" if isinstance(framing, Lines) else b"+x\r\n"))
        whole = framing.scanner().scan(data, 0)
        assert len(whole) == 3 * 4
        scanner, buffer, found, start = framing.scanner(), bytearray(), [], 0
        for at in range(0, len(data), step):
            buffer += data[at : at + step]
            spans = scanner.scan(buffer, start)
            found += spans
            start = spans[-1] if spans else start
        assert found == whole


def test_an_error_stays_whatever_comes_then() -> None:
    scanner = Netstring().scanner()
    assert scanner.scan(b"1:a,x", 0) == [2, 3, 4]
    for data in (b"x", b"1:a,", b""):
        with pytest.raises(FramingError):
            scanner.scan(data, 0)


def test_a_buffer_can_grow_again_after_a_scan() -> None:
    scanner = Lines().scanner()
    buffer = bytearray(b"hel")
    scanner.scan(buffer, 0)
    buffer += b"lo\n"  # a buffer that is still exported cannot be resized
    assert scanner.scan(buffer, 0) == [0, 5, 6]


def test_scanners_in_several_threads_do_not_disturb_each_other() -> None:
    failures: list[object] = []

    def scan(size: int) -> None:
        data = (b"x" * size + b"\n") * 50
        wanted = [offset for i in range(50) for offset in (i * (size + 1), i * (size + 1) + size, (i + 1) * (size + 1))]
        for _ in range(500):
            if (found := Lines().scanner().scan(data, 0)) != wanted:
                failures.append(found)

    threads = [threading.Thread(target=scan, args=(size,)) for size in (1, 50, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---------------------------------------------------------------- framings written in Python


class Tagged(Framing):
    """One byte of tag, one byte of length, payload; a tag of zero is no frame."""

    def __init__(self, max_size: int = DEFAULT_MAX_SIZE) -> None:
        super().__init__(max_size=max_size)
        self.calls: list[tuple[int, int]] = []

    def find(self, data: bytes | bytearray, start: int, seen: int) -> tuple[int, int, int] | None:
        self.calls.append((start, seen))
        if data[start] == 0:
            raise FramingError("a tag of zero")
        if len(data) < start + 2 or len(data) < start + 2 + data[start + 1]:
            return None
        end = start + 2 + data[start + 1]
        return start + 2, end, end

    def encode(self, payload: bytes) -> bytes:
        return bytes([1, len(payload)]) + payload


def test_a_framing_in_python_finds_frames() -> None:
    framing = Tagged()
    scanner = framing.scanner()
    data = framing.encode(b"one") + framing.encode(b"") + b"\x01"
    assert scanner.scan(data, 0) == [2, 5, 5, 7, 7, 7]
    assert scanner.scan(bytearray(data + b"\x01x"), 7) == [9, 10, 10]


def test_a_framing_in_python_is_told_what_it_has_seen() -> None:
    framing = Tagged()
    scanner = framing.scanner()
    scanner.scan(b"\x01\x03", 0)
    scanner.scan(b"\x01\x03ab", 0)
    scanner.scan(b"\x01\x03abc\x01", 0)
    assert framing.calls == [(0, 0), (0, 2), (0, 4), (5, 0)]


def test_a_framing_in_python_returns_good_frames_before_the_error() -> None:
    framing = Tagged()
    scanner = framing.scanner()
    data = framing.encode(b"ok") + b"\0"
    assert scanner.scan(data, 0) == [2, 4, 4]
    for _ in range(2):
        with pytest.raises(FramingError, match="tag of zero"):
            scanner.scan(data, 4)
    with pytest.raises(FramingError, match="tag of zero"):
        scanner.scan(framing.encode(b"good again"), 0)


def test_a_framing_in_python_is_held_to_max_size() -> None:
    with pytest.raises(FrameTooLarge):
        Tagged(max_size=3).scanner().scan(b"\x01\x04abcd", 0)


def test_a_frame_in_python_that_never_ends_is_too_large() -> None:
    class Endless(Framing):
        def find(self, data: bytes | bytearray, start: int, seen: int) -> None:
            return None

        def encode(self, payload: bytes) -> bytes:
            return payload

    scanner = Endless(max_size=10).scanner()
    assert scanner.scan(bytes(10 + OVERHEAD), 0) == []
    with pytest.raises(FrameTooLarge):
        scanner.scan(bytes(11 + OVERHEAD), 0)


@pytest.mark.parametrize("span", [(0, 0, 0), (0, 5, 6), (2, 1, 3), (0, 3, 2), (-1, 1, 2)])
def test_a_framing_in_python_that_returns_nonsense_is_an_error(span: tuple[int, int, int]) -> None:
    class Wrong(Tagged):
        def find(self, data: bytes | bytearray, start: int, seen: int) -> tuple[int, int, int]:
            return span

    with pytest.raises(FramingError, match="not in the data"):
        Wrong().scanner().scan(b"abcde", 0)


def test_a_framing_in_python_returns_no_more_frames_than_native_ones() -> None:
    framing = Tagged()
    data = framing.encode(b"") * (MAX_SPANS + 1)
    scanner = framing.scanner()
    first = scanner.scan(data, 0)
    assert len(first) == 3 * MAX_SPANS
    assert len(scanner.scan(data, first[-1])) == 3


def test_a_framing_in_python_refuses_data_that_became_shorter() -> None:
    scanner = Tagged().scanner()
    scanner.scan(b"\x01\x05ab", 0)
    with pytest.raises(ValueError, match="shorter"):
        scanner.scan(b"\x01\x05", 0)


def test_a_framing_in_python_has_a_name_of_its_own() -> None:
    assert Tagged.name == "tagged"
    assert Tagged().spec() == "tagged()"


def test_a_framing_without_find_says_so() -> None:
    class Lazy(Framing):
        def encode(self, payload: bytes) -> bytes:
            return payload

    with pytest.raises(NotImplementedError, match="Lazy has neither"):
        Lazy().scanner().scan(b"x", 0)
