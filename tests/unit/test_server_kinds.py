"""The types of shared sessions' states: found by name in another process, and read there, or refused beforehand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from hotfd.errors import StateError
from hotfd.server.kinds import NOTHING, Kinds
from hotfd.state import State

HERE = __name__


@dataclass
class Match:
    turn: int = 0


class Outer:
    @dataclass
    class Inner:
        turn: int = 0


@dataclass
class Unfit:
    work: asyncio.Task[None] | None = None


def travelled(written: Kinds, read: Kinds, name: str, value: Any) -> Any:
    """What another process makes of a state."""
    assert read.unreadable(written.schemas) is None
    return read.reader(written.schemas)(name, written.encode(name, value))


@pytest.mark.parametrize("declared", [Match, Outer.Inner, dict])
def test_a_class_at_module_level_is_found_by_its_name_in_the_new_process(declared: type[Any]) -> None:
    old, new = Kinds(HERE), Kinds(HERE)
    value = {"a": 1} if declared is dict else declared(turn=7)
    assert travelled(old, new, old.name(declared), value) == value


def test_a_program_that_runs_as_main_has_its_classes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    old = Kinds("__main__")
    monkeypatch.setattr(Match, "__module__", "__main__")
    name = old.name(Match)
    assert name == "__main__:Match"
    with pytest.raises(StateError, match="session_states="):
        Kinds("elsewhere").codec(name)
    monkeypatch.setattr(sys.modules["__main__"], "Match", Match, raising=False)
    assert Kinds("elsewhere").codec(name).schema == old.codec(name).schema


def test_a_class_that_the_new_code_has_not_is_named_before_anything_moves() -> None:
    @dataclass
    class Local:
        turn: int = 0

    old = Kinds(HERE)
    old.name(Local)
    problem = Kinds(HERE).unreadable(old.schemas)
    assert problem is not None
    assert "Local" in problem
    assert "session_states=" in problem
    assert Kinds(HERE, [Local]).unreadable(old.schemas) is None


def test_a_pair_of_functions_is_known_where_it_is_declared() -> None:
    declared: State[set[int]] = State(encode=sorted, decode=set, new=set)
    old, new = Kinds(HERE, [declared]), Kinds(HERE, [declared])
    assert travelled(old, new, old.name(declared), {3, 1}) == {1, 3}
    assert old.new(old.name(declared)) == set()


def test_a_state_with_an_upgrade_of_its_own_replaces_the_bare_class() -> None:
    old = Kinds(HERE)
    name = old.name(Match)
    declared = State(Match, version=2, upgrade=lambda was, version: Match(was["turn"] + version))
    new = Kinds(HERE, [declared])
    assert new.name(declared) == name
    assert travelled(old, new, name, Match(5)) == Match(6)


def test_what_is_no_class_is_never_taken_for_one() -> None:
    kinds = Kinds(HERE)
    for name in (f"{HERE}:travelled", f"{HERE}:Outer.__doc__", f"{HERE}:", "os:system", ":", "no-such:Thing"):
        with pytest.raises(StateError):
            kinds.codec(name)


def test_a_type_that_cannot_travel_is_an_error_at_once_and_is_not_known_afterwards() -> None:
    kinds = Kinds(HERE)
    with pytest.raises(StateError, match="Unfit"):
        kinds.name(Unfit)
    assert kinds.schemas == {}


def test_a_session_without_a_state_needs_no_schema() -> None:
    kinds = Kinds(HERE)
    assert kinds.name(None) == NOTHING
    assert kinds.schemas == {}
    assert kinds.new(NOTHING) is None
    assert kinds.reader({})(NOTHING, kinds.encode(NOTHING, None)) is None
