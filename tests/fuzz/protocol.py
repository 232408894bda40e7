"""Targets: what another process of the same service sends, and what configuration servers and subscribers say."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from hotfd import _core
from hotfd.config import push
from hotfd.config.carry import Luggage, carry
from hotfd.config.declare import Config
from hotfd.config.servers import Servers
from hotfd.config.slots import Slots
from hotfd.config.store import Acknowledgement
from hotfd.distribution.subscriber import Subscriber
from hotfd.errors import ChannelError, ConfigError, HandoffRefused, PushRefused, StateError, StateTooNew
from hotfd.server.snapshot import Readers, decode_states
from hotfd.state import Codec, decode_any, encode_any
from hotfd.transfer.fingerprint import Fingerprint, Mark
from hotfd.transfer.history import Entry, History
from hotfd.transfer.offer import Bundle
from hotfd.wire import messages as m
from hotfd.wire import records
from hotfd.wire.receiver import Receiver
from hotfd.wire.sender import Sender
from tests.fuzz.engine import Target
from tests.unit.config_support import Rules, Shelf, Shop, sealed


@dataclass
class Visitor:
    lines: int = 0
    names: list[str] = field(default_factory=list)
    seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)


CODEC: Final = Codec.of(Visitor)
READ: Final = CODEC.reader(CODEC.schema)
STATE: Final = CODEC.encode(Visitor(5, ["anna", "bert"], {"a": (1, b"x")}, {1, 2}))
SHA: Final = "ab" * 32

MESSAGES: Final[tuple[m.Message, ...]] = (
    m.Setup(1, "h1", 3, 41, CODEC.schema, True, {"127.0.0.1:7000": "lines()"}, {"match": CODEC.schema}, releases=True),
    m.Hello(1, 42, "0.1", {"a": "lines()"}, 1024, 40, "field a", CODEC.schema, {}, {1: "no"}),
    m.Ready(),
    m.Failed("exited", "it has"),
    m.Rewritten(CODEC.schema),
    m.Releases(),
    m.Listeners([m.ListenerEntry("127.0.0.1:7000", 99), m.ListenerEntry("unix:/x", 100, True)], False),
    m.Kinds({"match": CODEC.schema}),
    m.OfferPart(0, 0, 1, 0, 2),
    m.OfferPart(0, 0, 2, 0, 3),
    m.OfferPart(0, 1, 2, 0, 3),
    m.Accept([0, 1, 2]),
    m.Refuse([m.Refusal(1, "state-decode", "field a")]),
    m.Commit([0, 1]),
    m.Revoke([1]),
    m.Newcomer(7, 3, "127.0.0.1:7000"),
    m.Ended([7, 8]),
    m.Finish(5.0),
    m.Settled(0.1, 0.2, 0.3),
    m.Abort("deadline", "it took too long"),
    m.Linked(),
    m.Holds(["match-1", "match-2"], True),
    m.Wanted("match-1"),
    m.Newest(44, 4),
    m.Handover(),
    m.BusJoin([(b"12345678", 5)], [(b"12345678", 3)]),
    m.Published(1, 2, b"12345678", 3, "chat", b"value"),
    m.BusSeen(1, 2),
)


def read_message(data: bytes) -> None:
    """Read a packet; what was read can be written and read again."""
    message = m.decode(data)
    again = m.HEADER + msgspec.msgpack.encode(message)
    assert msgspec.msgpack.encode(m.decode(again)) == again[len(m.HEADER) :]


def packets(data: bytes) -> list[m.AnyMessage]:
    """Return the messages in packets that stand one behind the other, as in a trace of a channel."""
    return [m.decode(m.HEADER + packet) for packet in data.split(m.HEADER)[1:]]


def trace(*messages: m.Message) -> bytes:
    return b"".join(map(m.encode, messages))


def to_receiver(data: bytes) -> None:
    """Say something to the new process's machine, which does its own part in between."""
    machine = Receiver()
    for message in packets(data):
        held = machine.receive(message)
        if isinstance(message, m.Setup):
            machine.hello()
            machine.ready()
        elif isinstance(message, m.OfferPart) and held:
            assert len(held) <= 1 << 20
            machine.accept(held)
    machine.orphaned()


def to_sender(data: bytes) -> None:
    """Say something to the old process's machine, which offers what it can."""
    machine = Sender()
    for message in packets(data):
        accepted = machine.receive(message)
        if isinstance(message, m.Ready):
            machine.offer(3)
        elif isinstance(message, m.Accept) and accepted:
            machine.commit(accepted[:1])
    back = machine.take_back(lambda session: False)
    assert len(machine.sessions) <= 3, back


PART: Final = records.Part(
    [records.SessionRecord(0, "s0", 1), records.SessionRecord(1, "s1", 1, "match", STATE, "match", [("end", 3.5)], 2)],
    [
        records.ConnectionRecord(0, 11, "c0", "127.0.0.1:7000", 2, ("127.0.0.1", 4000), STATE, b"half", b"unsent"),
        records.ConnectionRecord(
            1, 12, "c1", "unix:/x", 1, b"/client", STATE, merged=encode_any([(0, "a")]), joining=("k", "match"),
            timers=(("tick", 1.5),), subscriptions=(records.SubscriptionRecord("t", 1, [encode_any(5)]),),
            mark=((b"12345678", 3),),
        ),
    ],
    encode_any({"counter": 5}),
)  # fmt: skip

READERS: Final = Readers(READ, lambda kind, data: READ(data))


def read_records(data: bytes) -> None:
    """Read a part's records, and all that is encoded in them, as the new process does before it accepts."""
    part = records.decode_part(data)
    for session in part.sessions:
        mine = [connection for connection in part.connections if connection.session == session.session]
        decode_states(Bundle(session, mine, [-1] * len(mine)), READERS)
    if part.process is not None:
        decode_any(part.process)
    records.encode_part(part)


def read_state(data: bytes) -> None:
    CODEC.encode(READ(data))


def read_schema(data: bytes) -> None:
    """Use the schema that another process says its states have."""
    try:
        schema = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    why = CODEC.unreadable(schema)
    older = CODEC.older(schema)
    if not isinstance(older, str):
        older.encode(Visitor())
    try:
        CODEC.reader(schema)(STATE)
    except StateError:
        return
    assert why is None


def entry(generation: int) -> Entry:
    return Entry(
        generation, 40 + generation, 1.5, "start", generation, [b"python3", b"server.py"], b"/nowhere/current",
        [b"/nowhere/python3", b"server.py"], b"/nowhere", [(b"PATH", b"/bin"), (b"TOKEN", b"secret")], "0.1", "3.11", 1,
        Fingerprint([Mark(b"/nowhere/server.py", "", 1, 2, 3, b"x" * 16)], later=[Mark(b"/nowhere/x", "", 1, 2, 3, None)]),
    )  # fmt: skip


def read_history(data: bytes) -> None:
    """Read what ran before, and ask all that can be asked of it without running anything."""
    memfd = _core.memfd_seal("fuzz", [data])
    try:
        history = History.unsealed(memfd)
    finally:
        os.close(memfd)
    history.followed_by(entry(9), 1)
    for generation in [one.generation for one in history.entries]:
        assert "secret" not in repr(history.current)
        try:
            named = history.named(generation)
        except HandoffRefused:
            continue
        named.check()
        assert named.origin.command
    with suppress(HandoffRefused):
        history.previous()


def slots() -> Slots:
    return Slots([Config("rules", Rules), Config("shop", Shop)])


def luggage() -> bytes:
    shelf, mine = Shelf(), slots()
    shelf.publish("rules", size=3)
    shelf.publish("shop", price=4)
    shelf.stage(mine)
    mine.start()
    held = mine.begin("x")
    shelf.publish("rules", size=5)
    shelf.stage(mine)
    return carry(mine, [held])


def unpack(data: bytes) -> None:
    mine = slots()
    carried = Luggage(mine)
    carried.unpack(data)
    carried.behind()
    assert all(isinstance(text, str) for text in carried.unreadable.values())


REPORT: Final = Acknowledgement("rules", "s1", "play", "h", 42, 3, "staged", 5, 2, 1.5, pinned={2: 7}, faults=("no",))
REQUESTS: Final[tuple[push.Request, ...]] = (
    push.Subscribe(1, "s1", "play", "eu", "h", 42, 1, ("rules",), {"rules": 4}),
    push.Want("rules", 3, SHA),
    push.Report((REPORT,)),
    push.Declare("rules", "id", b'{"type":"object"}'),
    push.Lookup(("rules",)),
)


def answers() -> tuple[push.Answer, ...]:
    shelf = Shelf()
    head = shelf.publish("rules", size=3)
    return (
        push.Welcome("c1", ("rules",), 10.0),
        push.Digest((head,), ("shop",)),
        push.Body("rules", 1, SHA, sealed("rules", 1, size=3).data),
        push.Unavailable("rules", 1, SHA, "gone"),
        push.Addresses({"rules": ("127.0.0.1:7000", "[::1]:7", "unix:/x", "example.org:7")}),
        push.Refused("protocol", "another one"),
    )


def to_server(data: bytes) -> None:
    """Say something to a configuration server, cut anywhere."""
    subscriber = Subscriber()
    for now, payload in enumerate(split(data, push.MAX_REQUEST)):
        message = push.read_request(payload)
        subscriber.hear(message, float(now), 10.0)
        if isinstance(message, push.Subscribe):
            subscriber.admit(("rules", "shop"), message.modules)
            subscriber.digest({})
        if isinstance(message, push.Report):
            for report in message.reports:
                push.frame(push.Report((push.bounded(report),)))
    msgspec.msgpack.encode(subscriber)  # it travels when the server is handed over


def to_subscriber(data: bytes) -> None:
    """Say something to a subscriber, cut anywhere."""
    servers = Servers(["127.0.0.1:1"], ["rules"], 10.0, local=True, random=random.Random(1))
    (address,) = servers.wanted(0.0)
    for now, payload in enumerate(split(data, push.MAX_ANSWER)):
        match push.read_answer(payload):
            case push.Welcome() as welcome:
                servers.welcomed(address, welcome.server, welcome.modules)
            case push.Digest() as digest:
                servers.digest(address, digest.heads, digest.silent)
            case push.Addresses() as told:
                servers.learn(told.addresses)
            case push.Refused() as refused:
                servers.ended(address, float(now), refused.code)
                break
            case push.Body() | push.Unavailable():
                pass
    servers.next_try(5.0)
    assert set(servers.have) <= {"rules"}


def split(data: bytes, limit: int) -> list[bytes]:
    """Divide into frames what arrives whole, and in pieces: the same comes out."""
    pieces = push.Splitter(limit)
    width = 1 + len(data) // 7
    found = [frame for at in range(0, len(data), width) for frame in pieces.feed(data[at : at + width])]
    assert found == push.Splitter(limit).feed(data)
    return found


TARGETS: Final = (
    Target("wire-message", lambda: [m.encode(one) for one in MESSAGES], read_message, (ChannelError,), "msgpack", 4),
    Target(
        "wire-receiver",
        lambda: [
            trace(MESSAGES[0], MESSAGES[5], MESSAGES[6], MESSAGES[8], m.Commit([0]), m.Revoke([1]), m.Finish(1.0)),
            trace(MESSAGES[0], MESSAGES[6], MESSAGES[9], MESSAGES[10], m.Commit([0, 1, 2]), m.Finish(0.0)),
            trace(MESSAGES[0], MESSAGES[4], MESSAGES[19]),
        ],
        to_receiver,
        (ChannelError,),
        tokens=tuple(map(m.encode, MESSAGES)),
    ),
    Target(
        "wire-sender",
        lambda: [
            trace(
                MESSAGES[1], MESSAGES[2], m.Accept([0, 1]), m.Refuse([m.Refusal(2, "x", "y")]), m.Newcomer(7, 3, "a")
            ),
            trace(MESSAGES[3]),
        ],
        to_sender,
        (ChannelError,),
        tokens=tuple(map(m.encode, MESSAGES)),
    ),
    Target("records", lambda: [records.encode_part(PART)], read_records, (ChannelError, StateError), "msgpack"),
    Target("state", lambda: [STATE, CODEC.encode(Visitor())], read_state, (StateError,), "msgpack"),
    Target("state-any", lambda: [encode_any([{1: {2}}, (b"x", 2**70)])], decode_any, (StateError,), "msgpack"),
    Target("state-schema", lambda: [msgspec.json.encode(CODEC.schema)], read_schema, (StateTooNew,), "json"),
    Target(
        "history",
        lambda: [msgspec.msgpack.encode([entry(1), entry(2)])],
        read_history,
        (ChannelError, HandoffRefused),
        "msgpack",
    ),
    Target("luggage", lambda: [luggage()], unpack, (ConfigError,), "msgpack"),
    Target(
        "push-request",
        lambda: [b"".join(map(push.frame, REQUESTS)), push.frame(REQUESTS[0])],
        to_server,
        (PushRefused,),
        "msgpack",
        push.HEADER,
    ),
    Target(
        "push-answer",
        lambda: [b"".join(map(push.frame, answers())), *map(push.frame, answers())],
        to_subscriber,
        (PushRefused,),
        "msgpack",
        push.HEADER,
    ),
    Target(
        "push-request-message",
        lambda: [push.frame(one)[push.HEADER :] for one in REQUESTS],
        push.read_request,
        (PushRefused,),
        "msgpack",
    ),
    Target(
        "push-answer-message",
        lambda: [push.frame(one)[push.HEADER :] for one in answers()],
        push.read_answer,
        (PushRefused,),
        "msgpack",
    ),
)
