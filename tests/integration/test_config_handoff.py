"""What a session holds of the configuration goes with it to the next process, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hotfd.config.rollout import For
from tests.integration import harness
from tests.integration.config_releases import of_module, publish, staged

PROGRAM = """
    import asyncio, os, sys
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Annotated
    import msgspec
    import hotfd

    class Rules(msgspec.Struct, frozen=True):
        damage: int
        open: Annotated[bool, hotfd.Live] = True

    @dataclass
    class Room:
        number: int = 0

    UPGRADE = None
    ZONE = None

    async def talk(conn):
        # "?" tells damage, open, and who answers; "+K" joins room K; "busy PATH" waits for a file; "stay" does not move.
        began = id(conn.config)
        async for line in conn:
            word = line.decode()
            assert id(conn.config) == began or word == "?"
            if word.startswith("+"):
                await conn.join(word[1:], state=Room)
                began = id(conn.config)
            elif word.startswith("busy"):
                await conn.send(b"busy")
                while not Path(word[5:]).exists():
                    await asyncio.sleep(0.01)
            elif word == "stay":
                conn.movable = False, "told to"
            elif word == "go":
                conn.movable = True
            elif word == "!":
                conn.session.checkpoint()
                began = id(conn.config)
            await conn.send(b"%d %d %d" % (TELL(conn.config), conn.config.open, os.getpid()))

    TELL = lambda config: config.damage

    hotfd.run(
        talk, f"127.0.0.1:{sys.argv[1]}", name="arena", log_style="json",
        config=hotfd.Config("arena", Rules, source=f"dir:{sys.argv[2]}", interval=0.2, upgrade=UPGRADE, zone=ZONE),
    )
"""

OTHER = PROGRAM.replace("damage: int", "harm: int").replace("config.damage", "config.harm")
UPGRADING = OTHER.replace("UPGRADE = None", 'UPGRADE = lambda values: {"harm": values["damage"]}')
QUICK = ("--probation", "0.2", "--boundary-timeout", "0.2")


class Client:
    """A client that says a word and reads an answer."""

    def __init__(self, service: harness.Server) -> None:
        self.sock = service.connect()
        self.lines = self.sock.makefile("rb")

    def say(self, word: str) -> None:
        self.sock.sendall(word.encode() + b"\n")

    def hear(self) -> str:
        line = self.lines.readline()
        assert line.endswith(b"\n"), f"the end after {line!r}"
        return line.decode().strip()

    def ask(self, word: str = "?") -> tuple[int, bool, int]:
        """Return damage, whether it is open, and who answers."""
        self.say(word)
        damage, opened, pid = self.hear().split()
        return int(damage), opened == "1", int(pid)

    def damage(self, word: str = "?") -> int:
        return self.ask(word)[0]

    def close(self) -> None:
        self.lines.close()
        self.sock.close()


class Arena:
    """A service with its store, and its clients."""

    def __init__(self, service: harness.Server, store: Path, tmp_path: Path, port: int) -> None:
        self.service = service
        self.store = store
        self.tmp_path = tmp_path
        self.port = port
        self.clients: list[Client] = []

    def publish(self, canary: For | None = None, **values: Any) -> int:
        """Publish values, and wait until the server would begin a session with them."""
        version = publish(self.store, values, canary=canary)
        if canary is None:
            staged(self.service, version)
        return version

    def client(self) -> Client:
        made = Client(self.service)
        self.clients.append(made)
        return made

    def version(self, name: str, source: str) -> list[str]:
        """Write another version of the program, and return its command."""
        path = harness.script(self.tmp_path, f"{name}.py", source)
        return [sys.executable, str(path), str(self.port), str(self.store)]


@contextmanager
def arena(tmp_path: Path, source: str = PROGRAM, **values: Any) -> Iterator[Arena]:
    store, port = tmp_path / "store", harness.free_port()
    publish(store, values or {"damage": 1})
    path = harness.script(tmp_path, "first.py", source)
    with harness.server(tmp_path, [sys.executable, str(path), str(port), str(store)], port) as service:
        made = Arena(service, store, tmp_path, port)
        try:
            yield made
        finally:
            for client in made.clients:
                client.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Arena]:
    with arena(tmp_path) as one:
        yield one


def test_sessions_keep_what_they_began_with_over_handoffs_and_the_next_ones_begin_with_the_newest(made: Arena) -> None:
    clients = []
    for damage in range(1, 4):
        if damage > 1:
            made.publish(damage=damage)
        clients.append(made.client())
        assert clients[-1].damage() == damage
    for _ in range(2):
        made.service.handoff(*QUICK)
        assert [client.ask()[::2] for client in clients] == [(n, made.service.pid) for n in (1, 2, 3)]
        assert made.client().damage() == 3
    made.publish(damage=4)
    assert [client.damage() for client in clients] == [1, 2, 3]
    assert made.client().damage() == 4
    assert of_module(made.service, "pinned") == {"1": 1, "2": 1, "3": 3, "4": 1}


def test_a_room_keeps_it_and_who_joins_in_the_new_process_takes_it(made: Arena) -> None:
    one, two = made.client(), made.client()
    assert [one.damage("+a"), two.damage("+a")] == [1, 1]
    made.publish(damage=2)
    made.service.handoff(*QUICK)
    late = made.client()
    assert late.damage() == 2
    assert late.damage("+a") == 1
    assert one.damage("!") == 2
    assert [two.damage(), late.damage()] == [2, 2]


def test_a_kill_switch_reaches_every_session_of_every_generation_at_once(made: Arena) -> None:
    moved, stays = made.client(), made.client()
    assert stays.damage("stay") == 1
    assert moved.damage() == 1
    made.service.handoff(*QUICK, expect=3)
    made.publish(damage=2, open=False)
    for client in (moved, stays):
        harness.becomes(lambda client=client: client.ask()[:2], (1, False))
    assert moved.ask()[2] != stays.ask()[2]


def test_what_stays_behind_keeps_it_and_takes_it_along_when_it_moves_later(made: Arena) -> None:
    stays = made.client()
    assert stays.damage("stay") == 1
    made.publish(damage=2)
    made.service.handoff(*QUICK, expect=3)
    made.publish(damage=3)
    assert stays.damage("go") == 1
    made.service.handoff(*QUICK)
    harness.becomes(lambda: stays.ask()[::2], (1, made.service.pid))
    harness.wait_gone(made.service.pids[0])
    assert made.client().damage() == 3


def test_sessions_whose_release_the_new_code_cannot_read_stay_and_the_reason_says_which(made: Arena) -> None:
    first = made.client()
    assert first.damage() == 1
    newer = publish(made.store, {"harm": 2})  # for the code to come: this one refuses it, and goes on
    harness.becomes(lambda: (of_module(made.service, "refused") or {}).get("version"), newer)
    assert made.client().damage() == 1
    command = made.version("second", OTHER)
    predicted = made.service.handoff(*QUICK, "--dry-run=deep", expect=3, command=command)
    assert predicted["reasons"] == {"config-unreadable": 2}
    report = made.service.handoff(*QUICK, expect=3, command=command)
    assert report["reasons"] == {"config-unreadable": 2}
    assert "harm" in report["laggards"][0]["detail"]
    assert first.ask()[::2] == (1, made.service.pids[0])
    assert made.client().ask()[::2] == (2, made.service.pid)


def test_an_upgrade_lets_them_move(made: Arena) -> None:
    first = made.client()
    assert first.damage() == 1
    made.service.handoff(*QUICK, command=made.version("second", UPGRADING))
    assert first.ask()[::2] == (1, made.service.pid)
    made.publish(harm=5)
    assert [first.damage(), made.client().damage()] == [1, 5]


def test_a_new_version_that_can_read_no_release_is_refused_and_nothing_happens(made: Arena) -> None:
    first = made.client()
    assert first.damage() == 1
    report = made.service.handoff(*QUICK, expect=1, command=made.version("second", OTHER))
    assert report["outcome"] == "rolled-back"
    assert report["reason"].startswith("config-unavailable: ")
    assert "harm" in made.service.logged()
    assert first.damage() == 1


def test_a_new_process_begins_with_what_the_old_one_had_though_its_source_is_away(made: Arena) -> None:
    made.publish(damage=2)
    hidden = made.store.with_name("hidden")
    made.store.rename(hidden)
    try:
        made.service.handoff(*QUICK)
        assert made.client().damage() == 2
    finally:
        hidden.rename(made.store)
    made.publish(damage=3)
    assert made.client().damage() == 3


def test_a_session_that_is_taken_back_has_what_it_began_with(made: Arena) -> None:
    first = made.client()
    assert first.damage() == 1
    made.publish(damage=2)
    second = made.client()
    assert second.damage() == 2
    dying = made.version(
        "dying", PROGRAM.replace("began = id", "os.kill(os.getpid(), 9) if conn.resumed else 0; began = id")
    )
    report = made.service.handoff("--probation", "5", expect=1, command=dying)
    assert report["outcome"] == "rolled-back"
    assert made.client().damage() == 2
    survivors = [client for client in (first, second) if _lives(client)]
    made.publish(damage=3)
    assert [client.damage() for client in survivors] == [{first: 1, second: 2}[client] for client in survivors]


def _lives(client: Client) -> bool:
    client.say("?")
    try:
        return client.lines.readline() != b""
    except ConnectionError:
        return False


def test_a_canary_goes_over_with_its_share(made: Arena) -> None:
    publish(made.store, {"damage": 2}, canary=For(share=1.0))
    harness.becomes(lambda: (of_module(made.service, "canary") or {}).get("version"), 2)
    first = made.client()
    assert first.damage() == 2
    made.service.handoff(*QUICK)
    assert first.damage() == 2
    assert made.client().damage() == 2


PLAIN = (
    PROGRAM.replace("config=hotfd.Config", "background=() or [] and hotfd.Config")
    .replace("conn.config.open", "0 if conn.config is None else conn.config.open")
    .replace("TELL = lambda config: config.damage", "TELL = lambda config: 0 if config is None else config.damage")
)
"""The same program without a configuration."""


def test_a_session_that_began_without_a_configuration_gets_one_where_there_is_one(tmp_path: Path) -> None:
    with arena(tmp_path, PLAIN) as made:
        first = made.client()
        assert first.damage() == 0
        made.service.handoff(*QUICK, command=made.version("second", PROGRAM))
        assert first.damage() == 1


def test_what_a_session_holds_outlives_a_version_without_a_configuration(made: Arena) -> None:
    first = made.client()
    assert first.damage() == 1
    made.publish(damage=2)
    made.service.handoff(*QUICK, command=made.version("plain", PLAIN))
    between = made.client()
    assert [first.damage(), between.damage()] == [0, 0]
    made.service.handoff(*QUICK, command=made.version("third", PROGRAM))
    assert [first.damage(), between.damage(), made.client().damage()] == [1, 2, 2]


def test_all_that_move_together_do_so_only_if_the_new_code_reads_every_release(tmp_path: Path) -> None:
    options = 'cutover="together", export_state=lambda: 1, import_state=lambda value: None, log_style="json"'
    together = PROGRAM.replace('log_style="json"', options)
    with arena(tmp_path, together) as made:
        first = made.client()
        assert first.damage() == 1
        publish(made.store, {"harm": 2})
        other = OTHER.replace('log_style="json"', options)
        report = made.service.handoff(*QUICK, expect=1, command=made.version("other", other))
        assert report["reason"].startswith("config-unreadable: release 1 of 'arena': ")
        assert first.ask()[::2] == (1, made.service.pids[0])
        made.service.handoff(*QUICK, command=made.version("upgrading", UPGRADING.replace('log_style="json"', options)))
        assert first.ask()[::2] == (1, made.service.pid)


def test_nothing_of_a_release_is_left_in_the_new_process_when_its_last_session_ends(made: Arena) -> None:
    first = made.client()
    assert first.damage() == 1
    for damage in (2, 3):
        made.publish(damage=damage)
        assert made.client().damage() == damage
    made.service.handoff(*QUICK)
    assert of_module(made.service, "pinned") == {"1": 1, "2": 1, "3": 1}
    first.close()
    harness.becomes(lambda: of_module(made.service, "pinned"), {"2": 1, "3": 1})
