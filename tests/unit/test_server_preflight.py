"""What a process knows of itself before a handoff."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from hotfd.server import preflight
from hotfd.server.preflight import open_descriptors


@pytest.mark.parametrize("kernel", ["this", "old"])
def test_open_descriptors_are_counted_whether_the_kernel_does_it_or_not(
    monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel == "old":  # before Linux 6.2 the directory has no size
        monkeypatch.setattr(preflight.os, "stat", lambda path: os.stat_result([0] * 10))
    before = open_descriptors()
    with ExitStack() as stack:
        for _ in range(7):
            stack.callback(os.close, os.dup(0))
        assert open_descriptors() == before + 7
    assert open_descriptors() == before
    assert before == len(os.listdir("/proc/self/fd")) - 1
