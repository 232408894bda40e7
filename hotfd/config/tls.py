"""TLS between configuration servers and their subscribers, and where it may be left out.

Both sides show a certificate by default (mutual TLS): a configuration server hands its values to nobody else, and a
subscriber takes them from nobody else. What a server asks of a client's certificate is that its chain ends at the
authority that it was given; names in it do not matter. A client checks in addition that the certificate is one for the
host that it has connected to.
"""

from __future__ import annotations

import ipaddress
import ssl

from hotfd.errors import ConfigError


def server_context(cert: str, key: str, ca: str | None) -> ssl.SSLContext:
    """Return the context of a configuration server.

    Args:
        cert: the path of its certificate, in PEM, with what is between that and the authority.
        key: the path of its private key, in PEM, without a passphrase.
        ca: the path of the authority's certificate, which client certificates must come from; None asks clients for
            none.

    Raises:
        ConfigError: a file cannot be read, or is none of that kind.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load(context, cert, key)
    if ca is not None:
        _trust(context, ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """Return the context of a subscriber; servers' names are checked.

    Args:
        ca: the path of the authority's certificate that servers' certificates must come from; None takes the
            machine's own authorities.
        cert: the path of this side's certificate, or None for none.
        key: the path of its private key; None when it is in the same file.

    Raises:
        ConfigError: a file cannot be read, or is none of that kind.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names, demands certificates
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        _trust(context, ca)
    else:
        context.load_default_certs()
    if cert is not None:
        _load(context, cert, key)
    return context


def _load(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except (OSError, ssl.SSLError, ValueError) as error:
        files = cert if key is None else f"{cert} and {key}"
        raise ConfigError(f"no certificate with its private key can be read from {files}: {_said(error)}") from None


def _no_passphrase() -> str:
    raise ValueError("the private key has a passphrase; nobody is there to type it")


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"no authority's certificate can be read from {ca}: {_said(error)}") from None


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.strerror:
        return error.strerror
    return str(error)


def trouble_of(error: ssl.SSLError) -> tuple[str, str]:
    """Return what a subscriber makes of a failure of TLS.

    Returns:
        the code with which its server counts as unusable for a while, empty when the next attempt may succeed; and a
        line for people.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls", f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "", "closed by the server in the middle of TLS"
    reason = getattr(error, "reason", "")  # asyncio's own have none
    if reason in _NO_TLS:
        return "tls", "it serves without TLS: leave ca=, cert= and key= out, or start it with --tls-cert and --tls-key"
    return "tls", f"TLS has failed: {reason.replace('_', ' ').lower() if reason else error}"


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""OpenSSL's words for a first record that is none."""


def split_address(address: str) -> tuple[str, int]:
    """Divide ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: it is neither.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is no address; give HOST:PORT, [IPV6]:PORT or unix:/PATH")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets, as in [::1]:7000")
    return host, int(port)


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an address: ``unix:``, ``localhost``, or a loopback address.

    Raises:
        ValueError: it is no address.
    """
    if address.startswith("unix:"):
        return True
    host, _ = split_address(address)
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name, and whoever answers for names may say anything
        return False
