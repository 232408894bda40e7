"""Addresses of etcd clusters, and what the gateway makes of the answers that members give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager

import pytest

from hotfd.config import etcd_gateway
from hotfd.config.etcd import EtcdStore
from hotfd.config.etcd_address import Address, parse
from hotfd.config.etcd_gateway import Gateway, Refusal
from hotfd.config.etcd_messages import Change, Pair, WatchResult
from hotfd.config.etcd_watch import Doorbell
from hotfd.errors import ConfigError, StoreError


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "endpoints", "prefix"),
        [
            ("etcd://localhost", ("http://localhost:2379",), "/hotfd"),
            ("etcd://127.0.0.1:7,127.0.0.2/", ("http://127.0.0.1:7", "http://127.0.0.2:2379"), "/hotfd"),
            ("etcd://[::1]:7/a/b/", ("http://[::1]:7",), "/a/b"),
            ("etcd://[::1],[::1]/x%20y", ("http://[::1]:2379",), "/x y"),
            ("etcd://etcd.example:7/p?plain=1", ("http://etcd.example:7",), "/p"),
        ],
    )
    def test_an_address_names_members_and_a_prefix(self, url: str, endpoints: tuple[str, ...], prefix: str) -> None:
        assert parse(url) == Address(url, endpoints, prefix)

    def test_any_file_of_tls_means_tls(self) -> None:
        for options, files in (
            ("ca=/a", ("/a", None, None)),
            ("cert=/c", (None, "/c", None)),
            ("ca=/a&cert=/c&key=/k", ("/a", "/c", "/k")),
        ):
            address = parse(f"etcd://e1.example,e2.example/p?{options}")
            assert address.endpoints == ("https://e1.example:2379", "https://e2.example:2379")
            assert (address.ca, address.certificate, address.key) == files
            assert address.tls

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("etcd:///p", "a host is missing"),
            ("etcd://h,,i?plain=1", "a host is missing"),
            ("etcd://h:x?plain=1", "Port"),
            ("etcd://h:99999?plain=1", "range"),
            ("http://localhost", "looks so"),
            ("etcd://localhost/p#f", "looks so"),
            ("etcd://anna:secret@localhost", "cert=FILE"),
            ("etcd://localhost?cafile=/a", "no option 'cafile'"),
            ("etcd://localhost?ca", "etcd://HOST"),
            ("etcd://localhost?ca=", "names no file"),
            ("etcd://localhost?key=/k", "add cert=FILE"),
            ("etcd://localhost?plain=yes", "plain can be 1"),
            ("etcd://localhost?plain=1&ca=/a", "leave plain=1 out"),
            ("etcd://" + ",".join(f"127.0.0.{n}" for n in range(1, 18)), "at most 16"),
        ],
    )
    def test_what_is_none_says_what_is_wrong(self, url: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said) as caught:
            parse(url)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("host", ["etcd.example", "10.0.0.1", "127.0.0.1,10.0.0.1", "[fd00::1]"])
    def test_other_hosts_are_not_spoken_to_without_tls(self, host: str) -> None:
        with pytest.raises(ConfigError, match=r"ca=FILE.*plain=1"):
            parse(f"etcd://{host}/p")


Reply = tuple[int, Iterable[bytes]] | None
"""A status and the chunks of an answer; None hangs."""

HEADER = {"header": {"revision": "7"}}


@asynccontextmanager
async def member(answer: Callable[[str, dict[str, object]], Reply]) -> AsyncIterator[str]:
    """Run what answers requests, by their heads and bodies, as it likes; yields where it is."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next(
                    int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
                )
                body = json.loads(await reader.readexactly(size))
                reply = answer(head.decode(), body)
                if reply is None:
                    await asyncio.Event().wait()
                    return
                writer.write(b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % reply[0])
                for chunk in reply[1]:
                    writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def found(*_: object) -> Reply:
    return 200, [json.dumps(HEADER).encode()]


def trouble(status: int, code: int, message: str) -> Callable[..., Reply]:
    return lambda *_: (status, [json.dumps({"error": message, "message": message, "code": code}).encode()])


@pytest.fixture
async def gateway_to(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Gateway]]:
    """Make gateways that ask the first member first, and wait for little."""
    monkeypatch.setattr("hotfd.config.etcd_gateway.random.sample", lambda population, _: list(population))
    monkeypatch.setattr(etcd_gateway, "PAUSE", 0.001)
    made: list[Gateway] = []

    def make(*places: str) -> Gateway:
        made.append(Gateway(parse(f"etcd://{','.join(places)}")))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


class TestAnswers:
    async def test_the_member_that_has_answered_is_asked_again(self, gateway_to: Callable[..., Gateway]) -> None:
        async with member(trouble(503, 14, "etcdserver: no leader")) as bad, member(found) as good:
            gateway = gateway_to(bad, good)
            assert gateway.endpoint == f"http://{bad}"
            assert (await gateway.range(b"k")).header.revision == 7
            assert gateway.endpoint == f"http://{good}"

    @pytest.mark.parametrize(
        ("code", "message"),
        [(14, "etcdserver: leader changed"), (8, "etcdserver: too many requests"), (2, "raft: proposal dropped")],
    )
    async def test_what_passes_is_waited_for(self, gateway_to: Callable[..., Gateway], code: int, message: str) -> None:
        answers = iter([trouble(503, code, message)] * 3)
        async with member(lambda *asked: next(answers, found)(*asked)) as place:
            assert (await gateway_to(place).range(b"k")).header.revision == 7

    @pytest.mark.parametrize(
        ("code", "message", "said"),
        [
            (3, "etcdserver: request is too large", "--max-request-bytes"),
            (8, "grpc: received message larger than max (3 vs. 2)", "--max-request-bytes"),
            (3, "etcdserver: too many operations in txn request", "--max-txn-ops"),
            (8, "etcdserver: mvcc: database space exceeded", "alarm disarm"),
            (5, "etcdserver: requested lease not found", "lease not found"),
        ],
    )
    async def test_what_every_member_would_say_is_said_at_once(
        self, gateway_to: Callable[..., Gateway], code: int, message: str, said: str
    ) -> None:
        asked = []

        def second(path: str, _: object) -> Reply:
            asked.append(path)
            return found()

        async with member(trouble(400, code, message)) as first, member(second) as other:
            with pytest.raises(Refusal, match=said) as caught:
                await gateway_to(first, other).transact()
        assert caught.value.code == code
        assert asked == []

    @pytest.mark.parametrize(
        ("status", "content", "said"),
        [
            (404, b"Not Found\n", "HTTP status 404"),
            (302, b"", "HTTP status 302"),
            (200, b"<html>hello</html>", "not etcd's"),
            (200, b'{"header":{"revision":"x"}}', "not etcd's"),
            (200, b"\xff\xfe", "not etcd's"),
            (200, b'{"x":' + b"[" * 100_000, "not etcd's"),
            (503, b'{"x":' + b"[" * 100_000, "HTTP status 503"),
            (200, b" " * 5000, "more than 4096 bytes"),
        ],
    )
    async def test_who_is_no_member_is_told_from_one(
        self,
        gateway_to: Callable[..., Gateway],
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        content: bytes,
        said: str,
    ) -> None:
        if len(content) < 100_000:
            monkeypatch.setattr(etcd_gateway, "MAX_ANSWER", 4096)
        async with member(lambda *_: (status, [content] if content else [])) as stranger, member(found) as good:
            with pytest.raises(StoreError, match=said):
                await gateway_to(stranger).range(b"k")
            assert (await gateway_to(stranger, good).range(b"k")).header.revision == 7

    async def test_a_member_that_hangs_is_left(
        self, gateway_to: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(etcd_gateway, "REQUEST", 1.0)
        monkeypatch.setattr(etcd_gateway, "OPERATION", 60.0)
        async with member(lambda *_: None) as hung, member(found) as good:
            assert (await gateway_to(hung, good).range(b"k")).header.revision == 7
            monkeypatch.setattr(etcd_gateway, "OPERATION", 0.3)
            with pytest.raises(StoreError, match="no answer in time"):
                await gateway_to(hung).range(b"k")

    async def test_a_scan_stays_at_one_revision(self, gateway_to: Callable[..., Gateway]) -> None:
        revisions = []

        def page(_: str, body: dict[str, object]) -> Reply:
            revisions.append(body["revision"])
            last = len(revisions) == 3
            key = {"key": "a2V5", "value": "dg==", "mod_revision": "3"}
            return 200, [json.dumps({**HEADER, "kvs": [key], "more": not last}).encode()]

        async with member(page) as place:
            assert await gateway_to(place).scan(b"a", b"z") == ([Pair(b"key", b"v", 3)] * 3, 7)
        assert revisions == [0, 7, 7]


EVENT = {"result": {**HEADER, "events": [{"kv": {"key": "aC9n", "value": "eHg=", "mod_revision": "9"}}]}}
CREATED = {"result": {**HEADER, "created": True}}


class TestWatches:
    @pytest.mark.parametrize("size", [1, 7, 10_000])
    async def test_messages_are_found_however_they_are_cut_into_chunks(
        self, gateway_to: Callable[..., Gateway], size: int
    ) -> None:
        text = b"\n".join(json.dumps(each).encode() for each in (CREATED, EVENT, EVENT, CREATED)) + b"\n"
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        async with member(lambda *_: (200, chunks)) as place:
            gateway = gateway_to(place)
            results = [each async for each in gateway.watch(gateway.endpoint, b"h/", b"h0", 8)]
        event = WatchResult(events=[Change(Pair(b"h/g", b"xx", 9))])
        assert results == [WatchResult(), event, event, WatchResult()]

    @pytest.mark.parametrize(
        ("reply", "said"),
        [
            ((200, [b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}\n']), "no leader"),
            ((503, [b'{"message":"etcdserver: no leader","code":14}']), "no leader"),
            ((200, [b"x" * 3000, b"x" * 3000]), "more than 4096 bytes"),
            ((200, [b"hello\n"]), "not etcd's"),
            (None, "no answer in time"),
        ],
    )
    async def test_a_watch_that_fails_says_why(
        self, gateway_to: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, reply: Reply, said: str
    ) -> None:
        monkeypatch.setattr(etcd_gateway, "MAX_ANSWER", 4096)
        monkeypatch.setattr(etcd_gateway, "REQUEST", 0.2)
        async with member(lambda *_: reply) as place:
            gateway = gateway_to(place)
            async with aclosing(gateway.watch(gateway.endpoint, b"h/", b"h0", 8)) as results:
                with pytest.raises(StoreError, match=said):
                    await anext(results)

    async def test_a_watch_asks_to_be_ended_when_there_is_no_leader(self, gateway_to: Callable[..., Gateway]) -> None:
        asked: list[tuple[str, dict[str, object]]] = []

        def ends(head: str, body: dict[str, object]) -> Reply:
            asked.append((head, body))
            return 200, []

        async with member(ends) as place:
            gateway = gateway_to(place)
            assert [each async for each in gateway.watch(gateway.endpoint, b"h/", b"h0", 8)] == []
        ((head, body),) = asked
        assert head.startswith("POST /v3/watch ")
        assert "grpc-metadata-hasleader: true" in head.lower()
        assert body == {"create_request": {"key": "aC8=", "range_end": "aDA=", "start_revision": 8}}

    async def test_watches_that_end_at_once_do_not_make_a_reader_go_round_in_circles(
        self, gateway_to: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []
        watches = 0

        def ends(*_: object) -> Reply:
            nonlocal watches
            watches += 1
            return 200, []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        async with member(ends) as place:
            bell = Doorbell(gateway_to(place), b"h/", ["g"])
            monkeypatch.setattr("hotfd.config.etcd_watch._pause", sleep)
            for _ in range(3):
                bell.forget()
                await bell.listen(1)
                assert await bell.wait(30)
                await bell.hang_up()
        assert watches == 3
        assert len(slept) == 3
        assert min(slept) > 0

    async def test_a_bell_rings_for_its_own_modules_and_for_what_is_new(
        self, gateway_to: Callable[..., Gateway]
    ) -> None:
        async with member(lambda *_: (200, [json.dumps(EVENT).encode() + b"\n"])) as place:
            for module, seen, rings in (("g", 8, True), ("g", 9, False), ("other", 8, False)):
                bell = Doorbell(gateway_to(place), b"h/", [module])
                await bell.listen(seen)
                assert await bell.wait(30.0 if rings else 0.2) is rings
                await bell.hang_up()


async def test_a_store_works_on_uvloop_and_leaves_nothing_open() -> None:
    async def look() -> None:
        answer = {**HEADER, "responses": [{"response_range": HEADER}]}
        async with member(lambda *_: (200, [json.dumps(answer).encode()])) as place:
            store = EtcdStore(f"etcd://{place}")
            assert await store.heads(["game"]) == {}
            await store.aclose()

    await asyncio.to_thread(_run_on_uvloop, look)


def _run_on_uvloop(main: Callable[[], Awaitable[None]]) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())  # type: ignore[arg-type]
