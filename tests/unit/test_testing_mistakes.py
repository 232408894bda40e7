"""Each typical mistake passes a test that hands nothing over, and fails one that does."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

import hotfd
from hotfd import testing


@dataclass
class Visitor:
    lines: int = 0
    names: list[str] = field(default_factory=list)


async def count_to_three(server: testing.Harness) -> None:
    client = await server.connect()
    await client.expect(b"hello")
    await client.write(b"a\nb\n")  # together: the second waits while the first is handled
    await client.expect(b"1 a")
    await client.expect(b"2 b")
    await client.send(b"c")
    await client.expect(b"3 c")


async def found(scenario: Any, handler: Any, expected: str, **options: Any) -> None:
    """See a mistake pass and fail. A handler may be made per run: what made it is called for each."""
    make = options.pop("make", lambda: handler)
    async with testing.serve(make(), handoffs="never", **options) as server:
        await scenario(server)
    with pytest.raises(AssertionError, match=expected):
        async with testing.serve(make(), timeout=1.0, **options) as server:
            await scenario(server)


async def test_a_local_variable_outside_of_the_state_is_found():
    async def talk(conn: hotfd.Connection[None]) -> None:
        if not conn.resumed:
            await conn.send(b"hello")
        lines = 0
        async for line in conn:
            lines += 1
            await conn.send(b"%d %s" % (lines, line))

    await found(count_to_three, talk, "expected b'2 b', got b'1 b' .client 1, handed over 2 times")


async def test_a_counter_in_a_closure_is_found():
    def make() -> Any:
        lines = 0

        async def talk(conn: hotfd.Connection[None]) -> None:
            nonlocal lines
            if not conn.resumed:
                await conn.send(b"hello")
            async for line in conn:
                lines += 1
                await conn.send(b"%d %s" % (lines, line))

        return talk

    await found(count_to_three, None, "expected b'2 b', got b'1 b'", make=make)


_total = 0


async def test_a_counter_in_a_module_is_found():
    async def talk(conn: hotfd.Connection[None]) -> None:
        global _total
        if not conn.resumed:
            _total = 0
            await conn.send(b"hello")
        async for line in conn:
            _total += 1
            await conn.send(b"%d %s" % (_total, line))

    await found(count_to_three, talk, "expected b'[13] [abc]', got")


async def test_a_table_beside_the_handler_is_found_when_it_is_made_for_each_process():
    def make() -> Any:
        lines: dict[str, int] = {}

        async def talk(conn: hotfd.Connection[None]) -> None:
            if not conn.resumed:
                await conn.send(b"hello")
            async for line in conn:
                lines[conn.id] = lines.get(conn.id, 0) + 1
                await conn.send(b"%d %s" % (lines[conn.id], line))

        return talk

    await found(count_to_three, testing.per_process(make), "expected b'2 b', got b'1 b'")


async def test_a_greeting_that_is_sent_again_is_found():
    async def talk(conn: hotfd.Connection[Visitor]) -> None:
        await conn.send(b"hello")
        async for line in conn:
            conn.state.lines += 1
            await conn.send(b"%d %s" % (conn.state.lines, line))

    await found(count_to_three, talk, "expected b'1 a', got b'hello'", state=Visitor)


async def test_a_state_that_is_reset_when_the_handler_starts_is_found():
    async def talk(conn: hotfd.Connection[Visitor]) -> None:
        if not conn.resumed:
            await conn.send(b"hello")
        conn.state.lines = 0
        async for line in conn:
            conn.state.lines += 1
            await conn.send(b"%d %s" % (conn.state.lines, line))

    await found(count_to_three, talk, "expected b'2 b', got b'1 b'", state=Visitor)


async def test_a_timer_that_is_kept_in_a_task_is_found_with_its_name():
    async def talk(conn: hotfd.Connection[Visitor]) -> None:
        if not conn.resumed:
            await conn.send(b"hello")
        timer = asyncio.create_task(asyncio.sleep(3600), name="idle-timer")
        try:
            async for line in conn:
                conn.state.lines += 1
                await conn.send(b"%d %s" % (conn.state.lines, line))
        finally:
            timer.cancel()

    await found(count_to_three, talk, "handler-tasks: connection 1 .* idle-timer; .* conn.spawn", state=Visitor)


async def test_a_state_of_a_type_that_cannot_travel_is_found_with_its_path():
    async def talk(conn: hotfd.Connection[Visitor]) -> None:
        if not conn.resumed:
            await conn.send(b"hello")
        async for line in conn:
            conn.state.names.append(line)  # type: ignore[arg-type]  # the mistake
            conn.state.lines += 1
            if line == b"b":
                conn.state.names.append(threading.Lock())  # type: ignore[arg-type]
            await conn.send(b"%d %s" % (conn.state.lines, line))

    await found(count_to_three, talk, r"state-encode: Visitor\.names", state=Visitor)


class Lossy:
    """A class with functions that forget: its ``best`` never arrives."""

    def __init__(self) -> None:
        self.lines = 0
        self.best = b""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lossy) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def write(self) -> int:
        return self.lines

    @classmethod
    def read(cls, lines: int) -> Lossy:
        made = cls()
        made.lines = lines
        return made


async def test_a_state_that_does_not_come_back_as_it_went_is_found():
    async def talk(conn: hotfd.Connection[Lossy]) -> None:
        if not conn.resumed:
            await conn.send(b"hello")
        async for line in conn:
            conn.state.lines += 1
            conn.state.best = max(conn.state.best, line)
            await conn.send(b"%d %s" % (conn.state.lines, line))

    declared = hotfd.State(Lossy, encode=Lossy.write, decode=Lossy.read)
    await found(count_to_three, talk, "state-roundtrip: Lossy does not come back as it went", state=declared)


async def test_a_handler_that_swallows_the_handover_and_says_goodbye_is_found(caplog):
    caplog.set_level(logging.CRITICAL)

    async def talk(conn: hotfd.Connection[Visitor]) -> None:
        try:
            if not conn.resumed:
                await conn.send(b"hello")
            async for line in conn:
                conn.state.lines += 1
                await conn.send(b"%d %s" % (conn.state.lines, line))
        finally:
            conn.state.lines = 0
            said = conn.state.names
            said.append("gone")
            goodbyes.append(len(said))

    goodbyes: list[int] = []

    async def says_goodbye_once(server: testing.Harness) -> None:
        goodbyes.clear()
        client = await server.connect()
        await client.expect(b"hello")
        await client.send(b"a")
        await client.expect(b"1 a")
        client.write_eof()
        await client.expect_end()
        assert len(goodbyes) == 1, f"{len(goodbyes)} goodbyes"

    await found(says_goodbye_once, talk, "3 goodbyes", state=Visitor)


async def test_a_future_that_does_not_bear_being_cancelled_is_found():
    async def opens_once(server: testing.Harness) -> None:
        client = await server.connect()
        await client.expect(b"waiting")
        assert not doors[-1].cancelled(), "the door is broken"
        doors[-1].set_result(None)
        await client.expect(b"open")

    doors: list[asyncio.Future[None]] = []

    def make() -> Any:
        door: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        doors.append(door)

        async def talk(conn: hotfd.Connection[None]) -> None:
            if not conn.resumed:
                await conn.send(b"waiting")
            await conn.wait(door)
            await conn.send(b"open")

        return talk

    await found(opens_once, None, "door is broken|connection ended", make=make)


async def test_a_sum_beside_a_merge_loop_is_found():
    async def add_up(server: testing.Harness) -> None:
        client = await server.connect()
        await client.expect(b"hello")
        queues[-1].put_nowait(2)
        await client.expect(b"2")
        await client.send(b"3")
        await client.expect(b"5")

    queues: list[asyncio.Queue[int]] = []

    def make() -> Any:
        queue: asyncio.Queue[int] = asyncio.Queue()
        queues.append(queue)

        async def talk(conn: hotfd.Connection[None]) -> None:
            if not conn.resumed:
                await conn.send(b"hello")
            total = 0
            async for _, value in conn.merge(queue):
                total += int(value)
                await conn.send(b"%d" % total)

        return talk

    await found(add_up, None, "expected b'5', got b'3'", make=make)


async def test_half_of_a_wait_is_lost_when_the_test_says_that_it_is_a_moment_to_hand_over():
    async def pair_up(server: testing.Harness) -> None:
        client = await server.connect()
        await client.expect(b"hello")
        queues[-1].put_nowait(b"a")
        await server.hand_over()
        queues[-1].put_nowait(b"b")
        await client.expect(b"ab")

    queues: list[asyncio.Queue[bytes]] = []

    def make() -> Any:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queues.append(queue)

        async def pair() -> bytes:
            return await queue.get() + await queue.get()

        async def talk(conn: hotfd.Connection[None]) -> None:
            if not conn.resumed:
                await conn.send(b"hello")
            while True:
                await conn.send(await conn.wait(pair()))

        return talk

    await found(pair_up, None, "expected b'ab', got nothing within 1 s", make=make)


async def test_a_store_that_is_not_exported_is_found():
    def make() -> testing.Program:
        store: dict[bytes, bytes] = {}
        hits: dict[bytes, int] = {}

        async def talk(conn: hotfd.Connection[None]) -> None:
            async for line in conn:
                key, _, value = line.partition(b"=")
                if value:
                    store[key] = value
                hits[key] = hits.get(key, 0) + 1
                await conn.send(b"%s %d" % (store.get(key, b"-"), hits[key]))

        return testing.Program(talk, export_state=lambda: store, import_state=store.update)

    async def set_and_get(server: testing.Harness) -> None:
        one, other = await server.connect(), await server.connect()
        await one.send(b"x=1")
        await one.expect(b"1 1")
        await other.send(b"x")
        await other.expect(b"1 2")

    await found(set_and_get, testing.per_process(make), "expected b'1 2', got b'1 1'")


async def test_a_process_state_that_cannot_travel_is_found():
    async def talk(conn: hotfd.Connection[None]) -> None:
        async for line in conn:
            await conn.send(line)

    async def echo(server: testing.Harness) -> None:
        client = await server.connect()
        await client.send(b"x")
        await client.expect(b"x")

    await found(
        echo,
        testing.Program(talk, export_state=lambda: {"lock": threading.Lock()}, import_state=lambda _: None),
        "state-encode: export_state returned what cannot travel",
    )
