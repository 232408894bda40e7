"""How the other process is started, and how its death is known."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from hotfd.errors import HandoffRefused
from hotfd.transfer import process
from hotfd.transfer.process import CHANNEL_VARIABLE, Origin, ProcessWatch, inherited_channel, spawn
from tests.unit.wire_support import Happening, is_open, nothing_stays_open, on_each_loop, turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")

ROOT = str(Path(__file__).parents[2])

TELL = """
import orjson, os, sys
from hotfd.transfer.process import ORIGIN
os.environ.clear()
sys.stdout.buffer.write(orjson.dumps([ORIGIN.command, ORIGIN.cwd, dict(ORIGIN.environment), repr(ORIGIN)]))
"""


def origin_of(environment: Mapping[str, str], cwd: str, *arguments: str) -> tuple[list[str], str, dict[str, str], str]:
    """Start a process, and return what it says of its own start."""
    command = [sys.executable, "-P", "-c", TELL, *arguments]
    done = subprocess.run(command, env={"PYTHONPATH": ROOT, **environment}, cwd=cwd, check=True, stdout=subprocess.PIPE)
    command, directory, variables, text = orjson.loads(done.stdout)
    return command, directory, variables, text


# ---------------------------------------------------------------- what a process was started with


def test_the_command_is_the_interpreter_with_all_its_options_and_arguments(tmp_path: Path) -> None:
    command, *_ = origin_of({}, str(tmp_path), "--port", "7000", "")
    assert command == [sys.executable, "-P", "-c", TELL, "--port", "7000", ""]


def test_the_directory_is_the_name_that_it_was_started_under(tmp_path: Path) -> None:
    release, current = tmp_path / "1", tmp_path / "current"
    release.mkdir()
    current.symlink_to(release)
    assert origin_of({"PWD": str(current)}, str(current))[1] == str(current)


@pytest.mark.parametrize("pwd", ["/", "/nonexistent", "current", ""])
def test_a_name_of_another_directory_is_not_believed(tmp_path: Path, pwd: str) -> None:
    release = tmp_path / "1"
    release.mkdir()
    (release / "current").symlink_to(release)
    assert origin_of({"PWD": pwd}, str(release))[1] == str(release)
    assert origin_of({}, str(release))[1] == str(release)


def test_a_symlink_that_was_moved_leads_the_next_process_to_its_new_target(tmp_path: Path) -> None:
    first, second, current = tmp_path / "1", tmp_path / "2", tmp_path / "current"
    first.mkdir()
    second.mkdir()
    current.symlink_to(first)
    cwd = origin_of({"PWD": str(current)}, str(current))[1]
    current.unlink()
    current.symlink_to(second)
    with pipe_to_child() as (reader, writer):
        child = spawn(["/bin/sh", "-c", f"pwd -P >/proc/self/fd/{writer}"], cwd, {}, writer)
        assert child.wait() == 0
        assert os.read(reader, 4096).decode().strip() == str(second)


def test_a_process_can_be_started_in_a_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {sys.executable} -P -c '{TELL}'"
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=gone, env={"PYTHONPATH": ROOT}, check=True, stdout=subprocess.PIPE
    )
    assert orjson.loads(done.stdout)[1] in {"/", str(gone)}


def test_the_environment_is_that_of_the_start_less_what_was_meant_for_one_process(tmp_path: Path) -> None:
    given = {
        "SECRET": "s3cr3t=with=signs",
        "EMPTY": "",
        "LISTEN_FDS": "2",
        "LISTEN_PID": "7",
        "LISTEN_FDNAMES": "a:b",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "7",
        CHANNEL_VARIABLE: "9",
    }
    _, _, environment, _ = origin_of(given, str(tmp_path))
    assert environment["SECRET"] == "s3cr3t=with=signs"
    assert environment["EMPTY"] == ""
    assert environment["PYTHONPATH"] == ROOT
    assert not [name for name in environment if name.startswith(("LISTEN_", "WATCHDOG_", "HOTFD_CHANNEL"))]


def test_a_new_process_is_told_its_directory_by_the_name_that_it_is_started_under(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "release")
    with pipe_to_child() as (reader, writer):
        child = spawn(
            ["/bin/sh", "-c", f'printf %s "$PWD" >/proc/self/fd/{writer}'], str(current), {"PWD": "/"}, writer
        )
        assert child.wait() == 0
        assert os.read(reader, 1000) == os.fsencode(current)


def test_bytes_that_are_no_text_survive_in_the_environment() -> None:
    with pipe_to_child() as (reader, writer):
        environment = {"NAME": os.fsdecode(b"caf\xe9")}
        child = spawn(["/bin/sh", "-c", f'printf %s "$NAME" >/proc/self/fd/{writer}'], "/", environment, writer)
        assert child.wait() == 0
        assert os.read(reader, 100) == b"caf\xe9"


def test_the_text_of_an_origin_shows_no_value_of_the_environment(tmp_path: Path) -> None:
    _, _, environment, text = origin_of({"SECRET": "s3cr3t"}, str(tmp_path))
    assert "s3cr3t" not in text
    assert "SECRET" not in text
    assert f"<{len(environment)} variables>" in text
    assert "s3cr3t" not in repr(Origin(("a",), "/", {"SECRET": "s3cr3t"}))


# ---------------------------------------------------------------- starting the new one


@contextmanager
def pipe_to_child() -> Iterator[tuple[int, int]]:
    """A pipe in the place of the channel: the writer is what the child inherits."""
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def test_the_child_inherits_the_channel_under_its_number_and_learns_it() -> None:
    with pipe_to_child() as (reader, writer):
        script = f"echo ${CHANNEL_VARIABLE} >/proc/self/fd/${CHANNEL_VARIABLE}; ls -l /proc/self/fd >/proc/self/fd/${CHANNEL_VARIABLE}"
        environment = {"PATH": os.environ["PATH"], CHANNEL_VARIABLE: "77"}
        child = spawn(["/bin/sh", "-c", script], "/", environment, writer)
        assert child.wait() == 0
        number, _, listing = os.read(reader, 1 << 16).decode().partition("\n")
        assert number == str(writer)
        assert f" {writer} -> pipe:" in listing
        assert f" {reader} -> " not in listing
        assert not os.get_inheritable(writer)


def failing(tmp_path: Path, case: str) -> tuple[list[str], str]:
    """A command and a directory that cannot be used."""
    plain = tmp_path / "plain"
    plain.write_text("no program")
    match case:
        case "program-missing":
            return [str(tmp_path / "nothing")], "/"
        case "directory-missing":
            return ["/bin/true"], str(tmp_path / "nowhere")
        case "directory-is-a-file":
            return ["/bin/true"], str(plain)
        case "no-permission":
            return [str(plain)], "/"
        case "no-program":
            plain.chmod(0o755)
            plain.write_bytes(b"\x7fELF nonsense")
            return [str(plain)], "/"
        case "interpreter-missing":
            plain.write_text("#!/no/such/interpreter\n")
            plain.chmod(0o755)
            return [str(plain)], "/"
    return ["/bin/true\0"], "/"


def test_a_child_that_goes_on_without_its_parent_is_no_reason_for_a_warning() -> None:
    channel = os.open("/dev/null", os.O_RDONLY)
    child = spawn(["/bin/sleep", "60"], "/", {}, channel)
    os.close(channel)
    pid = child.pid
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del child
        gc.collect()
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL), "and it is left to who watches it"
    assert not told


@pytest.mark.parametrize(
    ("case", "code", "named"),
    [
        ("program-missing", "not-found", "/nothing does not exist"),
        ("directory-missing", "not-found", "/nowhere does not exist"),
        ("directory-is-a-file", "cannot-start", "/plain"),
        ("no-permission", "cannot-start", "/plain"),
        ("no-program", "cannot-start", "/plain"),
        ("interpreter-missing", "not-found", "interpreter of"),
        ("null-byte", "cannot-start", "/bin/true"),
    ],
)
def test_what_cannot_be_started_is_refused_with_its_reason(tmp_path: Path, case: str, code: str, named: str) -> None:
    command, cwd = failing(tmp_path, case)
    with pipe_to_child() as (_, writer):
        with pytest.raises(HandoffRefused) as refusal:
            spawn(command, cwd, {}, writer)
        assert refusal.value.code == code
        assert named in refusal.value.detail
        assert is_open(writer)
        assert not os.get_inheritable(writer)


# ---------------------------------------------------------------- being started


def test_a_process_that_nobody_started_has_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHANNEL_VARIABLE, raising=False)
    assert inherited_channel() is None


def test_an_inherited_channel_is_taken_once_and_passed_to_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe_to_child() as (_, writer):
        os.set_inheritable(writer, True)
        monkeypatch.setenv(CHANNEL_VARIABLE, str(writer))
        assert inherited_channel() == writer
        assert not os.get_inheritable(writer)
        assert CHANNEL_VARIABLE not in os.environ
        assert inherited_channel() is None


@pytest.mark.parametrize("value", ["", "x", "-1", "1000000", "3.5"])
def test_a_variable_that_names_no_open_descriptor_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(CHANNEL_VARIABLE, value)
    with pytest.raises(HandoffRefused) as refusal:
        inherited_channel()
    assert refusal.value.code == "no-channel"
    assert process.CHANNEL_VARIABLE not in os.environ


# ---------------------------------------------------------------- its death


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is told to end."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def watched(child: subprocess.Popen[bytes], exits: list[int]) -> Iterator[ProcessWatch]:
    watch = ProcessWatch(child.pid, os.pidfd_open(child.pid), lambda: exits.append(child.pid))
    try:
        yield watch
    finally:
        watch.close()


@on_each_loop
async def test_an_exit_is_told_once() -> None:
    exits: list[int] = []
    with sleeper() as child, watched(child, exits) as watch:
        await turns()
        assert not watch.dead
        assert child.stdin is not None
        child.stdin.close()
        await watch.wait()
        await watch.wait()
        await turns()
        assert watch.dead
        assert exits == [child.pid]


@on_each_loop
async def test_a_stopped_process_is_killed() -> None:
    exits: list[int] = []
    with sleeper() as child, watched(child, exits) as watch:
        child.send_signal(signal.SIGSTOP)
        watch.kill()
        await watch.wait()
        assert child.wait() == -signal.SIGKILL
        assert exits == [child.pid]
        watch.kill()


@on_each_loop
async def test_a_zombie_is_dead_and_killing_it_says_nothing() -> None:
    with sleeper() as child, watched(child, []) as watch:
        child.kill()
        watch.kill()
        await watch.wait()
        assert watch.dead


@on_each_loop
async def test_a_watch_that_is_closed_tells_nothing_and_kills_nothing() -> None:
    exits: list[int] = []
    with sleeper() as child, watched(child, exits) as watch:
        watch.close()
        watch.close()
        watch.kill()
        await turns()
        assert child.poll() is None
        child.kill()
        child.wait()
        await turns()
        assert exits == []


@on_each_loop
async def test_a_watch_can_be_closed_by_what_it_tells() -> None:
    happening = Happening()
    with sleeper() as child:
        exits: list[int] = []

        def on_exit() -> None:
            watch.close()
            exits.append(child.pid)
            happening.note()

        watch = ProcessWatch(child.pid, os.pidfd_open(child.pid), on_exit)
        child.kill()
        await happening.until(lambda: bool(exits))
        assert exits == [child.pid]
