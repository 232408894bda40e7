"""Going back runs what ran before, as long as that is still there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.releases import QUICK, history, point, release, rollback, running, talking, two_versions


def test_going_back_runs_what_ran_although_the_link_has_moved(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        assert client.say("x") == "v2 {'lines': 2}"
        report = rollback(service)
        assert (report["outcome"], report["generation"], report["connections"]["moved"]) == ("completed", 3, 1)
        assert client.say("x") == "v1 {'lines': 3}"
        assert os.readlink(f"/proc/{service.pid}/cwd") == str(tmp_path / "releases/v1")


def test_going_back_undoes_one_version_after_the_other_and_goes_forth_only_by_number(tmp_path: Path) -> None:
    for name in ("v1", "v2", "v3"):
        release(tmp_path, name)
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        for name in ("v2", "v3"):
            point(tmp_path, name)
            service.handoff(*QUICK)
        seen = []
        for options in ((), (), ("--to", "3"), ("--to", "2")):
            rollback(service, *options)
            seen.append(client.say("x").split()[0])
            if seen == ["v2", "v1"]:
                report = rollback(service, expect=1)
                assert (report["outcome"], report["new_pid"]) == ("refused", None)
                assert report["reason"].startswith("nothing-to-roll-back-to: ")
        assert seen == ["v2", "v1", "v3", "v2"]
        rows = history(service)["generations"]
        assert [(row["how"], row["runs"]) for row in rows] == [
            ("start", 1), ("handoff", 2), ("handoff", 3),
            ("rollback", 2), ("rollback", 1), ("rollback", 3), ("rollback", 2),
        ]  # fmt: skip
        assert [row["current"] for row in rows] == [False] * 6 + [True]
        for wrong in ("7", "19"):
            assert rollback(service, "--to", wrong, expect=1)["reason"].startswith("unknown-generation: ")


def test_generations_that_ran_the_same_are_one_version(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        service.handoff(*QUICK)
        service.handoff(*QUICK)
        rollback(service)
        assert client.say("x").startswith("v1 ")


def test_a_handoff_after_going_back_follows_the_link_again(tmp_path: Path) -> None:
    release(tmp_path, "v3")
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        rollback(service)
        point(tmp_path, "v3")
        service.handoff(*QUICK)
        assert client.say("x").startswith("v3 ")
        rollback(service)
        assert client.say("x").startswith("v1 ")


def test_a_script_that_is_named_through_the_link_is_found_where_it_was(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    release(tmp_path, "v2")
    point(tmp_path, "v1")
    script = str(tmp_path / "current/server.py")
    with running(tmp_path, sys.executable, script, cwd=tmp_path) as service, talking(service) as (client,):
        point(tmp_path, "v2")
        service.handoff(*QUICK)
        assert client.say("x").startswith("v2 ")
        rollback(service)
        assert client.say("x").startswith("v1 ")
        assert history(service)["generations"][-1]["command"][1] == script
        rollback(service, "--to", "2")
        assert client.say("x").startswith("v2 ")


def test_what_was_started_through_a_shell_is_remembered_as_what_it_became(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    directory = release(tmp_path, "v2")
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        line = f"cd {directory} && WORD=x {sys.executable} server.py {service.port}; true"
        service.handoff(*QUICK, command=("sh", "-c", line))
        assert client.say("x").startswith("v2 ")
        rollback(service)
        assert client.say("x").startswith("v1 ")
        rollback(service, "--to", "2")
        assert client.say("x").startswith("v2 ")
        row = history(service)["generations"][1]
        assert row["command"] == [sys.executable, "server.py", str(service.port)]
        assert row["directory"] == str(directory)


def test_a_handoff_that_fails_leaves_no_generation(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, _):
        service.handoff(expect=1, command=("/bin/false",))
        assert len(history(service)["generations"]) == 2
        assert rollback(service, "--dry-run")["dry_run"] is True
        assert rollback(service, "--dry-run=deep")["outcome"] == "completed"
        assert len(history(service)["generations"]) == 2


def test_environments_are_remembered_and_shown_nowhere(tmp_path: Path, runtime_directory: Path) -> None:
    release(tmp_path, "v1")
    point(tmp_path, "v1")
    with running(tmp_path, SECRET="first-s3cr3t") as service, talking(service) as (client,):
        other = ("env", "SECRET=other-s3cr3t", sys.executable, "server.py", str(service.port))
        done = harness.hotfd(
            "handoff", "--pid", str(service.pid), "--json", *QUICK, "--", *other, cwd=tmp_path / "current"
        )
        service.outcome(done, 0)
        assert client.say("secret") == "v1 other-s3cr3t"
        rollback(service)
        assert client.say("secret") == "v1 first-s3cr3t"
        shown = [
            done.stdout + done.stderr,
            service.logged(),
            json.dumps(service.status()),
            *(harness.hotfd(word, "--pid", str(service.pid)).stdout for word in ("status", "history")),
            json.dumps(history(service)),
            Path(f"/proc/{service.pid}/cmdline").read_text(),
            *(path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"),
        ]
        assert "first-s3cr3t" not in "".join(shown)
        assert not [fd for fd in _descriptors(service.pid) if "history" in fd], "the history's memory is still open"


def _descriptors(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]


# -- whether it still is what ran ---------------------------------------------------------------------


def test_a_script_that_was_overwritten_is_named_and_not_run(tmp_path: Path) -> None:
    directory = release(tmp_path, "v1")
    point(tmp_path, "v1")
    with running(tmp_path) as service, talking(service) as (client,):
        release(tmp_path, "v1", version=1, more="# deployed in place")
        service.handoff(*QUICK)
        report = rollback(service, expect=1)
        assert report["reason"] == (
            f"same-code: {directory}/server.py has changed since generation 1 ran; put it back, or use --force"
        )
        assert (report["outcome"], report["new_pid"]) == ("refused", None)
        found = history(service)
        assert found["generations"][0]["rollback"] is False
        assert found["generations"][0]["reason"] == report["reason"]
        assert found["rollback_to"] == 1
        assert rollback(service, "--force")["outcome"] == "completed"
        assert client.say("x").startswith("v1 ")


@pytest.mark.parametrize("gone", [False, True])
def test_a_module_that_was_loaded_is_part_of_what_ran(tmp_path: Path, gone: bool) -> None:
    with two_versions(tmp_path, {}, {}) as (service, _):
        module = tmp_path / "releases/v1/words.py"
        if gone:
            module.unlink()
        else:
            module.write_text("NAME = 'v9'\n")
        how = "has gone" if gone else "has changed"
        assert rollback(service, expect=1)["reason"].startswith(f"same-code: {module} {how} since generation 1 ran")


def test_files_that_were_touched_or_put_back_are_the_same(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        directory = tmp_path / "releases/v1"
        script, module = directory / "server.py", directory / "words.py"
        os.utime(script, (1, 1))
        copy = directory / "copy"
        shutil.copyfile(module, copy)
        copy.rename(module)
        (directory / "notes.txt").write_text("nobody has loaded this")
        rollback(service)
        assert client.say("x").startswith("v1 ")


def test_a_directory_that_is_gone_is_refused_whatever_is_forced(tmp_path: Path) -> None:
    with two_versions(tmp_path, {}, {}) as (service, (client,)):
        shutil.rmtree(tmp_path / "releases/v1")
        report = rollback(service, "--force", expect=1)
        assert report["outcome"] == "refused"
        assert report["reason"] == (f"not-found: the directory {tmp_path}/releases/v1 that generation 1 ran in is gone")
        assert client.say("x").startswith("v2 ")


def test_an_interpreter_that_is_gone_is_named(tmp_path: Path) -> None:
    release(tmp_path, "v1")
    point(tmp_path, "v1")
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    path = os.pathsep.join([str(harness.ROOT), *sys.path[1:]])
    with running(tmp_path, str(python), "server.py", PYTHONPATH=path) as service:
        command = (sys.executable, str(tmp_path / "current/server.py"), str(service.port))
        service.handoff(*QUICK, command=command)
        python.unlink()
        report = rollback(service, expect=1)
        assert report["reason"] == f"not-found: the interpreter {python} that generation 1 ran on is gone"
