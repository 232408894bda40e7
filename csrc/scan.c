/* Frame scanners: the convention is in hotfd.h; RESP is in scan_resp.c. */
#include "scan.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

/* Bytes of a LEB128 number of 64 bits: 7 bits each. protobuf.dev/programming-guides/encoding */
#define MAX_VARINT 10

/* A caller may read an array of spans as an array of numbers. */
_Static_assert(sizeof(struct hotfd_span) == 3 * sizeof(uint64_t), "a span is three numbers");

static int check_length(const struct hotfd_framing *framing)
{
    switch (framing->length_bytes) {
    case 1:
    case 2:
    case 4:
    case 8:
        break;
    default:
        return -EINVAL;
    }
    if (framing->offset > HOTFD_MAX_HEADER_PART || framing->trailer > HOTFD_MAX_HEADER_PART)
        return -EINVAL;
    return 0;
}

int hotfd_framing_check(const struct hotfd_framing *framing)
{
    if (framing->max_size == 0 || framing->max_size > HOTFD_MAX_MAX_SIZE)
        return -EINVAL;
    switch (framing->kind) {
    case HOTFD_DELIMITED:
        if (framing->delimiter_size == 0 || framing->delimiter_size > HOTFD_MAX_DELIMITER)
            return -EINVAL;
        return framing->flags & HOTFD_STRIP_CR && framing->delimiter_size != 1 ? -EINVAL : 0;
    case HOTFD_FIXED:
        return framing->size == 0 || framing->size > framing->max_size ? -EINVAL : 0;
    case HOTFD_LENGTH:
        return check_length(framing);
    case HOTFD_VARINT:
    case HOTFD_NETSTRING:
    case HOTFD_RESP:
        return 0;
    default:
        return -EINVAL;
    }
}

static int scan_delimited(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf,
                          uint64_t len, struct hotfd_span *span)
{
    uint64_t size = framing->delimiter_size;
    int strip = (framing->flags & HOTFD_STRIP_CR) != 0;
    const uint8_t *found;
    if (size == 1)
        found = memchr(buf + scan->seen, framing->delimiter[0], len - scan->seen);
    else
        found = memmem(buf + scan->seen, len - scan->seen, framing->delimiter, size);

    if (found == NULL) {
        /* The last size - 1 bytes may begin a delimiter, and a last '\r' may be stripped: neither is payload
           for certain. */
        uint64_t open = len < size - 1 ? len : size - 1;
        uint64_t certain = len - open;
        if (strip && len > 0 && buf[len - 1] == '\r')
            certain--;
        scan->seen = len - open;
        return certain > framing->max_size ? -EMSGSIZE : 0;
    }

    uint64_t at = (uint64_t)(found - buf);
    uint64_t payload_end = strip && at > 0 && buf[at - 1] == '\r' ? at - 1 : at;
    if (payload_end > framing->max_size)
        return -EMSGSIZE;
    *span = (struct hotfd_span){0, payload_end, at + size};
    return 1;
}

/* The current frame cannot be complete, nor seen to be wrong, before there are `bytes` of it. */
static int incomplete(struct hotfd_scan *scan, uint64_t bytes)
{
    scan->need = bytes;
    return 0;
}

static int scan_fixed(const struct hotfd_framing *framing, struct hotfd_scan *scan, uint64_t len,
                      struct hotfd_span *span)
{
    if (len < framing->size)
        return incomplete(scan, framing->size);
    *span = (struct hotfd_span){0, framing->size, framing->size};
    return 1;
}

/* One load of each width; a loop over the bytes costs as much as all the rest of a scan. */
static uint64_t read_unsigned(const uint8_t *field, uint32_t bytes, int little_endian)
{
    uint16_t two;
    uint32_t four;
    uint64_t eight;
    switch (bytes) {
    case 1:
        return *field;
    case 2:
        memcpy(&two, field, sizeof two);
        return little_endian ? le16toh(two) : be16toh(two);
    case 4:
        memcpy(&four, field, sizeof four);
        return little_endian ? le32toh(four) : be32toh(four);
    default:
        memcpy(&eight, field, sizeof eight);
        return little_endian ? le64toh(eight) : be64toh(eight);
    }
}

static int scan_length(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf,
                       uint64_t len, struct hotfd_span *span)
{
    uint64_t field_end = (uint64_t)framing->offset + framing->length_bytes;
    if (len < field_end)
        return incomplete(scan, field_end);
    uint64_t header = field_end + framing->trailer;
    uint64_t payload =
        read_unsigned(buf + framing->offset, framing->length_bytes, framing->flags & HOTFD_LITTLE_ENDIAN);
    if (framing->flags & HOTFD_INCLUDES_HEADER) {
        if (payload < header)
            return -EBADMSG;
        payload -= header;
    }
    uint64_t begin = framing->flags & HOTFD_KEEP_HEADER ? 0 : header;
    /* In this order nothing overflows: payload may be any 64-bit number until the first comparison. */
    if (payload > framing->max_size || header - begin + payload > framing->max_size)
        return -EMSGSIZE;
    if (len < header + payload)
        return incomplete(scan, header + payload);
    *span = (struct hotfd_span){begin, header + payload, header + payload};
    return 1;
}

static int scan_varint(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf,
                       uint64_t len, struct hotfd_span *span)
{
    uint64_t payload = 0;
    uint64_t header = 0;
    for (;;) {
        if (header == len)
            return 0;
        uint8_t byte = buf[header];
        if (header == MAX_VARINT - 1 && byte > 1) /* a 65th bit, or an 11th byte */
            return -EBADMSG;
        payload |= (uint64_t)(byte & 0x7f) << (7 * header);
        header++;
        if (byte < 0x80)
            break;
    }
    if (payload > framing->max_size)
        return -EMSGSIZE;
    if (len < header + payload)
        return incomplete(scan, header + payload);
    *span = (struct hotfd_span){header, header + payload, header + payload};
    return 1;
}

/* cr.yp.to/proto/netstrings.txt: no leading zeros, nothing between the parts. */
static int scan_netstring(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf,
                          uint64_t len, struct hotfd_span *span)
{
    uint64_t payload = 0;
    uint64_t digits = 0;
    for (;; digits++) {
        if (digits == len)
            return 0;
        uint8_t byte = buf[digits];
        if (byte == ':' && digits > 0)
            break;
        if (byte < '0' || byte > '9' || (digits == 1 && buf[0] == '0'))
            return -EBADMSG;
        payload = payload * 10 + (uint64_t)(byte - '0');
        if (payload > framing->max_size)
            return -EMSGSIZE;
    }
    uint64_t begin = digits + 1;
    uint64_t comma = begin + payload;
    if (len <= comma)
        return incomplete(scan, comma + 1);
    if (buf[comma] != ',')
        return -EBADMSG;
    *span = (struct hotfd_span){begin, comma, comma + 1};
    return 1;
}

static int scan_one(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf,
                    uint64_t len, struct hotfd_span *span)
{
    switch (framing->kind) {
    case HOTFD_DELIMITED:
        return scan_delimited(framing, scan, buf, len, span);
    case HOTFD_FIXED:
        return scan_fixed(framing, scan, len, span);
    case HOTFD_LENGTH:
        return scan_length(framing, scan, buf, len, span);
    case HOTFD_VARINT:
        return scan_varint(framing, scan, buf, len, span);
    case HOTFD_NETSTRING:
        return scan_netstring(framing, scan, buf, len, span);
    case HOTFD_RESP:
        return hotfd_scan_resp(framing, scan, buf, len, span);
    default:
        return -EINVAL;
    }
}

/* At the beginning of a frame. What is in scan->open counts only as far as scan->depth says. */
static void begin_frame(struct hotfd_scan *scan)
{
    scan->seen = 0;
    scan->need = 0;
    scan->position = 0;
    scan->depth = 0;
}

int hotfd_scan(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf, size_t start,
               size_t len, struct hotfd_span *spans, size_t max)
{
    if (scan->error != 0)
        return scan->error;
    if (max == 0 || max > INT32_MAX || start > len || scan->seen > len - start)
        return -EINVAL;

    uint64_t at = start;
    size_t count = 0;
    int rc = 0;
    scan->need = 0;
    while (count < max && at < len) {
        struct hotfd_span span;
        rc = scan_one(framing, scan, buf + at, len - at, &span);
        if (rc <= 0)
            break;
        spans[count++] = (struct hotfd_span){at + span.payload, at + span.payload_end, at + span.end};
        at += span.end;
        begin_frame(scan);
    }
    if (rc < 0) {
        scan->error = rc;
        scan->need = 0;
    } else if (count < max && scan->need <= len - at) {
        scan->need = len - at + 1;
    }
    return count > 0 ? (int)count : rc;
}

int hotfd_look(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf, size_t start,
               size_t len, struct hotfd_look *look)
{
    if (scan == NULL) {
        scan = &look->scan;
        scan->error = 0;
        begin_frame(scan);
    }
    int count = hotfd_scan(framing, scan, buf, start, len, look->spans, HOTFD_LOOK_SPANS);
    if (count < 0 || len == (count > 0 ? look->spans[count - 1].end : start))
        return count;
    look->spans[count].payload = scan->need;
    return count + HOTFD_LOOK_REST;
}

int hotfd_whole(const struct hotfd_framing *framing, const uint8_t *buf, size_t start, size_t len)
{
    if (len > HOTFD_WHOLE_MAX)
        return -ENOMSG;
    struct hotfd_scan scan;
    struct hotfd_span span;
    scan.error = 0;
    begin_frame(&scan);
    /* By way of hotfd_scan, so that the scanners have one caller, of which compilers make them a part. */
    if (hotfd_scan(framing, &scan, buf, start, len, &span, 1) != 1 || span.end != len)
        return -ENOMSG;
    return (int)(span.payload << 15 | span.payload_end);
}
