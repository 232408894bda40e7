"""Configuration as people and monitoring read it."""

from __future__ import annotations

import re

import pytest

from hotfd.config.release import Event, Release
from hotfd.config.survey import survey
from hotfd.console.commands import show
from hotfd.display import config, metrics
from hotfd.display.sessions import listing
from hotfd.display.status import details
from tests.unit.config_reports import DIGEST, NOW, canary, head, report

HOSTILE = 'x\x1b[2J\n"\\\u202e\udcff'
"""What a client, a committer or a broken server may put into a name."""


def hostile_survey():
    newest = head(12, canary(13, zones=("eu-1",)), by=HOSTILE, reason=HOSTILE)
    bad = report(13, "refused", zone="eu-1", host=HOSTILE, service=HOSTILE, faults=(HOSTILE,), pinned={11: 3})
    return {"arena": survey(newest, [bad], [HOSTILE], NOW)}


def printable_lines(lines):
    return all(line.isprintable() for line in lines)


# -- what a store says -----------------------------------------------------------------------------


def test_a_survey_is_told_with_its_servers_and_counted():
    reports = [
        report(13, zone="eu-1", pinned={11: 3, 12: 40}, generation=3),
        report(
            13, "refused", zone="eu-1", host="play4", faults=('damage.sword is "x"; expected an integer',), running=12
        ),
        report(11, zone="us", host="play2", sequence=19),
        report(12, host="play9", ago=1000),
    ]
    newest = head(12, canary(13, zones=("eu-1",), share=0.05), change="canary", reason="try it")
    lines = config.surveyed({"arena": survey(newest, reports, ["10.0.0.1:7400"], NOW)})
    assert lines[0] == "arena"
    assert lines[1:3] == [
        "  for all    version 12",
        "  canary     version 13 for zone eu-1 and 5 % of the new sessions elsewhere",
    ]
    assert lines[3].endswith(", published for some by anna@build: try it")
    assert lines[4:6] == ["  sequence   20", "  served by  10.0.0.1:7400"]
    assert [re.split(r" {2,}", line.strip()) for line in lines[7:10]] == [
        ["eu-1", "game", "play1:7", "3", "yes", "13", "running", "13", "11: 3, 12: 40", "20", "1 s ago"],
        ["eu-1", "game", "play4:7", "1", "refused", "13", "refused", "12", "-", "20", "1 s ago"],
        ["us", "game", "play2:7", "1", "not yet", "11", "running", "11", "-", "19 (behind)", "1 s ago"],
    ]
    assert lines[10:] == [
        "  version 13 is refused by game at play4:7",
        '    damage.sword is "x"; expected an integer',
        "  1 of 3 servers have it; 1 refused it; 1 not yet",
        "  1 that have gone are not shown; --all shows them",
    ]


def test_servers_that_have_gone_are_shown_when_they_are_asked_for():
    modules = {"arena": survey(head(), [report(ago=1000)], [], NOW)}
    assert not [line for line in config.surveyed(modules) if "play1" in line]
    assert [line for line in config.surveyed(modules, everybody=True) if "play1:7" in line and "gone" in line]


def test_what_was_halted_is_said():
    halted = head(12, change="halted", reason="refused by play4")
    lines = config.surveyed({"arena": survey(halted, [report()], [], NOW)})
    assert "refused by play4" in lines[2]
    assert lines[-1] == "  1 of 1 servers have it; the canary before it was halted, since a server refused it"


def test_a_store_without_releases_or_servers_says_so():
    assert config.surveyed({}) == ["nothing is published"]
    assert config.surveyed({"arena": survey(None, [], [], NOW)}) == [
        "arena",
        "  nothing is published",
        "  no server has reported",
    ]
    assert config.recorded([]) == ["nothing is published"]


def test_nothing_that_somebody_else_wrote_drives_the_terminal():
    release = Release("arena", 1, HOSTILE, HOSTILE, float("inf"), {HOSTILE: HOSTILE}, note=HOSTILE)
    event = Event("arena", 1, "published", 1, DIGEST, HOSTILE, 1e300, revision=HOSTILE, note=HOSTILE)
    answer = {
        "modules": {HOSTILE: {"running": HOSTILE, HOSTILE: 1, "refused": {"version": HOSTILE, "faults": [HOSTILE]}}}
    }
    difference = {"key": HOSTILE, "kind": "changed", "old": HOSTILE, "new": {HOSTILE: HOSTILE}}
    for lines in (
        config.surveyed(hostile_survey(), everybody=True),
        config.recorded([event]),
        config.release_head(release, HOSTILE),
        config.assignments([(HOSTILE, HOSTILE)]),
        config.differing({HOSTILE: [difference, difference | {"kind": "added"}, difference | {"kind": "removed"}]}),
        config.served(answer),
        details({"config": answer["modules"]}),
        listing({"sessions": [{"id": "1", "config": {HOSTILE: HOSTILE}}]}),
        metrics.of_survey(hostile_survey()).split("\n"),
        metrics.of_server({"modules": {HOSTILE: {"running": 1, "zone": HOSTILE, "pinned": {HOSTILE: 2}}}}).split("\n"),
    ):
        assert printable_lines(lines), lines
        assert "\\x1b[2J" in "".join(lines) or "\\u001b[2J" in "".join(lines)


@pytest.mark.parametrize(
    ("zones", "share", "words"),
    [
        (("eu-1",), 0.0, "for zone eu-1"),
        (("a", "b"), 0.5, "for zones a, b and 50 % of the new sessions elsewhere"),
        ((), 0.001, "for 0.1 % of the new sessions"),
        ((), 0.0, "for nobody"),
    ],
)
def test_it_is_said_whom_a_canary_is_for(zones, share, words):
    assert config.for_whom(zones, share) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (400_000, "4 d")]
)
def test_ages_are_told_in_their_largest_unit(seconds, words):
    assert config.age(seconds) == words


# -- metrics ---------------------------------------------------------------------------------------

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)?\}} (-?[0-9.]+(?:e[+-]?[0-9]+)?|NaN|[+-]Inf)")


def samples(text):
    """Read an exposition, strictly: families are whole, each begins with HELP and TYPE, and # EOF is the end."""
    assert text.endswith("# EOF\n")
    found, seen, family = {}, set(), None
    for line in text.removesuffix("# EOF\n").splitlines():
        if words := re.fullmatch(rf"# HELP ({NAME}) [^\\\n]+", line):
            family = words[1]
            assert family not in seen, "a family comes in one piece"
            seen.add(family)
        elif line.startswith("#"):
            assert line == f"# TYPE {family} gauge"
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1] == family
            assert (family, sample[2]) not in found, "a sample comes once"
            found[family, sample[2]] = float(sample[3])
    return found


def test_metrics_of_a_store_are_valid_and_complete():
    some = head(12, canary(13, zones=("eu-1",)))
    reports = [
        report(13, zone="eu-1", pinned={11: 3, 12: 40}),
        report(13, "refused", zone="eu-1", pid=8, ago=2.5),
        report(9, pid=9, ago=999),
    ]
    modules = {"arena": survey(some, reports, ["a:1"], NOW), "shop": survey(head(3), [report(3, pid=4)], [], NOW)}
    found = samples(metrics.of_survey(modules))
    one, other = (
        f'module="arena",service="game",zone="eu-1",host="play1",pid="{pid}",server="play1-{pid}"' for pid in (7, 8)
    )
    expected = {
        ("version", 'module="arena"'): 12,
        ("version", 'module="shop"'): 3,
        ("canary_version", 'module="arena"'): 13,
        ("complete", 'module="arena"'): 0,
        ("complete", 'module="shop"'): 1,
        ("servers", 'module="arena",standing="gone"'): 1,
        ("servers", 'module="arena",standing="current"'): 1,
        ("acknowledged", one): 1,
        ("acknowledged", other): 0,
        ("refused", other): 1,
        ("report_age_seconds", other): 2.5,
        ("pinned_sessions", f'{one},version="12"'): 40,
        ("distributors", 'module="arena"'): 1,
    }
    assert {(name, labels): found["hotfd_config_" + name, labels] for name, labels in expected} == expected
    assert not [labels for _, labels in found if 'pid="9"' in labels], "who has gone has no samples of his own"


def test_processes_of_containers_that_have_the_same_number_have_samples_of_their_own():
    found = samples(
        metrics.of_survey({"x": survey(head(), [report(server="a", pid=1), report(server="b", pid=1)], [], NOW)})
    )
    assert sum(name == "hotfd_config_acknowledged" for name, _ in found) == 2


def test_metrics_of_one_server_are_valid():
    module = {
        "zone": "eu",
        "running": 12,
        "staged": {"version": 13},
        "pinned": {"11": 2},
        "cold": True,
        "age": float("inf"),
    }
    found = samples(metrics.of_server({"pid": 1, "modules": {"arena": module}}))
    labels = 'module="arena",zone="eu"'
    assert found["hotfd_config_running_version", labels] == 12
    assert found["hotfd_config_staged_version", labels] == 13
    assert found["hotfd_config_pinned_sessions", labels + ',version="11"'] == 2
    assert found["hotfd_config_cold", labels] == 1
    assert ("hotfd_config_contact_age_seconds", labels) not in found, "infinity is no age"
    assert "sequence" not in metrics.of_server({"modules": {"arena": {"sequence": 10**400}}})


def test_labels_are_escaped_and_nothing_at_all_is_still_an_exposition():
    assert samples(metrics.of_survey(hostile_survey()))
    assert 'host="a\\\\b\\"c"' in metrics.of_survey({"x": survey(head(), [report(host='a\\b"c')], [], NOW)})
    assert metrics.of_survey({}) == metrics.of_server({}) == "# EOF\n"


# -- what a server says ----------------------------------------------------------------------------

ARENA = {
    "zone": "eu-1",
    "running": 12,
    "staged": 13,
    "canary": None,
    "pinned": {"11": 3, "12": 40},
    "refused": {"version": 14, "faults": ["damage: no such key"]},
    "cold": True,
}


def test_the_configuration_in_a_status_is_a_line_for_each_module():
    lines = details({"pid": 7, "config": {"arena": ARENA, "shop": {"running": 3}}})
    assert lines == [
        "pid  7",
        "config: arena  running 12  staged 13  pinned 11: 3, 12: 40  refused 14  cold: from its cache",
        "config: shop  running 3",
    ]
    assert details({"config": None}) == ["config  -"]


def test_the_configuration_of_workers_is_told_of_each():
    workers = [{"worker": n, "pid": n, "config": {"arena": {"running": 10 + n}}} for n in (1, 2)]
    lines = details({"config": workers[0]["config"], "workers": workers})
    assert lines[:2] == ["config of worker 1: arena  running 11", "config of worker 2: arena  running 12"]


def test_a_servers_configuration_is_told_at_length():
    module = ARENA | {"canary": {"version": 15, "share": 0.05}, "age": 150.0, "since": NOW, "away": True, "novel": [1]}
    lines = config.served({"pid": 7, "modules": {"arena": module}})
    assert lines[0] == "arena"
    assert lines[1].startswith("  running  12  since 2023-11-1")
    assert lines[2:] == [
        "  staged   13",
        "  canary   15  for 5 % of the new sessions",
        "  pinned   11: 3, 12: 40",
        "  refused  14",
        "  zone     eu-1",
        "  heard    2 min ago; it is away",
        "  cold     from its cache: the source has not answered yet",
        "  novel    1",
        "    damage: no such key",
    ]
    assert config.served({"modules": {"arena": {"running": 3}}}) == ["arena", "  running  3"]
    assert config.served({"modules": {}}) == ["this server declares no configuration"]


def test_the_console_shows_configuration_as_the_command_line_does():
    answer = {"pid": 7, "modules": {"arena": ARENA}}
    assert show("config", answer) == config.served(answer)


def test_sessions_are_listed_with_the_releases_that_they_run_with():
    one = {"id": "s-1", "connections": 1, "config": {"arena": 12, "shop": 3}}
    other = {"id": "s-2", "connections": 1, "config": {}}
    lines = listing({"total": 2, "sessions": [one, other]})
    assert lines[0].endswith("BOUNDARY  CONFIG")
    assert lines[1].endswith("  arena 12, shop 3")
    assert lines[2].endswith("  -")
    assert "CONFIG" not in listing({"total": 1, "sessions": [other]})[0]


def test_a_session_that_is_not_there_is_told_from_a_server_without_any():
    assert listing({"total": 0, "sessions": []}) == ["no sessions"]
    assert listing({"total": 5, "sessions": []}) == ["no such session among 5"]
