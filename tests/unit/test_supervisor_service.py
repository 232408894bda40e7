"""All workers together: readiness, the end, and what the service manager is told. No process is needed for it."""

from __future__ import annotations

from functools import partial

from hotfd.supervisor.actions import Action, Exit, Kill, Notify, Send, Serves, Spawn
from hotfd.supervisor.service import START_PATIENCE, Service, answers
from hotfd.supervisor.worker import Policy, Probe, Worker

TERM, INT = 15, 2


def service(workers: int = 1, *, ready: bool = True, restarts: int = 3) -> Service:
    """Return a service whose workers 1, 2 ... are served by the processes 100, 200 ..."""
    found = Service(workers, Policy(restarts=restarts, hung_after=10.0), stop_timeout=30.0)
    found.start(0.0)
    for number in range(1, workers + 1):
        tell(found, number, "spawned", pid=100 * number)
        if ready:
            tell(found, number, "is_ready", pid=100 * number, now=0.0)
    return found


def tell(found: Service, number: int, event: str, now: float = 0.0, **fields: object) -> list[Action]:
    fields |= {"now": now} if event in {"is_ready", "exited", "succeeded", "hands_over"} else {}
    return found.tell(number, now, partial(getattr(Worker, event), **fields))


def exited(found: Service, pid: int, status: int, now: float = 1.0) -> list[Action]:
    return tell(found, pid // 100, "exited", now=now, pid=pid, status=status, heirs=())


def told(actions: list[Action]) -> list[str]:
    """Return what the manager is told by some actions."""
    return [line for action in actions if isinstance(action, Notify) for line in action.lines]


# -- starting --------------------------------------------------------------------------------------


def test_every_worker_is_started() -> None:
    assert Service(2, Policy()).start(0.0) == [Spawn(1), Spawn(2)]


def test_the_service_is_ready_when_its_last_worker_is() -> None:
    found = service(2, ready=False)
    assert tell(found, 2, "is_ready", pid=200) == [Serves(2, 200)]
    assert found.state == "starting"
    actions = tell(found, 1, "is_ready", pid=100)
    assert told(actions)[0] == "READY=1"
    assert found.state == "serving"


def test_ready_is_told_once_and_changes_as_status_lines() -> None:
    found = service()
    actions = exited(found, 100, 9)
    assert told(actions) == ["STATUS=restarting"]
    found.tick(2.0)
    tell(found, 1, "spawned", pid=100)
    assert told(tell(found, 1, "is_ready", pid=100, now=3.0)) == ["STATUS=serving"]


# -- handoffs --------------------------------------------------------------------------------------


def test_a_handoff_is_told_from_the_first_workers_beginning_to_the_last_ones_end() -> None:
    found = service(2)
    lines = told(tell(found, 1, "hands_over", pid=100, limit=60.0))
    assert lines[0] == "RELOADING=1"
    assert lines[1].startswith("MONOTONIC_USEC=")
    assert "RELOADING=1" not in told(tell(found, 2, "hands_over", pid=200, limit=60.0))
    assert "READY=1" not in told(tell(found, 1, "succeeded", new=101))
    assert told(tell(found, 2, "succeeded", new=201))[0] == "READY=1"


def test_the_manager_never_hears_of_another_main_process() -> None:
    found = service()
    lines = told(tell(found, 1, "hands_over", pid=100, limit=None)) + told(tell(found, 1, "succeeded", new=101))
    assert not [line for line in lines if line.startswith("MAINPID")]


def test_its_deadline_is_the_earliest_of_the_workers() -> None:
    found = service(2)
    tell(found, 1, "hands_over", now=10.0, pid=100, limit=60.0)
    tell(found, 2, "hands_over", now=10.0, pid=200, limit=50.0)
    assert found.deadline == 60.0
    assert [type(action) for action in found.tick(60.0)] == [Kill]


def test_the_state_is_the_worst_of_any_worker() -> None:
    found = service(2)
    tell(found, 1, "hands_over", pid=100, limit=None)
    assert found.state == "handing-off"
    exited(found, 200, 9)
    assert found.state == "restarting"


def test_the_state_is_that_of_the_workers_that_are_not_over() -> None:
    found = service(2)
    exited(found, 100, 0)
    assert found.state == "serving"
    exited(found, 200, 0)
    assert found.state == "stopping"


def test_it_is_ready_also_when_a_worker_had_nothing_to_do() -> None:
    found = service(2, ready=False)
    assert told(exited(found, 100, 0)) == []
    assert "READY=1" in told(tell(found, 2, "is_ready", pid=200))


# -- ends ------------------------------------------------------------------------------------------


def test_the_order_to_stop_is_told_and_passed_on_with_its_signal() -> None:
    found = service(2)
    actions = found.stop(INT, [100, 200], 5.0)
    assert told(actions)[0] == "STOPPING=1"
    assert [action for action in actions if isinstance(action, Send)] == [Send(100, INT), Send(200, INT)]
    assert found.state == "stopping"


def test_the_service_exits_when_the_last_process_has_ended() -> None:
    found = service(2)
    found.stop(TERM, [100, 200], 5.0)
    exited(found, 100, 0)
    assert found.closing([200], 6.0) == []
    exited(found, 200, 0)
    assert found.closing([], 6.0) == [Exit(0)]
    assert found.closing([], 6.1) == []  # once


def test_what_is_left_when_all_servers_have_ended_is_told_once_and_waited_for() -> None:
    found = service()
    found.stop(TERM, [100, 500], 5.0)
    exited(found, 100, 0)
    assert found.closing([500], 6.0) == [Send(500, TERM)]
    assert found.closing([500], 7.0) == []
    assert found.closing([], 8.0) == [Exit(0)]


def test_what_is_left_when_the_time_is_over_is_killed() -> None:
    found = service()
    found.stop(TERM, [100, 500], 5.0)
    assert found.deadline == 35.0
    assert found.overdue([100, 500], 34.9) == []
    assert [action.pid for action in found.overdue([100, 500], 35.0) if isinstance(action, Kill)] == [100, 500]
    exited(found, 100, 137)
    assert [action.pid for action in found.closing([500, 501], 36.0) if isinstance(action, Kill)] == [501]  # made since
    assert found.closing([500, 501], 36.1) == []
    assert found.closing([], 36.0) == [Exit(137)]


def test_the_second_order_kills_at_once() -> None:
    found = service()
    found.stop(TERM, [100], 5.0)
    assert [type(action) for action in found.stop(TERM, [100], 6.0)] == [Kill]


def test_a_worker_that_cannot_be_replaced_ends_the_others_and_gives_its_status() -> None:
    found = service(2, restarts=0)
    actions = exited(found, 100, 3)
    assert Send(200, TERM) in actions
    assert "STOPPING=1" in told(actions)
    exited(found, 200, 0)
    assert found.closing([], 3.0) == [Exit(3)]


def test_a_worker_that_ends_by_itself_leaves_the_others() -> None:
    found = service(2)
    actions = exited(found, 100, 0)
    assert not [action for action in actions if isinstance(action, Send)]
    assert not found.stopping
    exited(found, 200, 0)
    assert found.stopping
    assert found.closing([], 3.0) == [Exit(0)]


def test_nothing_is_told_of_handoffs_while_the_service_ends() -> None:
    found = service()
    found.stop(TERM, [100], 5.0)
    assert told(tell(found, 1, "hands_over", pid=100, limit=None)) == []


# -- signs of life ---------------------------------------------------------------------------------


def test_a_sign_of_life_is_given_while_every_server_gives_one() -> None:
    found = service(2)
    assert told(found.alive({100, 200}, 1.0)) == ["WATCHDOG=1"]
    assert found.alive({100}, 1.0) == []


def test_a_server_that_hands_over_is_not_asked_since_its_supervisor_sees_to_it() -> None:
    found = service(2)
    assert found.questioned == {100, 200}
    tell(found, 1, "hands_over", pid=100, limit=60.0)
    assert found.questioned == {200}
    assert told(found.alive({200}, 1.0)) == ["WATCHDOG=1"]
    assert found.alive({100}, 1.0) == []


def test_a_worker_that_is_being_restarted_is_well_for_its_time() -> None:
    found = service()
    exited(found, 100, 9, now=1.0)
    assert told(found.alive(set(), 1.0)) == ["WATCHDOG=1"]
    found.tick(2.0)
    assert told(found.alive(set(), 2.0 + START_PATIENCE - 1)) == ["WATCHDOG=1"]
    assert found.alive(set(), 2.0 + START_PATIENCE) == []


def test_only_an_answer_is_a_sign_of_life() -> None:
    assert answers({1: Probe.ANSWERED, 2: Probe.SILENT, 3: Probe.MUTE}) == {1}
