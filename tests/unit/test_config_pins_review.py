"""Pins where it is hard: live fields, canaries of one publish, programs' functions that fail, and what is handed over."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pydantic
import pytest

import hotfd
from hotfd import testing
from hotfd.app.configuration import Configuration
from hotfd.config.carry import Luggage, carry
from hotfd.config.release import MAX_ZONES, Instruction, Release, seal
from hotfd.config.rollout import For
from hotfd.config.slots import Slots, Staged
from tests.unit.config_support import FUSE, Rules, Shelf, Shop, sealed
from tests.unit.test_app_configuration import away, sources  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from hotfd.config.snapshots import Snapshot
    from tests.unit.test_app_configuration import Sources


class Switch(msgspec.Struct, frozen=True):
    size: int = 1
    open: Annotated[bool, hotfd.Live] = True


def switch(**arguments: Any) -> hotfd.Config[Switch]:
    return hotfd.Config("arena", Switch, source="fake:", **arguments)


def refuses(*sizes: int) -> Any:
    def use(value: Any) -> None:
        if value.size in sizes:
            raise ValueError("not this one")

    return use


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def staged(slots: Slots, shelf: Shelf, module: str, *, held_back: bool) -> Staged:
    """Return what a follower stages of a module's head, with everything compiled, and nothing of it usable if held back."""
    head = shelf.heads[module]
    found = []
    for track in (head.stable, head.canary):
        sha256 = track.sha256 if track is not None else ""
        compiled = slots.known(module, sha256) if track is not None else None
        if track is not None and compiled is None:
            compiled = slots.know(slots.config(module).compile(shelf.releases[sha256]))
        found.append(compiled)
    KEPT.extend(found)
    return Staged(head, None if held_back else found[0], None if held_back else found[1])


KEPT: list[Any] = []
"""Compiled releases that the follower keeps while their head is the newest one."""


# -- live fields -------------------------------------------------------------------------------------


def test_a_release_that_fails_when_it_is_first_used_leaves_no_live_field_behind(shelf: Shelf) -> None:
    slots = Slots([switch(on_first_use=refuses(2))])
    shelf.publish("arena", size=1, open=True)
    shelf.stage(slots)
    first = slots.begin("a")
    shelf.publish("arena", size=2, open=False)
    shelf.stage(slots)
    second = slots.begin("b")
    assert second is first
    assert first.value == Switch(1, open=True)


def test_a_canary_that_fails_when_it_is_first_used_has_the_newest_live_fields_where_it_is_held(shelf: Shelf) -> None:
    slots = Slots([switch(on_first_use=refuses(2))])
    shelf.publish("arena", size=1, open=True)
    shelf.publish("arena", canary=For(share=1.0), size=2, open=False)
    shelf.stage(slots)
    canary = slots.canary("arena")
    assert canary is not None
    assert slots.begin("a").value.size == 1
    assert canary.value == Switch(2, open=True)


def test_a_release_that_was_held_back_for_a_while_has_its_own_live_fields_and_follows_later(shelf: Shelf) -> None:
    slots = Slots([switch()])
    shelf.publish("arena", size=1, open=True)
    shelf.stage(slots)
    first = slots.begin("a")
    shelf.publish("arena", size=2, open=False)
    slots.stage([staged(slots, shelf, "arena", held_back=True)])
    assert first.value == Switch(1, open=True)
    slots.stage([staged(slots, shelf, "arena", held_back=False)])
    second = slots.begin("b")
    assert (first.value, second.value) == (Switch(1, open=False), Switch(2, open=False))
    shelf.publish("arena", size=3, open=True)
    shelf.stage(slots)
    assert (first.value, second.value) == (Switch(1, open=True), Switch(2, open=True))


def test_a_canary_that_was_held_back_for_a_while_has_its_own_live_fields(shelf: Shelf) -> None:
    slots = Slots([switch()])
    shelf.publish("arena", size=1, open=True)
    shelf.stage(slots)
    shelf.publish("arena", canary=For(share=1.0), size=2, open=False)
    slots.stage([staged(slots, shelf, "arena", held_back=True)])
    slots.stage([staged(slots, shelf, "arena", held_back=False)])
    assert slots.begin("a").value == Switch(2, open=False)


def test_nothing_is_checked_anew_when_it_is_staged(shelf: Shelf) -> None:
    checked: list[int] = []
    slots = Slots([switch(check=lambda value: checked.append(value.size))])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    shelf.publish("arena", size=2)
    slots.stage([staged(slots, shelf, "arena", held_back=True)])
    slots.stage([staged(slots, shelf, "arena", held_back=False)])
    assert slots.begin("a").value.size == 2
    assert checked == [1, 2]


def test_a_release_that_fails_leaves_the_live_fields_of_what_comes_into_force_beside_it(shelf: Shelf) -> None:
    slots = Slots([switch(on_first_use=refuses(2)), hotfd.Config("shop", Switch, source="fake:")])
    for module in ("arena", "shop"):
        shelf.publish(module, size=1, open=True)
    shelf.stage(slots)
    first = slots.begin("a")
    for module in ("arena", "shop"):
        shelf.publish(module, size=2, open=False)
    shelf.stage(slots)
    assert slots.begin("b").versions == {"arena": 1, "shop": 2}
    assert (first.value.arena.open, first.value.shop.open) == (True, False)


# -- canaries ------------------------------------------------------------------------------------------


def canaries(shelf: Shelf, slots: Slots, share: float) -> None:
    for module, values in (("arena", {"size": 1}), ("shop", {"price": 1})):
        shelf.publish(module, batch="one", **values)
    for module, values in (("arena", {"size": 2}), ("shop", {"price": 2})):
        shelf.publish(module, batch="two", canary=For(share=share), **values)
    shelf.stage(slots)


def test_canaries_that_were_published_together_are_for_the_same_sessions(shelf: Shelf) -> None:
    slots = Slots([hotfd.Config("arena", Rules, source="fake:"), hotfd.Config("shop", Shop, source="fake:")])
    canaries(shelf, slots, 0.5)
    seen = {tuple(slots.begin(f"match-{number}").versions.values()) for number in range(100)}
    assert seen == {(1, 1), (2, 2)}


def test_a_canary_that_fails_when_it_is_first_used_ends_those_that_were_published_with_it(shelf: Shelf) -> None:
    def use(value: Any) -> None:
        if getattr(value, "price", 0) == 2:
            raise ValueError("no")

    slots = Slots(
        [hotfd.Config("arena", Rules, source="fake:"), hotfd.Config("shop", Shop, source="fake:", on_first_use=use)]
    )
    canaries(shelf, slots, 1.0)
    assert slots.begin("a").versions == {"arena": 1, "shop": 1}
    assert slots.begin("b").versions == {"arena": 1, "shop": 1}
    assert slots.canary("arena") is None


def test_what_a_session_brings_and_this_program_cannot_use_takes_nothing_that_is_in_force_with_it(shelf: Shelf) -> None:
    old = Slots([hotfd.Config("arena", Rules, source="fake:"), hotfd.Config("shop", Shop, source="fake:")])
    shelf.publish("arena", batch="one", size=1)
    shelf.publish("shop", batch="one", price=1)
    shelf.stage(old)
    held = old.begin("a")
    shelf.publish("arena", size=2)
    shelf.stage(old)
    arena = hotfd.Config("arena", Rules, source="fake:", on_first_use=refuses(1))
    more = hotfd.Config("more", Rules, source="fake:")
    new = Slots([arena, hotfd.Config("shop", Shop, source="fake:"), more])
    luggage = Luggage(new)
    luggage.unpack(carry(old, [held]))
    assert "first used" in luggage.unreadable[held.serial]
    assert new.staged("shop") is not None
    assert new.staged("arena") is not None


# -- functions of the program ----------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["check", "on_first_use", "upgrade"])
def test_a_coroutine_function_in_place_of_a_plain_one_is_an_error_of_the_declaration(hook: str) -> None:
    async def later(value: Any) -> Any:
        return value

    with pytest.raises(ValueError, match=f"{hook} must be a plain function"):
        hotfd.Config("arena", Rules, source="fake:", **{hook: later})


def test_what_would_have_to_be_awaited_is_no_consent(shelf: Shelf) -> None:
    async def later(value: Any) -> None:
        raise ValueError("nobody sees this")

    config = hotfd.Config("arena", Rules, source="fake:", check=lambda value: later(value))
    with pytest.raises(hotfd.ReleaseRefused, match="check must be a plain function"):
        config.compile(sealed("arena", 1, size=2))
    slots = Slots([hotfd.Config("arena", Rules, source="fake:", on_first_use=lambda value: later(value))])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    assert not slots.start()
    assert slots.quarantined("arena")


def test_a_validator_that_raises_anything_refuses_the_release() -> None:
    class Model(pydantic.BaseModel, frozen=True):
        size: int

        @pydantic.field_validator("size")
        @classmethod
        def known(cls, size: int) -> int:
            return {1: 1}[size]

    config = hotfd.Config("arena", Model, source="fake:")
    with pytest.raises(hotfd.ReleaseRefused, match="KeyError"):
        config.compile(sealed("arena", 1, size=2))


def test_values_that_are_nested_too_deeply_to_lay_a_zone_over_them_refuse_the_release() -> None:
    deep: dict[str, Any] = {}
    for _ in range(600):
        deep = {"a": deep}
    config = hotfd.Config("arena", Rules, source="fake:", zone="eu")
    with pytest.raises(hotfd.ReleaseRefused):
        config.compile(sealed("arena", 1, zones={"eu": deep}, **deep))


def test_a_result_that_was_cancelled_fails_the_first_use_like_every_error(shelf: Shelf) -> None:
    def use(value: Rules) -> None:
        if value.size == 2:
            raise asyncio.CancelledError

    slots = Slots([hotfd.Config("arena", Rules, source="fake:", on_first_use=use)])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    slots.begin("a")
    shelf.publish("arena", size=2)
    shelf.stage(slots)
    assert slots.begin("b").value.size == 1
    assert slots.quarantined("arena")


def test_a_release_that_failed_when_it_was_first_used_is_not_tried_again_when_it_is_handed_over(shelf: Shelf) -> None:
    tried: list[int] = []

    def use(value: Rules) -> None:
        tried.append(value.size)
        raise ValueError("no")

    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    shelf.publish("arena", size=1)
    shelf.stage(old)
    held = old.begin("a")
    new = Slots([hotfd.Config("arena", Rules, source="fake:", on_first_use=use)])
    for _ in range(2):
        luggage = Luggage(new)
        luggage.unpack(carry(old, [held]))
        assert "first used" in luggage.unreadable[held.serial]
        assert not new.start()
    assert tried == [1]


def test_a_first_use_that_begins_a_session_itself_gets_what_was_before(shelf: Shelf) -> None:
    inside: list[int] = []

    def use(value: Rules) -> None:
        if value.size > 1:
            inside.append(slots.begin("inner").value.size)

    slots = Slots([hotfd.Config("arena", Rules, source="fake:", on_first_use=use)])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    slots.begin("a")
    shelf.publish("arena", canary=For(share=1.0), size=2)
    shelf.stage(slots)
    assert slots.begin("b").value.size == 2
    assert inside == [1]
    assert not slots.quarantined("arena")


@pytest.mark.parametrize(
    "release",
    [
        Release("arena", 1, "r" * 1025, "ann", 0.0, {}),
        Release("Arena", 1, "r1", "ann", 0.0, {}),
        Release("arena", 1, "r1", "ann", 0.0, {}, zones={f"z{number}": {} for number in range(MAX_ZONES + 1)}),
        Release("arena", 1, "r1", "ann", 0.0, {}, instruction=Instruction(set={"k" * 1025: 1})),
    ],
    ids=["long-revision", "name", "zones", "long-key"],
)
def test_a_release_that_nobody_could_read_is_not_sealed(release: Release) -> None:
    with pytest.raises(hotfd.ConfigError, match="nobody could read"):
        seal(release)


# -- sessions --------------------------------------------------------------------------------------------


async def test_a_connection_that_can_begin_with_nothing_is_closed_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def talk(conn: hotfd.Connection[Any]) -> None:
        async for _ in conn:
            await conn.send(b"%d" % conn.config.size)

    config = hotfd.Config("arena", Rules, initial=Rules())
    async with testing.serve(talk, config=config, handoffs="never") as served:
        slots = served._engine.slots
        assert slots is not None

        def fail(key: str) -> Any:
            raise hotfd.ConfigError("nothing is there")

        with monkeypatch.context() as broken:
            broken.setattr(slots, "begin", fail)
            refused = await served.connect()
            await refused.expect_end()
        assert not served._engine.sessions
        client = await served.connect()
        await client.send(b"?")
        assert await client.receive() == b"1"


async def test_who_leaves_a_room_and_can_begin_with_nothing_stays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(conn: hotfd.Connection[Any]) -> None:
        async for word in conn:
            if word == b"+":
                await conn.join("room")
            else:
                with pytest.raises(hotfd.ConfigError):
                    await conn.leave()
            await conn.send((conn.session.key or "alone").encode())

    config = hotfd.Config("arena", Rules, initial=Rules())
    async with testing.serve(talk, config=config, handoffs="never") as served:
        client = await served.connect()
        await client.send(b"+")
        assert await client.receive() == b"room"
        slots = served._engine.slots
        assert slots is not None

        def fail(key: str) -> Any:
            raise hotfd.ConfigError("nothing is there")

        with monkeypatch.context() as broken:
            broken.setattr(slots, "begin", fail)
            await client.send(b"-")
            assert await client.receive() == b"room"
            (session,) = served._engine.sessions.values()
            assert session.key == "room"
            assert len(session.connections) == 1


# -- handing over ------------------------------------------------------------------------------------------


def own(size: int) -> hotfd.Config[Rules]:
    return hotfd.Config("arena", Rules, source="fake:", initial=Rules(size))


async def test_a_new_process_begins_with_its_own_value_where_the_old_one_ran_with_its_own(
    away: Sources,  # noqa: F811
) -> None:
    """The only release that was ever published is one that no program can use."""
    old = Slots([own(77)])
    assert old.start()
    away.shelf.publish("arena", size=1)
    old.stage([Staged(away.shelf.heads["arena"])])
    held = old.begin("a")
    one = Configuration([own(88)], "play")
    Luggage(one.slots).unpack(carry(old, [held]))
    try:
        await one.start(2, FUSE)
        assert one.slots.begin("b").value == Rules(88)
        assert one.slots.head("arena") == old.head("arena")
        away.opened["fake:"].say()
        async with asyncio.timeout(FUSE):
            while one.slots.staged("arena") is None:  # this program can use the release
                await asyncio.sleep(0.01)
        assert one.slots.begin("c").value == Rules(1)
    finally:
        await one.aclose()


def test_what_ran_runs_in_the_new_process_when_what_was_staged_fails_there(shelf: Shelf) -> None:
    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    shelf.publish("arena", size=1)
    shelf.stage(old)
    old.begin("a")
    shelf.publish("arena", size=2)
    shelf.stage(old)
    new = Slots([hotfd.Config("arena", Rules, source="fake:", on_first_use=refuses(2))])
    Luggage(new).unpack(carry(old, []))
    assert new.start()
    assert new.begin("b").value.size == 1
    assert list(new.quarantined("arena").values()) == [2]


def test_what_was_staged_and_never_used_is_staged_in_the_new_process(shelf: Shelf) -> None:
    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    shelf.publish("arena", size=1)
    shelf.stage(old)
    old.begin("a")
    shelf.publish("arena", size=2)
    shelf.stage(old)
    new = Slots([hotfd.Config("arena", Rules, source="fake:")])
    Luggage(new).unpack(carry(old, []))
    assert (new.running is not None, new.staged("arena") is not None) == (True, True)
    assert new.begin("b").versions == {"arena": 2}


def test_a_module_that_did_not_come_is_not_begun_with_the_programs_own_value_yet(shelf: Shelf) -> None:
    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    shelf.publish("arena", size=1)
    shelf.stage(old)
    old.begin("a")
    shop = hotfd.Config("shop", Shop, source="fake:", initial=Shop(9))
    new = Slots([hotfd.Config("arena", Rules, source="fake:"), shop])
    Luggage(new).unpack(carry(old, []))
    assert new.newest("arena") is not None
    assert new.newest("shop") is None, "its source is asked first"


def test_an_own_value_that_fails_when_it_is_first_used_is_told_when_the_server_starts(shelf: Shelf) -> None:
    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    shelf.publish("arena", size=1)
    shelf.stage(old)
    old.begin("a")
    bad = hotfd.Config("shop", Rules, initial=Rules(2), on_first_use=refuses(2))
    new = Slots([hotfd.Config("arena", Rules, source="fake:"), bad])
    Luggage(new).unpack(carry(old, []))
    with pytest.raises(hotfd.ConfigError, match="own value of 'shop'"):
        new.start()


async def test_a_program_that_has_given_up_its_source_runs_with_its_own_value(away: Sources) -> None:  # noqa: F811
    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    away.shelf.publish("arena", size=1)
    away.shelf.stage(old)
    held = old.begin("a")
    one = Configuration([hotfd.Config("arena", Rules, source="", initial=Rules(7))], "play")
    luggage = Luggage(one.slots)
    luggage.unpack(carry(old, [held]))
    try:
        await one.start(2, FUSE)
        assert luggage.behind() == {}
        assert one.slots.begin("b").value == Rules(7)
        assert luggage.snapshot(held.serial).value == Rules(1)
    finally:
        await one.aclose()


async def test_what_is_handed_over_is_checked_in_a_thread(shelf: Shelf) -> None:
    threads: list[threading.Thread] = []
    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    shelf.publish("arena", size=1)
    shelf.stage(old)
    held = old.begin("a")
    new = Slots([hotfd.Config("arena", Rules, check=lambda value: threads.append(threading.current_thread()))])
    luggage = Luggage(new)
    await luggage.unpack_beside(carry(old, [held]))
    assert luggage.snapshot(held.serial).value == Rules(1)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_what_cannot_be_checked_in_a_thread_is_named_and_the_rest_is_there(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = threading.Event()

    def check(value: Rules) -> None:
        if value.size == 1:
            raise SystemExit
        if value.size == 2:
            hung.wait(FUSE)

    old = Slots([hotfd.Config("arena", Rules, source="fake:")])
    held = []
    for size in (1, 2, 3):
        shelf.publish("arena", size=size)
        shelf.stage(old)
        held.append(old.begin("a"))
    new = Slots([hotfd.Config("arena", Rules, check=check)])
    luggage = Luggage(new)
    monkeypatch.setattr("hotfd.config.carry.READ_LIMIT", 0.05)
    await luggage.unpack_beside(carry(old, held[1:2]))
    monkeypatch.setattr("hotfd.config.carry.READ_LIMIT", FUSE)
    hung.set()
    await luggage.unpack_beside(carry(old, held))
    assert "could not check it" in luggage.unreadable[held[0].serial]
    assert "more than 0.05 s" in luggage.unreadable[held[1].serial]
    assert luggage.snapshot(held[2].serial).value == Rules(3)


# -- whatever happens in whatever order --------------------------------------------------------------------


class Life:
    """A service that publishes, begins sessions, ends them and hands over, at random; and what must be so all the time."""

    MODULES = ("arena", "shop")

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.shelf = Shelf()
        self.bad: set[tuple[str, int]] = set()
        self.slots = self.process()
        self.sessions: list[tuple[Snapshot, dict[str, tuple[int, int]]]] = []
        self.highest = dict.fromkeys(self.MODULES, 0)
        self.size = 0
        self.publish(*self.MODULES)
        self.shelf.stage(self.slots)
        assert self.slots.start()

    def process(self) -> Slots:
        def config(module: str) -> hotfd.Config[Switch]:
            def use(value: Switch) -> None:
                if (module, value.size) in self.bad:
                    raise ValueError("bad")

            return hotfd.Config(module, Switch, source="fake:", on_first_use=use)

        return Slots([config(module) for module in self.MODULES])

    def publish(self, *modules: str, canary: For | None = None) -> None:
        self.size += 1
        if self.size > 1 and self.random.random() < 0.3:
            self.bad.add((self.random.choice(modules), self.size))
        for module in modules:
            head = self.shelf.heads.get(module)
            going_on = head is not None and head.canary is not None
            values = {"size": self.size, "open": self.random.random() < 0.5}
            self.shelf.publish(module, batch=str(self.size), canary=None if going_on else canary, **values)

    def step(self) -> None:
        going_on = [module for module in self.MODULES if self.shelf.heads[module].canary is not None]
        match self.random.randrange(9):
            case 0 | 1:
                self.publish(*self.random.sample(self.MODULES, self.random.randint(1, 2)))
            case 2:
                self.publish(*self.random.sample(self.MODULES, self.random.randint(1, 2)), canary=For(share=0.5))
            case 3 if going_on:
                self.shelf.abort(self.random.choice(going_on))
            case 4 if going_on:
                self.shelf.promote(self.random.choice(going_on))
            case 5 if self.sessions:
                self.sessions.pop(self.random.randrange(len(self.sessions)))
            case 6:
                self.hand_over()
            case _:
                self.begin()
        if self.random.random() < 0.7:
            self.shelf.stage(self.slots, *self.random.sample(self.MODULES, self.random.randint(1, 2)))

    def begin(self) -> None:
        snapshot = self.slots.begin(str(self.random.random()))
        held = {module: (one.version, one.value.size) for module, one in snapshot.compiled.items()}
        assert not self.bad & {(module, size) for module, (_, size) in held.items()}
        running = self.slots.running
        assert running is not None
        for module, version in running.versions.items():
            assert version >= self.highest[module], "a server went back"
            self.highest[module] = version
        self.sessions.append((snapshot, held))

    def hand_over(self) -> None:
        new = self.process()
        luggage = Luggage(new)
        luggage.unpack(carry(self.slots, {snapshot for snapshot, _ in self.sessions}))
        assert not luggage.unreadable
        assert new.start()
        self.sessions = [(luggage.snapshot(snapshot.serial), held) for snapshot, held in self.sessions]
        self.slots = new

    def check(self) -> None:
        for snapshot, held in self.sessions:
            assert {module: (one.version, one.value.size) for module, one in snapshot.compiled.items()} == held
            for module, one in snapshot.compiled.items():
                newest, canary = self.slots.newest(module), self.slots.canary(module)
                assert newest is not None
                leader = one if one is canary else newest
                assert one.value.open == self.shelf.releases[leader.sha256].release.values["open"]

    def check_memory(self) -> None:
        live = {id(one) for snapshot, _ in self.sessions for one in snapshot.compiled.values()}
        assert len(self.slots._compiled) <= len(live) + 4 * len(self.MODULES)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_published_and_handed_over_in_whatever_order_each_session_keeps_what_it_began_with(
    seed: int,
) -> None:
    life = Life(seed)
    for _ in range(60):
        life.step()
        life.check()
    gc.collect()
    life.check_memory()
