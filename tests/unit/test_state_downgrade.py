"""What newer code writes for older code, which the older then reads as its own; and what stands in the way."""

import enum
import json
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest

from hotfd.errors import StateError, StateTooNew
from hotfd.state import Codec, State


def match(*fields: Any, name: str = "Match", **namespace: Any) -> type:
    """Return one version of a dataclass ``Match``."""
    return make_dataclass(name, fields, namespace=namespace)


def crossed(codec: Codec[Any]) -> dict[str, Any]:
    """Return a codec's schema as the other process gets it."""
    return json.loads(json.dumps(codec.schema, sort_keys=True))


def back(value: Any, older: Any, newer: Any = None) -> Any:
    """Write a state of newer code for older code, and read it there."""
    old, new = Codec.of(older), Codec.of(newer or type(value))
    writer = new.older(crossed(old))
    assert not isinstance(writer, str), writer
    schema = json.loads(json.dumps(writer.schema))
    assert old.unreadable(schema) is None
    return old.reader(schema)(writer.encode(value))


def impossible(newer: Any, older: Any) -> str:
    """Return why no state of ``newer`` can be written for ``older``."""
    problem = Codec.of(newer).older(crossed(Codec.of(older)))
    assert isinstance(problem, str)
    assert "\n" not in problem
    return problem


V1 = match(("turn", int, 0), ("name", str, ""), version=1)
V2 = match(
    ("turn", int, 0), ("spectators", list, field(default_factory=list)), ("name", str, ""), ("bell", bool, False),
    version=2,
)  # fmt: skip


def test_fields_at_their_defaults_are_left_out():
    assert back(V2(7, [], "x"), V1) == V1(7, "x")


@pytest.mark.parametrize(("value", "where"), [(V2(7, ["ann"]), "spectators"), (V2(7, bell=True), "bell")])
def test_a_field_that_is_not_at_its_default_is_named_and_its_value_is_not(value, where):
    with pytest.raises(StateTooNew) as caught:
        back(value, V1)
    assert str(caught.value) == f"Match.{where}: is not known to version 1, and is not at its default"


def test_equal_is_not_enough_for_a_default():
    with pytest.raises(StateTooNew):
        back(V2(bell=0), V1)


def test_one_state_that_cannot_go_back_does_not_spoil_the_next():
    writer = Codec.of(V2).older(crossed(Codec.of(V1)))
    with pytest.raises(StateTooNew):
        writer.encode(V2(1, ["ann"]))
    assert Codec.of(V1).reader(writer.schema)(writer.encode(V2(1))) == V1(1)


def test_a_field_that_is_gone_takes_its_default_in_the_older_code():
    older = match(("turn", int, 0), ("mood", list, field(default_factory=lambda: ["calm"])), version=1)
    assert vars(back(match(("turn", int, 0), version=2)(3), older)) == {"turn": 3, "mood": ["calm"]}


def test_downgrade_says_what_the_older_version_reads():
    def downgrade(cls, state, version):
        return {"turn": state.turn * 10 + version, "name": ",".join(state.spectators)}

    newer = match(("turn", int, 0), ("spectators", list, field(default_factory=list)), version=3,
                  downgrade=classmethod(downgrade))  # fmt: skip
    assert back(newer(4, ["a", "b"]), V1) == V1(41, "a,b")


def test_downgrade_may_stand_in_the_state():
    newer = match(("moves", int, 0))
    declared = State(newer, version=2, downgrade=lambda state, version: {"turn": state.moves, "name": f"v{version}"})
    assert back(newer(5), V1, declared) == V1(5, "v1")


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ({"turn": 1}, "Match.name: downgrade to version 1 returned no value for it"),
        ({"turn": 1, "name": "", "x": 2}, "Match: downgrade to version 1 returned what is no field of that version"),
        ([1, ""], "Match: downgrade returned a value of type list and not a dict of fields"),
        ({"turn": 1, "name": object()}, "Match.name: is of type object, which cannot travel; "),
    ],
)
def test_a_downgrade_that_returns_something_else_is_a_fault_of_that_state(made, problem):
    newer = match(("turn", int, 0), version=2, downgrade=staticmethod(lambda state, version: made))
    with pytest.raises(StateError) as caught:
        back(newer(1), V1)
    assert str(caught.value).startswith(problem)


def test_a_downgrade_that_raises_is_named_without_its_text():
    newer = match(("turn", int, 0), version=2, downgrade=staticmethod(lambda state, version: {}["secret"]))
    with pytest.raises(StateError) as caught:
        back(newer(1), V1)
    assert "downgrade raised KeyError" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_downgrade_that_needs_an_object_is_none():
    newer = match(("pace", int), version=2, downgrade=lambda self, version: {})
    assert impossible(State(newer, new=lambda: newer(0)), V1) == (
        "Match.pace: is not known to version 1 and cannot be left out; make Match.downgrade a classmethod or staticmethod"
    )


# What the types forbid.


def test_a_new_field_without_a_default_stands_in_the_way():
    newer = match(("pace", int), version=2)
    assert impossible(State(newer, new=lambda: newer(0)), V1) == (
        "Match.pace: is not known to version 1 and cannot be left out; give Match a downgrade(state, version)"
    )


def test_a_field_that_the_older_code_needs_stands_in_the_way():
    older = match(("seed", int), version=1)
    assert impossible(match(("turn", int, 0), version=2), State(older, new=lambda: older(1))) == (
        "Match.seed: is needed by version 1 and is gone; give Match a downgrade(state, version)"
    )


def test_a_field_of_another_type_stands_in_the_way():
    assert impossible(match(("turn", str, ""), version=2), match(("turn", int, 0), version=1)) == (
        "Match.turn: is str, and was int in version 1; give Match a downgrade(state, version)"
    )


def test_a_version_that_is_newer_over_there_is_no_downgrade():
    assert impossible(V1, V2) == "version 2 is newer than version 1 here, and is to read it by itself"


def test_a_schema_that_is_none_is_refused():
    assert "cannot be understood" in Codec.of(V2).older({"nonsense": 1})


# Without a version that is higher.


def test_code_of_the_same_version_with_fewer_fields_is_written_for_too():
    older, newer = match(("turn", int, 0)), match(("turn", int, 0), ("bell", bool, False))
    assert back(newer(3), older) == older(3)
    with pytest.raises(StateTooNew) as caught:
        back(newer(3, True), older)
    assert caught.value.problem == "is not known to the other code, and is not at its default"


# Classes inside of a state.


def seat(*fields: Any, **namespace: Any) -> type:
    return match(*fields, name="Seat", **namespace)


def test_a_nested_class_goes_back_by_its_own_fields_and_its_own_downgrade():
    old_seat, plain = seat(("name", str, "")), seat(("name", str, ""), ("streak", int, 0))
    own = seat(("nick", str, ""), version=2, downgrade=staticmethod(lambda value, version: {"name": value.nick}))
    older = match(("seats", list[old_seat], field(default_factory=list)), version=1)
    for now in (plain, own):
        newer = match(("seats", list[now], field(default_factory=list)), version=2)
        assert back(newer([now("ann")]), older) == older([old_seat("ann")])
    newer = match(("seats", list[plain], field(default_factory=list)), version=2)
    with pytest.raises(StateTooNew) as caught:
        back(newer([plain("ann"), plain("bob", 3)]), older)
    assert caught.value.path == "Match.seats[1].streak"


def test_objects_in_what_downgrade_returns_go_back_by_their_own_classes():
    old_seat, new_seat = seat(("name", str, "")), seat(("name", str, ""), ("streak", int, 0))
    older = match(("first", old_seat, None), version=1)
    newer = match(("seats", list[new_seat], field(default_factory=list)), version=2,
                  downgrade=staticmethod(lambda state, version: {"first": state.seats[0]}))  # fmt: skip
    assert back(newer([new_seat("ann")]), older) == older(old_seat("ann"))
    with pytest.raises(StateTooNew):
        back(newer([new_seat("ann", 2)]), older)


def test_a_class_that_the_older_code_lacks_matters_only_where_it_is_used():
    watcher = match(("name", str, ""), name="Watcher")
    newer = match(("turn", int, 0), ("watchers", list[watcher], field(default_factory=list)),
                  ("prize", Any, None), version=2)  # fmt: skip
    older = match(("turn", int, 0), ("prize", Any, None), version=1)
    assert back(newer(2), older) == older(2)
    with pytest.raises(StateTooNew) as caught:
        back(newer(2, [], watcher()), older)
    assert caught.value.path == "Match.prize"


def test_a_nested_class_that_cannot_go_back_is_the_roots_downgrade_to_deal_with():
    old_seat, new_seat = seat(("name", str, "")), seat(("number", int), version=2)
    older = match(("seat", old_seat, None), version=1)
    fields = [("seat", new_seat, None)]
    assert impossible(match(*fields, version=2), older).startswith("Seat.number: is not known to version 1")
    gone = match(*fields, version=2, downgrade=staticmethod(lambda state, version: {"seat": None}))
    assert back(gone(new_seat(4)), older) == older(None)
    kept = match(*fields, version=2, downgrade=staticmethod(lambda state, version: {"seat": state.seat}))
    with pytest.raises(StateTooNew) as caught:
        back(kept(new_seat(4)), older)
    assert caught.value.path == "Match.seat"


def test_a_nested_class_that_is_newer_over_there_is_read_by_its_upgrade():
    newer_seat = seat(("name", str, ""), version=1)
    older_seat = seat(("nick", str, ""), version=2, upgrade=classmethod(lambda cls, old, version: cls(old["name"])))
    newer = match(("seat", newer_seat, None), version=2)
    older = match(("seat", older_seat, None), version=1)
    assert back(newer(newer_seat("ann")), older) == older(older_seat("ann"))


def test_members_of_an_enum_go_back_when_the_older_code_has_them():
    old_mood, new_mood = enum.Enum("Mood", ["CALM"]), enum.Enum("Mood", ["WILD", "CALM"])
    older = match(("mood", old_mood, None), version=1)
    newer = match(("mood", new_mood, None), version=2)
    assert back(newer(new_mood.CALM), older) == older(old_mood.CALM)
    with pytest.raises(StateTooNew) as caught:
        back(newer(new_mood.WILD), older)
    assert caught.value.path == "Match.mood"
    assert "WILD" not in str(caught.value)


def test_a_flag_with_more_members_stands_in_the_way():
    old_mode, new_mode = enum.Flag("Mode", ["A"]), enum.Flag("Mode", ["A", "B"])
    problem = impossible(match(("mode", new_mode, None), version=2), match(("mode", old_mode, None), version=1))
    assert problem.startswith("Mode.B: is not known to version 1")


# Other kinds of state.


def test_structs_and_namedtuples_go_back_as_dataclasses_do():
    class Seat1(msgspec.Struct):
        name: str = ""

    class Seat2(msgspec.Struct):
        streak: int = 0
        name: str = ""

    class Spot1(NamedTuple):
        x: int = 0

    class Spot2(NamedTuple):
        x: int = 0
        y: int = 0

    for old, new, value, known in ((Seat1, Seat2, Seat2(0, "a"), Seat1("a")), (Spot1, Spot2, Spot2(4, 0), Spot1(4))):
        assert back(value, State(old, version=1), State(new, version=2)) == known
    with pytest.raises(StateTooNew) as caught:
        back(Spot2(4, 5), State(Spot1, version=1), State(Spot2, version=2))
    assert caught.value.path == "Spot2.y"


def test_a_renamed_root_is_still_the_root():
    older = match(("turn", int, 0), name="Game", version=1)
    assert back(V2(3), State(older)) == older(3)


def test_a_plain_root_goes_back_by_its_states_downgrade():
    newer = State(dict, version=2, downgrade=lambda state, version: sorted(state))
    assert back({"b": 1, "a": 2}, State(list, version=1), newer) == ["a", "b"]
    assert impossible(State(dict, version=2), State(list, version=1)) == (
        "dict: is dict, and was list in version 1; give State(downgrade=) a downgrade(state, version)"
    )
    assert back({"b": 1}, State(dict, version=1), State(dict, version=2)) == {"b": 1}


def test_a_pair_of_functions_goes_back_by_its_states_downgrade():
    older = State(bytearray, encode=bytes, decode=bytearray, version=1)
    pair = {"encode": lambda value: value.decode(), "decode": lambda text: bytearray(text.encode()), "version": 2}
    newer = State(bytearray, **pair, downgrade=lambda state, version: bytes(state) + b"%d" % version)
    assert back(bytearray(b"x"), older, newer) == bytearray(b"x1")
    assert "form of its own" in impossible(State(bytearray, **pair), older)


def test_an_object_with_functions_of_its_own_inside_of_a_state():
    class Weird:
        def __init__(self, n: int = 0) -> None:
            self.n = n

    def declared(version: int, **more: Any) -> type:
        own = State(Weird, version=version, encode=lambda w: w.n, decode=Weird, **more)
        return match(("weird", Annotated[Weird, own], None), version=version)

    newer = declared(2, downgrade=lambda weird, version: weird.n + 100 * version)
    assert back(newer(Weird(4)), declared(1)).weird.n == 104
    assert "form of its own" in impossible(declared(2), declared(1))


def test_a_typed_dict_has_no_field_that_could_be_left_out():
    class Room(TypedDict):
        label: str

    wider = TypedDict("Room", {"label": str, "bell": bool})  # noqa: UP013 - a newer class of the same name
    problem = impossible(State(wider, version=2), State(Room, version=1))
    assert problem.startswith("Room.bell: is not known to version 1 and cannot be left out; give State(downgrade=)")
    newer = State(wider, version=2, downgrade=lambda state, version: {"label": state["label"]})
    assert back({"label": "x", "bell": True}, State(Room, version=1), newer) == {"label": "x"}


def test_code_that_keeps_no_state_takes_sessions_whose_state_is_fresh():
    assert back(V2(), None, V2) is None
    with pytest.raises(StateTooNew) as caught:
        back(V2(1), None, V2)
    assert caught.value.problem == "differs from a fresh state, and the older code keeps none"


def test_a_state_of_another_type_is_refused_as_ever():
    with pytest.raises(StateError) as caught:
        back(V1(), V1, V2)
    assert caught.value.problem.startswith("is of type ")


@dataclass
class Slotted:
    turn: int = 0
    name: str = field(init=False)


def test_a_field_without_a_value_goes_back_without_one():
    newer = make_dataclass(
        "Slotted", [("turn", int, 0), ("name", str, field(init=False)), ("n", int, 0)], namespace={"version": 2}
    )
    assert vars(back(newer(3), Slotted)) == {"turn": 3}
