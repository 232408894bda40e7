"""Whatever arrives is a state or a StateError: random bytes, altered states, claims of size, and forged tags."""

import collections
import enum
import tracemalloc
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfd.errors import StateError
from hotfd.state import Codec, decode_any, encode_any, form

pack = msgspec.msgpack.encode


class Colour(enum.Enum):
    RED = 1


class Right(enum.Flag):
    READ = 1


class Pair(NamedTuple):
    left: Any = 0
    right: Any = 0


class Struct(msgspec.Struct):
    a: Any = 0

    def __post_init__(self):
        pass


@dataclass
class Visitor:
    lines: int = 0
    names: list[Any] = field(default_factory=list)
    colour: Colour = Colour.RED
    right: Right = Right.READ
    pair: Pair = field(default_factory=Pair)
    struct: Struct | None = None


CODEC = Codec.of(Visitor)
READ = CODEC.reader(CODEC.schema)
TYPE_TAGS = {name: form.FIRST_TYPE + number for number, name in enumerate(sorted(CODEC.schema["types"]))}
RICH = Visitor(
    5,
    [
        {1, 2},
        (b"x", [1.5, None]),
        {(1,): collections.deque([2**70], 3)},
        "\ud800",
        collections.defaultdict(list),
    ],
    pair=Pair([1], {b"k": "v"}),
    struct=Struct([Struct()]),
)
GOOD = CODEC.encode(RICH)


def reads_or_refuses(data):
    """Return whether it was read; anything but a StateError fails the test."""
    try:
        value = READ(data)
    except StateError as error:
        assert str(error).startswith("Visitor")
        return False
    # What is read is a real state: it can be written and travels again.
    assert type(value) is Visitor
    CODEC.encode(value)
    return True


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(data):
    reads_or_refuses(data)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=500, deadline=None)
def test_altered_bytes_are_read_or_refused(changes):
    data = bytearray(GOOD)
    for place, byte in changes:
        data[place] = byte
    reads_or_refuses(bytes(data))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, len(GOOD)), st.binary(max_size=4))
@settings(max_examples=300, deadline=None)
def test_cut_and_spliced_bytes_are_read_or_refused(start, end, between):
    reads_or_refuses(GOOD[:start] + between + GOOD[end:])


def test_every_truncation_is_refused():
    assert [end for end in range(len(GOOD)) if reads_or_refuses(GOOD[:end])] == []
    assert reads_or_refuses(GOOD)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3).filter(lambda d: all(abs(k) < 2**63 for k in d if type(k) is int)),
        st.builds(lambda tag, items: [tag, *items], st.sampled_from([*range(24), *TYPE_TAGS.values()]), st.lists(inner, max_size=6)),
        st.builds(lambda tag, items: [tag, items], st.integers(1, 12), st.lists(inner, max_size=4)),
        st.builds(lambda tag, numbers: [tag, *numbers, None], st.integers(14, 18), st.lists(st.integers(0, 59), max_size=8)),
    ),
    max_leaves=20,
)  # fmt: skip


@given(TREES, st.lists(TREES, min_size=6, max_size=6))
@settings(max_examples=500, deadline=None)
def test_forged_trees_are_read_or_refused(tree, fields):
    reads_or_refuses(pack([form.FORMAT, tree]))
    reads_or_refuses(pack([form.FORMAT, [TYPE_TAGS["Visitor"], *fields]]))


def with_names(*names):
    """Return a state whose names are written as given."""
    return pack([form.FORMAT, [TYPE_TAGS["Visitor"], 0, [form.LIST, list(names)], None, None, None, None]])


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        ([], "is not in the written form of a state"),
        ([None], "is not in the written form of a state"),
        ([True, [1]], "is not in the written form of a state"),
        ([1.0, [1]], "is not in the written form of a state"),
        ([99], "is not in the written form of a state"),
        ([form.ABSENT], "is not in the written form of a state"),
        pytest.param(msgspec.msgpack.Ext(-1, b"\0\0\0\0"), "is not in the written form of a state", id="ext"),
        ({(): 1}, "has a key that is not in the written form of a state"),
        ([form.LIST], "is no written sequence"),
        ([form.LIST, 5], "is no written sequence"),
        ([form.TUPLE, [], []], "is no written sequence"),
        ([form.SET, [1, 1]], "has items that are equal, and would be lost"),
        ([form.SET, [[form.LIST, []]]], "putting an item into a set or dict raised TypeError"),
        ([form.PAIRS, [1, 1], [2, 3]], "has items that are equal, and would be lost"),
        ([form.PAIRS, [1], []], "is no written dict"),
        ([form.PAIRS, [1]], "is no written dict"),
        ([form.DEQUE, [1, 2], 1], "is no written deque"),
        ([form.DEQUE, [], -1], "is no written deque"),
        ([form.DEQUE, [], 2**63], "is no written deque"),
        ([form.DEQUE, []], "is no written deque"),
        ([form.DEFAULTDICT, {}, "eval"], "is no written defaultdict"),
        ([form.DEFAULTDICT, {}, 5], "is no written defaultdict"),
        ([form.DEFAULTDICT, 5, "int"], "is no written dict"),
        ([form.ORDEREDDICT], "is no written dict"),
        ([form.INT, "5"], "is no int"),
        ([form.STR, b"\xff"], "is no str"),
        ([form.BYTEARRAY, 10**9], "is no bytearray"),
        ([form.DATE, 2024, 13, 1], "is no datetime.date"),
        ([form.DATE, 2024, 1.5, 1], "is no datetime.date"),
        ([form.DATETIME], "is no datetime.datetime"),
        ([form.TIME, 1, 2, 3, 4, 2, None], "is no datetime.time"),
        ([form.TIME, 1, 2, 3, 4, 0, [form.DATE, 1, 1, 1]], "is no datetime.time"),
        ([form.TIMEDELTA, 2**62, 0, 0], "is no datetime.timedelta"),
        ([form.TIMEDELTA, 1.5, 0, 0], "is no datetime.timedelta"),
        ([form.TIMEDELTA, True, 0, 0], "is no datetime.timedelta"),
        ([form.TIMEZONE, 5, 0, 0, None], "is no datetime.timezone"),
        ([form.TIMEZONE, 0, 0, 0, 5], "is no datetime.timezone"),
        ([form.ZONEINFO, "../../etc/passwd"], "is no zoneinfo.ZoneInfo"),
        ([form.ZONEINFO, "/etc/passwd"], "is no zoneinfo.ZoneInfo"),
        ([form.ZONEINFO, "Europe"], "is no zoneinfo.ZoneInfo"),
        ([form.ZONEINFO, "a\0b"], "is no zoneinfo.ZoneInfo"),
        ([form.DECIMAL, "spoon"], "is no decimal.Decimal"),
        ([form.UUID, b"short", None], "is no uuid.UUID"),
        ([form.UUID, b"0123456789abcdef", 7], "is no uuid.UUID"),
        ([form.COMPLEX, 1.0, "j"], "is no complex"),
        ([form.MSGSPEC_UNSET, 1], "is no msgspec.UnsetType"),
        ([TYPE_TAGS["Colour"], "GREEN"], "is no member of Colour"),
        ([TYPE_TAGS["Colour"], 1], "is no member of Colour"),
        ([TYPE_TAGS["Right"], 64], "is no Right of this version"),
        ([TYPE_TAGS["Right"], "READ"], "is no Right of this version"),
        ([TYPE_TAGS["Right"]], "is not in the written form of a state"),
        ([TYPE_TAGS["Pair"], 1], "has more or fewer fields than were announced"),
        ([TYPE_TAGS["Pair"], 1, [form.ABSENT]], "has a field without a value"),
        ([TYPE_TAGS["Struct"], 1, 2], "has more or fewer fields than were announced"),
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_part_is_refused_at_its_place(wire, problem):
    with pytest.raises(StateError) as caught:
        READ(with_names(1, wire))
    assert caught.value.path == "Visitor.names[1]"
    assert caught.value.problem.startswith(problem)


def test_the_place_inside_dicts_and_objects_is_told():
    def path(wire):
        with pytest.raises(StateError) as caught:
            READ(with_names(wire))
        return caught.value.path

    assert path({"secret": [99]}) == "Visitor.names[0].values()[0]"
    assert path([form.PAIRS, [1, [99]], [1, 2]]) == "Visitor.names[0].keys()[1]"
    assert path([TYPE_TAGS["Pair"], 1, [99]]) == "Visitor.names[0].right"


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", pack(5), pack([]), pack([1]), pack([2, None]), pack([True, None]), GOOD + b"\0"]
)
def test_what_is_not_of_this_format_is_refused(data):
    with pytest.raises(StateError, match=r"^Visitor: is not written in format 1$"):
        READ(data)


def test_a_state_with_more_behind_it_is_refused():
    with pytest.raises(StateError, match=r"^Visitor: is not the written form of a state$"):
        READ(pack([form.FORMAT, None, None]))


def test_a_root_of_another_type_is_refused():
    with pytest.raises(StateError, match=r"^Visitor: is of type int and not "):
        READ(pack([form.FORMAT, 5]))


def test_an_undeclared_value_is_read_or_refused():
    for data in (b"", pack([1, [99]]), pack([1, None, 5]), pack([1, None, {}]), encode_any(1)[:-1]):
        with pytest.raises(StateError, match=r"^value: "):
            decode_any(data)


@pytest.mark.parametrize(
    "claim", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdd\x00\xff\xff\xff" * 90]
)  # fmt: skip
def test_a_claimed_size_allocates_nothing(claim):
    tracemalloc.start()
    try:
        assert not reads_or_refuses(b"\x92\x01" + claim)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 16 MiB items were announced at the least, at eight bytes each.
    assert peak < 1 << 20


@pytest.mark.parametrize("depth", [200, 900, 100_000])
def test_nesting_without_end_is_refused(depth):
    assert not reads_or_refuses(b"\x92\x01" + b"\x92\x01\x91" * depth + b"\xc0")
    assert not reads_or_refuses(b"\x92\x01" + b"\x81\x01" * depth + b"\xc0")


def test_a_key_without_a_hash_is_refused():
    # {{}: 1}, which msgpack can say and Python cannot.
    assert not reads_or_refuses(b"\x92\x01\x81\x80\x01")
