#include "harness.h"
#include "hotfd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

static char place[] = "/tmp/hotfd-watch-XXXXXX";

static int open_place(int flags)
{
    int fd = open(place, flags | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void put(int directory, const char *name)
{
    int fd = openat(directory, ".new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    CHECK_EQUAL(renameat(directory, ".new", directory, name), 0);
}

static int is_readable(int watch)
{
    struct pollfd waiting = {.fd = watch, .events = POLLIN};
    return poll(&waiting, 1, 0);
}

static void a_file_that_takes_the_name_is_news_and_others_are_not(void)
{
    int directory = open_place(O_RDONLY);
    int watch = hotfd_watch(directory);
    CHECK(watch >= 0);
    CHECK_EQUAL(fcntl(watch, F_GETFD), FD_CLOEXEC);
    CHECK_EQUAL(hotfd_watch_read(watch, "heads"), 0);
    put(directory, "other");
    CHECK_EQUAL(is_readable(watch), 1);
    CHECK_EQUAL(hotfd_watch_read(watch, "heads"), 0);
    put(directory, "heads-too");
    put(directory, "heads");
    CHECK_EQUAL(hotfd_watch_read(watch, "heads"), HOTFD_WATCH_NEW);
    CHECK_EQUAL(is_readable(watch), 0);
    CHECK_EQUAL(unlinkat(directory, "other", 0), 0);
    CHECK_EQUAL(unlinkat(directory, "heads", 0), 0);
    CHECK_EQUAL(unlinkat(directory, "heads-too", 0), 0);
    CHECK_EQUAL(hotfd_watch_read(watch, "heads"), 0);
    close(watch);
    close(directory);
}

static void what_one_read_does_not_take_is_there_for_the_next(void)
{
    int directory = open_place(O_RDONLY);
    int watch = hotfd_watch(directory);
    char name[4] = "aaa";
    for (int i = 0; i < 26 * 26; i++) { /* more events of short names than one read takes */
        name[0] = (char)('a' + i / 26);
        name[1] = (char)('a' + i % 26);
        put(directory, name);
        CHECK_EQUAL(unlinkat(directory, name, 0), 0);
    }
    put(directory, "heads");
    int reads = 0, found = 0;
    for (; is_readable(watch); reads++)
        found |= hotfd_watch_read(watch, "heads");
    CHECK(reads > 1);
    CHECK_EQUAL(found, HOTFD_WATCH_NEW);
    CHECK_EQUAL(unlinkat(directory, "heads", 0), 0);
    close(watch);
    close(directory);
}

static void a_directory_that_is_moved_or_removed_is_over(void)
{
    char elsewhere[sizeof place + 1];
    (void)snprintf(elsewhere, sizeof elsewhere, "%s2", place);
    int directory = open_place(O_PATH);
    int watch = hotfd_watch(directory);
    CHECK(watch >= 0);
    CHECK_EQUAL(rename(place, elsewhere), 0);
    CHECK_EQUAL(hotfd_watch_read(watch, "heads"), HOTFD_WATCH_OVER);
    close(watch);
    watch = hotfd_watch(directory); /* the descriptor leads there, and not the path */
    CHECK(watch >= 0);
    close(directory);
    CHECK_EQUAL(rmdir(elsewhere), 0);
    CHECK_EQUAL(hotfd_watch_read(watch, "heads"), HOTFD_WATCH_OVER);
    close(watch);
    CHECK_EQUAL(mkdir(place, 0700), 0);
}

static void what_is_no_directory_is_refused_and_nothing_stays_open(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK_EQUAL(hotfd_watch(fd), -ENOTDIR);
    close(fd);
    CHECK_EQUAL(hotfd_watch(-1), -ENOENT);
    CHECK_EQUAL(hotfd_watch_read(fd, "heads"), -EBADF);
}

int main(void)
{
    CHECK(mkdtemp(place) != NULL);
    RUN(a_file_that_takes_the_name_is_news_and_others_are_not);
    RUN(what_one_read_does_not_take_is_there_for_the_next);
    RUN(a_directory_that_is_moved_or_removed_is_over);
    RUN(what_is_no_directory_is_refused_and_nothing_stays_open);
    CHECK_EQUAL(rmdir(place), 0);
    return 0;
}
