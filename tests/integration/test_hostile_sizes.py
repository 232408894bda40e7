"""Too much of everything: connections to the control socket, bytes in a state, members of a room, descriptors."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hotfd.control.client import Client
from hotfd.control.errors import Unreachable
from hotfd.control.target import find
from tests.integration import harness
from tests.integration.config_serving import resident
from tests.integration.hostile import LIAR, Deceived, Witness
from tests.integration.test_rooms import ROOMS

pytestmark = pytest.mark.long  # ``make hostile``: too much for every run

SPARE = 500
"""Descriptors that this process needs beside its clients."""


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process, and what it starts, open so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + SPARE:
        pytest.skip(f"RLIMIT_NOFILE allows {hard} descriptors, {count + SPARE} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + SPARE), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- a crowd at the control socket ---------------------------------------------------------------------------------


MULTITUDE = 10_000
"""Clients of the control socket at once; a server takes sixty-four."""


def test_a_crowd_at_the_control_socket_delays_neither_clients_nor_a_handoff(tmp_path: Path) -> None:
    with descriptors(MULTITUDE), harness.counter(tmp_path) as service, ExitStack() as stack:
        deceived = stack.enter_context(Deceived(tmp_path, service).watched())
        go = tmp_path / "go"
        start = f"until [ -e {go} ]; do sleep 0.05; done; exec {sys.executable} {harness.EXAMPLES / 'counter.py'}"
        command = ["/bin/sh", "-c", f"{start} --listen 127.0.0.1:{service.port}"]
        # The operator was there first; what he has asked for goes on, whoever comes.
        with Client.connect(find(service.pid), harness.PATIENCE) as client:
            path = str(Path(os.environ["HOTFD_RUNTIME_DIR"], f"{service.pid}.sock"))
            answers = client.request("update", 2 * harness.PATIENCE, command=command, probation=0.2)
            while next(answers).get("phase") != "spawn":
                pass
            turned_away = 0
            for _ in range(MULTITUDE):
                each = stack.enter_context(socket.socket(socket.AF_UNIX))
                each.settimeout(harness.PATIENCE)
                each.connect(path)
                turned_away += b"too-many-clients" in each.recv(4096)
            deceived.unharmed("in the crowd")
            assert turned_away >= MULTITUDE - 64
            with pytest.raises(Unreachable) as refused:
                Client.connect(find(service.pid), harness.PATIENCE)
            assert refused.value.code == "too-many-clients"
            go.touch()
            report = list(answers)[-1]["result"]
        assert (report["outcome"], report["connections"]["moved"]) == ("completed", 4)
        service.pids.append(report["new_pid"])
        service.pid = report["new_pid"]
        deceived.unharmed("in the new process")


# -- a state of a hundred megabytes --------------------------------------------------------------------------------

HOARD = """
    import sys
    from dataclasses import dataclass

    import hotfd


    @dataclass
    class Hoard:
        data: bytes = b""


    async def talk(conn):
        async for line in conn:
            if line.startswith(b"+"):
                conn.state.data = bytes([len(conn.state.data) % 251]) * (int(line) << 20)
            elif line == b"-":
                conn.state.data = b""
            await conn.send(b"%d %d" % (len(conn.state.data), conn.state.data[-1] if conn.state.data else 0))


    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Hoard, name="hoard")
"""

HUGE = 100
"""MiB of one session's state."""


def test_a_state_of_a_hundred_megabytes_moves_and_its_memory_comes_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(harness.program(tmp_path, HOARD))
        talk, other = (stack.enter_context(stack.enter_context(service.connect()).makefile("rwb", 0)) for _ in range(2))

        def ask(what: bytes) -> bytes:
            talk.write(what + b"\n")
            return talk.readline().strip()

        assert ask(b"?") == b"0 0"
        small = resident(service.pid)
        whole = b"%d 0" % (HUGE << 20)
        assert ask(b"+%d" % HUGE) == whole
        report = service.handoff("--probation", "0.2")
        assert report["connections"] == {"moved": 2, "kept": 0, "returned": 0, "closed": 0}
        assert ask(b"?") == whole
        # What arrived was read, decoded and kept: one copy of it is left.
        harness.becomes(lambda: resident(service.pid) < small + 1.5 * HUGE, True)
        assert ask(b"-") == b"0 0"
        harness.becomes(lambda: resident(service.pid) < small + HUGE / 4, True)

        # One that cannot be taken costs no memory either: everything of it is given back.
        assert ask(b"+%d" % HUGE) == whole
        report = service.handoff(
            expect=1, command=(sys.executable, "-c", LIAR.format(root=str(harness.ROOT)) + "committed()")
        )
        assert report["reason"].startswith("new-exited")
        assert ask(b"?") == whole
        assert ask(b"-") == b"0 0"
        harness.becomes(lambda: resident(service.pid) < small + HUGE / 4, True)
        other.write(b"?\n")
        assert other.readline() == b"0 0\n"


# -- a session of thousands of connections -------------------------------------------------------------------------


MEMBERS = 5000
"""Connections of one session: twenty packets' worth of descriptors."""


def test_a_session_of_very_many_connections_moves_as_one(tmp_path: Path) -> None:
    with descriptors(MEMBERS), harness.program(tmp_path, ROOMS) as service, ExitStack() as stack:
        members = [stack.enter_context(service.connect()) for _ in range(MEMBERS)]
        heard = [stack.enter_context(member.makefile("rb")) for member in members]
        for member in members:
            member.sendall(b"hall\n")
        assert {reader.readline() for reader in heard} == {b"in hall\n"}
        report = service.handoff("--probation", "0.2")
        assert report["sessions"] == {"moved": 1, "kept": 0, "returned": 0, "closed": 0}
        assert report["connections"] == {"moved": MEMBERS, "kept": 0, "returned": 0, "closed": 0}
        members[-1].sendall(b"+\n")
        assert {reader.readline() for reader in heard} == {b"hall 1\n"}
        members[0].sendall(b"?\n")
        assert heard[0].readline() == b"hall 1 %d\n" % MEMBERS


# -- descriptors that run out in the middle ------------------------------------------------------------------------

CROWD = 150
"""Connections: more than one offer has."""

TIGHT = """
    import resource, runpy, sys

    from hotfd.server.engine import Engine

    usual = Engine.start_accepting

    def tighten(self):
        # The listeners have come; from here on there is room for {room} more.
        usual(self)
        import os
        count = len(os.listdir("/proc/self/fd")) + {room}
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    if "HOTFD_CHANNEL" in __import__("os").environ:
        Engine.start_accepting = tighten
    sys.argv[0] = {path!r}
    runpy.run_path({path!r}, run_name="__main__")
"""


@pytest.mark.parametrize("room", [10, 100])
def test_a_new_process_that_runs_out_of_descriptors_takes_what_it_can_and_the_reason_says_what_to_raise(
    tmp_path: Path, room: int
) -> None:
    tight = harness.script(tmp_path, "tight.py", TIGHT.format(room=room, path=str(harness.EXAMPLES / "counter.py")))
    with harness.counter(tmp_path) as service, ExitStack() as stack:
        witnesses = [Witness(service) for _ in range(CROWD)]
        for witness in witnesses:
            stack.callback(witness.close)
            witness.say()
        command = (sys.executable, str(tight), "--listen", f"127.0.0.1:{service.port}")
        report = service.handoff("--probation", "0.2", expect=None, command=command)
        told = f"{report}\n{service.logged()[-4000:]}"
        assert report["connections"]["closed"] == 0, told
        if report["outcome"] == "rolled-back":
            assert report["reason"].startswith("descriptors: "), told
            assert "LimitNOFILE" in report["reason"], told
        else:
            assert report["outcome"] == "partial", told
            assert report["reasons"].keys() == {"descriptors"}, told
            assert report["connections"]["moved"] + report["connections"]["kept"] == CROWD, told
        assert (report["outcome"] == "rolled-back") == (room == 10), told
        for witness in witnesses:
            witness.say()


SCARCE = """
    import os, resource, runpy, sys

    from hotfd.server.moving import Moving

    usual = Moving.offer

    def offer(self, *arguments):
        # Nothing can be opened while the second offer is made.
        Moving.offers = getattr(Moving, "offers", 0) + 1
        if Moving.offers != 2:
            return usual(self, *arguments)
        was = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, was[1]))
        try:
            return usual(self, *arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, was)

    Moving.offer = offer
    sys.argv[0] = {path!r}
    runpy.run_path({path!r}, run_name="__main__")
"""


def test_an_old_process_that_runs_out_of_descriptors_rolls_back_and_says_what_to_raise(tmp_path: Path) -> None:
    port = harness.free_port()
    scarce = harness.script(tmp_path, "scarce.py", SCARCE.format(path=str(harness.EXAMPLES / "counter.py")))
    command = [sys.executable, str(scarce), "--listen", f"127.0.0.1:{port}"]
    with harness.server(tmp_path, command, port) as service, ExitStack() as stack:
        witnesses = [Witness(service) for _ in range(CROWD)]
        for witness in witnesses:
            stack.callback(witness.close)
            witness.say()
        report = service.handoff("--probation", "0.2", expect=1)
        assert report["outcome"] == "rolled-back"
        assert report["reason"].startswith("descriptor-limit: "), report
        assert "LimitNOFILE" in report["reason"]
        assert report["connections"]["closed"] == 0, report
        for witness in witnesses:
            witness.say()
        assert service.handoff("--probation", "0.2")["connections"]["moved"] == CROWD
