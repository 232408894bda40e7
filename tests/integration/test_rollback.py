"""Going back: what ran before runs again, and older code takes over what newer code has written."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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


# -- what runs --------------------------------------------------------------------------------------


def test_going_back_runs_what_ran_although_the_link_has_moved(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        assert client.say("x") == "v2 {'lines': 2}"
        report = rollback(service)
        assert (report["outcome"], report["generation"], report["connections"]["moved"]) == ("completed", 3, 1)
        assert client.say("x") == "v1 {'lines': 3}"
        assert os.readlink(f"/proc/{service.pid}/cwd") == str(tmp_path / "releases/v1")


def test_going_back_undoes_one_version_after_the_other_and_goes_forth_only_by_number(tmp_path: Path) -> None:
    for name in ("v1", "v2", "v3"):
        release(tmp_path, name)
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        for name in ("v2", "v3"):
            point(tmp_path, name)
            service.handoff(*QUICK)
        seen = []
        for options in ((), (), ("--to", "3"), ("--to", "2")):
            rollback(service, *options)
            seen.append(client.say("x").split()[0])
            if seen == ["v2", "v1"]:
                report = rollback(service, expect=1)
                assert (report["outcome"], report["new_pid"]) == ("refused", None)
                assert report["reason"].startswith("nothing-to-roll-back-to: ")
        assert seen == ["v2", "v1", "v3", "v2"]
        rows = history(service)["generations"]
        assert [(row["how"], row["runs"]) for row in rows] == [
            ("start", 1), ("handoff", 2), ("handoff", 3),
            ("rollback", 2), ("rollback", 1), ("rollback", 3), ("rollback", 2),
        ]  # fmt: skip
        assert [row["current"] for row in rows] == [False] * 6 + [True]
        for wrong in ("7", "19"):
            assert rollback(service, "--to", wrong, expect=1)["reason"].startswith("unknown-generation: ")


def test_generations_that_ran_the_same_are_one_version(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        service.handoff(*QUICK)
        service.handoff(*QUICK)
        rollback(service)
        assert client.say("x").startswith("v1 ")


def test_a_handoff_after_going_back_follows_the_link_again(tmp_path: Path) -> None:
    release(tmp_path, "v3")
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        rollback(service)
        point(tmp_path, "v3")
        service.handoff(*QUICK)
        assert client.say("x").startswith("v3 ")
        rollback(service)
        assert client.say("x").startswith("v1 ")


def test_a_script_that_is_named_through_the_link_is_found_where_it_was(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    release(tmp_path, "v2")
    point(tmp_path, "v1")
    script = str(tmp_path / "current/server.py")
    with running(tmp_path, sys.executable, script, cwd=tmp_path) as service, talking(service) as (client,):
        point(tmp_path, "v2")
        service.handoff(*QUICK)
        assert client.say("x").startswith("v2 ")
        rollback(service)
        assert client.say("x").startswith("v1 ")
        assert history(service)["generations"][-1]["command"][1] == script
        rollback(service, "--to", "2")
        assert client.say("x").startswith("v2 ")


def test_what_was_started_through_a_shell_is_remembered_as_what_it_became(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    directory = release(tmp_path, "v2")
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        line = f"cd {directory} && WORD=x {sys.executable} server.py {service.port}; true"
        service.handoff(*QUICK, command=("sh", "-c", line))
        assert client.say("x").startswith("v2 ")
        rollback(service)
        assert client.say("x").startswith("v1 ")
        rollback(service, "--to", "2")
        assert client.say("x").startswith("v2 ")
        row = history(service)["generations"][1]
        assert row["command"] == [sys.executable, "server.py", str(service.port)]
        assert row["directory"] == str(directory)


def test_a_handoff_that_fails_leaves_no_generation(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, _):
        service.handoff(expect=1, command=("/bin/false",))
        assert len(history(service)["generations"]) == 2
        assert rollback(service, "--dry-run")["dry_run"] is True
        assert rollback(service, "--dry-run=deep")["outcome"] == "completed"
        assert len(history(service)["generations"]) == 2


def test_environments_are_remembered_and_shown_nowhere(tmp_path: Path, runtime_directory: Path) -> None:
    release(tmp_path, "v1")
    point(tmp_path, "v1")
    with running(tmp_path, SECRET="first-s3cr3t") as service, talking(service) as (client,):
        other = ("env", "SECRET=other-s3cr3t", sys.executable, "server.py", str(service.port))
        done = harness.hotfd(
            "handoff", "--pid", str(service.pid), "--json", *QUICK, "--", *other, cwd=tmp_path / "current"
        )
        service.outcome(done, 0)
        assert client.say("secret") == "v1 other-s3cr3t"
        rollback(service)
        assert client.say("secret") == "v1 first-s3cr3t"
        shown = [
            done.stdout + done.stderr,
            service.logged(),
            json.dumps(service.status()),
            *(harness.hotfd(word, "--pid", str(service.pid)).stdout for word in ("status", "history")),
            json.dumps(history(service)),
            Path(f"/proc/{service.pid}/cmdline").read_text(),
            *(path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"),
        ]
        assert "first-s3cr3t" not in "".join(shown)
        assert not [fd for fd in _descriptors(service.pid) if "history" in fd], "the history's memory is still open"


def _descriptors(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]


# -- whether it still is what ran ---------------------------------------------------------------------


def test_a_script_that_was_overwritten_is_named_and_not_run(tmp_path: Path) -> None:
    directory = release(tmp_path, "v1")
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        release(tmp_path, "v1", version=1, more="# deployed in place")
        service.handoff(*QUICK)
        report = rollback(service, expect=1)
        assert report["reason"] == (
            f"same-code: {directory}/server.py has changed since generation 1 ran; put it back, or use --force"
        )
        assert (report["outcome"], report["new_pid"]) == ("refused", None)
        found = history(service)
        assert found["generations"][0]["rollback"] is False
        assert found["generations"][0]["reason"] == report["reason"]
        assert found["rollback_to"] == 1
        assert rollback(service, "--force")["outcome"] == "completed"
        assert client.say("x").startswith("v1 ")


@pytest.mark.parametrize("gone", [False, True])
def test_a_module_that_was_loaded_is_part_of_what_ran(tmp_path: Path, gone: bool) -> None:
    with two_versions(tmp_path, {}, {}) as (service, _):
        module = tmp_path / "releases/v1/words.py"
        if gone:
            module.unlink()
        else:
            module.write_text("NAME = 'v9'\n")
        how = "has gone" if gone else "has changed"
        assert rollback(service, expect=1)["reason"].startswith(f"same-code: {module} {how} since generation 1 ran")


def test_files_that_were_touched_or_put_back_are_the_same(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        directory = tmp_path / "releases/v1"
        script, module = directory / "server.py", directory / "words.py"
        os.utime(script, (1, 1))
        copy = directory / "copy"
        shutil.copyfile(module, copy)
        copy.rename(module)
        (directory / "notes.txt").write_text("nobody has loaded this")
        rollback(service)
        assert client.say("x").startswith("v1 ")


def test_a_directory_that_is_gone_is_refused_whatever_is_forced(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        shutil.rmtree(tmp_path / "releases/v1")
        report = rollback(service, "--force", expect=1)
        assert report["outcome"] == "refused"
        assert report["reason"] == (f"not-found: the directory {tmp_path}/releases/v1 that generation 1 ran in is gone")
        assert client.say("x").startswith("v2 ")


def test_an_interpreter_that_is_gone_is_named(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    point(tmp_path, "v1")
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    path = os.pathsep.join([str(harness.ROOT), *sys.path[1:]])
    with running(tmp_path, str(python), "server.py", PYTHONPATH=path) as service:
        command = (sys.executable, str(tmp_path / "current/server.py"), str(service.port))
        service.handoff(*QUICK, command=command)
        python.unlink()
        report = rollback(service, expect=1)
        assert report["reason"] == f"not-found: the interpreter {python} that generation 1 ran on is gone"


# -- state --------------------------------------------------------------------------------------------


def test_a_plain_handoff_to_older_code_is_refused_with_the_way_to_ask_for_it(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": TAGS}) as (service, (client,)):
        point(tmp_path, "v1")
        report = service.handoff(*QUICK, expect=1)
        assert report["reason"].startswith("state-version: state version 2 is newer than version 1 of this code; ")
        assert "--allow-downgrade" in report["reason"]
        assert client.say("x") == "v2 {'lines': 2, 'tags': ''}"
        service.handoff(*QUICK, "--allow-downgrade")
        assert client.say("x") == "v1 {'lines': 3}"


def test_a_session_that_the_older_version_cannot_hold_stays_and_the_field_is_named(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": TAGS}, count=3) as (service, clients):
        assert clients[1].say("tags=s3cr3t") == "v2 {'lines': 2, 'tags': 's3cr3t'}"
        predicted = rollback(service, "--dry-run=deep", expect=3)
        old = service.pid
        report = rollback(service, expect=3)
        for found in (predicted, report):
            assert found["connections"] == {"moved": 2, "kept": 1, "returned": 0, "closed": 0}
            assert found["reasons"] == {"state-downgrade": 1}
        assert [client.say("x") for client in clients] == [
            "v1 {'lines': 2}", "v2 {'lines': 3, 'tags': 's3cr3t'}", "v1 {'lines': 2}",
        ]  # fmt: skip
        assert "Visitor.tags: is not known to version 1, and is not at its default" in service.logged()
        assert "s3cr3t" not in service.logged()
        clients[1].close()
        harness.wait_gone(old)


def test_downgrade_says_what_the_older_version_gets(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": LOSSY}) as (service, (client,)):
        client.say("tags=abc")
        rollback(service)
        assert client.say("x") == "v1 {'lines': 204}"


def test_what_is_taken_back_after_a_downgrade_is_what_it_was(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": LOSSY}) as (service, (client,)):
        client.say("tags=abc")
        command = ("rollback", "--pid", str(service.pid), "--json", "--probation", "30")
        with harness.subprocess.Popen(
            [*harness.HOTFD, *command], stdout=harness.subprocess.PIPE, stderr=harness.subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            while "probation" not in (line := process.stderr.readline()):
                assert line
            new = int(line.rpartition("process ")[2].strip(" )\n"))
            harness.kill(new)
            out, _ = process.communicate(timeout=30)
        assert json.loads(out)["connections"]["returned"] == 1
        assert client.say("x") == "v2 {'lines': 3, 'tags': 'abc'}"


def test_what_the_types_forbid_is_refused_before_anything_moves(tmp_path: Path) -> None:
    text = 'lines: str = ""\n\n        upgrade = staticmethod(lambda old, version: Visitor(old["lines"]))'
    with two_versions(tmp_path, {}, {"version": 2, "state": text}) as (service, _):
        report = rollback(service, expect=1)
        assert report["reason"] == (
            "state-downgrade: Visitor.lines: is str, and was int in version 1; give Visitor a downgrade(state, version)"
        )
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 0, "closed": 0}
        assert service.status()["generation"] == 2


ROOM = """
    @dataclass
    class Room:
        visits: int = 0
        version = {version}
        {fields}
"""

JOIN = """room = await conn.join("hall", state=Room)
        room.state.visits += 1
        if {topic}:
            room.state.topic = "news"
        await conn.send(f"{{words.NAME}} {{vars(room.state)}}".encode())"""

TOPIC = 'topic: str = ""\n        upgrade = staticmethod(lambda old, version: Room(old["visits"]))'


@pytest.mark.parametrize("topic", [False, True])
def test_the_state_of_a_shared_session_goes_back_by_the_same_rules(tmp_path: Path, topic: bool) -> None:
    old = {"more": ROOM.format(version=1, fields=""), "join": JOIN.format(topic=False)}
    new = {"more": ROOM.format(version=2, fields=TOPIC), "join": JOIN.format(topic=topic)}
    release(tmp_path, "v1", **old)
    release(tmp_path, "v2", **new)
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service, 2) as clients:
        for client in clients:
            assert client.lines.readline().startswith(b"v1 {'visits': ")
        point(tmp_path, "v2")
        service.handoff(*QUICK)
        for client in clients:
            assert client.lines.readline().startswith(b"v2 {'visits': ")
        report = rollback(service, expect=3 if topic else 0)
        assert report["reasons"] == ({"state-downgrade": 1} if topic else {})
        if not topic:
            assert sorted(client.lines.readline() for client in clients) == [
                b"v1 {'visits': 5}\n", b"v1 {'visits': 6}\n",
            ]  # fmt: skip
        assert [client.say("x").split()[0] for client in clients] == ["v2" if topic else "v1"] * 2


SHARED = """, cutover="together", export_state=lambda: 1, import_state=lambda value: None"""


def test_together_all_go_back_or_none(tmp_path: Path) -> None:
    old, new = {"options": SHARED}, {"options": SHARED, "version": 2, "state": TAGS}
    with two_versions(tmp_path, old, new, count=2) as (service, clients):
        clients[0].say("tags=x")
        report = rollback(service, expect=1)
        assert report["reason"].startswith("state-downgrade: ")
        assert [client.say("x").split()[0] for client in clients] == ["v2", "v2"]
        clients[0].close()
        harness.becomes(lambda: service.status()["connections"], 1)
        rollback(service)
        assert clients[1].say("x") == "v1 {'lines': 3}"


def test_twenty_handoffs_back_and_forth_lose_nothing(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": TAGS}, count=20) as (service, clients):
        lines, began = 1, time.monotonic()
        for number in range(10):
            rollback(service)
            lines += 1
            assert {client.say("x") for client in clients} == {f"v1 {{'lines': {lines}}}"}
            service.handoff(*QUICK)
            lines += 1
            assert {client.say("x") for client in clients} == {f"v2 {{'lines': {lines}, 'tags': ''}}"}, number
        found = history(service)["generations"]
        assert [row["generation"] for row in found] == list(range(7, 23)), "the last sixteen are remembered"
        print(f"20 handoffs in {time.monotonic() - began:.1f} s")
