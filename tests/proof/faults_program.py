"""The server whose processes fail at the points of :mod:`hotfd.faults`: the other side of :mod:`tests.proof.faults`.

usage: faults_program.py PORT MODE

Lines are answered as :func:`tests.proof.oracle.turned` says. A line that begins with ``!`` is for the program:
``!arm SPEC`` has this process fail, ``!room KEY`` joins a room, in which answers go to all members, ``!close`` has the
connection closed by the server while it is offered, and ``!spoil`` has a new process refuse it.

A process that is started by a handoff takes its SPEC from ``$PROOF_FAULT``, which this program reads, and hotfd never.
A SPEC is ``POINT NUMBER FAULT IMPATIENT``: at which point, the how manieth time (0: each), what happens, and whether this process
waits only two seconds for answers; several are separated by semicolons. When it happens, a line ``PID FAULT`` is appended to ``$PROOF_FIRED``.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import hotfd
from hotfd import _core, faults
from hotfd.server import options
from tests.proof.oracle import turned

STORM = 20
"""Sends that are turned down before one is taken."""

NEW = "HOTFD_CHANNEL" in os.environ
FIRED = os.environ["PROOF_FIRED"]
send_message, memfd_seal, memfd_shared = _core.send_message, _core.memfd_seal, _core.memfd_shared
patience = options.ANSWER_LIMIT


class Rules(msgspec.Struct, frozen=True):
    """What the sessions hold of the configuration."""

    damage: int = 1


@dataclass
class Visitor:
    """What a connection has said."""

    lines: int = 0
    spoilt: bool = False


@dataclass
class Room:
    """What a room has heard."""

    lines: int = 0


closing: list[hotfd.Connection[Visitor]] = []
total = 0
hands_over = False  # the next handoff is from this process; before it has been told so, one is to it


def fail(code: int) -> Any:
    """Return a function that fails as a system call does."""

    def failing(*_: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return failing


def parent_or_child() -> int:
    """Return the pid of the other process of the handoff."""
    if not hands_over:
        return os.getppid()
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return int(file.read().split()[-1])


def no_descriptors() -> None:
    """Let this process open nothing any more; whoever watches lifts the limit afterwards."""
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def storm() -> None:
    """Let the next sends be turned down: the queue of the channel is full, again and again."""
    left = [STORM]

    def turning_down(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise BlockingIOError(errno.EAGAIN, "the storm")
        _core.send_message = send_message
        send_message(*arguments)

    _core.send_message = turning_down


def half_a_message() -> None:
    """Let the next message arrive as half of what it is."""

    def cutting(channel: int, data: bytes, descriptors: Any = ()) -> None:
        _core.send_message = send_message
        send_message(channel, data[: len(data) // 2] or data, descriptors)

    _core.send_message = cutting


def raise_unexpected() -> None:
    """Raise what nobody expects."""
    raise RuntimeError("planted")


def no_memory() -> None:
    """Let nothing be made that can be passed on."""
    _core.memfd_seal = _core.memfd_shared = fail(errno.ENOMEM)


def close_offered() -> None:
    """End the connections that have asked for it and are offered now."""
    for conn in closing:
        if conn._stream.fenced:
            conn.close()


INJURIES: dict[str, Callable[[], None]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda: os._exit(7),
    "exception": raise_unexpected,
    "peer-SIGKILL": lambda: os.kill(parent_or_child(), signal.SIGKILL),
    "peer-SIGSTOP": lambda: os.kill(parent_or_child(), signal.SIGSTOP),
    "EMFILE": no_descriptors,
    "ENOMEM": no_memory,
    "EAGAIN": storm,
    "half": half_a_message,
    "close": close_offered,
}


def injure(fault: str) -> None:
    """Do what is to happen."""
    with open(FIRED, "a", encoding="ascii") as file:
        file.write(f"{os.getpid()} {fault}\n")
    INJURIES[fault]()


def arm(spec: str) -> None:
    """Have this process fail as the spec says; see the module."""
    _core.send_message, _core.memfd_seal, _core.memfd_shared = send_message, memfd_seal, memfd_shared
    options.ANSWER_LIMIT = patience
    wanted: dict[str, list[tuple[int, str]]] = {}
    for each in filter(None, spec.split(";")):
        where, number, fault, impatient = each.split()
        wanted.setdefault(where, []).append((int(number), fault))
        if impatient == "yes":
            options.ANSWER_LIMIT = 2.0
    passed = dict.fromkeys(wanted, 0)

    def hook(point: faults.Point) -> None:
        if point.value in wanted:
            passed[point.value] += 1
            for number, fault in wanted[point.value]:
                if number in {0, passed[point.value]}:
                    injure(fault)

    faults.arm(hook)


async def told(conn: hotfd.Connection[Visitor], word: str, argument: str) -> None:
    """Do what a line for the program says."""
    global hands_over
    match word:
        case "!arm":
            hands_over = True
            arm(argument)
        case "!room":
            await conn.join(argument, state=Room)
        case "!close":
            closing.append(conn)
        case "!spoil":
            conn.state.spoilt = True
    await conn.send(b"!done")


async def talk(conn: hotfd.Connection[Visitor]) -> None:
    """Answer each line, to all of the room if there is one."""
    global total
    async for line in conn:
        if line.startswith(b"!"):
            word, _, argument = line.decode().partition(" ")
            await told(conn, word, argument)
            continue
        total += 1
        conn.state.lines += 1
        answer = turned(conn.state.lines, line)[:-1]
        if conn.session.shared:
            conn.session.state.lines += 1
            await conn.session.broadcast(answer)
        else:
            await conn.send(answer)


def imported(value: int) -> None:
    """Take the process-wide state over."""
    global total
    total = value


def upgraded(state: dict[str, Any], version: int) -> Visitor:
    """Read the state of the version before, but for what is spoilt."""
    if state["spoilt"]:
        raise ValueError("spoilt")
    return Visitor(**state)


def main() -> None:
    """Serve."""
    port, mode = sys.argv[1:]
    if NEW:
        arm(os.environ.get("PROOF_FAULT", ""))
    shared: dict[str, Any] = {}
    if mode == "together":
        shared = {"cutover": "together", "export_state": lambda: total, "import_state": imported}
    version = 2 if NEW and os.environ.get("PROOF_VERSION") == "2" else 1
    state = hotfd.State(Visitor, version=version, upgrade=upgraded if version > 1 else None)
    config = hotfd.Config("rules", Rules, initial=Rules())
    hotfd.run(
        talk, f"127.0.0.1:{port}", framing=hotfd.Lines(), state=state, session_states=[Room], config=config,
        name="proof", **shared,
    )  # fmt: skip


if __name__ == "__main__":
    main()
