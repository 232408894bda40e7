"""Background tasks run in one process at a time, and a program is told when it is to rest, whatever a handoff does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.test_crashes import Client, in_probation

SWEEPER = """
    import asyncio, os, sys
    from dataclasses import dataclass
    import hotfd

    CUTOVER, EVENTS, MODE = sys.argv[2], sys.argv[3], os.environ.get("MODE", "")

    @dataclass
    class Visitor:
        lines: int = 0

    def note(what):
        with open(EVENTS, "a") as file:
            file.write(f"{what} {os.getpid()}\\n")

    async def sweep():
        note("begin")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            while MODE == "stubborn" and not os.path.exists(EVENTS + ".go"):
                await asyncio.sleep(0.01)
            raise
        finally:
            note("end")

    async def once():
        note("once")

    # A slow freeze takes until a handler's own timeout has woken that, which then works until the thaw.
    slow = {"once": 1, "always": 1000}.get(MODE.removeprefix("slow-"), 0)
    awake, disturbed = asyncio.Event(), asyncio.Event()
    awake.set()

    async def freeze():
        global slow
        note("freeze")
        if slow:
            slow -= 1
            disturbed.clear()
            awake.clear()
            await disturbed.wait()
        if MODE == "freeze-fails":
            raise RuntimeError("s3cret")

    def thaw():
        awake.set()
        note("thaw")

    async def talk(conn):
        if not conn.resumed:
            await conn.send(b"hello")
        while True:
            try:
                async with asyncio.timeout(0.05 if slow else None):
                    line = await conn.receive()
            except TimeoutError:
                if not awake.is_set():
                    disturbed.set()
                    await awake.wait()
                continue
            if line is None:
                return
            if line == b"busy":
                await asyncio.sleep(3600)
            conn.state.lines += 1
            await conn.send(b"%d %s" % (conn.state.lines, line))

    options = {}
    if CUTOVER == "together":
        options = {"cutover": CUTOVER, "export_state": lambda: note("export") or 1, "import_state": lambda _: None}
    if MODE == "sick" and "HOTFD_CHANNEL" in os.environ:
        options["healthy"] = lambda: False
    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Visitor, name="sweeper", background=[sweep, once],
              on_freeze=freeze, on_thaw=thaw, **options)
"""


@contextmanager
def sweeper(tmp_path: Path, cutover: str, mode: str = "") -> Iterator[harness.Server]:
    port = harness.free_port()
    path = harness.script(tmp_path, "sweeper.py", SWEEPER)
    command = [sys.executable, str(path), str(port), cutover, str(tmp_path / "events")]
    with harness.server(tmp_path, command, port, env={"MODE": mode}) as service:
        yield service


def events(tmp_path: Path, *pids: int) -> list[str]:
    """What has happened, with ``old`` and ``new`` and so on for the processes."""
    names = dict(zip(map(str, pids), ("old", "new", "newer"), strict=False))
    lines = (tmp_path / "events").read_text().splitlines()
    return [f"{what} {names[pid]}" for what, pid in (line.split() for line in lines) if what not in {"once", "export"}]


BOTH = pytest.mark.parametrize("cutover", ["rolling", "together"])
UNDISTURBED = ["begin old"]
MOVED = ["begin old", "end old", "freeze old", "begin new"]


@BOTH
async def test_they_stop_before_anything_moves_and_begin_in_the_new_process(tmp_path: Path, cutover: str) -> None:
    with sweeper(tmp_path, cutover) as service:
        client = await Client.open(service.address)
        first = service.pid
        service.handoff("--probation", "0.1")
        second = service.pid
        harness.becomes(lambda: events(tmp_path, first, second), MOVED)
        assert service.status()["background"] == {"running": ["sweep"], "failed": 0}
        service.handoff("--probation", "0.1")
        again = [line.replace("new", "newer").replace("old", "new") for line in MOVED[1:]]
        harness.becomes(lambda: events(tmp_path, first, second, service.pid), MOVED + again)
        assert await client.talk() == "served"
        client.writer.close()
    assert events(tmp_path, first, second, service.pid)[-1] == "end newer", "also when the server is told to stop"


@BOTH
async def test_they_begin_again_when_the_new_process_dies_in_its_probation(tmp_path: Path, cutover: str) -> None:
    with sweeper(tmp_path, cutover) as service:
        client = await Client.open(service.address)
        handoff, new = await in_probation(service)
        harness.becomes(lambda: events(tmp_path, service.pid, new), MOVED)
        os.kill(new, signal.SIGKILL)
        assert handoff.stdout is not None
        assert (
            json.loads(await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE))["connections"]["returned"] == 1
        )
        assert await handoff.wait() == 1
        harness.becomes(lambda: events(tmp_path, service.pid, new), [*MOVED, "thaw old", "begin old"])
        assert await client.talk() == "served"
        client.writer.close()
        lines = (tmp_path / "events").read_text().splitlines()
        assert lines.count(f"once {service.pid}") == 1, "what had ended by itself is not begun again"


@BOTH
async def test_a_new_version_that_is_bad_from_the_start_disturbs_them_not_at_all(tmp_path: Path, cutover: str) -> None:
    with sweeper(tmp_path, cutover) as service:
        report = service.handoff(expect=1, command=["env", "MODE=sick", *service.process.args])
        assert report["reason"].startswith("unhealthy")
        service.handoff("--dry-run=deep")
        assert events(tmp_path, service.pid) == UNDISTURBED


@BOTH
async def test_a_freeze_that_raises_refuses_the_handoff_and_is_thawed(tmp_path: Path, cutover: str) -> None:
    with sweeper(tmp_path, cutover, "freeze-fails") as service:
        client = await Client.open(service.address)
        report = service.handoff(expect=1)
        assert (report["outcome"], report["reason"]) == (
            "rolled-back",
            "freeze-failed: on_freeze raised RuntimeError; see the log",
        )
        harness.becomes(
            lambda: events(tmp_path, service.pid), ["begin old", "end old", "freeze old", "thaw old", "begin old"]
        )
        assert await client.talk() == "served"
        client.writer.close()


@BOTH
async def test_a_task_that_does_not_stop_refuses_the_handoff_and_goes_on_later(tmp_path: Path, cutover: str) -> None:
    with sweeper(tmp_path, cutover, "stubborn") as service:
        client = await Client.open(service.address)
        report = service.handoff(expect=1)
        assert report["reason"] == "background-task: did not stop within 1 s of being cancelled: sweep"
        assert await client.talk() == "served"
        assert events(tmp_path, service.pid) == UNDISTURBED
        (tmp_path / "events.go").touch()
        harness.becomes(lambda: events(tmp_path, service.pid), ["begin old", "end old", "begin old"])
        client.writer.close()


async def test_a_gate_that_does_not_close_freezes_nothing(tmp_path: Path) -> None:
    with sweeper(tmp_path, "together") as service:
        busy = await Client.open(service.address)
        busy.writer.write(b"busy\n")
        await busy.writer.drain()
        report = service.handoff("--boundary-timeout", "0.2", expect=1)
        assert report["reason"].startswith("no-boundary")
        assert events(tmp_path, service.pid) == UNDISTURBED
        busy.writer.close()


async def test_when_everything_has_to_come_to_rest_again_freeze_and_thaw_come_in_pairs(tmp_path: Path) -> None:
    with sweeper(tmp_path, "together", "slow-once") as service:
        client = await Client.open(service.address)
        old = service.pid
        service.handoff("--probation", "0.1")
        again = ["end old", "freeze old", "thaw old", "begin old"]
        found = events(tmp_path, old, service.pid)
        assert found == ["begin old", *again, "end old", "freeze old", "begin new"]
        assert await client.talk() == "served"
        client.writer.close()


async def test_a_freeze_that_never_fits_between_two_timeouts_of_a_handler_is_a_refusal(tmp_path: Path) -> None:
    with sweeper(tmp_path, "together", "slow-always") as service:
        client = await Client.open(service.address)
        report = service.handoff("--boundary-timeout", "0.1", expect=1)
        assert report["reason"].startswith("no-boundary: within 0.1 s the sessions never stayed at rest")
        found = events(tmp_path, service.pid)
        assert found[-2:] == ["thaw old", "begin old"]
        assert found.count("freeze old") == found.count("thaw old") >= 1
        assert await client.talk() == "served"
        client.writer.close()
