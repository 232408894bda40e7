"""The new process's state machine: every transition, and that a refusal changes nothing."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.errors import ChannelError
from hotfd.wire import messages as m
from hotfd.wire.receiver import MAX_PARTS, MAX_SESSIONS, Phase, Receiver, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETUP = m.Setup(m.PROTOCOL, "id", 2, 1, {}, False, {})
REWRITTEN = m.Rewritten({})
LISTENERS = m.Listeners([], False)


def snapshot(machine: Receiver) -> dict[str, Any]:
    return copy.deepcopy(vars(machine))


@contextmanager
def unchanged(machine: Receiver, error: type[Exception]) -> Iterator[None]:
    before = snapshot(machine)
    with pytest.raises(error):
        yield
    assert snapshot(machine) == before


def in_phase(phase: Phase, *, listening: bool = True) -> Receiver:
    """A machine that has come to a phase by the messages that lead there, without sessions."""
    machine = Receiver()
    if phase is Phase.ORPHANED:
        machine.orphaned()
        return machine
    if phase is Phase.ABORTED:
        machine.receive(m.Abort("code", "detail"))
        return machine
    steps: list[Callable[[], object]] = [
        lambda: machine.receive(SETUP),
        machine.hello,
        machine.ready,
        lambda: machine.receive(m.Finish(0.0)),
        lambda: machine.settle(0, 0, 0),
    ]
    for step in steps:
        if machine.phase is phase:
            break
        step()
    if phase is Phase.MOVING and listening:
        machine.receive(LISTENERS)
    assert machine.phase is phase
    return machine


def with_session(stage: Stage) -> Receiver:
    """A machine whose session 0 is at a stage."""
    machine = in_phase(Phase.MOVING)
    machine.receive(m.OfferPart(0, 0, 2, 0, 1))
    if stage is not Stage.GATHERING:
        machine.receive(m.OfferPart(0, 1, 2, 0, 1))
    match stage:
        case Stage.ACCEPTED | Stage.OWNED:
            machine.accept([0])
        case Stage.REFUSED:
            machine.refuse([m.Refusal(0, "code", "")])
        case Stage.REVOKED:
            machine.receive(m.Revoke([0]))
    if stage is Stage.OWNED:
        machine.receive(m.Commit([0]))
    assert machine.sessions == {0: stage}
    return machine


SAMPLES: list[m.Message] = [
    SETUP,
    REWRITTEN,
    LISTENERS,
    m.OfferPart(0, 0, 1, 0, 1),
    m.Commit([]),
    m.Revoke([]),
    m.Finish(1.0),
    m.Abort("code", "detail"),
    m.Hello(1, 2, "1", {}, 1024, 10),
    m.Ready(),
    m.Failed("code", "detail"),
    m.Accept([]),
    m.Refuse([]),
    m.Newcomer(1, 2, "l"),
    m.Ended([1]),
    m.Settled(0, 0, 0),
]
ALLOWED = {
    (Phase.STARTING, m.Setup),
    (Phase.STARTING, m.Abort),
    (Phase.PREPARING, m.Rewritten),
    (Phase.PREPARING, m.Abort),
    (Phase.MOVING, m.OfferPart),
    (Phase.MOVING, m.Commit),
    (Phase.MOVING, m.Revoke),
    (Phase.MOVING, m.Finish),
    (Phase.MOVING, m.Abort),
    (Phase.PROBATION, m.Abort),
    (Phase.SETTLED, m.Abort),
}


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("phase", Phase)
def test_each_message_is_taken_in_its_phases_and_refused_in_the_others(phase: Phase, message: m.Message) -> None:
    machine = in_phase(phase)
    if (phase, type(message)) in ALLOWED:
        machine.receive(message)
    else:
        with unchanged(machine, ChannelError):
            machine.receive(message)


def test_rewritten_comes_once_and_before_the_listeners() -> None:
    machine = in_phase(Phase.MOVING, listening=False)
    assert machine.receive(REWRITTEN) == []
    with unchanged(machine, ChannelError):
        machine.receive(REWRITTEN)
    machine.receive(LISTENERS)
    late = in_phase(Phase.MOVING)
    with unchanged(late, ChannelError):
        late.receive(REWRITTEN)


def test_the_listeners_come_once_and_before_every_offer() -> None:
    machine = in_phase(Phase.MOVING, listening=False)
    with unchanged(machine, ChannelError):
        machine.receive(m.OfferPart(0, 0, 1, 0, 1))
    assert machine.receive(LISTENERS) == []
    assert machine.listening
    with unchanged(machine, ChannelError):
        machine.receive(LISTENERS)


def test_the_new_process_says_what_it_says_in_its_order() -> None:
    machine = Receiver()
    assert machine.phase is Phase.STARTING
    with unchanged(machine, ValueError):
        machine.ready()
    with unchanged(machine, ValueError):
        machine.settle(0, 0, 0)
    machine.hello()
    with unchanged(machine, ValueError):
        machine.hello()
    assert machine.ready() == m.Ready()
    with unchanged(machine, ValueError):
        machine.ready()
    machine.receive(m.Finish(2.0))
    assert machine.phase is Phase.PROBATION
    assert machine.settle(1.0, 2.0, 3.0) == m.Settled(1.0, 2.0, 3.0)
    assert machine.phase is Phase.SETTLED
    with unchanged(machine, ValueError):
        machine.settle(0, 0, 0)


# ---------------------------------------------------------------- offers in parts


@given(st.permutations(range(4)))
def test_an_offer_is_held_with_its_last_part_in_whatever_order_they_come(order: list[int]) -> None:
    machine = in_phase(Phase.MOVING)
    for number in order[:-1]:
        assert machine.receive(m.OfferPart(0, number, 4, 0, 2)) == []
        assert machine.sessions == {0: Stage.GATHERING, 1: Stage.GATHERING}
    assert machine.receive(m.OfferPart(0, order[-1], 4, 0, 2)) == [0, 1]
    assert machine.sessions == {0: Stage.HELD, 1: Stage.HELD}


def test_parts_of_two_offers_may_be_mixed() -> None:
    machine = in_phase(Phase.MOVING)
    assert machine.receive(m.OfferPart(0, 0, 2, 0, 1)) == []
    assert machine.receive(m.OfferPart(1, 0, 2, 1, 1)) == []
    assert machine.receive(m.OfferPart(0, 1, 2, 0, 1)) == [0]
    assert machine.receive(m.OfferPart(1, 1, 2, 1, 1)) == [1]


@pytest.mark.parametrize(
    "part",
    [
        m.OfferPart(0, 0, 2, 0, 2),
        m.OfferPart(0, 2, 2, 0, 2),
        m.OfferPart(0, 1, 3, 0, 2),
        m.OfferPart(0, 1, 2, 1, 2),
        m.OfferPart(0, 1, 2, 0, 3),
        m.OfferPart(1, 0, 1, 1, 1),
        m.OfferPart(1, 0, 1, 0, 5),
        m.OfferPart(1, 0, 0, 2, 1),
        m.OfferPart(1, 0, MAX_PARTS + 1, 2, 1),
        m.OfferPart(1, 0, 1, 2, 0),
        m.OfferPart(1, 0, 1, 2, MAX_SESSIONS + 1),
        m.OfferPart(1, 1, 1, 2, 1),
    ],
    ids=[
        "part-twice",
        "part-beyond-parts",
        "other-parts",
        "other-first",
        "other-sessions",
        "id-in-use",
        "ids-overlap",
        "no-parts",
        "too-many-parts",
        "no-sessions",
        "too-many-sessions",
        "new-offer-part-beyond-parts",
    ],
)
def test_a_part_that_cannot_be_is_the_old_processes_mistake(part: m.OfferPart) -> None:
    machine = in_phase(Phase.MOVING)
    machine.receive(m.OfferPart(0, 0, 2, 0, 2))
    with unchanged(machine, ChannelError):
        machine.receive(part)


def test_an_offer_that_is_complete_cannot_be_opened_again() -> None:
    machine = with_session(Stage.HELD)
    for part in (m.OfferPart(0, 0, 1, 1, 1), m.OfferPart(1, 0, 1, 0, 1)):
        with unchanged(machine, ChannelError):
            machine.receive(part)


def test_ids_may_be_left_out_and_never_go_back() -> None:
    machine = in_phase(Phase.MOVING)
    assert machine.receive(m.OfferPart(5, 0, 1, 10, 2)) == [10, 11]
    with unchanged(machine, ChannelError):
        machine.receive(m.OfferPart(4, 0, 1, 12, 1))
    with unchanged(machine, ChannelError):
        machine.receive(m.OfferPart(6, 0, 1, 11, 1))
    assert machine.receive(m.OfferPart(6, 0, 1, 12, 1)) == [12]


def test_a_session_that_is_revoked_while_its_parts_arrive_is_never_held() -> None:
    machine = in_phase(Phase.MOVING)
    machine.receive(m.OfferPart(0, 0, 2, 0, 3))
    assert machine.receive(m.Revoke([1])) == [1]
    assert machine.receive(m.OfferPart(0, 1, 2, 0, 3)) == [0, 2]
    assert machine.sessions == {0: Stage.HELD, 1: Stage.REVOKED, 2: Stage.HELD}


def test_an_offer_that_is_given_up_before_its_first_part_is_revoked_and_never_comes() -> None:
    machine = with_session(Stage.ACCEPTED)
    assert machine.receive(m.Revoke([0, 1, 2])) == [0]
    assert machine.sessions == {0: Stage.REVOKED}
    for first in (1, 2):
        with unchanged(machine, ChannelError):
            machine.receive(m.OfferPart(1, 0, 1, first, 1))
    with unchanged(machine, ChannelError):
        machine.receive(m.Revoke([1]))
    assert machine.receive(m.OfferPart(1, 0, 1, 3, 1)) == [3]


def test_only_the_next_sessions_can_be_revoked_without_having_been_offered() -> None:
    machine = with_session(Stage.ACCEPTED)
    for ids in ([2], [2, 1], [1, 1], [1, 3]):
        with unchanged(machine, ChannelError):
            machine.receive(m.Revoke(ids))


def test_an_abort_that_crosses_settled_is_no_mistake_and_leaves_nothing_to_inherit() -> None:
    machine = in_phase(Phase.SETTLED)
    assert machine.receive(m.Abort("code", "detail")) == []
    assert machine.phase is Phase.ABORTED
    assert machine.orphaned() == []


def test_a_session_that_is_refused_while_its_parts_arrive_is_never_held() -> None:
    machine = in_phase(Phase.MOVING)
    machine.receive(m.OfferPart(0, 0, 2, 0, 2))
    assert machine.refuse([m.Refusal(0, "code", "")]) == [m.Refuse([m.Refusal(0, "code", "")])]
    assert machine.receive(m.OfferPart(0, 1, 2, 0, 2)) == [1]
    assert machine.sessions == {0: Stage.REFUSED, 1: Stage.HELD}


# ---------------------------------------------------------------- one session


@pytest.mark.parametrize("stage", Stage)
def test_only_what_is_accepted_is_owned_by_a_commit(stage: Stage) -> None:
    machine = with_session(stage)
    if stage is Stage.ACCEPTED:
        assert machine.receive(m.Commit([0])) == [0]
        assert machine.sessions[0] is Stage.OWNED
    else:
        with unchanged(machine, ChannelError):
            machine.receive(m.Commit([0]))


@pytest.mark.parametrize("stage", Stage)
def test_a_revocation_takes_what_is_not_owned_and_may_cross_a_refusal(stage: Stage) -> None:
    machine = with_session(stage)
    if stage in {Stage.GATHERING, Stage.HELD, Stage.ACCEPTED}:
        assert machine.receive(m.Revoke([0])) == [0]
        assert machine.sessions[0] is Stage.REVOKED
    elif stage is Stage.REFUSED:
        assert machine.receive(m.Revoke([0])) == []
        assert machine.sessions[0] is Stage.REFUSED
    else:
        with unchanged(machine, ChannelError):
            machine.receive(m.Revoke([0]))


@pytest.mark.parametrize("stage", Stage)
def test_only_what_is_held_is_accepted(stage: Stage) -> None:
    machine = with_session(stage)
    if stage is Stage.HELD:
        assert machine.accept([0]) == [m.Accept([0])]
        assert machine.sessions[0] is Stage.ACCEPTED
    elif stage is Stage.REVOKED:
        assert machine.accept([0]) == []
        assert machine.sessions[0] is Stage.REVOKED
    else:
        with unchanged(machine, ValueError):
            machine.accept([0])


@pytest.mark.parametrize("stage", Stage)
def test_what_is_held_or_gathering_can_be_refused(stage: Stage) -> None:
    machine = with_session(stage)
    refusal = m.Refusal(0, "code", "detail")
    if stage in {Stage.HELD, Stage.GATHERING}:
        assert machine.refuse([refusal]) == [m.Refuse([refusal])]
        assert machine.sessions[0] is Stage.REFUSED
    elif stage is Stage.REVOKED:
        assert machine.refuse([refusal]) == []
        assert machine.sessions[0] is Stage.REVOKED
    else:
        with unchanged(machine, ValueError):
            machine.refuse([refusal])


@pytest.mark.parametrize("ids", [[0, 7], [7, 0], [0, 0]])
def test_a_message_with_one_wrong_id_changes_none(ids: list[int]) -> None:
    machine = with_session(Stage.ACCEPTED)
    with unchanged(machine, ChannelError):
        machine.receive(m.Commit(ids))
    with unchanged(machine, ChannelError):
        machine.receive(m.Revoke(ids))


@pytest.mark.parametrize("ids", [[0, 7], [7, 0]])
def test_an_answer_with_one_wrong_id_changes_none(ids: list[int]) -> None:
    machine = with_session(Stage.HELD)
    with unchanged(machine, ValueError):
        machine.accept(ids)
    with unchanged(machine, ValueError):
        machine.refuse([m.Refusal(id, "code", "") for id in ids])


def test_answers_leave_out_what_was_revoked_meanwhile() -> None:
    machine = in_phase(Phase.MOVING)
    machine.receive(m.OfferPart(0, 0, 1, 0, 4))
    machine.receive(m.Revoke([1, 3]))
    assert machine.accept([0, 1]) == [m.Accept([0])]
    refused = m.Refusal(2, "code", "")
    assert machine.refuse([refused, m.Refusal(3, "code", "")]) == [m.Refuse([refused])]


def test_offers_of_which_parts_are_missing_have_a_limit_together(monkeypatch) -> None:
    monkeypatch.setattr("hotfd.wire.receiver.MAX_SESSIONS", 10)
    machine = in_phase(Phase.MOVING)
    machine.receive(m.OfferPart(0, 0, 2, 0, 6))
    with unchanged(machine, ChannelError):
        machine.receive(m.OfferPart(1, 0, 2, 6, 5))
    machine.receive(m.OfferPart(1, 0, 2, 6, 4))
    machine.receive(m.OfferPart(0, 1, 2, 0, 6))  # complete: it counts no more
    machine.receive(m.OfferPart(2, 0, 2, 10, 6))


def test_many_answers_are_cut_into_messages() -> None:
    machine = in_phase(Phase.MOVING)
    count = m.MAX_IDS + 1
    machine.receive(m.OfferPart(0, 0, 1, 0, 2 * count))
    accepted = machine.accept(range(count))
    assert [id for message in accepted for id in message.ids] == list(range(count))  # type: ignore[attr-defined]
    refusals = [m.Refusal(id, "code", str(id)) for id in range(count, 2 * count)]
    refused = machine.refuse(refusals)
    assert len(refused) > 1
    assert [item for message in refused for item in message.refusals] == refusals  # type: ignore[attr-defined]


def test_refusals_of_the_longest_texts_fit_their_packets() -> None:
    machine = in_phase(Phase.MOVING)
    first, count, widest = (1 << 62) - 101, 100, "\U0001f600" * m.MAX_TEXT
    machine.receive(m.OfferPart(0, 0, 1, first, count))
    refusals = [m.Refusal(id, widest, widest) for id in range(first, first + count)]
    said = [m.decode(m.encode(message)) for message in machine.refuse(refusals)]
    assert [item for message in said for item in message.refusals] == refusals  # type: ignore[union-attr]


@pytest.mark.parametrize("stage", [Stage.GATHERING, Stage.HELD, Stage.ACCEPTED])
def test_offers_do_not_end_while_a_session_is_undecided(stage: Stage) -> None:
    machine = with_session(stage)
    with unchanged(machine, ChannelError):
        machine.receive(m.Finish(1.0))


@pytest.mark.parametrize("stage", [Stage.OWNED, Stage.REFUSED, Stage.REVOKED])
def test_offers_end_when_every_session_is_decided(stage: Stage) -> None:
    machine = with_session(stage)
    machine.receive(m.Finish(1.0))
    assert machine.phase is Phase.PROBATION


# ---------------------------------------------------------------- the old process's death


def test_an_orphan_owns_what_was_offered_completely_and_not_revoked() -> None:
    machine = in_phase(Phase.MOVING)
    machine.receive(m.OfferPart(0, 0, 1, 0, 5))
    machine.accept([1, 2])
    machine.receive(m.Commit([2]))
    machine.refuse([m.Refusal(3, "code", "")])
    machine.receive(m.Revoke([4]))
    machine.receive(m.OfferPart(1, 0, 2, 5, 1))
    assert machine.orphaned() == [0, 1], "those that it owned already are not news"
    assert machine.phase is Phase.ORPHANED
    assert machine.sessions == {
        0: Stage.OWNED,
        1: Stage.OWNED,
        2: Stage.OWNED,
        3: Stage.REFUSED,
        4: Stage.REVOKED,
        5: Stage.GATHERING,
    }


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ABORTED])
def test_a_process_can_be_orphaned_in_every_phase(phase: Phase) -> None:
    machine = in_phase(phase)
    assert machine.orphaned() == []
    assert machine.phase is Phase.ORPHANED


@pytest.mark.parametrize("stage", Stage)
def test_an_abort_takes_back_what_is_not_owned_and_nothing_is_bequeathed_after_it(stage: Stage) -> None:
    machine = with_session(stage)
    assert machine.receive(m.Abort("code", "detail")) == []
    after = stage if stage in {Stage.OWNED, Stage.REFUSED} else Stage.REVOKED
    assert machine.sessions == {0: after}
    assert machine.orphaned() == []
    assert machine.sessions == {0: after}
    assert machine.phase is Phase.ABORTED


def test_an_orphan_takes_no_messages_and_keeps_what_it_owns() -> None:
    machine = with_session(Stage.HELD)
    machine.orphaned()
    for message in (m.Revoke([0]), m.Commit([0]), m.OfferPart(1, 0, 1, 1, 1), m.Abort("code", "")):
        with unchanged(machine, ChannelError):
            machine.receive(message)
    assert machine.orphaned() == []
    assert machine.sessions == {0: Stage.OWNED}


@pytest.mark.parametrize("phase", Phase)
def test_what_became_of_sessions_is_forgotten_when_the_handoff_is_over_and_not_before(phase: Phase) -> None:
    machine = in_phase(phase)
    machine.sessions[0] = Stage.OWNED
    if phase in {Phase.SETTLED, Phase.ORPHANED, Phase.ABORTED}:
        machine.forget()
        assert machine.sessions == {}
        assert machine.orphaned() == []
    else:
        with unchanged(machine, ValueError):
            machine.forget()
