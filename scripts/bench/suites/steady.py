"""Frames per second and latency of servers that just serve: hotfd beside what people write with asyncio, uvloop and threads.

Each server is a process on a processor of its own, and echoes frames to the one client of all, which is on another. So
what is compared are the servers; the processor time that they take per frame is the steadier figure, since it holds
wherever the server is not what limits the rate.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from hotfd.bench.measure import Goal, Results, Section, Series, Table, interleave, quotient, ratio, raw
from hotfd.bench.plots import Bars
from scripts.bench.building import program
from scripts.bench.load import Load, LoadFailed
from scripts.bench.processes import Server, cpu_seconds

if TYPE_CHECKING:
    from scripts.bench.settings import Settings

TITLE: Final = "Serving"

SERVER_CPU: Final = 0
"""The processor of the server; all servers are there, and all but one are idle."""

CLIENT_CPU: Final = 1
"""The processor of the client, and of this program."""

SECONDS: Final = 0.5
"""How long a load is measured in a round."""

QUICK_SECONDS: Final = 0.05
"""The same when the suite only shows that it works."""

WARM_UP: Final = 0.1
"""The part of it that is added in front and not measured: caches, and the kernel's estimates of a connection's speed."""

RATE, TIME, MIDDLE, TAIL = "frames per second", "processor time per frame", "latency, half", "latency, 99 %"


@dataclass(frozen=True)
class Kind:
    """A server: the name of its module, and its event loop; the one in C has none."""

    module: str
    loop: str = "asyncio"

    def __str__(self) -> str:
        if self in {THREADS, KERNEL}:
            return {THREADS: "threads", KERNEL: "C"}[self]
        return f"{'Protocol' if self.module == 'protocol' else self.module}, {self.loop}"


HOTFD, STREAMS, PROTOCOL = Kind("hotfd"), Kind("streams"), Kind("protocol")
UV_HOTFD, UV_STREAMS, UV_PROTOCOL = (Kind(kind.module, "uvloop") for kind in (HOTFD, STREAMS, PROTOCOL))
THREADS = Kind("threads")
KERNEL = Kind("kernel", "")
KINDS: Final = (HOTFD, STREAMS, PROTOCOL, UV_HOTFD, UV_STREAMS, UV_PROTOCOL, THREADS, KERNEL)


@dataclass(frozen=True)
class Shape:
    """What the client does.

    Args:
        size: bytes of each payload.
        connections: how many, all of which ask.
        depth: requests that each has on its way.
        framing: ``length`` (of 32 bits) or ``lines``.
    """

    size: int
    connections: int
    depth: int = 1
    framing: str = "length"

    def __str__(self) -> str:
        size = f"{self.size >> 10} KiB" if self.size >= 1 << 10 else f"{self.size} B"
        ahead = f", {self.depth} ahead" if self.depth > 1 else ""
        noun = "connection" if self.connections == 1 else "connections"
        return f"{size}{' lines' if self.framing == 'lines' else ''}, {self.connections:,} {noun}{ahead}"

    def request(self) -> bytes:
        """Return one frame as it is on the wire."""
        if self.framing == "lines":
            return b"x" * self.size + b"\n"
        return self.size.to_bytes(4, "big") + b"x" * self.size


MAIN: Final = Shape(64, 100)
SHAPES: Final = (
    MAIN,
    Shape(64, 1),
    Shape(64, 5000),
    Shape(64, 100, depth=16),
    Shape(64, 100, framing="lines"),
    Shape(1 << 10, 100),
    Shape(1 << 16, 100),
)
LARGEST: Final = 1 << 18
"""Bytes of the frames that all servers echo before anything is measured."""

QUICK_SHAPES: Final = (MAIN, Shape(64, 10, depth=16))

GOALS: Final = (
    (HOTFD, STREAMS, 2.0),
    (HOTFD, PROTOCOL, 0.95),
    (UV_HOTFD, UV_STREAMS, 2.0),
    (UV_HOTFD, UV_PROTOCOL, 0.95),
)
"""Who should be how many times as fast as whom."""

COMPARED: Final = (*((ours, theirs) for ours, theirs, _ in GOALS), (HOTFD, KERNEL))
"""Who stands beside whom in the table of ratios."""

LIMITS: Final = (
    "The system calls are the same on both sides, and with {load} the kernel takes {kernel} a frame for them: of {ours} that {name} "
    "takes, and {theirs} of {other}. What is left is Python's: to go on with a task and its coroutines, and in them to cut out, "
    "take and send a frame. The handler of a Protocol is a plain function, and on uvloop what is around it is compiled, and the "
    "reads and writes of its streams too."
)

TEXT: Final = """\
Every server echoes frames; each is a process, and runs on one processor while the client, a program in C, runs on another.
`streams` are `asyncio.start_server` with `readexactly` or `readline`, `write` and `drain`; `Protocol` is an `asyncio.Protocol`
by hand: a buffer, a loop over its frames, one `transport.write` for what came together; `threads` has a thread with blocking
calls for each connection. The programs are `scripts/bench/servers/echo_*.py`. `C` (`scripts/bench/echo.c`) is what the kernel alone
takes: a loop of epoll_wait, recv and send that looks at nothing. Frames per second say what a client gets; where
the client is the slower one (64 KiB), the server's processor time per frame says more. Ratios are of the same round.

Before anything is measured, every server has echoed some frames of 256 KiB. asyncio's transports ask for 256 KiB with every
read; while glibc maps and unmaps that much for each (`M_MMAP_THRESHOLD` of mallopt(3)), which it does until a block of that
size has been freed once, a read costs them several times as much. So they are measured at their best.
"""

Measure = Callable[[], Mapping[str, tuple[float, str]]]


def run(settings: Settings) -> Section:
    """Measure all servers under all loads."""
    section = Section("steady", TITLE, TEXT)
    shapes = QUICK_SHAPES if settings.quick else SHAPES
    with ExitStack() as stack:
        if {SERVER_CPU, CLIENT_CPU} <= os.sched_getaffinity(0):
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {CLIENT_CPU})  # this program too, and not beside the server
            stack.callback(os.sched_setaffinity, 0, before)
        else:
            section.skipped.append("server and client share their processors: this machine has not two for them")
        servers = {
            (kind, framing): stack.enter_context(_server(kind, framing))
            for framing in dict.fromkeys(shape.framing for shape in shapes)
            for kind in KINDS
        }
        for (_, framing), server in servers.items():  # a server that has run for a while, and no fresh one: see TEXT
            echo(server, Shape(LARGEST, 2, framing=framing), QUICK_SECONDS)
        results: dict[Shape, Results] = {}
        for shape in shapes:
            settings.say(str(shape))
            cases = dict(_cases(servers, shape, QUICK_SECONDS if settings.quick else SECONDS, section))
            results[shape] = interleave(cases, settings.rounds, say=settings.say)
    _report(section, results)
    return section


def _server(kind: Kind, framing: str) -> Server:
    if kind is KERNEL:  # which no framing concerns
        return Server([str(program("echo"))], cpu=SERVER_CPU)
    command = ["-m", f"scripts.bench.servers.echo_{kind.module}", "--framing", framing, "--loop", kind.loop]
    return Server([sys.executable, *command], cpu=SERVER_CPU)


def _cases(
    servers: Mapping[tuple[Kind, str], Server], shape: Shape, seconds: float, section: Section
) -> Iterator[tuple[str, Measure]]:
    """Yield who is measured under a load: all but a server that cannot take it at all."""
    for kind in KINDS:
        measure = partial(echo, servers[kind, shape.framing], shape, seconds)
        if kind is THREADS:
            try:
                measure()
            except LoadFailed as error:
                section.skipped.append(f"threads with {shape}: {error}")
                continue
        yield str(kind), measure


def echo(server: Server, shape: Shape, seconds: float) -> dict[str, tuple[float, str]]:
    """Have a server echo, and return what it took.

    Raises:
        LoadFailed: a connection or a reply was lost, or was not what was sent.
    """
    request = shape.request()
    with Load(
        server.address,
        request=request,
        reply=len(request),
        connections=shape.connections,
        depth=shape.depth,
        verify=True,
        cpu=CLIENT_CPU,
    ) as load:
        time.sleep(seconds * WARM_UP)
        load.report()
        before = cpu_seconds(server.pid)
        time.sleep(seconds)
        result = load.report()
        spent = cpu_seconds(server.pid) - before
        load.stop()
    if not result.frames:
        raise LoadFailed(f"no reply within {seconds} s")
    return {
        RATE: (result.rate, "frames/s"),
        TIME: (spent / result.frames * 1e6, "us"),
        MIDDLE: (result.latency.p50, "us"),
        TAIL: (result.latency.p99, "us"),
    }


def _report(section: Section, results: Mapping[Shape, Results]) -> None:
    for figure in (RATE, TIME):
        section.tables.append(_table(f"{figure.capitalize()}", results, figure))
    section.tables.append(_latencies(results))
    section.tables.append(_ratios(results))
    for ours, theirs, bound in GOALS:
        level = "twice as fast as" if bound > 1 else "level with"
        limits = _limits(results[MAIN], ours, theirs)
        section.goals.append(
            Goal(
                f"{ours} is {level} {theirs}: {RATE}, {MAIN}",
                ratio(results[MAIN], RATE, str(ours), str(theirs)),
                at_least=bound,
                limits=limits,
            )
        )
        section.goals.append(
            Goal(
                f"{ours} is {level} {theirs}: frames per second of processor time, geometric mean of all loads",
                overall(results, ours, theirs),
                at_least=bound,
                limits=limits,
            )
        )
    bars = {
        str(shape): {name: figures[TIME].median for name, figures in result.items()}
        for shape, result in results.items()
    }
    section.plots.append(Bars("steady-time", "Processor time per frame", "us", bars, log=True))
    section.data["figures"] = {str(shape): raw(result) for shape, result in results.items()}


def _limits(results: Results, ours: Kind, theirs: Kind) -> str:
    kernel, mine, other = (str(Series("us", (results[str(kind)][TIME].median,))) for kind in (KERNEL, ours, theirs))
    return LIMITS.format(load=MAIN, kernel=kernel, ours=mine, name=ours, theirs=other, other=theirs)


def overall(results: Mapping[Shape, Results], ours: Kind, theirs: Kind) -> Series:
    """Return, for each round, the geometric mean over all loads of their processor time per frame over ours."""
    ratios = [quotient(result[str(theirs)][TIME], result[str(ours)][TIME]).values for result in results.values()]
    return Series("x", tuple(math.prod(values) ** (1 / len(values)) for values in zip(*ratios, strict=True)))


def _table(title: str, results: Mapping[Shape, Results], figure: str) -> Table:
    rows = [
        [str(shape), *(str(result[str(kind)][figure]) if str(kind) in result else "" for kind in KINDS)]
        for shape, result in results.items()
    ]
    return Table(title, ["load", *map(str, KINDS)], rows)


def _latencies(results: Mapping[Shape, Results]) -> Table:
    """Return the medians only: with the spread of two figures, nobody could read it."""

    def cell(figures: Mapping[str, Series] | None) -> str:
        if figures is None:
            return ""
        return " / ".join(str(Series("us", (figures[figure].median,))) for figure in (MIDDLE, TAIL))

    rows = [[str(shape), *(cell(result.get(str(kind))) for kind in KINDS)] for shape, result in results.items()]
    return Table("Latency of half of the replies, and of 99 percent", ["load", *map(str, KINDS)], rows)


def _ratios(results: Mapping[Shape, Results]) -> Table:
    """Return by load what the goals ask of all, and how near the kernel's own limit that is."""

    def row(shape: Shape, result: Results) -> Sequence[str]:
        times = (quotient(result[str(theirs)][TIME], result[str(ours)][TIME]) for ours, theirs in COMPARED)
        return [str(shape), *map(str, times)]

    columns = ["load", *(f"{ours} against {theirs}" for ours, theirs in COMPARED)]
    rows = [row(shape, result) for shape, result in results.items()]
    return Table("Frames per second of processor time, as a ratio", columns, rows)
