"""How a server comes to its first releases, what it shows of them, and when it warns of what sessions hold."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import hotfd
from hotfd.app import beginning, configuration
from hotfd.app.configuration import Configuration
from hotfd.app.pins import MAX_NAMED, Pins
from hotfd.config.cache import Cache, Kept
from hotfd.config.release import Head, Track
from hotfd.config.rollout import For
from hotfd.config.slots import Slots
from hotfd.errors import ConfigError, StoreError
from tests.unit.config_support import FUSE, FakeSource, Rules, Shelf, Shop, events, sealed

SOON = (0.0, 0.05, 0.05)
"""A patience for tests in which a source is away."""

LONG = (0.0, FUSE, FUSE)
"""A patience for tests in which it speaks."""

Logged = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    caplog.set_level(logging.DEBUG, "hotfd")
    return lambda *names: events(caplog, *names)


class Sources:
    """The sources that configurations open, by URL."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.opened: dict[str, FakeSource] = {}
        self.calls: list[tuple[str, Any, float]] = []
        self.prepare: Callable[[FakeSource], object] = lambda source: source.say()

    def open(self, url: str, identity: Any, interval: float) -> FakeSource:
        self.calls.append((url, identity, interval))
        source = self.opened[url] = FakeSource(self.shelf)
        source.url = url
        self.prepare(source)
        return source


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sources:
    found = Sources()
    monkeypatch.setattr(configuration, "open_source", found.open)
    monkeypatch.setattr(beginning, "PATIENCE", LONG)
    monkeypatch.setenv("HOTFD_CACHE_DIR", str(tmp_path / "cache"))
    return found


@pytest.fixture
def away(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Sources that nobody can reach."""
    monkeypatch.setattr(beginning, "PATIENCE", SOON)
    sources.prepare = lambda source: None
    return sources


def arena(**arguments: Any) -> hotfd.Config[Rules]:
    return hotfd.Config("arena", Rules, **{"source": "fake:", **arguments})


def shop(**arguments: Any) -> hotfd.Config[Shop]:
    return hotfd.Config("shop", Shop, **{"source": "fake:", **arguments})


@asynccontextmanager
async def started(
    *configs: hotfd.Config[Any], deadline: float = FUSE, generation: int = 1
) -> AsyncIterator[Configuration]:
    one = Configuration(configs or (arena(),), "play")
    try:
        await one.start(generation, deadline)
        yield one
    finally:
        await one.aclose()
        await one.aclose()


def keep(version: int = 3, module: str = "arena", **values: Any) -> Kept:
    """Put a release on disk, as an earlier process has done."""
    one = sealed(module, version, **(values or {"size": version}))
    kept = Kept(
        Head(module, version, version, "published", "anna", time.time() - 7200, Track(version, one.sha256)), one
    )
    Cache("play", "fake:").save(kept)
    return kept


# -- first releases ----------------------------------------------------------------------------------


async def test_a_server_begins_with_what_the_source_has(sources: Sources) -> None:
    sources.shelf.publish("arena", size=5)
    async with started() as one:
        assert one.slots.begin("a").value.size == 5
        (status,) = one.status({}).values()
        assert (status["running"], status["cold"], status["sequence"]) == (1, False, 1)


async def test_a_source_without_a_release_lets_the_programs_own_value_hold_and_says_so(
    sources: Sources, logged: Logged
) -> None:
    async with started(arena(initial=Rules(7))) as one:
        assert one.slots.begin("a").value.size == 7
        assert one.status({})["arena"]["running"] == 0
    assert [fields["reason"] for fields in logged("config-initial")] == ["the source has no release"]


async def test_a_source_without_a_release_says_what_to_do_when_there_is_no_own_value(sources: Sources) -> None:
    with pytest.raises(
        ConfigError, match=r"'arena': fake: has no release of it yet; publish one with 'hotfd config pub"
    ):
        async with started():
            pass
    assert sources.opened["fake:"].closed


async def test_a_server_without_a_source_lives_from_its_own_value(sources: Sources, logged: Logged) -> None:
    async with started(arena(source="", initial=Rules(7))) as one:
        assert one.slots.begin("a").value.size == 7
        status = one.status({})["arena"]
        assert (status["source"], status["contact"], status["age"], status["cold"]) == ("", "", None, False)
    assert sources.opened == {}
    assert not logged("config-initial")


def test_a_module_without_a_source_and_without_a_value_is_an_error_of_the_program(sources: Sources) -> None:
    with pytest.raises(ConfigError, match=r"no source: give its hotfd.Config one, set HOTFD_CONFIG_SOURCE"):
        Configuration([arena(source="")], "play")


def test_a_server_has_a_bounded_number_of_modules(sources: Sources) -> None:
    with pytest.raises(ConfigError, match="at most 64"):
        Configuration([hotfd.Config(f"m{i}", Rules, source="fake:") for i in range(65)], "play")


async def test_a_release_that_cannot_be_used_says_why_without_its_values(sources: Sources) -> None:
    sources.shelf.publish("arena", size="secret")
    with pytest.raises(
        ConfigError, match=r"version 1 cannot be used .*expected an integer.*hotfd config rollback"
    ) as caught:
        async with started(arena(initial=Rules(7))):
            pass
    assert "secret" not in str(caught.value)


async def test_a_cold_start_takes_what_is_on_disk_and_says_how_old_it_is(away: Sources, logged: Logged) -> None:
    keep(3)
    async with started(arena(initial=Rules(7))) as one:
        assert one.slots.begin("a").value.size == 3
        assert one.status({})["arena"]["cold"]
        for size in range(4):
            away.shelf.publish("arena", size=size)
        away.opened["fake:"].say()
        async with asyncio.timeout(FUSE):
            while one.status({})["arena"]["cold"]:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(FUSE):
            while one.slots.begin("a").versions != {"arena": 4}:
                await asyncio.sleep(0.01)
    (told,) = logged("config-cold-start")
    assert (told["version"], told["published"], told["source"]) == (3, "2 hours ago", "away")


async def test_a_source_that_is_away_at_first_is_waited_for_when_there_is_nothing_else(away: Sources) -> None:
    away.shelf.publish("arena", size=5)
    away.prepare = lambda source: asyncio.get_running_loop().call_later(0.2, source.say)
    async with started() as one:
        assert one.slots.begin("a").value.size == 5


async def test_a_source_that_stays_away_is_an_error_after_the_deadline(away: Sources, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"fake: did not answer within .* no usable release is kept in {tmp_path}"):
        async with started(deadline=0.2):
            pass


async def test_an_own_value_holds_while_a_source_is_away_of_which_nothing_is_known(
    away: Sources, logged: Logged
) -> None:
    async with started(arena(initial=Rules(7))) as one:
        assert one.slots.begin("a").value.size == 7
    assert [fields["reason"] for fields in logged("config-initial")] == ["the source cannot be reached"]


async def test_an_own_value_does_not_hold_in_place_of_a_release_that_was_known(away: Sources, logged: Logged) -> None:
    keep(3, size="three")
    with pytest.raises(ConfigError, match="did not answer"):
        async with started(arena(initial=Rules(7)), deadline=0.2):
            pass
    (told,) = logged("config-cache-unusable")
    assert "refuses version 3" in told["reason"]
    assert "three" not in told["reason"]


async def test_a_check_that_hangs_does_not_keep_a_start_beyond_its_deadline(away: Sources, logged: Logged) -> None:
    keep(3)
    go = threading.Event()
    with pytest.raises(ConfigError, match="did not answer"):
        async with started(arena(check=lambda rules: go.wait(FUSE)), deadline=0.2):
            pass
    go.set()
    (told,) = logged("config-cache-unusable")
    assert "took too long to check version 3" in told["reason"]


async def test_a_check_that_breaks_makes_what_is_on_disk_none(
    sources: Sources, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(3)
    for size in range(4):
        sources.shelf.publish("arena", size=size)

    def broken(config: hotfd.Config[Any], sealed: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(hotfd.Config, "compile", broken)
    with pytest.raises(ConfigError, match="version 4 cannot be used"):
        async with started():
            pass
    (told,) = logged("config-cache-unusable")
    assert "the check of version 3 failed with MemoryError" in told["reason"]


async def test_a_damaged_cache_is_told_and_is_none(sources: Sources, logged: Logged) -> None:
    keep(3)
    Path(Cache("play", "fake:").file("arena")).write_bytes(b"garbage")
    sources.shelf.publish("arena", size=1)
    async with started() as one:
        assert one.slots.begin("a").value.size == 1
    (told,) = logged("config-cache-unusable")
    assert "is damaged" in told["reason"]


async def test_a_refused_release_leaves_a_server_that_starts_with_the_last_good_one(
    sources: Sources, logged: Logged
) -> None:
    keep(3)
    for size in (1, 2, 3, "four"):
        sources.shelf.publish("arena", size=size)
    async with started(arena(initial=Rules(7))) as one:
        assert one.slots.begin("a").versions == {"arena": 3}
        status = one.status({})["arena"]
        assert (status["running"], status["cold"], status["sequence"]) == (3, False, 4)
        assert status["refused"]["version"] == 4
    assert [fields["source"] for fields in logged("config-cold-start")] == ["refused"]


async def test_a_server_that_starts_again_does_not_go_back_with_its_source(sources: Sources, logged: Logged) -> None:
    keep(3)
    sources.shelf.publish("arena", size=1)
    async with started() as one:
        assert one.slots.begin("a").versions == {"arena": 3}
    (told,) = logged("config-went-back")
    assert (told["known"], told["said"]) == (3, 1)
    Path(told["remove"]).unlink()
    async with started() as one:
        assert one.slots.begin("a").versions == {"arena": 1}


@pytest.mark.parametrize("shop_too", [False, True])
async def test_a_release_that_fails_when_it_is_first_used_gives_way_to_the_last_good_one(
    sources: Sources, shop_too: bool
) -> None:
    def first(value: Rules) -> None:
        if value.size == 4:
            raise RuntimeError("no")

    keep(3)
    for size in (1, 2, 3, 4):
        sources.shelf.publish("arena", size=size)
    if shop_too:
        sources.shelf.publish("shop", price=1)
    async with started(arena(on_first_use=first, initial=Rules(7)), shop(initial=Shop())) as one:
        assert one.slots.begin("a").versions == {"arena": 3, "shop": int(shop_too)}
        assert one.status({})["arena"]["quarantined"] == [4]


async def test_a_release_that_fails_when_it_is_first_used_is_an_error_when_there_is_no_other(sources: Sources) -> None:
    def first(value: Rules) -> None:
        if value.size == 1:
            raise RuntimeError("no")

    sources.shelf.publish("arena", size=1)
    sources.shelf.publish("shop", price=1)
    with pytest.raises(ConfigError, match="failed when it was first used"):
        async with started(arena(on_first_use=first, initial=Rules(7)), shop()):
            pass


async def test_what_was_handed_over_is_in_force_at_once_and_the_source_follows(away: Sources) -> None:
    one = Configuration([arena()], "play")
    before = Shelf()
    before.publish("arena", size=5)
    before.stage(one.slots)
    try:
        await one.start(2, 0.0)
        assert one.slots.begin("a").value.size == 5
        assert away.calls[0][1].generation == 2
        away.shelf.heads |= before.heads
        away.shelf.publish("arena", size=6)
        away.opened["fake:"].say()
        async with asyncio.timeout(FUSE):
            while one.slots.begin("a").versions != {"arena": 2}:
                await asyncio.sleep(0.01)
    finally:
        await one.aclose()


async def test_what_was_handed_over_and_fails_when_it_is_first_used_is_an_error(away: Sources) -> None:
    def first(value: Rules) -> None:
        if value.size == 5:
            raise RuntimeError("no")

    one = Configuration([arena(on_first_use=first, initial=Rules(7)), shop()], "play")
    before = Shelf()
    before.publish("arena", size=5)
    before.publish("shop", price=1)
    before.stage(one.slots)
    try:
        with pytest.raises(ConfigError, match="failed when it was first used"):
            await one.start(2)
    finally:
        await one.aclose()


async def test_a_program_that_has_no_source_any_more_begins_with_its_own_value(sources: Sources) -> None:
    one = Configuration([arena(source="", initial=Rules(7))], "play")
    before = Shelf()
    before.publish("arena", size=5)
    before.stage(one.slots)
    try:
        await one.start(2)
        assert one.slots.begin("a").value.size == 7
    finally:
        await one.aclose()


async def test_modules_of_one_source_are_followed_together_and_others_apart(sources: Sources) -> None:
    sources.shelf.publish("arena", size=1)
    sources.shelf.publish("shop", price=1)
    sources.shelf.publish("hall", size=1)
    hall = hotfd.Config("hall", Rules, source="other:", interval=9.0)
    async with started(arena(), shop(), hall) as one:
        assert [(url, interval) for url, _, interval in sources.calls] == [("fake:", 3.0), ("other:", 9.0)]
        assert one.slots.begin("a").versions == {"arena": 1, "shop": 1, "hall": 1}
        assert one.status({})["hall"]["source"] == "other:"
    assert all(source.closed for source in sources.opened.values())


async def test_what_was_published_together_is_staged_together_also_with_other_intervals_and_zones(
    sources: Sources, logged: Logged
) -> None:
    sources.shelf.publish("arena", batch="b1", size=1)
    sources.shelf.publish("shop", batch="b1", price=1)
    async with started(arena(interval=9.0, zone="eu"), shop()) as one:
        assert [(url, identity.zone, interval) for url, identity, interval in sources.calls] == [("fake:", "", 3.0)]
        assert one.status({})["arena"]["zone"] == "eu"
        sources.shelf.publish("arena", batch="b2", size=2)
        sources.shelf.publish("shop", batch="b2", price="much")
        sources.opened["fake:"].say()
        async with asyncio.timeout(FUSE):
            while not logged("config-held-back"):
                await asyncio.sleep(0.01)
        assert one.slots.begin("a").versions == {"arena": 1, "shop": 1}


# -- status ------------------------------------------------------------------------------------------


async def test_a_status_says_what_runs_and_what_sessions_hold(sources: Sources) -> None:
    sources.shelf.publish("arena", size=1)
    async with started(arena(zone="north")) as one:
        first = one.slots.begin("a")
        sources.shelf.publish("arena", size=2)
        sources.opened["fake:"].say()
        async with asyncio.timeout(FUSE):
            while one.slots.staged("arena") is None:
                await asyncio.sleep(0.01)
        assert one.status({first: 3})["arena"]["staged"] == 2
        second = one.slots.begin("b")
        sources.shelf.publish("arena", size=3, canary=For(share=0.25))
        sources.opened["fake:"].say()
        async with asyncio.timeout(FUSE):
            while one.slots.canary("arena") is None:
                await asyncio.sleep(0.01)
        status = one.status(Counter({first: 3, second: 2}))["arena"]
        assert (
            status.items()
            >= {
                "zone": "north",
                "source": "fake:",
                "contact": "fake",
                "running": 2,
                "staged": None,
                "previous": 1,
                "canary": {"version": 3, "share": 0.25},
                "quarantined": [],
                "refused": None,
                "pinned": {"1": 3, "2": 2},
                "sequence": 3,
                "away": False,
                "cold": False,
            }.items()
        )
        assert status["age"] >= 0
        assert abs(status["since"] - time.time()) < FUSE
        msgspec.json.encode(status)


async def test_reports_count_the_sessions_that_hold_a_release(sources: Sources) -> None:
    sources.shelf.publish("arena", size=1)
    async with started() as one:
        snapshot = one.slots.begin("a")
        one.sessions = {str(i): session(str(i), snapshot) for i in range(5)}  # type: ignore[assignment]
        (report,) = one._followers["arena"].reporter.reports()
        assert report.pinned == {1: 5}


async def test_a_source_that_cannot_be_closed_keeps_no_other_from_it(sources: Sources, logged: Logged) -> None:
    async def fail() -> None:
        raise StoreError("no")

    sources.shelf.publish("arena", size=1)
    sources.shelf.publish("hall", size=1)
    async with started(arena(), hotfd.Config("hall", Rules, source="other:")):
        sources.opened["fake:"].aclose = fail  # type: ignore[method-assign]
    assert sources.opened["other:"].closed
    assert logged("config-close-failed")


# -- what sessions hold ------------------------------------------------------------------------------


def session(id: str, release: Any, key: str | None = None) -> Any:
    return SimpleNamespace(id=id, key=key, release=release)


class Holding:
    """Slots, and sessions that hold a release each of those that were published one after the other."""

    def __init__(self, **arguments: Any) -> None:
        self.shelf, self.slots = Shelf(), Slots([arena(**arguments)])
        self.sessions: list[Any] = []
        self.pins = Pins(self.slots)

    def publish(self, sessions: int = 1, canary: For | None = None) -> None:
        version = self.shelf.publish("arena", canary=canary).last
        self.shelf.stage(self.slots)
        snapshot = self.slots.begin("a")
        self.sessions += [session(f"v{version}-{i}", snapshot) for i in range(sessions)]

    def look(self) -> None:
        self.pins.look(self.sessions)


def test_too_many_releases_are_told_once_with_the_sessions_that_hold_the_oldest(logged: Logged) -> None:
    holding = Holding(max_pinned=2)
    for _ in range(2):
        holding.publish(12)
        holding.look()
    assert not logged("config-pinned-too-many")
    holding.publish()
    holding.look()
    holding.look()
    (told,) = logged("config-pinned-too-many")
    assert (told["module"], told["limit"], told["releases"]) == ("arena", "2", 3)
    assert told["held"] == "1 by 12, 2 by 12, 3 by 1"
    assert told["oldest_held_by"].split(", ") == [f"v1-{i}" for i in range(MAX_NAMED)]
    holding.sessions = [one for one in holding.sessions if not one.id.startswith("v1")]
    holding.look()
    holding.publish()
    holding.look()
    assert len(logged("config-pinned-too-many")) == 2, "it has crossed the bound once more"


def test_a_release_that_is_held_too_long_after_its_end_is_told_once(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding, now = Holding(max_pinned_age=100.0), time.time()
    holding.publish(2)
    monkeypatch.setattr(time, "time", lambda: now + 1000)
    holding.look()
    assert not logged("config-pinned-too-long"), "what is in force is held by right"
    holding.publish()
    holding.look()
    monkeypatch.setattr(time, "time", lambda: now + 1099)
    holding.look()
    assert not logged("config-pinned-too-long")
    monkeypatch.setattr(time, "time", lambda: now + 1101)
    holding.look()
    holding.look()
    (told,) = logged("config-pinned-too-long")
    assert (told["held"], told["oldest_held_by"]) == ("1 by 2", "v1-0, v1-1")


def test_a_release_counts_from_its_end_and_not_from_when_that_was_seen(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding, now = Holding(max_pinned_age=100.0), time.time()
    holding.publish()
    holding.publish()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    holding.look()
    assert len(logged("config-pinned-too-long")) == 1


def test_a_canary_that_was_taken_back_counts_from_when_that_was_seen(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding, now = Holding(max_pinned_age=100.0), time.time()
    holding.publish()
    holding.publish(canary=For(share=1.0))
    holding.look()
    holding.shelf.abort("arena")
    holding.shelf.stage(holding.slots)
    holding.look()
    monkeypatch.setattr(time, "time", lambda: now + 99)
    holding.look()
    assert not logged("config-pinned-too-long")
    monkeypatch.setattr(time, "time", lambda: now + 200)
    holding.look()
    (told,) = logged("config-pinned-too-long")
    assert told["held"] == "2 by 1"


def test_shared_sessions_are_named_by_their_keys(logged: Logged) -> None:
    holding = Holding(max_pinned=1)
    holding.publish()
    holding.sessions = [session("s1", holding.sessions[0].release, "match-42"), session("c9", None)]
    holding.publish()
    holding.look()
    assert [fields["oldest_held_by"] for fields in logged("config-pinned-too-many")] == ["match-42"]


async def test_what_sessions_hold_is_looked_at_when_a_release_comes_into_force(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "LOOK", (0.0, 3600.0))
    looks: list[int] = []
    monkeypatch.setattr(Pins, "look", lambda self, sessions: looks.append(len(list(sessions))))
    sources.shelf.publish("arena", size=1)
    async with started() as one:
        async with asyncio.timeout(FUSE):
            while len(looks) < 1 or one._look.is_set():
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            one.sessions = {"a": session("a", one.slots.begin("a"))}
            before = len(looks)
            sources.shelf.publish("arena", size=2)
            sources.opened["fake:"].say()
            while one.slots.staged("arena") is None:
                await asyncio.sleep(0.01)
            assert len(looks) == before
            one.slots.begin("b")
            while len(looks) == before:
                await asyncio.sleep(0)
    assert looks[-1] == 1


async def test_a_look_that_fails_is_told_and_not_the_last(
    sources: Sources, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "LOOK", (0.0, 0.0))
    looks: list[int] = []

    def look(self: Pins, sessions: Any) -> None:
        looks.append(1)
        raise RuntimeError("broken")

    monkeypatch.setattr(Pins, "look", look)
    sources.shelf.publish("arena", size=1)
    async with started(), asyncio.timeout(FUSE):
        while len(looks) < 3:
            await asyncio.sleep(0)
    assert logged("config-pins-failed")
