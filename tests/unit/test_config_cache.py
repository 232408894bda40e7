"""What a server keeps on disk of its configuration: read again whole, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from hotfd.config import cache as cache_module
from hotfd.config.cache import MAX_FILE, STALE, Cache, Kept, default_path
from hotfd.config.release import Head, Track
from hotfd.errors import ConfigError
from tests.unit.config_support import FUSE, sealed


def kept(version: int = 3, module: str = "arena", head_version: int | None = None) -> Kept:
    one = sealed(module, version, size=version)
    track = Track(version, one.sha256) if head_version is None else Track(head_version, "0" * 64)
    return Kept(Head(module, 10 + version, version, "published", "anna", 5.0, track), one)


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "config"


@pytest.fixture
def cache(directory: Path) -> Cache:
    return Cache("play", "dir:/srv", str(directory))


def test_what_was_kept_is_read_again(cache: Cache) -> None:
    assert cache.load("arena") is None
    cache.save(kept())
    assert cache.load("arena") == kept()
    cache.save(kept(4))
    assert cache.load("arena") == kept(4)


def test_the_head_may_be_newer_than_the_release(cache: Cache) -> None:
    cache.save(kept(3, head_version=4))
    found = cache.load("arena")
    assert found is not None
    assert (found.head.stable, found.sealed.release.version) == (Track(4, "0" * 64), 3)


def test_a_process_that_lags_behind_takes_nothing_back(cache: Cache, directory: Path) -> None:
    cache.save(kept(5))
    cache.save(kept(4))
    assert cache.load("arena") == kept(5)
    cache.save(kept(3, head_version=3))
    assert cache.load("arena") == kept(5)
    refused = Kept(kept(5).head, kept(4).sealed)  # the newest one has failed when it was first used
    cache.save(refused)
    assert cache.load("arena") == refused


def test_of_processes_that_write_at_once_the_newest_counts(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "LOCK_LIMIT", FUSE)
    threads = [threading.Thread(target=cache.save, args=(kept(version),)) for version in range(1, 21)]
    random.Random(1).shuffle(threads)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.load("arena") == kept(20)


def test_what_is_the_same_is_not_written_again(cache: Cache, directory: Path) -> None:
    cache.save(kept())
    before = os.stat(cache.file("arena"))
    cache.save(kept())
    assert os.stat(cache.file("arena")).st_ino == before.st_ino


@pytest.mark.parametrize("how", ["held", "no locks here"])
def test_a_lock_that_cannot_be_had_keeps_nothing_from_being_kept(
    cache: Cache, directory: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(cache_module, "LOCK_LIMIT", 0.05)
    cache.save(kept())
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if how != "held":
            error = OSError(errno.EBADF, "Bad file descriptor")
            monkeypatch.setattr(cache_module.fcntl, "flock", Mock(side_effect=error))
        cache.save(kept(4))
    finally:
        os.close(descriptor)
    assert cache.load("arena") == kept(4)


def test_services_sources_and_modules_have_files_of_their_own(cache: Cache, directory: Path) -> None:
    cache.save(kept())
    for other in (Cache("other", "dir:/srv", str(directory)), Cache("play", "dir:/other", str(directory))):
        assert other.load("arena") is None
        other.save(kept(5))
    cache.save(kept(7, "shop"))
    assert cache.load("arena") == kept()
    assert len(list(directory.iterdir())) == 4


def test_only_this_user_may_use_what_is_kept(cache: Cache, directory: Path) -> None:
    cache.save(kept())
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]


@pytest.mark.parametrize("service", ["../../etc", "a/b", ".hidden", "ä" * 300, "\udc80", "", "x\ny"])
def test_whatever_a_service_is_called_its_file_is_in_the_directory(directory: Path, service: str) -> None:
    cache = Cache(service, "dir:/srv", str(directory))
    if service == "\udc80":
        with pytest.raises(ConfigError, match="UTF-8"):
            cache.save(kept())
        return
    cache.save(kept())
    assert cache.load("arena") == kept()
    assert [str(path) for path in directory.iterdir()] == [cache.file("arena")]
    assert not Path(cache.file("arena")).name.startswith(".")


def test_no_change_of_a_byte_goes_unnoticed(cache: Cache) -> None:
    cache.save(kept())
    path = Path(cache.file("arena"))
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ConfigError, match="is damaged"):
            cache.load("arena")
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="is damaged"):
            cache.load("arena")


def test_a_file_that_was_another_ones_is_not_taken(cache: Cache, directory: Path) -> None:
    other = Cache("other", "dir:/srv", str(directory))
    other.save(kept())
    cache.save(kept(7, "shop"))
    Path(other.file("arena")).rename(cache.file("arena"))
    with pytest.raises(ConfigError, match="another service's"):
        cache.load("arena")
    Path(cache.file("shop")).rename(cache.file("arena"))
    with pytest.raises(ConfigError, match="another module's"):
        cache.load("arena")


def test_a_file_that_others_may_use_is_not_taken(cache: Cache) -> None:
    cache.save(kept())
    os.chmod(cache.file("arena"), 0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        cache.load("arena")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_taken(cache: Cache, directory: Path) -> None:
    cache.save(kept())
    os.chown(cache.file("arena"), 12345, -1)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        cache.load("arena")
    os.chown(directory, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        cache.save(kept())


def test_a_directory_that_others_may_enter_is_not_used(cache: Cache, directory: Path) -> None:
    cache.save(kept())
    os.chmod(directory, 0o755)
    with pytest.raises(ConfigError, match="mode 0755"):
        cache.load("arena")
    with pytest.raises(ConfigError, match="mode 0755"):
        cache.save(kept())


def test_a_directory_that_is_a_link_is_not_used(cache: Cache, directory: Path, tmp_path: Path) -> None:
    cache.save(kept())
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="Not a directory"):
        cache.load("arena")


@pytest.mark.parametrize("kind", ["pipe", "link", "directory", "large"])
def test_what_is_no_file_of_the_cache_is_not_read(cache: Cache, tmp_path: Path, kind: str) -> None:
    cache.save(kept())
    path = Path(cache.file("arena"))
    other = path.rename(tmp_path / "other")
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "link":
        path.symlink_to(other)
    elif kind == "directory":
        path.mkdir(0o700)
    else:
        path.write_bytes(b"x" * (MAX_FILE + 1))
        path.chmod(0o600)
    with pytest.raises((ConfigError, OSError)):
        cache.load("arena")


def test_a_relative_directory_is_not_used() -> None:
    with pytest.raises(ConfigError, match="relative path"):
        Cache("play", "dir:/srv", "some/where").save(kept())


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_what_was_kept_before(
    cache: Cache, directory: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    cache.save(kept())

    def fail(*args: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "write":
        monkeypatch.setattr(
            cache_module,
            "open",
            lambda one, mode, **how: _Full() if "w" in mode else open(one, mode, **how),  # noqa: SIM115
            raising=False,
        )
    else:
        monkeypatch.setattr(cache_module.os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        cache.save(kept(4))
    monkeypatch.undo()
    assert cache.load("arena") == kept()
    assert len(list(directory.iterdir())) == 1


class _Full:
    """An open file of a full disk."""

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *of: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_half_written_files_of_the_dead_are_removed_and_those_of_the_living_are_not(
    cache: Cache, directory: Path
) -> None:
    cache.save(kept())
    name = Path(cache.file("arena")).name
    old, new = directory / f".{name}.old", directory / f".{name}.new"
    for path in (old, new):
        path.write_bytes(b"half")
    past = time.time() - 2 * STALE
    os.utime(old, (past, past))
    cache.save(kept(4))
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"HOTFD_CACHE_DIR": "/a", "XDG_STATE_HOME": "/b"}, "/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/hotfd/config"),
        ({"HOME": "/home/x"}, {True: "/var/lib/hotfd/config", False: "/home/x/.local/state/hotfd/config"}),
    ],
)
def test_the_directory_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], path: str | dict[bool, str]
) -> None:
    for name in ("HOTFD_CACHE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for root in (True, False):
        monkeypatch.setattr(os, "geteuid", lambda root=root: 0 if root else 1000)
        assert default_path() == (path if isinstance(path, str) else path[root])
