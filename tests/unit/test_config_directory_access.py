"""Reading the files of a directory store: all of them, and with no more memory than they take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hotfd.config.directory_access import open_directory, read_file
from hotfd.errors import StoreError

LIMIT = 1 << 20


@pytest.fixture
def directory(tmp_path: Path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 4096, LIMIT])
def test_a_file_is_read_to_its_end(tmp_path: Path, directory: int, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    assert read_file(directory, "file", LIMIT) == b"x" * size


def test_a_small_file_takes_little_memory_however_large_it_may_be(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A configuration server keeps what it reads: what it was read into must not be a megabyte, of which a page is kept.
    asked: list[int] = []
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: (asked.append(size), read(descriptor, size))[1])
    (tmp_path / "file").write_bytes(b"x" * 100)
    read_file(directory, "file", LIMIT)
    assert max(asked) == 101


def test_a_file_that_grows_while_it_is_read_is_read_to_its_end_and_not_beyond_its_limit(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "file", os.read
    path.write_bytes(b"x")

    def growing(descriptor: int, size: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x" * (10 - min(10, path.stat().st_size)))
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", growing)
    assert read_file(directory, "file", 10) == b"x" * 10
    with pytest.raises(StoreError, match="more than 9 bytes"):
        read_file(directory, "file", 9)


def test_what_is_no_regular_file_is_refused_and_nothing_stays_open(tmp_path: Path, directory: int) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "inner").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for name in ("fifo", "inner"):
        with pytest.raises(StoreError, match="no regular file"):
            read_file(directory, name, LIMIT)
    inner = open_directory(directory, "inner")
    os.close(inner)
    assert len(os.listdir("/proc/self/fd")) == before
