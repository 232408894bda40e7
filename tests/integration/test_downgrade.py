"""Older code takes over what newer code has written, when an operator goes back to it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.releases import (
    LOSSY,
    QUICK,
    TAGS,
    history,
    point,
    release,
    rollback,
    running,
    talking,
    two_versions,
)


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


def test_what_stayed_behind_comes_along_when_the_newer_version_is_back(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": TAGS}, count=2) as (service, clients):
        clients[1].say("tags=a")
        kept_in = service.pid
        rollback(service, expect=3)
        service.handoff(*QUICK)
        harness.wait_gone(kept_in)
        assert [client.say("x") for client in clients] == [
            "v2 {'lines': 2, 'tags': ''}", "v2 {'lines': 3, 'tags': 'a'}",
        ]  # fmt: skip


def test_downgrade_says_what_the_older_version_gets(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": LOSSY}) as (service, (client,)):
        client.say("tags=abc")
        rollback(service)
        assert client.say("x") == "v1 {'lines': 204}"


def test_what_is_taken_back_after_a_downgrade_is_what_it_was(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": LOSSY}) as (service, (client,)):
        client.say("tags=abc")
        command = ("rollback", "--pid", str(service.pid), "--json", "--probation", "30")
        with subprocess.Popen(
            [*harness.HOTFD, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            while "probation" not in (line := process.stderr.readline()):
                assert line
            new = int(line.rpartition("process ")[2].strip(" )\n"))
            harness.kill(new)
            out, _ = process.communicate(timeout=harness.PATIENCE)
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


def test_older_code_that_cannot_say_what_it_knows_is_refused(tmp_path: Path) -> None:
    fields = "\n        ".join(f"a_field_with_a_long_name_{number}: int = 0" for number in range(1500))
    release(tmp_path, "v1", state=fields)
    release(tmp_path, "v2", version=2)
    point(tmp_path, "v2")
    with running(tmp_path) as service, talking(service) as (client,):
        point(tmp_path, "v1")
        report = service.handoff(*QUICK, "--allow-downgrade", expect=1)
        assert report["reason"].startswith("state-version: the types of its state do not fit the handoff channel; ")
        assert client.say("x") == "v2 {'lines': 1}"


def test_a_class_that_is_newer_in_the_older_code_needs_its_upgrade_there(tmp_path: Path) -> None:
    state = 'seat: "Seat | None" = None'
    seat = "@dataclass\n    class Seat:\n        name: str = ''\n        version = {version}"
    old = {"state": state, "more": seat.format(version=2)}
    new = {"version": 2, "state": state, "more": seat.format(version=1)}
    release(tmp_path, "v1", **old)
    release(tmp_path, "v2", **new)
    point(tmp_path, "v2")
    with running(tmp_path) as service, talking(service) as (client,):
        point(tmp_path, "v1")
        report = service.handoff(*QUICK, "--allow-downgrade", expect=1)
        assert report["reason"] == (
            "state-downgrade: Seat version 1 cannot be read by version 2: give Seat an upgrade(old, version)"
        )
        assert client.say("x").startswith("v2 {'lines': 1")


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


def test_sixteen_handoffs_back_and_forth_lose_nothing(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": TAGS}, count=20) as (service, clients):
        lines = 1
        for number in range(8):
            rollback(service)
            lines += 1
            assert {client.say("x") for client in clients} == {f"v1 {{'lines': {lines}}}"}
            service.handoff(*QUICK)
            lines += 1
            assert {client.say("x") for client in clients} == {f"v2 {{'lines': {lines}, 'tags': ''}}"}, number
        found = history(service)["generations"]
        assert [row["generation"] for row in found] == list(range(3, 19)), "the last sixteen are remembered"
