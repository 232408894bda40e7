"""What ``hotfd doctor`` looks at.

Each probe does the thing itself instead of comparing version numbers: kernels are patched, and sandboxes
forbid what the kernel has. The native core is imported within the probes, since its absence is a finding.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESERVE = 64
"""Descriptors that a server needs beside its connections: listeners, event loop, logs, modules as they are
imported, the handoff channel and the state in flight."""

COMMON_LIMIT = 1024
"""The soft descriptor limit of most systems, which a server of long-lived connections outgrows."""

PROBE_TIMEOUT = 10
"""Seconds that a helper program may take."""

Level = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct):
    """What one probe found.

    Args:
        name: what was looked at.
        level: ``ok``; ``warn``: hotfd works, with less; ``fail``: a handoff would not work.
        value: what was seen.
        meaning: what hotfd uses it for.
        advice: what to do, where there is something to do.
    """

    name: str
    level: Level
    value: str
    meaning: str
    advice: str | None = None


class Seen(NamedTuple):
    """What a probe saw, and its own advice where the table's does not fit."""

    level: Level
    value: str
    advice: str | None = None


class Probe(NamedTuple):
    """One line of :data:`PROBES`: what is looked at, what for, and what to do when it is missing."""

    name: str
    look: Callable[[], Seen]
    meaning: str
    advice: str


def machine() -> list[Finding]:
    """Return the findings about this machine, this user and this installation."""
    from hotfd.cli.config.probes import CONFIGURATION  # which is made of this module's parts

    return [_examine(probe) for probe in (*PROBES, *CONFIGURATION)]


def server(pid: int) -> Finding:
    """Return how near the server ``pid`` is to its descriptor limit.

    Raises:
        ControlError: it is not a server that this user may control, or does not answer.
    """
    from hotfd.control.client import Client
    from hotfd.control.target import find

    with Client.connect(find(pid)) as client:
        connections = client.ask("status").get("connections")

    def look() -> Seen:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            soft, hard = next(line.split()[3:5] for line in file if line.startswith("Max open files"))
        used = len(os.listdir(f"/proc/{pid}/fd"))
        limit = float("inf") if soft == "unlimited" else int(soft)
        level: Level = "fail" if used + RESERVE > limit else "warn" if used > 0.8 * limit else "ok"
        value = f"{used} of {soft} descriptors in use (hard limit {hard}), {connections} connections"
        return Seen(level, value, _limit_advice(2 * used))

    meaning = "the new process of a handoff needs as many descriptors, and inherits the same limit"
    return _examine(Probe(f"server {pid}", look, meaning, "it may have ended: hotfd ps lists the servers"))


def _examine(probe: Probe) -> Finding:
    try:
        seen = probe.look()
    except Exception as exc:  # noqa: BLE001 - whatever a probe meets is what it found
        problem = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        seen = Seen("fail", f"{type(exc).__name__}: {problem}")
    advice = None if seen.level == "ok" else seen.advice or probe.advice
    return Finding(probe.name, seen.level, seen.value, probe.meaning, advice)


def _python() -> Seen:
    return Seen("ok", f"{platform.python_version()} on Linux {platform.release()}, {platform.machine()}")


def _native_core() -> Seen:
    return Seen("ok", importlib.import_module("hotfd._core").__name__)


def _descriptor_passing() -> Seen:
    from hotfd import _core

    with _channel() as (one, other), open(os.devnull, "rb") as null:
        _core.send_message(one, b"probe", [null.fileno()] * _core.MAX_DESCRIPTORS)
        message = _core.receive_message(other)
    for descriptor in (*message.descriptors, message.pidfd):
        if descriptor >= 0:
            os.close(descriptor)
    if message.truncated or len(message.descriptors) != _core.MAX_DESCRIPTORS:
        return Seen("fail", "the message came without its descriptors", _limit_advice(4 * _core.MAX_DESCRIPTORS))
    return Seen("ok", f"{len(message.descriptors)} in one message")


def _sealed_memory() -> Seen:
    from hotfd import _core

    descriptor = _core.memfd_seal("hotfd-doctor", [b"probe"])
    try:
        intact = bytes(_core.memfd_load(descriptor, 64)) == b"probe"
    finally:
        os.close(descriptor)
    return Seen("ok", "yes") if intact else Seen("fail", "it came back changed")


def _socket_cookie() -> Seen:
    from hotfd import _core

    one, other = socket.socketpair()
    with one, other, one.dup() as copy:
        first, second, again = _core.cookies([one.fileno(), other.fileno(), copy.fileno()])
    return Seen("ok", "yes") if first == again != second else Seen("fail", "not unique")


def _pidfd() -> Seen:
    os.close(os.pidfd_open(os.getpid()))
    return Seen("ok", "yes")


def _sender_pidfd() -> Seen:
    from hotfd import _core

    with _channel() as (one, other):
        _core.send_message(one, b"probe")
        message = _core.receive_message(other)
    if message.pidfd >= 0:
        os.close(message.pidfd)
        return Seen("ok", "yes")
    return Seen("warn", f"no; credentials name process {message.pid}")


def _peer_pidfd() -> Seen:
    from hotfd import _core

    one, other = socket.socketpair()
    with one, other:
        try:
            os.close(_core.peer_pidfd(one.fileno()))
        except OSError as exc:
            return Seen("warn", f"no ({exc.strerror})")
    return Seen("ok", "yes")


def _tcp_counters() -> Seen:
    from hotfd import _core

    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=PROBE_TIMEOUT)
        with client, listener.accept()[0] as accepted:
            client.sendall(b"probe")
            accepted.settimeout(PROBE_TIMEOUT)
            accepted.recv(1)
            try:
                consumed = _core.tcp_facts(accepted.fileno()).consumed
            except OSError as exc:
                return Seen("warn", f"no ({exc.strerror})")
    return Seen("ok", "exact") if consumed == 1 else Seen("warn", f"1 byte was read, {consumed} counted")


def _descriptor_limit() -> Seen:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = "unlimited" if soft == resource.RLIM_INFINITY else str(max(0, soft - RESERVE))
    value = f"soft {_limit_text(soft)}, hard {_limit_text(hard)}: {room} connections"
    return Seen("ok" if soft == resource.RLIM_INFINITY or soft > COMMON_LIMIT else "warn", value)


def _runtime_directory() -> Seen:
    from hotfd.control.runtime import RuntimeDirectory, default_path
    from hotfd.errors import ControlError

    path = default_path()
    try:
        RuntimeDirectory.look(path, {os.geteuid()}).close()
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if os.path.isabs(path) and os.access(parent, os.W_OK | os.X_OK):
            return Seen("ok", f"{path}, made by the first server")
        return Seen("fail", f"{path} cannot be made", f"make {parent or path} writable, or set HOTFD_RUNTIME_DIR")
    except ControlError as exc:
        return Seen("fail", path, str(exc))
    return Seen("ok", path)


def _prctl() -> Seen:
    return Seen("ok", f"subreaper {importlib.import_module('prctl').get_child_subreaper()}")


def _uvloop() -> Seen:
    try:
        return Seen("ok", importlib.metadata.version("uvloop"))
    except importlib.metadata.PackageNotFoundError:
        return Seen("ok", "not installed (optional)")


def _compiler() -> Seen:
    found = filter(None, map(shutil.which, ("cc", "gcc", "clang")))
    return Seen("ok", next(found, "none (only a build from source needs one)"))


def _network_namespaces() -> Seen:
    program = shutil.which("unshare")
    if program is None:
        return Seen("warn", "unshare is not installed", "only for tests: install util-linux")
    options = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    done = subprocess.run(
        [program, *options, sys.executable, "-c", ""], check=False, capture_output=True, timeout=PROBE_TIMEOUT
    )
    if done.returncode == 0:
        return Seen("ok", "yes")
    return Seen("warn", done.stderr.decode(errors="replace").strip() or "no")


@contextmanager
def _channel() -> Iterator[tuple[int, int]]:
    from hotfd import _core

    one, other = _core.channel_pair()
    try:
        yield one, other
    finally:
        os.close(one)
        os.close(other)


def _limit_text(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _limit_advice(wanted: int) -> str:
    return (
        f"systemd: LimitNOFILE={wanted} in the [Service] section\n"
        f"shell: ulimit -n {wanted}\n"
        f"login: '* - nofile {wanted}' in /etc/security/limits.conf"
    )


PROBES = (
    Probe("python", _python, "runs hotfd", "Python 3.11 or newer on Linux is needed"),
    Probe(
        "native core",
        _native_core,
        "moves descriptors and finds frames",
        "reinstall hotfd: pip install --force-reinstall hotfd (without a wheel this needs a C compiler)",
    ),
    Probe(
        "descriptor passing",
        _descriptor_passing,
        "moves connections to the new process (SCM_RIGHTS)",
        "a sandbox (seccomp, AppArmor, SELinux) forbids it; allow it for this service",
    ),
    Probe(
        "sealed memory",
        _sealed_memory,
        "carries the state of sessions, unchangeable once sent (memfd seals)",
        "Linux 3.17 or newer is needed, and a sandbox must allow memfd_create",
    ),
    Probe(
        "socket cookie",
        _socket_cookie,
        "matches each descriptor that arrives to its record (SO_COOKIE)",
        "Linux 4.12 or newer is needed",
    ),
    Probe(
        "pidfd",
        _pidfd,
        "tells the death of the other process, and only its death (pidfd_open)",
        "Linux 5.3 or newer is needed, and a sandbox must allow pidfd_open",
    ),
    Probe(
        "sender pidfd",
        _sender_pidfd,
        "names the sender of each handoff message beyond doubt (SO_PASSPIDFD)",
        "hotfd uses credentials instead; Linux 6.5 has it",
    ),
    Probe(
        "peer pidfd",
        _peer_pidfd,
        "names the process at the other end of a Unix socket beyond doubt (SO_PEERPIDFD)",
        "hotfd compares pid and start time instead; Linux 6.5 has it",
    ),
    Probe(
        "tcp counters",
        _tcp_counters,
        "a second witness of whether a process that died had touched a connection (TCP_INFO)",
        "hotfd goes by its own record alone",
    ),
    Probe(
        "descriptor limit",
        _descriptor_limit,
        f"each process of a handoff holds all connections at once, and some {RESERVE} descriptors more",
        _limit_advice(16 * COMMON_LIMIT),
    ),
    Probe(
        "runtime directory",
        _runtime_directory,
        "holds the control sockets of your servers",
        "set HOTFD_RUNTIME_DIR to a directory of your own",
    ),
    Probe(
        "prctl",
        _prctl,
        "lets the supervisor adopt the processes of a handoff (libcap, child subreaper)",
        "install libcap (Debian: libcap2), then reinstall python-prctl",
    ),
    Probe("uvloop", _uvloop, "a faster event loop, if you want it", "pip install hotfd[uvloop]"),
    Probe("compiler", _compiler, "builds the native core from source", "install gcc"),
    Probe(
        "network namespaces",
        _network_namespaces,
        "isolates the integration tests; servers and handoffs do without",
        "only for tests: run them as root, or allow user namespaces",
    ),
)
"""What is looked at, in the order in which it is shown."""
