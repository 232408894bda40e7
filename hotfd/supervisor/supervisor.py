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
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import prctl

from hotfd import log, systemd
from hotfd._version import __version__
from hotfd.control.endpoint import Endpoint
from hotfd.control.runtime import RuntimeDirectory, socket_name
from hotfd.control.sweep import remove_dead
from hotfd.errors import ControlError, HandoffRefused
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
from hotfd.supervisor.family import Family
from hotfd.supervisor.inbox import Inbox
from hotfd.supervisor.launcher import Launcher
from hotfd.supervisor.orders import ATTENDED, Orders
from hotfd.supervisor.pidfile import PidFile
from hotfd.supervisor.proc import survives
from hotfd.supervisor.processes import Processes
from hotfd.supervisor.service import Service
from hotfd.supervisor.spawn import CannotStart
from hotfd.supervisor.vigil import Vigil
from hotfd.supervisor.worker import Worker

if TYPE_CHECKING:
    from hotfd.supervisor.settings import Settings

STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Signals that end the service. The second one ends it at once."""

PASSED_ON: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGALRM, signal.SIGVTALRM)
"""Signals that are the servers' business: they mean what the program makes of them."""

LOOK_AGAIN: Final = 0.2
"""Seconds after which the processes are looked at again, when there was no descriptor for it, or one was missed."""

MAX_STRANGERS: Final = 64
"""Processes of other services that are logged when they speak to this one."""


class Supervisor:
    """The stable parent. It must be made inside of a running loop, in the process's only thread.

    Args:
        settings: what is asked for.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._service = Service(settings.workers, settings.policy, stop_timeout=settings.stop_timeout)
        self._family = Family(self._service)
        self._loop = asyncio.get_running_loop()
        self._actions: deque[Action] = deque()
        self._working = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._strangers: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[int] = self._loop.create_future()
        self._pidfile = PidFile(settings.pidfile) if settings.pidfile is not None else None
        self._manager = {name: os.environ[name] for name in ("NOTIFY_SOCKET",) if name in os.environ}
        self._watchdog = systemd.watchdog_interval(os.environ, os.getpid())
        self._started = time.time()
        self._directory: RuntimeDirectory | None = None

    # -- life ----------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Supervise until everything has ended.

        Returns:
            the exit status.

        Raises:
            OSError, ValueError: an address cannot be listened on, or the pid file is another supervisor's.
            HandoffRefused: a handoff is said to have started this process, and its channel is not there.
        """
        prctl.set_child_subreaper(1)
        async with AsyncExitStack() as stack:
            if self._pidfile is not None:
                self._pidfile.check()
                stack.callback(self._pidfile.remove)
            self._inbox = Inbox(self._heard)
            stack.callback(self._inbox.close)
            self._launcher = Launcher(self._settings.command, self._inbox.address)
            self._launcher.listen(self._settings.listen, stack)
            self._processes = Processes(self._exited, self._stranger_exited)
            stack.callback(self._processes.close)
            self._orders = Orders(self._service, self._about, self.until, self._inbox.drain)
            self._handle_signals(stack)
            await self._open_control(stack)
            stack.push_async_callback(self._end_tasks)
            vigil = Vigil(self._service, self._do, self.until)
            self._start(vigil.look_after())
            if self._watchdog is not None:
                self._start(vigil.give_signs_of_life(self._watchdog))
            log.event(logging.INFO, "supervising", name=self._settings.name, workers=self._settings.workers)
            self._do(self._service.start(self._loop.time()))
            return await self._over

    def _handle_signals(self, stack: AsyncExitStack) -> None:
        handlers: dict[int, Callable[[], None]] = {signal.SIGUSR2: self._hand_over}
        handlers |= {number: partial(self._stop, number) for number in STOPS}
        handlers |= {number: partial(self._pass_on, number) for number in PASSED_ON}
        for number, handler in handlers.items():
            self._loop.add_signal_handler(number, handler)
            stack.callback(self._loop.remove_signal_handler, number)

    async def _open_control(self, stack: AsyncExitStack) -> None:
        endpoint = Endpoint(self._orders, self._greeting, attended=ATTENDED)
        try:
            directory = self._directory = stack.enter_context(RuntimeDirectory.open())
            await endpoint.start(directory)
            stack.push_async_callback(endpoint.aclose)
        except (ControlError, OSError) as error:
            log.event(logging.ERROR, "no-control-socket", reason=str(error))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- events and actions --------------------------------------------------------------------------

    def _tell(self, worker: int, event: Callable[[Worker], list[Action]]) -> None:
        self._do(self._service.tell(worker, self._loop.time(), event))

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
            left = self._family.living()
            if not left and self._processes.any():  # one that was made while the others were looked at
                self._loop.call_later(LOOK_AGAIN, self._do, ())
            else:
                self._actions.extend(self._service.closing(left, self._loop.time()))
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
                self._launcher.learn(worker, pid)
            case Restart(worker=worker, status=status, seconds=seconds):
                log.event(logging.ERROR, "crashed", worker=worker, status=status, restart_in_s=seconds)
            case Finished(worker=worker, status=status, meant=meant):
                level = logging.INFO if meant and not status else logging.ERROR
                log.event(level, "ended", worker=worker, status=status, meant=meant)
            case Notify(lines=lines):
                if "READY=1" in lines:
                    self._write_pidfile()  # first: a manager that has heard of READY may read it
                systemd.notify(*lines, environment=self._manager)
            case Exit(status=status):
                self._over.set_result(status)

    def _arm(self) -> None:
        """Come back when something is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._service.deadline < math.inf and not self._over.done():
            self._timer = self._loop.call_at(self._service.deadline, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        self._do([*self._service.tick(now), *self._service.overdue(self._family.living(), now)])

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

    def _spawn(self, number: int) -> None:
        try:
            pid = self._launcher.start(number)
        except CannotStart as error:
            log.event(logging.ERROR, "cannot-start", worker=number, reason=error.detail)
            self._tell(number, partial(Worker.not_spawned, status=error.status, now=self._loop.time()))
            return
        log.event(logging.INFO, "started", worker=number, pid=pid)
        self._family.started(pid, number)
        self._tell(number, partial(Worker.spawned, pid=pid))

    def _exited(self, pid: int, status: int | None) -> None:
        self._inbox.drain()
        worker = next((w for w in self._service.workers.values() if pid in w.processes), None)
        if worker is None:
            self._stranger_exited(pid)
            return
        try:
            heirs = self._family.heirs(worker) if pid == worker.server else set()
        except OSError as error:  # a guess might start a server beside one that lives
            log.event(logging.CRITICAL, "processes-unseen", reason=error.strerror)
            self._loop.call_later(LOOK_AGAIN, self._exited, pid, status)
            return
        self._tidy_up_after(pid)
        event = partial(Worker.exited, pid=pid, status=status, heirs=heirs, now=self._loop.time())
        self._tell(worker.number, event)

    def _stranger_exited(self, pid: int) -> None:
        """Something has ended that no worker knows: when everything else has too, that was the last of it."""
        self._tidy_up_after(pid)
        self._do(())

    def _tidy_up_after(self, pid: int) -> None:
        """Remove the control socket of a process that was killed, and could not do so itself."""
        if self._directory is not None:
            remove_dead(self._directory, socket_name(pid))

    # -- what servers say ----------------------------------------------------------------------------

    def _heard(self, pid: int, said: dict[str, str]) -> None:
        worker = self._family.worker_of(pid)
        if worker is None:
            self._ignore(pid)
            return
        number, now = worker.number, self._loop.time()
        if (main := systemd.number(said.get("MAINPID"))) is not None:
            if self._family.names_successor(worker, pid, main):
                self._tell(number, partial(Worker.succeeded, new=main, now=now))
            else:
                log.event(logging.WARNING, "notify-ignored", pid=pid, reason="MAINPID is not of this service")
        if said.get("STOPPING") == "1":
            self._tell(number, partial(Worker.ends, pid=pid))
        if said.get("RELOADING") == "1":
            usec = systemd.number(said.get(systemd.LIMIT_VARIABLE))
            limit = usec / 1e6 if usec is not None else None
            self._tell(number, partial(Worker.hands_over, pid=pid, now=now, limit=limit))
        if said.get("READY") == "1":
            self._tell(number, partial(Worker.is_ready, pid=pid, now=now))

    def _ignore(self, pid: int) -> None:
        """Anybody on the machine reaches the socket: the first strangers are logged, and no flood of them."""
        if pid not in self._strangers and len(self._strangers) < MAX_STRANGERS:
            self._strangers.add(pid)
            log.event(logging.WARNING, "notify-ignored", pid=pid, reason="the process is not of this service")

    # -- signals -------------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        log.event(logging.INFO, "stopping", signal=signal.Signals(number).name)
        self._do(self._service.stop(number, self._family.living(), self._loop.time()))

    def _pass_on(self, number: int) -> None:
        """Pass a signal on, unless the server would only die of it."""
        for worker in self._service.workers.values():
            pid = worker.server if worker.server is not None else worker.root
            if pid is None:
                continue
            if number == signal.SIGWINCH or survives(pid, number):  # which kills nobody, signal(7)
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

    # -- being asked, and telling --------------------------------------------------------------------

    def _greeting(self) -> dict[str, Any]:
        return {"name": self._settings.name, "role": "supervisor", "workers": self._settings.workers}

    def _about(self) -> dict[str, Any]:
        return {
            "name": self._settings.name,
            "version": __version__,
            "uptime_s": round(time.time() - self._started, 1),
            "restarts": sum(worker.restarted for worker in self._service.workers.values()),
        }

    def _write_pidfile(self) -> None:
        if self._pidfile is not None and not self._pidfile.written:
            try:
                self._pidfile.write()
            except OSError as error:
                log.event(logging.ERROR, "pidfile-not-written", path=self._pidfile.path, reason=error.strerror)
