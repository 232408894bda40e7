"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import NoReturn

import pytest

from hotfd.config.threads import Crew, aside
from tests.unit.config_support import FUSE
from tests.unit.wire_support import on_each_loop


@on_each_loop
async def test_it_returns_what_the_function_does_from_another_thread() -> None:
    assert await aside(pow, 2, 10) == 1024
    assert await aside(threading.current_thread) is not threading.current_thread()
    assert await aside(lambda: None) is None


@on_each_loop
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), StopIteration(), KeyboardInterrupt()])
async def test_it_raises_what_the_function_does_but_for_what_would_end_the_loop(error: BaseException) -> None:
    def fail() -> NoReturn:
        raise error

    with pytest.raises(ValueError if isinstance(error, ValueError) else RuntimeError):
        await aside(fail)


@on_each_loop
async def test_cancelled_it_leaves_the_function_to_its_end() -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(FUSE)
        ended.set()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(aside(work), 0.01)
    go.set()
    assert await aside(ended.wait, FUSE)
    await asyncio.sleep(0)


def test_a_function_that_hangs_does_not_keep_a_process_from_its_end() -> None:
    program = """if True:
        import asyncio, threading
        from hotfd.config.threads import aside

        async def main():
            await asyncio.wait({asyncio.create_task(aside(threading.Event().wait))}, timeout=0.01)

        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=FUSE)


def test_a_function_that_ends_after_the_loop_troubles_nobody() -> None:
    go, before = threading.Event(), set(threading.enumerate())

    async def main() -> None:
        await asyncio.wait({asyncio.create_task(aside(go.wait, FUSE))}, timeout=0.01)

    asyncio.run(main())
    (thread,) = set(threading.enumerate()) - before
    go.set()
    thread.join(FUSE)
    assert not thread.is_alive()


@on_each_loop
async def test_a_crew_has_so_many_threads_also_when_nobody_waits_for_them_any_more() -> None:
    crew, go = Crew(2), threading.Event()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(crew.run(go.wait, FUSE), 0.01)
    assert crew.busy
    late = asyncio.ensure_future(crew.run(pow, 2, 3))
    await asyncio.sleep(0)
    assert not late.done()
    go.set()
    assert await asyncio.wait_for(late, FUSE) == 8


@on_each_loop
async def test_a_function_that_raises_leaves_its_crew_a_thread() -> None:
    crew = Crew(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await crew.run(divmod, 1, 0)


@on_each_loop
async def test_a_thread_that_the_system_does_not_give_is_not_lost_to_its_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(1)

    def refuse(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="new thread"):
                await asyncio.wait_for(crew.run(pow, 2, 2), FUSE)
    assert await asyncio.wait_for(crew.run(pow, 2, 3), FUSE) == 8
