#include "harness.h"
#include "hotfd.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

static uint8_t buffer[HOTFD_MAX_MESSAGE];

static void open_channel(int channel[2])
{
    CHECK_EQUAL(hotfd_channel_pair(channel), 0);
}

static void close_channel(const int channel[2])
{
    close(channel[0]);
    close(channel[1]);
}

static int receive(int channel, struct hotfd_message *message)
{
    return hotfd_receive(channel, buffer, sizeof buffer, message);
}

static int send_text(int channel, const char *text, const int *descriptors, size_t count)
{
    return hotfd_send(channel, (const uint8_t *)text, strlen(text), descriptors, count);
}

static void drop(const struct hotfd_message *message)
{
    for (uint32_t i = 0; i < message->count; i++)
        close(message->descriptors[i]);
    if (message->pidfd >= 0)
        close(message->pidfd);
}

static void fill_with_nulls(int *descriptors, size_t count)
{
    for (size_t i = 0; i < count; i++)
        descriptors[i] = STDIN_FILENO;
}

static void a_channel_does_not_block_and_is_not_inherited(void)
{
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    for (int i = 0; i < 2; i++) {
        CHECK(fcntl(channel[i], F_GETFD) & FD_CLOEXEC);
        CHECK(fcntl(channel[i], F_GETFL) & O_NONBLOCK);
    }
    CHECK_EQUAL(receive(channel[0], &message), -EAGAIN);
    close_channel(channel);
}

static void a_message_carries_data_descriptors_and_its_sender(void)
{
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    CHECK_EQUAL(send_text(channel[0], "state", channel, 2), 0);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.length, 5);
    CHECK(memcmp(buffer, "state", 5) == 0);
    CHECK_EQUAL(message.count, 2);
    CHECK_EQUAL(message.truncated, 0);
    CHECK_EQUAL(message.pid, getpid());
    CHECK_EQUAL(message.uid, getuid());
    uint64_t sent[2], got[2];
    CHECK_EQUAL(hotfd_cookies(channel, 2, sent), 0);
    CHECK_EQUAL(hotfd_cookies(message.descriptors, 2, got), 0);
    CHECK(memcmp(sent, got, sizeof sent) == 0);
    for (uint32_t i = 0; i < message.count; i++)
        CHECK(fcntl(message.descriptors[i], F_GETFD) & FD_CLOEXEC);
    if (message.pidfd >= 0)
        CHECK(fcntl(message.pidfd, F_GETFD) & FD_CLOEXEC);
    drop(&message);
    close_channel(channel);
}

static void a_pidfd_comes_only_while_it_is_asked_for(void)
{
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    int rc = hotfd_pass_pidfd(channel[1], 0);
    CHECK(rc == 0 || rc == -ENOPROTOOPT);
    CHECK_EQUAL(send_text(channel[0], "x", NULL, 0), 0);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.pidfd, -1);
    if (rc == 0) {
        CHECK_EQUAL(hotfd_pass_pidfd(channel[1], 1), 0);
        CHECK_EQUAL(send_text(channel[0], "x", NULL, 0), 0);
        CHECK_EQUAL(receive(channel[1], &message), 0);
        CHECK(message.pidfd >= 0);
        drop(&message);
    }
    CHECK_EQUAL(hotfd_pass_pidfd(-1, 1), -EBADF);
    close_channel(channel);
}

static void the_limit_of_descriptors_passes_and_one_more_does_not(void)
{
    int channel[2];
    int many[HOTFD_MAX_DESCRIPTORS + 1];
    struct hotfd_message message;
    fill_with_nulls(many, HOTFD_MAX_DESCRIPTORS + 1);
    open_channel(channel);
    CHECK_EQUAL(send_text(channel[0], "x", many, HOTFD_MAX_DESCRIPTORS), 0);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.count, HOTFD_MAX_DESCRIPTORS);
    CHECK_EQUAL(message.truncated, 0);
    CHECK_EQUAL(message.pid, getpid());
    drop(&message);
    CHECK_EQUAL(send_text(channel[0], "x", many, HOTFD_MAX_DESCRIPTORS + 1), -EINVAL);
    CHECK_EQUAL(receive(channel[1], &message), -EAGAIN);
    close_channel(channel);
}

static void the_limit_of_data_passes_and_one_more_does_not(void)
{
    static uint8_t data[HOTFD_MAX_MESSAGE + 1];
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    CHECK_EQUAL(hotfd_send(channel[0], data, HOTFD_MAX_MESSAGE + 1, NULL, 0), -EMSGSIZE);
    CHECK_EQUAL(hotfd_send(channel[0], data, HOTFD_MAX_MESSAGE, NULL, 0), 0);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.length, HOTFD_MAX_MESSAGE);
    CHECK_EQUAL(message.truncated, 0);
    drop(&message);
    CHECK_EQUAL(hotfd_send(channel[0], data, 0, NULL, 0), -EINVAL);
    close_channel(channel);
}

static void data_that_does_not_fit_closes_what_came_with_it(void)
{
    int channel[2];
    struct hotfd_message message;
    uint8_t small[4];
    open_channel(channel);
    int before = open_descriptors();
    CHECK_EQUAL(send_text(channel[0], "too long", channel, 2), 0);
    CHECK_EQUAL(hotfd_receive(channel[1], small, sizeof small, &message), 0);
    CHECK_EQUAL(message.truncated, 1);
    CHECK_EQUAL(message.count, 0);
    CHECK_EQUAL(message.pidfd, -1);
    CHECK_EQUAL(message.length, sizeof small);
    CHECK_EQUAL(message.pid, getpid());
    CHECK_EQUAL(open_descriptors(), before);
    close_channel(channel);
}

static void at_the_descriptor_limit_nothing_is_kept(void)
{
    int channel[2];
    int ten[10];
    struct hotfd_message message;
    struct rlimit limit;
    fill_with_nulls(ten, 10);
    open_channel(channel);
    CHECK_EQUAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int free_descriptor = dup(channel[0]);
    close(free_descriptor);
    for (rlim_t places = 0; places <= 10; places++) { /* none, some, and all but one for the pidfd */
        CHECK_EQUAL(send_text(channel[0], "x", ten, 10), 0);
        int before = open_descriptors();
        struct rlimit low = {(rlim_t)free_descriptor + places, limit.rlim_max};
        CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &low), 0);
        int rc = receive(channel[1], &message);
        CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
        CHECK_EQUAL(rc, 0);
        if (places < 10) {
            CHECK_EQUAL(message.truncated, 1);
            CHECK_EQUAL(message.count, 0);
            CHECK_EQUAL(message.pidfd, -1);
            CHECK_EQUAL(open_descriptors(), before);
        } else { /* the descriptors had their places; the kernel says so, whatever became of the pidfd */
            CHECK_EQUAL(message.truncated ? 0 : 10, message.count);
            drop(&message);
            CHECK_EQUAL(open_descriptors(), before);
        }
    }
    close_channel(channel);
}

static void a_full_queue_is_said_and_empties_again(void)
{
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    int sent = 0;
    int rc;
    while ((rc = send_text(channel[0], "x", NULL, 0)) == 0)
        sent++;
    CHECK_EQUAL(rc, -EAGAIN);
    CHECK(sent > 0);
    for (int i = 0; i < sent; i++) {
        CHECK_EQUAL(receive(channel[1], &message), 0);
        drop(&message);
    }
    CHECK_EQUAL(send_text(channel[0], "x", NULL, 0), 0);
    close_channel(channel);
}

static void a_closed_peer_is_the_end_for_the_reader_and_an_error_for_the_writer(void)
{
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    CHECK_EQUAL(send_text(channel[0], "last", NULL, 0), 0);
    close(channel[0]);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.length, 4);
    drop(&message);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.length, 0);
    CHECK_EQUAL(message.count, 0);
    CHECK_EQUAL(message.truncated, 0);
    CHECK_EQUAL(message.pidfd, -1);
    CHECK_EQUAL(send_text(channel[1], "x", NULL, 0), -EPIPE);
    close(channel[1]);
}

static void a_reset_comes_before_what_the_peer_had_sent(void)
{
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    CHECK_EQUAL(send_text(channel[1], "unread", NULL, 0), 0);
    CHECK_EQUAL(send_text(channel[0], "commit", NULL, 0), 0);
    close(channel[0]);
    CHECK_EQUAL(receive(channel[1], &message), -ECONNRESET);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.length, 6);
    drop(&message);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.length, 0);
    close(channel[1]);
}

static void a_dead_sender_is_named_and_leaks_nothing(void)
{
    int channel[2];
    struct hotfd_message message;
    open_channel(channel);
    pid_t child = fork();
    if (child == 0)
        _exit(send_text(channel[0], "x", channel, 1) == 0 ? 0 : 1);
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(receive(channel[1], &message), 0);
    CHECK_EQUAL(message.pid, child);
    CHECK_EQUAL(message.count, 1);
    drop(&message);
    close_channel(channel);
}

static void a_descriptor_that_is_not_open_is_not_sent(void)
{
    int channel[2];
    int bad[] = {STDIN_FILENO, -1};
    struct hotfd_message message;
    open_channel(channel);
    CHECK_EQUAL(send_text(channel[0], "x", bad, 2), -EBADF);
    CHECK_EQUAL(receive(channel[1], &message), -EAGAIN);
    close_channel(channel);
}

static void failures_leave_the_message_untouched(void)
{
    struct hotfd_message message;
    memset(&message, 0x5a, sizeof message);
    struct hotfd_message copy = message;
    CHECK_EQUAL(receive(-1, &message), -EBADF);
    CHECK_EQUAL(receive(STDIN_FILENO, &message), -ENOTSOCK);
    CHECK(memcmp(&message, &copy, sizeof message) == 0);
    CHECK_EQUAL(send_text(STDIN_FILENO, "x", NULL, 0), -ENOTSOCK);
}

/* The kernel counts descriptors in flight per user against the descriptor limit, but not for root. */
static void too_many_descriptors_in_flight_are_said(void)
{
    int channel[2];
    int ten[10];
    fill_with_nulls(ten, 10);
    open_channel(channel);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit low = {15, 15};
        if (geteuid() == 0)
            CHECK_EQUAL(setuid(65534), 0);
        CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &low), 0);
        CHECK_EQUAL(send_text(channel[0], "x", ten, 10), 0);
        CHECK_EQUAL(send_text(channel[0], "x", ten, 10), 0);
        CHECK_EQUAL(send_text(channel[0], "x", ten, 10), -ETOOMANYREFS);
        _exit(0);
    }
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK_EQUAL(status, 0);
    close_channel(channel);
}

static void without_a_free_descriptor_there_is_no_channel(void)
{
    struct rlimit limit;
    int channel[2] = {-7, -7};
    CHECK_EQUAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int free_descriptor = dup(STDIN_FILENO);
    close(free_descriptor);
    for (rlim_t places = 0; places < 2; places++) {
        struct rlimit low = {(rlim_t)free_descriptor + places, limit.rlim_max};
        CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &low), 0);
        int rc = hotfd_channel_pair(channel);
        CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
        CHECK_EQUAL(rc, -EMFILE);
        CHECK_EQUAL(channel[0], -7);
        CHECK_EQUAL(channel[1], -7);
    }
}

int main(void)
{
    RUN(a_channel_does_not_block_and_is_not_inherited);
    RUN(a_message_carries_data_descriptors_and_its_sender);
    RUN(a_pidfd_comes_only_while_it_is_asked_for);
    RUN(the_limit_of_descriptors_passes_and_one_more_does_not);
    RUN(the_limit_of_data_passes_and_one_more_does_not);
    RUN(data_that_does_not_fit_closes_what_came_with_it);
    RUN(at_the_descriptor_limit_nothing_is_kept);
    RUN(a_full_queue_is_said_and_empties_again);
    RUN(a_closed_peer_is_the_end_for_the_reader_and_an_error_for_the_writer);
    RUN(a_reset_comes_before_what_the_peer_had_sent);
    RUN(a_dead_sender_is_named_and_leaks_nothing);
    RUN(a_descriptor_that_is_not_open_is_not_sent);
    RUN(failures_leave_the_message_untouched);
    RUN(too_many_descriptors_in_flight_are_said);
    RUN(without_a_free_descriptor_there_is_no_channel);
    return 0;
}
