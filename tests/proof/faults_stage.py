"""A server whose processes fail on purpose, its clients, and one handoff after another: what came of each.

A stage is used for many cases: whoever serves in the end is handed over in the next one. Only when nobody does, or
when the case says so, is a new server started.
"""

from __future__ import annotations

import asyncio
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hotfd.cli.follow import Handoff
from hotfd.cli.progress import Progress
from hotfd.control.client import Client as Control
from hotfd.control.errors import Unreachable
from hotfd.control.target import find
from tests.integration import harness
from tests.proof.faults_catalogue import SCENARIOS, Case, Scenario
from tests.proof.faults_clients import Client, Crowd

PROGRAM: Final = Path(__file__).with_name("faults_program.py")

IDLE, BUSY, LISTENERS = 70, 5, 2
"""Clients: more than are offered at a time, so that a process fails with some sessions here and others there."""

PROBATION: Final = 0.3
"""Seconds: long enough for visitors to come while it lasts."""

DEADLINE: Final = 30.0
"""Seconds that a new process may take to be ready; far beyond what the slowest machine needs."""

HASTY: Final = 6.0
"""Seconds instead, where a new process is stopped before it is ready, and the deadline is waited for."""

STOPPED: Final = 0.3
"""Seconds for which an old process stands still."""


@dataclass
class Result:
    """What came of a case.

    Attributes:
        case: what was tried.
        outcome: of the report; ``nobody`` when no process was left to say.
        reason: its code, or an empty string.
        serves: who serves afterwards: ``old``, ``new``, ``both`` or ``nobody``.
        lost: connections that were lost.
        counted: connections that the report says were closed.
        pause: the longest that a client who was served waited for an answer, in seconds.
        wrong: what must not be; nothing when all is well.
        fired: whether the fault has happened.
    """

    case: Case
    outcome: str = "nobody"
    reason: str = ""
    serves: str = "nobody"
    lost: int = 0
    counted: int = 0
    pause: float = 0.0
    wrong: list[str] = field(default_factory=list)
    fired: bool = False


class Stage:
    """Where cases are tried, one after another; an asynchronous context manager.

    Args:
        directory: for logs; it holds the runtime directory of the servers, too.
        idle: how many clients say nothing meanwhile.
    """

    def __init__(self, directory: Path, idle: int = IDLE) -> None:
        self._directory = directory
        self._idle = idle
        self._runtime = Path(os.environ["HOTFD_RUNTIME_DIR"])
        self._fired = directory / "fired"
        self._process: subprocess.Popen[bytes] | None = None
        self._mode = ""
        self._port = 0
        self._pid = 0
        self._runs = 0
        self._crowd = Crowd(idle, BUSY, LISTENERS)

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._crowd.close()
        self._end_all()

    @property
    def log(self) -> str:
        """What the present server has logged."""
        return (self._directory / f"server-{self._runs}.log").read_text(errors="replace")

    # -- a case --------------------------------------------------------------------------------------

    async def run(self, case: Case) -> Result:
        """Try a case.

        Returns:
            what came of it; ``wrong`` in it says what must not be.
        """
        scenario = SCENARIOS[case.scenario]
        await self._prepare(scenario)
        await self._crowd.fill(self._address)
        await self._arm(case, scenario)
        self._crowd.begin(self._address)
        nurse = asyncio.create_task(self._nurse())
        try:
            report = await self._hand_over(case, scenario)
        finally:
            nurse.cancel()
        self._heal()
        await self._crowd.end()
        result = await self._judge(case, report)
        if scenario.fresh or result.serves in {"nobody", "both"} or result.wrong:
            await self._clear()
        return result

    async def _prepare(self, scenario: Scenario) -> None:
        if self._pid and harness.alive(self._pid) and self._mode == scenario.mode:
            return
        await self._clear()
        self._runs += 1
        self._mode, self._port = scenario.mode, harness.free_port()
        log = self._directory / f"server-{self._runs}.log"
        command = self._command("")
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                command, stdout=sink, stderr=sink, env={**os.environ, "PROOF_FIRED": str(self._fired)}
            )
        self._pid = self._process.pid
        async with asyncio.timeout(harness.PATIENCE):
            while not harness._listening(self._port):
                assert self._process.poll() is None, self.log
                await asyncio.sleep(0.02)

    def _command(self, fault: str, version: int = 1) -> list[str]:
        program = [sys.executable, str(PROGRAM), str(self._port), self._mode]
        return ["env", f"PROOF_FAULT={fault}", f"PROOF_VERSION={version}", *program]

    @property
    def _address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    async def _arm(self, case: Case, scenario: Scenario) -> None:
        """Have the old process fail as it must, or not at all; and put those there whom the scenario needs."""
        self._fired.write_text("")
        if case.scenario == "ending":
            await self._crowd.doom()
        if case.scenario == "refused":
            assert await self._crowd.idle[-1].tell("!spoil")
        teller = await Client.open(self._crowd.oracle, self._address)
        assert await teller.tell("!arm " + ";".join(str(spec) for spec in case.specs if spec.role == "old"))
        await teller.close()

    async def _hand_over(self, case: Case, scenario: Scenario) -> dict[str, Any]:
        fault = ";".join(str(spec) for spec in case.specs if spec.role == "new")
        early = case.point.value in EARLY and "STOP" in case.fault
        fields = {
            "dry_run": False, "deadline": HASTY if early else DEADLINE, "boundary_timeout": 10.0, "laggards": "keep",
            "probation": PROBATION, "force": False, "command": self._command(fault, scenario.version),
            "cwd": str(self._directory),
        }  # fmt: skip
        return await asyncio.to_thread(self._follow, fields)

    def _follow(self, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            with (
                Control.connect(find(self._pid)) as control,
                Handoff(control, fields, Progress(io.StringIO())) as handoff,
            ):
                return handoff.run()
        except Unreachable as error:
            return {"outcome": "nobody", "reason": error.code, "connections": {"closed": 0}, "new_pid": None}

    # -- what is done about it -----------------------------------------------------------------------

    def _servers(self) -> list[int]:
        """Return the processes of the server that live."""
        return harness.processes_with_environment("PROOF_FIRED", str(self._fired))

    async def _nurse(self) -> None:
        """Let an old process go on that was stopped; a new one stays as it is, and is the old one's care while it lives."""
        while True:
            await asyncio.sleep(0.05)
            if not harness.alive(self._pid):
                for pid in self._servers():  # nobody is left who would end it
                    harness.kill(pid, signal.SIGCONT)
            elif harness.stopped(self._pid):
                await asyncio.sleep(STOPPED)
                harness.kill(self._pid, signal.SIGCONT)

    def _heal(self) -> None:
        """The handoff is over: whoever lives may go on, and may open what he needs."""
        for pid in self._servers():
            harness.kill(pid, signal.SIGCONT)
            with suppress(ProcessLookupError):
                hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))

    # -- what came of it -----------------------------------------------------------------------------

    async def _judge(self, case: Case, report: dict[str, Any]) -> Result:
        result = Result(case, report["outcome"], (report["reason"] or "").partition(":")[0])
        result.counted = report["connections"]["closed"]
        fired = [line.split() for line in self._fired.read_text().splitlines()]
        result.fired = any(fault == case.fault for _, fault in fired)
        old = self._pid
        new = report["new_pid"] or next((pid for pid in self._servers() if pid != old), None)
        keeper = new if result.outcome == "completed" else old
        if result.outcome == "completed" or (result.outcome != "partial" and harness.alive(old)):
            await self._leave_one(keeper)
        living = [pid for pid in (old, new) if pid and harness.alive(pid)]
        result.serves = {(): "nobody", (old,): "old", (new,): "new", (old, new): "both"}[tuple(living)]
        gone = Counter(client.gone for client in self._crowd.everybody if client.gone)
        result.lost = gone.total()
        result.pause = max((client.slowest for client in self._crowd.everybody if not client.gone), default=0.0)
        result.wrong = [str(finding) for client in self._crowd.everybody for finding in client.findings()]
        result.wrong += self._complaints(case, result, gone, owner_died=keeper not in living)
        if living:
            result.wrong += await self._serves_strangers()
            self._pid = living[-1]
        return result

    async def _leave_one(self, pid: int | None) -> None:
        """The other process is to end by itself when one owns everything."""
        for other in self._servers():
            if other != pid and not await asyncio.to_thread(harness.gone_within, other, harness.STOP_LIMIT):
                harness.kill(other)

    def _complaints(self, case: Case, result: Result, gone: Counter[str], *, owner_died: bool) -> list[str]:
        wrong = []
        if not result.fired:
            wrong.append("the point was not passed")
        if gone["silent"]:
            wrong.append(f"{gone['silent']} connections are served by nobody, and were not ended")
        if result.reason in {"result-unknown", "incompatible"} and case.fault != "EMFILE":  # it cannot accept who asks
            wrong.append(f"nobody says how it ended: {result.reason}")
        if owner_died:
            return wrong  # what it alone held, the kernel has ended with it
        # A visitor whom the new process had accepted and not told of goes with it; and it may have been lost with
        # connections of visitors who had heard everything, and gone.
        untold = min(case.untold, sum(bool(client.gone) for client in self._crowd.visitors))
        if not result.lost - untold <= result.counted <= result.lost + self._crowd.departed:
            wrong.append(f"{result.lost} connections are lost ({dict(gone)}), and {result.counted} are counted")
        if gone["ended"] > untold:
            wrong.append(f"{gone['ended']} connections ended in order before their last byte")
        return wrong

    async def _serves_strangers(self) -> list[str]:
        deadline = time.monotonic() + harness.PATIENCE
        while True:
            try:
                stranger = await Client.open(self._crowd.oracle, self._address)
                break
            except OSError as error:
                if time.monotonic() > deadline or not self._servers():
                    return [f"a process lives, and nobody accepts: {error}"]
                await asyncio.sleep(0.05)  # one that was about to start when the old one died
        await stranger.talk(2)
        gone = stranger.gone
        await stranger.close()
        return [f"a process lives, and a new connection is {gone}"] if gone else []

    # -- the end -------------------------------------------------------------------------------------

    async def _clear(self) -> None:
        """End the server and its clients."""
        await self._crowd.close()
        self._crowd = Crowd(self._idle, BUSY, LISTENERS)
        self._end_all()

    def _end_all(self) -> None:
        for pid in sorted(self._servers(), reverse=True):
            harness.kill(pid)
        if self._process is not None:
            self._process.kill()
            self._process.wait(harness.PATIENCE)
        for pid in self._servers():
            harness.wait_gone(pid)
        for path in self._runtime.glob("*"):
            path.unlink()
        self._pid = 0


EARLY: Final = frozenset(
    {
        "old.spawned", "new.begin", "new.setup", "new.releases", "new.hello", "new.ready", "old.hello",
    }
)  # fmt: skip
"""Points at which the new process owes it to be ready."""
