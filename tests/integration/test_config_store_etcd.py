"""The store in etcd does what every store does, and what only it has to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.config import rollout
from hotfd.config.etcd import EtcdStore
from hotfd.config.release import encode_head
from hotfd.errors import Conflict, StoreError
from tests.integration.etcd_cluster import Cluster, etcd_cluster
from tests.integration.etcd_proxy import proxy
from tests.unit.config_stores import *  # noqa: F403 - the tests themselves
from tests.unit.config_stores import LONG, following, publish, publishing, report, sealed, shows_no_older_heads

if TYPE_CHECKING:
    from hotfd.config.etcd_messages import TransactionAnswer

OpenStore = Callable[[], EtcdStore]

_prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster for all tests; each has a prefix of its own."""
    with etcd_cluster() as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"place{next(_prefixes)}/"


@pytest.fixture
async def open_store(cluster: Cluster, prefix: str) -> AsyncIterator[OpenStore]:
    opened: list[EtcdStore] = []

    def another() -> EtcdStore:
        opened.append(EtcdStore(cluster.url(prefix)))
        return opened[-1]

    yield another
    for each in opened:
        await each.aclose()


async def test_two_places_of_one_cluster_know_nothing_of_each_other(cluster: Cluster, open_store: OpenStore) -> None:
    store = open_store()
    await publish(store, "game")
    other = EtcdStore(cluster.url(f"{next(_prefixes)}-other"))
    try:
        assert await other.heads() == {}
        await publish(other, "game")
        assert (await store.heads())["game"].sequence == 1
    finally:
        await other.aclose()


async def test_heads_that_went_back_are_not_followed(
    cluster: Cluster, prefix: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    key = f"/{prefix}heads/game"
    first = await publish(store, "game")
    await publish(store, "game")

    async def go_back() -> None:
        await asyncio.to_thread(cluster.put, key, encode_head(first))

    async def go_on() -> None:
        for _ in range(2):
            await publish(store, "game")

    await shows_no_older_heads(store, go_back, go_on, caplog)


@pytest.mark.parametrize("overtaken_at", ["before its release is put", "after that"])
async def test_a_release_that_came_too_late_is_taken_away(
    cluster: Cluster, prefix: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, overtaken_at: str
) -> None:
    store, other = open_store(), open_store()
    transact = store._gateway.transact

    async def overtaken(compare: Any = (), success: Any = (), failure: Any = ()) -> TransactionAnswer:
        if compare and bool(failure) is (overtaken_at == "after that") and not await other.heads():
            assert len(cluster.keys(f"/{prefix}releases/")) == bool(failure)
            await other.commit([publishing(None, "game", who="first")])
        return await transact(compare, success, failure)

    monkeypatch.setattr(store._gateway, "transact", overtaken)
    with pytest.raises(Conflict, match="game"):
        await store.commit([publishing(None, "game", who="late")])
    monkeypatch.undo()
    assert len(cluster.keys(f"/{prefix}releases/")) == 1
    assert (await store.release("game", 1)).release.values == {"who": "first"}


async def test_a_watch_looks_once_for_each_change_and_for_none_that_it_has_seen(
    cluster: Cluster, prefix: str, open_store: OpenStore
) -> None:
    direct = open_store()
    canary = await publish(direct, "game", rollout.For(share=0.5))
    async with proxy(cluster.members[0]) as way:
        store = EtcdStore(f"etcd://{way.host}:{way.port}/{prefix}")
        async with aclosing(store.watch(["game"], LONG)) as watch:
            await following(watch)
            # One change, while the reader is busy and before there is a watch.
            await direct.commit([rollout.promote(canary, by="bob")])
            assert (await following(watch))["game"].change == "promoted"
            with suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(watch)
        await store.aclose()
        # One look at first and one for the change; each watch that an election ends has one more of both.
        assert way.count("/v3/kv/txn") == 1 + way.count("/v3/watch")


async def test_what_a_crash_has_left_of_a_version_is_neither_read_nor_kept(
    cluster: Cluster, prefix: str, open_store: OpenStore
) -> None:
    store = open_store()
    await publish(store, "game")
    orphan = sealed("game", 2, who="crashed")
    await asyncio.to_thread(cluster.put, f"/{prefix}releases/game/{2:016d}/{orphan.sha256}", orphan.data)
    with pytest.raises(StoreError, match="never published"):
        await store.release("game", 2)
    await publish(store, "game", who="alive")
    assert (await store.release("game", 2)).release.values == {"who": "alive"}
    assert len(cluster.keys(f"/{prefix}releases/game/{2:016d}/")) == 1


async def test_a_version_is_found_behind_more_changes_than_a_page_holds(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotfd.config.etcd.PAGE", 3)
    monkeypatch.setattr("hotfd.config.etcd_gateway.PAGE", 3)
    store = open_store()
    head = await publish(store, "game")
    for _ in range(4):
        head = await publish(store, "game", rollout.For(share=0.1))
        step = rollout.abort(head, by="bob")
        await store.commit([step])
    assert [(await store.release("game", version)).release.version for version in (1, 3, 5)] == [1, 3, 5]
    with pytest.raises(StoreError, match="never published"):
        await store.release("game", 6)
    assert [event.sequence for event in await store.history("game", limit=8)] == [9, 8, 7, 6, 5, 4, 3, 2]
    for number in range(4):
        await publish(store, f"other{number}")
    assert len(await store.heads()) == 5


@pytest.mark.parametrize("key", ["heads/game", "events/game/0000000000000001"])
async def test_what_cannot_be_read_is_named(cluster: Cluster, prefix: str, open_store: OpenStore, key: str) -> None:
    store = open_store()
    await publish(store, "game")
    await asyncio.to_thread(cluster.put, f"/{prefix}{key}", b'{"secret')
    with pytest.raises(StoreError, match="cannot be read") as caught:
        await store.history("game")
    assert "game" in str(caught.value)
    assert "secret" not in str(caught.value)
    if key.startswith("heads"):
        with pytest.raises(StoreError, match="cannot be read"):
            await publish(store, "game")


async def test_a_damaged_release_is_not_given(cluster: Cluster, prefix: str, open_store: OpenStore) -> None:
    store = open_store()
    head = await publish(store, "game")
    assert head.stable is not None
    key = f"/{prefix}releases/game/{1:016d}/{head.stable.sha256}"
    for damage, said in ((b"{}", "damaged"), (b"x" * (1 << 20) + b"y", "at most")):
        await asyncio.to_thread(cluster.put, key, damage)
        with pytest.raises(StoreError, match=said):
            await store.release("game", 1)


async def test_the_head_of_another_module_is_not_taken(cluster: Cluster, prefix: str, open_store: OpenStore) -> None:
    store = open_store()
    head = await publish(store, "game")
    await asyncio.to_thread(cluster.put, f"/{prefix}heads/chat", encode_head(head))
    for modules in (["chat", "game"], None):
        with pytest.raises(StoreError, match=r"heads/chat cannot be read: it is the head of module 'game'"):
            await store.heads(modules)
    assert await store.heads(["game"]) == {"game": head}


async def test_a_registration_that_cannot_be_read_hides_no_other(
    cluster: Cluster, prefix: str, open_store: OpenStore
) -> None:
    store = open_store()
    await store.register("10.0.0.1:7", ["game"], 60)
    await asyncio.to_thread(cluster.put, f"/{prefix}addresses/10.0.0.2:7", b"{")
    assert await store.addresses("game") == ["10.0.0.1:7"]


async def test_reports_and_schemas_survive_the_end_of_the_lease_that_was_used(
    cluster: Cluster, open_store: OpenStore
) -> None:
    store = open_store()
    told = report()
    await store.acknowledge([told])
    await store.declare("game", "a1", b"{}")
    lease = store._servers._lease
    assert lease is not None
    cluster.call("lease/revoke", {"ID": lease[0]})
    assert (await store.acknowledgements("game"), await store.schemas("game")) == ([], {})
    await store.acknowledge([told])
    await store.declare("game", "a1", b"{}")
    assert (await store.acknowledgements("game"), await store.schemas("game")) == ([told], {"a1": b"{}"})


async def test_reports_with_all_their_faults_go_in_several_requests(open_store: OpenStore) -> None:
    store = open_store()
    told = [report(server=f"s{number:02}", faults=("f" * 1024,) * 100) for number in range(20)]
    await store.acknowledge(told)
    assert sorted(await store.acknowledgements("game"), key=lambda each: each.server) == told


async def test_a_closed_store_says_so(open_store: OpenStore) -> None:
    store = open_store()
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.heads()
