"""Handoffs leave nothing behind: no descriptor, process, thread or socket file, no growth."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.clients import Score, line_client

MANY, FEW = 100, 15
"""Handoffs, where there is time for many, and in every run; ``make soak`` has hundreds."""


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("handoffs", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
async def test_handoffs_leave_nothing_over(handoffs: int, tmp_path: Path, runtime_directory: Path) -> None:
    with harness.counter(tmp_path) as service:
        score, stop = Score(), asyncio.Event()
        clients = [
            asyncio.create_task(line_client(service.address, score, stop, seed, pause=0.5)) for seed in range(20)
        ]
        while score.replies < 20:
            await asyncio.sleep(0.05)
        before = harness.descriptors_of(service.pid), threads(service.pid)  # of a process that no handoff made
        await harness.handoffs(service, handoffs, "--probation", "0", pause=0.0)
        harness.wait_gone(service.pids[-2])  # it answers the operator first, and then ends
        # The new process hears of that death by an event, and closes its last descriptor of the handoff then.
        harness.becomes(lambda: (harness.descriptors_of(service.pid), threads(service.pid)), before)
        assert [path.name for path in runtime_directory.iterdir()] == [f"{service.pid}.sock"]
        assert harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(runtime_directory)) == [service.pid]
        assert service.status()["generation"] == handoffs + 1
        stop.set()
        await asyncio.gather(*clients)
        score.check()


def test_failed_handoffs_leave_nothing_over(tmp_path: Path, runtime_directory: Path) -> None:
    with harness.counter(tmp_path) as service:
        service.handoff(expect=1, command=["/bin/false"])
        before = harness.descriptors_of(service.pid), threads(service.pid)
        for command in (["/no/such/thing"], ["/bin/false"], ["/bin/sh", "-c", "kill -9 $$"], ["/bin/sleep", "600"]) * 3:
            service.handoff("--deadline", "0.3", expect=1, command=command)
        harness.becomes(lambda: (harness.descriptors_of(service.pid), threads(service.pid)), before)
        assert harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(runtime_directory)) == [service.pid]
        assert [path.name for path in runtime_directory.iterdir()] == [f"{service.pid}.sock"]
