"""Timers over real handoffs: each runs once, in whichever process, and none of them begins anew."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.test_crashes import in_probation

CLOCK = """
    import os, sys
    from dataclasses import dataclass, field
    from functools import partial
    import hotfd

    silent = 0
    others = []

    @dataclass
    class Visitor:
        armed: dict[str, str] = field(default_factory=dict)

    @dataclass
    class Room:
        rung: int = 0

    def count():
        global silent
        silent += 1

    async def ring(conn, name):
        conn.state.armed.pop(name, None)
        await conn.send(b"ring " + name.encode())

    async def ring_all(session, name):
        for member in session.connections:
            member.state.armed.pop(name, None)
        session.state.rung += 1
        await session.broadcast(b"all %d" % session.state.rung)

    def arm(conn, name, kind, delay):
        if kind == "all":
            conn.session.call_later(delay, ring_all, conn.session, name, name=name)
        else:
            conn.call_later(delay, ring, conn, name, name=name)

    async def talk(conn):
        for name, kind in conn.state.armed.items():
            arm(conn, name, kind, 5000.0)
        others.append(conn)
        async for line in conn:
            word, *rest = line.decode().split()
            if word in ("arm", "all"):
                conn.state.armed[rest[0]] = word
                arm(conn, rest[0], word, float(rest[1]))
            elif word == "forget":
                conn.state.armed.clear()
            elif word == "cancel":
                conn.timers[rest[0]].cancel()
                del conn.state.armed[rest[0]]
            elif word == "join":
                await conn.join(rest[0], state=Room)
            elif word == "poke":
                for other in others:
                    if other is not conn:
                        other.call_later(0, count)
                continue
            elif word == "counted":
                await conn.send(b"%d" % silent)
                continue
            timers = {**conn.timers, **conn.session.timers}
            told = [f"{name}={timer.remaining}" for name, timer in sorted(timers.items())]
            await conn.send(" ".join([str(os.getpid()), *told]).encode())

    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Visitor, name="clock", loop=LOOP)
"""


@contextmanager
def clock(tmp_path: Path, loop: str = "asyncio") -> Iterator[harness.Server]:
    with harness.program(tmp_path, CLOCK.replace("LOOP", repr(loop))) as service:
        yield service


class Client:
    """A client that asks for timers and hears them ring."""

    def __init__(self, service: harness.Server) -> None:
        self.sock = service.connect()
        self.lines = self.sock.makefile("rb")
        self.rung: list[str] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.sock.close()

    def line(self) -> str:
        line = self.lines.readline()
        assert line.endswith(b"\n"), f"the end after {line!r}"
        return line.decode().strip()

    def asks(self, text: str) -> tuple[int, dict[str, float]]:
        """Say something; return the process that answers and its timers' remaining seconds. Rings are noted."""
        self.sock.sendall(text.encode() + b"\n")
        while (answer := self.line()).startswith(("ring", "all")):
            self.rung.append(answer)
        pid, *timers = answer.split()
        return int(pid), {name: float(left) for name, _, left in (timer.partition("=") for timer in timers)}

    def hears(self) -> None:
        self.rung.append(self.line())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_timer_goes_on_with_what_is_left_and_does_not_begin_anew(tmp_path: Path, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with clock(tmp_path, loop) as service, Client(service) as client:
        began = time.monotonic()
        _, before = client.asks("arm far 1000")
        for generation in range(2, 4):
            assert service.handoff("--probation", "0.1")["connections"]["moved"] == 1, generation
            pid, after = client.asks("look")
            assert pid == service.pid
            assert before["far"] > after["far"] >= 1000 - (time.monotonic() - began)
            before = after


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_every_timer_rings_once_and_in_the_order_of_its_time(tmp_path: Path, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with clock(tmp_path, loop) as service, Client(service) as client:
        for number in range(20):
            client.asks(f"arm {number:02} {0.1 + number / 10}")
        client.asks("arm gone 1.5")
        client.asks("cancel gone")
        for _ in range(3):
            assert service.handoff("--probation", "0.1")["connections"]["moved"] == 1
        while len(client.rung) < 20:
            client.hears()
        _, left = client.asks("look")
        assert left == {}
        assert client.rung == [f"ring {number:02}" for number in range(20)]


def test_a_timer_that_no_handler_sets_again_stays_pending_and_does_not_run(tmp_path: Path) -> None:
    with clock(tmp_path) as service, Client(service) as client:
        client.asks("arm x 0.2")
        began = time.monotonic()
        client.asks("arm y 1000")
        client.asks("forget")
        service.handoff("--probation", "0.1")
        service.handoff("--probation", "0.1")
        _, left = client.asks("look")
        if client.rung:  # the first process came to it
            assert (client.rung, set(left)) == (["ring x"], {"y"})
        else:
            assert left["x"] == 0.0
            client.asks("arm x 0")
            client.hears()
        assert 1000 - (time.monotonic() - began) <= left["y"] < 1000


def test_a_session_s_timer_is_taken_up_once_for_all_and_ends_with_the_session(tmp_path: Path) -> None:
    with clock(tmp_path) as service, Client(service) as one, Client(service) as two, Client(service) as three:
        for client in (one, two, three):
            client.asks("join match")
        one.asks("all bell 1000")
        one.asks("all gong 1.5")
        two.asks("look")
        assert service.handoff("--probation", "0.1")["sessions"]["moved"] == 1
        for client in (one, two, three):
            if not client.rung:
                client.hears()
            _, left = client.asks("look")
            assert client.rung == ["all 1"]
            assert set(left) == {"bell"}
        one.sock.shutdown(socket.SHUT_WR)
        assert one.lines.read() == b"", "its handler has ended"
        _, left = two.asks("look")
        assert set(left) == {"bell"}, "who set it has gone, and the session has not"
        two.asks("join elsewhere")
        three.asks("join elsewhere")
        _, left = three.asks("join match")
        assert left == {}, "the session was over in between"


async def kill_in_probation(service: harness.Server, during: object = None) -> dict[str, object]:
    handoff, new = await in_probation(service, "30")
    if callable(during):
        during()
    os.kill(new, signal.SIGKILL)
    assert handoff.stdout is not None
    report = json.loads(await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE))
    assert await handoff.wait() == 1
    return report


async def test_a_timer_comes_back_with_its_session_when_the_new_process_dies(tmp_path: Path) -> None:
    with clock(tmp_path) as service, Client(service) as client:
        began = time.monotonic()
        pid, before = client.asks("arm far 1000")
        report = await kill_in_probation(service)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 1, "closed": 0}
        again, after = client.asks("arm near 0")
        assert (again, pid) == (service.pid, service.pid)
        assert before["far"] > after["far"] >= 1000 - (time.monotonic() - began)
        if not client.rung:
            client.hears()
        assert client.rung == ["ring near"]


async def test_a_timer_that_has_run_is_a_touch_also_when_its_client_saw_nothing(tmp_path: Path) -> None:
    with clock(tmp_path) as service, Client(service) as client, Client(service) as witness:
        client.asks("look")

        def until_it_has_run() -> None:
            def counted() -> bytes:
                witness.sock.sendall(b"poke\ncounted\n")
                return witness.lines.readline()

            harness.becomes(lambda: int(counted()) > 0, True)

        report = await kill_in_probation(service, until_it_has_run)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 0, "closed": 2}
