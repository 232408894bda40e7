"""The directory of shared sessions: every verdict and every message, one process with links that the test plays."""

from __future__ import annotations

import pytest

from hotfd.server.directory import KEYS_PER_MESSAGE, Directory, Verdict
from hotfd.wire import messages as m


class Neighbour:
    """A link of which the test sees what is sent."""

    def __init__(self, *, newer: bool) -> None:
        self.newer = newer
        self.heard: list[m.Message] = []

    def send(self, message: m.Message) -> None:
        m.encode(message)  # what does not fit a packet is a mistake
        self.heard.append(message)

    def taken(self) -> list[m.Message]:
        heard, self.heard = self.heard, []
        return heard


class Process:
    """A directory, and what it is told and tells."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.woken: list[str | None] = []
        self.wanted: list[str] = []
        self.directory = Directory(lambda: self.held, self.woken.append, self.wanted.append)

    def linked(self, *, newer: bool) -> Neighbour:
        link = Neighbour(newer=newer)
        self.directory.connected(link)  # type: ignore[arg-type]
        return link

    def older(self, *keys: str) -> Neighbour:
        """An older process that has said what it holds."""
        link = self.linked(newer=False)
        self.hears(link, m.Holds(list(keys), last=True))
        return link

    def hears(self, link: Neighbour, message: m.Message) -> None:
        assert self.directory.received(link, message)  # type: ignore[arg-type]

    def loses(self, link: Neighbour) -> None:
        self.directory.disconnected(link)  # type: ignore[arg-type]

    def verdict(self, key: str) -> Verdict:
        return self.directory.verdict(key)


@pytest.fixture
def process() -> Process:
    return Process()


# ---------------------------------------------------------------- verdicts


def test_a_process_alone_makes_what_is_not_there(process: Process) -> None:
    assert process.verdict("a") is Verdict.CREATE


def test_who_has_a_newer_neighbour_makes_nothing(process: Process) -> None:
    process.linked(newer=True)
    assert process.verdict("a") is Verdict.MOVE
    assert process.woken == [None], "who waits may have to move now"


def test_when_the_newer_one_dies_before_it_has_settled_this_one_makes_sessions_again(process: Process) -> None:
    process.loses(process.linked(newer=True))
    assert process.verdict("a") is Verdict.CREATE


def test_when_the_newer_one_dies_later_nobody_decides(process: Process) -> None:
    newer = process.linked(newer=True)
    process.directory.replaced()
    assert process.verdict("a") is Verdict.MOVE
    process.loses(newer)
    assert process.verdict("a") is Verdict.ORPHANED


def test_of_two_newer_neighbours_either_is_enough_to_make_nothing(process: Process) -> None:
    first = process.linked(newer=True)
    second = process.linked(newer=True)
    process.loses(first)
    assert process.verdict("a") is Verdict.MOVE
    process.loses(second)
    assert process.verdict("a") is Verdict.CREATE


def test_nothing_is_made_before_the_predecessor_has_said_everything(process: Process) -> None:
    older = process.linked(newer=False)
    assert process.verdict("c") is Verdict.WAIT
    process.hears(older, m.Holds(["a"], last=False))
    assert process.verdict("c") is Verdict.WAIT
    process.hears(older, m.Holds(["b"], last=True))
    assert process.verdict("c") is Verdict.CREATE
    assert process.verdict("a") is Verdict.WAIT
    assert None in process.woken


def test_one_that_was_introduced_and_says_nothing_holds_up_no_other_keys(process: Process) -> None:
    process.older("a")
    process.linked(newer=False)
    assert process.verdict("new") is Verdict.CREATE


def test_when_the_predecessor_dies_before_it_has_said_everything_all_others_must_have_spoken(process: Process) -> None:
    predecessor = process.linked(newer=False)
    first, second = process.linked(newer=False), process.linked(newer=False)
    process.loses(predecessor)
    process.hears(first, m.Holds([], last=True))
    assert process.verdict("a") is Verdict.WAIT
    process.hears(second, m.Holds([], last=True))
    assert process.verdict("a") is Verdict.CREATE


# ---------------------------------------------------------------- keys below


def test_a_key_of_an_older_process_is_free_when_that_lets_it_go(process: Process) -> None:
    older = process.older("a", "b")
    process.woken.clear()
    process.hears(older, m.Released("a"))
    assert process.verdict("a") is Verdict.CREATE
    assert process.verdict("b") is Verdict.WAIT
    assert process.woken == ["a"]


def test_a_key_of_an_older_process_is_free_when_that_dies(process: Process) -> None:
    older = process.older("a")
    process.woken.clear()
    process.loses(older)
    assert process.verdict("a") is Verdict.CREATE
    assert "a" in process.woken


def test_a_release_of_what_the_sender_does_not_have_changes_nothing(process: Process) -> None:
    process.older("a")
    other = process.older()
    process.hears(other, m.Released("a"))
    assert process.verdict("a") is Verdict.WAIT


def test_a_key_that_two_have_named_is_free_when_both_have_let_it_go(process: Process) -> None:
    middle, oldest = process.older("a"), process.older("a")
    process.hears(middle, m.Released("a"))
    assert process.verdict("a") is Verdict.WAIT
    process.hears(oldest, m.Released("a"))
    assert process.verdict("a") is Verdict.CREATE


@pytest.mark.parametrize("how", ["lets it go", "dies"])
def test_a_key_that_one_lets_go_may_be_with_one_who_has_not_spoken(process: Process, how: str) -> None:
    middle = process.older("a", "b")
    oldest = process.linked(newer=False)
    if how == "dies":
        process.loses(middle)
    else:
        process.hears(middle, m.Released("a"))
        process.hears(middle, m.Released("b"))
    assert process.verdict("a") is Verdict.WAIT
    assert process.verdict("b") is Verdict.WAIT
    process.woken.clear()
    process.hears(oldest, m.Holds(["a"], last=True))
    assert process.verdict("a") is Verdict.WAIT
    assert process.verdict("b") is Verdict.CREATE
    assert "b" in process.woken
    process.hears(oldest, m.Released("a"))
    assert process.verdict("a") is Verdict.CREATE


def test_a_doubtful_key_is_free_when_the_silent_one_dies(process: Process) -> None:
    middle = process.older("a")
    oldest = process.linked(newer=False)
    process.loses(middle)
    process.loses(oldest)
    assert process.verdict("a") is Verdict.CREATE


def test_what_has_arrived_is_nobody_elses_any_more(process: Process) -> None:
    older = process.older("a")
    process.held.append("a")
    process.directory.arrived("a")
    assert process.woken[-1] == "a"
    process.hears(older, m.Holds(["a"], last=True))  # said before it was given away, and read late
    process.held.remove("a")
    process.directory.released("a")
    assert process.verdict("a") is Verdict.CREATE


def test_what_one_says_who_is_no_neighbour_any_more_is_of_no_account(process: Process) -> None:
    older = process.older()
    process.loses(older)
    process.hears(older, m.Holds(["a"], last=True))
    assert process.verdict("a") is Verdict.CREATE
    process.hears(older, m.Released("a"))
    assert process.verdict("a") is Verdict.CREATE


# ---------------------------------------------------------------- asking


def test_holders_are_asked_once(process: Process) -> None:
    middle, oldest = process.older("a"), process.older("a")
    for _ in range(3):
        assert process.verdict("a") is Verdict.WAIT
    assert middle.taken() == oldest.taken() == [m.Wanted("a")]


def test_a_new_holder_is_asked_again(process: Process) -> None:
    middle = process.older("a")
    oldest = process.linked(newer=False)
    process.verdict("a")
    process.loses(middle)
    process.hears(oldest, m.Holds(["a"], last=True))
    process.verdict("a")
    assert oldest.taken() == [m.Wanted("a")]


def test_a_question_goes_on_to_whom_the_key_was_heard_of_and_to_this_process(process: Process) -> None:
    older = process.older("a")
    newer = process.linked(newer=True)
    process.hears(newer, m.Wanted("a"))
    process.hears(newer, m.Wanted("b"))
    assert older.taken() == [m.Wanted("a")]
    assert process.wanted == ["a", "b"]


# ---------------------------------------------------------------- what a newer one is told


def test_a_newer_one_is_told_what_is_here_and_below_and_in_doubt(process: Process) -> None:
    middle = process.older("below", "doubtful")
    process.linked(newer=False)
    process.hears(middle, m.Released("doubtful"))
    process.held.append("here")
    newer = process.linked(newer=True)
    assert newer.taken() == [m.Holds(["here", "below", "doubtful"], last=True)]


def test_a_newer_one_that_was_introduced_before_is_told_nothing_twice(process: Process) -> None:
    newer = process.linked(newer=True)
    newer.taken()
    process.directory.connected(newer)  # type: ignore[arg-type]
    assert newer.taken() == []


def test_an_older_one_that_was_introduced_and_has_spoken_need_not_speak_twice(process: Process) -> None:
    process.older()
    older = process.older("a")
    process.directory.connected(older)  # type: ignore[arg-type]
    process.hears(older, m.Released("a"))
    assert process.verdict("a") is Verdict.CREATE


def test_all_newer_ones_learn_what_ends_here_and_below_and_what_is_found_below(process: Process) -> None:
    older = process.older("a")
    silent = process.linked(newer=False)
    newer = [process.linked(newer=True), process.linked(newer=True)]
    for one in newer:
        one.taken()
    process.directory.released("here")
    process.hears(silent, m.Holds(["b"], last=True))
    process.hears(older, m.Released("a"))
    process.loses(silent)
    for one in newer:
        assert one.taken() == [m.Released("here"), m.Holds(["b"], last=True), m.Released("a"), m.Released("b")]


def test_a_list_is_not_complete_for_a_newer_one_before_it_is_so_here(process: Process) -> None:
    older = process.linked(newer=False)
    newer = process.linked(newer=True)
    assert newer.taken() == [m.Holds([], last=False)]
    process.hears(older, m.Holds(["a"], last=False))
    assert newer.taken() == [m.Holds(["a"], last=False)]
    process.hears(older, m.Holds([], last=True))
    assert newer.taken() == [m.Holds([], last=True)]


def test_when_the_only_older_one_dies_in_the_midst_of_its_list_that_is_complete(process: Process) -> None:
    older = process.linked(newer=False)
    newer = process.linked(newer=True)
    process.hears(older, m.Holds(["a"], last=False))
    newer.taken()
    process.loses(older)
    assert newer.taken() == [m.Released("a"), m.Holds([], last=True)]


@pytest.mark.parametrize(
    "keys",
    [
        [f"key-{number}" for number in range(KEYS_PER_MESSAGE)],
        [f"key-{number}" for number in range(5 * KEYS_PER_MESSAGE + 1)],
        [chr(0x1F600 + number) * 255 for number in range(300)],
        [f"{number:0255}" for number in range(1000)],
    ],
    ids=["as-many-as-fit", "many", "of-the-longest-letters", "long"],
)
def test_long_lists_are_cut_to_packets_and_lose_nothing(process: Process, keys: list[str]) -> None:
    process.held = keys
    said = process.linked(newer=True).taken()
    lists = [message for message in said if isinstance(message, m.Holds)]
    assert [key for part in lists for key in part.keys] == keys
    assert [part.last for part in lists] == [False] * (len(lists) - 1) + [True]
    assert all(len(m.encode(part)) <= m.MAX_PACKET and m.decode(m.encode(part)) == part for part in lists)


# ---------------------------------------------------------------- what is not for it


@pytest.mark.parametrize("message", [m.Holds(["a"], last=True), m.Released("a")], ids=["holds", "released"])
def test_what_only_an_older_one_may_say_is_refused_from_a_newer_one(process: Process, message: m.Message) -> None:
    newer = process.linked(newer=True)
    assert not process.directory.received(newer, message)  # type: ignore[arg-type]


def test_what_only_a_newer_one_may_say_is_refused_from_an_older_one(process: Process) -> None:
    older = process.older("a")
    assert not process.directory.received(older, m.Wanted("a"))  # type: ignore[arg-type]


@pytest.mark.parametrize("message", [m.Linked(), m.Replaced(), m.BusCut()], ids=lambda message: type(message).__name__)
def test_what_concerns_others_is_left_to_them(process: Process, message: m.Message) -> None:
    assert not process.directory.received(process.older(), message)  # type: ignore[arg-type]
