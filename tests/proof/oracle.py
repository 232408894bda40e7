"""Clients that no mistake can fool: every byte, in both directions, is a function of the connection and the offset.

A :class:`Stream` says what one connection says and what it must hear: its frames come out of a keyed hash, so that no
two stretches of any two streams are alike, and what is heard is computed from what is said, never taken from the server.
A :class:`Receiver` compares what comes, byte by byte. Whatever does not fit is looked up in all streams of the
:class:`Oracle`: where do these bytes belong? So the finding says what has happened, and not only that something has::

    lost        bytes of this stream that never came, though later ones did
    duplicated  bytes of this stream that came twice
    reordered   bytes of this stream that came after later ones
    mixed       bytes that belong to another connection
    reflected   bytes that a connection has said, and that came back as they were
    altered     bytes that stand in the place of others, and belong nowhere
    inserted    bytes that belong nowhere, and replace nothing
    surplus     bytes beyond the last that was asked for
    missing     the stream ended in order before its last byte

Nothing but the standard library is needed, so a server of a test may compute the same streams. Frames are lines: the
alphabet has no line feed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count
from typing import Final, Literal, NamedTuple

ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""Sixty-four letters: six bits in each byte, and none of them ends a line."""

_LETTERS: Final = bytes(ALPHABET[byte % 64] for byte in range(256))
_TURNED: Final = bytes.maketrans(ALPHABET, ALPHABET[13:] + ALPHABET[:13])

LARGEST: Final = 48
"""Bytes of the largest frame, unless a stream says otherwise."""

CLUE: Final = 16
"""Bytes that are looked up to find where something belongs: 96 bits, less the few that all streams share."""

LEAST_CLUE: Final = 8
"""Bytes below which nothing is looked up: what is shorter could belong to several places."""

ASTRAY_LIMIT: Final = 1 << 16
"""Bytes of what does not fit that are looked into: enough to tell what happened, and few enough to be quick."""

Kind = Literal[
    "lost", "duplicated", "reordered", "mixed", "reflected", "altered", "inserted", "surplus", "missing"
]  # fmt: skip

Answer = Callable[[int, bytes], bytes]
"""What a server says to the n-th frame (the first is 1): the whole bytes on the wire, with their line feeds."""


def turned(number: int, payload: bytes) -> bytes:
    """Answer with the frame's number and its bytes in another alphabet: what merely comes back is seen to."""
    return b"%d %s\n" % (number, payload.translate(_TURNED))


def counted(number: int, payload: bytes) -> bytes:
    """Answer as ``examples/counter.py`` does."""
    return b"%d %s\n" % (number, payload)


def keyed(key: bytes, size: int) -> bytes:
    """Return bytes of the alphabet that are a function of the key alone.

    Args:
        key: names what they are.
        size: how many, in bytes.
    """
    return hashlib.shake_128(key).digest(size).translate(_LETTERS)


def bulk(key: bytes, start: int, stop: int) -> bytes:
    """Return the bytes from one offset to another of an endless stream: for servers that send much at once.

    Args:
        key: names the stream.
        start: offset of the first byte.
        stop: offset behind the last byte.
    """
    block = 4096
    first = start // block
    whole = b"".join(keyed(b"%s/%d" % (key, number), block) for number in range(first, -(-stop // block)))
    return whole[start - first * block : stop - first * block]


@dataclass(frozen=True, slots=True)
class Stream:
    """What one connection says and hears.

    Attributes:
        connection: its number in the test.
        seed: names the test, so that two tests have no bytes in common.
        largest: bytes of the largest frame.
        greeting: what comes before the first answer, with its line feed; may be nothing.
        answer: what the server says to a frame.
    """

    connection: int
    seed: bytes = b""
    largest: int = LARGEST
    greeting: bytes = b""
    answer: Answer = turned

    def frame(self, number: int) -> bytes:
        """Return the payload of the n-th frame that the connection says; the first is 1."""
        key = b"%s/%d/%d" % (self.seed, self.connection, number)
        size = 1 + int.from_bytes(hashlib.shake_128(key + b"/size").digest(4), "big") % self.largest
        return keyed(key, size)

    def said(self, first: int, last: int) -> bytes:
        """Return the bytes of the frames from one number to another, both included, as the client writes them."""
        return b"".join(self.frame(number) + b"\n" for number in range(first, last + 1))

    def heard(self, first: int, last: int) -> bytes:
        """Return the answers to these frames; before the first comes the greeting."""
        answers = b"".join(self.answer(number, self.frame(number)) for number in range(first, last + 1))
        return self.greeting + answers if first == 1 else answers


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that went wrong with a stream.

    Attributes:
        kind: what; see the module.
        connection: who heard it.
        offset: where, in the bytes that this connection must hear.
        size: how many bytes.
        detail: where they belong.
    """

    kind: Kind
    connection: int
    offset: int
    size: int
    detail: str = ""

    def __str__(self) -> str:
        story = f"connection {self.connection}, offset {self.offset}: {self.size} bytes {self.kind}"
        return f"{story} ({self.detail})" if self.detail else story


class Receiver:
    """Checks what one connection hears. Holds the bytes only from the first that does not fit.

    Args:
        stream: what it must hear.
        listener: the number of one who hears the answers to somebody else's frames; None for the speaker himself.
    """

    def __init__(self, stream: Stream, *, listener: int | None = None) -> None:
        self.stream = stream
        self.connection = stream.connection if listener is None else listener
        self.asked = 0
        self.offset = 0
        self.astray = bytearray()
        self._expected = bytearray(stream.greeting)
        self._before = 0
        self._marks: list[int] = []
        self._cut = False

    def ask(self, frames: int = 1) -> bytes:
        """Say that so many frames more are said; return their bytes, to be written."""
        first, self.asked = self.asked + 1, self.asked + frames
        for number in range(first, self.asked + 1):
            self._expected += self.stream.answer(number, self.stream.frame(number))
            self._marks.append(self._before + len(self._expected))
        return self.stream.said(first, self.asked)

    @property
    def total(self) -> int:
        """Bytes that are to come in all, for what was asked."""
        return self._before + len(self._expected)

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for has been answered, and nothing was wrong."""
        return self.offset == self.total and not self.astray

    @property
    def answered(self) -> int:
        """How many frames have been answered in full."""
        return sum(mark <= self.offset for mark in self._marks)

    def feed(self, data: bytes) -> bool:
        """Take what has come.

        Returns:
            whether all of it was as it must be.
        """
        if not self.astray:
            there = self.offset - self._before
            expected = self._expected[there : there + len(data)]
            good = len(data) if data == expected else _alike(data, expected)
            self.offset += good
            data = data[good:]
            if self.offset - self._before > 1 << 20:  # what was heard need not be kept: it can be computed
                del self._expected[: self.offset - self._before]
                self._before = self.offset
        if data:
            room = ASTRAY_LIMIT - len(self.astray)
            self._cut = self._cut or len(data) > room
            self.astray += data[:room]
        return not self.astray


def _alike(one: bytes | bytearray, other: bytes | bytearray) -> int:
    """Return how many first bytes of two are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class _Piece(NamedTuple):
    """A stretch of what was heard: ``size`` bytes of ``source`` from ``start`` on; of nobody when it is None."""

    source: int | None
    said: bool
    start: int
    size: int


@dataclass
class Oracle:
    """All streams of a test, and who hears them.

    Attributes:
        seed: names the test.
        largest: bytes of the largest frame.
        greeting: what the server says first.
        answer: what it says to a frame.
    """

    seed: bytes = b"oracle"
    largest: int = LARGEST
    greeting: bytes = b""
    answer: Answer = turned
    receivers: list[Receiver] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def receiver(self) -> Receiver:
        """Make a connection's stream, and what checks it."""
        stream = Stream(next(self._numbers), self.seed, self.largest, self.greeting, self.answer)
        self.receivers.append(Receiver(stream))
        return self.receivers[-1]

    def listener(self, speaker: Receiver) -> Receiver:
        """Make one who hears the answers to another's frames; call its ``ask`` when the speaker's is called."""
        self.receivers.append(Receiver(speaker.stream, listener=next(self._numbers)))
        return self.receivers[-1]

    def findings(self, receiver: Receiver, *, ended: bool = False) -> list[Finding]:
        """Say what is wrong with what a connection has heard.

        Args:
            receiver: its own.
            ended: whether the stream has ended in order: then everything that was asked for must have come. One that
                was reset may have lost its last bytes.

        Returns:
            what is wrong, in the order of offsets; nothing when all is well.
        """
        found: list[Finding] = []
        if receiver.astray:
            found = _Explanation(self, receiver).findings()
        elif ended and not receiver.complete:
            left = receiver.total - receiver.offset
            found = [Finding("missing", receiver.connection, receiver.offset, left, "the stream ended in order")]
        return sorted(found, key=lambda finding: finding.offset)


class _Explanation:
    """Finds out where the bytes belong that do not fit."""

    def __init__(self, oracle: Oracle, receiver: Receiver) -> None:
        self._receiver = receiver
        self._own = receiver.stream.connection
        self._texts: list[tuple[int, bool, bytes]] = []
        streams = {other.stream.connection: other for other in oracle.receivers}
        for number, other in sorted(streams.items(), key=lambda item: item[0] != self._own):
            asked = max(each.asked for each in oracle.receivers if each.stream.connection == number)
            self._texts.append((number, False, other.stream.heard(1, asked)))
            self._texts.append((number, True, other.stream.said(1, asked)))
        self._heard = self._texts[0][2]

    def findings(self) -> list[Finding]:
        pieces = [_Piece(self._own, False, 0, self._receiver.offset), *self._pieces(bytes(self._receiver.astray))]
        found: list[Finding] = []
        seen: list[tuple[int, int]] = []
        where = top = 0
        for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
            if piece.source == self._own and not piece.said:
                found += self._own_piece(piece, seen, top)
                seen.append((piece.start, piece.start + piece.size))
                where = piece.start + piece.size
                top = max(top, where)
            else:
                found.append(self._stranger(piece, after, where))
                if found[-1].kind == "altered":
                    seen.append((where, where + piece.size))
                    top = max(top, where + piece.size)
        holes = _holes(seen, top)
        found += [self._finding("lost", start, stop - start, "later ones came") for start, stop in holes]
        return found

    def _finding(self, kind: Kind, offset: int, size: int, detail: str) -> Finding:
        return Finding(kind, self._receiver.connection, offset, size, detail)

    def _own_piece(self, piece: _Piece, seen: list[tuple[int, int]], top: int) -> list[Finding]:
        """A stretch of this stream: some of it may have come before, and some later than its successors."""
        start, stop = piece.start, piece.start + piece.size
        twice = sum(max(0, min(stop, b) - max(start, a)) for a, b in seen)
        found = []
        if twice:
            found.append(self._finding("duplicated", start, twice, f"came again after offset {top}"))
        if (late := min(stop, top) - start) > twice:
            found.append(self._finding("reordered", start, late - twice, f"came after offset {top}"))
        return found

    def _stranger(self, piece: _Piece, after: _Piece | None, where: int) -> Finding:
        if piece.source is not None:
            whose = f"they are bytes {piece.start} to {piece.start + piece.size} of what connection {piece.source}"
            if piece.said:
                return self._finding("reflected", where, piece.size, f"{whose} said")
            return self._finding("mixed", where, piece.size, f"{whose} must hear")
        if where >= len(self._heard):
            return self._finding("surplus", where, piece.size, "nothing more was asked for")
        follows = after is not None and after.source == self._own and not after.said
        if after is None or (follows and after.start == where + piece.size):
            return self._finding("altered", where, piece.size, "they belong nowhere")
        return self._finding("inserted", where, piece.size, "they belong nowhere")

    def _pieces(self, data: bytes) -> list[_Piece]:
        """Cut what was heard into stretches that belong somewhere, and those that belong nowhere."""
        pieces: list[_Piece] = []
        at = unknown = 0
        expected = self._receiver.offset
        while at < len(data):
            piece = self._locate(data, at, expected)
            if piece is None:
                at, unknown = at + 1, unknown + 1
                continue
            if unknown:
                pieces.append(_Piece(None, False, 0, unknown))
                unknown = 0
            pieces.append(piece)
            at += piece.size
            if piece.source == self._own and not piece.said:
                expected = piece.start + piece.size
        if unknown:
            pieces.append(_Piece(None, False, 0, unknown))
        return pieces

    def _locate(self, data: bytes, at: int, expected: int) -> _Piece | None:
        """Return the longest stretch of any stream that begins here; this connection's own is preferred."""
        clue = data[at : at + CLUE]
        if len(clue) < LEAST_CLUE and not (clue and self._heard[expected:].startswith(clue)):
            return None
        for source, said, text in self._texts:
            own = source == self._own and not said
            # Of this stream: rather what comes next than what came before.
            start = text.find(clue, expected) if own else -1
            if start < 0:
                start = text.rfind(clue)
            if start >= 0:
                size = _alike(data[at:], text[start : start + len(data) - at])
                return _Piece(source, said, start, size)
        return None


def _holes(seen: list[tuple[int, int]], top: int) -> list[tuple[int, int]]:
    """Return the stretches below ``top`` that nothing covers."""
    ordered = sorted(seen)
    covered = accumulate((stop for _, stop in ordered), max, initial=0)
    starts = [*(start for start, _ in ordered), top]
    return [(end, start) for end, start in zip(covered, starts, strict=True) if start > end]
