"""What is started: this program again, what an operator names, or what ran before, if it still is what it was."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hotfd.errors import HandoffRefused
from hotfd.server import launch
from hotfd.server.launch import Launch, choose
from hotfd.server.options import Options
from hotfd.transfer.fingerprint import read
from hotfd.transfer.history import Entry, History
from hotfd.transfer.process import ORIGIN, Origin


def ran(directory: Path, generation: int) -> Entry:
    """Return the entry of a generation that ran ``server.py`` in a directory, which a link named."""
    directory.mkdir(exist_ok=True)
    script = directory / "server.py"
    script.write_text(str(generation))
    origin = Origin(
        ("python", "server.py"), "/srv/current", {"GENERATION": str(generation)}, (sys.executable, "server.py"),
        str(directory),
    )  # fmt: skip
    made = Entry.of(origin, generation=generation, pid=1, started=1.0, hotfd="1", python="3", state_version=1)
    return msgspec.structs.replace(made, fingerprint=read([(str(script), "")]))


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History([ran(tmp_path / "v1", 1)]).followed_by(ran(tmp_path / "v2", 2), None)


def chosen(history: History | None, **options: Any) -> Launch:
    return asyncio.run(choose(Options(**options), history))


def refused(history: History | None, **options: Any) -> str:
    with pytest.raises(HandoffRefused) as caught:
        chosen(history, **options)
    return str(caught.value)


def test_a_plain_handoff_starts_this_program_by_the_operators_names(history: History) -> None:
    assert chosen(history) == Launch(("python", "server.py"), "/srv/current", {"GENERATION": "2"})


def test_a_command_is_started_with_the_environment_of_this_process(history: History) -> None:
    launch = chosen(history, command=("other",), cwd="/opt")
    assert launch == Launch(("other",), "/opt", {"GENERATION": "2"})


def test_a_process_that_remembers_nothing_starts_as_it_was_started_itself() -> None:
    assert chosen(None) == Launch(ORIGIN.command, ORIGIN.cwd, ORIGIN.environment)
    assert refused(None, rollback=True).startswith("nothing-to-roll-back-to: ")


def test_going_back_starts_the_real_files_in_the_real_directory(history: History, tmp_path: Path) -> None:
    expected = Launch((sys.executable, "server.py"), str(tmp_path / "v1"), {"GENERATION": "1"}, back_to=1)
    assert chosen(history, rollback=True) == expected
    assert chosen(history, rollback=True, to=1) == expected


def test_what_has_changed_is_started_only_by_force(history: History, tmp_path: Path) -> None:
    (tmp_path / "v1" / "server.py").write_text("another")
    assert refused(history, rollback=True).startswith(f"same-code: {tmp_path}/v1/server.py has changed since ")
    assert chosen(history, rollback=True, force=True).back_to == 1


def test_what_is_gone_is_not_started_at_all(history: History, tmp_path: Path) -> None:
    os.rename(tmp_path / "v1", tmp_path / "elsewhere")
    assert refused(history, rollback=True, force=True).startswith("not-found: ")


def test_a_file_system_that_hangs_holds_nobody(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(function: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(launch, "aside", forever)
    assert refused(history, rollback=True, deadline=0.01).endswith("could not be looked at in 0.01 s")


def test_no_value_of_an_environment_is_in_the_text_of_a_launch(history: History) -> None:
    assert "GENERATION" not in repr(chosen(history))


def test_who_watches_the_service_now_is_not_forgotten(history: History) -> None:
    first, current = history.entries[0], history.entries[-1]
    first.environment = [*first.environment, (b"NOTIFY_SOCKET", b"/gone"), (b"HOTFD_WORKER", b"1")]
    current.environment = [*current.environment, (b"NOTIFY_SOCKET", b"/now"), (b"HOTFD_SUPERVISOR", b"7")]
    environment = chosen(history, rollback=True, to=first.generation, force=True).environment
    assert environment["NOTIFY_SOCKET"] == "/now"
    assert environment["HOTFD_SUPERVISOR"] == "7"
    assert "HOTFD_WORKER" not in environment
