"""Fixtures of the integration tests: a private runtime directory, and a watch on what is left over."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration import footprint, harness
from tests.unit.wire_support import loops

ENDING = 5.0
"""Seconds that a thread or a task which was told to end may take for it: a fuse, nothing waits for so long."""


@pytest.fixture(autouse=True, scope="session")
def what_stays_open() -> None:
    """Have the first loop of uvloop made before a test counts descriptors: it opens some that the process keeps."""
    loops()


@pytest.fixture(autouse=True)
def temporary_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test its own place for temporary files; other users may enter it, since some tests start theirs there."""
    monkeypatch.setattr(tempfile, "tempdir", None)  # TMPDIR is read again, also after this
    place = Path(tempfile.mkdtemp(prefix="hotfd-tests-"))
    place.chmod(0o711)
    monkeypatch.setenv("TMPDIR", str(place))
    tempfile.tempdir = str(place)
    yield place
    shutil.rmtree(place)


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, temporary_files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test its own runtime directory, and see that nothing is left in it or of it.

    Looked for are: processes, children that nobody has waited for, socket files and all others of the runtime
    directory, temporary files, descriptors, mappings, shared memory, threads, and tasks of the test's loop.
    """
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("HOTFD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    before, threads, family = held(), set(threading.enumerate()), footprint.children()
    yield directory
    left = harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(directory))
    left = [pid for pid in left if not harness.gone_within(pid, harness.STOP_LIMIT)]  # a wrapper ends after its child
    for pid in left:
        harness.kill(pid)
    assert not left, f"processes left over: {left}"
    files = [str(path) for place in (directory, temporary_files) for path in sorted(place.rglob("*"))]
    assert not files, f"files left over: {files}"
    assert not (running := surviving(threads)), f"threads left over: {running}"
    unwaited = footprint.children() - family
    assert not unwaited, f"children left over, {footprint.zombies()} of them zombies: {sorted(unwaited)}"
    after = held()
    assert after == before, f"the test itself leaks: {before} before, {after} after"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have :func:`ended_tasks` watch the tests that have a loop: last of all fixtures, so that it looks first."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.fixturenames.append("ended_tasks")


@pytest_asyncio.fixture
async def ended_tasks() -> AsyncIterator[None]:
    """See that a test leaves no task of its loop behind; those that it has cancelled may come to their end first."""
    before = asyncio.all_tasks()
    yield
    own = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before if task is not own}
    cancelled = {task for task in left if task.cancelling()}
    if cancelled:
        await asyncio.wait(cancelled, timeout=ENDING)
    left = {task for task in left if not task.done()}
    assert not left, f"tasks left over: {sorted(str(task.get_coro()) for task in left)}"


def held() -> dict[str, object]:
    """Return what this process holds, less its threads."""
    return {
        "descriptors": harness.descriptors(),
        "mappings": footprint.mapped(),
        "shared memory": footprint.segments(),
    }


def surviving(before: set[threading.Thread]) -> list[str]:
    """Return the names of the threads that have come since, and do not end."""
    deadline = time.monotonic() + ENDING
    new = set(threading.enumerate()) - before
    for thread in new:
        thread.join(max(0.0, deadline - time.monotonic()))
    return sorted(thread.name for thread in new if thread.is_alive())
