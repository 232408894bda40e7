"""Going back with what real programs do: late imports, interpreters behind links, downgrades with side effects."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.releases import (
    QUICK,
    TAGS,
    history,
    point,
    release,
    rollback,
    running,
    talking,
    two_versions,
)

LATE = "import late; await conn.send(late.NAME)"


def test_a_module_that_was_imported_while_the_server_ran_is_part_of_what_ran(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        directory = release(tmp_path, name, join=LATE)
        (directory / "late.py").write_text(f"NAME = b{name!r}\n")
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        assert client.lines.readline() == b"v1\n"
        point(tmp_path, "v2")
        service.handoff(*QUICK)
        assert client.lines.readline() == b"v2\n"
        late = tmp_path / "releases/v1/late.py"
        content = late.read_text()
        late.write_text("NAME = b'v9'\n")
        report = rollback(service, expect=1)
        assert report["reason"].startswith(f"same-code: {late} has changed since generation 1 ran")
        late.write_text(content)
        rollback(service)
        assert client.lines.readline() == b"v1\n"


def test_late_imports_make_no_version_of_their_own(tmp_path: Path) -> None:
    release(tmp_path, "v1", join="await conn.send(b'new') if not conn.resumed and __import__('late') else None")
    (tmp_path / "releases/v1/late.py").write_text("")
    release(tmp_path, "v2")
    point(tmp_path, "v2")
    with running(tmp_path) as service, talking(service) as (client,):
        client.say("x")
        point(tmp_path, "v1")
        service.handoff(*QUICK)
        with talking(service) as (other,):
            assert other.lines.readline() == b"new\n"  # this generation has loaded it, and the next one has not
            service.handoff(*QUICK)
            rollback(service)
            assert client.say("x").startswith("v2 ")


def test_an_interpreter_whose_link_leads_elsewhere_is_not_what_ran(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    release(tmp_path, "v2")
    point(tmp_path, "v1")
    python, ran = tmp_path / "bin/python", tmp_path / "ran"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    path = os.pathsep.join([str(harness.ROOT), *filter(None, sys.path)])
    with running(tmp_path, str(python), "server.py", PYTHONPATH=path) as service, talking(service) as (client,):
        client.say("x")
        point(tmp_path, "v2")
        service.handoff(*QUICK)
        other = tmp_path / "other"
        other.write_text(f'#!/bin/sh\n: > {ran}\nexec {sys.executable} "$@"\n')
        other.chmod(0o755)
        python.unlink()
        python.symlink_to(other)
        report = rollback(service, expect=1)
        assert report["reason"].startswith(f"same-code: {python} has changed since generation 1 ran")
        assert not ran.exists()


MUTATES = """
        tags: str = ""

        @classmethod
        def upgrade(cls, old, version):
            return cls(old["lines"])

        @classmethod
        def downgrade(cls, state, version):
            state.tags = "gone"
            return {"lines": state.lines}
"""


def test_a_dry_run_and_a_take_back_leave_a_state_alone_that_its_downgrade_changes(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": MUTATES}) as (service, (client,)):
        client.say("tags=abc")
        rollback(service, "--dry-run=deep")
        assert client.say("x") == "v2 {'lines': 3, 'tags': 'abc'}"
        command = ("rollback", "--pid", str(service.pid), "--json", "--probation", "30")
        with subprocess.Popen(
            [*harness.HOTFD, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            while "probation" not in (line := process.stderr.readline()):
                assert line
            harness.kill(int(line.rpartition("process ")[2].strip(" )\n")))
            out, _ = process.communicate(timeout=harness.PATIENCE)
        assert json.loads(out)["connections"]["returned"] == 1
        assert client.say("x") == "v2 {'lines': 4, 'tags': 'abc'}"


ODD = """
    import types

    class Odd(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError(name)

    sys.modules["odd"] = Odd("odd")
"""


def test_a_program_with_an_odd_module_serves_and_goes_back(tmp_path: Path) -> None:
    with two_versions(tmp_path, {"more": ODD}, {"more": ODD}) as (service, (client,)):
        rollback(service)
        assert client.say("x").startswith("v1 ")
        assert "fingerprint-failed" not in service.logged()


@pytest.mark.parametrize("word", ["handoff", "rollback"])
def test_all_at_once_says_nothing_to_a_server_that_is_alone(tmp_path: Path, word: str) -> None:
    with two_versions(tmp_path, {}, {}) as (service, _):
        done = harness.hotfd(word, "--pid", str(service.pid), "--json", *QUICK, "--all-at-once")
        service.outcome(done, 0)
        assert len(history(service)["generations"]) == 3


def install(site: Path, version: str) -> None:
    """Do what pip does to a package that is there in another version."""
    for before in site.glob("*.dist-info"):
        shutil.rmtree(before)
    record = site / f"dep-{version}.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    record.write_text(f"dep/__init__.py,sha256={version},9\n")
    (site / "dep").mkdir(exist_ok=True)
    (site / "dep/__init__.py").write_text(f"V = {version!r}\n")


def test_a_package_that_was_upgraded_between_two_versions_can_be_put_back(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    install(site, "1.0")
    for name in ("v1", "v2"):
        release(tmp_path, name, more="import dep", join="import colorsys")
    point(tmp_path, "v1")
    with running(tmp_path, PYTHONPATH=f"{harness.ROOT}:{site}") as service, talking(service) as (client,):
        client.say("x")
        install(site, "2.0")
        point(tmp_path, "v2")
        service.handoff(*QUICK)
        report = rollback(service, expect=1)
        assert report["reason"].startswith("same-code: the distribution dep 1.0 (")
        install(site, "1.0")
        rollback(service)
        assert client.say("x").startswith("v1 ")


SHARED = """, cutover="together", export_state=lambda: 1, import_state=lambda value: None"""


def test_a_dry_run_of_sessions_that_move_together_predicts_that_none_does(tmp_path: Path) -> None:
    old, new = {"options": SHARED}, {"options": SHARED, "version": 2, "state": TAGS}
    with two_versions(tmp_path, old, new, count=2) as (service, clients):
        clients[0].say("tags=x")
        predicted, done = rollback(service, "--dry-run=deep", expect=1), rollback(service, expect=1)
        for report in (predicted, done):
            assert report["outcome"] == "rolled-back"
            assert report["reason"].startswith("state-downgrade: ")
            assert report["reasons"] == {"state-downgrade": 1}
            assert report["connections"] == {"moved": 0, "kept": 0, "returned": 0, "closed": 0}
        assert (predicted["dry_run"], done["dry_run"]) == (True, False)
        assert clients[1].say("x").startswith("v2 ")


NONSENSE = """
        tags: str = ""
        upgrade = classmethod(lambda cls, old, version: cls(old["lines"]))

        @classmethod
        def downgrade(cls, state, version):
            if state.tags == "raise":
                raise ValueError("s3cr3t")
            made = {"none": None, "object": {"lines": object()}, "more": {"lines": 1, "s3cr3t": 2}}
            return made.get(state.tags, {"lines": state.lines})
"""


def test_a_dry_run_names_what_stands_in_the_way_as_the_rollback_itself_does(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {"version": 2, "state": NONSENSE}, count=5) as (service, clients):
        for client, word in zip(clients, ("raise", "none", "object", "more", "fine"), strict=True):
            client.say(f"tags={word}")
        predicted = rollback(service, "--dry-run=deep", expect=3)
        report = rollback(service, expect=3)
        assert predicted["reasons"] == report["reasons"] == {"state-encode": 4}
        assert predicted["laggards"] == report["laggards"]
        assert all(laggard["detail"].startswith("Visitor") for laggard in predicted["laggards"])
        assert "s3cr3t" not in service.logged() + json.dumps(report)
        assert [client.say("x").split()[0] for client in clients] == ["v2"] * 4 + ["v1"]


def test_a_handoff_that_started_nothing_is_refused_and_not_rolled_back(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    point(tmp_path, "v1")
    with running(tmp_path) as service:
        report = service.handoff(*QUICK, expect=1, command=("/no/such/program",))
        assert (report["outcome"], report["new_pid"]) == ("refused", None)
        report = service.handoff(*QUICK, expect=1, command=("/bin/false",))
        assert report["outcome"] == "rolled-back"


def test_a_rollback_to_before_there_was_a_supervisor_stays_under_it(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    release(tmp_path, "v2")
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        client.say("x")
        point(tmp_path, "v2")
        inner = (sys.executable, "server.py", str(service.port))
        command = (*harness.HOTFD, "run", "--name", "kept", "--", *inner)
        done = harness.hotfd(
            "handoff", "--pid", str(service.pid), "--json", *QUICK, "--", *command, cwd=tmp_path / "current"
        )
        service.outcome(done, 0)
        supervisor = _variable(service.pid, "HOTFD_SUPERVISOR")
        service.pids.append(int(supervisor))
        try:
            for options, version in (((), "v1"), (("--to", "2"), "v2"), ((), "v1")):
                rollback(service, *options)
                assert client.say("x").startswith(version + " ")
                assert _variable(service.pid, "HOTFD_SUPERVISOR") == supervisor
                said = f"serves worker=1 pid={service.pid}"
                harness.becomes(lambda said=said: said in service.logged(), True)
            assert "crashed" not in service.logged()
        finally:
            harness.kill(int(supervisor), signal.SIGTERM)
            harness.wait_gone(int(supervisor))


def _variable(pid: int, name: str) -> str:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(entry.decode().partition("=")[2] for entry in environment if entry.startswith(name.encode() + b"="))
