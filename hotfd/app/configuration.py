"""A server's configuration: its modules, and what brings them their releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotfd.config.slots import Slots
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hotfd.config.declare import Config
    from hotfd.config.slots import Snapshot
    from hotfd.server.session import Session


class Configuration:
    """The configuration of one server.

    Args:
        configs: its modules; one at least.
        service: the service's name.
    """

    def __init__(self, configs: Sequence[Config[Any]], service: str) -> None:
        self.slots = Slots(configs)
        self.service = service
        self.sessions: Mapping[str, Session] = {}

    async def start(self, generation: int, deadline: float = 60.0) -> None:
        """Have a release of each module."""
        if not self.slots.start():
            raise ConfigError(f"no release of {', '.join(sorted(self.slots.missing))}")

    async def aclose(self) -> None:
        """Let go of everything. Idempotent."""

    def status(self, held: Mapping[Snapshot, int]) -> dict[str, Any]:
        """Return what is known of each module."""
        return {name: {"running": None} for name in self.slots.modules}
