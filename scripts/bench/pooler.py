"""PgBouncer with a PostgreSQL behind it, as processes: started, restarted online, and ended.

Both refuse to run as root, so they are run as ``postgres`` then, in a directory of that user's.
"""

from __future__ import annotations

import os
import pwd
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from scripts.bench.load import Load
from scripts.bench.processes import cpu_seconds, end
from scripts.bench.replaced import Replacement, await_end

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

USER: Final = "postgres"
"""Whom Debian's packages make, and who runs both where this is root."""

BACKENDS: Final = 32
"""Connections to PostgreSQL: what serves the clients that ask; a default PostgreSQL takes 100."""

MAX_CLIENTS: Final = 16_000
"""Clients that PgBouncer is told to expect."""

START_LIMIT: Final = 60.0
"""Seconds for anything that is started."""

GRAIN: Final = 0.001
"""Seconds: how exact the times in PgBouncer's log are. What takes less counts as one."""

SUSPENDED: Final = re.compile(r"^(\S+ \S+) UTC \[\d+\] LOG .* sending SUSPEND$", re.MULTILINE)
RESUMED: Final = re.compile(r"^(\S+ \S+) UTC \[\d+\] LOG old process killed, resuming work$", re.MULTILINE)
"""What the new process logs: it has asked the old one to stop serving; it has everything, and serves."""

CONFIGURATION: Final = """\
[databases]
bench = host={directory} port={port} dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir = {directory}
auth_type = any
pool_mode = transaction
max_client_conn = {clients}
default_pool_size = {backends}
log_connections = 0
log_disconnections = 0
log_stats = 0
"""

_LOGIN_BODY: Final = struct.pack("!I", 196608) + b"user\0postgres\0database\0bench\0\0"
LOGIN: Final = struct.pack("!I", len(_LOGIN_BODY) + 4) + _LOGIN_BODY
"""A client's first message (StartupMessage, protocol 3.0)."""

QUERY: Final = b"Q" + struct.pack("!I", 4 + 9) + b"SELECT 1\0"
"""What a client asks (Query)."""


def missing() -> str:
    """Return what is not installed and how to have it; nothing where everything is there."""
    for program, package in (("pgbouncer", "pgbouncer"), ("initdb", "postgresql"), ("postgres", "postgresql")):
        if find(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"there is no user {USER}, and PostgreSQL does not run as root: apt-get install postgresql"
    return ""


def version() -> str:
    """Return PgBouncer's version."""
    program = find("pgbouncer")
    assert program is not None, "see missing()"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=START_LIMIT)
    return said.stdout.split()[1]


def find(program: str) -> str | None:
    """Return the path of a program of PostgreSQL's or PgBouncer's; Debian keeps them out of users' way."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, newest)]))


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program, as somebody else where this is root."""
    program = find(command[0])
    assert program is not None, "see missing()"
    if os.geteuid() == 0:
        options |= {"user": USER, "group": USER, "extra_groups": []}
    environment = {"PATH": os.environ.get("PATH", ""), "TZ": "UTC", "LC_ALL": "C"}
    return subprocess.Popen([program, *command[1:]], stdin=subprocess.DEVNULL, env=environment, **options)


class Pooled:
    """A PostgreSQL for PgBouncer to ask, and a place for both; a context manager."""

    PORT: Final = 5432
    """Of its Unix socket, which has it in its name; it listens on no network."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = tempfile.mkdtemp(prefix="hotfd-bench-pg-")  # short: it is in the paths of Unix sockets
            self.directory = Path(directory)
            stack.callback(shutil.rmtree, directory)
            if os.geteuid() == 0:
                shutil.chown(directory, USER, USER)
            data = os.path.join(directory, "data")
            initdb = start(
                ["initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"], stdout=subprocess.DEVNULL
            )
            stack.callback(end, initdb)
            if initdb.wait(START_LIMIT) != 0:
                raise RuntimeError("initdb failed; what it said is above")
            quiet = [word for name in ("fsync=off", "autovacuum=off", "listen_addresses=") for word in ("-c", name)]
            with open(self.directory / "postgres.log", "wb") as log:
                server = start(
                    ["postgres", "-D", data, "-k", directory, "-p", str(self.PORT), *quiet], stderr=log, stdout=log
                )
            stack.callback(_end_postgres, server)
            _await_socket(f"{directory}/.s.PGSQL.{self.PORT}", server)
            self._ends = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()


class PgBouncer:
    """PgBouncer in all its generations; a context manager.

    Args:
        pooled: whom it asks.
    """

    def __init__(self, pooled: Pooled) -> None:
        self._directory = pooled.directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._configuration = str(self._directory / "pgbouncer.ini")
        self._ends = ExitStack()
        self._processes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Self:
        text = CONFIGURATION.format(
            directory=self._directory, port=Pooled.PORT, listen=self._port, clients=MAX_CLIENTS, backends=BACKENDS
        )
        Path(self._configuration).write_text(text)
        try:
            process = self._start()
            _await_socket(f"{self._directory}/.s.PGSQL.{self._port}", process)
            self._hello_reply, self._reply = self._sizes()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for process, log in self._processes:
                error.add_note(f"PgBouncer {process.pid}:\n{_logged(log)[-4000:]}")
        self._ends.close()
        for name in (f".s.PGSQL.{self._port}", f".s.PGSQL.{self._port}.lock"):
            with suppress(FileNotFoundError):
                (self._directory / name).unlink()

    def load(self, connections: int, asking: int, think: float) -> Load:
        """Return clients for it, not started: each logs in, and asks PostgreSQL through it."""
        return Load(
            f"127.0.0.1:{self._port}",
            connections=connections,
            asking=asking,
            request=QUERY,
            reply=self._reply,
            hello=LOGIN,
            hello_reply=self._hello_reply,
            think=think,
        )

    def replace(self) -> Replacement:
        """Restart it online, once.

        Raises:
            RuntimeError: the new process ended.
            TimeoutError: it does not come to serve.
        """
        old = self._processes[-1][0].pid
        before = cpu_seconds(old)
        began = time.time()
        process = self._start("--reboot")
        log = self._processes[-1][1]
        deadline = time.monotonic() + START_LIMIT
        while not (resumed := RESUMED.search(_logged(log))):
            if process.poll() is not None:
                raise RuntimeError(f"the new PgBouncer ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError("the new PgBouncer did not take over")
            time.sleep(0.01)  # its log is a file, whose growth wakes nobody; nothing is measured by this
        await_end(old)
        suspended = SUSPENDED.search(_logged(log))
        if suspended is None:
            raise RuntimeError("the new PgBouncer took nothing over")
        end_of_it = _instant(resumed[1])
        return Replacement(
            total=max(end_of_it - began, GRAIN),
            moving=max(end_of_it - _instant(suspended[1]), GRAIN),
            old_cpu=cpu_seconds(old) - before,
            new_cpu=cpu_seconds(process.pid),
        )

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        log = open(self._directory / f"pgbouncer-{len(self._processes)}.log", "w+b")  # noqa: SIM115 - until __exit__
        self._ends.callback(log.close)
        process = start(["pgbouncer", *options, self._configuration], stderr=log, stdout=log)
        self._ends.callback(end, process)
        self._processes.append((process, log))
        return process

    def _sizes(self) -> tuple[int, int]:
        """Log in and ask once; return how many bytes came for each."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=START_LIMIT) as client:
            client.sendall(LOGIN)
            hello = _until_ready(client)
            client.sendall(QUERY)
            return hello, _until_ready(client)


def _until_ready(client: socket.socket) -> int:
    """Read messages up to ReadyForQuery; return their bytes.

    Raises:
        RuntimeError: an error came instead, or the end.
    """
    size = 0
    while True:
        head = client.recv(5, socket.MSG_WAITALL)
        if len(head) < 5 or head[:1] == b"E":
            raise RuntimeError("PgBouncer refuses a client; its log says why")
        length = int.from_bytes(head[1:], "big") - 4
        client.recv(length, socket.MSG_WAITALL)
        size += len(head) + length
        if head[:1] == b"Z":
            return size


def _logged(log: IO[bytes]) -> str:
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")


def _instant(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


def _await_socket(path: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens on a Unix socket, or its process has ended."""
    deadline = time.monotonic() + START_LIMIT
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens on {path}")
        select.select([], [], [], 0.01)


def _end_postgres(process: subprocess.Popen[bytes]) -> None:
    """Have PostgreSQL end at once (fast shutdown): SIGTERM would wait for its clients."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(START_LIMIT)
    end(process)
