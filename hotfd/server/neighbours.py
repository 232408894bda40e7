"""Generations that overlap: how a process gets to know its neighbours after the first handoff.

Two processes of a handoff are linked by its channel. When the newer one is replaced itself while the older still
serves what has stayed behind, it makes the two others neighbours of each other, and parts from the older::

    G1 ---- G2            G2 begins to hand over to G3:  G1 ---- G2 ---- G3, and G1 .... G3 introduced
                          G2 has settled, or is dead:    G1 ------------ G3    (G2 leaves when nothing is left in it)
                          G3 has failed:                 G1 ---- G2

They are *introduced* before anything moves, so that they find each other also when the process between them dies: it
makes a socket pair, and gives one end to each (``Newest`` to the older, ``Elder`` to the newest). On that link the
older one says what it holds, for the directory; for everything else it counts only when the one between them has been
replaced (``Replaced``) or has gone. Then sessions that had stayed behind are handed over on it, each time on a channel
of its own (``Handover``).
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
from hotfd.transfer.channel import Channel, is_channel
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

    A participant of the links itself, and the first: who is introduced takes the place of who has gone before the
    others hear of that, so that this process is never the newest in between.

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
        self._introduced: dict[Link, Link] = {}  # links that do not count yet, and who has brought them
        self._handovers: dict[Takeover, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        engine.links.participants.insert(0, self)
        engine.links.on_channel = self._channel_came

    # -- as a participant ----------------------------------------------------------------------------

    def connected(self, link: Link) -> None:
        """A neighbour: introduce the older ones to one that is to replace this process."""
        links = self._engine.links
        for older in list(links.older) if link.newer else [link]:
            if links.newer is not None and not older.introduced:
                self._introduce(older, links.newer)
            if self._departed is not None:
                self._let_part(older)

    def disconnected(self, link: Link) -> None:
        """A neighbour has gone: those whom it has introduced count from here on."""
        for older in self._engine.links.older if link.newer else ():
            if self._departed is None:
                older.introduced = False  # the handoff has failed; the next one introduces them again
            else:
                self._let_part(older)
        self._promote(link)

    def received(self, link: Link, message: m.Message) -> bool:
        """Take a neighbour's message; False when it is for another participant."""
        match message:
            case m.Replaced() if link.newer:
                self._part(link)
            case m.Replaced():
                self._promote(link)
            case m.Linked() if link in self._introduced:
                self._count(link)
            case _:
                return False
        return True

    # -- in the process that is replaced -------------------------------------------------------------

    def _introduce(self, older: Link, newest: Link) -> None:
        """Make an older process and the newest one known to each other."""
        try:
            one, other = _core.channel_pair()
        except OSError as error:  # no descriptor: what is in the older process stays there until it ends
            log.event(logging.ERROR, "neighbour-not-introduced", neighbour=older.pid, reason=error.strerror)
            return
        older.introduced = True
        older.send(m.Newest(newest.pid, newest.generation), [one], owned=[one])
        newest.send(m.Elder(older.pid, older.generation), [other], owned=[other])

    def replaced(self, cutover: Cutover) -> None:
        """Another process serves now: part from the older ones, and move what has stayed behind when it is wanted.

        Args:
            cutover: the handoff, completed; it is closed with everything else.
        """
        self._departed = cutover
        if cutover.link is not None and cutover.link.up:
            # The newest first: it keeps from here on what the others will need of it.
            cutover.link.send(m.Replaced())
        for older in list(self._engine.links.older):
            self._let_part(older)
        self._remainder.start()

    def _let_part(self, older: Link) -> None:
        """Tell an older process that this one takes nothing any more; who is to be left alone by that knows no newer one."""
        if older.introduced or self._engine.links.newer is None:
            older.send(m.Replaced())

    # -- in the others -------------------------------------------------------------------------------

    def _channel_came(self, link: Link, message: m.Message, fd: int) -> None:
        if not is_channel(fd):
            os.close(fd)
            log.event(logging.WARNING, "neighbour-lost", neighbour=link.pid, reason="what it has sent is no channel")
            return
        match message:
            case m.Newest(pid=pid, generation=generation) if link.newer:
                for former in [known for known, by in self._introduced.items() if known.newer and by is link]:
                    self._drop(former)  # another handoff of the same process, which has failed
                self._meet(fd, pid, generation, link, newer=True)
            case m.Elder(pid=pid, generation=generation) if not link.newer and len(self._channels) < MAX_OLDER:
                self._meet(fd, pid, generation, link, newer=False)
            case m.Handover() if not link.newer:
                self._take(fd, link)
            case _:
                os.close(fd)

    def _meet(self, fd: int, pid: int, generation: int, by: Link, *, newer: bool) -> None:
        """A process has been introduced: it does not count yet, but for what it holds."""

        def arrived(arrival: Arrival) -> None:
            try:
                if isinstance(arrival.message, m.LinkMessage):
                    self._engine.links.received(link, arrival)
            finally:
                arrival.close()

        def ended(error: ChannelError | None = None) -> None:
            if error is not None:
                log.event(logging.WARNING, "neighbour-lost", neighbour=pid, reason=str(error))
            self._drop(link)

        channel = Channel(fd, arrived, ended, ended)
        channel.peer = pid
        link = Link(channel, pid=pid, generation=generation, newer=newer)
        self._channels[link] = channel
        self._introduced[link] = by
        self._remainder.hold(self._uncertain)
        channel.start()
        self._engine.rooms.directory.connected(link)

    def _promote(self, by: Link) -> None:
        for link in [link for link, introducer in self._introduced.items() if introducer is by]:
            self._count(link)

    def _count(self, link: Link) -> None:
        """Who was introduced is a neighbour from here on."""
        del self._introduced[link]
        self._engine.links.connect(link)
        self._remainder.hold(self._uncertain)
        if link.newer:
            self._remainder.want_all()

    @property
    def _uncertain(self) -> bool:
        """Whether the newer process is being replaced, and takes nothing now."""
        return any(link.newer for link in self._introduced)

    def _part(self, link: Link) -> None:
        """The newer process has been replaced: another one is the newest now, if that still lives."""
        if link in self._introduced:  # and the one that this process takes for the newest is dead, as it will notice
            self._drop(link)
            return
        self._engine.links.disconnect(link)
        link.channel.close()
        self._channels.pop(link, None)

    def _drop(self, link: Link) -> None:
        """A neighbour that was introduced here has gone, whether it counted or not."""
        by = self._introduced.pop(link, None)
        if by is None:
            self._engine.links.disconnect(link)
        elif link.up:
            link.up = False
            for other, introducer in self._introduced.items():
                if introducer is link:  # it takes the place of who has brought it
                    self._introduced[other] = by
            self._engine.rooms.directory.disconnected(link)
            self._remainder.hold(self._uncertain)
        if (channel := self._channels.pop(link, None)) is not None:
            channel.close()

    # -- what had stayed behind comes ----------------------------------------------------------------

    def _take(self, fd: int, link: Link) -> None:
        if not self._open:
            os.close(fd)  # the older process tries again with whoever replaces this one
            return
        takeover = Takeover.of_remainder(fd, self._engine, link.pid)
        self._handovers[takeover] = link
        link.handovers += 1
        task = asyncio.get_running_loop().create_task(self._run(takeover, link), name="hotfd-handover")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, takeover: Takeover, link: Link) -> None:
        try:
            await takeover.hello()
            await takeover.ready()
            await takeover.done
        except HandoffRefused as refusal:
            log.event(logging.INFO, "remainder-not-taken", code=refusal.code, reason=refusal.detail)
        finally:
            del self._handovers[takeover]
            takeover.close()
            self._engine.links.handover_over(link)

    async def quiet(self) -> None:
        """Take nothing more that had stayed behind, and wait until what is on its way is decided."""
        self._open = False
        for takeover in list(self._handovers):
            await takeover.fail("superseded", "this process is to be replaced itself")
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=QUIET_LIMIT)

    def loud(self) -> None:
        """This process goes on to serve: what had stayed behind may come again, and nothing is to move from here."""
        self._open = True
        self._remainder.forget()

    async def left(self) -> None:
        """Wait until nothing is served here, and nothing that has moved from here can come back."""
        await self._engine.idle()
        while self._remainder.busy:
            await self._remainder.decided()
            await self._engine.idle()

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
        for link in list(self._introduced):  # first, so that none takes the place of another
            self._drop(link)
        if self._departed is not None:
            self._departed.close()
        for task in self._tasks:
            task.cancel()
        for takeover in list(self._handovers):
            takeover.close()
        for link in list(self._channels):
            self._drop(link)
