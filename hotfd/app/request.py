"""The ``update`` instruction's fields, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from hotfd.errors import HandoffRefused
from hotfd.server.options import Options

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    type: str = "update"
    dry_run: Literal["plan", "deep"] | None = None
    deadline: Seconds = 60.0
    boundary_timeout: Seconds = 10.0
    laggards: Literal["keep", "close"] = "keep"
    probation: Seconds = 5.0
    force: bool = False
    command: Annotated[list[str], msgspec.Meta(max_length=4096)] | None = None
    cwd: str | None = None


def options_of(request: dict[str, Any]) -> Options:
    """Read the request for a handoff.

    Raises:
        HandoffRefused: a field is unknown, or has a value that it cannot have.
    """
    if request.get("dry_run") is False:
        request = {**request, "dry_run": None}
    try:
        update = msgspec.convert(request, _Update)
    except msgspec.ValidationError as error:
        raise HandoffRefused("malformed", f"the update instruction cannot be read: {error}") from None
    return Options(
        deadline=update.deadline,
        boundary_timeout=update.boundary_timeout,
        laggards=update.laggards,
        probation=update.probation,
        force=update.force,
        command=tuple(update.command) if update.command else None,
        cwd=update.cwd,
        dry_run=update.dry_run,
    )
