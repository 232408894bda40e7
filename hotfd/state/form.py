"""The written form of a state: one msgpack array ``[FORMAT, tree]``, every value unmistakable.

msgpack knows null, booleans, 64-bit integers, floats, text, bytes, arrays and maps. What it says exactly is written
as it is: those are the *atoms*. A dict whose keys are atoms is a map. Everything else is an array that begins with an
integer, the *tag*, and says what follows::

    LIST, TUPLE, SET, FROZENSET     [tag, [item, ...]]
    DEQUE                           [tag, [item, ...], maxlen]
    PAIRS                           [tag, [key, ...], [value, ...]]       a dict with keys that are no atoms
    DEFAULTDICT                     [tag, dict, factory]                  a factory out of FACTORIES, by name
    ORDEREDDICT, COUNTER            [tag, dict]
    BYTEARRAY                       [tag, bytes]
    INT                             [tag, bytes]                          two's complement, big-endian, any size
    STR                             [tag, bytes]                          UTF-8 with surrogates passed through
    COMPLEX                         [tag, real, imaginary]
    DATETIME                        [tag, y, m, d, h, min, s, us, fold, zone]
    DATE, TIME, TIMEDELTA           [tag, y, m, d], [tag, h, min, s, us, fold, zone], [tag, days, s, us]
    TIMEZONE, ZONEINFO              [tag, days, s, us, name], [tag, key]
    DECIMAL, UUID                   [tag, text], [tag, bytes, is_safe]
    MSGSPEC_UNSET                   [tag]                                 the value msgspec.UNSET
    ABSENT                          [tag]                                 a field that has no value at all
    FIRST_TYPE + n                  [tag, field, ...]                     an object of the n-th class, by name, of the
                                                                          writer's schema; an enum member by its name

A list therefore costs two bytes more than msgpack's own, and in return an object is one flat array and a list or a
dict of atoms, however long, is handed to msgpack as it stands. No tag is ever given a second meaning; a new one needs
a new FORMAT, which both sides compare before anything moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT: Final = 1
"""Version of this form; the first element of everything written, and part of every schema."""

MAX_DEPTH: Final = 200
"""Levels of nesting. Each costs two or three Python frames, and the interpreter's default limit is 1,000 of them;
a value that contains itself ends here too."""

MAX_PATH_PARTS: Final = 8
"""Steps that an error's path shows before it is cut: a cycle's path would be MAX_DEPTH steps long."""

LIST: Final = 1
TUPLE: Final = 2
SET: Final = 3
FROZENSET: Final = 4
DEQUE: Final = 5
PAIRS: Final = 6
DEFAULTDICT: Final = 7
ORDEREDDICT: Final = 8
COUNTER: Final = 9
BYTEARRAY: Final = 10
INT: Final = 11
STR: Final = 12
COMPLEX: Final = 13
DATETIME: Final = 14
DATE: Final = 15
TIME: Final = 16
TIMEDELTA: Final = 17
TIMEZONE: Final = 18
ZONEINFO: Final = 19
DECIMAL: Final = 20
UUID: Final = 21
MSGSPEC_UNSET: Final = 22
ABSENT: Final = 23
FIRST_TYPE: Final = 64
"""Tag of the first declared class; the room below it is for later formats."""

ATOMS: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes})
"""Types that msgpack writes and reads back exactly. Of int and str it does most; see :mod:`hotfd.state.writer`."""

FACTORIES: Final[dict[str, Callable[[], Any] | None]] = {
    "none": None,
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
}
"""The default factories that a defaultdict can travel with: names for what every process has."""


class Fault(Exception):  # noqa: N818 - it becomes a StateError at the root, where the path is known
    """A value that cannot be written or read; every level it unwinds through adds its step of the path."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self._steps: list[str] = []

    def under(self, step: str) -> None:
        """Add the step that leads from the enclosing value to the one at fault, e.g. ``.names`` or ``[3]``."""
        self._steps.append(step)

    def path(self, root: str) -> str:
        """Return the whole path, from ``root`` down, cut after MAX_PATH_PARTS steps."""
        steps = self._steps[::-1]
        rest = "..." if len(steps) > MAX_PATH_PARTS else ""
        return root + "".join(steps[:MAX_PATH_PARTS]) + rest


def call(function: Callable[..., Any], name: str, *arguments: Any) -> Any:
    """Call a user's function; whatever it raises becomes a fault that names the exception and the line.

    Raises:
        Fault: it raised. The exception is not chained: its text may hold a value, and logs print chains.
    """
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        problem = f"{name} raised {raised(error)}"
    raise Fault(problem)


def raised(error: BaseException) -> str:
    """Say which exception a user's function raised and where, without its text, which may hold a value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"


def type_name(kind: object) -> str:
    """Return how a person calls a type: ``threading.Lock``, ``socket.socket``, ``int``."""
    name = getattr(kind, "__qualname__", None) or getattr(kind, "_name", None)
    if name is None:
        return str(kind)
    # Until Python 3.13 threading.Lock is a function of _thread with a name that nobody ever wrote down.
    name = {"allocate_lock": "Lock", "lock": "Lock"}.get(name, name)
    module = str(getattr(kind, "__module__", "builtins"))
    module = {"_thread": "threading", "_io": "io"}.get(module, module.lstrip("_"))
    return name if module in ("builtins", "main", "typing") else f"{module}.{name}"
