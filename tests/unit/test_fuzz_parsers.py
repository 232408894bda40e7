"""Hostile input, for some seconds: the same seeded inputs in each run. ``make fuzz`` goes on from here for long."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.run import MEASURED, TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz.engine import Target

INPUTS = 800
"""Of each target. Together they take some seconds of a slow processor."""

BYTES = 4 << 20
"""Of all inputs of a target: where inputs are large, fewer are enough."""


def bounded(target: Target) -> Iterator[bytes]:
    left = BYTES
    for data in itertools.islice(target.inputs(0), INPUTS):
        yield data
        left -= len(data)
        if left < 0:
            return


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input_gets_a_documented_error_within_bounds(name: str) -> None:
    target = TARGETS[name]
    for number, data in enumerate(bounded(target)):
        target.check(data, memory=number % MEASURED == MEASURED - 1)


@pytest.mark.parametrize("name", TARGETS)
def test_valid_input_is_taken(name: str) -> None:
    target = TARGETS[name]
    assert [data for data in target.seeds() if not target.check(data)] == []
