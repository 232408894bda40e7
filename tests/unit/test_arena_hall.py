"""The arena's lobby and rooms, handed over wherever that is possible while the tests play in them."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import hotfd
from hotfd import testing
from tests.integration.arena_witness import Witness, read_table

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # where a program of that folder finds the modules beside it

import arena  # noqa: E402
import arena_core as core  # noqa: E402
import arena_v2  # noqa: E402
from arena_hall import MAX_LINE, Hall  # noqa: E402

often = pytest.mark.parametrize("handoffs", ["never", "every"])


@asynccontextmanager
async def hall(
    handoffs: Any, *, match: type[core.Game] = arena.Match, target: int = 20, turn_seconds: float = 600.0
) -> AsyncIterator[testing.Harness]:
    """Serve the arena; each handover comes to a new hall, which knows of no room."""
    program = testing.per_process(lambda: Hall(match).serve)
    framing = hotfd.Lines(newline=b"\r\n", max_size=MAX_LINE)
    rules = core.Rules(target=target, turn_seconds=turn_seconds)
    config = hotfd.Config("arena", core.Rules, initial=rules)
    async with testing.serve(program, framing=framing, state=core.Player, config=config, handoffs=handoffs) as server:
        yield server


async def line(client: testing.Client) -> str:
    return (await client.receive()).decode()


async def until(client: testing.Client, pattern: str) -> str:
    """Return the next line that has a pattern in it."""
    while not re.search(pattern, found := await line(client)):
        pass
    return found


async def ask(client: testing.Client, command: str) -> str:
    """Type something; return the answer to this player alone."""
    await client.send(command.encode())
    return (await until(client, "^- "))[2:]


async def called(server: testing.Harness, name: str, command: str = "") -> testing.Client:
    """Connect a player with a name, and have him type something."""
    client = await server.connect()
    await until(client, "^arena .: welcome, guest-")
    assert await ask(client, f"name {name}") == f"you are {name}"
    if command:
        await client.send(command.encode())
    return client


async def company(server: testing.Harness, *names: str) -> list[testing.Client]:
    """Have players sit down in a room, one after another, and begin a match."""
    clients = []
    for name in names:
        clients.append(await called(server, name, "join den"))
        await until(clients[-1], f"{name} sits down")
    for client in clients:
        await client.send(b"ready")
    for client in clients:
        await until(client, "match 1 begins")
    return clients


# ---------------------------------------------------------------- the lobby


@often
async def test_the_lobby_answers_what_one_asks_and_says_what_it_does_not_know(handoffs):
    async with hall(handoffs) as server:
        client = await called(server, "ann")
        assert await ask(client, "version") == "arena 1"
        assert await ask(client, "rooms") == "no rooms"
        assert await ask(client, "name 5") == "a name is a letter, and then up to 15 letters, digits and hyphens"
        assert await ask(client, "roll") == "no such command here; type help"
        assert await ask(client, "join") == "a name is a letter, and then up to 15 letters, digits and hyphens"
        await client.send(b"\r")
        await client.send(b"HELP")
        assert "name NAME" in await line(client)
        await client.send(b"quit")
        await until(client, "^goodbye$")
        await client.expect_end()


async def test_a_room_is_listed_as_long_as_somebody_is_in_it():
    async with hall("never") as server:
        ann = await called(server, "ann", "join den")
        await until(ann, "ann sits down")
        bob = await called(server, "bob")
        assert await ask(bob, "rooms") == "den: waiting for ann | ann 0 = 0"
        await ann.send(b"leave")
        await until(ann, "ann leaves")
        assert await ask(ann, "rooms") == "no rooms"


@often
async def test_who_is_refused_in_a_room_is_in_the_lobby_as_before(handoffs):
    async with hall(handoffs) as server:
        await company(server, "ann", "bob")
        eve = await called(server, "eve")
        assert await ask(eve, "join den") == "they are playing; you can watch until the match is over"
        assert await ask(eve, "version") == "arena 1"
        await eve.send(b"watch den")
        await until(eve, "#5 eve watches")
        assert await ask(eve, "roll") == "you are watching"
        await eve.send(b"leave")
        await until(eve, "eve watches no more")


@often
async def test_all_in_the_lobby_hear_what_is_said_there_and_who_has_won_where(handoffs):
    async with hall(handoffs) as server:
        ann, bob = await company(server, "ann", "bob")
        eve, joe = await called(server, "eve"), await called(server, "joe")
        for number in range(3):
            await eve.send(f"say {number}".encode())
            for client in (eve, joe):
                assert await until(client, r"^\* ") == f"* eve says: {number}"
        assert await ask(eve, "say") == "say what?"
        await bob.send(b"leave")
        told = await until(ann, "wins")
        event = told.partition(" ")[2].partition(" | ")[0]
        for client in (eve, joe):
            assert await until(client, r"^\* ") == f"* den: {event}"


# ---------------------------------------------------------------- a room


@often
@pytest.mark.parametrize("match", [arena.Match, arena_v2.Match], ids=["v1", "v2"])
async def test_a_whole_match_is_played_and_no_witness_objects(handoffs, match):
    async with hall(handoffs, match=match) as server:
        players = dict(zip(["ann", "bob", "cid"], await company(server, "ann", "bob", "cid"), strict=True))
        witnesses = {name: Witness() for name in players}
        table = read_table(f"score | {await ask(players['ann'], 'score')}")
        while table.turn:
            await players[table.current].send(b"hold" if table.pot > 6 else b"roll")
            for name, client in players.items():
                witnesses[name].hear(await line(client))
            table = witnesses["ann"].table
        assert len({witness.number for witness in witnesses.values()}) == 1
        assert max(table.scores.values()) >= 20


@often
async def test_everybody_in_the_room_hears_what_is_said_and_nobody_else(handoffs):
    async with hall(handoffs) as server:
        ann, bob = await company(server, "ann", "bob")
        eve = await called(server, "eve")
        await bob.send("say grüß \x1b[1m euch".encode())
        for client in (ann, bob):
            await until(client, r"^#5 bob says: grüß \[1m euch$")
        assert await ask(eve, "version") == "arena 1"
        assert await ask(ann, "say") == "say what?"


@often
@pytest.mark.parametrize("how", ["leave", "quit", "end", "garbage"])
async def test_however_a_player_goes_he_forfeits_and_the_others_are_told(handoffs, how):
    async with hall(handoffs) as server:
        ann, bob = await company(server, "ann", "bob")
        match how:
            case "leave" | "quit":
                await ann.send(how.encode())
            case "end":
                ann.write_eof()
            case _:
                await ann.write(b"x" * (MAX_LINE + 1))
        await until(bob, "ann leaves and forfeits, bob wins match 1: the seed was")
        if how == "leave":
            await until(ann, "ann leaves")
            assert await ask(ann, "name anna") == "you are anna"
        else:
            await until(ann, "^goodbye")
            await ann.expect_end()
        assert await ask(bob, "roll") == "no match is on; say when you are ready"


@often
async def test_a_clock_that_runs_out_passes_the_turn_once_and_a_move_sets_it_anew(handoffs):
    async with hall(handoffs, turn_seconds=0.05) as server:
        ann, _ = await company(server, "ann", "bob")
        witness = Witness()
        while witness.table.turn < 6:
            witness.hear(await line(ann))
        assert {name for name, what in witness.own if what == "late"} == {"ann", "bob"}


@often
async def test_a_match_keeps_the_rules_that_it_began_with_and_the_next_one_has_the_newest(handoffs):
    async with hall(handoffs) as server:
        ann, bob, cid = await company(server, "ann", "bob", "cid")
        server.publish(core.Rules(target=30, turn_seconds=300.0))
        await ann.send(b"leave")
        assert "turn 2: bob, pot 0, clock 600.0" in await until(cid, "ann leaves and forfeits")
        await bob.send(b"leave")
        await until(cid, "bob leaves and forfeits, cid wins match 1")
        for client, name in ((ann, "ann"), (bob, "bob")):
            await client.send(b"join den")
            await until(cid, f"{name} sits down")
        for client in (ann, bob, cid):
            await client.send(b"ready")
        begins = await until(cid, "match 2 begins: 30 points win")
        assert "clock 300.0" in begins
        server.publish(core.Rules(target=40))
        await ann.send(b"leave")
        assert "turn 2: bob, pot 0, clock 300.0" in await until(cid, "ann leaves and forfeits")


@often
async def test_a_room_has_as_many_seats_as_the_newest_rules_say_while_nobody_plays(handoffs):
    async with hall(handoffs) as server:
        server.publish(core.Rules(room_size=2))
        for name in ("ann", "bob"):
            await until(await called(server, name, "join den"), f"{name} sits down")
        cid = await called(server, "cid")
        assert await ask(cid, "join den") == "all 2 seats are taken; you can watch"
        server.publish(core.Rules(room_size=3))
        await cid.send(b"join den")
        await until(cid, "cid sits down")


@often
async def test_chat_can_be_switched_off_in_the_middle_of_a_match_and_on_again(handoffs):
    async with hall(handoffs) as server:
        ann, bob = await company(server, "ann", "bob")
        eve = await called(server, "eve")
        server.publish(core.Rules(chat=False))
        for client in (ann, eve):
            assert await ask(client, "say hello") == "nobody may talk at the moment"
        server.publish(core.Rules())
        await ann.send(b"say hello")
        await until(bob, "ann says: hello")


@often
async def test_no_clock_runs_when_the_match_is_over(handoffs):
    async with hall(handoffs) as server:
        ann, bob = await company(server, "ann", "bob")
        assert "clock" in await ask(bob, "score")
        await bob.send(b"leave")
        await until(ann, "bob leaves")
        assert "clock" not in await ask(ann, "score")
