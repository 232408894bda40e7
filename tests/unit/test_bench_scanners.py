"""The benchmark of the scanners: all parsers find the same, and one that does not is noticed."""

from __future__ import annotations

import itertools
import random
from functools import partial
from pathlib import Path

import pytest

from hotfd.framing import Lines
from scripts.bench import parsers
from scripts.bench.settings import Settings
from scripts.bench.suites import scanners


def settings(tmp_path: Path) -> Settings:
    return Settings(rounds=1, quick=True, directory=tmp_path, say=lambda _text: None)


def test_the_suite_has_a_goal_for_each_peer_and_for_each_kind_of_load(tmp_path: Path) -> None:
    section = scanners.run(settings(tmp_path))
    contests, skipped = scanners.contests()
    assert section.skipped == skipped
    assert len(section.tables) == len(contests)
    others = len(scanners.KINDS) - 1
    assert len(section.goals) == sum(len(contest.peers) + (others if contest.peers else 0) for contest in contests)
    assert set(section.data) == {contest.framing for contest in contests}


def test_a_parser_that_loses_a_frame_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parsers.split
    monkeypatch.setattr(parsers, "split", lambda reads: whole(reads)[:-1])
    with pytest.raises(ValueError, match=r"bytes\.split finds other frames"):
        scanners.run(settings(tmp_path))


@pytest.mark.parametrize("contest", scanners.contests()[0], ids=lambda contest: contest.framing)
def test_all_parsers_find_the_same_however_the_bytes_are_cut(contest: scanners.Contest) -> None:
    chance = random.Random(7)
    payloads = [b"x" * chance.choice((0, 1, 5, 127, 128, 3000, 9000)) for _ in range(60)]
    wire = b"".join(map(contest.encode, payloads))
    cuts = sorted({0, len(wire), *(chance.randrange(len(wire)) for _ in range(80))})
    reads = [wire[begin:end] for begin, end in itertools.pairwise(cuts)]
    for name, parse in contest.parsers.items():
        assert parse(reads) == list(map(contest.meaning, payloads)), name


def test_a_parser_that_is_not_installed_is_skipped_with_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> parsers.Parse:
        raise ImportError("No module named 'hiredis'")

    monkeypatch.setattr(parsers, "_hiredis", missing)
    found, skipped = parsers.resp_peers()
    assert "hiredis" not in found
    assert any(line.startswith("hiredis: No module named") and "pip install" in line for line in skipped)


def test_a_time_is_of_the_processor_and_for_one_frame() -> None:
    run = scanners.case(partial(parsers.scanned, Lines()), [b"a\n" * 10], 10)
    ((name, (value, unit)),) = run().items()
    assert (name, unit) == (scanners.FIGURE, "s")
    assert 0 < value < 1
