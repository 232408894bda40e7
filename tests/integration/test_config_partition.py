"""A zone that is cut off from its configuration servers serves on, and is current soon after it is healed."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired

import pytest

from tests.integration import harness
from tests.integration.config_releases import publish
from tests.integration.etcd_cluster import Certificates
from tests.integration.namespaces import Host, hosts, inside

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]

INTERVAL = 3.0
"""Seconds between two pushes: what ``hotfd config serve`` has when nothing else is said."""

CUT_OFF = 7.0
"""Seconds of the partition: more than two intervals, so that everybody has noticed, and backs off."""

PROGRAM = """
    import sys
    import msgspec
    import hotfd

    class Rules(msgspec.Struct, frozen=True):
        damage: int

    async def talk(conn):
        async for _ in conn:
            await conn.send(b"%d" % conn.config.damage)

    hotfd.run(talk, f"unix:{sys.argv[1]}", name="zone", log_style="json", config=hotfd.Config("arena", Rules, source=sys.argv[2]))
"""


class Client:
    """One session."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(path))

    def damage(self) -> int:
        self.sock.sendall(b"?\n")
        return int(self.sock.recv(100))


@contextmanager
def running(log: Path, command: list[str]) -> Iterator[Popen[bytes]]:
    """Run a process of the test's, which is gone at the end."""
    with log.open("ab") as sink:
        process = Popen(command, stdin=DEVNULL, stdout=sink, stderr=sink)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(TimeoutExpired):
            process.wait(harness.STOP_LIMIT)
        process.kill()
        process.wait()


def events(log: Path, name: str) -> list[dict[str, object]]:
    """Return what a process has logged of one kind."""
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [event for event in found if event.get("event") == name]


def staged(log: Path) -> dict[int, float]:
    """Return by version when it was staged."""
    return {int(str(event["version"])): float(str(event["time"])) for event in events(log, "config-staged")}


def server_of(host: Host, certificates: Certificates) -> list[str]:
    """Return the options of a configuration server that other hosts reach."""
    cert, key = certificates.issue("server", host.address)
    tls = ["--tls-cert", cert, "--tls-key", key, "--tls-ca", certificates.ca]
    return ["--module", "arena", "--listen", f"{host.address}:7700", *tls]


def test_a_zone_that_is_cut_off_serves_on_and_is_current_within_an_interval_when_it_is_healed(tmp_path: Path) -> None:
    store, path = tmp_path / "store", tmp_path / "zone.sock"
    publish(store, {"damage": 1})
    certificates = Certificates(tmp_path)
    program = harness.script(tmp_path, "zone.py", PROGRAM)
    with ExitStack() as stack:
        home, away = stack.enter_context(hosts(2))
        log = tmp_path / "zone.log"
        serve = [*harness.HOTFD, "config", "serve", *server_of(home, certificates), "--store", f"dir:{store}"]
        stack.enter_context(running(tmp_path / "server.log", inside(home, serve)))
        source = f"hotfd://{home.address}:7700?{certificates.options()}"
        stack.enter_context(running(log, inside(away, [sys.executable, program, path, source])))
        harness.becomes(path.exists, True)
        first = stack.enter_context(_closing(path))
        assert first.damage() == 1
        with away.unplugged():
            publish(store, {"damage": 2})
            end = time.monotonic() + CUT_OFF
            while time.monotonic() < end:
                with _closing(path) as late:
                    assert [first.damage(), late.damage()] == [1, 1]
                time.sleep(0.1)
            assert staged(log).keys() == {1}
        healed = time.time()
        harness.becomes(lambda: 2 in staged(log), True)
        took = staged(log)[2] - healed
        with _closing(path) as late:
            assert [first.damage(), late.damage()] == [1, 2]
        print(f"\ncurrent {took:.2f} s after the partition was healed; an interval is {INTERVAL:g} s ", end="")
        assert took <= INTERVAL
        first.sock.close()


@contextmanager
def _closing(path: Path) -> Iterator[Client]:
    client = Client(path)
    try:
        yield client
    finally:
        client.sock.close()
