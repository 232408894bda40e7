"""The order of the bus: its bounds, who is given up, and what is kept for whom. Its exploration is a file of its own."""

from __future__ import annotations

from typing import Any

import pytest

from hotfd.server import order_links, order_log
from hotfd.server.order import ACK_EVERY, Order
from hotfd.server.order_log import Entry, Log
from hotfd.wire import messages as m


class End:
    """One end of a link whose messages the test carries."""

    def __init__(self, *, newer: bool) -> None:
        self.newer = newer
        self.said: list[m.Message] = []
        self.deaf = False

    def send(self, message: m.Message) -> None:
        if self.deaf:
            raise BufferError
        self.said.append(message)


class Node:
    def __init__(self, name: str) -> None:
        self.got: list[str] = []
        self.order = Order(name.encode().ljust(8), self.applied)

    def applied(self, entry: Entry) -> None:
        self.got.append(entry.topic)

    def publish(self, *topics: str) -> None:
        for topic in topics:
            self.order.publish(topic, b"value")


class Pair:
    """An older process and a newer one, and what is between them."""

    def __init__(self, *, joined: bool = True) -> None:
        self.old, self.new = Node("old"), Node("new")
        self.up, self.down = End(newer=True), End(newer=False)  # the older one's link, and the newer one's
        self.new.order.wait()
        self.old.order.connected(self.up)
        self.new.order.connected(self.down)
        if joined:
            self.carry()

    def carry_up(self, count: int | None = None) -> None:
        for message in self.up.said[:count]:
            assert self.new.order.received(self.down, message)
        del self.up.said[:count]

    def carry_down(self, count: int | None = None) -> None:
        for message in self.down.said[:count]:
            assert self.old.order.received(self.up, message)
        del self.down.said[:count]

    def carry(self) -> None:
        while self.up.said or self.down.said:
            self.carry_up()
            self.carry_down()


def kinds(messages: list[m.Message]) -> list[type[Any]]:
    return [type(message) for message in messages]


def test_a_process_alone_applies_at_once_and_keeps_nothing() -> None:
    node = Node("one")
    node.publish("a", "b")
    assert node.got == ["a", "b"]
    assert len(node.order.log) == 0
    assert node.order.room


def test_a_new_process_applies_nothing_before_it_knows_where_the_order_stands() -> None:
    pair = Pair(joined=False)
    pair.new.publish("early")
    pair.old.publish("late")
    assert pair.new.got == pair.old.got == []
    pair.carry()
    assert pair.new.got == pair.old.got == ["early", "late"]


def test_a_new_process_that_nobody_links_begins_by_itself() -> None:
    node = Node("one")
    node.order.wait()
    node.publish("a")
    node.order.open()
    node.order.open()
    assert node.got == ["a"]


def test_a_new_process_whose_old_one_dies_before_it_has_said_anything_begins_by_itself() -> None:
    pair = Pair(joined=False)
    pair.new.publish("a")
    pair.new.order.disconnected(pair.down)
    assert pair.new.got == ["a"]


def test_what_was_pending_is_applied_when_the_newer_process_is_gone() -> None:
    pair = Pair()
    pair.old.publish("a", "b")
    assert pair.old.got == []
    pair.old.order.disconnected(pair.up)
    assert pair.old.got == ["a", "b"]
    assert pair.old.order.root


# ---------------------------------------------------------------- bounds


def test_no_more_than_a_window_is_on_its_way_down() -> None:
    pair = Pair()
    pair.new.publish(*["x"] * (order_links.WINDOW + 100))
    assert len(pair.down.said) == order_links.WINDOW
    pair.carry()
    assert len(pair.old.got) == order_links.WINDOW + 100


def test_no_more_than_a_window_is_on_its_way_up() -> None:
    pair = Pair()
    pair.old.publish(*["x"] * (order_links.WINDOW + 100))
    assert len(pair.up.said) == order_links.WINDOW
    pair.carry()
    assert len(pair.new.got) == order_links.WINDOW + 100


@pytest.mark.parametrize("upwards", [True, False])
def test_the_window_is_one_of_bytes_as_well(upwards: bool) -> None:
    pair = Pair()
    node, end = (pair.old, pair.up) if upwards else (pair.new, pair.down)
    value = bytes(m.MAX_VALUE)
    fits = order_links.WINDOW_BYTES // m.MAX_VALUE
    for _ in range(2 * fits):
        node.order.publish("large", value)
    assert len(end.said) == fits
    pair.carry()
    assert len(pair.old.got) == len(pair.new.got) == 2 * fits


def test_publishers_wait_while_a_process_below_is_behind_and_go_on_when_it_is_not() -> None:
    pair = Pair()
    while pair.new.order.room:
        pair.new.publish("x")
    assert len(pair.new.order.log) == order_log.LOG_ENTRIES
    pair.carry()
    assert pair.new.order.room
    assert len(pair.new.order.log) < 2 * ACK_EVERY
    assert len(pair.old.order.log) == 0


def test_publishers_wait_for_bytes_as_well() -> None:
    pair = Pair()
    value = bytes(m.MAX_VALUE)
    while pair.new.order.room:
        pair.new.order.publish("large", value)
    assert len(pair.new.order.log) == order_log.LOG_BYTES // m.MAX_VALUE


def test_publishers_below_wait_while_the_root_says_nothing() -> None:
    pair = Pair()
    while pair.old.order.room:
        pair.old.publish("x")
    pair.up.said.clear()
    pair.old.order.disconnected(pair.up)
    assert pair.old.order.room
    assert len(pair.old.got) == order_links.PENDING


def test_no_more_origins_are_remembered_than_fit_a_record() -> None:
    node = Node("one")
    node.publish("mine")
    link = End(newer=False)
    node.order.connected(link)
    node.order.received(link, m.BusJoin([], []))
    for number in range(2 * m.MAX_ORIGINS):
        node.order.received(link, m.Publish(number.to_bytes(8, "big"), 1, "x", b""))
    assert len(node.order.applied) == m.MAX_ORIGINS
    assert node.order.token in node.order.applied


# ---------------------------------------------------------------- giving up


def test_a_process_that_keeps_all_others_waiting_is_cut_off_and_goes_on_by_itself() -> None:
    pair = Pair()
    while pair.new.order.room:
        pair.new.publish("x")
    pair.old.publish("waits")
    assert pair.new.order.cut(pair.new.order.log.first) == [pair.down]
    assert pair.new.order.room
    assert len(pair.new.order.log) == 0
    pair.carry_down()
    assert pair.old.order.root
    assert pair.old.got[-1] == "waits"
    pair.up.said.clear()
    pair.old.publish("alone")
    pair.new.publish("alone too")
    assert (pair.old.got[-1], pair.new.got[-1]) == ("alone", "alone too")
    assert not pair.up.said, "nothing is said to a neighbour that is none"


def test_who_is_not_behind_is_not_cut_off() -> None:
    pair = Pair()
    other = End(newer=False)
    pair.new.order.connected(other)
    pair.new.order.received(other, m.BusJoin([], []))
    other.said.clear()
    for _ in range(ACK_EVERY):
        pair.new.publish("x")
    pair.carry()
    assert pair.new.order.cut(pair.new.order.log.first) == [other]


def test_a_neighbour_that_reads_nothing_is_given_up() -> None:
    pair = Pair()
    pair.down.deaf = True
    pair.new.publish("a")
    pair.down.deaf = False
    pair.new.publish("b")
    assert pair.down.said == []
    pair.old.publish("c")
    pair.carry()
    assert pair.old.got == ["c"], "it was told that it is alone as soon as it spoke"
    assert pair.old.order.root


def test_a_message_that_was_dropped_on_the_way_makes_the_older_process_its_own_root() -> None:
    pair = Pair()
    pair.new.publish("a", "b")
    del pair.down.said[0]
    pair.old.publish("c")
    pair.carry()
    assert pair.old.got == ["c"]
    assert pair.old.order.root
    assert pair.new.order.cut(1) == [], "the newer one has given it up, too"


def test_a_message_of_a_former_neighbour_is_answered_with_an_end() -> None:
    node, stranger = Node("one"), End(newer=True)
    for message in (m.Published(1, 1, b"somebody", 1, "x", b""), m.BusWelcome([]), m.Publish(b"somebody", 1, "x", b"")):
        assert node.order.received(stranger, message)
    assert kinds(stranger.said) == [m.BusCut] * 3
    assert node.order.received(stranger, m.BusCut())
    assert len(stranger.said) == 3
    assert node.got == []
    node.order.disconnected(stranger)
    assert node.order.root


def test_what_is_not_for_the_bus_is_left_to_others() -> None:
    assert not Node("one").order.received(End(newer=True), m.Linked())


# ---------------------------------------------------------------- what is kept for whom


def test_what_is_held_keeps_its_place_until_it_is_released() -> None:
    node = Node("one")
    node.publish("before")
    mark = node.order.applied.copy()
    node.order.hold("session")
    node.publish("a", "b")
    assert [entry.topic for entry in node.order.since(mark)] == ["a", "b"]
    node.order.release("session")
    node.order.release("session")
    assert node.order.since(mark) == []


def test_a_process_with_a_session_on_its_way_lets_the_newer_one_keep_what_is_later() -> None:
    pair = Pair()
    pair.old.order.hold("session")
    mark = pair.old.order.applied.copy()
    pair.new.publish(*["x"] * 3 * ACK_EVERY)
    pair.carry()
    assert len(pair.new.order.since(mark)) == 3 * ACK_EVERY
    pair.old.order.release("session")
    pair.carry()
    assert len(pair.new.order.log) < ACK_EVERY


def test_a_session_in_custody_is_kept_what_it_needs_when_the_older_process_dies() -> None:
    pair = Pair()
    mark = pair.old.order.applied.copy()
    pair.new.publish("a")
    pair.new.order.hold("session", mark)
    pair.new.publish(*["x"] * 2 * order_log.MEMORY_ENTRIES)
    pair.new.order.disconnected(pair.down)
    pair.new.order.forget()
    assert pair.new.order.since(mark)[0].topic == "a"
    pair.new.order.release("session")
    assert len(pair.new.order.log) == 0


def test_what_a_gone_neighbour_may_lack_is_remembered_within_limits_and_then_forgotten() -> None:
    pair = Pair()
    pair.new.publish("a")
    pair.new.order.disconnected(pair.down)
    pair.new.publish("b")
    assert [entry.topic for entry in pair.new.order.log] == ["a", "b"]
    pair.new.publish(*["x"] * 2 * order_log.MEMORY_ENTRIES)
    assert len(pair.new.order.log) == order_log.MEMORY_ENTRIES
    assert pair.new.order.room
    pair.new.order.forget()
    assert len(pair.new.order.log) == 0


def test_many_holds_that_come_and_go_leave_nothing_behind() -> None:
    log = Log()
    log.hold("stays", 1)
    for number in range(1000):
        log.hold(number, 1 + number)
        log.release(number)
    log.append(b"origin", 1, "x", b"")
    log.trim()
    assert len(log) == 1
    log.release("stays")
    log.trim()
    assert len(log) == 0
    assert len(log._heap) < 100
