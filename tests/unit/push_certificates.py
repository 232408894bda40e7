"""Certificates for tests: an authority, a server at loopback, a client, and strangers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files."""

    ca: str
    server: tuple[str, str]
    client: tuple[str, str]
    elsewhere: tuple[str, str]
    """Of a server at another host, from the same authority."""
    stranger: tuple[str, str]
    """Of a client, from another authority."""
    strange_ca: str

    @property
    def serving(self) -> list[str]:
        """Options of a server that asks for certificates."""
        return ["--tls-cert", self.server[0], "--tls-key", self.server[1], "--tls-ca", self.ca]

    @property
    def query(self) -> str:
        """The end of a subscriber's URL."""
        return f"?ca={self.ca}&cert={self.client[0]}&key={self.client[1]}"


def certificates(directory: Path) -> Certificates:
    """Write certificates to a directory."""
    ours, theirs = trustme.CA(key_type=trustme.KeyType.ECDSA), trustme.CA(key_type=trustme.KeyType.ECDSA)

    def pair(name: str, authority: trustme.CA, *identities: str) -> tuple[str, str]:
        made = authority.issue_cert(*identities, key_type=trustme.KeyType.ECDSA)
        cert, key = directory / f"{name}.pem", directory / f"{name}.key"
        made.cert_chain_pems[0].write_to_path(cert)
        made.private_key_pem.write_to_path(key)
        return str(cert), str(key)

    for name, authority in (("ca", ours), ("strange-ca", theirs)):
        authority.cert_pem.write_to_path(directory / f"{name}.pem")
    return Certificates(
        ca=str(directory / "ca.pem"),
        server=pair("server", ours, "127.0.0.1", "localhost"),
        client=pair("client", ours, "games.example"),
        elsewhere=pair("elsewhere", ours, "config.example"),
        stranger=pair("stranger", theirs, "127.0.0.1"),
        strange_ca=str(directory / "strange-ca.pem"),
    )
