"""Configuration servers as processes, and subscribers that see every byte."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hotfd.config import push
from tests.integration import harness

if TYPE_CHECKING:
    import ssl

INTERVAL = 0.5
"""Seconds between two digests in these tests: no test measures it, and some wait for several."""


IMPATIENT = """
    from hotfd.cli import main
    from hotfd.distribution import attendant

    attendant.GREETING_LIMIT = attendant.SEND_LIMIT = 2.0
    main()
"""
"""A program that is ``hotfd``, and waits two seconds for its subscribers where that waits five and ten."""


@contextmanager
def configuration(
    tmp_path: Path,
    store: Path,
    *options: str,
    modules: Sequence[str] = ("arena",),
    interval: float = INTERVAL,
    impatient: bool = False,
) -> Iterator[harness.Server]:
    """Run a configuration server on a free port of loopback, over a directory; see :data:`IMPATIENT`."""
    port = harness.free_port()
    program = [*harness.HOTFD]
    if impatient:
        program = [sys.executable, str(harness.script(tmp_path, "impatient.py", IMPATIENT))]
    command = [
        *program,
        "config",
        "serve",
        "--listen",
        f"127.0.0.1:{port}",
        "--store",
        f"dir:{store}",
        "--interval",
        str(interval),
    ]
    for module in modules:
        command += ["--module", module]
    with harness.server(tmp_path, [*command, *options], port) as service:
        yield service


def url_of(*services: harness.Server, query: str = "") -> str:
    """Return the URL of a source."""
    return "hotfd://" + ",".join(f"127.0.0.1:{service.port}" for service in services) + query


def subscription(*modules: str, server: str = "raw", **fields: object) -> push.Subscribe:
    """Return the first message of a subscriber."""
    values = {"protocol": push.PROTOCOL, "service": "games", "zone": "", "host": "host", "pid": 7, "generation": 1}
    return push.Subscribe(**{**values, "server": server, "modules": modules or ("arena",), **fields})


class Raw:
    """A connection to a configuration server without any help: it counts what comes.

    Attributes:
        received: bytes.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._splitter = push.Splitter(push.MAX_ANSWER)
        self._answers: list[push.Answer] = []
        self.received = 0

    def say(self, *requests: push.Request) -> None:
        for request in requests:
            self._writer.write(push.frame(request))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def hear(self) -> push.Answer | None:
        """Return the next answer; None at the end, however it comes."""
        while not self._answers:
            try:
                async with asyncio.timeout(harness.PATIENCE):
                    data = await self._reader.read(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self.received += len(data)
            self._answers += [push.read_answer(payload) for payload in self._splitter.feed(data)]
        return self._answers.pop(0)

    async def hear_of(self, sequence: int, module: str = "arena") -> push.Digest:
        """Return the next digest in which a module's head has this sequence."""
        while True:
            answer = await self.hear()
            assert answer is not None, "the connection has ended"
            if isinstance(answer, push.Digest) and (module, sequence) in sequences(answer):
                return answer

    async def hear_a(self, kind: type[push.Answer]) -> push.Answer:
        """Return the next answer of a kind."""
        while not isinstance(answer := await self.hear(), kind):
            assert answer is not None, "the connection has ended"
        return answer

    async def ended(self) -> list[push.Answer]:
        """Wait for the end; return what was said before it."""
        said = []
        while (answer := await self.hear()) is not None:
            said.append(answer)
        return said

    def abort(self) -> None:
        self._writer.transport.abort()


def sequences(digest: push.Digest) -> list[tuple[str, int]]:
    """Return the modules of a digest with their sequences."""
    return [(head.module, head.sequence) for head in digest.heads]


@asynccontextmanager
async def raw(
    service: harness.Server, *first: push.Request, tls: ssl.SSLContext | None = None, limit: int = 1 << 16
) -> AsyncIterator[Raw]:
    """Connect to a configuration server, and say something first."""
    options = {"ssl": tls, "server_hostname": "127.0.0.1"} if tls is not None else {}
    reader, writer = await asyncio.open_connection(*service.address, limit=limit, **options)  # type: ignore[arg-type]
    client = Raw(reader, writer)
    try:
        client.say(*first)
        yield client
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def eventually(look: Callable[[], object], wanted: object) -> None:
    """Wait until what is seen is what is wanted, while the loop runs on; ``look`` may be a coroutine function."""
    deadline = time.monotonic() + harness.PATIENCE
    while True:
        seen = look()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen == wanted:
            return
        assert time.monotonic() < deadline, f"{seen} instead of {wanted}"
        await asyncio.sleep(0.02)


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB, proc_pid_status(5)."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        (line,) = [line for line in file if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024
