"""All workers of one supervisor: when the service is ready, when it ends, and what its manager is told.

As :mod:`~hotfd.supervisor.worker`, no I/O and no clock. Whatever happens to a worker goes through here, so that
what follows for the whole is decided in one place::

    starting --> serving --> stopping --> exit
                    |            ^
                    +------------+  told to, or a worker is over and cannot be replaced, or none is left
"""

from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final

from hotfd.supervisor.actions import Action, Exit, Finished, Kill, Notify, Send
from hotfd.supervisor.worker import Phase, Policy, Probe, Worker
from hotfd.systemd import reloading

STOP_TIMEOUT: Final = 30.0
"""Seconds from the order to stop until what is left is killed: a server gives its connections ten to send what
is unsent. Shorter than the 90 s of systemd, so that the end is still in order there."""

START_PATIENCE: Final = 300.0
"""Seconds for which a server that starts is trusted without a sign of life: the time of a large cache."""


class Service:
    """The whole.

    Args:
        workers: how many.
        policy: see :class:`hotfd.supervisor.worker.Policy`.
        stop_timeout: seconds from the order to stop until what is left is killed.

    Attributes:
        workers: the workers' machines, by number.
        stopping: whether the service ends.
    """

    def __init__(self, workers: int, policy: Policy, *, stop_timeout: float = STOP_TIMEOUT) -> None:
        self.workers = {number: Worker(number, policy) for number in range(1, workers + 1)}
        self.stopping = False
        self._stop_timeout = stop_timeout
        self._killed = False
        self._kill_at = math.inf
        self._failed: int | None = None
        self._announced = False
        self._reloading = False
        self._told: set[int] = set()
        self._slain: set[int] = set()
        self._exited = False
        self._text = ""
        self._started: dict[int, float] = {}

    # -- looking at it -------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do next."""
        return min([worker.deadline for worker in self.workers.values()] + [self._kill_at])

    @property
    def doubtful(self) -> set[int]:
        """The processes whose signs of life matter now."""
        return set().union(*(worker.doubtful for worker in self.workers.values()))

    @property
    def questioned(self) -> set[int]:
        """The servers whose signs of life the manager's watchdog is about.

        Not those that hand over: one that hangs there is ended, and its successor serves on. A manager that ended
        the service first would end both.
        """
        workers = self.workers.values()
        return {w.server for w in workers if w.server is not None and w.phase is not Phase.HANDING_OVER}

    @property
    def state(self) -> str:
        """The state of the service in a word: the worst that any worker is in, of those that are not over."""
        if self.stopping:
            return "stopping"
        if self.over:
            return Phase.OVER.value
        phases = {worker.phase for worker in self.workers.values()}
        worst = (Phase.WAITING, Phase.BEREAVED, Phase.IDLE, Phase.STARTING, Phase.HANDING_OVER)
        return next((phase.value for phase in worst if phase in phases), Phase.SERVING.value)

    @property
    def over(self) -> bool:
        """Whether no worker serves any more, nor will."""
        return all(worker.phase is Phase.OVER for worker in self.workers.values())

    @property
    def exit_status(self) -> int:
        """What the supervisor exits with: what failed first, else the highest status of a worker."""
        return self._failed if self._failed is not None else max(worker.status for worker in self.workers.values())

    # -- what happens --------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Begin: start every worker."""
        return self._after(now, *(worker.start() for worker in self.workers.values()))

    def tell(self, number: int, now: float, event: Callable[[Worker], list[Action]]) -> list[Action]:
        """Pass an event on to a worker, and see what follows for the whole.

        Args:
            number: the worker's.
            now: the time.
            event: calls one of the worker's methods.
        """
        return self._after(now, event(self.workers[number]))

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        return self._after(now, *(worker.tick(now) for worker in self.workers.values()))

    def closing(self, left: Collection[int], now: float) -> list[Action]:
        """No worker serves any more: see to what is left, and leave when nothing is.

        Args:
            left: all living descendants of this process.
            now: the time.
        """
        if not self.over or self._exited:
            return []
        if not left:
            self._exited = True
            return [Exit(self.exit_status)]
        if self._killed or now >= self._kill_at:
            return self._kill(set(left) - self._slain)  # what does not die at once is not killed again and again
        strangers = sorted(set(left) - self._told)
        self._told |= set(strangers)
        return [Send(pid, signal.SIGTERM) for pid in strangers]

    def stop(self, number: int, left: Collection[int], now: float) -> list[Action]:
        """The order to end: the first time in order, the second time at once.

        Args:
            number: the signal that brought it, which is passed on.
            left: all living descendants of this process.
            now: the time.
        """
        if self.stopping:
            return self._kill(left)
        return self._after(now, self._stop(number, now))

    def overdue(self, left: Collection[int], now: float) -> list[Action]:
        """Kill what is left when the time to stop is over."""
        return self._kill(left) if now >= self._kill_at else []

    def alive(self, answered: Collection[int], now: float) -> list[Action]:
        """The watchdog's question: tell the manager that all is well, if it is.

        Args:
            answered: the processes that gave a sign of life just now.
            now: the time.
        """
        well = all(self._is_well(worker, answered, now) for worker in self.workers.values())
        return [Notify(("WATCHDOG=1",))] if well else []

    def _is_well(self, worker: Worker, answered: Collection[int], now: float) -> bool:
        if worker.server in self.questioned:
            return worker.server in answered
        if worker.phase is Phase.STARTING:
            return now - self._started.get(worker.number, now) < START_PATIENCE
        return True  # its phase has a limit of its own

    # -- what follows --------------------------------------------------------------------------------

    def _after(self, now: float, *results: Iterable[Action]) -> list[Action]:
        actions = [action for result in results for action in result]
        for worker in self.workers.values():
            if worker.phase is not Phase.STARTING:
                self._started.pop(worker.number, None)
            else:
                self._started.setdefault(worker.number, now)
        for action in list(actions):
            match action:
                case Send(pid=pid):
                    self._told.add(pid)
                case Finished(status=status, meant=meant):
                    if status and self._failed is None:
                        self._failed = status
                    if not self.stopping and (not meant or self.over):
                        actions += self._after(now, self._stop(signal.SIGTERM, now))
        return actions + self._news()

    def _stop(self, number: int, now: float) -> list[Action]:
        self.stopping = True
        self._kill_at = now + self._stop_timeout
        self._text = "stopping"
        actions: list[Action] = [Notify(("STOPPING=1", "STATUS=stopping"))]
        for worker in self.workers.values():
            actions += worker.stop(number)
        return actions

    def _kill(self, left: Collection[int]) -> list[Action]:
        self._killed = True
        self._kill_at = math.inf
        self._slain |= set(left)
        return [Kill(pid, "the time to stop is over") for pid in sorted(left)]

    def _news(self) -> list[Action]:
        """Tell the manager what is different now."""
        if self.stopping:
            return []
        workers = self.workers.values()
        if not self._announced:
            if not all(worker.ready or worker.phase is Phase.OVER for worker in workers):
                return []
            self._announced = True
            return [Notify(("READY=1", self._status()))]
        handing_over = any(worker.phase is Phase.HANDING_OVER for worker in workers)
        if handing_over != self._reloading:
            self._reloading = handing_over
            lines = reloading() if handing_over else ("READY=1",)
            return [Notify((*lines, self._status()))]
        before, text = self._text, self._status()
        return [Notify((text,))] if text != f"STATUS={before}" else []

    def _status(self) -> str:
        counts = Counter(worker.phase.value for worker in self.workers.values())
        if len(self.workers) == 1:
            self._text = next(iter(counts))
        else:
            self._text = ", ".join(f"{count} of {len(self.workers)} {phase}" for phase, count in sorted(counts.items()))
        return f"STATUS={self._text}"


def answers(probes: dict[int, Probe]) -> set[int]:
    """Return the processes that have answered."""
    return {pid for pid, probe in probes.items() if probe is Probe.ANSWERED}
