# ruff: noqa: INP001 - a build script beside the sources that it names, in no package
"""Declare the C core to cffi; ``setup.py`` builds ``hotfd._core._native`` from it.

The declarations repeat ``hotfd.h``. Constants and structs end in ``...``: the C compiler fills them in, and
a difference between the two files is a compile error, not a crash. A ``struct hotfd_look`` is a ``void *`` here:
Python reads it as the plain numbers that it begins with, which cffi unpacks at once. So it does with an array of
``struct hotfd_ready``, and writes those of ``struct hotfd_change`` and ``struct hotfd_reply``.
"""

import os

from cffi import FFI

CDEF = """
#define HOTFD_MAX_DESCRIPTORS ...
#define HOTFD_MAX_MESSAGE ...
#define HOTFD_MAX_COOKIES ...
#define HOTFD_MAX_DELIMITER ...
#define HOTFD_MAX_HEADER_PART ...
#define HOTFD_RESP_DEPTH ...
static const uint64_t HOTFD_MAX_MAX_SIZE;

#define HOTFD_DELIMITED ...
#define HOTFD_FIXED ...
#define HOTFD_LENGTH ...
#define HOTFD_VARINT ...
#define HOTFD_NETSTRING ...
#define HOTFD_RESP ...

#define HOTFD_STRIP_CR ...
#define HOTFD_LITTLE_ENDIAN ...
#define HOTFD_INCLUDES_HEADER ...
#define HOTFD_KEEP_HEADER ...
#define HOTFD_INLINE ...

struct iovec { void *iov_base; size_t iov_len; ...; };

struct hotfd_message {
    uint32_t length;
    uint32_t count;
    int32_t truncated;
    int32_t pid;
    int64_t uid;
    int32_t pidfd;
    int32_t descriptors[...];
    ...;
};
int hotfd_channel_pair(int channel[2]);
int hotfd_pass_pidfd(int channel, int on);
int hotfd_send(int channel, const uint8_t *data, size_t size, const int *descriptors, size_t count);
int hotfd_receive(int channel, uint8_t *data, size_t size, struct hotfd_message *message);

int hotfd_memory_sealed(const char *name, const struct iovec *chunks, size_t count);
int hotfd_memory_shared(const char *name, uint64_t size);
int64_t hotfd_memory_size(int fd, int writable, uint64_t limit);

struct hotfd_tcp_facts {
    uint64_t received;
    uint64_t acked;
    uint32_t unread;
    uint32_t unacked;
    int32_t fin_received;
    int32_t closed;
    ...;
};
struct hotfd_peer { int32_t pid; int64_t uid; int64_t gid; ...; };
int hotfd_cookies(const int *fds, size_t count, uint64_t *cookies);
int hotfd_tcp_facts(int fd, struct hotfd_tcp_facts *facts);
int hotfd_tcp_counts(const int *fds, size_t count, uint64_t *consumed, uint64_t *written, int *codes);
int hotfd_peer_credentials(int fd, struct hotfd_peer *peer);
int hotfd_peer_pidfd(int fd);
int hotfd_abort(int fd);

#define HOTFD_WATCH_NEW ...
#define HOTFD_WATCH_OVER ...
int hotfd_watch(int directory);
int hotfd_watch_read(int watch, const char *name);

struct hotfd_framing {
    uint32_t kind;
    uint32_t flags;
    uint64_t max_size;
    uint64_t size;
    uint32_t length_bytes;
    uint32_t offset;
    uint32_t trailer;
    uint32_t delimiter_size;
    uint8_t delimiter[...];
    ...;
};
struct hotfd_scan { int32_t error; ...; };
struct hotfd_look { struct hotfd_scan scan; ...; };
#define HOTFD_LOOK_SPANS ...
#define HOTFD_LOOK_REST ...
int hotfd_framing_check(const struct hotfd_framing *framing);
int hotfd_look(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf, size_t start,
               size_t len, void *look);
int hotfd_whole(const struct hotfd_framing *framing, const uint8_t *buf, size_t start, size_t len);
int hotfd_resp_words(const uint8_t *buf, size_t len, void *words, size_t max);

struct hotfd_slot { int32_t reads; ...; };
#define HOTFD_POLL_DROP ...
#define HOTFD_POLL_TELL ...
#define HOTFD_POLL_READ ...
#define HOTFD_POLL_MAX ...
#define HOTFD_POLL_UNREAD ...
struct hotfd_change { uint32_t slot; int32_t fd; int32_t how; };
struct hotfd_ready { uint32_t slot; int32_t size; int32_t payload; int32_t payload_end; };
int hotfd_poll_add(int epoll, struct hotfd_slot *slots, uint32_t number, int fd, int reads);
int hotfd_poll_drop(int epoll, struct hotfd_slot *slots, uint32_t number, int fd);
void hotfd_poll_change(int epoll, struct hotfd_slot *slots, const void *changes, size_t count, int32_t *codes);
struct hotfd_poll {
    int epoll;
    const struct hotfd_slot *slots;
    const struct hotfd_framing *framing;
    uint8_t *buf;
    size_t size;
    size_t each;
    struct hotfd_ready *ready;
};
int hotfd_poll_read(const struct hotfd_poll *poll);
int hotfd_poll_send(const uint8_t *data, const void *replies, size_t count, int32_t *sent);
"""

SOURCES = [
    "csrc/message.c",
    "csrc/memory.c",
    "csrc/facts.c",
    "csrc/watch.c",
    "csrc/scan.c",
    "csrc/scan_resp.c",
    "csrc/poll.c",
]

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "hotfd._core._native",
    '#include "hotfd.h"',
    sources=SOURCES,
    depends=["csrc/hotfd.h", "csrc/scan.h"],
    include_dirs=["csrc"],
    define_macros=[("_GNU_SOURCE", None)],
    # A newer compiler's new warning must not keep a user from installing; the project's own builds are strict.
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"]
    + (["-Werror"] if os.environ.get("HOTFD_WERROR") else []),
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
