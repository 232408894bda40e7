"""Which process belongs to which worker.

Every server inherits its worker's number in the environment, over all generations. Where the environment may not be
read (a server that has changed its user), the process group tells: the supervisor gives each server one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hotfd import log
from hotfd.control.errors import Unreachable
from hotfd.control.target import find
from hotfd.supervisor import proc
from hotfd.supervisor.worker import Phase, Worker

if TYPE_CHECKING:
    from hotfd.supervisor.service import Service


class Family:
    """All processes below the supervisor.

    Args:
        service: the workers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._groups: dict[int, int] = {}

    def started(self, pid: int, worker: int) -> None:
        """A process was started for a worker, in a process group of its own."""
        self._groups[pid] = worker

    def worker_of(self, pid: int) -> Worker | None:
        """Return the worker that a process belongs to; None when it is not of this service, as far as can be known."""
        for worker in self._service.workers.values():
            if pid in worker.processes:
                return worker
        try:
            process = proc.descendant(pid)
        except OSError:
            return None
        return self._service.workers.get(self._number_of(process) or 0) if process is not None else None

    def names_successor(self, worker: Worker, sender: int, main: int) -> bool:
        """Return whether a process may say that another one serves for its worker now.

        The server's word is taken for one that is dead already, too: its successor, which did not live long.
        """
        try:
            return self.worker_of(main) is worker or (sender == worker.server and not proc.lives(main))
        except OSError:
            return False

    def heirs(self, worker: Worker) -> set[int]:
        """Return who may serve now that a worker's server is dead.

        Only those who must keep another server from being started: who has a control socket, and while a
        handoff ran, who was started by one and may still get there.

        Raises:
            OSError: it cannot be known now, for want of descriptors or memory.
        """
        handing_over = worker.phase is Phase.HANDING_OVER
        return {
            process.pid
            for process in proc.descendants()
            if process.pid not in worker.elders
            and self._number_of(process) == worker.number
            and (_has_control_socket(process.pid) or (handing_over and proc.started_by_handoff(process.pid)))
        }

    def living(self) -> list[int]:
        """Return all living processes below the supervisor, whosever they are; without descriptors, those it knows."""
        try:
            return [process.pid for process in proc.descendants()]
        except OSError as error:
            log.event(logging.CRITICAL, "processes-unseen", reason=error.strerror)
            return sorted(set().union(*(worker.processes for worker in self._service.workers.values())))

    def _number_of(self, process: proc.Descendant) -> int | None:
        return proc.worker_of(process, self._groups)


def _has_control_socket(pid: int) -> bool:
    try:
        find(pid)
    except Unreachable:
        return False
    return True
