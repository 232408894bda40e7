"""From a source to the slots: what is fetched, checked and staged, what is refused, and what a source that fails costs."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hotfd
from hotfd.config import directory_ledger, follow, intake, reporter
from hotfd.config.cache import Cache
from hotfd.config.follow import Follower
from hotfd.config.rollout import For
from hotfd.config.slots import Slots
from hotfd.errors import ConfigError, Fault, ReleaseRefused, StoreError
from tests.unit.config_support import FUSE, ME, FakeSource, Rules, Shelf, Shop, events
from tests.unit.wire_support import on_each_loop

Logged = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache("play", "fake:", str(tmp_path / "cache"))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    caplog.set_level(logging.DEBUG, "hotfd")
    return lambda *names: events(caplog, *names)


class Rig:
    """A follower of a source that a test speaks for."""

    def __init__(self, shelf: Shelf, cache: Cache, *configs: hotfd.Config[Any]) -> None:
        self.shelf = shelf
        self.source = FakeSource(shelf)
        self.slots = Slots(configs)
        modules = self.slots.modules
        self.follower = Follower(self.source, modules, self.slots, ME, cache, 3600.0, asyncio.Lock())
        self.worked = asyncio.Event()
        self.follower.on_change = self.worked.set
        self.slots.on_activated = lambda compiled: [self.follower.activated(one) for one in compiled]
        self.slots.on_quarantined = self.follower.quarantined

    async def hear(self, *said: Any) -> None:
        """Let the source speak, and wait until that is worked through."""
        follower, before = self.follower, self.follower.life
        self.source.say(*said)
        async with asyncio.timeout(FUSE):
            while follower.life == before or follower._said is not None or follower._work_due.is_set():
                self.worked.clear()
                await self.worked.wait()

    def begin(self) -> dict[str, int]:
        """Begin a session; return its versions."""
        return self.slots.begin("a").versions


@asynccontextmanager
async def following(shelf: Shelf, cache: Cache, *configs: hotfd.Config[Any]) -> AsyncIterator[Rig]:
    rig = Rig(shelf, cache, *(configs or (arena(),)))
    rig.follower.start()
    try:
        yield rig
    finally:
        await rig.follower.aclose()
        await rig.follower.aclose()
        assert rig.source.closed


def arena(**arguments: Any) -> hotfd.Config[Rules]:
    return hotfd.Config("arena", Rules, source="fake:", **arguments)


def shop(**arguments: Any) -> hotfd.Config[Shop]:
    return hotfd.Config("shop", Shop, source="fake:", **arguments)


# -- staging -----------------------------------------------------------------------------------------


@on_each_loop
async def test_what_the_source_says_is_staged_and_the_next_session_begins_with_it(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=5)
        await rig.hear()
        assert rig.slots.staged("arena") is not None
        assert rig.begin() == {"arena": 1}
        shelf.publish("arena", size=6)
        await rig.hear()
        assert rig.begin() == {"arena": 2}
    told = logged("config-staged", "config-activated")
    assert [(fields["event"], fields["version"]) for fields in told] == [
        ("config-staged", 1),
        ("config-activated", 1),
        ("config-staged", 2),
        ("config-activated", 2),
    ]


async def test_a_release_is_fetched_once_however_often_the_source_speaks(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=5)
        for _ in range(5):
            await rig.hear()
        assert rig.source.fetched == [("arena", 1)]


async def test_of_what_came_while_a_release_was_fetched_the_newest_counts(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache) as rig:
        rig.source.blocked = asyncio.Event()
        shelf.publish("arena", size=1)
        rig.source.say()
        async with asyncio.timeout(FUSE):
            while not rig.source.fetched:
                await asyncio.sleep(0)
        for size in range(2, 10):
            shelf.publish("arena", size=size)
            rig.source.say()
        await asyncio.sleep(0)
        rig.source.blocked.set()
        async with asyncio.timeout(FUSE):
            while (staged := rig.slots.staged("arena")) is None or staged.version != 9:
                rig.worked.clear()
                await rig.worked.wait()
        assert rig.source.fetched == [("arena", 1), ("arena", 9)]


async def test_all_modules_of_an_update_are_staged_in_one_step(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache, arena(), shop()) as rig:
        stage, steps = rig.slots.stage, []

        def staging(updates: Any) -> None:
            steps.append([one.head.module for one in updates])
            stage(updates)

        rig.slots.stage = staging  # type: ignore[method-assign]
        shelf.publish("arena", size=1)
        shelf.publish("shop", price=1)
        await rig.hear()
        shelf.publish("shop", price=2)
        await rig.hear()
        await rig.hear()
        assert steps == [["arena", "shop"], ["shop"]]


async def test_a_release_is_checked_in_a_thread_of_its_own(shelf: Shelf, cache: Cache) -> None:
    threads: list[str] = []
    async with following(
        shelf, cache, arena(check=lambda value: threads.append(threading.current_thread().name))
    ) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name


async def test_releases_of_another_zones_canary_are_not_fetched(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache, arena(zone="south")) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("arena", size=2, canary=For(zones=("north",)))
        await rig.hear()
        assert rig.source.fetched == [("arena", 1)]
        assert rig.begin() == {"arena": 1}


@pytest.mark.parametrize("canary", [For(zones=("north",)), For(share=1.0)])
async def test_a_canary_that_concerns_this_server_is_staged_and_ends(shelf: Shelf, cache: Cache, canary: For) -> None:
    async with following(shelf, cache, arena(zone="north")) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("arena", size=2, canary=canary)
        await rig.hear()
        assert rig.begin() == {"arena": 2}
        shelf.abort("arena")
        await rig.hear()
        assert rig.begin() == {"arena": 1}
        shelf.publish("arena", size=3, canary=canary)
        await rig.hear()
        shelf.promote("arena")
        await rig.hear()
        assert rig.begin() == {"arena": 3}
        assert rig.slots.canary("arena") is None


# -- refusing ----------------------------------------------------------------------------------------


async def test_a_release_that_is_refused_leaves_what_is_in_force_and_is_told_once_without_values(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
        shelf.publish("arena", size="secret", speed=3)
        for _ in range(3):
            await rig.hear()
        assert rig.begin() == {"arena": 1}
        assert rig.source.fetched == [("arena", 1), ("arena", 2)], "it is not tried again"
        refusal = rig.follower.intake.refusal("arena")
        assert refusal is not None
        assert refusal.version == 2
        assert any("secret" in line for line in refusal.faults)
        shelf.publish("arena", size=3)
        await rig.hear()
        assert rig.follower.intake.refusal("arena") is None
        assert rig.begin() == {"arena": 3}
    (told,) = logged("config-refused")
    assert (told["module"], told["version"], told["faults"]) == ("arena", 2, 2)
    assert "size: expected an integer" in told["expected"]
    assert "secret" not in str(told)


async def test_a_refused_release_is_tried_again_when_the_head_changes(shelf: Shelf, cache: Cache) -> None:
    permitted = False

    def check(value: Rules) -> None:
        if value.size == 2 and not permitted:
            raise ValueError("not yet")

    async with following(shelf, cache, arena(check=check)) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("arena", size=2, canary=For(share=0.5))
        await rig.hear()
        assert rig.follower.intake.refusal("arena") is not None
        permitted = True
        await rig.hear()
        assert rig.follower.intake.refusal("arena") is not None
        shelf.promote("arena")
        await rig.hear()
        assert rig.begin() == {"arena": 2}


async def test_what_was_published_with_a_refused_release_is_held_back_until_its_module_has_another(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    async with following(shelf, cache, arena(), shop()) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("shop", price=1)
        await rig.hear()
        shelf.publish("arena", size="two", batch="b")
        shelf.publish("shop", price=2, batch="b")
        await rig.hear()
        assert rig.begin() == {"arena": 1, "shop": 1}
        held = rig.follower.intake.refusal("shop")
        assert held is not None
        assert "held back" in held.faults[0]
        await rig.hear()
        shelf.publish("arena", size=3, batch="c")
        await rig.hear()
        assert rig.begin() == {"arena": 3, "shop": 2}
    assert len(logged("config-held-back")) == 1


async def test_what_was_published_apart_from_a_refused_release_is_staged(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache, arena(), shop(initial=Shop(0))) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
        shelf.publish("arena", size="two", batch="b")
        shelf.publish("shop", price=2, batch="c")
        await rig.hear()
        assert rig.begin() == {"arena": 1, "shop": 1}


async def test_what_was_published_with_a_quarantined_release_is_held_back(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    def first(value: Rules) -> None:
        if value.size == 2:
            raise RuntimeError("no")

    async with following(shelf, cache, arena(on_first_use=first), shop()) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("shop", price=1)
        await rig.hear()
        rig.begin()
        shelf.publish("arena", size=2, batch="b")
        shelf.publish("shop", price=2, batch="b")
        await rig.hear()
        assert rig.begin() == {"arena": 1, "shop": 1}
        async with asyncio.timeout(FUSE):
            while not logged("config-held-back"):
                await asyncio.sleep(0)
        await rig.hear()
        assert rig.begin() == {"arena": 1, "shop": 1}
        refusals = [rig.follower.intake.refusal(name) for name in ("arena", "shop")]
        assert [one is not None and one.quarantined for one in refusals] == [True, False]
        shelf.publish("arena", size=3)
        await rig.hear()
        assert rig.begin() == {"arena": 3, "shop": 2}


async def test_a_quarantined_release_is_told_with_its_error_and_not_tried_again(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    used: list[int] = []

    def first(value: Rules) -> None:
        used.append(value.size)
        if value.size == 2:
            raise RuntimeError("no")

    async with following(shelf, cache, arena(on_first_use=first)) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
        rig.begin()
        shelf.publish("arena", size=2)
        await rig.hear()
        for _ in range(2):
            assert rig.begin() == {"arena": 1}
            await rig.hear()
        shelf.publish("arena", size=4, canary=For(zones=("north",)))  # the head changes, and the release stays
        await rig.hear()
        assert rig.begin() == {"arena": 1}
        assert used == [1, 2]
    (told,) = logged("config-quarantined")
    assert (told["module"], told["version"]) == ("arena", 2)


async def test_a_release_that_failed_before_the_source_spoke_is_not_fetched(shelf: Shelf, cache: Cache) -> None:
    def first(value: Rules) -> None:
        raise RuntimeError("no")

    async with following(shelf, cache, arena(on_first_use=first)) as rig:
        rig.slots.on_quarantined = lambda compiled, error: None  # a logged traceback would hold the release
        shelf.publish("arena", size=1)
        shelf.stage(rig.slots)
        assert not rig.slots.start()
        gc.collect()
        assert rig.slots.known("arena", next(iter(shelf.releases))) is None
        await rig.hear()
        assert rig.source.fetched == []
        assert rig.follower.intake.verdict("arena") == "refused"


async def test_a_check_that_breaks_refuses_its_release_and_holds_up_no_other(
    shelf: Shelf, cache: Cache, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = arena()
    monkeypatch.setattr(config, "compile", lambda sealed: 1 / 0)
    async with following(shelf, cache, config, shop(initial=Shop())) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("shop", price=1)
        await rig.hear()
        assert rig.slots.newest("arena") is None
        assert rig.slots.newest("shop") is not None
        refusal = rig.follower.intake.refusal("arena")
        assert refusal is not None
        assert "ZeroDivisionError" in refusal.faults[0]
    assert logged("config-check-failed")


async def test_a_check_that_hangs_refuses_its_release(
    shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "COMPILE_LIMIT", 0.05)
    release = threading.Event()
    try:
        async with following(shelf, cache, arena(check=lambda value: release.wait(FUSE))) as rig:
            shelf.publish("arena", size=1)
            await rig.hear()
            refusal = rig.follower.intake.refusal("arena")
            assert refusal is not None
            assert "took more than 0.05 s" in refusal.faults[0]
    finally:
        release.set()


async def test_when_too_many_checks_hang_no_more_is_checked_until_one_ends(
    shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "COMPILE_LIMIT", 0.01)
    monkeypatch.setattr(follow, "CHECKS", 2)
    go = threading.Event()
    checked: list[int] = []

    def check(rules: Rules) -> None:
        checked.append(rules.size)
        if rules.size < 4:
            go.wait(FUSE)

    async with following(shelf, cache, arena(check=check)) as rig:
        for size in (1, 2, 3):
            shelf.publish("arena", size=size)
            await rig.hear()
        refusal = rig.follower.intake.refusal("arena")
        assert refusal is not None
        assert (refusal.version, refusal.faults) == (3, (f"the whole: {follow.HANGING}",))
        async with asyncio.timeout(FUSE):
            while len(checked) < 2:
                await asyncio.sleep(0.001)
        assert set(checked) == {1, 2}
        go.set()
        async with asyncio.timeout(FUSE):
            while rig.follower._checks.busy:
                await asyncio.sleep(0.001)
        monkeypatch.setattr(follow, "COMPILE_LIMIT", FUSE)
        shelf.publish("arena", size=4)
        await rig.hear()
        assert rig.begin() == {"arena": 4}


async def test_a_source_that_breaks_with_one_release_holds_up_no_other(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    async with following(shelf, cache, arena(), shop()) as rig:
        shelf.publish("arena", size=2)
        shelf.wait(60)
        shelf.publish("shop", price=2)
        rig.source.fetching = lambda module, version: KeyError(module) if module == "arena" else None
        await rig.hear()
        staged = rig.slots.staged("shop")
        assert staged is not None
        assert staged.version == 1
    assert [fields["event"] for fields in logged("config-follow-failed")] == ["config-follow-failed"]


async def test_a_release_that_is_another_one_is_refused(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache) as rig:
        first = shelf.publish("arena", size=1).stable
        head = shelf.publish("arena", size=2)
        assert first is not None
        assert head.stable is not None
        shelf.releases[head.stable.sha256] = shelf.releases[first.sha256]
        await rig.hear()
        refusal = rig.follower.intake.refusal("arena")
        assert refusal is not None
        assert "what came is not version 2" in refusal.faults[0]
        assert rig.slots.newest("arena") is None


# -- sources that fail -------------------------------------------------------------------------------


async def test_a_release_that_does_not_come_is_fetched_again_at_the_next_sign_of_life(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        rig.source.fetching = lambda module, version: StoreError("the disk is away")
        await rig.hear()
        assert rig.follower.intake.verdict("arena") is None
        assert rig.follower.intake.refusal("arena") is None
        rig.source.fetching = lambda module, version: None
        await rig.hear()
        assert rig.begin() == {"arena": 1}
    assert len(logged("config-release-missing")) == 1


async def test_a_release_that_does_not_come_is_fetched_again_without_a_sign_of_life(
    shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "RETRY", (0.01, 0.02))
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        tries, refusals = iter([ConfigError("away")] * 8), []

        def fetching(module: str, version: int) -> Exception | None:
            refusals.append(rig.follower.intake.refusal("arena"))
            return next(tries, None)

        rig.source.fetching = fetching
        rig.source.say()
        async with asyncio.timeout(FUSE):
            while rig.slots.staged("arena") is None:
                rig.worked.clear()
                await rig.worked.wait()
        assert refusals == [None] * 9, "a source that is away refuses nothing"


async def test_a_release_that_a_living_source_never_gives_counts_as_refused_and_is_tried_further(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        rig.source.fetching = lambda module, version: StoreError("it is damaged")
        for _ in range(intake.TRIES):
            assert rig.follower.intake.refusal("arena") is None
            await rig.hear()
        assert rig.follower.intake.verdict("arena") == "refused"
        rig.source.fetching = lambda module, version: None
        await rig.hear()
        assert rig.follower.intake.verdict("arena") == "usable"
    assert len(logged("config-release-missing")) == 1


async def test_nothing_of_a_publish_is_staged_while_a_part_of_it_is_missing(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache, arena(), shop()) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("shop", price=1)
        await rig.hear()
        rig.begin()
        shelf.wait(60)
        shelf.publish("arena", size=2, batch="b")
        shelf.publish("shop", price=2, batch="b")
        rig.source.fetching = lambda module, version: StoreError("away") if module == "arena" else None
        await rig.hear()
        assert rig.begin() == {"arena": 1, "shop": 1}
        assert rig.follower.intake.refusal("shop") is None, "it may still come"
        rig.source.fetching = lambda module, version: None
        await rig.hear()
        assert rig.begin() == {"arena": 2, "shop": 2}


async def test_a_missing_release_holds_nothing_back_that_was_published_at_another_time(
    shelf: Shelf, cache: Cache
) -> None:
    async with following(shelf, cache, arena(initial=Rules()), shop(initial=Shop())) as rig:
        shelf.publish("arena", size=2, batch="b")
        shelf.wait(60)
        shelf.publish("shop", price=2, batch="c")
        rig.source.fetching = lambda module, version: StoreError("away") if module == "arena" else None
        await rig.hear()
        assert rig.begin() == {"arena": 0, "shop": 1}


@on_each_loop
@pytest.mark.parametrize("failure", [None, ConfigError("cannot be reached"), RuntimeError("broken")])
async def test_a_source_that_ends_or_fails_is_followed_again(
    shelf: Shelf, cache: Cache, logged: Logged, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    monkeypatch.setattr(follow, "RETRY", (0.01, 0.02))
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        rig.source.say(failure)
        await rig.hear()
        assert rig.begin() == {"arena": 1}
    assert len(logged("config-source-failed")) == 1


async def test_one_head_that_cannot_be_followed_is_not_the_last(
    shelf: Shelf, cache: Cache, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        with monkeypatch.context() as broken:
            broken.setattr(rig.slots, "stage", lambda updates: 1 / 0)
            await rig.hear()
        assert rig.slots.newest("arena") is None
        await rig.hear()
        assert rig.begin() == {"arena": 1}
    assert logged("config-follow-failed")


async def test_a_source_that_says_nothing_is_away_and_back_once_each(
    shelf: Shelf, cache: Cache, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "AWAY", (0.0, 0.02))
    shelf.publish("arena", size=1)
    async with following(shelf, cache) as rig:
        async with asyncio.timeout(FUSE):
            while not rig.follower.away:
                await asyncio.sleep(0.01)
        monkeypatch.setattr(follow, "AWAY", (1.0, 0.02))
        await rig.hear()
        await rig.hear()
        assert not rig.follower.away
    assert len(logged("config-source-away")) == 1
    assert len(logged("config-source-back")) == 1


# -- going back --------------------------------------------------------------------------------------


async def test_a_source_that_goes_back_is_not_followed_and_told_once(
    shelf: Shelf, cache: Cache, logged: Logged
) -> None:
    async with following(shelf, cache) as rig:
        older = shelf.publish("arena", size=1)
        newer = shelf.publish("arena", size=2)
        await rig.hear()
        for _ in range(2):
            await rig.hear({"arena": older})
        await rig.hear({})
        assert rig.begin() == {"arena": 2}
        assert not rig.follower.intake.spoken("arena")
        await rig.hear({"arena": newer})
        assert rig.follower.intake.spoken("arena")
    (told,) = logged("config-went-back")
    assert (told["known"], told["said"], told["remove"]) == (2, 1, cache.file("arena"))


async def test_another_head_with_the_same_number_is_not_followed(shelf: Shelf, cache: Cache, logged: Logged) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
        rig.begin()
        other = Shelf()
        head = other.publish("arena", size=9)
        shelf.releases |= other.releases
        await rig.hear({"arena": head})
        assert rig.begin() == {"arena": 1}
        assert rig.slots.begin("a").value.size == 1
    assert logged("config-went-back")


# -- what is kept ------------------------------------------------------------------------------------


async def kept(rig: Rig, cache: Cache, version: int) -> None:
    async with asyncio.timeout(FUSE):
        while (found := cache.load("arena")) is None or found.sealed.release.version != version:
            await asyncio.sleep(0.01)


async def test_the_newest_release_that_can_be_used_is_kept(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
        await kept(rig, cache, 1)
        shelf.publish("arena", size=2)
        await rig.hear()
        await kept(rig, cache, 2)
        head = shelf.publish("arena", size="three")
        await rig.hear()
        async with asyncio.timeout(FUSE):
            while (found := cache.load("arena")) is None or found.head != head:
                await asyncio.sleep(0.01)
        assert found.sealed.release.version == 2


async def test_a_release_that_fails_when_it_is_first_used_is_not_kept(shelf: Shelf, cache: Cache) -> None:
    def first(value: Rules) -> None:
        if value.size == 2:
            raise RuntimeError("no")

    async with following(shelf, cache, arena(on_first_use=first)) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
        rig.begin()
        shelf.publish("arena", size=2)
        await rig.hear()
        await kept(rig, cache, 2)
        rig.begin()
        await kept(rig, cache, 1)


async def test_what_is_not_kept_yet_is_kept_when_the_server_ends(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
    found = cache.load("arena")
    assert found is not None
    assert found.sealed.release.version == 1


async def test_a_disk_that_cannot_be_written_is_told_once_and_holds_up_nothing(
    shelf: Shelf, tmp_path: Path, logged: Logged
) -> None:
    (tmp_path / "file").write_text("")
    async with following(shelf, Cache("play", "fake:", str(tmp_path / "file" / "cache"))) as rig:
        for size in (1, 2, 3):
            shelf.publish("arena", size=size)
            await rig.hear()
            assert rig.begin() == {"arena": size}
    assert len(logged("config-not-kept")) == 1


# -- reporting ---------------------------------------------------------------------------------------


async def test_what_became_of_a_release_is_reported(
    shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "GAP", 0.0)
    async with following(shelf, cache, arena(zone="north")) as rig:
        rig.follower.reporter.pinned = lambda: {"arena": {1: 5}}
        shelf.publish("arena", size=1)
        await rig.hear()
        first = await rig.source.told(lambda report: report.state == "staged" and report.version == 1)
        assert (first.server, first.service, first.host, first.pid) == ("s1", "play", "host", 42)
        assert (first.zone, first.generation, first.sequence, first.running) == ("north", 1, 1, 0)
        rig.begin()
        second = await rig.source.told(lambda report: report.state == "running" and report.version == 1)
        assert (second.running, second.pinned) == (1, {1: 5})
        shelf.publish("arena", size="two")
        await rig.hear()
        third = await rig.source.told(lambda report: report.state == "refused")
        assert (third.version, third.running, third.sequence) == (2, 1, 2)
        assert third.faults == ('size is "two"; expected an integer',)


async def test_whatever_a_check_says_its_report_is_one_that_stores_keep(shelf: Shelf, cache: Cache) -> None:
    faults = [Fault("値" * 400, "\x01" * 400, "\udc80" * 400)] * 200

    def check(rules: Rules) -> None:
        raise ReleaseRefused("arena", faults)

    async with following(shelf, cache, arena(check=check)) as rig:
        shelf.publish("arena", size=5)
        await rig.hear()
        told = await rig.source.told(lambda report: report.state == "refused")
        assert 10 < len(told.faults) < 100
        assert len(msgspec.json.encode(told)) < directory_ledger.MAX_REPORT / 2


async def test_what_became_of_a_canary_is_reported(shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "GAP", 0.0)

    def first(value: Rules) -> None:
        if value.size == 3:
            raise RuntimeError("no")

    async with following(shelf, cache, arena(on_first_use=first)) as rig:
        shelf.publish("arena", size=1)
        shelf.publish("arena", size=2, canary=For(share=1.0))
        await rig.hear()
        await rig.source.told(lambda report: (report.state, report.version, report.running) == ("staged", 2, 0))
        rig.begin()
        await rig.source.told(lambda report: (report.state, report.version, report.running) == ("running", 2, 2))
        shelf.abort("arena")
        await rig.hear()
        await rig.source.told(lambda report: (report.state, report.version, report.running) == ("running", 1, 1))
        shelf.publish("arena", size=3, canary=For(share=1.0))
        await rig.hear()
        rig.begin()
        await rig.source.told(lambda report: (report.state, report.version, report.running) == ("quarantined", 3, 1))


async def test_a_server_reports_itself_and_its_schema_before_anything_is_published(shelf: Shelf, cache: Cache) -> None:
    async with following(shelf, cache, arena(initial=Rules())) as rig:
        rig.slots.start()
        report = await rig.source.told(lambda report: True)
        assert (report.version, report.state, report.sequence) == (0, "running", 0)
        assert rig.source.schemas == {"arena": (arena().schema.id, arena().schema.json)}


@pytest.mark.parametrize("failure", [StoreError("away"), RuntimeError("broken")])
async def test_a_report_that_does_not_get_through_holds_up_nothing_and_its_news_come_later(
    shelf: Shelf, cache: Cache, logged: Logged, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(reporter, "RETRY", (3600.0, 3600.0))  # so it is the sign of life that lets them through
    async with following(shelf, cache) as rig:
        rig.source.reporting = lambda: failure
        shelf.publish("arena", size=1)
        await rig.hear()
        assert rig.begin() == {"arena": 1}
        async with asyncio.timeout(FUSE):
            while not logged("config-report-failed"):
                await asyncio.sleep(0.01)
        rig.source.reporting = lambda: None
        await rig.hear()
        await rig.source.told(lambda report: (report.state, report.version) == ("running", 1))
    assert len(logged("config-report-failed")) == 1


async def test_reports_that_do_not_get_through_are_told_once(
    shelf: Shelf, cache: Cache, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "RETRY", (0.001, 0.001))
    shelf.publish("arena", size=1)
    async with following(shelf, cache) as rig:
        failures = iter([StoreError("away")] * 5)
        rig.source.reporting = lambda: next(failures, None)
        await rig.source.told(lambda report: True)
    assert len(logged("config-report-failed")) == 1


async def test_a_schema_that_cannot_be_declared_keeps_no_report_back(
    shelf: Shelf, cache: Cache, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "GAP", 0.0)

    async def declare(schemas: Any) -> None:
        raise StoreError("the schema is too large")

    shelf.publish("arena", size=1)
    async with following(shelf, cache) as rig:
        rig.source.declare = declare  # type: ignore[method-assign]
        await rig.hear()
        await rig.source.told(lambda report: report.state == "staged")
        rig.begin()
        await rig.source.told(lambda report: report.state == "running" and report.version == 1)
    assert len(logged("config-schema-not-declared")) == 1


async def test_a_server_that_ends_says_so(shelf: Shelf, cache: Cache) -> None:
    shelf.publish("arena", size=1)
    async with following(shelf, cache) as rig:
        await rig.hear()
        await rig.source.told(lambda report: True)
        assert all(report.state != "ended" for report in rig.source.reports)
    assert rig.source.reports[-1].state == "ended"


async def test_the_last_report_of_a_server_is_that_it_ends_also_when_another_one_is_on_its_way(
    shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "GAP", 0.0)
    monkeypatch.setattr(reporter, "FAREWELL_LIMIT", FUSE)
    shelf.publish("arena", size=1)
    async with following(shelf, cache) as rig:
        await rig.hear()
        await rig.source.told(lambda report: report.state == "staged")
        begun, send = asyncio.Event(), rig.source.report

        async def slowly(reports: Any) -> None:
            begun.set()
            await asyncio.sleep(0.05)
            await send(reports)

        rig.source.report = slowly  # type: ignore[method-assign]
        rig.begin()
        async with asyncio.timeout(FUSE):
            await begun.wait()
    assert [report.state for report in rig.source.reports][-2:] == ["running", "ended"]


async def test_what_is_being_written_when_a_server_ends_is_waited_for(
    shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SAVE_LIMIT", FUSE)
    begun, go, written = threading.Event(), threading.Event(), []
    save = cache.save

    def slowly(kept: Any) -> None:
        begun.set()
        assert go.wait(FUSE)
        save(kept)
        written.append(kept.head.sequence)

    monkeypatch.setattr(cache, "save", slowly)
    async with following(shelf, cache) as rig:
        shelf.publish("arena", size=1)
        await rig.hear()
        assert await asyncio.to_thread(begun.wait, FUSE)
        asyncio.get_running_loop().call_later(0.05, go.set)
    assert written == [1]


@pytest.mark.parametrize("failure", ["raises", "hangs"])
async def test_a_source_that_cannot_be_told_of_the_end_does_not_keep_a_server_from_it(
    shelf: Shelf, cache: Cache, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr(reporter, "FAREWELL_LIMIT", 0.05)
    shelf.publish("arena", size=1)
    async with following(shelf, cache) as rig:
        await rig.hear()
        await rig.source.told(lambda report: True)

        async def fail(reports: Any) -> None:
            if failure == "hangs":
                await asyncio.Event().wait()
            raise RuntimeError("broken")

        rig.source.report = fail  # type: ignore[method-assign]
