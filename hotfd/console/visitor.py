"""One console: from the connection over the log-in to the good-bye.

::

    LOGIN --- a token ---> CHECKING --- right ---> READY <--- answered --- BUSY
      ^                       |                      |  --- a command --->  |
      +-------- wrong --------+                      |                      |
                              |  3 times, or no time left                   |
                              +------------------> LEAVING <----------------+   flushes what is due, and closes

What is typed while a command runs waits for its end. What happens in the server is shown as it happens, whoever
asked for it, by the same ``watch`` instruction that the command line uses.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, cast

from hotfd import log
from hotfd.console import commands
from hotfd.console.editing import Editor
from hotfd.console.screen import Screen
from hotfd.console.telnet import Signal, Telnet, TooMuch, encode
from hotfd.console.token import TokenUnusable
from hotfd.control.peer import PASSING, refusal
from hotfd.display.advice import advice
from hotfd.display.events import Teller

if TYPE_CHECKING:
    from hotfd.console.console import Console

TRIES: Final = 3
"""Wrong tokens after which a connection is closed; the next one waits longer for its verdict."""

LOGIN_TIMEOUT: Final = 60.0
"""Seconds to type or paste a token."""

IDLE_TIMEOUT: Final = 1800.0
"""Seconds without a key after which a console is closed that shows nothing: one that was forgotten stays open to
whoever comes by."""

END_TIMEOUT: Final = 30.0
"""Seconds that a client which has ended its input is kept for an answer: most such have gone altogether, which nobody
learns before something is sent to them."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that a client has to take the last words before its connection is reset."""

MAX_DISCARDED: Final = 1024 * 1024
"""Bytes that a client may still send after its good-bye. Closed with something unread, its connection would be reset,
and a reset can destroy the last words on their way."""

MAX_AHEAD: Final = 32
"""Lines typed ahead while a command runs; a pasted script is shorter."""


class State(Enum):
    """See the drawing above."""

    LOGIN = auto()
    CHECKING = auto()
    READY = auto()
    BUSY = auto()
    LEAVING = auto()
    CLOSED = auto()


class Visitor(asyncio.Protocol):
    """One connected client.

    Args:
        console: whose visitor it is.
        peer: where it is from, for the log.

    Attributes:
        state: see the drawing above.
        watch: shows what happens in the server; None before the log-in.
    """

    def __init__(self, console: Console, peer: str) -> None:
        self.peer = peer
        self.state = State.LOGIN
        self.watch: asyncio.Task[None] | None = None
        self._console = console
        self._loop = asyncio.get_running_loop()
        self._telnet = Telnet()
        self._editor = Editor()
        self._teller = Teller()
        self._screen = Screen(console.name, peer)
        self._transport: asyncio.Transport | None = None
        self._ahead: deque[str] = deque()
        self._tries = 0
        self._task: asyncio.Task[None] | None = None  # the verdict, or the command that runs and is waited for
        self._timer: asyncio.TimerHandle | None = None
        self._counts = False  # the command watch: show the counts too
        self._muted = False  # control-C: show no more of this handoff but its outcome
        self._reporting = False  # its own handoff is being waited for: the report will say more than the event
        self._farewell: str | None = None
        self._ended = False  # the client has ended its input
        self._discarded = 0

    # -- the connection --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, and ask for the token."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no instances of it
        if self.state is State.CLOSED:  # it had to make way before it was there
            self._transport.abort()
            return
        self._screen.attach(self._transport)
        self._screen.say([self._console.banner])
        self._ask_token()
        self._arm(LOGIN_TIMEOUT, "no token within a minute")

    def data_received(self, data: bytes) -> None:
        """Take what was typed."""
        if self.state is State.LEAVING:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED:
                self.drop()
            return
        try:
            events = list(self._telnet.receive(data))
            # Before any words: after an interrupt, clients throw away what comes before the answer to the timing mark
            # that they have sent behind it (RFC 860).
            self._screen.write(self._telnet.take_replies())
            # One line after another: of a flood, no more is looked at than what ends the connection.
            for typed in (entry for event in events for entry in self._editor.feed(event)):
                self._typed(typed)
                if self.state in (State.LEAVING, State.CLOSED):
                    return
        except TooMuch as error:
            log.event(logging.WARNING, "console-closed", peer=self.peer, reason=str(error))
            self._leave(f"{error}: closed")

    def eof_received(self) -> bool:
        """The client has ended its input: what it has typed is still answered, then it ends here too."""
        self._ended = True
        if self.state is State.LEAVING:
            return False  # both directions have ended: asyncio closes it
        if self._counts:
            self._leave()
        self._proceed()
        if self._task is not None and not self._reporting:
            self._arm(END_TIMEOUT, "the answer takes too long for one who has ended his input")
        return True  # asyncio would not wait for the answer

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything but what was started, which goes on."""
        self.state = State.CLOSED
        self._disarm()
        if self.watch is not None:
            self.watch.cancel()
        self._let_go()
        self._console.gone(self)

    @property
    def logged_in(self) -> bool:
        """Whether the token was right."""
        return self.watch is not None

    @property
    def has_offered(self) -> bool:
        """Whether a token has been typed whose verdict is not known yet."""
        return self.state is State.CHECKING

    def finish(self, farewell: str = "") -> None:
        """End in order: after the command that runs, when what is due has been sent."""
        if self._task is None or self.state is State.CHECKING or self._counts:
            self._leave(farewell)
        elif self._farewell is None:
            self._farewell = farewell

    def drop(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self.state = State.CLOSED

    # -- what is typed -----------------------------------------------------------------------------------

    def _typed(self, typed: str | Signal) -> None:
        if typed is Signal.INTERRUPT:
            self._interrupt()
        elif typed is Signal.END:
            self._leave("good-bye")
        elif isinstance(typed, str):
            self._telnet.line_ended()
            self._screen.entered()
            if self._counts and not typed.strip():
                self._interrupt()
            elif len(self._ahead) < MAX_AHEAD:
                self._ahead.append(typed)
                self._proceed()
            else:
                self._leave(f"more than {MAX_AHEAD} lines while a command runs: closed")

    def _proceed(self) -> None:
        """Take the lines that wait, as long as nothing runs."""
        while self._ahead and self._task is None and self.state in (State.LOGIN, State.READY):
            line = self._ahead.popleft()
            if self.state is State.LOGIN:
                self._disarm()
                self.state = State.CHECKING
                self._task = self._loop.create_task(self._check(line))
            else:
                self._arm(IDLE_TIMEOUT, "nothing was typed for half an hour")
                self._carry_out(line)
        if self._ended and not self._ahead and self._task is None:
            self._leave()

    def _interrupt(self) -> None:
        if self.state is State.LOGIN:
            self._leave()
        elif self.state is State.BUSY and not self._counts:
            self._muted = self._reporting
            self._screen.say(["(it goes on, and its outcome will be told)" if self._reporting else "(interrupted)"])
            self._release()
        elif self.state in (State.BUSY, State.READY):
            self._muted = self.state is State.READY
            self._counts = False
            self._release()

    def _release(self) -> None:
        """Wait no longer for the command that runs, and be ready for the next."""
        self._let_go()
        self._ready()

    def _let_go(self) -> None:
        """Nobody waits any more for the command that runs. It ends with that, but for a handoff."""
        task, self._task = self._task, None
        if task is not None and self._reporting:
            self._console.adopt(task)
        elif task is not None:
            task.cancel()
        self._reporting = False

    # -- logging in ----------------------------------------------------------------------------------------

    def _ask_token(self) -> None:
        self._telnet.hide_input(True)
        self._screen.write(self._telnet.take_replies() + encode("token: "))

    async def _check(self, offered: str) -> None:
        try:
            right = await self._console.login.check(offered)
        except TokenUnusable as error:
            log.event(logging.ERROR, "console-token-unusable", reason=str(error))
            self._task = None
            self._leave("the server cannot read its token file; its log says why")
            return
        self._task = None
        if self.state is not State.CHECKING:
            return
        if right:
            self._welcome()
        else:
            self._refuse()

    def _refuse(self) -> None:
        self._tries += 1
        log.event(logging.WARNING, "console-login-refused", peer=self.peer, tries=self._tries)
        if self._tries >= TRIES:
            self._leave("\nwrong token; good-bye")
            return
        self._screen.say(["", f"wrong token; it is in the file {self._console.token_path} of the server"])
        self.state = State.LOGIN
        self._ask_token()
        self._arm(LOGIN_TIMEOUT, "no token within a minute")
        self._proceed()

    def _welcome(self) -> None:
        log.event(logging.INFO, "console-login", peer=self.peer)
        self._telnet.hide_input(False)
        self._screen.write(self._telnet.take_replies())
        self._screen.say(["", f"welcome; this is process {os.getpid()}. Type help for help."])
        self.watch = self._loop.create_task(self._look_on())
        self._ready()

    # -- commands -----------------------------------------------------------------------------------------

    def _ready(self) -> None:
        if self._farewell is not None:
            self._leave(self._farewell)
            return
        self.state = State.READY
        self._arm(IDLE_TIMEOUT, "nothing was typed for half an hour")
        self._screen.prompt()
        self._proceed()

    def _carry_out(self, line: str) -> None:
        """Begin what a line asks for."""
        instructions = self._console.instructions
        try:
            command = commands.read(line, instructions)
        except commands.Misunderstood as error:
            self._screen.say([str(error)])
            self._screen.prompt()
            return
        if command is None:
            self._screen.prompt()
        elif command.name == commands.HELP:
            self._screen.say(commands.help_lines(command.topic, instructions))
            self._screen.prompt()
        elif command.name == commands.QUIT:
            self._leave("good-bye")
        elif command.name == commands.WATCH:
            self._disarm()
            self.state, self._counts = State.BUSY, True
            self._screen.say(["watching; control-C or an empty line ends it"])
        else:
            self._disarm()
            self.state = State.BUSY
            # Only these go on when nobody waits for them any more: a handoff does not end with its operator.
            self._reporting = command.name in self._console.lasting
            self._muted = False
            self._task = self._loop.create_task(self._run(command))

    async def _run(self, command: commands.Command) -> None:
        me = asyncio.current_task()
        try:
            answer = await self._console.instructions[command.name]({"type": command.name, **command.fields}, _nowhere)
            lines = commands.show(command.name, answer)
        except Exception as error:  # noqa: BLE001 - a broken instruction must not end the server
            code, message = refusal(command.name, error)
            lines = [f"{code}: {message}", *(f"what to do: {text}" for text in [advice(code)] if text)]
        if self._task is me and self.state is State.BUSY:
            self._task = None
            self._reporting = False
            self._screen.say(lines)
            self._ready()

    # -- what happens in the server --------------------------------------------------------------------------

    async def _look_on(self) -> None:
        """Show what happens until this process serves no more."""
        watch = self._console.instructions.get(commands.WATCH)
        if watch is None:
            return
        try:
            answer = await watch({"type": commands.WATCH}, self._happened)
        except Exception as error:  # noqa: BLE001 - the console is of use without it
            refusal(commands.WATCH, error)
            return
        successor = answer.get("successor") if isinstance(answer, dict) else None
        self.finish(
            f"process {successor} serves now, and this console of process {os.getpid()} closes; connect again"
            if successor
            else "the server ends; good-bye"
        )

    def _happened(self, event: dict[str, Any]) -> None:
        """Show one event, if it is to be shown now."""
        kind = event.get("event")
        if kind == "started":
            self._muted = False
        if kind in ("watching", "counts"):
            wanted = self._counts
        elif kind == "outcome":
            wanted = not self._reporting
            self._muted = False
        else:
            wanted = not self._muted
        if not wanted or self.state in (State.LEAVING, State.CLOSED):
            return
        shown = self._screen.tell(self._teller.lines(event), passing=kind in PASSING)
        if shown and self.state is State.READY:
            self._screen.prompt()

    # -- the end ------------------------------------------------------------------------------------------

    def _leave(self, farewell: str = "") -> None:
        """Say good-bye, send what is due, and close."""
        if self.state in (State.LEAVING, State.CLOSED) or self._transport is None or self._transport.is_closing():
            return
        if farewell:
            self._screen.say(farewell.split("\n"))
        self.state = State.LEAVING
        self._disarm()
        try:
            if not self._ended:
                self._transport.write_eof()  # after what is due; then the client ends its direction
        except OSError:
            self._ended = True  # reset by the client, as the transport will learn
        if self._ended:
            self._transport.close()
        # A client that reads nothing would keep it for ever.
        self._timer = self._loop.call_later(CLOSE_TIMEOUT, self.drop)

    def _arm(self, seconds: float, reason: str) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, self._leave, f"{reason}; good-bye")

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nowhere(event: dict[str, Any]) -> None:
    """Progress of a command of one's own comes with everybody else's, by ``watch``."""
