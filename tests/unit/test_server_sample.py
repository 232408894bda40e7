"""A sample of sessions: the busy ones first, bounded, and without holding the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hotfd.server import sample as module
from hotfd.server.sample import MEMBERS, describe, sample


class FakeConnection:
    """A connection with as much as is looked at."""

    def __init__(self, id: str, obstacle: tuple[str, str] | None, peername: Any = ("127.0.0.1", 5)) -> None:
        self.id = id
        self.peername = peername
        self.listener = "127.0.0.1:7000"
        self._task: asyncio.Task[None] | None = None
        self._found = obstacle

    def _obstacle(self) -> tuple[str, str] | None:
        return self._found


class FakeSession:
    """A session of such connections."""

    def __init__(self, id: str, *connections: FakeConnection, key: str | None = None) -> None:
        self.id = id
        self.key = key
        self.release = None
        self.connections = list(connections)

    def obstacle(self) -> tuple[str, str] | None:
        return next((found for member in self.connections if (found := member._obstacle())), None)


class FakeEngine:
    """What has the sessions."""

    def __init__(self, *sessions: FakeSession) -> None:
        self.sessions = {session.id: session for session in sessions}


BUSY = ("no-boundary", "its handler works on a frame")


def engine(count: int, busy: set[int]) -> Any:
    return FakeEngine(
        *(FakeSession(f"s{n}", FakeConnection(f"c{n}", BUSY if n in busy else None)) for n in range(count))
    )


async def test_the_busy_ones_come_first_and_all_are_counted() -> None:
    found = await sample(engine(3000, {700, 2999}), 4)
    assert (found["total"], found["busy"]) == (3000, 2)
    assert [session["id"] for session in found["sessions"]] == ["s700", "s2999", "s0", "s1"]


async def test_no_more_are_described_than_were_asked_for() -> None:
    found = await sample(engine(50, set(range(40))), 7)
    assert (found["busy"], len(found["sessions"])) == (40, 7)


async def turns_during(crowd: Any, limit: int) -> int:
    """Return how many turns others have while a sample is taken."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    await sample(crowd, limit)
    task.cancel()
    return turns


async def test_the_others_have_their_turn_while_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 10)
    assert await turns_during(engine(1000, set()), 5) >= 99


async def test_the_others_have_their_turn_between_the_members_of_large_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SLICE", 10)
    rooms = [FakeSession(f"s{n}", *(FakeConnection(f"c{n}-{i}", None) for i in range(20))) for n in range(50)]
    assert await turns_during(FakeEngine(*rooms), 1) >= 50


@pytest.mark.parametrize("busy", [set(), set(range(500))], ids=["idle", "busy"])
async def test_the_others_have_their_turn_while_many_are_described(busy: set[int]) -> None:
    assert await turns_during(engine(500, busy), 500) >= 500 * module.DESCRIBED // module.SLICE


async def test_sessions_that_end_meanwhile_are_left_out() -> None:
    crowd = engine(20, set())
    for session in crowd.sessions.values():
        if session.id != "s7":
            session.connections.clear()
    assert [session["id"] for session in (await sample(crowd, 5))["sessions"]] == ["s7"]


async def test_of_a_large_session_those_are_told_that_keep_it_from_moving() -> None:
    members = [FakeConnection(f"c{n}", BUSY if n == 40 else None) for n in range(50)]
    found = describe(FakeSession("s", *members, key="match-42"))  # type: ignore[arg-type]
    assert (found["connections"], len(found["members"]), found["members"][0]["id"]) == (50, MEMBERS, "c40")
    assert found["key"] == "match-42"
    assert found["obstacle"] == {"code": BUSY[0], "detail": BUSY[1]}


@pytest.mark.parametrize(
    ("peername", "told"),
    [
        (("127.0.0.1", 5), "127.0.0.1:5"),
        (("::1", 5, 0, 0), "[::1]:5"),
        ("", "-"),
        (None, "-"),
        (b"\0abstract", "\0abstract"),
        ("/run/client", "/run/client"),
    ],
)
def test_addresses_are_told_in_words(peername: Any, told: str) -> None:
    found = describe(FakeSession("s", FakeConnection("c", None, peername)))  # type: ignore[arg-type]
    assert found["members"][0]["peername"] == told
