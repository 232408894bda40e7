"""What a frame, a connection and a moved connection cost does not grow unnoticed: counts, which are the same on every run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hotfd.framing import Lines
from tests.performance import counts, instructions, scenes, system_calls
from tests.performance.meters import METERS, Calls, Opcodes


@pytest.mark.parametrize("unit", counts.UNITS)
def test_nothing_costs_more_than_is_allowed(unit: str) -> None:
    if (reason := counts.missing(unit)) is not None:
        pytest.skip(reason)
    environment = counts.environment(unit)
    committed = counts.allowed().get(environment, {}).get(unit)
    if committed is None:
        pytest.skip(f"no figures are committed for {environment}: make counts ARGS=--write")
    complaints = counts.grown(unit, counts.count(unit), committed)
    assert not complaints, "\n".join(complaints)


# ---------------------------------------------------------------- that it can fail


def test_a_figure_that_has_grown_is_named_with_what_is_allowed() -> None:
    assert counts.grown("opcodes", {"a frame": 412.0, "another": 398.0}, {"a frame": 398.0, "another": 398.0}) == [
        "a frame: 412 opcodes, 398 allowed; if it is meant: make counts ARGS=--write"
    ]


def test_a_patch_release_may_differ_by_a_little() -> None:
    assert counts.grown("opcodes", {"a frame": 409.0}, {"a frame": 398.0}) == []


def test_a_figure_that_nobody_has_committed_is_no_success() -> None:
    (complaint,) = counts.grown("opcodes", {"a frame": 412.0}, {})
    assert "no figure is committed" in complaint


def test_a_figure_that_is_not_counted_any_more_is_no_success() -> None:
    (complaint,) = counts.grown("opcodes", {}, {"a frame": 412.0})
    assert "not counted any more" in complaint


def test_writing_keeps_what_was_counted_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "counts.json"
    monkeypatch.setattr(counts, "FILE", file)
    counts.write({"python 3.11": {"opcodes": {"a frame": 1.0, "gone": 2.0}, "system calls": {"a frame": 3.0}}})
    counts.write({"python 3.12": {"opcodes": {"a frame": 4.0}}, "python 3.11": {"opcodes": {"a frame": 5.0}}})
    assert json.loads(file.read_text()) == {
        "python 3.11": {"opcodes": {"a frame": 5.0}, "system calls": {"a frame": 3.0}},
        "python 3.12": {"opcodes": {"a frame": 4.0}},
    }


# ---------------------------------------------------------------- that what is counted is what happens


def elsewhere(times: int) -> None:
    """Do something in code that is not a test's: Python's own."""
    for _ in range(times):
        re.escape("x")


@pytest.mark.parametrize("kind", [Opcodes, Calls])
def test_a_meter_counts_what_others_do_inside_and_nothing_else(kind: type[Opcodes | Calls]) -> None:
    meter = kind()
    elsewhere(1)  # what it makes once is made
    with meter("one"):
        elsewhere(1)
    elsewhere(5)
    with meter("three"):
        elsewhere(3)
    with meter("nothing"):
        sorted(range(10))  # a test's own
    assert meter.found["one"] > 0
    assert meter.found["three"] == 3 * meter.found["one"]
    assert meter.found["nothing"] == 0


async def test_a_handler_that_does_more_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = Opcodes(), Opcodes()
    units = await scenes.echoed(before)
    encode = Lines.encode
    monkeypatch.setattr(Lines, "encode", lambda self, payload: re.escape("x") and encode(self, payload))
    await scenes.echoed(after)
    assert all(after.found[figure] > before.found[figure] for figure in units)


def test_system_calls_count_for_the_mark_before_them_and_once() -> None:
    trace = """\
7 read(3, "x", 1) = 1
7 access("/hotfd-count/a frame", F_OK) = -1 ENOENT (No such file or directory)
7 recvfrom(5, "x", 1) = 1
8 futex(0x1 <unfinished ...>
7 sendto(5, "x", 1) = 1
8 <... futex resumed>) = 0
7 access("/hotfd-count/", F_OK) = -1 ENOENT (No such file or directory)
7 recvfrom(6, "x", 1) = 1
7 faccessat(AT_FDCWD, "/hotfd-count/another", F_OK) = -1 ENOENT (No such file or directory)
7 sendto(5, "x", 1) = 1
"""
    assert system_calls.counted(trace.splitlines()) == {
        "a frame": {"recvfrom": 1, "futex": 1, "sendto": 1},
        "another": {"sendto": 1},
    }


def test_instructions_count_where_the_core_is_and_not_in_what_it_calls() -> None:
    part = """\
desc: Trigger: Client Request: a line
fl=/usr/lib/string.c
fn=memchr
10 1000
fl=/src/csrc/scan.c
fn=hotfd_scan
20 7
+1 3
cfn=memchr
calls=200 10
21 1000
fi=/usr/include/bits.h
3 500
fe=/src/csrc/scan.c
22 5
"""
    assert instructions.of_part(part.splitlines(), "/src/csrc") == ("a line", 15)


def test_every_unit_is_counted_somewhere() -> None:
    assert set(counts.UNITS) == {*METERS, instructions.UNIT}
    assert {unit for units in counts.allowed().values() for unit in units} == set(counts.UNITS)
