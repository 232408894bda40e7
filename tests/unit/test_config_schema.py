"""From values to typed configuration: what is built, and what is said of values that are wrong."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime as dt
import enum
import json
import pickle
import types
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import msgspec
import orjson
import pytest

from hotfd.config import findings
from hotfd.config.findings import MAX_FAULTS, path_of, shown
from hotfd.config.frozen import ReadOnlyDict, ReadOnlyList, ReadOnlySet, owned
from hotfd.config.schema import Schema
from hotfd.errors import ConfigError, Fault, ReleaseRefused

Damage = NewType("Damage", int)
T = TypeVar("T")

DATE_WITH_ZONE = "a date and time such as '2026-01-31T12:00:00Z', with a time zone or null"
MISSING = "a value: the key is missing"


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(msgspec.Struct, frozen=True, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, frozen=True, tag="dog"):
    name: str


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    max_size: Annotated[int, msgspec.Meta(ge=0, lt=100)]
    tags: list[str] = msgspec.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Range:
    low: int = 0
    high: int = 10

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not be above high")


@dataclasses.dataclass(frozen=True)
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Rules:
    damage: Damage
    speed: float = 1.0
    on: bool = True
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=5, pattern="^[a-z]+$")] = "a"
    colour: Colour = Colour.RED
    mode: Literal["slow", "fast", 3] = "slow"
    limits: Limits | None = None
    by_level: dict[int, Limits] = dataclasses.field(default_factory=dict)
    pet: Cat | Dog = Cat()  # noqa: RUF009 - frozen
    either: int | list[int] | None = None
    point: tuple[int, float] = (0, 0.0)
    row: tuple[int, ...] = ()
    unique: set[int] = dataclasses.field(default_factory=set)
    fixed: frozenset[str] = frozenset()
    few: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)] = dataclasses.field(default_factory=lambda: [1])
    when: dt.datetime | None = None
    zoned: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    day: dt.date | None = None
    clock: dt.time | None = None
    length: dt.timedelta = dt.timedelta(seconds=1)
    key: uuid.UUID | None = None
    price: Decimal = Decimal(1)
    range: Range = Range()
    tree: Tree = Tree("root")
    anything: Any = None


RULES = Schema.of(Rules)


def faults_of(schema: Schema[Any], values: dict[str, Any]) -> list[Fault]:
    with pytest.raises(ReleaseRefused) as refused:
        schema.build("game", values)
    assert refused.value.module == "game"
    return refused.value.faults


class TestValues:
    def test_values_become_what_the_class_declares(self) -> None:
        rules = RULES.build(
            "game",
            {
                "damage": 3,
                "speed": 2,
                "colour": "blue",
                "mode": 3,
                "limits": {"maxSize": 5, "tags": ["x"]},
                "by_level": {"7": {"maxSize": 1}},
                "pet": {"type": "dog", "name": "Rex"},
                "either": [1],
                "point": [1, 2],
                "row": [1, 2, 3],
                "unique": [2, 1],
                "fixed": ["a"],
                "when": "2026-01-31T12:00:00",
                "zoned": "2026-01-31T12:00:00Z",
                "day": "2026-01-31",
                "clock": "12:00:00",
                "length": "PT1H",
                "key": "00000000-0000-0000-0000-000000000001",
                "price": "1.50",
                "range": {"high": 20},
                "tree": {"name": "a", "children": [{"name": "b"}]},
                "anything": {"deep": [1, {"er": None}]},
            },
        )
        assert rules == Rules(
            damage=Damage(3),
            speed=2.0,
            colour=Colour.BLUE,
            mode=3,
            limits=Limits(5, ["x"]),
            by_level={7: Limits(1)},
            pet=Dog("Rex"),
            either=[1],
            point=(1, 2.0),
            row=(1, 2, 3),
            unique={1, 2},
            fixed=frozenset("a"),
            when=dt.datetime(2026, 1, 31, 12),  # noqa: DTZ001 - as it was written
            zoned=dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
            day=dt.date(2026, 1, 31),
            clock=dt.time(12),
            length=dt.timedelta(hours=1),
            key=uuid.UUID(int=1),
            price=Decimal("1.50"),
            range=Range(high=20),
            tree=Tree("a", [Tree("b")]),
            anything={"deep": [1, {"er": None}]},
        )
        assert type(rules.speed) is float

    def test_what_is_not_given_is_as_the_class_says(self) -> None:
        assert RULES.build("game", {"damage": 1}) == Rules(Damage(1))

    def test_plain_values_build_an_equal_value_again(self) -> None:
        rules = RULES.build("game", {"damage": 1, "by_level": {"1": {"maxSize": 2}}, "unique": [3, 1]})
        plain = RULES.plain(rules)
        assert json.loads(json.dumps(plain)) == plain
        assert plain["point"] == [0, 0.0]
        assert plain["unique"] == [1, 3]
        assert RULES.build("game", plain) == rules

    def test_a_generic_class_is_built_with_its_arguments(self) -> None:
        schema = Schema.of(Box[Limits])
        assert schema.build("m", {"item": {"maxSize": 1}}) == Box(Limits(1))
        assert [fault.path for fault in faults_of(schema, {"item": 3})] == ["item"]

    def test_the_given_values_are_neither_changed_nor_kept(self) -> None:
        values = {"damage": 1, "anything": {"list": [1]}, "either": [1]}
        rules = RULES.build("game", values)
        values["anything"]["list"].append(2)  # type: ignore[index]
        assert rules.anything == {"list": [1]}
        assert values["either"] == [1]


class Box(msgspec.Struct, Generic[T], frozen=True):
    item: T


class TestFaults:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"damage": "3"}, ("damage", '"3"', "an integer")),
            ({"damage": True}, ("damage", "true", "an integer")),
            ({"damage": 1.0}, ("damage", "1.0", "an integer")),
            ({"damage": None}, ("damage", "null", "an integer")),
            ({"speed": "1"}, ("speed", '"1"', "a number")),
            ({"speed": False}, ("speed", "false", "a number")),
            ({"on": 1}, ("on", "1", "true or false")),
            ({"title": 5}, ("title", "5", "a string of 1 to 5 characters that matches '^[a-z]+$'")),
            ({"colour": "green"}, ("colour", '"green"', "one of 'red', 'blue'")),
            ({"mode": "x"}, ("mode", '"x"', "one of 3, 'fast', 'slow'")),
            ({"limits": {"maxSize": 100}}, ("limits.maxSize", "100", "an integer >= 0 and < 100")),
            ({"limits": {}}, ("limits.maxSize", "", "a value: the key is missing")),
            ({"limits": 5}, ("limits", "5", "a table or null")),
            ({"by_level": {"x": {"maxSize": 1}}}, ("by_level.x", '"x"', "a key that is an integer")),
            (
                {"by_level": {"1": {"maxSize": 1}, "01": {"maxSize": 1}}},
                ("by_level.01", '"01"', "a key that is an integer"),
            ),
            ({"by_level": {"1": []}}, ("by_level.1", "[]", "a table")),
            ({"pet": {"lives": 3}}, ("pet.type", "", "a value: the key is missing")),
            ({"pet": {"type": "cow"}}, ("pet.type", '"cow"', "one of 'cat', 'dog'")),
            ({"pet": {"type": ["cat"]}}, ("pet.type", '["cat"]', "one of 'cat', 'dog'")),
            ({"pet": {"type": "dog", "name": 1}}, ("pet.name", "1", "a string")),
            ({"either": "x"}, ("either", '"x"', "a list, an integer or null")),
            ({"either": [1, "x"]}, ("either[1]", '"x"', "an integer")),
            ({"point": [1]}, ("point", "[1]", "a list of 2 values")),
            ({"point": [1, "x"]}, ("point[1]", '"x"', "a number")),
            ({"row": {}}, ("row", "{}", "a list")),
            ({"few": []}, ("few", "[]", "a list of 1 to 2 values")),
            ({"few": [1, 2, 3]}, ("few", "[1, 2, 3]", "a list of 1 to 2 values")),
            ({"zoned": "2026-01-31T12:00:00"}, ("zoned", '"2026-01-31T12:00:00"', DATE_WITH_ZONE)),
            ({"day": "31.1.2026"}, ("day", '"31.1.2026"', "a date such as '2026-01-31' or null")),
            ({"length": 5}, ("length", "5", "a duration such as 'PT1H30M'")),
            ({"key": "x"}, ("key", '"x"', "a UUID or null")),
            ({"price": "dear"}, ("price", '"dear"', "a decimal number")),
            ({"range": {"low": 11}}, ("range", '{"low": 11}', "what Range accepts: low must not be above high")),
            ({"damge": 1}, ("damge", "", "no such key")),
            ({"sped": 1}, ("sped", "", "no such key; did you mean 'speed'?")),
            ({"limits": {"maxSize": 1, "tag": []}}, ("limits.tag", "", "no such key; did you mean 'tags'?")),
            ({"tree": {"name": "a", "children": [{"name": "b"}, {"nam": 1}]}}, ("tree.children[1].name", "", MISSING)),
        ],
    )
    def test_a_fault_says_where_it_is_and_what_would_be_right(
        self, values: dict[str, Any], expected: tuple[str, str, str]
    ) -> None:
        assert Fault(*expected) in faults_of(RULES, {"damage": 1, **values})

    def test_all_faults_are_told_at_once(self) -> None:
        found = faults_of(
            RULES,
            {
                "damge": 1,
                "speed": "x",
                "limits": {"maxSize": -1, "more": 1},
                "by_level": {"a": {"maxSize": 1}, "2": {}},
                "row": [1, "x", None],
                "tree": {"name": 1, "children": [{}, {"name": "b"}]},
            },
        )
        assert sorted(fault.path for fault in found) == [
            "by_level.2.maxSize",
            "by_level.a",
            "damage",
            "damge",
            "limits.maxSize",
            "limits.more",
            "row[1]",
            "row[2]",
            "speed",
            "tree.children[0].name",
            "tree.name",
        ]

    def test_a_missing_key_and_its_misspelling_point_at_each_other(self) -> None:
        message = str(ReleaseRefused("game", faults_of(RULES, {"damge": 1})))
        assert "damage: a value: the key is missing" in message
        assert "did you mean 'damage'?" in message

    def test_a_class_whose_own_check_fails_strangely_refuses_the_release(self) -> None:
        [fault] = faults_of(Schema.of(Strange), {"x": 0})
        assert fault == Fault("", '{"x": 0}', "what Strange accepts: division by zero")

    def test_values_that_are_nested_too_deeply_are_refused(self) -> None:
        values: dict[str, Any] = {"name": "leaf"}
        for _ in range(2000):
            values = {"name": "branch", "children": [values]}
        [fault] = faults_of(Schema.of(Tree), values)
        assert fault.expected == "values that are nested less deeply"

    def test_no_more_faults_are_kept_than_anybody_could_want(self) -> None:
        assert len(faults_of(RULES, {"damage": 1, "row": ["x"] * (MAX_FAULTS + 5)})) == MAX_FAULTS

    def test_a_shown_value_is_cut_however_large_it_is(self) -> None:
        assert shown({"a": [1, "x"]}) == '{"a": [1, "x"]}'
        assert shown("x" * 1_000_000) == '"' + "x" * 76 + "..."
        assert len(shown([list(range(1000))] * 1000)) == 80

    def test_a_key_that_would_be_mistaken_for_a_path_is_quoted(self) -> None:
        assert path_of(["a", "b.c", 3, "d-e", ""]) == 'a["b.c"][3].d-e[""]'


@dataclasses.dataclass(frozen=True)
class Strange:
    x: int

    def __post_init__(self) -> None:
        _ = 1 / self.x


class TestReadOnly:
    def rules(self) -> Rules:
        return RULES.build(
            "game",
            {"damage": 1, "limits": {"maxSize": 1}, "unique": [1, 2], "anything": {"a": [{"b": 1}]}, "row": [1]},
        )

    def test_nothing_in_a_built_value_can_be_changed(self) -> None:
        rules = self.rules()
        assert rules.limits is not None
        for change in (
            lambda: rules.limits.tags.append("x"),  # a default of the class  # type: ignore[union-attr]
            lambda: rules.few.extend([1]),
            lambda: rules.tree.children.append(Tree("x")),  # inside a default instance
            lambda: rules.unique.add(3),
            lambda: rules.by_level.update({1: Limits(1)}),
            lambda: rules.anything["a"][0].pop("b"),
            lambda: rules.anything["a"].__setitem__(0, 1),
        ):
            with pytest.raises(TypeError, match="read-only"):
                change()
        with pytest.raises(dataclasses.FrozenInstanceError):
            rules.damage = Damage(5)  # type: ignore[misc]
        with pytest.raises(AttributeError):
            rules.limits.max_size = 5  # type: ignore[misc]

    def test_every_way_to_change_a_container_is_closed(self) -> None:
        frozen: list[tuple[Any, type]] = [
            (ReadOnlyList([1]), list),
            (ReadOnlyDict({1: 1}), dict),
            (ReadOnlySet({1}), set),
        ]
        reading = {"copy", "count", "index", "get", "items", "keys", "values", "fromkeys"} | {
            "difference", "intersection", "symmetric_difference", "union", "isdisjoint", "issubset", "issuperset",
        }  # fmt: skip
        in_place = {"__iadd__", "__imul__", "__iand__", "__ior__", "__isub__", "__ixor__", "__setitem__", "__delitem__"}
        for container, base in frozen:
            names = set(dir(base))
            writing = {name for name in names - reading if not name.startswith("_")} | (names & in_place)
            for name in writing:
                with pytest.raises(TypeError, match="read-only"):
                    getattr(container, name)(1)

    def test_containers_are_lists_dicts_and_sets_to_readers_and_encoders(self) -> None:
        rules = self.rules()
        assert isinstance(rules.few, list)
        assert isinstance(rules.by_level, dict)
        assert isinstance(rules.unique, set)
        assert rules.few == [1]
        assert rules.unique | {3} == {1, 2, 3}
        assert orjson.loads(orjson.dumps(rules.anything)) == {"a": [{"b": 1}]}
        assert msgspec.json.decode(msgspec.json.encode(rules))["unique"] == [1, 2]

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_a_copy_of_a_container_can_be_changed(self, duplicate: Any) -> None:
        for container in (ReadOnlyList([1]), ReadOnlyDict({1: 1}), ReadOnlySet({1})):
            other = duplicate(container)
            assert other == container
            assert type(other) in (list, dict, set)
        assert type(duplicate(ReadOnlySet({1}).copy())) is set

    def test_a_deep_copy_of_a_value_can_be_changed_inside(self) -> None:
        rules = copy.deepcopy(self.rules())
        rules.anything["a"][0]["b"] = 2
        rules.few.append(2)
        assert rules.few == [1, 2]

    def test_defaults_of_a_class_belong_to_it_alone(self) -> None:
        first, second = self.rules(), self.rules()
        assert first.tree == second.tree
        assert first.tree is not second.tree
        assert type(Rules.tree.children) is list

    def test_what_a_post_init_leaves_behind_is_read_only_too(self) -> None:
        value = Schema.of(Derived).build("m", {"names": ["b", "a"]})
        assert value.names == ["a", "b"]
        with pytest.raises(TypeError, match="read-only"):
            value.names.append("c")

    def test_values_of_other_kinds_stay_as_they_are(self) -> None:
        other = object()
        assert owned(other) is other
        assert owned((1, [2])) == (1, [2])


@dataclasses.dataclass(frozen=True)
class Derived:
    names: list[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", sorted(self.names))


class Open(msgspec.Struct):
    x: int = 1


@dataclasses.dataclass
class OpenData:
    x: int = 1


def holds(annotation: Any) -> type:
    return dataclasses.make_dataclass("Holder", [("part", annotation)], frozen=True)


class Pairs(NamedTuple):
    a: int


class Loose(TypedDict):
    a: int


class Rowlike(msgspec.Struct, frozen=True, array_like=True):
    a: int


class TestClassesThatCannotBe:
    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            (Open, r"Open is not frozen, .*class Open\(\.\.\., frozen=True\)"),
            (OpenData, r"OpenData is not frozen, .*@dataclass\(frozen=True\)"),
            (holds(list[Open]), "Open is not frozen"),
            (holds(dict[str, OpenData | None]), "OpenData is not frozen"),
            (holds(bytes), r"Holder\.part is bytes, which JSON cannot bring"),
            (holds(list[bytes | int]), r"Holder\.part is bytes"),
            (holds(complex), r"Holder\.part is complex, which JSON cannot bring"),
            (holds(object), r"Holder\.part is object"),
            (holds(msgspec.Raw), r"Holder\.part is msgspec.Raw"),
            (holds(Pairs), r"Holder\.part is a NamedTuple"),
            (holds(Loose), r"Holder\.part is a TypedDict"),
            (holds(Rowlike), "Rowlike is array_like"),
            (holds(dict[tuple[int, int], int]), r"Holder.* keys"),
            (holds(list[int] | tuple[int, ...]), "more than one array-like"),
            (Loose, "take a frozen dataclass"),
            (dict, "take a frozen dataclass"),
            (int, "take a frozen dataclass"),
            (
                dataclasses.make_dataclass("Late", [("x", int, dataclasses.field(init=False))], frozen=True),
                "init=False",
            ),
            (dataclasses.make_dataclass("Init", [("x", dataclasses.InitVar[int])], frozen=True), "InitVar"),
            (dataclasses.make_dataclass("Lost", [("x", "Nowhere")], frozen=True), "Nowhere"),
        ],
    )
    def test_the_error_names_the_class_and_what_to_write(self, kind: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Schema.of(kind)


class TestJsonSchema:
    def test_the_id_is_the_same_for_the_same_class_and_another_for_another(self) -> None:
        assert Schema.of(Rules).json == RULES.json
        assert Schema.of(Rules).id == RULES.id
        assert len(RULES.id) == 16
        assert Schema.of(Limits).id != RULES.id

    def test_declared_objects_take_no_other_keys_and_free_ones_do(self) -> None:
        definitions = json.loads(RULES.json)["$defs"]
        assert definitions["Rules"]["additionalProperties"] is False
        assert definitions["Limits"]["additionalProperties"] is False
        assert definitions["Rules"]["properties"]["by_level"]["additionalProperties"] == {"$ref": "#/$defs/Limits"}

    def test_fields_with_the_names_of_rules_are_only_fields(self) -> None:
        kind = dataclasses.make_dataclass("Odd", [("properties", Range), ("default", Range)], frozen=True)
        schema = json.loads(Schema.of(kind).json)
        assert schema["$defs"]["Odd"]["properties"].keys() == {"properties", "default"}
        assert schema["$defs"]["Range"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("values", "looked_at"),
    [
        ({f"key{i}": [i, i] for i in range(2000)}, 6000),
        ({f"key{i}": [i, "x"] for i in range(2000)}, 6000),
        ({f"key{i}": i for i in range(2000)}, 2000),
    ],
)
def test_other_threads_get_their_turn_while_a_large_release_is_checked(
    values: dict[str, Any], looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    monkeypatch.setattr(findings, "time", types.SimpleNamespace(sleep=turns.append))
    schema: Schema[Any] = Schema.of(dataclasses.make_dataclass("Large", [("table", dict[str, list[int]])], frozen=True))
    with contextlib.suppress(ReleaseRefused):
        schema.build("m", {"table": values})
    assert len(turns) >= looked_at // findings.STRETCH
    assert min(turns) > 0  # none at all would let nobody else in


def test_looking_for_similar_keys_gives_others_their_turn_and_ends() -> None:
    turns: list[float] = []
    wide: Any = msgspec.defstruct("Wide", [(f"field{i}", int, 0) for i in range(500)], frozen=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "time", types.SimpleNamespace(sleep=turns.append))
        found = faults_of(Schema.of(wide), {f"feild{i}": i for i in range(500)})
    guessed = [fault for fault in found if "did you mean" in fault.expected]
    assert len(guessed) == findings.MAX_GUESSES
    assert len(turns) >= findings.MAX_GUESSES * 500 // findings.STRETCH
