"""The handoffs of one process to those that come after it: one at a time, and what is remembered of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hotfd import log
from hotfd.errors import HandoffRefused

if TYPE_CHECKING:
    from hotfd.app.events import Hub
    from hotfd.app.notify import Notifier
    from hotfd.report import Report
    from hotfd.server.cutover import Cutover
    from hotfd.server.neighbours import Neighbours

REPORTS: Final = 16
"""Reports of past handoffs that a process remembers, for a client that lost the answer."""


class Succession:
    """Who comes after this process.

    Args:
        notifier: tells the service manager.
        events: tells everybody who watches.
        forget: removes the control socket of a new process that died; called with its pid.
        end: ends this process.

    Attributes:
        cutover: the handoff that runs, or None.
        successor: the process that serves from now on; None as long as this one does.
    """

    def __init__(self, notifier: Notifier, events: Hub, forget: Callable[[int], None], end: Callable[[], None]) -> None:
        self.cutover: Cutover | None = None
        self.successor: int | None = None
        self._notifier = notifier
        self._events = events
        self._forget = forget
        self._end = end
        self._reports: dict[str, Report] = {}
        self._stopping = False
        self._drain: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Check that a handoff may begin.

        Raises:
            HandoffRefused: one runs, or has succeeded.
        """
        if self.cutover is not None:
            raise HandoffRefused("handoff-in-progress", f"handoff {self.cutover.id} runs; wait for its end")
        if self.successor is not None:
            raise HandoffRefused("handed-over", f"process {self.successor} serves; hand that one over")

    def stop(self) -> None:
        """Give the handoff that runs up if it has not begun to move sessions; this process ends after it."""
        assert self.cutover is not None
        log.event(logging.WARNING, "stop-waits-for-handoff", phase=self.cutover.phase)
        self._stopping = True
        self.cutover.cancel()

    def report(self, id: object) -> Report | None:
        """Return the report of a handoff; None when none is remembered."""
        return self._reports.get(id) if isinstance(id, str) else None

    @property
    def last_report(self) -> Report | None:
        """The report of the handoff that ended last."""
        return next(reversed(self._reports.values()), None)

    async def run(self, cutover: Cutover, generation: int, neighbours: Neighbours) -> Report:
        """Hand over.

        Args:
            cutover: the handoff.
            generation: of this process.
            neighbours: the older and the newer processes.

        Returns:
            its report. After one that succeeded this process serves what was kept until it ends, and then ends.
        """
        self.cutover = cutover
        in_earnest = cutover.options.dry_run is None
        if in_earnest:
            self._notifier.handing_over(generation, cutover.options.patience)
        try:
            if in_earnest:
                await neighbours.quiet()
            report = await cutover.run()
        except BaseException:
            self.cutover = None
            self._end()  # cancelled: the program ends
            raise
        self.cutover = None
        self._remember(report)
        if report.exit_status != 1 and not report.dry_run:
            assert report.new_pid is not None
            self.successor = report.new_pid
            self._notifier.handed_over(report.new_pid, report.generation)
            neighbours.replaced(cutover)
            self._drain = asyncio.get_running_loop().create_task(self._leave_when_idle(neighbours))
        else:
            neighbours.loud()
            if report.new_pid is not None:
                self._forget(report.new_pid)
            if in_earnest and not self._stopping:
                self._notifier.went_on(generation, str(report.reason).partition(":")[0])
        self._events.outcome(report)
        if self.successor is not None:
            self._events.close(self.successor)
        if self._stopping:
            if self.successor is None:
                self._notifier.stopping()
            self._end()
        return report

    def _remember(self, report: Report) -> None:
        self._reports[report.id] = report
        while len(self._reports) > REPORTS:
            del self._reports[next(iter(self._reports))]

    async def _leave_when_idle(self, neighbours: Neighbours) -> None:
        """Serve what was kept until it ends, and then end."""
        await neighbours.left()
        self._end()
