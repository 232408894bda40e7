"""A subscriber against configuration servers that do what a test says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hotfd.config import client, link, push
from hotfd.config.client import ServersSource
from hotfd.config.open import open_source
from hotfd.errors import ConfigError
from tests.unit.push_following import FUSE, WHO, Following, following_url
from tests.unit.push_heads import head, report, sealed

if TYPE_CHECKING:
    from hotfd.config.release import Head

INTERVAL = 1.0


@dataclass(eq=False)
class Visit:
    """A connection of the subscriber to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    subscription: push.Subscribe = field(init=False)

    def say(self, *answers: push.Answer) -> None:
        for answer in answers:
            self.writer.write(push.frame(answer))

    def welcome(self, identity: str, *heads: Head, modules: tuple[str, ...] = ("arena",)) -> None:
        self.say(push.Welcome(identity, modules, FUSE), push.Digest(heads))

    async def hear(self) -> push.Request | None:
        """Return the next message; None at the end."""
        try:
            async with asyncio.timeout(FUSE):
                return push.read_request(
                    await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4)))
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def end(self) -> None:
        self.writer.transport.abort()


class Fake:
    """A configuration server that does what a test says."""

    def __init__(self) -> None:
        self.address = ""
        self._visits: asyncio.Queue[Visit] = asyncio.Queue()
        self._open: list[Visit] = []

    async def visit(self) -> Visit:
        """Return the next connection, whose subscription has come."""
        async with asyncio.timeout(FUSE):
            visit = await self._visits.get()
        subscription = await visit.hear()
        assert isinstance(subscription, push.Subscribe)
        visit.subscription = subscription
        return visit

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(reader, writer)
        self._open.append(visit)
        self._visits.put_nowait(visit)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fake]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for visit in self._open:
                visit.end()
            await asyncio.gather(*(visit.writer.wait_closed() for visit in self._open), return_exceptions=True)


def following(*fakes: Fake, modules: tuple[str, ...] = ("arena",)) -> AbstractAsyncContextManager[Following]:
    """Follow a source that begins with these servers."""
    return following_url("hotfd://" + ",".join(fake.address for fake in fakes), INTERVAL, modules, WHO)


# -- what it follows -------------------------------------------------------------------------------


async def test_heads_come_as_they_are_told_and_each_digest_is_a_sign_of_life() -> None:
    async with Fake().running() as fake, following(fake) as follower:
        visit = await fake.visit()
        assert visit.subscription == push.Subscribe(1, "s1", "games", "eu", "host", 7, 1, ("arena",))
        assert follower.source.contact == ""
        visit.welcome("a", head(sequence=1))
        assert await follower.heads() == {"arena": head(sequence=1)}
        assert follower.source.contact == fake.address
        for sequence, newest in [(1, 1), (2, 2), (1, 2)]:
            visit.say(push.Digest((head(sequence=sequence),)))
            assert await follower.heads() == {"arena": head(sequence=newest)}


async def test_a_module_without_a_release_is_said_to_have_none() -> None:
    async with Fake().running() as fake, following(fake) as follower:
        (await fake.visit()).welcome("a")
        assert await follower.heads() == {}


async def test_nothing_is_said_of_the_heads_at_first_before_each_module_was_spoken_of() -> None:
    async with (
        Fake().running() as one,
        Fake().running() as two,
        following_url(f"hotfd://{one.address},{two.address}", 3600.0, ("arena", "chat")) as follower,
    ):
        first, second = await one.visit(), await two.visit()
        first.welcome("one", head("arena"))
        first.say(push.Addresses({}))
        second.say(push.Welcome("two", ("chat",), FUSE), push.Digest((), ("chat",)))
        assert follower.silent
        second.say(push.Digest(()))
        assert await follower.heads() == {"arena": head("arena")}
        assert not follower.source.silent


async def test_another_server_is_connected_to_as_soon_as_it_is_heard_of() -> None:
    async with Fake().running() as one, Fake().running() as two, following(one) as follower:
        visit = await one.visit()
        visit.welcome("one", head(sequence=3))
        await follower.heads()
        visit.say(push.Addresses({"arena": (one.address, two.address)}))
        other = await two.visit()
        assert other.subscription.have == {"arena": 3}
        other.welcome("two", head(sequence=4))
        await follower.becomes(head(sequence=4))
        assert follower.source.contact == f"{one.address}, {two.address}"


async def test_a_lost_connection_is_made_again_and_says_what_is_known() -> None:
    async with Fake().running() as fake, following(fake) as follower:
        visit = await fake.visit()
        visit.welcome("a", head(sequence=3))
        await follower.becomes(head(sequence=3))
        for _ in range(3):
            visit.end()
            visit = await fake.visit()
            assert visit.subscription.have == {"arena": 3}
            visit.welcome("a")
            await follower.becomes(head(sequence=3))


async def test_a_server_that_has_gone_is_followed_by_another_at_once() -> None:
    async with Fake().running() as one, Fake().running() as two, following(one, two) as follower:
        first, second = await one.visit(), await two.visit()
        first.welcome("one", head(sequence=1))
        second.welcome("two", head(sequence=1))
        await follower.becomes(head(sequence=1))
        first.end()
        second.say(push.Digest((head(sequence=2),)))
        await follower.becomes(head(sequence=2))


async def test_a_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LEAST_SILENCE", 0.1)
    async with Fake().running() as fake, following(fake) as follower:
        visit = await fake.visit()
        visit.say(push.Welcome("a", ("arena",), 0.05), push.Digest((head(),)))
        await follower.becomes(head())
        assert await visit.hear() is None, "two intervals of silence, and it has gone"
        assert (await fake.visit()).subscription.have == {"arena": 1}


async def test_a_server_that_does_not_answer_the_subscription_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GREETING_LIMIT", 0.1)
    async with Fake().running() as fake, following(fake):
        assert await (await fake.visit()).hear() is None
        assert await fake.visit()


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\1\xc0", push.frame(push.Lookup(("arena",)))],
)
async def test_a_server_that_says_nonsense_is_left_and_the_other_one_followed(data: bytes) -> None:
    async with Fake().running() as one, Fake().running() as two, following(one, two) as follower:
        first, second = await one.visit(), await two.visit()
        first.writer.write(data)
        assert await first.hear() is None
        second.welcome("two", head())
        await follower.becomes(head())


async def test_a_server_that_is_known_by_two_addresses_is_held_once() -> None:
    async with Fake().running() as one, Fake().running() as two, following(one, two) as follower:
        first, second = await one.visit(), await two.visit()
        first.welcome("same", head())
        await follower.becomes(head())
        second.welcome("same")
        assert await second.hear() is None
        assert follower.source.contact == one.address


async def test_why_a_server_is_not_held_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hotfd")
    async with Fake().running() as fake, following(fake) as follower:
        for _ in range(3):
            visit = await fake.visit()
            visit.say(push.Refused("not-ready", "the store could not be read yet"))
            assert await visit.hear() is None
        (await fake.visit()).welcome("a", head())
        await follower.becomes(head())
    events = [record.hotfd["event"] for record in caplog.records]  # type: ignore[attr-defined]
    assert events == ["config-server-unusable", "config-server-back"]


async def test_addresses_on_other_machines_are_not_used_without_tls(caplog: pytest.LogCaptureFixture) -> None:
    async with Fake().running() as fake, following(fake) as follower:
        visit = await fake.visit()
        visit.say(push.Addresses({"arena": ("192.0.2.1:7000", fake.address)}))
        visit.welcome("a", head())
        await follower.becomes(head())
    assert "192.0.2.1:7000" in caplog.text
    assert "there is no TLS" in caplog.text


# -- releases --------------------------------------------------------------------------------------


def body(release: object) -> push.Body:
    one = sealed() if release is None else release
    return push.Body(one.release.module, one.release.version, one.sha256, one.data)  # type: ignore[attr-defined]


async def test_a_release_comes_from_the_server_that_has_announced_it() -> None:
    async with Fake().running() as one, Fake().running() as two, following(one, two) as follower:
        first, second = await one.visit(), await two.visit()
        first.welcome("one")
        second.welcome("two", head())
        await follower.becomes(head())
        asked = asyncio.create_task(follower.source.release("arena", 1, sealed().sha256))
        assert await second.hear() == push.Want("arena", 1, sealed().sha256)
        second.say(body(sealed()))
        assert await asked == sealed()


async def test_a_release_that_one_server_lacks_or_spoils_comes_from_the_other() -> None:
    wrong = sealed("arena", 2)
    for answer in (
        push.Unavailable("arena", 1, sealed().sha256, "the store is away"),
        push.Body("arena", 1, sealed().sha256, wrong.data),
        None,
    ):
        async with Fake().running() as one, Fake().running() as two, following(one, two) as follower:
            first, second = await one.visit(), await two.visit()
            first.welcome("one", head())
            await follower.becomes(head())
            second.welcome("two", head())
            await follower.becomes(head())
            asked = asyncio.create_task(follower.source.release("arena", 1, sealed().sha256))
            assert await first.hear() == push.Want("arena", 1, sealed().sha256)
            if answer is None:
                first.end()
            else:
                first.say(answer)
            assert await second.hear() == push.Want("arena", 1, sealed().sha256)
            second.say(body(sealed()))
            assert await asked == sealed()


async def test_two_who_want_the_same_release_ask_once() -> None:
    async with Fake().running() as fake, following(fake) as follower:
        visit = await fake.visit()
        visit.welcome("a", head())
        await follower.becomes(head())
        asked = [asyncio.create_task(follower.source.release("arena", 1, sealed().sha256)) for _ in range(2)]
        assert await visit.hear() == push.Want("arena", 1, sealed().sha256)
        visit.say(body(sealed()))
        assert await asyncio.gather(*asked) == [sealed()] * 2
        again = asyncio.create_task(follower.source.release("arena", 2, sealed(version=2).sha256))
        assert await visit.hear() == push.Want("arena", 2, sealed(version=2).sha256), "nothing else was asked between"
        visit.say(body(sealed(version=2)))
        await again


async def test_a_release_that_nobody_sends_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RELEASE_LIMIT", 0.05)
    async with Fake().running() as fake, following(fake) as follower:
        with pytest.raises(ConfigError, match="no configuration server can be reached"):
            await follower.source.release("arena", 1, sealed().sha256)
        visit = await fake.visit()
        visit.welcome("a", head())
        await follower.becomes(head())
        with pytest.raises(ConfigError, match=r"did not send it within 0.05 s"):
            await follower.source.release("arena", 1, sealed().sha256)
        visit.say(body(sealed()))  # too late, and nobody's any more
        visit.say(push.Digest((head(sequence=2),)))
        await follower.becomes(head(sequence=2))


# -- what servers are told -------------------------------------------------------------------------


async def test_reports_wait_for_a_server_and_the_newest_of_each_module_is_told() -> None:
    async with Fake().running() as fake, following(fake) as follower:
        for version in (1, 2):
            await follower.source.report([report(version=version)])
        await follower.source.declare({"arena": ("id-1", b"{}")})
        visit = await fake.visit()
        visit.welcome("a", head())
        told = [await visit.hear(), await visit.hear()]
        assert push.Report((report(version=2),)) in told
        assert push.Declare("arena", "id-1", b"{}") in told


async def test_one_server_is_told_and_another_when_that_has_gone() -> None:
    async with Fake().running() as one, Fake().running() as two, following(one, two) as follower:
        first = await one.visit()
        first.welcome("one", head())
        await follower.becomes(head())
        await follower.source.report([report()])
        assert await first.hear() == push.Report((report(),))
        second = await two.visit()
        second.welcome("two", head())
        await follower.becomes(head())
        first.end()
        assert await second.hear() == push.Report((report(),)), "the first may have died before it was written"


async def test_many_reports_at_once_become_few_messages() -> None:
    async with Fake().running() as fake, following(fake) as follower:
        visit = await fake.visit()
        visit.welcome("a", head())
        await follower.becomes(head())
        for version in range(1, 1001):
            await follower.source.report([report(version=version)])
        told = []
        while not told or told[-1] != push.Report((report(version=1000),)):
            told.append(await visit.hear())
        assert len(told) <= 3


async def test_the_last_words_of_a_server_that_ends_are_said() -> None:
    async with Fake().running() as fake:
        async with following(fake) as follower:
            visit = await fake.visit()
            visit.welcome("a", head())
            await follower.becomes(head())
            await follower.source.report([report(version=1)])
            await follower.source.report([report(version=2)])
        assert [await visit.hear() for _ in range(3)] == [
            push.Report((report(version=1),)),
            push.Report((report(version=2),)),
            None,
        ]


async def test_a_schema_that_is_too_large_is_kept_back_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with Fake().running() as fake, following(fake) as follower:
        await follower.source.declare({"arena": ("id-1", bytes(push.MAX_SCHEMA + 1))})
        visit = await fake.visit()
        visit.welcome("a", head())
        await follower.becomes(head())
        await follower.source.report([report()])
        assert await visit.hear() == push.Report((report(),))
    assert "config-schema-too-large" in caplog.text


async def test_the_servers_are_asked_again_and_again_who_serves_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LEAST_SILENCE", FUSE)
    async with Fake().running() as fake, following(fake) as follower:
        visit = await fake.visit()
        visit.say(push.Welcome("a", ("arena",), 0.02), push.Digest((head(),)))
        for _ in range(3):
            told = asyncio.create_task(visit.hear())
            while not told.done():
                visit.say(push.Digest((head(),)))
                await follower.heads()
            assert await told == push.Lookup(("arena",))


# -- its URL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hotfd://", "names no configuration servers"),
        ("dir:/srv", "names no configuration servers"),
        ("hotfd://host", "no address"),
        ("hotfd://127.0.0.1:0", "no address"),
        ("hotfd://127.0.0.1:70000", "no address"),
        ("hotfd://::1:7000", "in brackets"),
        ("hotfd://config.example:7000", r"\?ca=FILE&cert=FILE&key=FILE"),
        ("hotfd://127.0.0.1:1,10.0.0.1:1", "10.0.0.1:1 is on another machine"),
        ("hotfd://127.0.0.1:1?password=x", "no option 'password'"),
        ("hotfd://127.0.0.1:1?key=x", "needs its certificate"),
        ("hotfd://127.0.0.1:1?ca=/nonexistent", "/nonexistent: No such file"),
        ("hotfd://unix:/run/c.sock?ca=/etc/ca.pem", "no certificate is for a Unix socket"),
        ("hotfd://" + ",".join(f"127.0.0.1:{port}" for port in range(1, 66)), "at most 64"),
    ],
)
def test_a_url_that_cannot_be_meant_so_is_refused_with_what_to_give(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ServersSource(url, WHO)


def test_a_url_of_configuration_servers_opens_them() -> None:
    assert isinstance(open_source("hotfd://127.0.0.1:1,[::1]:1,unix:/run/c.sock,localhost:2", WHO), ServersSource)


async def test_a_server_at_a_unix_socket_is_followed(tmp_path: Path) -> None:
    visits: asyncio.Queue[Visit] = asyncio.Queue()
    path = str(tmp_path / "c.sock")
    server = await asyncio.start_unix_server(lambda *streams: visits.put_nowait(Visit(*streams)), path)
    async with server:
        fake = Fake()
        fake.address, fake._visits = f"unix:{path}", visits
        async with following(fake) as follower:
            visit = await fake.visit()
            visit.welcome("a", head())
            await follower.becomes(head())
        assert await visit.hear() is None
        visit.end()
