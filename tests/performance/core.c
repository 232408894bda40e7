/* What is counted of the C core, each between two requests to callgrind, which writes what was counted in
   between under the figure's name. Nothing is checked here but that the calls succeed: tests/csrc does that.
 */
#include "hotfd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "core.c:%d: not true: %s\n", __LINE__, #condition);                              \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

enum { PAYLOAD = 64, FRAMES = 200, DESCRIPTORS = 64, BIG = 65536 };

static uint8_t bytes[FRAMES * 2 * PAYLOAD];
static struct hotfd_look look;

/* Frames of 64 bytes, each made of what stands before the payload and behind it. */
static size_t fill(const char *before, size_t before_size, const char *behind, size_t behind_size)
{
    size_t size = 0;
    for (int i = 0; i < FRAMES; i++) {
        memcpy(bytes + size, before, before_size);
        memset(bytes + size + before_size, 'x', PAYLOAD);
        memcpy(bytes + size + before_size + PAYLOAD, behind, behind_size);
        size += before_size + PAYLOAD + behind_size;
    }
    return size;
}

static void scan(const char *figure, const struct hotfd_framing *framing, size_t size, int frames)
{
    REQUIRE(hotfd_framing_check(framing) == 0);
    CALLGRIND_ZERO_STATS;
    int found = hotfd_look(framing, NULL, bytes, 0, size, &look);
    CALLGRIND_DUMP_STATS_AT(figure);
    REQUIRE(found == frames);
}

static void scanners(void)
{
    struct hotfd_framing lines = {
        .kind = HOTFD_DELIMITED, .flags = HOTFD_STRIP_CR, .delimiter_size = 1, .delimiter = "\n"};
    struct hotfd_framing length = {.kind = HOTFD_LENGTH, .length_bytes = 4};
    struct hotfd_framing varint = {.kind = HOTFD_VARINT};
    struct hotfd_framing netstring = {.kind = HOTFD_NETSTRING};
    struct hotfd_framing resp = {.kind = HOTFD_RESP};
    static const char COMMAND[] = "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$64\r\n";
    lines.max_size = length.max_size = varint.max_size = netstring.max_size = resp.max_size = 1 << 20;
    scan("a line", &lines, fill("", 0, "\n", 1), FRAMES);
    scan("a frame with its length in 32 bits", &length, fill("\0\0\0\100", 4, "", 0), FRAMES);
    scan("a frame with its length as varint", &varint, fill("\100", 1, "", 0), FRAMES);
    scan("a netstring", &netstring, fill("64:", 3, ",", 1), FRAMES);
    scan("a RESP command of three words", &resp, fill(COMMAND, sizeof COMMAND - 1, "\r\n", 2), FRAMES);

    uint64_t words[6];
    size_t size = fill(COMMAND, sizeof COMMAND - 1, "\r\n", 2) / FRAMES;
    CALLGRIND_ZERO_STATS;
    int count = hotfd_resp_words(bytes, size, words, 3);
    CALLGRIND_DUMP_STATS_AT("the words of a RESP command of three words");
    REQUIRE(count == 3);
}

static void messages(void)
{
    static uint8_t data[HOTFD_MAX_MESSAGE];
    static struct hotfd_message message;
    int channel[2], descriptors[DESCRIPTORS];
    REQUIRE(hotfd_channel_pair(channel) == 0);
    for (int i = 0; i < DESCRIPTORS; i++)
        descriptors[i] = channel[0];
    CALLGRIND_ZERO_STATS;
    int sent = hotfd_send(channel[0], data, 1000, descriptors, DESCRIPTORS);
    CALLGRIND_DUMP_STATS_AT("sending a message with 64 descriptors");
    REQUIRE(sent == 0);
    CALLGRIND_ZERO_STATS;
    int received = hotfd_receive(channel[1], data, sizeof data, &message);
    CALLGRIND_DUMP_STATS_AT("receiving a message with 64 descriptors");
    REQUIRE(received == 0 && message.count == DESCRIPTORS);
    for (int i = 0; i < DESCRIPTORS; i++)
        close(message.descriptors[i]);

    static uint8_t content[BIG];
    struct iovec chunk = {content, sizeof content};
    CALLGRIND_ZERO_STATS;
    int memory = hotfd_memory_sealed("counted", &chunk, 1);
    CALLGRIND_DUMP_STATS_AT("sealing 64 KiB");
    REQUIRE(memory >= 0);
    close(memory);
    close(channel[0]);
    close(channel[1]);
}

int main(void)
{
    scanners();
    messages();
    return 0;
}
