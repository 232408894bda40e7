"""``hotfd.run``: a program that is nothing but a server."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack

import prctl

from hotfd import log
from hotfd.app.service import Server, ServerOptions
from hotfd.errors import ConfigError, HandoffRefused

if TYPE_CHECKING:
    from hotfd.framing import Framing
    from hotfd.server.connection import Connection
    from hotfd.state import State

S = TypeVar("S")

EX_TEMPFAIL = 75
"""Exit status of a new process whose handoff failed (sysexits.h): the old one serves, nothing is wrong here."""


def run(
    handler: Callable[[Connection[S]], Awaitable[None]],
    listen: str | Sequence[str],
    *,
    framing: Framing | None = None,
    state: type[S] | State[S] | None = None,
    name: str = "",
    loop: Literal["asyncio", "uvloop"] = "asyncio",
    log_style: Literal["text", "json"] = "text",
    **options: Unpack[ServerOptions],
) -> None:
    """Serve until SIGTERM or SIGINT, or until a new process has taken over; then exit. SIGUSR2 hands over.

    Raises the soft limit of descriptors to the hard one, names the process, logs to standard error unless
    the program has set up logging, and ends the process with a status: 0 when it was stopped or handed
    over, 75 when it was started by a handoff that failed, 1 when it could not start.

    Args:
        handler: serves one connection; see :class:`Server`, also for the other arguments.
        listen: where to listen.
        framing: where frames end.
        state: the type of ``connection.state``.
        name: the service's name.
        loop: ``uvloop`` needs the package of that name.
        log_style: ``text`` or ``json``.
        options: the other arguments of :class:`Server`.

    Raises:
        StateError, ConfigError, ValueError: as :class:`Server`.
    """
    log.configure(log_style)
    raise_descriptor_limit()
    if name:
        prctl.set_name(name[:15])  # PR_SET_NAME takes 15 bytes, prctl(2)

    async def main() -> None:
        server: Server[S] = Server(handler, listen, framing=framing, state=state, name=name, **options)
        running = asyncio.get_running_loop()
        async with server:
            for number in (signal.SIGTERM, signal.SIGINT):
                running.add_signal_handler(number, server.stop)
            if signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL:  # the program has no use of its own for it
                running.add_signal_handler(signal.SIGUSR2, server._hand_over_by_signal)
            await server.serve()

    try:
        with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
            runner.run(main())
    except HandoffRefused as refusal:
        log.event(logging.WARNING, "exit", code=refusal.code, reason=refusal.detail)
        sys.exit(EX_TEMPFAIL)
    except (ConfigError, OSError) as error:
        log.event(logging.ERROR, "exit", reason=str(error))
        sys.exit(1)


def raise_descriptor_limit() -> None:
    """Raise RLIMIT_NOFILE's soft limit to the hard one, as servers that do not use select(2) should."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    if loop != "uvloop":
        raise ValueError(f"loop is 'asyncio' or 'uvloop', not {loop!r}")
    try:
        import uvloop
    except ImportError:
        raise ValueError("loop='uvloop' needs the package uvloop: pip install 'hotfd[uvloop]'") from None
    return uvloop.new_event_loop
