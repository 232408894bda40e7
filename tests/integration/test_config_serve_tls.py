"""Configuration servers with TLS: who is let in, and what a handoff costs those who are."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
import uvloop

from hotfd.config import push
from hotfd.config.open import open_store
from hotfd.config.tls import client_context
from hotfd.distribution.tunnel import NO_TLS
from tests.integration import harness
from tests.integration.config_releases import publish, publish_to
from tests.integration.config_serving import configuration, eventually, raw, subscription, url_of
from tests.unit.push_certificates import Certificates, certificates
from tests.unit.push_following import following_url
from tests.unit.push_heads import report


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Have made what libuv makes once for a process, and keeps: the pipe of its signals."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return certificates(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The directory of a store with one release."""
    path = tmp_path / "store"
    publish(path, {"size": 1})
    return path


async def test_subscribers_with_the_right_certificates_are_served_and_come_again_after_a_handoff(
    tmp_path: Path, path: Path, files: Certificates
) -> None:
    with configuration(tmp_path, path, *files.serving) as service:
        async with (
            raw(service, subscription(), tls=client_context(files.ca, *files.client)) as client,
            following_url(url_of(service, query=files.query)) as follower,
        ):
            digest = await client.hear_of(1)
            client.say(push.Want("arena", 1, digest.heads[0].stable.sha256))
            assert isinstance(await client.hear_a(push.Body), push.Body)
            await follower.heads()

            (outcome,) = await harness.handoffs(service, 1)
            assert outcome["outcome"] == "completed"
            await client.ended()  # its keys are in the process that has gone
            store = open_store(f"dir:{path}")
            await publish_to(store, {"text": "x" * 900_000})
            while (heads := await follower.heads())["arena"].sequence < 2:
                pass
            sealed = await follower.source.release("arena", 2, heads["arena"].stable.sha256)
            assert len(sealed.data) > 900_000
            await store.aclose()
        assert "handler-failed" not in service.logged()


async def test_nobody_is_served_without_the_right_certificate_and_nobody_is_waited_for(
    tmp_path: Path, path: Path, files: Certificates
) -> None:
    with configuration(tmp_path, path, *files.serving, impatient=True) as service:
        async with raw(service) as loris, raw(service) as silent:
            loris.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a greeting
            async with raw(service, subscription()) as plain:  # no TLS at all
                assert await plain.ended() == [push.Refused("tls", NO_TLS)]
            for own in ((None, None), files.stranger):
                assert await is_refused(service, client_context(files.ca, *own))
            for wrong in (client_context(files.strange_ca, *files.client),):
                with pytest.raises(ssl.SSLCertVerificationError):
                    async with raw(service, tls=wrong):
                        pass
            async with following_url(url_of(service, query=files.query)) as follower:
                await follower.heads()
                assert await closed(loris) == b""
                assert await closed(silent) == b""
                await follower.heads()
        await eventually(lambda: service.logged().count("TLS has failed") >= 2, True)
        assert "Traceback" not in service.logged()


async def closed(client: object) -> bytes:
    """Wait for the end of a connection; return what came before it, less an alert."""
    reader: asyncio.StreamReader = client._reader  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(harness.PATIENCE):
            data = await reader.read()
    except ConnectionError:
        return b""
    return b"" if data[:1] == b"\x15" else data


async def is_refused(service: harness.Server, context: ssl.SSLContext) -> bool:
    """Return whether a server lets nobody in with this certificate: with TLS 1.3 the client learns it when it reads."""
    try:
        async with raw(service, subscription(), tls=context) as client:
            return await client.ended() == []
    except (ssl.SSLError, ConnectionError):
        return True


async def test_a_server_whose_certificate_is_for_another_host_is_not_followed(
    tmp_path: Path, path: Path, files: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = files.elsewhere
    options = ["--tls-cert", cert, "--tls-key", key, "--tls-ca", files.ca]
    with configuration(tmp_path, path, *options) as service:
        async with following_url(url_of(service, query=files.query)) as follower:
            await eventually(lambda: "its certificate is not accepted" in caplog.text, True)
            assert follower.source.contact == ""
            assert follower.silent


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_subscriber_on_uvloop_is_the_same(tmp_path: Path, path: Path, files: Certificates, tls: bool) -> None:
    async def follow(service: harness.Server) -> None:
        async with following_url(url_of(service, query=files.query if tls else "")) as follower:
            heads = await follower.heads()
            await follower.source.release("arena", 1, heads["arena"].stable.sha256)
            (outcome,) = await harness.handoffs(service, 1)
            assert outcome["outcome"] == "completed"
            store = open_store(f"dir:{path}")
            await publish_to(store, {"size": 2})
            while (await follower.heads())["arena"].sequence < 2:
                pass
            await follower.source.report([report(time=time.time())])
            await follower.source.report([report(version=2, time=time.time())])  # and ends: these are its last words
        async with asyncio.timeout(harness.PATIENCE):
            while [one.version for one in await store.acknowledgements("arena")] != [2]:
                await asyncio.sleep(0.02)
        await store.aclose()

    with (
        configuration(tmp_path, path, *(files.serving if tls else [])) as service,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(follow(service))


def test_a_certificate_that_cannot_be_read_is_named_and_nothing_is_started(path: Path, files: Certificates) -> None:
    done = harness.hotfd(
        "config", "serve", "--module", "arena", "--listen", "127.0.0.1:0", "--store", f"dir:{path}",
        "--tls-cert", "/nonexistent.pem", "--tls-key", files.server[1], "--tls-ca", files.ca,
    )  # fmt: skip
    assert done.returncode == 1
    assert "/nonexistent.pem" in done.stderr
    assert "Traceback" not in done.stderr
