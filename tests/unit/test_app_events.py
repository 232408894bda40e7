"""The events of a server: heard by everybody who watches, kept for nobody, and over with the server."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from hotfd.app import events
from hotfd.app.events import Hub
from hotfd.errors import HandoffRefused
from hotfd.report import Report


class Counts:
    """What a server would count."""

    def __init__(self) -> None:
        self.connections = 0
        self.asked = 0

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        if self.connections < 0:
            raise RuntimeError("broken")
        return {"connections": self.connections}


def kinds(seen: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in seen]


async def test_all_who_watch_hear_it_with_the_time_and_so_does_who_asked() -> None:
    hub = Hub(Counts())
    heard: list[list[dict[str, Any]]] = [[], []]
    watches = [asyncio.ensure_future(hub.watch({"type": "watch"}, seen.append)) for seen in heard]
    await asyncio.sleep(0)
    asked: list[dict[str, Any]] = []
    hub.also(asked.append)({"event": "started", "id": "x"})
    assert asked == [{"event": "started", "id": "x"}]
    for seen in heard:
        assert kinds(seen) == ["watching", "started"]
        assert all(isinstance(event["time"], float) for event in seen)
    hub.close(4711)
    assert await asyncio.gather(*watches) == [{"successor": 4711}] * 2


async def test_one_who_hangs_up_hears_no_more_and_the_others_do() -> None:
    hub, seen, other = Hub(Counts()), [], []
    leaving = asyncio.ensure_future(hub.watch({}, seen.append))
    staying = asyncio.ensure_future(hub.watch({}, other.append))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    hub.publish({"event": "started"})
    assert (kinds(seen), kinds(other)) == (["watching"], ["watching", "started"])
    hub.close(None)
    assert await staying == {"successor": None}


async def test_a_watch_of_a_server_that_was_replaced_is_over_at_once() -> None:
    hub = Hub(Counts())
    hub.close(4711)
    hub.close(None)
    assert await hub.watch({}, lambda event: None) == {"successor": 4711}


async def test_counts_are_looked_at_only_while_somebody_watches_and_told_only_when_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "COUNT_INTERVAL", 0)
    counts = Counts()
    hub, seen = Hub(counts), []
    hub.look()
    assert counts.asked == 0
    watch = asyncio.ensure_future(hub.watch({}, seen.append))
    while counts.asked < 5:
        await asyncio.sleep(0)
    assert kinds(seen) == ["watching"]
    counts.connections = 3
    async with asyncio.timeout(10):
        while len(seen) < 2:
            await asyncio.sleep(0)
    assert (seen[1]["event"], seen[1]["connections"]) == ("counts", 3)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    asked = counts.asked
    for _ in range(10):
        await asyncio.sleep(0)
    assert counts.asked == asked


async def test_counts_that_fail_end_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(events, "COUNT_INTERVAL", 0)
    counts = Counts()
    hub, seen = Hub(counts), []
    watch = asyncio.ensure_future(hub.watch({}, seen.append))
    await asyncio.sleep(0)
    counts.connections = -1
    with caplog.at_level(logging.ERROR, "hotfd"):
        while "counts-failed" not in caplog.text:
            await asyncio.sleep(0)
    counts.connections = 1
    async with asyncio.timeout(10):
        while len(seen) < 2:
            await asyncio.sleep(0)
    hub.close(None)
    await watch


async def test_the_outcome_is_told_with_the_report() -> None:
    hub, seen = Hub(Counts()), []
    watch = asyncio.ensure_future(hub.watch({}, seen.append))
    await asyncio.sleep(0)
    hub.outcome(Report(outcome="completed", id="x", old_pid=1))
    assert seen[1]["report"]["outcome"] == "completed"
    hub.close(None)
    await watch


async def test_a_field_that_watch_does_not_have_is_refused() -> None:
    with pytest.raises(HandoffRefused, match="no field 'command'"):
        await Hub(Counts()).watch({"type": "watch", "command": []}, lambda event: None)
