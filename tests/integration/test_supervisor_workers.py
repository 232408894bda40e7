"""``hotfd run --workers``: several servers on shared sockets."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.integration import harness
from tests.integration.supervised import ECHO, Supervised, Talker, supervised

PICKY = ECHO.replace(
    'hotfd.run(talk, listen=sys.argv[1], name="echo")',
    'sys.exit(9) if "HOTFD_CHANNEL" in os.environ and os.environ["HOTFD_WORKER"] == "2" else None\n'
    '        hotfd.run(talk, listen=sys.argv[1], name="echo")',
)
"""A server whose second worker cannot be handed over."""


@contextmanager
def workers(tmp_path: Path, count: int, *options: str, source: str = ECHO, **popen: Any) -> Iterator[Supervised]:
    """Run several workers on one port, and wait until all of them serve."""
    port = harness.free_port()
    shared = ["--workers", str(count), "--listen", f"127.0.0.1:{port}", *options]
    with supervised(tmp_path, *shared, source=source, port=port, **popen) as service:
        service.serves()
        yield service


@contextmanager
def client_of_each(service: Supervised) -> Iterator[dict[int, Talker]]:
    """Connect until every worker has a client; yield one for each by the worker's pid."""
    wanted, found = set(service.servers()), dict[int, Talker]()
    with ExitStack() as stack:
        while set(found) != wanted:
            client = stack.enter_context(service.connect())
            found.setdefault(client.served_by(), client)
        yield found


def test_workers_share_a_socket_and_are_handed_over_one_after_another(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as service:
        before = service.servers()
        with client_of_each(service) as clients:
            report = service.handoff()
            assert (report["outcome"], report["old_pid"], report["generation"]) == ("completed", service.pid, 2)
            assert [worker["worker"] for worker in report["workers"]] == [1, 2]
            assert [worker["old_pid"] for worker in report["workers"]] == before
            assert report["connections"]["moved"] == sum(w["connections"]["moved"] for w in report["workers"]) >= 2
            new = {worker["old_pid"]: worker["new_pid"] for worker in report["workers"]}
            assert service.servers() == list(new.values())
            for old, client in clients.items():
                assert client.served_by() == new[old]
        service.process.terminate()
        assert service.ends() == 0


def test_all_at_once_hands_over_together(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as service:
        report = service.handoff("--all-at-once", "--probation", "1")
        assert report["outcome"] == "completed"
        assert report["elapsed_ms"] < sum(worker["elapsed_ms"] for worker in report["workers"])


def test_the_first_worker_that_fails_stops_the_others(tmp_path: Path) -> None:
    with workers(tmp_path, 3, source=PICKY) as service:
        before = service.servers()
        report = service.handoff(expect=1)
        assert report["outcome"] == "rolled-back"
        assert report["reason"].startswith("new-exited:")
        assert "worker 2" in report["reason"]
        assert [worker["outcome"] for worker in report["workers"]] == ["completed", "rolled-back"]
        after = service.servers()
        assert after[0] != before[0]
        assert after[1:] == before[1:]


def test_the_commands_answer_for_people_names_each_worker(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as service:
        done = harness.hotfd("handoff", "--pid", str(service.pid), "--probation", "0")
        assert done.returncode == 0
        assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  worker")] == ["1", "2"]


def test_a_worker_that_crashed_is_replaced_and_the_others_do_not_notice(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as service, client_of_each(service) as clients:
        first, second = service.servers()
        os.kill(second, signal.SIGKILL)
        service.says("crashed worker=2")
        service.serves()
        assert service.servers()[0] == clients[first].served_by() == first
        assert service.servers()[1] != second


def test_status_adds_up_and_lists_each_worker(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as service, client_of_each(service) as clients:
        status = service.status()
        assert status["connections"] == sum(worker["connections"] for worker in status["workers"]) >= len(clients)
        assert [worker["worker"] for worker in status["workers"]] == [1, 2]
        assert len(status["listeners"]) == 1


def test_other_instructions_are_asked_of_each_worker_or_of_one(tmp_path: Path) -> None:
    from hotfd.control import Client, find

    with workers(tmp_path, 2) as service, Client.connect(find(service.pid)) as client:
        answers = client.ask("sessions")["workers"]
        assert [(answer["worker"], answer["result"]["pid"]) for answer in answers] == list(
            enumerate(service.servers(), 1)
        )
        assert client.ask("sessions", worker=2)["pid"] == service.servers()[1]
        assert "error" in client.ask("nonsense")["workers"][0]


def test_a_worker_beyond_its_restarts_ends_the_service_with_its_status(tmp_path: Path) -> None:
    with workers(tmp_path, 2, "--restarts", "0") as service:
        os.kill(service.servers()[0], signal.SIGKILL)
        assert service.ends() == 137


def test_workers_under_uvloop_also_where_it_is_the_loop_of_every_program(tmp_path: Path) -> None:
    policy = "import asyncio\nimport uvloop\nasyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\n"
    (tmp_path / "sitecustomize.py").write_text(policy)  # which Python runs when it starts
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with workers(tmp_path, 2, env=environment) as service:
        assert any("uvloop" in line for line in Path(f"/proc/{service.servers()[0]}/maps").read_text().splitlines())
        assert service.handoff()["outcome"] == "completed"
