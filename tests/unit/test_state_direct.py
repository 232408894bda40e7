"""Plain fields are read directly; whatever comes, that leads to what the reader from the beginning would say."""

import datetime as dt
import enum
import functools
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from inspect import getclosurevars
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfd.errors import StateError
from hotfd.state import Codec, State, codec, direct, form, writer
from hotfd.state.compare import difference
from hotfd.state.reader import Reader
from tests.unit.test_state_garbage import TREES

pack = msgspec.msgpack.encode


class Colour(enum.Enum):
    RED = 1


@dataclass(slots=True)
class Item:
    name: str = ""
    tags: list[str] = field(default_factory=list)


class Pair(NamedTuple):
    left: int = 0
    right: Any = None


class Struct(msgspec.Struct):
    data: bytes = b""
    inner: Item | None = None


@dataclass
class Node:
    name: str = ""
    children: "list[Node]" = field(default_factory=list)


@dataclass
class Guarded:
    """Of its own making, by functions that count."""

    number: int = 0
    decoded = 0


def guarded(number: Any) -> Guarded:
    Guarded.decoded += 1
    return Guarded(number)


PLAIN = (type(None), bool, int, float, str, bytes)
OTHERS = (Any, dt.date, Colour, list, dict, tuple, set[int], frozenset[str], Item, Pair, Struct, Node)

TYPES = st.recursive(
    st.sampled_from(PLAIN + OTHERS),
    lambda inner: st.one_of(
        st.builds(lambda kind: list[kind], inner),
        st.builds(lambda kind: tuple[kind, ...], inner),
        st.builds(lambda first, second: tuple[first, second], inner, inner),
        st.builds(lambda key, kind: dict[key, kind], st.sampled_from(PLAIN), inner),
        st.builds(lambda kind: kind | None if kind is not Any else kind, inner),
        st.builds(lambda first, second: first | second, st.sampled_from(PLAIN[2:]), st.sampled_from(PLAIN[2:])),
    ),
    max_leaves=3,
)

ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3),
              st.binary(max_size=3), st.just("\ud800"), st.just(Colour.RED), st.dates(), st.just(Pair(1, [2]))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2) | st.integers(0, 3) | st.tuples(st.booleans()), inner, max_size=2),
        st.builds(Item, inner, inner),
        st.builds(Struct, inner, inner),
        st.builds(Node, inner, inner),
    ),
    max_leaves=4,
)  # fmt: skip

ONES: dict[Any, Any] = {
    Any: ANYTHING,
    list: st.lists(ANYTHING, max_size=2),
    tuple: st.lists(ANYTHING, max_size=2).map(tuple),
    dict: st.dictionaries(st.text(max_size=2), ANYTHING, max_size=2),
    Node: st.builds(Node, st.text(max_size=2), st.lists(st.builds(Node, st.text(max_size=2)), max_size=2)),
    Pair: st.builds(Pair, st.integers(), ANYTHING),
}


def as_declared(kind: Any) -> Any:
    """Return a strategy for values of a declared type."""
    origin, inner = get_origin(kind), [as_declared(one) for one in get_args(kind) if one is not ...]
    if kind in ONES:
        return ONES[kind]
    if origin is list:
        return st.lists(inner[0], max_size=3)
    if origin is tuple:
        return st.lists(inner[0], max_size=3).map(tuple) if ... in get_args(kind) else st.tuples(*inner)
    if origin is dict:
        return st.dictionaries(*inner, max_size=3)
    return st.one_of(inner) if origin in (Union, UnionType) else st.from_type(kind)


@functools.cache
def readers(made: Codec[Any]) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
    """Return the function that reads directly what it can, and the one that never does."""
    with mock.patch.object(codec, "direct", lambda *arguments: arguments[-1]):
        thorough = made.reader(made.schema)
    return made.reader(made.schema), thorough


def outcome(read: Callable[[bytes], Any], data: bytes) -> tuple[Any, str | None]:
    """Return what is read, or how it is refused; any other exception fails the test."""
    try:
        return read(data), None
    except StateError as error:
        return None, str(error)


def assert_agreed(made: Codec[Any], data: bytes) -> Any:
    """Read in both ways; return what comes of it."""
    (first, refused), (second, problem) = (outcome(read, data) for read in readers(made))
    assert refused == problem
    shapes = made._shapes
    assert difference(first, second, "state", shapes) is None, f"{first!r} or {second!r}"
    return first


@st.composite
def states(draw: st.DrawFn) -> tuple[Codec[Any], Any]:
    """Make a class, and an object of it in which some fields are not what they are declared to be, or have no value."""
    kinds = draw(st.lists(TYPES, min_size=1, max_size=4))
    names = [f"field{number}" for number in range(len(kinds))]
    cls = make_dataclass("Visitor", [(name, kind, None) for name, kind in zip(names, kinds, strict=True)])
    value = cls()
    for name, kind in zip(names, kinds, strict=True):
        expected = as_declared(kind)
        setattr(value, name, draw(st.one_of(expected, expected, expected, ANYTHING)))
    if draw(st.integers(0, 9)) == 0:
        delattr(value, names[0])
    return Codec.of(cls), value


def written(made: Codec[Any], value: Any) -> bytes | None:
    try:
        return made.encode(value)
    except StateError:  # what hypothesis makes of a type may be of a class that has not been declared
        return None


@given(states(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3))
@settings(max_examples=400, deadline=None)
def test_what_is_read_directly_is_what_the_reader_reads(state, changes):
    made, value = state
    data = written(made, value)
    if data is None:
        return
    assert difference(value, assert_agreed(made, data), "state", made._shapes) is None
    altered = bytearray(data)
    for place, byte in changes:
        altered[place % len(altered)] = byte
    assert_agreed(made, bytes(altered))


@dataclass
class Broad:
    """Every form of field that is read directly, and one that is not."""

    a: int = 0
    b: list[str] = field(default_factory=list)
    c: tuple[bytes, str] = (b"", "")
    d: tuple[float, ...] = ()
    e: dict[str, Item] = field(default_factory=dict)
    f: list[list[int]] | None = None
    g: Pair = field(default_factory=Pair)
    h: dict[int, dict[str, bool]] = field(default_factory=dict)
    i: list[Struct] = field(default_factory=list)
    j: tuple[Item, ...] = ()


BROAD = Codec.of(Broad)
TAGS = {name: form.FIRST_TYPE + number for number, name in enumerate(sorted(BROAD.schema["types"]))}
FULL = Broad(1, ["a"], (b"b", "c"), (1, 2.5), {"x": Item("y", ["z"])}, [[1], None, []], Pair(1, [{2}]),
             {1: {"t": True}}, [Struct(b"s", Item()), Struct()], (Item("last"),))  # fmt: skip


@given(st.lists(TREES, min_size=len(BROAD.schema["types"]["Broad"]["fields"]), max_size=10), TREES)
@settings(max_examples=150, deadline=None)
def test_forged_trees_are_refused_in_the_same_words(fields, tree):
    assert_agreed(BROAD, pack([form.FORMAT, [TAGS["Broad"], *fields]]))
    wire = msgspec.msgpack.decode(BROAD.encode(FULL))
    for place in range(1, len(wire[1])):
        assert_agreed(BROAD, pack([form.FORMAT, [*wire[1][:place], tree, *wire[1][place + 1 :]]]))
    assert_agreed(BROAD, pack([form.FORMAT, tree]))


def test_every_form_of_plain_field_is_read_without_the_reader():
    value, read = Broad(**{**vars(FULL), "g": Pair(1)}), BROAD.reader(BROAD.schema)
    data = BROAD.encode(value)
    with mock.patch.object(Reader, "read", side_effect=AssertionError("asked for what it is not needed for")):
        assert difference(value, read(data), "state", BROAD._shapes) is None


@pytest.mark.parametrize("value", [True, 1, 1.0, 2**64 - 1, -(2**63), 0.0, -0.0, float("nan"), None, "text"])
@pytest.mark.parametrize("kind", [int, float, str, bool, type(None)])
def test_no_atom_is_converted_to_what_was_declared(kind, value):
    cls = make_dataclass(
        "Visitor", [("lone", kind, None), ("several", list[kind], None), ("named", dict[str, kind], None)]
    )
    made, before = Codec.of(cls), cls(value, [value], {"x": value})
    with mock.patch.object(Reader, "read", side_effect=AssertionError("asked for what it is not needed for")):
        after = made.reader(made.schema)(made.encode(before))
    assert difference(before, after, "state", made._shapes) is None


def test_what_is_not_as_declared_is_read_from_the_beginning():
    value = Broad(a=2**70, b=("no", "list"), c=None, e={(1,): Item()}, f="text")
    assert difference(value, assert_agreed(BROAD, BROAD.encode(value)), "state", BROAD._shapes) is None


def test_the_place_of_what_is_refused_is_told_inside_of_what_is_read_directly():
    deep = make_dataclass("Deep", [("odd", set, None)])
    cls = make_dataclass("Visitor", [("items", list[deep], None), ("named", dict[str, tuple[deep, ...]], None)])
    made = Codec.of(cls)
    tags = {name: form.FIRST_TYPE + number for number, name in enumerate(sorted(made.schema["types"]))}
    good, bad = [tags["Deep"], [form.SET, [1]]], [tags["Deep"], [form.SET, [1, 1]]]

    def refused(items: Any, named: Any) -> str:
        data = pack([form.FORMAT, [tags["Visitor"], items, named]])
        assert_agreed(made, data)
        return outcome(made.reader(made.schema), data)[1]

    problem = "has items that are equal, and would be lost"
    assert refused([form.LIST, [good, bad]], None) == f"Visitor.items[1].odd: {problem}"
    assert refused(None, {"k": [form.TUPLE, []], "l": [form.TUPLE, [good, bad]]}) == (
        f"Visitor.named.values()[1][1].odd: {problem}"
    )


def test_functions_of_the_programs_own_are_called_once_whatever_the_rest_is():
    own = State(Guarded, encode=lambda value: value.number, decode=guarded)
    cls = make_dataclass(
        "Visitor", [("own", Annotated[Guarded, own], None), ("text", str, ""), ("late", list[int], None)]
    )
    made = Codec.of(cls)
    for late in ([1], {1}):
        Guarded.decoded = 0
        assert made.reader(made.schema)(made.encode(cls(Guarded(5), "x", late))).own == Guarded(5)
        assert Guarded.decoded == 1


def test_what_is_upgraded_is_not_read_directly_though_its_fields_have_the_same_names():
    def visitor(version: int) -> Any:
        def upgrade(cls: Any, old: dict[str, Any], written: int) -> Any:
            return cls(10 * old["n"] + written)

        space = {"version": version, "upgrade": classmethod(upgrade)}
        thing = make_dataclass("Thing", [("n", int, 0)], namespace=space)
        return make_dataclass("Visitor", [("things", list[thing], None), ("thing", thing, None)]), thing

    (before, old), (after, new) = visitor(1), visitor(2)
    source, target = Codec.of(before), Codec.of(after)
    back = target.reader(source.schema)(source.encode(before([old(3)], old(4))))
    assert back == after([new(31)], new(41))


def test_a_key_that_is_no_atom_is_refused_where_a_dict_of_atoms_would_be():
    cls = make_dataclass("Visitor", [("named", dict[tuple[int, ...], int], None)])
    made = Codec.of(cls)
    assert_agreed(made, pack([form.FORMAT, [form.FIRST_TYPE, {(form.TUPLE, (1,)): 5}]]))
    assert made.roundtrips(cls({(1, 2): 5})) is None


def test_a_field_without_a_value_among_those_that_may_hold_anything_stays_without_one():
    cls = make_dataclass("Visitor", [("any", Any, None), ("text", str, "")])
    made, value = Codec.of(cls), cls()
    del value.any
    assert vars(assert_agreed(made, made.encode(value))) == {"text": ""}


def test_classes_that_contain_each_other_many_times_over_do_not_make_the_expectation_explode():
    cls: Any = Item
    for number in range(13):
        cls = make_dataclass(f"Pair{number}", [("left", cls, None), ("right", cls, None)])
    made = Codec.of(cls)
    plan = made._target.plan(made._schema)
    found = direct._Expectations(made._schema, plan, Reader(made._schema, plan))
    assert found.of_root(made._root.hint) is not None
    # Without a bound it would be two to the thirteenth.
    assert found._parts < direct.MAX_PARTS + 100
    assert_agreed(made, made.encode(cls(None, cls())))


def test_classes_that_contain_each_other_in_a_long_row_are_read():
    cls: Any = Item
    for number in range(400):
        cls = make_dataclass(f"Link{number}", [("next", cls | None, None), ("name", str, "")])
    value = cls(name="last")
    inner = value
    for number in range(398, 350, -1):
        kind = next(t for t in get_args(inner.__dataclass_fields__["next"].type) if t is not type(None))
        inner.next = kind(name=str(number))
        inner = inner.next
    made = Codec.of(cls)
    # An expectation of all of it would take more frames than the interpreter has.
    assert_agreed(made, made.encode(value))


@pytest.mark.parametrize(
    "claim", [b"\x92\x01\xdd\xff\xff\xff\xff", b"\x92\x02\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
)  # fmt: skip
def test_a_claimed_size_allocates_nothing_where_it_is_expected(claim):
    cls = make_dataclass(
        "V", [("a", list[int], None), ("b", tuple[int, ...], None), ("c", dict[str, int], None), ("d", str, "")]
    )
    made = Codec.of(cls)
    for read in readers(made):
        for place in range(4):
            data = b"\x92\x01\x95" + bytes([form.FIRST_TYPE]) + b"\xc0" * place + claim
            tracemalloc.start()
            try:
                with pytest.raises(StateError):
                    read(data)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # Four gigabytes of items were announced.
            assert peak < 1 << 20


# Writing: what fields of which types need is remembered.


def test_objects_of_one_class_are_written_by_the_types_of_their_own_values():
    cls = make_dataclass("Visitor", [(f"f{number}", Any, None) for number in range(4)])
    made = Codec.of(cls)
    choices: tuple[Any, ...] = (1, [2], (3,), {4}, {"k": [5]})
    for number in range(len(choices) ** 4):
        value = cls(*(choices[number // len(choices) ** place % len(choices)] for place in range(4)))
        assert made.roundtrips(value) is None


def test_only_so_many_combinations_of_types_are_remembered():
    walk = writer._Walk([], frozenset(), form.ATOMS, {}, [])
    names = tuple(f"f{number}" for number in range(8))
    write = walk._fields(form.FIRST_TYPE, names)
    remembered = getclosurevars(write).nonlocals["remembered"]
    for number in range(2**8):
        values = [[1] if number >> place & 1 else None for place in range(8)]
        assert write(values, 0)[1:] == type(write(values, 0))((form.LIST, [1]) if value else None for value in values)
        assert 0 < len(remembered) <= writer.MAX_REMEMBERED
