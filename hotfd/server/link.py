"""Neighbours: what two generations tell each other for as long as both of them serve.

While a handoff moves sessions, and afterwards if some have stayed behind, the two processes are linked by the
handoff's channel. Over generations the links make a tree: each process has at most one newer neighbour, and any
number of older ones; the newest is the root. Whoever has something to tell a neighbour is a *participant*.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hotfd import log
from hotfd.wire import messages as m

if TYPE_CHECKING:
    from hotfd.transfer.channel import Arrival, Channel


class Participant(Protocol):
    """Something that spans generations."""

    def connected(self, link: Link) -> None:
        """A neighbour is there; called before anything else is said or heard on its link."""

    def disconnected(self, link: Link) -> None:
        """The neighbour is dead, or has left for good. Everything that it said has been heard."""

    def received(self, link: Link, message: m.Message) -> bool:
        """Take a neighbour's message; False when it is for another participant."""


class Link:
    """One neighbour.

    Attributes:
        up: whether the neighbour is there.
        introduced: whether this older neighbour knows the process that is to replace this one, which knows it too.
        handovers: how many handovers of what had stayed behind in this older neighbour are on their way. What it has
            given away by them comes on other channels than its end, and is to come first.
        going: it has gone, and a handover is on its way.

    Args:
        channel: to it; whoever made it closes it.
        pid: its pid.
        generation: its generation.
        newer: whether it is of a newer generation than this process.
    """

    def __init__(self, channel: Channel, *, pid: int, generation: int, newer: bool) -> None:
        self.channel = channel
        self.pid = pid
        self.generation = generation
        self.newer = newer
        self.up = True
        self.introduced = False
        self.handovers = 0
        self.going = False

    def __repr__(self) -> str:
        return f"<Link to the {'newer' if self.newer else 'older'} process {self.pid}>"

    def send(self, message: m.Message, descriptors: Sequence[int] = (), owned: Sequence[int] = ()) -> None:
        """Tell the neighbour; one that reads nothing for thousands of messages is as good as gone.

        Args:
            message: what to say.
            descriptors: what to pass.
            owned: those of them that are closed afterwards.
        """
        try:
            self.channel.send(message, descriptors, owned)
        except BufferError:
            log.event(logging.WARNING, "neighbour-does-not-read", neighbour=self.pid, generation=self.generation)


class Links:
    """The links of one process.

    Args:
        participants: who is told of each link; the order is the order in which they are told.
    """

    def __init__(self, participants: Sequence[Participant] = ()) -> None:
        self.participants: list[Participant] = list(participants)
        self.newer: Link | None = None
        self.older: list[Link] = []
        self.on_channel: Callable[[Link, m.Message, int], None] | None = None
        """Called with a message that brings a channel, and its descriptor, which it owns from then on."""

    def connect(self, link: Link) -> None:
        """A neighbour is there."""
        if link.newer:
            self.newer = link
            link.send(m.Linked())
        else:
            self.older.append(link)
        for participant in self.participants:
            participant.connected(link)

    def disconnect(self, link: Link) -> None:
        """A neighbour is gone for good, once every handover from it is decided. Idempotent."""
        if link.handovers:
            link.going = True
        if not link.up or link.handovers:
            return
        link.up = False
        if self.newer is link:
            self.newer = None
        if link in self.older:
            self.older.remove(link)
        for participant in self.participants:
            participant.disconnected(link)

    def handover_over(self, link: Link) -> None:
        """A handover of what had stayed behind is decided: its sessions are here, or never will be."""
        link.handovers -= 1
        if link.going:
            self.disconnect(link)

    def received(self, link: Link, arrival: Arrival) -> bool:
        """Give a neighbour's message to whom it concerns; False when it concerns nobody here."""
        message = arrival.message
        if isinstance(message, m.Newest | m.Elder | m.Handover):
            if len(arrival.descriptors) == 1 and self.on_channel is not None:
                self.on_channel(link, message, arrival.descriptors.pop())
            return True
        return any(participant.received(link, message) for participant in self.participants)

    def status(self) -> list[dict[str, Any]]:
        """Return the older processes that still serve what has stayed behind, for ``hotfd status``."""
        return [{"pid": link.pid, "generation": link.generation} for link in self.older]
