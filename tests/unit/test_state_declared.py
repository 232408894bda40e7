"""What a declared type may be, and what is refused: at once where the type says so, else where the value is written."""

from __future__ import annotations

import asyncio
import collections.abc
import dataclasses
import enum
import io
import socket
import threading
import typing
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    TypedDict,
    TypeVar,
)

import msgspec
import pytest

from hotfd.errors import StateError
from hotfd.state import Codec, State
from hotfd.state.form import MAX_DEPTH

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

HERE = __name__
T = TypeVar("T")
UserId = NewType("UserId", int)
Colours = typing.Union["Colour", None]


class Colour(enum.Enum):
    RED = 1


@dataclass
class Inner:
    value: int = 0


@dataclass
class Sub(Inner):
    extra: int = 0


@dataclass
class Loop:
    inner: Loop | None = None


class Grid:
    def __init__(self, cells: bytes) -> None:
        self.cells = cells

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.cells == other.cells

    __hash__ = None  # type: ignore[assignment]


GRID = State(encode=lambda grid: grid.cells, decode=Grid)


@dataclass
class Box(Generic[T]):
    content: T | None = None


class Table(TypedDict):
    name: str
    note: typing.NotRequired[Inner]


@dataclass
class Everything:
    a: int | None = None
    b: typing.Optional[list[Inner]] = None  # noqa: UP045 - the older spelling is the point
    c: dict[str, tuple[int, ...]] = field(default_factory=dict)
    d: UserId = UserId(0)
    e: Literal["x", 1, None] = None
    f: Final[int] = 3
    g: Annotated[int, "a note"] = 4
    h: Box[Inner] = field(default_factory=Box)
    i: collections.abc.Mapping[str, collections.abc.Sequence[Inner]] = field(default_factory=dict)
    j: Everything | None = None
    k: Colours = None
    m: Table | None = None
    n: ClassVar[threading.Thread | None] = None
    o: typing.Any = None
    p: object = None
    q: Annotated[Grid, GRID] = field(default_factory=lambda: Grid(b""))
    r: typing.List[bytes] = field(default_factory=list)  # noqa: UP006 - the older spelling is the point
    s: T | None = None  # type: ignore[valid-type]  # unbound, and therefore open


def test_every_form_of_annotation_is_understood():
    codec = Codec.of(Everything)
    assert set(codec.schema["types"]) == {"Everything", "Inner", "Box", "Colour", "Table", "Grid"}
    value = Everything(b=[Inner(1)], h=Box(Inner(2)), i={"k": [Inner(3)]}, j=Everything(), k=Colour.RED, q=Grid(b"ab"))
    assert codec.roundtrips(value) is None


def test_a_schema_tells_fields_what_is_required_and_versions():
    @dataclass
    class Item:
        sort: str
        count: int = 0

    @dataclass
    class Cart:
        version: ClassVar[int] = 3
        items: list[Item] = field(default_factory=list)

    Cart.__annotations__["items"] = list[Item]
    assert Codec.of(Cart).version == 3
    assert Codec.of(Cart).schema == {
        "format": 1,
        "version": 3,
        "root": "Cart",
        "hint": [["Cart"]],
        "types": {
            "Cart": {
                "kind": "dataclass",
                "fields": ["items"],
                "required": [],
                "hints": {"items": [["list", [["Item"]]]]},
                "version": 3,
            },
            "Item": {
                "kind": "dataclass",
                "fields": ["sort", "count"],
                "required": ["sort"],
                "hints": {"sort": [["str"]], "count": [["int"]]},
                "version": 1,
            },
        },
    }


def refusal(declared: Any) -> str:
    with pytest.raises(StateError) as caught:
        Codec.of(declared)
    return str(caught.value)


def of_field(annotation: Any) -> type:
    """Return a dataclass ``Visitor`` whose field ``lock`` is annotated so."""
    return dataclasses.make_dataclass("Visitor", [("lock", annotation, None)])


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (threading.Lock, "threading.Lock"),
        (threading.Thread, "threading.Thread"),
        (socket.socket, "socket.socket"),
        (asyncio.Task, "asyncio.Task"),
        (asyncio.Task[int], "asyncio.Task"),
        (io.TextIOWrapper, "io.TextIOWrapper"),
        (collections.abc.Callable[[int], int], "collections.abc.Callable"),
        (collections.abc.Iterator[int], "collections.abc.Iterator"),
        (typing.Callable, "collections.abc.Callable"),
        (type[int], "type"),
        (memoryview, "memoryview"),
        (list[dict[str, socket.socket | None]], "socket.socket"),
        (collections.abc.Sequence[socket.socket], "socket.socket"),
        (Box[socket.socket], "socket.socket"),
        (Annotated[socket.socket, "note"], "socket.socket"),
        (typing.NoReturn, "NoReturn"),
    ],
    ids=str,
)
def test_a_type_that_cannot_travel_is_refused_and_its_field_named(annotation, name):
    advice = "cannot travel; keep it out of the state or give State(encode=, decode=)"
    assert refusal(of_field(annotation)) == f"Visitor.lock: {name} {advice}"


def test_a_class_deep_inside_is_refused_by_the_class_that_holds_it():
    @dataclass
    class Deep:
        stream: asyncio.StreamWriter | None = None

    assert refusal(of_field(list[Deep] | None)).startswith("Deep.stream: asyncio.streams.StreamWriter cannot travel")


def test_an_arbitrary_class_is_refused_as_a_root():
    assert refusal(Grid).startswith(f"Grid: {HERE}.Grid cannot travel")


def test_an_initvar_is_refused():
    @dataclass
    class Seeded:
        seed: dataclasses.InitVar[int] = 0

    assert refusal(Seeded) == "Seeded.seed: is an InitVar, which is gone once the object is made; make it a field"


def test_a_type_known_only_to_a_type_checker_is_refused():
    @dataclass
    class Priced:
        price: OnlyForCheckers | None = None

    message = "Priced: names a type that cannot be found: OnlyForCheckers; import it outside of TYPE_CHECKING"
    assert refusal(Priced) == message
    assert refusal(list["OnlyForCheckers"]) == "list: names a type that cannot be found: OnlyForCheckers"


def test_an_annotation_that_is_no_type_is_refused():
    assert refusal(of_field(5)).startswith("Visitor")


def test_a_dataclass_that_extends_a_builtin_is_refused():
    @dataclass
    class Listing(list):
        a: int = 0

    assert refusal(Listing) == "Listing: extends a built-in class, whose content would be lost; it cannot travel"


def test_an_abstract_dataclass_is_refused():
    import abc

    @dataclass
    class Shape(abc.ABC):
        a: int = 0

        @abc.abstractmethod
        def area(self) -> int: ...

    assert refusal(Shape) == "Shape: is abstract; it cannot travel"


def test_a_slot_that_is_no_field_is_refused():
    @dataclass
    class Caching:
        __slots__ = ("a", "cache")
        a: int

    assert refusal(Caching) == "Caching.cache: is a slot and no field, it would be lost; make it a field"


def test_a_field_behind_a_descriptor_is_refused():
    class Celsius:
        def __get__(self, owner, kind=None):
            return 0

        def __set__(self, owner, value):
            pass

    @dataclass
    class Weather:
        heat: int = Celsius()  # type: ignore[assignment]

    assert refusal(Weather) == "Weather.heat: is kept by a descriptor, which cannot be seen into"


def test_a_field_behind_a_descriptor_that_can_only_be_deleted_is_refused():
    class Sealed:
        def __get__(self, owner, kind=None):
            return 0

        def __delete__(self, owner):
            pass

    @dataclass
    class Letter:
        text: int = Sealed()  # type: ignore[assignment]

    # No object of it could be made again: to assign to the field raises.
    assert refusal(Letter) == "Letter.text: is kept by a descriptor, which cannot be seen into"


def test_a_struct_that_watches_both_its_objects_and_its_subclasses_is_refused():
    class Base(msgspec.Struct):
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)

    class Child(Base):
        def __post_init__(self):
            pass

    assert "has both __post_init__ and __init_subclass__" in refusal(Child)


@pytest.mark.parametrize(
    "declared",
    [
        dataclasses.make_dataclass("Strict", [("needed", int)]),
        msgspec.defstruct("Strict", [("needed", int)]),
        NamedTuple("Strict", [("needed", int)]),
    ],
)
def test_a_state_that_cannot_be_made_without_arguments_is_refused(declared):
    message = "Strict: cannot be made without arguments (missing a required argument: 'needed'); "
    assert refusal(declared) == message + "give its fields defaults, or State(..., new=)"
    assert Codec.of(State(declared, new=lambda: declared(5))).new().needed == 5


def test_a_type_of_which_nothing_fresh_can_be_made_is_refused():
    assert "no fresh state can be made" in refusal(int | str)
    assert "no fresh state can be made" in refusal(Colour)
    assert "no fresh state can be made" in refusal(collections.abc.Mapping)
    assert Codec.of(State(int | str, new=lambda: 0)).new() == 0


@pytest.mark.parametrize("version", [-1, True, "2", 1.0])
def test_a_version_is_an_integer_from_zero(version):
    declared = type("Visitor", (), {"version": version, "__annotations__": {}})
    assert refusal(dataclass(declared)) == "Visitor.version: version must be an integer from 0"
    with pytest.raises(StateError, match=r"^State: version must be an integer from 0$"):
        State(Inner, version=version)


def test_a_field_or_a_method_called_version_or_upgrade_is_none_of_ours():
    @dataclass
    class Player:
        version: str = "x"

        def upgrade(self) -> None: ...

    assert Codec.of(Player).version == 1
    with_method = type("Player", (), {"version": lambda self: 5, "__annotations__": {}})
    assert Codec.of(dataclass(with_method)).version == 1


def test_a_function_pair_is_a_pair():
    with pytest.raises(StateError, match="encode and decode come as a pair"):
        State(Inner, encode=bytes)
    with pytest.raises(StateError, match="needs a type, or encode and decode"):
        State(version=2)


def test_an_annotated_class_travels_in_one_way_only():
    other = State(encode=lambda grid: grid.cells, decode=Grid)
    declared = dataclasses.make_dataclass(
        "Twice", [("a", Annotated[Grid, GRID], None), ("b", Annotated[Grid, other], None)]
    )
    assert refusal(declared) == f"Twice.b: {HERE}.Grid travels in two different ways; use one State for all its fields"


def test_an_annotated_function_pair_needs_a_class():
    assert "needs a class of its own" in refusal(of_field(Annotated[int | None, GRID]))


def test_classes_of_one_name_are_told_apart_by_module():
    other = dataclasses.make_dataclass("Inner", [("other", int, 0)])
    other.__module__ = "elsewhere"
    declared = dataclasses.make_dataclass("Both", [("a", Inner, None), ("b", other, None)])
    codec = Codec.of(declared)
    assert set(codec.schema["types"]) == {"Both", f"{HERE}.Inner", "elsewhere.Inner"}
    assert codec.roundtrips(declared(Inner(1), other(2))) is None


def test_classes_that_nothing_tells_apart_are_refused():
    first = dataclasses.make_dataclass("Same", [("a", int, 0)])
    second = dataclasses.make_dataclass("Same", [("b", int, 0)])
    declared = dataclasses.make_dataclass("Both", [("a", first, None), ("b", second, None)])
    assert refusal(declared).endswith("names two different classes of this state; rename one")


# What only a value can show.


@dataclass
class Visitor:
    names: list[Any] = field(default_factory=list)
    by_key: dict[Any, Any] = field(default_factory=dict)
    inner: Inner | None = None
    pair: tuple[Any, ...] = ()
    table: Table | None = None
    bag: set[Any] = field(default_factory=set)
    grid: Annotated[Grid, GRID] | None = None


class Text(str):
    __slots__ = ()


class Weird:
    def __hash__(self):
        return 1


class OwnZone(__import__("datetime").tzinfo):
    pass


STRANGER = "declare it, keep it out of the state or give State(encode=, decode=)"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Visitor(names=[1, 2, 3, Weird()]), f"Visitor.names[3]: is of type {HERE}.Weird, which cannot travel; {STRANGER}"),
        (Visitor(by_key={"secret": [Weird()]}), f"Visitor.by_key.values()[0][0]: is of type {HERE}.Weird, which cannot travel; {STRANGER}"),
        (Visitor(by_key={"a": 1, Weird(): 2}), f"Visitor.by_key.keys()[1]: is of type {HERE}.Weird, which cannot travel; {STRANGER}"),
        (Visitor(inner=Sub()), f"Visitor.inner: is of type {HERE}.Sub, which extends {HERE}.Inner and would come back as that; declare it"),
        (Visitor(names=[Text("secret")]), f"Visitor.names[0]: is of type {HERE}.Text, which extends str and would come back as that; declare it"),
        (Visitor(table={"name": Weird()}), f'Visitor.table["name"]: is of type {HERE}.Weird, which cannot travel; {STRANGER}'),
        (Visitor(pair=(1, Weird())), f"Visitor.pair[1]: is of type {HERE}.Weird, which cannot travel; {STRANGER}"),
        (Visitor(bag={Weird()}), f"Visitor.bag{{0}}: is of type {HERE}.Weird, which cannot travel; {STRANGER}"),
        (Visitor(names=[print]), f"Visitor.names[0]: is of type builtin_function_or_method, which cannot travel; {STRANGER}"),
        (Visitor(names=collections.defaultdict(lambda: 0)), "Visitor.names: has a default_factory that cannot travel; use a built-in type such as list or int"),
        (Visitor(names=[__import__("datetime").time(tzinfo=OwnZone())]), f"Visitor.names[0]: has a tzinfo of type {HERE}.OwnZone, which cannot travel; use datetime.timezone or zoneinfo.ZoneInfo"),
        (Visitor(names=iter([])), f"Visitor.names: is of type list_iterator, which cannot travel; {STRANGER}"),
        (Visitor(grid=Grid(Weird())), f"Visitor.grid: is of type {HERE}.Weird, which cannot travel; {STRANGER}"),
        (Inner(), f"Visitor: is of type {HERE}.Inner and not {HERE}.Visitor"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_travel_is_refused_by_path_and_type(value, message):
    with pytest.raises(StateError) as caught:
        Codec.of(Visitor).encode(value)
    assert str(caught.value) == message
    assert "secret" not in str(caught.value)


def test_an_attribute_beyond_the_fields_is_refused():
    value = Visitor()
    value.names.append(Inner())
    value.names[0].cached = 5  # type: ignore[attr-defined]
    with pytest.raises(StateError) as caught:
        Codec.of(Visitor).encode(value)
    assert (
        str(caught.value) == "Visitor.names[0].cached: is an attribute and no field, it would be lost; make it a field"
    )


def test_an_attribute_that_stands_in_for_a_deleted_field_is_refused():
    value = Inner()
    del value.value
    value.other = 1  # type: ignore[attr-defined]
    with pytest.raises(StateError, match=r"^Inner\.other: is an attribute and no field"):
        Codec.of(Inner).encode(value)


class Roomy(msgspec.Struct, dict=True):
    a: int = 0


class Tagged(NamedTuple("Tagged", [("a", int)])):
    pass


@pytest.mark.parametrize("value", [Roomy(), Tagged(1), collections.OrderedDict(), collections.Counter()])
def test_an_attribute_on_anything_else_is_refused_too(value):
    value.extra = 1
    with pytest.raises(StateError, match=r"\.extra: is an attribute and would be lost$"):
        Codec.of(State(Roomy | Tagged | dict | Any, new=dict)).encode(value)


def test_a_value_that_contains_itself_is_refused():
    value: list[Any] = []
    value.append(value)
    with pytest.raises(StateError) as caught:
        Codec.of(list).encode(value)
    assert str(caught.value) == f"list{'[0]' * 8}...: is nested deeper than {MAX_DEPTH} levels, or contains itself"


def test_nesting_is_allowed_up_to_its_limit():
    codec = Codec.of(list)
    deep: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert codec.roundtrips(deep) is None
    with pytest.raises(StateError, match="nested deeper"):
        codec.encode([deep])


def test_an_object_that_contains_itself_is_refused():
    value = Loop()
    value.inner = value
    with pytest.raises(StateError) as caught:
        Codec.of(Loop).encode(value)
    assert str(caught.value) == f"Loop{'.inner' * 8}...: is nested deeper than {MAX_DEPTH} levels, or contains itself"


def test_an_encode_that_returns_what_needs_it_again_is_refused():
    cls = dataclasses.make_dataclass(
        "Visitor", [("grid", Annotated[Grid, State(encode=lambda grid: grid, decode=Grid)], None)]
    )
    with pytest.raises(StateError, match="nested deeper"):
        Codec.of(cls).encode(cls(Grid(b"")))


def test_what_encode_raises_is_told_without_its_text():
    def encode(grid: Grid) -> bytes:
        raise KeyError("secret")

    codec = Codec.of(State(Grid, encode=encode, decode=Grid, new=lambda: Grid(b"")))
    with pytest.raises(StateError) as caught:
        codec.encode(Grid(b""))
    line = encode.__code__.co_firstlineno + 1
    assert str(caught.value) == f"Grid: encode raised KeyError (test_state_declared.py:{line})"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert codec.roundtrips(Grid(b"")) == str(caught.value)


def test_what_decode_raises_is_told_without_its_text():
    def decode(data: Any) -> Grid:
        raise ValueError("secret")

    codec = Codec.of(State(Grid, encode=lambda grid: grid.cells, decode=decode, new=lambda: Grid(b"")))
    with pytest.raises(StateError, match=r"^Grid: decode raised ValueError \(test_state_declared\.py:\d+\)$"):
        codec.reader(codec.schema)(codec.encode(Grid(b"")))
