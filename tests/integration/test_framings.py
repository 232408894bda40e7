"""Every framing across a handoff: half a frame before it, the other half after it, and the reply is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

import hotfd
from tests.integration import harness

ECHO = """
    import sys
    import hotfd


    class Tagged(hotfd.Framing):
        name = "tagged"

        def find(self, data, start, seen):
            if len(data) < start + 2 or len(data) < start + 2 + data[start + 1]:
                return None
            end = start + 2 + data[start + 1]
            return start + 2, end, end

        def encode(self, payload):
            return bytes([0, len(payload)]) + payload


    async def talk(conn):
        async for frame in conn:
            await conn.send(frame)


    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", framing=FRAMING)
"""

FRAMINGS = {
    "hotfd.Lines()": b"a line of text\n",
    "hotfd.Delimited(b'<end>')": b"some <en text<end>",
    "hotfd.Fixed(16)": b"0123456789abcdef",
    "hotfd.LengthPrefix(16, 'little')": hotfd.LengthPrefix(16, "little").encode(b"\x00binary\xff"),
    "hotfd.LengthPrefix(64, includes_header=True)": hotfd.LengthPrefix(64, includes_header=True).encode(b"x" * 300),
    "hotfd.VarintPrefix()": hotfd.VarintPrefix().encode(b"v" * 200),
    "hotfd.Netstring()": b"11:hello world,",
    "hotfd.Resp()": b"*2\r\n$4\r\nECHO\r\n$5\r\nhe\r\no\r\n",
    "Tagged()": b"\x00\x05hello",
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_frame_that_is_cut_anywhere_by_a_handoff_is_handled_once_and_whole(tmp_path: Path, framing: str) -> None:
    frame = FRAMINGS[framing]
    with harness.program(tmp_path, ECHO.replace("FRAMING)", f"{framing})")) as service, service.connect() as client:
        for cut in (1, len(frame) // 2, len(frame) - 1):
            client.sendall(frame + frame[:cut])
            report = service.handoff("--probation", "0")
            assert report["connections"]["moved"] == 1
            client.sendall(frame[cut:])
            want, got = frame * 2, b""
            while len(got) < len(want):
                piece = client.recv(len(want) - len(got))
                assert piece
                got += piece
            assert got == want


def test_another_framing_takes_a_session_over_only_when_nothing_is_undelivered(tmp_path: Path) -> None:
    lines = ECHO.replace("FRAMING)", "hotfd.Lines())")
    netstrings = harness.script(tmp_path, "netstrings.py", ECHO.replace("FRAMING)", "hotfd.Netstring())"))
    with (
        harness.program(tmp_path, lines) as service,
        service.connect() as idle,
        service.connect() as halfway,
    ):
        for client in (idle, halfway):
            client.sendall(b"a\n")
            assert client.recv(10) == b"a\n"
        halfway.sendall(b"half a ")
        command = [*service.process.args[:1], str(netstrings), str(service.port)]
        old = service.pid
        report = service.handoff("--probation", "0", "--boundary-timeout", "0.5", command=command, expect=3)
        assert report["connections"] == {"moved": 1, "kept": 1, "returned": 0, "closed": 0}
        assert report["reasons"] == {"framing": 1}
        idle.sendall(b"5:hello,")
        assert idle.recv(20) == b"5:hello,"
        halfway.sendall(b"line\n")
        assert halfway.recv(20) == b"half a line\n"
        assert harness.alive(old)
        halfway.close()
        harness.wait_gone(old)
