"""Versions of a program in directories of their own, a ``current`` link that is moved, and clients that stay connected."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration import harness

PROGRAM = """
    import os, sys
    from dataclasses import dataclass, field
    import hotfd
    import words

    @dataclass
    class Visitor:
        lines: int = 0
        version = {version}
        {state}

    {more}

    async def talk(conn):
        {join}
        async for line in conn:
            conn.state.lines += 1
            name, _, value = line.partition(b"=")
            if value:
                setattr(conn.state, name.decode(), value.decode())
            about = vars(conn.state) if line != b"secret" else os.environ["SECRET"]
            await conn.send(f"{{words.NAME}} {{about}}".encode())

    hotfd.run(talk, f"127.0.0.1:{{sys.argv[1]}}", state=Visitor, name="rollback"{options})
"""

TAGS = """
        tags: str = ""

        @classmethod
        def upgrade(cls, old, version):
            return cls(old["lines"])
"""

LOSSY = """
        tags: str = ""

        @classmethod
        def upgrade(cls, old, version):
            return cls(old["lines"])

        @classmethod
        def downgrade(cls, state, version):
            return {"lines": state.lines * 100 + len(state.tags)}
"""

QUICK = ("--probation", "0.1")


def release(base: Path, name: str, *, version: int = 1, state: str = "", more: str = "", **parts: str) -> Path:
    """Install one version of the program in a directory of its own."""
    directory = base / "releases" / name
    directory.mkdir(parents=True, exist_ok=True)
    parts = {"join": "pass", "options": "", **parts}
    harness.script(directory, "server.py", PROGRAM.format(version=version, state=state, more=more, **parts))
    (directory / "words.py").write_text(f"NAME = {name!r}\n")
    return directory


def point(base: Path, name: str) -> None:
    """Move the ``current`` link to a version, as a deployment does."""
    link = base / "next"
    link.symlink_to(base / "releases" / name)
    link.rename(base / "current")


@contextmanager
def running(base: Path, *command: str, cwd: Path | None = None, **env: str) -> Iterator[harness.Server]:
    """Run the program in ``current``, by that name, or as ``command`` says, with its port behind it."""
    port = harness.free_port()
    directory = cwd or base / "current"
    words = [*(command or (sys.executable, "server.py")), str(port)]
    with harness.server(base, words, port, cwd=directory, env={"PWD": str(directory), **env}) as service:
        yield service


def rollback(service: harness.Server, *options: str, expect: int = 0) -> dict[str, Any]:
    """Go back with the command line; follow the service to its new process."""
    before = service.pid
    done = harness.hotfd("rollback", "--pid", str(service.pid), "--json", *QUICK, *options)
    report = service.outcome(done, expect)
    if expect == 0 and not report["dry_run"]:
        harness.wait_gone(before)
    return report


def history(service: harness.Server) -> dict[str, Any]:
    done = harness.hotfd("history", "--pid", str(service.pid), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Client:
    """One connection, which stays the same over everything."""

    def __init__(self, service: harness.Server) -> None:
        self.sock = service.connect()
        self.lines = self.sock.makefile("rb")

    def say(self, text: str) -> str:
        self.sock.sendall(text.encode() + b"\n")
        return self.lines.readline().decode().rstrip("\n")

    def close(self) -> None:
        self.lines.close()
        self.sock.close()


@contextmanager
def talking(service: harness.Server, count: int = 1) -> Iterator[list[Client]]:
    clients = [Client(service) for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


@contextmanager
def two_versions(
    base: Path, old: dict[str, Any], new: dict[str, Any], count: int = 1
) -> Iterator[tuple[harness.Server, list[Client]]]:
    """Start the old version with clients, and hand over to the new one."""
    release(base, "v1", **old)
    release(base, "v2", **new)
    point(base, "v1")
    with running(base) as service, talking(service, count) as clients:
        for client in clients:
            assert client.say("x").startswith("v1 ")
        point(base, "v2")
        service.handoff(*QUICK)
        yield service, clients
