"""Writing states for older code, when an operator goes back to it (see :mod:`hotfd.state.downgrade`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotfd.errors import HandoffRefused, StateTooNew
from hotfd.server.kinds import NOTHING
from hotfd.server.snapshot import Writers
from hotfd.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hotfd.server.engine import Engine
    from hotfd.state import Codec


def rewrite(engine: Engine, asked: Collection[str], hello: m.Hello) -> tuple[Writers, m.Rewritten]:
    """Find how the states of this process are written for code that cannot read them as they are.

    Args:
        engine: whose states they are.
        asked: the kinds of shared state that the new process was asked about.
        hello: what the new process has said of its own.

    Returns:
        what writes them, and what the new process is told of that.

    Raises:
        HandoffRefused: ``state-version`` when that code is not older, ``state-downgrade`` with the field that stands
            in the way.
    """
    if hello.schema is None:
        raise HandoffRefused("state-version", str(hello.unreadable))
    connection, schema = _written_for(engine.codec, hello.schema, hello)
    known = engine.rooms.kinds
    shared: dict[str, Callable[[Any], bytes]] = {}
    schemas: dict[str, dict[str, Any]] = {}
    for name in known.schemas:
        if name in hello.kinds:
            shared[name], schemas[name] = _written_for(known.codec(name), hello.kinds[name], hello)
        elif name in asked and any(session.kind == name for session in engine.sessions.values()):
            problem = "is the state of shared sessions, and the older code has no such class"
            raise HandoffRefused("state-downgrade", f"{_called(name)}: {problem}")

    def write_shared(name: str, value: Any) -> bytes:
        if name == NOTHING:
            return known.encode(name, value)
        if name not in shared:
            raise StateTooNew(_called(name), "came up after the older code was asked what it knows")
        return shared[name](value)

    return Writers(connection, write_shared), m.Rewritten(schema, schemas)


def _written_for(
    codec: Codec[Any], theirs: dict[str, Any], hello: m.Hello
) -> tuple[Callable[[Any], bytes], dict[str, Any]]:
    """Return what writes states of one kind for the new code, and in which schema."""
    version = theirs.get("version")
    if isinstance(version, int) and version > codec.version:
        raise HandoffRefused("state-version", str(hello.unreadable))
    writer = codec.older(theirs)
    if isinstance(writer, str):
        raise HandoffRefused("state-downgrade", writer)
    return writer.encode, writer.schema


def _called(kind: str) -> str:
    return kind.rpartition(":")[2]
