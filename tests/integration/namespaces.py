"""Network namespaces of a test's own: hosts on a switch, whose cables can be pulled; sockets of other namespaces."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
"""What setns(2) is to enter; Python has ``os.setns`` from 3.12 on."""


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
        ip("-n", self._switch, "link", "set", self._port, "down")
        try:
            yield
        finally:
            ip("-n", self._switch, "link", "set", self._port, "up")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make hosts on one switch; all of it is gone at the end. Skips the test where that is not permitted."""
    permitted()
    number = os.getpid()
    switch = f"hotfd-{number}-switch"
    with ExitStack() as stack:
        namespace(stack, switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        made = []
        for index in range(count):
            host = Host(f"hotfd-{number}-{index}", f"10.66.0.{index + 1}", switch, f"port{index}")
            namespace(stack, host.name)
            ip("-n", switch, "link", "add", host._port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            ip("-n", switch, "link", "set", host._port, "master", "bridge", "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host.name, "link", "set", device, "up")
            made.append(host)
        yield made


def namespace(stack: ExitStack, name: str) -> None:
    """Make a namespace that is gone, with all devices in it, when the stack is unwound."""
    ip("netns", "add", name)
    stack.callback(ip, "netns", "delete", name)


def permitted() -> None:
    """Skip the test, and say why, where no namespace can be made."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    name = f"hotfd-{os.getpid()}-probe"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"network namespaces cannot be made here: {tried.stderr.strip()}")
    ip("netns", "delete", name)


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def inside(host: Host, command: Sequence[str | Path]) -> list[str]:
    """Return a command that runs on a host."""
    return [*host.prefix, *map(str, command)]


def within(name: str, do: Callable[[], T]) -> T:
    """Call a function in a namespace: sockets and devices that it makes belong there, wherever they are used.

    A namespace is entered by a thread alone (setns(2)), so the function has one of its own, which ends with it.
    """

    def call() -> T:
        fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, f"setns: {os.strerror(number)}")
        finally:
            os.close(fd)
        return do()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()
