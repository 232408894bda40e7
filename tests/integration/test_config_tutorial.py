"""What docs/arena.md and docs/configuration.md tell is carried out as it is written: files, commands, and what people hear."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from hotfd.cli.config.options import operator
from tests.integration import harness

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

ADDRESS = "127.0.0.1:7000"
"""Where the server of the text listens."""
OTHER = "127.0.0.1:7400"
"""Where the configuration server of the text does."""

HOME = "/home/you"
"""Where the reader is."""
SELF = "you@home"
"""Who the reader is, and on which machine."""


class Block(NamedTuple):
    """A fenced block: its language, the file that it shows if it shows one, its content."""

    language: str
    file: str
    content: str


IDENTITY = {
    "GIT_AUTHOR_NAME": "You",
    "GIT_AUTHOR_EMAIL": "you@home",
    "GIT_COMMITTER_NAME": "You",
    "GIT_COMMITTER_EMAIL": "you@home",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}

MASKS = [
    (r"\b[0-9a-f]{16}\b", "SEED"),
    (r"\b[0-9a-f]{40}\b", "REVISION"),
    (r"\b[0-9a-f]{8}-s\d+\b", "SESSION"),
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\b\d+ (s|min) ago", "AGO"),
    (r"127\.0\.0\.1:\d+", "PEER"),
    (r"\d+(\.\d+)? (ms|s)\b", "DURATION"),
    (r"(?<=^- turn)(.*), clock \d+\.\d", r"\1, clock LEFT"),
    (r"[ ]+", " "),
]
"""What is another one each time."""


def blocks(name: str, heading: str) -> list[Block]:
    """Return the fenced blocks of one part of a text; a file is named before the block that shows it."""
    text = (harness.ROOT / "docs" / name).read_text(encoding="utf-8")
    part = re.split(r"^## ", text.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    found, file = [], ""
    for before, language, content in re.findall(r"(.*?)^```(\w+)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
        named = re.findall(r"`(rules/[\w./-]+|\w+\.py)`", before)
        file = named[-1] if named else file
        found.append(Block(language, file, content))
    return found


def masked(text: str) -> list[str]:
    """Return lines in which what is another one each time does not count."""
    lines = []
    for line in text.splitlines():
        for pattern, instead in MASKS:
            line = re.sub(pattern, instead, line)
        lines.append(line.strip())
    return lines


class Person:
    """Somebody with a telnet, who remembers what he has read."""

    def __init__(self, service: harness.Server) -> None:
        self._sock = service.connect()
        self._file = self._sock.makefile("rb")
        self._read: list[str] = []
        self._told = 0
        """How many lines the text has come by."""
        self._answered = 0
        """How many lines there were when his last command was answered."""

    def type(self, line: str) -> None:
        self._sock.sendall(line.encode() + b"\r\n")

    def hears(self, expected: str) -> None:
        """Wait for a line; those before it the text leaves out."""
        self._told = self._find(lambda line: masked(line) == masked(expected), self._told, expected)

    def is_answered(self, pattern: str) -> None:
        """Wait for a line with a pattern in it; the text may show it later."""
        self._answered = self._find(lambda line: re.search(pattern, line) is not None, self._answered, pattern)

    def _find(self, right: Callable[[str], bool], start: int, wanted: str) -> int:
        """Return where it goes on behind the first line from a place on that is right."""
        at = start
        while True:
            while at < len(self._read):
                at += 1
                if right(self._read[at - 1]):
                    return at
            try:
                line = self._file.readline()
            except TimeoutError:
                line = b""
            assert line.endswith(b"\n"), f"instead of {wanted!r}: {self._read[start:]}"
            self._read.append(line.decode().rstrip("\r\n"))

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class Reader:
    """Carries the text out, one block after another."""

    def __init__(self, home: Path, stack: ExitStack, text: list[Block]) -> None:
        self.home = home
        self.stack = stack
        self.blocks = text
        self.port, self.other_port = harness.free_port(), harness.free_port()
        self.service: harness.Server | None = None
        self.people: dict[str, Person] = {}
        self.environment = {**os.environ, **IDENTITY, "HOTFD_CACHE_DIR": str(home / "cache")}
        self.pids: dict[str, int] = {}
        """The pids of the text, and what they are today."""

    @property
    def running(self) -> harness.Server:
        assert self.service is not None, "the text has not started the server yet"
        return self.service

    def close(self) -> None:
        for person in self.people.values():
            person.close()

    # -- blocks --------------------------------------------------------------------------------------

    def carry_out(self) -> Counter[str]:
        """Carry out all blocks; return how many there were of each language."""
        does = {"console": self.console, "text": self.talk}
        for language, file, content in self.blocks:
            if language in does:
                does[language](content)
            else:
                path = self.home / file
                path.parent.mkdir(exist_ok=True)
                path.write_text(self._at_free_ports(content), encoding="utf-8")
        return Counter(block.language for block in self.blocks)

    def talk(self, content: str) -> None:
        for line in content.splitlines():
            found = re.fullmatch(r"(\w+)([<>]) (.*)", line)
            assert found is not None, line
            if found[1] not in self.people:
                self.people[found[1]] = Person(self.running)
            person = self.people[found[1]]
            if found[2] == ">":
                person.type(found[3])
                if (answer := self._answer(found[1], found[3])) is not None:
                    person.is_answered(answer)  # the next one types when he sees that this one has
            else:
                person.hears(found[3])

    @staticmethod
    def _answer(name: str, typed: str) -> str | None:
        """Return the pattern of what answers a command, where the text does not show it."""
        word = typed.split()[0]
        said = {
            "name": f"you are {name}",
            "join": f"{name} sits down",
            "ready": f"{name} is ready",
            "leave": f"{name} leaves",
        }
        return said.get(word)

    def console(self, content: str) -> None:
        for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            self.run(command, expected)

    # -- commands ------------------------------------------------------------------------------------

    def run(self, command: str, expected: str) -> None:
        """Run a command; it must print what the text says that it prints."""
        here = self._as_here(command)
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', here)]
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.environment[name] = value
            return
        if words[0] == "python":
            self._start(words)
            return
        if words[0] == "hotfd":
            words[:1] = harness.HOTFD
        if "serve" in words:
            self._run_beside(words, self.other_port)
            return
        if "--" in words:
            at = words.index("python")
            words[at:] = self._program(words[at:])
        # What a hook says comes on standard error, as does the progress of a handoff, which the text leaves out.
        shown = subprocess.DEVNULL if "handoff" in words else subprocess.STDOUT
        done = subprocess.run(
            words, cwd=self.home, env=self.environment, text=True, timeout=harness.PATIENCE,
            stdout=subprocess.PIPE, stderr=shown, check=False,
        )  # fmt: skip
        self._follow(done.stdout, expected)
        assert masked(self._as_there(done.stdout)) == masked(expected), f"{command}\n{done.stdout}"
        refused = "refused; nothing" in expected
        assert done.returncode == (1 if refused else 0), f"{command}: {done.returncode}"
        for hook in re.findall(r"^wrote (.*/hooks/.*)$", done.stdout, re.MULTILINE):
            # They hold nobody for more than two seconds; here they may, so that a slow machine says the same.
            path = Path(hook)
            path.write_text(path.read_text(encoding="utf-8").replace(" -- ", " --limit=60 -- "), encoding="utf-8")

    def _start(self, words: list[str]) -> None:
        self.service = self._run_beside(self._program(words), self.port)
        first = next(found for block in self.blocks if (found := re.search(r"--pid (\d+)", block.content)))
        self.pids[first[1]] = self.service.pid

    def _run_beside(self, command: list[str], port: int) -> harness.Server:
        return self.stack.enter_context(harness.server(self.home, command, port, env=self.environment, cwd=self.home))

    def _program(self, words: list[str]) -> list[str]:
        """Return the command of a server as it is here."""
        assert words[0] == "python"
        if words[1].startswith("examples/"):
            return [sys.executable, str(harness.ROOT / words[1]), *words[2:], "--listen", f"127.0.0.1:{self.port}"]
        return [sys.executable, *words[1:]]

    def _follow(self, said: str, expected: str) -> None:
        """Follow the server to its next process."""
        moved, told = (re.search(r"(\d+) -> (\d+)", text) for text in (said, expected))
        if moved is not None and told is not None and "generation" in expected:
            self.running.pid = int(moved[2])
            self.running.pids.append(self.running.pid)
            self.pids[told[2]] = self.running.pid

    def _as_here(self, command: str) -> str:
        """Return a command of the text with what is otherwise today."""
        found = re.search(r"--pid (\d+)", command)
        if found is not None:
            command = command.replace(found[1], str(self.pids[found[1]]))
        return self._at_free_ports(command.replace(HOME, str(self.home)))

    def _at_free_ports(self, text: str) -> str:
        return text.replace(ADDRESS, f"127.0.0.1:{self.port}").replace(OTHER, f"127.0.0.1:{self.other_port}")

    def _as_there(self, output: str) -> str:
        """Return what a command has said as the text has it."""
        output = output.replace(str(self.home), HOME).replace(operator(), SELF)
        output = output.replace(f"{socket.gethostname()}:", f"{SELF.partition('@')[2]}:")
        output = output.replace(f"127.0.0.1:{self.other_port}", OTHER)
        for told, pid in self.pids.items():
            output = output.replace(str(pid), told)
        return output


@contextmanager
def reading(home: Path, name: str, *headings: str) -> Iterator[Reader]:
    with ExitStack() as stack:
        reader = Reader(home, stack, [block for heading in headings for block in blocks(name, heading)])
        try:
            yield reader
        finally:
            reader.close()


def test_the_rules_change_in_the_middle_of_a_match_as_the_text_says(tmp_path: Path) -> None:
    with reading(tmp_path, "arena.md", "Change the rules in the middle of a match") as reader:
        assert reader.carry_out() == {"console": 7, "toml": 4, "text": 5}
        assert reader.running.status()["generation"] == 2


def test_a_configuration_goes_from_a_commit_to_a_session_as_the_text_says(tmp_path: Path) -> None:
    parts = "From the beginning", "From a commit to the servers", "For some at first", "Configuration servers"
    with reading(tmp_path, "configuration.md", *parts) as reader:
        assert reader.carry_out() == {"python": 1, "toml": 6, "console": 12, "text": 4}
        assert reader.running.status()["generation"] == 2
