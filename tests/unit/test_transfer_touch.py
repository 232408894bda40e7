"""The touch map: what one process marks the other sees."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hotfd import _core
from hotfd.transfer.touch import NEWCOMERS, TOUCH_SIZE, TouchMap
from tests.unit.wire_support import nothing_stays_open

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@contextmanager
def created() -> Iterator[tuple[TouchMap, int]]:
    touch, fd = TouchMap.create()
    try:
        yield touch, fd
    finally:
        touch.close()
        os.close(fd)


def test_a_fresh_map_is_untouched_from_end_to_end() -> None:
    with created() as (touch, _):
        assert not any(touch.touched(slot) for slot in (0, 1, NEWCOMERS - 1, NEWCOMERS, TOUCH_SIZE - 1))


def test_a_mark_touches_its_slot_alone_and_stays() -> None:
    with created() as (touch, _):
        touch.mark(5)
        touch.mark(5)
        assert [slot for slot in range(10) if touch.touched(slot)] == [5]


def test_rest_is_a_touch_too_and_is_over_with_the_next_one() -> None:
    with created() as (touch, _):
        assert not touch.at_rest(5)
        touch.mark(5)
        assert not touch.at_rest(5)
        touch.rest(5)
        assert [(slot, touch.touched(slot)) for slot in range(10) if touch.at_rest(slot)] == [(5, True)]
        touch.mark(5)
        assert (touch.touched(5), touch.at_rest(5)) == (True, False)


def test_a_slot_outside_of_the_map_is_never_at_rest() -> None:
    with created() as (touch, _):
        touch.rest(TOUCH_SIZE)
        assert not touch.at_rest(TOUCH_SIZE)
        assert not touch.touched(0)


def test_a_slot_outside_of_the_map_counts_as_touched() -> None:
    with created() as (touch, _):
        assert touch.touched(TOUCH_SIZE)
        assert touch.touched(1 << 40)
        touch.mark(TOUCH_SIZE)
        assert not touch.touched(0)


MARK = """
import mmap, sys
mmap.mmap(int(sys.argv[1]), int(sys.argv[2]), mmap.MAP_SHARED)[int(sys.argv[3])] = 1
"""


def test_what_another_process_marks_is_seen_here_after_its_death() -> None:
    with created() as (touch, fd):
        command = [sys.executable, "-S", "-c", MARK, str(fd), str(TOUCH_SIZE), str(NEWCOMERS + 3)]
        subprocess.run(command, pass_fds=[fd], check=True)
        assert touch.touched(NEWCOMERS + 3)
        assert not touch.touched(NEWCOMERS + 2)


def test_what_is_marked_in_a_fork_is_seen_by_its_parent() -> None:
    with created() as (touch, _):
        child = os.fork()
        if child == 0:
            touch.mark(9)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert touch.touched(9)


def test_the_other_side_maps_the_same_bytes() -> None:
    with created() as (touch, fd):
        other = TouchMap.open(fd)
        other.mark(1)
        touch.mark(2)
        assert touch.touched(1)
        assert other.touched(2)
        other.close()
        other.close()


def test_the_map_outlives_its_descriptor() -> None:
    touch, fd = TouchMap.create()
    os.close(fd)
    touch.mark(1)
    assert touch.touched(1)
    touch.close()


def test_memory_that_can_still_shrink_is_no_touch_map() -> None:
    fd = os.memfd_create("shrinks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, TOUCH_SIZE)
    with pytest.raises(ValueError, match="not shared memory"):
        TouchMap.open(fd)
    os.close(fd)


@pytest.mark.parametrize("size", [0, TOUCH_SIZE + mmap.PAGESIZE])
def test_memory_of_an_impossible_size_is_no_touch_map(size: int) -> None:
    fd = _core.memfd_shared("size", size)
    with pytest.raises(ValueError, match=r"larger than|empty file"):
        TouchMap.open(fd)
    os.close(fd)


def test_the_size_of_a_map_cannot_be_changed_by_the_other_side() -> None:
    with created() as (_, fd):
        for size in (0, TOUCH_SIZE + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
