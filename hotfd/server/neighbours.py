"""Generations that overlap: how a process gets to know its neighbours after the first handoff.

Two processes of a handoff are linked by its channel. When the newer one is replaced itself while the older still
serves what has stayed behind, it makes the two others neighbours of each other, and parts from both::

    G1 ---- G2            G2 hands over to G3:       G1 ---- G2 ---- G3
                          G2 has settled:            G1 ------------ G3     (G2 leaves when nothing is left in it)

It makes a socket pair for that, and gives one end to each (``Newest`` to the older, ``Elder`` to the newest).
On the new link, sessions that had stayed behind are handed over, each time on a channel of its own (``Handover``).
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hotfd import _core, log
from hotfd.errors import ChannelError, HandoffRefused
from hotfd.server.link import Link
from hotfd.server.remainder import Remainder
from hotfd.server.takeover import Takeover
from hotfd.transfer.channel import Channel
from hotfd.wire import messages as m

if TYPE_CHECKING:
    from hotfd.server.cutover import Cutover
    from hotfd.server.engine import Engine
    from hotfd.transfer.channel import Arrival

QUIET_LIMIT: Final = 2.0
"""Seconds for handovers of what had stayed behind to end when this process is to be replaced itself."""

MAX_OLDER: Final = 64
"""Older processes at once. Each is a whole process with users in it: an operator notices a few."""


class Neighbours:
    """The older and the newer processes beside one, for as long as there are any. Owns the channels of their links.

    Args:
        engine: whose neighbours they are.
        generation: of this process.
    """

    def __init__(self, engine: Engine, generation: int) -> None:
        self._open = True  # sessions that had stayed behind may come now
        self._engine = engine
        self._remainder = Remainder(engine, generation)
        self._departed: Cutover | None = None  # the handoff by which this process was replaced
        self._channels: dict[Link, Channel] = {}
        self._handovers: set[Takeover] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        engine.links.on_channel = self._channel_came

    # -- in the process that is replaced -------------------------------------------------------------

    def replaced(self, cutover: Cutover) -> None:
        """Another process serves now: part from the older ones, and move what has stayed behind when it is wanted.

        Args:
            cutover: the handoff, completed; it is closed with everything else.
        """
        self._departed = cutover
        if cutover.link is not None:
            self._pass_on(cutover.link)
        self._remainder.start()

    def _pass_on(self, newest: Link) -> None:
        """Make each older process a neighbour of the newest one."""
        for older in list(self._engine.links.older):
            try:
                one, other = _core.channel_pair()
            except OSError as error:  # no descriptor: what is in the older process stays there until it ends
                log.event(logging.ERROR, "neighbour-not-passed-on", pid=older.pid, reason=error.strerror)
                return
            older.passed_on = True
            # The newest first: it must expect the older one before it can hear that this process has gone.
            newest.send(m.Elder(older.pid, older.generation), [other], owned=[other])
            older.send(m.Newest(newest.pid, newest.generation), [one], owned=[one])

    # -- in the others -------------------------------------------------------------------------------

    def _channel_came(self, link: Link, message: m.Message, fd: int) -> None:
        match message:
            case m.Newest(pid=pid, generation=generation) if link.newer:
                self._relink(fd, pid, generation)
            case m.Elder(pid=pid, generation=generation) if not link.newer and len(self._channels) < MAX_OLDER:
                self._link(fd, pid, generation, newer=False)
            case m.Handover() if not link.newer:
                self._take(fd, link)
            case _:
                os.close(fd)

    def _relink(self, fd: int, pid: int, generation: int) -> None:
        """In the older process: another one is the newest now."""
        links = self._engine.links
        before = links.newer
        self._link(fd, pid, generation, newer=True)
        if before is not None:  # after the new one is there, so that this process is never the newest in between
            links.disconnect(before)
            before.channel.close()
            self._channels.pop(before, None)
        self._remainder.want_all()

    def _link(self, fd: int, pid: int, generation: int, *, newer: bool) -> None:
        def arrived(arrival: Arrival) -> None:
            try:
                if isinstance(arrival.message, m.LinkMessage) and not isinstance(arrival.message, m.Linked):
                    self._engine.links.received(link, arrival)
            finally:
                arrival.close()

        def ended(error: ChannelError | None = None) -> None:
            if error is not None:
                log.event(logging.WARNING, "neighbour-lost", pid=pid, reason=str(error))
            self._engine.links.disconnect(link)
            channel.close()
            self._channels.pop(link, None)

        channel = Channel(fd, arrived, ended, ended)
        channel.peer = pid
        link = Link(channel, pid=pid, generation=generation, newer=newer)
        self._channels[link] = channel
        channel.start()
        self._engine.links.connect(link)

    # -- what had stayed behind comes ----------------------------------------------------------------

    def _take(self, fd: int, link: Link) -> None:
        if not self._open:
            os.close(fd)  # the older process tries again with whoever replaces this one
            return
        takeover = Takeover.of_remainder(fd, self._engine, link.pid)
        self._handovers.add(takeover)
        task = asyncio.get_running_loop().create_task(self._run(takeover), name="hotfd-handover")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, takeover: Takeover) -> None:
        try:
            await takeover.hello()
            await takeover.ready()
            await takeover.done
        except HandoffRefused as refusal:
            log.event(logging.INFO, "remainder-not-taken", code=refusal.code, reason=refusal.detail)
        finally:
            self._handovers.discard(takeover)
            takeover.close()

    async def quiet(self) -> None:
        """Take nothing more that had stayed behind, and wait until what is on its way is decided."""
        self._open = False
        for takeover in list(self._handovers):
            await takeover.fail("superseded", "this process is to be replaced itself")
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=QUIET_LIMIT)

    def loud(self) -> None:
        """This process goes on to serve: what had stayed behind may come again."""
        self._open = True

    async def aclose(self) -> None:
        """Part from everybody, once what was said is in the kernel. Idempotent."""
        self._remainder.close()
        await self._flushed()
        self._close()

    async def _flushed(self) -> None:
        links = self._engine.links
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_LIMIT):
                for link in (*links.older, *filter(None, [links.newer])):
                    await link.channel.flushed()

    def _close(self) -> None:
        self._open = False
        if self._departed is not None:
            self._departed.close()
        for task in self._tasks:
            task.cancel()
        for takeover in list(self._handovers):
            takeover.close()
        for link, channel in list(self._channels.items()):
            self._engine.links.disconnect(link)
            channel.close()
        self._channels.clear()
