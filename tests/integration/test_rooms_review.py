"""Shared sessions with process-wide state: who goes his own way while all are brought to rest still moves with all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.test_rooms import ROOMS, keeper, roamer, watch

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
            assert report["connections"]["moved"] == 2
            for sock, reader, where in ((one, first, key), (two, second, "lobby")):
                sock.sendall(b"?\n")
                assert reader.readline() == b"%d %s\n" % (service.pid, where.encode())
        harness.wait_gone(service.pids[0])


DYING = ROOMS.replace('log_style="json"', 'cutover="together", export_state=lambda: 1, import_state=take_over').replace(
    "async def talk",
    """def take_over(value):
        import os, pathlib, signal
        if pathlib.Path(os.environ["FATAL"]).exists():
            os.kill(os.getpid(), signal.SIGKILL)


    async def talk""",
)


async def test_players_who_come_and_go_notice_nothing_of_new_processes_that_die_with_everything_offered(
    tmp_path: Path,
) -> None:
    fatal = tmp_path / "fatal"
    with harness.program(tmp_path, DYING, env={"FATAL": str(fatal)}) as service:
        stop, faults = asyncio.Event(), list[str]()
        keepers = [await keeper(service.address, f"room-{number}") for number in range(12)]
        watching = [asyncio.create_task(watch(one, room, faults)) for room, one in keepers]
        roamers = [asyncio.create_task(roamer(service.address, seed, stop, {}, faults)) for seed in range(30)]
        outcomes = []
        for round_ in range(6):
            if round_ % 3 == 2:
                fatal.unlink()
            else:
                fatal.touch()
            report = await asyncio.to_thread(service.handoff, "--probation", "0.1", expect=None)
            outcomes.append(report["outcome"])
        stop.set()
        await asyncio.gather(*roamers)
        for _, (_, writer) in keepers:
            writer.write(b"?\n")
        counts = await asyncio.gather(*watching)
        for _, (_, writer) in keepers:
            writer.close()
        assert not faults, faults[:5]
        assert sum(counts) > 100, "the rooms have been busy"
        assert outcomes == ["rolled-back", "rolled-back", "completed"] * 2
