"""The messages of configuration servers and their subscribers: what travels, and what does not get in."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.config import push
from hotfd.config.release import MAX_RELEASE
from hotfd.errors import PushRefused
from tests.unit.push_heads import head, report, sealed, subscribe

SHA = "0" * 64

REQUESTS = [
    subscribe("arena", "chat", zone="eu", have={"arena": 3}),
    push.Want("arena", 3, SHA),
    push.Report((report(pinned={3: 2, 4: 1}, faults=("size is 3; expected a string",)),)),
    push.Declare("arena", "id-1", b'{"type":"object"}'),
    push.Lookup(("arena",)),
]

ANSWERS = [
    push.Welcome("server-1", ("arena",), 3.0),
    push.Digest((head("arena", 3, canary=sealed("arena", 4)), head("chat", 1))),
    push.Body("arena", 3, SHA, b"\0\xff"),
    push.Unavailable("arena", 3, SHA, "the store is away"),
    push.Addresses({"arena": ("127.0.0.1:7000", "[::1]:7000", "config.example:7000", "unix:/run/c.sock")}),
    push.Refused("too-many", "go elsewhere"),
]


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_a_request_comes_as_it_was_sent(message: push.Request) -> None:
    (payload,) = push.Splitter(push.MAX_REQUEST).feed(push.frame(message))
    assert push.read_request(payload) == message


@pytest.mark.parametrize("message", ANSWERS, ids=lambda message: type(message).__name__)
def test_an_answer_comes_as_it_was_sent(message: push.Answer) -> None:
    (payload,) = push.Splitter(push.MAX_ANSWER).feed(push.frame(message))
    assert push.read_answer(payload) == message


def test_the_largest_release_fits_an_answer() -> None:
    body = push.Body("a" * 64, (1 << 53) - 1, SHA, bytes(MAX_RELEASE))
    assert push.read_answer(push.frame(body)[push.HEADER :]) == body


def test_the_largest_schema_fits_a_request() -> None:
    declare = push.Declare("a" * 64, "x" * 1024, bytes(push.MAX_SCHEMA))
    assert push.read_request(push.frame(declare)[push.HEADER :]) == declare


def test_what_is_too_large_is_not_sent() -> None:
    reports = tuple(report(server=str(number), faults=("x" * 1000,) * 100) for number in range(3))
    with pytest.raises(PushRefused, match="at most 262144"):
        push.frame(push.Report(reports))


def encoded(tag: str, **fields: object) -> bytes:
    return msgspec.msgpack.encode({"type": tag, **fields})


GARBAGE = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n",
    "no message": msgspec.msgpack.encode([1, 2]),
    "unknown": encoded("shutdown"),
    "an answer": push.frame(ANSWERS[0])[push.HEADER :],
    "no module": encoded("lookup", modules=[]),
    "many modules": encoded("lookup", modules=[f"m{number}" for number in range(65)]),
    "a module's name": encoded("lookup", modules=["../etc"]),
    "a name with a line's end": encoded("lookup", modules=["arena\n"]),
    "a long name": encoded("lookup", modules=["a" * 65]),
    "a digest": encoded("want", module="arena", version=1, sha256="0" * 63),
    "a version": encoded("want", module="arena", version=-1, sha256=SHA),
    "a large version": encoded("want", module="arena", version=1 << 53, sha256=SHA),
    "a missing field": encoded("want", module="arena", version=1),
    "a large schema": encoded("declare", module="arena", schema_id="x", schema=bytes(push.MAX_SCHEMA + 1)),
    "deep": msgspec.msgpack.encode({"type": "report", "reports": 1})[:-1] + b"\x91" * 5000 + b"\xc0",
    "no utf-8": b"\x81\xa4type\xa4\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(PushRefused, match="malformed"):
        push.read_request(data)


@pytest.mark.parametrize(
    "address", ["", "host", "host:port", "a b:1", "unix:", "unix:run", "h:1,h:2", "h:1?ca=x", "h" * 300 + ":1", "h:1\n"]
)
def test_an_address_that_is_none_is_not_taken(address: str) -> None:
    with pytest.raises(PushRefused):
        push.read_answer(encoded("addresses", addresses={"arena": [address]}))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_reading(data: bytes) -> None:
    for read in (push.read_request, push.read_answer):
        with suppress(PushRefused):
            read(data)  # type: ignore[operator]


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_frames_are_found_however_they_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"".join(len(payload).to_bytes(4) + payload for payload in payloads)
    splitter, found, at, turn = push.Splitter(40), [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        found += splitter.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert found == payloads


def test_a_frame_that_is_too_large_is_refused_by_its_length_alone() -> None:
    splitter = push.Splitter(100)
    assert splitter.feed((100).to_bytes(4) + bytes(99)) == []
    assert splitter.feed(bytes(1) + (101).to_bytes(4)[:3]) == [bytes(100)]
    with pytest.raises(PushRefused, match="101 bytes"):
        splitter.feed(b"\x65")


def test_a_report_is_cut_to_its_limits() -> None:
    faults = tuple(f"{number:4} " + "é" * 500 for number in range(300))
    pinned = dict.fromkeys(range(1000), 1)
    small = push.bounded(report(faults=faults, pinned=pinned))
    assert small.faults == faults[: len(small.faults)]
    assert 10 <= len(small.faults) <= 16
    assert small.pinned == dict.fromkeys(range(744, 1000), 1)
    assert push.bounded(small) == small


def test_eight_of_the_largest_reports_fit_a_request() -> None:
    fields = {"faults": ("é" * 1024,) * 100, "pinned": {(1 << 52) + number: 1 << 40 for number in range(300)}}
    long = "é" * 1024
    worst = push.bounded(report(**fields))
    worst = msgspec.structs.replace(worst, server=long, service=long, host=long, zone=long)
    assert push.frame(push.Report((worst,) * 8))
