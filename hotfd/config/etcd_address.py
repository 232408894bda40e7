"""Where an etcd cluster is, and how one speaks to it: ``etcd://HOST:PORT,.../PREFIX?ca=FILE&cert=FILE&key=FILE``.

Certificates are the only way to prove oneself here. etcd's users and passwords are not offered: a password would have
to stand in a URL, which everybody can read in the list of processes, and the access control behind it has had holes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from hotfd.config.tls import client_context, is_local
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    import ssl

PORT: Final = 2379
"""Where etcd listens for clients when a URL names no port (IANA: ``etcd-client``)."""

PREFIX: Final = "/hotfd"
"""What keys begin with when a URL names no path."""

MAX_ENDPOINTS: Final = 16
"""Members of a cluster that a URL may name: etcd advises seven at most, and addresses change while URLs stay."""

_SHAPE: Final = "etcd://HOST:PORT,HOST:PORT/PREFIX?ca=FILE&cert=FILE&key=FILE"


@dataclass(frozen=True, slots=True)
class Address:
    """A cluster.

    Attributes:
        url: as it was given.
        endpoints: its members, e.g. ``https://10.0.0.1:2379``.
        prefix: what all keys begin with; no slash at its end.
        tls: whether TLS is spoken.
        ca: the file of the certificates that a member's must be signed by; None for the system's.
        certificate: the file of our own certificate; None for none.
        key: the file of its key; None when it is in the same file.
    """

    url: str
    endpoints: tuple[str, ...]
    prefix: str
    tls: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files, which may have been renewed since the last time.

        Raises:
            ConfigError: one of them cannot be read, or is not what it should be.
        """
        try:
            return client_context(self.ca, self.certificate, self.key)
        except ConfigError as error:
            raise ConfigError(f"{self.url}: {error}") from None


def parse(url: str) -> Address:
    """Read a URL of an etcd cluster.

    Args:
        url: ``etcd://HOST:PORT,.../PREFIX``. With any of ``ca=FILE``, ``cert=FILE`` and ``key=FILE`` TLS is spoken;
            ``plain=1`` allows to do without off this host.

    Raises:
        ConfigError: it is none, or speaks without TLS to another host; the message says what to do.
    """
    if "@" in url:  # not shown: there may be a password before it
        raise ConfigError("an etcd:// URL has no users and passwords; give cert=FILE and key=FILE of a certificate")
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        hosts = [_endpoint(part) for part in parts.netloc.split(",")]
    except ValueError as error:
        raise ConfigError(f"{url!r} is no address of an etcd cluster ({error}); it looks so: {_SHAPE}") from None
    if parts.scheme != "etcd" or parts.fragment:
        raise ConfigError(f"{url!r} is no address of an etcd cluster; it looks so: {_SHAPE}")
    if len(hosts) > MAX_ENDPOINTS:
        raise ConfigError(f"{url!r} names {len(hosts)} members; at most {MAX_ENDPOINTS} are possible")
    if unknown := sorted(set(options) - {"ca", "cert", "key", "plain"}):
        raise ConfigError(f"{url!r}: there is no option {unknown[0]!r}; there are ca, cert, key and plain")
    files = {name: options[name] for name in ("ca", "cert", "key") if name in options}
    if empty := [name for name, file in files.items() if not file]:
        raise ConfigError(f"{url!r}: {empty[0]} names no file")
    if "key" in files and "cert" not in files:
        raise ConfigError(f"{url!r} names a key and no certificate; add cert=FILE")
    _check_plain(url, hosts, options.get("plain"), tls=bool(files))
    scheme = "https" if files else "http"
    endpoints = tuple(dict.fromkeys(f"{scheme}://{host}" for host in hosts))
    prefix = unquote(parts.path).rstrip("/") or PREFIX
    return Address(url, endpoints, prefix, bool(files), files.get("ca"), files.get("cert"), files.get("key"))


def _endpoint(part: str) -> str:
    place = urlsplit(f"//{part}")
    if not place.hostname or place.path or place.query:
        raise ValueError("a host is missing")
    host = f"[{place.hostname}]" if ":" in place.hostname else place.hostname
    return f"{host}:{PORT if place.port is None else place.port}"


def _check_plain(url: str, hosts: list[str], plain: str | None, *, tls: bool) -> None:
    if plain not in (None, "1"):
        raise ConfigError(f"{url!r}: plain can be 1 only")
    if plain is not None and tls:
        raise ConfigError(f"{url!r} asks for TLS and for none; leave plain=1 out")
    if tls or plain is not None:
        return
    if far := [host for host in hosts if not is_local(host)]:
        raise ConfigError(
            f"{url!r}: without TLS anybody between here and {far[0]} could publish; give ca=FILE, and cert=FILE and "
            "key=FILE of a client's certificate, or add plain=1 if the network itself is protected"
        )
