"""The client's side: what it makes of servers that end, fall silent or talk nonsense."""

import json
import socket
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.control import Client, RequestFailed, ServerGone, Unreachable, client
from hotfd.control.lines import LineBuffer, LineTooLong, decode, encode
from tests.unit.control_fakes import open_descriptors

HELLO = {"hotfd": 1, "pid": 1, "start_time": 1, "generation": 1}


@pytest.fixture(autouse=True)
def _no_descriptor_is_left():
    before = open_descriptors()
    yield
    assert open_descriptors() == before


class Somewhere:
    """A target whose server is the other end of a socket pair, and of no known process."""

    label = "process 9"

    def __init__(self, connection):
        self._connection = connection

    def connect(self, timeout):
        return self._connection, None


@contextmanager
def talking_to(script):
    """A client's target; ``script(socket)`` is the server, in a thread, and its end closes the stream."""
    ours, theirs = socket.socketpair()

    def serve():
        with theirs:
            script(theirs)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Somewhere(ours)
    finally:
        ours.close()
        thread.join()


def says(*lines):
    """A server that greets, reads one request, and sends ``lines``."""

    def script(connection):
        connection.sendall(encode(HELLO))
        connection.recv(65536)
        for line in lines:
            connection.sendall(line if isinstance(line, bytes) else encode(line))

    return script


def test_events_come_before_the_result():
    script = says({"event": "started", "id": "h"}, {"event": "progress"}, {"result": {"a": 1}})
    seen = []
    with talking_to(script) as target, Client.connect(target) as connected:
        assert connected.ask("update", on_event=seen.append) == {"a": 1}
    assert [line["event"] for line in seen] == ["started", "progress"]


def test_the_request_is_one_line_with_its_fields():
    received = []

    def script(connection):
        connection.sendall(encode(HELLO))
        received.append(connection.recv(65536))
        connection.sendall(encode({"result": {}}))

    with talking_to(script) as target, Client.connect(target) as connected:
        connected.ask("update", deadline=1.5, command=["a b", "ü"])
    assert received[0].endswith(b"\n")
    assert json.loads(received[0]) == {"type": "update", "deadline": 1.5, "command": ["a b", "ü"]}


def test_an_error_is_raised_with_its_code():
    script = says({"error": {"code": "handoff-in-progress", "message": "h-1 is going on"}})
    with (
        talking_to(script) as target,
        Client.connect(target) as connected,
        pytest.raises(RequestFailed, match="h-1 is going on") as caught,
    ):
        connected.ask("update")
    assert caught.value.code == "handoff-in-progress"


@pytest.mark.parametrize(
    "lines",
    [(), ({"event": "started", "id": "h"},), (b'{"result": {"half',)],
    ids=["at once", "after an event", "within the answer"],
)
def test_a_stream_that_ends_before_the_answer_is_told_from_silence(lines):
    with (
        talking_to(says(*lines)) as target,
        Client.connect(target) as connected,
        pytest.raises(ServerGone) as caught,
    ):
        connected.ask("update", on_event=lambda event: None)
    assert caught.value.ended


def test_a_reset_is_an_end_as_well():
    def script(connection):
        connection.sendall(encode(HELLO))
        connection.recv(1)  # closing with the rest unread resets

    with (
        talking_to(script) as target,
        Client.connect(target) as connected,
        pytest.raises(ServerGone) as caught,
    ):
        connected.ask("update")
    assert caught.value.ended


def test_silence_ends_at_the_timeout_whatever_dribbles_in():
    stop = threading.Event()

    def script(connection):
        says({"event": "progress"})(connection)
        while not stop.wait(0.005):
            connection.sendall(b" ")

    with talking_to(script) as target, Client.connect(target) as connected:
        with pytest.raises(ServerGone, match="did not answer in time") as caught:
            connected.ask("update", timeout=0.05, on_event=lambda event: None)
        stop.set()
    assert not caught.value.ended


def test_a_server_that_never_reads_is_silent():
    release = threading.Event()

    def script(connection):
        connection.sendall(encode(HELLO))
        release.wait()

    with talking_to(script) as target, Client.connect(target) as connected:
        with pytest.raises(ServerGone, match="does not read") as caught:
            connected.ask("update", timeout=0.05, pad="x" * 4_000_000)
        release.set()
    assert not caught.value.ended


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b"\xff\n"])
def test_what_is_no_json_object_is_no_answer(line):
    with (
        talking_to(says(line)) as target,
        Client.connect(target) as connected,
        pytest.raises(ServerGone, match="no JSON line"),
    ):
        connected.ask("status")


def test_an_endless_line_is_no_answer(monkeypatch):
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    with (
        talking_to(says(b"x" * 2000)) as target,
        Client.connect(target) as connected,
        pytest.raises(ServerGone, match="longer than 1000 bytes"),
    ):
        connected.ask("status")


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"", "unresponsive"),
        (encode({"error": {"code": "too-many-clients", "message": "64"}}), "too-many-clients"),
        (encode({"error": "broken"}), "unknown"),
        (b"220 mail.example ESMTP\r\n", "unresponsive"),
        (encode({"hotfd": 99}), "incompatible"),
        (encode({}), "incompatible"),
    ],
)
def test_what_does_not_greet_as_a_server_is_none(first, code):
    with (
        talking_to(lambda connection: connection.sendall(first)) as target,
        pytest.raises(Unreachable) as caught,
    ):
        Client.connect(target)
    assert caught.value.code == code


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_however_the_stream_is_cut(lines, data):
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    buffer, found = LineBuffer(50), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        buffer.feed(stream[:cut])
        stream = stream[cut:]
        while (line := buffer.take()) is not None:
            found.append(line)
    assert found == lines
    assert len(buffer) == 4


def test_a_line_may_be_as_long_as_the_limit_and_no_longer():
    buffer = LineBuffer(4)
    buffer.feed(b"1234\n")
    assert buffer.take() == b"1234"
    buffer.feed(b"1234")
    assert buffer.take() is None
    buffer.feed(b"5")
    with pytest.raises(LineTooLong):
        buffer.take()


def test_a_line_has_no_line_within():
    assert encode({"text": "a\nb\r"}).count(b"\n") == 1
    assert decode(encode({"text": "a\nb"})) == {"text": "a\nb"}
    nested = []
    nested.append(nested)
    with pytest.raises(ValueError, match="nested"):
        encode(nested)
