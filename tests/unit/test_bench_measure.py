"""Figures that may be compared: rounds, ratios, goals, and how people read them."""

from __future__ import annotations

import math

import pytest

from hotfd.bench.machine import machine
from hotfd.bench.measure import Goal, Series, Table, interleave, number, quotient, ratio


def case(log: list[str], name: str, *values: float):
    left = list(values)

    def run():
        log.append(name)
        return {"time": (left.pop(0), "s"), "size": (7, "bytes")}

    return run


def test_each_case_runs_once_in_each_round_and_another_one_is_first():
    log: list[str] = []
    interleave({name: case(log, name, 1, 2, 3, 4) for name in "abc"}, 4)
    assert "".join(log) == "abcbcacababc"


def test_a_series_has_a_value_for_each_round_in_their_order():
    results = interleave({"a": case([], "a", 3, 1, 2), "b": case([], "b", 30, 20, 10)}, 3)
    assert results["a"]["time"] == Series("s", (3, 1, 2))
    assert results["b"]["time"] == Series("s", (30, 20, 10))
    assert results["b"]["size"] == Series("bytes", (7, 7, 7))


def test_a_ratio_is_made_of_values_of_the_same_round():
    # The machine was ten times slower in the second round; the ratio does not show it, that of the medians would.
    results = interleave({"a": case([], "a", 1, 10, 1), "b": case([], "b", 2, 20, 20)}, 3)
    assert ratio(results, "time", "a", "b") == Series("x", (0.5, 0.5, 0.05))


def test_who_listens_is_told_what_runs():
    said: list[str] = []
    interleave({"a": case([], "a", 1)}, 1, say=said.append)
    assert said == ["round 1 of 1: a"]


@pytest.mark.parametrize(("cases", "rounds"), [({}, 1), ({"a": dict}, 0)])
def test_nothing_to_run_is_an_error(cases, rounds):
    with pytest.raises(ValueError, match="nothing to measure"):
        interleave(cases, rounds)


def test_a_case_that_changes_its_figures_is_an_error():
    answers = [{"time": (1.0, "s")}, {"time": (1.0, "ms")}]
    with pytest.raises(ValueError, match="in the round before"):
        interleave({"a": lambda: answers.pop(0)}, 2)


def test_what_a_case_raises_goes_to_the_caller():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interleave({"a": fail}, 1)


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (Series("s", (1,)), Series("ms", (1,))),
        (Series("s", (1,)), Series("s", (1, 2))),
        (Series("s", (1,)), Series("s", (0,))),
    ],
)
def test_what_cannot_be_compared_is_an_error(above, below):
    with pytest.raises(ValueError, match=r"no ratio|cannot be compared|is 0"):
        quotient(above, below)


def test_a_series_has_a_median_extremes_and_a_spread():
    series = Series("s", (4, 1, 2))
    assert (series.median, series.low, series.high, series.spread) == (2, 1, 4, 1.5)
    assert Series("s", (1, 2)).median == 1.5
    assert Series("s", (0, 0)).spread == 0


@pytest.mark.parametrize("values", [(), (math.nan,), (1, math.inf)])
def test_a_series_without_figures_is_an_error(values):
    with pytest.raises(ValueError, match="value"):
        Series("s", values)


@pytest.mark.parametrize(
    ("series", "text"),
    [
        (Series("s", (0.0031, 0.0029, 0.0034)), "3.1 ms (2.9 to 3.4)"),
        (Series("s", (12.3456,)), "12.3 s"),
        (Series("us", (1500, 900)), "1.2 ms (0.9 to 1.5)"),
        (Series("bytes", (3 << 20,)), "3 MiB"),
        (Series("frames/s", (51234.5,)), "51,200 frames/s"),
        (Series("x", (0.1234,)), "0.123 x"),
        (Series("s", (0,)), "0 s"),
    ],
)
def test_figures_are_shown_in_a_unit_that_fits_their_median(series, text):
    assert str(series) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (1.5, "1.5"),
        (0.00012345, "0.000123"),
        (999.6, "1,000"),
        (123456, "123,000"),
        (-2.345, "-2.35"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert number(value) == text


def test_a_goal_is_met_by_its_median():
    values = Series("x", (0.5, 2.0, 9.0))
    assert Goal("", values, at_least=2).met
    assert not Goal("", values, at_least=2.01).met
    assert Goal("", values, at_most=2).met
    assert not Goal("", values, at_most=1.99).met
    assert Goal("", values, at_least=1, at_most=3).bound == "at least 1 x, at most 3 x"


def test_a_goal_without_a_bound_and_a_row_that_does_not_fit_are_errors():
    with pytest.raises(ValueError, match="bound"):
        Goal("faster", Series("x", (1,)))
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        Table("t", ["a"], [["1", "2"]])


def test_the_machine_says_what_figures_depend_on():
    facts = machine()
    assert {"kernel", "cores", "python", "hotfd", "msgspec", "descriptors_hard"} <= set(facts)
