"""What is handed over of the configuration, from one process's slots to the next one's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

import hotfd
from hotfd.config.carry import Luggage, carry
from hotfd.config.release import Canary, Head, Release, Sealed, Track, seal
from hotfd.config.slots import Slots, Staged

if TYPE_CHECKING:
    from hotfd.config.snapshots import Snapshot


class Rules(msgspec.Struct, frozen=True):
    damage: int
    turn: float = 1.0


class LaterRules(msgspec.Struct, frozen=True):
    harm: int


class LiveRules(msgspec.Struct, frozen=True):
    damage: int
    enabled: Annotated[bool, hotfd.Live] = True


class Shop(msgspec.Struct, frozen=True):
    price: int


def release(version: int, module: str = "arena", **values: Any) -> Sealed:
    return seal(Release(module, version, f"r{version}", "ann", 0.0, values or {"damage": version}))


def head(sealed: Sealed, sequence: int, canary: Sealed | None = None, share: float = 0.0) -> Head:
    some = Canary(canary.release.version, canary.sha256, (), share) if canary is not None else None
    return Head(
        sealed.release.module,
        sequence,
        sequence,
        "published",
        "ann",
        0.0,
        Track(sealed.release.version, sealed.sha256),
        some,
    )


def stage(slots: Slots, sealed: Sealed, sequence: int, canary: Sealed | None = None, share: float = 0.0) -> None:
    config = slots.config(sealed.release.module)
    update = Staged(head(sealed, sequence, canary, share), slots.know(config.compile(sealed)))
    if canary is not None:
        update.canary = slots.know(config.compile(canary))
    slots.stage([update])


def old_slots() -> Slots:
    return Slots([hotfd.Config("arena", Rules)])


def pass_on(slots: Slots, snapshots: list[Snapshot], *configs: hotfd.Config[Any]) -> tuple[Slots, Luggage]:
    new = Slots(configs or [hotfd.Config("arena", Rules)])
    luggage = Luggage(new)
    luggage.unpack(carry(slots, snapshots))
    return new, luggage


def test_what_runs_runs_in_the_new_process_and_what_is_held_is_held_there() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    first = slots.begin("a")
    stage(slots, release(2), 2)
    second = slots.begin("b")
    stage(slots, release(3), 3)  # staged, and nobody has begun with it
    new, luggage = pass_on(slots, [first, second])
    assert luggage.snapshot(first.serial).value == Rules(1)
    assert luggage.snapshot(second.serial).value == Rules(2)
    assert luggage.snapshot(first.serial) is luggage.snapshot(first.serial)
    assert new.begin("c").value == Rules(3)
    assert new.head("arena") == slots.head("arena")


def test_the_time_since_which_a_release_is_replaced_goes_along() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    first = slots.begin("a")
    stage(slots, release(2), 2)
    slots.begin("b")
    _, luggage = pass_on(slots, [first])
    assert first.replaced is not None
    assert luggage.snapshot(first.serial).replaced == first.replaced


def test_a_canary_goes_along_with_its_rule() -> None:
    slots = old_slots()
    stage(slots, release(1), 1, release(2), share=1.0)
    new, _ = pass_on(slots, [])
    assert new.begin("x").value == Rules(2)


def test_a_new_process_never_goes_back_to_what_the_old_one_had_in_force() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    new = old_slots()
    stage(new, release(2), 2)
    Luggage(new).unpack(carry(slots, []))
    assert new.begin("x").value == Rules(2)


def test_what_the_old_process_could_not_use_does_not_take_the_place_of_what_the_new_one_can() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    slots.stage([Staged(head(release(2), 2))])  # refused by the old code: the head is known, and 1 runs on
    new = Slots([hotfd.Config("arena", Rules)])
    stage(new, release(2), 2)
    Luggage(new).unpack(carry(slots, []))
    assert new.begin("x").versions == {"arena": 2}


def test_what_the_new_code_cannot_read_is_named_and_the_rest_is_there() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    first = slots.begin("a")
    stage(slots, release(2, damage=2), 2)
    new, luggage = pass_on(slots, [first], hotfd.Config("arena", LaterRules))
    assert new.running is None
    assert not new.start()
    reason = luggage.unreadable[first.serial]
    assert "release 1 of 'arena'" in reason
    assert "harm" in reason
    with pytest.raises(hotfd.ConfigError, match="harm"):
        luggage.snapshot(first.serial)


def test_an_upgrade_reads_what_the_new_code_cannot() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    first = slots.begin("a")
    upgrading = hotfd.Config("arena", LaterRules, upgrade=lambda values: {"harm": values["damage"] * 10})
    new, luggage = pass_on(slots, [first], upgrading)
    assert luggage.snapshot(first.serial).value == LaterRules(10)
    assert new.begin("x").value == LaterRules(10)
    assert not luggage.unreadable


def test_what_fails_at_its_first_use_in_the_new_process_is_not_served_there() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    first = slots.begin("a")

    def use(rules: Rules) -> None:
        raise ValueError("no such map")

    _, luggage = pass_on(slots, [first], hotfd.Config("arena", Rules, on_first_use=use))
    assert "first used" in luggage.unreadable[first.serial]


def test_a_program_with_a_module_more_serves_the_others_releases_beside_its_own_of_that() -> None:
    slots = old_slots()
    stage(slots, release(1), 1)
    first = slots.begin("a")
    new, luggage = pass_on(
        slots, [first], hotfd.Config("arena", Rules), hotfd.Config("shop", Shop, initial=Shop(price=5))
    )
    assert new.start()
    held = luggage.snapshot(first.serial)
    assert (held.value.arena, held.value["shop"]) == (Rules(1), Shop(5))


def test_a_module_that_the_program_has_not_travels_on_with_those_who_hold_it() -> None:
    slots = Slots([hotfd.Config("arena", Rules), hotfd.Config("shop", Shop)])
    stage(slots, release(1), 1)
    stage(slots, release(1, "shop", price=7), 1)
    first = slots.begin("a")
    middle, luggage = pass_on(slots, [first])
    held = luggage.snapshot(first.serial)
    assert held.value == Rules(1)
    last = Slots([hotfd.Config("arena", Rules), hotfd.Config("shop", Shop)])
    further = Luggage(last)
    further.unpack(carry(middle, [held]))
    assert further.snapshot(held.serial).value.shop == Shop(7)


def test_the_programs_own_value_is_held_as_every_other_release() -> None:
    slots = Slots([hotfd.Config("arena", Rules, initial=Rules(77))])
    assert slots.start()
    first = slots.begin("a")
    new, luggage = pass_on(slots, [first], hotfd.Config("arena", Rules, initial=Rules(88)))
    assert new.start()
    assert luggage.snapshot(first.serial).value == Rules(77)
    assert new.begin("x").value == Rules(88)


def test_live_fields_of_what_is_held_follow_the_newest_release_of_the_new_process() -> None:
    slots = Slots([hotfd.Config("arena", LiveRules)])
    stage(slots, release(1, damage=1), 1)
    first = slots.begin("a")
    stage(slots, release(2, damage=2, enabled=False), 2)
    assert first.value == LiveRules(1, enabled=False)
    _, luggage = pass_on(slots, [first], hotfd.Config("arena", LiveRules))
    assert luggage.snapshot(first.serial).value == LiveRules(1, enabled=False)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", msgspec.msgpack.encode([[b"{}"], [], [0], []]), msgspec.msgpack.encode([[], [], [3], []])]
)
def test_what_is_damaged_is_an_error_and_changes_nothing(data: bytes) -> None:
    slots = old_slots()
    with pytest.raises(hotfd.ConfigError):
        Luggage(slots).unpack(data)
    assert slots.running is None


def test_a_snapshot_that_did_not_come_is_an_error() -> None:
    with pytest.raises(hotfd.ConfigError, match="did not come"):
        Luggage(old_slots()).snapshot(99)
