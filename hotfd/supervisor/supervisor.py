"""``hotfd run``: carries out what the machines decide, and tells them what happens.

One event after another: an exit, a message of a server, a signal, a time that has come. Each is passed to the machine,
and the actions that it returns are carried out before the next one is. Before the end of a process is judged, what
the servers have said is read, since what a server said before it died comes first.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import prctl

from hotfd import log, systemd
from hotfd._version import __version__
from hotfd.control.endpoint import Endpoint
from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
from hotfd.control.runtime import RuntimeDirectory
from hotfd.control.target import find
from hotfd.errors import ControlError, HandoffRefused
from hotfd.supervisor import proc
from hotfd.supervisor.actions import (
    Action,
    Exit,
    Finished,
    Kill,
    Notify,
    Restart,
    Send,
    Serves,
    Spawn,
    Watch,
)
from hotfd.supervisor.inbox import Inbox
from hotfd.supervisor.link import PROBE_LIMIT, Link, probe_all
from hotfd.supervisor.orders import ATTENDED, Orders
from hotfd.supervisor.pidfile import PidFile
from hotfd.supervisor.processes import Processes
from hotfd.supervisor.service import STOP_TIMEOUT, Service, answers
from hotfd.supervisor.spawn import CannotStart, spawn
from hotfd.supervisor.worker import Phase, Policy, Worker
from hotfd.transfer.listening import listening_socket

STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Signals that end the service. The second one ends it at once."""

PASSED_ON: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGALRM, signal.SIGVTALRM)
"""Signals that are the servers' business: they mean what the program makes of them."""

PROBE_INTERVAL: Final = 1.0
"""Seconds between two looks at a process that may hang; there is one only during a handoff, and after it."""

_NOT_PASSED_ON: Final = ("LISTEN_", "WATCHDOG_", "NOTIFY_SOCKET", systemd.SUPERVISOR_VARIABLE, systemd.WORKER_VARIABLE)
"""Prefixes of variables that were meant for the supervisor; the servers get their own."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator asks of ``hotfd run``.

    Attributes:
        command: the server's program and arguments.
        name: the service's name.
        pidfile: where the pid file is to be, or None.
        workers: how many servers.
        listen: addresses whose sockets the supervisor makes, and every server gets.
        policy: when servers are started again, and when they count as hung.
        stop_timeout: seconds from the order to stop until what is left is killed.
    """

    command: tuple[str, ...]
    name: str
    pidfile: str | None = None
    workers: int = 1
    listen: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    stop_timeout: float = STOP_TIMEOUT


class Supervisor:
    """The stable parent. It must be made inside of a running loop, in the process's only thread.

    Args:
        settings: what is asked for.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._service = Service(settings.workers, settings.policy, stop_timeout=settings.stop_timeout)
        self._loop = asyncio.get_running_loop()
        self._actions: deque[Action] = deque()
        self._working = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[int] = self._loop.create_future()
        self._roots: dict[int, int] = {}
        self._seen_commands: dict[int, list[str]] = {}
        self._commands: dict[int, tuple[list[str], str]] = {}
        self._pidfile = PidFile(settings.pidfile) if settings.pidfile is not None else None
        self._manager = {name: os.environ[name] for name in ("NOTIFY_SOCKET",) if name in os.environ}
        self._watchdog = systemd.watchdog_interval(os.environ, os.getpid())
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_PASSED_ON)}
        self._cwd = os.environ.get("PWD", "") if _is_here(os.environ.get("PWD", "")) else os.getcwd()
        self._started = time.time()
        self._sockets: list[socket.socket] = []
        self._paths: list[str] = []
        self._directory: RuntimeDirectory | None = None
        self._endpoint: Endpoint | None = None
        self._orders = Orders(self._service, self._about, self.until)

    # -- life ----------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Supervise until everything has ended.

        Returns:
            the exit status.

        Raises:
            OSError, ValueError: an address cannot be listened on, or the pid file's directory is not there.
        """
        prctl.set_child_subreaper(1)
        try:
            self._listen()
            self._inbox = Inbox(self._heard)
            self._processes = Processes(self._exited, self._changed)
            self._handle_signals()
            await self._open_control()
            self._start(self._look_after())
            if self._watchdog is not None:
                self._start(self._give_signs_of_life(self._watchdog))
            log.event(logging.INFO, "supervising", name=self._settings.name, workers=self._settings.workers)
            self._do(self._service.start(self._now()))
            return await self._over
        finally:
            await self._close()

    def _listen(self) -> None:
        for fd in systemd.listen_descriptors(os.environ, os.getpid()):
            self._sockets.append(socket.socket(fileno=fd))
        for spec in self._settings.listen:
            self._sockets.append(listening_socket(spec))
            if spec.startswith("unix:"):
                self._paths.append(spec[len("unix:") :])

    def _handle_signals(self) -> None:
        for number in STOPS:
            self._loop.add_signal_handler(number, self._stop, number)
        for number in PASSED_ON:
            self._loop.add_signal_handler(number, self._pass_on, number)
        self._loop.add_signal_handler(signal.SIGUSR2, self._hand_over)

    async def _open_control(self) -> None:
        self._endpoint = Endpoint(self._orders, self._greeting, attended=ATTENDED)
        try:
            self._directory = RuntimeDirectory.open()
            await self._endpoint.start(self._directory)
        except (ControlError, OSError) as error:
            log.event(logging.ERROR, "no-control-socket", reason=str(error))
            self._endpoint = None

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._endpoint is not None:
            await self._endpoint.aclose()
        if self._directory is not None:
            self._directory.close()
        if hasattr(self, "_processes"):
            self._processes.close()
        if hasattr(self, "_inbox"):
            self._inbox.close()
        for number in (*STOPS, *PASSED_ON, signal.SIGUSR2):
            self._loop.remove_signal_handler(number)
        for sock in self._sockets:
            sock.close()
        for path in self._paths:
            with suppress(OSError):
                os.unlink(path)
        if self._pidfile is not None:
            self._pidfile.remove()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- events and actions --------------------------------------------------------------------------

    def _now(self) -> float:
        return self._loop.time()

    def _tell(self, worker: int, event: Callable[[Worker], list[Action]]) -> None:
        self._do(self._service.tell(worker, self._now(), event))

    def _do(self, actions: Iterable[Action]) -> None:
        """Carry actions out, and those that follow from them; then see what is due next."""
        self._actions.extend(actions)
        if self._working:
            return
        self._working = True
        try:
            while self._actions or self._is_closing():
                if self._actions:
                    self._carry_out(self._actions.popleft())
        finally:
            self._working = False
        self._arm()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _is_closing(self) -> bool:
        """See to the rest once no worker serves any more; return whether there is something to do."""
        if self._service.over:
            self._actions.extend(self._service.closing(self._left(), self._now()))
        return bool(self._actions)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Spawn(worker=worker):
                self._spawn(worker)
            case Watch(pid=pid):
                self._processes.watch(pid)
            case Send(pid=pid, number=number):
                self._processes.send(pid, number)
                if number in STOPS:  # one that is stopped would not hear of it; systemd does the same
                    self._processes.send(pid, signal.SIGCONT)
            case Kill(pid=pid, why=why):
                log.event(logging.WARNING, "killed", pid=pid, reason=why)
                self._processes.send(pid, signal.SIGKILL)
            case Serves(worker=worker, pid=pid):
                log.event(logging.INFO, "serves", worker=worker, pid=pid)
                self._learn_command(worker, pid)
            case Restart(worker=worker, status=status, seconds=seconds):
                log.event(logging.ERROR, "crashed", worker=worker, status=status, restart_in_s=seconds)
            case Finished(worker=worker, status=status, meant=meant):
                level = logging.INFO if meant and not status else logging.ERROR
                log.event(level, "ended", worker=worker, status=status, meant=meant)
            case Notify(lines=lines):
                systemd.notify(*lines, environment=self._manager)
                self._write_pidfile(lines)
            case Exit(status=status):
                if not self._over.done():
                    self._over.set_result(status)

    def _arm(self) -> None:
        """Come back when something is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._service.deadline < math.inf and not self._over.done():
            self._timer = self._loop.call_at(self._service.deadline, self._tick)

    def _tick(self) -> None:
        now = self._now()
        self._do([*self._service.tick(now), *self._service.overdue(self._left(), now)])

    async def until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Wait until a condition on the workers holds, for ``limit`` seconds at most; return whether it does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit if limit < math.inf else None):
                while not condition():
                    waiter = self._loop.create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        return condition()

    # -- processes -----------------------------------------------------------------------------------

    def _spawn(self, worker: int) -> None:
        command, cwd = self._commands.get(worker, (list(self._settings.command), self._cwd))
        environment = {
            **self._environment,
            "NOTIFY_SOCKET": self._inbox.address,
            systemd.SUPERVISOR_VARIABLE: str(os.getpid()),
            systemd.WORKER_VARIABLE: str(worker),
        }
        try:
            pid = spawn(command, cwd, environment, [sock.fileno() for sock in self._sockets])
        except CannotStart as error:
            log.event(logging.ERROR, "cannot-start", worker=worker, reason=error.detail)
            status = error.status
            self._tell(worker, lambda machine: machine.not_spawned(status, self._now()))
            return
        log.event(logging.INFO, "started", worker=worker, pid=pid)
        self._roots[pid] = worker
        self._tell(worker, lambda machine: machine.spawned(pid))

    def _exited(self, pid: int, status: int | None) -> None:
        self._inbox.drain()
        for worker in self._service.workers.values():
            if pid in worker.processes:
                heirs = self._heirs(worker) if pid == worker.server else set()
                self._tell(worker.number, lambda machine: machine.exited(pid, status, heirs, self._now()))  # noqa: B023
                return
        self._changed()

    def _changed(self) -> None:
        """Something has ended that no worker knows: when everything else has too, that was the last of it."""
        self._do(())

    def _heirs(self, worker: Worker) -> set[int]:
        """Return who may serve now that a worker's server is dead: only those must keep another from being started."""
        handing_over = worker.phase is Phase.HANDING_OVER
        return {
            process.pid
            for process in proc.descendants()
            if process.pid not in worker.elders
            and proc.worker_of(process, self._roots) == worker.number
            and (_has_control_socket(process.pid) or (handing_over and proc.started_by_handoff(process.pid)))
        }

    def _left(self) -> list[int]:
        return [process.pid for process in proc.descendants()]

    def _learn_command(self, worker: int, pid: int) -> None:
        """Remember what runs now: a crash must not bring a version back that a handoff has replaced."""
        found = proc.command_line(pid)
        if found is None:
            return
        before = self._seen_commands.get(worker)
        self._seen_commands[worker] = found[0]
        if before is not None and before != found[0]:
            self._commands[worker] = found

    # -- what servers say ----------------------------------------------------------------------------

    def _heard(self, pid: int, said: dict[str, str]) -> None:
        worker = self._worker_of(pid)
        if worker is None:
            log.event(logging.WARNING, "notify-ignored", pid=pid, reason="the process is not of this service")
            return
        now = self._now()
        main = said.get("MAINPID", "")
        if main.isdecimal():
            new = int(main)
            if self._worker_of(new) == worker:
                self._tell(worker, lambda machine: machine.succeeded(new, now))
            else:
                log.event(logging.WARNING, "notify-ignored", pid=pid, reason="MAINPID is not of this service")
        if said.get("STOPPING") == "1":
            self._tell(worker, lambda machine: machine.ends(pid))
        if said.get("RELOADING") == "1":
            usec = said.get(systemd.LIMIT_VARIABLE, "")
            limit = int(usec) / 1e6 if usec.isdecimal() else None
            self._tell(worker, lambda machine: machine.hands_over(pid, now, limit))
        if said.get("READY") == "1":
            self._tell(worker, lambda machine: machine.is_ready(pid, now))

    def _worker_of(self, pid: int) -> int | None:
        """Return the number of the worker that a process belongs to; None when it is not of this service."""
        for worker in self._service.workers.values():
            if pid in worker.processes:
                return worker.number
        for process in proc.descendants():
            if process.pid == pid:
                return proc.worker_of(process, self._roots)
        return None

    # -- signals -------------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        log.event(logging.INFO, "stopping", signal=signal.Signals(number).name)
        self._do(self._service.stop(number, self._left(), self._now()))

    def _pass_on(self, number: int) -> None:
        """Pass a signal on, unless the server would only die of it."""
        for worker in self._service.workers.values():
            pid = worker.server if worker.server is not None else worker.root
            if pid is None:
                continue
            if proc.survives(pid, number):
                self._processes.send(pid, number)
            else:
                log.event(logging.WARNING, "signal-not-passed-on", signal=signal.Signals(number).name, pid=pid)

    def _hand_over(self) -> None:
        """SIGUSR2: the same as ``hotfd handoff`` without options."""
        self._start(self._update())

    async def _update(self) -> None:
        try:
            report = await self._orders.update({"type": "update"}, lambda event: None)
        except HandoffRefused as refusal:
            log.event(logging.ERROR, "handoff-refused", code=refusal.code, reason=refusal.detail)
            return
        level = logging.INFO if report["outcome"] in {"completed", "partial"} else logging.ERROR
        log.event(level, "handoff", outcome=report["outcome"], reason=report["reason"], id=report["id"])

    # -- signs of life -------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """See whether processes hang where that matters, and whether heirs serve that have not said so."""
        while True:
            await self.until(lambda: bool(self._service.doubtful or self._bereaved()), math.inf)
            probes = await probe_all(self._service.doubtful)
            for worker in list(self._service.workers.values()):
                for pid in sorted(probes.keys() & worker.doubtful):
                    probe, now = probes[pid], self._now()
                    self._tell(worker.number, lambda machine: machine.probed(pid, probe, now))  # noqa: B023
            for worker in self._bereaved():
                for heir in sorted(worker.heirs):
                    if await _serves(heir):
                        self._tell(worker.number, lambda machine: machine.is_ready(heir, self._now()))  # noqa: B023
            await asyncio.sleep(PROBE_INTERVAL)

    def _bereaved(self) -> list[Worker]:
        return [worker for worker in self._service.workers.values() if worker.phase is Phase.BEREAVED]

    async def _give_signs_of_life(self, interval: float) -> None:
        """Twice in each interval, while the servers' control sockets answer."""
        due = self._now()
        while True:
            servers = {worker.server for worker in self._service.workers.values()}
            answered = answers(await probe_all({pid for pid in servers if pid is not None}))
            self._do(self._service.alive(answered, self._now()))
            due = max(due + interval / 2, self._now())
            await asyncio.sleep(due - self._now())

    # -- being asked ---------------------------------------------------------------------------------

    def _greeting(self) -> dict[str, Any]:
        return {"name": self._settings.name, "role": "supervisor", "workers": self._settings.workers}

    def _about(self) -> dict[str, Any]:
        return {
            "name": self._settings.name,
            "version": __version__,
            "uptime_s": round(time.time() - self._started, 1),
            "restarts": sum(worker.restarted for worker in self._service.workers.values()),
        }

    def _write_pidfile(self, lines: tuple[str, ...]) -> None:
        if self._pidfile is not None and "READY=1" in lines:
            try:
                self._pidfile.write()
            except OSError as error:
                log.event(logging.ERROR, "pidfile-not-written", path=self._pidfile.path, reason=error.strerror)


def _is_here(path: str) -> bool:
    """Return whether a path names the working directory: by its name, a link that is moved takes effect."""
    try:
        return os.path.isabs(path) and os.path.samefile(path, os.getcwd())
    except OSError:
        return False


def _has_control_socket(pid: int) -> bool:
    try:
        find(pid)
    except Unreachable:
        return False
    return True


async def _serves(pid: int) -> bool:
    """Return whether a process says at its control socket that it serves."""
    try:
        async with await Link.open(pid, PROBE_LIMIT) as link:
            return (await link.ask({"type": "status"}, PROBE_LIMIT)).get("state") == "serving"
    except (RequestFailed, ServerGone, Unreachable):
        return False
