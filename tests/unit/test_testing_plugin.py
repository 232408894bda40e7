"""The pytest plugin, seen from a project that uses it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

HANDLERS = """
    import asyncio
    from dataclasses import dataclass
    import hotfd

    @dataclass
    class Visitor:
        lines: int = 0

    async def good(conn):
        async for line in conn:
            conn.state.lines += 1
            await conn.send(b"%d" % conn.state.lines)

    async def bad(conn):
        lines = 0
        async for line in conn:
            lines += 1
            await conn.send(b"%d" % lines)
"""

TESTS = """
    import pytest
    from handlers import *

    async def counts(server):
        client = await server.connect()
        for number in (b"1", b"2"):
            await client.send(b"x")
            await client.expect(number)
"""


@pytest.fixture
def project(pytester):
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(handlers=HANDLERS)
    pytester.syspathinsert()

    def run(body: str, *options: str):
        pytester.makepyfile(test_it=TESTS + body)
        return pytester.runpytest_inprocess("-v", *options)

    return run


ASYNC_TEST = """
    @pytest.mark.parametrize("handler", [good, bad], ids=["good", "bad"])
    async def test_it(hotfd_serve, handler):
        async with hotfd_serve(handler, state=Visitor) as server:
            await counts(server)
"""


def test_a_test_that_is_written_once_runs_both_ways(project):
    result = project(ASYNC_TEST)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_it*steady*good* PASSED*",
            "*E * expected b'2', got b'1' (client 1, handed over 2 times)*",
            "*E * hotfd.testing: 1 connections, * handovers*",
        ]
    )
    failed = [line for line in result.outlines if " FAILED " in line]
    assert len(failed) == 1
    assert "handed-over" in failed[0]
    assert "bad" in failed[0]


@pytest.mark.parametrize(("way", "passed", "failed"), [("never", 2, 0), ("every", 1, 1), ("both", 3, 1)])
def test_the_option_chooses_the_ways(project, way, passed, failed):
    project(ASYNC_TEST, f"--hotfd-handoffs={way}").assert_outcomes(passed=passed, failed=failed)


def test_an_unknown_way_is_a_usage_error(project):
    result = project(ASYNC_TEST, "--hotfd-handoffs=sometimes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--hotfd-handoffs*sometimes*"])


def test_a_test_that_is_no_coroutine_runs_in_a_loop_of_its_own(project):
    result = project(
        """
    @pytest.mark.parametrize("handler", [good, bad])
    def test_it(hotfd_serve, handler):
        hotfd_serve.run(handler, counts, state=Visitor)
    """,
        "-p",
        "no:asyncio",
        "-W",
        "ignore::pytest.PytestConfigWarning",
    )
    result.assert_outcomes(passed=3, failed=1)


def test_a_choice_of_the_tests_own_counts_only_in_the_run_that_hands_over(project):
    project(
        """
    async def test_it(hotfd_serve):
        async with hotfd_serve(bad, state=Visitor, handoffs=4) as server:
            await counts(server)
            await server.hand_over()
            assert server.handovers == (1 if hotfd_serve.handoffs == "every" else 0)
    """
    ).assert_outcomes(passed=2)


def test_tests_without_the_fixture_run_once(project):
    project("\n    def test_it():\n        pass\n").assert_outcomes(passed=1)


def test_the_plugin_loads_nothing_of_hotfd_that_is_slow():
    code = "import sys, hotfd.testing.plugin; print(*sorted(m for m in sys.modules if m.startswith('hotfd')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "hotfd", "hotfd._version", "hotfd.errors", "hotfd.testing", "hotfd.testing.plugin"
    ]  # fmt: skip


def test_the_package_has_every_name_that_it_promises():
    from hotfd import testing

    assert all(getattr(testing, name).__module__.startswith("hotfd.testing.") for name in testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = testing.nothing
