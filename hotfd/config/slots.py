"""The slots of a server's configuration: running, staged, previous, and what sessions have pinned. Without I/O.

A session begins with a :class:`Snapshot`: one release of every module, and the value that handlers read. It holds it
until it ends; nothing that is staged later changes that. So a pin is a reference, and a release is gone when the last
session that holds it is.

::

    stage() -----> staged --the next begin()--> running --the next one--> previous ---> pinned, or gone
                     |                            |
                     +-- on_first_use raises -----+--> quarantined; the one before goes on
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from hotfd.config.release import Release, seal
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from hotfd.config.declare import Config
    from hotfd.config.release import Head, Sealed

MAX_QUARANTINED: Final = 64
"""Releases of a module that are remembered as quarantined: many more than anybody publishes in a row."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Compiled:
    """A release that was checked, with the value that handlers read; None for a module that the program has not."""

    module: str
    sealed: Sealed
    value: Any
    used: bool = False
    """Whether a session has begun with it, and ``on_first_use`` had nothing against that."""

    followed: bool = False
    """Whether its live fields are another release's: it is compiled anew should it ever be the newest one."""

    @property
    def version(self) -> int:
        """The release's version; 0 for the program's own values."""
        return self.sealed.release.version

    @property
    def sha256(self) -> str:
        """The release's digest."""
        return self.sealed.sha256


class Configs(Mapping[str, Any]):
    """The values of several modules, by name; names that are Python's are attributes as well. Read-only."""

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, module: str) -> Any:
        return self._values[module]

    def __getattr__(self, module: str) -> Any:
        try:
            return self._values[module]
        except KeyError:
            raise AttributeError(f"this server has no configuration module {module!r}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("configuration is read-only")

    def __delattr__(self, name: str) -> None:
        raise TypeError("configuration is read-only")

    def __reduce__(self) -> tuple[type[Configs], tuple[dict[str, Any]]]:
        # The way that copy.copy takes otherwise asks for attributes of what has none yet.
        return Configs, (self._values,)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Configs of {', '.join(self)}>"


class Snapshot:
    """One release of each module: what a session begins with, and holds.

    Attributes:
        compiled: the releases, by module.
        value: what handlers read: the module's value, or a :class:`Configs` of several.
        serial: names it in messages between processes.
        replaced: when new sessions began to begin with another one, in seconds since the epoch; None while they do not.
    """

    __slots__ = ("__weakref__", "compiled", "replaced", "serial", "value")

    _serials = itertools.count(1)

    def __init__(self, compiled: Mapping[str, Compiled], declared: Iterable[str]) -> None:
        self.compiled = dict(compiled)
        values = {module: self.compiled[module].value for module in declared}
        self.value = next(iter(values.values())) if len(values) == 1 else Configs(values)
        self.serial = next(self._serials)
        self.replaced: float | None = None

    def __repr__(self) -> str:
        return f"<Snapshot {self.label}>"

    @property
    def versions(self) -> dict[str, int]:
        """The version of each module."""
        return {module: compiled.version for module, compiled in self.compiled.items()}

    @property
    def label(self) -> str:
        """The versions, for people: ``arena 12``, or ``arena 12, shop 3``."""
        return ", ".join(f"{module} {version}" for module, version in self.versions.items())


@dataclass(slots=True)
class Staged:
    """What a source says of a module, with what it needs of it compiled.

    Attributes:
        head: the head.
        stable: its release for all; None when that is not usable, and what is in force stays so.
        canary: its release for some; None when there is none for this server, or none that is usable.
    """

    head: Head
    stable: Compiled | None = None
    canary: Compiled | None = None


@dataclass(slots=True)
class _Rule:
    """A canary: which release, and for what share of new sessions."""

    compiled: Compiled
    share: float


@dataclass(slots=True)
class _Module:
    """What is known of one module."""

    config: Config[Any]
    initial: Compiled | None
    head: Head | None = None
    quarantined: dict[str, int] = field(default_factory=dict)  # digest: version


class Slots:
    """The slots of one server.

    Args:
        configs: its modules; one at least.

    Attributes:
        running: what new sessions begin with, but for canaries and for what is staged; None until every module has a
            release.
        previous: what they began with before.
        on_activated: called with the releases that sessions begin with from now on: all, or some with a canary.
        on_quarantined: called with a release that failed when it was first used, and with its error.
    """

    def __init__(self, configs: Iterable[Config[Any]]) -> None:
        self._modules: dict[str, _Module] = {}
        self.running: Snapshot | None = None
        self.previous: Snapshot | None = None
        self._staged: dict[str, Compiled] = {}
        self._rules: dict[str, _Rule] = {}
        self._snapshots: WeakValueDictionary[tuple[str, ...], Snapshot] = WeakValueDictionary()
        self._compiled: WeakValueDictionary[tuple[str, str], Compiled] = WeakValueDictionary()
        self._by_serial: WeakValueDictionary[int, Snapshot] = WeakValueDictionary()
        self.on_activated: Callable[[list[Compiled]], object] = lambda compiled: None
        self.on_quarantined: Callable[[Compiled, Exception], object] = lambda compiled, error: None
        for config in configs:
            if config.module in self._modules:
                raise ConfigError(f"module {config.module!r} is declared twice")
            initial = config.initial()
            self._modules[config.module] = _Module(config, self.know(initial) if initial is not None else None)
        if not self._modules:
            raise ConfigError("a server's configuration has at least one module")

    def publish(self, module: str, value: Any) -> None:
        """Stage a value as if somebody had published it; for programs that are their own source, as tests are.

        Raises:
            ReleaseRefused: it is not what the module's type or check demands.
        """
        config, newest = self._modules[module].config, self.newest(module)
        values = config.schema.plain(value)
        sealed = seal(Release(module, newest.version + 1 if newest is not None else 1, "", "", time.time(), values))
        self._staged[module] = self.know(config.compile(sealed))
        self.follow(module)

    # -- when sessions begin -------------------------------------------------------------------------

    def begin(self, key: str) -> Snapshot:
        """Return what a session that begins now holds; the first call after staging puts that in force.

        Args:
            key: the session's key or id; decides whether it is one of a canary's.

        Raises:
            ConfigError: not every module has a release.
        """
        if self._staged:
            self._activate()
        if self._rules:
            return self._with_canaries(key)
        if self.running is None:
            raise ConfigError(f"no release of {', '.join(self.missing)} yet")
        return self.running

    def _activate(self) -> None:
        """Put in force what is staged, but for what fails when it is first used, and what was published with that."""
        if self.missing - self._staged.keys():
            return  # nothing runs yet, and not every module is there
        staged, self._staged = self._staged, {}
        bad = {_batch(compiled) for compiled in staged.values() if not self._use(compiled)}
        good = [compiled for compiled in staged.values() if _batch(compiled) not in bad]
        if bad:
            for module in staged:
                self.follow(module)
        if good and self.begin_with(good):
            self.on_activated(good)

    def _use(self, compiled: Compiled) -> bool:
        """Use a release for the first time; False when it fails, and is quarantined."""
        if compiled.used:
            return True
        module = self._modules[compiled.module]
        try:
            if module.config.on_first_use is not None:
                module.config.on_first_use(compiled.value)
        except Exception as error:  # noqa: BLE001 - the program's own; whatever it is, the release is not used
            module.quarantined[compiled.sha256] = compiled.version
            while len(module.quarantined) > MAX_QUARANTINED:
                del module.quarantined[next(iter(module.quarantined))]
            self.on_quarantined(compiled, error)
            return False
        compiled.used = True
        return True

    def begin_with(self, compiled: Iterable[Compiled]) -> bool:
        """Let new sessions begin with these releases, and with those of the other modules that run.

        Returns:
            False when a module has none yet; then these are staged.

        Raises:
            ConfigError: one of the program's own values fails when it is first used.
        """
        new = {one.module: one for one in compiled}
        releases = {**(self.running.compiled if self.running is not None else self._own()), **new}
        if self._modules.keys() - releases.keys():  # one failed when it was first used: wait for what follows it
            self._staged.update(new)
            return False
        for one in releases.values():
            if not self.usable(one):  # it is the program's own: what was published was used before this
                raise ConfigError(f"the program's own value of {one.module!r} fails when it is first used; see its log")
        now = self.combination(releases)
        if now is self.running:
            return True
        self.previous, self.running = self.running, now
        now.replaced = None
        if self.previous is not None:
            self.previous.replaced = time.time()
        return True

    def _own(self) -> dict[str, Compiled]:
        """Return the program's own values."""
        return {name: module.initial for name, module in self._modules.items() if module.initial is not None}

    def _with_canaries(self, key: str) -> Snapshot:
        running = self.running
        if running is None:
            raise ConfigError(f"no release of {', '.join(self.missing)} yet")
        chosen = {
            module: rule.compiled
            for module, rule in list(self._rules.items())
            if (rule.share >= 1.0 or _place(module, rule.compiled, key) < rule.share) and self._canary_usable(rule)
        }
        return self.combination({**running.compiled, **chosen}) if chosen else running

    def _canary_usable(self, rule: _Rule) -> bool:
        if rule.compiled.used:
            return True
        if self._use(rule.compiled):
            self.on_activated([rule.compiled])
            return True
        self._rules.pop(rule.compiled.module, None)
        return False

    def combination(self, compiled: Mapping[str, Compiled]) -> Snapshot:
        """Return the snapshot of these releases, the same object as long as somebody holds it."""
        key = tuple(f"{module}:{compiled[module].sha256}" for module in sorted(compiled))
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            snapshot = self._snapshots[key] = Snapshot(compiled, self._modules)
            self._by_serial[snapshot.serial] = snapshot
        return snapshot

    def snapshot(self, serial: int) -> Snapshot:
        """Return the snapshot of this process with a serial number; ConfigError when nobody holds it any more."""
        snapshot = self._by_serial.get(serial)
        if snapshot is None:
            raise ConfigError("the release that the session holds is gone")
        return snapshot

    # -- what a source says --------------------------------------------------------------------------

    def stage(self, updates: Iterable[Staged]) -> None:
        """Take what a source says of some modules; the next session begins with it.

        What is older than what is known is left out: a server never goes back by itself.
        """
        for update in updates:
            module = self._modules[update.head.module]
            if module.head is not None and update.head.sequence < module.head.sequence:
                continue
            module.head = update.head
            self._stage_one(update)
            self.follow(update.head.module)

    def _stage_one(self, update: Staged) -> None:
        name, newest = update.head.module, self.newest(update.head.module)
        # Versions only grow, also when old values are published again: a smaller one is what another process, which
        # could not use the newest one, has in force.
        if (stable := update.stable) is not None and (newest is None or newest.version <= stable.version):
            if self.runs(name, stable.sha256):
                self._staged.pop(name, None)
            else:
                self._staged[name] = self._modules[name].config.compile(stable.sealed) if stable.followed else stable
        self._rules.pop(name, None)
        if (canary := update.canary) is not None and update.head.canary is not None:
            zone, rule = self._modules[name].config.zone, update.head.canary
            self._rules[name] = _Rule(canary, 1.0 if zone and zone in rule.zones else rule.share)

    def start(self) -> bool:
        """Let sessions begin, with the program's own values where nothing else is known; False when a module has none."""
        if self._staged:
            self._activate()
        elif self.running is None and not self.missing:
            self.begin_with([])
        return self.running is not None

    def usable(self, compiled: Compiled) -> bool:
        """Whether a release that sessions hold can be used here; it is used for the first time if it was not yet."""
        return compiled.used or compiled.module not in self._modules or self._use(compiled)

    def modules_in(self, compiled: Mapping[str, Compiled]) -> bool:
        """Whether every declared module is among these releases."""
        return self._modules.keys() <= compiled.keys()

    def know(self, compiled: Compiled) -> Compiled:
        """Return the same release as it is known already, or this one, which is known from here on."""
        return self._compiled.setdefault((compiled.module, compiled.sha256), compiled)

    def known(self, module: str, sha256: str) -> Compiled | None:
        """Return a release that was compiled before, if it is still there."""
        return self._compiled.get((module, sha256))

    def follow(self, module: str) -> None:
        """Give the live fields of the newest release for all to everything that sessions hold, but for its canary."""
        newest, rule = self.newest(module), self._rules.get(module)
        if newest is None or not (schema := self._modules[module].config.schema).live:
            return
        for (name, _), compiled in list(self._compiled.items()):
            if name == module and compiled is not newest and (rule is None or compiled is not rule.compiled):
                schema.follow(compiled.value, newest.value)
                compiled.followed = True

    # -- looking at it ---------------------------------------------------------------------------------

    @property
    def modules(self) -> list[str]:
        """The names of the modules, as they were declared."""
        return list(self._modules)

    def config(self, module: str) -> Config[Any]:
        """Return what the program has declared of a module; KeyError when it has not."""
        return self._modules[module].config

    def initial(self, module: str) -> Compiled | None:
        """Return the program's own value of a module."""
        return self._modules[module].initial

    @property
    def missing(self) -> set[str]:
        """The modules that nothing runs of, and that the program has no own value for."""
        running = self.running.compiled if self.running is not None else {}
        return {name for name, module in self._modules.items() if name not in running and module.initial is None}

    def newest(self, module: str) -> Compiled | None:
        """Return the newest release of a module for all: staged, or running."""
        staged = self._staged.get(module)
        if staged is None and self.running is not None:
            return self.running.compiled.get(module)
        return staged

    def runs(self, module: str, sha256: str) -> bool:
        """Whether a release of a module is in force for all."""
        running = self.running.compiled.get(module) if self.running is not None else None
        return running is not None and running.sha256 == sha256

    def staged(self, module: str) -> Compiled | None:
        """Return the release that the next session begins with, when that is another one than the last's."""
        return self._staged.get(module)

    def canary(self, module: str) -> Compiled | None:
        """Return the release that some sessions begin with."""
        rule = self._rules.get(module)
        return rule.compiled if rule is not None else None

    def share(self, module: str) -> float:
        """Return the share of new sessions, 0 to 1, that begin with the module's canary."""
        rule = self._rules.get(module)
        return rule.share if rule is not None else 0.0

    @property
    def in_force(self) -> dict[str, tuple[int, int]]:
        """By module, the newest head's sequence and the newest usable version."""
        found = {module: (self.head(module), self.newest(module)) for module in self._modules}
        return {
            module: (head.sequence if head is not None else 0, newest.version if newest is not None else 0)
            for module, (head, newest) in found.items()
        }

    def head(self, module: str) -> Head | None:
        """Return the newest head that is known of a module."""
        return self._modules[module].head

    def floor(self, head: Head) -> None:
        """Never take an older head of the module than this one, which another process of the service knew."""
        module = self._modules.get(head.module)
        if module is not None and (module.head is None or module.head.sequence < head.sequence):
            module.head = head

    def quarantined(self, module: str) -> dict[str, int]:
        """Return the digests and versions of a module's releases that failed when they were first used."""
        return dict(self._modules[module].quarantined)


def _batch(compiled: Compiled) -> str:
    """Return what a release has in common with those that were published with it."""
    return compiled.sealed.release.batch or compiled.sha256


def _place(module: str, canary: Compiled, key: str) -> float:
    """Return where between 0 and 1 a session stands for a canary: the same on every server, another for each canary."""
    text = f"{module}\0{canary.version}\0{key}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / (1 << 64)
