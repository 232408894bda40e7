"""Line clients under load over many handoffs: nothing lost, doubled or reordered, nobody disconnected."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.clients import Score, line_client

CLIENTS = 500


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
async def test_five_hundred_clients_with_random_fragments_see_nothing_of_ten_handoffs(
    tmp_path: Path, loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with harness.counter(tmp_path, "--loop", loop) as service:
        score, stop = Score(), asyncio.Event()
        clients = [
            asyncio.create_task(line_client(service.address, score, stop, seed, pause=1.0)) for seed in range(CLIENTS)
        ]
        while score.replies < CLIENTS:
            await asyncio.sleep(0.05)
        reports = await harness.handoffs(service, 10)
        stop.set()
        await asyncio.gather(*clients)
        score.check()
        assert score.replies > 10 * CLIENTS
        assert [report["connections"]["moved"] for report in reports] == [CLIENTS] * 10
        assert service.status()["generation"] == 11


STREAMER = """
    import sys
    from dataclasses import dataclass

    import hotfd


    @dataclass
    class Sent:
        frames: int = 0


    async def talk(conn):
        # Each request names a size; the reply is that many bytes, a function of the request's number.
        async for line in conn:
            conn.state.frames += 1
            number = conn.state.frames
            await conn.send(b"%d:" % number + bytes([97 + number % 26]) * int(line))


    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", framing=hotfd.Lines(max_size=1 << 24), state=Sent, name="streamer")
"""


async def slow_reader(service: harness.Server, seed: int, score: Score, rounds: int) -> None:
    """Ask for large replies faster than they are read, and check each byte."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, service.address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 22)
    try:
        sizes = [rng.randint(1, 200_000) for _ in range(rounds)]
        writer.write(b"".join(b"%d\n" % size for size in sizes))
        for number, size in enumerate(sizes, 1):
            want = b"%d:" % number + bytes([97 + number % 26]) * size + b"\n"
            got = b""
            while len(got) < len(want):
                piece = await asyncio.wait_for(reader.read(min(16384, len(want) - len(got))), harness.PATIENCE)
                if not piece:
                    score.lost.append(f"client {seed}: the end after {len(got)} bytes of reply {number}")
                    return
                got += piece
                await asyncio.sleep(rng.random() * 0.004)
            if got != want:
                score.wrong.append(f"client {seed}: reply {number} differs")
                return
            score.replies += 1
    except (OSError, TimeoutError) as error:
        score.lost.append(f"client {seed}: {type(error).__name__} {error}")
    finally:
        writer.close()


async def test_unsent_bytes_of_slow_readers_travel(tmp_path: Path) -> None:
    with harness.program(tmp_path, STREAMER) as service:
        score = Score()
        clients = [asyncio.create_task(slow_reader(service, seed, score, 25)) for seed in range(40)]
        reports = await harness.handoffs(service, 5)
        await asyncio.gather(*clients)
        score.check(replies=40 * 25)
        assert any(report["connections"]["moved"] for report in reports)
        assert all(report["outcome"] == "completed" for report in reports)


def test_a_client_that_reads_nothing_moves_with_what_is_unsent(tmp_path: Path) -> None:
    with harness.program(tmp_path, STREAMER) as service, service.connect() as stuck:
        stuck.sendall(b"3000000\n3000000\n5\n")
        report = service.handoff("--probation", "0.2")
        assert report["connections"] == {"moved": 1, "kept": 0, "returned": 0, "closed": 0}
        want = b"1:" + b"b" * 3_000_000 + b"\n2:" + b"c" * 3_000_000 + b"\n3:ddddd\n"
        with stuck.makefile("rb") as reader:
            assert reader.read(len(want)) == want


def test_a_half_closed_client_gets_all_replies_from_the_new_process(tmp_path: Path) -> None:
    source = """
        import sys
        import hotfd

        async def talk(conn):
            # Collects every line, and answers when the client has ended its direction.
            async for line in conn:
                conn.state["lines"] = conn.state.get("lines", 0) + 1
            async def pushed():
                import asyncio, os
                while not os.path.exists(sys.argv[1] + ".go"):
                    await asyncio.sleep(0.01)
            if not conn.state.get("waited"):
                await conn.wait(pushed())
            await conn.send(b"%d lines" % conn.state["lines"])

        hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", framing=hotfd.Lines(), state=hotfd.State(dict))
    """
    with harness.program(tmp_path, source, cwd=tmp_path) as service, service.connect() as client:
        client.sendall(b"a\nb\nc\n")
        client.shutdown(socket.SHUT_WR)
        report = service.handoff("--probation", "0.2")
        assert report["connections"]["moved"] == 1
        (tmp_path / f"{service.port}.go").touch()
        with client.makefile("rb") as reader:
            assert reader.read() == b"3 lines\n"


def test_half_a_frame_travels(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, service.connect() as client, client.makefile("rb") as reader:
        assert reader.readline() == b"hello\n"
        client.sendall(b"first\nsec")
        assert reader.readline() == b"1 first\n"
        for _ in range(3):
            assert service.handoff("--probation", "0.1")["connections"]["moved"] == 1
        client.sendall(b"ond\n")
        assert reader.readline() == b"2 second\n"
