/* Which of many sockets have something to read, and what; and replies to them: epoll(7), recv(2), send(2). */
#include "hotfd.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

int hotfd_poll_add(int epoll, struct hotfd_slot *slots, uint32_t number, int fd, int reads)
{
    struct hotfd_slot *slot = &slots[number];
    struct epoll_event event = {.events = EPOLLIN};
    event.data.u64 = (uint64_t)slot->generation << 32 | number;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        return -errno;
    slot->fd = fd;
    slot->reads = reads;
    return 0;
}

int hotfd_poll_drop(int epoll, struct hotfd_slot *slots, uint32_t number, int fd)
{
    slots[number]
        .generation++; /* whatever the kernel says: what it has noticed before is nobody's any more */
    return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL) == 0 ? 0 : -errno;
}

void hotfd_poll_change(int epoll, struct hotfd_slot *slots, const struct hotfd_change *changes, size_t count,
                       int32_t *codes)
{
    for (size_t i = 0; i < count; i++) {
        const struct hotfd_change *change = &changes[i];
        codes[i] = change->how == HOTFD_POLL_DROP ? hotfd_poll_drop(epoll, slots, change->slot, change->fd)
                                                  : hotfd_poll_add(epoll, slots, change->slot, change->fd,
                                                                   change->how == HOTFD_POLL_READ);
    }
}

/* Read from one socket; 0 when there was nothing after all. */
static int read_one(const struct hotfd_poll *poll, const struct hotfd_slot *slot, size_t used,
                    struct hotfd_ready *ready)
{
    ssize_t length = recv(slot->fd, poll->buf + used, poll->each, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    ready->size = length < 0 ? -errno : (int32_t)length;
    if (length <= 0 || poll->framing == NULL)
        return 1;
    int whole = hotfd_whole(poll->framing, poll->buf + used, 0, (size_t)length);
    if (whole >= 0) {
        ready->payload = whole >> 15;
        ready->payload_end = whole & 0x7FFF;
    }
    return 1;
}

int hotfd_poll_send(const uint8_t *data, const struct hotfd_reply *replies, size_t count, int32_t *sent)
{
    int cut_short = 0;
    for (size_t i = 0; i < count; i++) {
        const struct hotfd_reply *reply = &replies[i];
        ssize_t length = send(reply->fd, data, (size_t)reply->size, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent[i] = length < 0 ? -errno : (int32_t)length;
        cut_short += length != reply->size;
        data += reply->size;
    }
    return cut_short;
}

int hotfd_poll_read(const struct hotfd_poll *poll)
{
    struct epoll_event events[HOTFD_POLL_MAX];
    int count = epoll_wait(poll->epoll, events, HOTFD_POLL_MAX, 0);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    int found = 0;
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        uint32_t number = (uint32_t)events[i].data.u64;
        const struct hotfd_slot *slot = &poll->slots[number];
        if (slot->generation != (uint32_t)(events[i].data.u64 >> 32))
            continue; /* of a descriptor that was closed before it was dropped, and of which a copy is open */
        struct hotfd_ready *ready = &poll->ready[found];
        *ready = (struct hotfd_ready){.slot = number, .size = HOTFD_POLL_UNREAD, .payload = -1};
        if (!slot->reads || poll->size - used < poll->each) {
            found++;
        } else if (read_one(poll, slot, used, ready)) {
            found++;
            used += ready->size > 0 ? (size_t)ready->size : 0;
        }
    }
    return found;
}
