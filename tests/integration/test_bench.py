"""``hotfd bench``, and the client that all benchmarks share: they measure, and they notice what is lost."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hotfd.bench import clients, floor, handoffs
from hotfd.bench.child import Broken, Child, cpu_seconds
from hotfd.bench.server import ANSWER
from hotfd.server.moving import BATCH
from scripts.bench.load import Load, LoadFailed
from scripts.bench.processes import Server, memory_bytes
from tests.integration.harness import HOTFD, PATIENCE, ROOT


def bench(*options: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``hotfd bench``, where wanted with a lower limit of descriptors."""

    def lower() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    command = [*HOTFD, "bench", *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False, preexec_fn=lower, cwd=ROOT
    )


def test_the_command_measures_handoffs_and_the_kernel_in_turns():
    done = bench("--connections", "20", "--rounds", "1", "--busy", "10", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["connections"], found["busy"], found["rounds"], found["loop"]) == (20, 2, 1, "asyncio")
    assert set(found["figures"]) == {"handoff", "one connection", f"floor {BATCH}", "floor 253"}
    handoff = found["figures"]["handoff"]
    for figure in (
        "wait",
        "wait without",
        "pause p50",
        "pause p99",
        "start",
        "moving",
        "old processor",
        "new processor",
    ):
        assert handoff[figure]["unit"] == "s"
        assert len(handoff[figure]["values"]) == 1
        assert handoff[figure]["median"] > 0, figure
    assert handoff["wait"]["median"] < handoff["start"]["median"] + handoff["moving"]["median"] + 1
    assert found["ratios"]["moving over the kernel alone"]["median"] > 1
    assert found["machine"]["cores"] >= 1
    assert "round 1 of 1: handoff" in done.stderr


def test_the_command_prints_a_table_for_people_with_the_other_loop():
    done = bench("--connections", "3", "--rounds", "1", "--loop", "uvloop")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 connections, 1 of them busy, 200 bytes of state each; uvloop, 1 round;")
    for line in ("longest wait of a client", "all connections moved in", "the kernel alone", "limit  descriptors"):
        assert f"\n{line}" in done.stdout


def test_more_connections_than_a_process_can_have_are_refused_with_what_to_do():
    done = bench("--connections", "400", limit=500)
    assert done.returncode == 2
    assert "400 connections need 528 descriptors in a process, and its hard limit is 500" in done.stderr
    assert "--connections 372" in done.stderr


def test_the_soft_limit_alone_is_in_nobodys_way():
    script = 'ulimit -Sn 64 && exec "$@"'
    command = ["sh", "-c", script, "sh", *HOTFD, "bench", "--connections", "100", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [["--connections", "0"], ["--busy", "101"], ["--state", "-1"], ["--loop", "trio"]])
def test_what_makes_no_sense_is_wrong_usage(options):
    assert bench(*options).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_measurement_ends_everything_that_it_has_started(number):
    command = [*HOTFD, "bench", "--connections", "5"]
    # What a shell starts in the background ignores SIGINT, and so do its children: as these tests may have been.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with running:
        running.stderr.readline()  # the first round has begun
        running.send_signal(number)
        said = running.stderr.read()  # until all who have it have ended
        assert running.wait(PATIENCE) == 130, said
    # That nothing is left over is looked for after every test here.


# ---------------------------------------------------------------- the parts of hotfd bench


@contextmanager
def answering(answer: Callable[[int], bytes | None]) -> Iterator[tuple[str, int]]:
    """Serve one connection at a time: the n-th question gets ``answer(n)``; None closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                count = 0
                while connection.recv(len(clients.QUESTION), socket.MSG_WAITALL):
                    count += 1
                    data = answer(count)
                    if data is None:
                        break
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(PATIENCE)


def right(count: int, state: int = 7) -> bytes:
    return b"\0\0\0\x10" + ANSWER.pack(count, state)


def client(address: tuple[str, int]) -> Child:
    host, port = address
    words = ["--address", f"{host}:{port}", "--connections", "1", "--busy", "1", "--state", "7"]
    return Child("hotfd.bench.clients", words)


def test_clients_tell_what_they_have_seen_and_ask_once_more_at_the_end():
    with answering(right) as address, client(address) as child:
        assert child.line(PATIENCE) == b"ready"
        child.say(b"")
        assert json.loads(child.line(PATIENCE))["seconds"] > 0
        child.end_input()
        last = json.loads(child.line(PATIENCE))
        assert last["answers"] == 1
        assert 0 < last["wait_p50"] == last["wait_max"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda n: right(n) if n < 3 else right(n - 1), "answer 3 is not the one that was due"),
        (lambda n: right(n) if n < 3 else right(1), "answer 3 is not the one that was due"),
        (lambda n: right(n) if n < 3 else right(n, 6), "answer 3 is not the one that was due"),
        (lambda n: right(n) if n < 3 else right(n) + b"!", "answer 3 is not the one that was due"),
        (lambda n: right(n) if n < 3 else None, "after 2 answers: the server has closed it"),
    ],
    ids=["doubled", "forgotten", "state lost", "too much", "closed"],
)
def test_clients_notice_what_a_handoff_must_not_do(answer, said):
    with answering(answer) as address, client(address) as child:
        assert child.line(PATIENCE) == b"ready"
        with pytest.raises(Broken, match=said):
            child.line(PATIENCE)


def test_the_floor_passes_every_socket_and_leaves_ours_open():
    sockets = [socket.socket() for _ in range(150)]
    try:
        assert floor.measure(sockets, 64) > 0
        assert all(each.fileno() >= 0 and each.family == socket.AF_INET for each in sockets)
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize("per_message", [1, 20])
def test_a_receiver_that_has_no_room_ends_the_measurement(monkeypatch, per_message):
    class Poor(Child):
        def line(self, limit: float) -> bytes:
            line = super().line(limit)
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (10, 10))
            return line

    monkeypatch.setattr(floor, "Child", Poor)
    sockets = [socket.socket() for _ in range(40)]
    try:
        with pytest.raises(Broken, match="is its limit lower"):
            floor.measure(sockets, per_message)
    finally:
        for each in sockets:
            each.close()


def test_a_handoff_that_does_not_move_everything_is_no_measurement(monkeypatch):
    handoff = handoffs.ServerProcess.handoff

    def partial(self, **options):
        report = handoff(self, **options)
        return {**report, "outcome": "partial", "reasons": {"no-boundary": 1}}

    monkeypatch.setattr(handoffs.ServerProcess, "handoff", partial)
    with pytest.raises(Broken, match=r"the handoff was partial: \{'no-boundary': 1\}"):
        handoffs.run(handoffs.Asked(2, rounds=1), lambda _text: None)


def test_a_helper_that_fails_says_why():
    with Child("hotfd.bench.clients", []) as child, pytest.raises(Broken, match="the following arguments are required"):
        child.line(PATIENCE)


# ---------------------------------------------------------------- the client of all suites

ECHO = """
import asyncio, sys

async def echo(reader, writer):
    mode, count = sys.argv[1], 0
    try:
        while True:
            data = await reader.readexactly(8)
            count += 1
            if mode == "close" and count == 3:
                break
            if mode == "wrong" and count == 3:
                data = b"87654321"
            if mode == "more" and count == 3:
                data += b"!"
            if mode != "mute" or count == 1:
                writer.write(data)
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    print("127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def echo(tmp_path: Path) -> Callable[[str], Server]:
    program = tmp_path / "echo.py"
    program.write_text(ECHO)
    return lambda mode: Server([HOTFD[0], str(program), mode])


def load(server: Server, **options) -> Load:
    return Load(server.address, request=b"12345678", reply=8, **options)


def test_the_load_counts_replies_and_asks_every_connection_once_more(echo):
    with (
        echo("well") as server,
        load(server, connections=20, asking=3, frames=90, verify=True, timeline=True) as client,
    ):
        found = client.wait()
        assert cpu_seconds(server.pid) > 0
        assert memory_bytes(server.pid) > 1 << 20
    assert (found.frames, found.checked, found.fault) == (90, 20, "")
    assert sum(found.timeline) == 90
    assert sum(count for *_, count in found.gap.histogram) == 3
    assert 0 < found.latency.p50 <= found.latency.p99 <= found.latency.max <= found.gap.max * 1.04
    assert found.rate > 0


def test_the_load_keeps_requests_on_their_way_and_thinks_between_them(echo):
    with echo("well") as server, load(server, connections=2, depth=5, think=0.001, frames=40, verify=True) as client:
        assert client.wait().frames == 40


def test_the_load_greets_as_it_is_told_to(echo):
    greeting = {"hello": b"12345678" * 2, "hello_reply": 16}
    with echo("wrong") as server, load(server, connections=3, asking=1, frames=1, verify=True, **greeting) as client:
        # Two replies are the greeting's. The third of each connection is wrong, and is that of its first request.
        assert client.wait(lenient=True).wrong == 3


def test_a_greeting_that_is_not_answered_in_full_is_an_error(echo):
    with echo("close") as server, pytest.raises(LoadFailed, match="closed a connection before it had greeted"):
        load(server, hello=b"12345678" * 3, hello_reply=24).__enter__()


def test_the_load_reports_and_begins_anew_until_it_is_told_to_stop(echo):
    with echo("well") as server, load(server, connections=2) as client:
        first, last = client.report(), client.stop()
        assert last.began >= first.began + first.seconds


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("close", "2 connections lost"),
        ("wrong", "2 wrong replies"),
        ("more", "bytes that nobody asked for"),
    ],
)
def test_the_load_notices_what_is_lost_or_wrong(echo, mode, said):
    with (
        echo(mode) as server,
        load(server, connections=2, frames=20, verify=True) as client,
        pytest.raises(LoadFailed, match=said),
    ):
        client.wait()


def test_a_server_that_closes_at_once_is_an_error_with_the_reason(echo):
    with echo("well") as server, pytest.raises(LoadFailed, match="connect: Connection refused"):
        server.stop()
        load(server).__enter__()


def test_a_server_that_says_nothing_of_its_address_is_an_error_with_its_log(tmp_path):
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match=r"ended before it served; its log:\nno such thing"):
        Server([HOTFD[0], str(program)]).__enter__()
