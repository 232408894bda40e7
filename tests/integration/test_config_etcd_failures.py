"""What the store in etcd does when members die, hang, are cut off, lose answers, or are somebody else."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from hotfd.config import etcd_gateway
from hotfd.config.etcd import EtcdStore
from hotfd.errors import ConfigError, Conflict, StoreError
from tests.integration.etcd_cluster import Certificates, Cluster, etcd_cluster
from tests.integration.etcd_proxy import Held, Proxy, proxy
from tests.integration.harness import PATIENCE
from tests.unit.config_stores import LONG, SHORT, following, publish, until

Opener = Callable[..., EtcdStore]

QUICK = 1.0
"""Seconds for an answer where one is certain not to come."""

_prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with etcd_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """The cluster of all tests here, whole again after each."""
    yield running
    running.mend()


@pytest.fixture(scope="module")
def narrow() -> Iterator[Cluster]:
    """A cluster of one member, with TLS, that takes small requests and little in all."""
    with etcd_cluster(
        1, tls=True, options=["--quota-backend-bytes", str(4 << 20), "--max-request-bytes", "200000"]
    ) as it:
        yield it


@pytest.fixture
def prefix() -> str:
    return f"place{next(_prefixes)}/"


@pytest.fixture
async def opening(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    """Open stores; members that were named first are asked first."""
    monkeypatch.setattr(etcd_gateway, "OPERATION", PATIENCE)
    monkeypatch.setattr("hotfd.config.etcd_gateway.random.sample", lambda population, _: list(population))
    opened: list[EtcdStore] = []

    def another(url: str) -> EtcdStore:
        opened.append(EtcdStore(url))
        return opened[-1]

    yield another
    for each in opened:
        await each.aclose()


@asynccontextmanager
async def publisher(store: EtcdStore, name: str) -> AsyncIterator[list[int]]:
    """Publish again and again meanwhile; yields the numbers for which this has returned."""
    done: list[int] = []

    async def work() -> None:
        for number in itertools.count():
            while True:
                try:
                    await publish(store, "game", who=name, number=number)
                except Conflict:
                    continue
                break
            done.append(number)

    task = asyncio.create_task(work())
    try:
        yield done
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def more(done: list[int], count: int = 3) -> None:
    """Wait until some more are done."""
    goal = len(done) + count
    async with asyncio.timeout(PATIENCE):
        while len(done) < goal:
            await asyncio.sleep(0.01)


async def test_no_publish_is_lost_or_doubled_while_members_are_killed_one_after_another(
    cluster: Cluster, opening: Opener, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "REQUEST", QUICK)  # a write that dies with its leader is never answered
    url = cluster.url(prefix)
    seen: list[int] = []

    async def watching() -> None:
        async with aclosing(opening(url).watch(["game"], 1.0)) as watch:
            async for heads in watch:
                seen.append(heads["game"].sequence if "game" in heads else 0)

    watcher = asyncio.create_task(watching())
    async with publisher(opening(url), "anna") as anna, publisher(opening(url), "bob") as bob:
        leader = await asyncio.to_thread(cluster.leader)
        for member in [leader, *(each for each in cluster.members if each is not leader)]:
            await more(anna)
            await asyncio.to_thread(member.kill)
            await more(anna)
            await more(bob)
            member.start()
            await asyncio.to_thread(cluster.wait)
    store = opening(url)
    head = (await store.heads())["game"]
    async with asyncio.timeout(PATIENCE):
        while not seen or seen[-1] < head.sequence:
            await asyncio.sleep(0.01)
    watcher.cancel()
    await asyncio.wait([watcher])
    assert seen == sorted(seen), "a head went back"
    events = await store.history("game", limit=head.sequence + 10)
    assert [event.sequence for event in events] == list(range(head.sequence, 0, -1))
    assert [event.version for event in events] == list(range(head.last, 0, -1))
    published = [(await store.release("game", event.version, event.sha256)).release.values for event in events]
    times = Counter((values["who"], values["number"]) for values in published)
    told = [("anna", number) for number in anna] + [("bob", number) for number in bob]
    assert {each: times[each] for each in told if times[each] != 1} == {}, "told once each, and not published once"
    assert len(published) <= len(told) + 2, "more was published than anybody has asked for"


async def test_a_leader_that_hangs_holds_nobody_up(
    cluster: Cluster, opening: Opener, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "REQUEST", QUICK)
    leader = await asyncio.to_thread(cluster.leader)
    others = [member for member in cluster.members if member is not leader]
    store, watching = (opening(cluster.url(prefix, members=[leader, *others])) for _ in range(2))
    await publish(store, "game")
    async with aclosing(watching.watch(["game"], SHORT)) as watch:
        await until(watch, game=1)
        with leader.stopped():
            head = await publish(store, "game")
            assert await until(watch, game=2) == {"game": head}
        head = await publish(store, "game")
        assert await until(watch, game=3) == {"game": head}
    assert [event.sequence for event in await store.history("game")] == [3, 2, 1]


async def test_without_a_majority_nothing_is_published_and_it_is_said_why(
    cluster: Cluster, opening: Opener, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "REQUEST", QUICK)
    store = opening(cluster.url(prefix))
    await publish(store, "game")
    for member in cluster.members[:2]:
        member.kill()
    monkeypatch.setattr(etcd_gateway, "OPERATION", QUICK * 4)
    with pytest.raises(StoreError, match="no member of the cluster has answered") as caught:
        await publish(store, "game")
    assert all(member.url in str(caught.value) for member in cluster.members)
    monkeypatch.setattr(etcd_gateway, "OPERATION", PATIENCE)
    cluster.mend()
    assert (await publish(store, "game")).sequence == 2


async def test_a_cluster_that_does_not_run_is_told_of_at_once(opening: Opener) -> None:
    store = opening("etcd://127.0.0.1:1,127.0.0.2:1")  # nobody listens at port 1
    async with asyncio.timeout(PATIENCE / 2):
        with pytest.raises(StoreError, match=r"127\.0\.0\.1:1.*refused.*127\.0\.0\.2:1.*refused"):
            await store.heads()


async def test_a_watch_goes_on_when_the_cluster_is_back_and_says_so_once(
    cluster: Cluster, opening: Opener, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    direct = opening(cluster.url(prefix))
    head = await publish(direct, "game")
    async with proxy(cluster.members[0]) as way:
        store = opening(f"etcd://{way.host}:{way.port}/{prefix}")
        with caplog.at_level(logging.INFO, logger="hotfd"):
            async with aclosing(store.watch(["game"], SHORT)) as watch:
                assert await until(watch, game=1) == {"game": head}
                await way.cut()
                item = asyncio.ensure_future(following(watch))
                while "config-store-unreachable" not in caplog.text:
                    await asyncio.sleep(0.01)
                for _ in range(3):
                    head = await publish(direct, "game")
                await asyncio.to_thread(cluster.compact)  # what the watch had seen last is forgotten
                await asyncio.sleep(SHORT * 3)
                await way.open()
                await item
                assert await until(watch, game=4) == {"game": head}
    assert caplog.text.count("config-store-unreachable") == 1
    assert caplog.text.count("config-store-reachable") == 1


async def test_a_watch_whose_beginning_was_compacted_is_begun_again(
    cluster: Cluster, opening: Opener, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, watching = opening(cluster.url(prefix)), opening(cluster.url(prefix))
    with caplog.at_level(logging.DEBUG, logger="hotfd"):
        async with aclosing(watching.watch(["game"], LONG)) as watch:
            assert await following(watch) == {}
            # The reader is busy with an item, and the watch not begun yet.
            await publish(store, "game")
            await publish(store, "chat")
            await asyncio.to_thread(cluster.compact)
            await until(watch, game=1)
            assert "compacted" in caplog.text
            await publish(store, "game")
            await until(watch, game=2)


async def test_a_watch_that_says_nothing_any_more_is_found_out(cluster: Cluster, opening: Opener, prefix: str) -> None:
    direct = opening(cluster.url(prefix))
    async with proxy(cluster.members[0]) as way:
        way.muted.add("/v3/watch")
        async with aclosing(opening(f"etcd://{way.host}:{way.port}/{prefix}").watch(["game"], SHORT)) as watch:
            await following(watch)
            await following(watch)
            assert way.count("/v3/watch") == 1
            await publish(direct, "game")
            await until(watch, game=1)
            way.muted.clear()
            while way.count("/v3/watch") < 2:
                await following(watch)


async def test_a_watch_leaves_a_member_that_does_not_answer_looks_any_more(
    cluster: Cluster, opening: Opener, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "REQUEST", QUICK)
    direct = opening(cluster.url(prefix))
    async with proxy(cluster.members[0]) as bad, proxy(cluster.members[1]) as good:
        store = opening(f"etcd://{bad.host}:{bad.port},{good.host}:{good.port}/{prefix}")
        async with aclosing(store.watch(["game"], SHORT)) as watch:
            await following(watch)
            await following(watch)
            assert (bad.count("/v3/watch"), good.count("/v3/watch")) == (1, 0)
            bad.muted.add("/v3/watch")
            bad.held["/v3/kv/txn"] = Held()
            while not good.count("/v3/watch"):
                await following(watch)
            bad.requests.clear()
            head = await publish(direct, "game")
            assert await until(watch, game=1) == {"game": head}
            assert bad.requests == []


class LastTransaction:
    """Stands before each request of a store: calls somebody before the last transaction of a commit is sent."""

    def __init__(self, store: EtcdStore, *calls: Callable[[], Awaitable[object]]) -> None:
        self.sent = 0
        self._calls = calls
        self._ask = store._gateway._ask
        store._gateway._ask = self  # type: ignore[method-assign,assignment]

    async def __call__(self, endpoint: str, path: str, data: bytes, *arguments: object) -> object:
        if path == "kv/txn" and b"heads" in b"".join(_decoded_keys(data, "success")) and b"request_put" in data:
            if self.sent < len(self._calls):
                await self._calls[self.sent]()
            self.sent += 1
        return await self._ask(endpoint, path, data, *arguments)  # type: ignore[arg-type]


def _decoded_keys(data: bytes, branch: str) -> list[bytes]:
    operations = [next(iter(each.values())) for each in json.loads(data)[branch]]
    return [base64.b64decode(each["key"]) for each in operations]


class TestAnswersThatAreLost:
    """A proxy in front of the first member loses the answer to the last transaction of a commit."""

    @pytest.fixture
    async def way(self, cluster: Cluster) -> AsyncIterator[Proxy]:
        async with proxy(cluster.members[0]) as running:
            yield running

    @pytest.fixture
    async def store(self, cluster: Cluster, opening: Opener, way: Proxy, prefix: str) -> EtcdStore:
        second = cluster.members[1]
        return opening(f"etcd://{way.host}:{way.port},{second.host}:{second.port}/{prefix}")

    async def test_a_commit_that_was_carried_out_is_not_carried_out_again(self, way: Proxy, store: EtcdStore) -> None:
        async def lose() -> None:
            way.lost["/v3/kv/txn"] = 1

        last = LastTransaction(store, lose)
        head = await publish(store, "game")
        assert last.sent == 2
        assert await store.heads() == {"game": head}
        assert [event.sequence for event in await store.history("game")] == [1]

    async def test_it_has_succeeded_also_when_somebody_has_published_since(
        self, cluster: Cluster, opening: Opener, way: Proxy, store: EtcdStore, prefix: str
    ) -> None:
        other = opening(cluster.url(prefix))

        async def lose() -> None:
            way.lost["/v3/kv/txn"] = 1

        last = LastTransaction(store, lose, lambda: publish(other, "game", who="other"))
        await publish(store, "game", who="first")
        assert last.sent == 2
        values = [(await other.release("game", version)).release.values for version in (1, 2)]
        assert values == [{"who": "first"}, {"who": "other"}]
        assert (await other.heads())["game"].last == 2

    async def test_one_that_arrives_after_its_repetition_changes_nothing(
        self, way: Proxy, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(etcd_gateway, "REQUEST", QUICK)
        held = Held()

        async def hold() -> None:
            way.held["/v3/kv/txn"] = held

        last = LastTransaction(store, hold)
        await publish(store, "game")
        assert (last.sent, held.arrived.is_set()) == (2, True)
        head = await publish(store, "game")
        held.go.set()
        async with asyncio.timeout(PATIENCE):
            await held.done.wait()
        assert await store.heads() == {"game": head}
        assert [event.sequence for event in await store.history("game")] == [2, 1]

    async def test_one_that_was_lost_and_overtaken_by_somebody_else_is_a_conflict(
        self,
        cluster: Cluster,
        opening: Opener,
        way: Proxy,
        store: EtcdStore,
        prefix: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(etcd_gateway, "REQUEST", QUICK)
        other, held = opening(cluster.url(prefix)), Held()

        async def hold() -> None:
            way.held["/v3/kv/txn"] = held

        LastTransaction(store, hold, lambda: publish(other, "game", who="other"))
        with pytest.raises(Conflict, match="game"):
            await publish(store, "game", who="first")
        held.go.set()
        async with asyncio.timeout(PATIENCE):
            await held.done.wait()
        assert (await store.release("game", 1)).release.values == {"who": "other"}
        assert (await store.heads())["game"].last == 1


class TestTls:
    async def test_a_client_of_the_same_authority_is_served(
        self, narrow: Cluster, opening: Opener, prefix: str
    ) -> None:
        assert narrow.certificates is not None
        store = opening(narrow.url(prefix, narrow.certificates.options()))
        async with aclosing(store.watch(["game"], LONG)) as watch:
            await following(watch)
            head = await publish(opening(store.url), "game")
            assert await until(watch, game=1) == {"game": head}

    async def test_a_member_of_another_authority_is_not_believed(
        self, narrow: Cluster, opening: Opener, prefix: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        others = Certificates(tmp_path_factory.mktemp("others"))
        with pytest.raises(StoreError, match=r"TLS fails.*ca=FILE"):
            await opening(narrow.url(prefix, others.options())).heads()

    async def test_a_client_without_a_certificate_is_told_what_is_missing(
        self, narrow: Cluster, opening: Opener, prefix: str
    ) -> None:
        assert narrow.certificates is not None
        with pytest.raises(StoreError, match=r"TLS fails.*cert=FILE"):
            await opening(narrow.url(prefix, f"ca={narrow.certificates.ca}")).heads()

    async def test_a_client_of_another_authority_is_not_served(
        self, narrow: Cluster, opening: Opener, prefix: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        assert narrow.certificates is not None
        others = Certificates(tmp_path_factory.mktemp("others"))
        cert, key = others.issue("mallory", "mallory.test")
        with pytest.raises(StoreError, match=r"TLS fails.*cert=FILE"):
            await opening(narrow.url(prefix, f"ca={narrow.certificates.ca}&cert={cert}&key={key}")).heads()

    async def test_a_member_that_speaks_tls_is_told_from_one_that_does_not(
        self,
        narrow: Cluster,
        cluster: Cluster,
        opening: Opener,
        prefix: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert narrow.certificates is not None
        monkeypatch.setattr(etcd_gateway, "OPERATION", QUICK)
        with pytest.raises(StoreError, match="if it speaks TLS, give ca=FILE"):
            await opening(narrow.url(prefix)).heads()
        with pytest.raises(StoreError, match="perhaps it does not speak TLS"):
            await opening(cluster.url(prefix, narrow.certificates.options())).heads()

    async def test_certificates_that_were_renewed_are_read_when_the_old_ones_fail(
        self, narrow: Cluster, opening: Opener, prefix: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        assert narrow.certificates is not None
        directory = tmp_path_factory.mktemp("renewed")
        others = Certificates(directory)
        cert, key = others.issue("server", "server.test")
        store = opening(narrow.url(prefix, f"ca={narrow.certificates.ca}&cert={cert}&key={key}"))
        with pytest.raises(StoreError, match="TLS fails"):
            await store.heads()
        for path, new in zip((cert, key), narrow.certificates.issue("renewed", "server.test"), strict=True):
            with open(new, "rb") as source, open(path, "wb") as target:
                target.write(source.read())
        with pytest.raises(StoreError, match="TLS fails"):
            await store.heads()  # which has read them
        assert await store.heads() == {}

    def test_files_that_cannot_be_used_are_named(self, narrow: Cluster, prefix: str) -> None:
        assert narrow.certificates is not None
        ca = narrow.certificates.ca
        for options in ("ca=/nowhere", f"ca={ca}&cert=/nowhere", f"ca={ca}&cert={ca}&key=/dev/null", "ca=/dev/null"):
            with pytest.raises(ConfigError, match=r"etcd://.*(/nowhere|/dev/null)"):
                EtcdStore(narrow.url(prefix, options))


class TestLimits:
    async def test_a_request_that_is_too_large_says_what_to_do(
        self, narrow: Cluster, opening: Opener, prefix: str
    ) -> None:
        assert narrow.certificates is not None
        store = opening(narrow.url(prefix, narrow.certificates.options()))
        for size in (300_000, 1_000_000):  # the second one does not even reach etcd's own check
            with pytest.raises(StoreError, match=r"does not take a request of \d+ bytes.*max-request-bytes"):
                await publish(store, "game", text="x" * size)
        assert await store.heads() == {}

    async def test_a_full_database_says_what_to_do_and_can_be_read(
        self, narrow: Cluster, opening: Opener, prefix: str
    ) -> None:
        assert narrow.certificates is not None
        store = opening(narrow.url(prefix, narrow.certificates.options()))
        head = await publish(store, "game")
        with pytest.raises(StoreError, match=r"full.*alarm disarm"):
            for _ in range(100):
                head = await publish(store, "game", text="x" * 150_000)
        assert await store.heads() == {"game": head}
        assert head.stable is not None
        assert (await store.release("game", head.last, head.stable.sha256)).release.version == head.last
        await asyncio.to_thread(narrow.compact)
        await asyncio.to_thread(narrow.call, "maintenance/defragment", {})
        await asyncio.to_thread(narrow.call, "maintenance/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"})
        with pytest.raises(StoreError, match="full"):  # it is: all of it is in use
            for _ in range(100):
                await publish(store, "game", text="x" * 150_000)
