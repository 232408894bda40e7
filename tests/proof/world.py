"""What surrounds the two machines: two processes, the kernel between them, the connections, and what can go wrong.

A process holds connections; a channel has a queue in its writer, which dies with it, and one in the kernel, which does
not. A connection is what its client sends, unit by unit, and what was done with it: nobody but this ledger sees both
processes, so a unit that is lost, or handled twice, or an answer out of order, is seen here and at once.

What a client sends is written as a word, one letter for each unit that one read(2) brings: a capital letter completes
a frame, so that ``xX`` is a frame in two halves, and the last ``E`` is the end of its direction, after which it still
waits for the last answer (a half-closed connection). All of it is in the kernel from the beginning: whoever reads late
stands for a client that sends late.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

from hotfd.wire import messages as m
from hotfd.wire.receiver import Receiver
from hotfd.wire.sender import Sender
from tests.proof.explorer import Step, Wrong
from tests.proof.machines import Machines

T = TypeVar("T")

UP, HUNG, DYING, DEAD = range(4)
"""A process: it runs; it never makes a step again, and lives; it is killed, and not dead yet; it is dead."""

LIVE, FENCED, ESCROW, NEWCOMER, CUSTODY = "live", "fenced", "escrow", "newcomer", "custody"
"""What a process does with a connection that it holds: it serves it; it keeps it for the time of an offer; it has given
it away, and keeps a copy; it was sent a copy of it; it was offered it. Only who has it LIVE reads or writes."""

MOVING, PROVING, FAILING, UNDOING, KILLING, ALONE, DONE = range(7)
"""The old process: sessions move; the new one proves itself; something has failed; what is open is revoked; the new one
is killed; everything was taken back; the handoff is settled."""


class Stream(NamedTuple):
    """A connection as a process, or a record, has it.

    Attributes:
        start: the first unit that was read and not given to the handler.
        stop: the one after the last unit that was read.
        sent: how many answers the client was sent.
        written: how many answers the handler has written.
        busy: whether the handler works on a frame; else it is parked at the boundary.
    """

    start: int = 0
    stop: int = 0
    sent: int = 0
    written: int = 0
    busy: bool = False


class Held(NamedTuple):
    """A connection in a process: what that does with it, and how it has it."""

    use: str
    stream: Stream


class Ledger(NamedTuple):
    """What was really done with a connection, by whomever.

    Attributes:
        read: how many units were read from the kernel.
        handled: how many units handlers were given.
        answered: how many answers the client has.
    """

    read: int = 0
    handled: int = 0
    answered: int = 0


FRESH = Stream()
UNTOLD = Ledger()


@dataclass(frozen=True)
class Bounds:
    """How large a world is.

    Attributes:
        sessions: what the clients of each session's connections send, one word a connection.
        newcomers: the same of connections that wait to be accepted.
        offers: how many offers the old process makes at most.
        per_part: connections in one part of an offer.
        refusals: how many sessions the new process refuses at most.
        faults: how many things go wrong at most.
        kinds: which faults there are; empty for all.
    """

    sessions: tuple[tuple[str, ...], ...]
    newcomers: tuple[str, ...] = ()
    offers: int = 1
    per_part: int = 1
    refusals: int = 1
    faults: int = 1
    kinds: frozenset[str] = frozenset()


class Cargo(NamedTuple):
    """What travels beside a message's own fields: records and descriptors, each in its own order; or a newcomer."""

    records: tuple[tuple[int, int, Stream], ...] = ()  # wire id, connection, stream
    descriptors: tuple[int, ...] = ()


class Rig:
    """What all states of one world share: its bounds, its machines' states, and the messages that were ever said."""

    def __init__(self, bounds: Bounds, sender: Sender, receiver: Receiver) -> None:
        self.bounds = bounds
        self.words = tuple(word for session in bounds.sessions for word in session) + bounds.newcomers
        numbers = iter(range(len(self.words)))
        self.members = tuple(tuple(next(numbers) for _ in session) for session in bounds.sessions)
        self.sets = tuple(bits(members) for members in self.members if len(members) > 1)
        self.newcomers = tuple(numbers)
        self.ends = tuple(tuple(at for at, unit in enumerate(word) if unit.isupper()) for word in self.words)
        self.senders, self.receivers = Machines(sender), Machines(receiver)
        self.messages: list[tuple[m.Message, Cargo]] = []
        self._numbers: dict[Hashable, int] = {}

    def letter(self, message: m.Message, cargo: Cargo = Cargo()) -> int:  # noqa: B008 - it cannot be changed
        """Return the number of a message with what it brings."""
        number = self._numbers.setdefault((repr(message), cargo), len(self.messages))
        if number == len(self.messages):
            self.messages.append((message, cargo))
        return number


class World:
    """One state: what is neither old's nor new's alone, and what both do with connections.

    Sets of sessions, of connections and of slots in the touch map are numbers, one bit each. Slots below 32 are those
    of offered sessions, the others those of newcomers.
    """

    sender_type: type[Sender] = Sender
    receiver_type: type[Receiver] = Receiver

    def __init__(self, bounds: Bounds) -> None:
        sender, receiver = prepared(self.sender_type(), self.receiver_type())
        self.rig = Rig(bounds, sender, receiver)
        rig = self.rig
        everybody = len(rig.words)
        # the old process
        self.old = UP
        self.old_mode = MOVING
        self.sender = rig.senders.first
        self.old_outbox: tuple[int, ...] = (rig.letter(m.Listeners([], False)),)
        self.unsent: tuple[tuple[int, ...], ...] = ()  # the parts of offers that are not queued yet
        self.revoking = 0  # sessions whose revocation is not in the kernel yet
        self.dropped = False  # something could not be sent any more
        self.old_has: tuple[Held | None, ...] = tuple(
            None if at in rig.newcomers else Held(LIVE, FRESH) for at in range(everybody)
        )
        self.old_closed = False  # its end of the channel is closed, and it lives
        self.offers_left = bounds.offers
        # the new process
        self.new = UP
        self.receiver = rig.receivers.first
        self.new_outbox: tuple[int, ...] = ()
        self.new_has: tuple[Held | None, ...] = (None,) * everybody
        self.gathered: tuple[int, ...] = ()  # parts of offers that are not complete
        self.new_closed = False
        self.new_failing = False  # it has said why it gives up, and leaves
        self.inherited = False  # it has learned that the old process is dead, and has read to the end
        self.unhooked = False  # it notes no touches any more
        self.refusals_left = bounds.refusals
        # the kernel
        self.to_new: tuple[int, ...] = ()
        self.to_old: tuple[int, ...] = ()
        self.reset_new = False  # the next receive of the new process is ECONNRESET
        self.reset_old = False
        self.touched = 0
        self.backlog = bits(rig.newcomers)  # who waits to be accepted
        # what only the proof knows
        self.room_of: tuple[int, ...] = ()  # by wire id
        self.ledger: tuple[Ledger, ...] = (UNTOLD,) * everybody
        self.ended = 0  # connections that were ended in good order
        self.told = 0  # those of them of which the old process can know
        self.doomed = 0  # connections that nobody can serve any more
        self.faults = bounds.faults

    # -- states ------------------------------------------------------------------------------------

    def pack(self) -> tuple[Hashable, ...]:
        """Return everything that tells this state from others."""
        values = tuple(vars(self).values())
        assert values[0] is self.rig
        return values[1:]

    def unpack(self, state: tuple[Any, ...]) -> Self:
        """Return the same world in another state."""
        other = object.__new__(type(self))
        other.__dict__ = dict(zip(vars(self), (self.rig, *state), strict=True))
        return other

    def take(self, step: Step) -> None:
        """Let a step happen."""
        getattr(self, step[0])(*step[1:])

    # -- the machines --------------------------------------------------------------------------------

    def tell_sender(self, name: Hashable, act: Callable[[Sender], Any]) -> Any:
        """Let the sender machine move, and return what it answers."""
        self.sender, answer = self.rig.senders.move(self.sender, name, act)
        return answer

    def tell_receiver(self, name: Hashable, act: Callable[[Receiver], Any]) -> Any:
        """Let the receiver machine move, and return what it answers."""
        self.receiver, answer = self.rig.receivers.move(self.receiver, name, act)
        return answer

    # -- sessions ------------------------------------------------------------------------------------

    def of_session(self, id: int) -> tuple[int, ...]:
        """Return the connections of an offered session."""
        return self.rig.members[self.room_of[id]]

    def slot(self, connection: int) -> int:
        """Return the bit in the touch map that is a connection's in the new process."""
        if connection in self.rig.newcomers:
            return 1 << (32 + connection)
        room = next(room for room, members in enumerate(self.rig.members) if connection in members)
        newest = max(id for id, of in enumerate(self.room_of) if of == room)
        return 1 << newest

    # -- serving -------------------------------------------------------------------------------------

    def acts(self, who: str, has: tuple[Held | None, ...]) -> Iterator[Step]:
        """What a process can do with the connections that it serves."""
        for at, held in enumerate(has):
            if held is None or held.use is not LIVE:
                continue
            stream, ends = held.stream, self.rig.ends[at]
            if stream.busy:
                yield ("work", who, at)
                continue
            if self.ledger[at].read < len(self.rig.words[at]):
                yield ("read", who, at)
            if stream.written < len(ends) and ends[stream.written] < stream.stop:
                yield ("deliver", who, at)
            if stream.sent < stream.written:
                yield ("send", who, at)
            elif stream.written == len(ends) and self.rig.words[at].endswith("E"):
                yield ("end", who, at)

    def check_whole(self, who: str, at: int, stream: Stream) -> None:
        """Raise Wrong unless a process goes on where the last one that served a connection has left it."""
        done = self.ledger[at]
        if stream.stop != done.read:
            raise Wrong(f"G2: {who} serves {name(at)} from unit {stream.stop + 1} on, of which {done.read} were read")
        if stream.sent != done.answered:
            raise Wrong(f"G2: {who} sends {name(at)} answer {stream.sent + 1} next, and it was sent {done.answered}")
        if stream.start != done.handled:
            raise Wrong(
                f"G3: {who} delivers unit {stream.start + 1} of {name(at)} next, and {done.handled} were handled"
            )
        frames = stream.written + stream.busy
        if done.handled != (self.rig.ends[at][frames - 1] + 1 if frames else 0):
            raise Wrong(f"G3: {who} serves {name(at)}, and a frame that was handled has no answer")

    def _held(self, who: str, at: int) -> Held:
        held = (self.old_has if who == "old" else self.new_has)[at]
        assert held is not None
        return held

    def _hold(self, who: str, at: int, held: Held | None) -> None:
        if who == "old":
            self.old_has = put(self.old_has, at, held)
        else:
            self.new_has = put(self.new_has, at, held)

    def _change(self, who: str, at: int, stream: Stream, ledger: Ledger) -> None:
        self._hold(who, at, Held(LIVE, stream))
        self.ledger = put(self.ledger, at, ledger)

    def read(self, who: str, at: int) -> None:
        """A process takes the next unit from the kernel."""
        stream, done = self._held(who, at).stream, self.ledger[at]
        self._change(who, at, stream._replace(stop=stream.stop + 1), done._replace(read=done.read + 1))

    def deliver(self, who: str, at: int) -> None:
        """A handler is given a frame."""
        stream, done = self._held(who, at).stream, self.ledger[at]
        after = self.rig.ends[at][stream.written] + 1
        self._change(who, at, stream._replace(start=after, busy=True), done._replace(handled=after))

    def work(self, who: str, at: int) -> None:
        """A handler has finished with its frame, and has written the answer."""
        stream = self._held(who, at).stream
        self._hold(who, at, Held(LIVE, stream._replace(written=stream.written + 1, busy=False)))

    def send(self, who: str, at: int) -> None:
        """The kernel takes an answer."""
        stream, done = self._held(who, at).stream, self.ledger[at]
        self._change(who, at, stream._replace(sent=stream.sent + 1), done._replace(answered=done.answered + 1))

    def end(self, who: str, at: int) -> None:
        """Both directions are over: shutdown(2), and close(2)."""
        self._hold(who, at, None)
        self.ended |= 1 << at


def prepared(sender: Sender, receiver: Receiver) -> tuple[Sender, Receiver]:
    """Return the machines as they are when the new process has said that it is ready."""
    receiver.receive(m.Setup(m.PROTOCOL, "id", 2, 1, {}, False, {}))
    receiver.hello()
    sender.receive(m.Hello(m.PROTOCOL, 2, "1", {}, 1024, 10))
    sender.receive(receiver.ready())
    return sender, receiver


def put(row: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    """Return a row with another value at one place."""
    return (*row[:at], value, *row[at + 1 :])


def bits(numbers: Iterable[int]) -> int:
    """Return a set as a number."""
    return sum(1 << number for number in numbers)


def name(at: int) -> str:
    """Name a connection: a, b, c."""
    return chr(ord("a") + at)
