"""The client of all benchmarks, as a process: see ``load.c`` beside this, which says what it does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from hotfd.bench.child import readable
from scripts.bench.building import program

if TYPE_CHECKING:
    from types import TracebackType

READY_LIMIT: Final = 120.0
"""Seconds until all connections are open: a server accepts some thousand a second, and there may be 20,000."""

ANSWER_LIMIT: Final = 150.0
"""Seconds beyond those that were asked for until the result must be there: the client itself waits 60 for a reply."""

FRAMES_LIMIT: Final = 600.0
"""Seconds that a number of replies may take."""


class LoadFailed(RuntimeError):  # noqa: N818 - reads as the outcome
    """The client could not measure, or a connection or a reply was lost or wrong."""


@dataclass(frozen=True)
class Latency:
    """How long replies took, in microseconds; exact to 3 percent, ``max`` exactly."""

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Gap:
    """The longest time without a reply of each connection that kept asking: the pause that its client saw.

    Attributes:
        p50, p99, max: in microseconds, exactly.
        histogram: from, to (microseconds), how many connections.
    """

    p50: float
    p99: float
    max: float
    histogram: list[tuple[float, float, int]]


@dataclass(frozen=True)
class Result:
    """What a client found.

    Attributes:
        began: when it began to ask, as ``time.monotonic()`` counts.
        frames: replies in that time.
        seconds: how long it was.
        latency: from a request to its reply.
        gap: the pauses.
        lost: connections that the server closed.
        unanswered: requests without a reply at the end.
        unexpected: bytes that nobody had asked for.
        wrong: replies that were not what ``verify`` expects.
        checked: connections that were asked once more at the end, and answered.
        cpu: processor seconds of the client.
        timeline: replies in each millisecond since ``began``, where it was asked for.
    """

    began: float
    frames: int
    seconds: float
    latency: Latency
    gap: Gap
    lost: int
    unanswered: int
    unexpected: int
    wrong: int
    checked: int
    cpu: float
    timeline: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Replies per second."""
        return self.frames / self.seconds

    @property
    def fault(self) -> str:
        """What was lost or wrong, or nothing."""
        return ", ".join(
            f"{count} {what}"
            for count, what in (
                (self.lost, "connections lost"),
                (self.unanswered, "requests not answered"),
                (self.unexpected, "bytes that nobody asked for"),
                (self.wrong, "wrong replies"),
            )
            if count
        )


class Load:
    """A client as a process; a context manager, which begins when all connections are open and served.

    It ends after ``seconds`` or ``frames``, where :meth:`wait` returns what it found; without these, at :meth:`stop`.

    Args:
        address: ``127.0.0.1:PORT`` or ``unix:PATH``.
        request: what is asked, with its framing.
        reply: bytes of the reply, exactly.
        connections: how many are opened.
        asking: how many of them keep asking; the others are idle. None: all.
        depth: requests that each has on its way.
        think: seconds between a reply and the next request.
        hello: what each connection says first. None: the request.
        hello_reply: bytes of the answer to that, exactly.
        seconds: how long to ask.
        frames: how many replies to wait for, instead.
        timeline: whether replies are counted by the millisecond.
        verify: whether a reply must be equal to the request.
        check: whether every connection asks once more at the end.
        cpu: the processor that it runs on, alone. None: any.

    Raises:
        LoadFailed: when it is entered: not all connections came to be served.
    """

    def __init__(
        self,
        address: str,
        *,
        request: bytes,
        reply: int,
        connections: int = 1,
        asking: int | None = None,
        depth: int = 1,
        think: float = 0.0,
        hello: bytes | None = None,
        hello_reply: int = 0,
        seconds: float | None = None,
        frames: int | None = None,
        timeline: bool = False,
        verify: bool = False,
        check: bool = True,
        cpu: int | None = None,
    ) -> None:
        self._limit = (FRAMES_LIMIT if frames else seconds or 0.0) + ANSWER_LIMIT
        self._ends = bool(seconds or frames)
        self._directory = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._request = request
        self._hello = hello
        wanted: dict[str, object | None] = {
            "connect": address,
            "connections": connections,
            "asking": asking,
            "depth": depth,
            "think": think * 1e6,
            "reply": reply,
            "hello-reply": hello_reply or None,
            "seconds": seconds,
            "frames": frames,
            "cpu": cpu,
        }
        self._options = [
            word for name, value in wanted.items() if value is not None for word in (f"--{name}", str(value))
        ]
        flags = {"--timeline": timeline, "--verify": verify, "--no-check": not check}
        self._options += [name for name, given in flags.items() if given]

    def __enter__(self) -> Self:
        self.start()
        try:
            self.await_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the client; :meth:`await_ready` follows. For whoever has several; the others use ``with``."""
        client = program("load")
        self._directory = tempfile.mkdtemp(prefix="hotfd-bench-")
        options = [*self._options, "--request", self._file("request", self._request)]
        if self._hello is not None:
            options += ["--hello", self._file("hello", self._hello)]
        with open(self._path("errors"), "wb") as errors:
            self._process = subprocess.Popen(
                [str(client), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    def await_ready(self) -> None:
        """Wait until all connections are open and served; raises LoadFailed."""
        line = self._line(READY_LIMIT)
        if line != b"ready":
            raise self._failed("it did not get ready")

    def report(self, *, lenient: bool = False) -> Result:
        """Return what it has found until now, and have it begin anew; only without ``seconds`` and ``frames``.

        Args:
            lenient: whether a loss is returned, and not raised.

        Raises:
            LoadFailed: something was lost or wrong.
        """
        assert not self._ends, "it ends by itself"
        self._say(b"report\n")
        return self._result(lenient=lenient)

    def stop(self, *, lenient: bool = False) -> Result:
        """End it and return what it has found; arguments and errors as of :meth:`report`."""
        assert not self._ends, "it ends by itself"
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._last(lenient=lenient)

    def wait(self, *, lenient: bool = False) -> Result:
        """Wait until it has ended by itself, and return what it has found; otherwise as :meth:`report`."""
        assert self._ends, "it ends when it is told to"
        return self._last(lenient=lenient)

    def close(self) -> None:
        """End it at once, whatever it does. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None
        if self._directory:
            shutil.rmtree(self._directory)
            self._directory = ""

    @property
    def pid(self) -> int:
        """The client's process id."""
        assert self._process is not None
        return self._process.pid

    def _last(self, *, lenient: bool) -> Result:
        result = self._result(lenient=lenient)
        assert self._process is not None
        self._process.wait(ANSWER_LIMIT)
        return result

    def _result(self, *, lenient: bool) -> Result:
        line = self._line(self._limit)
        if not line.startswith(b"{"):
            raise self._failed("it has no result")
        result = _result(json.loads(line))
        if result.fault and not lenient:
            raise self._failed(result.fault)
        return result

    def _say(self, text: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _line(self, limit: float) -> bytes:
        """Return the next line that it prints, or what there is of it at its end or when the time is over."""
        assert self._process is not None, "the client is over"
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + limit
        while b"\n" not in self._rest:
            if not readable(pipe, deadline - time.monotonic()):
                break
            piece = os.read(pipe, 1 << 16)
            if not piece:
                break
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _failed(self, what: str) -> LoadFailed:
        return LoadFailed(f"the client: {what}; {Path(self._path('errors')).read_text().strip() or 'it says no more'}")

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _file(self, name: str, content: bytes) -> str:
        path = self._path(name)
        Path(path).write_bytes(content)
        return path


def _result(found: dict[str, Any]) -> Result:
    gap = found.pop("gap")
    histogram = [(start, end, count) for start, end, count in gap.pop("histogram")]
    return Result(latency=Latency(**found.pop("latency")), gap=Gap(**gap, histogram=histogram), **found)
