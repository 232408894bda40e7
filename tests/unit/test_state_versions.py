"""Which process can read what which other process wrote, and what becomes of it."""

import collections
import enum
import json
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import pytest

from hotfd.errors import StateError
from hotfd.state import Codec, State, decode_any, encode_any


def visitor(*fields: Any, **namespace: Any) -> type:
    """Return one version of a dataclass ``Visitor``."""
    return make_dataclass("Visitor", fields, namespace=namespace)


def move(value: Any, to: Any, declared: Any = None) -> Any:
    """Write a value as its own class does, and read it as another does, the schema having crossed as JSON."""
    old, new = Codec.of(declared or type(value)), Codec.of(to)
    schema = json.loads(json.dumps(old.schema, sort_keys=True))
    assert new.unreadable(schema) is None
    return new.reader(schema)(old.encode(value))


def refused(old: Any, new: Any) -> str:
    """Return why ``new`` cannot read ``old``, having checked that both ways of asking say so."""
    schema = json.loads(json.dumps(Codec.of(old).schema))
    codec = Codec.of(new)
    problem = codec.unreadable(schema)
    assert problem is not None
    assert "\n" not in problem
    with pytest.raises(StateError) as caught:
        codec.reader(schema)
    assert caught.value.problem == problem
    return problem


GIVE = "raise the version and give Visitor an upgrade(old, version)"
V1 = visitor(("lines", int, 0), ("name", str, ""))


# The same version.


def test_a_new_field_takes_its_default():
    made = []
    new = visitor(
        ("lines", int, 0),
        ("name", str, ""),
        ("tags", list, field(default_factory=lambda: made.append(1) or ["new"])),
        ("n", int, 7),
    )
    back = move(V1(3, "x"), new)
    assert (back.lines, back.name, back.tags, back.n) == (3, "x", ["new"], 7)
    assert made == [1]
    assert move(V1(), new).tags is not back.tags


def test_fields_are_matched_by_name_and_not_by_place():
    back = move(V1(3, "x"), visitor(("name", str, ""), ("lines", int, 0)))
    assert (back.lines, back.name) == (3, "x")


def test_a_field_that_is_gone_would_be_lost():
    message = f"Visitor.name: was written and is gone or changed, it would be lost; keep it, or {GIVE}"
    assert refused(V1, visitor(("lines", int, 0))) == message


def test_a_field_without_a_default_must_have_been_written():
    new = State(visitor(("key", bytes), ("lines", int, 0), ("name", str, "")), new=lambda: None)
    assert refused(V1, new) == f"Visitor.key: is needed and was not written; give it a default, or {GIVE}"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (int, str, "was int and is str"),
        (int | None, int, "was int | None and is int"),
        (list[int], list[str], "was list[int] and is list[str]"),
        (list[int], tuple[int, ...], "was list[int] and is tuple[int, ...]"),
        (dict[str, int], dict[bytes, int], "was dict[str, int] and is dict[bytes, int]"),
        (tuple[int, int], tuple[int, int, int], "was tuple[int, int] and is tuple[int, int, int]"),
    ],
)
def test_a_field_that_became_something_else_is_refused(before, after, told):
    old, new = visitor(("x", before, None)), visitor(("x", after, None))
    assert refused(old, new) == f"Visitor.x: {told}; {GIVE}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (int, int | None),
        (list, list[int]),
        (list[int], list),
        (Any, int),
        (int, Any),
        (dict[str, int], dict[str, int | str]),
    ],
)
def test_a_field_may_be_declared_wider_or_in_more_detail(before, after):
    assert move(visitor(("x", before, None))(None), visitor(("x", after, None))).x is None


def test_one_kind_of_record_may_become_another():
    class Visitor(msgspec.Struct):
        name: str = ""
        lines: int = 0

    struct = move(V1(3, "x"), Visitor)
    assert struct == Visitor("x", 3)
    pair = collections.namedtuple("Visitor", "lines name", defaults=(0, ""))
    assert move(struct, pair) == pair(3, "x")
    assert move(pair(3, "x"), V1) == V1(3, "x")


def test_a_record_may_not_become_a_dict():
    class Visitor(TypedDict, total=False):
        lines: int
        name: str

    problem = refused(V1, Visitor)
    assert (
        problem
        == "Visitor: was of kind dataclass and is of kind typeddict; raise the version and give State(upgrade=) an upgrade(old, version)"
    )


def test_a_renamed_root_is_still_the_root():
    assert move(V1(3, "x"), make_dataclass("Client", [("lines", int, 0), ("name", str, "")])).lines == 3


def test_a_root_that_became_something_else_is_refused():
    assert refused(dict[str, int], list[int]).startswith("list: was dict[str, int] and is list[int]; ")
    assert refused(State(encode=str, decode=str, new=str), dict).startswith("dict: was State(encode=) and is dict; ")


def test_state_that_is_no_longer_declared_would_be_lost():
    assert refused(V1, None) == "Visitor: was written, and no state is declared, it would be lost; declare it"


def test_where_nothing_was_kept_a_state_begins_fresh():
    old, new = Codec.of(None), Codec.of(V1)
    assert new.unreadable(old.schema) is None
    assert new.reader(old.schema)(old.encode(None)) == V1()


def test_typed_dict_entries_count_like_fields():
    class Room(TypedDict, total=False):
        name: str
        size: int

    class Smaller(TypedDict, total=False):
        name: str

    class Stricter(TypedDict):
        name: str
        size: int
        key: bytes

    assert refused(Room, Smaller).startswith("Smaller.size: was written and is gone or changed")
    assert refused(Room, Stricter).startswith("Stricter.key: is needed and was not written")
    assert move({"name": "x"}, Room, declared=Smaller) == {"name": "x"}


def test_an_enum_must_have_every_member_that_was_there():
    before = enum.Enum("Colour", ["RED", "BLUE"])
    after = enum.Enum("Colour", ["BLUE", "GREEN"])
    old, new = visitor(("c", before, None)), visitor(("c", after, None))
    assert refused(old, new).startswith("Colour.RED: was written and is gone or changed")
    wider = enum.Enum("Colour", ["GREEN", "RED", "BLUE"])
    assert move(old(before.BLUE), visitor(("c", wider, None))).c is wider.BLUE


def test_a_flag_must_have_every_member_by_its_number():
    before, after = enum.Flag("Right", ["READ", "WRITE"]), enum.Flag("Right", ["WRITE", "READ"])
    old, new = visitor(("r", before, None)), visitor(("r", after, None))
    assert refused(old, new).startswith("Right.READ=1: was written and is gone or changed")


# Another version.


@dataclass
class Item:
    name: str = ""


class Old1(msgspec.Struct):
    gone: int = 5


def chain(version: int) -> type:
    """Return version 1, 2 or 3 of Visitor, each of which can read all before it."""

    def upgrade(cls: Any, old: dict[str, Any], written: int) -> Any:
        if written < 2:
            old = {"count": old["lines"], "name": old["name"]}
        if written < 3 <= version:
            old = {"count": old["count"], "names": [old["name"]]}
        return cls(**old)

    fields: dict[int, list[Any]] = {
        1: [("lines", int, 0), ("name", str, "")],
        2: [("count", int, 0), ("name", str, "")],
        3: [("count", int, 0), ("names", list[str], field(default_factory=list))],
    }
    return visitor(*fields[version], version=version, upgrade=classmethod(upgrade))


def test_an_upgrade_reads_every_older_version():
    assert (move(chain(1)(4, "x"), chain(3)).count, move(chain(1)(4, "x"), chain(3)).names) == (4, ["x"])
    assert move(chain(2)(4, "x"), chain(3)).names == ["x"]
    step = move(chain(1)(4, "x"), chain(2))
    assert move(step, chain(3)).names == ["x"]


def test_without_an_upgrade_an_older_version_is_refused():
    one, two = visitor(("a", int, 0), version=1), visitor(("a", int, 0), version=2)
    assert refused(one, two) == "state version 1 cannot be read by version 2: give Visitor an upgrade(old, version)"


def test_a_newer_version_is_refused_whatever_upgrade_there_is():
    one = visitor(("a", int, 0), version=1, upgrade=classmethod(lambda cls, old, version: cls(**old)))
    two = visitor(("a", int, 0), version=2)
    assert refused(two, one).startswith("state version 2 is newer than version 1 of this code; ")


def test_an_upgrade_that_needs_an_object_is_no_upgrade():
    new = visitor(("a", int, 0), version=2, upgrade=lambda self, old: None)
    problem = refused(visitor(("a", int, 0)), new)
    assert problem == "state version 1 cannot be read by version 2: make Visitor.upgrade a classmethod or staticmethod"


def test_version_and_upgrade_may_stand_in_the_state():
    def upgrade(old, version):
        return V1(old["count"], f"v{version}")

    old = State(visitor(("count", int, 0)), version=7)
    new = State(V1, version=8, upgrade=upgrade)
    assert Codec.of(new).version == 8
    assert move(old.declared(4), new, declared=old) == V1(4, "v7")


def test_a_typed_dict_is_upgraded_through_its_state():
    class Room(TypedDict):
        name: str

    new = State(Room, version=2, upgrade=lambda old, version: {"name": old["label"] + str(version)})
    old = TypedDict("Room", {"label": str})  # noqa: UP013 - an older class of the same name
    assert move({"label": "x"}, new, declared=old) == {"name": "x1"}
    assert (
        refused(old, State(Room, version=2))
        == "state version 1 cannot be read by version 2: give State(upgrade=) an upgrade(old, version)"
    )


def test_a_plain_container_is_upgraded_through_its_state():
    new = State(dict, version=2, upgrade=lambda old, version: dict.fromkeys(old, version))
    assert move(["a"], new, declared=list) == {"a": 1}


def test_a_function_pair_is_upgraded_from_what_encode_had_returned():
    old = State(bytearray, encode=bytes, decode=bytearray)
    new = State(V1, encode=lambda v: v.lines, decode=V1, version=2, upgrade=lambda raw, version: V1(len(raw)))
    assert move(bytearray(b"abc"), new, declared=old) == V1(3)
    assert move(V1(4), new, declared=new) == V1(4)


def test_upgrade_gets_fields_and_unknown_objects_as_dicts_and_known_ones_as_they_are():
    seen = []
    mood = enum.Enum("Mood", ["GOOD"])
    pair = collections.namedtuple("Pair", "left")

    def upgrade(cls, old, version):
        seen.append((old, version))
        return cls()

    old = visitor(
        ("item", Item, None),
        ("gone", Old1, None),
        ("mood", mood, None),
        ("pair", pair, None),
        ("list", list[Old1], None),
    )
    new = visitor(("item", Item, None), version=2, upgrade=classmethod(upgrade))
    move(old(Item("x"), Old1(6), mood.GOOD, pair(7), [Old1()]), new)
    expected = {
        "item": Item("x"),
        "gone": {"gone": 6},
        "mood": "GOOD",
        "pair": {"left": 7},
        "list": [{"gone": 5}],
    }
    assert seen == [(expected, 1)]


def test_a_field_without_a_value_is_missing_from_what_upgrade_gets():
    old = visitor(("a", int, field(init=False)), ("b", int, 0))
    new = visitor(
        ("keys", list, field(default_factory=list)),
        version=2,
        upgrade=staticmethod(lambda old, _: new(sorted(old))),
    )
    assert move(old(), new).keys == ["b"]


def test_a_field_without_a_value_stays_so_among_other_fields():
    old = visitor(("a", int, field(init=False)), ("b", int, 0))
    back = move(old(), visitor(("b", int, 0), ("c", int, 1), ("a", int, field(init=False, repr=False))))
    assert vars(back) == {"b": 0, "c": 1}


def test_a_deleted_attribute_is_not_filled_from_a_default_when_fields_are_added():
    old = visitor(("tags", list, field(default_factory=list)))
    value = old()
    del value.tags
    back = move(value, visitor(("tags", list, field(default_factory=list)), ("n", int, 7)))
    assert vars(back) == {"n": 7}


def test_a_struct_cannot_take_a_field_that_has_no_value():
    old = make_dataclass("Visitor", [("a", int, field(init=False))])
    new = msgspec.defstruct("Visitor", [("a", int)])
    codec, reader = Codec.of(old), Codec.of(State(new, new=lambda: None)).reader(Codec.of(old).schema)
    with pytest.raises(StateError, match=r"^Visitor: has a field without a value$"):
        reader(codec.encode(old()))


def test_a_class_inside_is_upgraded_by_itself():
    old_item = make_dataclass("Thing", [("n", int, 0)])
    new_item = make_dataclass(
        "Thing",
        [("text", str, "")],
        namespace={
            "version": 2,
            "upgrade": classmethod(lambda cls, old, version: cls(f"{old['n']} from {version}")),
        },
    )
    old, new = visitor(("things", list[old_item], None)), visitor(("things", list[new_item], None))
    assert move(old([old_item(3)]), new).things == [new_item("3 from 1")]
    without = make_dataclass("Thing", [("text", str, "")], namespace={"version": 2})
    assert (
        refused(old, visitor(("things", list[without], None)))
        == "Thing version 1 cannot be read by version 2: give Thing an upgrade(old, version)"
    )


def test_a_class_inside_that_changed_is_refused_by_its_own_name():
    old_item, new_item = make_dataclass("Thing", [("n", int, 0)]), make_dataclass("Thing", [("m", int, 0)])
    problem = refused(visitor(("thing", old_item, None)), visitor(("thing", new_item, None)))
    assert problem == (
        "Thing.n: was written and is gone or changed, it would be lost; "
        "keep it, or raise the version of Thing and give Thing an upgrade(old, version)"
    )


def test_a_class_inside_that_is_gone_is_refused():
    old = visitor(("thing", Any, None), ("gone", Old1 | None, None))
    new = visitor(("thing", Any, None), ("gone", Any, None))
    assert refused(old, new) == f"Old1: was written and is no part of the state any more, it would be lost; {GIVE}"


def test_every_node_of_a_tree_is_upgraded_from_its_leaves_up():
    @dataclass
    class Node:
        children: "list[Node]" = field(default_factory=list)

    old = Node

    @dataclass
    class Node:  # the next version of it
        version = 2
        size: int = 0

        @classmethod
        def upgrade(cls, old, version):
            return cls(1 + sum(child.size for child in old["children"]))

    assert move(old([old(), old([old()])]), Node).size == 4


def test_what_a_state_says_holds_for_every_object_of_its_class():
    @dataclass
    class Node:
        children: "list[Node]" = field(default_factory=list)

    old = Node

    @dataclass
    class Node:  # the next version of it
        size: int = 0

    def upgrade(before, version):
        return Node(version + sum(child.size for child in before["children"]))

    back = move(old([old(), old()]), State(Node, version=6, upgrade=upgrade), declared=State(old, version=5))
    assert back.size == 15


class Handle:
    def __init__(self, number):
        self.number = number


def test_an_annotated_class_has_a_version_too():
    before, after = (
        State(
            encode=lambda h: h.number,
            decode=Handle,
            version=version,
            upgrade=lambda old, v: Handle(old + 10 * v),
        )
        for version in (1, 2)
    )
    old, new = visitor(("h", Annotated[Handle, before], None)), visitor(("h", Annotated[Handle, after], None))
    assert move(old(Handle(3)), old).h.number == 3
    assert move(old(Handle(3)), new).h.number == 13


@pytest.mark.parametrize(
    ("upgrade", "message"),
    [
        (
            lambda old, version: old["secret"],
            r"^Visitor: upgrade raised KeyError \(test_state_versions\.py:\d+\)$",
        ),
        (
            lambda old, version: 1 / 0,
            r"^Visitor: upgrade raised ZeroDivisionError \(test_state_versions\.py:\d+\)$",
        ),
        (lambda: None, r"^Visitor: upgrade raised TypeError \(.*\)$"),
        (
            lambda old, version: old,
            r"^Visitor: upgrade returned a value of type dict and not [a-z_.]+\.Visitor$",
        ),
        (
            lambda old, version: None,
            r"^Visitor: upgrade returned a value of type NoneType and not [a-z_.]+\.Visitor$",
        ),
    ],
)
def test_an_upgrade_that_fails_is_told_without_any_value(upgrade, message):
    new = visitor(("a", int, 0), version=2, upgrade=staticmethod(upgrade))
    with pytest.raises(StateError, match=message) as caught:
        move(visitor(("a", int, 0))(5), new)
    assert caught.value.__suppress_context__


def test_a_default_that_raises_is_told_without_its_text():
    def fail():
        raise RuntimeError("secret")

    new = visitor(("lines", int, 0), ("name", str, ""), ("x", int, field(default_factory=fail)))
    with pytest.raises(
        StateError, match=r"^Visitor: the default of x raised RuntimeError \(test_state_versions\.py:\d+\)$"
    ):
        move(V1(), new)


def test_a_frozen_object_in_a_set_that_is_no_longer_known_is_refused_and_not_dropped():
    key = make_dataclass("Key", [("n", int, 0)], frozen=True)
    new = visitor(version=2, upgrade=classmethod(lambda cls, old, version: cls()))
    with pytest.raises(StateError, match=r"^Visitor\.bag: putting an item into a set or dict raised TypeError"):
        move(visitor(("bag", set[key], None))({key(1)}), new)


# Without a declaration.


def test_undeclared_values_carry_what_is_needed_to_read_their_classes():
    assert decode_any(encode_any({1: {Item("x").name}})) == {1: {"x"}}
    assert decode_any(encode_any([Item("x")], [Item]), [Item, Old1]) == [Item("x")]


def test_an_undeclared_class_is_refused_on_either_side():
    with pytest.raises(StateError, match=r"^value\[0\]: is of type [\w.]*\.Item, which cannot travel"):
        encode_any([Item()])
    data = encode_any([Item()], [Item])
    with pytest.raises(StateError, match=r"^value: Item: was written and is no part of the state any more.*types=$"):
        decode_any(data)


def test_an_undeclared_class_is_upgraded_by_itself():
    new = make_dataclass(
        "Item",
        [("label", str, "")],
        namespace={"version": 2, "upgrade": classmethod(lambda cls, old, version: cls(old["name"]))},
    )
    assert decode_any(encode_any([Item("x")], [Item]), [new]) == [new("x")]


# A schema is input like any other.


@pytest.mark.parametrize(
    "schema",
    [
        None, 5, "x", [], {}, {"format": 1}, {"format": 1, "version": "1", "root": "V", "hint": [], "types": {}},
        {"format": 1, "version": 1, "root": "V", "hint": [["V"]], "types": {"V": {"kind": "spoon"}}},
        {"format": 1, "version": 1, "root": "V", "hint": [[]], "types": {}},
        {"format": 1, "version": 1, "root": "V", "hint": [[5]], "types": {}},
        {"format": 1, "version": 1, "root": "V", "hint": [["V", 5]], "types": {}},
        {"format": 1, "version": 1, "root": "V", "hint": [], "types": {str(n): {"kind": "enum"} for n in range(10_001)}},
    ],
)  # fmt: skip
def test_a_schema_that_is_none_is_refused(schema):
    problem = Codec.of(V1).unreadable(schema)
    assert problem == "the schema of the other process cannot be understood; is it another release of hotfd?"


def test_a_schema_without_bottom_is_refused():
    hint: list[Any] = []
    for _ in range(100_000):
        hint = [["list", hint]]
    assert "cannot be understood" in Codec.of(V1).unreadable(Codec.of(V1).schema | {"hint": hint})


def test_another_format_is_refused_by_its_number():
    schema = Codec.of(V1).schema | {"format": 2}
    assert Codec.of(V1).unreadable(schema) == "state is written in format 2, and format 1 is read; use the same hotfd"


def test_a_schema_with_hints_where_none_belong_is_no_crash():
    colour = enum.Enum("Colour", ["RED"])
    declared = visitor(("c", colour, None))
    schema = json.loads(json.dumps(Codec.of(declared).schema))
    schema["types"]["Colour"]["hints"] = {"RED": [["int"]]}
    assert Codec.of(declared).unreadable(schema).startswith("Colour.RED: was int and is ; ")
