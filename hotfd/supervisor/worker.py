"""One worker: a server, and over time its successors. What to do about each thing that can happen to them.

No I/O and no clock: events come with the time, and every method returns the actions that follow from it.

============  ===================================================  =========================================
phase         event                                                next
============  ===================================================  =========================================
IDLE          start                                                STARTING
STARTING      somebody is ready                                    SERVING
SERVING       it begins a handoff                                  HANDING_OVER
HANDING_OVER  it goes on, or its successor serves                  SERVING
HANDING_OVER  it dies, and there are heirs                         BEREAVED
BEREAVED      one of them serves                                   SERVING
any of these  it ends as it was meant to; or it never served       OVER
any of these  it ends otherwise, and nobody is left who may serve  WAITING; OVER when that was too often
WAITING       the delay is over                                    STARTING
any           the order to stop, and nobody is left                OVER
============  ===================================================  =========================================

The rule that matters: nothing is started while a process lives that serves, or may yet come to serve. Such
processes are the *server* (it said so, by sd_notify), the *root* (what was started; the server may run below it, as
in ``sh -c "python server.py; true"``), and, after the server has died in a handoff, its *heirs*. *Elders*
have handed over and serve what stayed with them, and *husks* are the shells around them; they are in nobody's way.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from hotfd.supervisor.actions import Action, Finished, Kill, Restart, Send, Serves, Spawn, Watch

FIRST_DELAY: Final = 0.1
"""Seconds before the first restart: short, since clients are without a server until then."""

MAX_DELAY: Final = 30.0
"""Seconds before a restart at most; the delay doubles each time."""

PROVEN_AFTER: Final = 60.0
"""Seconds of service after which a crash counts as the first one again, and not as one of a row."""

RESTARTS: Final = 5
"""Restarts in a row: with the delays between them they take about three seconds, which bridges what is short,
and does not hide for long what is not."""

ADOPTION_LIMIT: Final = 60.0
"""Seconds that a new process whose predecessor has died may take to begin to serve: as much as the default
deadline of a handoff gives it."""

HANDOFF_LIMIT: Final = 600.0
"""Seconds of a handoff whose server did not say how long it may take."""

HUNG_AFTER: Final = 30.0
"""Seconds without an answer after which a process counts as hung where that matters: while it hands over, and after."""

UNKNOWN_STATUS: Final = 1
"""Status of a process that somebody else has reaped: an older generation, of which it was a child."""


class Phase(enum.Enum):
    """What a worker is at."""

    IDLE = "idle"
    STARTING = "starting"
    SERVING = "serving"
    HANDING_OVER = "handing-off"
    BEREAVED = "adopting"
    WAITING = "restarting"
    OVER = "ended"


class Probe(enum.Enum):
    """What came of asking a process for a sign of life at its control socket."""

    ANSWERED = "answered"
    SILENT = "silent"
    BUSY = "busy"
    """It did not answer, but it computes: an export of much state may hold its event loop for long."""
    MUTE = "mute"
    """It has no control socket: it never had one, or is about to exit."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may choose.

    Attributes:
        restarts: how often in a row a crashed server is started again.
        hung_after: seconds without an answer after which a process that hands over counts as hung.
    """

    restarts: int = RESTARTS
    hung_after: float = HUNG_AFTER


class Worker:
    """One worker.

    Args:
        number: its number, from 1.
        policy: see :class:`Policy`.

    Attributes:
        phase: what it is at.
        server: the process that serves, or None.
        root: the process that was started, while it lives.
        elders: processes that have handed over, and still live.
        heirs: processes that may come to serve, while nobody does.
        husks: what was started around a server that has handed over, while it lives.
        status: exit status of the last of them that ended, as of a shell: 128 + N when signal N killed it.
        crashes: crashes in a row.
    """

    def __init__(self, number: int, policy: Policy) -> None:
        self.number = number
        self.phase = Phase.IDLE
        self.server: int | None = None
        self.root: int | None = None
        self.elders: set[int] = set()
        self.heirs: set[int] = set()
        self.husks: set[int] = set()
        self.status = 0
        self.crashes = 0
        self.restarted = 0
        self._policy = policy
        self._stopping: int | None = None
        self._meant = False
        self._ready_at: float | None = None
        self._deadline = math.inf
        self._silent_since: dict[int, float] = {}
        self._spoke: set[int] = set()

    # -- looking at it -------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do next."""
        return self._deadline

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.server is not None

    @property
    def processes(self) -> set[int]:
        """All processes that it knows."""
        known = {self.server, self.root} - {None}
        return {pid for pid in known if pid is not None} | self.elders | self.heirs | self.husks

    @property
    def doubtful(self) -> set[int]:
        """The processes whose signs of life matter now: who hands over, and who has."""
        handing_over = {self.server} if self.phase is Phase.HANDING_OVER else set()
        return self.elders | {pid for pid in handing_over if pid is not None}

    # -- life ----------------------------------------------------------------------------------------

    def start(self) -> list[Action]:
        """Begin."""
        self._enter(Phase.STARTING)
        self._meant, self._ready_at = False, None
        return [Spawn(self.number)]

    def spawned(self, pid: int) -> list[Action]:
        """The server's process was started."""
        self.root = pid
        return [Watch(self.number, pid)]

    def not_spawned(self, status: int, now: float) -> list[Action]:
        """The server's process could not be started; ``status`` is what a shell would exit with."""
        self.status = status
        return self._vacant(now)

    def is_ready(self, pid: int, now: float) -> list[Action]:
        """A process says that it serves: the first one, one that inherited, or one whose handoff was undone."""
        if pid == self.server:
            if self.phase is Phase.HANDING_OVER:
                self._enter(Phase.SERVING)
            return []
        if self.server is None and pid not in self.elders and self.phase is not Phase.OVER:
            return self._serves(pid, now)
        return []

    def hands_over(self, pid: int, now: float, limit: float | None) -> list[Action]:
        """The server begins a handoff, which is over after ``limit`` seconds, or stuck."""
        if pid == self.server:
            self._enter(Phase.HANDING_OVER, now + (HANDOFF_LIMIT if limit is None else limit))
        return []

    def succeeded(self, new: int, now: float) -> list[Action]:
        """A new process owns everything; the one before it, if it lives, has become an elder."""
        if new == self.server or new in self.elders | self.husks or self.phase is Phase.OVER:
            return []
        if self.server is not None:
            self.elders.add(self.server)
        return self._serves(new, now)

    def ends(self, pid: int) -> list[Action]:
        """A process says that the service ends with it: its exit is meant, whatever its status."""
        if pid == self.server:
            self._meant = True
        return []

    def _serves(self, pid: int, now: float) -> list[Action]:
        known = pid in self.processes
        self.heirs.discard(pid)
        if self.phase is not Phase.STARTING and self.root is not None:
            # Either the server before, or the shell around it, which ends with it.
            self.husks |= {self.root} - self.elders
            self.root = None
        self.server = pid
        self._meant, self._ready_at = False, now
        self._enter(Phase.SERVING)
        actions: list[Action] = [] if known else [Watch(self.number, pid)]
        actions.append(Serves(self.number, pid))
        # The other heirs were started by handoffs that this one has ended; they leave by themselves, or
        # are ended when everything is.
        self.heirs.clear()
        if self._stopping is not None:
            actions.append(Send(pid, self._stopping))
        return actions

    # -- ends ----------------------------------------------------------------------------------------

    def exited(self, pid: int, status: int | None, heirs: Collection[int], now: float) -> list[Action]:
        """A process is certainly dead.

        Args:
            pid: which one.
            status: its exit status, or None when somebody else has reaped it.
            heirs: living processes that may come to serve in its place, or serve already.
            now: the time.
        """
        mattered = pid in {self.server, self.root} or pid in self.heirs
        self._forget(pid)
        if pid == self.root:
            self.root = None
        if not mattered:
            return self._settle(now)
        if pid not in self.heirs or not self.status:  # an heir's end does not make its predecessor's death meant
            self.status = self._meaning_of(status)
        self.heirs.discard(pid)
        if pid == self.server:
            self.server = None
            self.heirs |= set(heirs) - self.elders - {pid, self.root}
            if self.heirs:
                self._enter(Phase.BEREAVED, now + ADOPTION_LIMIT)
                watches: list[Action] = [Watch(self.number, heir) for heir in sorted(self.heirs)]
                return watches + self._tell(self.heirs)
        return self._settle(now)

    def _meaning_of(self, status: int | None) -> int:
        if status is None:
            return 0 if self._meant else UNKNOWN_STATUS
        return status

    def _forget(self, pid: int) -> None:
        self.elders.discard(pid)
        self.husks.discard(pid)
        self._silent_since.pop(pid, None)
        self._spoke.discard(pid)

    def _settle(self, now: float) -> list[Action]:
        """Nobody serves; is there anybody who may?"""
        if self.server is not None or self.heirs:
            return []
        if self.root is not None:  # what was started lives, and may have something else in mind
            self._enter(Phase.STARTING)
            return []
        if self.phase in {Phase.WAITING, Phase.OVER, Phase.IDLE}:
            return []
        return self._vacant(now)

    def _vacant(self, now: float) -> list[Action]:
        """Nobody serves, and nobody may: start again, or be over."""
        lasted = now - self._ready_at if self._ready_at is not None else 0.0
        self._deadline = math.inf
        if self._stopping is not None or self._meant or self.status == 0:
            return self._over(meant=True)
        if self._ready_at is None and self.restarted == 0:
            return self._over(meant=False)  # it never served: what cannot start does not get better by trying
        self.crashes = 1 if lasted >= PROVEN_AFTER else self.crashes + 1
        if self.crashes > self._policy.restarts:
            return self._over(meant=False)
        delay = min(FIRST_DELAY * 2 ** (self.crashes - 1), MAX_DELAY)
        self._enter(Phase.WAITING, now + delay)
        return [Restart(self.number, self.status, delay)]

    def _over(self, *, meant: bool) -> list[Action]:
        self._enter(Phase.OVER)
        return [Finished(self.number, self.status, meant)]

    # -- time ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        if now < self._deadline:
            return []
        match self.phase:
            case Phase.WAITING:
                self.restarted += 1
                return self.start()
            case Phase.HANDING_OVER if self.server is not None:
                self._deadline = math.inf
                return [Kill(self.server, "its handoff is overdue")]
            case Phase.BEREAVED:
                self._deadline = math.inf
                return [Kill(pid, "its predecessor died, and it did not begin to serve") for pid in sorted(self.heirs)]
        self._deadline = math.inf
        return []

    def probed(self, pid: int, probe: Probe, now: float) -> list[Action]:
        """Take in whether a process gave a sign of life.

        A process without a control socket is judged only if it had one before: then it is about to exit. One that
        hands over and is busy is given the time of its handoff: what it would lose by being killed is with it alone.
        """
        if probe is Probe.ANSWERED:
            self._spoke.add(pid)
        fine = (
            probe is Probe.ANSWERED
            or pid not in self.doubtful
            or (probe is Probe.MUTE and pid not in self._spoke)
            or (probe is Probe.BUSY and pid == self.server)
        )
        if fine:
            self._silent_since.pop(pid, None)
            return []
        since = self._silent_since.setdefault(pid, now)
        if now - since < self._policy.hung_after:
            return []
        self._silent_since[pid] = math.inf  # once is enough
        why = "it hangs in a handoff" if pid == self.server else "it hangs, and another process serves"
        return [Kill(pid, why)]

    # -- orders --------------------------------------------------------------------------------------

    def stop(self, number: int) -> list[Action]:
        """End in order: every process is told so, and nothing is started any more."""
        self._stopping = number
        if self.phase in {Phase.WAITING, Phase.IDLE}:
            return self._tell(self.elders) + self._over(meant=True)
        server = self.server if self.server is not None else self.root
        serving = {server} if server is not None else set()
        return self._tell(serving | self.elders | self.heirs)

    def _tell(self, pids: Iterable[int]) -> list[Action]:
        return [Send(pid, self._stopping) for pid in sorted(pids)] if self._stopping is not None else []

    def _enter(self, phase: Phase, deadline: float = math.inf) -> None:
        self.phase, self._deadline = phase, deadline
