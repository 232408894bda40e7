"""What a session holds of the configuration, from its beginning to its end, and over every handover between."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

import hotfd
from hotfd import testing

if TYPE_CHECKING:
    from hotfd.testing.harness import Harness


class Rules(msgspec.Struct, frozen=True):
    damage: int = 10
    open: Annotated[bool, hotfd.Live] = True


class Shop(msgspec.Struct, frozen=True):
    price: int = 1


@dataclass
class Room:
    number: int = 0


SEEN: dict[str, list[Any]] = {}


@dataclass
class Guest:
    wish: str = ""  # the room that a join is on its way to, which may take the connection along


async def talk(conn: hotfd.Connection[Guest]) -> None:
    """'?' tells the damage; '+K' joins room K; '-' leaves it; '!' takes the newest release; 'is' whether it is one object."""
    began = conn.config
    if conn.state.wish:
        await enter(conn)
        await tell(conn)
    async for line in conn:
        word = line.decode()
        if word.startswith("+"):
            conn.state.wish = word[1:]
            await enter(conn)
        elif word == "-":
            await conn.leave()
        elif word == "!":
            assert conn.session.checkpoint() is conn.config
        elif word == "is":
            await conn.send(b"%d" % (conn.config is began))
            continue
        await tell(conn)


async def enter(conn: hotfd.Connection[Guest]) -> None:
    await conn.join(conn.state.wish, state=Room)
    conn.state.wish = ""


async def tell(conn: hotfd.Connection[Guest]) -> None:
    assert conn.config is conn.session.config
    await conn.send(b"%d %d" % (conn.config.damage, conn.config.open))


def config(**arguments: Any) -> hotfd.Config[Rules]:
    return hotfd.Config("arena", Rules, initial=Rules(), **arguments)


async def say(client: testing.Client, word: str) -> str:
    await client.send(word.encode())
    return (await client.receive()).decode()


async def test_a_session_keeps_what_it_began_with_and_the_next_one_begins_with_the_newest() -> None:
    async with testing.serve(talk, state=Guest, config=config()) as served:
        first = await served.connect()
        assert await say(first, "?") == "10 1"
        served.publish(Rules(11))
        second = await served.connect()
        assert await say(second, "?") == "11 1"
        assert await say(first, "?") == "10 1"
        assert served.handovers > 2


async def test_it_is_the_same_object_from_frame_to_frame() -> None:
    async with testing.serve(talk, state=Guest, config=config()) as served:
        client = await served.connect()
        served.publish(Rules(11))
        assert await say(client, "is") == "1"
        assert await say(client, "is") == "1"


async def test_who_joins_a_session_takes_what_that_holds() -> None:
    async with testing.serve(talk, state=Guest, config=config()) as served:
        first, second = await served.connect(), await served.connect()
        assert await say(first, "+a") == "10 1"
        served.publish(Rules(11))
        third = await served.connect()
        assert await say(third, "?") == "11 1"
        assert await say(third, "+a") == "10 1"
        assert await say(second, "+b") == "11 1", "a room that is founded now begins with the newest"
        assert await say(third, "-") == "11 1", "and so does a connection that is one by itself again"


async def test_a_checkpoint_takes_the_newest_for_the_whole_session() -> None:
    async with testing.serve(talk, state=Guest, config=config()) as served:
        first, second = await served.connect(), await served.connect()
        for client in (first, second):
            await say(client, "+a")
        served.publish(Rules(11))
        assert await say(first, "!") == "11 1"
        assert await say(second, "?") == "11 1"


async def test_live_fields_follow_the_newest_release_and_the_others_do_not() -> None:
    async with testing.serve(talk, state=Guest, config=config()) as served:
        client = await served.connect()
        assert await say(client, "?") == "10 1"
        served.publish(Rules(11, open=False))
        assert await say(client, "?") == "10 0"
        served.publish(Rules(12, open=True))
        assert await say(client, "?") == "10 1"


async def test_several_modules_are_one_snapshot() -> None:
    async def both(conn: hotfd.Connection[Any]) -> None:
        async for _ in conn:
            assert conn.config["arena"] is conn.config.arena
            with pytest.raises(TypeError):
                conn.config.arena = None
            with pytest.raises(AttributeError, match="cellar"):
                _ = conn.config.cellar
            await conn.send(b"%d %d" % (conn.config.arena.damage, conn.config.shop.price))

    modules = [config(), hotfd.Config("shop", Shop, initial=Shop())]
    async with testing.serve(both, config=modules) as served:
        first = await served.connect()
        assert await say(first, "?") == "10 1"
        served.publish(Shop(2), module="shop")
        served.publish(Rules(11), module="arena")
        second = await served.connect()
        assert await say(second, "?") == "11 2"
        assert await say(first, "?") == "10 1"


async def test_a_release_that_fails_when_it_is_first_used_reaches_no_session() -> None:
    tried = []

    def use(rules: Rules) -> None:
        tried.append(rules.damage)
        if rules.damage == 11:
            raise ValueError("no such weapon")

    async with testing.serve(talk, state=Guest, config=config(on_first_use=use)) as served:
        first = await served.connect()
        served.publish(Rules(11))
        second = await served.connect()
        assert await say(second, "?") == "10 1"
        served.publish(Rules(12))
        third = await served.connect()
        assert await say(third, "?") == "12 1"
        assert await say(first, "?") == "10 1"
    assert tried == [10, 11, 12]


async def test_what_the_check_refuses_is_not_staged() -> None:
    def check(rules: Rules) -> None:
        if rules.damage > 100:
            raise ValueError("too much")

    async with testing.serve(talk, state=Guest, config=config(check=check)) as served:
        with pytest.raises(hotfd.ReleaseRefused, match="too much"):
            served.publish(Rules(101))
        client = await served.connect()
        assert await say(client, "?") == "10 1"


async def test_a_release_is_gone_when_no_session_holds_it_any_more() -> None:
    async with testing.serve(talk, state=Guest, config=config(), handoffs="never") as served:
        client = await served.connect()
        await say(client, "?")
        gone = reference(served)
        for damage in (11, 12):  # so that it is neither running nor previous
            served.publish(Rules(damage))
            await say(await served.connect(), "?")
        gc.collect()
        assert alive(gone)
        assert await say(client, "!") == "12 1"
        gc.collect()
        assert not alive(gone)


def reference(served: Harness) -> weakref.ref[Any]:
    """Refer to what the one session holds; nothing in a frame that lives on may hold it."""
    (held,) = served._engine.held_releases()
    return weakref.ref(held)


def alive(what: weakref.ref[Any]) -> bool:
    return what() is not None


async def test_without_a_configuration_there_is_none() -> None:
    async def none(conn: hotfd.Connection[Any]) -> None:
        async for _ in conn:
            assert conn.config is None
            assert conn.session.checkpoint() is None
            await conn.send(b"none")

    async with testing.serve(none) as served:
        assert await say(await served.connect(), "?") == "none"


async def test_a_checkpoint_of_a_session_that_is_over_says_so() -> None:
    sessions: list[hotfd.Session] = []

    async def keep(conn: hotfd.Connection[Any]) -> None:
        sessions.append(conn.session)
        async for _ in conn:
            break

    async with testing.serve(keep, config=config(), handoffs="never") as served:
        client = await served.connect()
        await client.send(b"end")
        await client.expect_end()
        with pytest.raises(hotfd.ConnectionClosed, match="nothing has changed"):
            sessions[0].checkpoint()


def test_a_canary_is_for_its_share_of_sessions_and_the_same_ones_on_every_server() -> None:
    from hotfd.config.slots import Slots, Staged
    from tests.unit.test_config_carry import head, release

    servers = [Slots([hotfd.Config("arena", Rules)]) for _ in range(2)]
    for slots in servers:
        update = Staged(head(release(1), 1, release(2), share=0.05))
        update.stable, update.canary = (slots.know(slots.config("arena").compile(release(n))) for n in (1, 2))
        slots.stage([update])
    keys = [f"match-{n}" for n in range(4000)]
    chosen = [[key for key in keys if slots.begin(key).versions == {"arena": 2}] for slots in servers]
    assert chosen[0] == chosen[1]
    assert 120 < len(chosen[0]) < 280, "5 % of 4,000, within what chance allows"
