"""The report that people read: Markdown and pictures, made of results and of nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from scripts.bench.drawing import draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hotfd.bench.measure import Goal, Section, Table
    from scripts.bench.results import Ran, Results

INDEX: Final = "index.md"
"""The report's file; the pictures are beside it."""

TOP: Final = """\
<!-- Made by make bench; what is changed here by hand is lost. -->

# Performance

What hotfd costs, beside what people do otherwise and beside what the kernel allows. The cases that are compared run in
turns on the same machine, once in each round. A figure is the median of the rounds, with the lowest and the highest
beside it. A claim is a ratio of two cases of the same round, since ratios hold on other machines where seconds do not.
"""

MACHINE: Final = """\
`make bench` measures all of it again, and `python -m scripts.bench NAME --update` one suite; both write this page,
its pictures and [results.json](results.json), which has every figure. `hotfd bench` measures handoffs alone, on any machine
where hotfd is installed.
"""

LABELS: Final = {
    "memory_mib": "memory, MiB",
    "descriptors_soft": "descriptors of a process, soft limit",
    "descriptors_hard": "descriptors of a process, hard limit",
    "load_average": "load average before",
}
"""Facts of the machine by names that people read; the others are called what they are."""

NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""A plot's name, which becomes a file's."""


def files(results: Results) -> dict[str, str]:
    """Return the report's files: their texts by their names.

    Raises:
        ValueError: a plot's name is none that a file can have, or two have the same; or a plot cannot be drawn.
    """
    found = {INDEX: "\n".join(_page(results)).rstrip() + "\n"}
    for name, ran in results.suites.items():
        for plot in ran.section.plots if ran.section else ():
            file = f"{plot.name}.svg"
            if not NAME.fullmatch(plot.name) or file in found:
                raise ValueError(f"suite {name}: a plot cannot be called {plot.name!r}, or another one is")
            found[file] = draw(plot)
    return found


def write(results: Results, directory: Path) -> None:
    """Write the report's files, and remove pictures of earlier ones; raises what :func:`files` raises, and OSError."""
    texts = files(results)
    for old in directory.glob("*.svg"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def _page(results: Results) -> Iterator[str]:
    yield TOP
    if any(ran.quick for ran in results.suites.values()):
        yield "**Quick: these figures show that the suites work, and nothing else.**\n"
    yield from _goals(results)
    for name, ran in results.suites.items():
        yield from _suite(name, ran)
    yield "## Machine\n"
    yield from table(["", ""], [[LABELS.get(fact, fact), str(value)] for fact, value in results.machine.items()])
    yield MACHINE


def _goals(results: Results) -> Iterator[str]:
    goals = [(ran.section, goal) for ran in results.suites.values() if ran.section for goal in ran.section.goals]
    failed = [name for name, ran in results.suites.items() if ran.section is None]
    if failed:
        yield f"These suites failed, and say nothing: {', '.join(failed)}.\n"
    if not goals:
        return
    met = sum(goal.met for _, goal in goals)
    yield f"## Goals\n\n{met} of {len(goals)} goals are met.\n"
    rows = [
        [f"[{section.title}](#{_anchor(section.title)})", goal.text, goal.bound, str(goal.ratio), _verdict(goal)]
        for section, goal in goals
    ]
    yield from table(["suite", "goal", "wanted", "measured", ""], rows)
    yield from _reasons([goal for _, goal in goals if not goal.met])


def _verdict(goal: Goal) -> str:
    return "met" if goal.met else "**not met**"


def _reasons(goals: Sequence[Goal]) -> Iterator[str]:
    """Yield what stands in the way of goals, once for all that it stands in the way of."""
    if not goals:
        return
    together: dict[str, list[str]] = {}
    for goal in goals:
        together.setdefault(" ".join(goal.limits.split()) or "it is not known what.", []).append(goal.text)
    yield "What stands in the way of those that are not met:\n"
    for limits, texts in together.items():
        yield f"- {'; '.join(f'*{text}*' for text in texts)}: {limits}"
    yield ""


def _anchor(heading: str) -> str:
    """Return the fragment that a heading makes, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _suite(name: str, ran: Ran) -> Iterator[str]:
    section = ran.section
    if section is None:
        yield f"## {name}\n\nFailed on {ran.when}, at {ran.commit}:\n\n```text\n{ran.failure}\n```\n"
        return
    yield f"## {section.title}\n"
    if section.text:
        yield section.text.strip() + "\n"
    for each in section.tables:
        yield f"{each.title}:\n"
        yield from _table(each)
    for plot in section.plots:
        yield f"![{plot.title}]({plot.name}.svg)\n"
    yield from _skipped(section)
    rounds = "one round" if ran.rounds == 1 else f"{ran.rounds} rounds"
    yield f"Measured on {ran.when} at {ran.commit}, {rounds}, {ran.seconds:.0f} s: `python -m scripts.bench {name}`.\n"


def _skipped(section: Section) -> Iterator[str]:
    if section.skipped:
        yield "Not measured:\n"
        yield "\n".join(f"- {reason}" for reason in section.skipped) + "\n"


def _table(each: Table) -> Iterator[str]:
    yield from table(each.columns, each.rows)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table's lines as Markdown, and an empty one."""
    yield _row(columns)
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: Sequence[str]) -> str:
    texts = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return "| " + " | ".join(texts) + " |"


def summary(results: Results) -> str:
    """Return the goals as lines for a terminal."""
    lines = []
    for name, ran in results.suites.items():
        if ran.section is None:
            lines.append(f"FAILED   {name}: {ran.failure.splitlines()[-1] if ran.failure else ''}")
            continue
        lines += [_goal_line(goal) for goal in ran.section.goals]
        lines += [f"skipped  {reason}" for reason in ran.section.skipped]
    return "\n".join(lines)


def _goal_line(goal: Goal) -> str:
    return f"{'met' if goal.met else 'NOT MET':<8} {goal.ratio}, wanted {goal.bound}: {goal.text}"
