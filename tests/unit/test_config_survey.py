"""How servers stand to what is in force, judged by their last reports."""

from __future__ import annotations

import pytest

from hotfd.config.store import EXPIRY
from hotfd.config.survey import survey, wanted
from tests.unit.config_reports import NOW, canary, head, report


def standings(head, *reports):
    return [server.standing for server in survey(head, reports, [], NOW).servers]


@pytest.mark.parametrize(
    ("said", "standing"),
    [
        (report(12, "running"), "current"),
        (report(12, "staged", running=11), "current"),
        (report(12, "running", sequence=19), "behind"),
        (report(11, "running", sequence=20), "behind"),
        (report(11, "refused", sequence=19), "behind"),
        (report(12, "refused", running=11), "refused"),
        (report(12, "quarantined", running=11), "refused"),
        (report(12, "running", ago=EXPIRY + 1), "gone"),
        (report(12, "refused", ago=EXPIRY + 1), "gone"),
        (report(12, "ended"), "gone"),
        (report(12, "running", ago=-30), "current"),
        (report(12, "running", sequence=21), "current"),
    ],
)
def test_a_server_stands_as_its_last_report_says(said, standing):
    assert standings(head(12), said) == [standing]


def test_a_server_of_a_canarys_zone_must_have_the_canary():
    some = head(12, canary(13, zones=("eu-1",)), change="canary")
    reports = [
        report(12, zone="eu-1", pid=1),
        report(13, zone="eu-1", pid=2),
        report(12, zone="us"),
        report(13, zone="us"),
    ]
    assert standings(some, *reports) == ["behind", "current", "current", "behind"]


def test_where_a_canary_is_for_a_share_every_server_must_have_it():
    some = head(12, canary(13, share=0.05))
    assert standings(some, report(12), report(13), report(13, zone="eu")) == ["behind", "current", "current"]


def test_before_there_is_a_release_for_all_the_programs_own_values_are_right():
    assert wanted(head(None, canary(1, zones=("eu-1",))), "us") == 0
    assert wanted(head(None, canary(1, share=0.5)), "us") == 1
    assert standings(None, report(0)) == ["current"]


def test_all_is_well_when_every_living_server_has_it():
    found = survey(head(12), [report(), report(pid=8, ago=999)], ["b:1", "a:1"], NOW)
    assert (found.living, found.current, found.refused, found.complete) == (1, 1, 0, True)
    assert found.addresses == ["a:1", "b:1"]
    assert survey(head(12), [], [], NOW).complete, "where no server lives, nothing is amiss"
    assert not survey(head(12), [report(), report(11, pid=8)], [], NOW).complete
    assert not survey(head(12), [report(), report(12, "refused", pid=8)], [], NOW).complete


def test_all_is_not_well_when_what_was_published_last_was_halted():
    assert not survey(head(12, change="halted"), [report()], [], NOW).complete
    assert survey(head(12, change="aborted"), [report()], [], NOW).complete


def test_servers_come_by_zone_service_and_host():
    reports = [report(host="b"), report(host="a"), report(zone="x"), report(service="chat")]
    servers = survey(head(), reports, [], NOW).servers
    assert [(s.zone, s.service, s.host) for s in servers] == [
        ("", "chat", "play1"),
        ("", "game", "a"),
        ("", "game", "b"),
        ("x", "game", "play1"),
    ]
