"""The way of sessions to a new process and back into this one, with everything on it that can fail.

Nothing here is a model: states go through the codec, records through the offer's own parts and a sealed
memfd, sockets are matched by cookie, and a session is restored as a new process restores it. Only the
channel between two processes is missing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hotfd.errors import StateError
from hotfd.server.snapshot import Readers, States, Writers, capture, decode_states, restore
from hotfd.state import decode_any, encode_any
from hotfd.state.compare import difference
from hotfd.transfer.channel import close_all
from hotfd.transfer.offer import Arrived, Assembler, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hotfd.server.engine import Engine
    from hotfd.server.kinds import Kinds
    from hotfd.server.session import Session
    from hotfd.state import Codec


class HandoverFailed(AssertionError):  # noqa: N818 - reads as the outcome
    """A connection could not be handed over, which a handoff in life would have reported with this code.

    Args:
        code: the reason code, e.g. ``state-encode``.
        detail: one line that says what happened and what to do.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class Luggage:
    """Sessions that have arrived and are not served yet. Owns the descriptors of its bundles."""

    arrived: Arrived
    states: list[States]

    def unpack(self, engine: Engine) -> list[Session]:
        """Make sessions of it, which own the descriptors from here on."""
        bundles = self.arrived.bundles.values()
        return [
            restore(bundle, states, engine.framing, engine) for bundle, states in zip(bundles, self.states, strict=True)
        ]


def send_off(sessions: Sequence[Session], engine: Engine, kinds: Kinds, process: bytes | None) -> Luggage:
    """Take fenced sessions over the way.

    Args:
        sessions: fenced, their helpers stopped. They keep their descriptors; what arrives has copies.
        engine: whose they are.
        kinds: the states of shared sessions that a new process would know.
        process: the written process-wide state, or None.

    Raises:
        HandoverFailed: a state does not come back as it went; everything that was made is closed.
    """
    codec = engine.codec
    for session in sessions:
        if session.shared:
            _check(engine.rooms.kinds.codec(session.kind), session.state)
        for connection in session.connections:
            _check(codec, connection.state)
    try:
        write = Writers.of(engine)
        bundles = [capture(session, wire_id, write) for wire_id, session in enumerate(sessions, start=1)]
    except StateError as error:
        raise HandoverFailed("state-encode", str(error)) from error
    assembler, arrived = Assembler(), None
    try:
        for part in pack(1, 1, bundles, process):
            copies = [part.memfd]
            try:
                for fd in part.descriptors:
                    copies.append(os.dup(fd))  # noqa: PERF401 - what was copied is closed when a copy fails
            except OSError:
                close_all(copies)
                raise
            arrived = assembler.add(part.message, copies)
    except OSError as error:
        raise HandoverFailed(
            "descriptor-limit", f"no descriptor for a copy ({error.strerror}); raise ulimit -n for this test"
        ) from error
    finally:
        assembler.close()
    assert arrived is not None
    read = Readers(
        engine.codec.reader(engine.codec.schema),
        # A type is looked up by its name, as where no handler has named it in a join yet.
        kinds.reader(engine.rooms.kinds.schemas),
        Readers.of(engine).release,
    )
    try:
        return Luggage(arrived, [decode_states(bundle, read) for bundle in arrived.bundles.values()])
    except StateError as error:
        for bundle in arrived.bundles.values():
            close_all(bundle.descriptors)
        raise HandoverFailed("state-decode", str(error)) from error


def _check(codec: Codec[Any], state: Any) -> None:
    problem = codec.roundtrips(state)
    if problem is None:
        return
    try:
        codec.encode(state)
    except StateError as error:
        raise HandoverFailed("state-encode", str(error)) from error
    raise HandoverFailed("state-roundtrip", f"{problem} does not come back as it went; say how it travels")


def write_process_state(value: Any) -> bytes:
    """Write what ``export_state`` returned, and see that it comes back.

    Raises:
        HandoverFailed: it cannot travel, or comes back as something else.
    """
    try:
        data = encode_any(value)
        problem = difference(value, decode_any(data), "export_state()", {})
    except StateError as error:
        raise HandoverFailed("state-encode", f"export_state returned what cannot travel: {error}") from error
    if problem is not None:
        raise HandoverFailed("state-roundtrip", f"{problem} does not come back as it went")
    return data
