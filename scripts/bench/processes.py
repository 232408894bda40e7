"""Servers under test: processes of their own, which are ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from typing import IO, TYPE_CHECKING, Final, Self

from hotfd.bench.child import cpu_seconds, readable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["Server", "cpu_seconds", "end", "memory_bytes", "pin"]

START_LIMIT: Final = 30.0
"""Seconds until a server has said where it listens; imports on a busy machine take several."""

END_LIMIT: Final = 10.0
"""Seconds that a server has to end after SIGTERM; then it is killed."""

LOG_SHOWN: Final = 4000
"""Characters of a server's log that an error shows."""

MAX_LINE: Final = 4096
"""Bytes of the line that a server begins with."""


class Server:
    """A program that prints one line when it serves: where. A context manager that ends it.

    Args:
        command: program and arguments.
        cpu: the processor that it runs on, alone. None: any.
        env: variables to add to this process's environment.

    Attributes:
        address: the line that it printed.

    Raises:
        RuntimeError: when it is entered: it did not come to serve; with its log.
    """

    def __init__(self, command: Sequence[str], *, cpu: int | None = None, env: Mapping[str, str] | None = None) -> None:
        self.address = ""
        self._command = list(command)
        self._cpu = cpu
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile(prefix="hotfd-bench-")
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **self._env},
            )
            if self._cpu is not None:
                pin(self._process.pid, self._cpu)
            self.address = self._first_line().decode().strip()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"the log of {self._command}:\n{self.log()}")
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the server is over"
        return self._process.pid

    def log(self) -> str:
        """Return the end of what it has written to its standard error."""
        assert self._log is not None, "the server is over"
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), LOG_SHOWN, max(0, size - LOG_SHOWN)).decode(errors="replace")

    def stop(self) -> None:
        """End it. Idempotent."""
        if self._process is not None:
            end(self._process)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _first_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_LIMIT
        line = b""
        while not line.endswith(b"\n"):
            if len(line) > MAX_LINE or not readable(self._process.stdout.fileno(), deadline - time.monotonic()):
                raise RuntimeError(f"{self._command} did not say where it listens; its log:\n{self.log()}")
            piece = os.read(self._process.stdout.fileno(), 1)  # what follows is not this one's to take
            if not piece:
                raise RuntimeError(f"{self._command} ended before it served; its log:\n{self.log()}")
            line += piece
        return line


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is this one's child, by SIGTERM and then by SIGKILL, and reap it. Idempotent."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pin(pid: int, cpu: int) -> None:
    """Have a process run on one processor; one that this process may not use is left out of it, and all are used.

    A program that starts threads of its own keeps them there as well when it is pinned before it makes them.
    """
    if cpu in os.sched_getaffinity(0):
        os.sched_setaffinity(pid, {cpu})


def memory_bytes(pid: int, name: str = "Pss") -> int:
    """Return one figure of ``/proc/PID/smaps_rollup`` in bytes: ``Pss``, ``Rss``, ``Private_Dirty``.

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process.
        KeyError: there is no such figure.
    """
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    raise KeyError(name)
