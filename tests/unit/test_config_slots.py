"""Which release a session begins with, and what it holds: the slots, and what a program declares."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest

import hotfd
from hotfd.config.release import Head
from hotfd.config.rollout import For
from hotfd.config.slots import MAX_QUARANTINED, Slots, Staged
from hotfd.config.snapshots import Compiled
from hotfd.errors import ConfigError, ReleaseRefused
from tests.unit.config_support import Rules, Shelf, Shop, sealed


class LiveRules(msgspec.Struct, frozen=True):
    size: int = 1
    open: Annotated[bool, hotfd.Live] = True


def arena(**arguments: Any) -> hotfd.Config[Rules]:
    return hotfd.Config("arena", Rules, source="fake:", **arguments)


def shop(**arguments: Any) -> hotfd.Config[Shop]:
    return hotfd.Config("shop", Shop, source="fake:", **arguments)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


class Picky:
    """An on_first_use that refuses some values, and notes what it was given."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)
        self.seen: list[int] = []

    def __call__(self, value: Rules) -> None:
        self.seen.append(value.size)
        if value.size in self.bad:
            raise RuntimeError(f"{value.size} is not for me")


# -- staging and activating --------------------------------------------------------------------------


def test_what_is_staged_is_in_force_with_the_next_session_and_not_before(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=5)
    shelf.stage(slots)
    first = slots.begin("a")
    shelf.publish("arena", size=6)
    shelf.stage(slots)
    assert slots.running is first
    assert slots.staged("arena") is not None
    second = slots.begin("b")
    assert (first.value.size, second.value.size) == (5, 6)
    assert slots.running is second
    assert slots.previous is first
    assert slots.staged("arena") is None


def test_a_session_keeps_its_release_whatever_follows(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=0)
    shelf.stage(slots)
    held = slots.begin("a")
    value = held.value
    for size in range(1, 20):
        shelf.publish("arena", size=size)
        shelf.stage(slots)
        slots.begin("b")
    assert held.value is value
    assert held.versions == {"arena": 1}
    assert value.size == 0


def test_sessions_of_one_release_hold_one_object(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=5)
    shelf.stage(slots)
    assert slots.begin("a") is slots.begin("b")


def test_of_two_releases_between_two_sessions_the_newest_counts(shelf: Shelf) -> None:
    slots = Slots([arena()])
    for size in (1, 2, 3):
        shelf.publish("arena", size=size)
        shelf.stage(slots)
    assert slots.begin("a").versions == {"arena": 3}
    assert slots.previous is None


def test_a_release_that_nobody_holds_is_gone(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    session = slots.begin("a")
    gone = weakref.ref(session.compiled["arena"])
    for size in (2, 3):
        shelf.publish("arena", size=size)
        shelf.stage(slots)
        slots.begin("b")
    gc.collect()
    assert gone() is not None, "a session still holds it"
    del session
    gc.collect()
    assert gone() is None


def test_staging_the_same_again_changes_nothing(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=5)
    shelf.stage(slots)
    first = slots.begin("a")
    shelf.stage(slots)
    assert slots.staged("arena") is None
    assert slots.begin("b") is first


def test_a_server_never_goes_back_to_an_older_head(shelf: Shelf) -> None:
    slots = Slots([arena()])
    older = shelf.publish("arena", size=5)
    shelf.publish("arena", size=6)
    shelf.stage(slots)
    shelf.heads["arena"] = older
    shelf.stage(slots)
    assert slots.begin("a").value.size == 6
    assert slots.head("arena") != older


def test_a_floor_keeps_older_heads_out_and_is_not_lowered(shelf: Shelf) -> None:
    slots = Slots([arena()])
    first, second = shelf.publish("arena", size=1), shelf.publish("arena", size=2)
    slots.floor(second)
    slots.floor(first)
    slots.floor(msgspec.structs.replace(first, module="another"))
    shelf.heads["arena"] = first
    shelf.stage(slots)
    assert slots.head("arena") == second
    assert slots.newest("arena") is None


def test_a_smaller_version_than_the_newest_is_not_taken_even_with_the_same_head(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=1)
    first = arena().compile(next(iter(shelf.releases.values())))
    head = shelf.publish("arena", size=2)
    shelf.stage(slots)
    slots.stage([Staged(head, first)])
    assert slots.begin("a").versions == {"arena": 2}


def test_a_release_that_cannot_be_used_leaves_what_is_in_force(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    slots.begin("a")
    slots.stage([Staged(shelf.publish("arena", size="two"))])
    assert slots.begin("b").versions == {"arena": 1}
    assert slots.head("arena") == shelf.heads["arena"]


def test_no_session_begins_before_every_module_has_a_release(shelf: Shelf) -> None:
    slots = Slots([arena(), shop()])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    assert slots.missing == {"arena", "shop"}
    assert not slots.start()
    with pytest.raises(ConfigError, match="no release of"):
        slots.begin("a")
    shelf.publish("shop", price=2)
    shelf.stage(slots)
    assert slots.start()
    assert slots.missing == set()
    assert slots.begin("a").versions == {"arena": 1, "shop": 1}


def test_modules_of_one_step_change_for_sessions_in_one_step(shelf: Shelf) -> None:
    slots = Slots([arena(), shop()])
    shelf.publish("arena", size=1)
    shelf.publish("shop", price=1)
    shelf.stage(slots)
    first = slots.begin("a")
    shelf.publish("shop", price=2)
    shelf.stage(slots)
    second = slots.begin("b")
    assert second.versions == {"arena": 1, "shop": 2}
    assert second.value.arena is first.value.arena
    assert second.value["shop"].price == 2


def test_a_snapshot_says_since_when_another_one_is_in_force(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    first = slots.begin("a")
    assert first.replaced is None
    shelf.publish("arena", size=2)
    shelf.stage(slots)
    assert first.replaced is None, "what is staged is not in force"
    slots.begin("b")
    assert first.replaced is not None


def test_whoever_asks_is_told_what_came_into_force_and_once(shelf: Shelf) -> None:
    slots, told = Slots([arena(), shop(initial=Shop())]), []
    slots.on_activated = lambda compiled: told.append([(one.module, one.version) for one in compiled])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    slots.begin("a")
    slots.begin("b")
    assert told == [[("arena", 1)]]


def test_without_a_module_a_session_begins_with_nothing() -> None:
    slots = Slots([])
    assert slots.start()
    assert slots.begin("a").value is None
    assert slots.begin("a").versions == {}


def test_a_module_is_declared_once() -> None:
    with pytest.raises(ConfigError, match="'arena' is declared twice"):
        Slots([arena(), shop(), arena()])


# -- the program's own values ------------------------------------------------------------------------


def test_the_programs_own_value_is_version_zero_and_gives_way(shelf: Shelf) -> None:
    slots = Slots([arena(initial=Rules(7))])
    assert slots.start()
    first = slots.begin("a")
    assert (first.value.size, first.versions) == (7, {"arena": 0})
    shelf.publish("arena", size=8)
    shelf.stage(slots)
    assert slots.begin("b").versions == {"arena": 1}


def test_own_values_fill_up_what_was_not_published(shelf: Shelf) -> None:
    slots = Slots([arena(), shop(initial=Shop(3))])
    assert not slots.start()
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    assert slots.start()
    assert slots.begin("a").versions == {"arena": 1, "shop": 0}


def test_an_own_value_that_the_type_does_not_allow_is_an_error_of_the_declaration() -> None:
    with pytest.raises(ReleaseRefused):
        arena(initial=Rules("many"))  # type: ignore[arg-type]


# -- quarantine --------------------------------------------------------------------------------------


def test_a_release_that_fails_when_it_is_first_used_reaches_no_session(shelf: Shelf) -> None:
    picky, failed = Picky(2), []
    slots = Slots([arena(on_first_use=picky)])
    slots.on_quarantined = lambda compiled, error: failed.append((compiled.version, str(error)))
    for size in (1, 2):
        shelf.publish("arena", size=size)
        shelf.stage(slots)
        assert slots.begin("a").versions == {"arena": 1}
    assert slots.begin("b").versions == {"arena": 1}
    assert failed == [(2, "2 is not for me")]
    assert list(slots.quarantined("arena").values()) == [2]
    shelf.publish("arena", size=3)
    shelf.stage(slots)
    assert slots.begin("c").versions == {"arena": 3}
    assert picky.seen == [1, 2, 3]


def test_a_release_is_used_for_the_first_time_once(shelf: Shelf) -> None:
    picky = Picky()
    slots = Slots([arena(on_first_use=picky)])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    for key in "abc":
        slots.begin(key)
    assert picky.seen == [1]


def test_what_was_published_with_a_quarantined_release_is_not_used_either(shelf: Shelf) -> None:
    slots = Slots([arena(on_first_use=Picky(2)), shop()])
    shelf.publish("arena", size=1)
    shelf.publish("shop", price=1)
    shelf.stage(slots)
    slots.begin("a")
    shelf.publish("arena", size=2, batch="b1")
    shelf.publish("shop", price=2, batch="b1")
    shelf.stage(slots)
    assert slots.begin("b").versions == {"arena": 1, "shop": 1}


def test_what_was_published_apart_from_a_quarantined_release_is_used(shelf: Shelf) -> None:
    slots = Slots([arena(on_first_use=Picky(2)), shop()])
    shelf.publish("arena", size=1)
    shelf.publish("shop", price=1)
    shelf.stage(slots)
    slots.begin("a")
    shelf.publish("arena", size=2, batch="b1")
    shelf.publish("shop", price=2, batch="b2")
    shelf.stage(slots)
    assert slots.begin("b").versions == {"arena": 1, "shop": 2}


def test_a_first_release_that_fails_when_it_is_first_used_lets_no_session_begin(shelf: Shelf) -> None:
    slots, told = Slots([arena(on_first_use=Picky(1)), shop()]), []
    slots.on_activated = told.append
    shelf.publish("arena", size=1)
    shelf.publish("shop", price=1)
    shelf.stage(slots)
    assert not slots.start()
    with pytest.raises(ConfigError):
        slots.begin("a")
    assert told == [], "nothing is in force yet"
    shelf.publish("arena", size=2)
    shelf.stage(slots)
    assert slots.begin("a").versions == {"arena": 2, "shop": 1}


def test_an_own_value_is_not_used_in_place_of_a_release_that_failed(shelf: Shelf) -> None:
    slots = Slots([arena(on_first_use=Picky(2), initial=Rules(7))])
    shelf.publish("arena", size=2)
    shelf.stage(slots)
    assert not slots.start()


def test_quarantined_releases_are_remembered_up_to_a_bound(shelf: Shelf) -> None:
    slots = Slots([arena(on_first_use=Picky(*range(1, 200)), initial=Rules(0))])
    assert slots.start()
    for size in range(1, MAX_QUARANTINED + 10):
        shelf.publish("arena", size=size)
        shelf.stage(slots)
        assert slots.begin("a").value.size == 0
    assert list(slots.quarantined("arena").values()) == list(range(10, MAX_QUARANTINED + 10))


# -- canaries ----------------------------------------------------------------------------------------


def share_of(slots: Slots, sessions: int = 2000) -> float:
    canary = slots.canary("arena")
    assert canary is not None
    return sum(slots.begin(str(i)).versions["arena"] == canary.version for i in range(sessions)) / sessions


def with_canary(shelf: Shelf, canary: For, **arguments: Any) -> Slots:
    slots = Slots([arena(**arguments)])
    shelf.publish("arena", size=1)
    shelf.publish("arena", size=2, canary=canary)
    shelf.stage(slots)
    return slots


def test_a_canary_is_for_a_share_of_the_sessions_and_the_same_ones_every_time(shelf: Shelf) -> None:
    slots, again = with_canary(shelf, For(share=0.2)), with_canary(Shelf(), For(share=0.2))
    assert 0.15 < share_of(slots) < 0.25
    chosen = [key for key in map(str, range(200)) if slots.begin(key).versions["arena"] == 2]
    assert chosen == [key for key in map(str, range(200)) if again.begin(key).versions["arena"] == 2]
    assert slots.share("arena") == 0.2


def test_a_wider_canary_has_the_sessions_of_the_narrower_one(shelf: Shelf) -> None:
    narrow, wide = with_canary(shelf, For(share=0.1)), with_canary(Shelf(), For(share=0.5))
    few = {key for key in map(str, range(300)) if narrow.begin(key).versions["arena"] == 2}
    many = {key for key in map(str, range(300)) if wide.begin(key).versions["arena"] == 2}
    assert few
    assert few < many


@pytest.mark.parametrize(("zone", "share"), [("north", 1.0), ("south", 0.0), ("", 0.0)])
def test_a_canary_of_a_zone_is_for_all_of_its_sessions_and_no_other(shelf: Shelf, zone: str, share: float) -> None:
    slots = with_canary(shelf, For(zones=("north",)), zone=zone)
    assert share_of(slots, 50) == share


def test_the_end_of_a_canary_leaves_its_sessions_what_they_hold(shelf: Shelf) -> None:
    slots = with_canary(shelf, For(share=1.0))
    held = slots.begin("a")
    shelf.abort("arena")
    shelf.stage(slots)
    assert slots.canary("arena") is None
    assert slots.share("arena") == 0.0
    assert slots.begin("a").versions == {"arena": 1}
    assert held.value.size == 2


def test_a_promoted_canary_is_for_all_and_the_same_object(shelf: Shelf) -> None:
    picky = Picky()
    slots = with_canary(shelf, For(share=1.0), on_first_use=picky)
    held = slots.begin("a")
    shelf.promote("arena")
    shelf.stage(slots)
    assert slots.begin("b") is held
    assert slots.running is held
    assert picky.seen == [1, 2]


def test_a_canary_that_fails_when_it_is_first_used_is_over_here(shelf: Shelf) -> None:
    slots = with_canary(shelf, For(share=1.0), on_first_use=Picky(2))
    assert slots.begin("a").versions == {"arena": 1}
    assert slots.canary("arena") is None
    assert list(slots.quarantined("arena").values()) == [2]


def test_another_canary_takes_the_place_of_one_that_ended(shelf: Shelf) -> None:
    slots = with_canary(shelf, For(share=1.0))
    assert slots.begin("a").versions == {"arena": 2}
    shelf.abort("arena")
    shelf.publish("arena", size=3, canary=For(share=1.0))
    shelf.stage(slots)
    assert slots.begin("a").versions == {"arena": 3}


def test_sessions_of_a_canary_have_the_newest_releases_of_other_modules(shelf: Shelf) -> None:
    slots = Slots([arena(), shop(initial=Shop())])
    shelf.publish("arena", size=1)
    shelf.publish("arena", size=2, canary=For(share=1.0))
    shelf.stage(slots)
    assert slots.begin("a").versions == {"arena": 2, "shop": 0}
    assert slots.begin("a") is slots.begin("b")
    shelf.publish("shop", price=1)
    shelf.stage(slots, "shop")
    assert slots.begin("a").versions == {"arena": 2, "shop": 1}
    assert slots.begin_with([shop().compile(sealed("shop", 2, price=2))])
    assert slots.begin("a").versions == {"arena": 2, "shop": 2}


def test_more_mixtures_of_canaries_than_are_remembered_make_no_difference(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotfd.config.slots.MAX_MIXED", 2)
    slots = Slots([hotfd.Config(name, Rules, source="fake:") for name in "abc"])
    for name in "abc":
        shelf.publish(name, size=1)
        shelf.publish(name, size=2, canary=For(share=0.5))
    shelf.stage(slots)
    mixtures = {tuple(slots.begin(str(i)).versions.values()) for i in range(200)}
    assert len(mixtures) == 8
    assert len(slots._mixed) <= 2


def test_the_first_use_of_a_canary_is_told(shelf: Shelf) -> None:
    slots, told = with_canary(shelf, For(share=1.0)), []
    slots.on_activated = lambda compiled: told.append([one.version for one in compiled])
    for key in "ab":
        slots.begin(key)
    assert told == [[1], [2]]


def test_a_canary_without_a_release_for_all_lets_nobody_begin_who_is_not_its(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=1, canary=For(share=1.0))
    shelf.stage(slots)
    with pytest.raises(ConfigError, match="no release of arena"):
        slots.begin("a")


# -- live fields -------------------------------------------------------------------------------------


def test_live_fields_of_what_sessions_hold_follow_what_is_staged(shelf: Shelf) -> None:
    slots = Slots([hotfd.Config("arena", LiveRules, source="fake:")])
    shelf.publish("arena", size=1, open=True)
    shelf.stage(slots)
    held = slots.begin("a")
    shelf.publish("arena", size=2, open=False)
    shelf.stage(slots)
    assert (held.value.size, held.value.open) == (1, False)
    slots.begin("b")
    shelf.publish("arena", size=3, open=True)
    shelf.stage(slots)
    assert (held.value.size, held.value.open) == (1, True)


def test_live_fields_of_a_canary_are_its_own_until_it_ends(shelf: Shelf) -> None:
    slots = Slots([hotfd.Config("arena", LiveRules, source="fake:")])
    shelf.publish("arena", size=1, open=True)
    shelf.publish("arena", size=2, open=False, canary=For(share=1.0))
    shelf.stage(slots)
    held = slots.begin("a")
    assert (held.value.size, held.value.open) == (2, False)
    shelf.abort("arena")
    shelf.stage(slots)
    assert (held.value.size, held.value.open) == (2, True)


# -- values ------------------------------------------------------------------------------------------


def test_several_modules_are_a_read_only_mapping_with_attributes() -> None:
    slots = Slots([hotfd.Config("a.b", Rules, initial=Rules()), shop(initial=Shop())])
    assert slots.start()
    value = slots.begin("a").value
    assert value.shop is value["shop"]
    assert value["a.b"].size == 1
    assert (list(value), len(value), "shop" in value, "other" in value) == (["a.b", "shop"], 2, True, False)
    assert repr(value) == "<Configs of a.b, shop>"
    with pytest.raises(AttributeError, match="no configuration module 'other'"):
        _ = value.other
    with pytest.raises(TypeError, match="read-only"):
        value.shop = 1
    with pytest.raises(TypeError, match="read-only"):
        del value.shop
    for copied in (copy.copy(value), copy.deepcopy(value)):
        assert copied == value


def test_a_snapshot_is_found_by_its_number_as_long_as_somebody_holds_it(shelf: Shelf) -> None:
    slots = Slots([arena()])
    shelf.publish("arena", size=1)
    shelf.stage(slots)
    held = slots.begin("a")
    serial = held.serial
    assert slots.snapshot(serial) is held
    assert held.label == "arena 1"
    shelf.publish("arena", size=2)
    shelf.stage(slots)
    slots.begin("b")
    shelf.publish("arena", size=3)
    shelf.stage(slots)
    slots.begin("c")
    del held
    gc.collect()
    with pytest.raises(ConfigError, match="gone"):
        slots.snapshot(serial)


def test_what_is_known_once_is_the_same_object(shelf: Shelf) -> None:
    slots, one = Slots([arena()]), sealed("arena", 1, size=1)
    first = slots.know(slots.config("arena").compile(one))
    assert slots.know(slots.config("arena").compile(one)) is first
    assert slots.known("arena", one.sha256) is first
    del first
    gc.collect()
    assert slots.known("arena", one.sha256) is None


# -- what a program declares -------------------------------------------------------------------------


def test_a_zone_has_its_own_values_over_those_of_all() -> None:
    one = sealed("arena", 1, zones={"north": {"size": 9}}, size=1)
    assert [arena(zone=zone).compile(one).value.size for zone in ("north", "south", "")] == [9, 1, 1]


def test_source_and_zone_are_those_of_the_environment_if_the_program_names_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOTFD_CONFIG_SOURCE", "dir:/srv")
    monkeypatch.setenv("HOTFD_ZONE", "north")
    named = hotfd.Config("arena", Rules, source="", zone="south")
    assert (hotfd.Config("arena", Rules).source, hotfd.Config("arena", Rules).zone) == ("dir:/srv", "north")
    assert (named.source, named.zone) == ("", "south")


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_pinned": 0},
        {"max_pinned_age": 0},
        {"interval": 0.001},
        {"interval": 1e9},
        {"max_pinned_age": float("nan")},
    ],
)
def test_a_bound_that_cannot_be_is_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_pinned is at least 1"):
        arena(**arguments)


@pytest.mark.parametrize("arguments", [{"module": "Arena"}, {"module": "../x"}, {"module": ""}, {"zone": "No"}])
def test_a_name_that_is_none_is_an_error(arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is no name of a"):
        hotfd.Config(**{"module": "arena", "type": Rules, **arguments})  # type: ignore[arg-type]


def refused(config: hotfd.Config[Any], **values: Any) -> ReleaseRefused:
    with pytest.raises(ReleaseRefused) as caught:
        config.compile(sealed("arena", 1, **values))
    return caught.value


def no(error: Exception) -> Callable[[Any], Any]:
    def refuse(value: Any) -> Any:
        raise error

    return refuse


def test_a_release_that_the_type_does_not_allow_is_refused_with_every_fault() -> None:
    assert {fault.path for fault in refused(arena(), size="x", speed=1).faults} == {"size", "speed"}


def test_what_the_programs_check_raises_refuses_the_release() -> None:
    refusal = refused(arena(check=no(ValueError("odd\nsize"))), size=1)
    assert [fault.expected for fault in refusal.faults] == ["refused by the program: ValueError: odd size"]


def test_a_check_may_name_its_faults_itself() -> None:
    own = ReleaseRefused("arena", [hotfd.errors.Fault("size", "1", "an even number")])
    assert refused(arena(check=no(own)), size=1) is own


def test_an_upgrade_reads_what_the_type_cannot_and_gets_a_copy() -> None:
    def upgrade(values: dict[str, Any]) -> dict[str, Any]:
        values["size"] = values.pop("width")
        return values

    one = sealed("arena", 1, width=4)
    assert arena(upgrade=upgrade).compile(one).value.size == 4
    assert one.release.values == {"width": 4}


@pytest.mark.parametrize(
    ("upgrade", "said"),
    [
        (no(KeyError("width")), "the upgrade failed: KeyError"),
        (lambda values: None, "the upgrade returned no dictionary"),
        (lambda values: {"size": "x"}, "an integer"),
    ],
)
def test_an_upgrade_that_does_not_help_refuses_the_release(upgrade: Any, said: str) -> None:
    assert said in str(refused(arena(upgrade=upgrade), width=4))


def test_releases_are_known_by_version_and_digest(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = sealed("arena", 3, size=1)
    compiled = arena().compile(one)
    assert isinstance(compiled, Compiled)
    assert (compiled.version, compiled.sha256) == (3, one.sha256)
    assert not caplog.records, "values are in no log"


def test_a_head_of_a_module_that_is_not_declared_is_an_error_of_the_caller() -> None:
    with pytest.raises(KeyError):
        Slots([arena()]).stage([Staged(Head("other", 1, 1, "published", "anna", 0.0))])
