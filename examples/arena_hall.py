"""The arena's server: the lobby, the rooms, and what players may type in them.

A handler of hotfd starts again in each new process, and code behind ``join`` is what the handler of a moved connection
does too. So nothing here depends on how a player came to where he is: ``Player.room`` says where he is, or wants to be,
and the match itself says whether he is in it already and what is left of its clock.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Awaitable, Callable

from arena_core import Game, Player, Refusal, Rules, checked_name, checked_saying, plain

import hotfd

MAX_LINE = 4096
"""Bytes of a line, either way: many times what a person types, and what the longest table takes."""

LOBBY = "lobby"
"""The topic of what all in the lobby hear: the bus takes it to them in whichever process they are."""

CLOCK = "turn"
"""The name of a match's timer: with it the time that is left finds its callback again after a handoff."""

SEED_BYTES = 8
"""Bytes of the dice's seed: nobody guesses it from its hash before the match is over."""

LOBBY_HELP = """\
name NAME    call yourself something
rooms        the rooms of this server
join ROOM    play there; a room that is not there is made
watch ROOM   only look on
say TEXT     tell it to everybody in the lobby
version      which arena this is
quit         go away"""

ROOM_HELP = """\
ready        begin, once all players are
roll         roll the die: 2 to 6 go into the pot, a 1 loses the pot and the turn
hold         take the pot to your score, and end your turn
score        how the match stands
say TEXT     tell it to everybody here
leave        back to the lobby; in the middle of a match that forfeits it
version      which arena this is
quit         go away"""

Room = hotfd.Session
Command = Callable[[hotfd.Connection[Player], str], Awaitable[None]]


class Quit(Exception):  # noqa: N818 - a wish, and no error
    """A player wants to go."""


class Hall:
    """A server of rooms.

    Args:
        match: the type of a room's state, which is one version of the game.
    """

    def __init__(self, match: type[Game]) -> None:
        self._match = match
        self._greeting = f"arena {match.version}"
        # Only what this process serves; each handler that starts here enters its room, so it fills up by itself.
        self._rooms: dict[str, Room] = {}
        self._in_lobby: dict[str, Command] = {
            "name": self._name,
            "rooms": self._list,
            "say": self._say_in_lobby,
            "version": self._version,
        }
        self._in_room: dict[str, Command] = {
            "ready": self._ready,
            "roll": self._roll,
            "hold": self._hold,
            "score": self._score,
            "say": self._say,
            "version": self._version,
        }

    async def serve(self, conn: hotfd.Connection[Player]) -> None:
        """Serve one player, from wherever he is."""
        player = conn.state
        if not conn.resumed:
            player.name = f"guest-{secrets.token_hex(3)}"
            await conn.send(f"{self._greeting}: welcome, {player.name}. Type help.".encode())
        try:
            while True:
                if player.room:
                    await self._play(conn)
                else:
                    await self._wait(conn)
        except Quit:
            await conn.send(b"goodbye")
        except hotfd.FramingError as error:
            await conn.send(f"goodbye: {error}".encode())

    # ---------------------------------------------------------------- the lobby

    async def _wait(self, conn: hotfd.Connection[Player]) -> None:
        """Serve a player in the lobby, until he has chosen a room."""
        player = conn.state
        news = conn.subscribe(LOBBY)  # a handler that starts again is given the one that came along
        try:
            async for source, found in conn.merge(news):
                if source is news:
                    await conn.send(f"* {found}".encode())
                    continue
                word, rest = _split(found)
                try:
                    if word in {"join", "watch"}:
                        player.room, player.watching = checked_name(rest), word == "watch"
                        return
                    await self._obey(conn, word, rest, self._in_lobby, LOBBY_HELP)
                except Refusal as refusal:
                    await _tell(conn, str(refusal))
            raise Quit
        finally:
            if not conn.handed_off:
                news.close()

    async def _name(self, conn: hotfd.Connection[Player], rest: str) -> None:
        conn.state.name = checked_name(rest)
        await _tell(conn, f"you are {conn.state.name}")

    async def _list(self, conn: hotfd.Connection[Player], rest: str) -> None:
        if not self._rooms:
            await _tell(conn, "no rooms")
        for key, room in sorted(self._rooms.items()):
            await _tell(conn, f"{key}: {room.state.table(_clock(room))}")

    async def _say_in_lobby(self, conn: hotfd.Connection[Player], rest: str) -> None:
        _may_talk(conn)
        await conn.bus.publish(LOBBY, f"{conn.state.name} says: {checked_saying(rest)}")

    # ---------------------------------------------------------------- a room

    async def _play(self, conn: hotfd.Connection[Player]) -> None:
        """Serve a player in a room, until he goes back to the lobby.

        ``join`` may take the connection to another process. There the handler comes by here again, and it also does
        when the whole room has moved. So each step asks the match first whether it has been taken.
        """
        player = conn.state
        room = await conn.join(player.room, state=self._match)
        match: Game = room.state
        if conn.id in match:
            if match.playing:
                self._set_clock(room)  # takes up the time that is left
        else:
            try:
                await self._act(conn, lambda: match.enter(conn.id, player.name, _rules(room), watching=player.watching))
            except Refusal as refusal:
                player.room = ""
                await conn.leave()
                await _tell(conn, str(refusal))
                return
        self._rooms[player.room] = room
        try:
            async for line in conn:
                word, rest = _split(line)
                if word == "leave":
                    return
                try:
                    await self._obey(conn, word, rest, self._in_room, ROOM_HELP)
                except Refusal as refusal:
                    await _tell(conn, str(refusal))
            raise Quit
        finally:
            if not conn.handed_off:
                await self._depart(conn, room)
            elif self._rooms.get(player.room) is room:
                del self._rooms[player.room]

    async def _depart(self, conn: hotfd.Connection[Player], room: Room) -> None:
        """Take a player out of his room, whether he wanted it or his connection is lost."""
        player = conn.state
        await self._act(conn, lambda: room.state.leave(conn.id))
        if len(room.connections) == 1:
            self._rooms.pop(player.room, None)
        player.room = ""
        await conn.leave()

    async def _ready(self, conn: hotfd.Connection[Player], rest: str) -> None:
        room, seed = conn.session, secrets.token_hex(SEED_BYTES)
        await self._act(conn, lambda: room.state.ready(conn.id, seed, _rules(room)))

    async def _roll(self, conn: hotfd.Connection[Player], rest: str) -> None:
        await self._act(conn, lambda: conn.session.state.roll(conn.id, conn.config))

    async def _hold(self, conn: hotfd.Connection[Player], rest: str) -> None:
        await self._act(conn, lambda: conn.session.state.hold(conn.id, conn.config))

    async def _score(self, conn: hotfd.Connection[Player], rest: str) -> None:
        await _tell(conn, conn.session.state.table(_clock(conn.session)))

    async def _say(self, conn: hotfd.Connection[Player], rest: str) -> None:
        _may_talk(conn)
        await conn.session.broadcast(conn.session.state.say(conn.id, checked_saying(rest)).encode())

    async def _act(self, conn: hotfd.Connection[Player], move: Callable[[], str]) -> None:
        """Let a player act; of a match that is over then, the lobby hears as well."""
        room, match = conn.session, conn.session.state
        playing = match.playing
        event = await self._step(room, move)
        if playing and not match.playing:
            await conn.bus.publish(LOBBY, f"{room.key}: {event}")

    async def _step(self, room: Room, move: Callable[[], str]) -> str:
        """Make a move, keep the clock with it, and tell the room what happened; return that."""
        match: Game = room.state
        before = match.number, match.turn
        event = move()
        if not match.playing:
            if CLOCK in room.timers:
                room.timers[CLOCK].cancel()
        elif (match.number, match.turn) != before:
            self._set_clock(room)
        await room.broadcast(match.line(event, _clock(room)).encode())
        return event

    def _set_clock(self, room: Room) -> None:
        match: Game = room.state
        room.call_later(room.config.turn_seconds, self._time_is_up, room, match.number, match.turn, name=CLOCK)

    async def _time_is_up(self, room: Room, number: int, turn: int) -> None:
        match: Game = room.state
        if match.playing and (match.number, match.turn) == (number, turn):  # a move may just have come in time
            await self._step(room, match.time_is_up)

    # ---------------------------------------------------------------- everywhere

    async def _version(self, conn: hotfd.Connection[Player], rest: str) -> None:
        await _tell(conn, self._greeting)

    async def _obey(
        self, conn: hotfd.Connection[Player], word: str, rest: str, commands: dict[str, Command], manual: str
    ) -> None:
        """Do what a player has typed.

        Raises:
            Quit: he wants to go.
            Refusal: he cannot do that, and why.
        """
        if word == "quit":
            raise Quit
        if word == "help":
            for line in manual.splitlines():
                await _tell(conn, line)
        elif word in commands:
            await commands[word](conn, rest)
        elif word:
            raise Refusal("no such command here; type help")


def _split(line: bytes) -> tuple[str, str]:
    """Return the first word of a line, and the rest."""
    word, _, rest = plain(line).partition(" ")
    return word.lower(), rest.strip()


async def _tell(conn: hotfd.Connection[Player], text: str) -> None:
    """Tell one player something; what all in his room are told has a number in front, this has not."""
    await conn.send(f"- {text}".encode())


def _rules(room: Room) -> Rules:
    """Return the rules that hold in a room: those with which its match began; between matches, the newest."""
    rules: Rules = room.config if room.state.playing else room.checkpoint()
    return rules


def _may_talk(conn: hotfd.Connection[Player]) -> None:
    """Raise Refusal while nobody may talk: the one rule that also changes in the middle of a match."""
    if not conn.config.chat:
        raise Refusal("nobody may talk at the moment")


def _clock(room: Room) -> float | None:
    """Return the seconds that the turn has left, if there is one."""
    return room.timers[CLOCK].remaining if CLOCK in room.timers else None


def serve_arena(match: type[Game], about: str | None) -> None:
    """Run one version of the arena, as the command line says."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:7777", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--target", type=int, default=Rules().target, metavar="POINTS", help="default: %(default)s")
    parser.add_argument(
        "--turn-seconds", type=float, default=Rules().turn_seconds, metavar="S", help="default: %(default)s"
    )
    parser.add_argument(
        "--config", metavar="URL", help="where the rules come from, such as dir:/srv/config; they follow"
    )
    parser.add_argument("--zone", metavar="ZONE", help="whose rules hold here, where zones have different ones")
    arguments = parser.parse_args()
    try:
        rules = hotfd.Config(
            "arena",
            Rules,
            source=arguments.config,
            zone=arguments.zone,
            initial=Rules(target=arguments.target, turn_seconds=arguments.turn_seconds),
        )
    except hotfd.ConfigError as error:
        parser.error(str(error))
    hotfd.run(
        Hall(match).serve,
        listen=arguments.listen,
        framing=hotfd.Lines(newline=b"\r\n", max_size=MAX_LINE),
        state=Player,
        config=rules,
        name="arena",
        loop=arguments.loop,
    )
