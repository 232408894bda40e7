"""The suites that measure servers at work do so, and see when a server is not right."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hotfd.bench.measure import Series
from scripts.bench.load import LoadFailed
from scripts.bench.processes import Server
from scripts.bench.settings import Settings
from scripts.bench.suites import kv, steady
from scripts.bench.suites.steady import MAIN, Shape

SMALL = Shape(64, 3)


def settings(directory: Path) -> Settings:
    return Settings(rounds=1, quick=True, directory=directory, say=lambda text: None)


@contextmanager
def server(*command: str) -> Iterator[Server]:
    with Server([sys.executable, *command]) as running:
        yield running


def test_every_server_echoes_and_is_measured(tmp_path: Path) -> None:
    section = steady.run(settings(tmp_path))
    rates = section.tables[0]
    assert rates.columns == ["load", *map(str, steady.KINDS)]
    assert [row[0] for row in rates.rows] == ["64 B, 100 connections", "64 B, 10 connections, 16 ahead"]
    assert all(cell.endswith("frames/s") for row in rates.rows for cell in row[1:])
    assert [goal.at_least for goal in section.goals] == [2.0, 2.0, 0.95, 0.95] * 2
    assert [plot.name for plot in section.plots] == ["steady-time"]
    assert set(section.data) == {"figures"}


def test_a_server_that_answers_with_something_else_is_no_figure(tmp_path: Path) -> None:
    program = tmp_path / "wrong.py"
    program.write_text(
        "import socket\n"
        "listener = socket.create_server(('127.0.0.1', 0), backlog=8)\n"
        "print(f'127.0.0.1:{listener.getsockname()[1]}', flush=True)\n"
        "socks = [listener.accept()[0] for _ in range(3)]\n"
        "while True:\n"
        "    for sock in socks:\n"
        "        sock.sendall(bytes(len(sock.recv(1 << 16))))\n"
    )
    with server(str(program)) as wrong, pytest.raises(LoadFailed):
        steady.echo(wrong, SMALL, steady.QUICK_SECONDS)


@pytest.mark.parametrize("module", ["hotfd", "streams", "protocol", "threads"])
def test_every_server_echoes_lines(module: str) -> None:
    with server("-m", f"scripts.bench.servers.echo_{module}", "--framing", "lines") as running:
        assert steady.echo(running, Shape(64, 2, depth=4, framing="lines"), steady.QUICK_SECONDS)[steady.RATE][0] > 0


def test_a_server_that_takes_half_the_time_is_twice_as_fast() -> None:
    def took(ours: float, theirs: float) -> dict[str, dict[str, Series]]:
        times = {steady.HOTFD: ours, steady.STREAMS: theirs}
        return {str(kind): {steady.TIME: Series("us", (time,))} for kind, time in times.items()}

    alone = {SMALL: took(1.0, 2.0)}
    assert steady.overall(alone, steady.HOTFD, steady.STREAMS).values == (2.0,)
    both = {SMALL: took(1.0, 2.0), MAIN: took(2.0, 1.0)}
    assert steady.overall(both, steady.HOTFD, steady.STREAMS).values == (1.0,)


def test_threads_that_cannot_be_had_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(*arguments: object) -> None:
        raise LoadFailed("no threads left")

    monkeypatch.setattr(steady, "echo", too_many)
    section = steady.Section("steady", steady.TITLE)
    servers = {(kind, "length"): Server(["never-started"]) for kind in steady.KINDS}
    assert str(steady.THREADS) not in dict(steady._cases(servers, SMALL, 0.1, section))
    assert section.skipped == [f"threads with {SMALL}: no threads left"]


# ---------------------------------------------------------------- kv


def test_the_key_value_server_is_measured_beside_redis_or_what_is_missing_is_named(tmp_path: Path) -> None:
    section = kv.run(settings(tmp_path))
    if section.skipped:
        assert "apt-get install" in section.skipped[0]
        return
    assert [table.title for table in section.tables] == ["One request at a time", "16 requests ahead"]
    assert [row[0] for row in section.tables[0].rows][:3] == list(kv.SERVERS)
    assert all(cell for table in section.tables for row in table.rows for cell in row)


def test_programs_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "PROGRAMS", ("no-such-redis",))
    section = kv.run(settings(tmp_path))
    assert not section.tables
    assert section.skipped == ["no-such-redis: not installed: apt-get install redis-server redis-tools"]


def test_a_rate_is_read_and_an_error_of_the_program_is_shown() -> None:
    assert kv.rate_of('"test","rps"\n"SET","1234.50"\n', "SET") == 1234.5
    with pytest.raises(kv.BenchmarkFailed, match="Could not connect"):
        kv.rate_of("Could not connect to Redis\n", "SET")


def test_a_program_begins_where_it_was_said_to(tmp_path: Path) -> None:
    program = tmp_path / "pong.py"
    program.write_text(
        "import socket, sys\n"
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "sock, _ = listener.accept()\n"
        "sock.recv(64)\n"
        "sock.sendall(b'+PONG\\r\\n')\n"
        "sock.recv(64)\n"
    )
    with server("-m", "scripts.bench.servers.on_port", sys.executable, str(program), "{port}") as running:
        kv.await_answer(running)


def test_a_server_that_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "START_LIMIT", 0.0)
    monkeypatch.setattr(Server, "log", lambda self: "its last words")
    silent = Server(["never-started"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent.address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(kv.BenchmarkFailed, match="its last words"):
            kv.await_answer(silent)
