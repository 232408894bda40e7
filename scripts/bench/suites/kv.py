"""The example that speaks Redis's protocol, beside Redis itself, asked by ``redis-benchmark``.

Redis is written in C and made for nothing else, ``examples/kv.py`` in Python and made to be read. That it is slower is
no surprise; by how much is what somebody wants to know who writes such a server with hotfd.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hotfd.bench.measure import Case, Results, Section, Table, interleave, quotient, raw
from hotfd.bench.plots import Bars
from scripts.bench.processes import Server, cpu_seconds, pin

if TYPE_CHECKING:
    from scripts.bench.settings import Settings

TITLE: Final = "A key-value server beside Redis"

ROOT: Final = Path(__file__).resolve().parents[3]

SERVER_CPU: Final = 0
CLIENT_CPU: Final = 1
"""The processors of the servers, of which one at a time has something to do, and of ``redis-benchmark``."""

COMMANDS: Final = ("SET", "GET", "INCR")

REQUESTS: Final = {1: 10_000, 16: 40_000}
"""By the requests that each client sends ahead, how many are made of each command: a second's work at most."""

QUICK_REQUESTS: Final = 5_000
"""The same when the suite only shows that it works."""

CLIENTS: Final = 50
"""Connections: what ``redis-benchmark`` has by default."""

START_LIMIT: Final = 30.0
"""Seconds until a server answers."""

LOOK: Final = 0.01
"""Seconds between two tries to connect to one that does not listen yet."""

RUN_LIMIT: Final = 120.0
"""Seconds that one run of ``redis-benchmark`` may take: a fuse."""

PROGRAMS: Final = ("redis-server", "redis-benchmark")

REDIS: Final = "Redis"

SERVERS: Final[Mapping[str, tuple[str, ...]]] = {
    "kv.py, asyncio": (sys.executable, "examples/kv.py", "--listen", "127.0.0.1:{port}"),
    "kv.py, uvloop": (sys.executable, "examples/kv.py", "--listen", "127.0.0.1:{port}", "--loop", "uvloop"),
    REDIS: ("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
}

TIME: Final = "processor time per request"

TEXT: Final = f"""\
`redis-benchmark` asks each server with {CLIENTS} connections, one request at a time or 16 ahead; Redis writes nothing to
disk. Server and client have a processor each.
"""


class BenchmarkFailed(RuntimeError):  # noqa: N818 - reads as the outcome
    """``redis-benchmark`` could not measure, or a server did not answer."""


def run(settings: Settings) -> Section:
    """Measure both, or say what is missing."""
    section = Section("kv", TITLE, TEXT)
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        section.skipped.append(f"{' and '.join(missing)}: not installed: apt-get install redis-server redis-tools")
        return section
    with ExitStack() as stack:
        servers = {name: stack.enter_context(_server(command, settings.directory)) for name, command in SERVERS.items()}
        for server in servers.values():
            await_answer(server)
        results: dict[int, Results] = {}
        for depth, requests in REQUESTS.items():
            cases: dict[str, Case] = {
                name: partial(ask, server, depth, QUICK_REQUESTS if settings.quick else requests)
                for name, server in servers.items()
            }
            results[depth] = interleave(cases, settings.rounds, say=settings.say)
    _report(section, results)
    return section


def _server(command: tuple[str, ...], directory: Path) -> Server:
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in command]
    return Server(
        [sys.executable, "-m", "scripts.bench.servers.on_port", *words],
        cpu=SERVER_CPU,
        env={"HOTFD_RUNTIME_DIR": str(directory)},
    )


def await_answer(server: Server) -> None:
    """Wait until a server answers a PING; raises BenchmarkFailed."""
    host, port = server.address.rsplit(":", 1)
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, int(port)), START_LIMIT) as sock:
                sock.sendall(b"PING\r\n")
                if sock.recv(64) == b"+PONG\r\n":
                    return
        except ConnectionError:
            pass
        time.sleep(LOOK)
    raise BenchmarkFailed(f"no answer within {START_LIMIT} s; its log:\n{server.log()}")


def ask(server: Server, depth: int, requests: int) -> dict[str, tuple[float, str]]:
    """Return requests per second of each command, and the server's processor time of one on average."""
    before = cpu_seconds(server.pid)
    rates = {command: _benchmark(server, command, depth, requests) for command in COMMANDS}
    spent = cpu_seconds(server.pid) - before
    figures = {command: (rate, "requests/s") for command, rate in rates.items()}
    return figures | {TIME: (spent / (requests * len(COMMANDS)) * 1e6, "us")}


def _benchmark(server: Server, command: str, depth: int, requests: int) -> float:
    words = {"-p": server.address.rsplit(":", 1)[1], "-c": CLIENTS, "-n": requests, "-P": depth, "-t": command.lower()}
    with subprocess.Popen(
        ["redis-benchmark", "--csv", *(str(word) for pair in words.items() for word in pair)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            pin(process.pid, CLIENT_CPU)
            output, _ = process.communicate(timeout=RUN_LIMIT)
        except BaseException:
            process.kill()
            raise
    return rate_of(output.decode(errors="replace"), command)


def rate_of(output: str, command: str) -> float:
    """Return the requests per second that ``redis-benchmark --csv`` printed; raises BenchmarkFailed for anything else."""
    for row in csv.reader(io.StringIO(output)):
        if row[:1] == [command]:
            rate = float(row[1])
            if rate == math.inf:  # it divides by whole milliseconds
                raise BenchmarkFailed(f"redis-benchmark was done with {command} within a millisecond")
            return rate
    raise BenchmarkFailed(f"redis-benchmark measured no {command}:\n{output}")


def _report(section: Section, results: Mapping[int, Results]) -> None:
    figures = (*COMMANDS, TIME)
    for depth, result in results.items():
        sent = "One request at a time" if depth == 1 else f"{depth} requests ahead"
        rows = [[name, *(str(found[figure]) for figure in figures)] for name, found in result.items()]
        rows += [
            [f"{name}, against Redis", *(str(quotient(found[figure], result[REDIS][figure])) for figure in figures)]
            for name, found in result.items()
            if name != REDIS
        ]
        section.tables.append(Table(sent, ["server", *COMMANDS, TIME], rows))
    bars = {
        f"{command}, {depth} at a time": {name: found[command].median for name, found in result.items()}
        for depth, result in results.items()
        for command in COMMANDS
    }
    section.plots.append(Bars("kv-rates", "Requests per second", "requests/s", bars, log=True))
    section.data["figures"] = {str(depth): raw(result) for depth, result in results.items()}
