"""The records beside an offer's descriptors."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.errors import ChannelError
from hotfd.wire.records import (
    MAX_TIMERS,
    ConnectionRecord,
    Part,
    SessionRecord,
    SubscriptionRecord,
    decode_part,
    encode_part,
)

IDS = st.integers(0, (1 << 62) - 1)
COOKIES = st.integers(0, (1 << 64) - 1)
BYTES = st.binary(max_size=40)
TEXTS = st.text(max_size=20)
PEERNAMES = st.just("") | st.tuples(TEXTS, st.integers(0, 65535)).map(list)

TIMERS = st.lists(st.tuples(st.text(min_size=1, max_size=20), st.floats(0, 1e9)), max_size=3).map(tuple)

SESSIONS = st.builds(
    SessionRecord, IDS, TEXTS, st.integers(0, 10_000), st.none() | TEXTS, st.none() | BYTES, timers=TIMERS
)
CONNECTIONS = st.builds(
    ConnectionRecord,
    IDS,
    COOKIES,
    TEXTS,
    TEXTS,
    st.integers(0, 50),
    PEERNAMES,
    BYTES,
    BYTES,
    BYTES,
    st.booleans(),
    st.booleans(),
    st.integers(0, (1 << 63) - 1),
    st.none() | BYTES,
    timers=TIMERS,
    subscriptions=st.lists(
        st.builds(SubscriptionRecord, TEXTS, st.integers(0, 1 << 40), st.lists(BYTES, max_size=3)), max_size=3
    ).map(tuple),
    mark=st.lists(st.tuples(st.binary(min_size=8, max_size=8), IDS), max_size=3).map(tuple),
)
PARTS = st.builds(Part, st.lists(SESSIONS, max_size=3), st.lists(CONNECTIONS, max_size=3), st.none() | BYTES)


@given(PARTS)
def test_records_come_back_as_they_went(part: Part) -> None:
    assert decode_part(encode_part(part)) == part


def test_empty_and_absent_bytes_stay_different() -> None:
    part = Part([SessionRecord(0, "a", 0, None, b""), SessionRecord(1, "b", 0, "", None)], [], b"")
    assert decode_part(encode_part(part)) == part
    assert decode_part(encode_part(Part([], []))).process is None


def test_buffers_of_megabytes_travel() -> None:
    record = ConnectionRecord(0, 1, "c", "l", 2, None, b"s" * (1 << 20), b"u" * (4 << 20), b"w" * (16 << 20))
    assert decode_part(encode_part(Part([], [record]))).connections == [record]


@given(st.binary(max_size=100))
def test_random_bytes_are_no_records(data: bytes) -> None:
    with pytest.raises(ChannelError):
        decode_part(data)


@given(PARTS, st.data(), st.binary(min_size=1, max_size=4))
def test_records_with_changed_bytes_are_other_records_or_refused(part: Part, data: st.DataObject, patch: bytes) -> None:
    whole = encode_part(part)
    at = data.draw(st.integers(0, len(whole) - 1))
    with contextlib.suppress(ChannelError):
        assert isinstance(decode_part(whole[:at] + patch + whole[at + len(patch) :]), Part)


@pytest.mark.parametrize(
    "timers",
    [
        [["t", 1.5]] * (MAX_TIMERS + 1),
        [["t"]],
        [["t", -1.0]],
        [["t", float("inf")]],
        [["", 1.0]],
        [["t" * 256, 1.0]],
        "t",
    ],
    ids=["too-many", "half-a-timer", "negative", "infinite", "no-name", "long-name", "no-list"],
)
def test_timers_that_none_can_have_are_refused(timers: object) -> None:
    good = [0, 1, "c", "l", 2, None, b"", b"", b"", False, False, 0, None, None]
    most = tuple(("t", 1.5) for _ in range(MAX_TIMERS))
    assert decode_part(msgspec.msgpack.encode([[], [[*good, most]]])).connections[0].timers == most
    with pytest.raises(ChannelError, match="cannot be read"):
        decode_part(msgspec.msgpack.encode([[], [[*good, timers]]]))


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ChannelError, match="cannot be read"):
        decode_part(b"\x92\x91\x93\x00\xa1\xff\x01\x90")


@given(PARTS, st.data())
def test_records_that_are_cut_anywhere_are_refused(part: Part, data: st.DataObject) -> None:
    whole = encode_part(part)
    with pytest.raises(ChannelError):
        decode_part(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        [[]],
        [[[-1, "a", 1]], []],
        [[[1 << 62, "a", 1]], []],
        [[["0", "a", 1]], []],
        [[], [[0, -1, "c", "l", 2, None, b""]]],
        [[], [[0, 1, "c", "l", 2, None]]],
        [[], [[0, 1, "c", "l", "inet", None, b""]]],
        [[], [[0, 1, "c", "l", 2, None, b"", 7]]],
    ],
    ids=repr,
)
def test_records_of_another_shape_are_refused(content: object) -> None:
    with pytest.raises(ChannelError, match="cannot be read"):
        decode_part(msgspec.msgpack.encode(content))


def test_a_length_that_lies_costs_an_error_and_no_memory() -> None:
    with pytest.raises(ChannelError):
        decode_part(b"\x92\xdd\xff\xff\xff\xff")
    with pytest.raises(ChannelError):
        decode_part(b"\x92\x90" + b"\x91" * 100_000)
