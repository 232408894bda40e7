"""The fuzzer itself: the same inputs for the same seed, and whatever breaks a rule is found."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from random import Random

import msgspec
import pytest

from tests.fuzz import engine, run
from tests.fuzz.engine import Finding, Target
from tests.fuzz.mutate import MAX_INPUT, Mutator


def target(code, *, raises=(), form="bytes", seeds=(b"abc",)) -> Target:
    return Target("none", lambda: list(seeds), code, raises, form)


def test_a_seed_makes_the_same_inputs_again() -> None:
    first, again, other = (list(itertools.islice(target(len).inputs(seed), 200)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 100
    assert max(map(len, first)) <= MAX_INPUT


def test_a_documented_error_is_no_finding_and_any_other_is() -> None:
    assert target(len).check(b"x")
    assert not target(int, raises=(ValueError,)).check(b"x")
    with pytest.raises(Finding, match="ValueError"):
        target(int, raises=(KeyError,)).check(b"x")


def test_memory_without_measure_is_a_finding() -> None:
    hungry = target(lambda data: [bytearray(32 << 20)])
    assert hungry.check(b"x")
    with pytest.raises(Finding, match="allocates"):
        hungry.check(b"x", memory=True)


def test_an_endless_loop_is_a_finding(monkeypatch) -> None:
    def spin(data: bytes) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue

    monkeypatch.setattr(engine, "MAX_CPU", 0.05)
    with pytest.raises(Finding, match="processor time"):
        target(spin).check(b"x")


def test_a_finding_is_kept_and_fails_the_run(tmp_path, monkeypatch, capsys) -> None:
    def picky(data: bytes) -> None:
        raise KeyError(len(data))

    monkeypatch.setattr(run, "FINDINGS", tmp_path)
    assert run.fuzz(target(picky), 1, 0.0) == 1
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == b"abc"
    assert "1 findings" in capsys.readouterr().out


def test_mutations_of_a_tree_stay_readable_and_change_what_is_said() -> None:
    tree = {"a": [1, b"x", "text", {"b": None}], "c": 2.5}
    packed = msgspec.msgpack.encode(tree)
    mutator = Mutator(Random(1), [packed])
    found = [mutator.msgpack(packed) for _ in range(300)]
    readable = 0
    for data in found:
        try:
            readable += msgspec.msgpack.decode(data) != tree
        except (msgspec.DecodeError, RecursionError):
            continue
    assert readable > 200


def test_mutations_of_json_stay_readable_and_change_what_is_said() -> None:
    tree = {"a": [1, "x", {"b": None}], "c": 2.5, "d": {"e": ["f", "g"]}}
    text = json.dumps(tree).encode()
    mutator = Mutator(Random(1), [text])
    readable = 0
    for _ in range(300):
        with suppress(ValueError, RecursionError):
            readable += json.loads(mutator.json(text)) != tree
    assert readable > 200
