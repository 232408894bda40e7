"""The store in a directory does what every store does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hotfd.config.directory import DirectoryStore
from tests.unit.config_stores import *  # noqa: F403 - the tests themselves
from tests.unit.config_stores import MEMORY
from tests.unit.wire_support import open_descriptors, wait_for_given_up_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    wait_for_given_up_threads()
    # The event loop's own descriptors come and go with the fixtures.
    assert [each for each in open_descriptors() if "inotify" in each or "hotfd-store" in each] == []


@pytest.fixture
async def open_store() -> AsyncIterator[Callable[[], DirectoryStore]]:
    opened: list[DirectoryStore] = []
    with tempfile.TemporaryDirectory(prefix="hotfd-store-", dir=MEMORY) as place:

        def another() -> DirectoryStore:
            opened.append(DirectoryStore(str(Path(place, "store")), create=True, lock_wait=60))
            return opened[-1]

        yield another
        for each in opened:
            await each.aclose()
