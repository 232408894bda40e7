"""The store in a directory when something goes wrong in the middle: power cuts, full disks, many publishers at once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.config.directory import DirectoryStore
from hotfd.errors import StoreError
from tests.unit.config_stores import MEMORY, publishing
from tests.unit.wire_support import open_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
FUSE = 110
"""Seconds for a program of :mod:`tests.unit.config_power_cuts`."""


@pytest.fixture
def in_memory() -> Iterator[str]:
    """A directory, in memory where the machine has that."""
    with tempfile.TemporaryDirectory(prefix="hotfd-", dir=MEMORY) as path:
        yield path


def run(program: str, place: str) -> str:
    command = [sys.executable, "-m", "tests.unit.config_power_cuts", program, place]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=FUSE, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(("program", "steps"), [("cuts", 50), ("cuts-held", 40), ("cuts-after", 50)])
def test_a_power_cut_at_any_step_of_a_commit_leaves_all_of_it_or_nothing(
    in_memory: str, program: str, steps: int
) -> None:
    words = run(program, in_memory).split()
    assert words[0] == "cuts"
    assert int(words[1]) > steps, "so few steps are no commit of three modules"


def test_eight_processes_that_publish_to_three_modules_lose_nothing(in_memory: str) -> None:
    assert run("publishers", in_memory).startswith("published ")


# -- the order in which things reach the disk --------------------------------------------------------


def test_everything_is_on_the_disk_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut also loses what was written and not synchronised; so the order of the calls is what counts."""
    DirectoryStore(str(tmp_path / "store"), create=True).read_heads()
    store = DirectoryStore(str(tmp_path / "store"))
    calls: list[tuple[str, str]] = []

    def recorded(name: str, path_of: Any) -> None:
        function = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls.append((name, path_of(*arguments, **named)))
            return function(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    def of_descriptor(descriptor: int, *_: Any) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), store._path)

    recorded("fsync", of_descriptor)
    recorded("mkdir", lambda name, *_, dir_fd: os.path.normpath(f"{of_descriptor(dir_fd)}/{name}"))
    recorded(
        "rename", lambda _, name, *, src_dir_fd, dst_dir_fd: os.path.normpath(f"{of_descriptor(dst_dir_fd)}/{name}")
    )
    store.write([publishing(None, "game")])
    assert calls == [
        ("mkdir", "releases"),
        ("fsync", "."),
        ("mkdir", "releases/game"),
        ("fsync", "releases"),
        ("fsync", "releases/game/.0000000001.json.new"),
        ("rename", "releases/game/0000000001.json"),
        ("fsync", "releases/game"),
        ("fsync", ".heads.json.new"),
        ("rename", "heads.json"),
        ("fsync", "."),
    ]


# -- errors of the system ------------------------------------------------------------------------------

FALLIBLE = ("open", "mkdir", "fchmod", "write", "fsync", "rename")


def failing_at(monkeypatch: pytest.MonkeyPatch, at: int, code: int) -> list[str]:
    """Let the n-th call of the system fail; return the names of the calls that were made."""
    calls: list[str] = []

    def fallible(name: str) -> None:
        function = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == at:
                raise OSError(code, os.strerror(code))
            return function(*arguments, **named)

        monkeypatch.setattr(os, name, call)

    for name in FALLIBLE:
        fallible(name)
    return calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS])
def test_an_error_at_any_step_of_a_commit_changes_nothing_and_leaks_nothing(in_memory: str, code: int) -> None:
    whole = f"{in_memory}/whole"
    store = DirectoryStore(whole, create=True)
    store.write([publishing(None, "game")])
    old = store.read_heads()
    steps = [publishing(old["game"], "game", who="cut"), publishing(None, "chat", who="cut")]
    new = {step.head.module: step.head for step in steps}
    before, at, calls, failed = open_descriptors(), 0, [""], True
    while failed:
        at += 1
        place = f"{in_memory}/at-{at}"
        shutil.copytree(whole, place)
        store = DirectoryStore(place)
        failed = False
        with pytest.MonkeyPatch.context() as patch:
            calls = failing_at(patch, at, code)
            try:
                store.write(steps)
            except StoreError as error:
                failed = True
                assert place in str(error)
                assert ";" in str(error), "it says what happened and not what to do"
        heads = store.read_heads()
        renamed = calls.count("rename") > len(steps) and calls[-1] != "rename"
        assert heads == (new if renamed else old)
        assert open_descriptors() == before
        again = [publishing(heads.get(module), module, who="again") for module in ("game", "chat")]
        store.write(again)
        assert store._history("game", 9, None)[0] == again[0].event
        shutil.rmtree(place)
    assert at > 20, "the last try went through, and there were too few before it"


def test_a_file_system_that_is_full_changes_nothing_until_there_is_room(in_memory: str) -> None:
    """A real one, of some pages: SQLite's own writes meet it too."""
    place = f"{in_memory}/small"
    program = (
        f'mkdir {place} && mount -t tmpfs -o size=256k,mode=700 hotfd {place} && exec {sys.executable} -c "$0" {place}'
    )
    command = ["unshare", "--mount", "sh", "-c", program, FULL_DISK]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=FUSE, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    if "ermission" in result.stderr or "not permitted" in result.stderr:
        pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 5


FULL_DISK = """
import os, sys
from hotfd.config.directory import DirectoryStore
from hotfd.errors import StoreError
from tests.unit.config_stores import MEMORY, publishing

store = DirectoryStore(sys.argv[1], create=True)
store.read_heads()
failures, fill = 0, os.path.join(sys.argv[1], "lost+found")
for room in range(0, 112 * 1024, 4096):
    heads = store.read_heads()
    free = os.statvfs(sys.argv[1]).f_bavail * 4096
    with open(fill, "wb") as file:
        file.write(bytes(max(0, free - room)))
    step = publishing(heads.get("game"), "game", text="x" * 20_000)
    try:
        store.write([step])
    except StoreError as error:
        failures += 1
        assert "make room" in str(error), error
        assert store.read_heads() == heads
        assert len(store._history("game", 9, None)) == (heads["game"].sequence if heads else 0)
        os.unlink(fill)
    else:
        break
os.path.exists(fill) and os.unlink(fill)
assert store.read_heads()["game"] == step.head
print(failures)
"""
