"""The server's side of the control socket, on asyncio's loop and on uvloop."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import resource
import socket
import stat

import pytest

from hotfd.control import Endpoint, RuntimeDirectory, Unreachable, endpoint, peer, start_time
from hotfd.errors import HandoffRefused
from tests.unit.control_fakes import (
    LOOPS,
    NOBODY,
    as_user,
    greeting,
    listening,
    needs_root,
    open_descriptors,
    public_directory,
    status,
)


@pytest.fixture(params=sorted(LOOPS))
def run(request):
    """Run a coroutine to its end on each kind of loop, and see that no descriptor is left."""

    def run(coroutine):
        before = open_descriptors()
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            result = runner.run(asyncio.wait_for(coroutine, 60))
        assert open_descriptors() == before
        return result

    return run


class Wire:
    """A client that sends what it likes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n")
        await self.writer.drain()

    async def line(self):
        line = await self.reader.readline()
        return json.loads(line) if line else None

    async def ask(self, kind, **fields):
        await self.send({"type": kind, **fields})
        return await self.line()

    async def ends(self):
        """Whether the server closes the connection and sends nothing before."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True  # closed with something of ours unread

    async def close(self):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def connect(path):
    wire = Wire(*await asyncio.open_unix_connection(path, limit=32 * 1024 * 1024))
    return wire, await wire.line()


async def boom(request, emit):
    raise KeyError("a client's secret")


async def refuses(request, emit):
    raise HandoffRefused("unsupervised", "run it under hotfd run")


async def counts(request, emit):
    for number in range(request["to"]):
        emit({"event": "progress", "moved": number, "total": request["to"]})
    return {"counted": request["to"]}


def test_the_greeting_names_the_process_beyond_doubt(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {}) as (_, path):
            wire, hello = await connect(path)
            await wire.close()
            return hello

    assert run(main()) == {"hotfd": 1, "pid": os.getpid(), "start_time": start_time(), "generation": 3}


def test_a_request_is_answered_with_its_events_and_then_its_result(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            wire, _ = await connect(path)
            await wire.send({"type": "count", "to": 2})
            lines = [await wire.line() for _ in range(3)]
            await wire.close()
            return lines

    assert run(main()) == [
        {"event": "progress", "moved": 0, "total": 2},
        {"event": "progress", "moved": 1, "total": 2},
        {"result": {"counted": 2}},
    ]


def test_a_request_that_arrives_byte_by_byte_is_one_request(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            wire, _ = await connect(path)
            for byte in b'{"type":"count","to":0}\n':
                await wire.send(bytes([byte]))
            answer = await wire.line()
            await wire.close()
            return answer

    assert run(main()) == {"result": {"counted": 0}}


def test_requests_that_were_sent_ahead_are_carried_out_one_at_a_time_and_in_order(run, tmp_path):
    running, most, order = 0, 0, []

    async def slow(request, emit):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        order.append(request["number"])
        running -= 1
        return {}

    async def main():
        async with listening(tmp_path / "run", {"slow": slow}) as (_, path):
            wire, _ = await connect(path)
            await wire.send(b"".join(b'{"type":"slow","number":%d}\n' % number for number in range(50)))
            answers = [await wire.line() for _ in range(50)]
            await wire.close()
            return answers

    assert run(main()) == [{"result": {}}] * 50
    assert (order, most) == (list(range(50)), 1)


def test_an_unknown_instruction_is_answered_with_those_that_are_known(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {"status": status, "count": counts}) as (_, path):
            wire, _ = await connect(path)
            answers = [await wire.ask("stauts"), await wire.ask(["status"]), await wire.ask("count", to=0)]
            await wire.close()
            return answers

    unknown, no_name, good = run(main())
    assert unknown["error"]["code"] == no_name["error"]["code"] == "unknown-instruction"
    assert unknown["error"]["known"] == ["count", "status"]
    assert good == {"result": {"counted": 0}}, "the connection must go on"


@pytest.mark.parametrize(
    "line",
    [
        b"status",
        b"{",
        b"[1]",
        b"3",
        b"\xff\xfe",
        b'{"type":"count"} x',
        b"[" * 30_000,
        b'{"type":' + b"[" * 5000,
    ],
    ids=["word", "open", "array", "number", "no utf-8", "trailing", "nested", "nested object"],
)
def test_a_malformed_request_is_answered_and_the_connection_goes_on(run, tmp_path, line):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            wire, _ = await connect(path)
            await wire.send(line + b"\n\n")
            answers = [await wire.line(), await wire.ask("count", to=0)]
            await wire.close()
            return answers

    bad, good = run(main())
    assert bad["error"]["code"] == "malformed"
    assert good == {"result": {"counted": 0}}


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["without an end", "with an end"])
def test_a_request_that_is_too_long_is_refused_and_ends_the_connection(run, tmp_path, end):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            wire, _ = await connect(path)
            await wire.send(b"x" * (64 * 1024 + 1) + end)
            answer, ended = await wire.line(), await wire.ends()
            await wire.close()
            return answer, ended

    answer, ended = run(main())
    assert answer["error"]["code"] == "too-long"
    assert ended


def test_the_longest_allowed_request_is_served(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            wire, _ = await connect(path)
            start = b'{"type":"count","to":0,"pad":"'
            await wire.send(start + b"x" * (64 * 1024 - len(start) - 2) + b'"}\n')
            answer = await wire.line()
            await wire.close()
            return answer

    assert run(main()) == {"result": {"counted": 0}}


def test_of_200_clients_64_are_served_and_the_others_are_told(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            clients = [await connect(path) for _ in range(200)]
            served = [wire for wire, hello in clients if "hotfd" in hello]
            told = [(wire, hello) for wire, hello in clients if "hotfd" not in hello]
            answers = [await wire.ask("count", to=0) for wire in served]
            ended = [await wire.ends() for wire, _ in told]
            for wire, _ in clients:
                await wire.close()
            # The places of those that left are free again once the server has seen them leave.
            while True:
                wire, hello = await connect(path)
                await wire.close()
                if "hotfd" in hello:
                    return answers, [hello["error"]["code"] for _, hello in told], ended

    answers, codes, ended = run(main())
    assert answers == [{"result": {"counted": 0}}] * 64
    assert codes == ["too-many-clients"] * 136
    assert all(ended)


def test_watchers_leave_places_to_those_who_ask_and_go(run, tmp_path):
    async def main():
        until_cancelled.ended = asyncio.Event()
        instructions = {"watch": until_cancelled, "count": counts}
        async with listening(tmp_path / "run", instructions, attended={"watch"}) as (served, path):
            watchers = [(await connect(path))[0] for _ in range(peer.MAX_ATTENDED)]
            for wire in watchers:
                await wire.send({"type": "watch"})
            while len(served._running) < peer.MAX_ATTENDED:
                await asyncio.sleep(0)
            one_more, _ = await connect(path)
            assert (await one_more.ask("watch"))["error"]["code"] == "too-many-clients"
            assert (await one_more.ask("count", to=0))["result"] == {"counted": 0}
            await watchers[0].close()
            while len(served._running) == peer.MAX_ATTENDED:
                await asyncio.sleep(0)
            await one_more.send({"type": "watch"})
            while len(served._running) < peer.MAX_ATTENDED:
                await asyncio.sleep(0)
            for wire in (one_more, *watchers[1:]):
                await wire.close()

    run(main())


@pytest.mark.parametrize("junk", [b"\n", b"x\n"], ids=["empty", "malformed"])
def test_a_flood_of_lines_leaves_turns_for_the_others(run, tmp_path, junk):
    lines, turns, seen = 6400, 0, []

    async def mark(request, emit):
        seen.append(turns)

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main():
        async with listening(tmp_path / "run", {"mark": mark}) as (_, path):
            task = asyncio.ensure_future(others())
            wire, _ = await connect(path)
            await wire.send(b'{"type":"mark"}\n' + junk * lines + b'{"type":"mark"}\n')
            async with asyncio.timeout(30):
                while len(seen) < 2:
                    await wire.reader.read(65536)
            await wire.close()
            task.cancel()

    run(main())
    assert seen[1] - seen[0] >= lines // peer.LINES_PER_TURN


@pytest.mark.parametrize("dribble", [False, True], ids=["silent", "dribbling"])
def test_a_client_without_a_complete_request_is_told_and_closed(run, tmp_path, dribble):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}, idle_timeout=0.05) as (_, path):
            wire, _ = await connect(path)
            if dribble:
                await wire.send(b'{"type":')
            answer, ended = await wire.line(), await wire.ends()
            await wire.close()
            return answer, ended

    answer, ended = run(main())
    assert answer["error"]["code"] == "idle"
    assert ended


def test_an_instruction_may_take_longer_than_a_client_may_be_idle(run, tmp_path):
    async def long(request, emit):
        await asyncio.sleep(0.3)  # timers fire in order: the client's, if it ran, would be first
        return {}

    async def main():
        async with listening(tmp_path / "run", {"long": long}, idle_timeout=0.25) as (_, path):
            wire, _ = await connect(path)
            answer = await wire.ask("long")
            await wire.close()
            return answer

    assert run(main()) == {"result": {}}


def test_a_client_that_hangs_up_does_not_end_what_it_started(run, tmp_path):
    async def main():
        begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handoff(request, emit):
            begun.set()
            await go_on.wait()
            emit({"event": "progress"})
            done.set()
            return {}

        async with listening(tmp_path / "run", {"update": handoff}) as (_, path):
            wire, _ = await connect(path)
            await wire.send({"type": "update"})
            await begun.wait()
            await wire.close()
            other, _ = await connect(path)  # the endpoint has had turns to notice
            await other.close()
            go_on.set()
            await done.wait()

    run(main())


def test_a_client_that_half_closes_after_its_request_gets_the_answer(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            wire, _ = await connect(path)
            await wire.send(b'{"type":"count","to":1}\n{"type":"count","to":0}\n')
            wire.writer.write_eof()
            lines = [await wire.line() for _ in range(3)]
            ended = await wire.ends()
            await wire.close()
            return lines, ended

    lines, ended = run(main())
    assert [line.get("result") for line in lines] == [None, {"counted": 1}, {"counted": 0}]
    assert ended


def test_progress_for_a_client_that_does_not_read_is_dropped_and_the_result_is_not(run, tmp_path):
    async def chatty(request, emit):
        for number in range(100):
            emit({"event": "progress", "number": number, "pad": "x" * 65536})
        return {"done": True}

    async def main():
        async with listening(tmp_path / "run", {"chat": chatty}) as (served, path):
            wire, _ = await connect(path)
            wire.writer.transport.pause_reading()
            await wire.send({"type": "chat"})
            while not (served._peers and any(p._output for p in served._peers)) or served._running:
                await asyncio.sleep(0)
            held = sum(len(p._output) for p in served._peers)
            wire.writer.transport.resume_reading()
            lines = [await wire.line()]
            while "result" not in lines[-1]:
                lines.append(await wire.line())
            await wire.close()
            return held, lines

    held, lines = run(main())
    assert held <= peer.MAX_PASSING + 100
    numbers = [line["number"] for line in lines[:-2]]
    assert numbers == list(range(len(numbers))), "what is dropped is dropped at the end, in whole lines"
    assert len(numbers) < 100
    assert lines[-2:] == [{"event": "lost", "count": 100 - len(numbers)}, {"result": {"done": True}}]


def test_a_client_that_does_not_read_loses_progress_before_it_loses_what_matters(run, tmp_path):
    async def chatty(request, emit):
        for _ in range(100):
            emit({"event": "progress", "pad": "x" * 65536})
        emit({"event": "outcome", "pad": "x" * 65536})
        return {"done": True}

    async def main():
        async with listening(tmp_path / "run", {"chat": chatty}) as (served, path):
            wire, _ = await connect(path)
            wire.writer.transport.pause_reading()
            await wire.send({"type": "chat"})
            while not (served._peers and any(p._output for p in served._peers)) or served._running:
                await asyncio.sleep(0)
            wire.writer.transport.resume_reading()
            lines = [await wire.line()]
            while "result" not in lines[-1]:
                lines.append(await wire.line())
            await wire.close()
            return [line.get("event") for line in lines]

    events = run(main())
    assert events[-3:] == ["lost", "outcome", None]
    assert set(events[:-3]) == {"progress"}


async def until_cancelled(request, emit):
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        until_cancelled.ended.set()
        raise


@pytest.mark.parametrize("how", ["closes", "half-closes", "floods", "resets"])
def test_an_instruction_that_only_tells_ends_with_its_client(run, tmp_path, how):
    async def main():
        until_cancelled.ended = asyncio.Event()
        instructions = {"watch": until_cancelled, "count": counts}
        async with listening(tmp_path / "run", instructions, attended={"watch"}) as (served, path):
            wire, _ = await connect(path)
            await wire.send({"type": "watch"})
            while not served._running:
                await asyncio.sleep(0)
            if how == "half-closes":
                wire.writer.write_eof()
            elif how == "floods":
                wire.writer.write(b"x" * 4 * peer.MAX_REQUEST)
            elif how == "resets":
                wire.writer.transport.abort()
            else:
                await wire.close()
            async with asyncio.timeout(10):
                await until_cancelled.ended.wait()
                while served._peers or served._running:
                    await asyncio.sleep(0)
            if how in {"half-closes", "floods"}:
                await wire.close()
            other, _ = await connect(path)
            assert (await other.ask("count", to=0))["result"] == {"counted": 0}
            await other.close()

    run(main())


def test_an_instruction_that_does_something_goes_on_without_its_client(run, tmp_path):
    async def main():
        until_cancelled.ended = asyncio.Event()
        async with listening(tmp_path / "run", {"update": until_cancelled}, attended={"watch"}) as (served, path):
            wire, _ = await connect(path)
            await wire.send({"type": "update"})
            while not served._running:
                await asyncio.sleep(0)
            await wire.close()
            for _ in range(20):  # turns of the loop in which the end is seen
                await asyncio.sleep(0)
            assert not until_cancelled.ended.is_set()
            assert served._running

    run(main())


def test_a_client_that_asks_on_without_reading_is_closed_and_never_left_in_doubt(run, tmp_path, caplog):
    async def large(request, emit):
        return {"pad": "x" * 400_000}

    async def main():
        async with listening(tmp_path / "run", {"large": large}) as (served, path):
            wire, _ = await connect(path)
            wire.writer.transport.pause_reading()
            await wire.send(b'{"type":"large"}\n' * 40)
            while served._peers:
                await asyncio.sleep(0)
            await wire.close()

    with caplog.at_level(logging.WARNING, "hotfd"):
        run(main())
    assert "control-client-dropped" in caplog.text


def test_a_refusal_has_its_code_and_a_defect_does_not_tell_its_text(run, tmp_path, caplog):
    async def main():
        async with listening(tmp_path / "run", {"boom": boom, "refuses": refuses}) as (_, path):
            wire, _ = await connect(path)
            answers = [await wire.ask("refuses"), await wire.ask("boom")]
            await wire.close()
            return answers

    refused, broken = run(main())
    assert refused == {"error": {"code": "unsupervised", "message": "run it under hotfd run"}}
    assert broken["error"]["code"] == "internal"
    assert "KeyError" in broken["error"]["message"]
    assert "secret" not in broken["error"]["message"]
    assert "Traceback" in caplog.text


def test_a_result_that_has_no_json_form_is_a_defect_and_such_an_event_is_dropped(run, tmp_path, caplog):
    async def bad_result(request, emit):
        return {"value": object()}

    async def bad_event(request, emit):
        emit({"event": object()})
        return {}

    async def main():
        async with listening(tmp_path / "run", {"result": bad_result, "event": bad_event}) as (_, path):
            wire, _ = await connect(path)
            answers = [await wire.ask("result"), await wire.ask("event")]
            await wire.close()
            return answers

    first, second = run(main())
    assert first["error"]["code"] == "internal"
    assert second == {"result": {}}
    assert "control-event-failed" in caplog.text


def test_events_of_an_instruction_that_has_ended_are_not_sent(run, tmp_path):
    async def main():
        emits = []

        async def leaks(request, emit):
            emits.append(emit)
            return {}

        async with listening(tmp_path / "run", {"leak": leaks}) as (_, path):
            wire, _ = await connect(path)
            first = await wire.ask("leak")
            emits[0]({"event": "late"})
            second = await wire.ask("leak")
            await wire.close()
            return first, second

    assert run(main()) == ({"result": {}}, {"result": {}})


def test_a_greeting_that_fails_costs_one_client_and_is_logged(run, tmp_path, caplog):
    async def main():
        with RuntimeDirectory.open(str(tmp_path / "run")) as directory:
            served = Endpoint({}, lambda: 1 / 0)
            path = await served.start(directory)
            wire, hello = await connect(path)
            await wire.close()
            assert not served._peers
            await served.aclose()
            return hello

    assert run(main()) is None
    assert "control-client-failed" in caplog.text


def test_closing_waits_for_an_instruction_and_sends_its_answer(run, tmp_path):
    async def main():
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handoff(request, emit):
            begun.set()
            await go_on.wait()
            return {"done": True}

        async with listening(tmp_path / "run", {"update": handoff}) as (served, path):
            wire, _ = await connect(path)
            idle, _ = await connect(path)
            await wire.send({"type": "update"})
            await begun.wait()
            closing = asyncio.create_task(served.aclose())
            go_on.set()
            await closing
            result = await wire.line(), await wire.ends(), await idle.ends()
            await wire.close()
            await idle.close()
            return result

    assert run(main()) == ({"result": {"done": True}}, True, True)


def test_closing_cancels_an_instruction_that_does_not_end_and_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "DRAIN_TIMEOUT", 0.01)

    async def main():
        begun = asyncio.Event()

        async def forever(request, emit):
            begun.set()
            await asyncio.Event().wait()

        async with listening(tmp_path / "run", {"forever": forever}) as (served, path):
            wire, _ = await connect(path)
            await wire.send({"type": "forever"})
            await begun.wait()
            await served.aclose()
            answer, ended = await wire.line(), await wire.ends()
            await wire.close()
            return answer, ended

    answer, ended = run(main())
    assert answer["error"]["code"] == "shutting-down"
    assert ended


def test_an_instruction_may_close_the_endpoint_and_is_still_answered(run, tmp_path):
    async def main():
        async def last(request, emit):
            await served.aclose()
            return {"last": True}

        async with listening(tmp_path / "run", {"last": last}) as (served, path):
            wire, _ = await connect(path)
            answer = await wire.ask("last"), await wire.ends()
            await wire.close()
            return answer, os.path.exists(path)

    assert run(main()) == (({"result": {"last": True}}, True), False)


def test_closing_does_not_wait_for_ever_for_a_client_that_does_not_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr(peer, "CLOSE_TIMEOUT", 0.01)

    async def large(request, emit):
        return {"pad": "x" * 4_000_000}

    async def main():
        async with listening(tmp_path / "run", {"large": large}) as (served, path):
            wire, _ = await connect(path)
            wire.writer.transport.pause_reading()
            await wire.send({"type": "large"})
            while not any(p._output for p in served._peers):
                await asyncio.sleep(0)
            await served.aclose()
            await wire.close()

    run(main())


def test_the_socket_is_its_owners_alone_and_goes_with_the_endpoint(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {}) as (served, path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(tmp_path / "run").st_mode) == 0o700
            assert path == str(tmp_path / "run" / f"{os.getpid()}.sock")
            with pytest.raises(RuntimeError, match="already"):
                await served.start(None)
        await served.aclose()
        return os.listdir(tmp_path / "run")

    assert run(main()) == []


def test_a_socket_that_another_process_has_put_there_since_is_left_alone(run, tmp_path):
    async def main():
        async with listening(tmp_path / "run", {}) as (served, path):
            os.unlink(path)
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(path)
                await served.aclose()
                assert os.path.exists(path)

    run(main())


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(run, tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    path = str(tmp_path / "run" / f"{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)  # and never listens: connecting is refused, as to one whose process was killed

    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, bound):
            wire, _ = await connect(bound)
            answer = await wire.ask("count", to=0)
            await wire.close()
            with (
                RuntimeDirectory.open(str(tmp_path / "run")) as directory,
                pytest.raises(Unreachable, match="a live process listens"),
            ):
                await Endpoint({}, greeting).start(directory)
            return bound, answer

    assert run(main()) == (path, {"result": {"counted": 0}})


def test_a_file_in_the_way_is_not_removed(run, tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    file = tmp_path / "run" / f"{os.getpid()}.sock"
    file.write_text("precious")

    async def main():
        with (
            RuntimeDirectory.open(str(tmp_path / "run")) as directory,
            pytest.raises(Unreachable, match="not a socket"),
        ):
            await Endpoint({}, greeting).start(directory)

    run(main())
    assert file.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason=needs_root)
def test_another_user_who_gets_at_the_socket_is_told_and_closed(run, caplog):
    program = """
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1])
    while data := s.recv(65536):
        print(data.decode(), end="")
"""

    async def main():
        async with listening(public / "run", {}) as (_, path):
            os.chmod(public / "run", 0o755)
            os.chmod(path, 0o666)
            return await asyncio.to_thread(as_user, NOBODY, program, path)

    with public_directory() as public:
        lines = run(main()).splitlines()
    assert len(lines) == 1, lines
    assert json.loads(lines[0])["error"]["code"] == "not-permitted"
    assert "control-client-refused" in caplog.text


def test_accepting_goes_on_after_the_process_ran_out_of_descriptors(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(endpoint, "ACCEPT_PAUSE", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main():
        async with listening(tmp_path / "run", {"count": counts}) as (_, path):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                highest = max(map(int, os.listdir("/proc/self/fd")))
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
                taken = []
                try:
                    while True:
                        taken.append(os.dup(0))
                except OSError as exc:
                    assert exc.errno == errno.EMFILE
                client.connect(path)
                while "control-accept-paused" not in caplog.text:
                    await asyncio.sleep(0)
                for descriptor in taken:
                    os.close(descriptor)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                return json.loads(await asyncio.get_running_loop().sock_recv(client, 4096))

    try:
        assert run(main())["hotfd"] == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
