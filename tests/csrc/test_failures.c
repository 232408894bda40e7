/*
 * System calls that fail, are interrupted, or answer what a kernel rarely answers. The linker leads the
 * core's calls through the wrappers below (ld --wrap); a test says which call is to fail how, and everything
 * else reaches the kernel. RUN counts descriptors, so each failure also shows that what was made before it
 * has been closed.
 */
#include "harness.h"
#include "hotfd.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum call {
    NONE,
    SETSOCKOPT,
    GETSOCKOPT,
    SENDMSG,
    RECVMSG,
    MEMFD_CREATE,
    WRITEV,
    WRITE,
    FCNTL,
    FTRUNCATE,
    FSTAT,
    INOTIFY_INIT,
    READ,
    IOCTL,
    EPOLL_WAIT,
    RECV,
};

/* What happens to the next calls of one kind: `skip` of them reach the kernel, then `times` fail with
 * `error`. */
static struct {
    enum call call;
    int skip;
    int times;
    int error;
} plan;

static void fail_next(enum call call, int skip, int times, int error)
{
    plan.call = call;
    plan.skip = skip;
    plan.times = times;
    plan.error = error;
}

/* Every failure that was planned has happened, or the test has shown nothing. */
static void all_failed(void)
{
    CHECK_EQUAL(plan.times, 0);
    plan.call = NONE;
}

static int fails(enum call call)
{
    if (plan.call != call || plan.times == 0)
        return 0;
    if (plan.skip > 0) {
        plan.skip--;
        return 0;
    }
    plan.times--;
    errno = plan.error;
    return 1;
}

#define WRAP(result, name, call, parameters, arguments)                                                      \
    result __real_##name parameters;                                                                         \
    result __wrap_##name parameters;                                                                         \
    result __wrap_##name parameters                                                                          \
    {                                                                                                        \
        return fails(call) ? -1 : __real_##name arguments;                                                   \
    }

WRAP(int, setsockopt, SETSOCKOPT, (int fd, int level, int name, const void *value, socklen_t size),
     (fd, level, name, value, size))
WRAP(int, memfd_create, MEMFD_CREATE, (const char *name, unsigned flags), (name, flags))
WRAP(int, ftruncate, FTRUNCATE, (int fd, off_t size), (fd, size))
WRAP(int, fstat, FSTAT, (int fd, struct stat *status), (fd, status))
WRAP(int, inotify_init1, INOTIFY_INIT, (int flags), (flags))
WRAP(int, epoll_wait, EPOLL_WAIT, (int epoll, struct epoll_event *events, int max, int timeout),
     (epoll, events, max, timeout))
WRAP(ssize_t, recv, RECV, (int fd, void *bytes, size_t size, int flags), (fd, bytes, size, flags))
WRAP(ssize_t, write, WRITE, (int fd, const void *bytes, size_t size), (fd, bytes, size))

/* Variadic; those of the core have one argument, a number or a pointer, and both fit a long. */
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    long argument = command == F_GET_SEALS ? 0 : va_arg(rest, int);
    va_end(rest);
    return fails(FCNTL) ? -1 : __real_fcntl(fd, command, argument);
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return fails(IOCTL) ? -1 : __real_ioctl(fd, request, argument);
}

/* With `cut_at`, the kernel takes so many bytes at once. */
static size_t cut_at;

ssize_t __real_writev(int fd, const struct iovec *chunks, int count);
ssize_t __wrap_writev(int fd, const struct iovec *chunks, int count);
ssize_t __wrap_writev(int fd, const struct iovec *chunks, int count)
{
    if (fails(WRITEV))
        return -1;
    if (cut_at == 0)
        return __real_writev(fd, chunks, count);
    struct iovec first = {chunks[0].iov_base, chunks[0].iov_len < cut_at ? chunks[0].iov_len : cut_at};
    return __real_writev(fd, &first, 1);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    if (fails(SENDMSG))
        return -1;
    ssize_t sent = __real_sendmsg(fd, msg, flags);
    return cut_at != 0 && sent > (ssize_t)cut_at ? (ssize_t)cut_at : sent;
}

/* With `forged`, what a message brings is this, and not what the kernel says. */
static const struct msghdr *forged;

ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
    if (fails(RECVMSG))
        return -1;
    if (forged == NULL)
        return __real_recvmsg(fd, msg, flags);
    CHECK(forged->msg_controllen <= msg->msg_controllen);
    memcpy(msg->msg_control, forged->msg_control, forged->msg_controllen);
    msg->msg_controllen = forged->msg_controllen;
    msg->msg_flags = 0;
    return 1;
}

/* With `event`, what has happened in a directory is this. */
static const struct inotify_event *event;

ssize_t __real_read(int fd, void *bytes, size_t size);
ssize_t __wrap_read(int fd, void *bytes, size_t size);
ssize_t __wrap_read(int fd, void *bytes, size_t size)
{
    if (fails(READ))
        return -1;
    if (event == NULL)
        return __real_read(fd, bytes, size);
    memcpy(bytes, event, sizeof *event);
    return sizeof *event;
}

/* With `busy`, bytes arrive between any two looks at a connection; with `old_kernel`, TCP_INFO ends early. */
static int busy, old_kernel;

int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    static uint64_t arrived;
    if (fails(GETSOCKOPT))
        return -1;
    if (level != IPPROTO_TCP || name != TCP_INFO || !(busy || old_kernel))
        return __real_getsockopt(fd, level, name, value, size);
    memset(value, 0, *size);
    if (busy)
        ((struct tcp_info *)value)->tcpi_bytes_received = ++arrived;
    if (old_kernel)
        *size = offsetof(struct tcp_info, tcpi_bytes_received);
    return 0;
}

/* ------------------------------------------------------------------------------------------ messages ---- */

static void a_kernel_without_pidfds_makes_a_channel_without_them(void)
{
    int channel[2];
    for (int end = 0; end < 2; end++) {
        fail_next(SETSOCKOPT, 1 + 2 * end, 1, ENOPROTOOPT);
        CHECK_EQUAL(hotfd_channel_pair(channel), 0);
        all_failed();
        close(channel[0]);
        close(channel[1]);
    }
}

static void a_channel_that_cannot_name_its_sender_is_none(void)
{
    for (int nth = 0; nth < 4; nth++) {
        int channel[2] = {-7, -7};
        fail_next(SETSOCKOPT, nth, 1, ENOMEM);
        CHECK_EQUAL(hotfd_channel_pair(channel), -ENOMEM);
        all_failed();
        CHECK_EQUAL(channel[0], -7);
        CHECK_EQUAL(channel[1], -7);
    }
}

static void a_signal_in_the_middle_of_a_call_is_no_failure(void)
{
    int channel[2];
    uint8_t byte = 'x';
    struct hotfd_message message;
    CHECK_EQUAL(hotfd_channel_pair(channel), 0);
    fail_next(SENDMSG, 0, 2, EINTR);
    CHECK_EQUAL(hotfd_send(channel[0], &byte, 1, NULL, 0), 0);
    all_failed();
    fail_next(RECVMSG, 0, 2, EINTR);
    CHECK_EQUAL(hotfd_receive(channel[1], &byte, 1, &message), 0);
    all_failed();
    CHECK_EQUAL(message.length, 1);
    if (message.pidfd >= 0)
        close(message.pidfd);
    close(channel[0]);
    close(channel[1]);
}

static void a_message_that_was_cut_is_an_error(void)
{
    int channel[2];
    CHECK_EQUAL(hotfd_channel_pair(channel), 0);
    cut_at = 3;
    CHECK_EQUAL(hotfd_send(channel[0], (const uint8_t *)"abcdef", 6, NULL, 0), -EIO);
    cut_at = 0;
    close(channel[0]);
    close(channel[1]);
}

static union {
    struct cmsghdr header;
    unsigned char bytes[CMSG_SPACE((HOTFD_MAX_DESCRIPTORS + 8) * sizeof(int))];
} control;

static struct msghdr forgery(void)
{
    memset(&control, 0, sizeof control);
    return (struct msghdr){.msg_control = &control, .msg_controllen = 0};
}

/* Add one header with `count` descriptors, each a new one. */
static void add(struct msghdr *msg, int level, int type, size_t count)
{
    struct cmsghdr *header = (struct cmsghdr *)(void *)(control.bytes + msg->msg_controllen);
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (size_t i = 0; i < count; i++) {
        int fd = level == SOL_SOCKET ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
        memcpy(CMSG_DATA(header) + i * sizeof fd, &fd, sizeof fd);
    }
    msg->msg_controllen += CMSG_SPACE(count * sizeof(int));
}

static void descriptors_beyond_the_limit_are_closed_with_all_others(void)
{
    struct msghdr msg = forgery();
    add(&msg, SOL_SOCKET, SCM_RIGHTS, HOTFD_MAX_DESCRIPTORS);
    add(&msg, SOL_SOCKET, SCM_RIGHTS, 2);
    struct hotfd_message message;
    uint8_t byte;
    forged = &msg;
    CHECK_EQUAL(hotfd_receive(-1, &byte, 1, &message), 0);
    forged = NULL;
    CHECK_EQUAL(message.truncated, 1);
    CHECK_EQUAL(message.count, 0);
}

static void only_one_pidfd_is_kept_and_what_is_unknown_is_passed_over(void)
{
    enum { PIDFD = 4 }; /* SCM_PIDFD */
    struct msghdr msg = forgery();
    add(&msg, SOL_SOCKET, PIDFD, 1);
    add(&msg, SOL_SOCKET, PIDFD, 1);
    add(&msg, IPPROTO_IP, PIDFD, 1);
    add(&msg, SOL_SOCKET, 99, 0);
    struct hotfd_message message;
    uint8_t byte;
    forged = &msg;
    CHECK_EQUAL(hotfd_receive(-1, &byte, 1, &message), 0);
    forged = NULL;
    CHECK(message.pidfd >= 0);
    CHECK_EQUAL(message.truncated, 0);
    close(message.pidfd);
}

static void a_pidfd_that_the_kernel_could_not_make_is_none(void)
{
    struct msghdr msg = forgery();
    add(&msg, SOL_SOCKET, 4, 0);
    int none = -EMFILE;
    struct cmsghdr *header = &control.header;
    header->cmsg_len = CMSG_LEN(sizeof none);
    memcpy(CMSG_DATA(header), &none, sizeof none);
    msg.msg_controllen = CMSG_SPACE(sizeof none);
    struct hotfd_message message;
    uint8_t byte;
    forged = &msg;
    CHECK_EQUAL(hotfd_receive(-1, &byte, 1, &message), 0);
    forged = NULL;
    CHECK_EQUAL(message.pidfd, -1);
}

/* -------------------------------------------------------------------------------------------- memory ---- */

static const struct iovec CHUNKS[] = {{(void *)(uintptr_t)"abc", 3}, {(void *)(uintptr_t)"defgh", 5}};

static void expect_content(int fd)
{
    char content[9] = {0};
    CHECK(fd >= 0);
    CHECK_EQUAL(hotfd_memory_size(fd, 0, 100), 8);
    CHECK_EQUAL(pread(fd, content, 8, 0), 8);
    CHECK_EQUAL(strcmp(content, "abcdefgh"), 0);
    close(fd);
}

static void an_older_kernel_makes_memory_without_the_newest_flag(void)
{
    fail_next(MEMFD_CREATE, 0, 1, EINVAL);
    expect_content(hotfd_memory_sealed("test", CHUNKS, 2));
    all_failed();
    fail_next(MEMFD_CREATE, 0, 2, EINVAL);
    CHECK_EQUAL(hotfd_memory_shared("test", 5), -EINVAL);
    all_failed();
}

static void what_the_kernel_takes_in_parts_is_all_there(void)
{
    for (cut_at = 1; cut_at < 6; cut_at++)
        expect_content(hotfd_memory_sealed("test", CHUNKS, 2));
    cut_at = 0;
    fail_next(WRITEV, 0, 2, EINTR);
    expect_content(hotfd_memory_sealed("test", CHUNKS, 2));
    all_failed();
    cut_at = 1;
    fail_next(WRITE, 0, 1, EINTR);
    expect_content(hotfd_memory_sealed("test", CHUNKS, 2));
    all_failed();
    cut_at = 0;
}

static void memory_that_cannot_be_filled_or_sealed_is_closed(void)
{
    fail_next(WRITEV, 0, 1, ENOSPC);
    CHECK_EQUAL(hotfd_memory_sealed("test", CHUNKS, 2), -ENOSPC);
    all_failed();
    cut_at = 1;
    fail_next(WRITE, 0, 1, ENOSPC);
    CHECK_EQUAL(hotfd_memory_sealed("test", CHUNKS, 2), -ENOSPC);
    all_failed();
    cut_at = 0;
    fail_next(FCNTL, 0, 1, EPERM);
    CHECK_EQUAL(hotfd_memory_sealed("test", CHUNKS, 2), -EPERM);
    all_failed();
    fail_next(FCNTL, 0, 1, EPERM);
    CHECK_EQUAL(hotfd_memory_shared("test", 5), -EPERM);
    all_failed();
    fail_next(FTRUNCATE, 0, 1, ENOMEM);
    CHECK_EQUAL(hotfd_memory_shared("test", 5), -ENOMEM);
    all_failed();
}

static void memory_of_unknown_size_is_refused(void)
{
    int fd = hotfd_memory_sealed("test", CHUNKS, 2);
    fail_next(FSTAT, 0, 1, EIO);
    CHECK_EQUAL(hotfd_memory_size(fd, 0, 100), -EIO);
    all_failed();
    close(fd);
}

/* --------------------------------------------------------------------------------------------- facts ---- */

static void a_connection_that_never_rests_is_given_up(void)
{
    struct hotfd_tcp_facts facts = {.unread = 7};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    busy = 1;
    CHECK_EQUAL(hotfd_tcp_facts(fd, &facts), -EAGAIN);
    busy = 0;
    CHECK_EQUAL(facts.unread, 7);
    close(fd);
}

static void facts_that_cannot_be_read_leave_the_output_alone(void)
{
    struct hotfd_tcp_facts facts = {.unread = 7};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    old_kernel = 1;
    CHECK_EQUAL(hotfd_tcp_facts(fd, &facts), -EPROTONOSUPPORT);
    old_kernel = 0;
    for (int nth = 0; nth < 2; nth++) {
        fail_next(IOCTL, nth, 1, EIO);
        CHECK_EQUAL(hotfd_tcp_facts(fd, &facts), -EIO);
        all_failed();
        fail_next(GETSOCKOPT, nth, 1, ENOBUFS);
        CHECK_EQUAL(hotfd_tcp_facts(fd, &facts), -ENOBUFS);
        all_failed();
    }
    CHECK_EQUAL(facts.unread, 7);
    close(fd);
}

static void a_kernel_without_pidfds_of_peers_says_so(void)
{
    fail_next(GETSOCKOPT, 0, 1, ENOPROTOOPT);
    CHECK_EQUAL(hotfd_peer_pidfd(0), -ENOPROTOOPT);
    all_failed();
}

/* --------------------------------------------------------------------------------------------- watch ---- */

static void a_watch_that_cannot_be_made_says_why(void)
{
    fail_next(INOTIFY_INIT, 0, 1, EMFILE);
    CHECK_EQUAL(hotfd_watch(0), -EMFILE);
    all_failed();
}

static void a_watch_that_lost_count_has_news(void)
{
    struct inotify_event lost = {.wd = -1, .mask = IN_Q_OVERFLOW};
    event = &lost;
    CHECK_EQUAL(hotfd_watch_read(0, "name"), HOTFD_WATCH_NEW);
    event = NULL;
    fail_next(READ, 0, 1, EINTR);
    CHECK_EQUAL(hotfd_watch_read(0, "name"), 0);
    all_failed();
    fail_next(READ, 0, 1, EIO);
    CHECK_EQUAL(hotfd_watch_read(0, "name"), -EIO);
    all_failed();
}

/* ------------------------------------------------------------------------------------------ scanners ---- */

/* ---------------------------------------------------------------------------------------------- poll ---- */

static void what_is_gone_when_it_is_read_is_nothing_and_what_fails_says_why(void)
{
    struct hotfd_slot slot = {0};
    struct hotfd_ready ready = {.size = 77};
    uint8_t byte;
    int ends[2];
    struct hotfd_poll poll = {.epoll = epoll_create1(EPOLL_CLOEXEC),
                              .slots = &slot,
                              .buf = &byte,
                              .size = 1,
                              .each = 1,
                              .ready = &ready};
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    CHECK_EQUAL(hotfd_poll_add(poll.epoll, &slot, 0, ends[0], 1), 0);
    CHECK_EQUAL(write(ends[1], "x", 1), 1);
    fail_next(EPOLL_WAIT, 0, 1, EINTR);
    CHECK_EQUAL(hotfd_poll_read(&poll), 0);
    all_failed();
    fail_next(EPOLL_WAIT, 0, 1, ENOMEM);
    CHECK_EQUAL(hotfd_poll_read(&poll), -ENOMEM);
    all_failed();
    CHECK_EQUAL(ready.size, 77);
    fail_next(RECV, 0, 1, EAGAIN); /* another process that has a copy has read it */
    CHECK_EQUAL(hotfd_poll_read(&poll), 0);
    all_failed();
    fail_next(RECV, 0, 1, EINTR);
    CHECK_EQUAL(hotfd_poll_read(&poll), 0);
    all_failed();
    fail_next(RECV, 0, 1, ETIMEDOUT);
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    all_failed();
    CHECK_EQUAL(ready.size, -ETIMEDOUT);
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready.size, 1);
    close(ends[0]);
    close(ends[1]);
    close(poll.epoll);
}

static void a_framing_that_nobody_has_checked_finds_nothing(void)
{
    struct hotfd_framing framing = {.kind = 99, .max_size = 10};
    struct hotfd_scan scan = {0};
    struct hotfd_span span = {7, 7, 7};
    CHECK_EQUAL(hotfd_scan(&framing, &scan, (const uint8_t *)"abc", 0, 3, &span, 1), -EINVAL);
    CHECK_EQUAL(span.end, 7);
}

int main(void)
{
    RUN(a_kernel_without_pidfds_makes_a_channel_without_them);
    RUN(a_channel_that_cannot_name_its_sender_is_none);
    RUN(a_signal_in_the_middle_of_a_call_is_no_failure);
    RUN(a_message_that_was_cut_is_an_error);
    RUN(descriptors_beyond_the_limit_are_closed_with_all_others);
    RUN(only_one_pidfd_is_kept_and_what_is_unknown_is_passed_over);
    RUN(a_pidfd_that_the_kernel_could_not_make_is_none);
    RUN(an_older_kernel_makes_memory_without_the_newest_flag);
    RUN(what_the_kernel_takes_in_parts_is_all_there);
    RUN(memory_that_cannot_be_filled_or_sealed_is_closed);
    RUN(memory_of_unknown_size_is_refused);
    RUN(a_connection_that_never_rests_is_given_up);
    RUN(facts_that_cannot_be_read_leave_the_output_alone);
    RUN(a_kernel_without_pidfds_of_peers_says_so);
    RUN(a_watch_that_cannot_be_made_says_why);
    RUN(a_watch_that_lost_count_has_news);
    RUN(what_is_gone_when_it_is_read_is_nothing_and_what_fails_says_why);
    RUN(a_framing_that_nobody_has_checked_finds_nothing);
    return 0;
}
