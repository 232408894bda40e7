"""The suite that measures growth works, and what it is made of sees when something is wrong."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from hotfd.bench.measure import Section, Series
from scripts.bench import fanout, kernel, workers
from scripts.bench.generations import Generations, HandoffFailed, handoff, peak_bytes
from scripts.bench.load import Load, LoadFailed
from scripts.bench.settings import Settings
from scripts.bench.suites import growth
from tests.integration import harness

HOLDING = [sys.executable, "-m", "scripts.bench.servers.holding_hotfd"]


def settings(directory: Path) -> Settings:
    return Settings(rounds=1, quick=True, directory=directory, say=lambda text: None)


def test_the_suite_measures_everything_at_a_small_scale(tmp_path: Path) -> None:
    section = growth.run(settings(tmp_path))
    assert [table.title for table in section.tables][:3] == [
        "Handoffs by the number of connections, 200 bytes of state each",
        "Handoffs by the size of the state",
        "Memory of an idle connection, of 100",
    ]
    assert [row[0] for row in section.tables[0].rows] == ["1", "10", "40"]
    assert {"growth-memory"} <= {plot.name for plot in section.plots}
    assert set(section.data) == {"handoffs", "states", "memory"}


def test_sizes_beyond_the_descriptor_limit_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_add_states", "_add_memory"):
        monkeypatch.setattr(growth, name, lambda *arguments: None)
    monkeypatch.setattr(growth, "_by_state", lambda *arguments: {"": dict})
    small = growth.Scale(sizes=(2, 9000), workers=0, subscribers=0, repeats=1)
    section = growth.measure(settings(tmp_path), small, limit=1000)
    assert [row[0] for row in section.tables[0].rows] == ["1", "2"]
    assert "9,000 connections: a process may have 1,000 descriptors" in section.skipped[0]


def test_a_cost_that_grows_with_the_number_does_not_meet_the_goal() -> None:
    def figures(moving: float) -> dict[str, Series]:
        return {name: Series(unit, (moving,)) for name, unit in growth.CHOSEN.items()}

    def section_of(largest: float) -> Section:
        section = Section("growth", growth.TITLE)
        results = {"1": figures(0.001), "101": figures(0.101), "1,001": figures(largest)}
        growth._add_sizes(section, results, [101, 1001])
        return section

    (flat,), (steep,) = section_of(1.201).goals, section_of(1.301).goals
    assert flat.met
    assert flat.ratio.median == pytest.approx(1.2)
    assert not steep.met
    assert steep.ratio.median == pytest.approx(1.3)


def test_each_handoff_moves_every_connection_with_its_state(tmp_path: Path) -> None:
    with (
        Generations([*HOLDING, "--state", "100000"], tmp_path) as server,
        Load(server.address, request=b"hi\n", reply=3, connections=5, verify=True) as load,
    ):
        before = server.pid
        done = [server.hand_over() for _ in range(2)]
        assert [each.report["connections"]["moved"] for each in done] == [5, 5]
        assert server.pid not in {before, done[0].report["new_pid"]}
        assert done[0].cpu > 0
        assert peak_bytes(server.pid) > 5 * 100_000
        newest = server.pid
        load.stop()
    assert not harness.alive(newest), "the newest process goes on"


def test_a_handoff_that_fails_is_told_and_nothing_is_left_over(tmp_path: Path) -> None:
    descriptors = harness.descriptors()
    with ExitStack() as stack:
        server = stack.enter_context(Generations(HOLDING, tmp_path))
        with pytest.raises(HandoffFailed, match="new-exited"):
            handoff(server.pid, {"HOTFD_RUNTIME_DIR": str(tmp_path)}, "--", sys.executable, "-c", "raise SystemExit(3)")
        pid = server.pid
    assert not harness.alive(pid)
    assert harness.descriptors() == descriptors


def test_workers_share_the_connections_and_all_are_handed_over(tmp_path: Path) -> None:
    host = workers.measure(2, 40, tmp_path)
    assert (host.connections, sum(host.shares), len(host.shares)) == (40, 40, 2)
    assert [worker["outcome"] for worker in host.report["workers"]] == ["completed", "completed"]
    assert harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(tmp_path)) == []


def test_workers_end_when_a_client_cannot_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        class Elsewhere(workers._Held):
            def __init__(self, _address: str, connections: int) -> None:
                super().__init__(address, connections)

        monkeypatch.setattr(workers, "_Held", Elsewhere)
        with pytest.raises(LoadFailed):
            workers.measure(1, 3, tmp_path)
    assert harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(tmp_path)) == []


def test_a_configuration_server_tells_every_subscriber_of_a_release(tmp_path: Path) -> None:
    found = fanout.measure(3, 1000, tmp_path)
    assert (found.subscribers, found.release) == (3, 1000)
    assert found.telling > 1000
    assert found.joining > found.telling > found.digest > 0
    assert 0 < found.first <= found.last
    section = Section("growth", growth.TITLE)
    growth._add_fanout(section, found)
    assert section.tables[0].title.startswith("A configuration server with 3 subscribers of 1,000 bytes")
    assert harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(tmp_path / "control")) == []


def test_only_caches_that_grow_with_the_connections_are_counted() -> None:
    before = {"TCP": (100, 2000), "dentry": (5000, 192), "inode": (70, 700)}
    after = {"TCP": (300, 2000), "dentry": (5050, 192), "inode": (50, 700), "filp": (190, 256)}
    grown = kernel.growth(before, after, ends=200)
    assert grown == {"TCP": 2000.0, "filp": 190 * 256 / 200}


@pytest.mark.skipif(os.geteuid() != 0, reason="/proc/slabinfo can be read by root alone")
def test_a_cache_that_has_grown_with_the_sockets_is_theirs() -> None:
    # The kernel counts objects that were freed a moment ago as used: its own figures are for thousands of connections.
    before = {"TCP": (1000, 2400), "sock_inode_cache": (1000, 800), "dentry": (5000, 192)}
    after = {"TCP": (1500, 2400), "sock_inode_cache": (1450, 800), "dentry": (5400, 192), "new": (500, 64)}
    assert kernel.growth(before, after, ends=500) == {"TCP": 2400.0, "sock_inode_cache": 720.0, "new": 64.0}
    found = kernel.slabs()
    assert found is None or all(size > 0 for _, size in found.values())
