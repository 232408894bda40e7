"""Fault points: each is there once, does nothing, cannot be turned on from outside, and stands in the table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotfd import faults
from hotfd.faults import Point, reach
from tests.proof.faults import BEGIN, DOCUMENT, END, cell
from tests.proof.faults_catalogue import FAULTS, roles, why_not

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def armed() -> Iterator[list[Point]]:
    passed: list[Point] = []
    faults.arm(passed.append)
    yield passed
    faults._hook = None


def test_a_point_does_nothing_until_the_program_itself_arms_it() -> None:
    assert faults._hook is None
    reach(Point.OLD_COMMIT)


def test_an_armed_program_says_so_and_is_called_at_each_point(
    armed: list[Point], caplog: pytest.LogCaptureFixture
) -> None:
    faults.arm(armed.append)
    assert "faults-armed" in caplog.text
    reach(Point.OLD_COMMIT)
    reach(Point.NEW_TOUCH)
    assert armed == [Point.OLD_COMMIT, Point.NEW_TOUCH]


def test_each_point_is_passed_at_one_place_and_no_code_of_the_package_arms_them() -> None:
    sources = {path: path.read_text() for path in (ROOT / "hotfd").rglob("*.py") if path.name != "faults.py"}
    passed = Counter(name for text in sources.values() for name in re.findall(r"reach\(Point\.(\w+)\)", text))
    assert passed == Counter(point.name for point in Point)
    assert not [path for path, text in sources.items() if re.search(r"faults\.arm\b|faults import .*\barm\b", text)]
    assert "import os" not in (ROOT / "hotfd" / "faults.py").read_text(), "no environment, no file, no descriptor"


def rows() -> dict[tuple[str, str], list[str]]:
    """Read the tables: by point and process, the cells."""
    text = DOCUMENT.read_text()
    found = {}
    process = ""
    for line in text[text.index(BEGIN) : text.index(END)].splitlines():
        if line.startswith("### The "):
            process = line.split()[2]
        if match := re.match(r"\| `([\w.-]+)`(?: \((\w+)\))? \| (.*) \|$", line):
            found[match[1], match[2] or process] = match[3].split(" | ")
    return found


def test_the_table_has_each_point_in_each_process_and_each_fault() -> None:
    table = rows()
    assert set(table) == {(point.value, role) for point in Point for role in roles(point)}
    for point in Point:
        for role in roles(point):
            cells = dict(zip(FAULTS, table[point.value, role], strict=True))
            for fault, text in cells.items():
                assert (text == "-") == (why_not(point, fault) is not None), (point, fault, text)
                assert text != cell(None), f"make faults has not tried {fault} at {point.value}"
