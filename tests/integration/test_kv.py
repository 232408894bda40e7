"""``examples/kv.py`` with the clients that Redis's users have: redis-cli and redis-benchmark, not a double of them."""

from __future__ import annotations

import re
import select
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.integration import harness
from tests.integration.harness import EXAMPLES, Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("redis-cli") and shutil.which("redis-benchmark")),
        reason="redis-cli and redis-benchmark are not installed (apt-get install redis-tools)",
    ),
    pytest.mark.timeout(180),
]

CLIENTS = 50
MEGABYTE = 1 << 20


@contextmanager
def kv(tmp_path: Path, *arguments: str) -> Iterator[Server]:
    """Run ``examples/kv.py`` on a free port."""
    port = harness.free_port()
    command = [sys.executable, str(EXAMPLES / "kv.py"), "--listen", f"127.0.0.1:{port}", *arguments]
    with harness.server(tmp_path, command, port) as service:
        yield service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Server]:
    with kv(tmp_path) as running:
        yield running


def cli(port: int, *lines: str, options: tuple[str, ...] = ()) -> list[str]:
    """Type lines into one redis-cli; return what it prints, each answer as its lines."""
    done = subprocess.run(
        ["redis-cli", "-p", str(port), "--no-raw", *options],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=harness.PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def ask(service: Server, line: str, *options: str) -> str:
    """Type one line into a redis-cli of its own; return all of the answer."""
    return "\n".join(cli(service.port, line, options=options))


def number(service: Server, field: str) -> int:
    """Return one number of INFO."""
    found = re.search(rf"^{field}:(\d+)", ask(service, "INFO"), re.MULTILINE)
    assert found is not None
    return int(found[1])


def request(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def receive(sock: socket.socket, size: int) -> bytes:
    """Receive exactly so many bytes."""
    parts = bytearray()
    while len(parts) < size:
        data = sock.recv(min(size - len(parts), 1 << 18))
        assert data, f"the connection ended after {len(parts)} of {size} bytes"
        parts += data
    return bytes(parts)


def wait_until(condition: Callable[[], bool], what: str, limit: float = harness.PATIENCE) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        select.select([], [], [], 0.02)


# ---------------------------------------------------------------- under load


def benchmark(port: int, requests: int, *options: str) -> list[str]:
    return [
        *("redis-benchmark", "-p", str(port), "-c", str(CLIENTS), "-n", str(requests)),
        *("-t", "set,get,incr", "--csv", *options),
    ]


class Counting:
    """One redis-cli that counts a key up, line after line, as fast as it is answered."""

    def __init__(self, port: int, output: Path) -> None:
        self._output = output
        # A small pipe: what was typed ahead has to be answered after the load has ended.
        with output.open("wb") as sink:
            self._process = subprocess.Popen(
                ["redis-cli", "-p", str(port)], stdin=subprocess.PIPE, stdout=sink, stderr=sink, pipesize=4096
            )
        self._stop = threading.Event()
        self._typed = 0
        self._thread = threading.Thread(target=self._type)

    def __enter__(self) -> Counting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(harness.PATIENCE)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def _type(self) -> None:
        assert self._process.stdin is not None
        with self._process.stdin as keyboard:
            keyboard.write(b"CLIENT ID\n")
            while not self._stop.is_set():
                keyboard.write(b"INCR counted\n")
                keyboard.flush()
                self._typed += 1
            keyboard.write(b"CLIENT ID\n")

    def finish(self) -> int:
        """Stop typing; check that each answer came once, in order, over one connection.

        Returns:
            how far it has counted.
        """
        self._stop.set()
        self._thread.join(harness.PATIENCE)
        assert self._process.wait(harness.PATIENCE) == 0
        first, *counted, last = self._output.read_text().splitlines()
        assert first == last, "redis-cli had to connect anew"
        assert counted == [str(n + 1) for n in range(self._typed)]
        return self._typed


@pytest.mark.parametrize(
    ("requests", "options", "loop"),
    [pytest.param(120_000, (), "uvloop", marks=pytest.mark.long), (400_000, ("-P", "16"), "asyncio")],
    ids=["one request at a time, uvloop", "pipelines of sixteen, asyncio"],
)
def test_redis_benchmark_does_not_notice_five_handoffs(
    tmp_path: Path, requests: int, options: tuple[str, ...], loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with kv(tmp_path, "--loop", loop) as service:
        before = number(service, "total_connections_received")
        subprocess.run(
            benchmark(service.port, 1000, *options), check=True, capture_output=True, timeout=harness.PATIENCE
        )
        undisturbed = number(service, "total_connections_received") - before

        before = number(service, "total_connections_received")
        reports = []
        with (
            Counting(service.port, tmp_path / "counting") as counting,
            subprocess.Popen(
                benchmark(service.port, requests, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as load,
        ):
            try:
                wait_until(lambda: service.status()["connections"] >= CLIENTS, "the load runs")
                for _ in range(5):
                    reports.append(service.handoff("--probation", "0"))
                    assert load.poll() is None, f"the benchmark ended after {len(reports)} handoffs"
                out, err = load.communicate(timeout=120)
            finally:
                load.kill()
            counted = counting.finish()
        assert (load.returncode, err) == (0, b"")
        assert [line.split(b",")[0] for line in out.splitlines()] == [
            b'"test"',
            b'"SET"',
            b'"GET"',
            b'"INCR"',
        ]
        assert all(report["outcome"] == "completed" for report in reports)
        moved = [report["connections"] for report in reports]
        assert all(counts["moved"] > 0 for counts in moved)
        assert not any(counts["kept"] + counts["returned"] + counts["closed"] for counts in moved)
        assert ask(service, "GET counted") == f'"{counted}"'
        # The load's own, one of the counting redis-cli, and those of the two questions after it.
        assert number(service, "total_connections_received") - before == undisturbed + 2


# ---------------------------------------------------------------- across a handoff


class Truth:
    """A writer that notes what it was told is written, and readers that must read that, or something newer.

    Each is a thread with a blocking connection; the last reader connects anew for each of its questions.
    """

    def __init__(self, service: Server) -> None:
        self._service = service
        self._stop = threading.Event()
        tasks: list[Callable[[], None]] = [self._write, *(partial(self._read, which) for which in range(3))]
        self._threads = [threading.Thread(target=self._guard, args=(task,)) for task in tasks]
        self.written = 0
        self.reads = [0, 0, 0]
        self.faults: list[str] = []

    def __enter__(self) -> Truth:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(harness.PATIENCE)

    def _guard(self, task: Callable[[], None]) -> None:
        try:
            task()
        except (AssertionError, OSError) as error:
            self.faults.append(repr(error))

    def _write(self) -> None:
        with self._service.connect() as sock:
            while not self._stop.is_set():
                sock.sendall(request(b"SET", b"truth", b"%09d" % (self.written + 1)))
                assert receive(sock, 5) == b"+OK\r\n"
                self.written += 1

    def _read(self, which: int) -> None:
        sock = self._service.connect()
        try:
            while not self._stop.is_set():
                if which == 2:
                    sock.close()
                    sock = self._service.connect()
                least = self.written
                sock.sendall(request(b"GET", b"truth"))
                found = int(receive(sock, 15)[4:13])
                assert found >= least, f"read {found} after {least} was written"
                self.reads[which] += 1
        finally:
            sock.close()

    def wait_for_progress(self) -> None:
        """Wait until everybody has had an answer to a question asked from now on, or something is wrong."""
        # One answer may be on its way already, so two more.
        wanted = [count + 2 for count in (self.written, *self.reads)]
        wait_until(
            lambda: (
                bool(self.faults)
                or all(count >= least for count, least in zip((self.written, *self.reads), wanted, strict=True))
            ),
            "everybody went on after the handoff",
        )


def test_no_client_reads_old_data_after_new_data_during_a_handoff(service: Server) -> None:
    assert ask(service, "SET truth 000000000") == "OK"
    with Truth(service) as truth:
        for _ in range(3):
            service.handoff("--probation", "0.2")
            truth.wait_for_progress()
    assert not truth.faults


def ends_at(service: Server, key: str) -> tuple[int, int]:
    """Return the earliest and the latest wall-clock millisecond at which a key may expire, by PTTL."""
    asked = time.time_ns() // 1_000_000
    left = int(ask(service, f"PTTL {key}").removeprefix("(integer) "))
    assert left > 0
    return asked + left, time.time_ns() // 1_000_000 + left


def test_a_key_expires_at_the_same_moment_after_a_handoff(service: Server) -> None:
    assert cli(service.port, "SET k v EX 100", "SET for ever") == ["OK", "OK"]
    before = ends_at(service, "k")
    service.handoff("--probation", "0")
    after = ends_at(service, "k")
    assert max(before[0], after[0]) <= min(before[1], after[1]), "the end of the key has shifted"
    assert ask(service, "TTL for") == "(integer) -1"


def test_a_key_that_expires_during_a_handoff_is_gone_after_it(service: Server) -> None:
    end = time.time_ns() // 1_000_000 + 50
    assert cli(service.port, f"SET short v PXAT {end}", "SET kept v EX 1000", "PERSIST kept") == [
        "OK",
        "OK",
        "(integer) 1",
    ]
    service.handoff("--probation", "0")
    wait_until(lambda: time.time_ns() // 1_000_000 > end, "the key's time is over")
    assert cli(service.port, "GET short", "TTL short", "EXISTS short", "GET kept", "TTL kept") == [
        "(nil)",
        "(integer) -2",
        "(integer) 0",
        '"v"',
        "(integer) -1",
    ]


def test_expired_keys_that_nobody_asks_for_are_swept_by_the_new_process(service: Server) -> None:
    end = time.time_ns() // 1_000_000 + 1500
    lines = [f"SET key:{n} v PXAT {end}" for n in range(2500)]
    assert set(cli(service.port, *lines)) == {"OK"}
    service.handoff("--probation", "0")
    wait_until(lambda: ask(service, "DBSIZE") == "(integer) 0", "the expired keys are swept")


def test_what_a_client_said_about_itself_survives_a_handoff(service: Server, tmp_path: Path) -> None:
    output = tmp_path / "typed"
    with (
        output.open("wb") as sink,
        subprocess.Popen(
            ["redis-cli", "-p", str(service.port), "-3", "--no-raw"], stdin=subprocess.PIPE, stdout=sink
        ) as typed,
    ):
        try:
            assert typed.stdin is not None
            typed.stdin.write(b"CLIENT SETNAME ann\nCLIENT ID\n")
            typed.stdin.flush()
            wait_until(lambda: output.read_bytes().count(b"\n") == 2, "both lines are answered")
            service.handoff("--probation", "0")
            typed.stdin.write(b"CLIENT GETNAME\nCLIENT ID\nHELLO\n")
            typed.stdin.close()
            assert typed.wait(harness.PATIENCE) == 0
        finally:
            typed.kill()
    ok, id_before, name, id_after, *hello = output.read_text().splitlines()
    assert (ok, name) == ("OK", '"ann"')
    assert id_before == id_after
    assert '3# "proto" => (integer) 3' in hello


@pytest.mark.parametrize("sent", [0.0, 0.5, 1.0], ids=["before it", "in its middle", "with its answer unread"])
def test_a_value_of_ten_megabytes_survives_a_handoff(service: Server, sent: float) -> None:
    value = bytes(range(256)) * (10 * MEGABYTE // 256)
    whole = request(b"SET", b"big", value) + request(b"GET", b"big")
    split = int(len(whole) * sent)
    with service.connect() as sock:
        sock.sendall(whole[:split])
        if sent == 1.0:  # the server has begun to answer: megabytes of it are in nobody's hands but its own
            assert receive(sock, 5) == b"+OK\r\n"
        service.handoff("--probation", "0")
        sock.sendall(whole[split:])
        if sent != 1.0:
            assert receive(sock, 5) == b"+OK\r\n"
        head = b"$%d\r\n" % len(value)
        assert receive(sock, len(head)) == head
        assert receive(sock, len(value) + 2) == value + b"\r\n"
    assert ask(service, "STRLEN big") == f"(integer) {len(value)}"


def test_a_pipeline_goes_on_through_a_handoff(service: Server) -> None:
    count = 50_000
    answers = b"".join(b":%d\r\n" % (n + 1) for n in range(count))
    received = []
    with service.connect() as sock:
        reader = threading.Thread(target=lambda: received.append(receive(sock, len(answers))))
        writer = threading.Thread(target=sock.sendall, args=(request(b"INCR", b"n") * count,))
        reader.start()
        writer.start()
        service.handoff("--probation", "0")
        writer.join(harness.PATIENCE)
        reader.join(harness.PATIENCE)
    assert received == [answers]


def test_redis_cli_pipe_goes_on_through_a_handoff(service: Server) -> None:
    with subprocess.Popen(
        ["redis-cli", "-p", str(service.port), "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as pipe:
        try:
            assert pipe.stdin is not None
            pipe.stdin.write(b"".join(request(b"SET", b"k%d" % n, b"v") for n in range(10_000)))
            pipe.stdin.flush()
            service.handoff("--probation", "0")
            out, _ = pipe.communicate(b"".join(request(b"SET", b"k%d" % n, b"v") for n in range(10_000, 20_000)), 60)
        finally:
            pipe.kill()
    assert b"errors: 0, replies: 20000" in out
    assert ask(service, "DBSIZE") == "(integer) 20000"


# ---------------------------------------------------------------- the commands

SAME_AS_REDIS = """
PING|PING hello|PING a b|ECHO hello|ECHO|FOO|FOO bar baz|foo "a\\r\\nb"
SET|SET k|SET k v|GET k|GET|GET k k|SET k w GET|SET fresh v GET|GET fresh|SET k v XX NX|SET k v NX|SET none v XX
EXISTS none|SET k x NX GET|GET k|SET none x XX GET|SET k v EX|SET k v EX 0|SET k v EX -1|SET k v EX abc|SET k v FOO
SET k v EX 10 PX 10|SET k v KEEPTTL EX 10|SET k v EX 99999999999999999999|SET k v EX 9223372036854775807
SET k v PX 9223372036854775807|SET k v PXAT 9223372036854775807|SET k v EX abc FOO|SET k v ex 100 nx|TTL k|PTTL none
SET k v EX 100|TTL k|SET k v KEEPTTL|TTL k|SET k v|TTL k|SET k v PX 100000|TTL k|APPEND k w|TTL k|INCR fresh2|TTL none
SET k v EXAT 1|GET k|EXISTS k|SET k v EXAT 0|DEL k k fresh none|EXISTS k|DEL|UNLINK k
SET n 10|INCR n|DECR n|INCRBY n 5|DECRBY n 20|INCRBY n abc|INCRBY n 1.5|INCRBY n|INCR n n|DECRBY n -9223372036854775808
SET n 9223372036854775807|INCR n|INCRBY n -9223372036854775808|SET n -9223372036854775808|DECR n|SET n " 1"|INCR n
SET n +1|INCR n|SET n 01|INCR n|SET n -0|INCR n|SET n 9223372036854775808|INCR n|SET n ""|INCR n|SET n v|DECR n|INCR new
APPEND word hello|APPEND word " world"|GET word|STRLEN word|STRLEN none|APPEND word|STRLEN
MSET a 1 b 2|MGET a none b|MSET a|MSET a 1 b|MSET a 1 a 2|GET a|MGET|EXISTS a a none|TYPE a|TYPE none
EXPIRE a|EXPIRE a abc|EXPIRE none 10|EXPIRE a 100|TTL a|EXPIRE a 200 NX|EXPIRE a 200 XX|TTL a|EXPIRE a 100 GT|EXPIRE a 100 LT
TTL a|EXPIRE a 100 FOO|EXPIRE a 100 NX XX|EXPIRE a 100 GT LT|EXPIRE a 9223372036854775807|PEXPIRE a 100000|TTL a
PERSIST a|PERSIST a|PERSIST none|TTL a|EXPIRE a 100 GT|EXPIRE a 100 LT|TTL a|EXPIRE a -1|EXISTS a|PEXPIRE b 0|EXISTS b|TTL|PTTL
FLUSHALL|DBSIZE|DBSIZE x|KEYS *|SCAN 0|SCAN abc|SCAN 0 COUNT|SCAN 0 COUNT 0|SCAN 0 COUNT abc|SCAN 0 FOO 1|FLUSHALL FOO
SET one v|KEYS *|KEYS o?e|KEYS o[a-n]e|KEYS o[^n]e|KEYS O*|KEYS \\\\one|KEYS|SCAN 0 MATCH o* COUNT 100|SCAN 0 MATCH x*|DBSIZE
SCAN 0 TYPE string|SCAN 0 TYPE list|FLUSHDB ASYNC|FLUSHALL SYNC
SELECT 0|SELECT 99|SELECT abc|SELECT|CONFIG GET save|CONFIG GET appendonly|CONFIG GET|CONFIG|CONFIG FOO|COMMAND FOO
CLIENT|CLIENT FOO|CLIENT GETNAME|CLIENT GETNAME x|CLIENT SETNAME|CLIENT SETNAME "a b"|CLIENT SETNAME ann|CLIENT GETNAME
HELLO 4|HELLO abc|HELLO 2 SETNAME|HELLO 2 SETNAME "a b"|HELLO 2 FOO|CLIENT GETNAME
set k V|GET k|gEt k|SET "" empty|GET ""|SET bin "\\x00\\xff\\r\\n"|GET bin|STRLEN bin
"""
"""Lines, or lines of lines apart by a bar, which this server answers exactly as Redis does."""


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
@pytest.mark.parametrize("protocol", [(), ("-3",)], ids=["RESP2", "RESP3"])
def test_answers_are_those_of_redis(service: Server, tmp_path: Path, protocol: tuple[str, ...]) -> None:
    lines = [line for line in SAME_AS_REDIS.replace("\n", "|").split("|") if line]
    port = harness.free_port()
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with harness.server(tmp_path, command, port) as redis:
        # ECHO marks where each answer ends, whatever its length.
        marked = [text for number, line in enumerate(lines) for text in (line, f"ECHO answered-{number}")]
        if protocol:  # so that no HELLO 2 in the list undoes it
            marked = [text for text in marked if "HELLO 2" not in text]
        expected, found = (
            cli(redis.port, *marked, options=protocol),
            cli(service.port, *marked, options=protocol),
        )
    assert answers(found, lines) == answers(expected, lines)


def answers(printed: list[str], lines: list[str]) -> dict[str, list[str]]:
    """Return what was printed for each line, by its number and text; times to live in tens of seconds."""
    found: dict[str, list[str]] = {}
    answer: list[str] = []
    for line in printed:
        if mark := re.fullmatch(r'"answered-(\d+)"', line):
            asked = lines[int(mark[1])]
            if asked.startswith("TTL "):  # the two are not asked at the same moment
                answer = [
                    re.sub(r"(?<![-\d])[1-9]\d*$", lambda left: str(round(int(left[0]), -1)), each) for each in answer
                ]
            found[f"{mark[1]}: {asked}"] = answer
            answer = []
        else:
            answer.append(line)
    assert not answer
    return found


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["PING", "ECHO x"], ["PONG", '"x"']),
        (["SET k v EX 100 GET", "TTL k", "PERSIST k", "TTL k"], ["(nil)", "(integer) 100", "(integer) 1", "(integer) -1"]),
        (["SET n 41", "INCR n", "DECRBY n 2"], ["OK", "(integer) 42", "(integer) 40"]),
        (["SET n x", "INCR n"], ["OK", "(error) ERR value is not an integer or out of range"]),
        (["MSET a 1 b 2", "MGET a c b"], ["OK", '1) "1"', "2) (nil)", '3) "2"']),
        (["GET"], ["(error) ERR wrong number of arguments for 'get' command"]),
        (["NOPE a"], ["(error) ERR unknown command 'NOPE', with args beginning with: 'a' "]),
        (["CLIENT SETINFO LIB-NAME x", "CLIENT SETINFO FOO x"], ["OK", "(error) ERR Unrecognized option 'FOO'"]),
        (["CONFIG GET data*"], ['1) "databases"', '2) "1"']),
        (["CONFIG HELP"], ["1) CONFIG GET", "2) CONFIG HELP"]),
        (["COMMAND DOCS get"], ['1) "get"', '2) 1) "summary"', '   2) "Return the value of a key."',
                                '   3) "since"', '   4) "7.0.0"', '   5) "group"', '   6) "generic"']),
        (["COMMAND COUNT"], ["(integer) 33"]),
        (["SELECT 1"], ["(error) ERR DB index is out of range"]),
    ],
)  # fmt: skip
def test_a_command_is_answered_as_documented(service: Server, lines: list[str], expected: list[str]) -> None:
    assert cli(service.port, *lines) == expected


def test_redis_cli_shows_maps_and_nulls_of_resp3(service: Server) -> None:
    assert cli(service.port, "CONFIG GET save", "GET none", "MGET none", options=("-3",)) == [
        '1# "save" => ""',
        "(nil)",
        "1) (nil)",
    ]


def test_info_and_client_list_describe_the_service(service: Server) -> None:
    assert number(service, "connected_clients") == 1
    assert number(service, "process_id") == service.pid
    found = ask(service, "CLIENT LIST", "--raw")
    assert re.fullmatch(r"id=\d+ addr=127\.0\.0\.1:\d+ name= age=\d db=0 resp=2\n?", found)


def test_quit_ends_the_connection_after_its_answer(service: Server) -> None:
    with service.connect() as sock:
        sock.sendall(request(b"QUIT") + request(b"PING"))
        assert sock.makefile("rb").read() == b"+OK\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"*1\r\n$x\r\n", b"-ERR Protocol error: "),
        (b"*1\r\n:1\r\n", b"-ERR Protocol error: "),
        (b'SET k "v\r\n', b"-ERR Protocol error: "),
        (b"*1\r\n$%d\r\n" % (1 << 40), b"-ERR Protocol error: "),
    ],
    ids=["no number", "a command of integers", "an open quote", "more than fits"],
)
def test_what_is_no_request_is_answered_and_ends_the_connection(service: Server, sent: bytes, answer: bytes) -> None:
    with service.connect() as sock:
        sock.sendall(sent)
        assert sock.makefile("rb").read().startswith(answer)
    assert ask(service, "PING") == "PONG"
    assert number(service, "connected_clients") == 1
