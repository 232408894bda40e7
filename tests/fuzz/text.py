"""Targets: what operators, clients, repositories, stores and service managers send or keep."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from hotfd import systemd
from hotfd.app.request import options_of, sample_of
from hotfd.config import etcd_gateway, release
from hotfd.config.cache import Cache, Kept
from hotfd.config.etcd_messages import LeaseAnswer, Pair, RangeAnswer, TransactionAnswer, WatchAnswer, read
from hotfd.config.etcd_servers import _modules, _report
from hotfd.config.jsonschema import check_against
from hotfd.config.schema import Schema
from hotfd.console.editing import Editor
from hotfd.console.telnet import Signal, Telnet, TooMuch
from hotfd.control.lines import MAX_REQUEST, LineBuffer, LineTooLong, decode, encode
from hotfd.display import config as display_config
from hotfd.display import history, metrics, sessions, status, workers
from hotfd.display.events import Teller
from hotfd.errors import ConfigError, FramingError, HandoffRefused, StoreError
from hotfd.framing import Resp, resp
from hotfd.publish import documents, instruction
from tests.fuzz.engine import Target
from tests.unit.config_support import Rules, Shelf, sealed

REQUESTS: Final = (
    b'{"type": "status"}\n',
    (
        b'{"type": "update", "deadline": 5, "boundary_timeout": 1.5, "laggards": "close", "on_loss": "stale", "force": true,'
        b' "probation": 0, "command": ["python3", "server.py"], "cwd": "/srv", "dry_run": "deep", "allow_downgrade": true}\n'
    ),
    b'{"type": "rollback", "to": 3, "dry_run": false}\n',
    b'{"type": "sessions", "limit": 5, "session": "match-42"}\n',
)


def control(data: bytes) -> None:
    """Take requests as the endpoint does, in one piece and in many."""
    for line in lines(data):
        try:
            request = decode(line)
        except ValueError:
            continue
        for understand in (options_of, sample_of):
            try:
                understand(request)
            except HandoffRefused as refused:
                assert refused.code == "malformed"
                encode({"error": {"code": refused.code, "message": refused.detail}})


def lines(data: bytes) -> list[bytes]:
    """Divide into lines what arrives whole, and in pieces: the same comes out."""
    found: list[list[bytes]] = []
    for width in (len(data) or 1, 1 + len(data) // 5):
        buffer = LineBuffer(MAX_REQUEST)
        taken: list[bytes] = []
        try:
            for at in range(0, len(data), width):
                buffer.feed(data[at : at + width])
                while (line := buffer.take()) is not None:
                    taken.append(line)
        except LineTooLong:
            assert len(data) > MAX_REQUEST
        found.append(taken)
    assert found[0] == found[1]
    return found[0]


def typed(data: bytes) -> list[str | Signal]:
    """Return what a console makes of typed bytes."""
    telnet, editor = Telnet(), Editor()
    width = 1 + len(data) // 5
    found: list[str | Signal] = []
    for at in range(0, len(data), width):
        for event in telnet.receive(data[at : at + width]):
            for line in editor.feed(event):
                telnet.line_ended()
                found.append(line)
        replies = telnet.take_replies()
        assert len(replies) <= 10 * width  # the longest reply of all, to Are You There
    assert all(line.isprintable() for line in found if isinstance(line, str))
    telnet.hide_input(True)
    return found


def notified(data: bytes) -> None:
    said = systemd.parse(data)
    for name in ("MAINPID", systemd.LIMIT_VARIABLE):
        number = systemd.number(said.get(name))
        assert number is None or 0 <= number < 10**20


def document(suffix: str) -> Any:
    def run(data: bytes) -> None:
        values = documents.parse(f"rules{suffix}", data)
        one = release.seal(release.Release("rules", 1, "r1", "anna", 1.5, values))
        assert release.unseal(one.data).release.values == values

    return run


def instructed(data: bytes) -> None:
    """Read an instruction and carry it out."""
    understood = instruction.read(data, values=True)
    made, _ = instruction.carry_out(understood, {"a": 1}, {"a": 2, "b": {"c": 3}})
    msgspec.json.encode(made)


def stored(data: bytes) -> None:
    """Take bytes for each thing that stores keep."""
    for what in (release.decode_head, release.unseal, msgspec.json.Decoder(release.Event).decode):
        try:
            read("it", what, data)
        except StoreError:
            continue
    _modules(Pair(b"k", data))
    _report(Pair(b"k", data))


SOURCE: Final = "ab" * 32


def cached(data: bytes) -> None:
    """Read a file of the cache, with the right digest in front of whatever there is."""
    whole = hashlib.sha256(data).hexdigest().encode() + b"\n" + data
    Cache("play", SOURCE, "/nowhere")._unpack("rules", whole)


def cache_file() -> bytes:
    """Return what the cache writes, without the digest in front of it."""
    shelf = Shelf()
    head = shelf.publish("rules", size=3)
    (one,) = shelf.releases.values()
    with tempfile.TemporaryDirectory() as directory:
        cache = Cache("play", SOURCE, directory)
        cache.save(Kept(head, one))
        return Path(cache.file("rules")).read_bytes().partition(b"\n")[2]


def answered(data: bytes) -> None:
    """Take bytes for each answer of etcd's gateway."""
    kinds: tuple[Any, ...] = (RangeAnswer, TransactionAnswer, LeaseAnswer, WatchAnswer)
    for kind in kinds:
        try:
            answer = etcd_gateway._decoded(data, kind)
        except etcd_gateway._Elsewhere:
            continue
        if isinstance(answer, TransactionAnswer):
            answer.found()
    for code in (400, 500):
        refusal = etcd_gateway._refusal("etcd://x", code, data, 5)
        assert str(refusal)


def command(data: bytes) -> None:
    """Find the frames of RESP, and read each as a value and as a command."""
    scanner = Resp(max_size=1 << 16).scanner()
    at = 0
    while spans := scanner.scan(data, at):
        for begin, end in zip(spans[0::3], spans[2::3], strict=True):
            frame = data[begin:end]
            for understand in (resp.parse, resp.command):
                try:
                    understand(frame)
                except FramingError:
                    continue
        at = spans[-1]


VALUES: Final = {"size": 3, "name": "x", "list": [1, 2.5, None, True], "table": {"a": {"b": "2026-01-31"}}, "b": {}}


def checked(data: bytes) -> None:
    """Check values against a JSON Schema that somebody has declared."""
    for fault in check_against(data, "rules", VALUES):
        str(fault)


def shown(data: bytes) -> None:
    """Show what a server answers, which may be another version of hotfd, or no hotfd at all."""
    try:
        answer = decode(data)
    except ValueError:
        return
    teller = Teller()
    found: list[str] = [*teller.lines(answer), *display_config.served(answer), *status.details(answer)]
    found += [*sessions.listing(answer), *history.listing(answer), status.one_line(answer)]
    found += workers.by_worker(answer, status.details)
    metrics.of_server(answer)
    for line in found:
        assert line.isprintable(), line


def tables() -> list[bytes]:
    track = {"module": "rules", "running": 3, "staged": None, "pinned": {"2": 7}, "refused": None}
    answers: list[dict[str, Any]] = [
        {"pid": 1, "name": "x", "generation": 2, "state": "serving", "listeners": ["a"], "connections": 3, "sessions": 3,
         "config": {"modules": {"rules": track}}, "laggards": [{"session": "s", "code": "no-boundary", "detail": "d"}]},
        {"sessions": [{"id": "s", "key": None, "connections": 1, "state": "parked"}], "total": 5},
        {"generations": [{"generation": 1, "pid": 2, "started": 1.5, "how": "start", "command": ["a"], "runs": 1}]},
        {"event": "progress", "moved": 1, "total": 3},
        {"event": "outcome", "report": {"outcome": "completed", "reason": "exited", "old_pid": 1, "connections": {}}},
        {"workers": [{"worker": 1, "pid": 5, "state": "serving"}]},
    ]  # fmt: skip
    return [json.dumps(one).encode() for one in answers]


TOML: Final = b"""size = 3
when = 2026-01-31T12:00:00Z
[table."a.b"]
list = [1, 0x1f, 1e3, "\\u0041", '''x''']
[[many]]
a.b.c = true
"""
YAML: Final = b"""%YAML 1.1
---
size: &a 3
other: *a
list: [1, 0o17, 1:30, ~, yes, 2026-01-31, !!float 5, !!str 5]
text: |
  lines
b: {c: "\\u0041"}
"""
JSON: Final = b'{"size": 3, "list": [1, 2.5e3, null, true, "\\u0041\\ud83d\\ude00"], "table": {"a": {"b": "x"}}}'
INSTRUCTION: Final = (
    b'operation = "merge"\nunset = ["a.b", "c"]\n[set]\nsize = 3\n"damage.sword" = 12\ndamage.bow = {a = 1}\n'
)
SCHEMA: Final = json.dumps({
    "$ref": "#/$defs/R",
    "$defs": {
        "R": {
            "type": "object", "required": ["size"], "additionalProperties": False,
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 5, "multipleOf": 2},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3, "enum": ["x"], "format": "date"},
                "list": {"type": "array", "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/R"}]}, "minItems": 9},
                "table": {"patternProperties": {"^a": {"const": 5}}, "propertyNames": {"maxLength": 2}},
                "b": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/R"}], "discriminator": {"propertyName": "type"}},
            },
        }
    },
}).encode()  # fmt: skip

TARGETS: Final = (
    Target("control", lambda: [*REQUESTS, b"".join(REQUESTS)], control, (), "json", tokens=(b'"type":', b"\n", b"{}")),
    Target(
        "telnet",
        lambda: [b"status\r\nhandoff\r\n", b"\xff\xfd\x01\xff\xfb\x18\xff\xfa\x18\x00xterm\xff\xf0\xff\xf4quit\r\0"],
        typed,
        (TooMuch,),
        tokens=(b"\xff\xf0", b"\xff\xfa", b"\xff\xfd\x03", b"\xff\xfe\x01", b"\xff\xf6", b"\x08", b"\x15", b"\x04"),
    ),
    Target(
        "notify",
        lambda: [
            b"READY=1\nMAINPID=41\nSTATUS=x",
            b"RELOADING=1\nMONOTONIC_USEC=5\nSTOPPING=1",
            b"EXTEND_TIMEOUT_USEC=9",
        ],
        notified,
        tokens=(b"MAINPID=", b"\n", b"=", b"\xd9\xa1", b"99999999999999999999"),
    ),
    Target(
        "toml",
        lambda: [TOML],
        document(".toml"),
        (documents.Unreadable,),
        tokens=(b'"""', b"[[", b"=", b"_", b"1979-05-27"),
    ),
    Target(
        "json", lambda: [JSON], document(".json"), (documents.Unreadable,), "json", tokens=(b"NaN", b"1e999", b'"a":')
    ),
    Target(
        "yaml",
        lambda: [YAML],
        document(".yaml"),
        (documents.Unreadable,),
        tokens=(
            b"!!",
            b"!!binary aGk=",
            b"!!set {x}",
            b".nan",
            b"!!timestamp ",
            b"!!int ",
            b"!!float ",
            b"&a ",
            b"*a",
            b"<<: *a\n",
            b"? ",
            b"- ",
            b"!!bool x",
            b"---\n",
        ),
    ),
    Target("instruction", lambda: [INSTRUCTION], instructed, (documents.Unreadable,), tokens=(b'"', b".", b"[set]\n")),
    Target(
        "stored",
        lambda: [
            sealed("rules", 3, zones={"eu": {"size": 5}}, size=3).data,
            release.encode_head(Shelf().publish("rules")),
        ],
        stored,
        (),
        "json",
    ),
    Target(
        "cache",
        lambda: [cache_file()],
        cached,
        (ConfigError, OSError, msgspec.MsgspecError, ValueError, RecursionError),  # those of which load() says no more
    ),
    Target(
        "etcd",
        lambda: [
            b'{"header":{"revision":"5"},"kvs":[{"key":"YQ==","value":"Yg==","mod_revision":"3"}],"more":true}',
            b'{"succeeded":true,"responses":[{"response_range":{"kvs":[{"key":"YQ=="}]}},{}]}',
            b'{"ID":"123"}',
            b'{"result":{"events":[{"kv":{"key":"YQ=="}}],"canceled":true,"compact_revision":"5"}}',
            b'{"error":{"message":"x"},"code":8,"message":"etcdserver: mvcc: database space exceeded"}',
        ],
        answered,
        (),
        "json",
    ),
    Target(
        "resp",
        lambda: [
            b'*2\r\n$3\r\nGET\r\n$1\r\na\r\nSET a "b\\x41"\r\n%1\r\n+a\r\n:5\r\n',
            b"~2\r\n,1.5\r\n,inf\r\n|1\r\n+k\r\n_\r\n#t\r\n=7\r\ntxt:abc\r\n(123456789012345678901234567890\r\n!3\r\nERR\r\n",
        ],
        command,
        (FramingError,),
        tokens=(b"*1\r\n", b"$-1\r\n", b"%1\r\n", b"~1\r\n", b",nan\r\n", b"*-1\r\n", b":", b"\r\n"),
    ),
    Target(
        "jsonschema",
        lambda: [SCHEMA, Schema.of(Rules).json],
        checked,
        (ConfigError,),
        "json",
        tokens=(b'"$ref":"#"', b"(", b"$"),
    ),
    Target("answers", tables, shown, (), "json"),
)
