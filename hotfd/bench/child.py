"""A helper process that speaks in lines: both sides of it; and what a process has used."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Final, Self

from hotfd.errors import HotfdError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

SAID_SHOWN: Final = 1000
"""Bytes of what a helper has said on its standard error that an error shows."""


class Broken(HotfdError):  # noqa: N818 - reads as the outcome
    """A benchmark cannot go on: a process of it failed, or lost what it should not."""


class Child:
    """A Python module as a process; a context manager that ends it, whatever it does.

    Args:
        module: its name, as after ``python -m``.
        arguments: its arguments.
        descriptors: to be inherited, beside the standard ones.
    """

    def __init__(self, module: str, arguments: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        self._module = module
        self._arguments = list(arguments)
        self._descriptors = descriptors
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile(prefix="hotfd-bench-")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=self._descriptors,
            )
        except BaseException:
            self._errors.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._errors is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._errors.close()

    def say(self, line: bytes) -> None:
        """Send it a line; raises Broken where it has ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._broken("it has ended") from None

    def end_input(self) -> None:
        """End its standard input."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    def line(self, limit: float) -> bytes:
        """Return the next line that it prints.

        Args:
            limit: seconds.

        Raises:
            Broken: it ended without it, or said nothing in time.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + limit
        while b"\n" not in self._rest:
            if not readable(pipe, deadline - time.monotonic()):
                raise self._broken(f"nothing came from it within {limit:.0f} s")
            piece = os.read(pipe, 1 << 16)
            if not piece:
                raise self._broken("it has ended")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _broken(self, what: str) -> Broken:
        assert self._errors is not None
        size = os.fstat(self._errors.fileno()).st_size
        said = os.pread(self._errors.fileno(), SAID_SHOWN, max(0, size - SAID_SHOWN)).decode(errors="replace").strip()
        return Broken(f"{self._module}: {said or what}")


def readable(descriptor: int, limit: float) -> bool:
    """Wait until a descriptor is readable, by poll(2): select(2) knows no descriptor above 1,023.

    Args:
        descriptor: what to wait for.
        limit: seconds; none where it is negative.

    Returns:
        whether it is.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, limit) * 1000))


def tell(line: bytes) -> None:
    """Say a line to the process that has started this one as a :class:`Child`."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used, or had when it ended, if nobody has waited for it yet.

    Those of its threads are counted, as far as they live; those of its children are not. In nanoseconds, from schedstat:
    ``/proc/PID/stat`` counts in hundredths of a second. (Documentation/scheduler/sched-stats.rst of the kernel)

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process.
    """
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # this thread has ended since
    return total / 1e9
