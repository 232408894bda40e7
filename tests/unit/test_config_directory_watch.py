"""Watching a directory store: what is noticed, and what is done where nothing can be watched."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hotfd import _core
from hotfd.config.directory import DirectoryStore
from hotfd.config.directory_watch import Bell
from hotfd.config.forward import Forward
from hotfd.config.release import Head
from tests.unit.config_stores import (
    LONG,
    MEMORY,
    SHORT,
    following,
    publish,
    publishing,
    shows_no_older_heads,
    until,
)
from tests.unit.wire_support import on_each_loop, open_descriptors, wait_for_given_up_threads

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    # A look that was given up goes on in its thread, and closes its descriptor itself.
    wait_for_given_up_threads()
    assert [each for each in open_descriptors() if "inotify" in each or "hotfd-store" in each] == []


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hotfd-store-", dir=MEMORY) as parent:
        yield Path(parent, "store")


@pytest.fixture
def store(place: Path) -> DirectoryStore:
    """A store in which ``game`` has sequence 2."""
    store = DirectoryStore(str(place), create=True)
    store.write([publishing(None, "game")])
    store.write([publishing(store.read_heads()["game"], "game")])
    return store


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.hotfd["event"] for record in caplog.records if hasattr(record, "hotfd")]


@on_each_loop
async def test_a_change_is_noticed_on_every_loop(store: DirectoryStore) -> None:
    async with aclosing(store.watch(["game"], LONG)) as watch:  # type: ignore[type-var]
        assert (await following(watch))["game"].sequence == 2
        await publish(store, "game")
        await until(watch, game=3)


async def test_without_inotify_the_interval_is_left_and_that_is_logged_once(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted(directory: int) -> int:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(_core, "watch_directory", exhausted)
    with caplog.at_level(logging.WARNING, logger="hotfd"):
        async with aclosing(store.watch(["game"], SHORT)) as watch:  # type: ignore[type-var]
            await following(watch)
            await following(watch)
            await publish(store, "game")
            await until(watch, game=3)
    assert events(caplog) == ["config-watch-unavailable"]


async def test_a_directory_that_is_removed_and_made_again_is_followed(
    store: DirectoryStore, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = place.with_name("away")
    with caplog.at_level(logging.INFO, logger="hotfd"):
        async with aclosing(store.watch(["game"], SHORT)) as watch:  # type: ignore[type-var]
            first = await following(watch)
            place.rename(away)
            item = asyncio.ensure_future(anext(watch))
            while "config-store-unreachable" not in events(caplog):
                await asyncio.sleep(0.01)
            assert not item.done(), "nothing is said of a store that is not there"
            shutil.copytree(away, place)
            assert await item == first
            head = await publish(DirectoryStore(str(place)), "game")
            assert await until(watch, game=3) == {"game": head}
    assert events(caplog) == ["config-store-unreachable", "config-store-reachable"]


async def test_the_directory_that_has_come_anew_is_watched_and_not_only_polled(
    store: DirectoryStore, place: Path
) -> None:
    bell = Bell(str(place), "heads.json")
    try:
        await asyncio.to_thread(store._look, bell, None)
        waiting = asyncio.ensure_future(bell.wait(LONG))
        await asyncio.sleep(0)
        place.rename(place.with_name("away"))
        await asyncio.wait_for(waiting, 30)
        shutil.copytree(place.with_name("away"), place)
        await asyncio.to_thread(store._look, bell, None)
        waiting = asyncio.ensure_future(bell.wait(LONG))
        await publish(store, "game")
        await asyncio.wait_for(waiting, 30)
    finally:
        bell.close()


async def test_heads_that_are_damaged_are_passed_over_until_they_are_restored(
    store: DirectoryStore, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heads = place / "heads.json"
    whole = heads.read_bytes()
    with caplog.at_level(logging.INFO, logger="hotfd"):
        async with aclosing(store.watch(["game"], SHORT)) as watch:  # type: ignore[type-var]
            first = await following(watch)
            heads.write_bytes(whole[:-20])
            item = asyncio.ensure_future(anext(watch))
            while "config-store-unreachable" not in events(caplog):
                await asyncio.sleep(0.01)
            assert not item.done()
            heads.write_bytes(whole)
            assert await item == first
    assert events(caplog) == ["config-store-unreachable", "config-store-reachable"]


async def test_a_store_that_is_restored_from_a_backup_takes_nothing_back(
    store: DirectoryStore, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heads = place / "heads.json"
    newest = heads.read_bytes()

    async def go_back() -> None:
        older = store.read_heads()["game"]
        fields = {name: getattr(older, name) for name in Head.__struct_fields__} | {"sequence": 1}
        heads.write_bytes(b'{"game":' + _encoded(Head(**fields)) + b"}")

    async def go_on() -> None:
        heads.write_bytes(newest)
        await publish(store, "game")

    await shows_no_older_heads(store, go_back, go_on, caplog)


def _encoded(head: Head) -> bytes:
    from hotfd.config.release import encode_head

    return encode_head(head)


async def test_a_watch_that_is_cancelled_closes_what_it_has(store: DirectoryStore) -> None:
    async def forever() -> None:
        async with aclosing(store.watch(["game"], LONG)) as watch:  # type: ignore[type-var]
            async for _ in watch:
                seen.set()

    seen = asyncio.Event()
    for wait_until_seen in (True, False):
        seen.clear()
        task = asyncio.create_task(forever())
        if wait_until_seen:
            await seen.wait()
        else:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_a_watch_that_is_made_after_its_end_is_closed_at_once(place: Path) -> None:
    async def ended() -> Bell:
        bell = Bell(str(place), "heads.json")
        bell.close()
        return bell

    place.mkdir()
    bell = asyncio.run(ended())
    directory = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    bell.arm(directory)
    os.close(directory)


async def test_what_else_happens_in_the_directory_wakes_nobody(store: DirectoryStore, place: Path) -> None:
    bell = Bell(str(place), "heads.json")
    try:
        await asyncio.to_thread(store._look, bell, None)
        waiting = asyncio.ensure_future(bell.wait(LONG))
        await store.register("h:1", ["game"], 60)
        (place / "notes.new").write_text("x")
        (place / "notes.new").rename(place / "notes")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        await publish(store, "game")
        await asyncio.wait_for(waiting, 30)
    finally:
        bell.close()


# -- heads that never go back ------------------------------------------------------------------------


def head(module: str, sequence: int, **fields: Any) -> Head:
    return Head(module, sequence, sequence, "published", "anna", 1.0, **fields)


def test_of_each_module_the_newest_head_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    forward = Forward("dir:/x")
    assert forward.take({"game": head("game", 2), "chat": head("chat", 5)}) == {
        "game": head("game", 2),
        "chat": head("chat", 5),
    }
    with caplog.at_level(logging.WARNING, logger="hotfd"):
        newest = forward.take({"game": head("game", 1), "chat": head("chat", 6)})
        assert (newest["game"].sequence, newest["chat"].sequence) == (2, 6)
        assert forward.take({"game": head("game", 1)}) == newest
        assert forward.take({}) == newest
    assert [record.hotfd["module"] for record in caplog.records] == ["game", "chat"]  # type: ignore[attr-defined]
    assert [record.hotfd["shown"] for record in caplog.records] == [1, 0]  # type: ignore[attr-defined]


def test_another_head_with_the_same_sequence_is_no_newer_one(caplog: pytest.LogCaptureFixture) -> None:
    forward = Forward("dir:/x")
    first = forward.take({"game": head("game", 2)})
    with caplog.at_level(logging.WARNING, logger="hotfd"):
        assert forward.take({"game": head("game", 2, reason="other")}) == first
    assert events(caplog) == ["config-store-went-back"]


def test_that_a_store_has_gone_back_is_logged_again_after_it_had_caught_up(caplog: pytest.LogCaptureFixture) -> None:
    forward = Forward("dir:/x")
    with caplog.at_level(logging.WARNING, logger="hotfd"):
        for sequence in (2, 1, 1, 2, 1, 3, 2):
            forward.take({"game": head("game", sequence)})
    assert events(caplog) == ["config-store-went-back"] * 3
