"""What is fuzzed, how one input is judged, and how inputs are made of a seed.

An input is good when the code returns, or raises what its documentation says, within bounds of time and memory.
Everything else is a :class:`Finding`, which names the seed; the bytes are kept in a file by who runs it.
"""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Literal

from tests.fuzz.mutate import MAX_INPUT, Mutator

if TYPE_CHECKING:
    from types import FrameType

CORPUS: Final = Path(__file__).parent / "corpus"
"""By target, a folder of inputs that once were findings, or that lead to places which mutations hardly reach."""

MAX_CPU: Final = 20.0
"""Seconds of processor time for one input of at most 128 KiB. It is no measurement, but what tells quadratic code from
slow machines: nothing here takes a hundredth of it."""

MEMORY: Final = 8 << 20, 600
"""Bytes that one input may allocate at its peak: so many, and so many for each of its own. Parsers of YAML and TOML
make about two hundred of a byte; what is announced and not sent would be thousands of times more."""

Form = Literal["bytes", "msgpack", "json"]


class Finding(AssertionError):  # noqa: N818 - what a fuzzer has found
    """An input that breaks a rule.

    Args:
        target: the name of what it was given to.
        data: the input.
        why: the rule.
    """

    def __init__(self, target: str, data: bytes, why: str) -> None:
        super().__init__(f"{target}: {why}; the input of {len(data)} bytes begins with {data[:200]!r}")
        self.target = target
        self.data = data


class _Slow(BaseException):
    """Raised where the code is when its time is over; no ``except Exception`` stops it."""


@dataclass(frozen=True)
class Target:
    """Code that reads bytes from elsewhere.

    Args:
        name: names its corpus.
        seeds: makes valid inputs; each is run as it is, and must be good.
        run: gives one input to the code, and checks what comes out.
        raises: the documented errors.
        form: what the input encodes, for mutations of its tree.
        prefix: bytes in front of that.
        tokens: words of the format.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes], object]
    raises: tuple[type[Exception], ...] = ()
    form: Form = "bytes"
    prefix: int = 0
    tokens: tuple[bytes, ...] = ()

    def corpus(self) -> list[bytes]:
        """Return the inputs that are kept, in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]

    def inputs(self, seed: int) -> Iterator[bytes]:
        """Yield what is kept, and then mutations without end: the same ones for the same seed."""
        seeds = list(self.seeds())
        kept = self.corpus()
        yield from seeds
        yield from kept
        pool = seeds + kept
        random = Random(f"{self.name} {seed}")
        mutator = Mutator(random, pool, self.tokens)
        while True:
            data = random.choice(pool)
            if self.form != "bytes" and random.random() < 0.6:
                data = (mutator.msgpack if self.form == "msgpack" else mutator.json)(data, self.prefix)
                if random.random() < 0.8:
                    yield data[:MAX_INPUT]
                    continue
            yield mutator.plain(data)

    def check(self, data: bytes, *, memory: bool = False) -> bool:
        """Judge one input.

        Args:
            data: the input.
            memory: measure the memory too, which takes some times as long.

        Returns:
            whether the code took it; False when it raised a documented error.

        Raises:
            Finding: a rule is broken.
        """
        try:
            with _limited(), _measured(self.name, data) if memory else _nothing():
                self.run(data)
        except self.raises:
            return False
        except Finding:
            raise
        except _Slow:
            raise Finding(self.name, data, f"it takes more than {MAX_CPU:g} s of processor time") from None
        except Exception as error:
            raise Finding(self.name, data, f"{type(error).__name__}: {error}"[:500]) from error
        return True


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _measured(name: str, data: bytes) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > MEMORY[0] + MEMORY[1] * len(data):
            raise Finding(name, data, f"it allocates {peak} bytes")


@contextmanager
def _limited() -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise _Slow

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_CPU)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
