"""The store in a directory does what every store does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hotfd.config.directory import DirectoryStore
from tests.unit.config_stores import *  # noqa: F403 - the tests themselves
from tests.unit.wire_support import open_descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = {descriptor for descriptor in open_descriptors() if "anon_inode:inotify" in descriptor or "/" in descriptor}
    yield
    left = {d for d in open_descriptors() if "inotify" in d or "/store" in d} - before
    assert left == set()


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[Callable[[], DirectoryStore]]:
    opened: list[DirectoryStore] = []

    def another() -> DirectoryStore:
        opened.append(DirectoryStore(str(tmp_path / "store"), create=True, lock_wait=60))
        return opened[-1]

    yield another
    for each in opened:
        await each.aclose()
