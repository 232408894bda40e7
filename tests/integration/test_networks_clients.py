"""What clients may do to a connection while its server is replaced: be slow, end, reset, be urgent, be dead."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import random
import re
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.namespaces import within
from tests.integration.network_lines import SEND_BUFFER, SERVER, SERVER6, Line, Network, network
from tests.integration.network_talkers import Talker, hand_over, progress
from tests.integration.network_visitors import (
    BULK,
    BULK_SIZE,
    ECHO,
    ENDS_FIRST,
    PROBES,
    Loop,
    Site,
    expected_bulk,
    read,
    site,
)
from tests.proof.oracle import Oracle, bulk, counted

pytestmark = pytest.mark.long  # ``make networks``: too much for every run

LITTLE = 4096
"""Bytes of a client's receive buffer: its window is shut soon."""

RESETTERS = 60
"""Clients that reset their connections: a third while a new process starts, a third while sessions move, and then."""

SHORT = 0.002
"""Seconds between two resets at most, while sessions move: that takes no longer than some hundredths."""

STORM = 300
"""Clients that connect to a shared port while one of its servers is replaced."""


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
def loop(request: pytest.FixtureRequest) -> Loop:
    """The server's event loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return request.param


def move(net: Network, service: harness.Server, moved: int) -> None:
    """Hand over on the server's host; so many connections move, and nothing else happens to any."""
    report = asyncio.run(hand_over(net, service))
    assert report["connections"] == {"moved": moved, "kept": 0, "returned": 0, "closed": 0}, report


def unread(sock: socket.socket) -> int:
    """Return how many bytes wait in a socket's receive queue (SIOCINQ, tcp(7))."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])


def shut_windows(line: Line) -> int:
    """Return how often a client's host has said that its window is zero."""

    def count() -> int:
        rows = Path("/proc/thread-self/net/netstat").read_text().splitlines()
        names, figures = (row.split() for row in rows if row.startswith("TcpExt:"))
        return int(dict(zip(names, figures, strict=True))["TCPToZeroWindowAdv"])

    return within(line.client, count)


@pytest.mark.parametrize("ending", [b"", b"end\n"], ids=["open", "ended-by-the-server"])
def test_clients_that_stop_reading_get_the_megabytes_that_travelled_unsent(
    tmp_path: Path, loop: Loop, ending: bytes
) -> None:
    with site(tmp_path, loop, "near") as here, ExitStack() as stack:
        line = here.net.lines["near"]
        clients = []
        for number, family in enumerate([socket.AF_INET, socket.AF_INET6, socket.AF_INET]):
            client = stack.enter_context(here.connect(line, BULK, family, SO_RCVBUF=LITTLE))
            client.sendall(b"first%d\n" % number)
            clients.append((number, client, read(client, 1)))  # the handler has written all of it when a byte comes
            client.sendall(b"second%d\n" % number + ending)
        harness.becomes(lambda: shut_windows(line) >= len(clients), True)
        for _ in range(2):
            move(here.net, here.service, len(clients))
        for number, client, got in clients:
            kept = unread(client) + 2 * SEND_BUFFER
            assert BULK_SIZE - kept > 2_000_000, "the server itself had megabytes to pass on"
            want = expected_bulk(b"first%d" % number, b"second%d" % number)
            assert got + read(client, len(want) - 1) == want
            if ending:
                assert client.recv(1) == b"", "the server's end comes behind all that was unsent"
                client.shutdown(socket.SHUT_WR)
        assert not any(here.net.resets().values())


def test_a_client_that_ends_first_gets_everything_and_then_the_end(tmp_path: Path, loop: Loop) -> None:
    with site(tmp_path, loop, "near") as here:
        with here.connect(here.net.lines["near"], BULK, SO_RCVBUF=LITTLE) as client:
            client.sendall(b"one\ntwo\n")
            client.shutdown(socket.SHUT_WR)
            got = read(client, 1)
            move(here.net, here.service, 1)
            want = expected_bulk(b"one", b"two")
            assert got + read(client, len(want)) == want, "and the end came behind it"
            assert client.recv(1) == b""
        assert not any(here.net.resets().values())


FAREWELL = """
    import sys
    import hotfd
    from hotfd.server import stream
    from tests.proof.oracle import bulk

    stream.DRAIN_LIMIT = 0.2  # seconds: the bytes that the kernel holds take longer on that line

    async def talk(conn):
        line = await conn.receive()
        await conn.write(bulk(line, 0, 100_000))  # and the end: what is unsent is below what a handler waits for

    hotfd.run(talk, sys.argv[1], name="farewell")
"""


@pytest.mark.parametrize("handed_over", [False, True], ids=["at-once", "over-a-handoff"])
def test_a_client_that_goes_on_talking_on_a_slow_line_gets_all_of_a_connection_that_was_closed(
    tmp_path: Path, handed_over: bool
) -> None:
    program = harness.script(tmp_path, "farewell.py", FAREWELL)
    with network(["slow"]) as net:
        command = net.of_server([sys.executable, program, f"{SERVER}:{ECHO}"])
        env = {"PYTHONPATH": str(harness.ROOT)}
        with harness.server(tmp_path, command, ECHO, host=SERVER, env=env) as service, ExitStack() as stack:
            line = net.lines["slow"]
            line.slow("400kbit")
            client = stack.enter_context(line.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
            client.settimeout(harness.PATIENCE)
            client.connect((SERVER, ECHO))
            client.sendall(b"everything\n")
            got = read(client, 1)
            if handed_over:
                move(net, service, 0)  # the old process sees it out
            while piece := client.recv(1 << 14):
                got += piece
                if len(got) < 90_000:  # somewhat later it has everything, and not for ever then
                    client.sendall(b"more\n")
            assert got == bulk(b"everything", 0, 100_000)
            assert net.resets() == {"slow": 0}


def test_a_client_is_heard_to_its_end_by_a_server_that_ended_first(tmp_path: Path, loop: Loop) -> None:
    rng = random.Random(1)
    lines = [rng.randbytes(rng.randint(1, 400)).hex().encode() for _ in range(200)]
    with site(tmp_path, loop, "near") as here:
        with here.connect(here.net.lines["near"], ENDS_FIRST) as client:
            assert read(client, 100) == b"goodbye\n", "and the end behind it"
            for part in (lines[:80], lines[80:150], lines[150:]):
                said = b"".join(line + b"\n" for line in part)
                client.sendall(said[:-5])  # half a frame travels each time
                if part is not lines[150:]:
                    move(here.net, here.service, 1)
                client.sendall(said[-5:])
            client.shutdown(socket.SHUT_WR)
            digest = ""
            for line in lines:
                digest = hashlib.sha256(digest.encode() + line).hexdigest()
            harness.becomes(lambda: here.result.exists() and here.result.read_text(), f"{len(lines)} {digest}")
        assert not any(here.net.resets().values())


def test_urgent_data_stays_beside_the_stream(tmp_path: Path, loop: Loop) -> None:
    """RFC 6093: what is urgent is not part of what is read, unless a server asks for it with SO_OOBINLINE."""
    with site(tmp_path, loop, "near") as here:
        with here.connect(here.net.lines["near"], ECHO) as client, client.makefile("rb") as reader:
            assert reader.readline() == b"hello\n"
            client.sendall(b"one\nhalf of")
            client.send(b"!", socket.MSG_OOB)  # nothing behind it: it stands at the end of what came
            assert reader.readline() == b"1 one\n"
            move(here.net, here.service, 1)
            client.sendall(b" two\nthr")
            assert reader.readline() == b"2 half of two\n"
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"ee\nfo")  # behind it, in the new process's time and the next one's
            assert reader.readline() == b"3 three\n"
            move(here.net, here.service, 1)
            client.sendall(b"ur\n")
            assert reader.readline() == b"4 four\n"
            client.shutdown(socket.SHUT_WR)
            assert reader.read() == b""
        assert not any(here.net.resets().values())


def probed(here: Site) -> int:
    """Return how many of the server's connections the kernel probes, by ss(8)."""
    command = here.net.of_server(["ss", "-Htno", "state", "established", f"( sport = :{PROBES} )"])
    return len(re.findall("keepalive", subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def test_keep_alive_probes_go_on_and_end_only_who_is_gone(tmp_path: Path, loop: Loop) -> None:
    with site(tmp_path, loop, "living", "dead") as here, ExitStack() as stack:
        clients = {}
        for name, line in here.net.lines.items():
            clients[name] = stack.enter_context(here.connect(line, PROBES))
            assert read(clients[name], 6) == b"hello\n"
        assert probed(here) == 2
        move(here.net, here.service, 2)
        assert probed(here) == 2, "the options are the socket's, not the process's"
        with here.net.lines["dead"].pulled():
            harness.becomes(here.connections, 1)  # the probes have found out, in the new process
        assert probed(here) == 1
        move(here.net, here.service, 1)
        living = clients["living"]  # has said nothing for longer than it takes to be given up
        living.sendall(b"still here\n")
        assert read(living, 13) == b"1 still here\n"
        assert here.net.resets()["living"] == 0


def test_what_the_network_does_in_the_meantime_is_not_taken_for_the_deed_of_a_new_process_that_died(
    tmp_path: Path, loop: Loop
) -> None:
    """Retransmissions, probes of either kind, and urgent data that waits: a session that was not touched comes back."""
    with site(tmp_path, loop, "near", "dark") as here, ExitStack() as stack:
        near, dark = here.net.lines["near"], here.net.lines["dark"]
        slow = stack.enter_context(here.connect(near, BULK, SO_RCVBUF=LITTLE))
        slow.sendall(b"first\n")
        got = read(slow, 1)
        harness.becomes(lambda: shut_windows(near) >= 1, True)
        probed_one = stack.enter_context(here.connect(near, PROBES))
        urgent = stack.enter_context(here.connect(near, ECHO))
        unheard = stack.enter_context(here.connect(dark, ECHO))
        for client in (probed_one, urgent, unheard):
            assert read(client, 6) == b"hello\n"
        urgent.sendall(b"half of")
        urgent.send(b"!", socket.MSG_OOB)
        dark.deafen()
        unheard.sendall(b"one\n")  # the answer is sent again and again
        harness.becomes(lambda: sent_again(here) > 0, True)
        die = subprocess.Popen(
            here.net.of_server(
                [*harness.HOTFD, "handoff", "--pid", str(here.service.pid), "--json", "--probation", "60"]
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        harness.becomes(lambda: "phase=probation" in here.service.logged(), True)
        again = sent_again(here)
        harness.becomes(lambda: sent_again(here) > again, True)
        dark.heal()
        assert read(unheard, 6) == b"1 one\n", "the kernel has sent it, and the client acknowledged it"
        (new,) = set(re.findall(r"phase=probation new_pid=(\d+)", here.service.logged()))
        harness.kill(int(new))
        out, err = die.communicate(timeout=harness.PATIENCE)
        report = here.service.outcome(subprocess.CompletedProcess([], die.returncode, out, err), 1)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 4, "closed": 0}, report
        unheard.sendall(b"two\n")
        assert read(unheard, 6) == b"2 two\n"
        urgent.sendall(b" one\n")
        assert read(urgent, 14) == b"1 half of one\n"
        probed_one.sendall(b"one\n")
        assert read(probed_one, 6) == b"1 one\n"
        want = expected_bulk(b"first")
        assert got + read(slow, len(want) - 1) == want
        assert not any(here.net.resets().values())


def sent_again(here: Site) -> int:
    """Return how many segments the server's kernel has sent again, on all connections that there are, by ss(8)."""
    command = here.net.of_server(["ss", "-Htin", "state", "established"])
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, re.findall(r"retrans:\d+/(\d+)", told)))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 9))])
async def test_clients_that_reset_harm_nobody_else_on_ipv4_ipv6_and_unix_sockets(
    tmp_path: Path, loop: Loop, seed: int
) -> None:
    oracle = Oracle(b"resets", largest=600, greeting=b"hello\n", answer=counted)
    rng = random.Random(seed)
    with site(tmp_path, loop, "calm", "rough") as here, ExitStack() as stack:
        calm, rough = here.net.lines["calm"], here.net.lines["rough"]
        ways: list[tuple[str, Callable[[], socket.socket], object]] = [
            ("ipv4", calm.socket, (SERVER, ECHO)),
            ("ipv6", lambda: calm.socket(socket.AF_INET6), (SERVER6, ECHO)),
            ("unix", lambda: socket.socket(socket.AF_UNIX), str(here.path)),
        ]
        talkers = []
        for name, make, address in ways:
            for _ in range(4):
                talkers.append(Talker(oracle, name, make()))
                stack.callback(talkers[-1].sock.close)
                await talkers[-1].connect(address)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for talker in talkers:
                group.create_task(talker.run(stop))
            for handoffs in range(2):
                resetters = []
                for number in range(RESETTERS):
                    client = stack.enter_context(here.connect(rough, (ECHO, BULK)[number % 2]))
                    client.sendall(b"one\ntwo\nhalf of three")  # some is unread, some unsent, some neither
                    resetters.append(client)
                handoff = asyncio.create_task(hand_over(here.net, here.service))
                for phase in ("spawn", "move", "probation"):
                    await logged(here.service, f"phase={phase}", handoffs + 1)
                    for _ in range(RESETTERS // 3):
                        reset(resetters.pop(rng.randrange(len(resetters))))
                        await asyncio.sleep(rng.random() * SHORT)
                report = await handoff
                assert report["connections"]["kept"] == report["connections"]["closed"] == 0, report
                assert report["connections"]["moved"] >= len(talkers)
                await progress(talkers)
            stop.set()
        assert not [fault for talker in talkers for fault in talker.faults()]
        assert all(talker.ended for talker in talkers)
        assert here.net.resets()["calm"] == 0
        harness.becomes(here.connections, 0)


async def logged(service: harness.Server, text: str, times: int) -> None:
    """Wait until a server has logged something so often."""
    async with asyncio.timeout(harness.PATIENCE):
        while service.logged().count(text) < times:
            await asyncio.sleep(0.001)


def reset(client: socket.socket) -> None:
    """Close a connection by a reset, socket(7) SO_LINGER."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


WHO = """
    import os
    import sys
    import hotfd

    async def talk(conn):
        async for line in conn:
            await conn.send(b"%d %s" % (os.getpid(), line))

    hotfd.run(talk, sys.argv[1], name="who")
"""

PASSED_ON = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""A service manager in four lines: the listening socket becomes descriptor 3 of the server, sd_listen_fds(3)."""


def shared_port() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((SERVER, ECHO))
    sock.listen(STORM)
    return sock


async def test_nobody_is_refused_at_a_port_that_two_servers_share_when_one_is_replaced(
    tmp_path: Path, runtime_directory: Path
) -> None:
    program = harness.script(tmp_path, "who.py", WHO)
    with network(["near"]) as net, ExitStack() as stack:
        services = []
        for number in range(2):
            (directory := tmp_path / str(number)).mkdir()
            with within(net.server, shared_port) as sock:
                command = [sys.executable, "-c", PASSED_ON, str(sock.fileno()), program, f"{SERVER}:{ECHO}"]
                passed = {"pass_fds": [sock.fileno()]}
                service = harness.server(directory, net.of_server(command), ECHO, host=SERVER, **passed)
                services.append(stack.enter_context(service))
        for service in services:  # their sockets have listened from the beginning
            harness.becomes((runtime_directory / f"{service.pid}.sock").exists, True)
        replaced, other = services
        handoff = asyncio.create_task(hand_over(net, replaced))
        served: list[int] = []
        gate = asyncio.Semaphore(16)

        async def visit(number: int) -> None:
            loop = asyncio.get_running_loop()
            async with gate, asyncio.timeout(harness.PATIENCE):
                with net.lines["near"].socket() as client:
                    client.setblocking(False)
                    await loop.sock_connect(client, (SERVER, ECHO))
                    await loop.sock_sendall(client, b"visitor %d\n" % number)
                    answer = b""
                    while not answer.endswith(b"\n"):
                        piece = await loop.sock_recv(client, 100)
                        assert piece, f"visitor {number} was sent away after {answer!r}"
                        answer += piece
                    pid, _, rest = answer.partition(b" ")
                    assert rest == b"visitor %d\n" % number
                    served.append(int(pid))

        while not handoff.done():
            await asyncio.gather(*(visit(number) for number in range(STORM // 10)))
        report = await handoff
        await asyncio.gather(*(visit(number) for number in range(STORM)))
        assert {report["old_pid"], report["new_pid"], other.pid} == set(served), "all three have had visitors"
        assert set(served[-STORM:]) == {report["new_pid"], other.pid}
        assert not any(net.resets().values())
