"""Which configuration servers a subscriber holds: two for each module, and quickly another when one goes."""

from __future__ import annotations

import random

import pytest

from hotfd.config.servers import FIRST_BACK_OFF, MAX_HELD, MAX_KNOWN, Servers
from tests.unit.push_heads import head

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"
INTERVAL = 3.0


def servers(*seeds: str, modules: tuple[str, ...] = ("arena",), local: bool = True, seed: int = 1) -> Servers:
    return Servers(seeds, modules, INTERVAL, local=local, random=random.Random(seed))


def test_two_servers_are_held_when_there_are_two() -> None:
    found = servers(A, B, C)
    first = found.wanted(0.0)
    assert len(first) == 2
    assert found.wanted(0.0) == []
    assert found.next_try(0.0) is None


def test_one_server_is_held_when_there_is_one_and_the_other_as_soon_as_it_is_known() -> None:
    found = servers(A)
    assert found.wanted(0.0) == [A]
    assert found.welcomed(A, "a", ["arena"])
    assert found.learn({"arena": [A, B]}) == []
    assert found.wanted(0.0) == [B]
    assert found.welcoming == [A]
    assert found.welcomed(B, "b", ["arena"])
    assert found.welcoming == [A, B]


def test_another_server_takes_the_place_of_one_that_goes_at_once() -> None:
    found = servers(A, B, C)
    held = found.wanted(0.0)
    (third,) = {A, B, C} - set(held)
    found.ended(held[0], 0.0)
    assert found.wanted(0.0) == [third]


def test_a_server_that_was_held_is_tried_again_after_a_moment() -> None:
    found = servers(A)
    found.wanted(0.0)
    found.welcomed(A, "a", ["arena"])
    found.ended(A, 10.0)
    assert found.wanted(10.0) == []
    again = found.next_try(10.0)
    assert again is not None and 0 < again - 10.0 <= FIRST_BACK_OFF
    assert found.wanted(again) == [A]


@pytest.mark.parametrize("seed", range(20))
def test_however_often_it_fails_no_server_is_left_alone_for_longer_than_a_quarter_of_the_interval(seed: int) -> None:
    found, now = servers(A, seed=seed), 0.0
    pauses = []
    for _ in range(100):
        assert found.wanted(now) == [A]
        found.ended(A, now)
        again = found.next_try(now)
        assert again is not None
        pauses.append(again - now)
        now = again
    assert max(pauses) <= INTERVAL / 4
    assert min(pauses[10:]) >= INTERVAL / 8, "the back-off grows"
    assert len(set(pauses)) == 100, "the pauses are jittered"


def test_a_server_of_other_modules_is_left_alone_but_not_for_ever() -> None:
    found = servers(A)
    found.wanted(0.0)
    found.ended(A, 0.0, "unknown-module")
    again = found.next_try(0.0)
    assert again is not None and 5 * INTERVAL <= again <= 10 * INTERVAL
    found.learn({"arena": [B]})
    assert found.wanted(0.0) == [B]


def test_a_full_server_is_not_asked_again_at_once() -> None:
    found = servers(A)
    found.wanted(0.0)
    found.ended(A, 0.0, "too-many")
    again = found.next_try(0.0)
    assert again is not None and INTERVAL / 2 <= again <= INTERVAL


def test_one_server_with_two_addresses_is_held_once() -> None:
    found = servers("localhost:1", A)
    first, second = found.wanted(0.0)
    assert found.welcomed(first, "same", ["arena"])
    assert not found.welcomed(second, "same", ["arena"])
    found.ended(second, 0.0)
    assert found.wanted(100.0) == []
    assert found.next_try(100.0) is None
    found.learn({"arena": [B]})
    assert found.wanted(100.0) == [B]
    found.ended(first, 100.0)
    assert found.wanted(100.0) == [second], "its other address is good when the first one fails"


def test_modules_that_different_servers_serve_have_two_servers_each() -> None:
    found = servers(A, modules=("arena", "chat"))
    found.wanted(0.0)
    found.welcomed(A, "a", ["arena"])
    found.learn({"arena": [A, B], "chat": [C, "127.0.0.1:4"]})
    assert set(found.wanted(0.0)) == {B, C, "127.0.0.1:4"}


def test_a_server_of_all_modules_is_preferred_to_those_of_one() -> None:
    found = servers(modules=("arena", "chat"))
    found.learn({"arena": [A, B, C], "chat": [B, C, "127.0.0.1:4"]})
    assert set(found.wanted(0.0)) == {B, C}


def test_addresses_that_nobody_names_any_more_are_forgotten_but_not_the_seeds() -> None:
    found = servers(A)
    found.learn({"arena": [B, C]})
    found.learn({"arena": [C]})
    held = found.wanted(0.0)
    assert set(held) == {A, C}
    found.learn({})
    for address in held:
        found.ended(address, 0.0)
    assert set(found.wanted(10.0)) == {A, C}, "an empty answer is one of a server whose store is away"


def test_the_number_of_addresses_and_of_connections_is_bounded() -> None:
    modules = tuple(f"m{number}" for number in range(30))
    found = servers(A, modules=modules)
    found.learn({module: [f"127.0.{number}.{host}:1" for host in range(64)] for number, module in enumerate(modules)})
    assert len(found.wanted(0.0)) == MAX_HELD
    assert found.next_try(0.0) is None
    assert len(found._known) <= MAX_KNOWN + 1


def test_without_tls_no_other_machine_is_reached_whatever_the_servers_say() -> None:
    found = servers(A)
    assert found.learn({"arena": ["10.0.0.1:1", "localhost:5", "evil.example:2"]}) == ["10.0.0.1:1", "evil.example:2"]
    assert set(found.wanted(0.0)) == {A, "localhost:5"}
    assert servers("10.0.0.1:1", local=False).learn({"arena": ["10.0.0.2:1"]}) == []


def test_the_newest_head_counts_whoever_says_it() -> None:
    found = servers(A, B)
    found.wanted(0.0)
    assert found.digest(A, [head(sequence=2)])
    assert not found.digest(B, [head(sequence=1)]), "a server that lags"
    assert found.heads == {"arena": head(sequence=2)}
    assert not found.digest(B, [head(sequence=2)])
    assert found.digest(B, [head(sequence=3)])
    assert found.heads == {"arena": head(sequence=3)}
    assert found.have == {"arena": 3}


def test_heads_of_modules_that_nobody_asked_for_are_ignored() -> None:
    found = servers(A)
    found.wanted(0.0)
    assert not found.digest(A, [head("other", 1)])
    assert found.heads == {}


def test_modules_are_silent_until_a_server_has_spoken_of_them() -> None:
    found = servers(A, B, modules=("arena", "chat"))
    found.wanted(0.0)
    found.welcomed(A, "a", ["arena"])
    found.digest(A, [head("arena")])
    assert found.silent == {"chat"}
    found.welcomed(B, "b", ["chat"])
    found.digest(B, [], ["chat"])
    assert found.silent == {"chat"}
    found.digest(B, [])
    assert not found.silent
    assert found.heads == {"arena": head("arena")}, "and there is no release of the other"


def test_a_release_is_asked_for_where_it_was_announced_and_then_elsewhere() -> None:
    found = servers(A, B)
    for address in found.wanted(0.0):
        found.welcomed(address, address, ["arena"])
    found.digest(B, [head(sequence=2)])
    assert found.serving("arena") == [B, A]
    found.ended(B, 0.0)
    assert found.serving("arena") == [A]
    assert found.serving("other") == []


def test_subscribers_prefer_different_servers() -> None:
    firsts = {servers(A, B, C, seed=seed).wanted(0.0)[0] for seed in range(30)}
    assert firsts == {A, B, C}
