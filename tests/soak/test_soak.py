"""Servers that are replaced hundreds of times are in the end what they were in the beginning; so is who stands beside them.

``make soak`` runs the long one and prints its table; a run of a few rounds, with the same code, comes first.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.growth import growth, table
from tests.soak.scene import scene

SHORT, LONG = 4, 252
"""Rounds, of two handoffs each."""

SAMPLES = 21
"""How often all processes are measured in a run: every 24 handoffs in the long one."""

GROWTH_LIMIT = {"arena": 2.0, "counter": 2.0, "supervisor": 1.0, "configuration server": 3.0}
"""MiB that a process may be larger in the end, by the line through all samples: eight kilobytes for each handoff of a
server's line, and not what one connection or one release takes. Noise is about a quarter of it."""


@pytest.mark.timeout(5400)
@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(SHORT, marks=pytest.mark.long),
        pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.alone]),
    ],
)
async def test_hundreds_of_handoffs_under_load_leave_every_process_as_it_was(
    tmp_path: Path, rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    every = max(2, rounds // SAMPLES // 2 * 2)  # an even number: the arena is at its first version then
    async with scene(tmp_path) as stage:
        for number in range(1, rounds + 1):
            await stage.round()
            if number % every == 0:
                await stage.sample()
                if rounds == LONG:
                    with capsys.disabled():
                        print(
                            number, {kind: f"{samples[-1].resident:.1f} MiB" for kind, samples in stage.samples.items()}
                        )
    grown = {kind: growth(samples) for kind, samples in stage.samples.items()}
    if rounds == LONG:
        with capsys.disabled():
            print(f"\n{table(stage.samples, grown)}")
            print(
                f"{stage.handoffs} handoffs, {stage.refused} refused, {stage.releases} releases, "
                f"{stage.score.replies} replies, {stage.tally.moves} moves"
            )
    assert stage.handoffs == 2 * rounds
    for kind, samples in stage.samples.items():
        assert {sample.held for sample in samples} == {samples[0].held}, kind
        assert grown[kind] < GROWTH_LIMIT[kind], f"{kind} grew by {grown[kind]:.2f} MiB: {samples}"
