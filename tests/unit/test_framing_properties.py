"""Scanners against plain Python that sees all bytes at once: any frames, any garbage, cut anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfd import _core
from hotfd.errors import FrameTooLarge, FramingError
from hotfd.framing import Delimited, Fixed, Framing, LengthPrefix, Lines, Netstring, Resp, VarintPrefix, resp

MAX_SIZE = 48
FAR = 1 << 40  # a max_size that no test's bytes reach

Span = tuple[int, int, int]
Reference = Callable[[bytes], "Span | str"]
"""Given the bytes from a frame's beginning: its span, or "more", "large" or "bad"."""


# ---------------------------------------------------------------- the references


def delimited(delimiter: bytes, strip: bytes = b"") -> Reference:
    def reference(data: bytes) -> Span | str:
        payload, found, _ = data.partition(delimiter)
        if not found:
            # What no continuation can make smaller: the bytes before a possible half of the delimiter.
            least = len(data) - len(delimiter) + 1 - (strip != b"" and data.endswith(strip))
            return "large" if least > MAX_SIZE else "more"
        size = len(payload.removesuffix(strip))
        return "large" if size > MAX_SIZE else (0, size, len(payload) + len(delimiter))

    return reference


def fixed(data: bytes) -> Span | str:
    return (0, 5, 5) if len(data) >= 5 else "more"


def length(width: int, order: str, offset: int, trailer: int, includes: bool, keep: bool) -> Reference:
    def reference(data: bytes) -> Span | str:
        field = data[offset : offset + width]
        if len(field) < width:
            return "more"
        header = offset + width + trailer
        total = int.from_bytes(field, order) + (0 if includes else header)  # type: ignore[arg-type]
        if total < header:
            return "bad"
        if total - (0 if keep else header) > MAX_SIZE:
            return "large"
        return (0 if keep else header, total, total) if len(data) >= total else "more"

    return reference


def varint(data: bytes) -> Span | str:
    header = re.match(rb"[\x80-\xff]*[\x00-\x7f]", data, re.DOTALL)
    raw = header[0] if header else data
    if len(raw) > 10 or (len(raw) == 10 and raw[9] > 1):
        return "bad"
    if header is None:
        return "more"
    size = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(raw))
    if size > MAX_SIZE:
        return "large"
    end = len(raw) + size
    return (len(raw), end, end) if len(data) >= end else "more"


def netstring(data: bytes) -> Span | str:
    digits = re.match(rb"(0|[1-9][0-9]*)?", data)
    assert digits is not None
    if digits[0] and int(digits[0]) > MAX_SIZE:
        return "large"
    if len(digits[0]) == len(data):
        return "more"
    if not digits[0] or data[digits.end()] != ord(":"):
        return "bad"
    begin = digits.end() + 1
    comma = begin + int(digits[0])
    if len(data) <= comma:
        return "more"
    return (begin, comma, comma + 1) if data[comma] == ord(",") else "bad"


class Stop(Exception):  # noqa: N818 - a verdict, not an error
    """The verdict on a RESP frame, from inside its values."""


def resp_number(data: bytes, at: int, null: bool) -> tuple[int, int]:
    begun = re.compile(rb"-1?|0|[1-9][0-9]*|").match(data, at)
    assert begun is not None
    if begun[0].isdigit() and int(begun[0]) > FAR:
        raise Stop("large")
    behind = data[begun.end() : begun.end() + 1]
    if behind and (behind != b"\r" or begun[0] in (b"", b"-")):
        raise Stop("bad")
    line, end = resp_line(data, at)
    if not line.isdigit() and (line, null) != (b"-1", True):
        raise Stop("bad")
    return int(line), end


def resp_line(data: bytes, at: int) -> tuple[bytes, int]:
    text = re.compile(rb"[^\r\n]*").match(data, at)
    assert text is not None
    end = data[text.end() : text.end() + 2]
    if end == b"\r\n":
        return text[0], text.end() + 2
    raise Stop("more" if end in (b"", b"\r") else "bad")


def resp_value(data: bytes, at: int, depth: int) -> int:
    """Return where the value at ``at`` ends."""
    if at >= len(data):
        raise Stop("more")
    kind = data[at : at + 1]
    if kind not in b"*~>%|$!=+-:,(_#":
        raise Stop("bad")
    if kind in b"+-:,(_#":
        return resp_line(data, at + 1)[1]
    number, end = resp_number(data, at + 1, kind in b"*$")
    if kind in b"$!=":
        if number < 0:
            return end
        stop = end + number
        if stop + 2 > FAR:
            raise Stop("large")
        if data[stop : stop + 2] != b"\r\n"[: max(0, len(data) - stop)]:
            raise Stop("bad")
        if stop + 2 > len(data):
            raise Stop("more")
        return stop + 2
    if kind in b"%|":
        number *= 2
    if end + 3 * number > FAR:
        raise Stop("large")
    for _ in range(number):
        end = resp_value(data, end, depth + 1)
    return resp_value(data, end, depth) if kind == b"|" else end


def resp_whole(data: bytes) -> Span | str:
    if data[:1] not in b"*~>%|$!=+-:,(_#;.":
        end = data.find(b"\n") + 1
    else:
        try:
            end = resp_value(data, 0, 0)
        except Stop as stop:
            return str(stop)
    if end == 0:
        return "more"
    return (0, end, end)


FRAMINGS: dict[str, tuple[Framing, Reference]] = {
    "lines": (Lines(max_size=MAX_SIZE), delimited(b"\n", b"\r")),
    "delimited": (Delimited(b"aab", max_size=MAX_SIZE), delimited(b"aab")),
    "fixed": (Fixed(5), fixed),
    "u8": (LengthPrefix(8, max_size=MAX_SIZE), length(1, "big", 0, 0, False, False)),
    "u16": (
        LengthPrefix(16, "little", includes_header=True, offset=1, trailer=2, max_size=MAX_SIZE),
        length(2, "little", 1, 2, True, False),
    ),
    "kept": (
        LengthPrefix(16, offset=1, trailer=2, keep_header=True, max_size=MAX_SIZE),
        length(2, "big", 1, 2, False, True),
    ),
    "varint": (VarintPrefix(max_size=MAX_SIZE), varint),
    "netstring": (Netstring(max_size=MAX_SIZE), netstring),
}


def expected(reference: Reference, data: bytes) -> tuple[list[int], str]:
    spans: list[int] = []
    at = 0
    while at < len(data):
        verdict = reference(data[at:])
        if isinstance(verdict, str):
            return spans, verdict
        spans += [at + offset for offset in verdict]
        at += verdict[2]
    return spans, "more"


def scanned(framing: Framing, data: bytes, cuts: list[int]) -> tuple[list[int], str]:
    """Scan as a connection does: reads end at the cuts, and framed bytes are dropped from the buffer."""
    scanner = framing.scanner()
    buffer = bytearray()
    spans: list[int] = []
    dropped = 0
    at = 0
    for cut in sorted({*(cut % (len(data) + 1) for cut in cuts), len(data)}):
        buffer += data[at:cut]
        at = cut
        try:
            while found := scanner.scan(buffer, 0):
                spans += [dropped + offset for offset in found]
                dropped += found[-1]
                del buffer[: found[-1]]
        except FrameTooLarge:
            return spans, "large"
        except FramingError:
            return spans, "bad"
    return spans, "more"


cuts = st.lists(st.integers(0, 200), max_size=12)
noise = st.text(alphabet="*$%~>|+-:,(_#!=\r\n0123ab;.x\0\x01\x03\x80\xff", max_size=60).map(
    lambda text: text.encode("latin-1")
)


@pytest.mark.parametrize("name", FRAMINGS)
@settings(max_examples=150, deadline=None)
@given(payloads=st.lists(st.binary(max_size=MAX_SIZE), max_size=6), tail=noise, cuts=cuts)
def test_frames_are_found_as_the_reference_finds_them(
    name: str, payloads: list[bytes], tail: bytes, cuts: list[int]
) -> None:
    framing, reference = FRAMINGS[name]
    data = b""
    for payload in payloads:
        try:
            data += framing.encode(payload)
        except ValueError:
            data += payload  # cannot be framed: then it is noise
    data += tail
    assert scanned(framing, data, cuts) == expected(reference, data)


@pytest.mark.parametrize("framing", [Lines(max_size=MAX_SIZE), Delimited(b"|", max_size=MAX_SIZE)], ids=repr)
@settings(max_examples=300, deadline=None)
@given(lines=st.lists(st.binary(max_size=MAX_SIZE + 3), max_size=4), cuts=cuts)
def test_a_frame_whose_end_is_searched_for_by_python_is_the_one_that_c_finds(
    framing: Framing, lines: list[bytes], cuts: list[int]
) -> None:
    data = b"|\r\n".join(lines)
    alone = scanned(framing, data, cuts)
    with mock.patch.object(_core, "BOOKMARK_FROM", 0):  # as if every frame were a long one
        assert scanned(framing, data, cuts) == alone


values: st.SearchStrategy[bytes] = st.recursive(
    st.one_of(
        st.binary(max_size=8).map(resp.bulk),
        st.integers().map(resp.integer),
        st.sampled_from([b"+OK\r\n", b"_\r\n", b"#t\r\n", b"$-1\r\n", b"*-1\r\n", b",1.5\r\n", b"!3\r\nERR\r\n"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(resp.array),
        st.lists(st.tuples(inner, inner), max_size=2).map(resp.mapping),
        st.tuples(inner, inner, inner).map(lambda three: b"|1\r\n" + b"".join(three)),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(values, max_size=4), tail=noise, cuts=cuts)
def test_resp_frames_are_found_as_the_reference_finds_them(frames: list[bytes], tail: bytes, cuts: list[int]) -> None:
    # Only announced sizes can be too large here; which limit strikes first is a matter for the vectors.
    data = b"".join(frames) + tail
    found, ends = scanned(Resp(max_size=FAR), data, cuts)
    assert (found, ends) == expected(resp_whole, data)


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(st.one_of(values, noise), max_size=4), cuts=cuts)
def test_the_verdict_on_resp_does_not_depend_on_how_bytes_arrive(frames: list[bytes], cuts: list[int]) -> None:
    framing = Resp(max_size=MAX_SIZE)
    data = b"".join(frames)
    assert scanned(framing, data, cuts) == scanned(framing, data, [])


@settings(max_examples=300, deadline=None)
@given(frame=values)
def test_what_a_scanner_takes_for_a_frame_parses(frame: bytes) -> None:
    assert Resp(inline=False).scanner().scan(frame, 0) == [0, len(frame), len(frame)]
    resp.parse(frame)


@settings(max_examples=500, deadline=None)
@given(frame=noise)
def test_what_parses_is_a_frame(frame: bytes) -> None:
    try:
        resp.parse(frame)
    except FramingError:
        return
    assert Resp(inline=False).scanner().scan(frame, 0) == [0, len(frame), len(frame)]


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.binary(max_size=8), max_size=4))
def test_a_request_is_read_as_it_was_written(words: list[bytes]) -> None:
    assert resp.command(resp.request(*words)) == words


@settings(max_examples=500, deadline=None)
@given(frame=st.one_of(noise, noise.map(lambda line: line + b"\n")))
def test_a_command_of_garbage_is_words_or_a_framing_error(frame: bytes) -> None:
    try:
        words = resp.command(frame)
    except FramingError:
        return
    assert all(isinstance(word, bytes) for word in words)


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=MAX_SIZE))
@pytest.mark.parametrize("name", FRAMINGS)
def test_a_payload_that_encodes_is_delivered_unchanged(name: str, payload: bytes) -> None:
    framing, _ = FRAMINGS[name]
    try:
        frame = framing.encode(payload)
    except ValueError:
        return
    start, end, frame_end = framing.scanner().scan(frame, 0)
    assert (frame[start:end], frame_end) == (payload, len(frame))
