"""Scripts run limited, and nothing of them is left, whatever they do."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from hotfd.errors import ConfigError
from hotfd.publish import script as scripting
from hotfd.publish import warden, workroom
from hotfd.publish.compile import Script
from hotfd.publish.programs import Deadline
from hotfd.publish.script import Scripts
from tests.integration.harness import becomes

SECRET = "hotfd-test-secret"

BOMB, BOMBED = "#!/bin/sh\nf() { f | f & }; f; sleep 300", "Cannot fork"


@pytest.fixture
def room(monkeypatch):
    """Return a directory for scripts that everybody may pass through: root's scripts are somebody else's."""
    with tempfile.TemporaryDirectory(prefix="hotfd-test-") as name:
        os.chmod(name, 0o711)
        monkeypatch.setattr(scripting.tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture
def run(room):
    """Run a script, and see that neither its directory nor a process or descriptor of it is left."""
    notes = []

    def go(text, current=None, *, seconds=60.0, allowed=True, beside=None):
        files = {"instruction": text.encode(), **(beside or {})}
        before = len(os.listdir("/proc/self/fd"))
        try:
            run_script = Scripts(allowed, Deadline(seconds), notes.append)
            return run_script(Script("match", files, frozenset({"instruction"})), current or {})
        finally:
            assert len(os.listdir("/proc/self/fd")) == before
            assert os.listdir(room) == []
            assert processes_below(room) == []

    go.notes = notes
    return go


def processes_below(directory):
    """Return the processes whose working directory or command is in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = os.readlink(entry / "cwd")
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if where.startswith(str(directory)) or str(directory).encode() in command:
                found.append((entry.name, command))
    return found


def test_a_script_makes_new_values_of_those_in_force(run):
    text = "#!/usr/bin/python3\nimport json, sys\nv = json.load(sys.stdin)\nv['b'] = open('data').read()\nprint(json.dumps(v))"
    assert run(text, {"a": 1}, beside={"data": b"beside"}) == {"a": 1, "b": "beside"}


def test_a_script_has_little(run, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    values = run(
        "#!/usr/bin/python3\n"
        "import json, os, resource, socket\n"
        "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)\n"
        "print(json.dumps({'environment': sorted(os.environ), 'uid': os.getuid(), 'groups': os.getgroups(),\n"
        "  'descriptors': len(os.listdir('/proc/self/fd')), 'privileges': status['NoNewPrivs'].strip(),\n"
        "  'limits': [resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[0] for name in ('CORE', 'FSIZE', 'NOFILE')],\n"
        "  'processor': resource.getrlimit(resource.RLIMIT_CPU),\n"
        "  'memory': resource.getrlimit(resource.RLIMIT_AS)[0], 'mode': os.stat('.').st_mode & 0o777,\n"
        "  'interfaces': [name for _, name in socket.if_nameindex()]}))"
    )
    assert set(values["environment"]) <= {"LANG", "PATH", "LC_CTYPE"}
    assert values["uid"] != 0
    assert values["descriptors"] == 4, "three streams, and the listing"
    assert values["privileges"] == "1"
    assert values["memory"] == warden.MEMORY
    assert values["limits"] == [0, warden.FILE_SIZE, warden.DESCRIPTORS]
    assert values["processor"] == [scripting.TIME_LIMIT + 1, scripting.TIME_LIMIT + 2]
    assert values["groups"] == [] or os.getuid() != 0
    assert values["mode"] == 0o700
    if not run.notes:  # else it has said that the network could not be taken away
        assert values["interfaces"] == ["lo"]


def test_where_the_network_cannot_be_taken_away_the_script_runs_and_this_is_said(tmp_path, run, monkeypatch):
    # The warden is another process: it finds a program that stands for an unshare that is not permitted.
    module = tmp_path / "run.py"
    module.write_text(
        "import sys\nfrom hotfd.publish import warden\nwarden.NAMESPACES = ('/bin/false',)\nsys.exit(warden.main())\n"
    )
    popen = scripting.subprocess.Popen

    def started(command, **options):
        return popen([command[0], "-I", str(module), *command[4:]], **options)

    monkeypatch.setattr(scripting.subprocess, "Popen", started)
    assert run("#!/bin/sh\nsetsid sleep 300 &\n(sleep 300 &)\necho '{\"a\": 1}'\n") == {"a": 1}
    assert "could reach the network" in run.notes[0]
    with pytest.raises(ConfigError, match=BOMBED):
        run(BOMB, seconds=2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\nexit 3", "ended with status 3"),
        ("#!/bin/sh\nkill -SEGV $$", "ended by SIGSEGV"),
        ("#!/bin/sh\necho out of luck >&2; exit 1", "ended with status 1; it says: out of luck"),
        ("#!/bin/sh\nprintf '\\033[31mred' >&2; exit 1", r"it says: \?\[31mred"),
        ("#!/bin/sh\necho garbage", r"what match/instruction prints:1:1: this is no JSON"),
        ("#!/bin/sh\necho '[1]'", "expected a table"),
        ("#!/bin/sh\n", "this is no JSON"),
        ("#!/no/such/interpreter\n", "ended with status 127"),
        ("#!/bin/sh\nyes", "printed more than 1048576 bytes"),
        ("#!/usr/bin/python3\nx = bytearray(10**9)", "MemoryError"),
        ("#!/bin/sh\nset -e\nhead -c 100000000 /dev/zero > big", "ended"),
        ("#!/usr/bin/python3\nfor n in range(1000): open(f'f{n}', 'w'); files = globals().setdefault('l', []).append(open(f'f{n}'))", "Too many open files"),
    ],
)  # fmt: skip
def test_a_script_that_fails_says_how(run, text, said):
    with pytest.raises(ConfigError, match=said):
        run(text)


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\nwhile :; do :; done",
        "#!/bin/sh\nsleep 300",
        "#!/bin/sh\ntrap '' TERM INT HUP\nsetsid sleep 300 &\nwhile :; do sleep 300; done",
        "#!/bin/sh\nwhile :; do echo noise; done >&2",
        "#!/bin/sh\nwhile :; do head -c 1000000 /dev/zero > file; done",
    ],
)
def test_a_script_that_does_not_end_is_ended_with_all_that_it_has_started(run, text):
    with pytest.raises(ConfigError, match="not done after"):
        run(text, seconds=0.8)


def test_a_fork_bomb_has_a_few_processes_and_then_no_more(run):
    with pytest.raises(ConfigError, match=BOMBED):
        run(BOMB, seconds=2.0)


def test_what_a_script_leaves_behind_is_ended_and_removed(run):
    text = "#!/bin/sh\nsetsid sleep 300 >/dev/null 2>&1 &\nmkdir -p a/b; touch a/b/c; chmod 0 a/b a .\necho '{}'\n"
    assert run(text) == {}


def test_directories_deeper_than_a_path_is_long_are_removed(run):
    text = "#!/usr/bin/python3\nimport os\nfor _ in range(1500):\n    os.mkdir('deep')\n    os.chdir('deep')\nprint('{}')\n"
    assert run(text) == {}


def test_a_script_dies_with_who_publishes(room):
    fifo = room / "alive"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    child = os.fork()
    if child == 0:
        try:
            text = f"#!/bin/sh\nexec 3>{fifo}\necho started >&3\nsetsid sleep 300 & sleep 300\n"
            Scripts(True, Deadline(), print)(
                Script("m", {"instruction": text.encode()}, frozenset({"instruction"})), {}
            )
        finally:
            os._exit(1)
    with open(fifo, encoding="ascii") as alive:
        assert alive.readline() == "started\n"
        os.kill(child, 9)
        os.waitpid(child, 0)
        assert alive.read() == "", "the end of the file: nobody has it open any more"


def test_scripts_are_not_run_unless_that_is_allowed(run):
    with pytest.raises(ConfigError, match="--allow-scripts"):
        run("#!/bin/sh\necho '{}'", allowed=False)


def test_a_script_has_no_more_time_than_who_publishes(run):
    before = time.monotonic()
    with pytest.raises(ConfigError, match="not done after"):
        run("#!/bin/sh\nsleep 300", seconds=0.2)
    assert time.monotonic() - before < 60


def test_a_script_and_its_directory_go_with_who_publishes(room, monkeypatch):
    monkeypatch.setattr(scripting, "TIME_LIMIT", 600.0)  # so that nothing else ends it
    child = os.fork()
    if child == 0:
        try:
            Scripts(True, Deadline(), print)(
                Script("m", {"instruction": b"#!/bin/sh\nsleep 600\n"}, {"instruction"}), {}
            )
        finally:
            os._exit(1)
    becomes(lambda: b"sleep" in b"".join(command for _, command in processes_below(room)), True)
    os.kill(child, 9)
    os.waitpid(child, 0)
    becomes(lambda: (processes_below(room), os.listdir(room)), ([], []))


def test_a_warden_whose_publisher_is_gone_starts_nothing(room):
    place = room / "place"
    place.mkdir()
    (place / "instruction").write_text(f"#!/bin/sh\ntouch {room}/was-run\n")
    (place / "instruction").chmod(0o755)
    notes, end = os.pipe()
    try:
        # Its parent is another process than it was told.
        done = subprocess.run(
            [sys.executable, "-I", "-m", "hotfd.publish.warden", str(end), "5", str(os.getuid()), "1", place / "instruction"],
            pass_fds=(end,),
        )  # fmt: skip
    finally:
        os.close(notes)
        os.close(end)
    assert done.returncode == warden.FAILED
    assert os.listdir(room) == []


def test_files_are_given_away_only_when_all_are_there_and_the_outermost_directory_last(room, monkeypatch):
    given = []

    def chown(path, user, group, *, follow_symlinks):
        assert (room / "a" / "b" / "c").read_text() == "data"
        assert (user, group, follow_symlinks) == (12345, 12345, False)
        given.append(os.path.relpath(path, room))

    monkeypatch.setattr(os, "chown", chown)
    workroom.lay_out(str(room), {"instruction": b"#!", "a/b/c": b"data"}, {"instruction"}, 12345)
    assert given == ["a/b/c", "a/b", "a", "instruction", "."]


def test_root_changes_no_mode_by_a_path_in_somebody_elses_directory(room, monkeypatch):
    place = room / "place"
    (place / "deep").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chmod", None)
    assert workroom.remove(str(place))
    assert workroom.remove(str(place)), "that it is gone already is no failure"


def test_nothing_runs_on_when_the_warden_itself_is_killed(room):
    if subprocess.run([*warden.NAMESPACES, "/bin/true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("namespaces are not permitted here")
    said = []

    def publish():
        try:
            Scripts(True, Deadline(60.0), print)(
                Script("m", {"instruction": b"#!/bin/sh\nsleep 600\n"}, {"instruction"}), {}
            )
        except ConfigError as error:
            said.append(str(error))

    publishing = threading.Thread(target=publish)
    publishing.start()
    becomes(lambda: b"sleep" in b"".join(command for _, command in processes_below(room)), True)
    [pid] = [pid for pid, command in processes_below(room) if b"hotfd.publish.warden" in command]
    os.kill(int(pid), 9)
    publishing.join()
    assert len(said) == 1
    assert "SIGKILL" in said[0]
    assert (processes_below(room), os.listdir(room)) == ([], [])
