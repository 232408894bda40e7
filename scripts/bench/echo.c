/* What the kernel alone takes to serve: an echo without a language, a library or a frame.
 *
 *     echo
 *
 * Prints where it listens, and sends back what comes, as it comes: one epoll_wait(2) for all that have
 * something, one recv(2) and one send(2) for each of them. It keeps nothing for a connection, so a send waits
 * for its reader: the benchmarks' client always reads. Ends by a signal.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Connections that may wait to be accepted: thousands of clients connect at once. */
#define BACKLOG 4096

/* Events taken at a time. */
#define MOST_EVENTS 128

/* Bytes taken at a time, as hotfd takes them. */
#define READ_SIZE (1 << 16)

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "echo: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("setrlimit");
}

static int listening(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        die("listen");
    printf("127.0.0.1:%d\n", ntohs(address.sin_port));
    if (fflush(stdout) != 0)
        die("stdout");
    return fd;
}

static void watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static void welcome(int epoll, int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) <
            0) /* as all servers here have it */
            die("setsockopt");
        watch(epoll, fd);
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        die("accept4");
}

/* Send back what has come; 0 when the connection is over. */
static int answer(int fd)
{
    static uint8_t bytes[READ_SIZE];
    ssize_t length = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN)
        return 1;
    for (ssize_t sent = 0; sent < length;) {
        ssize_t more = send(fd, bytes + sent, (size_t)(length - sent), MSG_NOSIGNAL);
        if (more < 0)
            return 0;
        sent += more;
    }
    return length > 0;
}

int main(void)
{
    struct epoll_event events[MOST_EVENTS];
    raise_limit();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        die("epoll_create1");
    int listener = listening();
    watch(epoll, listener);
    for (;;) {
        int count = epoll_wait(epoll, events, MOST_EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                welcome(epoll, listener);
            else if (!answer(fd))
                close(fd); /* which takes it out of the poll: nobody has a copy */
        }
    }
}
