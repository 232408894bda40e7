#include "harness.h"
#include "hotfd.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { SLOTS = 200, EACH = 16, ROOM = 3 * EACH };

static struct hotfd_slot slots[SLOTS];
static uint8_t room[ROOM];
static struct hotfd_ready ready[HOTFD_POLL_MAX];
static struct hotfd_poll poll;

static void begin(void)
{
    memset(slots, 0, sizeof slots);
    poll = (struct hotfd_poll){.epoll = epoll_create1(EPOLL_CLOEXEC),
                               .slots = slots,
                               .buf = room,
                               .size = sizeof room,
                               .each = EACH,
                               .ready = ready};
    CHECK(poll.epoll >= 0);
}

/* Make a pair of sockets, of which ends[0] is polled in a slot. */
static void connect_slot(int ends[2], uint32_t number, int reads)
{
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    CHECK_EQUAL(hotfd_poll_add(poll.epoll, slots, number, ends[0], reads), 0);
}

static void say(int fd, const char *text)
{
    CHECK_EQUAL(send(fd, text, strlen(text), 0), strlen(text));
}

static void drop_and_close(int ends[2], uint32_t number)
{
    CHECK_EQUAL(hotfd_poll_drop(poll.epoll, slots, number, ends[0]), 0);
    close(ends[0]);
    close(ends[1]);
}

static void what_has_come_is_read_one_behind_the_other(void)
{
    int one[2], other[2], silent[2];
    begin();
    connect_slot(one, 7, 1);
    connect_slot(other, 3, 1);
    connect_slot(silent, 5, 1);
    CHECK_EQUAL(hotfd_poll_read(&poll), 0);
    say(one[1], "first");
    say(other[1], "second");
    CHECK_EQUAL(hotfd_poll_read(&poll), 2);
    CHECK_EQUAL(ready[0].slot, 7);
    CHECK_EQUAL(ready[0].size, 5);
    CHECK_EQUAL(ready[0].payload, -1);
    CHECK_EQUAL(ready[1].slot, 3);
    CHECK_EQUAL(ready[1].size, 6);
    CHECK(memcmp(room, "firstsecond", 11) == 0);
    CHECK_EQUAL(hotfd_poll_read(&poll), 0);
    drop_and_close(one, 7);
    drop_and_close(other, 3);
    drop_and_close(silent, 5);
    close(poll.epoll);
}

static void no_more_is_read_of_one_than_was_asked_for_and_the_rest_comes_next(void)
{
    int ends[2];
    begin();
    connect_slot(ends, 0, 1);
    say(ends[1], "0123456789abcdefgh");
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].size, EACH);
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].size, 2);
    CHECK(memcmp(room, "gh", 2) == 0);
    drop_and_close(ends, 0);
    close(poll.epoll);
}

static void whoever_finds_no_room_is_told_of_and_not_read_from(void)
{
    int ends[4][2];
    begin();
    for (uint32_t i = 0; i < 4; i++) {
        connect_slot(ends[i], i, 1);
        say(ends[i][1], i == 1 ? "short" : "0123456789abcdef");
    }
    CHECK_EQUAL(hotfd_poll_read(&poll), 4);
    CHECK_EQUAL(ready[0].size, EACH);
    CHECK_EQUAL(ready[1].size, 5);
    CHECK_EQUAL(ready[2].size, EACH); /* which leaves 11 bytes of room */
    CHECK_EQUAL(ready[3].size, HOTFD_POLL_UNREAD);
    CHECK_EQUAL(ready[3].slot, 3);
    for (uint32_t i = 0; i < 4; i++)
        drop_and_close(ends[i], i);
    close(poll.epoll);
}

static void a_socket_may_be_told_of_only_and_read_from_later(void)
{
    int ends[2];
    begin();
    connect_slot(ends, 0, 0);
    say(ends[1], "x");
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].size, HOTFD_POLL_UNREAD);
    slots[0].reads = 1;
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].size, 1);
    drop_and_close(ends, 0);
    close(poll.epoll);
}

static void the_end_and_errors_are_told_as_what_they_are(void)
{
    int ended[2], other[2];
    begin();
    connect_slot(ended, 0, 1);
    close(ended[1]);
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].size, 0);
    CHECK_EQUAL(hotfd_poll_drop(poll.epoll, slots, 0, ended[0]), 0);
    close(ended[0]);

    connect_slot(other, 1, 1); /* whose peer leaves bytes unread */
    say(other[0], "unread");
    close(other[1]);
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].slot, 1);
    CHECK_EQUAL(ready[0].size, -ECONNRESET);
    CHECK_EQUAL(hotfd_poll_drop(poll.epoll, slots, 1, other[0]), 0);
    close(other[0]);
    close(poll.epoll);
}

static void a_read_that_is_exactly_one_frame_is_recognised(void)
{
    const struct hotfd_framing lines = {
        .kind = HOTFD_DELIMITED, .max_size = 100, .delimiter_size = 1, .delimiter = {'\n'}};
    int ends[2];
    begin();
    poll.framing = &lines;
    connect_slot(ends, 0, 1);
    say(ends[1], "frame\n");
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].payload, 0);
    CHECK_EQUAL(ready[0].payload_end, 5);
    say(ends[1], "two\nof\n");
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].payload, -1);
    shutdown(ends[1], SHUT_WR);
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].size, 0);
    CHECK_EQUAL(ready[0].payload, -1);
    drop_and_close(ends, 0);
    close(poll.epoll);
}

static void more_sockets_than_one_call_takes_are_served_in_turns(void)
{
    static int ends[SLOTS][2];
    static int seen[SLOTS];
    begin();
    poll.each = 1; /* and bytes are left each time */
    for (uint32_t i = 0; i < SLOTS; i++) {
        connect_slot(ends[i], i, 1);
        say(ends[i][1], "0123456789");
    }
    memset(seen, 0, sizeof seen);
    for (int turn = 0; turn < 4; turn++) {
        int count = hotfd_poll_read(&poll);
        CHECK_EQUAL(count, HOTFD_POLL_MAX);
        for (int i = 0; i < count; i++)
            seen[ready[i].slot]++;
    }
    for (int i = 0; i < SLOTS; i++)
        CHECK(seen[i] >= 2);
    for (uint32_t i = 0; i < SLOTS; i++)
        drop_and_close(ends[i], i);
    close(poll.epoll);
}

/* The registration of a descriptor that was closed, and not dropped before, lives on with the copy. */
static void what_is_heard_of_a_closed_descriptor_is_never_taken_for_another_ones(void)
{
    int ends[2], next[2];
    begin();
    connect_slot(ends, 0, 1);
    int copy = dup(ends[0]);
    close(ends[0]);
    CHECK_EQUAL(hotfd_poll_drop(poll.epoll, slots, 0, ends[0]), -EBADF);
    connect_slot(next, 0, 1);
    CHECK_EQUAL(next[0], ends[0]); /* with the same number, in the same slot */
    say(ends[1], "for the copy");
    CHECK_EQUAL(hotfd_poll_read(&poll), 0);
    say(next[1], "mine");
    CHECK_EQUAL(hotfd_poll_read(&poll), 1);
    CHECK_EQUAL(ready[0].size, 4);
    CHECK(memcmp(room, "mine", 4) == 0);
    drop_and_close(next, 0);
    close(ends[1]);
    close(copy);
    close(poll.epoll);
}

static void many_changes_are_made_in_their_order_and_each_has_its_code(void)
{
    int one[2], other[2];
    begin();
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, one), 0);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const struct hotfd_change changes[] = {
        {0, one[0], HOTFD_POLL_TELL},   {1, one[0], HOTFD_POLL_READ}, {2, file, HOTFD_POLL_READ},
        {0, one[0], HOTFD_POLL_DROP},   {0, one[0], HOTFD_POLL_DROP}, {3, one[0], HOTFD_POLL_READ},
        {4, other[0], HOTFD_POLL_TELL}, {5, -1, HOTFD_POLL_READ},
    };
    int32_t codes[8];
    hotfd_poll_change(poll.epoll, slots, changes, 8, codes);
    const int32_t expected[] = {0, -EEXIST, -EPERM, 0, -ENOENT, 0, 0, -EBADF};
    for (int i = 0; i < 8; i++)
        CHECK_EQUAL(codes[i], expected[i]);
    say(one[1], "one");
    say(other[1], "other");
    CHECK_EQUAL(hotfd_poll_read(&poll), 2);
    CHECK_EQUAL(ready[0].slot, 3);
    CHECK_EQUAL(ready[0].size, 3);
    CHECK_EQUAL(ready[1].slot, 4);
    CHECK_EQUAL(ready[1].size, HOTFD_POLL_UNREAD);
    close(file);
    drop_and_close(one, 3);
    drop_and_close(other, 4);
    close(poll.epoll);
}

static void what_is_no_epoll_descriptor_is_an_error(void)
{
    begin();
    close(poll.epoll);
    ready[0].size = 77;
    CHECK_EQUAL(hotfd_poll_read(&poll), -EBADF);
    CHECK_EQUAL(ready[0].size, 77);
    CHECK_EQUAL(hotfd_poll_add(poll.epoll, slots, 0, STDIN_FILENO, 1), -EBADF);
    CHECK_EQUAL(slots[0].reads, 0);
}

static void replies_are_sent_one_behind_the_other_and_it_is_said_what_the_kernel_has_taken(void)
{
    int one[2], full[2], gone[2], other[2];
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, one), 0);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, full), 0);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gone), 0);
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
    static const uint8_t much[1 << 12];
    while (send(full[0], much, sizeof much, MSG_DONTWAIT) > 0)
        continue;
    close(gone[1]);
    const struct hotfd_reply replies[] = {{one[0], 5}, {full[0], 3}, {gone[0], 4}, {other[0], 6}};
    int32_t sent[4] = {0};
    CHECK_EQUAL(hotfd_poll_send((const uint8_t *)"first...gonesecond", replies, 4, sent), 2);
    CHECK_EQUAL(sent[0], 5);
    CHECK_EQUAL(sent[1], -EAGAIN);
    CHECK_EQUAL(sent[2], -EPIPE);
    CHECK_EQUAL(sent[3], 6);
    CHECK_EQUAL(recv(one[1], room, ROOM, MSG_DONTWAIT), 5);
    CHECK(memcmp(room, "first", 5) == 0);
    CHECK_EQUAL(recv(other[1], room, ROOM, MSG_DONTWAIT), 6);
    CHECK(memcmp(room, "second", 6) == 0);
    CHECK_EQUAL(hotfd_poll_send((const uint8_t *)"first", replies, 1, sent), 0);
    CHECK_EQUAL(hotfd_poll_send((const uint8_t *)"", replies, 0, sent), 0);
    for (int i = 0; i < 2; i++) {
        close(one[i]);
        close(full[i]);
        close(other[i]);
    }
    close(gone[0]);
}

int main(void)
{
    RUN(what_has_come_is_read_one_behind_the_other);
    RUN(no_more_is_read_of_one_than_was_asked_for_and_the_rest_comes_next);
    RUN(whoever_finds_no_room_is_told_of_and_not_read_from);
    RUN(a_socket_may_be_told_of_only_and_read_from_later);
    RUN(the_end_and_errors_are_told_as_what_they_are);
    RUN(a_read_that_is_exactly_one_frame_is_recognised);
    RUN(more_sockets_than_one_call_takes_are_served_in_turns);
    RUN(what_is_heard_of_a_closed_descriptor_is_never_taken_for_another_ones);
    RUN(many_changes_are_made_in_their_order_and_each_has_its_code);
    RUN(what_is_no_epoll_descriptor_is_an_error);
    RUN(replies_are_sent_one_behind_the_other_and_it_is_said_what_the_kernel_has_taken);
    return 0;
}
