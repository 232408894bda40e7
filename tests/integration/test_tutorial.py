"""docs/tutorial.md is carried out as it is written: its programs run, and say what it says that they say."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import harness

pytestmark = pytest.mark.alone

TEXT = (harness.ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PORT = "127.0.0.1:7000"
HOME = "/home/you/tally"
"""Where the tutorial's reader keeps the program."""

Block = tuple[str, str]


def blocks() -> list[Block]:
    """Return the fenced blocks of the tutorial: language and content."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def masked(output: str) -> list[str]:
    """Return lines in which the numbers, which are others each time, and the width of columns do not count."""
    without_ids = re.sub(r"\b[0-9a-f]{12}\b", "ID", output)
    return [" ".join(re.sub(r"\d+(\.\d+)?", "N", line).split()) for line in without_ids.splitlines()]


def numbers_that_count(output: str) -> list[str]:
    """Return what :func:`masked` hides, and must be right all the same."""
    return re.findall(r"generation \d+|(?:moved|kept|returned|closed) \d+|status \d+", output)


class Reader:
    """Carries out the tutorial, one block after another."""

    def __init__(self, directory: Path, service: harness.Server, client: socket.socket) -> None:
        self.program = directory / "tally.py"
        self.service = service
        self.client = client
        self.lines = client.makefile("rb")

    def close(self) -> None:
        self.lines.close()

    def talk(self, dialogue: str) -> None:
        """Type what the text says after ``>``; the server must answer what it says after ``<``."""
        for line in dialogue.splitlines():
            if line.startswith("> "):
                self.client.sendall(line[2:].encode() + b"\r\n")  # as telnet ends lines
            else:
                assert line.startswith("< "), line
                assert self.lines.readline() == line[2:].encode() + b"\n"

    def run(self, session: str) -> None:
        """Run a command; it must print what the text says that it prints."""
        command, _, expected = session.partition("\n")
        words = re.sub(r"--pid \d+", f"--pid {self.service.pid}", command).split()
        assert words[:2] == ["$", "hotfd"], command
        done = harness.hotfd(*words[2:])
        if words[2] == "ps":
            # Root is shown everybody's servers: the others are left out.
            header, *rows = done.stdout.splitlines()
            own = [row for row in rows if row.split()[0] == str(self.service.pid)]
            assert masked("\n".join([header, *own])) == masked(expected)
            assert own[0].split()[1:] == expected.splitlines()[1].split()[1:]
            return
        printed = done.stdout.replace(str(self.program.parent), HOME)
        assert masked(printed) == masked(expected), done.stderr + self.service.logged()[-2000:]
        assert numbers_that_count(done.stdout) == numbers_that_count(expected)
        outcome = expected.splitlines()[0]
        assert done.returncode == (0 if outcome.startswith("completed") else 1)
        if outcome == "completed":
            harness.wait_gone(self.service.pid)
            self.service.pid = int(re.findall(r"-> (\d+)", done.stdout)[0])
            self.service.pids.append(self.service.pid)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """The server of the tutorial's first step, started as its console says, with a client."""
    (language, source), (_, console), *_ = blocks()
    assert (language, console) == ("python", "$ python tally.py\n")
    port = harness.free_port()
    (tmp_path / "tally.py").write_text(_at(source, port), encoding="utf-8")
    command = [sys.executable, "tally.py"]
    with harness.server(tmp_path, command, port, cwd=tmp_path) as service, service.connect() as client:
        reader = Reader(tmp_path, service, client)
        yield reader
        reader.close()


def _at(source: str, port: int) -> str:
    """Return a program of the tutorial that listens on another port than the one everybody has."""
    assert source.count(PORT) == 1
    return source.replace(PORT, f"127.0.0.1:{port}")


def test_the_tutorial_is_true_from_its_first_line_to_its_last(reader: Reader) -> None:
    carried_out = dict.fromkeys(("python", "console", "text"), 0)
    for language, content in blocks()[2:]:
        carried_out[language] += 1
        if language == "python":
            reader.program.write_text(_at(content, reader.service.port), encoding="utf-8")
        elif language == "text":
            reader.talk(content)
        else:
            reader.run(content)
    assert carried_out == {"python": 3, "console": 7, "text": 5}
    assert json.loads(harness.hotfd("status", "--pid", str(reader.service.pid), "--json").stdout)["generation"] == 3
    harness.kill(reader.service.pid, signal.SIGTERM)
    assert reader.lines.readline() == b"", "the connection ends in order"
