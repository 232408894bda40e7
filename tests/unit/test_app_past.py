"""What a server remembers of itself: marked once it serves, told without its environment."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import types
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from hotfd.app import past as module
from hotfd.app.past import Past
from hotfd.transfer.process import ORIGIN

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from hotfd.transfer.fingerprint import Fingerprint
    from hotfd.transfer.history import History


def told(use: Callable[[Past], Awaitable[Any]], before: History | None = None, **options: Any) -> Any:
    """Use the memory of a process of generation 1, or of the next one after those before it."""

    async def main() -> Any:
        past = Past(state_version=7)
        past.begin(before, len(before.entries) + 1 if before else 1, options.get("back_to"))
        try:
            return await use(past)
        finally:
            await past.aclose()

    return asyncio.run(main())


def test_a_first_process_remembers_itself_alone() -> None:
    history = told(Past.known)
    assert history.current.pid == os.getpid()
    assert (history.current.how, history.current.state_version) == ("start", 7)
    assert history.current.fingerprint.change() is None
    assert history.current.origin.environment == ORIGIN.environment


def test_a_later_one_remembers_those_before_it_and_whether_it_went_back() -> None:
    history = told(Past.known, told(Past.known, told(Past.known)), back_to=1)
    assert [(entry.generation, entry.how, entry.runs) for entry in history.entries] == [
        (1, "start", 1), (2, "handoff", 2), (3, "rollback", 1),
    ]  # fmt: skip


def test_what_it_tells_is_json_and_has_no_environment() -> None:
    answer = told(Past.tell, told(Past.known))
    json.dumps(answer)
    assert [row["current"] for row in answer["generations"]] == [False, True]
    assert [row["rollback"] for row in answer["generations"]] == [True, False]
    assert "environment" not in answer["generations"][0]
    assert answer["rollback_to"] is None, "both ran the same"
    assert answer["reason"].startswith("nothing-to-roll-back-to: ")


def test_names_that_are_no_text_are_told_as_some() -> None:
    history = told(Past.known)
    history.current.command = [b"caf\xe9"]
    history.current.cwd = b"/\xff"
    row = told(Past.tell, history)["generations"][0]
    assert (row["command"], row["cwd"]) == (["caf\\xe9"], "/\\xff")


def test_a_process_whose_files_cannot_be_marked_serves_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(modules: object) -> Fingerprint:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "_mark", fail)
    with caplog.at_level(logging.WARNING, "hotfd"):
        history = told(Past.known)
    assert history.current.fingerprint is None
    assert "fingerprint-failed" in caplog.text
    assert history.current.check().code == "same-code"


def test_one_that_never_began_is_closed() -> None:
    asyncio.run(Past(1).aclose())


def test_marking_that_fails_in_any_way_takes_no_server_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(modules: object) -> Fingerprint:
        raise ImportError("a module that raises, with a text that is the program's own")

    monkeypatch.setattr(module, "_mark", fail)
    with caplog.at_level(logging.WARNING, "hotfd"):
        assert told(Past.known).current.fingerprint is None
    assert "ImportError" in caplog.text
    assert "own" not in caplog.text


def test_what_is_imported_later_is_marked_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "late.py"
    source.write_text("")

    async def use(past: Past) -> History:
        first = (await past.complete()).current.fingerprint
        assert (await past.complete()).current.fingerprint is first, "nothing was imported, and nothing is looked at"
        late = types.ModuleType("late")
        late.__file__ = str(source)
        monkeypatch.setitem(sys.modules, "late", late)
        return await past.complete()

    marked = told(use).current.fingerprint
    assert [mark.path for mark in marked.later] == [os.fsencode(source)]


def test_marking_later_that_fails_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(known: Fingerprint, modules: object) -> Fingerprint:
        raise OSError(24, "Too many open files")

    async def use(past: Past) -> History:
        await past.complete()
        monkeypatch.setitem(sys.modules, "late", types.ModuleType("late"))
        monkeypatch.setattr(module, "_mark_later", fail)
        return await past.complete()

    assert told(use).current.fingerprint.change() is None
