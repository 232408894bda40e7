/*
 * The C core of hotfd: descriptors in messages, sealed memory, socket facts, directories, frame scanners, and
 * reading from many sockets at once.
 *
 * What holds for every function here:
 *
 *  - It returns 0 or a positive value when it succeeded, and a negated errno when it did not.
 *  - It leaves what its output arguments point to untouched when it fails. (The `data` of hotfd_receive, the
 *    `words` of hotfd_resp_words, the `buf` and `ready` of hotfd_poll_read, and the caller's `struct
 * hotfd_scan` and `struct hotfd_look` are working memory, not outputs.)
 *  - It keeps no global and no static state, and allocates nothing: memory is the caller's.
 *  - A descriptor that it creates or receives is close-on-exec from its first instant, and belongs to the
 *    caller when it succeeds. When it fails, every descriptor that it made has been closed.
 *  - It never closes a descriptor that was passed to it.
 *
 * Linux only. Written in C11 with GNU library extensions.
 */
#ifndef HOTFD_H
#define HOTFD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* ---------------------------------------------------------------- message.c: descriptors in messages ---- */

/* Descriptors in one message: SCM_MAX_FD in the kernel. One more and sendmsg(2) says EINVAL. */
#define HOTFD_MAX_DESCRIPTORS 253

/* Bytes of data in one message. Well below the default send buffer (212,992 bytes), so that a message of the
   full size fits beside others; what is larger travels in sealed memory. */
#define HOTFD_MAX_MESSAGE 65536

/* What one receive found, beside the data. */
struct hotfd_message {
    uint32_t length;   /* bytes of data */
    uint32_t count;    /* descriptors in `descriptors`; the caller closes them */
    int32_t truncated; /* 1: something was cut off, and every descriptor that came has been closed */
    int32_t pid;       /* of the sender, from SCM_CREDENTIALS; -1 if the message carried none */
    int64_t uid;       /* of the sender; -1 if the message carried none */
    int32_t pidfd;     /* of the sender, from SCM_PIDFD; the caller closes it; -1 if there is none */
    int32_t descriptors[HOTFD_MAX_DESCRIPTORS];
};

/*
 * Make the two ends of a channel: SOCK_SEQPACKET, close-on-exec, non-blocking, with the sender's credentials
 * and, where the kernel knows how (6.5), its pidfd on each message.
 */
int hotfd_channel_pair(int channel[2]);

/*
 * Ask the kernel to put the sender's pidfd on each message that arrives at `channel`, or to stop doing so.
 * -ENOPROTOOPT where the kernel is older than 6.5.
 */
int hotfd_pass_pidfd(int channel, int on);

/*
 * Send one message with `count` descriptors; the caller keeps his copies. Never blocks and raises no SIGPIPE.
 * -EAGAIN: the queue is full. -ETOOMANYREFS: too many descriptors of this user are in flight. -EINVAL: more
 * than HOTFD_MAX_DESCRIPTORS, or no data (a message without data would look like the end of the channel).
 * -EMSGSIZE: more than HOTFD_MAX_MESSAGE bytes. -EPIPE: the other end is closed.
 */
int hotfd_send(int channel, const uint8_t *data, size_t size, const int *descriptors, size_t count);

/*
 * Receive one message into `data` and `message`. Never blocks (-EAGAIN). At the end of the channel `length`
 * and `count` are 0 and `truncated` is 0.
 *
 * When the message did not fit (MSG_TRUNC), or the kernel could not install each descriptor (MSG_CTRUNC: the
 * descriptor limit, or a security module), every descriptor that came is closed, the pidfd too, and
 * `truncated` is 1. -ECONNRESET is not the end: what the peer sent before it died may still follow.
 */
int hotfd_receive(int channel, uint8_t *data, size_t size, struct hotfd_message *message);

/* ------------------------------------------------------------------------- memory.c: sealed memory ---- */

/*
 * Make a memfd of the given content that nobody can change any more (F_SEAL_SHRINK, GROW, WRITE, SEAL).
 * Returns the descriptor. `name` shows in /proc only; at most 249 bytes (-EINVAL). The chunks' iov_base and
 * iov_len are read, never written.
 */
int hotfd_memory_sealed(const char *name, const struct iovec *chunks, size_t count);

/*
 * Make a memfd of `size` zero bytes that can be written by whoever maps it, and can never change its size: so
 * a reader of the mapping cannot be killed by SIGBUS. Returns the descriptor.
 */
int hotfd_memory_shared(const char *name, uint64_t size);

/*
 * Check that `fd` is a memfd with the seals that hotfd_memory_sealed (writable 0) or hotfd_memory_shared
 * (writable 1) sets, and return its size in bytes. -EPERM: it is not; -EFBIG: it is larger than `limit`.
 */
int64_t hotfd_memory_size(int fd, int writable, uint64_t limit);

/* --------------------------------------------------------------------------- facts.c: socket facts ---- */

/* Sockets in one call of hotfd_cookies: as many as one message can carry. */
#define HOTFD_MAX_COOKIES HOTFD_MAX_DESCRIPTORS

/* What the kernel knows of a TCP connection's progress, all read at the same state of the connection. */
struct hotfd_tcp_facts {
    uint64_t received; /* bytes that came in order from the peer; its FIN counts as one */
    uint64_t acked;    /* bytes of ours that the peer acknowledged; SYN and FIN of ours count as one each */
    uint32_t unread;   /* bytes received that no process has read; FIN does not count */
    uint32_t unacked;  /* bytes written that are not acknowledged; FIN of ours counts as one */
    int32_t fin_received; /* 1: the peer has ended its direction */
    int32_t closed; /* 1: the connection is over, by FIN from both or by a reset: fin_received is unknown */
};

/* The kernel's unique name of each of `count` sockets (SO_COOKIE): the same through every copy. */
int hotfd_cookies(const int *fds, size_t count, uint64_t *cookies);

/*
 * Read a TCP connection's progress. -EAGAIN: the connection was so busy that no two readings agreed.
 * -EOPNOTSUPP: not a TCP socket. -EPROTONOSUPPORT: the kernel is older than 4.2.
 */
int hotfd_tcp_facts(int fd, struct hotfd_tcp_facts *facts);

/*
 * The same for `count` sockets at once, at most HOTFD_MAX_COOKIES (-EINVAL), as two sums each: the bytes that
 * have been read from it, ever, and those that have been written to it, plus a constant of its own. `codes`
 * has 0 for a socket that was counted. For another one it has what hotfd_tcp_facts says, or -ENOTCONN for a
 * connection that is over, and its sums are left untouched.
 */
int hotfd_tcp_counts(const int *fds, size_t count, uint64_t *consumed, uint64_t *written, int *codes);

/* Who made or connected the other end of a Unix socket (SO_PEERCRED). -ENOTCONN: nobody, or no Unix socket.
 */
struct hotfd_peer {
    int32_t pid; /* 0: a process that is not visible in this pid namespace */
    int64_t uid;
    int64_t gid;
};
int hotfd_peer_credentials(int fd, struct hotfd_peer *peer);

/* A pidfd of the same process (SO_PEERPIDFD). -ENOPROTOOPT where the kernel is older than 6.5. */
int hotfd_peer_pidfd(int fd);

/* Reset a TCP connection at once, whoever else holds a copy of it; nothing that was written is still sent. */
int hotfd_abort(int fd);

/* ------------------------------------------------------------------- watch.c: changes in a directory ---- */

enum hotfd_watch_news {
    HOTFD_WATCH_NEW = 1,  /* another file has the name now, or the kernel has lost count of what happened */
    HOTFD_WATCH_OVER = 2, /* the directory was removed, moved or unmounted: no news of this place follow */
};

/*
 * Watch a directory, given by a descriptor of it, which may be an O_PATH one and can be closed afterwards.
 * Returns a non-blocking descriptor that is readable when something has happened. -EMFILE: this user has as
 * many as /proc/sys/fs/inotify/max_user_instances; -ENOSPC: as many as max_user_watches; -EACCES: it is not
 * readable.
 */
int hotfd_watch(int directory);

/*
 * Say what has happened since the last call: 0, or news as bits. `name` is a file's name in the directory;
 * what happens to others is read and passed over. Never blocks. While the descriptor is readable there is
 * more: call again.
 */
int hotfd_watch_read(int watch, const char *name);

/* -------------------------------------------------------------- scan.c, scan_resp.c: frame scanners ---- */

/*
 * Where frames end.
 *
 * The caller owns a `struct hotfd_framing` (what the protocol is; constant, shared by all connections), and
 * for each connection a `struct hotfd_scan` (how far the current frame has been looked at; zero it before the
 * first call) and a buffer of what was received. He calls
 *
 *      n = hotfd_scan(framing, scan, buf, start, len, spans, max);
 *
 * with `start` the offset in `buf` of the first byte of the current, unfinished frame, and `len` the number
 * of bytes in `buf`. It returns
 *
 *      n > 0       this many complete frames, in spans[0..n-1]. The next call starts at spans[n-1].end (the
 *                  buffer may have moved). When n == max there may be more: call again.
 *      0           the current frame is incomplete: call again with the same frame and more bytes.
 *      -EMSGSIZE   the current frame is larger than max_size. This is said as early as the bytes allow: from
 *                  the length before the payload, or when an unterminated line has grown too long.
 *      -EBADMSG    what starts at `start` is no frame of this protocol.
 *      -EINVAL     the call is wrong: start > len, max == 0, or fewer bytes than a previous call has seen.
 *
 * Complete frames before a bad one are returned first; the error comes with the next call, and with every one
 * after it, for nobody can say where the next frame begins.
 *
 * A scan is only a bookmark: a fresh one over the same bytes finds the same frames. So it does not have to
 * travel to another process.
 *
 * After a call that did not fail, scan->need says when the next one is worth it: as soon as there are so many
 * bytes of the current frame. With a length before the payload that can be the whole frame; otherwise it is
 * one byte more than there are. 0: at once, since there may be more frames, or an error, in what is there.
 */

enum hotfd_framing_kind {
    HOTFD_DELIMITED = 1, /* payload, delimiter */
    HOTFD_FIXED,         /* `size` bytes */
    HOTFD_LENGTH,        /* offset bytes, length field, trailer bytes, payload */
    HOTFD_VARINT,        /* LEB128 length of at most 10 bytes (as protobuf writes it), payload */
    HOTFD_NETSTRING,     /* decimal length, ':', payload, ',' */
    HOTFD_RESP,          /* Redis serialisation protocol, versions 2 and 3 */
};

enum hotfd_framing_flag {
    HOTFD_STRIP_CR = 1,        /* DELIMITED by one byte: a '\r' before the delimiter is not payload */
    HOTFD_LITTLE_ENDIAN = 2,   /* LENGTH: byte order of the field; big endian without it */
    HOTFD_INCLUDES_HEADER = 4, /* LENGTH: the field counts header and payload; the payload alone without it */
    HOTFD_KEEP_HEADER = 8,     /* LENGTH: the header is delivered in front of the payload */
    HOTFD_INLINE = 16,         /* RESP: a first byte that is no type begins a line (what people type) */
};

/* Bytes of a delimiter. The longest in common use, a boundary of a few dashes, is shorter. */
#define HOTFD_MAX_DELIMITER 16

/* Bytes before, and bytes after, the length field of a header. Ten times the longest that we know. */
#define HOTFD_MAX_HEADER_PART 1024

/* Largest max_size: 256 TiB, the address space. It keeps every sum below far from 64 bits. */
#define HOTFD_MAX_MAX_SIZE ((uint64_t)1 << 48)

/* Aggregates inside each other in RESP. Redis itself stays below 10; one counter of 8 bytes each. */
#define HOTFD_RESP_DEPTH 32

struct hotfd_framing {
    uint32_t kind;     /* enum hotfd_framing_kind */
    uint32_t flags;    /* enum hotfd_framing_flag */
    uint64_t max_size; /* bytes of payload as delivered, 1..HOTFD_MAX_MAX_SIZE; of the whole frame for RESP */
    uint64_t size;     /* FIXED: bytes of a frame */
    uint32_t length_bytes; /* LENGTH: bytes of the field: 1, 2, 4 or 8 */
    uint32_t offset;       /* LENGTH: bytes of header before the field */
    uint32_t trailer;      /* LENGTH: bytes of header after the field */
    uint32_t delimiter_size;
    uint8_t delimiter[HOTFD_MAX_DELIMITER];
};

struct hotfd_scan {
    uint64_t seen;     /* bytes of the current frame that need not be searched again */
    uint64_t need;     /* bytes of it below which another call finds nothing new; see above */
    uint64_t position; /* RESP: where in the frame the next element begins */
    int32_t error;     /* 0, or what every further call returns */
    uint32_t depth;    /* RESP: counters in use */
    uint64_t open[HOTFD_RESP_DEPTH + 1]; /* RESP: elements that are missing; open[0] is the frame itself */
};

/* Offsets in the caller's buffer. */
struct hotfd_span {
    uint64_t payload;     /* first byte of what is delivered */
    uint64_t payload_end; /* one behind its last byte */
    uint64_t end;         /* one behind the last byte of the frame: where the next one begins */
};

/* 0, or -EINVAL when the parameters make no framing. hotfd_scan relies on it: call it once for each. */
int hotfd_framing_check(const struct hotfd_framing *framing);

int hotfd_scan(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf, size_t start,
               size_t len, struct hotfd_span *spans, size_t max);

/* Frames that one hotfd_look finds: more would save little, and the room for them is 6 KiB already. */
#define HOTFD_LOOK_SPANS 256

/* Added to what hotfd_look returns when bytes of an unfinished frame are left, or of others behind it. */
#define HOTFD_LOOK_REST 65536

/* Room for one hotfd_look: uninitialised memory will do. */
struct hotfd_look {
    struct hotfd_span spans[HOTFD_LOOK_SPANS + 1];
    struct hotfd_scan scan;
};

/*
 * hotfd_scan for callers to whom each argument and each field costs something: at most HOTFD_LOOK_SPANS
 * frames, in look->spans. Without a bookmark (`scan` NULL) it looks at the current frame from its beginning.
 * Returns the number of frames, and HOTFD_LOOK_REST with it when these are not all that there is: then
 * scan->need is the first number behind the frames.
 */
int hotfd_look(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf, size_t start,
               size_t len, struct hotfd_look *look);

/* Bytes that hotfd_whole looks at: two offsets of 15 bits are a number that Python has ready-made room for.
 */
#define HOTFD_WHOLE_MAX 32767

/*
 * The cheapest look, for the commonest case: whether the bytes from `start` to `len` are exactly one frame.
 * Returns payload << 15 | payload_end, offsets in `buf`. -ENOMSG: they are something else, or len is above
 * HOTFD_WHOLE_MAX; hotfd_look says more.
 */
int hotfd_whole(const struct hotfd_framing *framing, const uint8_t *buf, size_t start, size_t len);

/*
 * Find the words of a RESP command, an array of bulk strings that are not null: their beginnings and ends, as
 * pairs of numbers in `words`, which has room for `max` of them. Returns how many words there are. -EBADMSG:
 * the `len` bytes are not exactly one such array; -E2BIG: it has more words than `max`.
 */
int hotfd_resp_words(const uint8_t *buf, size_t len, uint64_t *words, size_t max);

/* ------------------------------------------------------------------ poll.c: many sockets, read at once ----
 */

/*
 * The caller owns an epoll descriptor, and a table of `struct hotfd_slot`, zeroed at first: a slot for each
 * socket that is polled. He makes the table larger when he likes, by copying it.
 *
 * The kernel keeps a registration with the open file and not with the descriptor (epoll(7), Q6): a socket has
 * to be dropped before its descriptor is closed, or it is heard of for as long as a copy of it is open
 * anywhere. So that even then nothing is read from whatever socket has the slot by now, a slot counts how
 * often it was dropped, and the kernel keeps that count with the registration.
 */
struct hotfd_slot {
    int32_t fd;          /* of the socket that is polled */
    uint32_t generation; /* how many sockets have had the slot before */
    int32_t
        reads; /* 1: hotfd_poll_read reads from it; 0: it only says that there is something. May be changed */
};

/* Poll a socket in a slot that no other one has. A failure of epoll_ctl(2) leaves the slot as it was. */
int hotfd_poll_add(int epoll, struct hotfd_slot *slots, uint32_t number, int fd, int reads);

/*
 * Poll the socket of a slot no more. Nothing is heard of it from here on, also when epoll_ctl(2) fails: then
 * `fd` is not what was added.
 */
int hotfd_poll_drop(int epoll, struct hotfd_slot *slots, uint32_t number, int fd);

enum hotfd_poll_how {
    HOTFD_POLL_DROP = 0, /* as hotfd_poll_drop */
    HOTFD_POLL_TELL = 1, /* as hotfd_poll_add, and do not read from it */
    HOTFD_POLL_READ = 2, /* as hotfd_poll_add, and read from it */
};

struct hotfd_change {
    uint32_t slot;
    int32_t fd;
    int32_t how; /* enum hotfd_poll_how */
};

/* Do many of these, in order; `codes` has room for what each of them returns. */
void hotfd_poll_change(int epoll, struct hotfd_slot *slots, const struct hotfd_change *changes, size_t count,
                       int32_t *codes);

/* Sockets of which one hotfd_poll_read says something: each of them waits for all others of its call. */
#define HOTFD_POLL_MAX 128

/* The `size` of a socket that was not read from. */
#define HOTFD_POLL_UNREAD INT32_MIN

struct hotfd_ready {
    uint32_t slot;
    int32_t size;        /* bytes that were read; 0: the peer's end; HOTFD_POLL_UNREAD; or a negated errno */
    int32_t payload;     /* offset of the payload in what was read if that is exactly one frame, else -1 */
    int32_t payload_end; /* one behind its last byte */
};

/* What hotfd_poll_read works with; it is called too often to be told each time. */
struct hotfd_poll {
    int epoll;
    const struct hotfd_slot *slots;
    const struct hotfd_framing *framing; /* NULL: what was read is not looked at */
    uint8_t *buf;                        /* working memory, as is `ready` */
    size_t size;                         /* bytes in `buf` */
    size_t each;                         /* bytes that are read of one socket at most */
    struct hotfd_ready *ready;           /* HOTFD_POLL_MAX of them */
};

/*
 * Say which sockets have something to read, at most HOTFD_POLL_MAX of them, and read it, one behind the other
 * into `buf`; when that has no room for `each` any more, the others are not read from. Returns how many there
 * are in `ready`. Never blocks. With a `framing`, hotfd_whole looks at what was read of each.
 */
int hotfd_poll_read(const struct hotfd_poll *poll);

struct hotfd_reply {
    int32_t fd;
    int32_t size; /* bytes in `data`, where the replies stand one behind the other */
};

/*
 * Send a reply to each of many sockets. Never blocks, and raises no SIGPIPE. `sent` is for each how many
 * bytes the kernel has taken, or a negated errno. Returns how many replies it has not taken whole.
 */
int hotfd_poll_send(const uint8_t *data, const struct hotfd_reply *replies, size_t count, int32_t *sent);

#endif
