"""The examples in docs/testing.md are run, as a user's test module, and find what the text says they find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

PROGRAM = """
import hotfd

async def count(conn):
    async for _ in conn:
        conn.state["n"] = conn.state.get("n", 0) + 1
        await conn.send(b"%d" % conn.state["n"])

hotfd.run(count, listen="127.0.0.1:0", state=dict)
"""


@pytest.fixture
def run(pytester):
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(program=PROGRAM)
    pytester.makeconftest(
        "import pathlib, pytest\n\n@pytest.fixture\ndef program_path():\n"
        "    return str(pathlib.Path(__file__).with_name('program.py'))\n"
    )

    def run(source: str):
        pytester.makepyfile(test_example="import hotfd.testing\n" + source)
        return pytester.runpytest_inprocess("-v")

    return run


def test_the_examples_pass(run):
    run("".join(BLOCKS)).assert_outcomes(passed=11)


def test_the_mistake_that_the_text_describes_is_found_with_its_words(run):
    first = BLOCKS[0]
    broken = (
        first.replace("    async for line in conn:\n", "    lines = 0\n    async for line in conn:\n")
        .replace("conn.state.lines += 1", "lines += 1")
        .replace("(conn.state.lines, line)", "(lines, line)")
    )
    result = run(broken)
    result.assert_outcomes(passed=2, failed=2)
    said = re.search(r"^    Unexpected: (.*)$", TEXT, re.MULTILINE)
    assert said is not None
    assert said[1] in result.stdout.str()


def test_the_mistake_that_the_text_describes_of_a_room_is_found_with_its_words(run):
    (room,) = [block for block in BLOCKS if "conn.join(" in block]
    broken = room.replace(
        """    async for line in conn:
        room.state.said += 1
        await room.broadcast(b"%d %s" % (room.state.said, line))
""",
        """    if not conn.resumed:
        MEMBERS.append(conn)
    try:
        async for line in conn:
            room.state.said += 1
            for member in MEMBERS:
                await member.send(b"%d %s" % (room.state.said, line))
    finally:
        if not conn.handed_off:
            MEMBERS.clear()
""",
    )
    assert broken != room
    result = run("from dataclasses import dataclass\n\nMEMBERS = []\n\n" + broken)
    result.assert_outcomes(passed=1, failed=1)
    said = " ".join(re.findall(r"^    Unexpected: ((?:.+\n)+)", TEXT, re.MULTILINE)[1].split())
    assert re.search(re.escape(said).replace(re.escape("..."), ".*"), result.stdout.str())


def test_every_reason_code_of_the_table_is_one_that_the_code_gives():
    table = TEXT.partition("| code | |")[2].partition("\n\n")[0]
    codes = re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)
    root = Path(__file__).resolve().parents[2] / "hotfd"
    source = "".join(p.read_text() for d in ("testing", "server") for p in (root / d).glob("*.py"))
    assert len(codes) == 9
    assert [code for code in codes if f'"{code}"' not in source] == []
