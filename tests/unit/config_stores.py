"""What every store does, whichever it is: the same tests for all of them.

A module that tests a store imports the classes (``from tests.unit.config_stores import *``) and has the fixture
``open_store``: a function that returns another store of the same place each time, as another process would have it.
The place is empty at the beginning of each test. The fixture closes all that it has given out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.config import rollout
from hotfd.config.reader import StoreSource, note
from hotfd.config.release import Release, Sealed, seal
from hotfd.config.rollout import For, Step
from hotfd.config.store import MAX_SCHEMA, REMEMBERED, Acknowledgement, Store
from hotfd.errors import ConfigError, Conflict, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hotfd.config.release import Head

    OpenStore = Callable[[], Store]

__all__ = [
    "TestAddresses",
    "TestCommits",
    "TestHistory",
    "TestManyPublishers",
    "TestReleases",
    "TestReports",
    "TestRollouts",
    "TestSchemas",
    "TestSource",
    "TestWatching",
    "store",
]

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where stores of tests are: in memory, if the machine has that. What is tested is not the disk."""

FUSE = 30.0
"""Seconds after which a test that waits has failed; nothing is measured with it."""

LONG = 3600.0
"""Seconds: an interval that does not come to its end in a test."""

SHORT = 0.05
"""Seconds: an interval that a test waits for."""


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """The first store of the place."""
    return open_store()


def sealed(module: str, version: int, **values: Any) -> Sealed:
    """Return a release of a module."""
    revision = f"r{version}"
    return seal(Release(module, version, revision, "anna", 1.5, values or {"size": version}, note=f"change {version}"))


def publishing(head: Head | None, module: str, canary: For | None = None, **values: Any) -> Step:
    """Return the step that publishes the next release of a module."""
    return rollout.publish(head, sealed(module, rollout.next_version(head), **values), by="anna", canary=canary)


async def publish(store: Store, module: str, canary: For | None = None, **values: Any) -> Head:
    """Publish the next release of a module; return the new head."""
    step = publishing((await store.heads([module])).get(module), module, canary, **values)
    await store.commit([step])
    return step.head


def report(module: str = "game", server: str = "s1", **fields: Any) -> Acknowledgement:
    """Return a report of a server."""
    given = {
        "service": "arena",
        "host": "h",
        "pid": 7,
        "version": 1,
        "state": "staged",
        "sequence": 1,
        "running": 0,
        "time": time.time(),
    }
    return Acknowledgement(module, server, **(given | fields))


async def following(watch: AsyncIterator[dict[str, Head]]) -> dict[str, Head]:
    """Return the next item of a watch."""
    async with asyncio.timeout(FUSE):
        return await anext(watch)


async def until(watch: AsyncIterator[dict[str, Head]], **sequences: int) -> dict[str, Head]:
    """Return the first item of a watch in which modules have these sequences."""
    while True:
        heads = await following(watch)
        if {name: heads[name].sequence if name in heads else 0 for name in sequences} == sequences:
            return heads


class TestCommits:
    async def test_an_empty_store_has_no_heads(self, store: Store) -> None:
        assert await store.heads() == {}
        assert await store.heads(["game"]) == {}

    async def test_a_published_release_is_in_force_for_every_reader(self, store: Store, open_store: OpenStore) -> None:
        step = publishing(None, "game", size=3)
        await store.commit([step])
        other = open_store()
        assert await other.heads() == {"game": step.head}
        head = (await other.heads(["game"]))["game"]
        assert head.stable is not None
        assert step.release is not None
        release = await other.release("game", head.stable.version, head.stable.sha256)
        assert (release.release, release.data) == (step.release.release, step.release.data)

    async def test_heads_are_told_of_the_modules_that_were_asked_for(self, store: Store) -> None:
        for module in ("game", "chat", "shop"):
            await publish(store, module)
        assert set(await store.heads()) == {"game", "chat", "shop"}
        assert set(await store.heads(["shop", "game", "nothing"])) == {"shop", "game"}
        assert await store.heads([]) == {}

    async def test_one_commit_changes_several_modules(self, store: Store) -> None:
        first = await publish(store, "game")
        steps = [publishing(first, "game"), publishing(None, "chat"), publishing(None, "shop")]
        await store.commit(steps)
        assert await store.heads() == {step.head.module: step.head for step in steps}
        for step in steps:
            assert (await store.release(step.head.module, step.head.last)).release == step.release.release  # type: ignore[union-attr]

    async def test_one_module_that_has_changed_keeps_all_of_the_commit_out(self, store: Store) -> None:
        stale = publishing(None, "game", who="late")
        now = await publish(store, "game", who="first")
        with pytest.raises(Conflict):
            await store.commit([publishing(None, "chat"), stale, publishing(None, "shop")])
        assert await store.heads() == {"game": now}
        assert await store.history("chat") == []
        assert [event.sequence for event in await store.history("game")] == [1]
        assert (await store.release("game", 1)).release.values == {"who": "first"}
        with pytest.raises(StoreError):
            await store.release("chat", 1)

    async def test_a_step_that_was_carried_out_conflicts_with_itself(self, store: Store) -> None:
        first = await publish(store, "game")
        step = rollout.publish(first, sealed("game", 2), by="anna", canary=For(share=0.5))
        await store.commit([step])
        promoted = rollout.promote(step.head, by="bob")
        await store.commit([promoted])
        with pytest.raises(Conflict):
            await store.commit([rollout.promote(step.head, by="carl")])
        assert await store.heads() == {"game": promoted.head}

    async def test_two_steps_of_one_module_are_no_commit(self, store: Store) -> None:
        step = publishing(None, "game")
        with pytest.raises(ValueError, match="module"):
            await store.commit([step, rollout.publish(step.head, sealed("game", 2), by="anna")])
        assert await store.heads() == {}

    async def test_a_commit_without_steps_changes_nothing(self, store: Store) -> None:
        await store.commit([])
        assert await store.heads() == {}

    async def test_after_a_conflict_the_same_values_can_be_published(self, store: Store) -> None:
        stale = publishing(None, "game", who="late")
        await publish(store, "game", who="first")
        with pytest.raises(Conflict):
            await store.commit([stale])
        head = await publish(store, "game", who="late")
        assert head.stable is not None
        assert (await store.release("game", 2, head.stable.sha256)).release.values == {"who": "late"}

    async def test_many_modules_are_published_at_once(self, store: Store) -> None:
        steps = [publishing(None, f"module-{number}") for number in range(40)]
        await store.commit(steps)
        assert await store.heads() == {step.head.module: step.head for step in steps}

    @pytest.mark.parametrize("name", ["", "Game", "../game", "a/b", "game\n", ".game", "g" * 65])
    async def test_what_is_no_name_is_refused(self, store: Store, name: str) -> None:
        calls: list[Any] = [
            lambda: store.heads([name]),
            lambda: store.release(name, 1),
            lambda: store.history(name),
            lambda: store.acknowledge([report(name)]),
            lambda: store.acknowledgements(name),
            lambda: store.declare(name, "id", b"{}"),
            lambda: store.schemas(name),
            lambda: store.register("127.0.0.1:1", [name], 60),
            lambda: store.addresses(name),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match="name"):
                await call()
        async with aclosing(store.watch([name])) as watch:  # type: ignore[type-var]
            with pytest.raises(ConfigError, match="name"):
                await anext(watch)

    async def test_closing_twice_is_closing_once(self, store: Store) -> None:
        await store.heads()
        await store.aclose()
        await store.aclose()


class TestReleases:
    async def test_a_release_that_was_never_published_is_not_there(self, store: Store) -> None:
        await publish(store, "game")
        for version in (0, 2, -1, 1 << 53):
            with pytest.raises(StoreError, match="game"):
                await store.release("game", version)
        with pytest.raises(StoreError, match="nothing"):
            await store.release("nothing", 1)

    async def test_a_release_is_not_given_for_another_digest(self, store: Store) -> None:
        await publish(store, "game")
        with pytest.raises(StoreError):
            await store.release("game", 1, "0" * 64)

    async def test_every_release_stays_as_it_was(self, store: Store) -> None:
        steps: list[Step] = []
        for size in range(5):
            steps.append(publishing(steps[-1].head if steps else None, "game", size=size))
            await store.commit([steps[-1]])
        for step in steps:
            assert step.release is not None
            found = await store.release("game", step.head.last)
            assert (found.data, found.sha256) == (step.release.data, step.release.sha256)

    async def test_a_large_release_comes_back(self, store: Store) -> None:
        text = "x" * 900_000
        head = await publish(store, "game", text=text)
        assert head.stable is not None
        assert (await store.release("game", 1, head.stable.sha256)).release.values == {"text": text}


class TestHistory:
    async def test_a_module_without_changes_has_no_history(self, store: Store) -> None:
        assert await store.history("game") == []

    async def test_history_has_each_change_and_the_newest_is_first(self, store: Store) -> None:
        steps = [publishing(None, "game")]
        steps.append(publishing(steps[-1].head, "game", For(("eu",), 0.25)))
        steps.append(rollout.abort(steps[-1].head, by="bob", reason="too slow"))
        steps.append(publishing(steps[-1].head, "game", For(("eu",), 0.25)))
        steps.append(rollout.promote(steps[-1].head, by="bob"))
        for step in steps:
            await store.commit([step])
        events = await store.history("game")
        assert events == [step.event for step in reversed(steps)]
        assert [event.change for event in events] == ["promoted", "canary", "aborted", "canary", "published"]
        assert [event.version for event in events] == [3, 3, 2, 2, 1]

    async def test_history_is_read_in_pages(self, store: Store) -> None:
        for _ in range(7):
            await publish(store, "game")
        await publish(store, "chat")
        pages, before = [], None
        while page := await store.history("game", limit=3, before=before):
            pages.append([event.sequence for event in page])
            before = page[-1].sequence
        assert pages == [[7, 6, 5], [4, 3, 2], [1]]
        assert [event.sequence for event in await store.history("game", before=100, limit=2)] == [7, 6]
        assert await store.history("game", limit=0) == []
        assert await store.history("game", before=1) == []


class TestWatching:
    async def test_a_watch_tells_at_once_what_is_there(self, store: Store) -> None:
        async with aclosing(store.watch(["game"], LONG)) as watch:  # type: ignore[type-var]
            assert await following(watch) == {}
        head = await publish(store, "game")
        await publish(store, "chat")
        async with aclosing(store.watch(["game", "shop"], LONG)) as watch:  # type: ignore[type-var]
            assert await following(watch) == {"game": head}

    async def test_a_watch_tells_each_change_without_waiting_for_the_interval(
        self, store: Store, open_store: OpenStore
    ) -> None:
        async with aclosing(open_store().watch(["game", "chat"], LONG)) as watch:  # type: ignore[type-var]
            assert await following(watch) == {}
            game = await publish(store, "game")
            assert await until(watch, game=1) == {"game": game}
            chat = await publish(store, "chat")
            assert await until(watch, chat=1) == {"game": game, "chat": chat}
            game = await publish(store, "game")
            assert await until(watch, game=2) == {"game": game, "chat": chat}

    async def test_what_happens_between_two_items_is_in_the_next(self, store: Store, open_store: OpenStore) -> None:
        async with aclosing(open_store().watch(["game"], LONG)) as watch:  # type: ignore[type-var]
            await following(watch)
            for _ in range(5):
                head = await publish(store, "game")
            assert await until(watch, game=5) == {"game": head}

    async def test_a_watch_tells_the_same_again_after_the_interval(self, store: Store) -> None:
        head = await publish(store, "game")
        async with aclosing(store.watch(["game"], SHORT)) as watch:  # type: ignore[type-var]
            began = time.monotonic()
            for _ in range(3):
                assert await following(watch) == {"game": head}
            assert time.monotonic() - began > SHORT, "it turns without waiting"

    async def test_other_modules_do_not_show_in_a_watch(self, store: Store) -> None:
        async with aclosing(store.watch(["game"], LONG)) as watch:  # type: ignore[type-var]
            assert await following(watch) == {}
            await publish(store, "chat")
            game = await publish(store, "game")
            assert await until(watch, game=1) == {"game": game}

    async def test_changes_of_several_modules_come_together(self, store: Store, open_store: OpenStore) -> None:
        async with aclosing(open_store().watch(["game", "chat"], LONG)) as watch:  # type: ignore[type-var]
            head: dict[str, Head] = await following(watch)
            for _ in range(4):
                steps = [publishing(head.get(module), module) for module in ("game", "chat")]
                await store.commit(steps)
                sequence = steps[0].head.sequence
                while head.get("game") != steps[0].head:
                    head = await following(watch)
                    assert {h.sequence for h in head.values()} <= {sequence - 1, sequence}
                    assert len({h.sequence for h in head.values()}) <= 1, "half of a commit was shown"

    async def test_several_watch_at_once(self, store: Store, open_store: OpenStore) -> None:
        async def sees(version: int) -> None:
            async with aclosing(open_store().watch(["game"], LONG)) as watch:  # type: ignore[type-var]
                await until(watch, game=version)

        watchers = [asyncio.create_task(sees(3)) for _ in range(5)]
        for _ in range(3):
            await publish(store, "game")
        async with asyncio.timeout(FUSE):
            await asyncio.gather(*watchers)

    async def test_closing_the_store_ends_its_watches(self, store: Store) -> None:
        watch = store.watch(["game"], LONG)
        await following(watch)
        waiting = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0)
        await store.aclose()
        async with asyncio.timeout(FUSE):
            assert await waiting is None


class TestReports:
    async def test_nobody_has_reported_at_first(self, store: Store) -> None:
        assert await store.acknowledgements("game") == []
        await store.acknowledge([])

    async def test_a_report_comes_back_as_it_was(self, store: Store, open_store: OpenStore) -> None:
        told = report(
            zone="eu", generation=3, pinned={1: 2, 7: 40}, state="refused", faults=("size is 0; expected 1 or more",)
        )
        await store.acknowledge([told])
        assert await open_store().acknowledgements("game") == [told]

    async def test_the_last_report_of_a_server_is_the_one_that_counts(self, store: Store) -> None:
        now = time.time()
        await store.acknowledge([report(version=1, time=now - 5), report(server="s2", time=now - 5)])
        newer = [report(version=2, time=now - 4), report("chat", time=now - 4)]
        await store.acknowledge(newer)
        found = {told.server: told for told in await store.acknowledgements("game")}
        assert set(found) == {"s1", "s2"}
        assert found["s1"] == newer[0]
        assert await store.acknowledgements("chat") == [newer[1]]

    async def test_an_older_report_that_comes_late_replaces_nothing(self, store: Store) -> None:
        now = time.time()
        newer = report(version=2, time=now - 1)
        await store.acknowledge([newer])
        await store.acknowledge([report(version=1, time=now - 2)])
        assert await store.acknowledgements("game") == [newer]

    async def test_of_several_reports_at_once_the_newest_counts(self, store: Store) -> None:
        now = time.time()
        newest = report(version=3, time=now - 1)
        await store.acknowledge([report(version=1, time=now - 3), newest, report(version=2, time=now - 2)])
        assert await store.acknowledgements("game") == [newest]

    async def test_who_has_not_reported_for_a_day_is_forgotten(self, store: Store) -> None:
        await store.acknowledge([report(time=time.time() - REMEMBERED - 60)])
        assert await store.acknowledgements("game") == []

    async def test_a_clock_that_is_ahead_keeps_neither_a_dead_server_alive_nor_newer_reports_out(
        self, store: Store
    ) -> None:
        await store.acknowledge([report(time=time.time() + 3600)])
        (found,) = await store.acknowledgements("game")
        assert found.time <= time.time()
        newer = report(version=2, time=time.time())
        await store.acknowledge([newer])
        assert await store.acknowledgements("game") == [newer]

    async def test_reports_come_through_after_a_clock_was_set_back(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        await store.acknowledge([report(time=now + 3590)])
        monkeypatch.undo()
        newer = report(version=2)
        await store.acknowledge([newer])
        assert await store.acknowledgements("game") == [newer]

    async def test_many_servers_report_at_once(self, store: Store) -> None:
        told = [report(server=f"s{number:03}") for number in range(150)]
        await store.acknowledge(told)
        assert sorted(await store.acknowledgements("game"), key=lambda each: each.server) == told

    async def test_reports_do_not_touch_heads_and_history(self, store: Store) -> None:
        head = await publish(store, "game")
        await store.acknowledge([report()])
        assert await store.heads() == {"game": head}
        assert len(await store.history("game")) == 1


class TestSchemas:
    async def test_schemas_are_kept_by_module_and_id(self, store: Store, open_store: OpenStore) -> None:
        assert await store.schemas("game") == {}
        await store.declare("game", "a1", b'{"type":"object"}')
        await store.declare("game", "b2", b"{}")
        await store.declare("game", "b2", b"{}")
        await store.declare("chat", "c3", b"{}")
        assert await open_store().schemas("game") == {"a1": b'{"type":"object"}', "b2": b"{}"}

    async def test_a_schema_that_is_too_large_is_refused(self, store: Store) -> None:
        with pytest.raises(ConfigError):
            await store.declare("game", "a1", b" " * (MAX_SCHEMA + 1))
        assert await store.schemas("game") == {}


class TestAddresses:
    async def test_an_address_serves_what_it_has_registered(self, store: Store, open_store: OpenStore) -> None:
        assert await store.addresses("game") == []
        await store.register("10.0.0.2:7", ["game", "chat"], 600)
        await store.register("10.0.0.1:7", ["game"], 600)
        other = open_store()
        assert await other.addresses("game") == ["10.0.0.1:7", "10.0.0.2:7"]
        assert await other.addresses("chat") == ["10.0.0.2:7"]
        assert await other.addresses("shop") == []

    async def test_registering_again_says_all_of_it_anew(self, store: Store) -> None:
        await store.register("10.0.0.1:7", ["game", "chat"], 600)
        await store.register("10.0.0.1:7", ["chat", "shop"], 600)
        assert [await store.addresses(module) for module in ("game", "chat", "shop")] == [
            [],
            ["10.0.0.1:7"],
            ["10.0.0.1:7"],
        ]

    async def test_an_address_can_be_taken_back(self, store: Store, open_store: OpenStore) -> None:
        await store.register("10.0.0.1:7", ["game"], 600)
        await store.register("10.0.0.2:7", ["game"], 600)
        other = open_store()
        await other.unregister("10.0.0.1:7")
        await other.unregister("10.0.0.1:7")
        assert await store.addresses("game") == ["10.0.0.2:7"]

    async def test_an_address_that_is_not_registered_again_is_gone(self, store: Store) -> None:
        await store.register("10.0.0.2:7", ["game"], 600)
        await store.register("10.0.0.1:7", ["game"], 0.2)
        async with asyncio.timeout(FUSE):
            while await store.addresses("game") != ["10.0.0.2:7"]:
                await asyncio.sleep(0.05)


class TestRollouts:
    async def test_a_canary_goes_its_way_to_all(self, store: Store) -> None:
        await publish(store, "game")
        canary = await publish(store, "game", For(("eu",), 0.1))
        found = (await store.heads())["game"]
        assert found == canary
        assert (found.stable.version, found.canary.version) == (1, 2)  # type: ignore[union-attr]
        assert (found.canary.zones, found.canary.share) == (("eu",), 0.1)  # type: ignore[union-attr]
        await store.commit([rollout.promote(found, by="bob")])
        found = (await store.heads())["game"]
        assert (found.stable.version, found.canary) == (2, None)  # type: ignore[union-attr]

    async def test_a_canary_that_is_taken_back_leaves_its_version_used(self, store: Store) -> None:
        await publish(store, "game")
        canary = await publish(store, "game", For(share=0.1))
        await store.commit([rollout.abort(canary, by="bob", reason="too slow")])
        head = await publish(store, "game")
        assert (head.last, head.sequence) == (3, 4)
        assert (await store.release("game", 2)).release.version == 2

    async def test_who_comes_second_to_end_a_canary_is_told(self, store: Store) -> None:
        canary = await publish(store, "game", For(share=0.1))
        await store.commit([rollout.promote(canary, by="bob")])
        halt = rollout.halt(canary, 1, by="s1", reason="refused")
        assert halt is not None
        with pytest.raises(Conflict):
            await store.commit([halt])
        assert (await store.heads())["game"].change == "promoted"


class TestSource:
    async def test_a_source_gives_what_its_store_has(self, store: Store) -> None:
        head = await publish(store, "game", size=9)
        source = StoreSource(store, LONG)
        assert (source.url, source.contact) == (store.url, store.url)
        async with aclosing(source.heads(["game"])) as heads:  # type: ignore[type-var]
            assert await following(heads) == {"game": head}
        assert head.stable is not None
        assert (await source.release("game", 1, head.stable.sha256)).release.values == {"size": 9}
        await source.declare({"game": ("a1", b"{}"), "chat": ("b2", b"{}")})
        assert (await store.schemas("game"), await store.schemas("chat")) == ({"a1": b"{}"}, {"b2": b"{}"})
        told = report(sequence=head.sequence)
        await source.report([told])
        assert await store.acknowledgements("game") == [told]
        await source.aclose()

    @pytest.mark.parametrize("state", ["refused", "quarantined"])
    async def test_a_canary_that_a_server_refuses_is_halted(self, store: Store, state: str) -> None:
        stable = await publish(store, "game")
        await publish(store, "game", For(share=0.5))
        await note(store, [report(version=2, state=state, faults=("size is 0", "name is 1"))])
        head = (await store.heads())["game"]
        assert (head.change, head.by, head.stable, head.canary) == ("halted", "s1", stable.stable, None)
        assert head.reason == f"{state}: size is 0"
        assert (await store.history("game"))[0].version == 2

    async def test_only_a_refusal_of_the_canary_itself_halts_it(self, store: Store) -> None:
        await publish(store, "game")
        canary = await publish(store, "game", For(share=0.5))
        await note(
            store,
            [
                report(server="s1", version=1, state="refused"),
                report(server="s2", version=2, state="staged"),
                report(server="s3", version=2, state="running"),
                report("chat", server="s4", version=2, state="refused"),
            ],
        )
        assert await store.heads() == {"game": canary}

    async def test_a_release_for_all_that_is_refused_stays(self, store: Store) -> None:
        head = await publish(store, "game")
        await note(store, [report(version=1, state="refused")])
        assert await store.heads() == {"game": head}

    async def test_servers_that_refuse_a_canary_at_once_halt_it_once(self, store: Store, open_store: OpenStore) -> None:
        await publish(store, "game")
        await publish(store, "game", For(share=0.5))
        stores = [open_store() for _ in range(5)]
        told = [[report(server=f"s{number}", version=2, state="refused")] for number in range(5)]
        await asyncio.gather(*(note(each, reports) for each, reports in zip(stores, told, strict=True)))
        assert [event.change for event in await store.history("game")] == ["halted", "canary", "published"]
        assert len(await store.acknowledgements("game")) == 5


class TestManyPublishers:
    async def test_of_twenty_publishers_at_once_nobody_is_lost(self, store: Store, open_store: OpenStore) -> None:
        async def put(own: Store, number: int) -> None:
            while True:
                try:
                    await publish(own, "game", who=number)
                except Conflict:
                    continue
                return

        stores = [open_store() for _ in range(20)]
        async with asyncio.timeout(FUSE * 2):
            await asyncio.gather(*(put(own, number) for number, own in enumerate(stores)))
        events = await store.history("game")
        assert [event.sequence for event in events] == list(range(20, 0, -1))
        values = [(await store.release("game", event.version, event.sha256)).release.values for event in events]
        assert sorted(value["who"] for value in values) == list(range(20))

    async def test_two_commits_of_the_same_heads_are_decided_for_one(self, store: Store, open_store: OpenStore) -> None:
        async def attempt(own: Store, who: str) -> bool:
            try:
                await own.commit([publishing(None, "game", who=who), publishing(None, "chat", who=who)])
            except Conflict:
                return False
            return True

        names = ["anna", "bob", "carl", "dora"]
        won = await asyncio.gather(*(attempt(open_store(), name) for name in names))
        assert won.count(True) == 1
        winner = names[won.index(True)]
        for module in ("game", "chat"):
            head = (await store.heads())[module]
            assert head.stable is not None
            assert (await store.release(module, 1, head.stable.sha256)).release.values == {"who": winner}


async def shows_no_older_heads(
    store: Store, go_back: Callable[[], Any], go_on: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Check that a watch keeps the newest heads while the store shows older ones, and says so once.

    Args:
        store: with the module ``game``, at sequence 2.
        go_back: makes the store show an older head of it.
        go_on: publishes until it has sequence 3.
        caplog: the log.
    """
    async with aclosing(store.watch(["game"], SHORT)) as watch:  # type: ignore[type-var]
        newest = await until(watch, game=2)
        await go_back()
        with caplog.at_level(logging.WARNING, logger="hotfd"):
            while "config-store-went-back" not in caplog.text:
                assert await following(watch) == newest
            for _ in range(3):
                assert await following(watch) == newest
        assert caplog.text.count("config-store-went-back") == 1
        await go_on()
        assert (await until(watch, game=3))["game"].sequence == 3
