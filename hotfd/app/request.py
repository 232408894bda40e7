"""The ``update`` instruction's fields, checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from hotfd.errors import HandoffRefused
from hotfd.server.options import Options

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]


class _Handoff(msgspec.Struct, forbid_unknown_fields=True):
    """What an update and a rollback have in common."""

    dry_run: Literal["plan", "deep"] | None = None
    deadline: Seconds = 60.0
    boundary_timeout: Seconds = 10.0
    laggards: Literal["keep", "close"] = "keep"
    on_loss: Literal["close", "stale"] = "close"
    probation: Seconds = 5.0
    force: bool = False


class _Update(_Handoff, forbid_unknown_fields=True):
    type: str = "update"
    allow_downgrade: bool = False
    command: Annotated[list[str], msgspec.Meta(max_length=4096)] | None = None
    cwd: str | None = None


class _Rollback(_Handoff, forbid_unknown_fields=True):
    type: str = "rollback"
    to: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Sessions(msgspec.Struct, forbid_unknown_fields=True):
    type: str = "sessions"
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    session: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


def only(request: dict[str, Any], *fields: str) -> None:
    """Check that a request has no fields but its type and these.

    Raises:
        HandoffRefused: it has another one.
    """
    unknown = sorted(set(request) - {"type", *fields})
    if unknown:
        raise HandoffRefused("malformed", f"the {request.get('type')} instruction has no field {unknown[0]!r}")


def sample_of(request: dict[str, Any]) -> tuple[int, str | None]:
    """Read the request for a sample of sessions: how many at most, and the id or key of the one that is asked for.

    Raises:
        HandoffRefused: a field is unknown, or has a value that it cannot have.
    """
    try:
        asked = msgspec.convert(request, _Sessions)
    except msgspec.ValidationError as error:
        raise _malformed(request, _Sessions, error) from None
    return asked.limit, asked.session


def options_of(request: dict[str, Any]) -> Options:
    """Read the request for a handoff, to a new version or back to an old one.

    Raises:
        HandoffRefused: a field is unknown, or has a value that it cannot have.
    """
    if request.get("dry_run") is False:
        request = {**request, "dry_run": None}
    kind: type[_Update | _Rollback] = _Rollback if request.get("type") == "rollback" else _Update
    try:
        asked: _Update | _Rollback = msgspec.convert(request, kind)
    except msgspec.ValidationError as error:
        raise _malformed(request, kind, error) from None
    options = Options(
        deadline=asked.deadline,
        boundary_timeout=asked.boundary_timeout,
        laggards=asked.laggards,
        on_loss=asked.on_loss,
        probation=asked.probation,
        force=asked.force,
        dry_run=asked.dry_run,
    )
    if isinstance(asked, _Rollback):
        return replace(options, rollback=True, to=asked.to)
    command = tuple(asked.command) if asked.command else None
    return replace(options, command=command, cwd=asked.cwd, allow_downgrade=asked.allow_downgrade)


def _malformed(request: dict[str, Any], kind: type[msgspec.Struct], error: msgspec.ValidationError) -> HandoffRefused:
    known = ", ".join(sorted(set(kind.__struct_fields__) - {"type"}))
    return HandoffRefused(
        "malformed", f"the {request.get('type')} instruction cannot be read: {error}; its fields are {known}"
    )
