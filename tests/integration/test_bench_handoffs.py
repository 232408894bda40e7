"""The suites that have servers replaced: they measure what they say, and notice when something is lost."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from scripts.bench import pooler, replaced
from scripts.bench.building import program
from scripts.bench.load import LoadFailed
from scripts.bench.settings import Settings
from scripts.bench.suites import floor, pgbouncer, plain
from tests.integration import harness

if TYPE_CHECKING:
    from hotfd.bench.measure import Section

pytestmark = pytest.mark.timeout(120)


def quick(suite: ModuleType, directory: Path) -> Section:
    """Run a suite as ``--quick`` does, and look at what every suite has to return."""
    directory.chmod(0o700)
    section: Section = suite.run(Settings(rounds=1, quick=True, directory=directory, say=lambda text: None))
    assert section.text, "it says what was measured"
    for goal in section.goals:
        assert math.isfinite(goal.ratio.median), goal.text
        assert goal.ratio.median > 0, goal.text
        assert goal.limits, goal.text
    return section


def test_the_floor_the_transfer_and_a_whole_handoff_are_measured(tmp_path: Path) -> None:
    section = quick(floor, tmp_path)
    assert len(section.goals) == 2
    each = {case: found["each"]["values"][0] for case, found in section.data.items()}  # type: ignore[index]
    # Whatever the machine: nothing that carries the same descriptors, and does more, takes less by this much.
    assert each[floor.kernel(floor.LARGE)] < each[floor.transfer(floor.LARGE - 1)] * 10
    assert each[floor.kernel(floor.LARGE)] < each[floor.HANDOFF]


def test_every_plain_way_moves_its_connections(tmp_path: Path) -> None:
    section = quick(plain, tmp_path)
    assert len(section.goals) == len(plain.WAYS)
    assert len(section.tables[0].rows) == 1 + len(plain.WAYS)
    assert not list(tmp_path.glob("*.sock"))


def test_pgbouncer_is_restarted_beside_us(tmp_path: Path) -> None:
    if lacking := pooler.missing():
        pytest.skip(lacking)
    section = quick(pgbouncer, tmp_path)
    assert not section.skipped
    assert len(section.goals) == 2
    assert [row[1] for row in section.tables[0].rows] == [pgbouncer.OURS, pgbouncer.THEIRS] * len(
        pgbouncer.QUICK_CROWDS
    )


def test_what_is_not_installed_is_said_with_the_way_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooler, "find", lambda name: None if name == "pgbouncer" else f"/usr/bin/{name}")
    section = pgbouncer.run(Settings(rounds=1, quick=True, directory=tmp_path, say=lambda text: None))
    assert section.skipped == ["pgbouncer is not installed: apt-get install pgbouncer"]
    assert not section.goals


def test_sizes_that_the_descriptor_limit_does_not_allow_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaced, "room_for", lambda connections: False)
    for suite in (floor, plain):
        section = suite.run(Settings(rounds=1, quick=True, directory=tmp_path, say=lambda text: None))
        assert "ulimit" in section.skipped[0]
        assert not section.goals


def test_a_replacement_that_loses_connections_fails(tmp_path: Path) -> None:
    def kill() -> replaced.Replacement:
        os.kill(visitors.pid, signal.SIGKILL)
        return replaced.Replacement(1.0, 1.0, 1.0, 1.0)

    with (
        replaced.Visitors(tmp_path) as visitors,
        visitors.load(20, 4, 0.001) as load,
        pytest.raises(LoadFailed, match="20 connections lost"),
    ):
        replaced.watched(load, kill)


def test_a_handoff_that_is_refused_is_no_figure(tmp_path: Path) -> None:
    with replaced.Visitors(tmp_path) as visitors, visitors.load(20, 4, 0.001) as load:
        with pytest.raises(RuntimeError, match="a handoff of 21 connections"):
            replaced.watched(load, partial(visitors.replace, 21))
        harness.wait_gone(visitors.pid)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["0", "1", "0", "1"],
        ["5", "254", "0", "1"],
        ["5", "x", "0", "1"],
        ["5", "1", "513", "1"],
        ["5", "1", "0", "1", "cakes"],
    ],
)
def test_the_floor_says_what_it_cannot_be_asked(words: list[str]) -> None:
    done = subprocess.run([str(program("floor")), *words], capture_output=True, text=True, timeout=harness.PATIENCE)
    assert done.returncode == 2
    assert done.stderr.startswith(("usage: floor", "floor: "))
    assert not done.stdout


def test_the_floor_needs_descriptors() -> None:
    done = subprocess.run(
        [str(program("floor")), "200", "64", "0", "1"],
        capture_output=True,
        text=True,
        timeout=harness.PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
    )
    assert (done.returncode, done.stderr) == (1, "floor: RLIMIT_NOFILE: Too many open files\n")


@pytest.mark.parametrize("further", [[], ["cookies"]], ids=["trusting", "asking"])
@pytest.mark.parametrize("batch", [1, 7, 253])
def test_the_floor_passes_a_last_message_that_is_smaller(batch: int, further: list[str]) -> None:
    done = subprocess.run(
        [str(program("floor")), "300", str(batch), "200", "2", *further],
        capture_output=True,
        text=True,
        timeout=harness.PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
