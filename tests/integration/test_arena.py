"""``examples/arena.py`` and its next version, with players who check every line: matches go on over any number of handoffs."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration import harness
from tests.integration.arena_players import CLOSED, Listener, Player, Tally, Visitor
from tests.integration.arena_witness import Witness, read_table
from tests.integration.harness import EXAMPLES, Server

ROOMS = 200
COMPANY = 4
HANDOFFS = 20
LISTENERS = 4

HANDS = 16
"""Moves on their way at once in the big test: enough to keep two cores busy, and few enough that none waits for long."""

DEN = "den"
"""The room of the small tests."""

OPTIONS = ("--target", "30")
UNTIL_NOON = ("--turn-seconds", "600")
"""A clock that does not run out during a test that is not about clocks."""


@contextmanager
def arena(tmp_path: Path, *arguments: str) -> Iterator[Server]:
    """Run ``examples/arena.py`` on a free port."""
    port = harness.free_port()
    with harness.server(tmp_path, command("arena.py", port, *arguments), port) as service:
        yield service


def command(name: str, port: int, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), "--listen", f"127.0.0.1:{port}", *arguments]


async def hotfd(service: Server, *arguments: str, tail: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run a command that replaces the server, while players go on; follow the service to its new process."""
    process = await asyncio.create_subprocess_exec(
        *harness.HOTFD, arguments[0], "--pid", str(service.pid), "--json", *arguments[1:], *tail,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    done = subprocess.CompletedProcess([], process.returncode or 0, out.decode(), err.decode())
    return service.outcome(done, 0)


async def upgrade(service: Server, *arguments: str, probation: str = "0.3") -> dict[str, Any]:
    """Hand over to version 2."""
    new = command("arena_v2.py", service.port, *arguments)
    return await hotfd(service, "handoff", "--probation", probation, tail=("--", *new))


async def roll_back(service: Server, probation: str = "0.3") -> dict[str, Any]:
    """Go back to what ran before."""
    return await hotfd(service, "rollback", "--probation", probation)


@contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def playing(address: tuple[str, int], *names: str) -> AsyncIterator[list[Visitor]]:
    """Have players sit down in a room, one after another, and begin a match."""
    async with AsyncExitStack() as stack:
        visitors = []
        for name in names:
            visitor = await stack.enter_async_context(await Visitor.connect(address))
            assert await visitor.ask(f"name {name}") == f"you are {name}"
            visitor.type(f"join {DEN}")
            await visitor.read_until(f"{name} sits down")
            visitors.append(visitor)
        await begun(visitors, 1)
        yield visitors


@asynccontextmanager
async def lobby(address: tuple[str, int], listeners: list[Listener]) -> AsyncIterator[None]:
    """Have people sit in the lobby meanwhile; at the end each hears that it is closed."""
    async with AsyncExitStack() as stack:
        visitors = [await stack.enter_async_context(await Visitor.connect(address)) for _ in listeners]
        for visitor in visitors:
            await visitor.ask("version")
        tasks = [
            asyncio.create_task(listener.listen(visitor)) for listener, visitor in zip(listeners, visitors, strict=True)
        ]
        try:
            yield
        finally:
            visitors[0].type(f"say {CLOSED}")
            await asyncio.gather(*tasks)


async def begun(visitors: list[Visitor], number: int) -> None:
    """Have all players say that they are ready, and wait until each was told that the match begins."""
    for visitor in visitors:
        visitor.type("ready")
    for visitor in visitors:
        await visitor.read_until(f"match {number} begins")


async def bank(visitor: Visitor) -> None:
    """Take one's turn: roll once, and hold if it was no 1."""
    visitor.type("roll")
    visitor.type("hold")  # after a 1 somebody else's turn it is, and this is refused
    await visitor.read_until("holds|- it is the turn of")


def clock(table: str) -> float:
    """Return the seconds that the turn has left, as the server says."""
    found = re.search(r"clock ([\d.]+)", table)
    assert found is not None, table
    return float(found[1])


# ---------------------------------------------------------------- matches


@pytest.mark.timeout(600)
async def test_two_hundred_matches_of_four_go_on_over_twenty_handoffs_between_versions_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally, over, hands = Tally(), asyncio.Event(), asyncio.Semaphore(HANDS)
    listeners = [Listener(f"l{number}", tally) for number in range(LISTENERS)]
    reports = []
    with many_descriptors(), arena(tmp_path, *OPTIONS, *UNTIL_NOON) as service:
        async with lobby(service.address, listeners):
            players = [
                asyncio.create_task(
                    Player(f"room-{room}", f"p{seat}", COMPANY, tally, over, hands).play(service.address)
                )
                for room in range(ROOMS)
                for seat in range(COMPANY)
            ]
            try:
                for _ in range(HANDOFFS // 2):
                    reports.append(await upgrade(service, *OPTIONS, *UNTIL_NOON, probation="0.1"))
                    reports.append(await roll_back(service, probation="0.1"))
            finally:
                over.set()
                await asyncio.gather(*players)
        assert service.status()["generation"] == HANDOFFS + 1
    tally.check()
    assert len(tally.witnesses) == ROOMS * COMPANY
    # At the very end two may have begun once more, while the others left; who goes last has seen it.
    played = {
        f"room-{room}": max(tally.witnesses[f"room-{room}", f"p{seat}"].matches for seat in range(COMPANY))
        for room in range(ROOMS)
    }
    matches = sum(played.values())
    switches = sum(tally.witnesses[f"room-{room}", "p0"].switches for room in range(ROOMS))
    with capsys.disabled():
        pauses = max(report["pause_ms"]["max"] for report in reports)
        moved = sum(report["connections"]["moved"] for report in reports)
        print(
            f"\n{matches} matches, {tally.moves} moves, {moved} connections moved, the version changed {switches} times "
            f"in the middle of a match, longest pause {pauses:.0f} ms",
            end=" ",
        )
    assert matches >= ROOMS
    for listener in listeners:
        assert listener.wins == played
    assert switches > ROOMS  # nearly all rooms play at any time, and each of them moves twenty times
    assert all(report["reasons"] == {} for report in reports)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_match_shows_streaks_after_an_upgrade_and_none_after_the_rollback(tmp_path: Path, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    arguments = ("--target", "1000", *UNTIL_NOON, "--loop", loop)
    with arena(tmp_path, *arguments) as service:
        async with playing(service.address, "ann", "bob") as players, await Visitor.connect(service.address) as eve:
            eve.type(f"watch {DEN}")
            for number, version in enumerate((1, 2, 1), 1):
                assert await eve.ask("version") == f"arena {version}"
                eve.type(f"say {number}")
                for visitor in players:
                    await visitor.read_until(rf"guest-\w+ says: {number}")
                    await bank(visitor)
                before = read_table(f"score | {await eve.ask('score')}")
                assert before.version == version
                await (roll_back(service) if version == 2 else upgrade(service, *arguments))
                after = read_table(f"score | {await eve.ask('score')}")
                assert after.version == 3 - version
                assert (after.turn, after.current, after.scores) == (before.turn, before.current, before.scores)


async def test_who_is_lost_after_a_handoff_forfeits_and_who_stays_can_begin_again(tmp_path: Path) -> None:
    with arena(tmp_path, *OPTIONS, *UNTIL_NOON) as service:
        async with playing(service.address, "ann", "bob", "cid") as (ann, bob, cid):
            await upgrade(service, *OPTIONS, *UNTIL_NOON, probation="0.1")
            bob.reset()
            await ann.read_until("bob leaves and forfeits .* turn 1: ann")
            cid.type("leave")
            await ann.read_until("cid leaves and forfeits, ann wins match 1")
            assert await cid.ask("name cis") == "you are cis"
            cid.type(f"join {DEN}")
            await begun([ann, cid], 2)
            assert [*read_table(f"score | {await ann.ask('score')}").scores] == ["ann", "cis"]


async def test_a_match_goes_on_in_the_old_process_when_the_new_one_dies_before_it_has_touched_it(
    tmp_path: Path,
) -> None:
    with arena(tmp_path, *OPTIONS, *UNTIL_NOON) as service:
        async with playing(service.address, "ann", "bob") as (ann, bob):
            before = await ann.ask("score")
            process = await asyncio.create_subprocess_exec(
                *harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "30",
                "--", *command("arena_v2.py", service.port, *OPTIONS, *UNTIL_NOON),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            async for line in process.stderr:
                if found := re.match(rb"hotfd: probation .new process (\d+)", line):
                    harness.kill(int(found[1]))
            report = json.loads(await process.stdout.read())
            assert await process.wait() == 1
            assert report["sessions"] == {"moved": 0, "kept": 0, "returned": 1, "closed": 0}
            after = await bob.ask("score")
            assert clock(after) < clock(before)
            assert re.sub("clock [0-9.]+", "", after) == re.sub("clock [0-9.]+", "", before)
            ann.type("roll")
            await bob.read_until("^#[0-9]+ ann rolls")


# ---------------------------------------------------------------- the clock


async def less(visitor: Visitor, before: float) -> float:
    """Return what the clock of the first turn shows; one that was set anew would show more than it did before."""
    told = await visitor.ask("score")
    assert "turn 1: ann" in told
    assert clock(told) < before
    return clock(told)


async def test_a_turns_clock_goes_on_in_the_new_process_with_what_was_left(tmp_path: Path) -> None:
    seconds = 60.0
    arguments = (*OPTIONS, "--turn-seconds", str(seconds))
    with arena(tmp_path, *arguments) as service:
        async with playing(service.address, "ann", "bob") as (ann, bob):
            while (left := clock(await ann.ask("score"))) > seconds - 1:
                await asyncio.sleep(0.05)
            await upgrade(service, *arguments, probation="0")
            left = await less(bob, left)
            await roll_back(service, probation="0")
            await less(bob, left)


async def test_clocks_that_run_out_pass_each_turn_once_however_often_the_server_is_replaced(tmp_path: Path) -> None:
    arguments = (*OPTIONS, "--turn-seconds", "0.3")
    with arena(tmp_path, *arguments) as service:
        async with playing(service.address, "ann", "bob") as players:
            witnesses = [Witness() for _ in players]

            async def listen(visitor: Visitor, witness: Witness, version: int) -> None:
                """Hear lines until this version of the arena has passed a turn or two."""
                turn = 0
                while witness.table.version != version or witness.table.turn < turn:
                    witness.hear(await visitor.read())
                    if witness.table.version == version and not turn:
                        turn = witness.table.turn + 2

            async def all_listen(version: int) -> None:
                await asyncio.gather(*(listen(*each, version) for each in zip(players, witnesses, strict=True)))

            await all_listen(1)
            for _ in range(2):
                await upgrade(service, *arguments, probation="0")
                await all_listen(2)
                await roll_back(service, probation="0")
                await all_listen(1)
            assert all(witness.own["ann", "late"] > 0 and witness.own["bob", "late"] > 0 for witness in witnesses)
            assert witnesses[0].switches == 4
