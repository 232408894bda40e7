"""``hotfd.Server``: a server inside an asyncio program, with its control endpoint and its handoffs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypedDict, TypeVar

import msgspec

from hotfd import log
from hotfd._version import __version__
from hotfd.app.consoles import Consoles, addresses_of
from hotfd.app.events import Hub
from hotfd.app.notify import Notifier
from hotfd.app.past import Past
from hotfd.app.request import only, options_of, sample_of
from hotfd.app.succession import Succession
from hotfd.control.endpoint import Endpoint, Instruction
from hotfd.control.runtime import RuntimeDirectory, socket_name
from hotfd.errors import ConfigError, ControlError, HandoffRefused
from hotfd.framing import Framing, Lines
from hotfd.server.activation import activated
from hotfd.server.background import Background, Freezer, Work
from hotfd.server.bus import Bus
from hotfd.server.cutover import Cutover
from hotfd.server.engine import Engine
from hotfd.server.kinds import Kinds
from hotfd.server.laggards import still_there
from hotfd.server.neighbours import Neighbours
from hotfd.server.options import Identity
from hotfd.server.preflight import open_descriptors
from hotfd.server.sample import sample
from hotfd.server.takeover import Takeover
from hotfd.state import Codec, State
from hotfd.transfer.listening import parse
from hotfd.transfer.process import inherited_channel

if TYPE_CHECKING:
    from hotfd.app.configuration import Configuration
    from hotfd.config.declare import Config
    from hotfd.server.connection import Connection
    from hotfd.transfer.history import History

S = TypeVar("S")
W = TypeVar("W", bound=Work)
Hook = Callable[[], Any]

MAX_LISTENERS = 200
"""Addresses of a server: their sockets and names fit one packet of the handoff channel."""


class ServerOptions(TypedDict, total=False):
    """The arguments of :class:`Server` that :func:`hotfd.run` passes on."""

    session_states: Sequence[type[Any] | State[Any]]
    config: Config[Any] | Sequence[Config[Any]] | None
    cutover: Literal["rolling", "together"]
    on_start: Hook | None
    on_freeze: Hook | None
    on_thaw: Hook | None
    background: Sequence[Work]
    healthy: Hook | None
    export_state: Hook | None
    import_state: Callable[[Any], Any] | None
    control: bool | str | Sequence[str]
    control_token: str | None
    control_exposed: bool


class Server(Generic[S]):
    """A TCP or Unix stream server that can be replaced while its clients stay connected.

    Used as an asynchronous context manager; inside it the server accepts and serves::

        async with hotfd.Server(talk, listen="127.0.0.1:7000") as server:
            await server.serve()

    A process that a handoff started takes its listeners and sessions over instead of making its own.

    Args:
        handler: a coroutine function; serves one connection, a :class:`Connection`.
        listen: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``, or several of them. Port 0 takes a free one.
        framing: where frames end; :class:`hotfd.Lines` when not given.
        state: the type of ``connection.state``: a dataclass, a msgspec Struct, a TypedDict or a
            :class:`hotfd.State`; None keeps none.
        session_states: types of shared sessions' states that are no classes at module level; those are found
            by their names.
        config: a module of configuration, or several: what handlers read as ``connection.config``. The server starts
            when each has a release; see :class:`hotfd.Config`.
        name: the service's name in status and process lists.
        cutover: ``rolling`` moves each session by itself; ``together`` moves all in one moment, with what
            ``export_state`` returns, for servers whose sessions share state.
        on_start: called before the server is ready; may be a coroutine function. While it runs in a
            new process, the old one serves.
        on_freeze: called in an old process when it is about to give everything away, and its background tasks have
            stopped; if it raises, the handoff is refused. May be a coroutine function.
        on_thaw: its counterpart: called when the old process goes on after all. May be a coroutine function.
        background: what runs beside the sessions; see :meth:`background`.
        healthy: called before the new process takes anything over, and while it proves itself; false or an
            exception makes the old one go on. May be a coroutine function.
        export_state: with ``together``: returns the process-wide state, made of plain values. May be a
            coroutine function.
        import_state: with ``together``: takes in the new process what ``export_state`` returned. A plain
            function; it may be called more than once before the new process serves, and what it was given
            last is what counts.
        control: whether to open a control socket, without which nobody can ask for a handoff. ``HOST:PORT``, or
            several of them, opens consoles for Telnet clients beside it.
        control_token: the path of the file with the consoles' token; it is made if it is missing. By default
            ``$XDG_CONFIG_HOME/hotfd/token``, else ``/etc/hotfd/token`` for root and ``~/.config/hotfd/token`` for
            others.
        control_exposed: let consoles listen where other machines reach them; their token travels in clear text.

    Raises:
        StateError: the state's type cannot travel; it names the field.
        ValueError: an argument is none of what is said above.
    """

    def __init__(
        self,
        handler: Callable[[Connection[S]], Awaitable[None]],
        listen: str | Sequence[str],
        *,
        framing: Framing | None = None,
        state: type[S] | State[S] | None = None,
        session_states: Sequence[type[Any] | State[Any]] = (),
        config: Config[Any] | Sequence[Config[Any]] | None = None,
        name: str = "",
        cutover: Literal["rolling", "together"] = "rolling",
        on_start: Hook | None = None,
        on_freeze: Hook | None = None,
        on_thaw: Hook | None = None,
        background: Sequence[Work] = (),
        healthy: Hook | None = None,
        export_state: Hook | None = None,
        import_state: Callable[[Any], Any] | None = None,
        control: bool | str | Sequence[str] = True,
        control_token: str | None = None,
        control_exposed: bool = False,
    ) -> None:
        self._specs = [listen] if isinstance(listen, str) else list(listen)
        if not self._specs or len(set(self._specs)) != len(self._specs):
            raise ValueError("listen needs at least one address, and each only once")
        for spec in self._specs:
            parse(spec)
        if cutover not in {"rolling", "together"}:
            raise ValueError(f"cutover is 'rolling' or 'together', not {cutover!r}")
        if cutover == "rolling" and (export_state or import_state):
            raise ValueError('process-wide state needs cutover="together": in rolling there are two truths at once')
        if (export_state is None) != (import_state is None):
            raise ValueError("export_state and import_state need each other")
        if inspect.iscoroutinefunction(import_state):
            raise ValueError("import_state must be a plain function: nothing else happens while it works")
        consoles = addresses_of(control, exposed=control_exposed)
        if (addresses := len(self._specs) + len(consoles)) > MAX_LISTENERS:
            raise ValueError(f"{addresses} addresses; at most {MAX_LISTENERS} can be handed over")
        self.name = name or getattr(handler, "__name__", "server")
        self._handler = handler
        self._framing = framing if framing is not None else Lines()
        self._codec: Codec[S] = Codec.of(state)
        self._kinds = Kinds(getattr(handler, "__module__", "__main__"), session_states)
        self._configuration = _configuration(config, self.name)
        self._together = cutover == "together"
        self._on_start = on_start
        self._background = Background()
        self._freezer = Freezer(self._background, on_freeze, on_thaw)
        for work in background:
            self._background.add(work)
        self._healthy = healthy
        self._export_state = export_state
        self._import_state = import_state
        self._control = control is not False
        self._engine: Engine | None = None
        self._endpoint: Endpoint | None = None
        self._directory: RuntimeDirectory | None = None
        self._takeover: Takeover | None = None
        self._neighbours: Neighbours | None = None
        self._generation = 1
        self._state = "starting"
        self._initialised = False
        self._bereaved: int | None = None
        self._started = time.time()
        self._over = asyncio.Event()
        self._events = Hub(self._counts)
        self._past = Past(self._codec.version)
        self._bus = Bus()
        self._instructions: dict[str, Instruction] = {
            "config": self._on_config,
            "history": self._on_history,
            "result": self._on_result,
            "rollback": self._on_update,
            "sessions": self._on_sessions,
            "status": self._on_status,
            "update": self._on_update,
            "watch": self._events.watch,
        }
        self._consoles = Consoles(consoles, control_token, self._instructions, self.name)
        self._failure: HandoffRefused | None = None
        self._notifier = Notifier()
        self._succession = Succession(self._notifier, self._events, self._remove_socket_of, self._over.set)
        self._signalled: set[asyncio.Task[None]] = set()

    # -- life ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _open(self) -> None:
        slots = self._configuration.slots if self._configuration is not None else None
        engine = self._engine = Engine(self._handler, self._framing, self._codec, self._kinds, self._bus, slots)
        channel = inherited_channel()
        if channel is not None:
            self._bus.wait()
            self._takeover = Takeover(
                channel,
                engine,
                self._specs,
                healthy=self._healthy,
                import_state=self._import_state if self._together else None,
            )
            self._takeover.done.add_done_callback(self._taken_over)
            self._takeover.on_old_exit = self._remove_socket_of
            self._takeover.on_accepting = self._background.start
            await self._takeover.hello()
            self._generation = self._takeover.generation
            self._past.begin(self._takeover.history, self._generation, self._takeover.back_to)
        else:
            self._past.begin(None, self._generation, None)
        self._neighbours = Neighbours(engine, self._generation)
        await self._configure()
        await self._initialise()
        await self._past.complete()  # who sees this process serve may change its files
        await self._open_control()
        if self._takeover is None:
            for spec, sock in activated(self._specs).items():
                engine.inherit(spec, sock, lent=True)
            engine.bind(self._specs)
            engine.start_accepting()
            self._background.start()
            self._consoles.serve()
            self._state = "serving"
            self._notifier.serving(self._generation, main=False)
        else:
            self._state = "taking-over"
            await self._takeover.ready()
            self._initialised = True
            if self._takeover.settled:
                self._serve_alone()

    async def _configure(self) -> None:
        """Have a release of each module; when a new process gets none, the old one learns why."""
        if self._configuration is None:
            return
        self._configuration.sessions = self._engine_of().sessions
        try:
            await self._configuration.start(self._generation)
        except ConfigError as error:
            if self._takeover is not None:
                raise await self._takeover.fail("config-unavailable", str(error)) from error
            raise

    async def _initialise(self) -> None:
        """Run ``on_start``; when it fails in a new process, the old one learns why."""
        if self._on_start is None:
            return
        try:
            with self._bus.starting():
                result = self._on_start()
                if isinstance(result, Awaitable):
                    await result
        except Exception as error:
            if self._takeover is not None:
                log.event(logging.ERROR, "on-start-failed", exc_info=error)
                detail = f"its on_start raised {type(error).__name__}; see its log"
                raise await self._takeover.fail("not-ready", detail) from error
            raise

    async def _open_control(self) -> None:
        self._consoles.open(self._engine_of())
        if not self._control:
            return
        self._endpoint = Endpoint(
            self._instructions,
            lambda: {"generation": self._generation, "name": self.name},
            attended={"watch"},
        )
        try:
            self._directory = RuntimeDirectory.open()
            await self._endpoint.start(self._directory)
        except (ControlError, OSError) as error:
            log.event(logging.ERROR, "no-control-socket", reason=str(error))
            self._endpoint = None
        if self._directory is not None and self._bereaved is not None:
            self._remove_socket_of(self._bereaved)

    def _taken_over(self, done: asyncio.Future[None]) -> None:
        """The handoff that started this process is over: it owns what it serves, or has to leave."""
        assert self._takeover is not None
        error = None if done.cancelled() else done.exception()
        if isinstance(error, HandoffRefused):
            log.event(logging.WARNING, "leaving", code=error.code, reason=error.detail)
            self._failure = error
            self._background.halt()
            self._over.set()
            return
        if error is None and self._initialised:
            self._serve_alone()

    def _serve_alone(self) -> None:
        """This process owns what it serves."""
        assert self._engine is not None
        try:
            self._engine.bind(self._specs)  # those that did not come, since the old process died before
        except (OSError, ValueError) as problem:
            log.event(logging.ERROR, "cannot-listen", reason=str(problem))
            if not self._engine.listeners and not self._engine.sessions:
                # The old process died before it passed anything on: this one would live and serve nobody.
                self._failure = HandoffRefused("cannot-listen", str(problem))
                self._over.set()
                return
        self._bus.open()
        self._engine.start_accepting()
        self._background.start()
        self._consoles.serve()
        self._state = "serving"
        self._notifier.serving(self._generation, main=True)

    def _remove_socket_of(self, pid: int) -> None:
        """Remove the control socket of a process that died without doing so."""
        if self._directory is None:
            self._bereaved = pid  # there will be a directory soon
            return
        name = socket_name(pid)
        identity = self._directory.identity(name)
        if identity is not None:
            self._directory.remove(name, identity)

    async def serve(self) -> None:
        """Serve until :meth:`stop`, or until a new process serves everything.

        Raises:
            HandoffRefused: this process was started by a handoff that failed; the old one serves.
        """
        await self._over.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the server: accept no more, cancel the handlers, send what is unsent, close.

        A handoff that has not begun to move sessions is given up first. One that has is finished: its new
        process serves then. A new process that does not own its sessions yet leaves them to the old one.
        """
        self._state = "stopping"
        if self._succession.cutover is not None:
            self._succession.stop()
        elif self._takeover is not None and not self._takeover.done.done():
            self._takeover.leave()
        else:
            if self._succession.successor is None:
                self._notifier.stopping()
            self._over.set()

    async def _close(self) -> None:
        if self._succession.cutover is not None:  # the program ends within a handoff: first that ends, in order
            self.stop()
            await self._over.wait()
        self._notifier.close()
        self._events.close(None)
        await self._consoles.aclose()
        if self._endpoint is not None:
            await self._endpoint.aclose()
        if self._takeover is not None and not self._takeover.done.done():
            self._takeover.leave()
        await self._background.close()
        if self._configuration is not None:
            await self._configuration.aclose()
        if self._engine is not None:
            await self._engine.stop()
        if self._neighbours is not None:
            await self._neighbours.aclose()
        await self._past.aclose()
        if self._takeover is not None:
            self._takeover.close()
        self._bus.close()
        if self._directory is not None:
            self._directory.close()

    def background(self, work: W) -> W:
        """Run something beside the sessions, in the process that accepts connections and in no other.

        It begins when this process does that, or at once if it does. A handoff cancels it before anything is given
        away, and starts it again if that is undone; the new process begins its own. What it raises is logged, and
        ends it.

        Args:
            work: a coroutine function without arguments; may be used as a decorator. A coroutine is taken too, but
                cannot start again after a handoff that was undone.

        Returns:
            ``work``.

        Raises:
            TypeError: it is neither.
        """
        self._background.add(work)
        return work

    # -- looking at it ---------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """What is published among all connections, in whichever process they are; there before the server serves."""
        return self._bus

    @property
    def config(self) -> Any:
        """The configuration that sessions began with last, for what runs beside them; None without one.

        What a session holds is its ``config``; it may be another one.
        """
        running = self._configuration.slots.running if self._configuration is not None else None
        return running.value if running is not None else None

    @property
    def addresses(self) -> list[str]:
        """The addresses that clients connect to, with real ports."""
        listeners = self._engine.listeners.values() if self._engine is not None else ()
        return [listener.address for listener in listeners]

    @property
    def generation(self) -> int:
        """1 for the first process of the service, one more after each completed handoff."""
        return self._generation

    @property
    def connections(self) -> list[Connection[S]]:
        """The connections that are served now."""
        sessions = self._engine.sessions.values() if self._engine is not None else ()
        return [connection for session in sessions for connection in session.connections]

    def status(self) -> dict[str, Any]:
        """Return what ``hotfd status`` shows."""
        engine = self._engine
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return {
            "pid": os.getpid(),
            "name": self.name,
            "generation": self._generation,
            "state": self._condition,
            "listeners": self.addresses,
            "consoles": self._consoles.addresses,
            "connections": engine.connections if engine is not None else 0,
            "sessions": len(engine.sessions) if engine is not None else 0,
            "config": self._config_status(),
            "version": __version__,
            "uptime_s": round(time.time() - self._started, 1),
            "cutover": "together" if self._together else "rolling",
            "framing": self._framing.spec(),
            "state_version": self._codec.version,
            "descriptors": {"open": open_descriptors(), "soft": soft, "hard": hard},
            "background": {"running": self._background.running, "failed": self._background.failed},
            "handoff": self._handoff_status(),
            "successor": self._succession.successor,
            "laggards": self._laggards(),
            "older": engine.links.status() if engine is not None else [],
        }

    def _config_status(self) -> dict[str, Any] | None:
        if self._configuration is None:
            return None
        return self._configuration.status(self._engine.held_releases() if self._engine is not None else Counter())

    @property
    def _condition(self) -> str:
        """What this process is doing, in a word."""
        if self._succession.cutover is not None:
            return "handing-off"
        if self._succession.successor is not None and self._state == "serving":
            return "draining"
        return self._state

    def _laggards(self) -> list[dict[str, Any]]:
        """Return some of the sessions that the last handoff left here, and what they wait for now."""
        report = self._succession.last_report if self._condition == "draining" else None
        if report is None or self._engine is None:
            return []
        return [msgspec.to_builtins(laggard) for laggard in still_there(report.laggards, self._engine)]

    def _counts(self) -> dict[str, Any]:
        """Return what changes in a status, for those who watch."""
        engine, cutover = self._engine, self._succession.cutover
        return {
            "pid": os.getpid(),
            "generation": self._generation,
            "state": self._condition,
            "connections": engine.connections if engine is not None else 0,
            "sessions": len(engine.sessions) if engine is not None else 0,
            "newcomers": cutover.newcomers if cutover is not None else 0,
        }

    def _handoff_status(self) -> dict[str, Any] | None:
        if (cutover := self._succession.cutover) is not None:
            return {"id": cutover.id, "phase": cutover.phase, "new_pid": cutover.new_pid}
        if self._takeover is not None and not self._takeover.settled:
            return {"id": self._takeover.handoff, "phase": self._takeover.phase, "old_pid": self._takeover.old_pid}
        return None

    # -- instructions ----------------------------------------------------------------------------------

    async def _on_status(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        only(request)
        return self.status()

    async def _on_sessions(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        limit, wanted = sample_of(request)
        found = await sample(self._engine_of(), limit, wanted)
        return {"pid": os.getpid(), "generation": self._generation, **found}

    async def _on_config(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        only(request)
        return {"pid": os.getpid(), "generation": self._generation, "modules": self._config_status() or {}}

    async def _on_update(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        options = options_of(request)
        if options.on_loss != "close" and not self._together:
            detail = "--on-loss stale is for servers whose sessions share data (cutover='together'); this one moves each alone"
            raise HandoffRefused("malformed", detail)
        history = await self._past.complete()
        self._succession.check()
        if self._takeover is not None and not self._takeover.settled:
            raise HandoffRefused(
                "handoff-in-progress", f"handoff {self._takeover.handoff} has not settled yet; wait for its probation"
            )
        if self._state != "serving":
            raise HandoffRefused("not-serving", f"the server is {self._state}")
        assert self._neighbours is not None
        cutover = Cutover(self._engine_of(), self._identity(history), options, self._events.also(emit))
        report = await self._succession.run(cutover, self._generation, self._neighbours)
        return msgspec.to_builtins(report)  # type: ignore[no-any-return]

    async def _on_history(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        only(request)
        return await self._past.tell()

    async def _on_result(self, request: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Tell the outcome of a handoff whose client lost its answer; asked of either process."""
        only(request, "id")
        id = request.get("id")
        takeover = self._takeover
        if takeover is not None and takeover.handoff == id:
            with suppress(HandoffRefused):
                await asyncio.shield(takeover.done)
            return msgspec.to_builtins(takeover.report())  # type: ignore[no-any-return]
        if (report := self._succession.report(id)) is not None:
            return msgspec.to_builtins(report)  # type: ignore[no-any-return]
        raise HandoffRefused("unknown-handoff", "this process knows no such handoff")

    def _engine_of(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _identity(self, history: History) -> Identity:
        return Identity(self._generation, self._together, self._export_state, history, self._freezer)

    def _hand_over_by_signal(self) -> None:
        """Do what ``hotfd handoff`` without options does."""
        task = asyncio.get_running_loop().create_task(self._update_by_signal())
        self._signalled.add(task)
        task.add_done_callback(self._signalled.discard)

    async def _update_by_signal(self) -> None:
        try:
            await self._on_update({"type": "update"}, lambda event: None)
        except HandoffRefused as refusal:
            log.event(logging.WARNING, "handoff-refused", code=refusal.code, reason=refusal.detail)


def _configuration(config: Config[Any] | Sequence[Config[Any]] | None, service: str) -> Configuration | None:
    """Return what brings a server its configuration; None when it declares none."""
    configs = [] if config is None else list(config) if isinstance(config, Sequence) else [config]
    if not configs:
        return None
    from hotfd.app.configuration import Configuration  # which programs without a configuration need not load

    return Configuration(configs, service)
