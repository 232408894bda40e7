"""The parts of a configuration server that do no I/O: who is due, what is known, what a subscriber may say."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hotfd.config import push
from hotfd.config.link import Key
from hotfd.distribution import knowledge as knowledge_module
from hotfd.distribution.knowledge import Knowledge, named
from hotfd.distribution.rota import Rota
from hotfd.distribution.settings import Settings
from hotfd.distribution.subscriber import BURST, RATE, Subscriber
from hotfd.errors import ConfigError, PushRefused
from hotfd.state import Codec
from tests.unit.push_heads import head, report, sealed, subscribe

if TYPE_CHECKING:
    from hotfd.config.release import Head

SHA = "0" * 64
INTERVAL = 3.0


def at_hand(*heads: Head) -> dict[Key, bytes]:
    """Return the releases that these heads name, each as some bytes of its own."""
    return {key: f"{key.version} {key.sha256}".encode() for head in heads for key in named(head)}


# -- who is due ------------------------------------------------------------------------------------


def test_each_subscriber_is_due_within_every_interval_and_never_all_at_once() -> None:
    rota = Rota(INTERVAL, random.Random(1))
    for number in range(500):
        rota.join(str(number), 0.0)
    times: dict[str, list[float]] = {str(number): [0.0] for number in range(500)}
    most = 0
    for tick in range(1, 400):
        due = rota.due(tick * 0.05)
        most = max(most, len(due))
        for who in due:
            times[who].append(tick * 0.05)
    gaps = [after - before for seen in times.values() for before, after in itertools.pairwise(seen)]
    assert max(gaps) <= INTERVAL + 0.05
    assert min(len(seen) for seen in times.values()) >= 6
    assert most < 500 / 10, "they are spread over the interval"


def test_who_has_left_is_not_due_and_who_has_come_again_is_due_once() -> None:
    rota = Rota(INTERVAL, random.Random(1))
    rota.join("a", 0.0)
    rota.join("b", 0.0)
    rota.leave("a")
    rota.leave("nobody")
    assert rota.due(INTERVAL) == ["b"]
    rota.join("a", 100.0)
    rota.leave("a")
    rota.join("a", 100.0)
    assert sorted(rota.due(200.0)) == ["a", "b"]
    rota.leave("a")
    rota.leave("b")
    assert rota.due(1000.0) == []
    assert len(rota) == 0


# -- what is known ---------------------------------------------------------------------------------


def test_a_head_is_known_when_its_releases_are_here_and_not_before() -> None:
    known, some = Knowledge(["arena"]), head(canary=sealed(version=2))
    stable, canary = named(some)
    assert known.lacking(some) == [stable, canary]
    assert known.accept([some], {stable: b"1"}) == []
    assert known.heads == {}
    assert known.accept([some], {stable: b"1", canary: b"2"}) == ["arena"]
    assert known.heads == {"arena": some}
    assert (known.body(stable), known.body(canary)) == (b"1", b"2")
    assert known.lacking(some) == []
    assert known.held == (2, 2)


def test_a_server_never_goes_back_and_knows_nothing_of_others_modules() -> None:
    known = Knowledge(["arena"])
    old, new, other = head(sequence=2), head(sequence=3), head("chat")
    assert known.accept([new, other], at_hand(new, other)) == ["arena"]
    assert known.news([old, new, other]) == []
    assert known.accept([old], at_hand(old)) == []
    assert known.heads == {"arena": new}


def test_a_head_that_would_not_fit_a_digest_is_not_taken() -> None:
    some = msgspec.structs.replace(head(), reason="x" * push.MAX_HEAD)
    assert Knowledge(["arena"]).news([some]) == []


def test_releases_in_force_are_kept_and_older_ones_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_module, "MAX_OLDER", 2)
    known, heads = Knowledge(["arena"]), [head(sequence=number) for number in range(1, 6)]
    for one in heads:
        assert known.accept([one], at_hand(one))
    keys = [named(one)[0] for one in heads]
    assert [known.body(key) is not None for key in keys] == [False, False, True, True, True]
    known.body(keys[2])  # somebody wants it, so the other one goes first
    known.keep(Key("arena", 9, SHA), b"new")
    assert [known.body(key) is not None for key in keys] == [False, False, True, False, True]


def test_the_bytes_of_older_releases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_module, "MAX_OLDER_BYTES", 100)
    known = Knowledge(["arena"])
    for version in range(10):
        known.keep(Key("arena", version, SHA), bytes(30))
    assert known.held == (3, 90)
    known.keep(Key("arena", 9, SHA), bytes(30))
    assert known.held == (3, 90)


def test_a_release_that_comes_into_force_again_is_held_once() -> None:
    known, one = Knowledge(["arena"]), sealed(version=1)
    for number, release in enumerate([one, sealed(version=2), one], 1):
        some = head("arena", number, release)
        assert known.accept([some], {named(some)[0]: bytes(10)})
    assert known.held == (2, 20)


# -- what a subscriber may say ---------------------------------------------------------------------


def subscribed(*modules: str, offered: tuple[str, ...] = ("arena", "chat"), **fields: Any) -> Subscriber:
    subscriber, message = Subscriber(), subscribe(*modules, **fields)
    subscriber.hear(message, 1.0, INTERVAL)
    subscriber.admit(offered, message.modules)
    return subscriber


def refusal(subscriber: Subscriber, message: push.Request) -> str:
    with pytest.raises(PushRefused) as caught:
        subscriber.hear(message, 1.0, INTERVAL)
    return caught.value.code


@pytest.mark.parametrize(
    "message", [push.Want("arena", 1, SHA), push.Report(()), push.Declare("arena", "x", b""), push.Lookup(("arena",))]
)
def test_nothing_is_said_before_the_subscription(message: push.Request) -> None:
    assert refusal(Subscriber(), message) == "malformed"


def test_a_subscription_is_the_first_and_the_only_one_in_this_protocol_with_an_id() -> None:
    assert refusal(Subscriber(), subscribe(protocol=2)) == "protocol"
    assert refusal(Subscriber(), subscribe(server="")) == "malformed"
    assert refusal(subscribed(), subscribe()) == "malformed"


def test_a_subscriber_hears_of_those_of_its_modules_that_are_served() -> None:
    assert subscribed("arena", "other", "arena").modules == ["arena"]
    with pytest.raises(PushRefused) as caught:
        subscribed("other")
    assert caught.value.code == "unknown-module"
    assert "arena, chat" in str(caught.value)


def test_a_subscriber_speaks_of_its_own_modules_and_for_itself_only() -> None:
    subscriber = subscribed("arena")
    assert refusal(subscriber, push.Want("chat", 1, SHA)) == "malformed"
    assert refusal(subscriber, push.Declare("chat", "x", b"")) == "malformed"
    assert refusal(subscriber, push.Report((report("chat"),))) == "malformed"
    assert refusal(subscriber, push.Report((report(server="s2"),))) == "malformed"
    subscriber.hear(push.Report((report(),)), 1.0, INTERVAL)


def test_a_release_that_is_wanted_twice_is_sent_once_and_the_number_of_wishes_is_bounded() -> None:
    subscriber = subscribed("arena")
    for version in (1, 2, 1):
        subscriber.hear(push.Want("arena", version, SHA), 1.0, INTERVAL)
    assert subscriber.wanted == [("arena", 1, SHA), ("arena", 2, SHA)]
    for version in range(3, 129):
        subscriber.hear(push.Want("arena", version, SHA), 1.0, INTERVAL)
    assert refusal(subscriber, push.Want("arena", 129, SHA)) == "too-many"


def test_a_flood_of_messages_is_refused_and_a_steady_trickle_is_not() -> None:
    subscriber, lookup = subscribed("arena"), push.Lookup(("arena",))
    for _ in range(int(BURST) - 1):
        subscriber.hear(lookup, 1.0, INTERVAL)
    assert refusal(subscriber, lookup) == "too-many"
    steady, now = subscribed("arena"), 1.0
    for _ in range(5000):
        now += INTERVAL / RATE
        steady.hear(lookup, now, INTERVAL)


def test_a_subscriber_is_never_told_of_an_older_head_than_it_knows() -> None:
    subscriber = subscribed("arena", "chat", have={"arena": 5, "other": 1})
    assert subscriber.told == {"arena": 5}
    assert subscriber.digest({"arena": head(sequence=4), "chat": head("chat")}) == [head("chat")]
    assert subscriber.digest({"arena": head(sequence=6)}) == [head(sequence=6)]
    assert subscriber.digest({"arena": head(sequence=5)}) == []
    assert subscriber.told == {"arena": 6, "chat": 1}


def test_what_a_subscriber_has_said_travels_with_its_connection() -> None:
    codec = Codec.of(Subscriber)
    subscriber = subscribed("arena", have={"arena": 5})
    subscriber.hear(push.Want("arena", 6, SHA), 2.0, INTERVAL)
    assert codec.reader(codec.schema)(codec.encode(subscriber)) == subscriber


# -- what a server is started with -----------------------------------------------------------------

PLAIN: dict[str, Any] = {"modules": ("arena",), "listen": ("127.0.0.1:0",), "store": "dir:/srv/config"}
TLS = {"tls_cert": "c", "tls_key": "k", "tls_ca": "ca"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"listen": ("127.0.0.1:0", "[::1]:0", "localhost:0", "unix:/run/config.sock")},
        {"listen": ("0.0.0.0:7000",), "advertise": ("config1.example:7000",), **TLS},
        {"listen": ("10.0.0.1:7000",), **TLS},
        {"tls_cert": "c", "tls_key": "k", "client_certs": False},
        {"advertise": ("unix:/run/config.sock", "localhost:7000")},
    ],
)
def test_a_server_can_be_started_so(fields: dict[str, Any]) -> None:
    assert Settings(**{**PLAIN, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"listen": ("0.0.0.0:7000",)}, "--tls-cert FILE --tls-key FILE --tls-ca FILE"),
        ({"listen": ("10.0.0.1:7000",)}, "needs TLS"),
        ({"listen": ("[::]:7000",)}, "needs TLS"),
        ({"listen": (":7000",)}, "needs TLS"),
        ({"listen": ("nonsense",)}, "--listen nonsense"),
        ({"listen": ("0.0.0.0:7000",), **TLS}, "--advertise"),
        ({"listen": ("unix:/run/c.sock",), **TLS}, "another server"),
        ({"tls_cert": "c"}, "--tls-key"),
        ({"tls_key": "k"}, "--tls-cert"),
        ({"tls_ca": "ca"}, "--tls-cert"),
        ({"client_certs": False}, "--tls-cert"),
        ({"tls_cert": "c", "tls_key": "k"}, "--tls-ca FILE, or say --no-client-certs"),
        ({**TLS, "client_certs": False}, "--no-client-certs"),
        ({"advertise": ("config.example:7000",)}, "TLS only"),
        ({"advertise": ("nonsense",)}, "no address"),
        ({"advertise": ("a b:1",), **TLS}, "no address"),
        ({"modules": ()}, "1 to 64"),
        ({"modules": ("arena", "arena")}, "each named once"),
        ({"modules": ("Arena!",)}, "no name of a module"),
        ({"interval": 0.01}, "interval"),
        ({"interval": float("nan")}, "interval"),
    ],
)
def test_a_server_that_cannot_be_meant_so_is_told_what_to_give(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Settings(**{**PLAIN, **fields})
