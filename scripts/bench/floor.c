/* The floor: what the kernel alone takes to give connections from one process to a fresh one.
 *
 *     floor CONNECTIONS BATCH BYTES ROUNDS [cookies]
 *
 * One process holds the clients' ends of TCP connections on loopback and does nothing else. A second has
 * accepted them and gives them away, BATCH descriptors a message (SCM_RIGHTS, unix(7)) over a SOCK_SEQPACKET
 * pair, with BYTES of data for each of them, or with one byte in all when BYTES is 0, since a message needs
 * one. A third, which has nothing but what it is given, receives them close-on-exec and says one byte when it
 * has all: a fresh process in each round, as in a handoff, since the table of its descriptors has to grow. No
 * record is written or read, no message answered. The sender keeps its copies, as a handoff does. With the
 * word `cookies` the receiver also asks the kernel which socket each is (SO_COOKIE, socket(7)), and makes
 * nothing of the answers: what it takes to trust no order.
 *
 * Prints one line a round: the microseconds from before the first message until that one byte has come.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Descriptors that one message takes: SCM_MAX_FD of the kernel, unix(7). */
#define MOST_DESCRIPTORS 253

/* Bytes of data for one connection; a message of the most descriptors then still fits a socket's buffer. */
#define MOST_BYTES 512

/* Rounds; each has a process of its own from the beginning on. */
#define MOST_ROUNDS 100

/* Connections that wait to be accepted; the clients' process connects one after another and may be that far
 * ahead. */
#define BACKLOG 1024

struct control {
    _Alignas(struct cmsghdr) char bytes[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_us(void)
{
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) < 0)
        die("clock_gettime");
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static long number(const char *text, long least, long most)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < least || value > most) {
        fprintf(stderr, "floor: %s is not a number from %ld to %ld\n", text, least, most);
        exit(2);
    }
    return value;
}

static void raise_limit(long connections)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("getrlimit");
    if (limit.rlim_max < (rlim_t)connections + 16) {
        errno = EMFILE;
        die("RLIMIT_NOFILE");
    }
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("setrlimit");
}

/* Fork a child that dies with its parent. Returns its pid, or 0 in the child. */
static pid_t fork_child(void)
{
    fflush(stdout);
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent))
        _exit(1);
    return pid;
}

static _Noreturn void be_clients(const struct sockaddr_in *address, long connections)
{
    for (long i = 0; i < connections; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
            die("a client's connection");
    }
    for (;;)
        pause();
}

/* Receive one message; put its descriptors behind the others. Returns how many came. */
static long receive(int channel, int *fds)
{
    static char bytes[MOST_DESCRIPTORS * MOST_BYTES];
    struct control control;
    struct iovec data = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) <= 0)
        die("recvmsg");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) || header == NULL || header->cmsg_type != SCM_RIGHTS) {
        errno = EPROTO;
        die("a message without its descriptors");
    }
    size_t size = header->cmsg_len - CMSG_LEN(0);
    memcpy(fds, CMSG_DATA(header), size);
    return (long)(size / sizeof(int));
}

static void ask_cookies(const int *fds, long count)
{
    for (long i = 0; i < count; i++) {
        uint64_t cookie;
        socklen_t size = sizeof cookie;
        if (getsockopt(fds[i], SOL_SOCKET, SO_COOKIE, &cookie, &size) < 0)
            die("SO_COOKIE");
    }
}

/* Exits when all have come and are counted; the descriptors are closed with the process. */
static _Noreturn void be_receiver(int channel, long connections, int *fds, bool cookies)
{
    for (long have = 0; have < connections;) {
        long more = receive(channel, fds + have);
        if (cookies)
            ask_cookies(fds + have, more);
        have += more;
    }
    if (send(channel, "", 1, MSG_NOSIGNAL) != 1)
        die("send");
    exit(0);
}

static void give(int channel, const int *fds, long count, long size)
{
    static char bytes[MOST_DESCRIPTORS * MOST_BYTES];
    struct control control = {0};
    struct iovec data = {.iov_base = bytes, .iov_len = size ? (size_t)(count * size) : 1};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, (size_t)count * sizeof(int));
    if (sendmsg(channel, &message, MSG_NOSIGNAL) != (ssize_t)data.iov_len)
        die("sendmsg");
}

static double measure(int channel, const int *fds, long connections, long batch, long size)
{
    char byte;
    double began = now_us();
    for (long sent = 0; sent < connections; sent += batch)
        give(channel, fds + sent, connections - sent < batch ? connections - sent : batch, size);
    if (recv(channel, &byte, 1, 0) != 1)
        die("recv");
    return now_us() - began;
}

static int listen_on_loopback(struct sockaddr_in *address)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof *address;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (listener < 0 || bind(listener, (struct sockaddr *)address, sizeof *address) < 0 ||
        listen(listener, BACKLOG) < 0 || getsockname(listener, (struct sockaddr *)address, &length) < 0)
        die("listen");
    return listener;
}

int main(int argc, char **argv)
{
    bool cookies = argc == 6 && strcmp(argv[5], "cookies") == 0;
    if (argc != 5 && !cookies) {
        fprintf(stderr, "usage: floor CONNECTIONS BATCH BYTES ROUNDS [cookies]\n");
        return 2;
    }
    long connections = number(argv[1], 1, 1000000), batch = number(argv[2], 1, MOST_DESCRIPTORS);
    long size = number(argv[3], 0, MOST_BYTES), rounds = number(argv[4], 1, MOST_ROUNDS);
    raise_limit(connections + rounds);
    int *fds = calloc((size_t)connections, sizeof *fds), channels[MOST_ROUNDS];
    pid_t receivers[MOST_ROUNDS];
    if (fds == NULL)
        die("calloc");
    for (long round = 0; round < rounds; round++) { /* before anything is accepted: they inherit nothing */
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
            die("socketpair");
        if ((receivers[round] = fork_child()) == 0)
            be_receiver(pair[1], connections, fds, cookies);
        close(pair[1]);
        channels[round] = pair[0];
    }
    struct sockaddr_in address;
    int listener = listen_on_loopback(&address);
    pid_t clients = fork_child();
    if (clients == 0)
        be_clients(&address, connections);
    for (long i = 0; i < connections; i++)
        if ((fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) < 0)
            die("accept4");
    for (long round = 0; round < rounds; round++) {
        printf("%.1f\n", measure(channels[round], fds, connections, batch, size));
        int status;
        if (waitpid(receivers[round], &status, 0) < 0 || status != 0)
            die("a receiver");
    }
    if (kill(clients, SIGKILL) < 0 || waitpid(clients, NULL, 0) < 0)
        die("the clients");
    free(fds);
    return fflush(stdout) == 0 ? 0 : 1;
}
