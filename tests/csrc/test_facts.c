#include "harness.h"
#include "hotfd.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

/* A connection over loopback: pair[0] connected, pair[1] was accepted. */
static void connect_tcp(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(listener >= 0);
    CHECK_EQUAL(bind(listener, (struct sockaddr *)&address, size), 0);
    CHECK_EQUAL(listen(listener, 1), 0);
    CHECK_EQUAL(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQUAL(connect(pair[0], (struct sockaddr *)&address, size), 0);
    pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(pair[1] >= 0);
    close(listener);
}

static void wait_for(int fd, short events)
{
    struct pollfd waiting = {.fd = fd, .events = events};
    CHECK_EQUAL(poll(&waiting, 1, 10000), 1);
}

static struct hotfd_tcp_facts facts_of(int fd)
{
    struct hotfd_tcp_facts facts;
    CHECK_EQUAL(hotfd_tcp_facts(fd, &facts), 0);
    return facts;
}

static uint64_t consumed(const struct hotfd_tcp_facts *facts)
{
    return facts->received - facts->unread - (uint64_t)facts->fin_received;
}

static void reading_moves_consumed_and_nothing_else_does(void)
{
    int tcp[2];
    char bytes[100] = {0};
    connect_tcp(tcp);
    struct hotfd_tcp_facts facts = facts_of(tcp[1]);
    CHECK_EQUAL(consumed(&facts), 0);
    CHECK_EQUAL(write(tcp[0], bytes, 100), 100);
    wait_for(tcp[1], POLLIN);
    facts = facts_of(tcp[1]);
    CHECK_EQUAL(facts.received, 100);
    CHECK_EQUAL(facts.unread, 100);
    CHECK_EQUAL(consumed(&facts), 0);
    CHECK_EQUAL(read(tcp[1], bytes, 30), 30);
    facts = facts_of(tcp[1]);
    CHECK_EQUAL(facts.unread, 70);
    CHECK_EQUAL(consumed(&facts), 30);
    close(tcp[0]); /* its FIN counts as a byte received */
    wait_for(tcp[1], POLLRDHUP);
    facts = facts_of(tcp[1]);
    CHECK_EQUAL(facts.fin_received, 1);
    CHECK_EQUAL(facts.closed, 0);
    CHECK_EQUAL(consumed(&facts), 30);
    CHECK_EQUAL(read(tcp[1], bytes, 100), 70);
    CHECK_EQUAL(read(tcp[1], bytes, 100), 0);
    facts = facts_of(tcp[1]);
    CHECK_EQUAL(consumed(&facts), 100);
    close(tcp[1]);
}

static void writing_moves_written_whether_acknowledged_or_not(void)
{
    int tcp[2];
    char bytes[100] = {0};
    connect_tcp(tcp);
    struct hotfd_tcp_facts before = facts_of(tcp[1]);
    for (int i = 1; i <= 5; i++) {
        CHECK_EQUAL(write(tcp[1], bytes, 100), 100);
        struct hotfd_tcp_facts now = facts_of(tcp[1]);
        CHECK_EQUAL(now.acked + now.unacked, before.acked + before.unacked + (uint64_t)(100 * i));
    }
    close(tcp[0]);
    close(tcp[1]);
}

static void a_connection_that_is_over_says_so(void)
{
    int tcp[2];
    connect_tcp(tcp);
    CHECK_EQUAL(hotfd_abort(tcp[0]), 0);
    wait_for(tcp[1], POLLIN);
    struct hotfd_tcp_facts facts = facts_of(tcp[1]);
    CHECK_EQUAL(facts.closed, 1);
    close(tcp[0]);
    close(tcp[1]);
}

static void facts_are_for_tcp_only(void)
{
    int channel[2];
    struct hotfd_tcp_facts facts, copy;
    memset(&facts, 0x5a, sizeof facts);
    copy = facts;
    CHECK_EQUAL(hotfd_channel_pair(channel), 0);
    CHECK_EQUAL(hotfd_tcp_facts(channel[0], &facts), -EOPNOTSUPP);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK_EQUAL(hotfd_tcp_facts(udp, &facts), -EOPNOTSUPP);
    CHECK_EQUAL(hotfd_tcp_facts(STDIN_FILENO, &facts), -ENOTSOCK);
    CHECK_EQUAL(hotfd_tcp_facts(-1, &facts), -EBADF);
    CHECK(memcmp(&facts, &copy, sizeof facts) == 0);
    close(udp);
    close(channel[0]);
    close(channel[1]);
}

static void many_are_counted_at_once_and_each_says_why_if_it_is_not(void)
{
    int tcp[2], over[2], channel[2];
    connect_tcp(tcp);
    connect_tcp(over);
    CHECK_EQUAL(hotfd_abort(over[0]), 0);
    CHECK_EQUAL(hotfd_channel_pair(channel), 0);
    CHECK_EQUAL(send(tcp[0], "0123456789", 10, 0), 10);
    wait_for(tcp[1], POLLIN);
    int fds[5] = {tcp[1], over[0], channel[0], -1, tcp[1]};
    uint64_t consumed[2][5] = {{0}, {0, 7, 7, 7, 0}}, written[2][5] = {{0}, {0, 7, 7, 7, 0}};
    int codes[5], expected[5] = {0, -ENOTCONN, -EOPNOTSUPP, -EBADF, 0};
    CHECK_EQUAL(hotfd_tcp_counts(fds, 5, consumed[0], written[0], codes), 0);
    char data[4];
    CHECK_EQUAL(recv(tcp[1], data, 4, 0), 4);
    CHECK_EQUAL(send(tcp[1], data, 3, 0), 3);
    CHECK_EQUAL(hotfd_tcp_counts(fds, 5, consumed[1], written[1], codes), 0);
    for (int i = 0; i < 5; i += 4) {
        CHECK_EQUAL(consumed[1][i], consumed[0][i] + 4);
        CHECK_EQUAL(written[1][i], written[0][i] + 3);
    }
    CHECK(memcmp(codes, expected, sizeof codes) == 0);
    for (int i = 1; i < 4; i++)
        CHECK(consumed[1][i] == 7 && written[1][i] == 7);
    CHECK_EQUAL(hotfd_tcp_counts(fds, HOTFD_MAX_COOKIES + 1, consumed[1], written[1], codes), -EINVAL);
    for (int i = 0; i < 2; i++) {
        close(tcp[i]);
        close(over[i]);
        close(channel[i]);
    }
}

static void a_cookie_is_the_socket_s_and_not_the_descriptor_s(void)
{
    int tcp[2];
    connect_tcp(tcp);
    int fds[3] = {tcp[0], tcp[1], fcntl(tcp[0], F_DUPFD_CLOEXEC, 0)};
    uint64_t cookies[3];
    CHECK_EQUAL(hotfd_cookies(fds, 3, cookies), 0);
    CHECK(cookies[0] != cookies[1]);
    CHECK(cookies[0] == cookies[2]);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}

static void one_bad_descriptor_spoils_all_cookies(void)
{
    int channel[2];
    uint64_t cookies[2] = {7, 7};
    CHECK_EQUAL(hotfd_channel_pair(channel), 0);
    int fds[2] = {channel[0], STDIN_FILENO};
    CHECK_EQUAL(hotfd_cookies(fds, 2, cookies), -ENOTSOCK);
    CHECK_EQUAL(hotfd_cookies(fds, HOTFD_MAX_COOKIES + 1, cookies), -EINVAL);
    CHECK_EQUAL(hotfd_cookies(fds, 0, cookies), 0);
    CHECK_EQUAL(cookies[0], 7);
    CHECK_EQUAL(cookies[1], 7);
    close(channel[0]);
    close(channel[1]);
}

static void the_peer_of_a_unix_socket_has_a_name(void)
{
    int channel[2], tcp[2];
    struct hotfd_peer peer = {-7, -7, -7};
    connect_tcp(tcp);
    CHECK_EQUAL(hotfd_peer_credentials(tcp[0], &peer), -ENOTCONN);
    CHECK_EQUAL(hotfd_peer_credentials(STDIN_FILENO, &peer), -ENOTSOCK);
    CHECK(peer.pid == -7 && peer.uid == -7 && peer.gid == -7);
    CHECK_EQUAL(hotfd_channel_pair(channel), 0);
    CHECK_EQUAL(hotfd_peer_credentials(channel[0], &peer), 0);
    CHECK_EQUAL(peer.pid, getpid());
    CHECK_EQUAL(peer.uid, getuid());
    CHECK_EQUAL(peer.gid, getgid());
    int pidfd = hotfd_peer_pidfd(channel[0]);
    CHECK(pidfd >= 0 || pidfd == -ENOPROTOOPT);
    if (pidfd >= 0) {
        CHECK(fcntl(pidfd, F_GETFD) & FD_CLOEXEC);
        close(pidfd);
    }
    CHECK(hotfd_peer_pidfd(tcp[0]) < 0);
    close(channel[0]);
    close(channel[1]);
    close(tcp[0]);
    close(tcp[1]);
}

static void an_abort_resets_although_a_copy_is_open(void)
{
    int tcp[2];
    char byte;
    connect_tcp(tcp);
    int copy = fcntl(tcp[0], F_DUPFD_CLOEXEC, 0);
    CHECK_EQUAL(hotfd_abort(tcp[0]), 0);
    wait_for(tcp[1], POLLIN);
    CHECK(read(tcp[1], &byte, 1) < 0 && errno == ECONNRESET);
    CHECK_EQUAL(hotfd_abort(-1), -EBADF);
    close(copy);
    close(tcp[0]);
    close(tcp[1]);
}

int main(void)
{
    RUN(reading_moves_consumed_and_nothing_else_does);
    RUN(writing_moves_written_whether_acknowledged_or_not);
    RUN(a_connection_that_is_over_says_so);
    RUN(facts_are_for_tcp_only);
    RUN(many_are_counted_at_once_and_each_says_why_if_it_is_not);
    RUN(a_cookie_is_the_socket_s_and_not_the_descriptor_s);
    RUN(one_bad_descriptor_spoils_all_cookies);
    RUN(the_peer_of_a_unix_socket_has_a_name);
    RUN(an_abort_resets_although_a_copy_is_open);
    return 0;
}
