/* Which of many sockets have something to read, and what: epoll(7), recv(2). */
#include "hotfd.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

int hotfd_poll_add(int poll, struct hotfd_slot *slots, uint32_t number, int fd, int reads)
{
    struct hotfd_slot *slot = &slots[number];
    struct epoll_event event = {.events = EPOLLIN};
    event.data.u64 = (uint64_t)slot->generation << 32 | number;
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) != 0)
        return -errno;
    slot->fd = fd;
    slot->reads = reads;
    return 0;
}

int hotfd_poll_drop(int poll, struct hotfd_slot *slots, uint32_t number, int fd)
{
    slots[number]
        .generation++; /* whatever the kernel says: what it has noticed before is nobody's any more */
    return epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL) == 0 ? 0 : -errno;
}

void hotfd_poll_change(int poll, struct hotfd_slot *slots, const struct hotfd_change *changes, size_t count,
                       int32_t *codes)
{
    for (size_t i = 0; i < count; i++) {
        const struct hotfd_change *change = &changes[i];
        codes[i] = change->how == HOTFD_POLL_DROP ? hotfd_poll_drop(poll, slots, change->slot, change->fd)
                                                  : hotfd_poll_add(poll, slots, change->slot, change->fd,
                                                                   change->how == HOTFD_POLL_READ);
    }
}

int hotfd_poll(int poll, const struct hotfd_slot *slots, const struct hotfd_framing *framing, size_t each,
               uint8_t *buf, size_t size, struct hotfd_ready *ready)
{
    struct epoll_event events[HOTFD_POLL_MAX];
    int count = epoll_wait(poll, events, HOTFD_POLL_MAX, 0);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    int found = 0;
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        uint32_t number = (uint32_t)events[i].data.u64;
        const struct hotfd_slot *slot = &slots[number];
        if (slot->generation != (uint32_t)(events[i].data.u64 >> 32))
            continue; /* of a descriptor that was closed before it was dropped, and of which a copy is open */
        struct hotfd_ready one = {.slot = number, .size = HOTFD_POLL_UNREAD, .payload = -1};
        if (slot->reads && size - used >= each) {
            ssize_t length = recv(slot->fd, buf + used, each, MSG_DONTWAIT);
            if (length < 0 && (errno == EAGAIN || errno == EINTR))
                continue;
            one.size = length < 0 ? -errno : (int32_t)length;
            int whole =
                length > 0 && framing != NULL ? hotfd_whole(framing, buf + used, 0, (size_t)length) : -1;
            if (whole >= 0) {
                one.payload = whole >> 15;
                one.payload_end = whole & 0x7FFF;
            }
            used += length > 0 ? (size_t)length : 0;
        }
        ready[found++] = one;
    }
    return found;
}
