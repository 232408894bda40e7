#include "harness.h"
#include "hotfd.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

static struct iovec chunk(const char *text)
{
    return (struct iovec){.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
}

static void sealed_memory_has_the_content_and_cannot_change(void)
{
    struct iovec chunks[] = {chunk("one "), chunk(""), chunk("two")};
    char read_back[8] = {0};
    int fd = hotfd_memory_sealed("test", chunks, 3);
    CHECK(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK_EQUAL(hotfd_memory_size(fd, 0, 7), 7);
    CHECK_EQUAL(pread(fd, read_back, sizeof read_back, 0), 7);
    CHECK(strcmp(read_back, "one two") == 0);
    CHECK(pwrite(fd, "x", 1, 0) < 0 && errno == EPERM);
    CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
    CHECK(ftruncate(fd, 100) < 0 && errno == EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, 0) < 0 && errno == EPERM);
    close(fd);
}

static void more_chunks_than_one_call_takes_keep_their_order(void)
{
    enum { COUNT = 3000 };
    static struct iovec chunks[COUNT];
    static uint16_t numbers[COUNT], read_back[COUNT];
    for (int i = 0; i < COUNT; i++) {
        numbers[i] = (uint16_t)i;
        chunks[i] = (struct iovec){.iov_base = &numbers[i], .iov_len = sizeof numbers[i]};
    }
    int fd = hotfd_memory_sealed("test", chunks, COUNT);
    CHECK(fd >= 0);
    CHECK_EQUAL(pread(fd, read_back, sizeof read_back, 0), sizeof read_back);
    CHECK(memcmp(numbers, read_back, sizeof numbers) == 0);
    close(fd);
}

static void no_chunks_make_empty_memory(void)
{
    int fd = hotfd_memory_sealed("test", NULL, 0);
    CHECK(fd >= 0);
    CHECK_EQUAL(hotfd_memory_size(fd, 0, 0), 0);
    close(fd);
}

static void memory_above_the_limit_is_refused(void)
{
    struct iovec one = chunk("12345");
    int fd = hotfd_memory_sealed("test", &one, 1);
    CHECK_EQUAL(hotfd_memory_size(fd, 0, 4), -EFBIG);
    CHECK_EQUAL(hotfd_memory_size(fd, 0, 5), 5);
    close(fd);
}

static void what_is_not_sealed_in_the_same_way_is_refused(void)
{
    int plain = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK_EQUAL(hotfd_memory_size(plain, 0, 100), -EPERM);
    CHECK_EQUAL(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), 0);
    CHECK_EQUAL(hotfd_memory_size(plain, 0, 100), -EPERM); /* F_SEAL_SEAL is missing */
    close(plain);

    int shared = hotfd_memory_shared("test", 10);
    CHECK_EQUAL(hotfd_memory_size(shared, 0, 100), -EPERM);
    CHECK_EQUAL(hotfd_memory_size(shared, 1, 100), 10);
    close(shared);

    int sealed = hotfd_memory_sealed("test", NULL, 0);
    CHECK_EQUAL(hotfd_memory_size(sealed, 1, 100), -EPERM);
    close(sealed);

    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CHECK_EQUAL(hotfd_memory_size(file, 0, UINT64_MAX), -EPERM);
    close(file);

    int pipes[2];
    CHECK_EQUAL(pipe2(pipes, O_CLOEXEC), 0);
    CHECK_EQUAL(hotfd_memory_size(pipes[0], 0, 100), -EPERM);
    close(pipes[0]);
    close(pipes[1]);
    CHECK_EQUAL(hotfd_memory_size(-1, 0, 100), -EBADF);
}

static void shared_memory_is_zero_and_writable_and_keeps_its_size(void)
{
    int fd = hotfd_memory_shared("test", 4096);
    CHECK(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    uint8_t *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED);
    for (int i = 0; i < 4096; i++)
        CHECK_EQUAL(map[i], 0);
    map[7] = 1;
    uint8_t byte;
    CHECK_EQUAL(pread(fd, &byte, 1, 7), 1);
    CHECK_EQUAL(byte, 1);
    CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
    CHECK_EQUAL(munmap(map, 4096), 0);
    close(fd);
}

static void failures_close_what_was_made(void)
{
    struct rlimit limit;
    struct iovec one = chunk("12345");
    CHECK_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
    struct rlimit small = {4, limit.rlim_max};
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    int before = open_descriptors();
    CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &small), 0);
    int sealed = hotfd_memory_sealed("test", &one, 1); /* 4 bytes are written, and the fifth is refused */
    int shared = hotfd_memory_shared("test", 5);
    CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CHECK_EQUAL(sealed, -EFBIG);
    CHECK_EQUAL(shared, -EFBIG);
    CHECK_EQUAL(hotfd_memory_shared("test", UINT64_MAX), -EFBIG);
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    CHECK_EQUAL(hotfd_memory_sealed(name, &one, 1), -EINVAL);
    CHECK_EQUAL(hotfd_memory_shared(name, 1), -EINVAL);
    CHECK_EQUAL(open_descriptors(), before);
}

static void without_a_free_descriptor_there_is_no_memory(void)
{
    struct rlimit limit;
    CHECK_EQUAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int free_descriptor = dup(STDIN_FILENO);
    close(free_descriptor);
    struct rlimit low = {(rlim_t)free_descriptor, limit.rlim_max};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &low), 0);
    int sealed = hotfd_memory_sealed("test", NULL, 0);
    int shared = hotfd_memory_shared("test", 1);
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK_EQUAL(sealed, -EMFILE);
    CHECK_EQUAL(shared, -EMFILE);
}

int main(void)
{
    RUN(sealed_memory_has_the_content_and_cannot_change);
    RUN(more_chunks_than_one_call_takes_keep_their_order);
    RUN(no_chunks_make_empty_memory);
    RUN(memory_above_the_limit_is_refused);
    RUN(what_is_not_sealed_in_the_same_way_is_refused);
    RUN(shared_memory_is_zero_and_writable_and_keeps_its_size);
    RUN(failures_close_what_was_made);
    RUN(without_a_free_descriptor_there_is_no_memory);
    return 0;
}
