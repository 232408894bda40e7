"""Who watches a server, and when a handoff would take the service down."""

from __future__ import annotations

import os

import pytest

from hotfd.errors import HandoffRefused
from hotfd.server import supervision


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYSTEMD_EXEC_PID", "NOTIFY_SOCKET", "HOTFD_SUPERVISOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(supervision, "_name", lambda pid: "bash")


def refusal() -> str:
    with pytest.raises(HandoffRefused) as caught:
        supervision.check_supervision()
    assert caught.value.code == "unsupervised"
    return caught.value.detail


def test_a_server_that_nobody_watches_may_hand_over() -> None:
    supervision.check_supervision()


def test_pid_1_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert "hotfd run" in refusal()


def test_systemds_main_process_may_only_with_a_notify_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert "Type=notify" in refusal()
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    supervision.check_supervision()


@pytest.mark.parametrize(
    "name", ["tini", "docker-init", "dumb-init", "catatonit", "runsv", "s6-supervise", "supervisord"]
)
def test_a_parent_that_watches_this_one_process_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_name", lambda pid: name)
    detail = refusal()
    assert name in detail
    assert "hotfd run" in detail


@pytest.mark.parametrize("name", ["tini", "supervisord"])
def test_under_hotfd_run_the_end_of_this_process_is_fine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_name", lambda pid: name)
    monkeypatch.setenv("HOTFD_SUPERVISOR", str(os.getppid()))
    supervision.check_supervision()
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    supervision.check_supervision()


def test_a_supervisor_is_an_ancestor_at_any_distance_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = {10: 5, 5: 4, 4: 1}
    monkeypatch.setattr(os, "getppid", lambda: 10)
    monkeypatch.setattr(supervision, "_parent", lambda pid: parents[pid])
    for pid, known in ((10, True), (4, True), (99, False), (1, True)):
        monkeypatch.setenv("HOTFD_SUPERVISOR", str(pid))
        assert supervision.under_supervisor() is known, pid
    monkeypatch.setenv("HOTFD_SUPERVISOR", "no number")
    assert not supervision.under_supervisor()


def test_a_circle_of_parents_that_proc_may_show_is_left() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervision, "_parent", lambda pid: 10)
        patch.setenv("HOTFD_SUPERVISOR", "99")
        assert not supervision.under_supervisor()
