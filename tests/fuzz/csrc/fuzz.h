/* What libFuzzer calls with each input, and replay.c too. Returns 0; a rule that is broken ends the process.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

#endif
