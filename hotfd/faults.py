"""Fault points: the named steps of a handoff at which a test can have a process fail.

Each step of a handoff that changes who owns what, or speaks to the other process, passes :func:`reach` with its name.
That does nothing, unless the program itself has called :func:`arm` before it began to serve: no environment variable,
no option, no instruction on a socket and no message of another process can. A program that arms them says so in its log.

Points are passed once for a handoff, an offer, a session or a message of the channel, and not for a frame: unarmed, one
costs a function call and a comparison.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

from hotfd import log


class Point(Enum):
    """A step. Its value is its name: the process that passes it, and what is about to happen, or has happened.

    Attributes:
        about: what holds there.
    """

    about: str

    # The old process, from the operator's wish on.
    OLD_RELEASES = "old.releases", "what runs of the configuration is about to be written down and sent"
    OLD_SPAWN = "old.spawn", "Setup is queued, and the new process is about to be started"
    OLD_SPAWNED = "old.spawned", "the new process runs, and is not watched yet"
    OLD_HELLO = "old.hello", "the new process has said what it is and reads"
    OLD_READY = "old.ready", "the new process is ready, and nothing is paused yet"
    OLD_FROZEN = "old.frozen", "the program is at rest; background tasks have stopped"
    OLD_GATED = "old.gated", "all sessions stand at their boundaries together"
    OLD_EXPORTED = "old.exported", "the process-wide state is written down"
    OLD_TOUCH_MAP = "old.touch-map", "the touch map is about to be made"
    OLD_LISTENERS = "old.listeners", "this process accepts no more, and the listeners are about to be sent"
    OLD_LISTENED = "old.listened", "the listeners are sent"
    OLD_FENCED = "old.fenced", "a session is fenced: nothing is read or written"
    OLD_OFFER = "old.offer", "the sessions of an offer are written down, and the machine has the offer"
    OLD_MEMFD = "old.memfd", "the sealed memory of a part is about to be made"
    OLD_PART = "old.part", "a part's memory is made, and the part is about to be sent"
    OLD_OFFERED = "old.offered", "all parts of an offer are sent"
    OLD_ACCEPTED = "old.accepted", "sessions were accepted, and their handlers are about to unwind"
    OLD_REFUSED = "old.refused", "sessions were refused, and are about to go on here"
    OLD_ALL_ACCEPTED = "old.all-accepted", "everything that moves together was accepted"
    OLD_UNWOUND = "old.unwound", "the handlers of a session have unwound"
    OLD_COMMIT = "old.commit", "sessions are about to be given up and committed"
    OLD_COMMITTED = "old.committed", "the commit is sent"
    OLD_ESCROWED = "old.escrowed", "a session is in escrow, and its commit is about to be sent"
    OLD_NEWCOMER = "old.newcomer", "a copy of what the new process accepted has come, and is not in escrow yet"
    OLD_ENDED = "old.ended", "a connection has ended, and its copy is about to be closed"
    OLD_FINISH = "old.finish", "all that was to move is committed, and the new process is about to be told"
    OLD_PROBATION = "old.probation", "the new process knows that it has everything, and proves itself"
    OLD_SETTLED = "old.settled", "the new process has said that it is settled"
    OLD_COMPLETED = "old.completed", "the listeners are about to be closed here"
    OLD_PARTED = "old.parted", "the escrow is about to be closed"
    # The old process, when it undoes a handoff.
    OLD_ROLL_BACK = "old.roll-back", "the handoff has failed, and is about to be undone"
    OLD_REVOKE = "old.revoke", "what is offered and not committed is about to be revoked"
    OLD_REVOKED = "old.revoked", "the revocation is in the kernel, and the sessions are about to go on here"
    OLD_END = "old.end", "the new process is about to be ended"
    OLD_KILLED = "old.killed", "the new process is certainly dead, and its channel is read to the end"
    OLD_VERDICT = "old.verdict", "it is known what was touched, and nothing is restored yet"
    OLD_RESTORE = "old.restore", "a session is about to be restored from escrow"
    OLD_RESTORED = "old.restored", "a session is restored and served"
    OLD_RESET = "old.reset", "a session that was touched is about to be reset"
    OLD_NEWCOMER_BACK = (
        "old.newcomer-back",
        "a connection that the new process had accepted is about to be served or reset",
    )
    OLD_TAKEN_BACK = "old.taken-back", "everything is back, and this process does not accept yet"

    # The new process.
    NEW_BEGIN = "new.begin", "the channel is there, and nothing is read from it yet"
    NEW_SETUP = "new.setup", "Setup has come: the old process is known, and not watched yet"
    NEW_RELEASES = "new.releases", "the configuration of the old process has come, and is not unpacked yet"
    NEW_HELLO = "new.hello", "Hello is about to be sent"
    NEW_READY = "new.ready", "Ready is about to be sent"
    NEW_PREPARED = "new.prepared", "Ready is sent"
    NEW_LISTENERS = "new.listeners", "the listeners have come, and the touch map is not mapped yet"
    NEW_LISTENED = "new.listened", "the listeners are this process's too, and it does not accept yet"
    NEW_PART = "new.part", "a part has come, and its memory is not read yet"
    NEW_DECODED = "new.decoded", "the states of an offer are read, and the answer is about to be sent"
    NEW_ANSWERED = "new.answered", "the answer to an offer is sent"
    NEW_REVOKE = "new.revoke", "a revocation has come, and what it names is about to be dropped"
    NEW_COMMIT = "new.commit", "a commit has come: this process is the owner, and has adopted nothing yet"
    NEW_RESTORED = "new.restored", "a session's streams are made, and it is not served yet"
    NEW_ADOPTED = "new.adopted", "the sessions of a commit are served"
    NEW_TOUCH = "new.touch", "a session is about to be marked as touched"
    NEW_TOUCHED = "new.touched", "a session is marked, and nothing has been delivered yet"
    NEW_NEWCOMER = "new.newcomer", "a connection is accepted, and its copy is about to be sent"
    NEW_ENDED = "new.ended", "a connection has ended, and the old process is about to be told"
    NEW_FINISH = "new.finish", "everything has come, and the probation begins"
    NEW_SETTLE = "new.settle", "the probation is over, and Settled is about to be sent"
    NEW_SETTLED = "new.settled", "the kernel has Settled, and everything is still hooked"
    NEW_LEAVE = "new.leave", "this process is about to let go of what the old one serves on"
    NEW_ORPHANED = "new.orphaned", "the old process is certainly dead, and the channel is not read to the end yet"
    NEW_INHERIT = "new.inherit", "what was offered and not revoked is about to be owned"

    # Either process.
    SEND = "channel.send", "a packet is about to be given to the kernel"
    RECEIVE = "channel.receive", "a packet may have come, and is about to be taken from the kernel"

    def __new__(cls, name: str, about: str) -> Point:
        """Make a member of a name and what holds there."""
        member = object.__new__(cls)
        member._value_ = name
        member.about = about
        return member

    @property
    def process(self) -> str:
        """Which process passes it: ``old``, ``new``, or ``channel`` for both."""
        return str(self.value).partition(".")[0]


_hook: Callable[[Point], None] | None = None


def arm(hook: Callable[[Point], None]) -> None:
    """Have a function called at every point from here on; for the programs of tests, and nobody else.

    Args:
        hook: called with the point. What it raises is raised there.
    """
    global _hook
    _hook = hook
    log.event(logging.CRITICAL, "faults-armed")


def reach(point: Point) -> None:
    """Pass a point."""
    if _hook is not None:
        _hook(point)
