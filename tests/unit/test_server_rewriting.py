"""Writing for older code: what is asked of it, and what becomes of kinds of state that it does not have."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from hotfd.errors import HandoffRefused, StateTooNew
from hotfd.server.kinds import NOTHING, Kinds
from hotfd.server.rewriting import rewrite
from hotfd.state import Codec
from hotfd.wire import messages as m


@dataclass
class Room:
    visits: int = 0
    topic: str = ""

    version = 2


OLDER_ROOM = make_dataclass("Room", [("visits", int, 0)])
V1 = make_dataclass("Visitor", [("lines", int, 0)])
V2 = make_dataclass("Visitor", [("lines", int, 0), ("tags", str, "")], namespace={"version": 2})
V3 = make_dataclass("Visitor", [("lines", int, 0)], namespace={"version": 3})
ROOM = f"{__name__}:Room"


def engine(*kinds_in_use: str) -> Any:
    """Return what stands for an engine of version 2, with one shared session of each kind."""
    kinds = Kinds(__name__, [Room])
    sessions = {str(number): SimpleNamespace(kind=kind) for number, kind in enumerate(kinds_in_use)}
    return SimpleNamespace(codec=Codec.of(V2), rooms=SimpleNamespace(kinds=kinds), sessions=sessions)


def hello(declared: Any = V1, **kinds: Any) -> m.Hello:
    """Return what older code says of itself."""
    told = {name.replace("room", ROOM): Codec.of(kind).schema for name, kind in kinds.items()}
    return m.Hello(m.PROTOCOL, 1, "1", {}, 1024, 10, "it is newer", Codec.of(declared).schema, told)


def refused(*arguments: Any) -> str:
    with pytest.raises(HandoffRefused) as caught:
        rewrite(*arguments)
    return str(caught.value)


def test_both_kinds_of_state_are_written_as_the_older_code_reads_them() -> None:
    writers, told = rewrite(engine(ROOM), [ROOM], hello(room=OLDER_ROOM))
    assert Codec.of(V1).reader(told.schema)(writers.connection(V2(3))) == V1(3)
    assert Codec.of(OLDER_ROOM).reader(told.kinds[ROOM])(writers.shared(ROOM, Room(4))) == OLDER_ROOM(4)
    for write in (lambda: writers.connection(V2(3, "a")), lambda: writers.shared(ROOM, Room(4, "news"))):
        with pytest.raises(StateTooNew):
            write()


def test_sessions_without_a_shared_state_are_written_as_ever() -> None:
    writers, _ = rewrite(engine(), [ROOM], hello(room=OLDER_ROOM))
    assert Codec.of(None).reader(Codec.of(None).schema)(writers.shared(NOTHING, None)) is None


def test_code_that_cannot_read_for_another_reason_is_refused_with_that_reason() -> None:
    without = m.Hello(m.PROTOCOL, 1, "1", {}, 1024, 10, "give the server an import_state")
    assert refused(engine(), [], without) == "state-version: give the server an import_state"


def test_code_that_is_newer_is_refused_with_its_own_reason() -> None:
    assert refused(engine(), [], hello(V3)) == "state-version: it is newer"
    newer_room = make_dataclass("Room", [("visits", int, 0)], namespace={"version": 3})
    assert refused(engine(ROOM), [ROOM], hello(room=newer_room)) == "state-version: it is newer"


def test_what_the_types_forbid_is_refused_with_the_field() -> None:
    other = make_dataclass("Visitor", [("lines", str, "")])
    assert refused(engine(), [], hello(other)).startswith(
        "state-downgrade: Visitor.lines: is int, and was str in version 1"
    )
    other = make_dataclass("Room", [("visits", str, "")])
    assert refused(engine(ROOM), [ROOM], hello(room=other)).startswith("state-downgrade: Room.visits: ")


def test_a_kind_that_the_older_code_lacks_matters_only_where_there_are_sessions_of_it() -> None:
    assert refused(engine(ROOM), [ROOM], hello()) == (
        "state-downgrade: Room: is the state of shared sessions, and the older code has no such class"
    )
    writers, told = rewrite(engine(), [ROOM], hello())
    assert told.kinds == {}
    with pytest.raises(StateTooNew):
        writers.shared(ROOM, Room())


def test_a_kind_that_came_up_after_the_question_keeps_only_its_own_sessions() -> None:
    writers, told = rewrite(engine(ROOM), [], hello())
    assert told.kinds == {}
    with pytest.raises(StateTooNew, match="came up after the older code was asked"):
        writers.shared(ROOM, Room())
