"""Shared sessions over real handoffs: they move as one, exist once, and what stayed behind still moves later."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import harness

ROOMS = """
    import asyncio
    import os
    import sys
    from dataclasses import dataclass

    import hotfd


    @dataclass
    class Member:
        room: str = ""


    @dataclass
    class Room:
        number: int = 0


    async def talk(conn):
        # "R" joins room R; "+" counts in it and tells everybody; "?" tells room, count and members; "busy" works until
        # there is a file "free" beside the program.
        async for line in conn:
            word = line.decode()
            if word == "+":
                room = conn.session
                room.state.number += 1
                await room.broadcast(b"%s %d" % (room.key.encode(), room.state.number))
            elif word == "?":
                room = conn.session
                count = room.state.number if room.shared else -1
                await conn.send(b"%s %d %d" % ((room.key or "-").encode(), count, len(room.connections)))
            elif word == "-":
                await conn.leave()
                await conn.send(b"left")
            elif word == "busy":
                await conn.send(b"busy")
                while not os.path.exists(os.path.join(os.path.dirname(sys.argv[0]), "free")):
                    await asyncio.sleep(0.01)
                await conn.send(b"free")
            elif word == "stay":
                conn.movable = False, "told to"
                await conn.send(b"staying")
            elif word == "spoil":
                conn.state.room = object()
                await conn.send(b"spoilt")
            elif word == "go":
                conn.movable = True
                await conn.send(b"going")
            elif word == "pid":
                await conn.send(b"%d" % os.getpid())
            else:
                try:
                    room = await conn.join(word, state=Room)
                    await conn.send(b"in %s" % room.key.encode())
                except hotfd.SessionElsewhere:
                    await conn.send(b"elsewhere")


    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Member, name="rooms", log_style="json")
"""


GENERATIONS = 10
"""Handoffs of the chain, each of which leaves somebody behind."""


class Player:
    """A client that says a line and reads one."""

    def __init__(self, service: harness.Server) -> None:
        self.sock = service.connect()
        self.lines = self.sock.makefile("rb")

    def say(self, line: str) -> None:
        self.sock.sendall(line.encode() + b"\n")

    def hear(self) -> str:
        line = self.lines.readline()
        assert line.endswith(b"\n"), f"the end after {line!r}"
        return line.decode().strip()

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def close(self) -> None:
        self.lines.close()
        self.sock.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[harness.Server]:
    with harness.program(tmp_path, ROOMS) as made:
        made.players = []  # type: ignore[attr-defined]
        yield made
        for player in made.players:  # type: ignore[attr-defined]
            player.close()


def player(service: harness.Server) -> Player:
    made = Player(service)
    service.players.append(made)  # type: ignore[attr-defined]
    return made


def free(tmp_path: Path) -> None:
    """Let the work of who is busy come to its end."""
    (tmp_path / "free").touch()


def in_room(service: harness.Server, key: str, count: int) -> list[Player]:
    """Connect players and put them into a room."""
    players = [player(service) for _ in range(count)]
    for one in players:
        one.say(key)
    for one in players:
        assert one.hear() == f"in {key}"
    return players


def test_a_room_moves_with_all_its_members_and_its_state(service: harness.Server) -> None:
    players = in_room(service, "a", 4)
    assert {one.hear() for one in (players[0].say("+"), *players)[1:]} == {"a 1"}
    report = service.handoff("--probation", "0.2")
    assert report["connections"]["moved"] == 4
    assert report["sessions"]["moved"] == 1
    players[1].say("+")
    assert [one.hear() for one in players] == ["a 2"] * 4
    assert players[3].ask("?") == "a 2 4"


def test_a_busy_room_is_left_behind_and_moves_when_a_newcomer_wants_to_join_it(
    service: harness.Server, tmp_path: Path
) -> None:
    one, two = in_room(service, "a", 2)
    assert one.ask("busy") == "busy"
    report = service.handoff("--probation", "0.2", "--boundary-timeout", "0.2", expect=3)
    assert report["reasons"] == {"no-boundary": 1}
    assert report["connections"]["kept"] == 2
    two.say("+")  # it goes on in the old process
    assert [two.hear(), service.status()["older"][0]["generation"]] == ["a 1", 1]
    late = player(service)
    late.say("a")  # waits for the room
    free(tmp_path)
    assert one.hear() == "a 1"
    assert one.hear() == "free"
    assert late.hear() == "in a"
    assert late.ask("?") == "a 1 3"
    assert {one.ask("pid"), two.ask("pid"), late.ask("pid")} == {str(service.pid)}
    harness.wait_gone(service.pids[0])


def test_who_has_stayed_behind_moves_to_join_a_room_that_is_in_the_new_process(
    service: harness.Server, tmp_path: Path
) -> None:
    in_room(service, "a", 2)
    slow = player(service)
    assert slow.ask("busy") == "busy"
    service.handoff("--probation", "0.2", "--boundary-timeout", "0.2", expect=3)
    free(tmp_path)
    assert slow.hear() == "free"
    assert slow.ask("pid") == str(service.pids[0])
    assert slow.ask("?") == "- -1 1"
    slow.say("a")
    harness.wait_gone(service.pids[0])  # its last session has moved
    assert slow.ask("?") == "a 0 3", "it has arrived as a member; its handler began anew instead of answering"
    assert slow.ask("pid") == str(service.pid)


def test_who_may_not_move_is_told_that_the_session_is_elsewhere(service: harness.Server) -> None:
    in_room(service, "a", 1)
    slow = player(service)
    assert slow.ask("stay") == "staying"
    report = service.handoff("--probation", "0.2", "--boundary-timeout", "0.2", expect=3)
    assert report["reasons"] == {"not-movable": 1}
    assert slow.ask("a") == "elsewhere"
    assert slow.ask("new") == "elsewhere", "only the newest process makes sessions"
    assert slow.ask("go") == "going"
    slow.say("a")
    harness.wait_gone(service.pids[0])
    assert slow.ask("?") == "a 0 2"


def test_who_cannot_move_because_of_his_state_is_told_so_too(service: harness.Server, tmp_path: Path) -> None:
    in_room(service, "a", 1)
    slow = player(service)
    assert slow.ask("busy") == "busy"
    service.handoff("--probation", "0.2", "--boundary-timeout", "0.2", expect=3)
    free(tmp_path)
    assert slow.hear() == "free"
    assert slow.ask("spoil") == "spoilt"
    assert slow.ask("a") == "elsewhere"
    assert slow.ask("?") == "- -1 1", "it goes on where it is"


def test_what_stayed_behind_moves_with_a_later_handoff_over_two_generations(service: harness.Server) -> None:
    one, _ = in_room(service, "a", 2)
    assert one.ask("stay") == "staying"
    service.handoff("--probation", "0.2", "--boundary-timeout", "0.2", expect=3)
    service.handoff("--probation", "0.2", "--boundary-timeout", "0.2")
    harness.becomes(lambda: [older["generation"] for older in service.status()["older"]], [1])
    harness.wait_gone(service.pids[1])
    late = player(service)
    late.say("a")
    assert one.ask("go") == "going"
    assert late.hear() == "in a"
    assert late.ask("?") == "a 0 3"
    assert one.ask("pid") == str(service.pids[2])
    harness.wait_gone(service.pids[0])


def test_a_chain_of_handoffs_in_which_a_few_always_stay_behind_leaks_no_generation(service: harness.Server) -> None:
    left: list[Player] = []
    for generation in range(1, GENERATIONS + 1):
        (one,) = in_room(service, f"room-{generation}", 1)
        assert one.ask("stay") == "staying"
        left.append(one)
        service.handoff("--probation", "0.1", "--boundary-timeout", "0.1", expect=3)
        assert one.ask("?") == f"room-{generation} 0 1"
    older = sorted(entry["generation"] for entry in service.status()["older"])
    harness.becomes(
        lambda: sorted(entry["generation"] for entry in service.status()["older"]), list(range(1, GENERATIONS + 1))
    )
    assert older[-1] == GENERATIONS
    assert [one.ask("pid") for one in left] == [str(pid) for pid in service.pids[:-1]]
    for index, one in enumerate(left):
        assert harness.alive(service.pids[index])
        one.close()
        harness.wait_gone(service.pids[index])
    harness.becomes(lambda: service.status()["older"], [])


def test_a_wish_to_join_that_waits_survives_a_handoff_that_fails(service: harness.Server, tmp_path: Path) -> None:
    one, _ = in_room(service, "a", 2)
    assert one.ask("stay") == "staying"
    service.handoff("--probation", "0.1", "--boundary-timeout", "0.1", expect=3)
    late = player(service)
    late.say("a")
    harness.becomes(lambda: service.status()["connections"], 1)
    source = (tmp_path / "program.py").read_text()
    sick = source.replace('log_style="json"', 'log_style="json", healthy=lambda: CALLS.append(1) or len(CALLS) < 2')
    bad = harness.script(tmp_path, "bad.py", "CALLS = []\n" + sick)
    report = service.handoff(expect=1, command=[sys.executable, str(bad), str(service.port)])
    assert report["reason"].startswith("unhealthy")
    assert report["connections"]["returned"] == 1
    assert one.ask("go") == "going"
    assert late.ask("?") == "a 0 3", "its wish came back with it; its handler began anew instead of answering"
    assert late.ask("b") == "in b"


def test_rooms_move_together_with_the_process_state(tmp_path: Path) -> None:
    together = ROOMS.replace(
        'log_style="json"', 'cutover="together", export_state=lambda: 1, import_state=lambda value: None'
    )
    assert together != ROOMS
    with harness.program(tmp_path, together) as made:
        made.players = []  # type: ignore[attr-defined]
        players = [*in_room(made, "a", 3), *in_room(made, "b", 2)]
        players[0].say("+")
        assert [one.hear() for one in players[:3]] == ["a 1"] * 3
        report = made.handoff("--probation", "0.2")
        assert report["sessions"]["moved"] == 2
        assert [one.ask("?") for one in players] == ["a 1 3"] * 3 + ["b 0 2"] * 2
        late = player(made)
        assert late.ask("b") == "in b"
        for one in made.players:  # type: ignore[attr-defined]
            one.close()


async def roamer(
    address: tuple[str, int], seed: int, stop: asyncio.Event, seen: dict[str, list[int]], faults: list[str]
) -> None:
    """Go from room to room and count in each; every number of a room must come once, whoever counts."""
    rng = random.Random(seed)
    reader, writer = await asyncio.open_connection(*address)
    room = ""
    try:
        while not stop.is_set():
            room = f"room-{rng.randrange(12)}"
            async with asyncio.timeout(harness.PATIENCE):
                writer.write(f"{room}\n?\n".encode())
                while not (line := (await reader.readline()).decode().split()) or line[0] == "in" or len(line) == 2:
                    _note(line, seen, faults, writer)
                if line[0] != room:
                    faults.append(f"client {seed} asked for {room} and is in {line}")
                for _ in range(rng.randrange(4)):
                    writer.write(b"+\n")
                    await asyncio.sleep(rng.random() * 0.1)  # or the counts alone would keep a slow machine busy
                writer.write(b"-\n")
                while (line := (await reader.readline()).decode().split()) != ["left"]:
                    if not line:
                        raise ConnectionResetError("the end")
                    _note(line, seen, faults, writer)
    except (OSError, TimeoutError) as error:
        faults.append(f"client {seed} in {room}: {type(error).__name__} {error}")
    finally:
        writer.close()


def _note(line: list[str], seen: dict[str, list[int]], faults: list[str], writer: asyncio.StreamWriter) -> None:
    if not line:
        raise ConnectionResetError("the end")
    if len(line) == 2 and line[0] != "in":
        seen.setdefault(line[0], []).append(int(line[1]))


async def test_a_keeper_in_each_room_sees_every_count_once_over_ten_handoffs(tmp_path: Path) -> None:
    """If a session existed twice, two members would count to the same number, and a keeper would miss one."""
    with harness.program(tmp_path, ROOMS) as service:
        stop, faults = asyncio.Event(), list[str]()
        keepers = [await keeper(service.address, f"room-{number}") for number in range(12)]
        watching = [asyncio.create_task(watch(one, room, faults)) for room, one in keepers]
        roamers = [asyncio.create_task(roamer(service.address, seed, stop, {}, faults)) for seed in range(60)]
        reports = await harness.handoffs(service, 10)
        stop.set()
        await asyncio.gather(*roamers)
        counts = []
        for _, (_, writer) in keepers:
            writer.write(b"?\n")
        counts = await asyncio.gather(*watching)
        for _, (_, writer) in keepers:
            writer.close()
        assert not faults, faults[:5]
        assert sum(counts) > 500, "the rooms have been busy"
        assert [report["outcome"] for report in reports] == ["completed"] * 10


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def keeper(address: tuple[str, int], room: str) -> tuple[str, Streams]:
    """Stay in a room from its beginning to its end."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(room.encode() + b"\n")
    assert (await reader.readline()) == f"in {room}\n".encode()
    return room, (reader, writer)


async def watch(streams: Streams, room: str, faults: list[str]) -> int:
    """Check that each count follows the one before it; return the last one, which the room must agree with."""
    reader, _ = streams
    last = 0
    while line := (await asyncio.wait_for(reader.readline(), harness.PATIENCE)).decode().split():
        if len(line) == 3:
            if line[:2] != [room, str(last)]:
                faults.append(f"{room} says {line}, its keeper has seen {last}")
            return last
        if line != [room, str(last + 1)]:
            faults.append(f"{room}: {line} after {last}")
        last = int(line[1])
    faults.append(f"{room} has ended after {last}")
    return last
