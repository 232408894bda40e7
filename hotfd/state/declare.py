"""What a program says about its state: a type, or a :class:`State` where a type alone does not say enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hotfd.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

S = TypeVar("S")


class State(Generic[S]):
    """A state declared in full.

    Args:
        declared: the type of the state; may be left out where ``encode`` and ``decode`` are given.
        version: the version of its shape, an integer from 0. By default the class's own ``version``, else 1.
        upgrade: ``upgrade(old, version) -> S`` makes a state of what another version wrote; ``old`` is a dict of
            field name to value (or, with ``encode``, what that returned), ``version`` the version that wrote it.
            By default the class's own ``upgrade``, a classmethod or staticmethod.
        downgrade: ``downgrade(state, version)`` makes what an older version reads of a state of this one: a dict of
            that version's field names to values, all of them (or, with ``encode``, what that returned then). Used when
            an operator goes back to older code. By default the class's own ``downgrade``, a classmethod or
            staticmethod.
        encode: turns a state into a value of plain types (see :func:`hotfd.state.encode_any`), often bytes.
        decode: the reverse of ``encode``; both or neither.
        new: makes the state of a fresh connection; by default ``declared`` is called without arguments.

    As ``Annotated[Weird, State(encode=f, decode=g)]`` it also says how objects of one class travel inside another
    state; then ``declared`` and ``new`` have no meaning.

    Raises:
        StateError: the arguments contradict each other.
    """

    __slots__ = ("declared", "decode", "downgrade", "encode", "new", "upgrade", "version")

    def __init__(
        self,
        declared: type[S] | None = None,
        *,
        version: int | None = None,
        upgrade: Callable[[Any, int], S] | None = None,
        encode: Callable[[S], Any] | None = None,
        decode: Callable[[Any], S] | None = None,
        new: Callable[[], S] | None = None,
        downgrade: Callable[[S, int], Any] | None = None,
    ) -> None:
        if (encode is None) != (decode is None):
            raise StateError("State", "encode and decode come as a pair; give both or neither")
        if declared is None and encode is None:
            raise StateError("State", "needs a type, or encode and decode")
        if version is not None:
            check_version(version, "State")
        self.declared = declared
        self.version = version
        self.upgrade = upgrade
        self.downgrade = downgrade
        self.encode = encode
        self.decode = decode
        self.new = new


def check_version(version: object, where: str) -> int:
    """Return a version number that is one.

    Raises:
        StateError: it is no integer from 0.
    """
    if type(version) is not int or version < 0:
        raise StateError(where, "version must be an integer from 0")
    return version
