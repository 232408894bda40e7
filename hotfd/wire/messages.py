"""The messages of the handoff channel, and their encoding.

One message is one ``SOCK_SEQPACKET`` packet: two bytes of magic, one of format version, one reserved
(zero), then a MessagePack array whose first element is the message's tag. Descriptors travel beside the
bytes as ``SCM_RIGHTS``; each message says below which ones it brings and in which order.

==========  =========  ==========================================================================
message     direction  descriptors
==========  =========  ==========================================================================
Setup       old, new   none
Hello       new, old   none
Ready       new, old   none
Failed      new, old   none
Listeners   old, new   the touch memfd, then one listening socket per entry
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


class Ready(Message):
    """The new process has initialised itself and its health check passed."""


class Failed(Message):
    """The new process gives up, and says why; it exits."""

    code: Text
    detail: Text


class ListenerEntry(msgspec.Struct, array_like=True):
    """One listening socket: what the server was told to listen on, and which socket that is."""

    spec: Text
    cookie: Cookie


class Listeners(Message):
    """The listening sockets. With ``hold`` the new process accepts only after the first Commit."""

    entries: Annotated[list[ListenerEntry], msgspec.Meta(max_length=200)]
    hold: bool


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


AnyMessage = (
    Setup | Hello | Ready | Failed | Listeners | OfferPart | Accept | Refuse | Commit | Revoke | Newcomer
    | Ended | Finish | Settled | Abort
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
