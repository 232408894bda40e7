"""Byte streams over bad lines are whole, whatever the weather in which their server is replaced."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.network_lines import FORGE_RESET, REJECT, SERVER, Network, network
from tests.integration.network_talkers import PORT, WINDOW, Talker, hand_over, progress
from tests.proof.oracle import Oracle, counted

PLAIN = ("fine", "lossy1", "lossy5", "lossy20", "slow", "cut", "refused", "forged")
CABLES = ("far", "shuffled")
"""The lines. Two clients are on each."""

DOWN = 3.0
"""Seconds for which a cable is pulled, and packets of another line are refused, around a handoff."""

WINDOWS = {"slow": 1 << 21, "far": 1 << 16}
"""Bytes of answers that clients ask for: many times what the slow line carries in a second, so that all buffers are
full; what is under way on the far one in the time of a round trip."""

SERVER_LOOPS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.long)]


def worsen(net: Network) -> None:
    """Bad weather on each line that has weather of its own."""
    for percent in (1, 5, 20):
        net.lines[f"lossy{percent}"].lose(percent)
    net.lines["slow"].slow("1mbit")
    far, shuffled = net.lines["far"].cable, net.lines["shuffled"].cable
    assert far is not None
    assert shuffled is not None
    far.delay = 0.2
    shuffled.delay, shuffled.late, shuffled.lateness = 0.005, 0.3, 0.02


async def interrupted(net: Network, service: harness.Server) -> dict[str, int]:
    """Hand over while one line is down and another refuses all packets; return how many moved and stayed."""
    with net.lines["cut"].pulled():
        net.lines["refused"].treat(REJECT)
        report, _ = await asyncio.gather(hand_over(net, service), asyncio.sleep(DOWN))
        net.lines["refused"].heal()
    return report["connections"]


async def scenario(net: Network, service: harness.Server, stack: ExitStack, rounds: int) -> None:
    oracle = Oracle(b"networks", largest=1500, greeting=b"hello\n", answer=counted)
    talkers = []
    for name, line in net.lines.items():
        if line.cable is not None:
            stack.enter_context(line.cable.plugged())
        for _ in range(2):
            talker = Talker(oracle, name, line.socket(), window=WINDOWS.get(name, WINDOW))
            stack.callback(talker.sock.close)
            talkers.append(talker)
            await talker.connect((SERVER, PORT))
    everybody = {"moved": len(talkers), "kept": 0, "returned": 0, "closed": 0}
    lucky = [talker for talker in talkers if talker.line != "forged"]
    worsen(net)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for talker in talkers:
            group.create_task(talker.run(stop))
        for _ in range(rounds):
            await progress(talkers)
            assert (await hand_over(net, service))["connections"] == everybody
            await progress(talkers)
            assert await interrupted(net, service) == everybody
        await progress(talkers)
        net.lines["forged"].treat(FORGE_RESET)
        assert (await hand_over(net, service))["connections"]["closed"] == 0
        await progress(lucky)
        for name in PLAIN:  # what is on its way on the others is late as it is
            net.lines[name].heal()
        resets = net.resets()  # afterwards a late packet may find its connection gone, and is answered so
        stop.set()
    shuffled = net.lines["shuffled"].cable
    assert shuffled is not None
    assert shuffled.overtaken > 0
    assert not [fault for talker in lucky for fault in talker.faults()]
    assert all(talker.ended for talker in lucky)
    assert not any(count for name, count in resets.items() if name != "forged"), f"the server has sent resets: {resets}"
    # What a reset that the network made up has left is the beginning of what was to come, and nothing else.
    assert all(talker.error or talker.ended for talker in talkers)
    assert not [talker.receiver.astray for talker in talkers if talker.receiver.astray]
    assert service.status()["connections"] == 0
    assert "Traceback" not in service.logged()


@pytest.mark.parametrize("loop", SERVER_LOOPS)
@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
async def test_streams_over_ten_bad_lines_are_whole_after_their_server_was_replaced_again_and_again(
    tmp_path: Path, loop: str, rounds: int
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    counter = [sys.executable, harness.EXAMPLES / "counter.py", "--listen", f"{SERVER}:{PORT}", "--loop", loop]
    with ExitStack() as stack:
        net = stack.enter_context(network(PLAIN, CABLES))
        service = stack.enter_context(harness.server(tmp_path, net.of_server(counter), PORT, host=SERVER))
        await scenario(net, service, stack, rounds)
