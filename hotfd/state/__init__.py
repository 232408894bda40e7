"""State that travels exactly or not at all: typed, versioned, without pickle.

:class:`Codec` compiles a declared type and writes, reads and checks its values; :class:`State` declares what a type
alone does not say; :func:`encode_any` and :func:`decode_any` serve values without a declaration.
"""

from __future__ import annotations

from hotfd.state.codec import Codec, decode_any, encode_any
from hotfd.state.declare import State

__all__ = ["Codec", "State", "decode_any", "encode_any"]
