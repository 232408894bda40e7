"""What the echo servers have in common: their arguments, their processor, and how they say that they serve."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

MAX_FRAME: Final = 1 << 20
"""Bytes of a payload that every server here takes: hotfd's own default, so that all check the same."""

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: thousands of clients connect at once."""


def arguments(text: str) -> argparse.Namespace:
    """Return ``framing``, ``loop`` and ``cpu``, and pin this process to its processor.

    Args:
        text: what the server is, for ``--help``.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--framing", choices=["length", "lines"], default="length")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--cpu", type=int, help="the processor to run on")
    found = parser.parse_args()
    if found.cpu is not None:
        os.sched_setaffinity(0, {found.cpu})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return found


def listening() -> socket.socket:
    """Return a socket that listens on a port of the kernel's choice."""
    return socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)


def announce(port: int) -> None:
    """Say on standard output where the server is."""
    print(f"127.0.0.1:{port}", flush=True)


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run a server until SIGTERM."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
