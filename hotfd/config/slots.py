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

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from hotfd.config.canaries import Canaries, batch_of
from hotfd.config.release import Release, seal
from hotfd.config.snapshots import Snapshot
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from hotfd.config.declare import Config
    from hotfd.config.release import Head
    from hotfd.config.snapshots import Compiled

MAX_QUARANTINED: Final = 64
"""Releases of a module that are remembered as quarantined: many more than anybody publishes in a row."""

MAX_MIXED: Final = 64
"""Mixtures of canaries that are remembered, so that a session begins at once: those of six modules."""


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
class _Module:
    """What is known of one module."""

    config: Config[Any]
    initial: Compiled | None
    head: Head | None = None
    quarantined: dict[str, int] = field(default_factory=dict)  # digest: version


class Slots:
    """The slots of one server.

    Args:
        configs: its modules; none for a program without a configuration, through which what sessions hold only passes.

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
        self._canaries = Canaries()
        self._using = False
        self._mixed: dict[tuple[str, ...], Snapshot] = {}  # by whose canaries are in it; as long as nothing changes
        self._snapshots: WeakValueDictionary[tuple[str, ...], Snapshot] = WeakValueDictionary()
        self._compiled: WeakValueDictionary[tuple[str, str], Compiled] = WeakValueDictionary()
        self._by_serial: WeakValueDictionary[int, Snapshot] = WeakValueDictionary()
        self.on_activated: Callable[[list[Compiled]], object] = lambda compiled: None
        self.on_quarantined: Callable[[Compiled, BaseException], object] = lambda compiled, error: None
        for config in configs:
            if config.module in self._modules:
                raise ConfigError(f"module {config.module!r} is declared twice")
            initial = config.initial()
            self._modules[config.module] = _Module(config, self.know(initial) if initial is not None else None)

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

        A session that the program begins while it uses a release for the first time begins with what was before.

        Args:
            key: the session's key or id; decides whether it is one of a canary's.

        Raises:
            ConfigError: not every module has a release.
        """
        if self._staged and not self._using:
            self._activate()
        if self._canaries and not self._using:
            return self._with_canaries(key)
        if self.running is None:
            raise ConfigError(f"no release of {', '.join(self.missing)} yet")
        return self.running

    def _activate(self) -> None:
        """Put in force what is staged, but for what fails when it is first used, and what was published with that."""
        if self.missing - self._staged.keys():
            return  # nothing runs yet, and not every module is there
        staged, self._staged = self._staged, {}
        bad = {batch_of(compiled) for compiled in staged.values() if not self._use(compiled)}
        good = [compiled for compiled in staged.values() if batch_of(compiled) not in bad]
        begun = bool(good) and self.begin_with(good)
        if bad:  # what follows them follows what is in force instead
            for module in staged:
                self.follow(module)
        if begun:
            self.on_activated(good)

    def _use(self, compiled: Compiled) -> bool:
        """Use a release for the first time; False when it fails, or has failed already."""
        if compiled.used:
            return True
        module = self._modules[compiled.module]
        if compiled.sha256 in module.quarantined:
            return False
        self._using = True
        try:
            module.config.use(compiled.value)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the program's own; the release is not used
            self._quarantine(compiled, module, error)
            return False
        finally:
            self._using = False
        compiled.used = True
        return True

    def _quarantine(self, compiled: Compiled, module: _Module, error: BaseException) -> None:
        """Let no session begin with a release, nor, where some were about to, with what was published with it."""
        module.quarantined[compiled.sha256] = compiled.version
        while len(module.quarantined) > MAX_QUARANTINED:
            del module.quarantined[next(iter(module.quarantined))]
        if any(one is compiled for one in (self._staged.get(compiled.module), self.canary(compiled.module))):
            self._mixed.clear()
            batch = batch_of(compiled)
            ended = [name for name, one in self._staged.items() if batch_of(one) == batch]
            for name in ended:
                del self._staged[name]
            for name in {*ended, *self._canaries.end_batch(batch)}:
                self.follow(name)
        self.on_quarantined(compiled, error)

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
        self._mixed.clear()
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
        chosen = self._canaries.chosen(key)
        if new := [one for one in chosen.values() if not one.used]:
            bad = {batch_of(one) for one in new if not self._use(one)}
            if good := [one for one in new if batch_of(one) not in bad]:
                self.on_activated(good)
            chosen = self._canaries.chosen(key)  # without those that have failed
        if not chosen:
            return running
        names = tuple(chosen)
        if names not in self._mixed:
            if len(self._mixed) >= MAX_MIXED:
                self._mixed.clear()
            self._mixed[names] = self.combination({**running.compiled, **chosen})
        return self._mixed[names]

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
        module = self._modules[name]
        stable, canary = (
            one if one is not None and one.sha256 not in module.quarantined else None
            for one in (update.stable, update.canary)
        )
        # Versions only grow, also when old values are published again: a smaller one is what another process, which
        # could not use the newest one, has in force.
        if stable is not None and (newest is None or newest.version <= stable.version):
            if self.runs(name, stable.sha256):
                self._staged.pop(name, None)
            else:
                self._staged[name] = stable
        self._mixed.clear()
        self._canaries.end(name)
        if canary is not None and (rule := update.head.canary) is not None:
            zone = module.config.zone
            self._canaries.begin(canary, 1.0 if zone and zone in rule.zones else rule.share)

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
        """Give the live fields of the newest release for all to everything that sessions hold; a canary keeps its own."""
        newest, canary = self.newest(module), self.canary(module)
        if newest is None or not (schema := self._modules[module].config.schema).live:
            return
        for (name, _), compiled in list(self._compiled.items()):
            if name == module:
                schema.set_live(compiled.value, compiled.live if compiled is canary else newest.live)

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
        return self._canaries.of(module)

    def share(self, module: str) -> float:
        """Return the share of new sessions, 0 to 1, that begin with the module's canary."""
        return self._canaries.share(module)

    @property
    def in_force(self) -> dict[str, tuple[int, int, int]]:
        """By module, the newest head's sequence, the newest usable version, and the version that runs."""
        running = self.running.versions if self.running is not None else {}
        found = {module: (self.head(module), self.newest(module)) for module in self._modules}
        return {
            module: (head.sequence if head else 0, newest.version if newest else 0, running.get(module, 0))
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
