"""What servers are started with: command, directory, environment, and the listening sockets that all of them get."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import AsyncExitStack, suppress
from typing import Final

from hotfd import systemd
from hotfd.supervisor import proc
from hotfd.supervisor.spawn import spawn
from hotfd.transfer.listening import listening_socket
from hotfd.transfer.process import CHANNEL_VARIABLE, inherited_channel

_NOT_PASSED_ON: Final = ("LISTEN_", "WATCHDOG_", "NOTIFY_SOCKET", systemd.SUPERVISOR_VARIABLE, systemd.WORKER_VARIABLE)
"""Prefixes of variables that were meant for the supervisor; the servers get their own."""


class Launcher:
    """Starts servers.

    Args:
        command: program and arguments of a server.
        address: what a server has as ``NOTIFY_SOCKET``.

    Raises:
        HandoffRefused: a handoff is said to have started this process, and its channel is not there.
    """

    def __init__(self, command: tuple[str, ...], address: str) -> None:
        # A handoff may start a supervisor with a server below it. The channel is for the first server: one that is
        # started after it has crashed is not the new process of any handoff.
        self._channel = inherited_channel()
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_PASSED_ON)}
        self._environment["NOTIFY_SOCKET"] = address
        self._environment[systemd.SUPERVISOR_VARIABLE] = str(os.getpid())
        named = os.environ.get("PWD", "")
        self._start = list(command), named if _is_here(named) else os.getcwd()
        self._running: dict[int, tuple[list[str], str]] = {}
        self._learned: dict[int, tuple[list[str], str]] = {}
        self._sockets: list[int] = []

    def listen(self, specs: tuple[str, ...], stack: AsyncExitStack) -> None:
        """Take the sockets that were passed to this process, and make those that are asked for.

        They are kept open, so that clients wait, and are not refused, while a server is started again.

        Args:
            specs: listen addresses.
            stack: closes them in the end.

        Raises:
            OSError, ValueError: one cannot be made.
        """
        for fd in systemd.listen_descriptors(os.environ, os.getpid()):
            stack.callback(os.close, fd)  # of any kind: a socket unit may have FIFOs too, and they are the server's
            self._sockets.append(fd)
        for spec in specs:
            self._sockets.append(stack.enter_context(listening_socket(spec)).fileno())
            if spec.startswith("unix:"):
                stack.callback(_unlink, spec[len("unix:") :])

    def start(self, worker: int) -> int:
        """Start the server of a worker: what ran last there, at first what was asked for.

        Returns:
            its pid.

        Raises:
            CannotStart: it cannot be executed.
        """
        command, cwd = self._learned.get(worker, self._start)
        environment = {**self._environment, systemd.WORKER_VARIABLE: str(worker)}
        if self._channel is None:
            return spawn(command, cwd, environment, self._sockets)
        # Out of the way of the numbers that the sockets will have.
        channel = fcntl.fcntl(self._channel, fcntl.F_DUPFD, systemd.LISTEN_FDS_START + len(self._sockets))
        os.close(self._channel)
        self._channel = None
        try:
            return spawn(command, cwd, {**environment, CHANNEL_VARIABLE: str(channel)}, self._sockets)
        finally:
            os.close(channel)

    def learn(self, worker: int, pid: int) -> None:
        """Remember what a process that serves runs: a crash must not bring back what a handoff has replaced.

        What it runs, and where, is compared with what its predecessor ran, and not with what was asked for: that may
        be a shell around it.
        """
        found = proc.command_line(pid)
        if found is None:
            return
        command, cwd = found
        # The new process of a handoff is started by the full name of what the first one found on the path.
        command[0] = shutil.which(command[0], path=self._environment.get("PATH")) or command[0]
        before = self._running.get(worker)
        self._running[worker] = command, cwd
        if before is not None and before != (command, cwd):
            self._learned[worker] = command, cwd


def _is_here(path: str) -> bool:
    """Return whether a path names the working directory."""
    try:
        return os.path.isabs(path) and os.path.samefile(path, os.getcwd())
    except OSError:
        return False


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
