"""The demonstration of ``make demo``: two servers are replaced under load, and every answer is checked.

``examples/counter.py`` serves clients of this program's own. They send lines in fragments that end anywhere, and
know each answer that they must get: a line that is lost, answered twice or answered by a server that
forgot its visitor shows at once. ``examples/kv.py`` serves redis-benchmark, which counts a key up; at the end the
key must be exactly as high as there were requests.

Everything is on loopback, in a temporary directory, and ended and removed in the end, whatever happens. The exit
status is 0 when nothing was lost, 1 when something was or the demonstration could not be given, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo_clients import ANSWER_LIMIT, LOAD_CLIENTS, Failed, Load, Tally, finished, loading, visitors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ROOT = Path(__file__).resolve().parent.parent

START_LIMIT = 20.0
"""Seconds for a server to come up on a busy machine."""

END_LIMIT = 5.0
"""Seconds for a server to end after SIGTERM; then it is killed."""

HANDOFF_LIMIT = 60.0
"""Seconds that one handoff may take, with the start of a process on a busy machine."""

PROBATION = 0.2
"""Seconds in which a new process proves itself; in production it is longer, here nobody wants to wait."""

LOAD_SECONDS_PER_HANDOFF = 2.5
"""How long a round of two handoffs may take: three times what it does, so that the load outlasts them all."""


def say(text: str = "") -> None:
    """Print a line at once."""
    print(text, flush=True)


def styled(text: str, code: str) -> str:
    """Return text in a colour, where a person looks at it who has not forbidden that."""
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


# ---------------------------------------------------------------- servers


@dataclass
class Service:
    """A server through all of its processes.

    Attributes:
        name: the name of the example.
        port: where it listens on loopback.
        pid: its newest process.
        log: where all of its processes write.
        reports: of the handoffs so far, as ``hotfd handoff --json`` prints them.
    """

    name: str
    port: int
    pid: int
    log: Path
    reports: list[dict[str, Any]] = field(default_factory=list)

    async def hand_over(self) -> str:
        """Replace the process; return a line about it.

        Raises:
            Failed: it was not replaced, or not all connections have moved.
        """
        command = [sys.executable, "-m", "hotfd.cli", "handoff", "--json", "--probation", str(PROBATION)]
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--pid", str(self.pid)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        out, err = await finished(process, HANDOFF_LIMIT)
        if not out:
            raise Failed(f"hotfd handoff: {err.decode(errors='replace').strip()}")
        report: dict[str, Any] = json.loads(out)
        if report["outcome"] != "completed":
            raise Failed(f"the handoff of {self.name} is {report['outcome']}: {report['reason'] or report['reasons']}")
        self.reports.append(report)
        old = self.pid
        self.pid = report["new_pid"]
        pause = report["pause_ms"]
        return (
            f"{self.name:<8} {old:>7} -> {self.pid:<7} {report['connections']['moved']:>4} connections moved, "
            f"paused for {pause['p50']:.1f} ms (longest {pause['max']:.1f} ms)"
        )

    def pause(self) -> dict[str, float]:
        """Return the pauses over all handoffs: the median of the medians, and the worst of the others."""
        pauses = [report["pause_ms"] for report in self.reports]
        return {
            "p50": statistics.median(pause["p50"] for pause in pauses),
            "p99": max(pause["p99"] for pause in pauses),
            "max": max(pause["max"] for pause in pauses),
        }


@asynccontextmanager
async def serving(name: str, directory: Path) -> AsyncIterator[Service]:
    """Run an example on a free port; its last process is ended with the others, see :func:`end_all`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = directory / f"{name}.log"
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "examples" / f"{name}.py"), "--listen", f"127.0.0.1:{port}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,  # Ctrl-C is for this program, which then ends the servers
        )
    service = Service(name, port, process.pid, log)
    try:
        await listening(service, process)
        yield service
    except Failed as failure:
        raise Failed(f"{failure}\nthe end of the log of {name}:\n{log.read_text(errors='replace')[-2000:]}") from None
    finally:
        if process.returncode is None:
            end(process.pid)
            await process.wait()


async def listening(service: Service, process: asyncio.subprocess.Process) -> None:
    """Wait until a server accepts connections."""
    deadline = time.monotonic() + START_LIMIT
    while process.returncode is None and time.monotonic() < deadline:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise Failed(f"{service.name} did not start")


def end(pid: int) -> None:
    """End a process: SIGTERM, and SIGKILL if that does not help."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not readable(pidfd, END_LIMIT):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                readable(pidfd, END_LIMIT)
        finally:
            os.close(pidfd)


def readable(descriptor: int, seconds: float) -> bool:
    """Wait for a descriptor; a pidfd is readable when its process has ended."""
    return bool(select.select([descriptor], [], [], seconds)[0])


def end_all(directory: Path) -> None:
    """End every process that was started for this demonstration, also one that a handoff is just starting."""
    while found := started_for(directory):
        for pid in found:
            end(pid)


def started_for(directory: Path) -> list[int]:
    """Return the processes of this demonstration: all have its runtime directory in their environment."""
    mark = f"HOTFD_RUNTIME_DIR={directory}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with suppress(OSError), open(f"/proc/{entry}/environ", "rb") as environment:
                if mark in environment.read().split(b"\0"):
                    found.append(int(entry))
    return found


# ---------------------------------------------------------------- the demonstration


async def demonstrate(directory: Path, clients: int, handoffs: int) -> bool:
    """Give the demonstration; return whether nothing was lost."""
    say(styled("hotfd: two servers are replaced again and again, while their clients stay connected", "1"))
    say()
    async with serving("counter", directory) as counter, serving("kv", directory) as kv:
        say(f"  counter  examples/counter.py, process {counter.pid}: numbers each visitor's lines")
        say(f"  kv       examples/kv.py, process {kv.pid}: keys and values, for clients of Redis")
        say()
        seen = Tally()
        async with loading(kv.port) as load:
            async with visitors(counter.port, clients, seen):
                say(f"  {clients} clients send lines to counter, in fragments, and check every answer.")
                requests = int(await load.sample() * handoffs * LOAD_SECONDS_PER_HANDOFF)
                await load.start(requests)
                say(f"  redis-benchmark sends {requests:,} INCR to kv, over {LOAD_CLIENTS} connections.")
                say()
                say("  Now each is handed over, as an operator would:  hotfd handoff --pid PID")
                say()
                under_load = await hand_over([counter, kv], handoffs, load)
            say()
            say("  The load runs to its end, and what was sent is compared with what came back ...")
            counted = await load.finish(ANSWER_LIMIT + requests / 1000)
    say()
    for line in table({"counter": (counter, seen), "kv": (kv, counted)}):
        say(f"  {line}")
    say()
    return verdict([seen, counted], under_load, handoffs)


async def hand_over(services: Sequence[Service], times: int, load: Load) -> int:
    """Hand each service over several times, in turn; return how often it was done under load."""
    under_load = 0
    for number in range(1, times + 1):
        for service in services:
            say(f"  {number:>2}  {await service.hand_over()}")
        under_load += load.running
    return under_load


def table(columns: dict[str, tuple[Service, Tally]]) -> list[str]:
    """Return the result as lines."""
    counts = ("connections", "replies", "lost", "wrong", "reconnects")
    rows = [
        ("", list(columns)),
        *((name, [f"{getattr(tally, name):,}" for _, tally in columns.values()]) for name in counts),
        ("handoffs", [str(len(service.reports)) for service, _ in columns.values()]),
        *(
            (f"pause {name}", [f"{service.pause()[name]:.1f} ms" for service, _ in columns.values()])
            for name in ("p50", "p99", "max")
        ),
    ]
    lines = [f"{name:<12}" + "".join(f"{cell:>14}" for cell in cells) for name, cells in rows]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1:], rule]


def verdict(tallies: Sequence[Tally], under_load: int, handoffs: int) -> bool:
    """Say how it went; return whether it went well."""
    if under_load < handoffs:
        say(
            styled(
                f"  The load ended before the handoffs did: only {under_load} of {handoffs} were under load.",
                "31",
            )
        )
        return False
    if any(tally.lost or tally.wrong or tally.reconnects for tally in tallies):
        say(
            styled(
                "  Something was lost. That is a defect in hotfd; please report it with the table above.",
                "31",
            )
        )
        return False
    say(
        styled(
            "  Nothing was lost: every answer came, once, in order, over the connection it was asked on.",
            "32",
        )
    )
    return True


async def main(clients: int, handoffs: int) -> int:
    """Give the demonstration and clean up; return the exit status."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    directory = Path(tempfile.mkdtemp(prefix="hotfd-demo-"))
    os.environ["HOTFD_RUNTIME_DIR"] = str(directory)
    os.environ.pop("NOTIFY_SOCKET", None)  # whoever supervises this program does not supervise the servers
    try:
        return 0 if await demonstrate(directory, clients, handoffs) else 1
    except (Failed, OSError) as failure:
        print(f"\nhotfd demo: {failure}", file=sys.stderr)
        return 1
    finally:
        end_all(directory)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--clients", type=int, default=300, metavar="N", help="of the line server (default: %(default)s)"
    )
    parser.add_argument("--handoffs", type=int, default=6, metavar="N", help="of each server (default: %(default)s)")
    arguments = parser.parse_args()
    if not shutil.which("redis-benchmark"):
        sys.exit("hotfd demo: redis-benchmark is not installed; apt-get install redis-tools")
    try:
        sys.exit(asyncio.run(main(arguments.clients, arguments.handoffs)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nhotfd demo: interrupted; everything that was started has been ended", file=sys.stderr)
        sys.exit(130)
