"""Network namespaces of a test's own: hosts on a switch, whose cables can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


class Host:
    """A network namespace with one address.

    Attributes:
        name: of the namespace.
        address: its IPv4 address.
        prefix: what a command begins with to run there.
    """

    def __init__(self, name: str, address: str, switch: str, port: str) -> None:
        self.name = name
        self.address = address
        self.prefix = ["ip", "netns", "exec", name]
        self._switch = switch
        self._port = port

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Pull the cable at the switch: what this host sends is lost without a word, and nothing reaches it."""
        _ip("-n", self._switch, "link", "set", self._port, "down")
        try:
            yield
        finally:
            _ip("-n", self._switch, "link", "set", self._port, "up")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make hosts on one switch; all of it is gone at the end. Skips the test where that is not permitted."""
    _permitted()
    number = os.getpid()
    switch = f"hotfd-{number}-switch"
    with ExitStack() as stack:
        _namespace(stack, switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        made = []
        for index in range(count):
            host = Host(f"hotfd-{number}-{index}", f"10.66.0.{index + 1}", switch, f"port{index}")
            _namespace(stack, host.name)
            _ip("-n", switch, "link", "add", host._port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("-n", switch, "link", "set", host._port, "master", "bridge", "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", device, "up")
            made.append(host)
        yield made


def _namespace(stack: ExitStack, name: str) -> None:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)


def _permitted() -> None:
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    name = f"hotfd-{os.getpid()}-probe"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"network namespaces cannot be made here: {tried.stderr.strip()}")
    _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def inside(host: Host, command: Sequence[str | Path]) -> list[str]:
    """Return a command that runs on a host."""
    return [*host.prefix, *map(str, command)]
