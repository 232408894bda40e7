"""Where a console may listen."""

from __future__ import annotations

import ipaddress
import socket


def canonical(spec: str, *, exposed: bool) -> str:
    """Check a console's address, and return it with a numeric host, so that one address has one name.

    Args:
        spec: ``HOST:PORT`` or ``[IPV6]:PORT``.
        exposed: whether it may be one that other machines can reach. Telnet sends the token in clear text.

    Raises:
        ValueError: it is none, or it is not loopback and ``exposed`` does not say that this is meant.
    """
    host, separator, port = spec.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{spec!r}: an IPv6 address stands in brackets, as in [::1]:2323")
    if not separator or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"{spec!r} is no address of a console; give HOST:PORT, as in 127.0.0.1:2323")
    if not host:
        raise ValueError(f"{spec!r} would listen on every interface; name one, as in 127.0.0.1:{port}")
    try:
        infos = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{spec!r}: the host cannot be found ({error})") from None
    infos.sort(key=lambda info: info[0] != socket.AF_INET)
    numeric = ipaddress.ip_address(str(infos[0][4][0]).partition("%")[0])
    if not numeric.is_loopback and not exposed:
        raise ValueError(
            f"a console at {spec} can be reached from other machines, and whoever is on the way can read its token; "
            "use 127.0.0.1 or [::1] with a tunnel (ssh -L), or say control_exposed=True if that is meant"
        )
    return f"[{numeric}]:{port}" if numeric.version == 6 else f"{numeric}:{port}"
