"""A supervisor's answers with several workers, as lines."""

from __future__ import annotations

from hotfd.display.handoff import each_worker
from hotfd.display.status import details
from hotfd.display.workers import by_worker


def show(answer: dict[str, object]) -> list[str]:
    return [f"{len(answer)} fields", ""]


def test_a_servers_own_answer_is_shown_as_it_is() -> None:
    assert by_worker({"a": 1}, show) == ["1 fields", ""]
    assert by_worker({"workers": 3}, show) == ["1 fields", ""]


def test_each_worker_is_named_and_its_answer_or_its_error_shown() -> None:
    answer = {
        "workers": [
            {"worker": 1, "pid": 7, "result": {"a": 1}},
            {"worker": 2, "pid": None, "error": {"code": "not-serving", "message": "no server \x1b[2J"}},
        ]
    }
    assert by_worker(answer, show) == [
        "worker 1, process 7",
        "  1 fields",
        "",
        "worker 2, process -",
        "  not-serving: no server \\x1b[2J",
    ]


def test_the_status_of_a_supervisor_has_a_line_for_each_worker() -> None:
    workers = [{"worker": 1, "pid": 7, "state": "serving", "restarts": 2, "elders": [], "listeners": ["a:1"]}]
    assert details({"name": "chat", "workers": workers}) == [
        "name  chat",
        "worker 1: pid 7  state serving  restarts 2",
    ]


def test_the_report_of_a_handoff_has_a_line_for_each_worker_and_the_reason_of_those_that_failed() -> None:
    workers = [
        {"worker": 1, "outcome": "completed", "old_pid": 7, "new_pid": 9, "sessions": {"moved": 3}, "reason": None},
        {"worker": 2, "outcome": "refused", "old_pid": 8, "new_pid": None, "reason": "not-ready: \x1b too slow"},
    ]
    assert each_worker({"workers": workers}) == [
        "  worker 1  completed: 7 -> 9, 3 sessions",
        "  worker 2  refused: 8 -> -, 0 sessions",
        "    not-ready: \\x1b too slow",
    ]
    assert each_worker({}) == []
