"""The old process's state machine: every transition, and that a refusal changes nothing."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.errors import ChannelError
from hotfd.wire import messages as m
from hotfd.wire.sender import OPEN, Phase, Sender, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HELLO = m.Hello(m.PROTOCOL, 2, "1", {}, 1024, 10)
FINISH = 5.0


def snapshot(machine: Sender) -> dict[str, Any]:
    return copy.deepcopy(vars(machine))


@contextmanager
def unchanged(machine: Sender, error: type[Exception]) -> Iterator[None]:
    before = snapshot(machine)
    with pytest.raises(error):
        yield
    assert snapshot(machine) == before


def in_phase(phase: Phase) -> Sender:
    """A machine that has come to a phase by the messages that lead there, without sessions."""
    machine = Sender()
    if phase is Phase.FAILED:
        machine.take_back(lambda _: True)
        return machine
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.PREPARING, lambda: machine.receive(HELLO)),
        (Phase.MOVING, lambda: machine.receive(m.Ready())),
        (Phase.PROBATION, lambda: machine.finish(FINISH)),
        (Phase.SETTLED, lambda: machine.receive(m.Settled(0, 0, 0))),
    ]
    for reached, step in steps:
        if machine.phase is phase:
            break
        step()
        assert machine.phase is reached
    return machine


def with_session(stage: Stage) -> Sender:
    """A machine whose session 0 is at a stage."""
    machine = in_phase(Phase.MOVING)
    machine.offer(1)
    match stage:
        case Stage.ACCEPTED | Stage.COMMITTED:
            machine.receive(m.Accept([0]))
        case Stage.REFUSED:
            machine.receive(m.Refuse([m.Refusal(0, "code", "detail")]))
        case Stage.REVOKED:
            machine.revoke([0])
        case Stage.RETURNED | Stage.LOST:
            machine.receive(m.Accept([0]))
            machine.commit([0])
            machine.take_back(lambda _: stage is Stage.LOST)
    if stage is Stage.COMMITTED:
        machine.commit([0])
    assert machine.sessions == {0: stage}
    return machine


SAMPLES: list[m.Message] = [
    HELLO,
    m.Ready(),
    m.Failed("code", "detail"),
    m.Accept([]),
    m.Refuse([]),
    m.Newcomer(1, 2, "l"),
    m.Ended([1]),
    m.Settled(0, 0, 0),
    m.Setup(1, "id", 2, 1, {}, False, {}),
    m.Listeners([], False),
    m.OfferPart(0, 0, 1, 0, 1),
    m.Commit([]),
    m.Revoke([]),
    m.Finish(1.0),
    m.Abort("code", "detail"),
]
ALLOWED = {
    (Phase.STARTING, m.Hello),
    (Phase.STARTING, m.Failed),
    (Phase.PREPARING, m.Ready),
    (Phase.PREPARING, m.Failed),
    (Phase.MOVING, m.Failed),
    (Phase.MOVING, m.Accept),
    (Phase.MOVING, m.Refuse),
    (Phase.MOVING, m.Newcomer),
    (Phase.MOVING, m.Ended),
    (Phase.PROBATION, m.Failed),
    (Phase.PROBATION, m.Accept),
    (Phase.PROBATION, m.Refuse),
    (Phase.PROBATION, m.Newcomer),
    (Phase.PROBATION, m.Ended),
    (Phase.PROBATION, m.Settled),
    (Phase.SETTLED, m.Newcomer),
    (Phase.SETTLED, m.Ended),
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


def test_the_new_process_leads_the_handoff_from_hello_to_settled() -> None:
    machine = Sender()
    assert machine.receive(HELLO) == []
    assert machine.phase is Phase.PREPARING
    assert machine.receive(m.Ready()) == []
    assert machine.phase is Phase.MOVING
    assert machine.finish(FINISH) == m.Finish(FINISH)
    assert machine.phase is Phase.PROBATION
    assert machine.receive(m.Settled(1, 2, 3)) == []
    assert machine.phase is Phase.SETTLED


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.MOVING])
def test_nothing_is_offered_and_offers_do_not_end_outside_of_moving(phase: Phase) -> None:
    machine = in_phase(phase)
    with unchanged(machine, ValueError):
        machine.offer(1)
    with unchanged(machine, ValueError):
        machine.finish(FINISH)


def test_ids_go_up_and_are_never_used_again() -> None:
    machine = in_phase(Phase.MOVING)
    assert machine.next_session == 0
    assert machine.offer(3) == (0, 0)
    machine.revoke([0, 1, 2])
    assert machine.next_session == 3
    assert machine.offer(1) == (1, 3)
    assert machine.offer(2) == (2, 4)
    assert list(machine.sessions) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stage", Stage)
def test_an_accept_is_news_of_an_offered_session_only(stage: Stage) -> None:
    machine = with_session(stage)
    answers: list[tuple[m.Message, Stage]] = [
        (m.Accept([0]), Stage.ACCEPTED),
        (m.Refuse([m.Refusal(0, "code", "")]), Stage.REFUSED),
    ]
    for answer, becomes in answers:
        fresh = copy.deepcopy(machine)
        if stage is Stage.OFFERED:
            assert fresh.receive(answer) == [0]
            assert fresh.sessions[0] is becomes
        elif stage is Stage.REVOKED:
            before = snapshot(fresh)
            assert fresh.receive(answer) == []
            assert snapshot(fresh) == before
        else:
            with unchanged(fresh, ChannelError):
                fresh.receive(answer)


@pytest.mark.parametrize("stage", Stage)
def test_only_what_is_accepted_can_be_committed(stage: Stage) -> None:
    machine = with_session(stage)
    if stage is Stage.ACCEPTED:
        assert machine.commit([0]) == [m.Commit([0])]
        assert machine.sessions[0] is Stage.COMMITTED
    else:
        with unchanged(machine, ValueError):
            machine.commit([0])


@pytest.mark.parametrize("stage", Stage)
def test_only_what_is_not_committed_can_be_revoked(stage: Stage) -> None:
    machine = with_session(stage)
    assert (stage in OPEN) == (stage in {Stage.OFFERED, Stage.ACCEPTED})
    if stage in OPEN:
        assert machine.revoke([0]) == [m.Revoke([0])]
        assert machine.sessions[0] is Stage.REVOKED
    else:
        with unchanged(machine, ValueError):
            machine.revoke([0])


@pytest.mark.parametrize("ids", [[0, 7], [7, 0], [7]])
def test_an_answer_with_one_unknown_id_changes_none(ids: list[int]) -> None:
    machine = with_session(Stage.OFFERED)
    with unchanged(machine, ChannelError):
        machine.receive(m.Accept(ids))
    with unchanged(machine, ChannelError):
        machine.receive(m.Refuse([m.Refusal(id, "code", "") for id in ids]))


def test_an_answer_that_names_a_session_twice_is_the_new_processes_mistake() -> None:
    for stage in (Stage.OFFERED, Stage.REVOKED):
        machine = with_session(stage)
        with unchanged(machine, ChannelError):
            machine.receive(m.Accept([0, 0]))


def test_a_commit_with_one_session_that_is_not_accepted_commits_none() -> None:
    machine = in_phase(Phase.MOVING)
    machine.offer(2)
    machine.receive(m.Accept([0]))
    for ids in ([0, 1], [1, 0], [0, 9]):
        with unchanged(machine, ValueError):
            machine.commit(ids)


def test_a_revocation_with_one_committed_session_revokes_none() -> None:
    machine = with_session(Stage.COMMITTED)
    machine.offer(1)
    for ids in ([0, 1], [1, 0]):
        with unchanged(machine, ValueError):
            machine.revoke(ids)


def test_an_answer_that_mixes_revoked_and_offered_sessions_counts_for_the_offered() -> None:
    machine = in_phase(Phase.MOVING)
    machine.offer(3)
    machine.revoke([1])
    assert machine.receive(m.Accept([0, 1])) == [0]
    assert machine.receive(m.Refuse([m.Refusal(2, "code", "")])) == [2]
    assert machine.sessions == {0: Stage.ACCEPTED, 1: Stage.REVOKED, 2: Stage.REFUSED}


def test_many_ids_are_cut_into_messages_that_fit_a_packet() -> None:
    machine = in_phase(Phase.MOVING)
    count = m.MAX_IDS + 1
    machine.offer(2 * count)
    accepted, rest = list(range(count)), list(range(count, 2 * count))
    for ids in m.chunks(accepted):
        machine.receive(m.Accept(ids))
    assert machine.commit(accepted) == [m.Commit(accepted[: m.MAX_IDS]), m.Commit(accepted[m.MAX_IDS :])]
    assert machine.revoke(rest) == [m.Revoke(rest[: m.MAX_IDS]), m.Revoke(rest[m.MAX_IDS :])]


@pytest.mark.parametrize("sessions", [0, -1])
def test_an_offer_of_no_sessions_is_no_offer(sessions: int) -> None:
    machine = in_phase(Phase.MOVING)
    with unchanged(machine, ValueError):
        machine.offer(sessions)


def test_a_session_cannot_stand_twice_in_what_the_old_process_says() -> None:
    machine = with_session(Stage.ACCEPTED)
    with unchanged(machine, ValueError):
        machine.commit([0, 0])
    with unchanged(machine, ValueError):
        machine.revoke([0, 0])


def test_commit_and_revoke_of_nothing_say_nothing() -> None:
    machine = in_phase(Phase.MOVING)
    assert machine.commit([]) == []
    assert machine.revoke([]) == []


@pytest.mark.parametrize("stage", sorted(OPEN, key=lambda stage: stage.value))
def test_offers_do_not_end_while_a_session_is_open(stage: Stage) -> None:
    machine = with_session(stage)
    assert machine.open_sessions() == [0]
    with unchanged(machine, ValueError):
        machine.finish(FINISH)
    machine.revoke([0])
    assert machine.open_sessions() == []
    machine.finish(FINISH)


def test_a_late_answer_to_a_revoked_session_is_borne_in_probation_too() -> None:
    machine = with_session(Stage.REVOKED)
    machine.finish(FINISH)
    assert machine.receive(m.Accept([0])) == []
    assert machine.receive(m.Refuse([m.Refusal(0, "code", "")])) == []


def test_after_certain_death_each_session_has_one_fate() -> None:
    machine = in_phase(Phase.MOVING)
    machine.offer(7)
    machine.receive(m.Accept([1, 2, 3, 6]))
    machine.commit([2, 3])
    machine.receive(m.Refuse([m.Refusal(4, "code", "")]))
    machine.revoke([5])
    asked: list[int] = []

    def touched(id: int) -> bool:
        asked.append(id)
        return id == 3

    fate = machine.take_back(touched)
    assert (fate.resume, fate.restore, fate.lost) == ([0, 1, 6], [2], [3])
    assert asked == [2, 3], "whether a session is touched matters only when it was committed"
    assert machine.phase is Phase.FAILED
    assert machine.sessions == {
        0: Stage.REVOKED,
        1: Stage.REVOKED,
        2: Stage.RETURNED,
        3: Stage.LOST,
        4: Stage.REFUSED,
        5: Stage.REVOKED,
        6: Stage.REVOKED,
    }


def test_taking_back_twice_returns_nothing_the_second_time() -> None:
    machine = with_session(Stage.COMMITTED)
    machine.take_back(lambda _: False)
    fate = machine.take_back(lambda _: False)
    assert (fate.resume, fate.restore, fate.lost) == ([], [], [])


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.SETTLED])
def test_a_handoff_can_fail_in_every_phase_before_it_is_settled(phase: Phase) -> None:
    machine = in_phase(phase)
    machine.take_back(lambda _: True)
    assert machine.phase is Phase.FAILED


def test_nothing_comes_back_once_the_handoff_is_settled() -> None:
    machine = in_phase(Phase.SETTLED)
    committed = [id for id, stage in machine.sessions.items() if stage is Stage.COMMITTED]
    result = machine.take_back(lambda _: False)
    assert (result.resume, result.restore, result.lost) == ([], [], committed)


def test_what_became_of_sessions_is_forgotten_when_the_handoff_is_settled_and_not_before() -> None:
    machine = with_session(Stage.COMMITTED)
    for reach in (lambda: machine.finish(FINISH), lambda: machine.receive(m.Settled(0, 0, 0))):
        with unchanged(machine, ValueError):
            machine.forget()
        reach()
    machine.forget()
    assert machine.sessions == {}
    assert machine.phase is Phase.SETTLED
    assert machine.next_session == 1, "an id is never given again"
