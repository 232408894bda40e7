"""The command line as a whole: start-up, help, typing errors, completion, and ``hotfd doctor``."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hotfd._version import __version__
from hotfd.cli import probes
from hotfd.cli.group import COMMANDS
from hotfd.cli.probes import Finding, Probe, Seen
from hotfd.display import advice
from hotfd.server import preflight
from tests.unit.control_fakes import hotfd, process, public_directory

ROOT = Path(__file__).parents[2]


def test_the_version_is_printed(tmp_path):
    assert hotfd("--version", directory=tmp_path).stdout == f"hotfd {__version__}\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_is_in_the_reference(tmp_path, name):
    done = hotfd(name, "--help", directory=tmp_path)
    reference = (ROOT / "docs" / "cli.md").read_text()
    assert done.returncode == 0
    assert f"## hotfd {name}" in reference
    missing = [option for option in re.findall(r"--[a-z-]+", done.stdout) if option not in reference]
    assert not missing, f"not in docs/cli.md: {missing}"


def test_every_command_is_listed(tmp_path):
    listed = hotfd("--help", directory=tmp_path).stdout
    assert all(f"  {name} " in listed for name in COMMANDS)


@pytest.mark.parametrize("name", ["bench", "handoff", "status", "ps", "completion"])
def test_no_command_loads_an_event_loop_or_the_server(name):
    program = (
        "import sys, importlib; import hotfd.cli\n"
        f"importlib.import_module('hotfd.cli.{name}')\n"
        "print([module for module in sys.modules if module.split('.')[0] == 'asyncio'"
        " or module.startswith(('hotfd.server', 'hotfd.app', 'hotfd.transfer'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_misspelt_command_is_answered_with_the_one_that_was_meant(tmp_path):
    done = hotfd("handof", "--pid", "1", directory=tmp_path)
    assert done.returncode == 2
    assert "There is no command 'handof'. Did you mean handoff?" in done.stderr
    assert "Commands: bench, completion, config, doctor" in hotfd("xyzzy", directory=tmp_path).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_names_the_command(tmp_path, shell):
    done = hotfd("completion", shell, directory=tmp_path)
    assert done.returncode == 0
    assert "_HOTFD_COMPLETE" in done.stdout


def test_completing_a_pid_offers_the_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("_HOTFD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "3")
    with process(tmp_path / "run", "serves") as server:
        monkeypatch.setenv("COMP_WORDS", "hotfd status --pid ")
        said = hotfd(directory=tmp_path / "run").stdout.splitlines()
        monkeypatch.setenv("COMP_WORDS", "hotfd status --pid x")
        none = hotfd(directory=tmp_path / "run").stdout.splitlines()
    assert f"plain,{server.pid}" in said
    assert none == [""]


def test_doctor_finds_nothing_wrong_with_the_machine_that_runs_the_tests(tmp_path):
    done = hotfd("doctor", "--json", directory=tmp_path)
    said = json.loads(done.stdout)
    failed = [finding for finding in said["findings"] if finding["level"] == "fail"]
    assert [finding["name"] for finding in failed] in ([], ["runtime directory"]), failed
    assert (done.returncode, said["ok"]) == ((1, False) if failed else (0, True))


@pytest.fixture
def private(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path / "run"


def limited(count):
    """Run the child with a soft and hard limit of ``count`` descriptors."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def test_doctor_says_what_to_do_about_a_low_descriptor_limit(private):
    done = hotfd("doctor", directory=private, preexec_fn=limited(1000))
    assert done.returncode == 0, done.stdout
    assert "warn  descriptor limit        soft 1000, hard 1000: 936 connections" in done.stdout
    assert "-> systemd: LimitNOFILE=" in done.stdout
    assert "-> shell: ulimit -n" in done.stdout
    assert "/etc/security/limits.conf" in done.stdout


def test_doctor_fails_when_descriptors_cannot_be_passed(private):
    done = hotfd("doctor", directory=private, preexec_fn=limited(100))
    assert done.returncode == 1
    assert "FAIL  descriptor passing" in done.stdout


def test_doctor_fails_when_the_runtime_directory_is_unsafe(private):
    private.chmod(0o755)
    done = hotfd("doctor", directory=private)
    assert done.returncode == 1
    assert f"chmod 700 {private}" in done.stdout


def test_doctor_compares_a_servers_limit_with_its_use(private):
    with process(private, "serves") as server:
        fine = hotfd("doctor", "--pid", server.pid, "--json", directory=private)
        used = len(os.listdir(f"/proc/{server.pid}/fd"))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 10, used + 10))
        tight = hotfd("doctor", "--pid", server.pid, "--json", directory=private)
    levels = [json.loads(done.stdout)["findings"][-1]["level"] for done in (fine, tight)]
    assert levels == ["ok", "fail"]
    assert (fine.returncode, tight.returncode) == (0, 1)
    assert hotfd("doctor", "--pid", 4_194_400, directory=private).returncode == 2


def test_doctor_leaves_no_descriptor_open():
    before = os.listdir("/proc/self/fd")
    probes.machine()
    assert os.listdir("/proc/self/fd") == before


def test_a_probe_that_raises_is_a_finding_with_advice():
    def look():
        raise PermissionError(1, "Operation not permitted")

    assert probes._examine(Probe("pidfd", look, "meaning", "advice")) == Finding(
        "pidfd", "fail", "PermissionError: Operation not permitted", "meaning", "advice"
    )
    own = Probe("x", lambda: Seen("warn", "half", "better advice"), "meaning", "advice")
    assert probes._examine(own).advice == "better advice"
    assert probes._examine(own._replace(look=lambda: Seen("ok", "yes"))).advice is None


def test_doctor_lives_to_report_a_native_core_that_cannot_be_loaded():
    with public_directory() as directory:
        program = (
            "import sys; sys.modules['hotfd._core'] = None\n"
            "from hotfd.cli import main\n"
            "main(['doctor', '--json'], prog_name='hotfd')"
        )
        environment = os.environ | {"HOTFD_RUNTIME_DIR": str(directory / "run")}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert findings["native core"]["level"] == "fail"
    assert "reinstall hotfd" in findings["native core"]["advice"]


def test_every_code_that_the_command_line_knows_is_explained_to_operators():
    explained = (ROOT / "docs" / "operators.md").read_text()
    missing = [code for code in advice.ADVICE if f"`{code}`" not in explained]
    assert not missing, f"not in docs/operators.md: {missing}"


def test_doctor_reserves_as_many_descriptors_as_the_server_does():
    assert probes.RESERVE == preflight.DESCRIPTOR_RESERVE
