"""A process is killed at every step of a handoff, and fails in other ways at some; nobody hears a wrong byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotfd.faults import Point
from tests.proof.faults_catalogue import SCENARIOS, Case, cases, roles, why_not
from tests.proof.faults_stage import Stage

IDLE = 66
"""Idle clients: with the busy ones more than one offer takes, and as few as that leaves."""

KILLED = sorted(cases(("SIGKILL",)), key=lambda case: SCENARIOS[case.scenario].mode)
GROUPS = 10
"""Tests into which the points are divided: each has a server of its own, so that they can run beside each other."""

OTHERS = [
    Case(Point.OLD_EXPORTED, "EMFILE", "old"),
    Case(Point.NEW_PART, "EMFILE", "new"),
    Case(Point.OLD_MEMFD, "ENOMEM", "old"),
    Case(Point.OLD_COMMIT, "EAGAIN", "old"),
    Case(Point.OLD_LISTENERS, "half", "old"),
    Case(Point.NEW_COMMIT, "exception", "new"),
    Case(Point.NEW_LISTENERS, "exception", "new"),
    Case(Point.OLD_ACCEPTED, "exception", "old"),
    Case(Point.OLD_RESTORE, "exception", "old"),
    Case(Point.OLD_ESCROWED, "SIGSTOP", "old"),
    Case(Point.NEW_COMMIT, "SIGSTOP", "new"),
    Case(Point.OLD_COMMITTED, "peer-SIGKILL", "old"),
]
"""What has gone wrong once, and one of each kind."""


async def run(tmp_path: Path, chosen: list[Case]) -> None:
    wrong = []
    async with Stage(tmp_path, IDLE) as stage:
        for case in chosen:
            result = await stage.run(case)
            wrong += [f"{case}: {complaint}" for complaint in result.wrong]
            if result.wrong:
                print(stage.log[-8000:])
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("group", [0, *(pytest.param(group, marks=pytest.mark.long) for group in range(1, GROUPS))])
async def test_a_process_is_killed_at_each_step_and_nobody_hears_a_wrong_byte(tmp_path: Path, group: int) -> None:
    size = -(-len(KILLED) // GROUPS)
    await run(tmp_path, KILLED[group * size : (group + 1) * size])


@pytest.mark.parametrize("case", OTHERS, ids=str)
async def test_a_process_fails_in_another_way_and_nobody_hears_a_wrong_byte(tmp_path: Path, case: Case) -> None:
    await run(tmp_path, [case])


def test_each_point_is_killed_at_in_each_process_that_passes_it() -> None:
    assert {(case.point, case.role) for case in KILLED} == {(point, role) for point in Point for role in roles(point)}
    assert not any(why_not(case.point, case.fault) for case in OTHERS)
