/*
 * A fuzz target for the scanners, for libFuzzer (llvm.org/docs/LibFuzzer.html) and for replay.c. Any input is
 * one: HEADER_SIZE bytes choose the framing and the cuts, the others are what a peer sends.
 * tests/fuzz/scanners.py reads inputs in the same way, and compares with scanners in plain Python; here it is
 * about memory, and about what must hold between two runs of the scanner itself:
 *
 *  - however the bytes arrive, the same frames are found, and the same error, and it stays;
 *  - a fresh bookmark finds what an old one finds, in every place where a connection may move;
 *  - spans lie in the bytes, behind each other, and no payload is larger than max_size.
 */
#include "fuzz.h"
#include "hotfd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_SIZE = 16, MAX_DATA = 4096, MAX_AT_ONCE = 4 };

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

struct found {
    size_t count;
    struct hotfd_span spans[MAX_DATA];
    int error;
};

static struct hotfd_framing framing_of(const uint8_t *header)
{
    static const uint32_t widths[] = {1, 2, 4, 8};
    struct hotfd_framing framing = {
        .kind = 1 + header[0] % 6u,
        .flags = header[1],
        .max_size = 1 + header[2] + 256u * header[3],
        .size = 1 + header[4],
        .length_bytes = widths[header[5] % 4],
        .offset = header[6] % 8u,
        .trailer = header[7] % 8u,
        .delimiter_size = 1 + header[8] % 4u,
    };
    memcpy(framing.delimiter, header + 9, 4);
    return framing;
}

/* Scan bytes that stand at the very end of their memory, as the sanitizer sees it. */
static int scan_copy(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *bytes,
                     size_t size, struct hotfd_span *spans, size_t max)
{
    uint8_t *copy = malloc(size);
    REQUIRE(copy != NULL || size == 0);
    if (size > 0)
        memcpy(copy, bytes, size);
    int rc = hotfd_scan(framing, scan, copy, 0, size, spans, max);
    free(copy);
    return rc;
}

/* A RESP command's words are in it, in order; and what has words is one whole frame. */
static void find_words(const uint8_t *data, size_t size)
{
    static uint64_t words[2 * MAX_DATA];
    uint8_t *copy = malloc(size);
    REQUIRE(copy != NULL || size == 0);
    if (size > 0)
        memcpy(copy, data, size);
    int count = hotfd_resp_words(copy, size, words, MAX_DATA);
    uint64_t at = 0;
    for (int i = 0; i < count; i++) {
        REQUIRE(at < words[2 * i] && words[2 * i] <= words[2 * i + 1] && words[2 * i + 1] <= size);
        at = words[2 * i + 1];
    }
    if (count > 0 && count < HOTFD_RESP_DEPTH) {
        struct hotfd_framing resp = {.kind = HOTFD_RESP, .max_size = 2 * MAX_DATA};
        struct hotfd_scan scan = {0};
        struct hotfd_span span;
        REQUIRE(hotfd_scan(&resp, &scan, copy, 0, size, &span, 1) == 1 && span.end == size);
    }
    free(copy);
}

/* All bytes at once. */
static void find_whole(const struct hotfd_framing *framing, const uint8_t *data, size_t size,
                       struct found *found)
{
    struct hotfd_scan scan = {0};
    size_t at = 0;
    int rc;
    while ((rc = hotfd_scan(framing, &scan, data, at, size, found->spans + found->count,
                            MAX_DATA - found->count + 1)) > 0) {
        for (int i = 0; i < rc; i++) {
            const struct hotfd_span *span = &found->spans[found->count++];
            REQUIRE(at <= span->payload && span->payload <= span->payload_end);
            REQUIRE(span->payload_end <= span->end && span->end <= size && at < span->end);
            REQUIRE(span->payload_end - span->payload <= framing->max_size);
            at = span->end;
        }
    }
    found->error = rc;
    REQUIRE(rc == 0 || rc == -EMSGSIZE || rc == -EBADMSG);
    struct hotfd_span none;
    REQUIRE(rc == 0 || hotfd_scan(framing, &scan, data, at, size, &none, 1) == rc);
}

/* Cut as the random numbers say; what was framed is dropped, as a connection does. */
static void find_in_pieces(const struct hotfd_framing *framing, const uint8_t *data, size_t size,
                           uint32_t random, const struct found *whole)
{
    struct hotfd_scan scan = {0};
    struct hotfd_span spans[MAX_AT_ONCE];
    size_t dropped = 0, seen = 0, count = 0;
    int rc = 0;
    while (seen < size && rc >= 0) {
        random = random * 1664525 + 1013904223;
        size_t piece = 1 + (random >> 24) % (random & 0x10000 ? 3 : 97);
        seen = piece < size - seen ? seen + piece : size;
        if ((random & 0x60000) == 0)
            scan = (struct hotfd_scan){0}; /* the connection is another process's now */
        size_t max = 1 + (random >> 20) % MAX_AT_ONCE;
        int nothing_new = seen - dropped < scan.need;
        while ((rc = scan_copy(framing, &scan, data + dropped, seen - dropped, spans, max)) > 0) {
            REQUIRE(!nothing_new);
            for (int i = 0; i < rc; i++) {
                const struct hotfd_span *expected = &whole->spans[count++];
                REQUIRE(count <= whole->count);
                REQUIRE(dropped + spans[i].payload == expected->payload);
                REQUIRE(dropped + spans[i].payload_end == expected->payload_end);
                REQUIRE(dropped + spans[i].end == expected->end);
            }
            dropped += spans[rc - 1].end;
        }
        REQUIRE(rc == 0 || !nothing_new);
        REQUIRE(rc < 0 || scan.need > seen - dropped);
    }
    REQUIRE(count == whole->count);
    REQUIRE(rc == whole->error);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (size < HEADER_SIZE)
        return 0;
    struct hotfd_framing framing = framing_of(input);
    int rc = hotfd_framing_check(&framing);
    REQUIRE(rc == 0 || rc == -EINVAL);
    if (rc != 0)
        return 0;
    const uint8_t *data = input + HEADER_SIZE;
    size -= HEADER_SIZE;
    if (size > MAX_DATA)
        size = MAX_DATA;
    find_words(data, size);
    static struct found whole; /* too large for the stack; one input at a time */
    whole.count = 0;
    find_whole(&framing, data, size, &whole);
    find_in_pieces(&framing, data, size, input[13] + 256u * input[14], &whole);
    return 0;
}
