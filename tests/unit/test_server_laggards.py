"""Of the sessions that did not move a few are described, and people can read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotfd.display.handoff import summary, told
from hotfd.display.status import details
from hotfd.report import Laggard, Report
from hotfd.server.laggards import SAMPLE, Sample, still_there
from tests.unit.server_rig import rig, until

if TYPE_CHECKING:
    import hotfd


async def talk(conn: hotfd.Connection[None]) -> None:
    async for _ in conn:
        await until(lambda: False)


async def test_some_of_each_code_are_described_and_the_handler_s_place_with_them() -> None:
    async with rig(talk) as made:
        client = await made.client()
        sample = Sample()
        for _ in range(SAMPLE + 5):
            sample.add(made.session, "not-movable", "it trades")
        client.say(b"x\n")
        await until(lambda: made.session.obstacle() is not None)
        sample.add(made.session, "no-boundary", "it works")
        assert [laggard.code for laggard in sample.laggards] == ["not-movable"] * SAMPLE + ["no-boundary"]
        assert sample.laggards[0] == Laggard(made.session.id, "not-movable", "it trades", [])
        assert "test_server_laggards.py:talk:" in sample.laggards[-1].awaits[0]
        now = still_there([sample.laggards[0], Laggard("gone", "no-boundary")], made.engine)
        assert [laggard.session for laggard in now] == [made.session.id]
        assert "test_server_laggards.py:talk:" in now[0].awaits[0], "what it waits for now"
        made.engine.end(made.session)


def test_a_laggard_is_a_line_with_the_innermost_places() -> None:
    laggard = Laggard("s-1", "no-boundary", "it works", [f"a.py:f{number}:1" for number in range(6)])
    assert told(laggard) == "s-1: it works; awaits a.py:f3:1 > a.py:f4:1 > a.py:f5:1"
    assert told(Laggard("s-1", "framing")) == "s-1"
    assert told(Laggard("s\x1b[2J", "framing", "\x07")) == "s\\x1b[2J: \\x07", "no name drives a terminal"


def test_a_report_has_them_beneath_their_code_and_names_the_lost() -> None:
    report = Report(
        outcome="rolled-back",
        id="1",
        old_pid=1,
        reasons={"no-boundary": 12, "lost-in-new-process": 3},
        laggards=[Laggard("s-1", "no-boundary", "it works")],
        lost=["s-2", "newcomer 127.0.0.1:4711"],
    )
    lines = summary(report)
    at = next(number for number, line in enumerate(lines) if line.startswith("  no-boundary: 12 sessions"))
    assert lines[at + 1] == "    s-1: it works"
    assert lines[-1] == "  lost: s-2, newcomer 127.0.0.1:4711 and 1 more"


def test_a_status_has_a_line_for_each_and_bears_what_it_does_not_know() -> None:
    status = {"pid": 1, "laggards": [{"session": "s-1", "code": "no-boundary", "detail": "", "awaits": ["a.py:f:1"]}]}
    assert details(status) == ["pid  1", "laggards: no-boundary  s-1; awaits a.py:f:1"]
    assert details({"pid": 1, "laggards": []}) == ["pid  1"]
    assert details({"pid": 1, "laggards": "many"}) == ["pid  1"]
