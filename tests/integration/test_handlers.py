"""What a handler lives through at a cut-over: each way to stand at a boundary, and each way not to."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration import harness

NOTE = """
    import asyncio, os, sys, time
    from dataclasses import dataclass, field
    import hotfd

    LOG = open(sys.argv[0] + ".notes", "a", buffering=1)

    def note(text):
        print(text, file=LOG)
"""


@contextmanager
def handler(tmp_path: Path, source: str, *, state: str = "Any", options: str = "") -> Iterator[harness.Server]:
    """Run a server whose ``talk`` is the source; it can ``note(text)``."""
    run = f'\n    hotfd.run(talk, f"127.0.0.1:{{sys.argv[1]}}", name="t", {options})\n'
    with harness.program(tmp_path, NOTE + source + run) as service:
        yield service


def notes(tmp_path: Path) -> list[str]:
    return (tmp_path / "program.py.notes").read_text().splitlines()


def ask(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line + b"\n")
    return hear(client)


def hear(client: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"\n"):
        piece = client.recv(1)
        assert piece, f"the end after {got!r}"
        got += piece
    return got[:-1]


def hand_over(service: harness.Server) -> None:
    report = service.handoff("--probation", "0.1")
    assert report["connections"]["moved"] == 1, report


def test_finally_runs_and_the_code_after_the_loop_does_not(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        conn.on_end(lambda: note("ended"))
        try:
            async for line in conn:
                await conn.send(line)
            note("after the loop")
        finally:
            conn.close()
            try:
                await conn.send(b"from the grave")
            except BaseException as error:
                note(f"finally handed_off={conn.handed_off} resumed={conn.resumed} {type(error).__name__}")
    """
    with handler(tmp_path, source) as service:
        with service.connect() as client:
            assert ask(client, b"a") == b"a"
            hand_over(service)
            assert ask(client, b"b") == b"b"
            assert notes(tmp_path) == ["finally handed_off=True resumed=False HandedOff"]
        harness.kill(service.pid, 15)
        harness.wait_gone(service.pid)
    assert notes(tmp_path)[1:] == ["after the loop", "finally handed_off=False resumed=True ConnectionClosed", "ended"]


def test_a_handler_that_swallows_handed_off_gets_it_again(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        while True:
            try:
                line = await conn.receive()
                if line is None:
                    return
                await conn.send(line)
            except hotfd.HandedOff:
                note("swallowed")
                if len(LOG.name) and conn.handed_off and note.__defaults__ is None:
                    note.__defaults__ = ("",)
                    continue
                raise
    """
    with handler(tmp_path, source) as service, service.connect() as client:
        assert ask(client, b"a") == b"a"
        hand_over(service)
        assert ask(client, b"b") == b"b"
        assert notes(tmp_path) == ["swallowed", "swallowed"]


def test_handed_off_inside_of_a_task_group_is_unwrapped(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        async with asyncio.TaskGroup():
            async for line in conn:
                await conn.send(line)
    """
    with handler(tmp_path, source) as service, service.connect() as client:
        assert ask(client, b"a") == b"a"
        hand_over(service)
        assert ask(client, b"b") == b"b"
        assert "handler-failed" not in service.logged()


def test_wait_is_a_boundary_whose_awaitable_is_cancelled_and_made_anew(tmp_path: Path) -> None:
    source = """
    async def forever():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note("cancelled")
            raise

    async def talk(conn):
        if not conn.resumed:
            await conn.send(await conn.receive())
        if conn.resumed:
            await conn.send(b"resumed")
        await conn.wait(forever())
    """
    with handler(tmp_path, source) as service, service.connect() as client:
        assert ask(client, b"a") == b"a"
        hand_over(service)
        assert hear(client) == b"resumed"
        assert notes(tmp_path) == ["cancelled"]


def test_the_result_of_wait_is_delivered_exactly_once(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        for number in range(conn.state.get("next", 0), 100_000):
            await conn.wait(asyncio.sleep(0.001))
            conn.state["next"] = number + 1
            await conn.send(b"%d" % number)
    """
    options = "state=hotfd.State(dict[str, int])"
    with handler(tmp_path, source, options=options) as service, service.connect() as client:
        got = [hear(client) for _ in range(50)]
        for _ in range(3):
            hand_over(service)
            got += [hear(client) for _ in range(50)]
        assert got == [b"%d" % number for number in range(200)]


def test_undelivered_items_of_merged_queues_travel_in_order(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        queue, other = asyncio.Queue(), asyncio.Queue()
        pump = conn.spawn(fill(conn, queue, other))
        async for source, value in conn.merge(queue, other):
            if source is conn:
                if value == b"pause":
                    time.sleep(0.3)  # the queues fill up, and the handoff begins, while this handler works
                await conn.send(b"frame " + value)
            else:
                await conn.send(b"%d %d" % (source is other, value))

    async def fill(conn, queue, other):
        while True:
            number = conn.state["next"] = conn.state.get("next", -1) + 1
            (other if number % 2 else queue).put_nowait(number)
            await asyncio.sleep(0.002)
    """
    options = "state=hotfd.State(dict[str, int])"
    with handler(tmp_path, source, options=options) as service, service.connect() as client:
        numbers = []
        for _ in range(4):
            client.sendall(b"pause\n")
            hand_over(service)
        client.sendall(b"end\n")
        while (line := hear(client)) != b"frame end":
            if not line.startswith(b"frame"):
                which, number = line.split()
                assert int(which) == int(number) % 2, "each item came from its own queue"
                numbers.append(int(number))
        for parity in (0, 1):
            own = [number for number in numbers if number % 2 == parity]
            assert own == list(range(parity, parity + 2 * len(own), 2)), "nothing lost, doubled or reordered"
        assert len(numbers) > 100


def test_spawned_helpers_end_before_the_offer_and_start_again(tmp_path: Path) -> None:
    source = """
    async def beat(conn):
        try:
            while True:
                conn.state["beats"] = conn.state.get("beats", 0) + 1
                await conn.send(b"beat %d" % conn.state["beats"])
                await asyncio.sleep(0.01)
        finally:
            note(f"helper over, handed_off={conn.handed_off}")

    async def talk(conn):
        conn.spawn(beat(conn))
        async for line in conn:
            pass
    """
    options = "state=hotfd.State(dict[str, int])"
    with handler(tmp_path, source, options=options) as service, service.connect() as client:
        got = [hear(client) for _ in range(5)]
        for _ in range(3):
            hand_over(service)
            got += [hear(client) for _ in range(10)]
        assert got == [b"beat %d" % number for number in range(1, len(got) + 1)]
        assert notes(tmp_path)[:3] == ["helper over, handed_off=False"] * 3


def test_a_broadcaster_that_writes_to_a_moved_connection_is_told_and_sends_nothing(tmp_path: Path) -> None:
    source = """
    connections = []

    async def talk(conn):
        connections.append(conn)
        async for line in conn:
            await conn.send(line)

    async def start():
        global broadcaster
        async def broadcast():
            number = 0
            while True:
                await asyncio.sleep(0.005)
                for conn in list(connections):
                    number += 1
                    try:
                        await conn.send(b"news %d %d" % (os.getpid(), number))
                    except hotfd.ConnectionMoved:
                        note("moved")
                        connections.remove(conn)
                    except hotfd.ConnectionClosed:
                        connections.remove(conn)
        broadcaster = asyncio.create_task(broadcast())
    """
    with handler(tmp_path, source, options="on_start=start") as service, service.connect() as client:
        first = [hear(client).split() for _ in range(20)]
        old = service.pid
        hand_over(service)
        lines = first
        while sum(int(pid) == service.pid for _, pid, _ in lines) < 50:
            lines.append(hear(client).split())
        pids = [int(pid) for _, pid, _ in lines]
        assert pids == sorted(pids, key=lambda pid: pid != old), "the old process says nothing after the new one"
        for pid in set(pids):
            numbers = [int(number) for _, owner, number in lines if int(owner) == pid]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert set(pids) == {old, service.pid}
        assert notes(tmp_path) == ["moved"]


def test_a_timeout_of_the_handlers_own_ends_the_connection_once(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        try:
            async with asyncio.timeout(0.1 if conn.resumed else 3600):
                while (line := await conn.receive()) is not None:
                    await conn.send(line)
        except TimeoutError:
            await conn.send(b"bye")
    """
    with handler(tmp_path, source) as service, service.connect() as client:
        assert ask(client, b"a") == b"a"
        hand_over(service)
        assert hear(client) == b"bye"
        assert client.recv(1) == b""


def test_a_state_version_is_upgraded_and_private_fields_and_types_come_back(tmp_path: Path) -> None:
    first = """
    @dataclass
    class Visitor:
        names: tuple = ()
        _secret: bytes = b""
        seen: set = field(default_factory=set)

    async def talk(conn):
        async for line in conn:
            conn.state.names += (line,)
            conn.state._secret += line[:1]
            conn.state.seen.add(len(line))
            await conn.send(repr((conn.state.names, conn.state._secret, sorted(conn.state.seen))).encode())
    """
    second = first.replace("seen: set = field(default_factory=set)", """seen: set = field(default_factory=set)
        greeted: int = 0
        version = 2

        @staticmethod
        def upgrade(old, version):
            return Visitor(old["names"], old["_secret"], old["seen"], greeted=version)
    """).replace("await conn.send(", "await conn.send(b'%d ' % conn.state.greeted + ")  # fmt: skip
    with handler(tmp_path, first, options="state=Visitor") as service, service.connect() as client:
        assert ask(client, b"ab") == repr(((b"ab",), b"a", [2])).encode()
        hand_over(service)
        assert ask(client, b"xyz") == repr(((b"ab", b"xyz"), b"ax", [2, 3])).encode()
        path = tmp_path / "program.py"
        path.write_text(path.read_text().replace(*_indented(first, second)))
        hand_over(service)
        assert ask(client, b"q") == b"1 " + repr(((b"ab", b"xyz", b"q"), b"axq", [1, 2, 3])).encode()


def _indented(first: str, second: str) -> tuple[str, str]:
    """The program is written without the indentation of this file."""
    return first.replace("\n    ", "\n"), second.replace("\n    ", "\n")


def test_a_handler_that_raises_ends_its_own_connection_only(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        async for line in conn:
            if line == b"raise":
                raise RuntimeError("a fault")
            await conn.send(line)
    """
    with handler(tmp_path, source) as service, service.connect() as good, service.connect() as bad:
        assert ask(bad, b"a") == b"a"
        bad.sendall(b"raise\n")
        assert bad.recv(1) == b""
        assert ask(good, b"b") == b"b"
        assert "handler-failed" in service.logged()
        assert "RuntimeError: a fault" in service.logged()


def test_a_frame_that_is_too_large_ends_the_connection_with_a_logged_reason(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        async for line in conn:
            await conn.send(line)
    """
    with handler(tmp_path, source, options="framing=hotfd.Lines(max_size=100)") as service:
        with service.connect() as client:
            client.sendall(b"fine\n" + b"x" * 200)
            assert hear(client) == b"fine"
            assert client.recv(1) == b""
        assert "max_size of 100 bytes" in service.logged()


def test_the_new_program_is_found_through_a_symlink_that_was_moved(tmp_path: Path) -> None:
    for number in (1, 2):
        release = tmp_path / f"release-{number}"
        release.mkdir()
        harness.script(release, "app.py", f"""
            import sys
            import hotfd

            async def talk(conn):
                async for line in conn:
                    await conn.send(b"{number} " + line)

            hotfd.run(talk, f"127.0.0.1:{{sys.argv[1]}}")
        """)  # fmt: skip
    current = tmp_path / "current"
    current.symlink_to("release-1")
    port = harness.free_port()
    env = {"PWD": str(current)}
    command = [sys.executable, "app.py", str(port)]
    with harness.server(tmp_path, command, port, cwd=current, env=env) as service, service.connect() as client:
        assert ask(client, b"a") == b"1 a"
        current.unlink()
        current.symlink_to("release-2")
        hand_over(service)
        assert ask(client, b"b") == b"2 b"
        assert os.readlink(f"/proc/{service.pid}/cwd") == str(tmp_path / "release-2")


def test_a_session_whose_state_cannot_travel_stays_and_its_helpers_start_again(tmp_path: Path) -> None:
    source = """
    async def talk(conn):
        conn.state["unfit"] = open("/dev/null")
        conn.spawn(beat(conn))
        async for source, value in conn.merge(asyncio.Queue()):
            await conn.send(b"resumed" if conn.resumed else b"first")

    async def beat(conn):
        while True:
            await conn.send(b"beat")
            await asyncio.sleep(0.05)
    """
    options = "state=hotfd.State(dict[str, object])"
    with handler(tmp_path, source, options=options) as service, service.connect() as client:
        assert hear(client) == b"beat"
        report = service.handoff("--probation", "0.1", expect=3)
        assert report["reasons"] == {"state-encode": 1}
        client.sendall(b"x\n")
        while (heard := hear(client)) == b"beat":
            pass
        assert heard == b"resumed"
        assert [hear(client) for _ in range(5)] == [b"beat"] * 5
