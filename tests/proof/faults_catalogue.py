"""Which faults are tried at which points, in which circumstances, and why others are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from hotfd.faults import Point

Role = Literal["old", "new"]

FAULTS: Final = {
    "SIGKILL": "the process is killed",
    "SIGSTOP": "the process is stopped; an old one goes on after a while, a new one does not",
    "exit": "the process ends by itself, at once",
    "exception": "an exception that nobody expects is raised",
    "EMFILE": "from here on the process can open nothing, until the handoff is over",
    "ENOMEM": "from here on no memory can be made to pass on",
    "EAGAIN": "the next twenty sends on the channel are turned down",
    "half": "the next message arrives as half of what it is",
    "peer-SIGKILL": "the other process is killed",
    "peer-SIGSTOP": "the other process is stopped; an old one goes on after a while, a new one does not",
}


class Spec(NamedTuple):
    """What one process does at a point."""

    role: Role
    point: Point
    fault: str
    number: int = 1
    impatient: bool = False

    def __str__(self) -> str:
        return f"{self.point.value} {self.number} {self.fault} {'yes' if self.impatient else 'no'}"


@dataclass(frozen=True)
class Scenario:
    """What else happens in a handoff, so that a point is passed.

    Attributes:
        about: for the table.
        mode: ``rolling`` or ``together``.
        provoked: what goes wrong first.
        version: of the state in the new process; it cannot read what is spoilt of another.
        fresh: whether the server is of no use to the next case.
    """

    about: str
    mode: str = "rolling"
    provoked: Spec | None = None
    version: int = 1
    fresh: bool = False


SCENARIOS: Final = {
    "rolling": Scenario("nothing else goes wrong"),
    "together": Scenario("all sessions move at one moment", "together"),
    "lost": Scenario("the new process dies at the end of its probation", provoked=Spec("new", Point.NEW_SETTLE, "SIGKILL")),
    "deaf": Scenario(
        "the new process stops at the second offer", provoked=Spec("new", Point.NEW_PART, "SIGSTOP", number=2)
    ),
    "ending": Scenario("a connection is to be closed while it is offered", provoked=Spec("old", Point.OLD_OFFERED, "close", number=0)),
    "refused": Scenario("the new process cannot read the state of one session", version=2, fresh=True),
    "orphaned": Scenario(
        "the old process dies with everything offered", provoked=Spec("old", Point.OLD_FINISH, "SIGKILL")
    ),
    "unwanted": Scenario(
        "the old process gives the handoff up as soon as the new one is ready",
        provoked=Spec("old", Point.OLD_READY, "exception"),
    ),
}  # fmt: skip

_CIRCUMSTANCES: Final = {
    "together": (Point.OLD_GATED, Point.OLD_EXPORTED, Point.OLD_ALL_ACCEPTED),
    "lost": (
        Point.OLD_KILLED, Point.OLD_VERDICT, Point.OLD_RESTORE, Point.OLD_RESTORED, Point.OLD_RESET,
        Point.OLD_NEWCOMER_BACK, Point.OLD_TAKEN_BACK,
    ),
    "deaf": (Point.OLD_ROLL_BACK, Point.OLD_END, Point.OLD_REVOKE),
    "ending": (Point.OLD_REVOKED, Point.NEW_REVOKE),
    "refused": (Point.OLD_REFUSED,),
    "orphaned": (Point.NEW_ORPHANED, Point.NEW_INHERIT),
    "unwanted": (Point.NEW_LEAVE,),
}  # fmt: skip

_NUMBERS: Final = {
    Point.OLD_FENCED: 70, Point.OLD_UNWOUND: 10, Point.OLD_ESCROWED: 10, Point.OLD_RESTORE: 5, Point.OLD_RESTORED: 5,
    Point.OLD_PART: 2, Point.NEW_RESTORED: 10, Point.NEW_TOUCH: 3, Point.NEW_TOUCHED: 3, Point.NEW_NEWCOMER: 2,
    Point.OLD_NEWCOMER: 2,
}  # fmt: skip
"""Points that are passed often: somewhere in the middle, with some sessions done and others not."""

_CHANNEL: Final = {
    (Point.SEND, "old"): 4, (Point.SEND, "new"): 3, (Point.RECEIVE, "old"): 5, (Point.RECEIVE, "new"): 6,
}  # fmt: skip
"""The channel's points are passed by both processes: the first offer and its answer."""

_NOT_STARTED: Final = frozenset({Point.OLD_RELEASES, Point.OLD_SPAWN})
_DEAD: Final = frozenset({*_CIRCUMSTANCES["lost"], *_CIRCUMSTANCES["orphaned"]})
_STOPPED: Final = frozenset(_CIRCUMSTANCES["deaf"])
_BEFORE_SENDS: Final = frozenset({
    Point.OLD_LISTENERS, Point.OLD_PART, Point.OLD_COMMIT, Point.OLD_FINISH, Point.OLD_REVOKE, Point.NEW_HELLO,
    Point.NEW_READY, Point.NEW_DECODED, Point.NEW_NEWCOMER, Point.NEW_ENDED, Point.NEW_SETTLE, Point.SEND,
})  # fmt: skip
_BEFORE_MEMORY: Final = frozenset({
    Point.OLD_RELEASES, Point.OLD_HELLO, Point.OLD_READY, Point.OLD_TOUCH_MAP, Point.OLD_OFFER, Point.OLD_MEMFD,
    Point.OLD_COMMIT, Point.OLD_GATED,
})  # fmt: skip


MANY: Final = 1 << 10


class Case(NamedTuple):
    """One fault at one point, in one of the processes."""

    point: Point
    fault: str
    role: Role

    def __str__(self) -> str:
        return f"{self.point.value} ({self.role}): {self.fault}"

    @property
    def untold(self) -> int:
        """How many connections that the new process has accepted may be lost without the old one knowing of them."""
        if self.fault in {"EMFILE", "half"} or self.point is Point.SEND:
            return MANY  # what tells of them is itself what fails
        return 1

    @property
    def scenario(self) -> str:
        """The name of the circumstances in which the point is passed."""
        return next((name for name, points in _CIRCUMSTANCES.items() if self.point in points), "rolling")

    @property
    def specs(self) -> list[Spec]:
        """What the processes do."""
        number = _CHANNEL.get((self.point, self.role)) or _NUMBERS.get(self.point, 1)
        spec = Spec(
            self.role, self.point, self.fault, number, impatient="STOP" in self.fault or self.scenario == "deaf"
        )
        provoked = SCENARIOS[self.scenario].provoked
        return [spec] if provoked is None else [provoked, spec]


def why_not(point: Point, fault: str) -> str | None:
    """Say why a fault is not tried at a point; None when it is."""
    if fault.startswith("peer"):
        if point in _NOT_STARTED:
            return "there is no other process yet"
        if point in _DEAD:
            return "the other process is dead"
        if point in _STOPPED and fault == "peer-SIGSTOP":
            return "the other process is stopped already"
    if fault == "ENOMEM" and point not in _BEFORE_MEMORY:
        return "no memory is made next"
    if fault in {"EAGAIN", "half"} and point not in _BEFORE_SENDS:
        return "nothing is sent next"
    return None


def roles(point: Point) -> tuple[Role, ...]:
    """Return which processes pass a point."""
    return ("old", "new") if point.process == "channel" else ("old",) if point.process == "old" else ("new",)


def cases(faults: tuple[str, ...] = tuple(FAULTS)) -> list[Case]:
    """Return everything that is tried."""
    return [
        Case(point, fault, role)
        for fault in faults
        for point in Point
        for role in roles(point)
        if why_not(point, fault) is None
    ]
