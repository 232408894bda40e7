"""``hotfd config`` on the store of a real server, and what that server says of itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import harness
from tests.integration.config_releases import publish
from tests.integration.harness import hotfd

PATIENT = ("--wait", "60")
"""Waits as long as a test may; what is waited for comes in a second."""

PROGRAM = """
    import sys
    import msgspec
    import hotfd

    class Rules(msgspec.Struct, frozen=True):
        damage: int

    async def talk(conn):
        async for _ in conn:
            await conn.send(b"%d" % conn.config.damage)

    hotfd.run(
        talk, f"127.0.0.1:{sys.argv[1]}", name="arena", log_style="json",
        config=hotfd.Config("arena", Rules, source=f"dir:{sys.argv[2]}", interval=0.2),
    )
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "store"
    monkeypatch.setenv("HOTFD_CONFIG_STORE", f"dir:{path}")
    monkeypatch.setenv("HOTFD_CACHE_DIR", str(tmp_path / "cache"))
    return path


@pytest.fixture
def arena(tmp_path: Path, store: Path) -> Iterator[harness.Server]:
    publish(store, {"damage": 1})
    port = harness.free_port()
    with harness.server(tmp_path, [*harness_program(tmp_path), str(port), str(store)], port) as service:
        yield service


def harness_program(tmp_path: Path) -> list[str]:
    return [harness.HOTFD[0], str(harness.script(tmp_path, "arena.py", PROGRAM))]


def config(*words: str, expect: int = 0) -> str:
    """Run a command of ``hotfd config``, and return what it prints."""
    done = hotfd("config", *words)
    assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
    return str(done.stdout if expect == 0 else done.stdout + done.stderr)


def answer(*words: str, expect: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config(*words, "--json", expect=expect))
    return found


def damage(client: Any) -> int:
    client.sendall(b"?\n")
    with client.makefile("rb") as lines:
        return int(lines.readline())


def test_what_servers_make_of_releases_is_seen_and_what_they_refuse_is_gone_back_from(
    arena: harness.Server, store: Path
) -> None:
    with arena.connect() as one:
        assert damage(one) == 1
        harness.becomes(lambda: answer("status")["modules"]["arena"]["living"], 1)
        publish(store, {"damage": 2})
        config("status", *PATIENT)
        with arena.connect() as other:
            assert [damage(one), damage(other)] == [1, 2]
            server_of_two_releases(arena)

            publish(store, {"damage": "x"})
            assert "damage" in config("status", *PATIENT, expect=1)
            (server,) = answer("status")["modules"]["arena"]["servers"]
            assert (server["standing"], server["state"], server["version"], server["running"]) == (
                "refused",
                "refused",
                3,
                2,
            )
            assert "refused 3" in "".join(hotfd("status", "--pid", str(arena.pid)).stdout)

            assert answer("rollback", "arena", "--reason", "nonsense")["restores"] == 2
            assert "1 of 1 servers have it" in config("status", *PATIENT)
            with arena.connect() as third:
                assert [damage(one), damage(other), damage(third)] == [1, 2, 2]
    changes = [(event["change"], event["version"]) for event in answer("history", "arena")["events"]]
    assert changes == [("rolled-back", 4), ("published", 3), ("published", 2), ("published", 1)]


def server_of_two_releases(arena: harness.Server) -> None:
    """Look at a server with a session of release 1 and one of release 2."""
    pid = ("--pid", str(arena.pid))
    assert "config: arena  running 2  pinned 1: 1, 2: 1" in hotfd("status", *pid).stdout.splitlines()
    assert answer("status", *pid)["modules"]["arena"]["pinned"] == {"1": 1, "2": 1}
    assert "  pinned    1: 1, 2: 1" in config("status", *pid).splitlines()
    metrics = config("status", *pid, "--metrics").splitlines()
    assert 'hotfd_config_pinned_sessions{module="arena",zone="",version="1"} 1' in metrics
    listed = json.loads(hotfd("sessions", *pid, "--json").stdout)["sessions"]
    held = {session["id"]: session["config"]["arena"] for session in listed}
    assert sorted(held.values()) == [1, 2]
    for session, version in held.items():
        shown = hotfd("sessions", *pid, "--session", session).stdout.splitlines()
        assert shown[1].startswith(session)
        assert shown[1].endswith(f"arena {version}")
    nobody = hotfd("sessions", *pid, "--session", "nobody")
    assert (nobody.returncode, nobody.stdout) == (1, "")


def git(repository: Path, *words: str) -> None:
    identity = ("-c", "user.name=Anna", "-c", "user.email=anna@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(repository), *identity, *words], check=True, capture_output=True)


def committed(repository: Path, damage: int) -> None:
    file = repository / "arena" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"damage = {damage}\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-m", f"damage {damage}")


def test_what_somebody_went_back_from_is_not_published_again_by_itself(tmp_path: Path, store: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    for number in (1, 2):
        committed(repository, number)
        config("publish", str(repository))
    assert answer("show", "arena")["values"] == {"damage": 2}
    config("rollback", "arena")
    config("publish", str(repository))
    assert answer("show", "arena")["values"] == {"damage": 1}, "the commit that was gone back from is done with"
    committed(repository, 3)
    config("publish", str(repository), "--canary", "5%")
    config("abort", "arena", "--reason", "no")
    config("publish", str(repository))
    assert answer("show", "arena")["values"] == {"damage": 1}
    committed(repository, 4)
    config("publish", str(repository))
    assert answer("diff", "arena")["changes"] == [{"key": "damage", "kind": "changed", "old": 1, "new": 4}]
