"""Plots as SVG, each a file that needs nothing else; light and dark, as whoever looks at it has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from hotfd.bench.measure import number
from hotfd.bench.plots import Bars, Histogram, Lines, Plot
from scripts.bench.axes import Axis, axis

WIDTH: Final = 760
LEFT: Final = 92
RIGHT: Final = 736
TOP: Final = 52
BOTTOM: Final = 312
LEGEND: Final = 366
MARGIN: Final = 10
"""Pixels: the page, the field within the axes, where the legend begins, and what is below it."""

PAGE: Final = 'role="img" aria-labelledby="title" font-family="system-ui, sans-serif" font-size="13"'

LEGEND_ROW: Final = 20
"""Pixels between two rows of the legend."""

LETTER: Final = 6.6
"""Pixels that a letter of the legend takes, about; text cannot be measured here."""

GROUP_FILL: Final = 0.8
"""Part of a group's room that its bars fill."""

LABEL_WIDTH: Final = 16
"""Letters of a group's label in a line."""

LIGHT: Final = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#0e7490", "#59636e")
DARK: Final = ("#58a6ff", "#f0883e", "#3fb950", "#bc8cff", "#f778ba", "#d29922", "#39c5cf", "#9198a1")
"""Colours of the series, in their order; they begin anew after the last."""

DASHES: Final = ("none", "7 3", "2 3", "9 3 2 3")
"""Lines differ by more than their colour, which not everybody sees."""


def draw(plot: Plot) -> str:
    """Return a plot as the text of an SVG file.

    Raises:
        ValueError: it has nothing to show, or a value that a logarithmic axis cannot show.
    """
    if isinstance(plot, Lines):
        names, field = list(plot.lines), _lines(plot)
    elif isinstance(plot, Bars):
        names, field = list(dict.fromkeys(name for bars in plot.groups.values() for name in bars)), _bars(plot)
    else:
        names, field = list(plot.counts), _histogram(plot)
    legend, rows = _legend(names)
    height = LEGEND + LEGEND_ROW * rows + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {PAGE}>',
            f'<title id="title">{escape(plot.title)}</title>',
            _style(len(names)),
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
            f'<text class="ink" x="{LEFT}" y="30" font-size="15" font-weight="600">{escape(plot.title)}</text>',
            *field,
            *legend,
            "</svg>",
            "",
        ]
    )


def _lines(plot: Lines) -> list[str]:
    points = [point for line in plot.lines.values() for point in line]
    x = axis((at for at, _ in points), log=plot.log_x, start=LEFT, end=RIGHT, zero=False)
    y = axis((value for _, value in points), log=plot.log_y, start=BOTTOM, end=TOP)
    drawn = [*_grid(y), *_ticks(x), *_titles(plot.x, plot.y, log_x=plot.log_x, log_y=plot.log_y)]
    for index, line in enumerate(plot.lines.values()):
        places = [(x.place(at), y.place(value)) for at, value in line]
        through = " ".join(f"{_at(left)},{_at(top)}" for left, top in places)
        dash = DASHES[index % len(DASHES)]
        drawn.append(f'<polyline class="s{_colour(index)} line" stroke-dasharray="{dash}" points="{through}"/>')
        if plot.points:
            drawn += [
                f'<circle class="f{_colour(index)}" cx="{_at(left)}" cy="{_at(top)}" r="3.5"/>' for left, top in places
            ]
    return drawn


def _bars(plot: Bars) -> list[str]:
    names = list(dict.fromkeys(name for bars in plot.groups.values() for name in bars))
    heights = [height for bars in plot.groups.values() for height in bars.values()]
    y = axis(heights, log=plot.log, start=BOTTOM, end=TOP)
    drawn = [*_grid(y), *_titles("", plot.y, log_y=plot.log)]
    room = (RIGHT - LEFT) / len(plot.groups)
    width = room * GROUP_FILL / len(names)
    for group, (label, bars) in enumerate(plot.groups.items()):
        middle = LEFT + (group + 0.5) * room
        for index, name in enumerate(names):
            if name not in bars:
                continue
            left = middle + (index - len(names) / 2) * width
            top = y.place(bars[name])
            drawn.append(_box(f"f{_colour(index)}", left + 1, top, width - 2, BOTTOM - top))
            drawn.append(
                f'<text class="soft" x="{_at(left + width / 2)}" y="{_at(top - 4)}" font-size="10" '
                f'text-anchor="middle">{number(bars[name])}</text>'
            )
        drawn += [_text(middle, BOTTOM + 18 + 14 * row, line) for row, line in enumerate(_wrapped(label))]
    return drawn


def _histogram(plot: Histogram) -> list[str]:
    buckets = [bucket for series in plot.counts.values() for bucket in series]
    edges = [edge for start, end, _ in buckets for edge in (start, end)]
    x = axis(edges, log=plot.log_x, start=LEFT, end=RIGHT, zero=False)
    y = axis((count for *_, count in buckets), log=False, start=BOTTOM, end=TOP)
    drawn = [*_grid(y), *_ticks(x), *_titles(plot.x, plot.y, log_x=plot.log_x)]
    for index, series in enumerate(plot.counts.values()):
        for start, end, count in series:
            left, right, top = x.place(start), x.place(end), y.place(count)
            drawn.append(_box(f"f{_colour(index)} through", left, top, max(1.0, right - left), BOTTOM - top))
    return drawn


# ---------------------------------------------------------------- parts


def _grid(y: Axis) -> list[str]:
    """Return the vertical axis: a line across the field at each tick, with its number."""
    drawn = []
    for tick in y.ticks:
        at = _at(y.place(tick))
        drawn.append(f'<path class="grid" d="M{LEFT} {at}H{RIGHT}"/>')
        drawn.append(
            f'<text class="soft" x="{LEFT - 8}" y="{_at(y.place(tick) + 4)}" text-anchor="end">{number(tick)}</text>'
        )
    return drawn


def _ticks(x: Axis) -> list[str]:
    """Return the horizontal axis; numbers that would be in each other's way are left out."""
    drawn = []
    free = float("-inf")
    for tick in x.ticks:
        at, text = x.place(tick), number(tick)
        drawn.append(f'<path class="grid" d="M{_at(at)} {BOTTOM}v5"/>')
        half = len(text) * LETTER / 2
        if at - half > free:
            drawn.append(_text(at, BOTTOM + 18, text))
            free = at + half + LETTER
    return drawn


def _titles(x: str, y: str, *, log_x: bool = False, log_y: bool = False) -> list[str]:
    """Return what is on the axes, in words; that one is logarithmic is said, since its lengths mean something else."""
    beside, below = (text + ", logarithmic" * log for text, log in ((y, log_y), (x, log_x)))
    place = f'transform="translate(22 {_at((TOP + BOTTOM) / 2)}) rotate(-90)"'
    drawn = [f'<text class="ink" {place} text-anchor="middle">{escape(beside)}</text>']
    if x:
        place = f'x="{_at((LEFT + RIGHT) / 2)}" y="{BOTTOM + 38}"'
        drawn.append(f'<text class="ink" {place} text-anchor="middle">{escape(below)}</text>')
    return drawn


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """Return the legend, and how many rows it has; one series needs none: the title says what it is."""
    if len(names) < 2:
        return [], 0
    drawn = []
    left, row = float(LEFT), 0
    for index, name in enumerate(names):
        width = 26 + len(name) * LETTER + 14
        if left + width > RIGHT and left > LEFT:
            left, row = float(LEFT), row + 1
        top = LEGEND + row * LEGEND_ROW
        drawn.append(_box(f"f{_colour(index)}", left, top, 18, 10))
        drawn.append(f'<text class="ink" x="{_at(left + 24)}" y="{top + 10}" font-size="12">{escape(name)}</text>')
        left += width
    return drawn, row + 1


def _style(count: int) -> str:
    def rules(page: str, ink: str, soft: str, grid: str, colours: Iterable[str]) -> str:
        basic = (
            f".page {{ fill: {page} }} .ink {{ fill: {ink} }} .soft {{ fill: {soft} }} "
            f".grid {{ stroke: {grid}; fill: none }}"
        )
        series = (f".f{i} {{ fill: {colour} }} .s{i} {{ stroke: {colour} }}" for i, colour in enumerate(colours))
        return " ".join([basic, *series])

    used = min(max(count, 1), len(LIGHT))
    light = rules("#ffffff", "#1f2328", "#59636e", "#d1d9e0", LIGHT[:used])
    dark = rules("#0d1117", "#e6edf3", "#9198a1", "#30363d", DARK[:used])
    return (
        f"<style>{light} .line {{ stroke-width: 2; fill: none }} .through {{ fill-opacity: 0.6 }}\n"
        f"@media (prefers-color-scheme: dark) {{ {dark} }}</style>"
    )


def _box(kind: str, left: float, top: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{_at(left)}" y="{_at(top)}" width="{_at(width)}" height="{_at(height)}"/>'


def _text(x: float, y: float, text: str) -> str:
    return f'<text class="soft" x="{_at(x)}" y="{_at(y)}" text-anchor="middle">{escape(text)}</text>'


def _wrapped(label: str) -> list[str]:
    """Return a label in lines, broken at spaces."""
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LABEL_WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _colour(index: int) -> int:
    return index % len(LIGHT)


def _at(place: float) -> str:
    """Return a coordinate, to a tenth of a pixel."""
    return f"{place:.1f}".removesuffix(".0")
