"""Real etcd clusters on loopback: members that are killed, stopped and started again, with and without TLS.

Each cluster has addresses of its own in 127.0.0.0/8, so that tests which run at the same time never meet.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prctl
import pytest
import trustme

from tests.integration.footprint import LASTING
from tests.integration.harness import PATIENCE

MISSING = "etcd is not installed (Debian: etcd-server)"
"""Why tests that need it are skipped."""

ELECTION = 250
"""Milliseconds without a heartbeat after which a leader is elected: as few as a busy machine can bear."""

_ports = itertools.count(2379, 10)


@dataclass
class Certificates:
    """What a cluster with TLS shows and asks for, as files."""

    directory: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.ca = str(self.directory / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *hosts: str) -> tuple[str, str]:
        """Return the files of a new certificate and its key."""
        made = self.authority.issue_cert(*hosts, common_name=name)
        cert, key = str(self.directory / f"{name}.pem"), str(self.directory / f"{name}.key")
        for part, blob in enumerate(made.cert_chain_pems):
            blob.write_to_path(cert, append=part > 0)
        made.private_key_pem.write_to_path(key)
        return cert, key

    def options(self, name: str = "client") -> str:
        """Return what a URL needs to show a certificate of this authority's."""
        cert, key = self.issue(name, f"{name}.test")
        return f"ca={self.ca}&cert={cert}&key={key}"


class Member:
    """One member of a cluster, whether it runs or not."""

    def __init__(self, name: str, host: str, port: int, directory: Path, command: Sequence[str], tls: bool) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.url = f"{'https' if tls else 'http'}://{host}:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._log = directory / f"{name}.log"
        self._command = command

    def start(self) -> None:
        """Start it; it goes on with the data that it has.

        To be called in the main thread: it ends with the thread that has started it (PR_SET_PDEATHSIG, prctl(2)).
        """
        assert self.process is None
        with open(self._log, "ab") as file:
            # No environment of the test's: these processes are not the ones that the test must not leave behind.
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={"PATH": os.environ["PATH"]},
                preexec_fn=_end_with_parent,
            )
        LASTING.add(self.process.pid)

    def kill(self) -> None:
        """Kill it with SIGKILL. Idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            LASTING.discard(self.process.pid)
            self.process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold it up with SIGSTOP: its sockets stay, and nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """Return what it has logged."""
        return self._log.read_text(errors="replace")


class Cluster:
    """A cluster that runs."""

    def __init__(self, members: Sequence[Member], certificates: Certificates | None) -> None:
        self.members = members
        self.certificates = certificates
        self._context: ssl.SSLContext | None = None
        if certificates is not None:
            self._context = ssl.create_default_context(cafile=certificates.ca)
            self._context.load_cert_chain(*certificates.issue("test", "test.test"))

    def url(self, prefix: str, options: str = "", members: Sequence[Member] | None = None) -> str:
        """Return the URL of a store in it."""
        hosts = ",".join(f"{member.host}:{member.port}" for member in members or self.members)
        return f"etcd://{hosts}/{prefix}" + (f"?{options}" if options else "")

    def call(self, path: str, body: dict[str, Any], member: Member | None = None, limit: float = 5.0) -> dict[str, Any]:
        """Ask a member, or the first one that runs, with this module's own few lines of HTTP."""
        member = member or next(member for member in self.members if member.process is not None)
        request = urllib.request.Request(f"{member.url}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=limit, context=self._context) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer

    def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with a prefix."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self.call("kv/range", {"key": _b64(prefix), "range_end": _b64(end), "keys_only": True})
        return [base64.b64decode(pair["key"]).decode() for pair in found.get("kvs", [])]

    def put(self, key: str, value: bytes) -> None:
        """Put a value behind the store's back."""
        self.call("kv/put", {"key": _b64(key), "value": base64.b64encode(value).decode()})

    def compact(self) -> None:
        """Forget all but the newest value of each key."""
        revision = self.call("kv/range", {"key": _b64("-")})["header"]["revision"]
        self.call("kv/compaction", {"revision": revision, "physical": True})

    def leader(self) -> Member:
        """Return the member that leads; wait until there is one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for member in self.members:
                if member.process is None:
                    continue
                try:
                    status = self.call("maintenance/status", {}, member)
                except OSError:
                    continue
                if status.get("leader") == status["header"]["member_id"]:
                    return member
            time.sleep(0.02)
        raise AssertionError(f"no leader\n{self.logs()}")

    def wait(self) -> None:
        """Wait until all members that should run serve."""
        deadline = time.monotonic() + PATIENCE
        for member in self.members:
            while member.process is not None:
                assert member.process.poll() is None, f"{member.name} has ended\n{member.log()}"
                assert time.monotonic() < deadline, f"{member.name} does not serve\n{self.logs()}"
                try:
                    self.call("kv/range", {"key": _b64("-")}, member)
                    break
                except OSError:
                    time.sleep(0.02)

    def mend(self) -> None:
        """Start what was killed, and wait until all serve; in the main thread."""
        for member in self.members:
            if member.process is None:
                member.start()
        self.wait()

    def logs(self) -> str:
        """Return what all members have logged, for a test that fails."""
        return "\n".join(f"--- {member.name}\n{member.log()[-4000:]}" for member in self.members)


@contextmanager
def etcd_cluster(size: int = 3, *, tls: bool = False, options: Sequence[str] = ()) -> Iterator[Cluster]:
    """Run a cluster; everything of it is gone at the end.

    Args:
        size: how many members, at most four.
        tls: whether members and clients show each other certificates.
        options: more of etcd's own.
    """
    if shutil.which("etcd") is None:
        pytest.skip(MISSING)
    memory = Path("/dev/shm")
    with ExitStack() as stack:
        parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfd-etcd-", dir=parent)))
        certificates = Certificates(directory) if tls else None
        port = next(_ports)
        hosts = [_host(index) for index in range(size)]
        peers = ",".join(f"m{index}=http://{host}:{port + 1}" for index, host in enumerate(hosts))
        members = []
        for index, host in enumerate(hosts):
            name = f"m{index}"
            scheme = "https" if tls else "http"
            client, peer = f"{scheme}://{host}:{port}", f"http://{host}:{port + 1}"
            command = ["etcd", "--name", name, "--data-dir", str(directory / name)]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", peers, "--logger", "zap", "--log-level", "error"]
            command += ["--heartbeat-interval", str(ELECTION // 5), "--election-timeout", str(ELECTION), *options]
            if certificates is not None:
                cert, key = certificates.issue(name, host)
                command += ["--cert-file", cert, "--key-file", key]
                command += ["--client-cert-auth", "--trusted-ca-file", certificates.ca]
            member = Member(name, host, port, directory, command, tls)
            stack.callback(member.kill)
            members.append(member)
        for member in members:
            member.start()
        cluster = Cluster(members, certificates)
        cluster.wait()
        yield cluster


def _host(index: int) -> str:
    """Return a loopback address that no other process of these tests uses: pids have at most 22 bits."""
    number = os.getpid() << 2 | index
    return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _end_with_parent() -> None:
    prctl.set_pdeathsig(signal.SIGKILL)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
