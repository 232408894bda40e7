"""The messages of the channel: what goes in comes out, and what is no message is refused as such."""

from __future__ import annotations

import contextlib
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd import _core
from hotfd.errors import ChannelError
from hotfd.wire import messages as m

IDS = st.integers(0, (1 << 62) - 1)
COOKIES = st.integers(0, (1 << 64) - 1)
COUNTS = st.integers(0, (1 << 31) - 1)
PIDS = st.integers(1, (1 << 31) - 1)
TEXTS = st.text(max_size=40)
FLOATS = st.floats(0, 86400)
SPECS = st.dictionaries(TEXTS, TEXTS, max_size=3)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | TEXTS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)

KEYS = st.text(min_size=1, max_size=255)
SCHEMA = st.dictionaries(TEXTS, PLAIN, max_size=3)
SCHEMAS = st.dictionaries(TEXTS, SCHEMA, max_size=3)

BYTES = st.binary(max_size=20)
ORIGINS = st.binary(min_size=8, max_size=8)
VECTORS = st.lists(st.tuples(ORIGINS, IDS), max_size=5)

KINDS: dict[type[m.Message], st.SearchStrategy[m.Message]] = {
    m.Setup: st.builds(
        m.Setup, COUNTS, TEXTS, COUNTS, PIDS, SCHEMA, st.booleans(), SPECS, SCHEMAS, st.booleans(), st.none() | COUNTS
    ),
    m.Hello: st.builds(
        m.Hello, COUNTS, PIDS, TEXTS, SPECS, COUNTS, COUNTS, st.none() | TEXTS, st.none() | SCHEMA, SCHEMAS
    ),
    m.Rewritten: st.builds(m.Rewritten, SCHEMA, SCHEMAS),
    m.Ready: st.builds(m.Ready),
    m.Failed: st.builds(m.Failed, TEXTS, TEXTS),
    m.Listeners: st.builds(
        m.Listeners, st.lists(st.builds(m.ListenerEntry, TEXTS, COOKIES), max_size=5), st.booleans()
    ),
    m.OfferPart: st.builds(m.OfferPart, IDS, COUNTS, COUNTS, IDS, COUNTS),
    m.Accept: st.builds(m.Accept, st.lists(IDS, max_size=20)),
    m.Refuse: st.builds(m.Refuse, st.lists(st.builds(m.Refusal, IDS, TEXTS, TEXTS), max_size=5)),
    m.Commit: st.builds(m.Commit, st.lists(IDS, max_size=20)),
    m.Revoke: st.builds(m.Revoke, st.lists(IDS, max_size=20)),
    m.Newcomer: st.builds(m.Newcomer, COOKIES, COUNTS, TEXTS),
    m.Ended: st.builds(m.Ended, st.lists(COOKIES, max_size=20)),
    m.Finish: st.builds(m.Finish, FLOATS),
    m.Settled: st.builds(m.Settled, FLOATS, FLOATS, FLOATS),
    m.Abort: st.builds(m.Abort, TEXTS, TEXTS),
    m.Kinds: st.builds(m.Kinds, SCHEMAS),
    m.Releases: st.builds(m.Releases),
    m.Linked: st.builds(m.Linked),
    m.Holds: st.builds(m.Holds, st.lists(KEYS, max_size=5), st.booleans()),
    m.Released: st.builds(m.Released, KEYS),
    m.Wanted: st.builds(m.Wanted, KEYS),
    m.Newest: st.builds(m.Newest, PIDS, COUNTS),
    m.Elder: st.builds(m.Elder, PIDS, COUNTS),
    m.Replaced: st.builds(m.Replaced),
    m.Handover: st.builds(m.Handover),
    m.BusPast: st.builds(m.BusPast, ORIGINS, IDS, KEYS, BYTES),
    m.BusJoin: st.builds(m.BusJoin, VECTORS, VECTORS),
    m.BusWelcome: st.builds(m.BusWelcome, VECTORS),
    m.Publish: st.builds(m.Publish, ORIGINS, IDS, KEYS, BYTES),
    m.Published: st.builds(m.Published, IDS, IDS, ORIGINS, IDS, KEYS, BYTES),
    m.BusSeen: st.builds(m.BusSeen, IDS, IDS),
    m.BusCut: st.builds(m.BusCut),
}
ANY = st.one_of(*KINDS.values())


def packet(*fields: object) -> bytes:
    """A packet with a good header and any content: what a broken or hostile partner could send."""
    return m.HEADER + msgspec.msgpack.encode(fields)


def test_the_tests_know_every_kind_of_message() -> None:
    assert set(KINDS) == set(typing.get_args(m.AnyMessage))


@given(ANY)
def test_a_message_comes_back_as_it_went(message: m.Message) -> None:
    assert m.decode(m.encode(message)) == message


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        m.decode(data)


@given(st.binary(max_size=200))
def test_random_bytes_behind_a_good_header_are_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        m.decode(m.HEADER + data)


@given(ANY, st.data(), st.binary(min_size=1, max_size=4))
def test_a_message_with_changed_bytes_is_another_message_or_refused(
    message: m.Message, data: st.DataObject, patch: bytes
) -> None:
    whole = m.encode(message)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + patch + whole[at + len(patch) :]
    with contextlib.suppress(ChannelError):
        assert isinstance(m.decode(changed), m.Message)


@pytest.mark.parametrize(
    "content",
    [b"\x93\xa6failed\xa1\xff\xa0", b"\x98\xa5setup\x01\xa1a\x01\x01\x81\xa1a\xa1\xff\xc2\x80"],
    ids=["reason", "schema"],
)
def test_text_that_is_no_utf_8_is_refused(content: bytes) -> None:
    with pytest.raises(ChannelError):
        m.decode(m.HEADER + content)


def test_a_message_that_fits_no_packet_is_the_callers_mistake() -> None:
    schema = {"fields": "x" * _core.MAX_MESSAGE}
    with pytest.raises(ValueError, match="65536"):
        m.encode(m.Setup(m.PROTOCOL, "id", 2, 1, schema, False, {}))
    assert m.MAX_PACKET == _core.MAX_MESSAGE


@given(ANY, st.data())
def test_a_message_that_is_cut_anywhere_is_refused(message: m.Message, data: st.DataObject) -> None:
    whole = m.encode(message)
    with pytest.raises(ChannelError):
        m.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(ANY, st.binary(min_size=1, max_size=5))
def test_a_message_with_something_behind_it_is_refused(message: m.Message, more: bytes) -> None:
    with pytest.raises(ChannelError):
        m.decode(m.encode(message) + more)


@pytest.mark.parametrize("header", [b"", b"HF", b"HF\x02\x00", b"HF\x01\x01", b"hf\x01\x00", b"\x00\x00\x00\x00"])
def test_another_header_is_refused_whatever_follows(header: bytes) -> None:
    with pytest.raises(ChannelError, match="format 1"):
        m.decode(header + m.encode(m.Ready())[4:])


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("nonsense",),
        (1, 2),
        ("accept",),
        ("accept", [-1]),
        ("accept", [1 << 62]),
        ("accept", ["1"]),
        ("accept", list(range(m.MAX_IDS + 1))),
        ("ended", [-1]),
        ("ended", [1] * (m.MAX_IDS + 1)),
        ("refuse", [[1, "x" * (m.MAX_TEXT + 1), ""]]),
        ("refuse", [[1, "", ""]] * (m.MAX_IDS + 1)),
        ("failed", "code"),
        ("abort", "code", "x" * (m.MAX_TEXT + 1)),
        ("listeners", [["x", 1]] * 201, False),
        ("offerpart", 0, -1, 1, 0, 1),
        ("offerpart", 0, 0, 1 << 31, 0, 1),
        ("newcomer", 1, -1, "x"),
        ("finish", -0.5),
        ("finish", float("nan")),
        ("finish", float("inf")),
        ("hello", 1, 0, "v", {}, 1, 1, None),
        ("setup", 1, "id", 1, 1, [], False, {}),
    ],
    ids=repr,
)
def test_fields_that_cannot_be_are_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(ChannelError):
        m.decode(packet(*fields))


@pytest.mark.parametrize(
    "content",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x92\xa6accept\xdd\xff\xff\xff\xff",
        b"\x92\xa6accept\xdd\x00\x00\x10\x00",
        b"\x92\xa5ended\xdd\x7f\xff\xff\xff",
        b"\x98\xa5setup\x01\xa1a\x01\x01\xdf\xff\xff\xff\xff",
        b"\x98\xa5setup\x01\xa1a\x01\x01\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x98\xa5setup\x01\xa1a\x01\x01\x81\xa1a" + b"\x91" * 50_000,
    ],
    ids=["array", "ids", "short-ids", "cookies", "map", "inner-array", "nested"],
)
def test_a_length_that_lies_costs_an_error_and_no_memory(content: bytes) -> None:
    with pytest.raises(ChannelError):
        m.decode(m.HEADER + content)


@pytest.mark.parametrize("kind", [m.Accept, m.Commit, m.Revoke])
def test_a_message_full_of_the_largest_ids_fits_a_packet(kind: type[m.Accept]) -> None:
    message = kind([(1 << 62) - 1 - i for i in range(m.MAX_IDS)])
    assert len(m.encode(message)) <= _core.MAX_MESSAGE
    assert m.decode(m.encode(message)) == message


def test_a_message_full_of_the_largest_cookies_fits_a_packet() -> None:
    message = m.Ended([(1 << 64) - 1] * m.MAX_IDS)
    assert len(m.encode(message)) <= _core.MAX_MESSAGE
    assert m.decode(m.encode(message)) == message


@pytest.mark.parametrize("kind", [m.Failed, m.Abort])
def test_a_reason_of_the_longest_text_fits_a_packet(kind: type[m.Failed]) -> None:
    widest = "\U0001f600" * m.MAX_TEXT
    assert len(m.encode(kind(widest, widest))) <= _core.MAX_MESSAGE


@given(st.lists(IDS, max_size=3 * m.MAX_IDS // 1000), st.integers(0, 2 * m.MAX_IDS + 1))
def test_chunks_keep_every_id_in_order_and_fit_a_message(some: list[int], more: int) -> None:
    ids = some + list(range(more))
    parts = m.chunks(ids)
    assert [id for part in parts for id in part] == ids
    assert all(0 < len(part) <= m.MAX_IDS for part in parts)
