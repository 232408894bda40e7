"""Generations that overlap, and what becomes of shared sessions when one of them dies, hangs or is replaced meanwhile."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.test_rooms import ROOMS, Player, in_room, player

FAULTS = """
    import os
    import pathlib
    import signal
    import sys

    from hotfd.server.moving import Moving
    from hotfd.server.remainder import Follow
    from hotfd.server.takeover import Takeover
    from hotfd.wire import messages as m


    def fault(point):
        # What the file "fault" beside the program says, "POINT SIGNAL", happens once, to whoever comes to the point.
        file = pathlib.Path(sys.argv[0]).with_name("fault")
        try:
            where, number = file.read_text().split()
        except FileNotFoundError:  # none is armed, or the other process has just come to its own
            return
        if where == point:
            file.unlink()
            os.kill(os.getpid(), getattr(signal, number))


    def at(owner, name, point, when, *, after=False):
        original = getattr(owner, name)

        def wrapped(self, *args):
            concerned = when(self, *args)
            if concerned and not after:
                fault(point)
            result = original(self, *args)
            if concerned and after:
                fault(point)
            return result

        setattr(owner, name, wrapped)


    at(Follow, "_book", "older-begins", lambda self: True)
    at(Follow, "_dispatch", "older-is-answered", lambda self, message, ids: isinstance(message, m.Accept))
    at(Moving, "_commit", "older-has-committed", lambda self, items: self.engine.mover is self, after=True)
    at(Takeover, "_take_part", "newest-is-offered", lambda self, *_: self._remainder)
    at(Takeover, "_own", "newest-is-committed", lambda self, ids: self._remainder)
"""
"""A prelude to a program: faults in the midst of a handover of what had stayed behind."""

PARTIAL = ("--probation", "0.1", "--boundary-timeout", "0.1")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[harness.Server]:
    with rooms(tmp_path, FAULTS) as made:
        yield made


@contextmanager
def rooms(tmp_path: Path, *preludes: str) -> Iterator[harness.Server]:
    """Run the program of rooms with something before it; close its players."""
    source = "".join(map(textwrap.dedent, (*preludes, ROOMS)))
    with harness.program(tmp_path, source) as made:
        made.players = []  # type: ignore[attr-defined]
        yield made
        for one in made.players:  # type: ignore[attr-defined]
            one.close()


def arm(tmp_path: Path, point: str, name: str) -> None:
    (tmp_path / "fault").write_text(f"{point} {name}")


def left_behind(service: harness.Server, key: str = "a", count: int = 2) -> list[Player]:
    """Hand over while the first member of a room must not move: the room stays in the old process."""
    members = in_room(service, key, count)
    assert members[0].ask("stay") == "staying"
    report = service.handoff(*PARTIAL, expect=3)
    assert report["connections"]["kept"] == count
    return members


def late(service: harness.Server, key: str = "a") -> Player:
    """A player of the newest process who waits for a room that had stayed behind."""
    one = player(service)
    one.say(key)
    harness.becomes(lambda: service.status()["connections"] >= 1, True)
    return one


def counts_once(members: list[Player], line: str) -> None:
    """Count in a room: each member is told once, and the next thing that each hears is the answer to his question."""
    members[-1].say("+")
    assert [one.hear() for one in members] == [line] * len(members)
    key, number = line.split()
    assert {one.ask("?") for one in members} == {f"{key} {number} {len(members)}"}


def descriptors_of_fresh(tmp_path: Path, members: int) -> int:
    """How many descriptors a process has that has served nothing but a room."""
    directory = tmp_path / "fresh"
    directory.mkdir()
    with rooms(directory) as fresh:
        in_room(fresh, "a", members)
        return harness.descriptors_of(fresh.pid)


# ---------------------------------------------------------------- while what had stayed behind is on its way


@pytest.mark.parametrize("point", ["newest-is-offered", "newest-is-committed"])
def test_when_the_newest_dies_the_room_goes_on_where_it_was(
    service: harness.Server, tmp_path: Path, point: str
) -> None:
    one, two = left_behind(service)
    arm(tmp_path, point, "SIGKILL")
    late(service)
    assert one.ask("go") == "going"
    dies(tmp_path, service.pids[1])
    counts_once([one, two], "a 1")
    assert one.ask("pid") == str(service.pids[0])
    assert one.ask("new") == "elsewhere", "who was replaced makes no session, also when it is left alone"
    counts_once([one, two], "a 2")
    fresh = descriptors_of_fresh(tmp_path, 2)
    harness.becomes(lambda: harness.descriptors_of(service.pids[0]), fresh - 1)  # it does not listen


def test_when_the_newest_hangs_the_room_goes_on_and_comes_when_that_wakes_up(tmp_path: Path) -> None:
    with rooms(tmp_path, harness.IMPATIENT, FAULTS) as service:
        one, two = left_behind(service)
        three = late(service)
        arm(tmp_path, "newest-is-offered", "SIGSTOP")
        assert one.ask("go") == "going"
        harness.becomes(lambda: harness.stopped(service.pids[1]), True)
        counts_once([one, two], "a 1")
        assert one.ask("pid") == str(service.pids[0])
        harness.kill(service.pids[1], signal.SIGCONT)
        assert three.hear() == "in a"
        counts_once([one, two, three], "a 2")
        harness.wait_gone(service.pids[0])
        fresh = descriptors_of_fresh(tmp_path, 3)
        harness.becomes(lambda: harness.descriptors_of(service.pid), fresh)


def test_when_the_newest_hangs_with_what_was_committed_to_it_and_dies_the_room_comes_back(
    service: harness.Server, tmp_path: Path
) -> None:
    one, two = left_behind(service)
    late(service)
    arm(tmp_path, "newest-is-committed", "SIGSTOP")
    assert one.ask("go") == "going"
    two.say("?")
    harness.becomes(lambda: harness.stopped(service.pids[1]), True)
    harness.kill(service.pids[1])
    dies(tmp_path, service.pids[1])
    assert two.hear() == "a 0 2"
    counts_once([one, two], "a 1")


def dies(tmp_path: Path, pid: int) -> None:
    """Wait until a process is dead that nobody is to clean up after, but the next one who looks."""
    harness.wait_gone(pid)
    (tmp_path / "run" / f"{pid}.sock").unlink()


@pytest.mark.parametrize("point", ["older-is-answered", "older-has-committed"])
def test_when_the_older_dies_the_newest_has_what_was_offered_to_it(
    service: harness.Server, tmp_path: Path, point: str
) -> None:
    one, two = left_behind(service)
    arm(tmp_path, point, "SIGKILL")
    three = late(service)
    assert one.ask("go") == "going"
    harness.wait_gone(service.pids[0])
    assert three.hear() == "in a"
    counts_once([one, two, three], "a 1")
    assert one.ask("pid") == str(service.pid)
    fresh = descriptors_of_fresh(tmp_path, 3)
    harness.becomes(lambda: harness.descriptors_of(service.pid), fresh)


def test_when_the_older_dies_before_it_has_offered_anything_its_keys_are_free(
    service: harness.Server, tmp_path: Path
) -> None:
    one, _ = left_behind(service)
    arm(tmp_path, "older-begins", "SIGKILL")
    three = late(service)
    assert three.hear() == "in a"
    assert three.ask("?") == "a 0 1", "it is a new session"
    assert one.sock.recv(1) == b""
    fresh = descriptors_of_fresh(tmp_path, 1)
    harness.becomes(lambda: harness.descriptors_of(service.pid), fresh)


def test_a_handoff_of_the_newest_supersedes_what_is_on_its_way_to_it(service: harness.Server, tmp_path: Path) -> None:
    one, two = left_behind(service)
    arm(tmp_path, "older-begins", "SIGSTOP")
    three = late(service)
    one.say("go")
    harness.becomes(lambda: harness.stopped(service.pids[0]), True)
    service.handoff(*PARTIAL)
    harness.kill(service.pids[0], signal.SIGCONT)
    assert one.hear() == "going"
    assert three.ask("?") == "a 0 3", "it has come there with its wish, and is in"
    counts_once([one, two, three], "a 1")
    assert one.ask("pid") == str(service.pids[2])
    for pid in service.pids[:2]:
        harness.wait_gone(pid)
    fresh = descriptors_of_fresh(tmp_path, 3)
    harness.becomes(lambda: harness.descriptors_of(service.pid), fresh)


# ---------------------------------------------------------------- three generations


@pytest.mark.parametrize("moment", ["in-its-probation", "when-it-is-replaced"])
def test_when_the_one_in_the_middle_dies_the_others_are_neighbours_all_the_same(
    service: harness.Server, moment: str
) -> None:
    one, two = left_behind(service)
    middle = in_room(service, "b", 1)[0]
    if moment == "when-it-is-replaced":
        assert middle.ask("stay") == "staying"
        service.handoff(*PARTIAL, expect=3)
        harness.kill(service.pids[1])
    else:
        command = [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "60"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as operator:
            harness.becomes(lambda: (service.status()["handoff"] or {}).get("phase"), "probation")
            newest = service.status()["handoff"]["new_pid"]
            harness.kill(service.pid)
            operator.wait(harness.PATIENCE)
        service.pids.append(newest)
        service.pid = newest
    harness.wait_gone(service.pids[1])
    three = late(service)
    assert two.ask("?") == "a 0 2", "the room is where it was, and nowhere else"
    assert one.ask("go") == "going"
    assert three.hear() == "in a"
    counts_once([one, two, three], "a 1")
    assert one.ask("pid") == str(service.pids[2])
    harness.wait_gone(service.pids[0])


def test_when_the_newest_of_three_dies_none_of_the_others_makes_what_the_other_could_make(
    service: harness.Server, tmp_path: Path
) -> None:
    one, _ = left_behind(service, "a")
    other, _ = left_behind(service, "b")
    harness.kill(service.pids[2])
    dies(tmp_path, service.pids[2])
    assert one.ask("?") == "a 0 2"
    assert other.ask("?") == "b 0 2"
    for orphan in (one, other):
        assert orphan.ask("c") == "elsewhere"


def test_a_handoff_that_fails_leaves_the_older_where_it_was(service: harness.Server, tmp_path: Path) -> None:
    one, two = left_behind(service)
    source = (tmp_path / "program.py").read_text()
    sick = source.replace('log_style="json")', 'log_style="json", healthy=lambda: CALLS.append(1) or len(CALLS) < 2)')
    bad = harness.script(tmp_path, "bad.py", "CALLS = []\n" + sick)
    command = [sys.executable, str(bad), str(service.port)]
    report = service.handoff("--probation", "30", expect=1, command=command)
    assert report["reason"].startswith("unhealthy")
    three = late(service)
    assert one.ask("go") == "going"
    assert three.hear() == "in a"
    counts_once([one, two, three], "a 1")
    assert one.ask("pid") == str(service.pids[1])
    harness.wait_gone(service.pids[0])
    fresh = descriptors_of_fresh(tmp_path, 3)
    harness.becomes(lambda: harness.descriptors_of(service.pid), fresh)


# ---------------------------------------------------------------- what is in the room


def test_a_room_of_three_hundred_that_had_stayed_behind_comes_whole(service: harness.Server, tmp_path: Path) -> None:
    members = left_behind(service, count=300)
    for one in members[1::50]:
        one.say("?")  # in the midst of it, too
    three = late(service)
    assert members[0].ask("go") == "going"
    assert three.hear() == "in a"
    for one in members[1::50]:
        assert one.hear() in {"a 0 300", "a 0 301"}
    counts_once([*members, three], "a 1")
    harness.wait_gone(service.pids[0])
    fresh = descriptors_of_fresh(tmp_path, 301)
    harness.becomes(lambda: harness.descriptors_of(service.pid), fresh)


def test_members_that_half_close_or_reset_in_a_room_left_behind_are_out_of_it(service: harness.Server) -> None:
    one, two, three, four = left_behind(service, count=4)
    two.say("+")
    two.sock.shutdown(socket.SHUT_WR)
    assert [member.hear() for member in (one, two, three, four)] == ["a 1"] * 4
    assert two.sock.recv(1) == b"", "its handler has ended in order"
    three.lines.close()
    three.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    three.sock.close()
    five = late(service)
    assert one.ask("go") == "going"
    assert five.hear() == "in a"
    counts_once([one, four, five], "a 2")
    harness.wait_gone(service.pids[0])


# ---------------------------------------------------------------- a version with other states


def version(tmp_path: Path, room: str) -> list[str]:
    """Write another version of the program, in which a room keeps something else."""
    source = (tmp_path / "program.py").read_text()
    before, rest = source.split("@dataclass\nclass Room:\n    number: int = 0\n")
    path = tmp_path / "version.py"
    path.write_text(before + textwrap.dedent(room) + rest)
    return [sys.executable, str(path)]


LACKS = """
    @dataclass
    class Hall:
        number: int = 0


    Room = None
"""

RENAMED = """
    @dataclass
    class Room:
        count: int = 0
"""

UPGRADED = """
    @dataclass
    class Room:
        count: int = 0
        version = 2

        @classmethod
        def upgrade(cls, old, version):
            assert version == 1
            return cls(old["number"] + 100)

        @property
        def number(self):
            return self.count

        @number.setter
        def number(self, value):
            self.count = value
"""


@pytest.mark.parametrize(
    ("room", "says"),
    [(LACKS, ["Room", "no such class", "session_states="]), (RENAMED, ["Room", "number"])],
    ids=["lacks-the-class", "has-renamed-a-field"],
)
def test_a_version_that_cannot_read_what_rooms_keep_is_refused_before_anything_moves(
    service: harness.Server, tmp_path: Path, room: str, says: list[str]
) -> None:
    members = in_room(service, "a", 2)
    counts_once(members, "a 1")
    command = [*version(tmp_path, room), str(service.port)]
    report = service.handoff(expect=1, command=command)
    for word in ("state-version", *says):
        assert word in report["reason"]
    counts_once(members, "a 2")
    assert members[0].ask("pid") == str(service.pid)
    assert not service.status()["older"]


def test_a_version_that_upgrades_what_rooms_keep_does_so_for_those_that_come_later_too(
    service: harness.Server, tmp_path: Path
) -> None:
    members = in_room(service, "a", 1)
    left = in_room(service, "b", 2)
    counts_once(left, "b 1")
    assert left[0].ask("stay") == "staying"
    command = [*version(tmp_path, UPGRADED), str(service.port)]
    report = service.handoff(*PARTIAL, expect=3, command=command)
    assert report["connections"] == {"moved": 1, "kept": 2, "returned": 0, "closed": 0}
    counts_once(members, "a 101")
    counts_once(left, "b 2")
    three = late(service, "b")
    assert left[0].ask("go") == "going"
    assert three.hear() == "in b"
    counts_once([*left, three], "b 103")
