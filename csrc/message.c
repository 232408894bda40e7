/* Messages with descriptors over a SOCK_SEQPACKET channel. unix(7), cmsg(3). */
#include "hotfd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Linux 6.5; the C library's headers may be older. The values are those of most architectures
   (asm-generic/socket.h); parisc and sparc differ, and have them in their headers where they can run. */
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

/* The union gives the bytes the alignment that CMSG_FIRSTHDR assumes. */
union sending {
    struct cmsghdr header;
    unsigned char bytes[CMSG_SPACE(HOTFD_MAX_DESCRIPTORS * sizeof(int))];
};

union receiving {
    struct cmsghdr header;
    unsigned char bytes[CMSG_SPACE(HOTFD_MAX_DESCRIPTORS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred)) +
                        CMSG_SPACE(sizeof(int))];
};

int hotfd_pass_pidfd(int channel, int on)
{
    int value = on != 0;
    return setsockopt(channel, SOL_SOCKET, SO_PASSPIDFD, &value, sizeof value) == 0 ? 0 : -errno;
}

static int pass_sender(int channel)
{
    int on = 1;
    if (setsockopt(channel, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
        return -errno;
    int rc = hotfd_pass_pidfd(channel, 1);
    return rc == -ENOPROTOOPT ? 0 : rc; /* an older kernel: credentials must do */
}

int hotfd_channel_pair(int channel[2])
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        return -errno;
    int rc = pass_sender(ends[0]);
    if (rc == 0)
        rc = pass_sender(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    memcpy(channel, ends, sizeof ends);
    return 0;
}

int hotfd_send(int channel, const uint8_t *data, size_t size, const int *descriptors, size_t count)
{
    if (size == 0 || count > HOTFD_MAX_DESCRIPTORS)
        return -EINVAL;
    if (size > HOTFD_MAX_MESSAGE)
        return -EMSGSIZE;

    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
    union sending control;
    if (count > 0) {
        size_t bytes = count * sizeof(int);
        memset(&control, 0, CMSG_SPACE(bytes)); /* padding goes to the kernel too */
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(header), descriptors, bytes);
    }

    ssize_t sent;
    do
        sent = sendmsg(channel, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return -errno;
    return (size_t)sent == size ? 0 : -EIO; /* a stream socket was passed for a channel: its data is cut */
}

/* Take the descriptors of one SCM_RIGHTS header; close those for which there is no place. */
static void claim_rights(const struct cmsghdr *header, struct hotfd_message *message)
{
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        if (message->count < HOTFD_MAX_DESCRIPTORS) {
            message->descriptors[message->count++] = fd;
        } else {
            close(fd);
            message->truncated = 1;
        }
    }
}

static void claim_pidfd(const struct cmsghdr *header, struct hotfd_message *message)
{
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    if (fd < 0) /* the kernel puts a negated errno here: no descriptor free, or the sender is gone */
        return;
    if (message->pidfd >= 0)
        close(message->pidfd);
    message->pidfd = fd;
}

static void claim_sender(const struct cmsghdr *header, struct hotfd_message *message)
{
    struct ucred sender;
    memcpy(&sender, CMSG_DATA(header), sizeof sender);
    message->pid = sender.pid;
    message->uid = sender.uid;
}

static void drop_descriptors(struct hotfd_message *message)
{
    for (uint32_t i = 0; i < message->count; i++)
        close(message->descriptors[i]);
    message->count = 0;
    if (message->pidfd >= 0)
        close(message->pidfd);
    message->pidfd = -1;
}

int hotfd_receive(int channel, uint8_t *data, size_t size, struct hotfd_message *message)
{
    union receiving control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr msg = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    ssize_t got;
    do
        got = recvmsg(channel, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;

    /* From here on nothing fails: each descriptor that was installed is handed over or closed. */
    struct hotfd_message found;
    found.length = (uint32_t)got;
    found.count = 0;
    found.truncated = (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    found.pid = -1;
    found.uid = -1;
    found.pidfd = -1;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&msg); header != NULL; header = CMSG_NXTHDR(&msg, header)) {
        if (header->cmsg_level != SOL_SOCKET)
            continue;
        if (header->cmsg_type == SCM_RIGHTS)
            claim_rights(header, &found);
        else if (header->cmsg_type == SCM_PIDFD)
            claim_pidfd(header, &found);
        else if (header->cmsg_type == SCM_CREDENTIALS)
            claim_sender(header, &found);
    }
    if (found.truncated)
        drop_descriptors(&found);
    memcpy(message, &found, offsetof(struct hotfd_message, descriptors));
    memcpy(message->descriptors, found.descriptors, found.count * sizeof found.descriptors[0]);
    return 0;
}
