"""A configuration server as a program."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

import prctl

from hotfd import log
from hotfd.app.runner import EX_TEMPFAIL, raise_descriptor_limit
from hotfd.app.service import Server
from hotfd.config.open import open_store
from hotfd.distribution.attendant import Attendant
from hotfd.distribution.relay import Relay
from hotfd.distribution.subscriber import Subscriber
from hotfd.errors import ConfigError, HandoffRefused

if TYPE_CHECKING:
    from hotfd.distribution.settings import Settings


class ConfigurationServer(Server[Subscriber]):
    """A hotfd server whose connections are subscribers.

    Args:
        settings: what it is started with.

    Raises:
        ConfigError: its store or its certificate cannot be used.
        ValueError: an address is none.
    """

    def __init__(self, settings: Settings) -> None:
        tls = settings.context()
        self._settings = settings
        self.relay = Relay(open_store(settings.store), settings.modules, settings.interval, self.advertised)
        attendant = Attendant(self.relay, tls, self.identity, settings.max_subscribers)
        relay = self.relay
        super().__init__(
            attendant.serve,
            settings.listen,
            framing=attendant.framing,
            state=Subscriber,
            name=settings.name,
            on_start=relay.load,
            on_freeze=relay.hurry,
            background=[relay.watch, relay.announce, relay.deliver, relay.remind],
            healthy=lambda: relay.knowledge.ready,  # a new process that knows nothing leaves the subscribers to the old
            control=list(settings.control) or True,
            control_token=settings.control_token,
        )

    def advertised(self) -> list[str]:
        """Return the addresses to register."""
        own = [address for address in self.addresses if not address.startswith("unix:")]
        return list(self._settings.advertise) or own

    def identity(self) -> str:
        """Return an id that is the same over all handoffs, and no other server's.

        Hosts made from one image may have one name, and all of them listen at ``0.0.0.0:7400``; what they advertise
        differs, or else nobody could tell them apart.
        """
        return f"{socket.gethostname()} {', '.join(dict.fromkeys([*self.advertised(), *self.addresses]))}"[:1000]

    def status(self) -> dict[str, Any]:
        """Return what ``hotfd status`` shows."""
        return {**super().status(), "distribution": self.relay.status()}


def serve(settings: Settings, log_style: str = "text") -> int:
    """Serve until SIGTERM or SIGINT, or until a new process has taken over. SIGUSR2 hands over.

    Args:
        settings: what to serve, and where.
        log_style: ``text`` or ``json``.

    Returns:
        the exit status, as :func:`hotfd.run` has it.
    """
    log.configure(log_style)
    raise_descriptor_limit()
    prctl.set_name(settings.name[:15])  # PR_SET_NAME takes 15 bytes, prctl(2)
    try:
        asyncio.run(_serve(settings))
    except HandoffRefused as refusal:
        log.event(logging.WARNING, "exit", code=refusal.code, reason=refusal.detail)
        return EX_TEMPFAIL
    except (OSError, ValueError, ConfigError) as error:
        log.event(logging.ERROR, "exit", reason=str(error))
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    server = ConfigurationServer(settings)
    loop = asyncio.get_running_loop()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        server.stop()

    try:
        async with server:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            loop.add_signal_handler(signal.SIGUSR2, server._hand_over_by_signal)
            await server.serve()
            await server.relay.hurry()
            if stopped and server.status()["successor"] is None:
                await server.relay.withdraw()
    finally:
        await server.relay.aclose()
