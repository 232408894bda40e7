"""A whole program as a real process, handed over for real: for what a test in one process cannot see."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from hotfd import control
from hotfd.config.cache import ENVIRONMENT as CACHE
from hotfd.control.runtime import ENVIRONMENT, socket_name
from hotfd.errors import ControlError, HandoffRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

START_LIMIT: Final = 30.0
"""Seconds that a program may take until it serves; imports on a loaded machine take several."""

STOP_LIMIT: Final = 15.0
"""Seconds that a process may take to end when it is told to; a server gives its connections 10 of them."""

POLL: Final = 0.02
"""Seconds between two looks whether a program serves."""

HANDOFF_LIMIT: Final = 90.0
"""Seconds for a handoff's answer: its own deadlines together, which are shorter."""


class ServerProcess:
    """A program that calls ``hotfd.run``, as a process; a context manager that ends all its generations.

    It blocks: from a coroutine call it as ``await asyncio.to_thread(server.handoff)``.

    Args:
        command: program and arguments, e.g. ``[sys.executable, "chat.py"]``.
        env: variables to add to this process's environment.
        cwd: the directory to run in.

    Attributes:
        pid: the process that serves now.
        generation: 1, and one more after each handoff.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None) -> None:
        self.pid = 0
        self.generation = 1
        self._command = list(command)
        self._env = dict(env or {})
        self._cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfds: dict[int, int] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="hotfd-test-", ignore_cleanup_errors=True)
        try:
            with open(self._log, "wb") as log:
                self._child = subprocess.Popen(
                    self._command,
                    cwd=self._cwd,
                    env={
                        **os.environ,
                        CACHE: f"{self._directory.name}/cache",
                        **self._env,
                        ENVIRONMENT: self._directory.name,
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self._follow(self._child.pid)
            self._await_serving(self._child)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._directory is not None:
            error.add_note(f"the log of {self._command[-1]}:\n{self.log()[-4000:]}")
        self.stop()

    @property
    def addresses(self) -> list[str]:
        """The addresses that it listens on, as ``HOST:PORT`` or ``unix:PATH``, with real ports."""
        return list(self.status()["listeners"])

    def status(self) -> dict[str, Any]:
        """Return what ``hotfd status --json`` shows."""
        return self._ask("status", 5.0)

    def log(self) -> str:
        """Return what its processes have printed and logged."""
        with open(self._log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def handoff(self, **options: Any) -> dict[str, Any]:
        """Replace it by a new process of the same command, and follow that.

        Args:
            options: as those of ``hotfd handoff``, e.g. ``command=[...]`` or ``boundary_timeout=1.0``.
                Without ``probation`` it is 0.2 seconds.

        Returns:
            the report, as ``hotfd handoff --json`` prints it, of a handoff that was carried out.

        Raises:
            HandoffRefused: the old process serves on, and why.
        """
        try:
            report = self._ask("update", HANDOFF_LIMIT, self._notice, **{"probation": 0.2, **options})
        except control.RequestFailed as failure:
            raise HandoffRefused(failure.code, failure.message) from failure
        if report["outcome"] not in {"completed", "partial"}:
            code, _, detail = str(report["reason"]).partition(": ")
            raise HandoffRefused(code, detail)
        if not report["dry_run"]:
            self._follow(report["new_pid"])
            self.generation = report["generation"]
        return report

    def stop(self) -> None:
        """End every process of it, the newest first, and remove what it left. Idempotent."""
        for pid, pidfd in reversed(self._pidfds.items()):
            _end(pid, pidfd)
            os.close(pidfd)
        self._pidfds.clear()
        if self._child is not None:
            self._child.wait()
            self._child = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    @property
    def _log(self) -> str:
        assert self._directory is not None, "the process is over"
        return os.path.join(self._directory.name, "log")

    def _ask(
        self, kind: str, timeout: float, on_event: Callable[[dict[str, Any]], None] | None = None, **fields: Any
    ) -> dict[str, Any]:
        assert self._directory is not None, "the process is over"
        target = control.at(os.path.join(self._directory.name, socket_name(self.pid)))
        with control.Client.connect(target) as client:
            return client.ask(kind, timeout, on_event, **fields)

    def _notice(self, event: dict[str, Any]) -> None:
        """Keep in mind a process that a handoff has started: whoever waits for its outcome may be interrupted."""
        pid = event.get("new_pid")
        if pid and pid not in self._pidfds:
            with suppress(ProcessLookupError):  # it has ended already
                self._pidfds[pid] = os.pidfd_open(pid)

    def _follow(self, pid: int) -> None:
        self._notice({"new_pid": pid})
        self.pid = pid

    def _await_serving(self, child: subprocess.Popen[bytes]) -> None:
        """Wait until the program serves.

        Raises:
            RuntimeError: it ended, or does not serve in time.
        """
        deadline = time.monotonic() + START_LIMIT
        while True:
            with suppress(ControlError):
                if self.status()["state"] == "serving":
                    return
            if time.monotonic() > deadline or _over(self._pidfds[child.pid], POLL):
                how = "does not serve" if child.poll() is None else f"ended with status {child.returncode}"
                raise RuntimeError(f"{self._command} {how}; its log:\n{self.log()[-4000:]}")


def _end(pid: int, pidfd: int) -> None:
    """End a process, by its pidfd, so that no later one with its id is meant."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        if _over(pidfd, STOP_LIMIT):
            return
    raise RuntimeError(f"process {pid} cannot be ended")


def _over(pidfd: int, limit: float) -> bool:
    """Wait some seconds for a process to end, by poll(2): select(2) takes no descriptor above 1,023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(limit * 1000))
