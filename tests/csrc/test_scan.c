/* Replays vectors.txt: whole, byte by byte, with the next frame behind, one frame a call, each time with the
   last byte in front of a page that must not be touched. */
#include "harness.h"
#include "hotfd.h"

#include <sys/mman.h>

enum { MAX_FRAMES = 16, INPUT_ROOM = 512, PAGE = 65536, ROOM = 4 * PAGE };

struct vector {
    int line;
    struct hotfd_framing framing;
    uint8_t input[INPUT_ROOM];
    size_t size;
    struct hotfd_span spans[MAX_FRAMES];
    size_t count;
    int error; /* what the scan says at last: 0, -EMSGSIZE or -EBADMSG */
    int complete;
};

static const struct {
    const char *name;
    struct hotfd_framing framing;
} FRAMINGS[] = {
    {"lines", {.kind = HOTFD_DELIMITED, .flags = HOTFD_STRIP_CR, .delimiter_size = 1, .delimiter = "\n"}},
    {"crlf", {.kind = HOTFD_DELIMITED, .delimiter_size = 2, .delimiter = "\r\n"}},
    {"aab", {.kind = HOTFD_DELIMITED, .delimiter_size = 3, .delimiter = "aab"}},
    {"fixed", {.kind = HOTFD_FIXED, .size = 3}},
    {"u8", {.kind = HOTFD_LENGTH, .length_bytes = 1}},
    {"u32be", {.kind = HOTFD_LENGTH, .length_bytes = 4}},
    {"u64be", {.kind = HOTFD_LENGTH, .length_bytes = 8}},
    {"header",
     {.kind = HOTFD_LENGTH,
      .flags = HOTFD_LITTLE_ENDIAN | HOTFD_INCLUDES_HEADER,
      .length_bytes = 2,
      .offset = 2,
      .trailer = 1}},
    {"kept",
     {.kind = HOTFD_LENGTH,
      .flags = HOTFD_LITTLE_ENDIAN | HOTFD_INCLUDES_HEADER | HOTFD_KEEP_HEADER,
      .length_bytes = 2,
      .offset = 2,
      .trailer = 1}},
    {"kept64", {.kind = HOTFD_LENGTH, .flags = HOTFD_KEEP_HEADER, .length_bytes = 8}},
    {"varint", {.kind = HOTFD_VARINT}},
    {"netstring", {.kind = HOTFD_NETSTRING}},
    {"resp", {.kind = HOTFD_RESP}},
    {"inline", {.kind = HOTFD_RESP, .flags = HOTFD_INLINE}},
};

static uint8_t *guard; /* the page behind ROOM writable bytes; a multiple of every page size there is */

static void make_guard(void)
{
    uint8_t *room = mmap(NULL, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(room != MAP_FAILED);
    guard = room + ROOM;
    CHECK_EQUAL(mprotect(guard, PAGE, PROT_NONE), 0);
}

/* A copy of the bytes whose end is the guard page. */
static const uint8_t *guarded(const uint8_t *bytes, size_t size)
{
    CHECK(size <= ROOM);
    memcpy(guard - size, bytes, size);
    return guard - size;
}

#define EXPECT(vector, left, right)                                                                          \
    do {                                                                                                     \
        long long left_ = (long long)(left), right_ = (long long)(right);                                    \
        if (left_ != right_) {                                                                               \
            fprintf(stderr, "vectors.txt:%d: %s: %s is %lld, not %lld\n", (vector)->line, __func__, #left,   \
                    left_, right_);                                                                          \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static void expect_span(const struct vector *vector, const struct hotfd_span *found, size_t number,
                        size_t shift)
{
    EXPECT(vector, found->payload, vector->spans[number].payload + shift);
    EXPECT(vector, found->payload_end, vector->spans[number].payload_end + shift);
    EXPECT(vector, found->end, vector->spans[number].end + shift);
}

/* Everything at once, `per_call` frames a call, with `before` bytes of an earlier frame in front. */
static void replay_whole(const struct vector *vector, size_t per_call, size_t before)
{
    uint8_t bytes[2 * INPUT_ROOM];
    memset(bytes, '\n', before);
    memcpy(bytes + before, vector->input, vector->size);
    const uint8_t *buf = guarded(bytes, before + vector->size);
    struct hotfd_scan scan = {0};
    struct hotfd_span spans[MAX_FRAMES];
    size_t start = before, found = 0;
    int rc;
    while ((rc = hotfd_scan(&vector->framing, &scan, buf, start, before + vector->size, spans, per_call)) >
           0) {
        for (int i = 0; i < rc; i++) {
            EXPECT(vector, found < vector->count, 1);
            expect_span(vector, &spans[i], found++, before);
        }
        start = spans[rc - 1].end;
    }
    EXPECT(vector, rc, vector->error);
    EXPECT(vector, found, vector->count);
    EXPECT(vector, start == before + vector->size, vector->complete);
    if (rc < 0) /* and for ever */
        EXPECT(vector,
               hotfd_scan(&vector->framing, &scan, buf, start, before + vector->size, spans, per_call),
               vector->error);
}

static void replay_byte_by_byte(const struct vector *vector)
{
    struct hotfd_scan scan = {0};
    struct hotfd_span span;
    size_t start = 0, found = 0;
    int rc = 0;
    for (size_t size = 1; size <= vector->size && rc >= 0; size++) {
        /* As a reader does, what was framed is dropped, and the buffer moves with each read. */
        const uint8_t *buf = guarded(vector->input + start, size - start);
        int nothing_new = size - start < scan.need;
        rc = hotfd_scan(&vector->framing, &scan, buf, 0, size - start, &span, 1);
        EXPECT(vector, nothing_new && rc != 0, 0); /* what it said it needs, it needs */
        EXPECT(vector, scan.need > size - start, rc == 0);
        if (rc > 0) {
            EXPECT(vector, found < vector->count, 1);
            EXPECT(vector, start + span.payload, vector->spans[found].payload);
            EXPECT(vector, start + span.payload_end, vector->spans[found].payload_end);
            EXPECT(vector, start + span.end, vector->spans[found].end);
            EXPECT(vector, start + span.end, size); /* found with its last byte, not later */
            start += span.end;
            found++;
        }
    }
    EXPECT(vector, rc < 0 ? rc : 0, vector->error);
    EXPECT(vector, found, vector->count);
}

static void replay_with_the_next_frame_behind(const struct vector *vector)
{
    if (!vector->complete)
        return;
    uint8_t bytes[2 * INPUT_ROOM];
    memcpy(bytes, vector->input, vector->size);
    memcpy(bytes + vector->size, vector->input, vector->size);
    const uint8_t *buf = guarded(bytes, 2 * vector->size);
    struct hotfd_scan scan = {0};
    struct hotfd_span spans[2 * MAX_FRAMES];
    int rc = hotfd_scan(&vector->framing, &scan, buf, 0, 2 * vector->size, spans, 2 * MAX_FRAMES);
    EXPECT(vector, rc, 2 * vector->count);
    for (size_t i = 0; i < 2 * vector->count; i++)
        expect_span(vector, &spans[i], i % vector->count, i < vector->count ? 0 : vector->size);
}

/* hotfd_look, with a bookmark and without, finds what hotfd_scan finds. */
static void replay_by_looking(const struct vector *vector, int with_bookmark)
{
    const uint8_t *buf = guarded(vector->input, vector->size);
    struct hotfd_scan scan = {0}, bookmark = {0};
    struct hotfd_span spans[MAX_FRAMES];
    struct hotfd_look look;
    memset(&look, 0xa5, sizeof look); /* as it comes */
    int expected = hotfd_scan(&vector->framing, &scan, buf, 0, vector->size, spans, MAX_FRAMES);
    int rc = hotfd_look(&vector->framing, with_bookmark ? &bookmark : NULL, buf, 0, vector->size, &look);
    EXPECT(vector, rc < 0 ? rc : rc % HOTFD_LOOK_REST, expected);
    if (rc < 0)
        return;
    size_t count = (size_t)expected;
    EXPECT(vector, rc < HOTFD_LOOK_REST, vector->complete);
    for (size_t i = 0; i < count; i++)
        expect_span(vector, &look.spans[i], i, 0);
    if (rc >= HOTFD_LOOK_REST)
        EXPECT(vector, look.spans[count].payload, scan.need);
}

/* hotfd_whole knows what is exactly one frame, wherever that begins. */
static void replay_as_a_whole(const struct vector *vector, size_t before)
{
    uint8_t bytes[2 * INPUT_ROOM];
    memset(bytes, '\n', before);
    memcpy(bytes + before, vector->input, vector->size);
    const uint8_t *buf = guarded(bytes, before + vector->size);
    int rc = hotfd_whole(&vector->framing, buf, before, before + vector->size);
    if (vector->complete && vector->count == 1) {
        EXPECT(vector, rc >> 15, before + vector->spans[0].payload);
        EXPECT(vector, rc & 32767, before + vector->spans[0].payload_end);
    } else {
        EXPECT(vector, rc, -ENOMSG);
    }
}

static void replay(const struct vector *vector)
{
    CHECK_EQUAL(hotfd_framing_check(&vector->framing), 0);
    replay_by_looking(vector, 0);
    replay_by_looking(vector, 1);
    replay_as_a_whole(vector, 0);
    replay_as_a_whole(vector, 11);
    replay_whole(vector, MAX_FRAMES, 0);
    replay_whole(vector, 1, 0);
    replay_whole(vector, 2, 11);
    replay_byte_by_byte(vector);
    replay_with_the_next_frame_behind(vector);
}

static size_t unescape(const char *text, uint8_t *bytes)
{
    size_t size = 0;
    while (*text != 0) {
        char c = *text++;
        if (c == '\\') {
            c = *text++;
            if (c == 'x') {
                char digits[3] = {text[0], text[1], 0};
                c = (char)strtoul(digits, NULL, 16);
                text += 2;
            } else {
                c = c == 'r' ? '\r' : c == 'n' ? '\n' : c == '0' ? '\0' : c;
            }
        }
        CHECK(size < INPUT_ROOM);
        bytes[size++] = (uint8_t)c;
    }
    return size;
}

static struct hotfd_framing framing_named(const char *name)
{
    for (size_t i = 0; i < sizeof FRAMINGS / sizeof FRAMINGS[0]; i++)
        if (strcmp(FRAMINGS[i].name, name) == 0)
            return FRAMINGS[i].framing;
    fprintf(stderr, "no framing is called %s\n", name);
    exit(1);
}

/* Cut the next field off at " | ", from which the next one begins. */
static char *field(char **rest)
{
    char *begin = *rest;
    char *stop = strstr(begin, " | ");
    CHECK(stop != NULL);
    *stop = 0;
    *rest = stop + 3;
    return begin;
}

static void parse(char *text, struct vector *vector)
{
    text[strcspn(text, "\n")] = 0;
    vector->framing = framing_named(field(&text));
    vector->framing.max_size = strtoull(field(&text), NULL, 10);
    vector->size = unescape(field(&text), vector->input);
    char *spans = text;
    if (*spans == '|') { /* no frames */
        text += 2;
        spans = "";
    } else {
        spans = field(&text);
    }
    for (char *span = strtok(spans, " "); span != NULL; span = strtok(NULL, " ")) {
        unsigned long payload, payload_end, end;
        CHECK(vector->count < MAX_FRAMES);
        CHECK_EQUAL(sscanf(span, "%lu:%lu:%lu", &payload, &payload_end, &end), 3);
        vector->spans[vector->count++] = (struct hotfd_span){payload, payload_end, end};
    }
    vector->complete = strcmp(text, "end") == 0;
    vector->error = strcmp(text, "large") == 0 ? -EMSGSIZE : strcmp(text, "bad") == 0 ? -EBADMSG : 0;
    CHECK(vector->error != 0 || vector->complete || strcmp(text, "more") == 0);
}

static void the_vectors_replay_in_every_way(void)
{
    FILE *file = fopen("vectors.txt", "re");
    CHECK(file != NULL);
    char text[2 * INPUT_ROOM];
    int vectors = 0;
    for (int line = 1; fgets(text, sizeof text, file) != NULL; line++) {
        if (text[0] == '#' || text[0] == '\n')
            continue;
        struct vector vector = {.line = line};
        parse(text, &vector);
        replay(&vector);
        vectors++;
    }
    fclose(file);
    CHECK(vectors > 100);
}

static const struct hotfd_framing RESP = {.kind = HOTFD_RESP, .max_size = 1 << 20};

static int nested(unsigned depth)
{
    uint8_t bytes[1024];
    size_t size = 0;
    for (unsigned i = 0; i < depth; i++, size += 4)
        memcpy(bytes + size, "*1\r\n", 4);
    memcpy(bytes + size, "+\r\n", 3);
    struct hotfd_scan scan = {0};
    struct hotfd_span span;
    return hotfd_scan(&RESP, &scan, guarded(bytes, size + 3), 0, size + 3, &span, 1);
}

static void nesting_has_a_limit(void)
{
    CHECK_EQUAL(nested(HOTFD_RESP_DEPTH), 1);
    CHECK_EQUAL(nested(HOTFD_RESP_DEPTH + 1), -EBADMSG);
    CHECK_EQUAL(nested(200), -EBADMSG);
}

static void a_wrong_call_is_refused_and_changes_nothing(void)
{
    struct hotfd_framing lines = FRAMINGS[0].framing;
    lines.max_size = 100;
    struct hotfd_scan scan = {0};
    struct hotfd_span span = {7, 7, 7};
    const uint8_t *buf = (const uint8_t *)"abcdef\n";
    CHECK_EQUAL(hotfd_scan(&lines, &scan, buf, 0, 5, &span, 1), 0);
    CHECK_EQUAL(hotfd_scan(&lines, &scan, buf, 0, 4, &span, 1), -EINVAL); /* less than was seen */
    CHECK_EQUAL(hotfd_scan(&lines, &scan, buf, 6, 5, &span, 1), -EINVAL);
    CHECK_EQUAL(hotfd_scan(&lines, &scan, buf, 0, 7, &span, 0), -EINVAL);
    CHECK_EQUAL(span.end, 7);
    CHECK_EQUAL(hotfd_scan(&lines, &scan, buf, 0, 7, &span, 1), 1);
    CHECK_EQUAL(span.end, 7);
    CHECK_EQUAL(span.payload_end, 6);

    struct hotfd_scan resp = {0};
    buf = (const uint8_t *)"*2\r\n$1\r\na\r\n";
    CHECK_EQUAL(hotfd_scan(&RESP, &resp, buf, 0, 11, &span, 1), 0);
    CHECK_EQUAL(hotfd_scan(&RESP, &resp, buf, 0, 5, &span, 1), -EINVAL);
}

static void what_is_needed_is_said_as_soon_as_it_is_known(void)
{
    static const struct {
        const char *framing, *bytes;
        uint64_t need;
    } CASES[] = {
        {"lines", "abc", 4},       {"lines", "abc\n", 1},       {"fixed", "a", 3},
        {"u32be", "\0\0", 4},      {"u32be", "\0\0\0\7", 11},   {"u8", "\5ab", 6},
        {"varint", "\x81", 2},     {"varint", "\x81\x01", 131}, {"netstring", "1", 2},
        {"netstring", "12:a", 16}, {"resp", "$12\r\n", 18},     {"resp", "*1\r\n$3\r\nab", 12},
        {"resp", "*1\r\n", 5},
    };
    static const size_t SIZES[] = {3, 4, 1, 2, 4, 3, 1, 2, 1, 4, 5, 10, 4};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct hotfd_framing framing = framing_named(CASES[i].framing);
        framing.max_size = 1000;
        struct hotfd_scan scan = {0};
        struct hotfd_span span;
        const uint8_t *buf = guarded((const uint8_t *)CASES[i].bytes, SIZES[i]);
        CHECK(hotfd_scan(&framing, &scan, buf, 0, SIZES[i], &span, 1) == (i == 1));
        CHECK_EQUAL(scan.need,
                    i == 1 ? 0 : CASES[i].need); /* after as many as were asked for, nothing is known */
    }
}

static void frames_that_were_not_asked_for_and_errors_are_worth_a_call_at_once(void)
{
    struct hotfd_framing netstring = framing_named("netstring");
    netstring.max_size = 100;
    struct hotfd_scan scan = {0};
    struct hotfd_span spans[4];
    const uint8_t *buf = guarded((const uint8_t *)"1:a,1:b,x", 9);
    CHECK_EQUAL(hotfd_scan(&netstring, &scan, buf, 0, 9, spans, 1), 1);
    CHECK_EQUAL(scan.need, 0);
    CHECK_EQUAL(hotfd_scan(&netstring, &scan, buf, 4, 9, spans, 4), 1);
    CHECK_EQUAL(scan.need, 0);
    CHECK_EQUAL(hotfd_scan(&netstring, &scan, buf, 8, 9, spans, 4), -EBADMSG);
}

static void a_whole_frame_is_no_larger_than_its_answer(void)
{
    static uint8_t bytes[HOTFD_WHOLE_MAX + 1];
    struct hotfd_framing fixed = {.kind = HOTFD_FIXED, .size = HOTFD_WHOLE_MAX, .max_size = 1 << 20};
    CHECK_EQUAL(hotfd_whole(&fixed, guarded(bytes, HOTFD_WHOLE_MAX), 0, HOTFD_WHOLE_MAX), HOTFD_WHOLE_MAX);
    fixed.size++;
    CHECK_EQUAL(hotfd_whole(&fixed, guarded(bytes, sizeof bytes), 0, sizeof bytes), -ENOMSG);
    fixed.size = 1;
    CHECK_EQUAL(hotfd_whole(&fixed, guarded(bytes, 1), 1, 1), -ENOMSG);
    CHECK_EQUAL(hotfd_whole(&fixed, guarded(bytes, 1), 2, 1), -ENOMSG);
}

static int words_of(const char *text, size_t size, uint64_t *words, size_t max)
{
    return hotfd_resp_words(guarded((const uint8_t *)text, size), size, words, max);
}

static void a_command_has_words(void)
{
    static const char GET[] = "*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n";
    uint64_t words[4] = {0};
    CHECK_EQUAL(words_of(GET, sizeof GET - 1, words, 2), 2);
    CHECK(words[0] == 8 && words[1] == 11 && words[2] == 17 && words[3] == 21);
    CHECK_EQUAL(words_of("*0\r\n", 4, words, 0), 0);
    CHECK_EQUAL(words_of(GET, sizeof GET - 1, words, 1), -E2BIG);
    for (size_t size = 0; size < sizeof GET - 1; size++)
        CHECK_EQUAL(words_of(GET, size, words, 2), -EBADMSG);
}

static void what_is_no_command_has_no_words(void)
{
    static const char *const TEXTS[] = {
        "GET a\r\n",
        "*-1\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n$1\r\na\r\nmore",
        "*1\r\n$1\r\nab\r\n",
        "*1\r\n$1\r\na\rb",
        "*1\r\n$99\r\na\r\n",
        "*01\r\n$1\r\na\r\n",
        "*1\r\n$x\r\na\r\n",
    };
    uint64_t words[8];
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++)
        CHECK_EQUAL(words_of(TEXTS[i], strlen(TEXTS[i]), words, 4), -EBADMSG);
}

static void a_long_frame_is_not_searched_again(void)
{
    enum { SIZE = ROOM };
    static uint8_t bytes[SIZE];
    memset(bytes, 'x', SIZE);
    struct hotfd_framing lines = FRAMINGS[0].framing;
    lines.max_size = 1 << 20;
    struct hotfd_scan scan = {0};
    struct hotfd_span span;
    CHECK_EQUAL(hotfd_scan(&lines, &scan, bytes, 0, SIZE - 1, &span, 1), 0);
    CHECK_EQUAL(scan.seen, SIZE - 1);
    bytes[5] = '\n'; /* a delimiter that comes up behind the bookmark is not seen: nobody looks there */
    CHECK_EQUAL(hotfd_scan(&lines, &scan, bytes, 0, SIZE, &span, 1), 0);

    struct hotfd_scan resp = {0};
    memset(bytes, 'x', SIZE);
    bytes[0] = '+';
    CHECK_EQUAL(hotfd_scan(&RESP, &resp, bytes, 0, SIZE - 1, &span, 1), 0);
    bytes[5] = '\n';
    CHECK_EQUAL(hotfd_scan(&RESP, &resp, bytes, 0, SIZE, &span, 1), 0);
}

static void after_an_error_nothing_is_a_frame_any_more(void)
{
    static const struct hotfd_framing netstring = {.kind = HOTFD_NETSTRING, .max_size = 9};
    struct hotfd_scan scan = {0};
    struct hotfd_span span;
    CHECK_EQUAL(hotfd_scan(&netstring, &scan, (const uint8_t *)"x", 0, 1, &span, 1), -EBADMSG);
    CHECK_EQUAL(hotfd_scan(&netstring, &scan, (const uint8_t *)"0:,", 0, 3, &span, 1), -EBADMSG);
}

static void parameters_that_make_no_framing_are_refused(void)
{
    static const struct hotfd_framing bad[] = {
        {.kind = 0, .max_size = 1},
        {.kind = 99, .max_size = 1},
        {.kind = HOTFD_NETSTRING, .max_size = 0},
        {.kind = HOTFD_NETSTRING, .max_size = HOTFD_MAX_MAX_SIZE + 1},
        {.kind = HOTFD_DELIMITED, .max_size = 1},
        {.kind = HOTFD_DELIMITED, .max_size = 1, .delimiter_size = HOTFD_MAX_DELIMITER + 1},
        {.kind = HOTFD_DELIMITED, .max_size = 1, .delimiter_size = 2, .flags = HOTFD_STRIP_CR},
        {.kind = HOTFD_FIXED, .max_size = 1},
        {.kind = HOTFD_FIXED, .max_size = 1, .size = 2},
        {.kind = HOTFD_LENGTH, .max_size = 1},
        {.kind = HOTFD_LENGTH, .max_size = 1, .length_bytes = 3},
        {.kind = HOTFD_LENGTH, .max_size = 1, .length_bytes = 4, .offset = HOTFD_MAX_HEADER_PART + 1},
        {.kind = HOTFD_LENGTH, .max_size = 1, .length_bytes = 4, .trailer = HOTFD_MAX_HEADER_PART + 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_EQUAL(hotfd_framing_check(&bad[i]), -EINVAL);
}

/* No input makes a scanner read outside its bytes, loop, or return a span that is not there. */
static void garbage_never_hurts(void)
{
    static const char alphabet[] = "*$%~>|+-:,(_#!=\r\n\r\n0123456789aab:,;\x00\x01\x02\x03\x80\xff";
    uint32_t random = 12345;
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[64];
        struct hotfd_framing framing = FRAMINGS[round % (sizeof FRAMINGS / sizeof FRAMINGS[0])].framing;
        framing.max_size = 24;
        size_t size = 1 + (size_t)round % sizeof bytes;
        for (size_t i = 0; i < size; i++) {
            random = random * 1664525 + 1013904223;
            bytes[i] = (uint8_t)alphabet[(random >> 16) % (sizeof alphabet - 1)];
        }
        const uint8_t *buf = guarded(bytes, size);
        struct hotfd_scan scan = {0};
        struct hotfd_span spans[4];
        size_t start = 0;
        int rc;
        while ((rc = hotfd_scan(&framing, &scan, buf, start, size, spans, 4)) > 0) {
            for (int i = 0; i < rc; i++) {
                CHECK(start <= spans[i].payload && spans[i].payload <= spans[i].payload_end);
                CHECK(spans[i].payload_end <= spans[i].end && spans[i].end <= size);
                CHECK(start < spans[i].end);
                start = spans[i].end;
            }
        }
        CHECK(rc == 0 || rc == -EMSGSIZE || rc == -EBADMSG);
    }
}

int main(void)
{
    make_guard();
    RUN(the_vectors_replay_in_every_way);
    RUN(nesting_has_a_limit);
    RUN(a_wrong_call_is_refused_and_changes_nothing);
    RUN(what_is_needed_is_said_as_soon_as_it_is_known);
    RUN(frames_that_were_not_asked_for_and_errors_are_worth_a_call_at_once);
    RUN(a_whole_frame_is_no_larger_than_its_answer);
    RUN(a_command_has_words);
    RUN(what_is_no_command_has_no_words);
    RUN(a_long_frame_is_not_searched_again);
    RUN(after_an_error_nothing_is_a_frame_any_more);
    RUN(parameters_that_make_no_framing_are_refused);
    RUN(garbage_never_hurts);
    return 0;
}
