"""Following one handoff to its final outcome, whoever can tell it.

The old process is asked, and normally answers. When it dies on the way, the new process owns what the old
one had, so that one is asked under the handoff's id until it knows. When nobody is left, what was
seen until then is all that there is to say.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any

import msgspec

from hotfd.control.client import Client
from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
from hotfd.control.process import translate
from hotfd.control.target import CONNECT_TIMEOUT, find
from hotfd.report import Report

if TYPE_CHECKING:
    from hotfd.cli.progress import Progress

GRACE = 30.0
"""Seconds beyond the handoff's own limits before its server counts as hung: ending a new process that does not
want to end, and taking sessions back, takes time too."""

RETRY_INTERVAL = 0.1
"""Seconds between two questions to a new process that cannot answer yet."""

RESULT_PENDING = "result-pending"
"""Error code of a server that knows the handoff and does not know its outcome yet."""


class Successor:
    """The new process of a handoff, held by a pidfd so that no later process is taken for it.

    Args:
        pid: its id as this process sees it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self._pidfd = -1  # gone already, or only a thread: there is nobody to ask

    def ended_within(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for its end; return whether it has ended."""
        if self._pidfd < 0:
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def close(self) -> None:
        """Let go of the process."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class Handoff:
    """One handoff, from the request to the report; a context manager.

    Args:
        client: a connection to the old process.
        fields: the request.
        progress: where to show what happens.
        instruction: ``update`` or ``rollback``.

    Attributes:
        id: the handoff's id, once it is known.
        successor: the new process, once it is known.
    """

    def __init__(self, client: Client, fields: dict[str, Any], progress: Progress, instruction: str = "update") -> None:
        self.id = ""
        self.successor: Successor | None = None
        self._client = client
        self._fields = fields
        self._progress = progress
        self._instruction = instruction
        self._reported_pid: int | None = None  # the new process as the old one calls it

    def __enter__(self) -> Handoff:
        return self

    def __exit__(self, *_: object) -> None:
        if self.successor is not None:
            self.successor.close()

    def run(self) -> dict[str, Any]:
        """Request the handoff and wait for its outcome.

        Returns:
            the report as the server sent it, or one that says what is known.
        """
        deadline = float(self._fields["deadline"])
        # A deadline for being ready and one for taking over, then what the other options allow.
        patience = 2 * deadline + self._fields["boundary_timeout"] + self._fields["probation"] + GRACE
        workers = self._client.greeting.get("workers")  # of a supervisor, which hands over one after another
        patience *= workers if isinstance(workers, int) and workers > 0 else 1
        try:
            for message in self._client.request(self._instruction, patience, **self._fields):
                if "result" in message:
                    return self._checked(message["result"])
                self._note(message)
        except RequestFailed as exc:
            return self._failed(exc.code, exc.message)
        except ServerGone as exc:
            self._progress.note(exc.detail)
            return self._ask_successor(exc, time.monotonic() + deadline)
        finally:
            self._progress.clear()
        raise AssertionError("a request ends with a result or an error")

    def _note(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "started":
            self.id = str(event.get("id", ""))
        elif kind == "phase":
            pid = event.get("new_pid")
            if isinstance(pid, int):
                self._meet(pid)
            self._progress.phase(str(event.get("phase", "")), self.successor.pid if self.successor else None)
        elif kind == "progress":
            moved, total = event.get("moved", 0), event.get("total", 0)
            if isinstance(moved, int) and isinstance(total, int):
                self._progress.moved(moved, total)

    def _meet(self, reported_pid: int) -> None:
        """Get hold of the new process while the old one, whose word its pid is, still lives."""
        if reported_pid == self._reported_pid:
            return
        self._reported_pid = reported_pid
        process = self._client.process
        pid = translate(reported_pid, process) if process else reported_pid
        if self.successor is not None:
            self.successor.close()
        self.successor = Successor(pid) if pid is not None else None

    def _ask_successor(self, why: ServerGone, deadline: float) -> dict[str, Any]:
        lost = "old-exited" if why.ended else "result-unknown"
        if not self.id:
            return self._failed(lost, f"{why.detail}; no handoff had begun")
        if self.successor is None:
            if self._reported_pid is not None:
                ended = f"the new process {self._reported_pid} has ended too"
                return self._failed("both-exited" if why.ended else lost, f"{why.detail}; {ended}")
            return self._failed(lost, f"{why.detail}; no new process is known of")
        self._progress.note(f"asking the new process {self.successor.pid}")
        while (left := deadline - time.monotonic()) > 0:
            try:
                with Client.connect(find(self.successor.pid), min(CONNECT_TIMEOUT, left)) as client:
                    return self._checked(client.ask("result", timeout=left, id=self.id))
            except RequestFailed as exc:
                if exc.code != RESULT_PENDING:
                    return self._failed("result-unknown", f"the new process {self.successor.pid} says: {exc}")
            except (Unreachable, ServerGone):
                pass  # it has no control socket yet, or is about to end
            if self.successor.ended_within(min(RETRY_INTERVAL, left)):
                code = "both-exited" if why.ended else "result-unknown"
                return self._failed(code, f"{why.detail}; the new process {self.successor.pid} has ended too")
        return self._failed(
            "result-unknown",
            f"{why.detail}; the new process {self.successor.pid} lives, but did not say how handoff {self.id} ended",
        )

    def _checked(self, result: object) -> dict[str, Any]:
        """Return ``result`` if it is a report; fields that this version does not know are kept."""
        try:
            msgspec.convert(result, Report)
        except msgspec.ValidationError as exc:
            return self._failed("incompatible", f"the server's report cannot be read: {exc}")
        assert isinstance(result, dict)
        return result

    def _failed(self, code: str, message: str) -> dict[str, Any]:
        report = Report(
            outcome="refused",
            id=self.id,
            old_pid=self._client.pid,
            new_pid=self._reported_pid,
            generation=_generation(self._client.greeting),
            reason=f"{code}: {message}",
            dry_run=bool(self._fields["dry_run"]),
        )
        return dict(msgspec.to_builtins(report))


def _generation(greeting: dict[str, Any]) -> int:
    generation = greeting.get("generation")
    return generation if isinstance(generation, int) else 1
