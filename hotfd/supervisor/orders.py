"""What operators ask of the supervisor: its own status, handoffs of all workers, and what it passes on.

The instructions of a server are the supervisor's too. It does not need to know them: what it does not carry out
itself it passes on to its server, with the events and the answer as they come.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
from hotfd.errors import HandoffRefused
from hotfd.supervisor.link import Link, probe
from hotfd.supervisor.reports import combined, refused
from hotfd.supervisor.worker import ADOPTION_LIMIT, Phase, Probe

if TYPE_CHECKING:
    from hotfd.control.endpoint import Emit, Instruction
    from hotfd.supervisor.service import Service
    from hotfd.supervisor.worker import Worker

UPDATES: Final = frozenset({"update", "rollback"})
"""Instructions that replace a server: they go from worker to worker, and stop where one fails."""

ATTENDED: Final = frozenset({"watch"})
"""Instructions that last, and end when their client hangs up."""

ANSWER_LIMIT: Final = 1.0
"""Seconds in which each server must give its status: less than ``hotfd ps`` waits for the supervisor's."""

SILENCE_INTERVAL: Final = 5.0
"""Seconds between two looks whether a server that was asked something still lives."""

SILENT_PROBES: Final = 3
"""Looks in a row without a sign of life after which a request is given up."""

RESULT_LIMIT: Final = 60.0
"""Seconds in which a process that has inherited from a dead one must say how its handoff ended."""

Until = Callable[[Callable[[], bool], float], Awaitable[bool]]
"""Waits until a condition on the workers holds, for so many seconds at most; returns whether it does."""


class Orders(Mapping[str, "Instruction"]):
    """The instructions by name, for :class:`hotfd.control.Endpoint`: any name, since the servers may know it.

    Args:
        service: the workers.
        about: returns what the status says of the supervisor itself.
        until: see :data:`Until`.
        catch_up: takes in what the servers have said: the answer to a request must not be older than what its
            client knows.
    """

    def __init__(
        self,
        service: Service,
        about: Callable[[], dict[str, Any]],
        until: Until,
        catch_up: Callable[[], None],
    ) -> None:
        self._service = service
        self._about = about
        self._until = until
        self._catch_up = catch_up
        self._updating = False

    def __getitem__(self, kind: str) -> Instruction:
        own: dict[str, Instruction] = {"status": self.status, "watch": self.watch}
        return own.get(kind) or (self.update if kind in UPDATES else self.forward)

    def __iter__(self) -> Iterator[str]:
        return iter(("status", "update", "watch"))

    def __len__(self) -> int:
        return 3

    # -- instructions ----------------------------------------------------------------------------------

    async def status(self, request: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Say what the service as a whole is doing, and each worker."""
        self._catch_up()
        workers = list(self._service.workers.values())
        each = await asyncio.gather(*map(_status, workers))
        listeners = sorted({address for status in each for address in status.get("listeners") or ()})
        about = self._about()
        return {
            "pid": os.getpid(),
            "name": about.pop("name"),
            "role": "supervisor",
            "generation": min((status["generation"] for status in each if "generation" in status), default=1),
            "state": self._service.state,
            "listeners": listeners,
            "connections": sum(status.get("connections", 0) for status in each),
            "sessions": sum(status.get("sessions", 0) for status in each),
            "config": next((status["config"] for status in each if status.get("config") is not None), None),
            **about,
            "workers": each,
        }

    async def update(self, request: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Replace the server of each worker: one after another up to the first that fails, or all at once.

        Beside a server's own fields, ``all_at_once`` may be true, and ``worker`` may name one alone.
        """
        request = dict(request)
        all_at_once = request.pop("all_at_once", False)
        if not isinstance(all_at_once, bool):
            raise HandoffRefused("malformed", "all_at_once is true or false")
        if self._service.stopping:
            raise HandoffRefused("stopping", "the service is told to stop")
        if self._updating:
            raise HandoffRefused("handoff-in-progress", "a handoff of this service runs; wait for its end")
        self._updating = True
        try:
            named = request.get("worker") is not None
            chosen = self._chosen(request)
            if len(self._service.workers) == 1:
                return await self._hand_over(chosen[0], request, emit)
            if not named:  # one that has ended by itself stays so, and must not keep the others from being replaced
                chosen = [worker for worker in chosen if worker.phase is not Phase.OVER]
            return await self._hand_over_all(chosen, request, emit, all_at_once=all_at_once)
        finally:
            self._updating = False

    async def forward(self, request: dict[str, Any], emit: Emit) -> Any:
        """Pass an instruction on. Of several workers each is asked, and answers with its number and its pid."""
        request = dict(request)
        named = "worker" in request
        chosen = self._chosen(request)
        if len(self._service.workers) == 1 or named:
            return await self._forward(chosen[0], request, emit)

        async def ask(worker: Worker) -> dict[str, Any]:
            answer: dict[str, Any] = {"worker": worker.number, "pid": worker.server}
            try:
                answer["result"] = await self._forward(worker, request, _numbered(emit, worker))
            except HandoffRefused as refusal:
                answer["error"] = {"code": refusal.code, "message": refusal.detail}
            return answer

        return {"workers": list(await asyncio.gather(*map(ask, chosen)))}

    async def watch(self, request: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell what happens in the servers, over all their handoffs and restarts, until the service ends."""
        request = dict(request)
        chosen = self._chosen(request)
        alone = len(self._service.workers) == 1
        follow = (self._follow(worker, request, emit if alone else _numbered(emit, worker)) for worker in chosen)
        await asyncio.gather(*follow)
        return {"successor": None}

    # -- how -------------------------------------------------------------------------------------------

    def _chosen(self, request: dict[str, Any]) -> list[Worker]:
        """Return the workers that a request means, and take from it what a server would not know."""
        number = request.pop("worker", None)
        workers = self._service.workers
        if number is None:
            return list(workers.values())
        if not isinstance(number, int) or number not in workers:
            raise HandoffRefused("malformed", f"there is no such worker; their numbers are 1 to {len(workers)}")
        return [workers[number]]

    async def _hand_over_all(
        self, workers: list[Worker], request: dict[str, Any], emit: Emit, *, all_at_once: bool
    ) -> dict[str, Any]:
        dry_run, begin = bool(request.get("dry_run")), time.monotonic()

        async def one(worker: Worker) -> dict[str, Any]:
            pid = worker.server
            try:
                return {**await self._hand_over(worker, request, _numbered(emit, worker)), "worker": worker.number}
            except HandoffRefused as refusal:
                return refused(worker.number, pid, refusal.code, refusal.detail, dry_run=dry_run)

        reports: list[dict[str, Any]] = []
        if all_at_once:
            reports += await asyncio.gather(*map(one, workers))
        else:
            for worker in workers:
                reports.append(await one(worker))
                if reports[-1]["outcome"] not in {"completed", "partial"}:
                    break
        return combined(os.getpid(), reports, (time.monotonic() - begin) * 1000, dry_run=dry_run)

    async def _hand_over(self, worker: Worker, request: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Replace one server, and learn the outcome also if that process dies on the way."""
        self._catch_up()
        pid, id = worker.server, ""

        def note(event: dict[str, Any]) -> None:
            nonlocal id
            if event.get("event") == "started":
                id = str(event.get("id", ""))
            emit(event)

        try:
            result = await self._forward(worker, request, note)
        except _Gone as gone:
            if not id:
                raise HandoffRefused("old-exited", f"{gone.detail}; no handoff had begun") from None
            return await self._outcome(worker, pid, id, gone.detail)
        if not isinstance(result, dict):
            raise HandoffRefused("incompatible", "the server's report is no object")
        return result

    async def _outcome(self, worker: Worker, old: int | None, id: str, why: str) -> dict[str, Any]:
        """The old process is gone: whoever serves in its place knows how the handoff ended."""

        def decided() -> bool:
            return worker.server not in {None, old} or worker.phase in {Phase.WAITING, Phase.OVER}

        await self._until(decided, ADOPTION_LIMIT + RESULT_LIMIT)
        new = worker.server
        if new is None or new == old:
            raise HandoffRefused("both-exited", f"{why}; the new process has ended too")
        try:
            async with await Link.open(new) as link:
                report = await link.ask({"type": "result", "id": id}, RESULT_LIMIT)
        except RequestFailed as error:
            code = "both-exited" if error.code == "unknown-handoff" else "result-unknown"
            raise HandoffRefused(code, f"{why}; process {new} serves now, and says: {error}") from None
        except (ServerGone, Unreachable) as error:
            raise HandoffRefused("result-unknown", f"{why}; process {new} serves now, but: {error}") from None
        if not isinstance(report, dict):
            raise HandoffRefused("incompatible", "the new process's report is no object")
        return report

    async def _forward(self, worker: Worker, request: dict[str, Any], emit: Emit) -> Any:
        """Make a request of a worker's server: as long as it answers, or lives, or hands over, which is watched."""
        self._catch_up()
        pid = worker.server
        if pid is None:
            raise HandoffRefused("not-serving", f"worker {worker.number} has no server now: {worker.phase.value}")
        exchange = asyncio.ensure_future(_exchange(pid, request, emit))
        silence = asyncio.ensure_future(_silence(worker, pid))
        try:
            await asyncio.wait({exchange, silence}, return_when=asyncio.FIRST_COMPLETED)
            if exchange.done():
                return exchange.result()
            raise HandoffRefused("unresponsive", f"process {pid} has the request and gives no sign of life any more")
        finally:
            exchange.cancel()
            silence.cancel()
            await asyncio.gather(exchange, silence, return_exceptions=True)

    async def _follow(self, worker: Worker, request: dict[str, Any], emit: Emit) -> None:
        """Watch whoever serves for a worker, and then whoever serves after it."""
        before: int | None = None

        def decided() -> bool:
            return worker.server not in {None, before} or worker.phase is Phase.OVER

        while True:
            await self._until(decided, math.inf)  # ends with the service, or with the client
            if worker.server is None:
                return
            if before is not None:
                emit({"event": "replaced", "pid": worker.server, "time": time.time()})
            before = worker.server
            with suppress(_Gone):
                await self._forward(worker, request, emit)


class _Gone(HandoffRefused):
    """The server ended before it answered."""


async def _exchange(pid: int, request: dict[str, Any], emit: Emit) -> Any:
    """Make a request of a server, pass its events on, and return its result; what goes wrong has a reason code."""
    try:
        async with await Link.open(pid) as link:
            async for message in link.request(request):
                if "result" in message:
                    return message["result"]
                emit(message)
    except RequestFailed as error:
        raise HandoffRefused(error.code, error.message) from None
    except Unreachable as error:
        raise HandoffRefused(error.code, error.detail) from None
    except ServerGone as error:
        raise _Gone("old-exited", error.detail) from None
    except OSError as error:
        raise HandoffRefused(
            "descriptor-limit", f"the supervisor cannot reach process {pid}: {error.strerror}"
        ) from None
    raise AssertionError("a request ends with a result or an error")


async def _silence(worker: Worker, pid: int) -> None:
    """Return when a server has given no sign of life for some time, and nobody else does something about it."""
    silent = 0
    while silent < SILENT_PROBES:
        await asyncio.sleep(SILENCE_INTERVAL)
        watched = pid in worker.doubtful  # one that hangs in a handoff is killed, and the connection ends
        silent = silent + 1 if not watched and await probe(pid) is Probe.SILENT else 0


async def _status(worker: Worker) -> dict[str, Any]:
    """Return one worker's status; of one that does not answer what the supervisor knows."""
    known: dict[str, Any] = {"worker": worker.number, "pid": worker.server, "state": worker.phase.value}
    known |= {"restarts": worker.restarted, "elders": sorted(worker.elders)}
    if worker.server is None:
        return known
    try:
        async with await Link.open(worker.server, ANSWER_LIMIT) as link:
            return {**known, **await link.ask({"type": "status"}, ANSWER_LIMIT)}
    except (RequestFailed, ServerGone, Unreachable, OSError) as error:
        return {**known, "state": "no answer", "error": str(error)}


def _numbered(emit: Emit, worker: Worker) -> Emit:
    """Return an ``emit`` that says of each event which worker it is of."""
    return lambda event: emit({**event, "worker": worker.number})
