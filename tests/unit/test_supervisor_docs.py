"""The unit files and the container file of the documentation are what a machine takes for some."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from hotfd.cli import main
from tests.unit.test_docs import ROOT, code_blocks, unknown_to_hotfd

TEXT = ROOT / "docs" / "supervisor.md"

UNITS = code_blocks(TEXT, "ini")

KNOWN = {
    "Unit": {"Description", "After"},
    "Service": {
        "Type", "NotifyAccess", "ExecStart", "ExecReload", "WorkingDirectory", "RuntimeDirectory", "RuntimeDirectoryMode",
        "Environment", "User", "Restart", "WatchdogSec", "TimeoutStopSec", "LimitNOFILE", "KillMode",
    },
    "Socket": {"ListenStream", "Backlog"},
    "Install": {"WantedBy"},
}  # fmt: skip
"""Sections and settings of systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.kill(5), systemd.socket(5)."""


def parsed(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    return parser


def services() -> list[configparser.ConfigParser]:
    return [unit for unit in map(parsed, UNITS) if "Service" in unit]


def test_there_is_a_unit_with_hotfd_run_one_without_and_one_of_sockets() -> None:
    commands = [unit["Service"]["ExecStart"] for unit in services()]
    assert [" run " in command for command in commands] == [True, False]
    assert len([unit for unit in map(parsed, UNITS) if "Socket" in unit]) == 1


@pytest.mark.parametrize("unit", UNITS)
def test_every_section_and_setting_exists(unit: str) -> None:
    found = parsed(unit)
    assert {(s, name) for s in found.sections() for name in found[s] if name not in KNOWN.get(s, ())} == set()


def test_the_commands_of_the_units_have_options_that_exist() -> None:
    lines = [unit["Service"][name] for unit in services() for name in ("ExecStart", "ExecReload")]
    checked = 0
    for line in lines:
        words = shlex.split(line)
        if words[0].endswith("/hotfd"):
            assert unknown_to_hotfd(words[1:]) == [], line
            checked += 1
    assert checked == 3


def test_a_direct_service_lets_the_new_process_speak_and_a_supervised_one_needs_not() -> None:
    supervised, direct = (unit["Service"] for unit in services())
    assert (supervised["NotifyAccess"], direct["NotifyAccess"]) == ("main", "all")
    assert supervised["Type"] == direct["Type"] == "notify"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze(1)")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for number, unit in enumerate(UNITS):
        kind = "socket" if "[Socket]" in unit else "service"
        # What is not on this machine: the programs, the user and the directory.
        text = re.sub(r"(?<=^Exec)(\w+)=\S+", rf"\1={program}", unit, flags=re.MULTILINE)
        text = re.sub(r"^(User|WorkingDirectory)=.*$", "", text, flags=re.MULTILINE)
        name = f"chat{number}.{kind}"
        (tmp_path / name).write_text(text)
        if kind == "socket":
            (tmp_path / f"chat{number}.service").write_text(f"[Service]\nExecStart={program}\n")
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        complaints = [line for line in done.stderr.splitlines() if "chat" in line]
        assert complaints == []


def test_the_container_starts_the_supervisor_with_options_that_exist() -> None:
    (dockerfile,) = code_blocks(TEXT, "dockerfile")
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.MULTILINE)
    assert entry is not None
    words = re.findall(r'"([^"]+)"', entry[1])
    assert words[0] == "hotfd"
    assert words[-1] == "--"
    assert unknown_to_hotfd(words[1:]) == []
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {line.split()[0] for line in dockerfile.splitlines()} <= known


def test_every_option_of_the_command_has_its_row_with_its_default() -> None:
    command = main.get_command(click.Context(main), "run")  # type: ignore[attr-defined]  # main is a group
    text = TEXT.read_text(encoding="utf-8")
    for option in command.params:
        row = re.search(rf"^\| `{option.opts[0]}\b[^|]*\| ([^|]*) \|", text, re.MULTILINE)
        assert row is not None, option.opts
        if isinstance(option.default, int | float) and not isinstance(option.default, bool):
            assert float(row[1]) == option.default, option.opts
