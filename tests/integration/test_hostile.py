"""A new process that lies: the old one goes on, its clients notice nothing, and the operator reads why."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.hostile import Deceived

PATIENT = pytest.mark.timeout(1200)

BROKEN = "protocol: the new process broke the handoff protocol: "

BEFORE = {
    "garbage": ("raw(b'garbage'); hang()", BROKEN),
    "a packet of another format": ("raw(b'HF\\x02\\0' + m.encode(m.Ready())[4:]); hang()", BROKEN),
    "a giant packet": ("hear(m.Setup); raw(m.HEADER + bytes(150_000)); hang()", BROKEN),
    "a giant packet with descriptors": ("raw(m.HEADER + bytes(150_000), *[channel] * 100); hang()", BROKEN),
    "another protocol": ("hello(protocol=m.PROTOCOL + 1); hang()", "protocol: the new process speaks handoff protocol"),
    "Ready before Hello": ("say(m.Ready()); hang()", f"{BROKEN}Ready in phase starting"),
    "Hello twice": ("hello(); say(m.Hello(1, 1, '', {}, 1, 1)); hang()", f"{BROKEN}Hello in phase preparing"),
    "an answer before an offer": ("hello(); say(m.Accept([0])); hang()", f"{BROKEN}Accept in phase preparing"),
    "a channel that is closed at once": ("os.close(channel); signal.pause()", "new-hung: "),
    "a schema that is none": (
        "hello(unreadable='so', schema={'root': {'a': [1]}, '': 7}, kinds={'x': {'': []}}); hang()",
        "state-version: so",
    ),
    "a schema that is none to write for": (
        "hello(unreadable='so', schema={'root': {'a': [1]}, '': 7}, kinds={'x': {'': []}}); hang()",
        "state-",
    ),
    "a reason that would drive a terminal": (
        "say(m.Failed('\\x1b[2J', '\\x1b]0;mine\\x07\\r\\n' + 'x' * 1000)); hang()",
        "\x1b[2J: \x1b]0;mine\x07\r\n",
    ),
    "a descriptor limit of nothing": (
        "hello(descriptor_limit=0); hang()",
        "descriptor-limit: the new process may open 0",
    ),
}
"""What a liar may say before it is given anything, and the reason that the operator gets."""


def test_what_a_new_process_says_wrong_before_it_is_ready_ends_it_and_nothing_else(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, Deceived(tmp_path, service).watched() as deceived:
        for name, (source, reason) in BEFORE.items():
            fields = {"deadline": 1.0} if reason.startswith("new-hung") else {}
            said = deceived.lie(source, allow_downgrade="to write for" in name, **fields)
            assert said.startswith(reason), f"{name}: {said!r}"
        log = service.logged()
        assert log.isascii()
        assert not any(character < " " and character != "\n" for character in log), "the log drives a terminal"


OFFERED = {
    "a session that was never offered": (
        "offered(); say(m.Accept([1000])); hang()",
        f"{BROKEN}an answer to session 1000",
    ),
    "a session twice in one answer": ("ids, _ = offered(); say(m.Accept(ids[:1] * 2)); hang()", BROKEN),
    "the same answer twice": ("ids, _ = offered(); say(m.Accept(ids)); say(m.Accept(ids)); hang()", BROKEN),
    "yes and no": (
        "ids, _ = offered(); say(m.Accept(ids)); say(m.Refuse([m.Refusal(ids[0], 'x', '')])); hang()",
        BROKEN,
    ),
    "no and yes": (
        "ids, _ = offered(); say(m.Refuse([m.Refusal(ids[0], 'x', '')])); say(m.Accept(ids)); hang()",
        BROKEN,
    ),
    "settled while sessions are offered": (
        "offered(); say(m.Settled(0, 0, 0)); hang()",
        f"{BROKEN}Settled in phase moving",
    ),
    "settled at once": ("proving(); say(m.Settled(0, 0, 0)); hang()", f"{BROKEN}Settled "),
    "an offer of its own": ("ids, fds = offered(); say(m.OfferPart(0, 0, 1, 0, 1), *fds); hang()", BROKEN),
    "an order of the old process's": (
        "ids, _ = offered(); say(m.Commit(ids)); hang()",
        f"{BROKEN}Commit in phase moving",
    ),
    "garbage after the commit": ("committed(); raw(b'garbage'); hang()", BROKEN),
    "descriptors that are sent back": (
        "ids, fds = offered()\nfor _ in range(50): say(m.Ended([]), *fds)\nsay(m.Accept(ids), *fds); hear(m.Commit)",
        "new-exited: ",
    ),
    "nothing that is read": ("ready(); signal.pause()", "new-hung: "),
    "endings without end": (
        "ids, _ = offered()\nfor n in range(5000): say(m.Ended(list(range(n, n + 100))))\nraw(b'')",
        BROKEN,
    ),
    "another process's words": (
        "ids, _ = offered()\nif os.fork() == 0:\n    say(m.Accept(ids)); os._exit(0)\nhang()",
        f"{BROKEN}process ",
    ),
    "another user's words": (
        "ids, fds = offered()\nif os.fork() == 0:\n    os.setuid(65534); say(m.Accept(ids), *fds); os._exit(0)\nhang()",
        f"{BROKEN}process ",
    ),
}
"""What a liar may say when it is offered sessions, and the reason that the operator gets."""


def test_what_a_new_process_says_wrong_while_sessions_move_costs_no_client_anything(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, Deceived(tmp_path, service).watched() as deceived:
        for name, (source, reason) in OFFERED.items():
            fields = {"deadline": 3.0} if reason.startswith("new-hung") else {}  # also for an answer
            said = deceived.lie(source, **fields)
            assert said.startswith(reason), f"{name}: {said!r}"
        assert "Traceback" not in service.logged()


NOT_A_NEWCOMER = {
    "a pipe": "os.pipe()[0]",
    "a file": "os.open('/etc/passwd', os.O_RDONLY)",
    "the channel": "channel",
    "what the old process has offered": "descriptors[0]",
    "the listening socket": "sockets(listening=True)[0].fileno()",
    "a socket without a peer": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()",
}


@pytest.mark.parametrize("end", ["hang()", "hear(m.Finish)"], ids=["hangs", "dies"])
def test_what_is_no_connection_is_not_taken_for_one_that_the_new_process_accepted(tmp_path: Path, end: str) -> None:
    with harness.counter(tmp_path) as service, Deceived(tmp_path, service).watched() as deceived:
        for name, fd in NOT_A_NEWCOMER.items():
            said = deceived.lie(
                f"ids, descriptors = committed()\nfd = {fd}\n"
                "try: name = cookie(fd)\n"
                "except OSError: name = 7\n"
                f"say(m.Newcomer(name, 1 << 20, 'here'), fd)\n{end}"
            )
            assert said.startswith(f"{BROKEN}a newcomer"), f"{name}: {said!r}"
        assert "Traceback" not in service.logged()


def test_a_new_process_that_spoils_the_sockets_which_it_shares_has_spoilt_nothing_when_it_is_gone(
    tmp_path: Path,
) -> None:
    with harness.counter(tmp_path) as service, Deceived(tmp_path, service).watched() as deceived:
        for how in (
            "for sock in sockets(listening=False) + sockets(listening=True): sock.setblocking(True)",
            "for sock in sockets(listening=True): sock.shutdown(socket.SHUT_RDWR)",
        ):
            with (
                service.connect() as glutton
            ):  # who reads nothing but the greeting, and is owed more than the kernel takes
                assert glutton.recv(6, socket.MSG_WAITALL) == b"hello\n"
                said = deceived.lie(f"committed()\n{how}")
                assert said.startswith("new-exited: the new process exited with status 0"), said
                glutton.settimeout(1)
                with suppress(TimeoutError):
                    glutton.sendall((b"x" * 60_000 + b"\n") * 400)
                deceived.unharmed("beside a client that reads nothing")
        assert "listening-again" in service.logged()


CHANNELS = (
    "os.pipe()[0]",
    "os.open('/etc/passwd', os.O_RDONLY)",
    "sockets(listening=True)[0].fileno()",
    "channel",
    "os.eventfd(1)",
)
"""What may come as an end of a channel and is none, or the wrong one."""


def test_a_channel_to_a_neighbour_that_is_none_is_dropped(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, Deceived(tmp_path, service).watched() as deceived:
        for fd in CHANNELS:
            said = deceived.lie(f"offered(); say(m.Newest(1, 3), {fd}); raw(b'garbage'); hang()")
            assert said.startswith(BROKEN), (fd, said)
        assert "Traceback" not in service.logged()
        assert "what it has sent is no channel" in service.logged()


AT_RANDOM = """
import random
rng = random.Random({seed})
ids, fds = committed() if rng.random() < 0.5 else offered()
origin = bytes(8)
def number(): return rng.choice([0, 1, 2, *ids, 1 << 20, 1 << 30])
def vector(): return [(rng.randbytes(8), number()) for _ in range(rng.randrange(4))]
MAKE = [
    lambda: m.Accept(rng.sample(ids, rng.randrange(len(ids) + 1))), lambda: m.Ended([]),
    lambda: m.Ended([rng.getrandbits(60)]), lambda: m.Newcomer(number(), number(), "x"), lambda: m.Linked(),
    lambda: m.Holds([str(number())], rng.random() < 0.5), lambda: m.Released("x"), lambda: m.Wanted(str(number())),
    lambda: m.Newest(1 + number(), number()), lambda: m.Elder(1 + number(), number()), lambda: m.Replaced(),
    lambda: m.Handover(), lambda: m.BusPast(origin, number(), "x", b"y"), lambda: m.BusJoin(vector(), vector()),
    lambda: m.BusWelcome(vector()), lambda: m.Publish(origin, number(), "x", b"y"), lambda: m.BusCut(),
    lambda: m.Published(number(), number(), origin, number(), "x", b"y"), lambda: m.BusSeen(number(), number()),
    lambda: m.Refuse([m.Refusal(i, rng.choice(["x", "state-decode"]), "no") for i in rng.sample(ids, 1)]),
]
for _ in range(30):
    say(rng.choice(MAKE)(), *rng.sample(fds, rng.choice([0, 0, 0, 1]) if fds else 0))
raw(b"garbage")
hang()
"""
"""A liar that says what a new process may say, in no order; but that what it owns is over, which is its own affair."""


@pytest.mark.parametrize(
    "seeds", [range(12), pytest.param(range(12, 1000), marks=[pytest.mark.long, PATIENT])], ids=str
)
def test_messages_in_no_order_cost_no_client_anything(tmp_path: Path, seeds: range) -> None:
    with harness.counter(tmp_path) as service, Deceived(tmp_path, service).watched() as deceived:
        for seed in seeds:
            said = deceived.lie(AT_RANDOM.format(seed=seed))
            assert said.startswith((BROKEN, "x: no", "state-decode: no")), (seed, said)
            assert "Traceback" not in service.logged(), seed
