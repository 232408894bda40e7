"""What the kernel takes to give descriptors to another process, and nothing else: the floor under every handoff.

As a program, ``python -m hotfd.bench.floor CHANNEL COUNT``, it is the other process.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import ExitStack
from typing import Final

from hotfd import _core
from hotfd.bench.child import Broken, Child, readable, tell

WINDOW: Final = 4
"""Messages on their way and not yet taken: so the kernel's bound on descriptors in flight is never met, and the
receiver has always one to take."""

PASSES: Final = 10
"""How often it is done; the fastest counts: a floor is what nothing is below."""

LIMIT: Final = 30.0
"""Seconds for each step of the other process: its start is the longest."""


def measure(sockets: list[socket.socket], per_message: int) -> float:
    """Give sockets to a new process, and return the seconds from the first message until it has them all.

    Args:
        sockets: they stay the caller's.
        per_message: how many go in one message.

    Raises:
        Broken: the other process failed.
        OSError: this process is out of descriptors.
    """
    descriptors = [each.fileno() for each in sockets]
    batches = [descriptors[at : at + per_message] for at in range(0, len(descriptors), per_message)]
    with ExitStack() as stack:
        ours, theirs = _core.channel_pair()
        stack.callback(os.close, ours)
        try:
            child = stack.enter_context(Child(__name__, [str(theirs), str(len(descriptors))], [theirs]))
        finally:
            os.close(theirs)
        child.line(LIMIT)
        try:
            return min(_pass(ours, batches) for _ in range(PASSES))
        except (BrokenPipeError, ConnectionResetError):
            raise _gone() from None


def _pass(channel: int, batches: list[list[int]]) -> float:
    """Give all batches to the other process; return the seconds until it has the last one."""
    began = time.perf_counter()
    for number, batch in enumerate(batches):
        if number >= WINDOW:
            _await_answer(channel)
        _core.send_message(channel, b"take", batch)
    for _ in batches[-WINDOW:]:
        _await_answer(channel)
    took = time.perf_counter() - began
    _await_answer(channel)  # it has closed them
    return took


def _await_answer(channel: int) -> None:
    """Wait until the other process has taken one more message, or closed what it has."""
    message = _receive(channel)
    _close(message)
    if not message.data:
        raise _gone()


def _gone() -> Broken:
    return Broken("the process that should take descriptors has ended; is its limit lower?")


def _receive(channel: int) -> _core.Message:
    """Return the next message; raises Broken when none comes."""
    if not readable(channel, LIMIT):
        raise Broken(f"no descriptor has moved for {LIMIT:.0f} s")
    return _core.receive_message(channel)


def _close(message: _core.Message) -> None:
    """Close what came with a message beside its descriptors."""
    if message.pidfd >= 0:
        os.close(message.pidfd)


def take(channel: int, count: int) -> bool:
    """Take so many descriptors, and say so of each message; keep them until the last has come, as a server would.

    Returns:
        whether there were any: False at the channel's end.
    """
    taken: list[int] = []
    while len(taken) < count:
        message = _receive(channel)
        _close(message)
        if message.truncated:
            raise Broken("descriptors were cut off: the limit is too low")
        if not message.data:
            return False
        taken += message.descriptors
        _core.send_message(channel, b"taken")
    for descriptor in taken:
        os.close(descriptor)
    _core.send_message(channel, b"closed")
    return True


def main() -> None:
    """Take what comes until the channel ends."""
    channel, count = int(sys.argv[1]), int(sys.argv[2])
    tell(b"ready")
    while take(channel, count):
        pass


if __name__ == "__main__":
    main()
