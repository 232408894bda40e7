/*
 * RESP2 and RESP3, the protocol of Redis. redis.io/docs/latest/develop/reference/protocol-spec
 *
 * A frame is one value: a line (+ - : , ( _ #), a run of bytes of announced length ($ ! =), or an aggregate
 * of an announced number of values (* ~ > and, counted in pairs, %). An attribute (|) is an aggregate that
 * stands in front of a value and does not count as one.
 *
 * Nesting is a stack of counters in the caller's struct: open[i] values are missing at level i, and open[0]
 * is the frame itself. There is no recursion, so a hostile peer cannot use up our stack. What has been
 * scanned is not scanned again: scan->position is the beginning of the first element that is not complete.
 *
 * Streamed aggregates and strings ("*?", "$?", ";", ".") are refused. No server or client library sends them,
 * and where they would end cannot be known from their header.
 */
#include "scan.h"

#include <errno.h>
#include <string.h>

/* The shortest value is "+\r\n". So N announced values need at least 3 N bytes, and a count that cannot fit
   is refused before the values come. */
#define SHORTEST_VALUE 3

/*
 * "<type><number>\r\n" at buf[at], of which `len` bytes are there. 1: `value` is the number, or -1 for "-1",
 * and `end` is behind the line. A number above `limit` is -EMSGSIZE at once.
 */
static int read_number(const uint8_t *buf, uint64_t at, uint64_t len, uint64_t limit, int64_t *value,
                       uint64_t *end)
{
    uint64_t i = at + 1;
    int64_t number = 0;
    if (i < len && buf[i] == '-') {
        if (++i < len && buf[i] != '1')
            return -EBADMSG;
        number = -1;
        i++;
    } else {
        uint64_t first = i;
        for (; i < len && buf[i] >= '0' && buf[i] <= '9'; i++) {
            if (i == first + 1 && buf[first] == '0') /* no leading zeros, or there could be endless ones */
                return -EBADMSG;
            number = number * 10 + (buf[i] - '0');
            if ((uint64_t)number > limit)
                return -EMSGSIZE;
        }
        if (i == first && i < len)
            return -EBADMSG;
    }
    if (i < len && buf[i] != '\r')
        return -EBADMSG;
    if (i + 1 < len && buf[i + 1] != '\n')
        return -EBADMSG;
    if (i + 1 >= len)
        return 0;
    *value = number;
    *end = i + 2;
    return 1;
}

/* "<type>...\r\n" with neither CR nor LF inside. */
static int skip_line(const uint8_t *buf, uint64_t len, struct hotfd_scan *scan)
{
    uint64_t from = scan->seen > scan->position ? scan->seen : scan->position + 1;
    const uint8_t *cr = memchr(buf + from, '\r', len - from);
    uint64_t stop = cr != NULL ? (uint64_t)(cr - buf) : len;
    if (memchr(buf + from, '\n', stop - from) != NULL)
        return -EBADMSG;
    scan->seen = stop;
    if (stop + 1 >= len)
        return 0;
    if (buf[stop + 1] != '\n')
        return -EBADMSG;
    scan->position = stop + 2;
    return 1;
}

/* What people type: a line that ends with LF, or CR LF. */
static int skip_inline(const uint8_t *buf, uint64_t len, struct hotfd_scan *scan)
{
    const uint8_t *lf = memchr(buf + scan->seen, '\n', len - scan->seen);
    scan->seen = len;
    if (lf == NULL)
        return 0;
    scan->position = (uint64_t)(lf - buf) + 1;
    return 1;
}

/* "<type><length>\r\n<bytes>\r\n", or the null "$-1\r\n". */
static int skip_bulk(const uint8_t *buf, uint64_t len, uint64_t max_size, struct hotfd_scan *scan)
{
    int64_t length;
    uint64_t begin;
    int rc = read_number(buf, scan->position, len, max_size, &length, &begin);
    if (rc <= 0)
        return rc;
    if (length < 0) {
        if (buf[scan->position] != '$')
            return -EBADMSG;
        scan->position = begin;
        return 1;
    }
    uint64_t end = begin + (uint64_t)length;
    if (end + 2 > max_size)
        return -EMSGSIZE;
    if ((end < len && buf[end] != '\r') || (end + 1 < len && buf[end + 1] != '\n'))
        return -EBADMSG;
    if (end + 2 > len) {
        scan->need = end + 1; /* the CR, if it is one */
        return 0;
    }
    scan->position = end + 2;
    return 1;
}

/* "<type><count>\r\n": the values that follow are put on the stack. */
static int open_aggregate(const uint8_t *buf, uint64_t len, uint64_t max_size, struct hotfd_scan *scan)
{
    uint8_t type = buf[scan->position];
    int64_t count;
    uint64_t begin;
    int rc = read_number(buf, scan->position, len, max_size, &count, &begin);
    if (rc <= 0)
        return rc;
    if (count < 0 && type != '*')
        return -EBADMSG;
    uint64_t values = count < 0 ? 0 : (uint64_t)count;
    if (type == '%' || type == '|')
        values *= 2;
    if (values * SHORTEST_VALUE > max_size - begin)
        return -EMSGSIZE;
    if (values > 0 && scan->depth > HOTFD_RESP_DEPTH)
        return -EBADMSG;
    if (type != '|')
        scan->open[scan->depth - 1]--;
    if (values > 0)
        scan->open[scan->depth++] = values;
    scan->position = begin;
    return 1;
}

/* The element at scan->position, which is below len. 1: it is complete and scan is behind it. */
static int skip_element(const struct hotfd_framing *framing, const uint8_t *buf, uint64_t len,
                        struct hotfd_scan *scan)
{
    int rc;
    switch (buf[scan->position]) {
    case '*':
    case '~':
    case '>':
    case '%':
    case '|':
        return open_aggregate(buf, len, framing->max_size, scan);
    case '$':
    case '!':
    case '=':
        rc = skip_bulk(buf, len, framing->max_size, scan);
        break;
    case '+':
    case '-':
    case ':':
    case ',':
    case '(':
    case '_':
    case '#':
        rc = skip_line(buf, len, scan);
        break;
    case ';':
    case '.':
        return -EBADMSG; /* parts of streamed values */
    default:
        if (scan->position != 0 || !(framing->flags & HOTFD_INLINE))
            return -EBADMSG;
        rc = skip_inline(buf, len, scan);
        break;
    }
    if (rc > 0)
        scan->open[scan->depth - 1]--;
    return rc;
}

int hotfd_scan_resp(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf,
                    uint64_t len, struct hotfd_span *span)
{
    /* Nothing behind max_size bytes is looked at, so the verdict does not depend on how the bytes arrived. */
    uint64_t window = len < framing->max_size ? len : framing->max_size;
    if (scan->position > window)
        return -EINVAL;
    if (scan->depth == 0) {
        scan->depth = 1;
        scan->open[0] = 1;
    }
    while (scan->position < window) {
        int rc = skip_element(framing, buf, window, scan);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        while (scan->depth > 0 && scan->open[scan->depth - 1] == 0)
            scan->depth--;
        if (scan->depth == 0) {
            *span = (struct hotfd_span){0, scan->position, scan->position};
            return 1;
        }
    }
    return window == framing->max_size ? -EMSGSIZE : 0;
}

int hotfd_resp_words(const uint8_t *buf, size_t len, uint64_t *words, size_t max)
{
    int64_t count;
    uint64_t at;
    if (len == 0 || buf[0] != '*' || read_number(buf, 0, len, len, &count, &at) != 1 || count < 0)
        return -EBADMSG;
    if ((uint64_t)count > max || max > INT32_MAX)
        return -E2BIG;
    for (int64_t i = 0; i < count; i++) {
        int64_t size;
        uint64_t begin;
        if (at >= len || buf[at] != '$' || read_number(buf, at, len, len, &size, &begin) != 1 || size < 0)
            return -EBADMSG;
        uint64_t end = begin + (uint64_t)size;
        if (end + 2 > len || buf[end] != '\r' || buf[end + 1] != '\n')
            return -EBADMSG;
        words[2 * i] = begin;
        words[2 * i + 1] = end;
        at = end + 2;
    }
    return at == len ? (int)count : -EBADMSG;
}
