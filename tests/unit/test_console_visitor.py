"""A person at the console: logging in, asking, interrupting, leaving; and what is done about those who are none."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hotfd.console import Console, TokenFile, editing, login, screen, visitor
from hotfd.errors import HandoffRefused
from tests.unit.control_fakes import LOOPS, report

TOKEN = "correct-horse-battery"
LIMIT = 10.0
"""Seconds for the other end of a loopback connection to do something."""

IP, DM, DO, WONT, WILL, IAC, TIMING_MARK = 244, 242, 253, 252, 251, 255, 6

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    def run_it(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main)

    return run_it


class Person:
    """A client that types and reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.screen = ""

    async def types(self, text: str | bytes) -> None:
        self.writer.write(text if isinstance(text, bytes) else text.encode() + b"\r\n")
        await self.writer.drain()

    async def sees(self, text: str) -> str:
        """Read until a text has come; return what was before it."""
        async with asyncio.timeout(LIMIT):
            while text not in self.screen:
                data = await self.reader.read(65536)
                assert data, f"closed after {self.screen!r}, without {text!r}"
                self.screen += data.decode("latin-1")
        before, _, self.screen = self.screen.partition(text)
        return before

    async def sees_the_end(self) -> str:
        """Read until the server has closed; return what was before it."""
        async with asyncio.timeout(LIMIT):
            try:
                rest = (await self.reader.read()).decode("latin-1")
            except ConnectionResetError:
                rest = ""
        return self.screen + rest

    async def logs_in(self) -> None:
        await self.sees("token: ")
        await self.types(TOKEN)
        await self.sees("> ")

    def is_cut_off(self) -> None:
        """Vanish with a reset, as when the machine goes down."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def goes(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


class Rig:
    """A console on a port of its own, with instructions that the test commands."""

    def __init__(self, path: Path, **limits: Any) -> None:
        path.touch(mode=0o600)
        path.write_text(TOKEN)
        self.finish_update = asyncio.Event()
        self.over: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.emits: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.updated = 0
        self.console = Console(
            {"status": self.status, "update": self.update, "watch": self.watch, "ponder": self.ponder, "bug": self.bug},
            TokenFile(str(path)),
            name="echo",
            lasting={"update"},
            **limits,
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self.listener.fileno(), self.accept)

    def accept(self) -> None:
        sock, peer = self.listener.accept()
        sock.setblocking(False)
        self.console.welcome(sock, peer)

    async def status(self, request: dict[str, Any], emit: Any) -> dict[str, Any]:
        self.asked.append(request)
        return {"pid": 7, "name": "echo"}

    async def update(self, request: dict[str, Any], emit: Any) -> dict[str, Any]:
        self.asked.append(request)
        self.tell({"event": "started", "id": "h-1", "pid": 7})
        if request.get("bad"):
            raise HandoffRefused("descriptor-limit", "too few")
        await self.finish_update.wait()
        self.updated += 1
        result = report()
        self.tell({"event": "outcome", "report": result})
        return result

    async def watch(self, request: dict[str, Any], emit: Any) -> dict[str, Any]:
        self.emits.append(emit)
        emit({"event": "watching", "pid": 7, "state": "serving", "connections": 1, "sessions": 1})
        try:
            return {"successor": await asyncio.shield(self.over)}
        finally:
            self.emits.remove(emit)

    async def ponder(self, request: dict[str, Any], emit: Any) -> None:
        await asyncio.Event().wait()

    async def bug(self, request: dict[str, Any], emit: Any) -> None:
        raise KeyError("what a client has sent")

    def tell(self, event: dict[str, Any]) -> None:
        for emit in list(self.emits):
            emit(event)

    async def person(self) -> Person:
        return Person(*await asyncio.open_connection(*self.listener.getsockname()))


@asynccontextmanager
async def console(tmp_path: Path, **limits: Any) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "token", **limits)
    try:
        yield rig
    finally:
        if not rig.over.done():
            rig.over.set_result(None)
        asyncio.get_running_loop().remove_reader(rig.listener.fileno())
        rig.listener.close()
        await rig.console.aclose()
        assert not rig.console._visitors
        assert not rig.emits


def test_a_person_logs_in_asks_and_leaves(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            before = await person.sees("token: ")
            assert before.endswith(bytes((IAC, WILL, 1)).decode("latin-1")), "what is typed now is not to be shown"
            await person.types(bytes((IAC, DO, 1)))
            await person.types(TOKEN)
            assert bytes((IAC, WONT, 1)).decode("latin-1") in await person.sees("echo> ")
            await person.types("st")
            assert "pid   7" in await person.sees("echo> ")
            assert rig.asked == [{"type": "status"}]
            await person.types("help")
            assert "update [OPTION]" in await person.sees("echo> ")
            await person.types("rollback")
            assert "this server has no instruction 'rollback'" in await person.sees("echo> ")
            await person.types("quit")
            assert "good-bye" in await person.sees_the_end()
            await person.goes()

    with caplog.at_level(logging.DEBUG, "hotfd"):
        run(main())
    assert "console-login" in caplog.text
    assert TOKEN not in caplog.text


def test_three_wrong_tokens_end_a_connection(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(login, "FIRST_DELAY", 0.001)

    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            for _ in range(visitor.TRIES):
                await person.sees("token: ")
                await person.types("a guess of mine")
            end = await person.sees_the_end()
            assert "wrong token; good-bye" in end
            assert "token: " not in end
            await person.goes()

    with caplog.at_level(logging.DEBUG, "hotfd"):
        run(main())
    assert caplog.text.count("console-login-refused") == visitor.TRIES
    assert "a guess of mine" not in caplog.text


def test_nothing_can_be_asked_for_before_the_log_in(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "FIRST_DELAY", 0.001)

    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.types("status\r\nupdate\r\nwatch\r\nhelp")
            end = await person.sees_the_end()
            assert "h-1" not in end
            assert rig.asked == []
            assert rig.emits == []
            await person.goes()

    run(main())


def test_a_token_file_that_was_spoilt_lets_nobody_in(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            os.chmod(tmp_path / "token", 0o644)
            person = await rig.person()
            await person.sees("token: ")
            await person.types(TOKEN)
            assert "cannot read its token file" in await person.sees_the_end()
            await person.goes()

    run(main())


def test_progress_of_ones_own_update_is_shown_and_then_its_report(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types("update --probation 0.5")
            await person.sees("handoff h-1 of process 7 begins")
            assert rig.asked == [{"type": "update", "probation": 0.5}]
            rig.tell({"event": "progress", "moved": 1, "total": 2})
            await person.sees("handoff: 1 of 2 sessions moved (50 %)")
            rig.finish_update.set()
            shown = await person.sees("echo> ")
            assert shown.count("completed") == 1, "the report, and not the event too"
            assert "connections  moved 12" in shown
            await person.goes()

    run(main())


def test_an_update_that_somebody_else_began_is_shown_to_everybody(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            one, other = await rig.person(), await rig.person()
            await one.logs_in()
            await other.logs_in()
            rig.finish_update.set()
            await one.types("update")
            await other.sees("handoff h-1 of process 7 begins")
            await other.sees("handoff completed: process 1 -> 2")
            await other.sees("echo> ")
            await one.goes()
            await other.goes()

    run(main())


@pytest.mark.parametrize("interrupt", [b"\x03", bytes((IAC, IP, IAC, DO, TIMING_MARK))])
def test_control_c_ends_the_showing_and_not_the_handoff(run: Run, tmp_path: Path, interrupt: bytes) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types("update")
            await person.sees("begins")
            await person.types(interrupt)
            before = await person.sees("(it goes on, and its outcome will be told)")
            if TIMING_MARK in interrupt:
                mark = bytes((IAC, WONT, TIMING_MARK)).decode("latin-1")
                assert mark in before, "what comes before the timing mark's answer is thrown away by the client"
            await person.sees("echo> ")
            rig.tell({"event": "progress", "moved": 1, "total": 2})
            await person.types("status")
            assert "50 %" not in await person.sees("pid   7")
            rig.finish_update.set()
            await person.sees("handoff completed")
            assert rig.updated == 1
            await person.goes()

    run(main())


def test_urgent_data_does_not_tear_an_interrupt_apart(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types("ponder")
            with socket.socket(fileno=os.dup(person.writer.get_extra_info("socket").fileno())) as raw:
                raw.send(bytes((IAC, IP, IAC)))
                raw.send(bytes((DM,)), socket.MSG_OOB)
            await person.sees("(interrupted)")
            await person.types("status")
            await person.sees("pid   7")
            await person.goes()

    run(main())


def test_a_handoff_goes_on_when_its_console_is_gone(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types("update")
            await person.sees("begins")
            person.is_cut_off()
            async with asyncio.timeout(LIMIT):
                while rig.console._visitors:
                    await asyncio.sleep(0)
                rig.finish_update.set()
                while not rig.updated:
                    await asyncio.sleep(0)

    run(main())


def test_what_only_tells_ends_with_its_console(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            assert len(rig.emits) == 1
            await person.types("ponder")
            person.is_cut_off()
            async with asyncio.timeout(LIMIT):
                while rig.emits or rig.console._visitors:
                    await asyncio.sleep(0)

    run(main())


def test_one_who_has_ended_his_input_is_not_kept_for_ever(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor, "END_TIMEOUT", 0.05)

    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types("ponder")
            person.writer.write_eof()
            assert "takes too long" in await person.sees_the_end()
            await person.goes()

    run(main())


@pytest.mark.parametrize("end", ["", b"\x03", bytes((IAC, IP))])
def test_watch_shows_the_counts_until_it_is_ended(run: Run, tmp_path: Path, end: str | bytes) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            counts = {"event": "counts", "state": "serving", "connections": 5, "sessions": 4}
            person = await rig.person()
            await person.logs_in()
            rig.tell(counts)
            await person.types("watch")
            assert "5 connections" not in await person.sees("watching")
            rig.tell(counts)
            await person.sees("serving, 5 connections, 4 sessions")
            await person.types(end)
            await person.sees("echo> ")
            rig.tell(counts)
            await person.types("status")
            assert "5 connections" not in await person.sees("pid   7")
            await person.goes()

    run(main())


def test_when_another_process_serves_the_console_says_which_and_closes(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            asking, idle = await rig.person(), await rig.person()
            await asking.logs_in()
            await idle.logs_in()
            await asking.types("update")
            await asking.sees("begins")
            rig.over.set_result(4711)
            assert "process 4711 serves now" in await idle.sees_the_end()
            rig.finish_update.set()
            end = await asking.sees_the_end()
            assert re.search(r"completed.*process 4711 serves now", end, re.DOTALL), end
            await asking.goes()
            await idle.goes()

    run(main())


def test_a_refusal_says_what_to_do_and_a_defect_tells_no_values(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types("update --bad yes")
            assert "what to do: " in await person.sees("echo> ")
            await person.types("bug")
            shown = await person.sees("echo> ")
            assert "internal: KeyError; the server's log has the traceback" in shown
            assert "what a client has sent" not in shown
            await person.goes()

    run(main())
    assert "control-instruction-failed" in caplog.text


def test_what_is_typed_ahead_is_answered_in_order_also_by_one_who_has_ended_his_input(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.types(f"{TOKEN}\nstatus\nhelp watch\nstatus")
            person.writer.write_eof()
            end = await person.sees_the_end()
            assert re.findall("pid   7|ends it", end) == ["pid   7", "ends it", "pid   7"]
            await person.goes()

    run(main())


def test_a_line_without_end_is_cut_and_the_connection_closed_with_a_word(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            for prepare in (Person.logs_in, lambda person: person.sees("token: ")):
                person = await rig.person()
                await prepare(person)
                await person.types(b"x" * 100_000)
                assert "a line of more than 1024 bytes: closed" in await person.sees_the_end()
                await person.goes()
                flood = await rig.person()
                await prepare(flood)
                with pytest.raises(ConnectionError):
                    for _ in range(10_000):
                        await flood.types(b"x" * 65536)
                await flood.goes()

    run(main())


def test_no_more_lines_of_a_flood_are_read_than_what_ends_its_connection(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    class Counting(editing.Editor):
        def _take(self) -> str:
            nonlocal taken
            taken += 1
            return super()._take()

    monkeypatch.setattr(visitor, "Editor", Counting)

    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.sees("token: ")
            await person.types(b"\n" * 100_000)
            assert "more than 32 lines" in await person.sees_the_end()
            await person.goes()

    run(main())
    assert taken < 40


def test_a_token_file_that_a_directory_has_replaced_lets_nobody_in(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.sees("token: ")
            (tmp_path / "token").unlink()
            (tmp_path / "token").mkdir(0o700)
            await person.types(TOKEN)
            assert "cannot read its token file" in await person.sees_the_end()
            await person.goes()

    run(main())


def test_a_crowd_that_only_connects_throws_nobody_out_who_waits_for_his_verdict(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with console(tmp_path, max_consoles=3) as rig:
            go_on = asyncio.Event()
            check = rig.console.login.check

            async def slowly(offered: str) -> bool:
                await go_on.wait()
                return await check(offered)

            monkeypatch.setattr(rig.console.login, "check", slowly)
            operator = await rig.person()
            await operator.sees("token: ")
            await operator.types(TOKEN)
            crowd = []
            for _ in range(6):
                crowd.append(await rig.person())
                await crowd[-1].sees("token: ")
            go_on.set()
            await operator.sees("> ")
            for person in (operator, *crowd):
                await person.goes()

    run(main())


def test_garbage_ends_nothing_but_its_own_connection(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(login, "MAX_DELAY", 0.001)

    async def main() -> None:
        async with console(tmp_path) as rig:
            for _ in range(30):
                person = await rig.person()
                try:
                    await person.types(os.urandom(3000) + b"\n\n\n")
                    person.writer.write_eof()
                    await person.sees_the_end()
                except ConnectionError:
                    pass
                await person.goes()
            person = await rig.person()
            await person.logs_in()
            await person.goes()

    run(main())


def test_too_many_lines_typed_ahead_end_the_connection(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types(b"ponder\n" + b"status\n" * (visitor.MAX_AHEAD + 1))
            assert "lines while a command runs: closed" in await person.sees_the_end()
            await person.goes()

    run(main())


def test_one_who_does_not_read_misses_progress_first_and_is_closed_before_he_costs_much(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            person.writer.transport.pause_reading()
            (held,) = rig.console._visitors
            for _ in range(200_000):
                rig.tell({"event": "phase", "phase": "x"})
                rig.tell({"event": "progress", "moved": 1, "total": 1})
                if held._screen.unread > screen.MAX_PASSING:
                    break
            before = held._screen.unread
            for _ in range(1000):
                rig.tell({"event": "progress", "moved": 1, "total": 1})
                held._teller._shown = -1
            assert held._screen.unread == before
            assert held._screen._lost
            async with asyncio.timeout(LIMIT):
                while rig.console._visitors:
                    rig.tell({"event": "phase", "phase": "x" * 1000})
                    await asyncio.sleep(0)
            await person.goes()

    run(main())
    assert "it does not read" in caplog.text


def test_a_console_that_is_full_tells_so_unless_somebody_has_not_logged_in(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path, max_consoles=3) as rig:
            idle = await rig.person()
            await idle.sees("token: ")
            people = [await rig.person() for _ in range(2)]
            for person in people:
                await person.logs_in()
            people.append(await rig.person())
            await people[-1].logs_in()
            assert await idle.sees_the_end() == "", "who has not logged in makes way"
            last = await rig.person()
            assert "3 consoles are open already" in await last.sees_the_end()
            await people[0].goes()
            async with asyncio.timeout(LIMIT):
                while len(rig.console._visitors) == 3:
                    await asyncio.sleep(0)
            again = await rig.person()
            await again.logs_in()
            for person in (idle, last, again, *people):
                await person.goes()

    run(main())


@pytest.mark.parametrize("who", ["nobody", "somebody"])
def test_one_who_types_nothing_is_closed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    monkeypatch.setattr(visitor, "LOGIN_TIMEOUT" if who == "nobody" else "IDLE_TIMEOUT", 0.05)

    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            if who == "somebody":
                await person.sees("token: ")
                await person.types(TOKEN)
            assert "good-bye" in await person.sees_the_end()
            await person.goes()

    run(main())


def test_one_who_neither_reads_nor_closes_after_the_good_bye_is_reset(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor, "CLOSE_TIMEOUT", 0.05)

    async def main() -> None:
        async with console(tmp_path) as rig:
            person = await rig.person()
            await person.logs_in()
            await person.types("quit")
            async with asyncio.timeout(LIMIT):
                while rig.console._visitors:
                    await asyncio.sleep(0.01)
            await person.goes()

    run(main())


def test_no_descriptor_is_left_of_any_of_them(run: Run, tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def visits() -> None:
        async with console(tmp_path) as rig:
            people = [await rig.person() for _ in range(5)]
            await people[0].logs_in()
            await people[1].types(b"x" * 5000)
            people[2].is_cut_off()
            await people[3].types("wrong")
            for person in people:
                await person.goes()

    async def main() -> None:
        await visits()  # libuv opens a descriptor of its own with the first connection of a loop
        before = count()
        await visits()
        async with asyncio.timeout(LIMIT):
            while count() != before:  # and closes in the next turns of it
                await asyncio.sleep(0)

    run(main())
