/*
 * Runs a fuzz target without libFuzzer, with any compiler: the inputs in some folders as they are, and then
 * so many mutations of them, always the same ones for a seed.
 *
 *      replay MUTATIONS SEED FOLDER...
 *
 * When a rule is broken, or a sanitizer ends the process, what it was given is in ./crash-input.
 */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INPUTS = 4096, MAX_SIZE = 8192 };

static struct input {
    uint8_t *bytes;
    size_t size;
} inputs[MAX_INPUTS];
static size_t count;
static uint8_t current[MAX_SIZE];
static size_t current_size;
static uint32_t random_state;

static uint32_t below(uint32_t limit)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % limit;
}

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

/* What a sanitizer or abort() calls at last. */
static void keep_current(void)
{
    FILE *file = fopen("crash-input", "wbe");
    if (file != NULL) {
        fwrite(current, 1, current_size, file);
        fclose(file);
    }
}

void __asan_on_error(void);
void __asan_on_error(void)
{
    keep_current();
}

static void read_file(const char *path)
{
    FILE *file = fopen(path, "rbe");
    if (file == NULL)
        fail(path);
    struct input *input = &inputs[count];
    input->bytes = malloc(MAX_SIZE);
    if (input->bytes == NULL)
        fail("malloc");
    input->size = fread(input->bytes, 1, MAX_SIZE, file);
    fclose(file);
    count++;
}

static int by_name(const struct dirent **left, const struct dirent **right)
{
    return strcmp((*left)->d_name, (*right)->d_name); /* as any machine sorts */
}

static void read_folder(const char *folder)
{
    struct dirent **entries;
    int found = scandir(folder, &entries, NULL, by_name);
    if (found < 0)
        fail(folder);
    for (int i = 0; i < found; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && count < MAX_INPUTS)
            read_file(path);
        free(entries[i]);
    }
    free(entries);
}

static void change(void)
{
    static const uint8_t telling[] = "\r\n\r\n0123456789*$%~>|+-:,(_#!=;.\x00\x01\x7f\x80\xff";
    uint32_t at = below((uint32_t)current_size);
    switch (below(6)) {
    case 0:
        current[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        current[at] = telling[below(sizeof telling - 1)];
        break;
    case 2: /* a byte more */
        if (current_size < MAX_SIZE) {
            memmove(current + at + 1, current + at, current_size - at);
            current[at] = telling[below(sizeof telling - 1)];
            current_size++;
        }
        break;
    case 3: /* some fewer */
        if (current_size > 1) {
            uint32_t gone = 1 + below((uint32_t)current_size - at < 8 ? (uint32_t)current_size - at : 8);
            if (gone == current_size)
                gone--;
            memmove(current + at, current + at + gone, current_size - at - gone);
            current_size -= gone;
        }
        break;
    case 4: { /* a part again, behind everything */
        size_t part = 1 + below((uint32_t)current_size - at);
        if (part > MAX_SIZE - current_size)
            part = MAX_SIZE - current_size;
        memmove(current + current_size, current + at, part);
        current_size += part;
        break;
    }
    default: { /* the end of another one */
        const struct input *other = &inputs[below((uint32_t)count)];
        if (other->size > at) {
            memcpy(current + at, other->bytes + at, other->size - at);
            current_size = other->size;
        }
        break;
    }
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: replay MUTATIONS SEED FOLDER...\n");
        return 2;
    }
    unsigned long mutations = strtoul(argv[1], NULL, 10);
    random_state = (uint32_t)strtoul(argv[2], NULL, 10);
    for (int i = 3; i < argc; i++)
        read_folder(argv[i]);
    if (count == 0) {
        fprintf(stderr, "there are no inputs\n");
        return 2;
    }
    for (unsigned long i = 0; i < count + mutations; i++) {
        const struct input *input = &inputs[i < count ? i : below((uint32_t)count)];
        memcpy(current, input->bytes, input->size);
        current_size = input->size;
        if (i >= count && current_size > 0)
            for (uint32_t changes = 1 + below(4); changes > 0; changes--)
                change();
        LLVMFuzzerTestOneInput(current, current_size);
    }
    printf("ok %zu inputs and %lu mutations of them\n", count, mutations);
    for (size_t i = 0; i < count; i++)
        free(inputs[i].bytes);
    return 0;
}
