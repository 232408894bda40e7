"""What a server tells its service manager: systemd, or ``hotfd run``.

======================================  ==============================================================
``READY=1``                             the first process serves
``RELOADING=1`` and ``MONOTONIC_USEC``  a handoff begins
``READY=1``                             it was undone: this process goes on
``MAINPID=`` and ``READY=1``            it is completed: from here on the new process is the service's
``STOPPING=1``                          the service ends
``WATCHDOG=1``                          the event loop turns; twice in each interval that was asked for
======================================  ==============================================================

``MAINPID`` is sent when, and not before, the new process owns everything: a manager that learns it
earlier takes the end of a failed new process for the end of the service. The old process sends it, and the
new one does as well, since the old one may be dead or hang by then.
"""

from __future__ import annotations

import asyncio
import os

from hotfd.systemd import notify, reloading, watchdog_interval

_SEND_EARLY = 0.5
"""Share of the watchdog's interval after which a sign of life is sent; sd_watchdog_enabled(3) says half."""


class Notifier:
    """Tells the service manager of one server's life. Without a manager all of it does nothing."""

    def __init__(self) -> None:
        self._interval = watchdog_interval(os.environ, os.getpid())
        self._timer: asyncio.TimerHandle | None = None

    def serving(self, generation: int, *, main: bool) -> None:
        """This process serves, and is alone responsible for it.

        Args:
            generation: its generation.
            main: whether the manager may take another process for the service's main one.
        """
        lines = [f"MAINPID={os.getpid()}"] if main else []
        notify(*lines, "READY=1", f"STATUS=generation {generation} serves")
        self._live()

    def handing_over(self, generation: int, limit: float) -> None:
        """A handoff begins, which is certainly over after ``limit`` seconds."""
        notify(*reloading(limit), f"STATUS=generation {generation} hands over")

    def went_on(self, generation: int, why: str) -> None:
        """The handoff did not happen or was undone; ``why`` is its reason code."""
        notify("READY=1", f"STATUS=generation {generation} serves; its handoff ended: {why}")

    def handed_over(self, new_pid: int, generation: int) -> None:
        """The new process owns everything; this one gives no sign of life any more."""
        notify(f"MAINPID={new_pid}", "READY=1", f"STATUS=generation {generation} serves")
        self.close()

    def stopping(self) -> None:
        """The service ends, since this process does."""
        notify("STOPPING=1", "STATUS=stopping")

    def close(self) -> None:
        """Give no sign of life any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _live(self) -> None:
        self.close()
        if self._interval is not None:
            notify("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self._interval * _SEND_EARLY, self._live)
