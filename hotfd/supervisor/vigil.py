"""Signs of life: asked of servers where it matters, and given to the service manager."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
from hotfd.supervisor.link import PROBE_LIMIT, Link, probe_all
from hotfd.supervisor.proc import cpu_time
from hotfd.supervisor.service import answers
from hotfd.supervisor.worker import Phase, Probe, Worker

if TYPE_CHECKING:
    from hotfd.supervisor.actions import Action
    from hotfd.supervisor.orders import Until
    from hotfd.supervisor.service import Service

PROBE_INTERVAL: Final = 1.0
"""Seconds between two looks at a process that may hang; there is one only during a handoff, and after it."""


class Vigil:
    """Both tasks.

    Args:
        service: the workers.
        do: carries actions out.
        until: see :data:`hotfd.supervisor.orders.Until`.
    """

    def __init__(self, service: Service, do: Callable[[Iterable[Action]], None], until: Until) -> None:
        self._service = service
        self._do = do
        self._until = until
        self._worked: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()

    async def look_after(self) -> None:
        """See whether processes hang where that matters, and whether heirs serve that could not say so."""
        while True:
            await self._until(lambda: bool(self._service.doubtful or self._bereaved()), math.inf)
            probes = self._busy_ones(await probe_all(self._service.doubtful))
            for worker in self._service.workers.values():
                for pid in sorted(probes.keys() & worker.doubtful):
                    self._tell(worker, partial(Worker.probed, pid=pid, probe=probes[pid], now=self._loop.time()))
            for worker in self._bereaved():
                for heir in sorted(worker.heirs):
                    if await _serves(heir):
                        self._tell(worker, partial(Worker.is_ready, pid=heir, now=self._loop.time()))
            await asyncio.sleep(PROBE_INTERVAL)

    def _busy_ones(self, probes: dict[int, Probe]) -> dict[int, Probe]:
        """Tell those that compute, and had no time to answer, from those that do nothing at all."""
        before, self._worked = self._worked, {pid: cpu_time(pid) for pid in probes}
        silent = {pid for pid, probe in probes.items() if probe is Probe.SILENT}
        busy = {pid for pid in silent if self._worked[pid] > before.get(pid, self._worked[pid])}
        return {pid: Probe.BUSY if pid in busy else probe for pid, probe in probes.items()}

    async def give_signs_of_life(self, interval: float) -> None:
        """Tell the manager twice in each interval that all is well, while the servers' control sockets answer."""
        due = self._loop.time()
        while True:
            # A later answer would be too late, and must not hold up the next question.
            answered = answers(await probe_all(self._service.questioned, min(PROBE_LIMIT, interval / 2)))
            self._do(self._service.alive(answered, self._loop.time()))
            due = max(due + interval / 2, self._loop.time())
            await asyncio.sleep(due - self._loop.time())

    def _bereaved(self) -> list[Worker]:
        return [worker for worker in self._service.workers.values() if worker.phase is Phase.BEREAVED]

    def _tell(self, worker: Worker, event: Callable[[Worker], list[Action]]) -> None:
        self._do(self._service.tell(worker.number, self._loop.time(), event))


async def _serves(pid: int) -> bool:
    """Return whether a process says at its control socket that it serves."""
    try:
        async with await Link.open(pid, PROBE_LIMIT) as link:
            status = await link.ask({"type": "status"}, PROBE_LIMIT)
            return isinstance(status, dict) and status.get("state") == "serving"
    except (RequestFailed, ServerGone, Unreachable, OSError):  # the last: no descriptors here; it is asked again
        return False
