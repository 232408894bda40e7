"""``hotfd doctor``: whether this machine, and one server on it, can do what hotfd needs."""

from __future__ import annotations

import os
import sys

import click

from hotfd.cli.options import json_option
from hotfd.cli.output import print_json
from hotfd.cli.probes import Finding, machine, server

_MARK = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command("doctor")
@json_option
@click.option("--pid", type=click.IntRange(min=1), metavar="PID", help="Look at this server's limits as well.")
def command(as_json: bool, pid: int | None) -> None:
    """Probe the kernel, the limits and the installation, and say what to do about what is missing.

    Exit status: 0 when nothing failed (warnings are allowed), 1 otherwise.
    """
    findings = machine()
    if pid is not None:
        findings.append(server(pid))
    healthy = all(finding.level != "fail" for finding in findings)
    if as_json:
        print_json({"ok": healthy, "findings": findings})
    else:
        click.echo("\n".join(line for finding in findings for line in _lines(finding)))
    sys.exit(0 if healthy else 1)


def _lines(finding: Finding) -> list[str]:
    text, colour = _MARK[finding.level]
    mark = click.style(f"{text:<4}", fg=colour if "NO_COLOR" not in os.environ else None)
    lines = [f"{mark}  {finding.name:<22}  {finding.value}"]
    if finding.level != "ok":
        lines.append(f"      {finding.meaning}")
        lines += [f"      -> {line}" for line in (finding.advice or "").splitlines()]
    return lines
