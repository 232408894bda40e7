"""The processes below the supervisor: watched by pidfd, signalled without mistaking one for another, and reaped.

A server is a child of the supervisor, or of a shell that was started for it, or of an older generation. The death of
each is known from its pidfd; only children have a status, which goes to their parent. What loses its parent
becomes a child of the supervisor, and is reaped here whether anybody knows it or not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from hotfd import log
from hotfd.transfer.process import ProcessWatch


class Processes:
    """All of them.

    Args:
        on_exit: called once for each watched process that is certainly dead, with its pid and its status as of
            a shell, or None where that is not to be known.
        on_stranger: called with the pid of each process that was reaped, and that nobody watches.
    """

    def __init__(self, on_exit: Callable[[int, int | None], None], on_stranger: Callable[[int], None]) -> None:
        self._on_exit = on_exit
        self._on_stranger = on_stranger
        self._watched: dict[int, ProcessWatch | None] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def watch(self, pid: int) -> None:
        """Learn of a process's end from now on; of one that is dead already, in the next turn of the loop."""
        if pid in self._watched:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._loop.call_soon(self._on_exit, pid, _reaped(pid))
            return
        except OSError as error:  # no descriptor left: the end of a child is still told by SIGCHLD
            log.event(logging.CRITICAL, "process-unwatched", pid=pid, reason=error.strerror)
            self._watched[pid] = None
            return
        self._watched[pid] = ProcessWatch(pid, pidfd, lambda: self._exited(pid))

    def send(self, pid: int, number: int) -> None:
        """Send a signal. One who is gone gets none, and neither does another process that has its pid now."""
        watch = self._watched.get(pid)
        with suppress(ProcessLookupError, PermissionError):
            if watch is not None:
                watch.send(number)
            else:
                os.kill(pid, number)

    def reap(self) -> None:
        """Reap whatever has exited."""
        while (found := _exited_child()) is not None:
            if found in self._watched:
                self._exited(found)
            else:
                _reaped(found)
                self._on_stranger(found)

    def any(self) -> bool:
        """Return whether this process has a child, living or not.

        Only the kernel knows it for certain: whoever goes through /proc may miss a process that is just being made.
        Whatever loses its parent becomes a child here, so without a child there is nothing below at all.
        """
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _exited(self, pid: int) -> None:
        watch = self._watched.pop(pid, None)
        if watch is not None:
            watch.close()
        self._on_exit(pid, _reaped(pid))

    def close(self) -> None:
        """Watch nobody any more. Idempotent."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for watch in self._watched.values():
            if watch is not None:
                watch.close()
        self._watched.clear()


def _exited_child() -> int | None:
    """Return a child that has exited and is not reaped yet, and leave it so."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def _reaped(pid: int) -> int | None:
    """Reap a process; return its status as of a shell, None when it is no child of this one."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if found == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
