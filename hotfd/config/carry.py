"""What a process hands its successor of the configuration: the releases that run, and those that sessions hold.

The new process reads each release itself, as it reads those of a source: it is checked against its digest, and against
what the new program declares. What it cannot read, it says, and the sessions that hold it stay where they are.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from hotfd.config.release import Head, unseal
from hotfd.config.slots import Staged
from hotfd.config.snapshots import Compiled, Snapshot
from hotfd.config.threads import aside
from hotfd.errors import ConfigError, ReleaseRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hotfd.config.release import Sealed
    from hotfd.config.slots import Slots

MAX_CARRIED: Final = 256 << 20
"""Bytes that are handed over: releases of 1 MiB, for many more sessions than ever hold different ones."""

READ_LIMIT: Final = 60.0
"""Seconds that a program may take to read one release; one that takes longer hangs."""

Index = Annotated[int, msgspec.Meta(ge=0, lt=1 << 20)]


class _Carried(msgspec.Struct, array_like=True):
    """The written form: encoded releases, and by their places in that list what runs, and what each snapshot has."""

    releases: list[bytes]
    heads: list[Head]
    in_force: list[Index]
    snapshots: list[tuple[int, list[Index], float | None]]


def carry(slots: Slots, snapshots: Iterable[Snapshot]) -> bytes:
    """Write down what runs here, and what these snapshots hold."""
    releases: dict[tuple[str, str], int] = {}
    data: list[bytes] = []

    def place(compiled: Compiled) -> int:
        key = (compiled.module, compiled.sha256)
        if key not in releases:
            releases[key] = len(data)
            data.append(compiled.sealed.data)
        return releases[key]

    in_force: list[int] = []
    heads = []
    running = slots.running.compiled if slots.running is not None else {}
    for module in slots.modules:
        if (head := slots.head(module)) is not None:
            heads.append(head)
            found = (running.get(module), slots.newest(module), slots.canary(module))
            in_force += dict.fromkeys(place(one) for one in found if one is not None)
    held = [
        (snapshot.serial, [place(one) for one in snapshot.compiled.values()], snapshot.replaced)
        for snapshot in snapshots
    ]
    return msgspec.msgpack.encode(_Carried(data, heads, in_force, held))


class _Opened(NamedTuple):
    """What was handed over, with each release checked against its digest."""

    releases: list[Sealed]
    heads: list[Head]
    in_force: list[Sealed]
    held: list[tuple[int, list[Sealed], float | None]]


def _opened(data: bytes) -> _Opened:
    """Read the written form; in any thread.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        carried = msgspec.msgpack.decode(data, type=_Carried)
        sealed = [unseal(one) for one in carried.releases]
        in_force = [sealed[place] for place in carried.in_force]
        held = [(serial, [sealed[place] for place in places], since) for serial, places, since in carried.snapshots]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, IndexError) as error:
        raise ConfigError(f"what was handed over of the configuration cannot be read: {error}") from None
    return _Opened(sealed, carried.heads, in_force, held)


class Luggage:
    """What has come from the process before this one, as this one reads it.

    Args:
        slots: this process's.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._held: dict[int, Snapshot | str | dict[str, Compiled]] = {}
        self._unreadable: dict[str, str] = {}
        self._ran: dict[str, int] = {}  # by module, the version that ran there, as we heard last

    def unpack(self, data: bytes) -> None:
        """Take what was handed over: what ran there runs here, unless this process knows something newer.

        Raises:
            ConfigError: it is damaged.
        """
        self._take(_opened(data))

    async def unpack_beside(self, data: bytes) -> None:
        """Do the same, and read the releases in a thread: a megabyte takes a quarter of a second.

        Raises:
            ConfigError: it is damaged.
        """
        opened = await aside(_opened, data)
        ready = []  # held until the slots, or a session's snapshot, hold them
        for sealed in opened.releases:
            if self._must_read(sealed):
                try:
                    async with asyncio.timeout(READ_LIMIT):
                        read = await aside(self._read, sealed)
                except TimeoutError:
                    read = f"the program took more than {READ_LIMIT:g} s to check it"
                except RuntimeError as error:  # what would end the loop
                    read = f"the program could not check it: {error}"
                ready.append(self._note(sealed, read))
        self._take(opened)

    def _take(self, opened: _Opened) -> None:
        self._run(opened.heads, opened.in_force)
        for serial, releases, replaced in opened.held:
            self._hold(serial, releases, replaced)
        for module in self._slots.modules:
            self._slots.follow(module)

    def _run(self, heads: Iterable[Head], in_force: Iterable[Sealed]) -> None:
        """Let run here what ran there, and stage what was staged there."""
        by_module: dict[str, list[Sealed]] = {}
        for one in in_force:
            by_module.setdefault(one.release.module, []).append(one)
        slots = self._slots
        ran: dict[str, Staged] = {}
        newest = []
        for head in heads:
            if head.module in slots.modules:
                some = head.canary.sha256 if head.canary is not None else ""
                came = by_module.get(head.module, [])
                if slots.config(head.module).source:  # without one, the program's own value is what is wanted here
                    self._ran[head.module] = min((one.release.version for one in came if one.sha256 != some), default=0)
                found = {one.sha256: self._in_force(one) for one in came}
                canary = found.pop(some, None)
                stable = sorted((one for one in found.values() if one is not None), key=lambda one: one.version)
                if stable:
                    ran[head.module] = Staged(head, stable[0])
                newest.append(Staged(head, stable[-1] if stable else None, canary))
        # A module that did not come gets its first release from its source, before anything runs.
        if slots.running is None and all(name in ran or not slots.config(name).source for name in slots.modules):
            slots.stage(ran.values())
            with suppress(ConfigError):  # the program's own value of another module fails: the server's start says so
                slots.start()
        slots.stage(newest)

    def _in_force(self, sealed: Sealed) -> Compiled | None:
        """Return what is in force here where the old process had a release in force."""
        compiled = self._compiled(sealed)
        if not sealed.release.version:  # the old program's own value; this program may have another
            return self._slots.initial(sealed.release.module) or compiled
        return compiled

    def behind(self) -> dict[str, int]:
        """Put in force what is staged; return by module the versions that ran there, where only older ones run here."""
        self._slots.start()
        running = self._slots.running.versions if self._slots.running is not None else {}
        return {name: version for name, version in self._ran.items() if running.get(name, 0) < version}

    def _hold(self, serial: int, releases: Iterable[Sealed], replaced: float | None) -> None:
        compiled: dict[str, Compiled] = {}
        for one in releases:
            module = one.release.module
            read = self._compiled(one)
            if read is None or not self._slots.usable(read):
                reason = self._unreadable.get(one.sha256, "it failed when it was first used")
                self._held[serial] = f"release {one.release.version} of {module!r}: {reason}"
                return
            compiled[module] = read
        if self._slots.modules_in(compiled):
            snapshot = self._held[serial] = self._slots.combination(compiled)
            if snapshot is not self._slots.running:
                snapshot.replaced = snapshot.replaced or replaced
        else:
            self._held[serial] = compiled  # the program has a module more: what runs of it by then is its release

    def _compiled(self, sealed: Sealed) -> Compiled | None:
        """Read a release as this program declares it; None when it cannot."""
        if self._must_read(sealed):
            return self._note(sealed, self._read(sealed))
        return self._slots.known(sealed.release.module, sealed.sha256)

    def _must_read(self, sealed: Sealed) -> bool:
        """Whether nothing is known of a release yet."""
        return self._slots.known(sealed.release.module, sealed.sha256) is None and sealed.sha256 not in self._unreadable

    def _read(self, sealed: Sealed) -> Compiled | str:
        """Read a release in any thread; or say why this program cannot."""
        module = sealed.release.module
        if module not in self._slots.modules:  # not this program's: it only travels on with those who hold it
            return Compiled(module, sealed, None, used=True)
        try:
            return self._slots.config(module).compile(sealed)
        except ReleaseRefused as refusal:
            return "; ".join(f"{fault.path or 'the values'}: expected {fault.expected}" for fault in refusal.faults[:3])

    def _note(self, sealed: Sealed, read: Compiled | str) -> Compiled | None:
        if isinstance(read, str):
            self._unreadable[sealed.sha256] = read
            return None
        return self._slots.know(read)

    def clear(self) -> None:
        """Forget everything: whoever holds something of it has it, and nothing more will be asked for."""
        self._held.clear()

    @property
    def unreadable(self) -> dict[int, str]:
        """By serial, why sessions with that snapshot cannot be served here."""
        return {serial: held for serial, held in self._held.items() if isinstance(held, str)}

    def snapshot(self, serial: int) -> Snapshot:
        """Return what a session of the other process held.

        Raises:
            ConfigError: this program cannot read it, or it did not come.
        """
        held = self._held.get(serial)
        if held is None:
            raise ConfigError("the release that the session holds did not come along")
        if isinstance(held, str):
            raise ConfigError(held)
        if isinstance(held, dict):
            running = self._slots.running
            held = self._held[serial] = self._slots.combination({**(running.compiled if running else {}), **held})
        return held
