"""TLS between configuration servers and subscribers, without a socket: who is let in, and in what pieces it comes."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from hotfd.config import push
from hotfd.config.tls import client_context, is_local, server_context, split_address
from hotfd.distribution.tunnel import Clear, Encrypted
from hotfd.errors import ConfigError, PushRefused
from tests.unit.push_certificates import Certificates, certificates

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = push.Lookup(("arena",))
BODY = push.Body("arena", 1, "0" * 64, bytes(200_000))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


class Client:
    """The other side of a tunnel."""

    def __init__(self, context: ssl.SSLContext, name: str = "127.0.0.1") -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def handshake(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


def records(data: bytes) -> list[bytes]:
    """Divide bytes as the server does."""
    spans = Encrypted.framing.scanner().scan(data, 0)
    assert not spans or spans[-1] == len(data)
    return [data[spans[at] : spans[at + 1]] for at in range(0, len(spans), 3)]


def passed(client: Client, server: Encrypted) -> list[bytes]:
    """Give the server what the client has to say, record by record, and the client the answer."""
    messages = []
    for record in records(client.outgoing.read()):
        messages += server.receive(record)
        client.incoming.write(server.pending())
    return messages


def greeted(client: Client, server: Encrypted) -> None:
    for _ in range(5):
        client.handshake()
        passed(client, server)


def test_messages_come_through_in_both_directions(files: Certificates) -> None:
    client = Client(client_context(files.ca, *files.client))
    server = Encrypted(server_context(*files.server, files.ca))
    greeted(client, server)
    assert client.tls.version() == "TLSv1.3"
    client.tls.write(push.frame(REQUEST) * 2)
    assert [push.read_request(payload) for payload in passed(client, server)] == [REQUEST, REQUEST]
    client.incoming.write(server.wrap(push.frame(BODY)))
    received, splitter = [], push.Splitter(push.MAX_ANSWER)
    while not received:
        received = splitter.feed(client.tls.read(1 << 16))
    assert push.read_answer(received[0]) == BODY


def test_a_message_may_come_in_many_records(files: Certificates) -> None:
    client = Client(client_context(files.ca, *files.client))
    server = Encrypted(server_context(*files.server, files.ca))
    greeted(client, server)
    for byte in push.frame(REQUEST):
        client.tls.write(bytes([byte]))
    assert [push.read_request(payload) for payload in passed(client, server)] == [REQUEST]


def test_tls_1_2_is_spoken_and_nothing_older(files: Certificates) -> None:
    context = client_context(files.ca, *files.client)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = Client(context), Encrypted(server_context(*files.server, files.ca))
    greeted(client, server)
    assert client.tls.version() == "TLSv1.2"
    assert client_context(files.ca, None, None).minimum_version == ssl.TLSVersion.TLSv1_2
    assert server_context(*files.server, None).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_a_client_without_a_certificate_of_the_authority_is_not_let_in(files: Certificates, who: str) -> None:
    own = (None, None) if who == "nobody" else files.stranger
    client = Client(client_context(files.ca, *own))
    server = Encrypted(server_context(*files.server, files.ca))
    with pytest.raises(PushRefused, match="TLS has failed"):
        greeted(client, server)
    client.incoming.write(server.last(b"words"))
    with pytest.raises(ssl.SSLError, match="alert"):
        client.tls.read(1)


def test_a_server_that_asks_for_no_certificates_lets_everybody_in(files: Certificates) -> None:
    client, server = Client(client_context(files.ca, None, None)), Encrypted(server_context(*files.server, None))
    greeted(client, server)
    client.tls.write(push.frame(REQUEST))
    assert passed(client, server)


@pytest.mark.parametrize(
    ("ca", "name", "said"),
    [
        ("ca", "config.example", "Hostname mismatch"),
        ("ca", "127.0.0.2", "IP address mismatch"),
        ("strange_ca", "127.0.0.1", "certificate verify failed"),
    ],
)
def test_a_client_takes_nothing_from_another_server(files: Certificates, ca: str, name: str, said: str) -> None:
    client = Client(client_context(getattr(files, ca), *files.client), name)
    server = Encrypted(server_context(*files.server, files.ca))
    with pytest.raises(ssl.SSLCertVerificationError, match=said):
        greeted(client, server)


def test_what_is_no_tls_is_refused(files: Certificates) -> None:
    server = Encrypted(server_context(*files.server, files.ca))
    with pytest.raises(PushRefused, match="with TLS only"):
        server.receive(b"GET \0\5hello")
    assert server.last(b"words") == b"words", "who speaks no TLS reads why"


def test_the_end_of_tls_is_the_end(files: Certificates) -> None:
    client = Client(client_context(files.ca, *files.client))
    server = Encrypted(server_context(*files.server, files.ca))
    greeted(client, server)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    with pytest.raises(EOFError):
        passed(client, server)


def test_a_message_in_tls_is_no_larger_than_one_without(files: Certificates) -> None:
    client = Client(client_context(files.ca, *files.client))
    server = Encrypted(server_context(*files.server, files.ca))
    greeted(client, server)
    client.tls.write((push.MAX_REQUEST + 1).to_bytes(4))
    with pytest.raises(PushRefused, match="at most 262144"):
        passed(client, server)
    client.incoming.write(server.last(b"words"))
    assert client.tls.read(10) == b"words", "so that it can be told why"


def test_a_record_is_found_whole_with_its_header_and_one_that_is_too_large_is_none() -> None:
    data = b"\x17\x03\x03\0\5hello\x16\x03\x01\0\1x"
    assert records(data) == [b"\x17\x03\x03\0\5hello", b"\x16\x03\x01\0\1x"]
    with pytest.raises(Exception, match="max_size"):
        Encrypted.framing.scanner().scan(b"\x17\x03\x03\xff\xff", 0)


def test_without_tls_a_message_is_a_frame() -> None:
    data = push.frame(REQUEST)
    spans = Clear.framing.scanner().scan(data, 0)
    assert [push.read_request(payload) for payload in Clear().receive(data[spans[0] : spans[1]])] == [REQUEST]
    assert Clear().wrap(data) == data


# -- files and addresses ---------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_named(files: Certificates, tmp_path: Path) -> None:
    none, text = str(tmp_path / "none.pem"), tmp_path / "text.pem"
    text.write_text("hello")
    with pytest.raises(ConfigError, match=r"none.pem: No such file"):
        client_context(none, None, None)
    with pytest.raises(ConfigError, match=r"text.pem"):
        client_context(str(text), None, None)
    with pytest.raises(ConfigError, match=r"none.pem and .*server.key: No such file"):
        server_context(none, files.server[1], None)
    with pytest.raises(ConfigError, match=r"server.pem and .*client.key"):
        server_context(files.server[0], files.client[1], None)


def test_a_private_key_with_a_passphrase_is_refused_instead_of_asked_for(files: Certificates, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    with open(files.server[1], "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    locked.write_bytes(key.private_bytes(*form))
    with pytest.raises(ConfigError, match="passphrase"):
        server_context(files.server[0], str(locked), None)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("unix:/run/c.sock", True),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("[fe80::1%eth0]:1", False),
        ("localhost.example:1", False),
        ("config1:1", False),
    ],
)
def test_what_only_this_machine_can_reach_is_local(address: str, local: bool) -> None:
    assert is_local(address) is local


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:0", "host:65536", "host:x", "::1:1", "host:-1"])
def test_what_is_no_address_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|bracket"):
        split_address(address)
