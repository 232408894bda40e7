"""Shared sessions with process-wide state: who goes his own way while all are brought to rest still moves with all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import harness

LOBBY = """
    import asyncio
    import os
    import sys

    import hotfd

    WAY = os.environ["WAY"]
    alarms = []
    freezes = 0


    async def go(conn):
        # What a handler's own timeout makes it do: it is not for the gate to stop that.
        if WAY == "leave":
            await conn.leave()
        else:
            await conn.join("room", state=dict)


    async def talk(conn):
        if not conn.resumed:
            await conn.join("lobby")
            await conn.send(b"hello")
        while True:
            try:
                async with asyncio.timeout(None) as alarm:
                    if conn.session.key == "lobby" and conn.session.connections[0] is conn:
                        alarms.append(alarm)
                    line = await conn.receive()
            except TimeoutError:
                await go(conn)
                continue
            if line is None:
                return
            await conn.send(b"%d %s" % (os.getpid(), (conn.session.key or "-").encode()))


    async def freeze():
        global freezes
        freezes += 1
        if freezes == 1:
            for alarm in alarms:
                alarm.reschedule(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)


    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", name="lobby", cutover="together", export_state=lambda: 1,
              import_state=lambda value: None, on_freeze=freeze, on_thaw=lambda: None)
"""


@pytest.mark.parametrize(("way", "key"), [("leave", "-"), ("make", "room")])
def test_who_goes_his_own_way_while_the_program_freezes_moves_with_all_others(
    tmp_path: Path, way: str, key: str
) -> None:
    with harness.program(tmp_path, LOBBY, env={"WAY": way}) as service:
        one, two = service.connect(), service.connect()
        with one, two, one.makefile("rb") as first, two.makefile("rb") as second:
            assert first.readline() == second.readline() == b"hello\n"
            report = service.handoff("--probation", "0.2")
            assert report["sessions"]["moved"] == 2
            for sock, reader, where in ((one, first, key), (two, second, "lobby")):
                sock.sendall(b"?\n")
                assert reader.readline() == b"%d %s\n" % (service.pid, where.encode())
        harness.wait_gone(service.pids[0])
