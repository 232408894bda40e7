/* Between scan.c and scan_resp.c; not for anybody else. */
#ifndef HOTFD_SCAN_H
#define HOTFD_SCAN_H

#include "hotfd.h"

/*
 * Find one frame in the `len` bytes from `buf`, the first byte of the frame. 1: `span` has it, with offsets
 * from `buf`; 0: it is incomplete, and `scan` remembers what was looked at; a negated errno as in hotfd_scan.
 */
int hotfd_scan_resp(const struct hotfd_framing *framing, struct hotfd_scan *scan, const uint8_t *buf,
                    uint64_t len, struct hotfd_span *span);

#endif
