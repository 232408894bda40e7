"""Serve a handler inside a test, and hand its connections over while the test talks to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from hotfd.config.slots import Slots
from hotfd.errors import ConnectionMoved
from hotfd.framing import Framing, Lines
from hotfd.server.engine import Engine
from hotfd.server.kinds import Kinds
from hotfd.state import Codec, State
from hotfd.testing.client import Client
from hotfd.testing.mover import Mover
from hotfd.testing.passage import Boundary, Passage, Unit
from hotfd.testing.program import Handler, Hook, PerProcess, Program, Programs
from hotfd.testing.travel import HandoverFailed

if TYPE_CHECKING:
    from hotfd.config.declare import Config
    from hotfd.server.bus import Bus
    from hotfd.server.connection import Connection

Handoffs = Literal["every", "never"] | int | Callable[[Boundary], bool]

TIMEOUT: Final = 5.0
"""Seconds that a client waits for the server unless the test says otherwise; what is in one process answers
within milliseconds, and a loaded machine within this."""

LISTEN: Final = "127.0.0.1:0"
"""Where the server under test listens: TCP, as in life, on a free port."""


@asynccontextmanager
async def serve(
    handler: Handler | Program | PerProcess,
    *,
    framing: Framing | None = None,
    state: type[Any] | State[Any] | None = None,
    session_states: Sequence[type[Any] | State[Any]] = (),
    config: Config[Any] | Sequence[Config[Any]] | None = None,
    on_start: Hook | None = None,
    export_state: Hook | None = None,
    import_state: Callable[[Any], Any] | None = None,
    handoffs: Handoffs = "every",
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - not of this call, but of the clients that it makes
) -> AsyncIterator[Harness]:
    """Serve a handler on loopback, and hand each connection over at its frame boundaries.

    A handover does what a handoff does, but for the second process: the handler's helpers are stopped, its
    state is written and must come back as it went, :exc:`hotfd.HandedOff` unwinds it, and it starts again
    with ``resumed`` true, the state that was read, and the bytes that it had not been given. It happens
    between every two frames, also when they arrive together, and before the first. The connections of a shared
    session are handed over together, when all their handlers have come to rest after what one of them was given.

    Args:
        handler: serves one connection; or a :class:`Program`, or :func:`per_process` of what makes one.
        framing: as :class:`hotfd.Server` takes it.
        state: likewise.
        session_states: likewise.
        config: likewise. The test says with ``initial=`` what holds at first, and with :meth:`Harness.publish` what
            holds later; no source is asked.
        on_start: likewise; called for each process that there would be.
        export_state: likewise. With it all connections are handed over at once, with what it returns.
        import_state: likewise.
        handoffs: ``every`` boundary; ``never``; an integer for every n-th boundary of a connection; or a
            function that is given a :class:`Boundary` and returns whether to hand over there.
        timeout: seconds that a client waits for the server.

    Yields:
        the harness, which makes clients.

    Raises:
        HandoverFailed: a handover went wrong, or, at the end, a connection or a shared session never came to a
            boundary at which it could be handed over, so that the test has tested nothing.
        StateError: a state's type cannot travel.
        ValueError: an argument is none of what is said above.
    """
    if not isinstance(handler, Program | PerProcess):
        handler = Program(handler, on_start, export_state, import_state)
    elif on_start or export_state or import_state:
        raise ValueError("a Program says its hooks itself; give them there")
    home = _home(handler)
    harness = Harness(
        Programs(handler),
        framing or Lines(),
        Codec.of(state),
        (Kinds(home, session_states), Kinds(home, session_states)),
        _chooser(handoffs),
        timeout,
        _slots(config),
    )
    try:
        await harness._start()
        yield harness
    except BaseException as error:
        await harness._stop()
        if isinstance(error, Exception):
            error.add_note(f"hotfd.testing: {harness.summary()}")
        raise
    await harness._stop()
    harness._complain()


def _slots(config: Config[Any] | Sequence[Config[Any]] | None) -> Slots | None:
    """Return slots in which the initial values run; None without a configuration."""
    if config is None:
        return None
    slots = Slots(config if isinstance(config, Sequence) else [config])
    if not slots.start():
        raise ValueError(f"no value to begin with: Config({min(slots.missing)!r}, ..., initial=...)")
    return slots


def _chooser(handoffs: Handoffs) -> Callable[[Boundary], bool] | None:
    """Return the function that chooses boundaries; None for ``never``."""
    if handoffs == "never":
        return None
    if handoffs == "every":
        return lambda _: True
    if isinstance(handoffs, int) and not isinstance(handoffs, bool) and handoffs > 0:
        every = handoffs
        return lambda boundary: (boundary.number + 1) % every == 0
    if callable(handoffs):
        return handoffs
    raise ValueError(f"handoffs is 'every', 'never', a positive integer or a function, not {handoffs!r}")


def _home(handler: Program | PerProcess) -> str:
    """Return the name of the module in which a handler and its types live."""
    code = handler.make if isinstance(handler, PerProcess) else handler.handler
    return getattr(code, "__module__", "__main__")


class Harness:
    """A server under test. Made by :func:`serve`.

    Args:
        programs: what is served.
        framing: where frames end.
        codec: the state of a connection.
        kinds: the states of shared sessions that this process knows, and those that a new one would.
        choose: says at which boundaries to hand over; None for never.
        timeout: seconds that a client waits.
        slots: the configuration, or None.
    """

    def __init__(
        self,
        programs: Programs,
        framing: Framing,
        codec: Codec[Any],
        kinds: tuple[Kinds, Kinds],
        choose: Callable[[Boundary], bool] | None,
        timeout: float,
        slots: Slots | None,
    ) -> None:
        self._programs = programs
        known, self._known_anew = kinds
        self._engine = Engine(self._handle, framing, codec, known, slots=slots)
        self._mover: Mover | None = None
        self._choose = choose
        self._timeout = timeout
        self._clients: list[Client] = []
        self._raised: dict[Any, Exception] = {}
        self._failure: HandoverFailed | None = None

    # -- for the test ----------------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server listens on, for clients of the test's own."""
        host, port = self._engine.listeners[LISTEN].sock.getsockname()
        return host, port

    @property
    def bus(self) -> Bus:
        """The bus, to publish on and to hear what handlers do; ``server.bus`` in a program."""
        return self._engine.bus

    @property
    def handovers(self) -> int:
        """How often a connection was handed over, counted over all connections."""
        return sum(passage.handovers for passage in self._passages)

    async def connect(self) -> Client:
        """Open a connection; it is closed at the end at the latest.

        Raises:
            HandoverFailed: a handover has gone wrong before.
        """
        if self._failure is not None:
            raise self._failure
        reader, writer = await asyncio.open_connection(*self.address)
        client = Client(reader, writer, self._engine.framing, self._timeout, self._story)
        self._clients.append(client)
        if self._failure is not None:  # a first boundary comes as soon as the connection does
            client._fail(self._failure)
        return client

    def publish(self, value: Any, module: str | None = None) -> None:
        """Publish a release: sessions that begin from now on begin with it, and those that run keep theirs.

        Args:
            value: of the type that the module's :class:`hotfd.Config` declares.
            module: the module's name; not needed when there is one.

        Raises:
            ReleaseRefused: the module's ``check`` refuses it, as it would refuse what somebody publishes.
            ValueError: the server has no configuration, or several modules and none was named.
        """
        slots = self._engine.slots
        if slots is None or (module is None and len(slots.modules) != 1):
            raise ValueError("give serve a config, and publish the name of one of its modules")
        slots.publish(module or slots.modules[0], value)

    async def hand_over(self) -> None:
        """Hand over every connection that stands at a boundary now; with ``handoffs="never"``, do nothing.

        For moments that no frame marks: a handler in ``conn.wait``, a timer that has run for a while.
        """
        if self._mover is not None:
            await self._mover.hand_over()
            if self._failure is not None:
                raise self._failure

    def summary(self) -> str:
        """Return one line about the handovers so far."""
        if self._mover is None:
            return "nothing was to be handed over"
        boundaries = sum(passage.boundaries for passage in self._passages)
        stayed = sum((unit.stayed for unit in self._units), Counter[tuple[str, str]]())
        line = f"{len(self._passages)} connections, {boundaries} boundaries, {self.handovers} handovers"
        for (code, detail), times in stayed.items():
            line += f"; {times} times not, for {code}: {detail}"
        return line

    # -- serving ---------------------------------------------------------------------------------------

    async def _start(self) -> None:
        await self._programs.start()
        if self._choose is not None:
            self._mover = Mover(self._engine, self._programs, self._known_anew, self._choose, self._failed)
        self._engine.bind([LISTEN])
        self._engine.start_accepting()

    async def _handle(self, connection: Connection[Any]) -> None:
        """Run the handler of the current generation; remember what it raises, for the test's failure."""
        try:
            await self._programs.current.handler(connection)
        except Exception as error:
            self._raised[connection.peername] = error
            raise

    def _failed(self, failure: HandoverFailed) -> None:
        """A handover went wrong: every client that waits fails with it."""
        self._failure = failure
        for client in self._clients:
            client._fail(failure)

    async def _stop(self) -> None:
        if self._mover is not None:
            await self._mover.stop()
        for client in self._clients:
            await client.close()
        await self._engine.stop()
        self._engine.bus.close()

    # -- telling ---------------------------------------------------------------------------------------

    @property
    def _passages(self) -> list[Passage]:
        return self._mover.passages if self._mover is not None else []

    @property
    def _units(self) -> list[Unit]:
        return self._mover.units if self._mover is not None else []

    def _story(self, client: Client) -> str:
        """Say what has become of a client's connection, and of others, for its failures."""
        number = self._clients.index(client) + 1
        passage = next((p for p in self._passages if p.peername == client.address), None)
        times = passage.handovers if passage is not None else 0
        parts = [f"client {number}, handed over {times} times"]
        for address, error in self._raised.items():
            whose = "its handler" if address == client.address else f"the handler of {self._named(address)}"
            parts.append(f"{whose} raised {type(error).__name__}: {error}")
            if isinstance(error, ConnectionMoved):
                parts.append("so it has kept what belongs to the process before; conn.session has the members")
        parts += [f"its timer {name!r} is due and was not set again" for name in self._forgotten(client.address)]
        return "; ".join(parts)

    def _named(self, address: Any) -> str:
        numbers = [number for number, client in enumerate(self._clients, 1) if client.address == address]
        return f"client {numbers[0]}" if numbers else str(address)

    def _forgotten(self, address: Any) -> Iterator[str]:
        """Name the timers that came along, and that no resumed handler has given a callback."""
        for session in self._engine.sessions.values():
            for connection in session.connections:
                if connection.peername == address:
                    for timer in (*connection.timers.values(), *session.timers.values()):
                        if timer.callback is None and not timer.remaining:
                            yield timer.name

    def _complain(self) -> None:
        """Raise what went wrong and was not seen by a client; and when the test has tested nothing."""
        if self._failure is not None:
            raise self._failure
        for unit in self._units:
            if unit.stayed and not unit.handovers:
                (code, detail), _ = unit.stayed.most_common(1)[0]
                raise HandoverFailed(code, f"{unit.name} could never be handed over: {detail}; {_ADVICE.get(code, '')}")
        if self._passages and not self.handovers:
            raise HandoverFailed(
                "no-boundary",
                f"{self.summary()}: the test has tested nothing; use handoffs='never' if it cannot",
            )


_ADVICE: Final = {
    "handler-tasks": "start helpers with conn.spawn, which stops them at a boundary, or await them",
    "not-movable": "use handoffs='never' if that is meant",
    "no-boundary": "let it wait in 'async for', conn.receive or conn.wait, and not in something else",
}
"""What to do about a reason code."""
