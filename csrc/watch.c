/* What changes in a directory: inotify(7). */
#include "hotfd.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

/* Only what takes a name's place by rename(2) counts as new: who writes a file in place is seen half-way. */
#define MASK (IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

/* After these the watch says nothing more, or not of this place. */
#define OVER (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)

/* Events of the longest names that one read takes. What is left is read by the next. */
#define EVENTS 16

int hotfd_watch(int directory)
{
    /* The descriptor's own entry leads to the directory itself, whatever has its path by now. */
    char path[sizeof "/proc/self/fd/" + 3 * sizeof directory];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", directory);
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch < 0)
        return -errno;
    if (inotify_add_watch(watch, path, MASK) >= 0)
        return watch;
    int rc = -errno;
    close(watch);
    return rc;
}

static int meaning(const struct inotify_event *event, const char *name)
{
    if (event->mask & OVER)
        return HOTFD_WATCH_OVER;
    if (event->mask & IN_Q_OVERFLOW) /* nobody knows what was lost */
        return HOTFD_WATCH_NEW;
    return event->len > 0 && strcmp(event->name, name) == 0 ? HOTFD_WATCH_NEW : 0;
}

int hotfd_watch_read(int watch, const char *name)
{
    _Alignas(struct inotify_event) char events[EVENTS * (sizeof(struct inotify_event) + NAME_MAX + 1)];
    ssize_t size = read(watch, events, sizeof events);
    if (size < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    int found = 0;
    for (const char *at = events; at < events + size;) {
        const struct inotify_event *event = (const struct inotify_event *)(const void *)at;
        found |= meaning(event, name);
        at += sizeof *event + event->len;
    }
    return found;
}
