"""What going back must bear: odd modules, interpreters behind links, and downgrades that change what they are given."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from hotfd.display.history import listing
from hotfd.state import Codec, State
from hotfd.transfer import fingerprint
from hotfd.transfer.fingerprint import Fingerprint, loaded_files, read
from hotfd.transfer.process import ORIGIN

ROOT = str(Path(__file__).parents[2])


def older(newer: Codec[Any], code: Any) -> Any:
    """Return what writes states for older code."""
    writer = newer.older(json.loads(json.dumps(Codec.of(code).schema)))
    assert not isinstance(writer, str), writer
    return writer


# -- what is loaded -----------------------------------------------------------------------------------


class Optional(types.ModuleType):
    """A module that says what it lacks to everybody who asks it anything."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError("an optional dependency is missing")


class Slotted:
    """No module, and without attributes of its own."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError


@pytest.mark.parametrize("make", [lambda: Optional("odd"), lambda: Slotted(), lambda: None])
def test_a_module_that_raises_when_it_is_asked_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    monkeypatch.setitem(sys.modules, "odd", make())
    assert __file__ in dict(loaded_files(ORIGIN))


def test_a_module_that_loads_itself_at_its_first_use_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "lazy.py"
    source.write_text("raise AssertionError('it was loaded')")
    spec = importlib.util.spec_from_file_location("lazy", source)
    assert spec is not None and spec.loader is not None
    loader = spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    loader.exec_module(lazy)
    assert str(source) in dict(loaded_files(ORIGIN)), "it will be loaded, and counts"


def test_an_interpreter_is_marked_by_the_name_that_will_be_run_again(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    text = (
        "import sys, orjson; from hotfd.transfer import fingerprint as f, process as p; "
        "sys.stdout.buffer.write(orjson.dumps(f.loaded_files(p.ORIGIN)))"
    )
    path = os.pathsep.join([ROOT, *filter(None, sys.path)])
    done = subprocess.run(
        [str(python), "-c", text], env={"PYTHONPATH": path}, check=True, stdout=subprocess.PIPE, cwd=tmp_path
    )
    files = [(path, name) for path, name in orjson.loads(done.stdout) if os.path.basename(path).startswith("python")]
    assert files == [(str(python), "")]
    before = read(files)
    assert before.change() is None
    python.unlink()
    python.symlink_to("/bin/true")
    assert before.change() == f"{python} has changed"


# -- what is loaded later -----------------------------------------------------------------------------


def program(directory: Path, *names: str) -> list[tuple[str, str]]:
    """Write some modules that say nothing, and return them as they are marked."""
    for name in names:
        (directory / name).write_text(f"# {name}")
    return [(str(directory / name), "") for name in names]


def test_what_was_loaded_later_is_a_part_of_what_ran(tmp_path: Path) -> None:
    first, late = program(tmp_path, "a.py", "late.py")
    found = read([first]).and_later([first, late])
    assert [os.fsdecode(mark.path) for mark in found.later] == [late[0]]
    assert found.and_later([first, late]) == found
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Fingerprint)
    assert again == found
    Path(late[0]).write_text("# changed")
    assert again.change() == f"{late[0]} has changed"


def test_what_was_loaded_later_makes_no_other_version_of_one_unless_it_differs(tmp_path: Path) -> None:
    first, late = program(tmp_path, "a.py", "late.py")
    alone, more = read([first]), read([first]).and_later([late])
    assert alone.same(more)
    assert more.same(alone)
    Path(late[0]).write_text("# changed")
    assert not more.same(read([first]).and_later([late]))
    assert not more.same(read([late])), "what is loaded at the start is another matter"


def test_too_much_that_was_loaded_later_counts_as_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "MAX_MARKS", 2)
    files = program(tmp_path, "a.py", "b.py", "c.py", "d.py")
    assert read(files[:1]).and_later(files[1:3]).complete
    found = read(files[:1]).and_later(files[1:2]).and_later(files[2:])
    assert not found.complete
    assert len(found.later) == 2


def test_an_older_hotfd_says_nothing_of_what_was_loaded_later(tmp_path: Path) -> None:
    found = read(program(tmp_path, "a.py"))
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(found))[:2]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Fingerprint) == found


def test_a_directory_that_was_gone_is_told_as_such() -> None:
    row = {"generation": 1, "command": ["server"], "cwd": "/srv/current", "directory": ""}
    assert "   in /srv/current, which was gone" in listing({"generations": [row]})


# -- downgrades ---------------------------------------------------------------------------------------


@dataclass
class Seat:
    """Part of a state."""

    marks: list[str] = field(default_factory=list)
    colour: str = "red"
    version = 2

    @classmethod
    def downgrade(cls, state: Seat, version: int) -> dict[str, Any]:
        state.marks.append("changed")
        state.colour = "none"
        return {"marks": state.marks}


@dataclass
class Visitor:
    """The newer state; it has nothing to go back from but its seats."""

    seats: list[Seat] = field(default_factory=list)


OldSeat = make_dataclass("Seat", [("marks", list[str], field(default_factory=list))], namespace={"version": 1})
OldVisitor = make_dataclass("Visitor", [("seats", list[OldSeat], field(default_factory=list))])  # type: ignore[valid-type]


def test_a_downgrade_that_changes_its_argument_changes_no_live_state() -> None:
    newer = Codec.of(Visitor)
    live = Visitor([Seat(["a"], "blue"), Seat()])
    writer = older(newer, OldVisitor)
    read_there = Codec.of(OldVisitor).reader(writer.schema)(writer.encode(live))
    assert [seat.marks for seat in read_there.seats] == [["a", "changed"], ["changed"]]
    assert live == Visitor([Seat(["a"], "blue"), Seat()])


def test_a_downgrade_of_the_whole_gets_a_copy_too() -> None:
    def downgrade(state: dict[str, list[int]], version: int) -> list[int]:
        return state.pop("points")

    newer = Codec.of(State(dict[str, list[int]], version=2, downgrade=downgrade, new=dict))
    writer = older(newer, State(list[int], version=1, new=list))
    live = {"points": [1, 2]}
    for _ in range(2):
        assert Codec.of(State(list[int], version=1, new=list)).reader(writer.schema)(writer.encode(live)) == [1, 2]
    assert live == {"points": [1, 2]}
