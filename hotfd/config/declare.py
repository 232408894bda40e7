"""``hotfd.Config``: what a program declares of a module's configuration."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from hotfd.config.release import Release, check_name, seal
from hotfd.config.schema import Schema
from hotfd.config.snapshots import Compiled
from hotfd.config.store import INTERVAL
from hotfd.errors import Fault, ReleaseRefused

if TYPE_CHECKING:
    from hotfd.config.release import Sealed, Values

T = TypeVar("T")

SOURCE: Final = "HOTFD_CONFIG_SOURCE"
"""The environment variable with the source of modules that name none."""

ZONE: Final = "HOTFD_ZONE"
"""The environment variable with the zone of a server that names none."""

MAX_PINNED: Final = 16
"""Releases of a module that sessions may hold before a warning: with one publish an hour, most of a day."""

MAX_PINNED_AGE: Final = 86_400.0
"""Seconds that sessions may hold a release after its end before a warning: a day."""


class Config(Generic[T]):
    """One module of a server's configuration: its name, its type, and where its releases come from.

    ::

        class Rules(msgspec.Struct, frozen=True):
            damage: int = 10
            turn_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0

        hotfd.run(play, "127.0.0.1:7000", config=hotfd.Config("arena", Rules, source="dir:/srv/config"))

    Args:
        module: the module's name: small letters, digits, ``.``, ``_`` and ``-``, at most 64.
        type: a frozen msgspec Struct, a frozen dataclass, or a frozen pydantic model.
        source: ``dir:PATH``, ``etcd://HOST:PORT,.../PREFIX`` or ``hotfd://HOST:PORT,...`` (configuration servers); by
            default what ``$HOTFD_CONFIG_SOURCE`` says.
        zone: whose values hold here; by default what ``$HOTFD_ZONE`` says, else none.
        initial: the value that holds as long as the source has no release of the module, and nothing is known of an
            earlier one. Without it a server does not start then.
        upgrade: reads releases that ``type`` cannot: takes their values, a dictionary, and returns those that it can.
        check: looks at a value that is right by its type; what it raises refuses the release. It runs in a thread.
        on_first_use: called with a value when the first session is to begin with it; what it raises takes the
            release out of force, and that session and the others begin with the one before. It runs on the event loop.
        max_pinned: a warning names the sessions that hold the oldest release when they hold more releases than that.
        max_pinned_age: the same when a release is held for more seconds than that after its end.
        interval: seconds between two looks at the source, beside the notices of changes that it sends; of several
            modules of one source the shortest counts.

    Raises:
        ConfigError: the name is none, or the type cannot be configured; it names the field.
        ReleaseRefused: ``initial`` is not what the type demands.
        ValueError: a number is out of bounds, or a function is a coroutine function.
    """

    def __init__(
        self,
        module: str,
        type: type[T],
        *,
        source: str | None = None,
        zone: str | None = None,
        initial: T | None = None,
        upgrade: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        check: Callable[[T], object] | None = None,
        on_first_use: Callable[[T], object] | None = None,
        max_pinned: int = MAX_PINNED,
        max_pinned_age: float = MAX_PINNED_AGE,
        interval: float = INTERVAL,
    ) -> None:
        if max_pinned < 1 or not max_pinned_age > 0 or not 0.01 <= interval <= 3600:
            raise ValueError("max_pinned is at least 1, max_pinned_age above 0, interval 0.01 to 3600 seconds")
        for name, function in {"upgrade": upgrade, "check": check, "on_first_use": on_first_use}.items():
            if inspect.iscoroutinefunction(function):
                raise ValueError(f"{name} must be a plain function: nobody would wait for a coroutine, nor see it fail")
        self.module = check_name(module)
        self.type = type
        self.schema: Schema[T] = Schema.of(type)
        self.source = source if source is not None else os.environ.get(SOURCE, "")
        self.zone = zone if zone is not None else os.environ.get(ZONE, "")
        if self.zone:
            check_name(self.zone, "zone")
        self.max_pinned = max_pinned
        self.max_pinned_age = max_pinned_age
        self.interval = interval
        self._upgrade = upgrade
        self._check = check
        self._on_first_use = on_first_use
        self._initial = self._own(initial) if initial is not None else None

    def __repr__(self) -> str:
        return f"Config({self.module!r}, {self.type.__name__})"

    def compile(self, sealed: Sealed) -> Compiled:
        """Check a release and build its value as it holds in this zone. May run in any thread.

        Raises:
            ReleaseRefused: it is not what the program declares; with every fault.
        """
        try:
            value = self._built(sealed.release)
        except ReleaseRefused:
            raise
        except Exception as error:  # what validators of the program's own classes may raise
            raise ReleaseRefused(self.module, [Fault("", "", f"values that can be checked: {_said(error)}")]) from error
        if self._check is not None:
            try:
                _plain(self._check(value), "check")
            except ReleaseRefused:
                raise
            except Exception as error:
                raise ReleaseRefused(self.module, [Fault("", "", f"refused by the program: {_said(error)}")]) from error
        return Compiled(self.module, sealed, value, live=self.schema.live_values(value))

    def use(self, value: T) -> None:
        """Use a value for the first time; raises whatever the program's ``on_first_use`` does."""
        if self._on_first_use is not None:
            _plain(self._on_first_use(value), "on_first_use")

    def _built(self, release: Release) -> T:
        values = release.values_in(self.zone)
        try:
            return self.schema.build(self.module, values)
        except ReleaseRefused:
            if self._upgrade is None:
                raise
            return self.schema.build(self.module, self._upgraded(values))

    def _upgraded(self, values: Values) -> Values:
        assert self._upgrade is not None
        try:
            upgraded = self._upgrade(copy.deepcopy(values))
        except Exception as error:
            raise ReleaseRefused(self.module, [Fault("", "", f"the upgrade failed: {_said(error)}")]) from error
        if not isinstance(upgraded, dict):
            raise ReleaseRefused(self.module, [Fault("", "", "the upgrade returned no dictionary")])
        return upgraded

    def initial(self) -> Compiled | None:
        """Return version 0, the program's own value, as nobody else has it; None when there is none."""
        if self._initial is None:
            return None
        value = self.schema.build(self.module, self._initial.release.values)
        return Compiled(self.module, self._initial, value, live=self.schema.live_values(value))

    def _own(self, value: T) -> Sealed:
        """Make a release of the program's own value: it travels with sessions as every other release does."""
        sealed = seal(Release(self.module, 0, revision="", author="", time=0.0, values=self.schema.plain(value)))
        self.schema.build(self.module, sealed.release.values)
        return sealed


def _plain(result: object, name: str) -> None:
    """Raise TypeError when what a function has returned would have to be awaited, which nobody does."""
    if isinstance(result, Awaitable):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"{name} must be a plain function, and not return what is to be awaited")


def _said(error: Exception) -> str:
    """Return what an exception of the program says, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
