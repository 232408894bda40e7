"""The oracle tells what has happened to a stream: each mistake is planted, and called by its name."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proof.oracle import Oracle, Receiver, bulk, counted

FRAMES = 40

Found = list[tuple[str, int, int]]


def near(found: Found, wanted: Found, slack: int = 8) -> bool:
    """Whether that was found; a byte or two that happen to be alike leave open where a stretch began."""
    return len(found) == len(wanted) and all(
        kind == other and size == large and at <= offset <= at + slack
        for (kind, offset, size), (other, at, large) in zip(found, wanted, strict=True)
    )


def heard(oracle: Oracle, receiver: Receiver, frames: int = FRAMES) -> bytes:
    receiver.ask(frames)
    return receiver.stream.heard(1, frames)


def kinds(oracle: Oracle, receiver: Receiver, data: bytes, *, ended: bool = False) -> Found:
    """Feed in pieces; return what was found as kind, offset, size."""
    rng = random.Random(len(data))
    while data:
        cut = rng.randint(1, 97)
        receiver.feed(data[:cut])
        data = data[cut:]
    return [(finding.kind, finding.offset, finding.size) for finding in oracle.findings(receiver, ended=ended)]


def test_a_stream_that_is_as_it_must_be_gives_no_finding() -> None:
    oracle = Oracle(greeting=b"hello\n")
    receiver = oracle.receiver()
    assert kinds(oracle, receiver, heard(oracle, receiver), ended=True) == []
    assert receiver.complete
    assert receiver.answered == FRAMES


def test_what_a_server_must_answer_is_computed_and_not_learned_from_it() -> None:
    receiver = Oracle(answer=counted, greeting=b"hello\n").receiver()
    said = receiver.ask(2).splitlines()
    assert receiver.stream.heard(1, 2) == b"hello\n1 %s\n2 %s\n" % (said[0], said[1])


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("at", [0, 200])
def test_bytes_that_never_come_are_lost(at: int, size: int) -> None:
    oracle = Oracle()
    receiver = oracle.receiver()
    right = heard(oracle, receiver)
    found = kinds(oracle, receiver, right[:at] + right[at + size :])
    assert near(found, [("lost", at, size)]), found


@pytest.mark.parametrize("size", [20, 150])
def test_bytes_that_come_twice_are_duplicated(size: int) -> None:
    oracle = Oracle()
    receiver = oracle.receiver()
    right = heard(oracle, receiver)
    wrong = right[:200] + right[200 - size : 200] + right[200:]
    found = kinds(oracle, receiver, wrong)
    assert near(found, [("duplicated", 200 - size, size)]), found


def test_bytes_that_come_after_later_ones_are_reordered_and_not_lost() -> None:
    oracle = Oracle()
    receiver = oracle.receiver()
    right = heard(oracle, receiver)
    wrong = right[:100] + right[160:250] + right[100:160] + right[250:]
    found = kinds(oracle, receiver, wrong)
    assert near(found, [("reordered", 100, 60)]), found


def test_bytes_of_another_connection_are_mixed_in_and_it_says_whose() -> None:
    oracle = Oracle()
    receiver, other = oracle.receiver(), oracle.receiver()
    right, strange = heard(oracle, receiver), heard(oracle, other)
    wrong = right[:100] + strange[50:90] + right[100:]
    found = kinds(oracle, receiver, wrong)
    assert near(found, [("mixed", 100, 40)]), found
    assert "bytes 50 to 90 of what connection 1 must hear" in str(oracle.findings(receiver)[0])


def test_bytes_that_come_in_the_place_of_others_are_both_mixed_in_and_lost() -> None:
    oracle = Oracle()
    receiver, other = oracle.receiver(), oracle.receiver()
    right, strange = heard(oracle, receiver), heard(oracle, other)
    wrong = right[:100] + strange[50:90] + right[140:]
    found = sorted(kinds(oracle, receiver, wrong))
    assert near(found, [("lost", 100, 40), ("mixed", 100, 40)]), found


def test_what_a_connection_has_said_is_reflected_when_it_comes_back_as_it_was() -> None:
    oracle = Oracle()
    receiver = oracle.receiver()
    right = heard(oracle, receiver)
    wrong = right[:100] + receiver.stream.said(1, 3) + right[100:]
    assert [kind for kind, _, _ in kinds(oracle, receiver, wrong)] == ["reflected"]


def test_bytes_that_belong_nowhere_are_altered_in_the_place_of_others_and_inserted_between_them() -> None:
    oracle = Oracle()
    receiver, second = oracle.receiver(), oracle.receiver()
    right = heard(oracle, receiver)
    assert kinds(oracle, receiver, right[:100] + b"\0" + right[101:]) == [("altered", 100, 1)]
    right = heard(oracle, second)
    assert kinds(oracle, second, right[:100] + b"\0\0\0" + right[100:]) == [("inserted", 100, 3)]


def test_bytes_beyond_the_last_are_surplus_or_a_repetition() -> None:
    oracle = Oracle()
    receiver, second = oracle.receiver(), oracle.receiver()
    right = heard(oracle, receiver)
    assert kinds(oracle, receiver, right + b"\0more") == [("surplus", len(right), 5)]
    right = heard(oracle, second)
    found = kinds(oracle, second, right + right[-30:])
    assert near(found, [("duplicated", len(right) - 30, 30)]), found


def test_an_orderly_end_before_the_last_byte_is_missing_bytes_and_a_reset_is_not() -> None:
    oracle = Oracle()
    receiver = oracle.receiver()
    right = heard(oracle, receiver)
    assert kinds(oracle, receiver, right[:-10]) == []
    assert kinds(oracle, receiver, b"", ended=True) == [("missing", len(right) - 10, 10)]


def test_several_mistakes_in_one_stream_are_told_apart() -> None:
    oracle = Oracle()
    receiver, other = oracle.receiver(), oracle.receiver()
    right, strange = heard(oracle, receiver), heard(oracle, other)
    wrong = right[:100] + right[120:300] + right[250:300] + right[300:400] + strange[:64] + right[400:]
    found = kinds(oracle, receiver, wrong)
    assert near(found, [("lost", 100, 20), ("duplicated", 250, 50), ("mixed", 400, 64)]), found


def test_one_who_listens_hears_what_the_speaker_is_answered() -> None:
    oracle = Oracle()
    speaker = oracle.receiver()
    listener = oracle.listener(speaker)
    right = heard(oracle, speaker)
    listener.ask(FRAMES)
    found = kinds(oracle, listener, right[:50] + right[80:])
    assert near(found, [("lost", 50, 30)]), found
    assert oracle.findings(listener)[0].connection == listener.connection != speaker.connection


@given(st.integers(0, 1_000), st.integers(1, 300), st.sampled_from(["lost", "duplicated", "altered"]))
def test_any_stretch_that_goes_wrong_is_found_where_it_is(at: int, size: int, kind: str) -> None:
    oracle = Oracle()
    receiver = oracle.receiver()
    right = heard(oracle, receiver, 100)
    piece = {"lost": b"", "duplicated": right[at : at + size] * 2, "altered": b"\0" * size}[kind]
    found = kinds(oracle, receiver, right[:at] + piece + right[at + size :])
    assert near(found, [(kind, at, size)]), found


def test_a_stream_of_any_length_can_be_checked_without_keeping_it() -> None:
    oracle = Oracle(largest=4_000)
    receiver = oracle.receiver()
    for number in range(1, 2_001):
        receiver.ask()
        assert receiver.feed(receiver.stream.heard(number, number))
    assert receiver.offset > 3 << 20
    assert len(receiver._expected) < 2 << 20
    assert receiver.complete


def test_bulk_bytes_are_a_function_of_the_key_and_the_offset() -> None:
    whole = bulk(b"one", 0, 10_000)
    assert len(whole) == 10_000
    assert bulk(b"one", 4_000, 9_000) == whole[4_000:9_000]
    assert bulk(b"other", 0, 10_000) != whole
