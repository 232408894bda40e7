"""How fast frames are found and cut out, beside what people who write servers in Python use for that.

Everything runs in one process and without a socket: a parser is given the bytes of many frames, a read at a time, and
has to return the payload of each as ``bytes``. That all of them return the same is checked before anything is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from hotfd.bench.measure import Case, Goal, Results, Section, Series, Table, interleave, quotient
from hotfd.bench.plots import Bars
from hotfd.framing import LengthPrefix, Lines, Netstring, VarintPrefix
from hotfd.framing.resp import request
from scripts.bench import parsers

if TYPE_CHECKING:
    from scripts.bench.parsers import Parse
    from scripts.bench.settings import Settings

TITLE: Final = "Finding frames"

OURS: Final = "hotfd"

READ: Final = 1 << 16
"""Bytes of a read: what the server asks for at once."""

SEGMENT: Final = 1448
"""Bytes of a read when a client is far away: one TCP segment on Ethernet, less the usual options."""

VOLUME: Final = 1 << 20
"""Bytes of payload per run: some ten milliseconds for most, far above the clock's grain."""

QUICK_VOLUME: Final = 1 << 16
"""The same when the suite only shows that it works."""

MIN_FRAMES: Final = 4
"""Frames per run, however large they are; the first and the last are split differently from those between."""

FIGURE: Final = "processor time per frame"


@dataclass(frozen=True)
class Load:
    """What the parsers are given: payloads of ``size`` bytes, in reads of ``read``, 0 for one frame in each."""

    size: int
    read: int

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        if not self.read:
            return ALONE
        return MANY if 2 * self.size <= self.read else SPLIT

    def __str__(self) -> str:
        size = f"{self.size >> 10} KiB" if self.size >= 1 << 10 else f"{self.size} B"
        if not self.read:
            return f"{size}, one in each read"
        return size if self.read == READ else f"{size}, reads of {self.read:,} B"


LOADS: Final = (
    Load(16, READ),
    Load(64, READ),
    Load(1 << 10, READ),
    Load(1 << 16, READ),
    Load(64, 0),
    Load(1 << 10, 0),
    Load(1 << 10, SEGMENT),
    Load(1 << 16, SEGMENT),
)


@dataclass(frozen=True)
class Contest:
    """One framing, and who else finds its frames.

    Args:
        framing: what it is called.
        encode: makes a frame of a payload.
        ours: finds and cuts out frames with the scanner, as a stream does.
        peers: what else people use.
        meaning: what the parsers return for a payload.
    """

    framing: str
    encode: Callable[[bytes], bytes]
    ours: Parse
    peers: Mapping[str, Parse]
    meaning: Callable[[bytes], object] = bytes

    @property
    def parsers(self) -> dict[str, Parse]:
        """All of them by name."""
        return {OURS: self.ours, **self.peers}


def contests() -> tuple[list[Contest], list[str]]:
    """Return what can be compared here, and what cannot, and why."""
    resp_peers, skipped = parsers.resp_peers()
    return [
        Contest(
            "lines",
            Lines().encode,
            partial(parsers.scanned, Lines()),
            {
                "bytes.split": parsers.split,
                "bytes.splitlines": parsers.splitlines,
                "a find loop": parsers.find_loop,
            },
        ),
        Contest(
            "length of 32 bits",
            LengthPrefix().encode,
            partial(parsers.scanned, LengthPrefix()),
            {"a struct.unpack_from loop": parsers.struct_loop, "an int.from_bytes loop": parsers.from_bytes_loop},
        ),
        Contest(
            "varint",
            VarintPrefix().encode,
            partial(parsers.scanned, VarintPrefix()),
            {"a loop over the bytes": parsers.varint_loop},
        ),
        Contest(
            "netstring",
            Netstring().encode,
            partial(parsers.scanned, Netstring()),
            {"a find and int loop": parsers.netstring_loop},
        ),
        Contest(
            "RESP commands",
            lambda payload: request(b"SET", b"key", payload),
            parsers.commands,
            resp_peers,
            meaning=lambda payload: [b"SET", b"key", payload],
        ),
    ], skipped


def payloads(size: int, volume: int) -> Iterator[bytes]:
    """Yield payloads of a size, without what ends a line, a string or a netstring."""
    for number in range(max(MIN_FRAMES, volume // size)):
        yield (b"%08d" % number * (size // 8 + 1))[:size]


def reads(contest: Contest, load: Load, volume: int) -> tuple[list[bytes], list[object]]:
    """Return the bytes in reads, and what parsers must make of them."""
    found = list(payloads(load.size, volume))
    frames = list(map(contest.encode, found))
    wire = b"".join(frames)
    chunks = frames if not load.read else [wire[at : at + load.read] for at in range(0, len(wire), load.read)]
    return chunks, [contest.meaning(payload) for payload in found]


def case(parse: Parse, chunks: Sequence[bytes], frames: int) -> Case:
    """Return what times one parser: the time of the processor, since others may use it too."""

    def run() -> Mapping[str, tuple[float, str]]:
        begin = time.process_time_ns()
        parse(chunks)
        taken = time.process_time_ns() - begin
        return {FIGURE: (max(taken, 1) / 1e9 / frames, "s")}

    return run


def measure(contest: Contest, load: Load, settings: Settings) -> Results:
    """Time every parser of a contest with one load.

    Raises:
        ValueError: a parser does not return what is there.
    """
    chunks, expected = reads(contest, load, QUICK_VOLUME if settings.quick else VOLUME)
    for name, parse in contest.parsers.items():
        if parse(chunks) != expected:
            raise ValueError(f"{name} finds other frames than there are: {contest.framing}, {load}")
    cases = {name: case(parse, chunks, len(expected)) for name, parse in contest.parsers.items()}
    return interleave(cases, settings.rounds)


def goals(contest: Contest, results: Mapping[Load, Results]) -> Iterator[Goal]:
    """Yield goals: to be faster than each of the others, also where that is hardest.

    Where finding frames is what a read is about there is one for each of the others; else one for all of them.
    """
    for kind, limits in KINDS.items():
        for peers in [[peer] for peer in contest.peers] if kind == MANY else [list(contest.peers)]:
            ratios = {
                (peer, load): quotient(figures[peer][FIGURE], figures[OURS][FIGURE])
                for load, figures in results.items()
                for peer in peers
                if load.kind == kind
            }
            if not ratios:
                continue  # nobody is there to be compared with
            peer, load = min(ratios, key=lambda pair: ratios[pair].median)
            than = peer if kind == MANY else f"everybody else, of whom {peer} is hardest to beat"
            yield Goal(
                f"{contest.framing}, {kind}: faster than {than} (worst of all: {load})",
                ratios[peer, load],
                at_least=1.0,
                limits=PEERS.get(peer, limits),
            )


ALONE: Final = "one frame in each read"
MANY: Final = "many frames in a read"
SPLIT: Final = "frames that reads split"

KINDS: Final = {
    ALONE: "A call into C by cffi, and the list of offsets, cost some 0.25 us for each read; none of the others checks a size. In a "
    "server the poller finds a frame that comes alone in the call that reads it, which is not measured here.",
    MANY: "Offsets come from C as three integers per frame, and Python cuts the payload out.",
    SPLIT: "Each read costs a call into C by cffi and a list, some 0.5 us whatever is found; a loop in Python begins cheaper. "
    "From 64 KiB on, copying is most of the time for all.",
}
"""The kinds of loads, and what limits ours there."""

PEERS: Final = {
    "bytes.split": "It makes the list of pieces in C, in one call; by cffi, ours returns offsets, of which Python cuts the "
    "pieces out. Ours also strips CR and checks sizes. With longer lines memchr is the faster search.",
    "bytes.splitlines": "As for bytes.split. It also ends lines at a CR alone.",
    "hiredis": "It makes Python's objects in C; here offsets come from C, and Python cuts out the frame and then its words.",
}
"""The same for single peers, where it is another reason."""


def table(contest: Contest, results: Mapping[Load, Results]) -> Table:
    """Return the figures of one contest."""
    rows = []
    for load, found in results.items():
        ours = found[OURS][FIGURE]
        for name in contest.parsers:
            taken = found[name][FIGURE]
            speed = Series("bytes/s", tuple(load.size / value for value in taken.values))
            beside = "" if name == OURS else str(quotient(taken, ours))
            rows.append((str(load), name, str(taken), str(Series("bytes/s", (speed.median,))), beside))
    return Table(
        f"{contest.framing}: {FIGURE}", ("payload", "parser", "per frame", "payload in a second", "over hotfd's"), rows
    )


PICTURED: Final = Load(64, READ)
"""What the picture shows: frames of a common size, many of them in a read."""


def picture(results: Mapping[str, Mapping[Load, Results]]) -> Bars:
    """Return hotfd beside the fastest of the others, for each framing."""
    groups = {}
    for framing, loads in results.items():
        times = {name: figures[FIGURE].median * 1e9 for name, figures in loads[PICTURED].items()}
        groups[framing] = {OURS: times.pop(OURS), "fastest of the others": min(times.values(), default=0.0)}
    title = f"Finding and cutting out a frame of {PICTURED.size} bytes, many of them in a read"
    return Bars(
        "scanners-frame", title, "ns of the processor per frame", {k: v for k, v in groups.items() if all(v.values())}
    )


TEXT: Final = f"""\
The bytes of many frames are given to a parser in reads of 64 KiB, or of {SEGMENT:,} bytes, which split most frames, or one in each
read, as clients that wait for answers send them; it has to return each payload as `bytes`. hotfd's part is what its scanners
are for: one call per read, as soon as there are as many bytes as the scanner has said that it needs (up to 256 frames each), and
a slice for each payload. For RESP it is the same and `hotfd.resp.command`, which makes a list of words, since
hiredis and redis-py return that.

The loops, and the calls of `bytes`, are as people write them, and refuse next to nothing: no frame is too large for them, no number
is looked at for whether it may be one, and a line keeps its CR. A scanner checks all of that, as hiredis does.

All run in one process, in turns; the time is the processor's. httptools is not here: no framing of hotfd's reads HTTP, so there is
nothing to compare it with.
"""


def run(settings: Settings) -> Section:
    """Time all parsers on all loads; see :class:`Settings`."""
    found, skipped = contests()
    section = Section("scanners", TITLE, TEXT, skipped=skipped)
    everything: dict[str, dict[Load, Results]] = {}
    for contest in found:
        results = everything[contest.framing] = {}
        for load in LOADS:
            settings.say(f"{contest.framing}, {load}")
            results[load] = measure(contest, load, settings)
        section.tables.append(table(contest, results))
        section.goals += goals(contest, results)
        section.data[contest.framing] = {
            str(load): {name: list(figures[FIGURE].values) for name, figures in cases.items()}
            for load, cases in results.items()
        }
    section.plots.append(picture(everything))
    return section
