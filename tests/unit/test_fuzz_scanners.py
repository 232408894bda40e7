"""The scanners in C against those in plain Python: every framing, any bytes, cut anywhere, at the edges of max_size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfd import _core
from tests.fuzz import scanners

INPUTS = 6000
"""Mutated inputs in each run; ``make fuzz`` goes on from here."""

headers = st.binary(min_size=scanners.HEADER_SIZE, max_size=scanners.HEADER_SIZE)
small = st.integers(1, 40).map(lambda size: bytes([size - 1, 0]))
pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"\r\n", b"$3\r\nabc\r\n", b"*2\r\n", b"%1\r\n", b"|1\r\n", b"+x\r\n", b"$-1\r\n", b"3:abc,", b"0:,", b"\x80"]
    ),
    st.integers(0, 70).map(b"%d".__mod__),
    st.integers(0, 3).map(lambda count: b"\xff" * count + b"\x01"),
)


def test_seeds_are_for_every_framing_and_find_frames_and_errors() -> None:
    cases = [case for raw in scanners.seeds() if (case := scanners.Case.read(raw)) is not None]
    assert {case.framing.kind for case in cases} == set(range(1, 7))
    for kind in range(1, 7):
        ends = [scanners.expected(case) for case in cases if case.framing.kind == kind]
        assert any(spans for spans, _ in ends)
        # A fixed frame is never too large, and delimited bytes are never bad.
        wanted = {_core.KIND_FIXED: {"more"}, _core.KIND_DELIMITED: {"more", "large"}}
        assert {end for _, end in ends} >= wanted.get(kind, {"more", "large"})


def test_mutated_inputs_are_divided_as_the_reference_divides_them() -> None:
    (target,) = scanners.TARGETS
    for data in itertools.islice(target.inputs(0), INPUTS):
        target.check(data)


@settings(max_examples=400, deadline=None)
@given(header=headers, size=small, data=st.lists(pieces, max_size=12).map(b"".join))
def test_any_framing_with_a_small_limit_divides_as_the_reference_does(header: bytes, size: bytes, data: bytes) -> None:
    scanners.compare(header[:2] + size + header[4:] + data)


@pytest.mark.parametrize(
    "spec",
    [
        _core.FramingSpec(_core.KIND_NETSTRING, 0),
        _core.FramingSpec(_core.KIND_NETSTRING, _core.MAX_SIZE + 1),
        _core.FramingSpec(_core.KIND_DELIMITED, 9, delimiter=b"x" * (_core.MAX_DELIMITER + 1)),
        _core.FramingSpec(_core.KIND_LENGTH, 9, length_bytes=3),
        _core.FramingSpec(99, 9),
    ],
)
def test_parameters_that_make_no_framing_are_refused(spec: _core.FramingSpec) -> None:
    with pytest.raises(ValueError):
        _core.CompiledFraming(spec)


@pytest.mark.parametrize(
    "change",
    [
        lambda spans, end: ([*spans[:-1], spans[-1] - 1] if spans else [0, 0, 1], end),
        lambda spans, end: (spans, "more" if end != "more" else "large"),
        lambda spans, end: (spans[:-3], end),
    ],
)
def test_a_difference_is_found(change, monkeypatch) -> None:
    real = scanners.expected
    monkeypatch.setattr(scanners, "expected", lambda case: change(*real(case)))
    with pytest.raises(AssertionError):
        for raw in scanners.seeds():
            scanners.compare(raw)
