"""The new process as the old one sees it: started, identified, watched, talked to, and ended.

Owns the old end of the channel, the child, and the pidfds. The process that speaks on the channel need
not be the one that was spawned (``sh -c "python ...; true"``): the sender of Hello, as the kernel names
it, is the server; both are watched, and both are ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hotfd import _core, log
from hotfd.errors import ChannelError, HandoffRefused
from hotfd.faults import Point, reach
from hotfd.transfer.channel import Arrival, Channel
from hotfd.transfer.process import ProcessWatch, spawn
from hotfd.wire import messages as m

if TYPE_CHECKING:
    from hotfd.server.launch import Launch

KILL_LIMIT: Final = 5.0
"""Seconds within which a killed process must be dead; only uninterruptible sleep takes longer."""

LEAVE_LIMIT: Final = 1.0
"""Seconds in which an unwanted process that owns nothing may leave by itself."""


class Successor:
    """A new process.

    Args:
        on_message: called with each arrival from the identified process; owns its descriptors.
        on_failure: called when the process is dead, or broke the protocol; may be called more than once.
    """

    def __init__(self, on_message: Callable[[Arrival], None], on_failure: Callable[[HandoffRefused], None]) -> None:
        self._on_message = on_message
        self._on_failure = on_failure
        self._child: subprocess.Popen[bytes] | None = None
        self._spawned: ProcessWatch | None = None
        self._server: ProcessWatch | None = None
        self._closed = False
        mine, theirs = _core.channel_pair()
        self._theirs = theirs
        self._fd = mine
        self.channel = Channel(mine, self._arrived, self._broken)

    @property
    def pid(self) -> int | None:
        """The server's pid once it has said Hello, before that the child's."""
        watch = self._server or self._spawned
        return watch.pid if watch is not None else None

    @property
    def dead(self) -> bool:
        """Whether everything that was started is certainly dead, or nothing was."""
        return all(watch is None or watch.dead for watch in (self._spawned, self._server))

    def start(self, launch: Launch) -> None:
        """Start the process.

        Args:
            launch: what it is.

        Raises:
            HandoffRefused: it cannot be started.
        """
        try:
            self._child = spawn(launch.command, launch.cwd, launch.environment, self._theirs)
        finally:
            os.close(self._theirs)
            self._theirs = -1
        try:
            reach(Point.OLD_SPAWNED)
            pidfd = os.pidfd_open(self._child.pid)
        except OSError as error:  # no descriptor left: a process that cannot be watched must not live
            self._child.kill()
            self._child.wait()
            raise HandoffRefused("descriptor-limit", f"the new process cannot be watched: {error.strerror}") from error
        self._spawned = ProcessWatch(self._child.pid, pidfd, self._exited)
        self.channel.start()

    def _exited(self) -> None:
        assert self._child is not None
        if self._spawned is not None and self._spawned.dead:
            self._child.poll()  # reap
        if self._closed:
            self.close()
            return
        if self._server is None and self._spawned is not None and self._spawned.dead:
            # What the process said before it died may still be unread: its reason comes first.
            self.channel.drain()
            self._on_failure(HandoffRefused("new-exited", f"the new process {_how(self._child)} before it was ready"))
        elif self._server is not None and self._server.dead:
            self.channel.drain()
            how = _how(self._child) if self._server is self._spawned else "died"
            self._on_failure(HandoffRefused("new-exited", f"the new process {how} before the handoff was settled"))

    def _arrived(self, arrival: Arrival) -> None:
        if self._server is None and isinstance(arrival.message, m.Hello):
            try:
                self._identify(arrival)
            except HandoffRefused as refusal:
                arrival.close()
                self._on_failure(refusal)
                return
        elif arrival.pidfd >= 0:
            os.close(arrival.pidfd)
            arrival.pidfd = -1
        self._on_message(arrival)

    def _identify(self, arrival: Arrival) -> None:
        """The sender of Hello is the server.

        Raises:
            HandoffRefused: it is dead, or a process that this one could not end.
        """
        assert self._spawned is not None
        if arrival.pidfd < 0:  # a kernel before 6.5; the process has just spoken
            try:
                arrival.pidfd = os.pidfd_open(arrival.pid)
            except ProcessLookupError:
                raise HandoffRefused("new-exited", "the new process died as soon as it had spoken") from None
        try:
            with suppress(ProcessLookupError):  # its pidfd tells that as well
                signal.pidfd_send_signal(arrival.pidfd, 0)
        except PermissionError:
            # What is committed to a process comes back only when that is dead: here this one could not see to it.
            detail = f"process {arrival.pid} of another user says that it is the new one; this process could not end it"
            raise HandoffRefused("protocol", detail) from None
        self.channel.peer = arrival.pid
        _core.set_pass_pidfd(self._fd, False)
        if arrival.pid == self._spawned.pid:
            self._server = self._spawned
            os.close(arrival.pidfd)
        else:
            self._server = ProcessWatch(arrival.pid, arrival.pidfd, self._exited)
        arrival.pidfd = -1

    def _broken(self, error: ChannelError) -> None:
        self._on_failure(HandoffRefused("protocol", f"the new process broke the handoff protocol: {error}"))

    async def end(self, *, at_once: bool, code: str, detail: str) -> bool:
        """End the process, and wait until it is certainly dead.

        Args:
            at_once: kill it; else tell it to leave first, which is enough for one that owns nothing.
            code: the reason, told to the process for its own log.
            detail: the same for people.

        Returns:
            False when it could not be ended within ``KILL_LIMIT`` seconds.
        """
        if not at_once and not self.dead and self._server is not None:
            with suppress(BufferError):
                self.channel.send(m.Abort(code[: m.MAX_TEXT], detail[: m.MAX_TEXT]))
            with suppress(TimeoutError):
                await self._all_dead(LEAVE_LIMIT)
        reach(Point.OLD_END)
        self.kill()
        try:
            await self._all_dead(KILL_LIMIT)
        except TimeoutError:
            log.event(logging.CRITICAL, "new-process-unkillable", pid=self.pid)
            return False
        self.channel.drain()
        self.channel.close()  # whatever was not taken never will be; who waits for it learns that now
        reach(Point.OLD_KILLED)
        return True

    def kill(self) -> None:
        """Kill the process, without waiting."""
        for watch in (self._spawned, self._server):
            if watch is not None:
                with suppress(PermissionError):  # a program with another user's rights; who waits for its end sees it
                    watch.kill()

    async def _all_dead(self, limit: float) -> None:
        async with asyncio.timeout(limit):
            for watch in (self._spawned, self._server):
                if watch is not None:
                    await watch.wait()

    def close(self) -> None:
        """Close the channel and the pidfds; the process itself is not touched. Idempotent.

        A child that lives stays watched, so that it is reaped when it ends before this process does.
        """
        self._closed = True
        self.channel.close()
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1
        if self._server is not None and self._server is not self._spawned:
            self._server.close()
        if self._spawned is not None and self._spawned.dead:
            self._spawned.close()


def _how(child: subprocess.Popen[bytes]) -> str:
    code = child.poll()
    if code is None:
        return "died"
    return f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
