"""Steps in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotfd.wire import messages as m
from tests.proof.world import name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.proof.explorer import Step
    from tests.proof.handoff import Handoff


def _sessions(world: Handoff, ids: Iterable[int]) -> str:
    return " and ".join(_session(world, world.room_of[id]) for id in ids)


def _session(world: Handoff, room: int) -> str:
    members = world.rig.members[room]
    return (
        f"session {room + 1} ({'connection' if len(members) == 1 else 'connections'} {', '.join(map(name, members))})"
    )


def _letter(world: Handoff, queue: tuple[int, ...]) -> str:
    message, cargo = world.rig.messages[queue[0]]
    kind = type(message).__name__
    match message:
        case m.OfferPart():
            return f"part {message.part + 1} of {message.parts} of offer {message.offer + 1}"
        case m.Accept(ids=ids) | m.Commit(ids=ids) | m.Revoke(ids=ids):
            known = [id for id in ids if id < len(world.room_of)]
            return f"{kind} of {_sessions(world, known)}"
        case m.Refuse(refusals=refusals):
            return f"{kind} of {_sessions(world, [refusal.id for refusal in refusals])}"
        case m.Newcomer():
            return f"{kind} {name(cargo.descriptors[0])}"
        case m.Ended(cookies=cookies):
            return f"{kind} {', '.join(map(name, cookies))}"
    return kind


_PLAIN = {
    "old_finishes": "old offers no more: Finish",
    "old_waits_no_longer": "old's deadline is over",
    "old_gives_up": "old's deadline is over, although new works",
    "old_learns_of_the_death": "old learns that new is dead",
    "old_undoes": "old rolls back",
    "old_kills": "old kills new",
    "old_takes_back": "old is certain of new's death, and takes back",
    "old_dies": "old dies",
    "old_hangs": "old hangs",
    "old_is_ended": "the supervisor ends old",
    "old_loses_the_channel": "old's end of the channel is closed, and old lives",
    "old_part_fails": "old cannot make the next part of an offer",
    "new_settles": "new settles",
    "new_leaves": "new leaves",
    "new_fails": "new is not healthy, and says so",
    "new_learns_of_the_death": "new learns that old is dead, reads to the end, and owns what was offered",
    "new_dies": "new dies",
    "new_hangs": "new hangs",
    "new_is_killed": "new is dead",
    "new_loses_the_channel": "new's end of the channel is closed, and new lives",
}

_OF_CONNECTION = {
    "read": "{who} reads from {at}",
    "deliver": "{who} gives its handler a frame of {at}",
    "work": "{who}'s handler is done with a frame of {at}",
    "send": "{who} sends an answer to {at}",
    "end": "{who} ends {at}",
}

_OTHERS: dict[str, Callable[[Handoff, Step], str]] = {
    "old_offers": lambda w, s: f"old offers {' and '.join(_session(w, room) for room in s[1])}",
    "old_offer_fails": lambda w, s: f"old has no descriptor left to offer {_session(w, s[1][0])} with",
    "old_queues_part": lambda w, s: f"old queues {_letter(w, w.unsent[s[1]])}",
    "old_commits": lambda w, s: f"old commits {_sessions(w, s[1])}",
    "old_revokes": lambda w, s: f"old revokes {_sessions(w, s[1])}",
    "old_flushes": lambda w, s: f"the kernel takes old's {_letter(w, w.old_outbox)}",
    "old_reads": lambda w, s: f"old reads {'a reset' if w.reset_old else _letter(w, w.to_old)}",
    "old_accepts": lambda w, s: f"old accepts {name(s[1])}",
    "new_flushes": lambda w, s: f"the kernel takes new's {_letter(w, w.new_outbox)}",
    "new_reads": lambda w, s: f"new reads {'a reset' if w.reset_new else _letter(w, w.to_new)}",
    "new_accepts_session": lambda w, s: f"new accepts {_sessions(w, [s[1]])}",
    "new_refuses": lambda w, s: f"new refuses {_sessions(w, [s[1]])}",
    "new_touches": lambda w, s: f"new touches {name(s[1])}",
    "new_accepts": lambda w, s: f"new accepts newcomer {name(s[1])}",
}


def tell_step(world: Handoff, step: Step) -> str:
    """Say in words what a step does in a state."""
    kind = step[0]
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _OF_CONNECTION:
        return _OF_CONNECTION[kind].format(who=step[1], at=name(step[2]))
    return _OTHERS[kind](world, step)
