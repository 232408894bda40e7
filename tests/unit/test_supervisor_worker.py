"""What the supervisor does about each thing that can happen to a worker, without a process."""

from __future__ import annotations

import math

import pytest

from hotfd.supervisor.actions import Finished, Kill, Restart, Send, Serves, Spawn, Watch
from hotfd.supervisor.worker import (
    ADOPTION_LIMIT,
    FIRST_DELAY,
    HANDOFF_LIMIT,
    MAX_DELAY,
    PROVEN_AFTER,
    UNKNOWN_STATUS,
    Phase,
    Policy,
    Probe,
    Worker,
)

TERM, KILLED = 15, 137


def worker(restarts: int = 3) -> Worker:
    return Worker(1, Policy(restarts=restarts, hung_after=10.0))


def serving(pid: int = 100, **options: int) -> Worker:
    """Return a worker whose first server serves since the time 0."""
    found = worker(**options)
    assert found.start() == [Spawn(1)]
    assert found.spawned(pid) == [Watch(1, pid)]
    assert found.is_ready(pid, 0.0) == [Serves(1, pid)]
    return found


def handing_over(old: int = 100) -> Worker:
    """Return a worker in the middle of a handoff, which began at the time 10."""
    found = serving(old)
    assert found.hands_over(old, 10.0, None) == []
    return found


# -- starting --------------------------------------------------------------------------------------


def test_a_server_starts_and_serves() -> None:
    found = serving()
    assert (found.phase, found.server, found.root, found.ready) == (Phase.SERVING, 100, 100, True)
    assert found.deadline == math.inf


def test_a_server_below_a_shell_is_watched_beside_it() -> None:
    found = worker()
    found.start()
    found.spawned(100)
    assert found.is_ready(101, 0.0) == [Watch(1, 101), Serves(1, 101)]
    assert found.processes == {100, 101}


@pytest.mark.parametrize("status", [1, 3, KILLED])
def test_a_server_that_never_served_is_not_tried_again(status: int) -> None:
    found = worker()
    found.start()
    found.spawned(100)
    assert found.exited(100, status, (), 1.0) == [Finished(1, status, False)]
    assert found.phase is Phase.OVER


def test_a_command_that_cannot_be_executed_is_the_end() -> None:
    found = worker()
    found.start()
    assert found.not_spawned(127, 0.0) == [Finished(1, 127, False)]


def test_a_second_ready_of_the_same_process_means_nothing() -> None:
    found = serving()
    assert found.is_ready(100, 1.0) == []
    assert found.is_ready(999, 1.0) == []
    assert found.server == 100


# -- ends and crashes ------------------------------------------------------------------------------


def test_an_exit_with_status_0_is_meant() -> None:
    assert serving().exited(100, 0, (), 5.0) == [Finished(1, 0, True)]


def test_an_exit_that_the_server_has_announced_is_meant_whatever_its_status() -> None:
    found = serving()
    assert found.ends(100) == []
    assert found.exited(100, 4, (), 5.0) == [Finished(1, 4, True)]


def test_who_is_not_the_server_cannot_announce_its_exit() -> None:
    found = serving()
    found.ends(999)
    assert found.exited(100, 4, (), 5.0) == [Restart(1, 4, FIRST_DELAY)]


def test_a_crash_is_followed_by_a_restart_after_a_delay() -> None:
    found = serving()
    assert found.exited(100, KILLED, (), 5.0) == [Restart(1, KILLED, FIRST_DELAY)]
    assert (found.phase, found.deadline, found.ready) == (Phase.WAITING, 5.0 + FIRST_DELAY, False)
    assert found.tick(5.0) == []
    assert found.tick(5.0 + FIRST_DELAY) == [Spawn(1)]
    assert found.restarted == 1


def crash(found: Worker, pid: int, now: float) -> list[object]:
    """Let a worker's next server start, serve for a moment and crash."""
    found.tick(now)
    found.spawned(pid)
    found.is_ready(pid, now)
    return list(found.exited(pid, 9, (), now + 0.5))


def test_delays_double_and_the_limit_ends_the_worker_with_the_last_status() -> None:
    found = serving(restarts=3)
    found.exited(100, 9, (), 0.5)
    delays = []
    for crashes, pid in enumerate((101, 102), 2):
        (restart,) = crash(found, pid, 1000.0 * crashes)
        assert isinstance(restart, Restart)
        delays.append(restart.seconds)
    assert delays == [2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert crash(found, 103, 5000.0) == [Finished(1, 9, False)]


def test_no_delay_is_longer_than_the_longest() -> None:
    found = serving(restarts=100)
    found.exited(100, 9, (), 0.5)
    for crashes in range(2, 30):
        (restart,) = crash(found, 100 + crashes, 1000.0 * crashes)
    assert isinstance(restart, Restart)
    assert restart.seconds == MAX_DELAY


def test_a_crash_after_long_service_is_the_first_of_its_row() -> None:
    found = serving(restarts=1)
    found.exited(100, 9, (), 1.0)
    found.tick(2.0)
    found.spawned(101)
    found.is_ready(101, 2.0)
    assert found.exited(101, 9, (), 2.0 + PROVEN_AFTER) == [Restart(1, 9, FIRST_DELAY)]


def test_without_restarts_the_first_crash_is_the_end() -> None:
    assert serving(restarts=0).exited(100, 9, (), 1.0) == [Finished(1, 9, False)]


def test_a_restarted_server_that_does_not_come_up_counts_as_a_crash() -> None:
    found = serving()
    found.exited(100, 9, (), 1.0)
    found.tick(2.0)
    found.spawned(101)
    assert found.exited(101, 1, (), 2.5) == [Restart(1, 1, 2 * FIRST_DELAY)]


def test_while_the_shell_lives_nothing_is_started_beside_it() -> None:
    found = worker()
    found.start()
    found.spawned(100)
    found.is_ready(101, 0.0)
    assert found.exited(101, None, (), 1.0) == []
    assert found.phase is Phase.STARTING
    assert found.exited(100, 3, (), 1.1) == [Restart(1, 3, FIRST_DELAY)]


def test_a_status_that_nobody_here_can_know_counts_as_a_crash() -> None:
    found = serving()
    assert found.exited(100, None, (), 1.0) == [Restart(1, UNKNOWN_STATUS, FIRST_DELAY)]


def test_what_nobody_knows_may_exit() -> None:
    found = serving()
    assert found.exited(999, 1, (), 1.0) == []
    assert found.server == 100


# -- handoffs --------------------------------------------------------------------------------------


def test_a_completed_handoff_makes_the_new_process_the_server_and_the_old_one_an_elder() -> None:
    found = handing_over()
    assert found.succeeded(200, 12.0) == [Watch(1, 200), Serves(1, 200)]
    assert (found.phase, found.server, found.root, found.elders) == (Phase.SERVING, 200, None, {100})
    assert found.is_ready(100, 12.0) == []  # the old one's READY comes with its MAINPID
    assert found.succeeded(200, 12.1) == []  # the new one says it too
    assert found.exited(100, 0, (), 13.0) == []
    assert (found.server, found.elders) == (200, set())


def test_the_elder_that_was_the_first_process_does_not_decide_when_the_server_crashes() -> None:
    found = handing_over()
    found.succeeded(200, 12.0)
    assert found.exited(200, 9, (), 13.0) == [Restart(1, 9, FIRST_DELAY)]
    assert found.exited(100, 0, (), 13.1) == []
    assert found.phase is Phase.WAITING


def test_the_shell_around_a_server_that_has_handed_over_decides_nothing() -> None:
    found = worker()
    found.start()
    found.spawned(100)
    found.is_ready(101, 0.0)
    found.hands_over(101, 1.0, None)
    found.succeeded(200, 2.0)
    assert (found.elders, found.husks) == ({101}, {100})
    assert found.exited(100, 0, (), 3.0) == []
    assert found.server == 200


def test_an_undone_handoff_leaves_the_server_as_it_was() -> None:
    found = handing_over()
    assert found.deadline == 10.0 + HANDOFF_LIMIT
    assert found.is_ready(100, 12.0) == []
    assert (found.phase, found.deadline) == (Phase.SERVING, math.inf)


def test_only_the_server_begins_a_handoff() -> None:
    found = serving()
    found.hands_over(999, 1.0, None)
    assert found.phase is Phase.SERVING


def test_a_handoff_that_is_overdue_ends_the_old_process() -> None:
    found = serving()
    found.hands_over(100, 10.0, 90.0)
    assert found.tick(99.0) == []
    assert [type(action) for action in found.tick(100.0)] == [Kill]
    assert found.tick(101.0) == []  # once


def test_when_the_old_process_dies_its_heir_is_waited_for_and_nothing_is_started() -> None:
    found = handing_over()
    assert found.exited(100, KILLED, {200}, 12.0) == [Watch(1, 200)]
    assert (found.phase, found.heirs, found.deadline) == (Phase.BEREAVED, {200}, 12.0 + ADOPTION_LIMIT)
    assert found.succeeded(200, 13.0) == [Serves(1, 200)]
    assert (found.phase, found.server, found.heirs) == (Phase.SERVING, 200, set())


def test_an_heir_may_say_that_it_is_ready_instead() -> None:
    found = handing_over()
    found.exited(100, KILLED, {200, 201}, 12.0)
    assert found.is_ready(201, 13.0) == [Serves(1, 201)]
    assert found.exited(200, 75, (), 14.0) == []


@pytest.mark.parametrize("status", [0, 2, None])
def test_when_the_heir_ends_too_however_it_does_a_server_is_started(status: int | None) -> None:
    found = handing_over()
    found.exited(100, KILLED, {200, 201}, 12.0)
    assert found.exited(200, 1, (), 12.5) == []
    assert found.exited(201, status, (), 13.0) == [Restart(1, KILLED, FIRST_DELAY)]


def test_when_the_heir_of_a_server_that_ended_in_order_fails_a_server_is_started() -> None:
    found = handing_over()
    found.exited(100, 0, {200}, 12.0)
    assert found.exited(200, 2, (), 13.0) == [Restart(1, 2, FIRST_DELAY)]


def test_an_heir_that_never_serves_is_ended() -> None:
    found = handing_over()
    found.exited(100, KILLED, {200}, 12.0)
    assert [type(action) for action in found.tick(12.0 + ADOPTION_LIMIT)] == [Kill]
    assert found.exited(200, KILLED, (), 80.0) == [Restart(1, KILLED, FIRST_DELAY)]


def test_elders_are_no_heirs() -> None:
    found = handing_over()
    found.succeeded(200, 12.0)
    assert found.exited(200, 9, {100}, 13.0) == [Restart(1, 9, FIRST_DELAY)]


def test_an_elder_cannot_become_the_server_again_by_saying_so() -> None:
    found = handing_over()
    found.succeeded(200, 12.0)
    assert found.succeeded(100, 13.0) == []
    found.exited(200, 9, (), 14.0)
    assert found.is_ready(100, 14.0) == []


# -- hanging ---------------------------------------------------------------------------------------


def test_an_old_process_that_hangs_in_a_handoff_is_ended_after_its_time() -> None:
    found = handing_over()
    assert found.doubtful == {100}
    assert found.probed(100, Probe.SILENT, 20.0) == []
    assert found.probed(100, Probe.SILENT, 29.9) == []
    assert [type(action) for action in found.probed(100, Probe.SILENT, 30.0)] == [Kill]
    assert found.probed(100, Probe.SILENT, 31.0) == []  # once


def test_one_answer_begins_the_time_anew() -> None:
    found = handing_over()
    found.probed(100, Probe.SILENT, 20.0)
    found.probed(100, Probe.ANSWERED, 29.0)
    assert found.probed(100, Probe.SILENT, 30.0) == []
    assert found.probed(100, Probe.SILENT, 39.0) == []


def test_a_server_that_hands_nothing_over_may_be_silent() -> None:
    found = serving()
    assert found.doubtful == set()
    assert found.probed(100, Probe.SILENT, 20.0) == found.probed(100, Probe.SILENT, 2000.0) == []


def test_an_elder_that_hangs_is_ended_and_one_that_drains_is_not() -> None:
    found = handing_over()
    found.succeeded(200, 12.0)
    assert found.doubtful == {100}
    for now in range(20, 2000, 10):
        assert found.probed(100, Probe.ANSWERED, float(now)) == []
    found.probed(100, Probe.SILENT, 3000.0)
    assert found.probed(100, Probe.SILENT, 3010.0) == [Kill(100, "it hangs, and another process serves")]


def test_an_old_process_that_computes_in_a_handoff_is_given_its_time_and_an_elder_is_not() -> None:
    found = handing_over()
    assert found.probed(100, Probe.BUSY, 20.0) == found.probed(100, Probe.BUSY, 200.0) == []
    found.succeeded(200, 201.0)
    assert found.probed(100, Probe.BUSY, 210.0) == []
    assert [type(action) for action in found.probed(100, Probe.BUSY, 220.0)] == [Kill]


def test_an_elder_without_a_control_socket_is_judged_only_if_it_had_one() -> None:
    found = handing_over()
    found.succeeded(200, 12.0)
    found.probed(100, Probe.MUTE, 20.0)
    assert found.probed(100, Probe.MUTE, 2000.0) == []
    found.probed(100, Probe.ANSWERED, 2001.0)
    found.probed(100, Probe.MUTE, 2002.0)  # it closed its socket: it is about to exit, and should
    assert [type(action) for action in found.probed(100, Probe.MUTE, 2012.0)] == [Kill]


# -- orders ----------------------------------------------------------------------------------------


def test_the_order_to_stop_goes_to_server_and_elders() -> None:
    found = handing_over()
    found.succeeded(200, 12.0)
    assert found.stop(TERM) == [Send(100, TERM), Send(200, TERM)]
    assert found.exited(200, 0, (), 13.0) == [Finished(1, 0, True)]


def test_the_order_to_stop_goes_to_what_was_started_when_nobody_serves_yet() -> None:
    found = worker()
    found.start()
    found.spawned(100)
    assert found.stop(TERM) == [Send(100, TERM)]
    assert found.exited(100, 143, (), 1.0) == [Finished(1, 143, True)]


def test_a_process_that_takes_over_after_the_order_is_told_too() -> None:
    found = handing_over()
    assert found.stop(TERM) == [Send(100, TERM)]
    assert found.succeeded(200, 12.0) == [Watch(1, 200), Serves(1, 200), Send(200, TERM)]


def test_heirs_are_told_too() -> None:
    found = handing_over()
    found.stop(TERM)
    assert found.exited(100, 0, {200}, 12.0) == [Watch(1, 200), Send(200, TERM)]
    assert found.exited(200, 143, (), 13.0) == [Finished(1, 143, True)]


def test_after_the_order_nothing_is_started_again() -> None:
    found = serving()
    found.stop(TERM)
    assert found.exited(100, 9, (), 5.0) == [Finished(1, 9, True)]
    assert found.tick(1000.0) == []


def test_the_order_to_stop_during_the_delay_is_the_end_at_once() -> None:
    found = handing_over()
    found.succeeded(200, 12.0)
    found.exited(200, 9, (), 13.0)
    assert found.phase is Phase.WAITING
    assert found.stop(TERM) == [Send(100, TERM), Finished(1, 9, True)]
    assert found.tick(1000.0) == []


def test_nothing_becomes_a_server_once_the_worker_is_over() -> None:
    found = serving()
    found.exited(100, 0, (), 1.0)
    assert found.is_ready(200, 2.0) == found.succeeded(200, 2.0) == []
    assert found.server is None
