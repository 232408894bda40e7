"""Other programs: what they say is bounded, and so is how long they may take to say it."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_OUTPUT: Final = 64 << 20
"""Bytes that a program may say: the files of 64 modules, or the names of a large repository."""

MAX_COMPLAINT: Final = 64 << 10
"""Bytes that a program may complain: the first of them say what is wrong."""

PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are when there is no ``PATH``: Subversion runs its hooks with an empty environment."""

_CHUNK: Final = 1 << 16
"""Bytes that are read at once: what a pipe holds."""


class TooLate(ConfigError):  # noqa: N818 - reads as the condition
    """A program took longer than it may."""


class Deadline:
    """When something has to be done by.

    Args:
        seconds: from now; None for never.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def left(self, most: float) -> float:
        """Return the seconds that are left, at most so many, and not less than none."""
        return most if self._at is None else max(0.0, min(most, self._at - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Said:
    """What a program said, and which of it was too much.

    Attributes:
        output: its standard output, cut.
        complaint: its standard error, cut.
        too_much: whether the output was cut.
        in_time: whether it closed both before the deadline.
    """

    output: bytes
    complaint: bytes
    too_much: bool
    in_time: bool


def listen(process: subprocess.Popen[bytes], data: bytes, deadline: Deadline, limit: float, most: int) -> Said:
    """Give a program its standard input, and take what it says until it has closed its outputs.

    Args:
        process: the program; its three streams are pipes. They are closed then.
        data: its input.
        deadline: of everything.
        limit: seconds for this.
        most: bytes of output.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    until = Deadline(deadline.left(limit))
    said = {process.stdout: bytearray(), process.stderr: bytearray()}
    bounds = {process.stdout: most, process.stderr: MAX_COMPLAINT}
    rest = memoryview(data)
    with ExitStack() as stack:
        for stream in (process.stdin, process.stdout, process.stderr):
            stack.callback(_close, stream)
        selector = stack.enter_context(selectors.DefaultSelector())
        for stream in said:
            selector.register(stream, selectors.EVENT_READ)
        if rest:
            os.set_blocking(process.stdin.fileno(), False)  # ours alone: the other end is another open file
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while selector.get_map():
            ready = selector.select(until.left(limit))
            if not ready:
                return Said(bytes(said[process.stdout]), bytes(said[process.stderr]), False, False)
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    rest = _write(process.stdin.fileno(), rest)
                    if not rest:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                stream = process.stdout if key.fileobj is process.stdout else process.stderr
                chunk = os.read(stream.fileno(), _CHUNK)
                if not chunk:
                    selector.unregister(stream)
                    continue
                said[stream] += chunk[: max(0, bounds[stream] - len(said[stream]))]
                if stream is process.stdout and len(said[stream]) >= most:
                    return Said(bytes(said[stream]), bytes(said[process.stderr]), True, True)
        return Said(bytes(said[process.stdout]), bytes(said[process.stderr]), False, True)


def _write(fd: int, rest: memoryview) -> memoryview:
    try:
        return rest[os.write(fd, rest[:_CHUNK]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:  # it does not want its input; what it says decides
        return memoryview(b"")


def _close(stream: object) -> None:
    with suppress(BrokenPipeError):
        stream.close()  # type: ignore[attr-defined]


def find(name: str, what_for: str) -> str:
    """Return the absolute path of a program.

    Raises:
        ConfigError: it is not installed.
    """
    found = shutil.which(name, path=os.environ.get("PATH") or PATH)
    if found is None:
        raise ConfigError(f"{what_for} needs the program {name}, which is not installed here")
    return os.path.abspath(found)


def environment(extra: Mapping[str, str] | None = None, keep: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a program: little, so that nothing that is set by chance changes what it says."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "USER", "LOGNAME", *keep) if name in os.environ}
    # UTF-8 for paths, C for words: both are read here.
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", **kept, **(extra or {})}


def run(
    arguments: Sequence[str],
    deadline: Deadline,
    *,
    limit: float,
    env: Mapping[str, str],
    data: bytes = b"",
    statuses: Sequence[int] = (0,),
) -> tuple[int, bytes]:
    """Run a program to its end.

    Args:
        arguments: the program's absolute path, and what it is given.
        deadline: of everything.
        limit: seconds for this call.
        env: its environment.
        data: its standard input.
        statuses: exit statuses that are an answer.

    Returns:
        its exit status and output.

    Raises:
        TooLate: it was not done by then; it is ended.
        ConfigError: it could not be started, said too much, or ended otherwise; with the beginning of its complaint.
    """
    name = os.path.basename(arguments[0])
    words = [word for word in arguments[1:] if not word.startswith("-")]
    what = f"{name} {words[0]}" if words else name
    try:
        process = subprocess.Popen(
            arguments,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"{what} cannot be started: {error.strerror}") from None
    late = True
    with process:
        try:
            said = listen(process, data, deadline, limit, MAX_OUTPUT)
            if said.in_time and not said.too_much:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(deadline.left(limit))
                    late = False
        finally:
            if late:
                # The whole group, and before the process is waited for: until then its id is nobody else's.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if said.too_much:
        raise ConfigError(f"{what} says more than {MAX_OUTPUT} bytes; name a smaller directory with --path")
    if late:
        raise TooLate(f"{what} took longer than it may")
    if process.returncode not in statuses:
        complaint = said.complaint.decode(errors="replace").strip()
        raise ConfigError(f"{what}: {complaint or f'it ended with status {process.returncode}'}")
    return process.returncode, said.output


def essence(error: ConfigError, *marks: str) -> str:
    """Return the line of a program's complaint that says what is wrong: warnings may come before it.

    Args:
        error: of :func:`run`.
        marks: how such a line begins, or what is in it; without any such line, it is the first one.
    """
    lines = str(error).splitlines()
    return next((line for line in lines if any(mark in line for mark in marks)), lines[0])
