/* load: the one client of all benchmarks.
 *
 *   load --connect HOST:PORT | unix:PATH  --connections N  --request FILE --reply BYTES
 *        [--asking K] [--depth D] [--think US] [--hello FILE] [--hello-reply BYTES]
 *        [--seconds S | --frames F] [--verify] [--timeline] [--no-check] [--cpu C]
 *
 * One thread, one epoll, so that it costs as little as a client can: what it takes, the server under test
 * lacks.
 *
 * It opens N connections, some at a time, and greets on each: by what --hello and --hello-reply say, or else
 * by one request and its reply, so that every connection is known to be served. Then it prints "ready". From
 * there on, K of the connections (all of them, unless --asking says how many; spread evenly) keep D requests
 * on their way: each reply is answered by the next request, after --think microseconds. A reply is known by
 * its length alone, or with --verify by being equal to the request. The others are idle; that they live is
 * watched.
 *
 * It ends after S seconds, after F replies, or when its standard input ends; a line "report" there prints
 * what there was so far and begins to measure anew. At the end it waits for the replies that are still out,
 * and has every connection ask once more (--no-check: it does not), so that one which died unnoticed is
 * counted.
 *
 * What it found is one line of JSON. Times are in microseconds unless they say so. "gap" is the longest time
 * without a reply of each asking connection: the pause that its client saw. The exit status is 0 when it
 * could measure, whatever it found, and 1 when it could not, with the reason on standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    WINDOW = 64, /* connections that are opened and not yet greeted: fewer than a small backlog holds */
    READ_SIZE = 256 * 1024, /* bytes per read: four of the largest frames that are measured */
    EVENTS = 1024,          /* per epoll_wait */
    MAX_DEPTH = 4096,       /* requests on their way per connection */
    SUB_BITS = 5,           /* a latency's bucket is at most 1/32 of it wide: 3 percent */
    SUB = 1 << SUB_BITS,
    BUCKETS = (64 - SUB_BITS) * SUB + SUB,
    GAP_STEPS = 8,      /* buckets of the gaps' histogram per doubling */
    STALL_SECONDS = 60, /* without any progress while connecting or at the end: the server does not answer */
    MAX_FILE = 64 * 1024 * 1024, /* bytes of a request */
    MAX_TIMELINE = 3600 * 1000   /* buckets of a millisecond: an hour */
};

#define NANO UINT64_C(1000000000)

struct connection {
    int fd;
    uint32_t outstanding; /* replies that it waits for */
    uint64_t unsent;      /* bytes of requests not yet written */
    uint64_t written;     /* position in the request of the next byte to write */
    uint64_t expected;    /* bytes still to come of the reply that is being read */
    uint64_t last;        /* when its last reply came, or it began to ask */
    uint64_t gap;         /* longest time without one */
    uint64_t *sent;       /* ring: when each outstanding request was written */
    uint32_t ring;        /* place of the oldest */
    bool asks;            /* keeps asking */
    bool greeted;
    bool bad; /* the reply that is being read is not what was asked for */
};

enum phase { CONNECTING, ASKING, DRAINING, CHECKING };

static struct {
    struct sockaddr_storage address;
    socklen_t address_size;
    uint32_t connections, asking, depth;
    uint64_t think; /* ns */
    const uint8_t *hello;
    uint64_t hello_size, hello_reply;
    const uint8_t *request; /* cyclic, depth + 1 times in a row */
    uint64_t request_size, reply;
    double seconds;
    uint64_t frames;
    bool has_hello, verify, timeline, check;
    int cpu;
} set = {.connections = 1, .asking = UINT32_MAX, .depth = 1, .check = true, .cpu = -1};

static struct {
    uint64_t began, ended;
    uint64_t frames, unexpected, wrong;
    uint64_t total, max;
    uint64_t histogram[BUCKETS];
    uint32_t *timeline;
    size_t timeline_size, timeline_room;
    double cpu; /* seconds of this process: when it began; from end() on, what it took since */
} found;

static struct connection *all;
static enum phase phase = CONNECTING;
static int poller = -1, timer = -1;
static uint32_t opened, greeted, lost, checked;
static uint32_t waiting; /* replies that are out, of all connections */
static uint64_t asked;   /* of --frames */
static uint8_t *input;

/* Connections that think, in the order in which they are due: all think equally long. */
static struct thought {
    uint32_t who, count;
    uint64_t due;
} *thoughts;
static uint64_t thoughts_first, thoughts_next, thoughts_room;
static uint64_t timer_due;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANO + (uint64_t)time.tv_nsec;
}

static void *room(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL)
        die("out of memory");
    return memory;
}

/* ---------------------------------------------------------------- figures */

static size_t bucket_of(uint64_t value)
{
    if (value < SUB)
        return (size_t)value;
    const unsigned shift = (unsigned)(63 - __builtin_clzll(value)) - SUB_BITS;
    return (size_t)(shift + 1) * SUB + (size_t)((value >> shift) - SUB);
}

/* The middle of a bucket. */
static double value_of(size_t bucket)
{
    if (bucket < SUB)
        return (double)bucket;
    const unsigned shift = (unsigned)(bucket / SUB) - 1;
    return ((double)(bucket % SUB + SUB) + 0.5) * (double)(UINT64_C(1) << shift);
}

static double percentile(double part)
{
    const uint64_t wanted = (uint64_t)ceil(part * (double)found.frames);
    uint64_t seen = 0;
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += found.histogram[bucket];
        if (seen >= wanted && seen > 0)
            return fmin(value_of(bucket), (double)found.max) / 1e3;
    }
    return 0;
}

static void count_in_timeline(uint64_t time)
{
    const size_t at = (size_t)((time - found.began) / 1000000);
    if (at >= MAX_TIMELINE)
        return;
    if (at >= found.timeline_room) {
        const size_t larger = at + at / 2 + 1024;
        uint32_t *memory = realloc(found.timeline, larger * sizeof *memory);
        if (memory == NULL)
            die("out of memory");
        memset(memory + found.timeline_room, 0, (larger - found.timeline_room) * sizeof *memory);
        found.timeline = memory;
        found.timeline_room = larger;
    }
    found.timeline[at]++;
    if (at + 1 > found.timeline_size)
        found.timeline_size = at + 1;
}

static double cpu_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void begin(void)
{
    uint32_t *timeline = found.timeline;
    const size_t timeline_room = found.timeline_room;
    memset(&found, 0, sizeof found);
    if (timeline != NULL)
        memset(timeline, 0, timeline_room * sizeof *timeline);
    found.timeline = timeline;
    found.timeline_room = timeline_room;
    for (uint32_t i = 0; i < set.connections; i++)
        all[i].gap = 0; /* but not .last: who waits now, has waited since then */
    found.cpu = cpu_seconds();
    found.began = now();
}

static void end(void)
{
    found.ended = now();
    found.cpu = cpu_seconds() - found.cpu;
}

static int by_size(const void *one, const void *other)
{
    const uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return (a > b) - (a < b);
}

/* The gaps, exact: their percentiles, and how many are in each bucket. */
static void print_gaps(void)
{
    uint64_t *gaps = room(set.asking, sizeof *gaps);
    size_t count = 0;
    for (uint32_t i = 0; i < set.connections; i++) {
        if (all[i].asks) {
            const uint64_t open =
                all[i].outstanding && found.ended > all[i].last ? found.ended - all[i].last : 0;
            gaps[count++] = all[i].gap > open ? all[i].gap : open;
        }
    }
    qsort(gaps, count, sizeof *gaps, by_size);
    printf(",\"gap\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f,\"histogram\":[",
           count ? (double)gaps[(count - 1) / 2] / 1e3 : 0,
           count ? (double)gaps[(count * 99 + 99) / 100 - 1] / 1e3 : 0,
           count ? (double)gaps[count - 1] / 1e3 : 0);
    const char *comma = "";
    for (size_t at = 0; at < count;) {
        const double step = floor(log2(fmax((double)gaps[at] / 1e3, 1)) * GAP_STEPS);
        const double from = exp2(step / GAP_STEPS), to = exp2((step + 1) / GAP_STEPS);
        size_t same = 1;
        while (at + same < count && (double)gaps[at + same] / 1e3 < to)
            same++;
        printf("%s[%.1f,%.1f,%zu]", comma, from, to, same);
        comma = ",";
        at += same;
    }
    printf("]}");
    free(gaps);
}

static void report(void)
{
    uint32_t unanswered = 0;
    for (uint32_t i = 0; i < set.connections; i++)
        unanswered += all[i].fd >= 0 && phase != ASKING ? all[i].outstanding : 0;
    printf("{\"began\":%.6f,\"frames\":%" PRIu64
           ",\"seconds\":%.6f,\"latency\":{\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,"
           "\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}",
           (double)found.began / 1e9, found.frames, (double)(found.ended - found.began) / 1e9,
           found.frames ? (double)found.total / (double)found.frames / 1e3 : 0, percentile(0.5),
           percentile(0.9), percentile(0.99), percentile(0.999), (double)found.max / 1e3);
    print_gaps();
    printf(",\"lost\":%" PRIu32 ",\"unanswered\":%" PRIu32 ",\"unexpected\":%" PRIu64 ",\"wrong\":%" PRIu64
           ",\"checked\":%" PRIu32 ",\"cpu\":%.6f",
           lost, unanswered, found.unexpected, found.wrong, checked, found.cpu);
    if (set.timeline) {
        printf(",\"timeline\":[");
        for (size_t i = 0; i < found.timeline_size; i++)
            printf(i ? ",%" PRIu32 : "%" PRIu32, found.timeline[i]);
        printf("]");
    }
    printf("}\n");
    fflush(stdout);
}

/* ---------------------------------------------------------------- one connection */

static void lose(struct connection *connection)
{
    /* Closing takes it out of the epoll; this process has no copy of it. */
    close(connection->fd);
    connection->fd = -1;
    lost++;
    if (!connection->greeted)
        die("the server closed a connection before it had greeted: %u of %u are open", greeted,
            set.connections);
    waiting -= connection->outstanding;
    connection->outstanding = 0;
}

/* Write what is to be written; false when the connection is lost. */
static bool flush(struct connection *connection)
{
    while (connection->unsent > 0) {
        const ssize_t done =
            send(connection->fd, set.request + connection->written, (size_t)connection->unsent, MSG_NOSIGNAL);
        if (done < 0) {
            if (errno == EAGAIN)
                return true;
            if (errno == EINTR)
                continue;
            lose(connection);
            return false;
        }
        connection->unsent -= (uint64_t)done;
        connection->written = (connection->written + (uint64_t)done) % set.request_size;
    }
    return true;
}

/* Send `count` more requests; false when the connection is lost. */
static bool ask(struct connection *connection, uint32_t count, uint64_t time)
{
    if (phase == ASKING && set.frames > 0) {
        if (asked >= set.frames)
            return true;
        if (count > set.frames - asked)
            count = (uint32_t)(set.frames - asked);
        asked += count;
    }
    if (connection->outstanding == 0)
        connection->last = time;
    for (uint32_t i = 0; i < count; i++)
        connection->sent[(connection->ring + connection->outstanding++) % set.depth] = time;
    waiting += count;
    connection->unsent += count * set.request_size;
    return flush(connection);
}

static void set_timer(uint64_t due)
{
    timer_due = due;
    const struct itimerspec when = {.it_value = {(time_t)(due / NANO), (long)(due % NANO)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void think(uint32_t who, uint32_t count, uint64_t time)
{
    const uint64_t due = time + set.think;
    thoughts[thoughts_next++ % thoughts_room] = (struct thought){who, count, due};
    if (timer_due == 0)
        set_timer(due);
}

static void stop_thinking(void)
{
    uint64_t expirations;
    const ssize_t done = read(timer, &expirations, sizeof expirations);
    (void)done; /* only that it is not readable any more */
    timer_due = 0;
    const uint64_t time = now();
    while (thoughts_first < thoughts_next) {
        const struct thought next = thoughts[thoughts_first % thoughts_room];
        if (next.due > time && phase == ASKING) {
            set_timer(next.due);
            return;
        }
        thoughts_first++;
        if (phase == ASKING && all[next.who].fd >= 0)
            ask(&all[next.who], next.count, time);
    }
}

/* A complete reply has come. */
static void answered(struct connection *connection, uint64_t time)
{
    const uint64_t took = time - connection->sent[connection->ring];
    connection->ring = (connection->ring + 1) % set.depth;
    connection->outstanding--;
    waiting--;
    if (connection->bad)
        found.wrong++;
    connection->bad = false;
    if (phase == CHECKING) {
        checked++;
        return;
    }
    if (time - connection->last > connection->gap)
        connection->gap = time - connection->last;
    connection->last = time;
    if (phase == DRAINING)
        return;
    found.frames++;
    found.total += took;
    if (took > found.max)
        found.max = took;
    found.histogram[bucket_of(took)]++;
    if (set.timeline)
        count_in_timeline(time);
}

static void is_greeted(struct connection *connection)
{
    connection->greeted = true;
    connection->expected = set.reply;
    greeted++;
}

/* Take bytes that came. */
static void take(struct connection *connection, const uint8_t *bytes, uint64_t size)
{
    const uint64_t time = now();
    if (!connection->greeted) {
        if (size > connection->expected)
            die("the greeting's reply has more than %" PRIu64 " bytes", connection->expected);
        connection->expected -= size;
        if (connection->expected == 0)
            is_greeted(connection);
        return;
    }
    uint32_t replies = 0;
    while (size > 0) {
        if (connection->outstanding == 0) {
            found.unexpected += size;
            break;
        }
        const uint64_t part = size < connection->expected ? size : connection->expected;
        if (set.verify && memcmp(bytes, set.request + (set.reply - connection->expected), (size_t)part) != 0)
            connection->bad = true;
        bytes += part;
        size -= part;
        connection->expected -= part;
        if (connection->expected == 0) {
            connection->expected = set.reply;
            answered(connection, time);
            replies++;
        }
    }
    if (phase != ASKING || replies == 0 || !connection->asks)
        return;
    if (set.think > 0)
        think((uint32_t)(connection - all), replies, time);
    else
        ask(connection, replies, time);
}

static void readable(struct connection *connection)
{
    for (;;) {
        const ssize_t size = recv(connection->fd, input, READ_SIZE, 0);
        if (size > 0) {
            take(connection, input, (uint64_t)size);
            if (connection->fd < 0 || size < READ_SIZE)
                return; /* lost while it asked; or empty: the events are edges, and the next byte is the next
                           one */
        } else if (size < 0 && errno == EINTR) {
            continue;
        } else if (size < 0 && errno == EAGAIN) {
            return;
        } else {
            lose(connection);
            return;
        }
    }
}

static void happened(struct connection *connection, uint32_t events)
{
    if (connection->fd < 0)
        return;
    if ((events & EPOLLOUT) && !flush(connection))
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        readable(connection);
        /* A short read may have left the end of the stream, whose edge this event was. */
        if (connection->fd >= 0 && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
            readable(connection);
    }
}

static void open_one(void)
{
    struct connection *connection = &all[opened];
    connection->sent = room(set.depth, sizeof *connection->sent);
    connection->fd = socket(set.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("socket: %s (%u connections are open)", strerror(errno), opened);
    if (connect(connection->fd, (struct sockaddr *)&set.address, set.address_size) < 0)
        die("connect: %s (%u connections are open)", strerror(errno), opened);
    const int one = 1;
    if (set.address.ss_family != AF_UNIX &&
        setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
        die("TCP_NODELAY: %s", strerror(errno));
    connection->expected = set.has_hello ? set.hello_reply : set.reply;
    const uint8_t *hello = set.has_hello ? set.hello : set.request;
    const uint64_t size = set.has_hello ? set.hello_size : set.request_size;
    for (uint64_t done = 0; done < size;) {
        const ssize_t written = send(connection->fd, hello + done, (size_t)(size - done), MSG_NOSIGNAL);
        if (written < 0 && errno != EINTR)
            die("the greeting cannot be sent: %s", strerror(errno));
        done += written > 0 ? (uint64_t)written : 0;
    }
    /* Blocking until here, so that a full backlog is waited for. */
    if (fcntl(connection->fd, F_SETFL, O_NONBLOCK) < 0)
        die("O_NONBLOCK: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = opened};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
    opened++;
    if (connection->expected == 0)
        is_greeted(connection);
}

/* ---------------------------------------------------------------- the whole */

enum { STDIN = UINT32_MAX - 1, TIMER = UINT32_MAX };

static bool over; /* the standard input has ended */

/* Wait at most `timeout` ns, and see to what has happened; returns whether anything has. */
static bool turn(uint64_t timeout)
{
    static struct epoll_event events[EVENTS];
    const int wait = timeout > 1000 * NANO ? 1000000 : (int)((timeout + 999999) / 1000000);
    const int count = epoll_wait(poller, events, EVENTS, wait);
    if (count < 0 && errno != EINTR)
        die("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == TIMER) {
            stop_thinking();
        } else if (events[i].data.u64 == STDIN) {
            char line[256];
            const ssize_t size = read(STDIN_FILENO, line, sizeof line);
            if (size <= 0)
                over = true;
            else if (phase == ASKING && memmem(line, (size_t)size, "report", 6) != NULL) {
                end();
                report();
                begin();
            }
        } else {
            happened(&all[events[i].data.u64], events[i].events);
        }
    }
    return count > 0;
}

static void connect_all(void)
{
    uint64_t moved = now();
    uint32_t before = 0;
    while (greeted < set.connections) {
        while (opened < set.connections && opened - greeted < WINDOW)
            open_one();
        if (greeted < set.connections)
            turn(NANO);
        if (greeted > before) {
            before = greeted;
            moved = now();
        } else if (now() - moved > STALL_SECONDS * NANO) {
            die("the server does not answer: %u of %u connections are open, %u of them greeted", opened,
                set.connections, greeted);
        }
        if (over)
            die("the standard input ended before all connections were open");
    }
}

static void ask_all(void)
{
    phase = ASKING;
    begin();
    for (uint32_t i = 0; i < set.connections; i++) {
        /* The K of N that are spread evenly. */
        all[i].asks =
            (uint64_t)(i + 1) * set.asking / set.connections > (uint64_t)i * set.asking / set.connections;
        if (!all[i].asks || all[i].fd < 0)
            continue;
        if (set.think > 0) /* not all in the same moment */
            think(i, set.depth, found.began - set.think + (uint64_t)i * set.think / set.connections);
        else
            ask(&all[i], set.depth, now());
    }
    const uint64_t limit = set.seconds > 0 ? found.began + (uint64_t)(set.seconds * 1e9) : UINT64_MAX;
    for (;;) {
        const uint64_t time = now();
        const bool idle = waiting == 0 && thoughts_first == thoughts_next; /* nobody is left to ask */
        const bool enough = set.frames > 0 && (found.frames >= set.frames || idle);
        if (time >= limit || enough || (over && set.seconds <= 0 && set.frames == 0))
            break;
        turn(limit - time);
    }
    end();
}

/* Go on until at most `few` replies are out, or nothing has come for a long time. */
static void await_replies(uint32_t few)
{
    uint64_t moved = now();
    for (uint32_t before = waiting; waiting > few && now() - moved < STALL_SECONDS * NANO;) {
        turn(NANO / 10);
        if (waiting != before) {
            before = waiting;
            moved = now();
        }
    }
}

static void finish(void)
{
    phase = DRAINING;
    await_replies(0);
    if (!set.check || waiting > 0)
        return;
    phase = CHECKING;
    for (uint32_t i = 0; i < set.connections; i++) {
        if (all[i].fd >= 0)
            ask(&all[i], 1, now());
        await_replies(4 * WINDOW);
    }
    await_replies(0);
}

/* ---------------------------------------------------------------- what is asked for */

static const uint8_t *file(const char *path, uint64_t *size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (fd < 0 || fstat(fd, &facts) < 0 || facts.st_size > MAX_FILE)
        die("%s: %s", path, fd < 0 ? strerror(errno) : "too large");
    uint8_t *content = room((size_t)facts.st_size, 1);
    if (read(fd, content, (size_t)facts.st_size) != facts.st_size)
        die("%s: cannot be read", path);
    close(fd);
    *size = (uint64_t)facts.st_size;
    return content;
}

static void address(const char *text)
{
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un *path = (struct sockaddr_un *)&set.address;
        if (strlen(text + 5) >= sizeof path->sun_path)
            die("%s: the path is too long", text);
        path->sun_family = AF_UNIX;
        memcpy(path->sun_path, text + 5, strlen(text + 5) + 1);
        set.address_size = sizeof *path;
        return;
    }
    const char *colon = strrchr(text, ':');
    char host[64] = "";
    struct sockaddr_in *internet = (struct sockaddr_in *)&set.address;
    if (colon != NULL && (size_t)(colon - text) < sizeof host)
        memcpy(host, text, (size_t)(colon - text));
    internet->sin_family = AF_INET;
    internet->sin_port = htons((uint16_t)(colon != NULL ? atoi(colon + 1) : 0));
    if (inet_pton(AF_INET, host, &internet->sin_addr) != 1 || internet->sin_port == 0)
        die("%s: not 127.0.0.1:PORT or unix:PATH", text);
    set.address_size = sizeof *internet;
}

static double positive(const char *option, const char *text, double highest)
{
    char *end;
    const double value = strtod(text, &end);
    if (*end != '\0' || !(value >= 0) || value > highest)
        die("%s %s: not a number of 0 to %.0f", option, text, highest);
    return value;
}

static void options(int count, char **words)
{
    const uint8_t *request = NULL;
    bool has_address = false;
    for (int i = 1; i < count; i++) {
        const char *option = words[i];
        if (strcmp(option, "--verify") == 0) {
            set.verify = true;
        } else if (strcmp(option, "--timeline") == 0) {
            set.timeline = true;
        } else if (strcmp(option, "--no-check") == 0) {
            set.check = false;
        } else if (i + 1 == count) {
            die("%s: unknown, or without its value", option);
        } else {
            const char *value = words[++i];
            if (strcmp(option, "--connect") == 0) {
                address(value);
                has_address = true;
            } else if (strcmp(option, "--connections") == 0)
                set.connections = (uint32_t)positive(option, value, 1e7);
            else if (strcmp(option, "--asking") == 0)
                set.asking = (uint32_t)positive(option, value, 1e7);
            else if (strcmp(option, "--depth") == 0)
                set.depth = (uint32_t)positive(option, value, MAX_DEPTH);
            else if (strcmp(option, "--think") == 0)
                set.think = (uint64_t)(positive(option, value, 1e9) * 1e3);
            else if (strcmp(option, "--request") == 0)
                request = file(value, &set.request_size);
            else if (strcmp(option, "--reply") == 0)
                set.reply = (uint64_t)positive(option, value, MAX_FILE);
            else if (strcmp(option, "--hello") == 0) {
                set.hello = file(value, &set.hello_size);
                set.has_hello = true;
            } else if (strcmp(option, "--hello-reply") == 0) {
                set.hello_reply = (uint64_t)positive(option, value, MAX_FILE);
                set.has_hello = true;
            } else if (strcmp(option, "--seconds") == 0)
                set.seconds = positive(option, value, 1e6);
            else if (strcmp(option, "--frames") == 0)
                set.frames = (uint64_t)positive(option, value, 1e15);
            else if (strcmp(option, "--cpu") == 0)
                set.cpu = (int)positive(option, value, CPU_SETSIZE - 1);
            else
                die("%s: unknown", option);
        }
    }
    if (!has_address || request == NULL || set.request_size == 0 || set.reply == 0 || set.connections == 0 ||
        set.depth == 0)
        die("--connect, --connections, --request and --reply are needed, and none of them may be 0 or empty");
    if (set.verify && set.request_size != set.reply)
        die("--verify: a reply that is the request has as many bytes");
    if (set.asking > set.connections)
        set.asking = set.connections;
    uint8_t *row = room(set.depth + 1, (size_t)set.request_size);
    for (uint32_t i = 0; i <= set.depth; i++)
        memcpy(row + i * set.request_size, request, (size_t)set.request_size);
    free((void *)request);
    set.request = row;
}

static void prepare(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit); /* what is missing then, socket() says */
    }
    if (set.cpu >= 0) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET((size_t)set.cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) < 0)
            die("--cpu %d: %s", set.cpu, strerror(errno));
    }
    all = room(set.connections, sizeof *all);
    for (uint32_t i = 0; i < set.connections; i++)
        all[i].fd = -1;
    input = room(READ_SIZE, 1);
    /* One entry for each request that is not out: a reply frees one, and thinks. */
    thoughts_room = (uint64_t)set.connections * set.depth;
    thoughts = room((size_t)thoughts_room, sizeof *thoughts);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller < 0 || timer < 0)
        die("epoll, timerfd: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = TIMER};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
    if (set.seconds > 0 || set.frames > 0)
        return; /* then nothing is said there; it may be a file, which no epoll takes */
    event = (struct epoll_event){.events = EPOLLIN, .data.u64 = STDIN};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
        die("the standard input must be a pipe or a socket, unless --seconds or --frames are given");
}

int main(int count, char **words)
{
    options(count, words);
    prepare();
    connect_all();
    puts("ready");
    fflush(stdout);
    ask_all();
    finish();
    report();
    return 0;
}
