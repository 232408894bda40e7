"""What a configuration server is started with."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hotfd.config.push import ADDRESS
from hotfd.config.release import MAX_MODULES, check_name
from hotfd.config.store import INTERVAL
from hotfd.config.tls import is_local, server_context, split_address
from hotfd.errors import ConfigError
from hotfd.transfer.listening import parse

if TYPE_CHECKING:
    import ssl

MAX_SUBSCRIBERS: Final = 10_000
"""Subscribers of one configuration server, unless told otherwise; each costs a descriptor and some ten kilobytes."""

LEAST_INTERVAL: Final = 0.1
"""Seconds: below that a server does little but to say that nothing has happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a configuration server is started with.

    Args:
        modules: what it serves.
        listen: where; as :func:`hotfd.run` takes it.
        store: the URL of the store.
        interval: seconds between two digests.
        advertise: the addresses to register; by default those of ``listen``, less Unix sockets.
        name: its name in status and process lists.
        tls_cert: the path of its certificate; None for no TLS.
        tls_key: the path of its private key.
        tls_ca: the path of the authority that its subscribers' certificates come from.
        client_certs: whether subscribers must show one.
        control: where consoles listen.
        control_token: the path of the consoles' token.
        max_subscribers: how many there may be.

    Raises:
        ConfigError: it cannot be meant so; the message says what to give.
    """

    modules: tuple[str, ...]
    listen: tuple[str, ...]
    store: str
    interval: float = INTERVAL
    advertise: tuple[str, ...] = ()
    name: str = "configuration"
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    client_certs: bool = True
    control: tuple[str, ...] = ()
    control_token: str | None = None
    max_subscribers: int = MAX_SUBSCRIBERS

    def __post_init__(self) -> None:
        if not 1 <= len(set(self.modules)) == len(self.modules) <= MAX_MODULES:
            raise ConfigError(f"a configuration server serves 1 to {MAX_MODULES} modules, each named once")
        for module in self.modules:
            check_name(module)
        if not LEAST_INTERVAL <= self.interval <= 3600:
            raise ConfigError(f"the interval is {LEAST_INTERVAL:g} to 3600 seconds")
        self._check_tls()
        for spec in self.listen:
            self._check_listener(spec)
        for address in self.advertise:
            self._check_advertised(address)

    def _check_tls(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs a certificate and its private key: --tls-cert FILE and --tls-key FILE")
        if self.tls_cert is None and (self.tls_ca is not None or not self.client_certs):
            raise ConfigError("TLS needs this server's certificate: --tls-cert FILE and --tls-key FILE")
        if self.tls_cert is not None and self.tls_ca is None and self.client_certs:
            raise ConfigError(
                "subscribers show certificates; give the authority that they come from with --tls-ca FILE, or say "
                "--no-client-certs if everybody who reaches this server may read its modules"
            )
        if self.tls_ca is not None and not self.client_certs:
            raise ConfigError(
                "--tls-ca says whose certificates subscribers show, and --no-client-certs that they do not"
            )

    def _check_listener(self, spec: str) -> None:
        try:
            family, address = parse(spec)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--listen {spec}: {error}") from None
        if family == socket.AF_UNIX:
            if self.tls_cert is not None:
                raise ConfigError(
                    f"--listen {spec}: all addresses of a server with TLS have it, and a Unix socket has no name that a "
                    "certificate could be for; start another server for it"
                )
            return
        host = ipaddress.ip_address(str(address[0]).partition("%")[0])
        if self.tls_cert is None and not host.is_loopback:
            raise ConfigError(
                f"--listen {spec}: other machines can reach it, so it needs TLS: "
                "--tls-cert FILE --tls-key FILE --tls-ca FILE"
            )
        if host.is_unspecified and not self.advertise:
            raise ConfigError(
                f"--listen {spec}: nobody can connect to that address; name the one to register with --advertise"
            )

    def _check_advertised(self, address: str) -> None:
        try:
            local = is_local(address)
            if not address.startswith("unix:"):
                split_address(address)
        except ValueError as error:
            raise ConfigError(f"--advertise {error}") from None
        if not ADDRESS.fullmatch(address):
            raise ConfigError(f"--advertise {address!r} is no address; give HOST:PORT, [IPV6]:PORT or unix:/PATH")
        if self.tls_cert is None and not local:
            raise ConfigError(f"--advertise {address}: subscribers on other machines use TLS only; see --tls-cert")

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context, made of the files as they are now; None without TLS.

        Raises:
            ConfigError: a file cannot be read, or is none of that kind.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        return server_context(self.tls_cert, self.tls_key, self.tls_ca)
