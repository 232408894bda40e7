"""Plots as SVG: axes on which everything is, and files that any viewer reads."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.bench.plots import Bars, Histogram, Lines
from scripts.bench.axes import axis
from scripts.bench.drawing import BOTTOM, LEFT, RIGHT, TOP, draw

SVG = "{http://www.w3.org/2000/svg}"

LINES = Lines("lines", "Cost <by> size & kind", "connections", "us", {"ours": [(1, 5), (100, 7)], "theirs": [(1, 50)]})
BARS = Bars("bars", "Rates", "frames/s", {"64 bytes": {"a": 10, "b": 20}, "1 KiB": {"b": 5}})
HISTOGRAM = Histogram("pauses", "Pauses", "ms", {"ours": [(1, 2, 3), (2, 4, 9)], "theirs": [(100, 200, 1)]})


def parsed(plot):
    return ET.fromstring(draw(plot))


def texts(plot):
    return [element.text for element in parsed(plot).iter(f"{SVG}text")]


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20), st.booleans())
def test_every_value_is_within_its_axis_and_ticks_rise(values, log):
    found = axis(values, log=log, start=0, end=100, zero=False)
    assert list(found.ticks) == sorted(set(found.ticks))
    assert 2 <= len(found.ticks) <= 20
    assert found.ticks[0] <= min(values) * (1 + 1e-9)
    assert found.ticks[-1] >= max(values) * (1 - 1e-9)
    assert all(0 <= found.place(value) <= 100 for value in values)
    assert (found.place(found.ticks[0]), found.place(found.ticks[-1])) == (0, 100)


def test_places_keep_the_order_of_values_on_either_kind_of_axis():
    for log in (False, True):
        found = axis([1, 1000], log=log, start=300, end=50)
        places = [found.place(value) for value in (1, 10, 500, 1000)]
        assert places == sorted(places, reverse=True)


def test_a_linear_axis_begins_at_zero_unless_it_need_not():
    assert axis([90, 100], log=False, start=0, end=1).ticks[0] == 0
    assert axis([90, 100], log=False, start=0, end=1, zero=False).ticks[0] == 90


def test_a_logarithmic_axis_is_divided_evenly():
    found = axis([1, 100], log=True, start=0, end=100)
    assert found.place(10) == 50


@pytest.mark.parametrize(("values", "log"), [([], False), ([0, 1], True), ([-1], True)])
def test_what_an_axis_cannot_show_is_an_error(values, log):
    with pytest.raises(ValueError, match=r"draw|logarithmic"):
        axis(values, log=log, start=0, end=1)


@pytest.mark.parametrize("plot", [LINES, BARS, HISTOGRAM], ids=lambda plot: plot.name)
def test_a_plot_is_an_svg_that_names_what_it_shows(plot):
    root = parsed(plot)
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == plot.title
    series = {"lines": ["ours", "theirs"], "bars": ["a", "b"], "pauses": ["ours", "theirs"]}[plot.name]
    assert {plot.title, *series} <= set(texts(plot))
    assert "prefers-color-scheme: dark" in draw(plot)


def test_a_logarithmic_axis_says_that_it_is_one():
    line = {"a": [(1.0, 1.0), (100.0, 100.0)]}
    assert {"n, logarithmic", "s"} <= set(texts(Lines("l", "", "n", "s", line, log_x=True)))
    assert {"n", "s, logarithmic"} <= set(texts(Lines("l", "", "n", "s", line, log_y=True)))
    assert "s, logarithmic" in texts(Bars("b", "", "s", {"g": {"a": 1}}, log=True))


def test_the_same_plot_is_drawn_the_same():
    assert draw(LINES) == draw(LINES)


def test_each_point_bar_and_bucket_is_there_and_inside_the_field():
    circles = list(parsed(LINES).iter(f"{SVG}circle"))
    assert len(circles) == 3
    assert all(LEFT <= float(each.get("cx")) <= RIGHT and TOP <= float(each.get("cy")) <= BOTTOM for each in circles)
    for plot, count in ((BARS, 3), (HISTOGRAM, 3)):
        boxes = [
            each
            for each in parsed(plot).iter(f"{SVG}rect")
            if float(each.get("y", 0)) + float(each.get("height")) == BOTTOM
        ]
        assert len(boxes) == count


def test_a_higher_bar_is_higher():
    tall, short = (
        min(
            float(each.get("y"))
            for each in parsed(Bars("b", "", "", {"g": {"a": height, "b": 100}})).iter(f"{SVG}rect")
            if each.get("class") == "f0" and each.get("height") != "10"
        )
        for height in (90, 10)
    )
    assert tall < short


def test_one_series_needs_no_legend_and_many_take_several_rows():
    assert "ours" not in texts(Lines("l", "", "", "", {"ours": [(1, 1), (2, 2)]}))
    many = Lines("l", "", "", "", {f"a series with a long name, number {n}": [(1, n), (2, n)] for n in range(10)})
    height = float(parsed(many).get("viewBox").split()[3])
    assert all(float(text.get("y", 0)) < height for text in parsed(many).iter(f"{SVG}text"))


def test_a_plot_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(Lines("l", "", "", "", {}))
