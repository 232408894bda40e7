"""The messages of the handoff channel, and their encoding.

One message is one ``SOCK_SEQPACKET`` packet: two bytes of magic, one of format version, one reserved
(zero), then a MessagePack array whose first element is the message's tag. Descriptors travel beside the
bytes as ``SCM_RIGHTS``; each message says below which ones it brings and in which order.

==========  =========  ==========================================================================
message     direction  descriptors
==========  =========  ==========================================================================
Setup       old, new   a sealed memfd with what ran before
Hello       new, old   none
Ready       new, old   none
Failed      new, old   none
Releases    old, new   a sealed memfd with releases of the configuration
Rewritten   old, new   none
Listeners   old, new   the touch memfd, then one listening socket per entry
Kinds       old, new   none
OfferPart   old, new   a sealed memfd with the records, then the connections
Accept      new, old   none
Refuse      new, old   none
Commit      old, new   none
Revoke      old, new   none
Newcomer    new, old   a copy of one connection that the new process accepted
Ended       new, old   none
Finish      old, new   none
Settled     new, old   none
Abort       old, new   none
Linked      old, new   none
Holds       old, new   none
Released    old, new   none
Wanted      new, old   none
Newest      new, old   one end of a channel to the process that is to be the newest
Elder       old, new   the other end of it
Replaced    both ways  none
Handover    old, new   one end of a channel on which sessions come that had stayed behind
BusPast     old, new   none
BusJoin     old, new   none
BusWelcome  new, old   none
Publish     old, new   none
Published   new, old   none
BusSeen     old, new   none
BusCut      both ways  none
==========  =========  ==========================================================================
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hotfd.errors import ChannelError

PROTOCOL = 1
"""Version of what the messages mean. Processes of different versions refuse each other at Hello."""

HEADER = b"HF\x01\x00"
"""Magic, format version, reserved."""

MAX_PACKET = 1 << 16
"""Bytes of one packet, which both sides can take without asking the kernel for larger buffers."""

MAX_IDS = 4096
"""Ids in one message: at nine bytes each they fit a 64 KiB packet with room to spare."""

MAX_TEXT = 1024
"""Characters of a reason that one process tells the other."""

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Cookie = Annotated[int, msgspec.Meta(ge=0)]
MAX_UNREADABLE = 32
"""Snapshots that the new process names as unreadable in its Hello: with their reasons they fit a packet. It refuses
the sessions of the others when they are offered."""

Serial = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Pid = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Ids = Annotated[list[Id], msgspec.Meta(max_length=MAX_IDS)]
Cookies = Annotated[list[Cookie], msgspec.Meta(max_length=MAX_IDS)]


class Message(msgspec.Struct, tag=str.lower, array_like=True, gc=False):
    """Base of all messages."""


class Setup(Message):
    """First of all, queued before the new process runs: who hands over, and what.

    ``schema`` is the old process's state schema, ``framings`` maps each listener to its framing's spec.
    """

    protocol: Count
    handoff: Text
    generation: Count
    pid: Pid
    schema: dict[str, Any]
    process_schema: bool
    framings: dict[str, str]
    kinds: dict[str, dict[str, Any]] = {}
    """The schemas of shared sessions' states, by name."""

    remainder: bool = False
    """Whether the new process serves already, and only takes over what had stayed behind."""

    back_to: Count | None = None
    """The generation that the new process runs again, when an operator goes back."""

    releases: bool = False
    """Whether Releases follows: what runs of the configuration, and what the sessions hold of it."""


class Hello(Message):
    """The new process runs, and says what it is able to take."""

    protocol: Count
    pid: Pid
    version: Text
    framings: dict[str, str]
    descriptor_limit: Count
    descriptors_open: Count
    unreadable: Text | None = None
    """Why the new code cannot read the old state, or None."""

    schema: dict[str, Any] | None = None
    """When it is the state that it cannot read: its own state's schema, for which the old code may write."""

    kinds: dict[str, dict[str, Any]] = {}
    """The same for the states of shared sessions that the old process has named, and that the new code has."""

    unreadable_releases: Annotated[dict[Serial, Text], msgspec.Meta(max_length=MAX_UNREADABLE)] = {}
    """Why sessions with these snapshots of the configuration cannot be served by the new code."""


class Ready(Message):
    """The new process has initialised itself and its health check passed."""


class Failed(Message):
    """The new process gives up, and says why; it exits."""

    code: Text
    detail: Text


class Rewritten(Message):
    """Answers a Hello that says ``unreadable``: states are written for the new code, in these schemas."""

    schema: dict[str, Any]
    kinds: dict[str, dict[str, Any]] = {}


class Releases(Message):
    """Releases of the configuration: what runs, and what the sessions hold that are offered after this message."""


class ListenerEntry(msgspec.Struct, array_like=True):
    """One listening socket: what the server was told to listen on, which socket that is, and whose.

    A service manager has made a ``lent`` one, and keeps it: its path in the file system is not the server's.
    """

    spec: Text
    cookie: Cookie
    lent: bool = False


class Listeners(Message):
    """The listening sockets. With ``hold`` the new process accepts only after the first Commit."""

    entries: Annotated[list[ListenerEntry], msgspec.Meta(max_length=200)]
    hold: bool


class Kinds(Message):
    """Schemas of shared sessions' states that the old process has come to know since its Setup."""

    kinds: dict[str, dict[str, Any]]


class OfferPart(Message):
    """Part ``part`` of ``parts`` of an offer of the sessions ``first .. first + sessions - 1``."""

    offer: Id
    part: Count
    parts: Count
    first: Id
    sessions: Count


class Accept(Message):
    """The new process can serve these sessions, and has not begun to."""

    ids: Ids


class Refusal(msgspec.Struct, array_like=True):
    """Why one session cannot be taken over."""

    id: Id
    code: Text
    detail: Text


class Refuse(Message):
    """The new process cannot serve these sessions, and has closed what came of them."""

    refusals: Annotated[list[Refusal], msgspec.Meta(max_length=MAX_IDS)]


class Commit(Message):
    """These sessions are the new process's own from here on."""

    ids: Ids


class Revoke(Message):
    """These sessions, offered and not committed, stay with the old process."""

    ids: Ids


class Newcomer(Message):
    """A copy of a connection that the new process accepted and has not read, with its touch slot."""

    cookie: Cookie
    slot: Count
    listener: Text


class Ended(Message):
    """These connections are over; whoever keeps a copy drops it."""

    cookies: Cookies


class Finish(Message):
    """No more offers. The new process proves itself for ``probation`` seconds, then settles."""

    probation: Annotated[float, msgspec.Meta(ge=0.0, le=86400.0)]


class Settled(Message):
    """The new process is healthy at the end of its probation; pauses in milliseconds."""

    pause_p50: float
    pause_p99: float
    pause_max: float


class Abort(Message):
    """The old process takes everything back that is not committed; the new one exits."""

    code: Text
    detail: Text


class LinkMessage(Message):
    """Base of what two generations tell each other as long as both serve, in whatever phase a handoff is."""


Key = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Keys = Annotated[list[Key], msgspec.Meta(max_length=MAX_IDS)]


class Linked(LinkMessage):
    """From here on the two processes are neighbours; the first message of a link."""


class Holds(LinkMessage):
    """Keys of shared sessions that the sender, or a process older than it, has; ``last`` ends the list."""

    keys: Keys
    last: bool


class Released(LinkMessage):
    """The shared session with this key has ended; the newest process may make it again."""

    key: Key


class Wanted(LinkMessage):
    """A connection of a newer process waits for the shared session with this key."""

    key: Key


class Newest(LinkMessage):
    """The sender is being replaced: when it has been, or has gone, this process is the receiver's newer neighbour."""

    pid: Pid
    generation: Count


class Elder(LinkMessage):
    """A process older than the sender, which serves what has stayed behind, is the receiver's neighbour then."""

    pid: Pid
    generation: Count


class Replaced(LinkMessage):
    """The sender has been replaced: those that it has introduced to each other are neighbours from here on."""


class Handover(LinkMessage):
    """Sessions that had stayed behind come now, by a handoff of their own on a channel of its own."""


Origin = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
"""Which process published something: a random token, so that no two processes of a service have the same."""

MAX_ORIGINS = 64
"""Processes whose numbers are remembered: one for each generation that still serves, with much room."""

MAX_TOPIC = 255
"""Characters of a topic: it is a name, and not content."""

MAX_VALUE = 32 << 10
"""Bytes of a published value: with its topic it fits a packet, and a full window of them stays small."""

Topic = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TOPIC)]
Value = Annotated[bytes, msgspec.Meta(max_length=MAX_VALUE)]
Vector = Annotated[list[tuple[Origin, Id]], msgspec.Meta(max_length=MAX_ORIGINS)]
"""How far something is: for each origin, the number of the last message of it."""


class BusPast(LinkMessage):
    """A message that the older process still keeps; before its BusJoin, oldest first."""

    origin: Origin
    number: Id
    topic: Topic
    value: Value


class BusJoin(LinkMessage):
    """The older process numbers nothing from here on: what it has applied, and what nobody needs of it any more."""

    applied: Vector
    settled: Vector


class BusWelcome(LinkMessage):
    """What the newer process had applied when it took the BusJoin; what the older one lacked of that has been sent."""

    applied: Vector


class Publish(LinkMessage):
    """A message that is to be published."""

    origin: Origin
    number: Id
    topic: Topic
    value: Value


class Published(LinkMessage):
    """The next message in the order of all; ``index`` counts them on this link, ``position`` is the sender's."""

    index: Id
    position: Id
    origin: Origin
    number: Id
    topic: Topic
    value: Value


class BusSeen(LinkMessage):
    """How many Published have come, and up to which of the receiver's positions nobody needs any again."""

    index: Id
    kept: Id


class BusCut(LinkMessage):
    """The sender has given the receiver up as a neighbour on the bus, which it was too slow for."""


AnyMessage = (
    Setup | Hello | Ready | Failed | Rewritten | Listeners | OfferPart | Accept | Refuse | Commit | Revoke | Newcomer
    | Ended | Finish | Settled | Abort | Linked | Holds | Released | Wanted | Newest | Elder | Replaced | Handover
    | Kinds | Releases
    | BusPast | BusJoin | BusWelcome | Publish | Published | BusSeen | BusCut
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """Return the packet of one message.

    Raises:
        ValueError: it is larger than ``MAX_PACKET``.
    """
    packet = HEADER + _encoder.encode(message)
    if len(packet) > MAX_PACKET:
        raise ValueError(f"a {type(message).__name__} of {len(packet)} bytes; a packet takes {MAX_PACKET}")
    return packet


def decode(packet: bytes) -> AnyMessage:
    """Read one packet.

    Raises:
        ChannelError: the packet is no message of this protocol.
    """
    if packet[:4] != HEADER:
        raise ChannelError("the packet does not begin as a hotfd message of format 1")
    try:
        return _decoder.decode(packet[4:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChannelError(f"the packet is no message: {error}") from None


def chunks(ids: list[int]) -> list[list[int]]:
    """Cut a list of ids into lists that fit one message each."""
    return [ids[i : i + MAX_IDS] for i in range(0, len(ids), MAX_IDS)]
