"""What a session holds of the configuration: one release of every module, and the value that handlers read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotfd.config.following import LiveValues
    from hotfd.config.release import Sealed


@dataclass(eq=False, slots=True, weakref_slot=True)
class Compiled:
    """A release that was checked, with the value that handlers read; None for a module that the program has not."""

    module: str
    sealed: Sealed
    value: Any
    used: bool = False
    """Whether a session has begun with it, and ``on_first_use`` had nothing against that."""

    live: LiveValues | None = None
    """What its live fields are by itself; those of ``value`` follow the newest release."""

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
        value: what handlers read: the module's value, or a :class:`Configs` of several; None where the program has none.
        serial: names it in messages between processes.
        replaced: when new sessions began to begin with another one, in seconds since the epoch; None while they do not.
    """

    __slots__ = ("__weakref__", "compiled", "replaced", "serial", "value")

    _serials = itertools.count(1)

    def __init__(self, compiled: Mapping[str, Compiled], declared: Iterable[str]) -> None:
        self.compiled = dict(compiled)
        values = {module: self.compiled[module].value for module in declared}
        self.value = next(iter(values.values()), None) if len(values) < 2 else Configs(values)
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
