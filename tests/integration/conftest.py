"""Fixtures of the integration tests: a private runtime directory, and a watch on what is left over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import harness


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test its own runtime directory, and see that nothing is left in it or of it."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("HOTFD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOTFD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    before = harness.descriptors()
    yield directory
    left = harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(directory))
    left = [pid for pid in left if not harness.gone_within(pid, harness.STOP_LIMIT)]  # a wrapper ends after its child
    for pid in left:
        harness.kill(pid)
    assert not left, f"processes left over: {left}"
    sockets = [path.name for path in directory.iterdir()]
    assert not sockets, f"socket files left over: {sockets}"
    after = harness.descriptors()
    assert after == before, f"the test itself leaks descriptors: {before} before, {after} after"
