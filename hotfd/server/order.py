"""In which order all generations apply what is published (without I/O).

The processes that are linked make a tree (see :mod:`hotfd.server.link`). Its root, the newest process, decides
the order: a message that is published anywhere goes up to the root, which applies it and sends it down again, and
every other process applies it when it comes down. *To apply* is to give it to the subscribers of the process. A
process without neighbours is its own root, and applies at once.

::

    publishes  --Publish-->    passes it on  --Publish-->    root: applies it, the next in its order
    applies    <--Published--  applies       <--Published--

* Each message has an **origin**, the random token of the process that published it, and a **number** there. A
  process remembers of each origin the last number that it has applied (``applied``, a *vector*): so it knows what
  it has had, whoever sends it, and whichever process has put it into the order.
* A message is **pending** in each process that it went up through, until it comes down.
* What a process has applied stays in its :class:`~hotfd.server.order_log.Log` until all below have it.

When the root changes:

* **A newer process is linked.** From then on the older one puts nothing into the order. It says what it has
  applied (BusJoin); the newer one begins with that, and answers BusWelcome; then what is pending goes up. A new
  process publishes nothing before it has the BusJoin.
* **The newer process is gone.** The older one is a root again, and applies what is pending.
* **An older process comes by another way**, since the one between has gone: with its BusJoin the newer one knows
  what it lacks, sends that, and then BusWelcome, so that it knows in turn what the newer one lacks.

In each case the vectors keep a message that was sent twice from being applied twice. If the process in between
dies, the older one is a root of its own for a moment. What it applies then is put into the order of the others
when it is linked again: nobody loses it or has it twice, but these messages stand at another place there.

Sending is bounded by a window in either direction, and by acknowledgements; a neighbour below that acknowledges
nothing for too long is cut off, and is its own root from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hotfd.server.order_links import WINDOW, WINDOW_BYTES, Below, Link, Pending, Post, Vector, say
from hotfd.server.order_log import Entry, Log
from hotfd.wire import messages as m

ACK_EVERY: Final = WINDOW // 8
"""Messages between acknowledgements, so that the window never closes for want of one."""

ACK_BYTES: Final = WINDOW_BYTES // 4
"""Bytes of values between acknowledgements; with one value more it is still far from the window."""

_ABOVE: Final = "above"
"""The memory of what the next newer neighbour may lack."""


class Order:
    """One process's part in the order; a participant of its links.

    Args:
        token: this process's origin.
        on_applied: called with each message when it is applied, in order.
    """

    def __init__(self, token: bytes, on_applied: Callable[[Entry], None]) -> None:
        self.token = token
        self.applied: Vector = {}
        self.log = Log()
        self._on_applied = on_applied
        self._waiting = False
        self._number = 0
        self._pending = Pending()
        self._below: dict[Link, Below] = {}
        self._above: Link | None = None
        self._welcomed = False
        self._index = 0  # Published that have come from above,
        self._unseen_bytes = 0  # their bytes since the last acknowledgement,
        self._heard_position = 0  # and the last one's position there
        self._told_index = 0
        self._told_kept = 0

    # -- publishing ----------------------------------------------------------------------------------

    @property
    def root(self) -> bool:
        """Whether this process decides the order now."""
        return self._above is None and not self._waiting

    @property
    def room(self) -> bool:
        """Whether one more message may be published now."""
        return not self.log.full and not self._pending.full

    def publish(self, topic: str, value: bytes) -> int:
        """Publish a message; it may be applied before this returns.

        Returns:
            its number, for :meth:`has_applied`.
        """
        self._number += 1
        self._submit(Post(self.token, self._number, topic, value))
        return self._number

    def has_applied(self, origin: bytes, number: int) -> bool:
        """Whether a message has been applied here."""
        return number <= self.applied.get(origin, 0)

    def wait(self) -> None:
        """Another process serves, and will say where the order stands; nothing is applied before."""
        self._waiting = True

    def open(self) -> None:
        """There is no other process to wait for: this one decides."""
        if self._waiting:
            self._waiting = False
            self._lead()

    def _submit(self, post: Post) -> None:
        if post.key in self._pending or self.has_applied(post.origin, post.number):
            return  # it came by another way already
        if self.root:
            self._apply(post)
        else:
            self._pending.add(post)
            self._pass_on()

    def _pass_on(self) -> None:
        """Send up what is pending, as far as the window allows."""
        if self._above is not None and self._welcomed:
            for post in self._pending.due():
                # One that reads nothing is as good as dead. Nothing is lost: it stays pending.
                say(self._above, m.Publish(post.origin, post.number, post.topic, post.value))

    # -- applying ------------------------------------------------------------------------------------

    def _apply(self, post: Post | m.Published, above: int = 0) -> None:
        self._note(post.origin, post.number)
        self._pending.echoed(post.origin, post.number)
        entry = self.log.append(post.origin, post.number, post.topic, post.value, above)
        for below in list(self._below.values()):
            self._feed(below)
        self.trim()
        self._on_applied(entry)

    def _note(self, origin: bytes, number: int) -> None:
        self.applied.pop(origin, None)
        self.applied[origin] = number  # at the end: the origins are in the order in which they were heard last
        if len(self.applied) > m.MAX_ORIGINS:
            del self.applied[next(known for known in self.applied if known != self.token)]

    def _lead(self) -> None:
        """This process is the root from here on: what is pending is next."""
        for post in self._pending.take():
            if not self.has_applied(post.origin, post.number):
                self._apply(post)

    # -- who needs what ------------------------------------------------------------------------------

    def since(self, mark: Mapping[bytes, int]) -> list[Entry]:
        """Return what is kept and later than a vector, in order."""
        return [entry for entry in self.log if entry.number > mark.get(entry.origin, 0)]

    def hold(self, key: object, mark: Mapping[bytes, int] | None = None) -> None:
        """Keep what is later than a vector, or than this moment, until :meth:`release`."""
        later = self.since(mark) if mark is not None else ()
        self.log.hold(key, later[0].position if later else self.log.position + 1)

    def release(self, key: object) -> bool:
        """End a :meth:`hold`. False, and nothing has changed, when there is none."""
        held = self.log.release(key)
        if held:
            self.trim()
        return held

    def forget(self) -> None:
        """Those who have gone will not come back by another way."""
        self.log.forget()
        self.trim()

    def trim(self) -> None:
        """Drop what nobody needs any more, and say so above."""
        self.log.trim()
        self._acknowledge()

    def cut(self, position: int) -> list[Link]:
        """Give up those below who still need a position; each will be a root of its own.

        Returns:
            their links.
        """
        slow = [link for link in self._below if self.log.holds(link, position)]
        for link in slow:
            say(link, m.BusCut())
            self._drop(link)
        self.log.forget(slow)
        self.trim()
        return slow

    # -- as a participant ------------------------------------------------------------------------------

    def connected(self, link: Link) -> None:
        """A neighbour. With a newer one, the order is made there from here on."""
        if not link.newer:
            self._below[link] = Below(link)
            self.log.hold(link, self.log.position + 1)
            return
        self._waiting = False
        self._above = link
        self._welcomed = False
        self._index = self._unseen_bytes = self._heard_position = self._told_index = self._told_kept = 0
        self._pending.restart(self._pending.take())
        for entry in self.log:
            entry.above = 0
        settled = self.applied.copy()
        for entry in self.log.tail(WINDOW, WINDOW_BYTES):
            settled[entry.origin] = min(settled.get(entry.origin, 0), entry.number - 1)
            say(link, m.BusPast(entry.origin, entry.number, entry.topic, entry.value))
        say(link, m.BusJoin(list(self.applied.items()), [(origin, settled[origin]) for origin in self.applied]))

    def disconnected(self, link: Link) -> None:
        """A neighbour has gone; one that is no neighbour any more says nothing."""
        if link is self._above:
            self._above = None
            self._welcomed = False
            self.log.remember(_ABOVE)
            self._lead()
        elif link in self._below:
            self._drop(link)
            if not self._below:
                self.open()

    def received(self, link: Link, message: m.Message) -> bool:
        """Take a neighbour's message; False when it is not for the bus."""
        if not isinstance(message, BUS_MESSAGES):
            return False
        if link is self._above:
            self._from_above(link, message)
        elif (below := self._below.get(link)) is not None:
            self._from_below(below, message)
        elif not isinstance(message, m.BusCut):
            say(link, m.BusCut())  # it has been given up, or this process has another neighbour now
        return True

    # -- below ---------------------------------------------------------------------------------------

    def _from_below(self, below: Below, message: m.Message) -> None:
        match message:
            case m.BusPast() if not below.joined and len(below.past) < WINDOW:
                below.past.append(message)
            case m.BusJoin(applied=applied, settled=settled) if not below.joined:
                self._join(below, dict(applied), dict(settled))
            case m.Publish() if below.joined:
                self._submit(Post(message.origin, message.number, message.topic, message.value))
            case m.BusSeen(index=index, kept=kept) if below.joined:
                below.seen(index)
                if kept:
                    self.log.hold(below.link, kept + 1)
                self._feed(below)
                self.trim()
            case m.BusCut():
                self._drop(below.link)

    def _join(self, below: Below, applied: Vector, settled: Vector) -> None:
        if self._waiting:  # the order goes on here, from where it stands there
            self.applied = applied.copy()
            for past in below.past:
                self.log.append(past.origin, past.number, past.topic, past.value)
        below.past.clear()
        self.hold(below.link, settled)  # what it keeps for those below it, it does not lose them for its own death
        below.join(self.log, applied, self.applied.copy())
        self._feed(below)
        self.open()

    def _feed(self, below: Below) -> None:
        if not below.feed(self.log):
            self._drop(below.link)

    def _drop(self, link: Link) -> None:
        """An older neighbour has gone. Who is behind it may come by another way: what it lacks is remembered."""
        if self._below.pop(link, None) is not None:
            self.log.remember(link)
            self.trim()

    # -- above ---------------------------------------------------------------------------------------

    def _from_above(self, link: Link, message: m.Message) -> None:
        match message:
            case m.Published(index=index) if index != self._index + 1:
                say(link, m.BusCut())  # the channel was so full that one was dropped there
                self.disconnected(link)
            case m.Published():
                self._published(message)
            case m.BusWelcome(applied=applied):
                self._take_welcome(dict(applied))
            case m.BusCut():
                self.disconnected(link)

    def _published(self, message: m.Published) -> None:
        self._index += 1
        self._unseen_bytes += len(message.value)
        self._heard_position = message.position
        if self.has_applied(message.origin, message.number):
            self._pending.echoed(message.origin, message.number)
            self._acknowledge()
        else:
            self._apply(message, above=message.position)
        self._pass_on()

    def _take_welcome(self, applied: Vector) -> None:
        """Send up what the newer process lacks; apply what it has and could not send any more."""
        kept = [Post(entry.origin, entry.number, entry.topic, entry.value) for entry in self.log]
        posts = [*kept, *self._pending.take()]
        self._pending.restart(post for post in posts if post.number > applied.get(post.origin, 0))
        for post in posts:
            if post.number <= applied.get(post.origin, 0) and not self.has_applied(post.origin, post.number):
                self._apply(post)
        for origin, number in applied.items():
            if not self.has_applied(origin, number):
                self._note(origin, number)
        self._welcomed = True
        self.log.forget([_ABOVE])
        self.trim()
        self._pass_on()

    def _acknowledge(self) -> None:
        """Say above what has come, and what nobody here or below needs any more."""
        if self._above is None:
            return
        oldest = self.log.oldest
        kept = self._heard_position
        if oldest is not None:
            kept = oldest.above - 1 if oldest.above else 0  # what did not come from there has no position there
        kept = max(kept, self._told_kept)
        due = self._index - self._told_index >= ACK_EVERY or self._unseen_bytes >= ACK_BYTES
        if due or kept - self._told_kept >= ACK_EVERY:
            self._told_index, self._told_kept, self._unseen_bytes = self._index, kept, 0
            say(self._above, m.BusSeen(self._told_index, self._told_kept))


BUS_MESSAGES: Final = (m.BusPast, m.BusJoin, m.BusWelcome, m.Publish, m.Published, m.BusSeen, m.BusCut)
"""What the bus says to neighbours."""


def later_of(one: Mapping[bytes, int], other: Mapping[bytes, int]) -> Vector:
    """Return the vector that has what either of two has."""
    return {origin: max(one.get(origin, 0), other.get(origin, 0)) for origin in {**one, **other}}
