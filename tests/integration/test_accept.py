"""No connection is refused or reset, whenever a client connects."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from pathlib import Path

from tests.integration import harness
from tests.integration.test_endings import handing_over

HANDOFFS = 20
KNOCKERS = 8

PAUSE = 0.01
"""Seconds between two knocks of one: somebody knocks in every millisecond or two, and the handoffs have their turn."""


async def knock(address: tuple[str, int], stop: asyncio.Event, seen: Counter[str]) -> None:
    """Connect again and again, say one line, hear one line, leave."""
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x\n")
            async with asyncio.timeout(harness.PATIENCE):
                answer = await reader.readline() + await reader.readline()
            writer.close()
        except (OSError, TimeoutError) as error:
            answer = type(error).__name__.encode()
        seen["served" if answer == b"hello\n1 x\n" else answer.decode(errors="replace")] += 1
        await asyncio.sleep(PAUSE)


async def test_clients_that_connect_all_the_time_are_all_served_through_twenty_handoffs(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        stop, seen = asyncio.Event(), Counter[str]()
        knockers = [asyncio.create_task(knock(service.address, stop, seen)) for _ in range(KNOCKERS)]
        await harness.handoffs(service, HANDOFFS, pause=0.0)
        stop.set()
        await asyncio.gather(*knockers)
        assert set(seen) == {"served"}, seen
        assert seen["served"] > 20 * HANDOFFS


def test_a_client_in_the_accept_queue_is_served_by_the_new_process(tmp_path: Path) -> None:
    # A new process stops before it accepts for the first time, and the old one does not accept any more: who connects
    # then waits in the kernel's queue.
    source = """
        import os, signal, sys
        import hotfd
        from hotfd.server.engine import Engine

        start_accepting = Engine.start_accepting

        def stop_and_start(self):
            Engine.start_accepting = start_accepting
            os.kill(os.getpid(), signal.SIGSTOP)
            start_accepting(self)

        if "HOTFD_CHANNEL" in os.environ:
            Engine.start_accepting = stop_and_start

        async def talk(conn):
            async for line in conn:
                await conn.send(b"%d %s" % (os.getpid(), line))

        hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}")
    """
    with harness.program(tmp_path, source) as service, handing_over(service, "--probation", "0.1") as handoff:
        new = handoff.phase("move")
        harness.becomes(lambda: harness.stopped(new), True)
        waiting = [service.connect() for _ in range(20)]
        try:
            for client in waiting:
                client.sendall(b"here\n")
            harness.kill(new, signal.SIGCONT)
            report = handoff.report(0)
            assert report["outcome"] == "completed"
            assert report["connections"]["moved"] == 0, "the old process has accepted none of them"
            for client in waiting:
                with client.makefile("rb") as reader:
                    assert reader.readline() == b"%d here\n" % new
        finally:
            for client in waiting:
                client.close()


def test_unix_and_ipv6_listeners_pass_too(tmp_path: Path) -> None:
    source = """
        import sys
        import hotfd

        async def talk(conn):
            async for line in conn:
                await conn.send(line + b" " + conn.listener.encode())

        hotfd.run(talk, [f"127.0.0.1:{sys.argv[1]}", "[::1]:0", "unix:" + sys.argv[0] + ".sock"])
    """
    with harness.program(tmp_path, source) as service:
        path = str(tmp_path / "program.py.sock")
        ipv6 = service.status()["listeners"][1].rpartition(":")[2]
        with socket.create_connection(("::1", int(ipv6))) as six, socket.socket(socket.AF_UNIX) as local:
            local.connect(path)
            for number in range(3):
                for client, name in ((six, b"[::1]:0"), (local, b"unix:" + path.encode())):
                    client.sendall(b"%d\n" % number)
                    assert client.recv(200) == b"%d %s\n" % (number, name)
                assert service.handoff("--probation", "0.1")["connections"]["moved"] == 2
            assert service.status()["listeners"][1].endswith(f":{ipv6}"), "port 0 stays the same port"
            with socket.socket(socket.AF_UNIX) as fresh:
                fresh.connect(path)
    assert not (tmp_path / "program.py.sock").exists(), "a stopped server removes its socket's path"
