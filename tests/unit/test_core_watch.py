"""Changes in a directory, through the C core's binding. The C itself has tests/csrc/test_watch.c."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from hotfd import _core
from tests.unit.wire_support import open_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    before = open_descriptors()
    descriptor = os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)
    assert open_descriptors() == before


def put(path: Path) -> None:
    path.with_suffix(".new").write_bytes(b"1")
    path.with_suffix(".new").rename(path)


def test_a_file_that_is_replaced_is_news_by_its_name(directory: int, tmp_path: Path) -> None:
    watch = _core.watch_directory(directory)
    try:
        assert not os.get_inheritable(watch)
        assert _core.watch_news(watch, "heads.json") == (False, False)
        put(tmp_path / "other.json")
        assert _core.watch_news(watch, "heads.json") == (False, False)
        put(tmp_path / "heads.json")
        assert _core.watch_news(watch, "heads.json") == (True, False)
        assert _core.watch_news(watch, "heads.json") == (False, False)
    finally:
        os.close(watch)


def test_a_directory_that_is_moved_is_over(directory: int, tmp_path: Path) -> None:
    watch = _core.watch_directory(directory)
    try:
        tmp_path.rename(tmp_path.with_name("elsewhere"))
        assert _core.watch_news(watch, "heads.json") == (False, True)
    finally:
        os.close(watch)
        tmp_path.with_name("elsewhere").rename(tmp_path)


def test_what_cannot_be_watched_is_an_error_and_leaks_nothing(tmp_path: Path) -> None:
    before = open_descriptors()
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC)
    with pytest.raises(NotADirectoryError):
        _core.watch_directory(file)
    os.close(file)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        _core.watch_news(file, "heads.json")
    assert open_descriptors() == before
