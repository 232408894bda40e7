"""The arena's rules, and the witness that the players of the integration test take along: neither needs a connection."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from hotfd.state import Codec
from tests.integration.arena_witness import Violation, Witness

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # where a program of that folder finds the modules beside it

import arena  # noqa: E402
import arena_core as core  # noqa: E402
import arena_v2  # noqa: E402

VERSIONS = {1: arena.Match, 2: arena_v2.Match}
CODECS = {number: Codec.of(match) for number, match in VERSIONS.items()}
RULES = core.Rules(target=20)
NAMES = ["ann", "bob", "cid", "dan"]

both = pytest.mark.parametrize("version", [1, 2])


class Room:
    """A room without a server: commands by player, lines to a witness."""

    def __init__(self, version: int, players: int = 4) -> None:
        self.match: core.Game = VERSIONS[version]()
        self.rules = RULES
        self.damage = 0
        self.witness = Witness()
        self.lines: list[str] = []
        for name in NAMES[:players]:
            self.tell(self.match.enter(name, name, RULES, watching=False))

    def tell(self, event: str) -> None:
        self.hear(self.match.line(event, 12.34 if self.match.playing else None))

    def hear(self, line: str) -> None:
        self.lines.append(line)
        self.witness.hear(line)

    def begin(self, seed: str = "seed", target: int = 20) -> None:
        self.rules = core.Rules(target=target, damage=self.damage)
        for seat in list(self.match.seats):
            if not seat.gone:
                self.tell(self.match.ready(seat.id, seed, self.rules))
        assert self.match.playing

    @property
    def current(self) -> str:
        return self.match.seats[self.match.current].id

    def roll(self) -> None:
        self.tell(self.match.roll(self.current, self.rules))

    def hold(self) -> None:
        self.tell(self.match.hold(self.current, self.rules))

    def roll_until_pot(self) -> None:
        while not self.match.pot:
            self.roll()

    def move_to(self, version: int) -> None:
        """Carry the match over to another version, as a handoff does."""
        old, new = CODECS[1 if isinstance(self.match, arena.Match) else 2], CODECS[version]
        self.match = carried(self.match, old, new)


def carried(match: core.Game, old: Codec[Any], new: Codec[Any]) -> Any:
    """Write a match with one process's codec and read it with another's, which may be the older one."""
    if old.version <= new.version:
        return new.reader(old.schema)(old.encode(match))
    writer = old.older(new.schema)
    assert not isinstance(writer, str), writer
    return new.reader(writer.schema)(writer.encode(match))


# ---------------------------------------------------------------- coming and going


@both
def test_a_match_begins_when_all_players_are_ready_and_not_before(version):
    room = Room(version)
    for name in NAMES[:3]:
        room.tell(room.match.ready(name, "seed", RULES))
        assert not room.match.playing
    room.tell(room.match.ready("dan", "seed", RULES))
    assert room.match.playing
    assert room.lines[-1].startswith("#8 dan is ready, and match 1 begins: 20 points win, the dice are sealed as ")


@both
def test_one_player_alone_waits(version):
    room = Room(version, players=1)
    room.tell(room.match.ready("ann", "seed", RULES))
    assert not room.match.playing
    assert "waiting for players" in room.lines[-1]


@both
def test_a_fifth_player_and_one_of_the_same_name_are_refused_but_a_spectator_is_not(version):
    room = Room(version)
    with pytest.raises(core.Refusal, match="all 4 seats"):
        room.match.enter("eve", "eve", RULES, watching=False)
    with pytest.raises(core.Refusal, match="there is a ann"):
        room.match.enter("eve", "ann", RULES, watching=True)
    assert "eve" not in room.match
    room.tell(room.match.enter("eve", "eve", RULES, watching=True))
    assert "eve" in room.match
    room.tell(room.match.leave("eve"))
    assert "eve" not in room.match


@both
def test_who_comes_in_the_middle_of_a_match_can_only_watch_and_cannot_play(version):
    room = Room(version, players=2)
    room.begin()
    with pytest.raises(core.Refusal, match="they are playing"):
        room.match.enter("eve", "eve", RULES, watching=False)
    room.match.enter("eve", "eve", RULES, watching=True)
    for command in (room.match.roll, room.match.hold):
        with pytest.raises(core.Refusal, match="you are watching"):
            command("eve", RULES)
    assert room.match.say("eve", "hello").endswith("eve says: hello")


@both
def test_a_player_who_leaves_forfeits_and_what_he_had_stays_on_the_table(version):
    room = Room(version, players=3)
    room.begin(target=1000)
    while not room.match.seats[0].score:
        room.roll_until_pot()
        room.hold()
    room.tell(room.match.leave("ann"))
    assert room.match.playing
    assert "ann" not in room.match
    assert f"(ann {room.match.seats[0].score}" in room.lines[-1]
    for _ in range(20):  # his turn does not come again, or the witness objects
        room.roll_until_pot()
        room.hold()
    room.tell(room.match.leave("bob"))
    assert not room.match.playing
    assert "cid wins match 1" in room.lines[-1]


@both
def test_the_turn_passes_on_when_the_player_whose_turn_it_is_leaves(version):
    room = Room(version)
    room.begin()
    room.tell(room.match.leave("ann"))
    assert (room.current, room.match.turn, room.match.pot) == ("bob", 2, 0)


@both
def test_the_next_match_begins_without_those_who_have_left_and_with_no_points(version):
    room = Room(version)
    room.begin(target=4)
    while room.match.playing:
        room.roll_until_pot()
        room.hold()
    room.tell(room.match.leave("bob"))
    room.tell(room.match.enter("eve", "eve", RULES, watching=False))
    room.begin(seed="other", target=4)
    assert [seat.name for seat in room.match.seats] == ["ann", "cid", "dan", "eve"]
    assert room.match.handed_out == 0
    assert room.match.number == 2


@both
def test_who_left_after_a_match_can_come_back_to_his_seat(version):
    room = Room(version, players=2)
    room.begin(target=4)
    while room.match.playing:
        room.roll_until_pot()
        room.hold()
    room.tell(room.match.leave("ann"))
    room.tell(room.match.enter("ann", "anna", RULES, watching=False))
    assert [seat.name for seat in room.match.seats] == ["anna", "bob"]


# ---------------------------------------------------------------- the match


@both
def test_only_the_player_whose_turn_it_is_can_move_and_only_during_a_match(version):
    room = Room(version)
    with pytest.raises(core.Refusal, match="no match is on"):
        room.match.roll("ann", RULES)
    room.begin()
    before = room.match.table(1.0)
    for move in (room.match.roll, room.match.hold):
        with pytest.raises(core.Refusal, match="it is the turn of ann"):
            move("bob", RULES)
    with pytest.raises(core.Refusal, match="nothing in the pot"):
        room.match.hold("ann", RULES)
    with pytest.raises(core.Refusal, match="has begun"):
        room.match.ready("bob", "seed", RULES)
    assert room.match.table(1.0) == before


@both
def test_a_clock_that_runs_out_costs_the_pot_and_the_turn(version):
    room = Room(version)
    room.begin()
    room.roll_until_pot()
    who = room.current
    room.tell(room.match.time_is_up())
    assert room.match.pot == 0
    assert room.current != who
    assert f"{who} is out of time and loses" in room.lines[-1]


@both
def test_a_one_costs_as_much_of_the_score_as_the_rules_say_and_never_more_than_there_is(version):
    room = Room(version, players=2)
    room.damage = 5
    room.begin(seed=next(seed for seed in map(str, range(100)) if core.Dice(seed).roll() == 1), target=1000)
    costs = set()
    for _ in range(200):
        before = {seat.id: seat.score for seat in room.match.seats}
        who = room.current
        room.roll()  # the witness checks the scores, and their sum
        if room.match.pot > 4:
            room.hold()
        elif " rolls 1 " in room.lines[-1]:
            after = {seat.id: seat.score for seat in room.match.seats}
            assert after[who] == max(0, before[who] - 5)
            costs.add(before[who] - after[who])
            assert ("of the score" in room.lines[-1]) == (before[who] > 0)
    assert {0, 5} <= costs


@pytest.mark.parametrize("size", [2, 5])
def test_as_many_sit_down_as_the_rules_say(size):
    match, rules = arena.Match(), core.Rules(room_size=size)
    for number in range(size):
        match.enter(str(number), f"player-{number}", rules, watching=False)
    with pytest.raises(core.Refusal, match=f"all {size} seats are taken"):
        match.enter("late", "late", rules, watching=False)
    match.enter("larger", "larger", core.Rules(room_size=size + 1), watching=False)


@both
def test_a_match_is_played_by_the_rules_that_it_is_given_with_each_move(version):
    room = Room(version, players=2)
    room.begin(target=1)
    room.roll_until_pot()
    room.rules = core.Rules(target=1000)
    room.hold()
    assert room.match.playing
    room.rules = core.Rules(target=1)
    room.roll_until_pot()
    room.hold()
    assert not room.match.playing


@both
def test_the_match_ends_at_the_target_and_tells_a_seed_from_which_every_roll_follows(version):
    room = Room(version)
    room.begin(seed="abcdef", target=20)
    while room.match.playing:
        room.roll_until_pot()
        room.hold()
    assert room.witness.matches == 1  # it has checked the rolls
    assert max(seat.score for seat in room.match.seats) >= 20
    assert room.lines[-1].partition(" | ")[0].endswith(" and wins match 1: the seed was abcdef")


def test_every_side_of_the_die_comes_up():
    dice = core.Dice("seed")
    assert {dice.roll() for _ in range(200)} == set(range(1, 7))


def test_chat_is_cut_and_nobody_says_nothing():
    assert core.checked_saying("x" * 1000) == "x" * core.LONGEST_SAYING
    with pytest.raises(core.Refusal, match="say what"):
        core.checked_saying("")


# ---------------------------------------------------------------- versions


def play_on(room: Room, rng: random.Random) -> None:
    """Do something that players do."""
    if not room.match.playing:
        room.begin(seed=rng.randbytes(8).hex(), target=30)
    elif rng.random() < 0.03:
        room.tell(room.match.time_is_up())
    elif room.match.pot and rng.random() < 0.3:
        room.hold()
    else:
        room.roll()


@pytest.mark.parametrize("seed", range(10))
def test_no_witness_objects_however_often_a_match_goes_from_version_to_version(seed):
    rng = random.Random(seed)
    room = Room(1)
    room.damage = seed % 3
    for _ in range(400):
        play_on(room, rng)
        if rng.random() < 0.5:
            room.move_to(2 if isinstance(room.match, arena.Match) else 1)
    assert room.witness.matches > 2
    assert room.witness.switches > 50


def test_version_2_takes_over_what_was_handed_out_and_begins_to_count_streaks():
    room = Room(1, players=2)
    room.begin(target=1000)
    for _ in range(6):
        room.roll_until_pot()
        room.hold()
    points = room.match.handed_out
    room.move_to(2)
    assert room.match.handed_out == points
    assert f"= {points} | best nobody 0" in room.match.table(1.0)
    room.roll_until_pot()
    who = room.current
    room.hold()
    assert room.match.streaks == {who: 1}
    assert f"| best {who} " in room.match.table(1.0)


def test_version_1_gets_one_number_for_the_ledger_and_nothing_that_it_does_not_know():
    room = Room(2, players=2)
    room.begin(target=1000)
    for _ in range(6):
        room.roll_until_pot()
        room.hold()
    fields = arena_v2.Match.downgrade(room.match, 1)
    assert fields.keys() == arena.Match.__dataclass_fields__.keys()
    match = arena.Match(**fields)
    assert match.handed_out == sum(seat.score for seat in match.seats) == room.match.handed_out


@both
def test_a_match_that_travels_is_the_same_match(version):
    room = Room(version)
    room.begin(target=1000)
    for _ in range(50):
        play_on(room, random.Random(1))
    codec = CODECS[version]
    assert carried(room.match, codec, codec) == room.match


# ---------------------------------------------------------------- what people type


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        (b"roll", "roll"),
        (b"  say  hello ", "say  hello"),
        (b"\xff\xfd\x03\xff\xfb\x18roll", "roll"),  # DO SUPPRESS-GO-AHEAD, WILL TERMINAL-TYPE
        (b"ro\xff\xf1ll", "roll"),  # NOP
        (b"\xff\xfa\x18\x00xterm\xff\xf0hold", "hold"),  # SB TERMINAL-TYPE IS xterm SE
        (b"hold\xff\xfa\x18\x00xte", "hold"),  # a subnegotiation that does not end
        (b"hold\xff", "hold"),
        (b"say \x1b[31mred\x07", "say [31mred"),
        ("say grüß".encode(), "say grüß"),
        (b"say \xc3\x28", "say \N{REPLACEMENT CHARACTER}("),
        (b"\x00\x01", ""),
    ],
)
def test_a_line_is_what_a_person_typed_and_nothing_that_telnet_said(typed, plain):
    assert core.plain(typed) == plain


@pytest.mark.parametrize("name", ["", "1st", "a b", "x" * 17, "ann|", "ann,", "ann\n", "(ann)", "-ann"])
def test_a_name_that_would_confuse_a_reader_of_the_table_is_refused(name):
    with pytest.raises(core.Refusal):
        core.checked_name(name)


def test_ordinary_names_are_names():
    for name in ("a", "ann", "Ann-2", "x" * 16):
        assert core.checked_name(name) == name


# ---------------------------------------------------------------- the witness can object


def recorded() -> list[str]:
    """Return the lines of a whole match, with some chat."""
    room = Room(1)
    room.begin(seed="seed", target=20)
    said = 0
    while room.match.playing:
        if room.match.lines % 5 == 0:
            said += 1
            room.hear(room.match.say("ann", str(said)))
        room.roll()
        if room.match.pot > 6:
            room.hold()
    return room.lines


def replayed(lines: list[str]) -> Witness:
    witness = Witness()
    for line in lines:
        witness.hear(line)
    return witness


def renumbered(lines: list[str]) -> list[str]:
    return [f"#{number} {line.partition(' ')[2]}" for number, line in enumerate(lines, 1)]


def test_a_line_that_is_missing_or_there_twice_is_found_by_its_number():
    lines = recorded()
    assert replayed(lines).matches == 1
    for place in range(1, len(lines) - 1):
        with pytest.raises(Violation):
            replayed(lines[:place] + lines[place + 1 :])
        with pytest.raises(Violation):
            replayed(lines[:place] + lines[place - 1 :])


def test_an_event_that_is_missing_or_there_twice_is_found_though_the_numbers_are_right():
    lines = recorded()
    first = next(place for place, line in enumerate(lines) if "begins" in line)
    said = [place for place, line in enumerate(lines) if " says: " in line]
    for place in range(first, len(lines) - 1):
        if place in {said[0], said[-1]}:
            continue  # nobody knows with what chat begins or ends
        with pytest.raises(Violation):
            replayed(renumbered(lines[:place] + lines[place + 1 :]))
        with pytest.raises(Violation):
            replayed(renumbered(lines[: place + 1] + lines[place:]))


@pytest.mark.parametrize(
    ("wrong", "instead"),
    [
        (r"seed was seed", "seed was another"),
        (r" = ", " = 1"),
        (r"turn 3: cid", "turn 3: dan"),
        (r"turn 2: bob, pot 0", "turn 2: bob, pot 1"),
    ],
)
def test_a_line_that_says_something_wrong_is_found(wrong, instead):
    lines = recorded()
    assert any(wrong in line for line in lines), lines
    with pytest.raises(Violation):
        replayed([line.replace(wrong, instead) for line in lines])


def test_a_roll_that_the_seed_does_not_have_is_found_when_the_seed_is_told():
    room = Room(1)
    room.begin(seed="seed", target=20)
    room.match.dice.rolls += 1  # as if a roll had been lost on the way
    with pytest.raises(Violation, match="the rolls"):
        while room.match.playing:
            room.roll_until_pot()
            room.hold()


@pytest.mark.parametrize("damage", [0, 5])
def test_damage_that_the_line_does_not_tell_is_found(damage):
    room = Room(1, players=2)
    room.damage = 4
    room.begin(target=1000)
    for _ in range(4):
        room.roll_until_pot()
        room.hold()
    told = {0: "", 5: " and 5 of the score"}[damage]
    heard, room.hear = [], lambda line: heard.append(line)  # type: ignore[method-assign]
    while "of the score" not in "".join(heard[-1:]):
        room.roll()
    witness = replayed([*room.lines, *heard[:-1]])
    with pytest.raises(Violation):
        witness.hear(heard[-1].replace(" and 4 of the score", told))


def test_a_move_out_of_turn_is_found():
    room = Room(1)
    room.begin()
    room.match.current = 1
    with pytest.raises(Violation, match="whose turn"):
        room.roll()
