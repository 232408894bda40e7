# Types of the extension module that csrc/build_core.py describes.
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, final

# What cffi makes of a C object. It has the attributes of the C struct, which no stub can know by its C name.
CData: TypeAlias = Any

@final
class _FFI:
    def new(self, ctype: str, init: int | Mapping[str, object] = ...) -> CData: ...
    def cast(self, ctype: str, source: CData) -> CData: ...
    def from_buffer(self, source: bytes | bytearray | memoryview) -> CData: ...
    def buffer(self, cdata: CData, size: int) -> memoryview: ...
    def unpack(self, cdata: CData, length: int) -> list[int]: ...

ffi: _FFI

@final
class _Lib:
    HOTFD_MAX_DESCRIPTORS: Final[int]
    HOTFD_MAX_MESSAGE: Final[int]
    HOTFD_MAX_COOKIES: Final[int]
    HOTFD_MAX_DELIMITER: Final[int]
    HOTFD_MAX_HEADER_PART: Final[int]
    HOTFD_RESP_DEPTH: Final[int]
    HOTFD_MAX_MAX_SIZE: Final[int]
    HOTFD_DELIMITED: Final[int]
    HOTFD_FIXED: Final[int]
    HOTFD_LENGTH: Final[int]
    HOTFD_VARINT: Final[int]
    HOTFD_NETSTRING: Final[int]
    HOTFD_RESP: Final[int]
    HOTFD_STRIP_CR: Final[int]
    HOTFD_LITTLE_ENDIAN: Final[int]
    HOTFD_INCLUDES_HEADER: Final[int]
    HOTFD_KEEP_HEADER: Final[int]
    HOTFD_INLINE: Final[int]

    def hotfd_channel_pair(self, channel: CData) -> int: ...
    def hotfd_pass_pidfd(self, channel: int, on: Literal[0, 1]) -> int: ...
    def hotfd_send(self, channel: int, data: bytes, size: int, descriptors: CData | list[int], count: int) -> int: ...
    def hotfd_receive(self, channel: int, data: CData, size: int, message: CData) -> int: ...
    def hotfd_memory_sealed(self, name: bytes, chunks: CData, count: int) -> int: ...
    def hotfd_memory_shared(self, name: bytes, size: int) -> int: ...
    def hotfd_memory_size(self, fd: int, writable: Literal[0, 1], limit: int) -> int: ...
    def hotfd_cookies(self, fds: list[int], count: int, cookies: CData) -> int: ...
    def hotfd_tcp_facts(self, fd: int, facts: CData) -> int: ...
    def hotfd_peer_credentials(self, fd: int, peer: CData) -> int: ...
    def hotfd_peer_pidfd(self, fd: int) -> int: ...
    def hotfd_abort(self, fd: int) -> int: ...
    def hotfd_framing_check(self, framing: CData) -> int: ...
    def hotfd_scan(
        self,
        framing: CData,
        scan: CData,
        buf: bytes | CData,
        start: int,
        length: int,
        spans: CData,
        maximum: int,
        /,
    ) -> int: ...

lib: _Lib
