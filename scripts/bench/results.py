"""What a run found, as JSON and back: everything that the report shows, so that it can be drawn anew without measuring."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd.bench.measure import Goal, Section, Table
from hotfd.bench.plots import Bars, Histogram, Lines, Plot

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 1
"""Of the file; a report is drawn of no other."""

SIGNIFICANT: Final = 6
"""Digits that are kept of a figure: far more than any measurement here has."""

PLOTS: Final[dict[str, type[Plot]]] = {"lines": Lines, "bars": Bars, "histogram": Histogram}


class UnknownFormat(ValueError):  # noqa: N818 - reads as the reason
    """The file is none of ours, or of another version."""


@dataclass
class Ran:
    """One suite's run.

    Args:
        when: the day and hour, UTC.
        commit: what the tree was, with ``+`` where it had changes.
        rounds: how often each case ran.
        quick: whether it only showed that the suite works.
        seconds: how long it took.
        section: what it found; None where it failed.
        failure: why it did.
    """

    when: str
    commit: str
    rounds: int
    quick: bool
    seconds: float
    section: Section | None = None
    failure: str = ""


@dataclass
class Results:
    """All suites' runs, by the suites' names in the order in which they are shown, and the machine that they ran on."""

    machine: dict[str, str | int]
    suites: dict[str, Ran] = field(default_factory=dict)


def write(results: Results, path: Path) -> None:
    """Write results as JSON; raises OSError."""
    plain = {
        "format": FORMAT,
        "machine": results.machine,
        "suites": {name: {**_fields(ran), "section": _section(ran.section)} for name, ran in results.suites.items()},
    }
    path.write_text(json.dumps(_rounded(plain), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """Return what :func:`write` wrote.

    Raises:
        OSError: it cannot be read.
        UnknownFormat: it is something else.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["format"] != FORMAT:
            raise UnknownFormat(f"{path} has format {plain['format']!r}, and this is {FORMAT}")
        suites = {
            name: Ran(**{**ran, "section": ran["section"] and _read_section(ran["section"])})
            for name, ran in plain["suites"].items()
        }
        return Results(plain["machine"], suites)
    except (LookupError, TypeError, ValueError) as error:
        raise UnknownFormat(f"{path} does not have the results of benchmarks: {error}") from error


def _fields(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


def _section(section: Section | None) -> dict[str, Any] | None:
    if section is None:
        return None
    kinds = {kind: name for name, kind in PLOTS.items()}
    return {
        **_fields(section),
        "tables": [dataclasses.asdict(table) for table in section.tables],
        "goals": [dataclasses.asdict(goal) for goal in section.goals],
        "plots": [{"kind": kinds[type(plot)], **dataclasses.asdict(plot)} for plot in section.plots],
    }


def _read_section(plain: dict[str, Any]) -> Section:
    return Section(
        **{
            **plain,
            "tables": [msgspec.convert(table, Table) for table in plain["tables"]],
            "goals": [msgspec.convert(goal, Goal) for goal in plain["goals"]],
            "plots": [_read_plot(plot) for plot in plain["plots"]],
        }
    )


def _read_plot(plain: dict[str, Any]) -> Plot:
    kind = PLOTS[plain["kind"]]
    return msgspec.convert({name: value for name, value in plain.items() if name != "kind"}, kind)


def _rounded(value: Any) -> Any:
    """Return a value of JSON with its figures rounded."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT}g}")
    if isinstance(value, dict):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
