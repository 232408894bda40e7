"""Background tasks run in one process at a time, and a program is told when it is to rest."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import hotfd
from hotfd.errors import HandoffRefused
from hotfd.server import background, tasks
from hotfd.server.background import Background, Freezer
from hotfd.server.tasks import Scope
from tests.unit.wire_support import LIMIT, on_each_loop, turns


class Program:
    """Background work that notes what happens to it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.go = asyncio.Event()

    async def sweep(self) -> None:
        self.log.append("begins")
        try:
            await self.go.wait()
            self.log.append("ends")
        except asyncio.CancelledError:
            self.log.append("stopped")
            raise

    async def stubborn(self) -> None:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.log.append("not me")
            await self.go.wait()

    async def slow(self) -> None:
        self.log.append("begins")
        try:
            await asyncio.Event().wait()
        finally:
            await self.go.wait()

    def freeze(self) -> None:
        self.log.append("freeze")

    async def thaw(self) -> None:
        self.log.append("thaw")


@on_each_loop
async def test_background_work_begins_when_the_process_serves_and_not_before() -> None:
    program, jobs = Program(), Background()
    jobs.add(program.sweep)
    await turns()
    assert program.log == []
    jobs.start()
    jobs.start()
    await turns()
    assert program.log == ["begins"]
    assert jobs.running == ["Program.sweep"]
    jobs.add(program.sweep)
    await turns()
    assert program.log == ["begins", "begins"]
    assert await jobs.stop() == []
    assert jobs.running == []
    jobs.add(program.sweep)
    await turns()
    assert program.log == ["begins", "begins", "stopped", "stopped"]


async def test_stopped_work_starts_again_and_work_that_has_ended_does_not() -> None:
    program, jobs = Program(), Background()

    async def once() -> None:
        program.log.append("once")

    jobs.add(program.sweep)
    jobs.add(once)
    jobs.start()
    await turns()
    assert await jobs.stop() == []
    jobs.start()
    await turns()
    assert program.log == ["begins", "once", "stopped", "begins"]
    await jobs.close()


async def test_a_coroutine_has_one_life(caplog: pytest.LogCaptureFixture) -> None:
    program, jobs = Program(), Background()
    jobs.add(program.sweep())
    jobs.start()
    await turns()
    with caplog.at_level(logging.INFO, logger="hotfd"):
        assert await jobs.stop() == []
    assert "background-task-over" in caplog.text
    jobs.start()
    await turns()
    assert program.log == ["begins", "stopped"]


async def test_a_coroutine_that_never_began_is_closed_and_nobody_is_warned() -> None:
    jobs = Background()
    jobs.add(Program().sweep())
    await jobs.close()


async def test_work_that_raises_is_logged_and_counted_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    program, jobs = Program(), Background()

    async def broken() -> None:
        raise RuntimeError("no")

    def unstartable() -> Any:
        raise RuntimeError("never")

    for work in (broken, unstartable, program.sweep):
        jobs.add(work)
    jobs.start()
    await turns()
    assert (jobs.failed, jobs.running) == (2, ["Program.sweep"])
    assert caplog.text.count("background-task-failed") == 2
    await jobs.stop()
    jobs.start()
    await turns()
    assert jobs.failed == 2, "what has failed is not tried again"
    await jobs.close()


async def test_work_that_is_no_coroutine_function_is_refused() -> None:
    with pytest.raises(TypeError, match="coroutine function"):
        Background().add(7)  # type: ignore[arg-type]


async def test_work_that_a_handler_adds_is_not_a_task_of_that_handler() -> None:
    tasks.install(asyncio.get_running_loop())
    jobs, scope = Background(), Scope(lambda: None)
    jobs.start()
    scope.context().run(jobs.add, Program().sweep)
    await turns()
    assert jobs.running
    assert not scope.tasks
    await jobs.close()


async def test_work_that_does_not_stop_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    program, jobs = Program(), Background()
    jobs.add(program.sweep)
    jobs.add(program.stubborn)
    jobs.start()
    await turns()
    assert await jobs.stop(0.01) == ["Program.stubborn"]
    jobs.start()
    await turns()
    assert program.log == ["begins", "stopped", "not me", "begins"]
    program.go.set()
    await turns()
    assert jobs.running == []
    jobs.start()
    await turns()
    assert program.log[4:] == ["ends"], "it has ended by itself, later"


async def test_work_that_stops_only_after_the_handoff_was_undone_starts_again() -> None:
    program, jobs = Program(), Background()
    jobs.add(program.slow)
    jobs.start()
    await turns()
    assert await jobs.stop(0.01) == ["Program.slow"]
    jobs.start()
    program.go.set()
    await turns()
    assert program.log == ["begins", "begins"]
    await jobs.close()


# -- freeze and thaw ----------------------------------------------------------------------------------


def frozen(program: Program, **hooks: Any) -> tuple[Background, Freezer]:
    jobs = Background()
    jobs.add(program.sweep)
    jobs.start()
    return jobs, Freezer(jobs, **({"on_freeze": program.freeze, "on_thaw": program.thaw} | hooks))


@on_each_loop
async def test_the_program_is_told_when_its_tasks_have_stopped_and_before_they_start_again() -> None:
    program = Program()
    jobs, freezer = frozen(program)
    await turns()
    for _ in range(2):
        await freezer.freeze(LIMIT)
        await freezer.thaw()
        await freezer.thaw()
        await turns()
    assert program.log == ["begins", *["stopped", "freeze", "thaw", "begins"] * 2]
    await jobs.close()


async def test_a_freeze_that_raises_is_a_refusal_and_is_thawed(caplog: pytest.LogCaptureFixture) -> None:
    program = Program()

    def freeze() -> None:
        raise RuntimeError("s3cret")

    jobs, freezer = frozen(program, on_freeze=freeze)
    with pytest.raises(HandoffRefused) as refused:
        await freezer.freeze(LIMIT)
    assert (refused.value.code, refused.value.detail) == ("freeze-failed", "on_freeze raised RuntimeError; see the log")
    await freezer.thaw()
    assert program.log == ["thaw"]
    assert jobs.running
    assert "hook-failed" in caplog.text
    await jobs.close()


async def test_a_freeze_that_hangs_is_a_refusal() -> None:
    program = Program()
    jobs, freezer = frozen(program, on_freeze=asyncio.Event().wait)
    with pytest.raises(HandoffRefused, match=r"did not return within 0\.01 s"):
        await freezer.freeze(0.01)
    await freezer.thaw()
    assert jobs.running
    await jobs.close()


async def test_without_a_freeze_there_is_no_thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "STOP_LIMIT", 0.01)
    program = Program()
    jobs, freezer = frozen(program)
    await freezer.thaw()
    jobs.add(program.stubborn)
    await turns()
    stop = jobs.stop
    jobs.stop = lambda: stop(0.01)  # type: ignore[method-assign,assignment,misc]
    with pytest.raises(HandoffRefused) as refused:
        await freezer.freeze(LIMIT)
    assert refused.value.code == "background-task"
    assert "Program.stubborn" in refused.value.detail
    await freezer.thaw()
    assert "freeze" not in program.log
    assert "thaw" not in program.log
    assert jobs.running == ["Program.stubborn", "Program.sweep"]
    program.go.set()
    await turns()


async def test_a_thaw_that_raises_or_hangs_is_logged_and_the_tasks_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "THAW_LIMIT", 0.01)
    for thaw in (asyncio.Event().wait, lambda: 1 / 0):
        program = Program()
        jobs, freezer = frozen(program, on_thaw=thaw)
        await freezer.freeze(LIMIT)
        await freezer.thaw()
        assert jobs.running
        await jobs.close()
    assert caplog.text.count("thaw-failed") == 2


# -- with a server ------------------------------------------------------------------------------------


async def test_a_server_runs_its_background_tasks_while_it_serves() -> None:
    program = Program()

    async def idle(conn: hotfd.Connection[None]) -> None:
        await conn.receive()

    server = hotfd.Server(idle, "127.0.0.1:0", background=[program.sweep], control=False)

    @server.background
    async def early() -> None:
        await program.sweep()

    await turns()
    assert program.log == []
    async with server:
        await turns()
        assert program.log == ["begins"] * 2
        assert server.background(program.slow) == program.slow
        await turns()
        assert server.status()["background"] == {
            "running": sorted(work.__qualname__ for work in (program.sweep, program.slow, early)),
            "failed": 0,
        }
        program.go.set()
    assert sorted(program.log) == ["begins"] * 3 + ["stopped"] * 2


async def test_a_server_refuses_background_work_that_is_none() -> None:
    with pytest.raises(TypeError, match="coroutine function"):
        hotfd.Server(Program().sweep, "127.0.0.1:0", background=["sweep"])  # type: ignore[arg-type,list-item]
