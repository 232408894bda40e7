"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import NoReturn

import pytest

from hotfd.config.threads import aside
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
    go = threading.Event()

    async def main() -> None:
        await asyncio.wait({asyncio.create_task(aside(go.wait, FUSE))}, timeout=0.01)

    asyncio.run(main())
    (thread,) = (one for one in threading.enumerate() if one.name == "hotfd-config")
    go.set()
    thread.join(FUSE)
    assert not thread.is_alive()
