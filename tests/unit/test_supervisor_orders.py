"""What operators ask of a supervisor, with endpoints in place of servers."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hotfd.control import Endpoint, RuntimeDirectory
from hotfd.errors import HandoffRefused
from hotfd.report import Report
from hotfd.supervisor.link import probe
from hotfd.supervisor.orders import Orders
from hotfd.supervisor.reports import combined, refused
from hotfd.supervisor.service import Service
from hotfd.supervisor.worker import Policy, Probe, Worker
from tests.integration.harness import descriptors


class Server:
    """The servers of all workers at once: this process has one control socket."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.release = asyncio.Event()
        self.release.set()

    async def update(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        self.asked.append(request)
        emit({"event": "started", "id": "h"})
        await self.release.wait()
        if not self.reports:
            raise HandoffRefused("not-serving", "enough")
        return self.reports.pop(0)

    async def status(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        return {
            "generation": 2,
            "state": "serving",
            "connections": 3,
            "sessions": 2,
            "listeners": ["a:1"],
            "config": None,
        }

    async def fail(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
        raise HandoffRefused("malformed", "no such thing")


def report(outcome: str = "completed", **fields: Any) -> dict[str, Any]:
    counts = {"moved": 2, "kept": 0, "returned": 0, "closed": 0}
    return {
        "outcome": outcome, "id": "h", "old_pid": 1, "new_pid": 2, "reason": None, "generation": 3, "connections": counts,
        "sessions": counts, "reasons": {}, "pause_ms": {"p50": 1.0, "p99": 2.0, "max": 3.0}, "elapsed_ms": 10.0,
        "phases_ms": {"move": 4.0}, "dry_run": False, **fields,
    }  # fmt: skip


@asynccontextmanager
async def orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 1
) -> AsyncIterator[tuple[Orders, Server]]:
    """Serve as all workers of a supervisor; yield its orders and what answers them."""
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(run))
    server = Server()
    endpoint = Endpoint(
        {"update": server.update, "status": server.status, "fail": server.fail}, lambda: {"generation": 2}
    )
    service = Service(workers, Policy())
    service.start(0.0)
    for number in service.workers:
        service.tell(number, 0.0, partial(Worker.is_ready, pid=os.getpid(), now=0.0))

    async def until(condition: Callable[[], bool], limit: float) -> bool:
        return condition()

    before = descriptors()
    with RuntimeDirectory.open() as directory:
        await endpoint.start(directory)
        try:
            yield Orders(service, lambda: {"name": "chat", "restarts": 0}, until, lambda: None), server
        finally:
            server.release.set()
            await endpoint.aclose()
    assert descriptors() == before


Events = list[dict[str, Any]]


async def code_of(found: Orders, request: dict[str, Any]) -> str:
    """Carry out a request that is refused; return the code."""
    with pytest.raises(HandoffRefused) as caught:
        await found[request["type"]](request, lambda event: None)
    return caught.value.code


async def test_the_report_of_a_single_server_is_passed_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orders(tmp_path, monkeypatch) as (found, server):
        server.reports = [report(extra="kept")]
        events: Events = []
        assert await found["update"]({"type": "update", "deadline": 3.0}, events.append) == report(extra="kept")
        assert events == [{"event": "started", "id": "h"}]
        assert server.asked == [{"type": "update", "deadline": 3.0}]


async def test_a_refusal_is_passed_on_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with orders(tmp_path, monkeypatch) as (found, _):
        assert await code_of(found, {"type": "update"}) == "not-serving"
        assert await code_of(found, {"type": "fail"}) == "malformed"
        assert await code_of(found, {"type": "never heard of"}) == "unknown-instruction"


async def test_one_handoff_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with orders(tmp_path, monkeypatch) as (found, server):
        server.release.clear()
        first = asyncio.ensure_future(found.update({"type": "update"}, lambda event: None))
        await asyncio.sleep(0)
        assert await code_of(found, {"type": "update"}) == "handoff-in-progress"
        server.reports = [report()]
        server.release.set()
        await first
        server.reports = [report()]
        assert (await found.update({"type": "update"}, lambda event: None))["outcome"] == "completed"


@pytest.mark.parametrize("field", [{"all_at_once": 1}, {"worker": 3}, {"worker": "first"}, {"worker": 0}])
async def test_fields_of_the_supervisor_are_checked(
    field: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orders(tmp_path, monkeypatch, workers=2) as (found, server):
        assert await code_of(found, {"type": "update", **field}) == "malformed"
        assert server.asked == []


async def test_workers_are_handed_over_in_order_up_to_the_first_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orders(tmp_path, monkeypatch, workers=3) as (found, server):
        server.reports = [report(), report("rolled-back", reason="new-exited: it died")]
        events: Events = []
        total = await found.update({"type": "update"}, events.append)
        assert [(worker["worker"], worker["outcome"]) for worker in total["workers"]] == [
            (1, "completed"),
            (2, "rolled-back"),
        ]
        assert total["outcome"] == "rolled-back"
        assert [event["worker"] for event in events] == [1, 2]


async def test_all_at_once_asks_all_whatever_the_others_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with orders(tmp_path, monkeypatch, workers=3) as (found, server):
        server.reports = [report("partial"), report()]
        total = await found.update({"type": "update", "all_at_once": True}, lambda event: None)
        assert sorted(worker["outcome"] for worker in total["workers"]) == ["completed", "partial", "refused"]
        assert total["outcome"] == "refused"
        assert all(request == {"type": "update"} for request in server.asked)


async def test_one_worker_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with orders(tmp_path, monkeypatch, workers=2) as (found, server):
        server.reports = [report()]
        total = await found.update({"type": "update", "worker": 2}, lambda event: None)
        assert [worker["worker"] for worker in total["workers"]] == [2]
        assert (await found["status"]({"type": "status"}, lambda event: None))["connections"] == 6


async def test_status_adds_up_and_names_a_worker_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orders(tmp_path, monkeypatch, workers=2) as (found, _):
        second = found._service.workers[2]
        second.exited(os.getpid(), 9, (), 1.0)
        status = await found.status({}, lambda event: None)
        assert (status["name"], status["role"], status["state"]) == ("chat", "supervisor", "restarting")
        assert (status["connections"], status["sessions"], status["listeners"]) == (3, 2, ["a:1"])
        assert [worker["state"] for worker in status["workers"]] == ["serving", "restarting"]
        assert await code_of(found, {"type": "status2", "worker": 2}) == "not-serving"


async def test_a_server_that_cannot_be_reached_is_told_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orders(tmp_path, monkeypatch) as (found, _):
        monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "elsewhere"))
        (tmp_path / "run" / f"{os.getpid()}.sock").rename(tmp_path / "run" / "moved")
        assert await code_of(found, {"type": "update"}) == "not-a-server"
        assert (await found.status({}, lambda event: None))["workers"][0]["state"] == "no answer"
        assert await probe(os.getpid()) is Probe.MUTE


async def test_a_request_is_given_up_when_its_server_gives_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([Probe.SILENT, Probe.ANSWERED, Probe.SILENT, Probe.SILENT, Probe.SILENT])

    async def look(pid: int) -> Probe:
        return next(said)

    monkeypatch.setattr("hotfd.supervisor.orders.probe", look)
    monkeypatch.setattr("hotfd.supervisor.orders.SILENCE_INTERVAL", 0.0)
    async with orders(tmp_path, monkeypatch) as (found, server):
        server.release.clear()  # it has the request, and does nothing
        assert await code_of(found, {"type": "update"}) == "unresponsive"
        assert next(said, None) is None


async def test_a_sign_of_life_is_the_greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with orders(tmp_path, monkeypatch):
        assert await probe(os.getpid()) is Probe.ANSWERED


async def test_who_lasts_is_named_for_the_endpoint_and_who_stops_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with orders(tmp_path, monkeypatch) as (found, _):
        assert set(found) == {"status", "update", "watch"}
        assert len(found) == 3
        assert found["rollback"] == found.update
        found._service.stop(15, [], 0.0)
        assert await code_of(found, {"type": "rollback"}) == "stopping"


# -- one report of several -------------------------------------------------------------------------


def test_counts_are_added_and_the_longest_pause_counts() -> None:
    one = report(reasons={"no-boundary": 1}, worker=1)
    two = report(reasons={"no-boundary": 2, "framing": 1}, pause_ms={"p50": 0.5, "p99": 9.0, "max": 9.5}, worker=2)
    total = combined(77, [one, two], 25.0, dry_run=False)
    assert total["connections"] == {"moved": 4, "kept": 0, "returned": 0, "closed": 0}
    assert total["reasons"] == {"no-boundary": 3, "framing": 1}
    assert total["pause_ms"] == {"p50": 1.0, "p99": 9.0, "max": 9.5}
    assert (total["old_pid"], total["new_pid"], total["elapsed_ms"], total["phases_ms"]) == (
        77,
        None,
        25.0,
        {"move": 8.0},
    )
    assert total["workers"] == [one, two]


@pytest.mark.parametrize(
    ("outcomes", "worst", "status"),
    [
        (("completed", "completed"), "completed", 0),
        (("completed", "partial"), "partial", 3),
        (("partial", "rolled-back"), "rolled-back", 1),
        (("completed", "refused"), "refused", 1),
    ],
)
def test_the_exit_status_is_the_worst(outcomes: tuple[str, ...], worst: str, status: int) -> None:
    reports = [report(outcome, worker=number) for number, outcome in enumerate(outcomes, 1)]
    total = combined(1, reports, 0.0, dry_run=False)
    assert total["outcome"] == worst
    assert Report(outcome=total["outcome"], id="", old_pid=1).exit_status == status


def test_the_reason_is_that_of_the_worst_and_names_the_worker() -> None:
    total = combined(1, [report(worker=1), refused(2, None, "old-exited", "gone", dry_run=True)], 0.0, dry_run=True)
    assert total["reason"] == "old-exited: gone (worker 2)"
    assert total["dry_run"]
    assert math.isfinite(total["elapsed_ms"])
