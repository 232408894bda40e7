"""The spool: what is committed and not published is never lost, and never piles up."""

import logging
import os
import stat
import time

import pytest

from hotfd.publish.spool import MAX_REFUSAL, NAME, Spool
from hotfd.publish.worker import _Log


@pytest.fixture
def spool(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    yield Spool(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_entry_waits_until_it_is_done(spool):
    assert spool.pending() is None
    entry = spool.add(rewritten=False, by="ann")
    assert spool.pending() == entry
    spool.done(entry)
    assert spool.pending() is None


def test_an_entry_that_came_while_another_was_published_is_not_taken_away_with_it(spool):
    first = spool.add(rewritten=False, by="ann")
    second = spool.add(rewritten=False, by="bob")
    spool.done(first)
    assert spool.pending() == second


def test_many_entries_are_one_file_and_what_was_accepted_stays_accepted(spool):
    spool.add(rewritten=True, by="ann")
    for _ in range(10):
        spool.add(rewritten=False, by="bob")
    assert spool.pending().rewritten
    assert sorted(os.listdir(spool.directory)) == ["lock", "pending"]


def test_an_entry_that_cannot_be_read_stands_for_something_to_be_published(spool):
    with open(spool.path("pending"), "wb") as file:
        file.write(b"\xff half")
    entry = spool.pending()
    assert entry is not None
    spool.done(entry)
    assert spool.pending() is None


def test_there_is_one_worker(tmp_path, spool):
    with spool.alone() as mine, Spool(str(tmp_path)).alone() as other:
        assert (mine, other) == (True, False)
    with Spool(str(tmp_path)).alone() as mine:
        assert mine


def test_a_refusal_is_kept_within_bounds_until_something_was_published(spool):
    spool.refuse("x" * (2 * MAX_REFUSAL))
    assert spool.refused() == "x" * MAX_REFUSAL
    spool.refuse("")
    assert spool.refused() == ""


def test_a_hook_learns_how_long_the_one_before_it_has_taken_if_that_was_just_now(spool, monkeypatch):
    assert spool.held() is None
    spool.hold(0.75)
    assert spool.held() == 0.75
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now + 60)
    assert spool.held() is None
    with open(spool.path("held"), "w") as file:
        file.write("nonsense")
    assert spool.held() is None


@pytest.mark.parametrize(("mode", "wanted"), [(0o700, 0o700), (0o755, 0o750), (0o2775, 0o2770)])
def test_who_shares_the_repository_shares_the_spool_and_nobody_else_does(tmp_path, mode, wanted):
    tmp_path.chmod(mode)
    spool = Spool(str(tmp_path))
    assert stat.S_IMODE(os.stat(tmp_path / NAME).st_mode) == wanted
    spool.add(rewritten=False, by="")
    file_mode = stat.S_IMODE(os.stat(spool.path("pending")).st_mode)
    assert file_mode == (0o660 if mode & 0o020 else 0o600)


def test_a_write_that_fails_leaves_what_was_there(spool, monkeypatch):
    entry = spool.add(rewritten=False, by="ann")

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spool.add(rewritten=False, by="bob")
    assert spool.pending() == entry
    assert sorted(os.listdir(spool.directory)) == ["lock", "pending"]


def test_who_shares_the_repository_can_write_the_log_also_after_it_has_begun_anew(tmp_path):
    tmp_path.chmod(0o2775)
    spool = Spool(str(tmp_path))
    before = os.umask(0o077)
    try:
        os.close(spool.open_log())
        assert stat.S_IMODE(os.stat(spool.path("log")).st_mode) == 0o660
        handler = _Log(spool)
        handler.doRollover()
        handler.emit(logging.makeLogRecord({"msg": "anew"}))
        handler.close()
    finally:
        os.umask(before)
    assert [stat.S_IMODE(os.stat(spool.path(name)).st_mode) for name in ("log", "log.1")] == [0o660, 0o660]
    with open(spool.path("log")) as log:
        assert log.read() == "anew\n"
