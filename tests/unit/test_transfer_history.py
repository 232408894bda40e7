"""What ran before: where going back leads, what it runs, and that nothing of it is shown."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hotfd import _core
from hotfd.errors import ChannelError, HandoffRefused
from hotfd.transfer import history as module
from hotfd.transfer.fingerprint import Fingerprint, Mark
from hotfd.transfer.history import MAX_ENTRIES, Entry, History
from hotfd.transfer.process import Origin
from tests.unit.wire_support import nothing_stays_open

pytestmark = pytest.mark.usefixtures("nothing_stays_open")
__all__ = ["nothing_stays_open"]


def ran(what: str) -> Fingerprint:
    """Return the fingerprint of a version."""
    return Fingerprint([Mark(b"/srv/server.py", "", 1, 1, 1, what.encode())])


def entry(generation: int, what: str = "", **environment: str) -> Entry:
    """Return the entry of a process that was started to run a version."""
    made = Entry.of(
        Origin((sys.executable, f"{what}.py"), "/srv/current", {"SECRET": "s3cr3t", **environment}, (), f"/srv/{what}"),
        generation=generation,
        pid=1000 + generation,
        started=1.5,
        hotfd="1.0",
        python="3.12",
        state_version=2,
    )
    made.fingerprint = ran(what)
    return made


def deployed(*versions: str) -> History:
    """Return the history after versions were handed over one after another; ``<3`` goes back to generation 3."""
    history = History([entry(1, versions[0])])
    for generation, version in enumerate(versions[1:], 2):
        back_to = int(version[1:]) if version.startswith("<") else None
        what = os.fsdecode(history.named(back_to).exact[1])[:-3] if back_to else version
        history = history.followed_by(entry(generation, what), back_to)
    return history


@pytest.mark.parametrize(
    ("versions", "leads_to"),
    [
        ("a b", 1),
        ("a b c", 2),
        ("a b c <2", 1),
        ("a b <1 c", 3),
        ("a b c <1 d <4", None),
        ("a b c <2 d <4", 1),
        ("a b <1", None),
        ("a", None),
        ("a a", None),
        ("a b b b", 1),
        ("a b c <2 <1", None),
        ("a b c <2 <1 <3", 2),
    ],
)
def test_going_back_leads_to_what_ran_before_that_which_runs_now(versions: str, leads_to: int | None) -> None:
    history = deployed(*versions.split())
    if leads_to is not None:
        assert history.previous().generation == leads_to
        return
    with pytest.raises(HandoffRefused) as caught:
        history.previous()
    assert caught.value.code == "nothing-to-roll-back-to"


def test_a_generation_that_went_back_runs_what_ran_first() -> None:
    history = deployed("a", "b", "<1", "c", "<3")
    assert [(known.how, known.runs) for known in history.entries] == [
        ("start", 1), ("handoff", 2), ("rollback", 1), ("handoff", 4), ("rollback", 1),
    ]  # fmt: skip


def test_who_went_back_keeps_the_names_and_runs_the_real_files() -> None:
    history = History([entry(1, "a"), entry(2, "b")])
    real = Origin(("/real/python", "/srv/a/server.py"), "/srv/a", {}, ("/real/python", "/srv/a/server.py"), "/srv/a")
    again = Entry.of(real, generation=3, pid=3, started=1.0, hotfd="", python="", state_version=1)
    origin = history.followed_by(again, 1).current.origin
    assert (origin.command, origin.cwd) == ((sys.executable, "a.py"), "/srv/current")
    assert (origin.exact, origin.directory) == (("/real/python", "/srv/a/server.py"), "/srv/a")


def test_a_generation_is_found_by_its_number_unless_it_runs_or_is_forgotten() -> None:
    history = deployed("a", "b", "c")
    assert history.named(1).generation == 1
    for number, text in ((3, "is the one that runs"), (9, "is not remembered; known: 1, 2")):
        with pytest.raises(HandoffRefused, match=text) as caught:
            history.named(number)
        assert caught.value.code == "unknown-generation"


def test_the_oldest_are_forgotten() -> None:
    history = deployed(*(f"v{number}" for number in range(1, 30)))
    assert [known.generation for known in history.entries] == list(range(30 - MAX_ENTRIES, 30))


def test_what_one_went_back_to_may_be_forgotten() -> None:
    history = deployed("a", "b", "c")
    history = history.followed_by(entry(4, "a"), 1)
    history.entries = history.entries[1:]
    with pytest.raises(HandoffRefused, match="nothing-to-roll-back-to"):
        history.previous()


def test_the_same_again_is_no_other_version_but_for_what_a_shell_sets() -> None:
    assert entry(1, "a").same(entry(2, "a", SHLVL="2", OLDPWD="/", _="x"))
    assert entry(1, "a").same(entry(2, "a", NOTIFY_SOCKET="/run/notify", HOTFD_SUPERVISOR="7"))
    assert not entry(1, "a").same(entry(2, "a", MODE="fast"))
    assert not entry(1, "a").same(entry(2, "b"))
    unknown = entry(2, "a")
    unknown.fingerprint = None
    assert not entry(1, "a").same(unknown)
    assert not unknown.same(unknown)


# -- whether it can be run again ----------------------------------------------------------------------


def runnable(place: Path, **origin: Any) -> Entry:
    """Return an entry that can be run again."""
    made = entry(1, "a")
    values = {"exact": [os.fsencode(sys.executable)], "directory": os.fsencode(place), **origin}
    made = msgspec.structs.replace(made, **values)
    made.fingerprint = Fingerprint([])
    return made


def test_what_is_there_as_it_was_can_be_run_again(tmp_path: Path) -> None:
    assert runnable(tmp_path).check() is None
    (tmp_path / "python").symlink_to(sys.executable)
    assert runnable(tmp_path, exact=[b"./python"]).check() is None


@pytest.mark.parametrize(
    ("origin", "code", "text"),
    [
        ({"directory": b"/no/such/release"}, "not-found", "the directory /no/such/release that generation 1 ran in is gone"),
        ({"directory": b""}, "not-found", "the directory that generation 1 ran in is gone"),
        ({"exact": [b"/no/such/python"]}, "not-found", "the interpreter /no/such/python that generation 1 ran on is gone"),
    ],
)  # fmt: skip
def test_what_is_gone_is_named(tmp_path: Path, origin: dict[str, Any], code: str, text: str) -> None:
    problem = runnable(tmp_path, **origin).check()
    assert problem is not None
    assert problem.code == code
    assert text in problem.detail


def test_what_has_changed_or_is_not_known_is_not_the_same_code(tmp_path: Path) -> None:
    made = runnable(tmp_path)
    made.fingerprint = ran("a")
    problem = made.check()
    assert problem is not None
    assert str(problem) == "same-code: /srv/server.py has gone since generation 1 ran; put it back, or use --force"
    made.fingerprint = None
    problem = made.check()
    assert problem is not None
    assert problem.code == "same-code"


# -- on its way to the next process -------------------------------------------------------------------


def through_memory(history: History) -> History:
    memfd = history.seal()
    try:
        return History.unsealed(memfd)
    finally:
        os.close(memfd)


def test_it_comes_back_as_it_went() -> None:
    history = deployed("a", "b", "<1")
    history.current.fingerprint = None
    assert [msgspec.structs.asdict(known) for known in through_memory(history).entries] == [
        msgspec.structs.asdict(known) for known in history.entries
    ]


def test_names_need_not_be_text() -> None:
    odd = os.fsdecode(b"/srv/\xff")
    origin = Origin((odd, odd), odd, {odd: odd}, (odd, odd), odd)
    made = Entry.of(origin, generation=1, pid=1, started=1.0, hotfd="", python="", state_version=1)
    assert through_memory(History([made])).current.origin == origin


def test_a_history_that_is_too_large_loses_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    history = deployed("a", "b", "c")
    monkeypatch.setattr(module, "MAX_BYTES", len(msgspec.msgpack.encode(history.entries)) - 1)
    assert [known.generation for known in through_memory(history).entries] == [2, 3]


@pytest.mark.parametrize(
    "content", [b"", b"\x90", b"\xc1", b"s3cr3t", msgspec.msgpack.encode([["s3cr3t"]]), b"\x91" * 5000]
)
def test_what_is_no_history_is_refused_without_its_content(content: bytes) -> None:
    memfd = _core.memfd_seal("test", [content])
    try:
        with pytest.raises(ChannelError) as caught:
            History.unsealed(memfd)
    finally:
        os.close(memfd)
    assert "s3cr3t" not in str(caught.value)


def test_memory_that_can_still_change_is_refused() -> None:
    memfd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(memfd, msgspec.msgpack.encode(deployed("a").entries))
        with pytest.raises(ChannelError):
            History.unsealed(memfd)
    finally:
        os.close(memfd)


def test_an_entry_shows_nothing_of_its_environment() -> None:
    made = entry(1, "a")
    for text in (repr(made), str(made), repr([made]), repr(made.origin)):
        assert "s3cr3t" not in text
