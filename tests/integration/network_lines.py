"""A server behind a router, and clients on lines of their own, each with its own weather.

Every host is a network namespace with IPv4 and IPv6: 10.77.0.2 is the server, 10.77.N.2 the client on the N-th line,
10.77.N.1 the router. So one handoff of one server meets all kinds of bad lines at the same time.

Weather is made in the router: nftables loses and rejects packets, tbf slows a line down, a device that is set down is
a cable that was pulled. Delay and reordering come from :mod:`tests.integration.network_cable`.

The router also counts, by line, the resets that the server sends: a witness who does not ask the clients.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.integration import network_cable
from tests.integration.namespaces import ip, namespace, permitted, within

if TYPE_CHECKING:
    from tests.integration.network_cable import Cable

SERVER = "10.77.0.2"
SERVER6 = "fd77:0::2"

SEND_BUFFER = 65536
"""Bytes that the server's kernel keeps for a client, at most: beyond them the server itself has to."""

SEGMENTS = ("gso_max_segs", "1")
"""One segment a packet: between namespaces the kernel else passes 64 KiB as one, and would lose or keep them as one."""

REJECT = "reject with icmpx admin-prohibited"
FORGE_RESET = "meta l4proto tcp iifname uplink reject with tcp reset"
"""What a rule does with packets: refuses them, which TCP takes for a hint (RFC 1122, 4.2.3.9); answers what the server
sends with a reset that the client knows nothing of, as some firewalls do."""


class Line:
    """A client's way to the router.

    Attributes:
        device: the router's end, and what nftables calls it.
        client: the namespace at its far end.
        cable: carries its packets, if it is one of those.
    """

    def __init__(self, device: str, router: str, client: str, cable: Cable | None) -> None:
        self.device = device
        self.client = client
        self.cable = cable
        self._router = router
        self._slow = False

    def socket(self, family: int = socket.AF_INET) -> socket.socket:
        """Make a stream socket of the client's host."""
        return within(self.client, lambda: socket.socket(family, socket.SOCK_STREAM))

    def lose(self, percent: int) -> None:
        """Lose so many of a hundred packets, each way, by chance."""
        self.treat(f"numgen random mod 100 < {percent} drop")

    def deafen(self) -> None:
        """Lose everything that the server sends, and nothing that the client does."""
        self.treat(f"oifname {self.device} drop")

    def treat(self, rule: str) -> None:
        """Treat all packets of the line by a rule of nftables, instead of the rule before."""
        _nft(self._router, f"flush chain inet weather {self.device}; add rule inet weather {self.device} {rule}")

    def heal(self) -> None:
        """Treat packets as they should be; a cable keeps its delay, or late packets would find their connection gone."""
        _nft(self._router, f"flush chain inet weather {self.device}")
        if self._slow:
            _run("tc", "-n", self._router, "qdisc", "delete", "dev", self.device, "root")
            self._slow = False

    def slow(self, rate: str) -> None:
        """Let no more through to the client than a rate as tc(8) writes it; what waits longer than 100 ms is lost."""
        shape = ["tbf", "rate", rate, "burst", "4kb", "latency", "100ms"]
        _run("tc", "-n", self._router, "qdisc", "add", "dev", self.device, "root", *shape)
        self._slow = True

    @contextmanager
    def pulled(self) -> Iterator[None]:
        """Pull the cable at the router."""
        ip("-n", self._router, "link", "set", self.device, "down")
        try:
            yield
        finally:
            ip("-n", self._router, "link", "set", self.device, "up")


class Network:
    """Server, router and lines.

    Attributes:
        server: the server's namespace.
        lines: by name.
    """

    def __init__(self, server: str, router: str, lines: dict[str, Line]) -> None:
        self.server = server
        self.lines = lines
        self._router = router

    def of_server(self, command: Sequence[str | Path]) -> list[str]:
        """Return a command that runs on the server."""
        return ["ip", "netns", "exec", self.server, *map(str, command)]

    def resets(self) -> dict[str, int]:
        """Return how many resets the server has sent so far, by line."""
        listed = json.loads(_run("ip", "netns", "exec", self._router, "nft", "-j", "list", "counters"))
        counters = [entry["counter"] for entry in listed["nftables"] if "counter" in entry]
        packets = {counter["name"]: counter["packets"] for counter in counters}
        return {name: packets[line.device] for name, line in self.lines.items()}


@contextmanager
def network(plain: Sequence[str], cables: Sequence[str] = ()) -> Iterator[Network]:
    """Build it; all of it is gone at the end. Skips the test, and says why, where it cannot be built.

    Args:
        plain: names of lines.
        cables: names of lines whose packets a :class:`Cable` carries; nothing passes until it is plugged in.
    """
    permitted()
    for program in ("nft", "ss", "sysctl", "tc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    server, router = (f"hotfd-{os.getpid()}-{name}" for name in ("server", "router"))
    with ExitStack() as stack:
        namespace(stack, server)
        namespace(stack, router)
        _sysctl(server, f"ipv4.tcp_wmem=4096 16384 {SEND_BUFFER}")
        _sysctl(router, "ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1", "ipv6.conf.all.keep_addr_on_down=1")
        _veth(router, "uplink", server)
        _address(router, "uplink", server, 0)
        lines = {}
        for number, name in enumerate([*plain, *cables], 1):
            device, client = f"to_{name}", f"hotfd-{os.getpid()}-{name}"
            namespace(stack, client)
            carrier = None
            if name in cables:
                carrier = stack.enter_context(network_cable.cable((router, device), (client, "eth0"), number))
            else:
                _veth(router, device, client)
            _address(router, device, client, number)
            lines[name] = Line(device, router, client, carrier)
        _nft(router, _rules([line.device for line in lines.values()]), pytest.skip)
        yield Network(server, router, lines)


def _veth(router: str, device: str, host: str) -> None:
    ip("-n", router, "link", "add", device, *SEGMENTS, "type", "veth", "peer", "name", "eth0", "netns", host)
    ip("-n", host, "link", "set", "eth0", *SEGMENTS)


def _address(router: str, device: str, host: str, number: int) -> None:
    """Give both ends of a line their addresses, and the host its way to everybody else."""
    for name, end, last in ((router, device, 1), (host, "eth0", 2)):
        ip("-n", name, "address", "add", f"10.77.{number}.{last}/24", "dev", end)
        ip("-n", name, "address", "add", f"fd77:{number}::{last}/64", "dev", end, "nodad")
        for each in ("lo", end):
            ip("-n", name, "link", "set", each, "up")
    ip("-n", host, "route", "add", "default", "via", f"10.77.{number}.1", "dev", "eth0")
    ip("-n", host, "-6", "route", "add", "default", "via", f"fd77:{number}::1", "dev", "eth0")


def _rules(devices: Sequence[str]) -> str:
    counters = "".join(f"counter {name} {{}}\n" for name in devices)
    chains = "".join(f"chain {name} {{}}\n" for name in devices)
    jumps = "".join(
        f"iifname uplink oifname {name} tcp flags & rst == rst counter name {name}\n"
        f"iifname {name} jump {name}\noifname {name} jump {name}\n"
        for name in devices
    )
    hook = "type filter hook forward priority 0; policy accept;"
    return f"table inet weather {{\n{counters}{chains}chain forward {{ {hook}\n{jumps} }}\n}}\n"


def _sysctl(name: str, *settings: str) -> None:
    _run(
        "ip",
        "netns",
        "exec",
        name,
        "sysctl",
        "-q",
        "-w",
        *(f"net.{setting}" for setting in settings),
        otherwise=pytest.skip,
    )


def _nft(router: str, commands: str, otherwise: Callable[[str], NoReturn] = pytest.fail) -> None:
    _run("ip", "netns", "exec", router, "nft", "-f", "-", given=commands, otherwise=otherwise)


def _run(*command: str, given: str = "", otherwise: Callable[[str], NoReturn] = pytest.fail) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        otherwise(f"{' '.join(command)}: {done.stderr}\n{given}")
    return done.stdout
