/* What the kernel knows of a socket: tcp(7), socket(7), unix(7). */
#include "hotfd.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5, asm-generic/socket.h */
#endif

/* TCP states as tcpi_state gives them; the kernel keeps them out of its user headers. net/tcp_states.h */
enum { TIME_WAIT = 6, CLOSED = 7, CLOSE_WAIT = 8, LAST_ACK = 9, CLOSING = 11 };

/* Readings before giving up. Packets would have to come between the same few system calls each time. */
#define TRIES 16

int hotfd_cookies(const int *fds, size_t count, uint64_t *cookies)
{
    uint64_t found[HOTFD_MAX_COOKIES];
    if (count > HOTFD_MAX_COOKIES)
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        socklen_t size = sizeof found[i];
        if (getsockopt(fds[i], SOL_SOCKET, SO_COOKIE, &found[i], &size) != 0)
            return -errno;
    }
    memcpy(cookies, found, count * sizeof found[0]);
    return 0;
}

static int read_info(int fd, struct tcp_info *info)
{
    socklen_t size = sizeof *info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) != 0)
        return errno == ENOPROTOOPT ? -EOPNOTSUPP : -errno; /* each address family has its own answer */
    size_t needed = offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info->tcpi_bytes_received;
    return size >= needed ? 0 : -EPROTONOSUPPORT;
}

static int same_progress(const struct tcp_info *a, const struct tcp_info *b)
{
    return a->tcpi_bytes_received == b->tcpi_bytes_received && a->tcpi_bytes_acked == b->tcpi_bytes_acked &&
           a->tcpi_state == b->tcpi_state;
}

/*
 * The counters and the two queue lengths come from three calls, and packets arrive between them. When the
 * counters are the same before and after, the edges from which the queue lengths are measured (next expected
 * byte, first unacknowledged byte) stood still, so each length belongs to these counters.
 */
int hotfd_tcp_facts(int fd, struct hotfd_tcp_facts *facts)
{
    struct tcp_info before, after;
    int unread, unacked;
    int rc = read_info(fd, &before);
    for (int i = 0; rc == 0 && i < TRIES; i++) {
        if (ioctl(fd, SIOCINQ, &unread) != 0 || ioctl(fd, SIOCOUTQ, &unacked) != 0)
            return -errno;
        rc = read_info(fd, &after);
        if (rc != 0)
            return rc;
        if (same_progress(&before, &after)) {
            int state = after.tcpi_state;
            facts->received = after.tcpi_bytes_received;
            facts->acked = after.tcpi_bytes_acked;
            facts->unread = (uint32_t)unread;
            facts->unacked = (uint32_t)unacked;
            facts->fin_received =
                state == CLOSE_WAIT || state == LAST_ACK || state == CLOSING || state == TIME_WAIT;
            facts->closed = state == CLOSED;
            return 0;
        }
        before = after;
    }
    return rc != 0 ? rc : -EAGAIN;
}

int hotfd_tcp_counts(const int *fds, size_t count, uint64_t *consumed, uint64_t *written, int *codes)
{
    if (count > HOTFD_MAX_COOKIES)
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        struct hotfd_tcp_facts facts;
        int rc = hotfd_tcp_facts(fds[i], &facts);
        if (rc == 0 && facts.closed)
            rc = -ENOTCONN;
        codes[i] = rc;
        if (rc != 0)
            continue;
        consumed[i] = facts.received - facts.unread - (uint64_t)facts.fin_received;
        written[i] = facts.acked + facts.unacked;
    }
    return 0;
}

int hotfd_peer_credentials(int fd, struct hotfd_peer *peer)
{
    struct ucred found;
    socklen_t size = sizeof found;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &found, &size) != 0)
        return -errno;
    if (found.uid == (uid_t)-1) /* what the kernel says when it never noted a peer */
        return -ENOTCONN;
    peer->pid = found.pid;
    peer->uid = found.uid;
    peer->gid = found.gid;
    return 0;
}

int hotfd_peer_pidfd(int fd)
{
    int pidfd;
    socklen_t size = sizeof pidfd;
    return getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0 ? pidfd : -errno;
}

int hotfd_abort(int fd)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    return connect(fd, &nobody, sizeof nobody) == 0 ? 0 : -errno;
}
