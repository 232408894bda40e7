"""Timers of a connection or of a session: they pause while it is moved, and travel with the time that is left.

A timer is a name and a time; its callback is code, and code does not travel. So what arrives is a name with
the time that is left, and a handler that starts again gives it its callback by setting it again::

    set --------> RUNNING --due--> its callback runs, and it is over
                   |  ^
         gate shut |  | open: what became due meanwhile runs now
                   v  |
                  HELD: the clock runs, no callback does
                   |  ^
            fenced |  | the session goes on here
                   v  |
                  FROZEN: the clock stands; what is left is written down, and travels
                   |
                   +--moved away, or over--> STOPPED

A timer that has come along and that nobody has set again has no callback: it is pending, also when its
time is over, and travels on.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context
from time import monotonic
from types import MappingProxyType
from typing import Any, Final

from hotfd import log
from hotfd.errors import ConnectionClosed, ConnectionMoved, HandedOff
from hotfd.server.tasks import Scope
from hotfd.wire.records import MAX_TIMER_NAME, MAX_TIMERS

NONE_PENDING: Final[Mapping[str, Timer]] = MappingProxyType({})
"""What an owner without timers shows."""


class Pace(enum.Enum):
    """How the timers of an owner go."""

    RUNNING = "running"
    HELD = "held"
    FROZEN = "frozen"
    STOPPED = "stopped"


class Timer:
    """A callback that is to be called once, later. Made by ``call_later`` of a connection or a session.

    Attributes:
        name: its name, one among its owner's timers.
    """

    __slots__ = ("_args", "_callback", "_context", "_due", "_handle", "_left", "_timers", "name")

    def __init__(self, timers: Timers, name: str, delay: float) -> None:
        self.name = name
        self._timers = timers
        self._due = monotonic() + delay
        self._left = delay  # what counts while the clock stands
        self._callback: Callable[..., object] | None = None
        self._args: tuple[Any, ...] = ()
        self._context: Context | None = None
        self._handle: asyncio.Handle | None = None

    def __repr__(self) -> str:
        state = f"{self.remaining:.3f} s left" if self.pending else "over"
        return f"<Timer {self.name!r} {state}>"

    @property
    def pending(self) -> bool:
        """Whether the timer is still to come: not run, not cancelled, not replaced."""
        return self._timers._pending.get(self.name) is self

    @property
    def callback(self) -> Callable[..., object] | None:
        """What will be called; None for a timer that came along and has not been set again, or is over."""
        return self._callback

    @property
    def remaining(self) -> float:
        """Seconds that are left; 0.0 when it is due or over."""
        return self._timers._left(self) if self.pending else 0.0

    def cancel(self) -> None:
        """Do not call. Idempotent; does nothing in the old handler of an owner that has moved."""
        self._timers._cancel(self)

    def _attach(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self._callback, self._args, self._context = callback, args, context

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _forget(self) -> None:
        self._disarm()
        self._callback, self._args, self._context = None, (), None


class Timers:
    """The timers of one owner.

    Args:
        owner: the owner's id, for the log.
        before: called before a callback runs: it acts on the session.
        on_rest: called when the last task that a callback has made has ended.
        shared: several handlers set these timers, each of which may set what came along.
    """

    __slots__ = ("_before", "_came", "_owner", "_pace", "_pending", "_scope", "_shared", "changes")

    def __init__(
        self, owner: str, before: Callable[[], None], on_rest: Callable[[], None], *, shared: bool = False
    ) -> None:
        self.changes = 0
        """Counts what makes an earlier :meth:`written` untrue, but for time."""
        self._owner = owner
        self._before = before
        self._shared = shared
        self._pace = Pace.RUNNING
        self._pending: dict[str, Timer] = {}
        self._came: dict[str, Timer] = {}
        self._scope = Scope(on_rest)

    # -- for the program -----------------------------------------------------------------------------

    @property
    def pending(self) -> Mapping[str, Timer]:
        """The timers that are to come, by name."""
        return MappingProxyType(self._pending)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str | None = None,
        *,
        resuming: bool = False,
    ) -> Timer:
        """Set a timer; one that is pending under its name is replaced.

        Args:
            delay: seconds; finite, not negative.
            callback: a function, or a coroutine function: then the owner is at no boundary until it has ended.
            args: what it is called with.
            name: its name, at most ``MAX_TIMER_NAME`` characters; the callback's ``__qualname__`` when not given.
            resuming: the caller is a handler that starts again and has not waited for a frame: a timer that
                came along keeps the time that is left. When another handler has set it already, it stays
                as that one has left it, and is returned, be it over.

        Raises:
            ValueError: the delay or the name is none, or ``MAX_TIMERS`` are pending.
            TypeError: the callback cannot be called.
            ConnectionClosed: the owner is over.
        """
        if self._pace is Pace.STOPPED:
            raise ConnectionClosed("it is over: no timer can be set any more")
        if not callable(callback):
            raise TypeError(f"a timer's callback is a function, not {callback!r}; do not call it")
        if not (math.isfinite(delay) and delay >= 0):
            raise ValueError(f"a timer's delay is a finite number of seconds, 0 or more, not {delay!r}")
        known = _checked(name) if name is not None else _name_of(callback)
        before = self._pending.get(known)
        if name is None:
            _check_same(known, before, callback)
        self.changes += 1
        context = self._scope.context()
        if resuming and (timer := self._taken_up(known)) is not None:
            if timer.pending and timer._callback is None:
                timer._attach(callback, args, context)
                self._arm(timer)
            return timer
        if before is not None:
            before._forget()
        elif len(self._pending) >= MAX_TIMERS:
            raise ValueError(f"{MAX_TIMERS} timers are pending already; give those that replace each other one name")
        timer = self._pending[known] = Timer(self, known, delay)
        timer._attach(callback, args, context)
        self._arm(timer)
        return timer

    def _taken_up(self, name: str) -> Timer | None:
        """Return what a handler that starts again finds under a name; None when it is to set a timer of its own."""
        pending = self._pending.get(name)
        if self._shared:
            came = self._came.get(name)
            return came and (pending or came)
        return pending if self._came.pop(name, None) is not None else None

    def _cancel(self, timer: Timer) -> None:
        if timer.pending and self._pace is not Pace.STOPPED:
            self.changes += 1
            del self._pending[timer.name]
            timer._forget()

    def _left(self, timer: Timer) -> float:
        if self._pace in {Pace.FROZEN, Pace.STOPPED}:
            return timer._left
        return max(0.0, timer._due - monotonic())

    # -- for who moves the owner ---------------------------------------------------------------------

    def busy(self) -> list[str]:
        """Return the names of the live tasks that callbacks have made: the owner is at no boundary."""
        return self._scope.names()

    @property
    def current(self) -> bool:
        """Whether the caller is a callback of these timers, or a task of one."""
        return self._scope.current

    def hold(self) -> None:
        """Let no callback run; the clock runs on."""
        if self._pace is Pace.RUNNING:
            self._pace = Pace.HELD
            for timer in self._pending.values():
                timer._disarm()

    def freeze(self) -> None:
        """Let the clock stand as well."""
        if self._pace in {Pace.RUNNING, Pace.HELD}:
            self.hold()
            now = monotonic()
            for timer in self._pending.values():
                timer._left = max(0.0, timer._due - now)
            self._pace = Pace.FROZEN

    def go_on(self) -> None:
        """Let the clock and the callbacks run; what is due runs in the next turn, in the order of its time."""
        if self._pace in {Pace.RUNNING, Pace.STOPPED}:
            return
        if self._pace is Pace.FROZEN:
            now = monotonic()
            for timer in self._pending.values():
                timer._due = now + timer._left
        self._pace = Pace.RUNNING
        for timer in sorted(self._pending.values(), key=lambda timer: timer._due):
            self._arm(timer)

    def written(self) -> list[tuple[str, float]]:
        """Return name and remaining seconds of each pending timer, in the order in which they are due."""
        return sorted(((timer.name, self._left(timer)) for timer in self._pending.values()), key=lambda pair: pair[1])

    def bring(self, written: Iterable[tuple[str, float]]) -> None:
        """Take up what :meth:`written` returned elsewhere: pending, and waiting to be set again."""
        for name, left in written:
            self._pending[name] = self._came[name] = Timer(self, name, left)

    def moved(self) -> None:
        """The owner has moved: nothing runs here any more; :meth:`written` tells what it took along."""
        self.freeze()
        self._pace = Pace.STOPPED

    def end(self) -> None:
        """The owner is over, and every timer with it. What a callback has begun may end by itself."""
        for timer in self._pending.values():
            timer._forget()
        self._pending.clear()
        self._came.clear()
        self._pace = Pace.STOPPED

    # -- running -------------------------------------------------------------------------------------

    def _arm(self, timer: Timer) -> None:
        if self._pace is not Pace.RUNNING or timer._callback is None:
            return  # `go_on` sees to it, or whoever sets it again
        timer._disarm()
        loop, left = asyncio.get_running_loop(), timer._due - monotonic()
        # Timers that are due together keep their order by call_soon; equal times in the loop's heap would not.
        timer._handle = loop.call_later(left, self._fire, timer) if left > 0 else loop.call_soon(self._fire, timer)

    def _fire(self, timer: Timer) -> None:
        callback, args, context = timer._callback, timer._args, timer._context
        assert callback is not None
        assert context is not None
        del self._pending[timer.name]
        self.changes += 1
        timer._handle = None  # it is this very call
        timer._forget()
        self._before()
        context.run(self._run, timer.name, callback, args)

    def _run(self, name: str, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            result = callback(*args)
        except (Exception, HandedOff) as error:  # noqa: BLE001 - a timer's fault ends nothing
            self._failed(name, error)
            return
        if isinstance(result, Awaitable):
            # In this context the task counts as the scope's: until it ends, the owner is at no boundary.
            task = asyncio.get_running_loop().create_task(_await(result), name=f"{self._owner}-timer-{name}")
            task.add_done_callback(lambda task: self._ended(name, task))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(name, error)

    def _failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, ConnectionClosed | ConnectionMoved):  # whom it wrote to has gone: nobody's fault
            log.event(logging.INFO, "timer-failed", owner=self._owner, timer=name, reason=str(error))
        else:
            log.event(logging.ERROR, "timer-failed", exc_info=error, owner=self._owner, timer=name)


async def _await(awaitable: Awaitable[object]) -> None:
    await awaitable


def _name_of(callback: Callable[..., object]) -> str:
    name = getattr(callback, "__qualname__", None)
    if isinstance(name, str):
        return _checked(name)
    raise ValueError(f"{type(callback).__name__} objects have no name of their own; give the timer one (name=)")


def _checked(name: str) -> str:
    if not 0 < len(name) <= MAX_TIMER_NAME:
        raise ValueError(f"a timer's name has 1 to {MAX_TIMER_NAME} characters, not {len(name)}")
    return str.__str__(name)  # and nothing more: a type derived from it cannot travel


def _check_same(name: str, before: Timer | None, callback: Callable[..., object]) -> None:
    """Two lambdas in one function have the same name, and would replace each other without a word."""
    if before is None or before._callback is None:
        return
    codes = [getattr(getattr(each, "__func__", each), "__code__", None) for each in (before._callback, callback)]
    if codes[0] is not codes[1]:
        raise ValueError(f"a timer of another function is pending as {name!r}; give one of them a name (name=)")
