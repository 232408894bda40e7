"""Servers for the tests of control and cli: a real endpoint, and instructions that do what the test says."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvloop

from hotfd.control import Endpoint, RuntimeDirectory
from hotfd.errors import HandoffRefused

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

uvloop.new_event_loop().close()  # libuv keeps a pipe for ever from its first loop on; open it before anybody counts

NOBODY = 65534
"""The user that has nothing."""

needs_root = "needs root, to become another user"

STATUS = {
    "pid": 0,
    "name": "echo",
    "generation": 3,
    "state": "serving",
    "successor": None,
    "listeners": ["127.0.0.1:7000"],
    "connections": 12,
    "sessions": 10,
    "config": {"release": "r7", "pinned": 4},
    "bus": {"lag": 0.25},
}


def greeting():
    return {"generation": 3}


def report(outcome="completed", **fields):
    counts = {"moved": 12, "kept": 0, "returned": 0, "closed": 0}
    return {
        "outcome": outcome,
        "id": "h-1",
        "old_pid": 1,
        "new_pid": 2,
        "reason": None,
        "generation": 4,
        "connections": counts,
        "sessions": counts,
        "reasons": {},
        "pause_ms": {"p50": 1.25, "p99": 2.5, "max": 4.0},
        "elapsed_ms": 1500.0,
        "phases_ms": {"spawn": 400.0, "move": 20.0},
        "dry_run": False,
    } | fields


async def status(request, emit):
    return STATUS | {"pid": os.getpid()}


def updates(result, events=()):
    """Return an ``update`` that emits ``events`` and ends with ``result``, or raises it."""

    async def update(request, emit):
        update.requests.append(request)
        for event in events:
            emit(event)
        if isinstance(result, Exception):
            raise result
        return result

    update.requests = []
    return update


@asynccontextmanager
async def listening(directory, instructions, **limits):
    """An endpoint on the running loop; yields it and its socket's path."""
    with RuntimeDirectory.open(str(directory)) as runtime:
        endpoint = Endpoint(instructions, greeting, **limits)
        path = await endpoint.start(runtime)
        try:
            yield endpoint, path
        finally:
            await endpoint.aclose()


@contextmanager
def serving(directory, instructions, hello=greeting):
    """An endpoint of this process, in a thread with its own loop; yields the socket's path."""
    started = threading.Event()
    paths = []

    async def serve():
        nonlocal loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        with RuntimeDirectory.open(str(directory)) as runtime:
            endpoint = Endpoint(instructions, hello)
            try:
                paths.append(await endpoint.start(runtime))
                started.set()
                await stop.wait()
            finally:
                started.set()
                await endpoint.aclose()

    loop = stop = None
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield paths[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@contextmanager
def process(directory, role, *arguments, wrap=(), uid=0):
    """A process that serves as ``role`` (see the end of this file), ready when this yields it.

    As root, ``uid`` makes it drop to that user once it has imported what only root may be able to read.
    """
    command = [*wrap, sys.executable, __file__, str(uid), role, *map(str, arguments)]
    environment = os.environ | {"HOTFD_RUNTIME_DIR": str(directory)}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def hotfd(*arguments, directory, timeout=60, **options):
    """Run the command line; return the completed process with its output as text."""
    environment = os.environ | {"HOTFD_RUNTIME_DIR": str(directory), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "hotfd.cli", *map(str, arguments)]
    options = {"capture_output": True} | options
    return subprocess.run(command, text=True, env=environment, timeout=timeout, check=False, **options)


def hear_control_c():
    """Let a child be interrupted even where the tests run in the background, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def press_control_c(child):
    """Interrupt a child as soon as it waits.

    A signal that comes when Python has looked for signals, and before the system call begins that waits, is acted on
    only when that returns: a person would press again.
    """
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline, "it never waits"
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)


def as_user(uid, program, *arguments):
    """Run a program as user ``uid``, with hotfd.control imported as ``control``; return what it printed."""
    start = (
        "import os, socket, sys\nfrom hotfd import control\nfrom hotfd.control import client, target\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
    )
    command = [sys.executable, "-c", start + program, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def public_directory():
    """A new directory that every user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="hotfd-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def open_descriptors():
    return {name: _link(name) for name in os.listdir("/proc/self/fd") if _link(name)}


def _link(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return None


# What a process can be. The test ends it.


async def _serve(instructions):
    with RuntimeDirectory.open() as runtime:
        await Endpoint(instructions, greeting).start(runtime)
        print("ready", flush=True)
        await asyncio.Event().wait()


def _events(new_pid):
    yield {"event": "started", "id": "h-1"}
    yield {"event": "phase", "phase": "spawn", "new_pid": int(new_pid)}
    yield {"event": "phase", "phase": "move", "new_pid": int(new_pid)}
    yield {"event": "progress", "moved": 5, "total": 12}


def dies_during(stage, new_pid="0"):
    """An old process that is killed before it says anything, after ``started``, or during ``move``."""
    told = {"at-once": 0, "started": 1, "move": 4}[stage]

    async def update(request, emit):
        for event in list(_events(new_pid))[:told]:
            emit(event)
        # What is in the socket's buffer outlives the process.
        os.kill(os.getpid(), signal.SIGKILL)

    return {"update": update, "status": status}


def knows_the_result(outcome, pending="0"):
    """A new process that is asked ``pending`` times before it knows how the handoff ended."""
    left = int(pending)

    async def result(request, emit):
        nonlocal left
        if left:
            left -= 1
            raise HandoffRefused("result-pending", "not yet")
        if request["id"] != "h-1":
            raise HandoffRefused("not-found", f"no handoff {request['id']}")
        return report(outcome, old_pid=int(os.environ.get("OLD_PID", 1)), new_pid=os.getpid())

    return {"result": result, "status": status}


def hands_over(new_pid):
    """An old process whose successor is ``new_pid``, and that exits when it is asked for a second status."""
    asked = 0

    async def look(request, emit):
        nonlocal asked
        asked += 1
        if asked > 1:
            os._exit(0)
        return STATUS | {"pid": os.getpid(), "name": "old", "successor": int(new_pid), "state": "probation"}

    return {"status": look}


def update_hangs():
    """An old process that begins a handoff and never ends it."""

    async def update(request, emit):
        for event in list(_events("0"))[:2]:
            emit(event | {"new_pid": None})
        await asyncio.Event().wait()

    return {"update": update}


def watched(end, new_pid="0"):
    """A server with a handoff to ``new_pid`` that is replaced, stops, or is killed, in it or after it failed."""

    async def watch(request, emit):
        emit({"event": "watching", "pid": os.getpid()})
        emit({"event": "phase", "phase": "move", "new_pid": int(new_pid)})
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        emit({"event": "outcome", "report": report("completed" if end == "replaced" else "rolled-back")})
        if end == "killed-later":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"successor": int(new_pid) if end == "replaced" else None}

    return {"watch": watch}


def serves(state="serving", name="echo"):
    """A server that is in ``state``."""

    async def look(request, emit):
        return STATUS | {"pid": os.getpid(), "state": state, "name": name}

    return {"status": look}


def silent():
    """A server that greets and answers nothing."""

    async def look(request, emit):
        await asyncio.Event().wait()

    return {"status": look}


if __name__ == "__main__":
    uid, role, *arguments = sys.argv[1:]
    if int(uid):
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    asyncio.run(_serve(globals()[role](*arguments)))
