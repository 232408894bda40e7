"""The worker: it tries again, less and less often, and leaves nothing in the spool that came while it was at it."""

import os
from contextlib import contextmanager

import msgspec
import pytest

from hotfd.publish import worker as working
from hotfd.publish.install import Settings
from hotfd.publish.session import who
from hotfd.publish.spool import Spool
from hotfd.publish.worker import FIRST_WAIT, LONGEST_WAIT, Outcome, Worker


@pytest.fixture
def spool(tmp_path):
    return Spool(str(tmp_path))


@pytest.fixture
def work(spool, monkeypatch):
    """Let a worker work whose attempts end as is said; return what it has told the hook, and how long it has waited."""

    def go(*states, spool=spool):
        left, waited = list(states), []
        monkeypatch.setattr(Worker, "_attempt", lambda self, entry: Outcome(left.pop(0), [f"line of {entry.by}"]))
        monkeypatch.setattr(working.time, "sleep", waited.append)
        report, end = os.pipe()
        Worker(Settings("git", "/nowhere", "dir:/nowhere"), spool, end).work()
        with open(report, "rb") as file:
            told = msgspec.json.decode(file.read(), type=Outcome)
        assert left == [], "as many attempts as there are outcomes"
        assert spool.pending() is None or told.state == "busy"
        return told, waited

    return go


def test_it_tries_less_and_less_often_and_tells_the_first_outcome_alone(spool, work):
    spool.add(rewritten=False, by="ann \x1b")
    told, waited = work(*["waiting"] * 8, "published")
    assert told == Outcome("waiting", ["line of ann ?"])
    assert waited[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert waited[-2:] == [LONGEST_WAIT, LONGEST_WAIT]


def test_what_is_refused_is_kept_until_something_is_published(spool, work):
    spool.add(rewritten=False, by="ann")
    work("refused")
    assert spool.refused() == "line of ann"
    spool.add(rewritten=False, by="bob")
    work("published")
    assert spool.refused() == ""


def test_what_comes_while_it_lets_go_of_its_lock_is_published_by_it(tmp_path, work):
    class Late(Spool):
        """Somebody commits after the last look, and his own worker still sees the lock."""

        late = ("bob",)

        @contextmanager
        def alone(self):
            with super().alone() as mine:
                yield mine
                for by in self.late:
                    self.add(rewritten=False, by=by)
                self.late = ()

    spool = Late(str(tmp_path))
    spool.add(rewritten=False, by="ann")
    told, _ = work("published", "published", spool=spool)
    assert told.lines == ["line of ann"]


def test_a_second_worker_leaves_everything_to_the_first(spool, work):
    spool.add(rewritten=False, by="ann")
    with spool.alone():
        told, _ = work()
    assert told.state == "busy"


def test_whoever_a_web_server_has_let_in_can_be_written_down(spool, monkeypatch):
    monkeypatch.setenv("REMOTE_USER", "ann\udcff\x1b" + "x" * 100_000)
    spool.add(rewritten=True, by=who())
    entry = spool.pending()
    assert entry.rewritten
    assert entry.by.startswith("ann??xxx")


def test_where_nothing_is_to_be_done_nothing_is_attempted(work):
    assert work() == (Outcome("published", []), [])
