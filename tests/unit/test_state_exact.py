"""What comes back is what went: every type that can travel, alone and inside every other."""
# ruff: noqa: DTZ001, DTZ901 - naive times are among what must travel

import collections
import datetime as dt
import decimal
import enum
import gc
import math
import struct
import tracemalloc
import uuid
import weakref
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfd.errors import StateError
from hotfd.state import Codec, State, decode_any, encode_any
from hotfd.state.catalogue import Catalogue
from hotfd.state.compare import difference

T = TypeVar("T")


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias is among what must travel
    BLUE = "blue"


class Rank(enum.IntEnum):
    LOW = 1


class Mood(enum.StrEnum):
    GOOD = "good"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Mask(enum.IntFlag):
    A = 1
    B = 2


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


@dataclass(slots=True)
class Slotted:
    a: int = 0
    b: Any = None


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    a: int = 0


@dataclass
class Lone:
    only: Any = None


@dataclass
class Empty:
    pass


@dataclass
class HalfSlotted(Slotted):
    c: int = 0


@dataclass(kw_only=True)
class Keyworded:
    z: int = 1
    a: int = 2


@dataclass
class Hidden:
    _secret: bytes = b""
    __mangled: int = 7
    shown: int = field(default=0, repr=False, compare=False)


@dataclass
class Late:
    early: int = 0
    late: int = field(init=False, repr=False)


@dataclass
class Watched:
    """Notes every call that rebuilding must not make."""

    a: int = 0
    calls = 0

    def __init__(self, a=0):
        type(self).calls += 1
        self.a = a

    def __setattr__(self, name, value):
        type(self).calls += 1
        object.__setattr__(self, name, value)


@dataclass
class Counted:
    a: int = 0
    made = 0

    def __post_init__(self):
        Counted.made += 1


class Noisy(msgspec.Struct):
    a: int = 0
    b: list[int] = []

    def __post_init__(self):
        Counted.made += 1


class FrozenNoisy(Noisy, frozen=True, kw_only=True):
    c: str = "c"


class Plain(msgspec.Struct):
    a: int = 0
    b: Any = None


class Keyed(msgspec.Struct, kw_only=True, rename="camel", array_like=True, tag=True):
    some_name: int = 0
    _other: Any = None


class Roomy(msgspec.Struct, dict=True):
    a: int = 0


class Pair(NamedTuple):
    left: int = 0
    right: Any = None


Bare = collections.namedtuple("Bare", "a b", defaults=(1, 2))


class Room(TypedDict, total=False):
    name: str
    seats: dict[int, Point]


@dataclass
class Box(Generic[T]):
    content: T | None = None


@dataclass
class Node:
    value: Any = None
    children: "list[Node]" = field(default_factory=list)
    by_key: "dict[bytes, Node]" = field(default_factory=dict)


CLASSES = (
    Colour, Rank, Mood, Right, Mask, Point, Slotted, FrozenSlotted, Lone, Empty, HalfSlotted, Keyworded, Hidden,
    Late, Plain, Keyed, Noisy, FrozenNoisy, Roomy, Pair, Bare, Room, Box, Node,
)  # fmt: skip

NAN_WITH_PAYLOAD = struct.unpack("<d", b"\x01\x02\x03\x04\x05\x06\xf8\xff")[0]
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def there_and_back(value):
    return decode_any(encode_any(value, CLASSES), CLASSES)


def _shapes():
    catalogue = Catalogue()
    for cls in CLASSES:
        catalogue.add(cls, cls.__name__)
    return catalogue.shapes


SHAPES = _shapes()


def assert_exact(value):
    back = there_and_back(value)
    assert difference(value, back, "value", SHAPES) is None, f"{value!r} came back as {back!r}"


ALONE = [
    None, True, False, 0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, -(10**400),
    0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, NAN_WITH_PAYLOAD, 5e-324, complex(-0.0, math.nan),
    "", "text", "\x00", "\ud800", "a\udfffb", "\ud83d\ude00", "😀", b"", b"\x00\xff", bytearray(b""), bytearray(b"ab"),
    [], (), set(), frozenset(), {}, [[]], ([],), [()], ((),), {()}, {frozenset()}, collections.deque(),
    collections.deque([1, [2]], 5), collections.deque(maxlen=0), [None, True, 1, 1.0, "1", b"1"],
    {1, 2.5, "a", b"a", None, (1, 2)}, {True}, {1.0}, frozenset({frozenset({1}), (2,)}),
    {1: "a", b"1": "b", "1": "c", None: "d", 2.5: "e", (1, (2,)): "f", frozenset({1}): "g"},
    {True: 1}, {1.0: 1}, {math.nan: 1}, {2**70: {"\ud800": 2**70}}, {"\ud800": 1, "b": 2},
    collections.OrderedDict(b=1, a=2), collections.Counter("hello"), collections.Counter({"a": None}),
    collections.defaultdict(list, {b"k": [1]}), collections.defaultdict(None, {1: 2}), collections.defaultdict(set),
    dt.date(1, 1, 1), dt.date.max, dt.time(1, 2, 3, 4), dt.time(1, fold=1), dt.time(1, tzinfo=dt.UTC),
    dt.datetime.min, dt.datetime.max, dt.datetime(2024, 2, 29, 1, 2, 3, 4), dt.datetime(2024, 10, 27, 2, 30, fold=1),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN), dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-5, microseconds=7), "odd\ud800")),
    dt.timezone(dt.timedelta(0)), dt.timezone(dt.timedelta(0), "UTC"), BERLIN,
    dt.timedelta(days=-1, microseconds=1), dt.timedelta.max, dt.timedelta.min,
    decimal.Decimal("-0"), decimal.Decimal("1.10"), decimal.Decimal("1E+999999"), decimal.Decimal("NaN"),
    decimal.Decimal("-sNaN123"), decimal.Decimal("Infinity"), decimal.Decimal(10) ** 40 + 1,
    uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID(int=5, is_safe=uuid.SafeUUID.safe), msgspec.UNSET,
    Colour.RED, Colour.CRIMSON, Colour.BLUE, Rank.LOW, Mood.GOOD, Right.READ | Right.WRITE, Right(0), Mask(-1), Mask(8),
    Point(-0.0), Point(math.nan, math.inf), {Point(1.0)}, {Point(1.0): Point(2.0)}, Slotted(1, Slotted()),
    FrozenSlotted(3), Lone([1]), Empty(), HalfSlotted(1, 2, 3), Keyworded(z=3, a=4), Hidden(b"s", 9, 1), Late(1),
    Plain(1, Plain()), Keyed(some_name=3, _other={1}), Noisy(1, [2]), FrozenNoisy(1, [2], c="d"), Roomy(4),
    Pair(1, Pair()), Bare(3), Box(Box(1)), Node(1, [Node(2)], {b"\xff": Node(3)}), [Colour.RED, 1],
]  # fmt: skip


@pytest.mark.parametrize("value", ALONE, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_went(value):
    assert_exact(value)


def hashable_atoms():
    return st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.binary(max_size=9),
        st.text(st.characters(), max_size=9), st.text(st.characters(categories=["Cs", "Lu"]), max_size=3),
        st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=True), st.timedeltas(), st.dates(),
        st.times(), st.decimals(), st.uuids(), st.sampled_from([*Colour, *Rank, *Mood, Right.READ, Mask(3)]),
    )  # fmt: skip


def hashables(inner):
    return st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Pair, inner, inner),
    )


KEYS = st.recursive(
    # A signalling NaN has no hash.
    hashable_atoms().filter(lambda value: not (isinstance(value, decimal.Decimal) and value.is_snan())),
    hashables,
    max_leaves=6,
)


def containers(inner):
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(KEYS, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(collections.OrderedDict),
        st.lists(inner, max_size=4).map(collections.deque),
        st.builds(Slotted, inner, inner),
        st.builds(Plain, inner, inner),
        st.builds(Noisy, inner, inner),
        st.builds(Box, inner),
        st.builds(Keyed, some_name=inner, _other=inner),
        st.builds(Node, inner, st.lists(st.builds(Node, inner), max_size=2)),
        st.binary(max_size=5).map(bytearray),
    )


VALUES = st.recursive(KEYS | hashable_atoms(), containers, max_leaves=12)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_comes_back_as_it_went(value):
    assert_exact(value)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_what_came_back_is_written_in_the_same_way_again(value):
    # Sets have no order, so the second writing is compared by what comes of it.
    assert_exact(there_and_back(value))


def test_the_order_of_a_dict_is_kept():
    value = dict.fromkeys(("z", b"a", 3, "b", (1,), 2))
    assert list(there_and_back(value)) == ["z", b"a", 3, "b", (1,), 2]
    moved = collections.OrderedDict.fromkeys("abc")
    moved.move_to_end("a")
    assert list(there_and_back(moved)) == ["b", "c", "a"]


def test_private_and_mangled_fields_travel():
    back = there_and_back(Hidden(b"secret", 9, 1))
    assert (back._secret, back._Hidden__mangled, back.shown) == (b"secret", 9, 1)


def test_a_bool_is_no_int_and_an_int_no_float():
    back = there_and_back([True, 1, 1.0])
    assert [type(item) for item in back] == [bool, int, float]


def test_an_object_is_rebuilt_without_init_setattr_or_post_init():
    codec = Codec.of(Watched)
    data = codec.encode(Watched(5))
    Watched.calls = 0
    assert codec.reader(codec.schema)(data).a == 5
    assert Watched.calls == 0


@pytest.mark.parametrize("cls", [Node, Slotted, Point, FrozenSlotted, Plain, Noisy])
def test_an_object_that_was_rebuilt_is_no_larger_than_one_that_was_made(cls):
    shape = SHAPES[cls]
    values = [None] * len(shape.fields)

    def size(make):
        tracemalloc.start()
        try:
            kept = [make() for _ in range(1_000)]
            return tracemalloc.get_traced_memory()[0] / len(kept)
        finally:
            tracemalloc.stop()

    made = size(lambda: cls(*values))
    assert size(lambda: shape.make(values)) < made + 8


@pytest.mark.parametrize("value", [Counted(3), Noisy(3, [4]), FrozenNoisy(3, [4], c="x")])
def test_post_init_does_not_run_a_second_time(value):
    codec = Codec.of(type(value))
    data = codec.encode(value)
    Counted.made = 0
    back = codec.reader(codec.schema)(data)
    assert back == value
    assert type(back) is type(value)
    assert Counted.made == 0


def test_a_cycle_through_a_rebuilt_struct_is_freed():
    class Node(msgspec.Struct, weakref=True):
        label: str = ""
        nodes: list[Any] = []

        def __post_init__(self):
            pass

    codec = Codec.of(Node)
    node = codec.reader(codec.schema)(codec.encode(Node("a")))
    node.nodes.append(node)
    alive = weakref.ref(node)
    del node
    gc.collect()
    assert alive() is None


def test_two_rebuilt_structs_share_nothing():
    codec = Codec.of(Noisy)
    read = codec.reader(codec.schema)
    first, second = read(codec.encode(Noisy(1, [1]))), read(codec.encode(Noisy(2, [2])))
    first.b.append(9)
    assert (first.a, first.b, second.a, second.b) == (1, [1, 9], 2, [2])


def test_a_field_that_has_no_value_yet_comes_back_without_one():
    back = there_and_back(Late(1))
    assert not hasattr(back, "late")
    back.late = 5
    assert there_and_back(back).late == 5


def test_a_deleted_attribute_shows_the_class_default_again():
    value = Lone(1)
    del value.only
    back = there_and_back(value)
    assert back.__dict__ == {}
    assert back.only is None


def test_a_slot_without_a_value_comes_back_without_one():
    value = Slotted(1, 2)
    del value.b
    back = there_and_back(value)
    assert back.a == 1
    assert not hasattr(back, "b")


def test_a_class_that_answers_for_missing_attributes_is_seen_through():
    @dataclass(slots=True)
    class Answering:
        a: int = 0

        def __getattr__(self, name):
            return "invented"

    codec = Codec.of(Answering)
    value = Answering()
    del value.a
    back = codec.reader(codec.schema)(codec.encode(value))
    with pytest.raises(AttributeError):
        object.__getattribute__(back, "a")


def test_a_tuple_that_shows_something_else_than_it_holds_is_seen_through():
    class Shy(NamedTuple("Shy", [("left", int), ("right", list[int])])):
        __slots__ = ()

        def __new__(cls, left: int = 1, right: Any = ()) -> Self:
            return super().__new__(cls, left, right)

        def __iter__(self):
            return iter(("***", "***"))

    codec = Codec.of(Shy)
    value = Shy(7, [8])
    back = codec.reader(codec.schema)(codec.encode(value))
    assert (back.left, back.right) == (7, [8])
    assert codec.roundtrips(value) is None
    older = codec.older(codec.schema)
    assert not isinstance(older, str)
    assert older.encode(value) == codec.encode(value)


def test_a_shared_object_comes_back_as_two_equal_ones():
    shared = [1]
    first, second = there_and_back([shared, shared])
    assert first == second == [1]
    assert first is not second


def test_a_typed_dict_is_a_dict_with_all_its_entries():
    codec = Codec.of(Room)
    value = {"name": "a", "seats": {3: Point(1.0)}, "undeclared": b"x"}
    back = codec.reader(codec.schema)(codec.encode(value))
    assert back == value
    assert codec.new() == {}


def test_a_function_pair_writes_what_no_type_describes():
    class Parser:
        def __init__(self, seen):
            self.seen = seen

    codec = Codec.of(
        State(
            Parser,
            encode=lambda parser: {"seen": parser.seen},
            decode=lambda d: Parser(**d),
            new=lambda: Parser(b""),
        )
    )
    back = codec.reader(codec.schema)(codec.encode(Parser(b"half")))
    assert type(back) is Parser
    assert back.seen == b"half"
    assert codec.roundtrips(Parser(b"x")) is None
    assert codec.new().seen == b""


def test_nothing_declared_is_none_and_stays_none():
    codec = Codec.of(None)
    assert codec.new() is None
    assert codec.reader(codec.schema)(codec.encode(None)) is None
    with pytest.raises(StateError, match=r"^state: is of type int and not NoneType$"):
        codec.encode(5)


@pytest.mark.parametrize("declared", [dict, list, set, int, dict[bytes, list[int]], collections.deque, bytearray])
def test_a_plain_type_is_a_state_too(declared):
    codec = Codec.of(declared)
    assert codec.roundtrips(codec.new()) is None


def test_a_state_round_trips():
    codec = Codec.of(Node)
    assert codec.roundtrips(Node(math.nan, [Node({1})], {b"k": Node(2**80)})) is None


def test_a_state_that_cannot_be_written_does_not_round_trip_and_says_where():
    assert (
        Codec.of(Node)
        .roundtrips(Node(children=[Node(object())]))
        .startswith("Node.children[0].value: is of type object")
    )


def test_the_path_of_the_first_difference_is_given():
    class Forgetful:
        def __init__(self, items):
            self.items = items

    codec = Codec.of(
        State(
            Forgetful,
            encode=lambda f: f.items,
            decode=lambda items: Forgetful(items[:1]),
            new=lambda: Forgetful([]),
        )
    )
    assert codec.roundtrips(Forgetful([1])) is None
    assert codec.roundtrips(Forgetful([1, 2])) == "Forgetful"


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        (1, True, "v"), (1, 1.0, "v"), (0.0, -0.0, "v"), (math.nan, NAN_WITH_PAYLOAD, "v"), ([1, [2]], [1, [3]], "v[1][0]"),
        ({1: 2, 3: 4}, {3: 4, 1: 2}, "v.keys()[0]"), ({"a": 1}, {"a": 2}, "v.values()[0]"), ({1}, {True}, "v"),
        ({(1, 0.0)}, {(1, -0.0)}, "v"), (Point(1.0), Point(1.0, -0.0), "v.y"), ([1], [1, 2], "v"), (b"a", bytearray(b"a"), "v"),
        (dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, fold=1), "v"), (Hidden(shown=1), Hidden(shown=2), "v.shown"),
        (dt.timezone(dt.timedelta(0)), dt.timezone(dt.timedelta(0), "UTC"), "v"), (decimal.Decimal("1.0"), decimal.Decimal(1), "v"),
        (collections.deque([1], 2), collections.deque([1], 3), "v"), (Right.READ, Right.WRITE, "v"), (Pair(1), Pair(2), "v.left"),
        (collections.defaultdict(int), collections.defaultdict(list), "v"), (Late(1), Late(2), "v.early"),
        (uuid.UUID(int=5), uuid.UUID(int=5, is_safe=uuid.SafeUUID.safe), "v"), (complex(0, 0.0), complex(0, -0.0), "v"),
    ],
)  # fmt: skip
def test_a_difference_is_seen(before, after, path):
    assert difference(before, after, "v", SHAPES) == path
    assert difference(before, before, "v", SHAPES) is None


def test_every_declared_class_here_is_tried():
    assert {*CLASSES} - {type(value) for value in ALONE} == {Room}
