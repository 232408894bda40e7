"""The Telnet protocol and the editing of lines: every way to say something, and no way to say it for ever."""

from __future__ import annotations

import random

import pytest

from hotfd.console.editing import MAX_KEYS, MAX_LINE, Editor
from hotfd.console.telnet import (
    DO,
    DONT,
    ECHO,
    IAC,
    MAX_COMMANDS,
    SB,
    SE,
    SUPPRESS_GO_AHEAD,
    WILL,
    WONT,
    Signal,
    Telnet,
    TooMuch,
    encode,
)

TIMING_MARK, LINEMODE, TERMINAL_TYPE = 6, 34, 24


def command(*octets: int) -> bytes:
    return bytes((IAC, *octets))


def received(telnet: Telnet, data: bytes) -> tuple[bytes, list[Signal]]:
    """Return the data and the signals in what is received."""
    events = list(telnet.receive(data))
    return b"".join(e for e in events if isinstance(e, bytes)), [e for e in events if isinstance(e, Signal)]


def entered(data: bytes, *, by: int = 1 << 20) -> list[str | Signal]:
    """Return the lines and signals that a client enters by sending so many bytes at a time."""
    telnet, editor = Telnet(), Editor()
    found: list[str | Signal] = []
    for at in range(0, len(data), by):
        for event in telnet.receive(data[at : at + by]):
            found += editor.feed(event)
    return found


# -- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [ECHO, TIMING_MARK, TERMINAL_TYPE, LINEMODE, 255])
def test_what_the_client_offers_is_refused_once_for_each_offer(option: int) -> None:
    telnet = Telnet()
    assert received(telnet, command(WILL, option)) == (b"", [])
    assert telnet.take_replies() == command(DONT, option)
    received(telnet, command(WONT, option))
    assert telnet.take_replies() == b""


@pytest.mark.parametrize("option", [ECHO, TIMING_MARK, LINEMODE, 255])
def test_what_the_client_asks_for_is_refused(option: int) -> None:
    telnet = Telnet()
    received(telnet, command(DO, option) + command(DONT, option))
    assert telnet.take_replies() == command(WONT, option)


def test_suppress_go_ahead_is_agreed_to_once() -> None:
    telnet = Telnet()
    received(telnet, command(DO, SUPPRESS_GO_AHEAD) * 3)
    assert telnet.take_replies() == command(WILL, SUPPRESS_GO_AHEAD)
    received(telnet, command(DONT, SUPPRESS_GO_AHEAD) * 3)
    assert telnet.take_replies() == command(WONT, SUPPRESS_GO_AHEAD)


def test_hiding_the_input_is_asked_for_and_taken_back() -> None:
    telnet = Telnet()
    telnet.hide_input(True)
    assert telnet.take_replies() == command(WILL, ECHO)
    received(telnet, command(DO, ECHO))
    assert telnet.take_replies() == b"", "an answer is not answered"
    telnet.hide_input(False)
    assert telnet.take_replies() == command(WONT, ECHO)
    received(telnet, command(DONT, ECHO))
    assert telnet.take_replies() == b""


def test_a_wish_that_changes_before_its_answer_is_told_after_it() -> None:
    telnet = Telnet()
    telnet.hide_input(True)
    telnet.hide_input(False)
    telnet.hide_input(True)
    telnet.hide_input(False)
    assert telnet.take_replies() == command(WILL, ECHO)
    received(telnet, command(DO, ECHO))
    assert telnet.take_replies() == command(WONT, ECHO)
    telnet.hide_input(True)
    assert telnet.take_replies() == b""
    received(telnet, command(DONT, ECHO))
    assert telnet.take_replies() == command(WILL, ECHO)


def test_a_client_that_refuses_to_hide_its_input_is_left_in_peace() -> None:
    telnet = Telnet()
    telnet.hide_input(True)
    telnet.take_replies()
    received(telnet, command(DONT, ECHO))
    telnet.hide_input(False)
    assert telnet.take_replies() == b""


def test_two_ends_never_negotiate_for_ever() -> None:
    choice = random.Random(1143)
    for _ in range(500):
        telnet, due = Telnet(), b""
        for _ in range(30):
            if choice.random() < 0.5:
                telnet.hide_input(choice.random() < 0.5)
            due += command(choice.choice([DO, DONT, WILL, WONT]), choice.choice([ECHO, SUPPRESS_GO_AHEAD, 31]))
            received(telnet, due)
            due = b""
            # The peer answers each WILL and WONT as one that always agrees; that must die out.
            for _ in range(4):
                replies = telnet.take_replies()
                answers = {WILL: DO, WONT: DONT}
                for at in range(0, len(replies), 3):
                    if replies[at + 1] in answers:
                        received(telnet, command(answers[replies[at + 1]], replies[at + 2]))
            assert telnet.take_replies() == b""


# -- data and signals -----------------------------------------------------------------------------------


def test_data_comes_without_commands_and_a_doubled_255_is_one() -> None:
    telnet = Telnet()
    data = b"a" + command(IAC) + b"b" + command(WILL, 31) + b"c" + command(241) + b"d"
    assert received(telnet, data) == (b"a\xffbcd", [])


def test_a_subnegotiation_is_skipped_with_all_that_is_in_it() -> None:
    telnet = Telnet()
    data = b"a" + command(SB, TERMINAL_TYPE) + b"\0xterm\r\n" + command(IAC) + b"x" + command(SE) + b"b"
    assert received(telnet, data) == (b"ab", [])


@pytest.mark.parametrize("octet", [243, 244, 238])
def test_each_way_to_interrupt_is_one(octet: int) -> None:
    assert received(Telnet(), b"a" + command(octet) + command(242) + b"b") == (b"ab", [Signal.INTERRUPT])


def test_are_you_there_is_answered() -> None:
    telnet = Telnet()
    received(telnet, command(246))
    assert telnet.take_replies() == b"\r\n[yes]\r\n"


@pytest.mark.parametrize("flood", [command(241), command(WILL, 31), command(SB, 24) + b"x" * 2 * MAX_COMMANDS])
def test_commands_without_end_are_too_much(flood: bytes) -> None:
    telnet = Telnet()
    with pytest.raises(TooMuch):
        received(telnet, flood * MAX_COMMANDS)


def test_commands_are_counted_anew_for_each_line() -> None:
    telnet = Telnet()
    for _ in range(10):
        received(telnet, command(241) * (MAX_COMMANDS // 2))
        telnet.line_ended()


def test_text_is_sent_with_the_ends_of_line_of_the_network_terminal() -> None:
    assert encode("a\nä\n") == b"a\r\n\xc3\xa4\r\n"


# -- lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [1, 2, 3, 100])
@pytest.mark.parametrize("end", [b"\r\n", b"\r\0", b"\n", b"\r"])
def test_every_end_of_line_is_one_end_of_line(end: bytes, by: int) -> None:
    assert entered(end.join([b"one", b"", b"two", b""]), by=by) == ["one", "", "two"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (b"abx\x08c\n", "abc"),
        (b"abx\x7fc\n", "abc"),
        (b"ab\xc3\xa4\x7fc\n", "abc"),
        (b"\x7f\x08abc\n", "abc"),
        (b"xyz\x15abc\n", "abc"),
        (b"abx" + command(247) + b"c\n", "abc"),
        (b"xyz" + command(248) + b"abc\n", "abc"),
        (b"a\x00b\x1b\x07c\n", "abc"),
        (b"a\xc2\x9bbc\n", "abc"),
        (b"ab\xfec\n".replace(b"\xfe", command(IAC)), "ab\ufffdc"),
        (b"abc\x04\n", "abc"),
    ],
)
def test_what_is_typed_is_corrected_and_cleaned(typed: bytes, line: str) -> None:
    assert entered(typed) == [line]


def test_control_c_forgets_the_line_and_control_d_ends_where_nothing_is_typed() -> None:
    assert entered(b"abc\x03def\n\x04") == [Signal.INTERRUPT, "def", Signal.END]


def test_the_longest_line_is_taken_and_a_longer_one_is_too_much() -> None:
    assert entered(b"x" * MAX_LINE + b"\n") == ["x" * MAX_LINE]
    with pytest.raises(TooMuch):
        entered(b"x" * (MAX_LINE + 1))


@pytest.mark.parametrize("key", [b"\0", b"\b", b"\x15", b"\x03", b"x\b", b"\x1b"])
def test_keys_that_leave_nothing_in_the_line_are_too_much_when_they_never_end(key: bytes) -> None:
    assert entered(b"x" + key * 500 + b"\x15ok\n")[-1] == "ok"
    with pytest.raises(TooMuch, match="keys in one line"):
        entered(key * MAX_KEYS + b"x")
    editor = Editor()
    for _ in range(5):  # they are counted anew for each line
        list(editor.feed(key * (MAX_KEYS // len(key) - 1) + b"\n"))


def test_garbage_never_fails_otherwise_and_never_yields_what_drives_a_terminal() -> None:
    choice = random.Random(854)
    for _ in range(300):
        garbage = choice.randbytes(400)
        try:
            found = entered(garbage, by=choice.randint(1, 50))
        except TooMuch:
            continue
        assert all(entry.isprintable() for entry in found if isinstance(entry, str))
