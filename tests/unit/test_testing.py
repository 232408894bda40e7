"""The harness itself: correct handlers pass both ways, every boundary is used, and failures say what happened."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest

import hotfd
from hotfd import testing
from hotfd.testing import mover, travel


@dataclass
class Visitor:
    lines: int = 0


async def talk(conn: hotfd.Connection[Visitor]) -> None:
    if not conn.resumed:
        await conn.send(b"hello")
    async for line in conn:
        conn.state.lines += 1
        await conn.send(b"%d %s" % (conn.state.lines, line))


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------- what is handed over, and when


@pytest.mark.parametrize("handoffs", ["never", "every", 1, 2, 3])
async def test_a_correct_handler_passes_however_often_it_is_handed_over(handoffs):
    async with testing.serve(talk, state=Visitor, handoffs=handoffs) as server:
        one, other = await server.connect(), await server.connect()
        for client in (one, other):
            await client.expect(b"hello")
        for number in range(1, 6):
            await one.send(b"x")
            await one.expect(b"%d x" % number)
        await other.send(b"y")
        await other.expect(b"1 y")
        one.write_eof()
        await one.expect_end()


async def test_a_connection_is_handed_over_between_frames_that_arrive_together():
    starts: list[bool] = []
    seen: list[tuple[int, bytes]] = []

    async def remember(conn: hotfd.Connection[None]) -> None:
        starts.append(conn.resumed)
        async for line in conn:
            seen.append((len(starts), line))
            await conn.send(line)

    async with testing.serve(remember) as server:
        client = await server.connect()
        await client.write(b"".join(b"%d\n" % n for n in range(50)))
        for number in range(50):
            await client.expect(b"%d" % number)
        client.write_eof()
        await client.expect_end()
        assert server.handovers == 51
    assert seen == [(number + 2, b"%d" % number) for number in range(50)], "each frame has a start of its own"
    assert starts == [False] + [True] * 51


async def test_half_a_frame_travels():
    async with testing.serve(talk, state=Visitor) as server:
        client = await server.connect()
        await client.expect(b"hello")
        await client.write(b"one\ntw")
        await client.expect(b"1 one")
        await server.hand_over()
        await client.write(b"o\n")
        await client.expect(b"2 two")


async def test_every_nth_boundary_is_counted_for_each_connection():
    async with testing.serve(talk, state=Visitor, handoffs=3) as server:
        client = await server.connect()
        await client.expect(b"hello")
        for number in range(1, 9):
            await client.send(b"x")
            await client.expect(b"%d x" % number)
        await server._mover.rest()  # the boundary after the last frame
        assert server.handovers == 3


async def test_a_function_chooses_among_the_boundaries():
    offered: list[testing.Boundary] = []

    def second(boundary: testing.Boundary) -> bool:
        offered.append(boundary)
        return boundary.number == 1

    async with testing.serve(talk, state=Visitor, handoffs=second) as server:
        client = await server.connect()
        await client.write(b"a\nb\n")
        for expected in (b"hello", b"1 a", b"2 b"):
            await client.expect(expected)
        await server._mover.rest()
        assert server.handovers == 1
    assert offered == [testing.Boundary(1, 0, 0), testing.Boundary(1, 1, 0), testing.Boundary(1, 2, 1)]


async def test_nothing_is_handed_over_when_it_is_never_to_be():
    async with testing.serve(talk, state=Visitor, handoffs="never") as server:
        client = await server.connect()
        await client.expect(b"hello")
        await server.hand_over()
        assert server.handovers == 0


@pytest.mark.parametrize("handoffs", [0, -1, True, "often", None, 1.5])
async def test_a_choice_that_is_none_is_refused(handoffs):
    with pytest.raises(ValueError, match="handoffs is"):
        async with testing.serve(talk, state=Visitor, handoffs=handoffs):
            pass


# ---------------------------------------------------------------- handlers that do more


async def test_helpers_waits_and_merges_survive_when_they_are_written_for_it():
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    ticks: list[int] = []

    async def tick(conn: hotfd.Connection[Any]) -> None:
        ticks.append(1)
        await conn.send(b"tick")

    async def merge(conn: hotfd.Connection[Visitor]) -> None:
        if not conn.resumed:
            await conn.send(b"hello")
        conn.spawn(asyncio.sleep(3600))
        async for source, value in conn.merge(queue):
            conn.state.lines += 1
            if value == b"tick":
                await tick(conn)
            await conn.send(b"%d %s %s" % (conn.state.lines, b"frame" if source is conn else b"item", value))

    async with testing.serve(merge, state=Visitor) as server:
        client = await server.connect()
        await client.expect(b"hello")
        queue.put_nowait(b"a")
        queue.put_nowait(b"b")
        await client.expect(b"1 item a")
        await client.expect(b"2 item b")
        await client.write(b"c\ntick\n")
        await client.expect(b"3 frame c")
        await client.expect(b"tick")
        await client.expect(b"4 frame tick")
        await server._mover.rest()
        assert server.handovers == 5


async def test_a_helper_that_writes_at_its_start_does_not_hand_over_for_ever():
    async def noisy(conn: hotfd.Connection[None]) -> None:
        async def shout() -> None:
            await conn.send(b"!")
            await asyncio.sleep(3600)

        conn.spawn(shout())
        async for line in conn:
            await conn.send(line)

    async with testing.serve(noisy) as server:
        client = await server.connect()
        await client.send(b"x")
        got = [await client.receive()]
        while got[-1] != b"x":
            got.append(await client.receive())
        assert got.count(b"!") <= 3
        assert server.handovers <= 2


async def test_what_others_write_is_no_boundary_and_stops_nothing():
    conns: list[hotfd.Connection[Any]] = []

    async def listen(conn: hotfd.Connection[None]) -> None:
        conns.append(conn)
        async for line in conn:
            await conn.send(line)

    async with testing.serve(listen) as server:
        client = await server.connect()
        await client.send(b"x")
        await client.expect(b"x")
        await server._mover.rest()
        for _ in range(3):
            await conns[-1].send(b"push")
            await client.expect(b"push")
        assert server.handovers == 2
        await client.send(b"y")
        await client.expect(b"y")


async def test_an_expected_timeout_of_the_handler_is_no_harm():
    timed_out = asyncio.Event()

    async def impatient(conn: hotfd.Connection[Visitor]) -> None:
        while True:
            try:
                async with asyncio.timeout(0.02):
                    line = await conn.receive()
            except TimeoutError:
                conn.state.lines += 1
                timed_out.set()
                await conn.send(b"hurry")
                continue
            if line is None:
                return
            await conn.send(line)

    async with testing.serve(impatient, state=Visitor) as server:
        client = await server.connect()
        await timed_out.wait()
        await client.expect(b"hurry")
        await client.send(b"x")
        while await client.receive() != b"x":
            pass


async def test_a_task_that_ends_by_itself_is_waited_for():
    ended = []

    async def spawning(conn: hotfd.Connection[None]) -> None:
        async def short() -> None:
            await asyncio.sleep(0.01)
            ended.append(conn.id)

        task: asyncio.Task[None] | None = None
        async for line in conn:
            task = asyncio.create_task(short())
            await conn.send(line)
        del task

    async with testing.serve(spawning) as server:
        client = await server.connect()
        await client.send(b"a")
        await client.expect(b"a")
        await client.send(b"b")
        await client.expect(b"b")
        assert server.handovers == 2
        assert len(ended) == 1, "the second frame came after the first one's task"


async def test_connections_that_share_a_store_move_together_with_it():
    exported: list[dict[bytes, bytes]] = []
    starts: list[int] = []

    def make() -> testing.Program:
        store: dict[bytes, bytes] = {}

        async def kv(conn: hotfd.Connection[None]) -> None:
            async for line in conn:
                key, _, value = line.partition(b"=")
                if value:
                    store[key] = value
                await conn.send(store.get(key, b"-"))

        async def export() -> dict[bytes, bytes]:
            exported.append(store)
            return store

        return testing.Program(kv, lambda: starts.append(1), export, store.update)

    async with testing.serve(testing.per_process(make)) as server:
        clients = [await server.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.send(b"key=%d" % number)
            await client.expect(b"%d" % number)
        for client in clients:
            await client.send(b"key")
            await client.expect(b"2")
        assert server.handovers >= 3 * 6
        await server._mover.rest()
        assert len(starts) == server._mover.handoffs + 1
    assert len({id(store) for store in exported}) == len(exported), "each process has a store of its own"


async def test_one_that_waits_for_another_does_not_block_a_move_of_all():
    came = asyncio.Event()

    async def pair(conn: hotfd.Connection[None]) -> None:
        async for line in conn:
            if line == b"wait":
                await came.wait()
            else:
                came.set()
            await conn.send(line)

    program = testing.Program(pair, export_state=dict, import_state=lambda _: None)
    async with testing.serve(program) as server:
        one, other = await server.connect(), await server.connect()
        await one.send(b"wait")
        await other.send(b"go")
        await one.expect(b"wait")
        await other.expect(b"go")


async def test_another_framing_is_used_in_both_directions():
    async with testing.serve(talk, framing=hotfd.Netstring(), state=Visitor) as server:
        client = await server.connect()
        assert await client.read_exactly(8) == b"5:hello,"
        await client.write(b"1:a,1:")
        await client.expect(b"1 a")
        await client.write(b"b,")
        await client.expect(b"2 b")


# ---------------------------------------------------------------- what it says when it fails


async def failure(handler: Any, scenario: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        async with testing.serve(handler, **options) as server:
            await scenario(server)
    return str(caught.value)


async def test_a_handler_that_is_never_at_a_boundary_is_reported():
    async def deaf(conn: hotfd.Connection[None]) -> None:
        await asyncio.Event().wait()

    async def connects(server: testing.Harness) -> None:
        await server.connect()
        await asyncio.sleep(0.01)

    assert "no-boundary: connection 1 could never be handed over" in await failure(deaf, connects)


async def test_a_handler_that_says_it_cannot_move_is_reported():
    async def stays(conn: hotfd.Connection[None]) -> None:
        conn.movable = False, "it holds a lock"
        async for line in conn:
            await conn.send(line)

    async def echo(server: testing.Harness) -> None:
        client = await server.connect()
        await client.send(b"x")
        await client.expect(b"x")

    assert "not-movable: connection 1 could never be handed over: it holds a lock" in await failure(stays, echo)


async def test_a_handler_that_ends_before_its_first_boundary_is_reported():
    async def once(conn: hotfd.Connection[None]) -> None:
        await conn.send(b"bye")

    async def reads(server: testing.Harness) -> None:
        client = await server.connect()
        await client.expect(b"bye")
        await client.expect_end()

    assert "tested nothing" in await failure(once, reads)
    async with testing.serve(once, handoffs="never") as server:
        await reads(server)


async def test_what_the_handler_raised_is_in_the_failure(caplog):
    caplog.set_level(logging.CRITICAL)

    async def breaks(conn: hotfd.Connection[Visitor]) -> None:
        if conn.resumed:
            raise KeyError("room")
        async for _ in conn:
            pass

    async def asks(server: testing.Harness) -> None:
        client = await server.connect()
        await client.send(b"x")
        await client.receive()

    text = await failure(breaks, asks, state=Visitor)
    assert "the connection ended" in text
    assert "handed over 1 times; its handler raised KeyError: 'room'" in text


async def test_a_failure_says_what_came_instead():
    async def steps(server: testing.Harness) -> None:
        client = await server.connect()
        await client.expect(b"hello")
        with pytest.raises(testing.Unexpected, match=r"expected b'x', got nothing within 0.25 s"):
            await client.expect(b"x")
        await client.send(b"a")
        with pytest.raises(testing.Unexpected, match=r"expected 50 bytes, got b'1 a.n' and no more"):
            await client.read_exactly(50)
        with pytest.raises(testing.Unexpected, match=r"expected the end of the connection, got b'1 a.n'"):
            await client.expect_end()
        await client.expect(b"1 a")
        client.write_eof()
        with pytest.raises(testing.Unexpected, match="expected a frame, but the connection ended"):
            await client.receive()

    for handoffs in ("never", "every"):
        async with testing.serve(talk, state=Visitor, handoffs=handoffs, timeout=0.25) as server:
            await steps(server)


async def test_what_is_no_frame_and_a_reset_are_told_apart():
    async def rude(conn: hotfd.Connection[None]) -> None:
        async for line in conn:
            if line == b"raw":
                await conn.write(b"no netstring")
            else:
                conn.abort()

    async with testing.serve(rude, framing=hotfd.Netstring()) as server:
        client = await server.connect()
        await client.send(b"raw")
        with pytest.raises(testing.Unexpected, match="b'no netstring', which is no frame"):
            await client.receive()
        other = await server.connect()
        await other.send(b"reset")
        with pytest.raises(testing.Unexpected, match="expected a frame, but the connection was reset"):
            await other.receive()
        with pytest.raises(testing.Unexpected, match="the end of the connection, but it was reset"):
            await other.expect_end()


async def test_a_failure_that_no_client_sees_is_raised_at_the_end():
    async def hoards(conn: hotfd.Connection[Any]) -> None:
        async for line in conn:
            await conn.send(line)
            conn.state["it"] = object()

    declared: hotfd.State[Any] = hotfd.State(dict, encode=dict, decode=dict)

    async def echo(server: testing.Harness) -> None:
        client = await server.connect()
        await client.send(b"x")
        await client.expect(b"x")

    assert "state-encode" in await failure(hoards, echo, state=declared)


async def test_a_clients_next_step_raises_what_went_wrong_before():
    async def hoards(conn: hotfd.Connection[Any]) -> None:
        conn.state["it"] = object()
        async for line in conn:
            await conn.send(line)

    declared: hotfd.State[Any] = hotfd.State(dict, encode=dict, decode=dict)
    with pytest.raises(testing.HandoverFailed, match="state-encode"):
        async with testing.serve(hoards, state=declared) as server:
            client = await server.connect()
            with pytest.raises(testing.HandoverFailed):
                await client.receive()
            for step in (client.send(b"x"), client.receive(), server.connect(), server.hand_over()):
                with pytest.raises(testing.HandoverFailed):
                    await step


async def test_after_a_failure_everybody_is_served_and_nobody_handed_over():
    async def stumbles(conn: hotfd.Connection[Any]) -> None:
        async for line in conn:
            conn.state = {"it": object()} if line == b"bad" else {}
            await conn.send(line)

    declared: hotfd.State[Any] = hotfd.State(dict, encode=dict, decode=dict)
    with pytest.raises(testing.HandoverFailed, match="state-encode"):
        async with testing.serve(stumbles, state=declared) as server:
            for words in ((b"good\n", b"bad\n", b"good\n"), (b"good\n", b"good\n")):
                reader, writer = await asyncio.open_connection(*server.address)
                for word in words:
                    writer.write(word)
                    assert await reader.readline() == word
                    await server._mover.rest()
                writer.close()
                await writer.wait_closed()
            assert server.handovers == 2, "before the first word and after it"


async def echo(conn: hotfd.Connection[Any]) -> None:
    async for line in conn:
        await conn.send(line)


async def says_x(server: testing.Harness) -> None:
    client = await server.connect()
    await client.send(b"x")
    await client.expect(b"x")
    await server.hand_over()


async def test_a_copy_that_cannot_be_made_fails_the_test_and_leaves_nothing_open(monkeypatch):
    copies: list[int] = []

    def dup(fd: int) -> int:
        if copies:
            raise OSError(errno.EMFILE, "Too many open files")
        copies.append(real(fd))
        return copies[0]

    real = os.dup
    monkeypatch.setattr(travel.os, "dup", dup)
    program = testing.Program(echo, export_state=dict, import_state=lambda _: None)

    async def two(server: testing.Harness) -> None:
        await server.connect()
        await says_x(server)

    assert "descriptor-limit: no descriptor for a copy (Too many" in await failure(
        program, two, handoffs=lambda boundary: boundary.connection == 2
    )


async def test_a_state_that_cannot_be_read_a_second_time_leaves_nothing_open():
    reads: list[int] = []

    def decode(value: int) -> int:
        reads.append(value)
        if len(reads) > 1:
            raise ValueError("read already")
        return value

    declared: hotfd.State[int] = hotfd.State(int, encode=int, decode=decode)
    assert "state-decode: int: decode raised ValueError" in await failure(echo, says_x, state=declared)


async def test_a_choice_that_raises_fails_the_test():
    assert "internal: ZeroDivisionError" in await failure(echo, says_x, handoffs=lambda _: 1 // 0)


@pytest.mark.parametrize("hook", ["on_start", "export_state", "import_state"])
async def test_a_hook_that_raises_fails_the_test(hook):
    def broken(*_: Any) -> Any:
        if hook != "on_start" or started:
            raise LookupError("no file")
        started.append(1)

    started: list[int] = []
    hooks: dict[str, Any] = {
        "on_start": None,
        "export_state": dict,
        "import_state": lambda _: None,
        hook: broken,
    }

    async def asks(server: testing.Harness) -> None:
        client = await server.connect()
        await client.receive()
        await client.receive()

    assert "LookupError: no file" in await failure(talk, asks, state=Visitor, **hooks)


async def test_a_failing_test_is_told_how_much_was_handed_over():
    with pytest.raises(ZeroDivisionError) as caught:
        async with testing.serve(talk, state=Visitor) as server:
            client = await server.connect()
            await client.expect(b"hello")
            await server._mover.rest()
            raise ZeroDivisionError
    assert caught.value.__notes__ == ["hotfd.testing: 1 connections, 1 boundaries, 1 handovers"]


async def test_hooks_are_said_in_one_place_and_in_pairs():
    with pytest.raises(ValueError, match="need each other"):
        testing.Program(talk, export_state=dict)
    with pytest.raises(ValueError, match="says its hooks itself"):
        async with testing.serve(testing.Program(talk), on_start=print):
            pass


async def test_a_handler_that_takes_too_long_to_unwind_is_cancelled(monkeypatch):
    monkeypatch.setattr(mover, "UNWIND_LIMIT", 0.01)
    cancelled = []

    async def slow(conn: hotfd.Connection[None]) -> None:
        try:
            async for line in conn:
                await conn.send(line)
        finally:
            if conn.handed_off:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled.append(conn.id)
                    raise

    async with testing.serve(slow) as server:
        client = await server.connect()
        await client.send(b"x")
        await client.expect(b"x")
    assert len(cancelled) == server.handovers


# ---------------------------------------------------------------- the memory of a process


def test_what_a_function_rebinds_outside_of_itself_is_put_back():
    from hotfd.testing.program import Memory

    number, late, kept = 1, deque([1]), []

    def function() -> None:
        nonlocal number, late

        def inner() -> None:
            nonlocal number
            global _made_by_a_test
            number += 1
            _made_by_a_test = 1

        inner()
        late = deque()
        kept.append(1)

    memory = Memory(function)
    assert memory
    function()
    assert (number, late, kept, "_made_by_a_test" in globals()) == (2, deque(), [1], True)
    memory.forget()
    assert (number, late, kept, "_made_by_a_test" in globals()) == (1, deque([1]), [1], False)
    assert not Memory(talk)
    assert not Memory(print)
