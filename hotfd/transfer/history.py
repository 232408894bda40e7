"""What ran before: the generations of a service, and how each can be run again.

Every process remembers itself and those before it: command, directory, environment, and a fingerprint of what it ran.
The history goes from each process to the next beside the first message of the handoff, in sealed memory: environments
hold secrets, and are on no file system, in no log, and in no answer of a control socket.

Going back works as *undo* does in an editor. A generation that came by going back *runs* an earlier one again; to go
back from it means to what ran before that earlier one. So going back twice undoes two deployments, and never brings
back the version that was just got rid of; naming a generation does.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Final, Literal

import msgspec

from hotfd import _core
from hotfd.errors import ChannelError, HandoffRefused
from hotfd.systemd import WATCHED_BY
from hotfd.transfer.fingerprint import Fingerprint
from hotfd.transfer.process import Origin

MAX_ENTRIES: Final = 16
"""Generations that are remembered: some weeks of deployments, and at most a megabyte."""

MAX_BYTES: Final = 64 << 20
"""Bytes of a history that are accepted. An environment has at most a few MiB (execve(2)), a fingerprint less."""

_NOT_ITS_OWN: Final = frozenset({b"_", b"OLDPWD", b"PWD", b"SHLVL", *map(str.encode, WATCHED_BY)})
"""Variables that a shell on the way, or whoever watches the process, sets; they do not make one environment another."""

How = Literal["start", "handoff", "rollback"]
Pairs = list[tuple[bytes, bytes]]


class Entry(msgspec.Struct, array_like=True):
    """One generation. Everything that came from the outside is bytes: names need not be text.

    Attributes:
        generation: 1 for the first process of the service.
        pid: its pid.
        started: when it started, in seconds of Unix time.
        how: how it came.
        runs: the generation that ran this first; its own, unless it came by going back.
        command: program and arguments, by the names that an operator uses.
        cwd: the directory, likewise.
        exact: program and arguments without the symlinks that lead to the program.
        directory: the directory itself; empty when it was gone.
        environment: the variables.
        hotfd: the version of hotfd.
        python: the version of Python.
        state_version: the version of the connections' state.
        fingerprint: what it ran; None while that is not known.
    """

    generation: Annotated[int, msgspec.Meta(ge=1)]
    pid: int
    started: float
    how: How
    runs: int
    command: list[bytes]
    cwd: bytes
    exact: list[bytes]
    directory: bytes
    environment: Pairs
    hotfd: str
    python: str
    state_version: int
    fingerprint: Fingerprint | None = None

    def __repr__(self) -> str:
        return f"<Entry of generation {self.generation}>"

    @classmethod
    def of(cls, origin: Origin, **facts: Any) -> Entry:
        """Make the entry of a process that came by itself; ``facts`` are the attributes that are not of its origin."""
        return cls(
            how="start",
            runs=facts["generation"],
            command=[os.fsencode(word) for word in origin.command],
            cwd=os.fsencode(origin.cwd),
            exact=[os.fsencode(word) for word in origin.exact or origin.command],
            directory=os.fsencode(origin.directory),
            environment=[(os.fsencode(name), os.fsencode(value)) for name, value in origin.environment.items()],
            **facts,
        )

    @property
    def origin(self) -> Origin:
        """What it was started with."""
        return Origin(
            tuple(map(os.fsdecode, self.command)),
            os.fsdecode(self.cwd),
            {os.fsdecode(name): os.fsdecode(value) for name, value in self.environment},
            tuple(map(os.fsdecode, self.exact)),
            os.fsdecode(self.directory),
        )

    def same(self, other: Entry) -> bool:
        """Say whether another generation was this one over again: command, environment and files."""
        if self.fingerprint is None or other.fingerprint is None or not self.fingerprint.same(other.fingerprint):
            return False
        return self.exact == other.exact and self.directory == other.directory and _lasting(self) == _lasting(other)

    def check(self) -> HandoffRefused | None:
        """Look whether this can be run again; looks at files, and is best done on a thread of its own.

        Returns:
            None when it can, ``same-code`` when what would run is not what ran, ``not-found`` when nothing would.
        """
        program, directory = os.fsdecode(self.exact[0]), os.fsdecode(self.directory)
        gone = f"that generation {self.generation} ran"
        if not os.path.isdir(directory):
            return HandoffRefused("not-found", " ".join(filter(None, ("the directory", directory, gone, "in is gone"))))
        if not os.path.exists(os.path.join(directory, program)):
            return HandoffRefused("not-found", f"the interpreter {program} {gone} on is gone")
        if self.fingerprint is None:
            change: str | None = "what it ran is not known, and may have changed"
        else:
            change = self.fingerprint.change()
        if change is None:
            return None
        return HandoffRefused(
            "same-code", f"{change} since generation {self.generation} ran; put it back, or use --force"
        )


def _lasting(entry: Entry) -> dict[bytes, bytes]:
    return {name: value for name, value in entry.environment if name not in _NOT_ITS_OWN}


class History:
    """The generations of a service, oldest first; the last one is this process.

    Args:
        entries: at least that of this process.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries[-MAX_ENTRIES:]

    @property
    def current(self) -> Entry:
        """This process."""
        return self.entries[-1]

    def previous(self) -> Entry:
        """Return where going back leads: to what ran before that which runs now.

        Raises:
            HandoffRefused: nothing is known to have run before it.
        """
        at = next((i for i, entry in enumerate(self.entries) if entry.generation == self.current.runs), 0)
        origin = self.entries[at]
        for entry in reversed(self.entries[:at]):
            if not entry.same(origin):  # a generation that was the same over again is no other version
                return entry
        raise HandoffRefused(
            "nothing-to-roll-back-to",
            f"generation {self.current.generation} runs what ran first, as far as is remembered; "
            "name another generation with --to (hotfd history lists them)",
        )

    def named(self, generation: int) -> Entry:
        """Return a generation by its number.

        Raises:
            HandoffRefused: it is not remembered, or is the one that runs.
        """
        for entry in self.entries[:-1]:
            if entry.generation == generation:
                return entry
        if generation == self.current.generation:
            raise HandoffRefused("unknown-generation", f"generation {generation} is the one that runs")
        known = ", ".join(str(entry.generation) for entry in self.entries[:-1]) or "none before this one"
        raise HandoffRefused("unknown-generation", f"generation {generation} is not remembered; known: {known}")

    def seal(self) -> int:
        """Return a sealed memfd with the history, which the caller closes.

        Raises:
            OSError: no memfd can be made.
        """
        entries = list(self.entries)
        while len(data := msgspec.msgpack.encode(entries)) > MAX_BYTES and len(entries) > 1:
            del entries[0]
        return _core.memfd_seal("hotfd-history", [data])

    @classmethod
    def unsealed(cls, memfd: int) -> History:
        """Read the history of the process before this one.

        Args:
            memfd: what it has sent; stays open.

        Raises:
            ChannelError: it is no history.
        """
        try:
            entries = msgspec.msgpack.decode(_core.memfd_load(memfd, MAX_BYTES), type=list[Entry])
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
            entries = []  # the error's own text may hold a value
        if not entries or not all(entry.exact and entry.command for entry in entries):
            raise ChannelError("the history of the service cannot be read")
        return cls(entries)

    def followed_by(self, entry: Entry, back_to: int | None) -> History:
        """Return the history of the next process.

        Args:
            entry: what that process was started with.
            back_to: the generation that it was started to run again, or None.
        """
        entry.how, entry.runs = "handoff", entry.generation
        again = next((known for known in self.entries if known.generation == back_to), None)
        if again is not None:
            entry.how, entry.runs = "rollback", again.runs
            # It runs by real names in the real directory. The next handoff goes by the operator's names again.
            entry.command, entry.cwd = again.command, again.cwd
        return History([*self.entries, entry])
